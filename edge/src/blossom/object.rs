//! The object of the index, behind two traits: what it does with a command, an event and its alarm. It removes bytes from the bucket
//! itself, so that a removal and an upload of the same bytes never overlap.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use relay_blossom::exchange::Retries;
use relay_blossom::index::Commit;
use relay_blossom::{Command, Index, Outcome, Sha256};
use relay_engine::sql::{SqlConn, StoreError};

use super::{BucketScan, PAGE_KEYS};

/// Keys that one alarm removes from the bucket, in one operation; the next alarm fires at once.
const REMOVALS_MAX: u32 = 1_000;
/// Seconds until what failed is tried again.
const RETRY_SECONDS: u64 = 5;
/// Times that the bucket is told when a blob ends, if that changes while it is being told.
const TOLD_MAX: u32 = 4;

/// The index, as the object uses it.
pub trait BlobIndex {
    /// As [`Index::run`].
    ///
    /// # Errors
    /// If the database fails.
    fn run(&mut self, now: u64, command: Command) -> Result<Outcome, StoreError>;

    /// As [`Index::next_due`].
    fn next_due(&self) -> Option<u64>;
}

impl<C: SqlConn> BlobIndex for Index<C> {
    fn run(&mut self, now: u64, command: Command) -> Result<Outcome, StoreError> {
        Index::run(self, now, command)
    }

    fn next_due(&self) -> Option<u64> {
        Index::next_due(self)
    }
}

/// Keys of the bucket, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPage {
    /// Each with the time when its bytes were stored, in Unix seconds.
    pub keys: Vec<(String, u64)>,
    /// Whether there are more.
    pub has_more: bool,
}

/// What the platform does for the object.
pub trait BlossomHost {
    /// The database beside the index.
    type Conn: SqlConn;
    /// The index.
    type Index: BlobIndex;

    /// Unix seconds.
    fn now(&self) -> u64;

    /// The database.
    ///
    /// # Errors
    /// If there is none.
    fn conn(&self) -> Result<Self::Conn, StoreError>;

    /// Opens the index.
    ///
    /// # Errors
    /// If the database fails.
    fn open_index(&self) -> Result<Self::Index, StoreError>;

    /// Whether there are rules of retention.
    fn has_retention(&self) -> bool;

    /// Waits.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()>;

    /// When the alarm fires, in Unix seconds, if one is set.
    fn alarm(&self) -> impl Future<Output = Option<u64>>;

    /// Sets the alarm; whether it is set.
    fn set_alarm(&self, at: u64) -> bool;

    /// Removes bytes. One operation of the bucket.
    fn remove(&self, keys: &[String]) -> impl Future<Output = Result<(), String>>;

    /// At most `max` keys of the bucket after a key.
    fn keys(&self, after: Option<&str>, max: u32) -> impl Future<Output = Result<KeyPage, String>>;

    /// Keeps with the bytes of a blob when retention removes it, if they are there and it is not what is kept with them.
    fn keep_expiry(
        &self,
        sha256: &Sha256,
        expires_at: Option<u64>,
    ) -> impl Future<Output = Result<(), String>>;

    /// Logs an error.
    fn error(&self, message: &str);

    /// Logs what has been done.
    fn log(&self, message: &str);
}

/// See the module.
pub struct BlossomObject<H: BlossomHost> {
    host: H,
    /// Opened on first use, and again if that failed.
    index: RefCell<Option<H::Index>>,
    /// The alarm, if this object has set one since it was opened, in Unix seconds.
    alarm_at: Cell<Option<u64>>,
    /// What has failed is not tried again before, in Unix seconds.
    retry_at: Cell<u64>,
    /// The scan of the bucket's keys; read from the database on first use.
    bucket_scan: RefCell<Option<Option<BucketScan>>>,
}

impl<H: BlossomHost> BlossomObject<H> {
    /// An object that has been woken up.
    pub fn new(host: H) -> Self {
        BlossomObject {
            host,
            index: RefCell::default(),
            alarm_at: Cell::default(),
            retry_at: Cell::default(),
            bucket_scan: RefCell::default(),
        }
    }

    /// The platform.
    pub fn host(&self) -> &H {
        &self.host
    }

