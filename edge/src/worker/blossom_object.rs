//! `BlossomDurableObject`: the index of blobs. It removes bytes from the bucket itself, so that a removal and an upload of the same
//! bytes never overlap.

use std::cell::{Cell, RefCell};

use js_sys::futures::JsFuture;
use relay_blossom::exchange::Retries;
use relay_blossom::{Command, Index, Outcome};
use relay_engine::sql::StoreError;
use wasm_bindgen::JsCast;
use worker::{Delay, DurableObject, Env, Object, Request, Response, Result, State, durable_object};

use super::js::{self, Storage};
use super::sql::DurableSql;
use super::variables;
use crate::blossom::{
    BucketScan, COMMAND_PATH, EVENTS_PATH, PAGE_KEYS, USE_PATH, decode_command, decode_events, encode_outcome,
};
use crate::used_auth_events::{SignedBy, encode_taken};

/// The bucket of blobs.
pub(super) const BLOBS: &str = "BLOBS";
/// Keys that one alarm removes from the bucket, in one operation; the next alarm fires at once.
const REMOVALS_MAX: u32 = 1_000;
/// Seconds until what failed is tried again.
const RETRY_SECONDS: u64 = 5;

/// The index.
#[durable_object]
pub struct BlossomDurableObject {
    state: State,
    env: Env,
    /// Opened on first use, and again if that failed.
    index: RefCell<Option<Index<DurableSql>>>,
    /// The alarm, if this object has set one since it was opened, in Unix seconds.
    alarm_at: Cell<Option<u64>>,
    /// What has failed is not tried again before, in Unix seconds.
    retry_at: Cell<u64>,
    /// The scan of the bucket's keys; read from the database on first use.
    bucket_scan: RefCell<Option<Option<BucketScan>>>,
}

fn now() -> u64 {
    js_sys::Date::now() as u64 / 1_000
}

impl BlossomDurableObject {
    fn storage(&self) -> std::result::Result<Storage, StoreError> {
        let storage = self.state.as_raw().storage();
        storage.map(JsCast::unchecked_into).map_err(|error| StoreError::Failed(js::error_message(&error)))
    }

    fn run_once(&self, command: Command) -> std::result::Result<Outcome, StoreError> {
        let busy = |_| StoreError::Failed("internal error: the index is busy; try again".into());
        let mut index = self.index.try_borrow_mut().map_err(busy)?;
        let open = match index.take() {
            Some(open) => open,
            None => Index::open(DurableSql::new(self.storage()?))?,
        };
        index.insert(open).run(now(), command)
    }

    /// Carries out a command, and again while the index answers that the blob is being removed or fetched. Who sends it waits for
    /// the removal of its own bytes only; others are left to the alarm.
    async fn run(&self, command: Command) -> std::result::Result<Outcome, StoreError> {
        let own = command.removes();
        let mut outcome = self.run_once(command.clone());
        let mut retries = Retries::default();
        while let Some(pause) = outcome.as_ref().ok().and_then(|outcome| retries.wait(outcome)) {
            Delay::from(pause).await;
            outcome = self.run_once(command.clone());
        }
        match (&outcome, own) {
            (Ok(Outcome::Stored(_) | Outcome::Exists(_)) | Err(_), _) | (_, None) => {}
            (_, Some(own)) => {
                if let Ok(Outcome::Removal(Some(key))) = self.run_once(Command::TakeRemovalOf(own)) {
                    self.remove(vec![key]).await;
                }
            }
        }
        match outcome {
            Ok(Outcome::Begun { .. }) => self.schedule_first_scan(),
            Ok(Outcome::Swept(_)) => self.set_bucket_scan(BucketScan::requested(now())),
            _ => {}
        }
        self.wake().await;
        outcome
    }

