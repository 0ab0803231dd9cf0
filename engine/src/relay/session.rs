//! One connection's state, and the table of connections.

use std::collections::{BTreeMap, VecDeque};

use super::ids::ConnId;
use super::neg::Reconciliation;
use super::outbox::Outbox;
use super::queries::{QUERIES_WAITING_MAX, Query};
use super::queued_output::QueuedOutput;
use super::subscriptions::SubKey;
use crate::policy::{Auth, Bucket};
use crate::types::{ClientAddress, Limits, Now, SubId};
use crate::wire::WireError;

/// Why and how a connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// WebSocket close code (RFC 6455).
    pub code: u16,
    /// Words for the close frame, at most 123 bytes.
    pub reason: String,
}

/// Deferred messages of one connection may take a fourth of the bytes that are left for those of all.
const DEFERRED_SHARE: u64 = 4;

/// A message that waits for earlier ones to take effect.
pub(super) enum Deferred {
    /// As it came. An EVENT waits for requests only: it may share the batch of the events before it.
    Text { text: Box<[u8]>, is_event: bool },
    /// One that was too long to be kept.
    Malformed(WireError),
}

impl Deferred {
    fn bytes(&self) -> usize {
        match self {
            Deferred::Text { text, .. } => text.len(),
            Deferred::Malformed(error) => error.reply_to.id().map_or(0, str::len),
        }
    }

    /// Whether events before it must have been answered.
    pub(super) fn waits_for_events(&self) -> bool {
        matches!(self, Deferred::Text { is_event: false, .. })
    }
}

pub(super) struct Session {
    pub(super) address: Option<ClientAddress>,
    pub(super) auth: Auth,
    /// By the id that the client chose: ordered, so that no choice of ids makes a look-up expensive.
    pub(super) subs: BTreeMap<SubId, SubKey>,
    pub(super) outbox: Outbox,
    /// Bytes of its output that are counted in the shard's total.
    pub(super) counted_output_bytes: usize,
    /// Bytes that have left the outbox and that the host still holds; see [`super::Relay::handle_backlog`].
    pub(super) backlog_bytes: usize,
    /// Messages that wait for earlier events to take effect.
    pub(super) deferred: VecDeque<Deferred>,
    /// Bytes of those messages.
    pub(super) deferred_bytes: usize,
    /// Events received and not yet answered.
    pub(super) in_flight: usize,
    /// Bytes of those events.
    pub(super) in_flight_bytes: usize,
    /// Queries that wait for the outbox to empty.
    pub(super) paused: Vec<Query>,
    /// Its lagging subscriptions that its replay does not have yet.
    pub(super) lagging: VecDeque<SubKey>,
    /// It has a replay: as long as subscriptions are lagging.
    pub(super) is_replaying: bool,
    /// Requests whose first step has not been taken.
    pub(super) not_started: usize,
    /// Its queries that wait for their turn.
    pub(super) queries_waiting: usize,
    /// COUNTs that have not been answered.
    pub(super) counts: usize,
    /// Its reconciliations (NIP-77), by the id that the client chose.
    pub(super) reconciliations: BTreeMap<SubId, Reconciliation>,
    /// Bytes of the ephemeral events that its subscriptions hold until their EOSE: as good as in the outbox.
    pub(super) pending_ephemeral_bytes: usize,
    /// Ephemeral events that were not sent because the client read too slowly, not yet reported to it.
    pub(super) ephemeral_missed: u64,
    pub(super) malformed_messages: u32,
    pub(super) event_rate: Bucket,
    pub(super) request_rate: Bucket,
    pub(super) input_paused: bool,
    /// It is on the list of those that read on when events in flight have become fewer.
    pub(super) waits_for_ingest: bool,
    pub(super) in_ready: bool,
    pub(super) closing: bool,
    /// It is on the list of those whose snapshot is not what it was.
    pub(super) changed: bool,
}

impl Session {
    pub(super) fn new(now: Now, auth: Auth, limits: &Limits) -> Self {
        Session {
            address: None,
            auth,
            subs: BTreeMap::new(),
            outbox: Outbox::default(),
            counted_output_bytes: 0,
            backlog_bytes: 0,
            deferred: VecDeque::new(),
            deferred_bytes: 0,
            in_flight: 0,
            in_flight_bytes: 0,
            paused: Vec::new(),
            lagging: VecDeque::new(),
            is_replaying: false,
            not_started: 0,
            queries_waiting: 0,
            counts: 0,
            reconciliations: BTreeMap::new(),
            pending_ephemeral_bytes: 0,
            ephemeral_missed: 0,
            malformed_messages: 0,
            event_rate: Bucket::full(limits.events_per_minute_max, now),
            request_rate: Bucket::full(limits.requests_per_minute_max, now),
            input_paused: false,
            waits_for_ingest: false,
            in_ready: false,
            closing: false,
            changed: false,
        }
    }

