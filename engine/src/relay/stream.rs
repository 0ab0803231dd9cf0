//! Internal streams: filters whose matches go to the host instead of a socket.
//!
//! Whatever lives beside the relay (agents, Blossom) subscribes here, through the same index as clients.
//! Each shard sees every event, so a host opens a stream on one shard only.

use std::collections::VecDeque;
use std::sync::Arc;

use super::fanout::Owner;
use super::{FastMap, Relay};
use crate::index::SubSlot;
use crate::store::Backend;
use crate::types::{Event, Filter};

/// A stream of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(u64);

#[derive(Default)]
pub(super) struct Streams {
    next: u64,
    slots: FastMap<StreamId, SubSlot>,
    queue: VecDeque<(StreamId, Event)>,
}

impl Streams {
    pub(super) fn push(&mut self, stream: StreamId, event: Event) {
        self.queue.push_back((stream, event));
    }
}

impl<B: Backend> Relay<B> {
    /// Opens a stream of live events that match any of `filters`; stored ones are the store's to scan.
    /// The read guard does not apply: a host is trusted.
    pub fn open_stream(&mut self, filters: &[Filter]) -> StreamId {
        let stream = StreamId(self.streams.next);
        self.streams.next += 1;
        let filters: Arc<[Filter]> = filters.into();
        let slot = self.index.subscribe(&filters);
        self.live.insert_stream(slot, stream, filters);
        self.streams.slots.insert(stream, slot);
        stream
    }

    /// Ends a stream; what it already holds still comes out.
    pub fn close_stream(&mut self, stream: StreamId) {
        if let Some(slot) = self.streams.slots.remove(&stream) {
            debug_assert!(matches!(self.live.owner(slot), Some(Owner::Stream(own)) if *own == stream));
            self.drop_slot(slot);
        }
    }

    /// The next event of any stream, in the order of arrival. Hosts poll until `None` after every
    /// [`Relay::handle_live`] and [`Relay::handle_verified`]: the queue is bounded only by what those add.
    pub fn poll_stream(&mut self) -> Option<(StreamId, Event)> {
        self.streams.queue.pop_front()
    }
}
