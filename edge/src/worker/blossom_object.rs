//! `BlossomDurableObject`: the index of blobs. It removes bytes from the bucket itself, so that a removal and an upload of the same
//! bytes never overlap.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use js_sys::futures::JsFuture;
use relay_blossom::{Command, Index, Outcome};
use relay_engine::sql::StoreError;
use wasm_bindgen::JsCast;
use worker::{Delay, DurableObject, Env, Request, Response, Result, State, durable_object};

use super::js::{self, Storage};
use super::sql::DurableSql;
use super::variables;
use crate::blossom::{COMMAND_PATH, EVENTS_PATH, decode_command, decode_events, encode_outcome, wake_at};

/// The bucket of blobs.
pub(super) const BLOBS: &str = "BLOBS";
/// How often a command is repeated while the bytes of its blob are being removed, and how long is waited in between.
const BUSY_TRIES: u32 = 50;
const BUSY_WAIT: Duration = Duration::from_millis(100);
/// Bytes that are removed in one call; the rest is left to an alarm.
const REMOVALS_MAX: u32 = 100;
/// Seconds until an alarm goes on with removals, or tries again what failed.
const SOON_SECONDS: u64 = 5;
/// How long a removal that failed is tried again. After 15 minutes the index hands it out once more, also to a successor of this
/// object; by then nothing of this one may be under way.
const RETRY_SECONDS: u64 = 600;

/// The index.
#[durable_object]
pub struct BlossomDurableObject {
    state: State,
    env: Env,
    /// Opened on first use, and again if that failed.
    index: RefCell<Option<Index<DurableSql>>>,
    /// The alarm, if this object has set one since it was opened, in Unix seconds.
    alarm_at: Cell<Option<u64>>,
    /// Removals that the bucket has failed, and when this object took them, in Unix seconds.
    failed: RefCell<Vec<(String, u64)>>,
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
        let busy = |_| StoreError::Failed("the index is in use".into());
        let mut index = self.index.try_borrow_mut().map_err(busy)?;
        let open = match index.take() {
            Some(open) => open,
            None => Index::open(DurableSql::new(self.storage()?))?,
        };
        index.insert(open).run(now(), command)
    }

    /// Carries out a command; again while the bytes of its blob are being removed.
    async fn run(&self, command: Command) -> std::result::Result<Outcome, StoreError> {
        let may_remove = command.may_remove();
        let wake_at = wake_at(&command, now());
        let mut outcome = self.run_once(command.clone());
        for _ in 0..BUSY_TRIES {
            if outcome != Ok(Outcome::Busy) {
                break;
            }
            Delay::from(BUSY_WAIT).await;
            outcome = self.run_once(command.clone());
        }
        if may_remove {
            self.remove().await;
        }
        if let Some(at) = wake_at
            && !matches!(outcome, Ok(Outcome::Refused(_) | Outcome::Busy))
        {
            self.wake_by(at).await;
        }
        outcome
    }

    /// Removes bytes that may go.
    async fn remove(&self) {
        for _ in 0..REMOVALS_MAX {
            let key = match self.run_once(Command::TakeRemoval) {
                Ok(Outcome::Removal(Some(key))) => key,
                Ok(_) => return,
                Err(error) => return self.try_soon(&error.to_string()),
            };
            self.remove_taken(key, now()).await;
        }
        self.set_alarm(now() + SOON_SECONDS);
    }

    /// Removes bytes that nobody uploads meanwhile, for the index knows that they are being removed.
    async fn remove_taken(&self, key: String, taken_at: u64) {
        let removed = match self.env.bucket(BLOBS) {
            Ok(bucket) => bucket.delete(&key).await,
            Err(error) => Err(error),
        };
        let failed = match removed {
            Ok(()) => self.run_once(Command::Removed(key.clone())).err().map(|error| error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = failed {
            self.try_soon(&format!("{key}: {error}"));
            if let Ok(mut failed) = self.failed.try_borrow_mut() {
                failed.push((key, taken_at));
            }
        }
    }

    /// Tries again what the bucket has failed.
    async fn remove_failed(&self) {
        let failed = self.failed.try_borrow_mut().map(|mut failed| std::mem::take(&mut *failed));
        for (key, taken_at) in failed.unwrap_or_default() {
            if now() < taken_at + RETRY_SECONDS {
                self.remove_taken(key, taken_at).await;
            }
        }
    }

    fn try_soon(&self, what: &str) {
        worker::console_error!("removing bytes of blobs: {what}");
        self.set_alarm(now() + SOON_SECONDS);
    }

    /// The alarm rings at this time, or before. To set it costs a row, so that one which is set already is left.
    async fn wake_by(&self, at: u64) {
        if self.alarm_at.get().is_none() {
            let set = match self.storage().map(|storage| storage.get_alarm()) {
                Ok(Ok(promise)) => JsFuture::from(promise).await.ok().and_then(|set| set.as_f64()),
                _ => None,
            };
            self.alarm_at.set(set.map(|ms| ms as u64 / 1_000));
        }
        self.set_alarm(at.max(now() + SOON_SECONDS));
    }

    fn sweep(&self) {
        match self.run_once(Command::Sweep) {
            Ok(Outcome::Swept(Some(at))) => self.set_alarm(at.max(now() + SOON_SECONDS)),
            Ok(_) => {}
            Err(error) => self.try_soon(&error.to_string()),
        }
    }

    fn set_alarm(&self, at: u64) {
        if self.alarm_at.get().is_some_and(|set| set <= at && set > now()) {
            return;
        }
        self.alarm_at.set(Some(at));
        let set = self.storage().map(|storage| storage.set_alarm(at as f64 * 1_000.0));
        if !matches!(set, Ok(Ok(_))) {
            worker::console_error!("the index of blobs: an alarm can't be set");
        }
    }
}

impl DurableObject for BlossomDurableObject {
    fn new(state: State, env: Env) -> Self {
        BlossomDurableObject {
            state,
            env,
            index: RefCell::default(),
            alarm_at: Cell::default(),
            failed: RefCell::default(),
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
            _ => Response::error("not found\n", 404),
        }
    }

    async fn alarm(&self) -> Result<Response> {
        self.alarm_at.set(None);
        self.sweep();
        self.remove_failed().await;
        self.remove().await;
        Response::ok("")
    }
}
