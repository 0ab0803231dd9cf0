//! What a shard does for [`RelayHandle`](crate::handle::RelayHandle)s: publishes their events and forwards their streams.

use std::cell::RefCell;
use std::collections::HashMap;

use relay_engine::relay::{PublishOutcome, StreamId, Ticket};
use relay_engine::store::{Backend, Seq, StoreError};
use relay_engine::types::{Event, Filter, Now};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::Shard;
use crate::handle::{Item, UNMATCHED_MAX};

/// The open streams, and the callers that wait for the outcome of an event.
#[derive(Default)]
pub(super) struct HandleState {
    streams: RefCell<Vec<StreamForwarder>>,
    published: RefCell<HashMap<Ticket, oneshot::Sender<PublishOutcome>>>,
}

/// Moves the events of one stream from the relay to its consumer.
struct StreamForwarder {
    stream: StreamId,
    sender: mpsc::Sender<Item>,
    /// The last sequence number that the consumer has been sent.
    sent: Seq,
}

impl<B: Backend> Shard<B> {
    pub(super) fn publish(&self, now: Now, event: &Event, sender: oneshot::Sender<PublishOutcome>) {
        let ticket = self.relay.borrow_mut().publish(now, event);
        self.handles.published.borrow_mut().insert(ticket, sender);
    }

    pub(super) fn publish_copy(&self, now: Now, event: &Event, sender: oneshot::Sender<PublishOutcome>) {
        let ticket = self.relay.borrow_mut().publish_copy(now, event);
        self.handles.published.borrow_mut().insert(ticket, sender);
    }

    pub(super) fn notify_publisher(&self, ticket: Ticket, outcome: PublishOutcome) {
        if let Some(sender) = self.handles.published.borrow_mut().remove(&ticket) {
            // The caller may be gone.
            let _ = sender.send(outcome);
        }
    }

    pub(super) fn open_stream(
        &self,
        filters: &[Filter],
        after: Option<Seq>,
        sender: mpsc::Sender<Item>,
    ) -> Result<(), StoreError> {
        let stream = self.relay.borrow_mut().open_stream(filters, after)?;
        self.handles.streams.borrow_mut().push(StreamForwarder {
            stream,
            sender,
            sent: after.unwrap_or_default(),
        });
        Ok(())
    }

    /// Hands consumers as much as they can take, and ends the streams of those that are gone.
    pub(super) fn forward_streams(&self) {
        self.handles.streams.borrow_mut().retain_mut(|forwarder| {
            let is_there = self.forward(forwarder);
            if !is_there {
                self.relay.borrow_mut().close_stream(forwarder.stream);
            }
            is_there
        });
    }

    /// False if the consumer is gone.
    fn forward(&self, forwarder: &mut StreamForwarder) -> bool {
        let mut relay = self.relay.borrow_mut();
        loop {
            let permit = match forwarder.sender.try_reserve() {
                Ok(permit) => permit,
                Err(TrySendError::Full(())) => return true,
                Err(TrySendError::Closed(())) => return false,
            };
            if let Some((seq, event)) = relay.poll_stream(forwarder.stream) {
                forwarder.sent = forwarder.sent.max(seq.unwrap_or_default());
                permit.send(Item::Event(seq, event));
                continue;
            }
            match relay.stream_missed(forwarder.stream) {
                0 => {}
                missed => {
                    permit.send(Item::Missed(missed));
                    continue;
                }
            }
            let position = relay.stream_position(forwarder.stream).unwrap_or_default();
            if position.0 >= forwarder.sent.0 + UNMATCHED_MAX {
                forwarder.sent = position;
                permit.send(Item::Position(position));
            }
            return true;
        }
    }
}
