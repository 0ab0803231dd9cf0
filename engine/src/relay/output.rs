//! What a machine wants of its host, in one order, and the loop of a host with one shard and one thread.

use super::ids::{ConnId, Ticket};
use super::publish::PublishOutcome;
use super::session::Close;
use super::{Commit, Committed, LiveEvent, Relay, VerifyBatch, commit};
use crate::store::{Backend, StoreError, remove_pending};
use crate::types::Now;

/// What a machine wants its host to do.
#[derive(Debug)]
pub enum Output {
    /// Check these events, on any thread, and hand the verdicts to [`Relay::handle_verified`].
    Verify(VerifyBatch),
    /// Make these changes durable by [`commit()`], on any thread; hand its reply to [`Relay::handle_committed`], then
    /// what is live to every shard's [`Relay::handle_live`].
    Commit(Commit),
    /// Hand this ephemeral event to the other shards' [`Relay::handle_live`].
    Forward(LiveEvent),
    /// [`Relay::drain`] this connection once its socket can take more.
    Ready(ConnId),
    /// Close this connection once everything that [`Relay::drain`] has for it is out.
    Close(ConnId, Close),
    /// Read on from this connection; [`Relay::wants_input`] had said no.
    Resume(ConnId),
    /// The outcome of an event that the host published.
    Published(Ticket, PublishOutcome),
    /// The store has failed, and the clients have been answered. Of failed reads only the first since the last call, and the
    /// metrics have their number; of failed commits only [`Relay::run`] returns this.
    StoreFailed(StoreError),
}

impl<B: Backend> Relay<B> {
    /// What is to be done next, most urgent first, in the order of [`Output`]'s variants. Call it after
    /// every `handle_*` and [`Relay::work`] until there is nothing. `idle`: the host has no more input at hand, so
    /// a batch that is not full need not wait for more events.
    ///
    /// Each of them has a method of its own ([`Relay::poll_verify`] and so on) for hosts with another order.
    /// Streams are polled when their consumers can take more ([`Relay::poll_stream`]), snapshots by hosts that keep them
    /// ([`Relay::poll_changed`]), and [`Relay::poll_timeout`] says when to call [`Relay::handle_timeout`].
    pub fn poll_output(&mut self, now: Now, idle: bool) -> Option<Output> {
        if let Some(batch) = self.poll_verify(now, idle) {
            return Some(Output::Verify(batch));
        }
        if let Some(changes) = self.poll_commit() {
            return Some(Output::Commit(changes));
        }
        if let Some(live) = self.poll_forwarded() {
            return Some(Output::Forward(live));
        }
        if let Some(conn) = self.poll_ready() {
            return Some(Output::Ready(conn));
        }
        if let Some((conn, close)) = self.poll_close() {
            return Some(Output::Close(conn, close));
        }
        if let Some(conn) = self.poll_input_resumed() {
            return Some(Output::Resume(conn));
        }
        if let Some((ticket, outcome)) = self.poll_published() {
            return Some(Output::Published(ticket, outcome));
        }
        self.poll_store_error().map(Output::StoreFailed)
    }

    /// The loop of a host with one shard and one thread: verifies, commits and answers until nothing is left or
    /// `steps_max` steps of requests have been taken, takes a step towards removing what is pending removal in the store
    /// ([`remove_pending`]), and hands everything else to `host`. True if requests have more steps to take, or something
    /// is still to be removed.
    pub fn run(&mut self, now: Now, steps_max: usize, host: &mut dyn FnMut(&mut Self, Output)) -> bool {
        for step in 0.. {
            while let Some(output) = self.poll_output(now, true) {
                match output {
                    Output::Verify(batch) => {
                        let checked = batch.verify(&*self.verifier);
                        self.handle_verified(now, checked);
                    }
                    Output::Commit(changes) => {
                        let Committed { replies, live, error } = commit(&self.store, now, vec![changes]);
                        for reply in replies {
                            self.handle_committed(now, reply);
                        }
                        self.handle_live(now, &live);
                        if let Some(error) = error {
                            host(self, Output::StoreFailed(error));
                        }
                    }
                    // There are no other shards.
                    Output::Forward(_) => {}
                    output => host(self, output),
                }
            }
            if !self.has_work() || step == steps_max {
                break;
            }
            self.work(now);
        }
        let removes_more = match remove_pending(&self.store) {
            Ok(removed) => removed.more,
            Err(error) => {
                host(self, Output::StoreFailed(error));
                false
            }
        };
        self.has_work() || removes_more
    }
}