    /// Keeps a message, counted in the `total` bytes of all connections.
    pub(super) fn defer(&mut self, message: Deferred, total: &mut u64) {
        self.deferred_bytes += message.bytes();
        *total += message.bytes() as u64;
        self.deferred.push_back(message);
    }

    /// The message that has waited longest.
    pub(super) fn take_deferred(&mut self, total: &mut u64) -> Option<Deferred> {
        let message = self.deferred.pop_front()?;
        self.deferred_bytes -= message.bytes();
        *total -= message.bytes() as u64;
        Some(message)
    }

    /// Whether to read on, if the deferred messages of all connections have `deferred_bytes`. A reason not to is
    /// always something of its own that has yet to be done.
    pub(super) fn takes_input(
        &self,
        queued_output: QueuedOutput,
        deferred_bytes: u64,
        limits: &Limits,
    ) -> bool {
        let share = (limits.deferred_bytes_max as u64).saturating_sub(deferred_bytes) / DEFERRED_SHARE;
        let has_none = self.deferred.is_empty() && self.not_started == 0;
        !self.closing
            && self.deferred.len() < limits.deferred_messages_max
            && self.deferred_bytes < limits.message_bytes_max
            && (has_none || (self.deferred_bytes as u64) < share)
            && self.queries_waiting < QUERIES_WAITING_MAX
            && self.queued_bytes() < queued_output.pause_threshold(limits)
    }

    /// Whether stored and live events must wait for the reader. `queued_output`: that of all connections.
    pub(super) fn is_slow(&self, queued_output: QueuedOutput, limits: &Limits) -> bool {
        self.queued_bytes() >= queued_output.pause_threshold(limits)
    }

    /// Makes `queued_output` count this session's output as it is now.
    pub(super) fn update_queued_total(&mut self, queued_output: &mut QueuedOutput) {
        let bytes = self.queued_bytes() + self.pending_ephemeral_bytes;
        queued_output.change(self.counted_output_bytes, bytes);
        self.counted_output_bytes = bytes;
    }

    /// Output that has not gone out to the reader, wherever it is.
    pub(super) fn queued_bytes(&self) -> usize {
        self.outbox.bytes() + self.backlog_bytes
    }
}

/// Connections by number. A slot is reused under a new generation.
#[derive(Default)]
pub(super) struct Sessions {
    slots: Vec<(u32, Option<Box<Session>>)>,
    free: Vec<u32>,
}

impl Sessions {
    pub(super) fn insert(&mut self, session: Session) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        let (generation, session_slot) = &mut self.slots[slot as usize];
        let conn = ConnId(u64::from(*generation) << 32 | u64::from(slot));
        *session_slot = Some(Box::new(session));
        conn
    }

    pub(super) fn remove(&mut self, conn: ConnId) -> Option<Box<Session>> {
        let slot = conn.0 as u32;
        let (generation, session_slot) = self.slots.get_mut(slot as usize)?;
        if u64::from(*generation) != conn.0 >> 32 {
            return None;
        }
        let session = session_slot.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(slot);
        Some(session)
    }

    pub(super) fn get(&self, conn: ConnId) -> Option<&Session> {
        let (generation, session) = self.slots.get(conn.0 as u32 as usize)?;
        if u64::from(*generation) != conn.0 >> 32 {
            return None;
        }
        session.as_deref()
    }

    pub(super) fn get_mut(&mut self, conn: ConnId) -> Option<&mut Session> {
        let (generation, session) = self.slots.get_mut(conn.0 as u32 as usize)?;
        if u64::from(*generation) != conn.0 >> 32 {
            return None;
        }
        session.as_deref_mut()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_slot_is_another_connection() {
        let limits = Limits::default();
        let mut sessions = Sessions::default();
        let open = |sessions: &mut Sessions| {
            sessions.insert(Session::new(Now::default(), Auth::new(None, None), &limits))
        };
        let first = open(&mut sessions);
        assert!(sessions.remove(first).is_some());
        let second = open(&mut sessions);
        assert_ne!(first, second);
        assert!(sessions.get_mut(first).is_none() && sessions.remove(first).is_none());
        assert!(sessions.get_mut(second).is_some());
        assert_eq!(sessions.len(), 1);
    }
}
