//! Internal streams: filters whose matches go to the host instead of a socket.
//!
//! Other services in the relay's process (agents, Blossom) subscribe here, through the same index as clients and by the
//! same live and lagging states: a stream whose consumer is slow waits in the store, not in memory. A consumer that
//! keeps the last sequence number it has dealt with and after a restart opens its stream from there is handed every
//! stored match at least once.
//!
//! Each shard sees every event, so a host opens a stream on one shard only.

use std::collections::VecDeque;
use std::sync::Arc;

use super::ids::StreamId;
use super::queries::Query;
use super::subscriptions::{Owner, State, SubKey};
use super::{FastMap, Relay};
use crate::store::{Backend, Seq, StoreError};
use crate::types::{Event, Filter, Limits, Now};

/// Time until a replay to which the store returned an error is retried.
const RETRY_MS: u64 = 1_000;
/// What an event in a stream's queue costs beside its bytes.
const EVENT_BYTES: usize = 64;

/// A stream's events on their way to the host.
pub(super) struct Stream {
    key: SubKey,
    queue: VecDeque<(Option<Seq>, Event)>,
    /// Bytes of the events in `queue`.
    bytes: usize,
    /// Its replay, which waits for the queue to be polled.
    pub(super) paused: Option<Query>,
    /// Ephemeral events that did not fit, not yet reported to the host.
    missed: u64,
}

impl Stream {
    pub(super) fn push(&mut self, seq: Option<Seq>, event: Event) {
        self.bytes += EVENT_BYTES + event.json().len();
        self.queue.push_back((seq, event));
    }

    /// Whether further stored events must wait in the store.
    pub(super) fn is_full(&self, limits: &Limits) -> bool {
        self.bytes >= limits.outbox_pause_bytes
    }

    /// An ephemeral event, which cannot wait in the store. False if it did not fit.
    pub(super) fn push_ephemeral(&mut self, event: Event, limits: &Limits) -> bool {
        let fits = self.bytes < limits.outbox_bytes_max;
        if fits {
            self.push(None, event);
        } else {
            self.missed += 1;
        }
        fits
    }
}

#[derive(Default)]
pub(super) struct Streams {
    next: u64,
    by_id: FastMap<StreamId, Stream>,
    /// Replays to which the store returned an error, and when they are retried.
    failed: Vec<Query>,
    retry_at: Now,
}

impl Streams {
    pub(super) fn get_mut(&mut self, stream: StreamId) -> Option<&mut Stream> {
        self.by_id.get_mut(&stream)
    }

    /// The store returned an error to this replay; it is retried after a second.
    pub(super) fn retry(&mut self, now: Now, replay: Query) {
        self.retry_at = now.plus_millis(RETRY_MS);
        self.failed.push(replay);
    }

    /// When replays that failed are to be tried again.
    pub(super) fn retry_at(&self) -> Option<Now> {
        (!self.failed.is_empty()).then_some(self.retry_at)
    }

    /// Replays that are to be tried again now.
    pub(super) fn take_failed(&mut self, now: Now) -> Vec<Query> {
        if now < self.retry_at { Vec::new() } else { std::mem::take(&mut self.failed) }
    }
}

impl<B: Backend> Relay<B> {
    /// Opens a stream of the events that match any of `filters`, in commit order, ephemeral ones as they come.
    ///
    /// `after` is the last sequence number that the consumer has dealt with: stored matches above it are read back
    /// from the store by [`Relay::work`], then the stream is live, without a gap. `Some(Seq(0))` begins with the
    /// oldest event stored, `None` with the next one. What has been deleted or has expired meanwhile is not
    /// handed out. `limit` is ignored, and the read guard does not apply: a host is trusted.
    ///
    /// Costs one read of every event above `after`, and memory for about `outbox_pause_bytes` bytes of events
    /// however slow the consumer is (for ephemeral ones `outbox_bytes_max`).
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn open_stream(&mut self, filters: &[Filter], after: Option<Seq>) -> Result<StreamId, StoreError> {
        let (state, covered) = match after {
            Some(after) => (State::Lagging, after),
            None => (State::Live, self.last_seq()?),
        };
        let stream = StreamId(self.streams.next);
        self.streams.next += 1;
        let filters: Arc<[Filter]> = filters.into();
        let key = self.subscriptions.insert(Owner::Stream(stream), filters, state, covered);
        let queue = VecDeque::new();
        self.streams.by_id.insert(stream, Stream { key, queue, bytes: 0, paused: None, missed: 0 });
        if after.is_some() {
            self.enqueue(Query::StreamReplay(key));
        }
        Ok(stream)
    }

    /// Ends a stream, with what it holds.
    pub fn close_stream(&mut self, stream: StreamId) {
        if let Some(Stream { key, .. }) = self.streams.by_id.remove(&stream) {
            self.subscriptions.remove(key);
            self.streams.failed.retain(|replay| !replay.is_for(key));
        }
    }

    /// The next event of a stream; stored ones with their sequence numbers, which rise. A host polls whenever its
    /// consumer can take more, until `None`: then [`Relay::stream_position`] is what may be confirmed.
    ///
    /// An event may be handed out again after the stream has been opened again from an older sequence number, and an
    /// ephemeral event that finds its consumer too far behind is counted in [`Relay::stream_missed`] instead.
    pub fn poll_stream(&mut self, stream: StreamId) -> Option<(Option<Seq>, Event)> {
        let entry = self.streams.by_id.get_mut(&stream)?;
        let (seq, event) = entry.queue.pop_front()?;
        entry.bytes -= EVENT_BYTES + event.json().len();
        if entry.queue.is_empty() {
            entry.queue.shrink_to(32);
        }
        if entry.bytes <= self.config.limits.outbox_pause_bytes / 2
            && let Some(replay) = entry.paused.take()
        {
            self.enqueue(replay);
        }
        Some((seq, event))
    }

    /// Every stored match up to this sequence number has been returned by [`Relay::poll_stream`]. It moves on past
    /// events that do not match, so a consumer that confirms it is not shown them again when it comes back. `None`:
    /// there is no such stream.
    pub fn stream_position(&self, stream: StreamId) -> Option<Seq> {
        let entry = self.streams.by_id.get(&stream)?;
        if let Some(next) = entry.queue.iter().find_map(|(seq, _)| *seq) {
            return Some(Seq(next.0 - 1));
        }
        let subscription = self.subscriptions.get(entry.key)?;
        Some(match subscription.state {
            State::Live => subscription.covered.max(self.subscriptions.delivered()),
            State::Lagging | State::Scanning { .. } => subscription.covered,
        })
    }

    /// Ephemeral events that were not handed out because the consumer was too slow, since this was last asked.
    pub fn stream_missed(&mut self, stream: StreamId) -> u64 {
        self.streams.by_id.get_mut(&stream).map_or(0, |entry| std::mem::take(&mut entry.missed))
    }
}
