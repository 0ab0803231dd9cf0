//! The object of the index and Workers that upload, over a bucket and a database that fail: every wait is a task's, and the test says
//! which one ends. A naive model checks each answer of the index.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Waker};
use std::time::Duration;

use relay_blossom::testing::model::{Oracle, sha};
use relay_blossom::{Command, Index, Outcome, Sha256};
use relay_edge::blossom::{
    BlobIndex, BlossomHost, BlossomObject, KeyPage, decode_command, encode_command, encode_outcome,
};
use relay_engine::sql::StoreError;
use relay_engine::testing::Rng;

use super::blossom_bucket::{self as bucket, Bucket, Condition, Given, Object, Operation, Slot, Waiting};
use super::sqlite::Sqlite;

pub(super) const START: u64 = 1_800_000_000;
/// Seconds after which an operation of the bucket has ended, one way or the other.
const OPERATION_SECONDS_MAX: u64 = 300;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Bytes on their way, and where their answer goes.
type Message = (Vec<u8>, Slot<Result<Vec<u8>, String>>);

/// What all tasks share.
pub(super) struct Shared {
    pub(super) rng: RefCell<Rng>,
    pub(super) now: Cell<u64>,
    pub(super) bucket: RefCell<Bucket>,
    pub(super) oracle: RefCell<Oracle>,
    pub(super) sqlite: Sqlite,
    pub(super) alarm: Cell<Option<u64>>,
    /// Nothing fails any more.
    pub(super) is_settling: Cell<bool>,
    pub(super) has_retention: Cell<bool>,
    /// Commands on their way to the object.
    requests: RefCell<VecDeque<Message>>,
    /// Answers on their way back.
    replies: RefCell<VecDeque<Message>>,
    /// Waits for a time, which take none here.
    sleeping: RefCell<VecDeque<Slot<()>>>,
    pub(super) errors: RefCell<Vec<String>>,
    trace: RefCell<Vec<String>>,
}

impl Shared {
    pub(super) fn one_in(&self, times: u64) -> bool {
        !self.is_settling.get() && self.rng.borrow_mut().one_in(times)
    }

    pub(super) fn note(&self, what: String) {
        self.trace.borrow_mut().push(format!("{} {what}", self.now.get() - START));
    }

    pub(super) async fn bucket(&self, operation: Operation) -> bucket::Outcome {
        bucket::ask(&self.bucket, self.now.get(), operation).await
    }

    /// Sends a command to the object, as a Worker does.
    pub(super) async fn command(&self, command: &Command) -> Result<Vec<u8>, String> {
        let reply = Slot::new();
        self.requests.borrow_mut().push_back((encode_command(command), reply.clone()));
        reply.get().await
    }
}

/// The index, each of whose answers the model checks; its database fails now and then.
pub(super) struct Checked {
    index: Index<Sqlite>,
    shared: Rc<Shared>,
}

impl BlobIndex for Checked {
    fn run(&mut self, now: u64, command: Command) -> Result<Outcome, StoreError> {
        let shared = &self.shared;
        if shared.one_in(20) {
            shared.sqlite.fails_in.set(Some(shared.rng.borrow_mut().below(10)));
        }
        let outcome = self.index.run(now, command.clone());
        shared.sqlite.fails_in.set(None);
        shared.note(format!("{command:?}\n    {outcome:?}"));
        match &outcome {
            Ok(outcome) => shared.oracle.borrow_mut().check(now, &command, outcome),
            Err(_) => shared.oracle.borrow_mut().reload(),
        }
        outcome
    }

    fn next_due(&self) -> Option<u64> {
        Index::next_due(&self.index)
    }
}

/// The platform of the object.
pub(super) struct Platform(Rc<Shared>);

impl BlossomHost for Platform {
    type Conn = Sqlite;
    type Index = Checked;

    fn now(&self) -> u64 {
        self.0.now.get()
    }

    fn conn(&self) -> Result<Sqlite, StoreError> {
        Ok(self.0.sqlite.clone())
    }

    fn open_index(&self) -> Result<Checked, StoreError> {
        let index = Index::open(self.0.sqlite.clone())?;
        self.0.oracle.borrow_mut().reload();
        Ok(Checked { index, shared: Rc::clone(&self.0) })
    }

    fn has_retention(&self) -> bool {
        self.0.has_retention.get()
    }

