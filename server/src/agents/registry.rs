//! The agents that are open, and the messages that wait for them.
//!
//! An agent is one task at a time. Messages are added under the lock under which a task finds that there are none left and
//! ends, so none is lost and no agent is open twice.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use relay_agent::executor::HttpEvent;
use relay_agent::machine::{Agent, EffectId, ExchangeEvent, Published};
use relay_engine::types::{Event, Now, PubKey};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::sqlite::Sqlite;

/// Work that somebody wants done with an agent.
pub(super) type Call = Box<dyn FnOnce(Now, &mut Agent<Sqlite>) + Send>;

/// A message to an agent.
pub(super) enum Message {
    /// Events of the router.
    Deliver(Vec<Event>, Receipt),
    /// What became of events that it published.
    Published(EffectId, Vec<Published>),
    /// Something has come of a call over HTTP, of which only so much may wait.
    Http(EffectId, HttpEvent, OwnedSemaphorePermit),
    /// A blob is stored at this URL, or why not.
    Stored(EffectId, Result<String, String>),
    /// The answer to a query.
    Events(EffectId, Result<Vec<Event>, String>),
    /// Something has come of an exchange.
    Exchange(EffectId, ExchangeEvent),
    /// A command or a question. Dropped without being called if the agent cannot be opened.
    Call(Call),
    /// Opens the agent: its time has come.
    Open,
}

/// Tells the router what became of a delivery: unless it is said otherwise, that it has failed.
pub(super) struct Receipt {
    id: u64,
    is_accepted: bool,
    to: UnboundedSender<(u64, bool)>,
}

impl Receipt {
    pub(super) fn new(id: u64, to: UnboundedSender<(u64, bool)>) -> Self {
        Receipt { id, is_accepted: false, to }
    }

    pub(super) fn accept(mut self) {
        self.is_accepted = true;
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let _ = self.to.send((self.id, self.is_accepted));
    }
}

/// The messages of one agent.
#[derive(Default)]
pub(super) struct Inbox {
    queue: Mutex<VecDeque<Message>>,
    /// Wakes its task.
    pub(super) wake: Notify,
}

impl Inbox {
    fn queue(&self) -> MutexGuard<'_, VecDeque<Message>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message for the task that is running.
    pub(super) fn push(&self, message: Message) {
        self.queue().push_back(message);
        self.wake.notify_one();
    }

    pub(super) fn pop(&self) -> Option<Message> {
        self.queue().pop_front()
    }

    /// Drops all messages: callers that wait for an answer learn that there is none.
    pub(super) fn clear(&self) {
        let messages = std::mem::take(&mut *self.queue());
        drop(messages);
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Registry {
    open: Mutex<HashMap<PubKey, Arc<Inbox>>>,
    /// No agent is opened any more.
    is_stopping: AtomicBool,
}

impl Registry {
    fn open(&self) -> MutexGuard<'_, HashMap<PubKey, Arc<Inbox>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a message. If this returns an inbox, the caller must start a task for it.
    pub(super) fn send(&self, agent: PubKey, message: Message) -> Option<Arc<Inbox>> {
        let mut open = self.open();
        if self.is_stopping() {
            return None;
        }
        if let Some(inbox) = open.get(&agent) {
            inbox.push(message);
            return None;
        }
        let inbox = Arc::new(Inbox::default());
        inbox.push(message);
        open.insert(agent, Arc::clone(&inbox));
        Some(inbox)
    }

    /// The task of an agent ends, unless there are messages for it.
    pub(super) fn close(&self, agent: &PubKey, inbox: &Inbox) -> bool {
        let mut open = self.open();
        if self.is_stopping() {
            inbox.clear();
        }
        let is_empty = inbox.queue().is_empty();
        if is_empty {
            open.remove(agent);
        }
        is_empty
    }

    /// Ends all tasks.
    pub(super) fn stop(&self) {
        let open = self.open();
        self.is_stopping.store(true, Ordering::Relaxed);
        open.values().for_each(|inbox| inbox.wake.notify_one());
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// How many are open.
    pub(super) fn len(&self) -> usize {
        self.open().len()
    }
}
