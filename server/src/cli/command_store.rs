//! The database of a command that changes it: by itself, or, where a relay serves the folder and is the only one to write it, through that
//! relay.

use std::sync::Arc;

use relay_engine::store::{self, Backend, Op, Outcome};
use relay_engine::types::EventId;

use super::database::unix_now;
use super::exit::Failure;
use crate::log_store::LogBackend;
use crate::served::{self, Client, Numbered};

/// A database that is read here and changed here or by a relay.
#[derive(Clone)]
pub(crate) struct CommandStore<B> {
    store: B,
    relay: Option<Arc<Relay>>,
}

/// The relay that changes it.
struct Relay {
    client: Client,
    /// The same database, read beside the relay.
    store: LogBackend,
}

impl Relay {
    /// Gives up what was read before, so that the relay can use it again: a command may only write for hours.
    fn keep_up(&self) {
        // Whoever reads is told of errors.
        let _ = self.store.reader();
    }
}

impl CommandStore<LogBackend> {
    /// A database that a relay serves.
    pub(super) fn served(store: LogBackend, client: Client) -> Self {
        CommandStore { store: store.clone(), relay: Some(Arc::new(Relay { client, store })) }
    }
}

impl<B: Backend> CommandStore<B> {
    /// A database that this process changes.
    pub(crate) fn own(store: B) -> Self {
        CommandStore { store, relay: None }
    }

    /// To read. What was changed through a relay may be found only after [`CommandStore::refresh`].
    pub(crate) fn read(&self) -> &B {
        &self.store
    }

    /// What was changed until now is found by readers from now on.
    pub(crate) fn refresh(&self) -> Result<(), Failure> {
        match &self.relay {
            Some(relay) => Ok(relay.store.refresh()?),
            None => Ok(()),
        }
    }

    /// Stores events; `done` has what became of those that were dealt with, also after an error.
    pub(crate) fn commit(&self, ops: &[Op], done: &mut Vec<Outcome>) -> Result<(), Failure> {
        let Some(relay) = &self.relay else {
            done.extend(store::commit(&self.store, unix_now(), ops)?);
            return Ok(());
        };
        let mut numbered = Vec::new();
        let result = relay.client.commit(ops, &mut numbered);
        done.extend(numbered.into_iter().map(|(outcome, _)| outcome));
        relay.keep_up();
        result
    }

    /// Stores events; returns their numbers too.
    pub(crate) fn commit_numbered(&self, ops: &[Op]) -> Result<Vec<Numbered>, Failure> {
        let Some(relay) = &self.relay else {
            let outcomes = store::commit(&self.store, unix_now(), ops)?;
            return Ok(served::numbered(&self.store, ops, outcomes)?);
        };
        let mut numbered = Vec::new();
        relay.client.commit(ops, &mut numbered)?;
        relay.keep_up();
        Ok(numbered)
    }

    /// Removes events without tombstones; `done` has how many, also after an error.
    pub(crate) fn remove(&self, ids: &[EventId], done: &mut usize) -> Result<(), Failure> {
        match &self.relay {
            Some(relay) => {
                let result = relay.client.remove(ids, done);
                relay.keep_up();
                result
            }
            None => {
                *done += store::remove(&self.store, ids)?;
                Ok(())
            }
        }
    }

    /// A step of removing what was deleted. Whether there is more.
    pub(crate) fn remove_pending(&self) -> Result<bool, Failure> {
        match &self.relay {
            Some(relay) => relay.client.remove_pending(),
            None => Ok(store::remove_pending(&self.store)?.more),
        }
    }
}