    async fn sleep(&self, _: Duration) {
        let slot = Slot::new();
        self.0.sleeping.borrow_mut().push_back(slot.clone());
        slot.get().await;
    }

    async fn alarm(&self) -> Option<u64> {
        self.0.alarm.get()
    }

    fn set_alarm(&self, at: u64) -> bool {
        let is_set = !self.0.one_in(50);
        if is_set {
            self.0.alarm.set(Some(at));
        }
        is_set
    }

    async fn remove(&self, keys: &[String]) -> Result<(), String> {
        self.0.bucket(Operation::Delete(keys.to_vec())).await.map(drop)
    }

    async fn keys(&self, after: Option<&str>, max: u32) -> Result<KeyPage, String> {
        // Pages are small here, so that there are several.
        let operation = Operation::List { after: after.map(str::to_owned), max: max.min(3) };
        match self.0.bucket(operation).await? {
            Given::Page(page) => Ok(page),
            other => panic!("{other:?}"),
        }
    }

    async fn keep_expiry(&self, sha256: &Sha256, expires_at: Option<u64>) -> Result<(), String> {
        let key = sha256.to_string();
        let Given::Object(Some(there)) = self.0.bucket(Operation::Head(key.clone())).await? else {
            return Ok(());
        };
        if there.expires_at == expires_at {
            return Ok(());
        }
        let there = bucket::object(&self.0.bucket, self.0.now.get(), &key).await?;
        let Some(there) = there else { return Ok(()) };
        let condition = Condition::Same(there.bytes.clone());
        let uploaded = Some(there.uploaded.unwrap_or(there.stored));
        let object = Object { expires_at, uploaded, ..there };
        self.0.bucket(Operation::Put { key, object, sha256: Some(*sha256), condition }).await.map(drop)
    }

    fn error(&self, message: &str) {
        self.0.errors.borrow_mut().push(message.to_owned());
    }

    fn log(&self, _: &str) {}
}

pub(super) struct World {
    pub(super) shared: Rc<Shared>,
    object: Rc<BlossomObject<Platform>>,
    /// What the object works on.
    object_tasks: Vec<Task>,
    /// Requests of clients, in Workers.
    workers: Vec<Task>,
    seed: u64,
}

