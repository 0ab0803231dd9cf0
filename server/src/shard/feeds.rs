//! Streams on their way to their consumers, and the host's own events on their way in.

use std::cell::RefCell;
use std::collections::HashMap;

use relay_engine::relay::{PublishOutcome, StreamId, Ticket};
use relay_engine::store::{Backend, Seq, StoreError};
use relay_engine::types::{Event, Filter, Now};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::Shard;
use crate::beside::{Item, UNMATCHED_MAX};

/// The streams of consumers, and the tasks that wait for the outcome of an event.
#[derive(Default)]
pub(super) struct Feeds {
    streams: RefCell<Vec<Feed>>,
    published: RefCell<HashMap<Ticket, oneshot::Sender<PublishOutcome>>>,
}

struct Feed {
    stream: StreamId,
    sender: mpsc::Sender<Item>,
    /// The last sequence number that the consumer has been sent.
    sent: Seq,
}

impl<B: Backend> Shard<B> {
    pub(super) fn publish(&self, now: Now, event: &Event, sender: oneshot::Sender<PublishOutcome>) {
        let ticket = self.relay.borrow_mut().publish(now, event);
        self.feeds.published.borrow_mut().insert(ticket, sender);
    }

    pub(super) fn tell_publisher(&self, ticket: Ticket, outcome: PublishOutcome) {
        if let Some(sender) = self.feeds.published.borrow_mut().remove(&ticket) {
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
        self.feeds.streams.borrow_mut().push(Feed { stream, sender, sent: after.unwrap_or_default() });
        Ok(())
    }

    /// Hands consumers as much as they can take, and ends the streams of those that are gone.
    pub(super) fn feed_streams(&self) {
        self.feeds.streams.borrow_mut().retain_mut(|feed| {
            let is_there = self.feed(feed);
            if !is_there {
                self.relay.borrow_mut().close_stream(feed.stream);
            }
            is_there
        });
    }

    /// False if the consumer is gone.
    fn feed(&self, feed: &mut Feed) -> bool {
        let mut relay = self.relay.borrow_mut();
        loop {
            let place = match feed.sender.try_reserve() {
                Ok(place) => place,
                Err(TrySendError::Full(())) => return true,
                Err(TrySendError::Closed(())) => return false,
            };
            if let Some((seq, event)) = relay.poll_stream(feed.stream) {
                feed.sent = feed.sent.max(seq.unwrap_or_default());
                place.send(Item::Event(seq, event));
                continue;
            }
            match relay.stream_missed(feed.stream) {
                0 => {}
                missed => {
                    place.send(Item::Missed(missed));
                    continue;
                }
            }
            let position = relay.stream_position(feed.stream).unwrap_or_default();
            if position.0 >= feed.sent.0 + UNMATCHED_MAX {
                feed.sent = position;
                place.send(Item::Position(position));
            }
            return true;
        }
    }
}
