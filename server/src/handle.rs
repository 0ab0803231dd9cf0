//! For other services in the relay's process: publishing events and reading streams without a socket.

use std::fmt;
use std::sync::{Arc, Weak};

use relay_engine::relay::{ClientViewer, PublishOutcome};
use relay_engine::store::{Seq, StoreError, Unrestricted};
use relay_engine::types::{Event, Filter};
use tokio::sync::{mpsc, oneshot};

use crate::blossom::Blossom;
use crate::event_reader::EventReader;
use crate::host::{Inbound, ServerState, now};

/// Items that wait for a consumer outside the machine; further events wait in the machine, then in the store.
const ITEMS_MAX: usize = 256;
/// Stored events that do not match, after which a consumer is sent its stream's position.
pub(crate) const UNMATCHED_MAX: u64 = 1_000;

/// The relay has stopped, or is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the relay has stopped")
    }
}

impl std::error::Error for Stopped {}

/// Why the store is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The relay has stopped, or is stopping.
    Stopped,
    /// The store failed.
    Store(StoreError),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Stopped => Stopped.fmt(f),
            ReadError::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ReadError {}

/// An item of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An event that matches: stored, with its sequence number, or ephemeral.
    Event(Option<Seq>, Event),
    /// Nothing else that is stored up to this sequence number matches: it may be confirmed.
    Position(Seq),
    /// This many ephemeral events were lost to this consumer because it was too slow.
    Missed(u64),
}

/// A handle to a serving relay, for other parts of its process. It can be cloned and used on any thread.
#[derive(Clone)]
pub struct RelayHandle {
    host: Arc<ServerState>,
    /// Gone once the relay has stopped, so that its folder can be opened again.
    stored: Weak<dyn EventReader>,
}

impl RelayHandle {
    pub(crate) fn new(host: Arc<ServerState>, stored: Weak<dyn EventReader>) -> Self {
        RelayHandle { host, stored }
    }

    /// Publishes an event that one of the host's own keys has signed; see
    /// [`Relay::publish`](relay_engine::relay::Relay::publish). Returns when it is stored, or why it is not.
    ///
    /// # Errors
    /// If the relay stops first. Then the event may be stored or not; it can be published again.
    pub async fn publish(&self, event: Event) -> Result<PublishOutcome, Stopped> {
        self.send(event).await.map_err(|_| Stopped)
    }

    /// Publishes an event that somebody else has signed: it is admitted like one of a client that has not authenticated; see
    /// [`Relay::publish_copy`](relay_engine::relay::Relay::publish_copy).
    ///
    /// # Errors
    /// As [`RelayHandle::publish`].
    pub(crate) async fn publish_copy(&self, event: Event) -> Result<PublishOutcome, Stopped> {
        let (sender, outcome) = oneshot::channel();
        self.first_shard(Inbound::PublishCopy(event, sender));
        outcome.await.map_err(|_| Stopped)
    }

    /// Publishes an event, behind those that were sent before it. The outcome comes later, or, if the relay stops first, never.
    pub(crate) fn send(&self, event: Event) -> oneshot::Receiver<PublishOutcome> {
        let (sender, outcome) = oneshot::channel();
        self.first_shard(Inbound::Publish(event, sender));
        outcome
    }

    /// The newest stored events that match, at most 16: what can be found in a few milliseconds, during which it blocks. The
    /// read guard does not apply.
    ///
    /// # Errors
    /// If the relay has stopped or the store cannot be read.
    pub fn query(&self, filter: Filter) -> Result<Vec<Event>, ReadError> {
        let stored = self.stored.upgrade().ok_or(ReadError::Stopped)?;
        stored.query(filter, now().seconds(), &Unrestricted).map_err(ReadError::Store)
    }

    /// [`RelayHandle::query`] of what everybody may see: of guarded kinds nothing is found.
    ///
    /// # Errors
    /// As [`RelayHandle::query`].
    pub fn query_public(&self, filter: Filter) -> Result<Vec<Event>, ReadError> {
        let stored = self.stored.upgrade().ok_or(ReadError::Stopped)?;
        let anybody = ClientViewer { guarded_kinds: &self.host.settings.policy.guarded_kinds, keys: &[] };
        stored.query(filter, now().seconds(), &anybody).map_err(ReadError::Store)
    }

    /// The highest sequence number given to a stored event.
    ///
    /// # Errors
    /// As [`RelayHandle::query`].
    pub fn last_seq(&self) -> Result<Seq, ReadError> {
        let stored = self.stored.upgrade().ok_or(ReadError::Stopped)?;
        stored.last_seq().map_err(ReadError::Store)
    }

    /// Opens a stream of the events that match any of `filters`, in commit order; see
    /// [`Relay::open_stream`](relay_engine::relay::Relay::open_stream). A consumer that keeps the last sequence number
    /// it has dealt with, and after a restart opens its stream from there, is handed every stored match at least once.
    ///
    /// # Errors
    /// If the relay has stopped or the store cannot be read.
    pub async fn open_stream(&self, filters: Vec<Filter>, after: Option<Seq>) -> Result<Stream, ReadError> {
        let (sender, items) = mpsc::channel(ITEMS_MAX);
        let (opened, is_open) = oneshot::channel();
        self.first_shard(Inbound::OpenStream { filters, after, sender, opened });
        match is_open.await {
            Ok(Ok(())) => Ok(Stream { items, host: Arc::clone(&self.host) }),
            Ok(Err(error)) => Err(ReadError::Store(error)),
            Err(_) => Err(ReadError::Stopped),
        }
    }

    /// The relay's blobs, once they are open.
    pub(crate) fn blossom(&self) -> Option<Arc<Blossom>> {
        self.host.blossom.get().cloned()
    }

    /// Every shard sees every event, so one serves all streams.
    fn first_shard(&self, inbound: Inbound) {
        if let Some(inbox) = self.host.inboxes.first() {
            inbox.push(inbound);
        }
    }
}

/// A stream, which ends when it is dropped.
pub struct Stream {
    items: mpsc::Receiver<Item>,
    host: Arc<ServerState>,
}

impl Stream {
    /// The next item. `None`: the relay has stopped. Cancel safe.
    pub async fn next(&mut self) -> Option<Item> {
        let item = self.items.recv().await;
        self.resume();
        item
    }

    /// The next item if it is there.
    pub fn try_next(&mut self) -> Option<Item> {
        let item = self.items.try_recv().ok()?;
        self.resume();
        Some(item)
    }

    fn resume(&self) {
        // The shard stops handing out when a channel is full, and does not resume by itself.
        let has_space = self.items.is_empty() || self.items.len() == ITEMS_MAX / 2;
        if has_space && let Some(inbox) = self.host.inboxes.first() {
            inbox.wake.notify_one();
        }
    }
}