impl Drop for World {
    #[allow(clippy::print_stdout)]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let trace = self.shared.trace.borrow();
            println!("seed {}:\n{}", self.seed, trace[trace.len().saturating_sub(60)..].join("\n"));
        }
    }
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let shared = Rc::new(Shared {
            rng: RefCell::new(Rng::new(seed)),
            now: Cell::new(START),
            bucket: RefCell::default(),
            oracle: RefCell::default(),
            sqlite: Sqlite::new(),
            alarm: Cell::default(),
            is_settling: Cell::new(false),
            has_retention: Cell::new(true),
            requests: RefCell::default(),
            replies: RefCell::default(),
            sleeping: RefCell::default(),
            errors: RefCell::default(),
            trace: RefCell::default(),
        });
        let object = Rc::new(BlossomObject::new(Platform(Rc::clone(&shared))));
        World { shared, object, object_tasks: Vec::new(), workers: Vec::new(), seed }
    }

    /// Runs something in a Worker.
    pub(super) fn spawn(&mut self, work: impl Future<Output = ()> + 'static) {
        self.workers.push(Box::pin(work));
        self.poll();
    }

    /// Workers that have not ended.
    pub(super) fn workers(&self) -> usize {
        self.workers.len()
    }

    /// A Worker ends, with all that it was doing; what it has asked the bucket for may still happen.
    pub(super) fn lose_worker(&mut self) {
        if !self.workers.is_empty() {
            let at = self.shared.rng.borrow_mut().below(self.workers.len() as u64) as usize;
            self.shared.note("a Worker is gone".to_owned());
            drop(self.workers.swap_remove(at));
        }
    }

    /// The object loses its memory, and with it all that it was doing.
    pub(super) fn evict(&mut self) {
        self.shared.note("the object is evicted".to_owned());
        self.object_tasks.clear();
        self.object = Rc::new(BlossomObject::new(Platform(Rc::clone(&self.shared))));
        let lost = std::mem::take(&mut *self.shared.replies.borrow_mut());
        lost.into_iter().for_each(|(_, reply)| reply.set(Err("Network connection lost".to_owned())));
        self.poll();
    }

    /// Polls every task, until none gets any further.
    fn poll(&mut self) {
        let mut context = TaskContext::from_waker(Waker::noop());
        for tasks in [&mut self.object_tasks, &mut self.workers] {
            tasks.retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
        }
    }

    /// Ends one of the waits. `false`: nothing waits.
    pub(super) fn step(&mut self) -> bool {
        let shared = Rc::clone(&self.shared);
        let counts = [
            shared.bucket.borrow().waiting.len(),
            shared.requests.borrow().len(),
            shared.replies.borrow().len(),
            shared.sleeping.borrow().len(),
        ];
        let all: usize = counts.iter().sum();
        if all == 0 {
            return false;
        }
        let mut at = shared.rng.borrow_mut().below(all as u64) as usize;
        let kind = counts.iter().position(|count| {
            let is_it = at < *count;
            at -= if is_it { 0 } else { *count };
            is_it
        });
        match kind {
            Some(0) => self.end_operation(at),
            Some(1) => self.take_request(at),
            Some(2) => {
                let reply = shared.replies.borrow_mut().remove(at);
                reply.into_iter().for_each(|(bytes, slot)| slot.set(Ok(bytes)));
            }
            _ => {
                let slot = shared.sleeping.borrow_mut().remove(at);
                slot.into_iter().for_each(|slot| slot.set(()));
            }
        }
        self.poll();
        true
    }

    /// The bucket does something, or does not, and says so, or does not.
    fn end_operation(&mut self, at: usize) {
        let shared = &self.shared;
        let Some(waiting) = shared.bucket.borrow_mut().waiting.remove(at) else { return };
        if shared.one_in(14) {
            return waiting.outcome.set(Err("the bucket fails".to_owned()));
        }
        let outcome = shared.bucket.borrow_mut().carry_out(shared.now.get(), waiting.operation);
        match shared.one_in(20) {
            true => waiting.outcome.set(Err("Network connection lost".to_owned())),
            false => waiting.outcome.set(outcome),
        }
    }

    fn take_request(&mut self, at: usize) {
        let Some((body, reply)) = self.shared.requests.borrow_mut().remove(at) else { return };
        if self.shared.one_in(40) {
            return reply.set(Err("Network connection lost".to_owned()));
        }
        let (object, shared) = (Rc::clone(&self.object), Rc::clone(&self.shared));
        let lost = LostReply(Some(reply));
        self.object_tasks.push(Box::pin(async move {
            let mut lost = lost;
            let outcome = object.run(decode_command(&body).unwrap()).await;
            let reply = lost.0.take().unwrap();
            shared.replies.borrow_mut().push_back((encode_outcome(outcome), reply));
        }));
    }

    /// Time passes, and the alarm fires if it is due.
    pub(super) fn pass(&mut self, seconds: u64) {
        let now = self.shared.now.get() + seconds;
        // Whatever the bucket was asked long ago has ended.
        loop {
            let is_late = |waiting: &Waiting| waiting.since + OPERATION_SECONDS_MAX <= now;
            let late = self.shared.bucket.borrow().waiting.iter().position(is_late);
            let Some(late) = late else { break };
            self.end_operation(late);
            self.poll();
        }
        self.shared.now.set(now);
        if self.shared.alarm.get().is_some_and(|at| at <= now) {
            self.shared.alarm.set(None);
            let object = Rc::clone(&self.object);
            self.object_tasks.push(Box::pin(async move { object.alarm().await }));
        }
        self.poll();
    }

    /// Everything that waits ends.
    pub(super) fn run(&mut self) {
        for _ in 0..10_000 {
            if !self.step() {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// Live blobs have their bytes, whole, and nothing else that the model forbids.
    pub(super) fn check(&self) {
        let bucket = self.shared.bucket.borrow();
        let is_there = |n: u32| {
            let there = bucket.objects.get(&sha(n).to_string());
            there.is_some_and(|there| there.bytes == relay_blossom::testing::model::body(n))
        };
        self.shared.oracle.borrow().check_bytes(is_there);
    }
}

/// Tells whoever waits that the object has lost its memory.
struct LostReply(Option<Slot<Result<Vec<u8>, String>>>);

impl Drop for LostReply {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(|reply| reply.set(Err("Network connection lost".to_owned())));
    }
}
