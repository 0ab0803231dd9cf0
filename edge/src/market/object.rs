//! `MarketDurableObject` without the platform: the registry of job providers over the object's SQLite. Whatever is applied again changes
//! nothing, so shards deliver to it independently of each other, at least once.
//!
//! Figures are counted by an alarm some seconds after what changes them, however many batches come meanwhile: a count reads all jobs
//! of a provider. The same alarm does what time alone changes. Which figures are to be counted is in memory; after that is lost, all are.

use std::cell::{Cell, RefCell};

use relay_engine::policy::names_relay;
use relay_engine::sql::{SqlConn, StoreError};
use relay_market::Registry;
use relay_market::http::{Answers, answer};
use relay_site::HttpResponse;

use super::{Asked, BOUNDS, KEPT_BYTES_MAX, KEPT_MILLIS, items};

/// Seconds from a change to the count.
const COUNT_SECONDS: u64 = 3;
/// Counts of many providers each that one alarm makes; the next one goes on.
const COUNTS_MAX: usize = 5;
/// Seconds between two sweeps at least.
const SWEEP_SECONDS: u64 = 60;
/// Seconds until an alarm that failed is repeated.
const RETRY_SECONDS: u64 = 5;

/// What the platform does for the object.
pub trait MarketHost {
    /// The database.
    type Conn: SqlConn;

    /// Unix seconds.
    fn now(&self) -> u64;

    /// The database.
    ///
    /// # Errors
    /// If there is none.
    fn conn(&self) -> Result<Self::Conn, StoreError>;

    /// When the alarm fires, in Unix seconds, if one is set.
    fn alarm(&self) -> impl Future<Output = Option<u64>>;

    /// Sets the alarm; whether it is set.
    fn set_alarm(&self, at: u64) -> bool;

    /// Logs an error.
    fn error(&self, message: &str);
}

/// See the module.
pub struct MarketObject<H: MarketHost> {
    host: H,
    /// Opened on first use, and again after a failure: then what is in memory may not be what is stored.
    registry: RefCell<Option<Registry<H::Conn>>>,
    answers: RefCell<Answers<HttpResponse>>,
    /// The alarm, if it is known, in Unix seconds.
    alarm_at: Cell<Option<u64>>,
    /// When this object has last swept, in Unix seconds.
    swept_at: Cell<u64>,
}

impl<H: MarketHost> MarketObject<H> {
    /// An object that has woken up.
    pub fn new(host: H) -> Self {
        MarketObject {
            host,
            registry: RefCell::default(),
            answers: RefCell::new(Answers::new(KEPT_BYTES_MAX)),
            alarm_at: Cell::default(),
            swept_at: Cell::default(),
        }
    }

    /// The platform.
    pub fn host(&self) -> &H {
        &self.host
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&mut Registry<H::Conn>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let busy = |_| StoreError::Failed("internal error: the registry is busy; try again".into());
        let mut place = self.registry.try_borrow_mut().map_err(busy)?;
        let mut registry = match place.take() {
            Some(registry) => registry,
            None => Registry::open_bounded(self.host.conn()?, BOUNDS)?,
        };
        let done = work(&mut registry)?;
        *place = Some(registry);
        Ok(done)
    }

    /// Applies a batch for a consumer: lines of `{"seq":7,"event":{...}}`. `relay_url` is the relay's URL, which requests to vanish
    /// name.
    ///
    /// # Errors
    /// If the database fails, or no alarm can be set: the batch is to be delivered again.
    pub async fn apply(&self, body: &[u8], relay_url: Option<&str>) -> Result<(), StoreError> {
        let (items, now) = (items(body), self.host.now());
        self.with(|registry| registry.apply(&items, now, &|event| names_relay(event, relay_url)))?;
        self.wake().await
    }

    /// Answers a request, from memory if the same was asked a moment ago.
    ///
    /// # Errors
    /// If the database fails.
    pub fn answer(&self, asked: &Asked) -> Result<HttpResponse, StoreError> {
        let (key, now) = (asked.encode(), self.host.now());
        let millis = now.saturating_mul(1_000);
        let kept = self.answers.try_borrow().ok().and_then(|answers| answers.get(&key, millis));
        if let Some(kept) = kept {
            return Ok(kept);
        }
        let answered = self.with(|registry| answer(registry, &asked.request(), now))?;
        if let Ok(mut answers) = self.answers.try_borrow_mut() {
            answers.put(key, answered.clone(), answered.body.len(), millis + KEPT_MILLIS, millis);
        }
        Ok(answered)
    }

    /// The alarm fires.
    ///
    /// # Errors
    /// If something failed and no alarm can be set that repeats it.
    pub async fn alarm(&self) -> Result<(), StoreError> {
        self.alarm_at.set(None);
        let now = self.host.now();
        let is_due = self.swept_at.get().saturating_add(SWEEP_SECONDS) <= now;
        let done = self.with(|registry| {
            if is_due {
                registry.sweep(now)?;
            }
            for _ in 0..COUNTS_MAX {
                if !registry.refresh(now)? {
                    break;
                }
            }
            Ok(())
        });
        if is_due && done.is_ok() {
            self.swept_at.set(now);
        }
        let woken = match done {
            Ok(()) => self.wake().await,
            failed => failed,
        };
        let Err(error) = woken else { return Ok(()) };
        self.host.error(&format!("the market: {error}; it is tried again"));
        self.set_alarm(now + RETRY_SECONDS).map_err(|_| error)
    }

    /// Sets the alarm for the next thing to do. Setting it costs a row, so one that is set and fires earlier stays.
    async fn wake(&self) -> Result<(), StoreError> {
        let now = self.host.now();
        let due = self.with(|registry| match registry.has_changes() {
            true => Ok(Some(now + COUNT_SECONDS)),
            false => Ok(registry.next_due()?.map(|due| due.max(now + SWEEP_SECONDS))),
        })?;
        let Some(due) = due else { return Ok(()) };
        if self.alarm_at.get().is_none() {
            self.alarm_at.set(self.host.alarm().await);
        }
        match self.alarm_at.get() {
            Some(set) if set <= due => Ok(()),
            _ => self.set_alarm(due),
        }
    }

    fn set_alarm(&self, at: u64) -> Result<(), StoreError> {
        if !self.host.set_alarm(at) {
            return Err(StoreError::Failed("the alarm cannot be set".into()));
        }
        self.alarm_at.set(Some(at));
        Ok(())
    }
}