    fn run_once(&self, command: Command) -> Result<Outcome, StoreError> {
        let busy = |_| StoreError::Failed("internal error: the index is busy; try again".into());
        let mut index = self.index.try_borrow_mut().map_err(busy)?;
        let open = match index.take() {
            Some(open) => open,
            None => self.host.open_index()?,
        };
        index.insert(open).run(self.host.now(), command)
    }

    /// Carries out a command, and again while the index answers that the blob is being removed or fetched. Who sends it waits for
    /// the removal of its own bytes only; others are left to the alarm.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn run(&self, command: Command) -> Result<Outcome, StoreError> {
        let (own, kept) = (command.removes(), kept(&command));
        // Nothing is told of a blob that never ends.
        let ended = kept.is_some_and(|sha256| self.expiry(&sha256).flatten().is_some());
        let mut outcome = self.run_once(command.clone());
        let mut retries = Retries::default();
        while let Some(pause) = outcome.as_ref().ok().and_then(|outcome| retries.wait(outcome)) {
            self.host.sleep(pause).await;
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
        match &outcome {
            Ok(Outcome::Begun { .. }) => self.schedule_first_scan(),
            Ok(Outcome::Swept(_)) => self.set_bucket_scan(BucketScan::requested(self.host.now())),
            Ok(uploaded) if kept.is_some() => self.tell_expiry(uploaded, ended).await,
            _ => {}
        }
        self.wake().await;
        outcome
    }

    /// When a live blob ends.
    fn expiry(&self, sha256: &Sha256) -> Option<Option<u64>> {
        match self.run_once(Command::Get(*sha256)) {
            Ok(Outcome::Blob(blob)) => Some(blob.expires_at),
            _ => None,
        }
    }

    /// The bucket answers downloads, with `Sunset`: it is told when a blob ends if that may not be what it was told with the bytes.
    /// An operation, unless no rule ends anything and it never did (`ended`); two more if it was told another time.
    async fn tell_expiry(&self, outcome: &Outcome, ended: bool) {
        let (blob, may_differ) = match outcome {
            Outcome::Exists(blob) => (blob, ended || self.host.has_retention()),
            // What the bytes were told was by the type that was known before they came.
            Outcome::Stored(blob) => (blob, self.host.has_retention()),
            _ => return,
        };
        if blob.expires_at.is_none() && !may_differ {
            return;
        }
        let thumbnail = blob.media.as_ref().and_then(|media| media.thumbnail);
        for sha256 in [Some(blob.sha256), thumbnail].into_iter().flatten() {
            let mut told = None;
            for _ in 0..TOLD_MAX {
                // It may be kept longer, or end, meanwhile.
                let Some(expires_at) = self.expiry(&sha256).filter(|at| told != Some(*at)) else { break };
                told = Some(expires_at);
                if let Err(error) = self.host.keep_expiry(&sha256, expires_at).await {
                    // Until it is uploaded again its downloads name the earlier time.
                    self.host.error(&format!("{sha256}: its expiry is not kept with its bytes: {error}"));
                    break;
                }
            }
        }
    }

    /// Removes bytes that nobody uploads meanwhile, for the index knows that they are being removed. One operation.
    async fn remove(&self, keys: Vec<String>) {
        let removed = self.host.remove(&keys).await;
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
        self.host.error(&format!("the index of blobs: {what}"));
        self.retry_at.set(self.host.now() + RETRY_SECONDS);
    }

    /// The alarm fires.
    pub async fn alarm(&self) {
        self.alarm_at.set(None);
        if let Err(error) = self.run_once(Command::Sweep) {
            self.failed(&error.to_string());
        }
        self.scan_next_page().await;
        match self.run_once(Command::TakeRemovals(REMOVALS_MAX)) {
            Ok(Outcome::Removals(keys)) if !keys.is_empty() => self.remove(keys).await,
            Ok(_) => {}
            Err(error) => self.failed(&error.to_string()),
        }
        self.wake().await;
    }