    /// Removes bytes that nobody uploads meanwhile, for the index knows that they are being removed. One operation.
    async fn remove(&self, keys: Vec<String>) {
        let removed = match self.env.bucket(BLOBS) {
            Ok(bucket) => bucket.delete_multiple(keys.iter().map(String::as_str).collect()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &removed {
            self.failed(&format!("{} keys cannot be removed from the bucket: {error}", keys.len()));
        }
        for key in keys {
            let done = match removed {
                Ok(()) => Command::Removed(key),
                Err(_) => Command::RemovalFailed(key),
            };
            if let Err(error) = self.run_once(done) {
                self.failed(&error.to_string());
            }
        }
    }

    fn failed(&self, what: &str) {
        worker::console_error!("the index of blobs: {what}");
        self.retry_at.set(now() + RETRY_SECONDS);
    }

    fn sweep(&self) {
        if let Err(error) = self.run_once(Command::Sweep) {
            self.failed(&error.to_string());
        }
    }

    async fn remove_waiting(&self) {
        match self.run_once(Command::TakeRemovals(REMOVALS_MAX)) {
            Ok(Outcome::Removals(keys)) if !keys.is_empty() => self.remove(keys).await,
            Ok(_) => {}
            Err(error) => self.failed(&error.to_string()),
        }
    }

    fn bucket_scan(&self) -> Option<BucketScan> {
        let mut bucket_scan = self.bucket_scan.try_borrow_mut().ok()?;
        if bucket_scan.is_none() {
            let read = self.storage().and_then(|storage| BucketScan::read(&DurableSql::new(storage)));
            match read {
                Ok(read) => *bucket_scan = Some(read),
                Err(error) => self.failed(&error.to_string()),
            }
        }
        bucket_scan.clone().flatten()
    }

    fn set_bucket_scan(&self, next: BucketScan) {
        // Makes the table, if it is not there.
        self.bucket_scan();
        let written = self.storage().and_then(|storage| next.write(&DurableSql::new(storage)));
        if let Err(error) = written {
            self.failed(&error.to_string());
        }
        if let Ok(mut bucket_scan) = self.bucket_scan.try_borrow_mut() {
            *bucket_scan = Some(Some(next));
        }
    }

    /// The first upload has begun: from now on the bucket is looked through.
    fn schedule_first_scan(&self) {
        if self.bucket_scan().is_none() {
            self.set_bucket_scan(BucketScan::scheduled(now()));
        }
    }

    /// Looks at the next page of the bucket's keys, if it is due. Bytes that the index does not know wait to be removed then.
    async fn scan_next_page(&self) {
        let Some(bucket_scan) = self.bucket_scan().filter(|bucket_scan| bucket_scan.due <= now()) else {
            return;
        };
        let next = match self.scan_page(&bucket_scan).await {
            Ok(last) => bucket_scan.next(last, now()),
            Err(error) => {
                worker::console_error!("the bucket of blobs cannot be listed: {error}");
                bucket_scan.failed(now())
            }
        };
        // Unless an administrator has requested a scan meanwhile.
        if self.bucket_scan().as_ref() == Some(&bucket_scan) {
            self.set_bucket_scan(next);
        }
    }

    /// The last key of the page, if there are more.
    async fn scan_page(&self, bucket_scan: &BucketScan) -> Result<Option<String>> {
        let bucket = self.env.bucket(BLOBS)?;
        let mut page = bucket.list().limit(PAGE_KEYS);
        if let Some(after) = &bucket_scan.after {
            page = page.start_after(after);
        }
        let page = page.execute().await?;
        let objects = page.objects();
        let last = objects.last().filter(|_| page.truncated()).map(Object::key);
        let is_old = |object: &&Object| BucketScan::is_old(object.uploaded().as_millis() / 1_000, now());
        let keys = objects.iter().filter(is_old).map(Object::key).collect();
        match self.run_once(Command::RemoveUnknown { keys, is_asked: bucket_scan.is_asked }) {
            Ok(Outcome::Unknown { left, .. }) if left > 0 => {
                worker::console_error!(
                    "the index does not know {left} keys of the bucket, in a page of at most {PAGE_KEYS}; the index may be new or \
                     restored, so they stay until an administrator removes them (POST /blossom/gc)"
                );
            }
            Ok(Outcome::Unknown { removed, .. }) if removed > 0 => {
                worker::console_log!(
                    "the bucket has {removed} keys that the index does not know: they are removed"
                );
            }
            Ok(_) => {}
            Err(error) => return Err(worker::Error::RustError(error.to_string())),
        }
        Ok(last)
    }

    /// Sets the alarm for the next thing to do. Setting it costs a row, so an alarm that is already set and fires
    /// earlier stays.
    async fn wake(&self) {
        let due = self.index.try_borrow().ok().and_then(|index| index.as_ref().and_then(Index::next_due));
        let due = due.into_iter().chain(self.bucket_scan().map(|bucket_scan| bucket_scan.due)).min();
        let Some(due) = due else { return };
        let at = due.max(now()).max(self.retry_at.get());
        if self.alarm_at.get().is_none() {
            let set = match self.storage().map(|storage| storage.get_alarm()) {
                Ok(Ok(promise)) => JsFuture::from(promise).await.ok().and_then(|set| set.as_f64()),
                _ => None,
            };
            self.alarm_at.set(set.map(|ms| ms as u64 / 1_000));
        }
        if self.alarm_at.get().is_some_and(|set| set <= at) {
            return;
        }
        let set = self.storage().map(|storage| storage.set_alarm(at as f64 * 1_000.0));
        if matches!(set, Ok(Ok(_))) {
            self.alarm_at.set(Some(at));
        } else {
            worker::console_error!("the index of blobs: an alarm can't be set");
        }
    }

    /// Marks the event that has signed a request as used.
    fn take_used(&self, body: &[u8]) -> std::result::Result<&'static [u8], String> {
        let signed: SignedBy = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let conn = DurableSql::new(self.storage().map_err(|error| error.to_string())?);
        signed.take(&conn, now()).map(|taken| encode_taken(&taken)).map_err(|error| error.to_string())
    }
}

impl DurableObject for BlossomDurableObject {
    fn new(state: State, env: Env) -> Self {
        BlossomDurableObject {
            state,
            env,
            index: RefCell::default(),
            alarm_at: Cell::default(),
            retry_at: Cell::default(),
            bucket_scan: RefCell::default(),
        }
    }

    async fn fetch(&self, mut request: Request) -> Result<Response> {
        let path = request.path();
        let body = request.bytes().await?;
        match path.as_str() {
            COMMAND_PATH => {
                let outcome = match decode_command(&body) {
                    Ok(command) => self.run(command).await,
                    Err(message) => Err(StoreError::Failed(message)),
                };
                Response::from_bytes(encode_outcome(outcome))
            }
            EVENTS_PATH => {
                let url = match variables::settings(&self.env) {
                    Ok(settings) => settings.url,
                    Err(message) => return Response::error(message, 503),
                };
                let commands = match decode_events(&body, url.as_deref()) {
                    Ok(commands) => commands,
                    Err(message) => return Response::error(message, 400),
                };
                for command in commands {
                    if let Err(error) = self.run(command).await {
                        return Response::error(error.to_string(), 503);
                    }
                }
                Response::ok("")
            }
            USE_PATH => match self.take_used(&body) {
                Ok(taken) => Response::from_bytes(taken.to_vec()),
                Err(message) => Response::error(message, 503),
            },
            _ => Response::error("not found\n", 404),
        }
    }

    async fn alarm(&self) -> Result<Response> {
        self.alarm_at.set(None);
        self.sweep();
        self.scan_next_page().await;
        self.remove_waiting().await;
        self.wake().await;
        Response::ok("")
    }
}