    fn bucket_scan(&self) -> Option<BucketScan> {
        let mut bucket_scan = self.bucket_scan.try_borrow_mut().ok()?;
        if bucket_scan.is_none() {
            match self.host.conn().and_then(|conn| BucketScan::read(&conn)) {
                Ok(read) => *bucket_scan = Some(read),
                Err(error) => self.failed(&error.to_string()),
            }
        }
        bucket_scan.clone().flatten()
    }

    fn set_bucket_scan(&self, next: BucketScan) {
        // Makes the table, if it is not there.
        self.bucket_scan();
        if let Err(error) = self.host.conn().and_then(|conn| next.write(&conn)) {
            self.failed(&error.to_string());
        }
        if let Ok(mut bucket_scan) = self.bucket_scan.try_borrow_mut() {
            *bucket_scan = Some(Some(next));
        }
    }

    /// The first upload has begun: from now on the bucket is looked through.
    fn schedule_first_scan(&self) {
        if self.bucket_scan().is_none() {
            self.set_bucket_scan(BucketScan::scheduled(self.host.now()));
        }
    }

    /// Looks at the next page of the bucket's keys, if it is due. Bytes that the index does not know wait to be removed then.
    async fn scan_next_page(&self) {
        let now = self.host.now();
        let Some(bucket_scan) = self.bucket_scan().filter(|bucket_scan| bucket_scan.due <= now) else {
            return;
        };
        let next = match self.scan_page(&bucket_scan).await {
            Ok(last) => bucket_scan.next(last, self.host.now()),
            Err(error) => {
                self.host.error(&format!("the bucket of blobs cannot be listed: {error}"));
                bucket_scan.failed(self.host.now())
            }
        };
        // Unless an administrator has requested a scan meanwhile.
        if self.bucket_scan().as_ref() == Some(&bucket_scan) {
            self.set_bucket_scan(next);
        }
    }

    /// The last key of the page, if there are more.
    async fn scan_page(&self, bucket_scan: &BucketScan) -> Result<Option<String>, String> {
        let page = self.host.keys(bucket_scan.after.as_deref(), PAGE_KEYS).await?;
        let last = page.keys.last().filter(|_| page.has_more).map(|(key, _)| key.clone());
        let now = self.host.now();
        let is_old = |(key, stored): (String, u64)| BucketScan::is_old(stored, now).then_some(key);
        let keys = page.keys.into_iter().filter_map(is_old).collect();
        match self.run_once(Command::RemoveUnknown { keys, is_asked: bucket_scan.is_asked }) {
            Ok(Outcome::Unknown { left, .. }) if left > 0 => {
                self.host.error(&format!(
                    "the index does not know {left} keys of the bucket, in a page of at most {PAGE_KEYS}; the index may be new or \
                     restored, so they stay until an administrator removes them (POST /blossom/gc)"
                ));
            }
            Ok(Outcome::Unknown { removed, .. }) if removed > 0 => {
                self.host.log(&format!(
                    "the bucket has {removed} keys that the index does not know: they are removed"
                ));
            }
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
        Ok(last)
    }

    /// Sets the alarm for the next thing to do. Setting it costs a row, so an alarm that is already set and fires
    /// earlier stays.
    async fn wake(&self) {
        let due = self.index.try_borrow().ok().and_then(|index| index.as_ref().and_then(BlobIndex::next_due));
        let due = due.into_iter().chain(self.bucket_scan().map(|bucket_scan| bucket_scan.due)).min();
        let Some(due) = due else { return };
        let at = due.max(self.host.now()).max(self.retry_at.get());
        if self.alarm_at.get().is_none() {
            self.alarm_at.set(self.host.alarm().await);
        }
        if self.alarm_at.get().is_some_and(|set| set <= at) {
            return;
        }
        match self.host.set_alarm(at) {
            true => self.alarm_at.set(Some(at)),
            false => self.host.error("the index of blobs: an alarm can't be set"),
        }
    }
}

/// The blob that a command may keep longer, or make live.
fn kept(command: &Command) -> Option<Sha256> {
    match command {
        Command::Begin(wanted) | Command::BeginPull(wanted, _) | Command::BeginPart(wanted, _) => {
            wanted.sha256
        }
        Command::SetHash { sha256, .. } | Command::Finish(Commit { sha256, .. }) => Some(*sha256),
        _ => None,
    }
}
