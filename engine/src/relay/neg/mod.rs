//! Set reconciliation (NIP-77): NEG-OPEN, NEG-MSG and NEG-CLOSE as they come, and the reconciliations of connections.
//!
//! A NEG-OPEN is admitted as a REQ is: by its rate, NIP-42 and the read guard. Then a query ([`collect`]) collects the set of
//! its filter, or takes one that is kept ([`sets`]), and answers the client's first message; each NEG-MSG is a query that
//! answers one message. The set is a snapshot, shared by all reconciliations that have the same. Of many events no set is collected, if the
//! store keeps sums of them ([`summed`]). What an answer costs is charged in turns before it is sent ([`super::scheduler`]).
//!
//! Reconciliations are in memory only. After a host has lost its memory, a NEG-MSG is answered `NEG-ERR closed:`, and the
//! client opens the reconciliation again: with its next message, if it likes, because the relay keeps nothing of earlier ones.

mod collect;
mod holdings;
mod prepared;
mod sets;
mod summed;

use std::sync::Arc;

use super::ids::ConnId;
use super::queries::{FairnessKey, Query};
use super::query_memory::Reservation;
use super::values::{FilterUsage, Purpose};
use super::{Relay, messages};
use crate::reconcile::{EventSet, LOOKUPS_MAX, SortedSet};
use crate::store::{Backend, cursor_bytes_max};
use crate::types::{Filter, Now, SubId};

pub(super) use collect::NegQuery;
pub(super) use holdings::Holdings;
pub(super) use prepared::Preparation;
pub(super) use sets::{SetCache, SetUse};

/// Largest answer of the Negentropy protocol, in bytes before it is written in hex, to a client that reads what it is sent: half
/// of what strfry answers with. Larger answers mean fewer rounds.
const ANSWER_BYTES_MAX: usize = 250_000;
/// The same where much waits for other clients: what clients of NIP-77 send, so that a message is less than 128 KiB.
const ANSWER_BYTES_MIN: usize = 60_000;
/// Milliseconds without a message after which a reconciliation may be closed, if memory is needed.
const IDLE_MS: u64 = 60_000;
/// Idle reconciliations that are closed at a time: many may share a set, which is freed with the last of them.
const IDLE_CLOSED_MAX: usize = 64;

/// A reconciliation of a connection.
pub(super) struct Reconciliation {
    /// Tells it from others that had its id.
    serial: u64,
    /// What is reconciled, while it is being collected.
    filters: Option<Arc<[Filter]>>,
    /// What it is about, as long as it has no set.
    key: Option<Arc<sets::SetKey>>,
    /// The relay's events, once they have been collected; until then messages are answered from the store's sums.
    set: Option<Arc<dyn EventSet + Send + Sync>>,
    /// Look-ups for whose ranges a message is answered from sums at once.
    lookups_max: usize,
    /// A message of the client has not been answered.
    waits: bool,
    last_used: Now,
}

impl Reconciliation {
    /// Whether a message of the client has not been answered.
    pub(super) fn waits(&self) -> bool {
        self.waits
    }
}

impl<B: Backend> Relay<B> {
    pub(super) fn handle_neg_open(
        &mut self,
        now: Now,
        conn: ConnId,
        id: SubId,
        filter: Filter,
        message: Box<[u8]>,
    ) {
        self.metrics.messages_neg_open += 1;
        // NIP-77: the one of this id is closed first.
        self.end_reconciliation(conn, &id);
        let filters: Arc<[Filter]> = [filter].into();
        if let Err(reason) = self.admit_reconciliation(now, conn, &filters, message.len()) {
            return self.send_neg_err(conn, id.as_str(), &reason);
        }
        let after = match self.last_seq() {
            Ok(last) => last,
            Err(error) => {
                let message = self.record_store_error(&error);
                return self.send_neg_err(conn, id.as_str(), message);
            }
        };
        let Some(session) = self.sessions.get_mut(conn) else { return };
        let keys = session.auth.keys();
        let key = sets::SetKey::new(&filters[0], &self.config.policy.guarded_kinds, keys);
        self.neg_serial += 1;
        let serial = self.neg_serial;
        let reconciliation = Reconciliation {
            serial,
            filters: Some(Arc::clone(&filters)),
            key: Some(Arc::clone(&key)),
            set: None,
            lookups_max: LOOKUPS_MAX,
            waits: true,
            last_used: now,
        };
        session.reconciliations.insert(id.clone(), reconciliation);
        self.metrics.reconciliations += 1;
        self.values.add(conn, Purpose::OneTime, &filters, &self.config.limits);
        self.update_gauges();
        let reservation = Reservation::of(cursor_bytes_max(&filters, self.store.classes()));
        let message = self.neg_sets.keep_message(message);
        let query = NegQuery::opening(conn, id, serial, message, reservation, key, after, LOOKUPS_MAX, now);
        self.prepared.record_use(now);
        self.start(Query::Neg(Box::new(query)));
    }

    fn admit_reconciliation(
        &mut self,
        now: Now,
        conn: ConnId,
        filters: &[Filter],
        message_bytes: usize,
    ) -> Result<(), String> {
        self.admit_request(now, conn, filters)?;
        let open = self.sessions.get(conn).map_or(0, |session| session.reconciliations.len());
        if open >= self.config.limits.neg_sessions_max {
            return Err(messages::too_many_reconciliations(open));
        }
        self.admit_values(conn, Purpose::OneTime, filters, FilterUsage::default())?;
        self.free_set_memory(now, message_bytes, None).then_some(()).ok_or_else(|| messages::too_busy(0))
    }

    pub(super) fn handle_neg_msg(&mut self, now: Now, conn: ConnId, id: SubId, message: Box<[u8]>) {
        self.metrics.messages_neg_msg += 1;
        let Some(session) = self.sessions.get_mut(conn) else { return };
        let Some(reconciliation) = session.reconciliations.get_mut(&id) else {
            return self.send_neg_err(conn, id.as_str(), messages::NO_SUCH_RECONCILIATION);
        };
        if reconciliation.waits {
            return self.fail_reconciliation(conn, &id, messages::NOT_ANSWERED_YET, None);
        }
        reconciliation.waits = true;
        let (serial, lookups_max) = (reconciliation.serial, reconciliation.lookups_max);
        self.neg_holdings.end_idle(reconciliation.last_used, serial);
        let message = self.neg_sets.keep_message(message);
        let query = match (&reconciliation.set, &reconciliation.filters, &reconciliation.key) {
            (None, Some(filters), Some(key)) => {
                // From sums, as before; or else it is collected now.
                let reservation = Reservation::of(cursor_bytes_max(filters, self.store.classes()));
                let key = Arc::clone(key);
                let after = match self.last_seq() {
                    Ok(last) => last,
                    Err(error) => {
                        let message = self.record_store_error(&error);
                        return self.fail_reconciliation(conn, &id, message, None);
                    }
                };
                NegQuery::opening(conn, id, serial, message, reservation, key, after, lookups_max, now)
            }
            _ => NegQuery::answering(conn, id, serial, message),
        };
        self.start(Query::Neg(Box::new(query)));
    }

    pub(super) fn handle_neg_close(&mut self, conn: ConnId, id: &SubId) {
        self.metrics.messages_neg_close += 1;
        self.end_reconciliation(conn, id);
    }

    /// Ends a reconciliation if there is one of this id; its queries find it gone.
    pub(super) fn end_reconciliation(&mut self, conn: ConnId, id: &SubId) {
        let Some(session) = self.sessions.get_mut(conn) else { return };
        let key = FairnessKey::of(conn, session.address);
        let Some(mut ended) = session.reconciliations.remove(id) else { return };
        self.release_reconciliation(key, &ended);
        // Its set is freed before the gauges are updated.
        ended.set = None;
        self.release_filters(conn, &mut ended);
    }

    /// A reconciliation of an address is gone.
    pub(super) fn release_reconciliation(&mut self, key: FairnessKey, ended: &Reconciliation) {
        self.metrics.reconciliations -= 1;
        if !ended.waits {
            self.neg_holdings.end_idle(ended.last_used, ended.serial);
        }
        if let Some(set) = &ended.set {
            self.neg_holdings.remove(key, address_of(set));
        }
    }

    /// Releases the filters of a reconciliation, which are needed no longer.
    fn release_filters(&mut self, conn: ConnId, reconciliation: &mut Reconciliation) {
        if let Some(filters) = reconciliation.filters.take() {
            self.values.remove(conn, Purpose::OneTime, &filters, &self.config.limits);
        }
        self.update_gauges();
    }

    /// Ends a reconciliation with a NEG-ERR.
    fn fail_reconciliation(&mut self, conn: ConnId, id: &SubId, reason: &str, events_max: Option<usize>) {
        self.end_reconciliation(conn, id);
        self.send_neg_err_with(conn, id.as_str(), reason, events_max);
    }

    /// Whether `more` bytes fit into the memory of sets. What is kept and not in use goes first, then the reconciliations
    /// that have been idle the longest, if that is a while: some of them.
    fn free_set_memory(&mut self, now: Now, more: usize, except: Option<u64>) -> bool {
        let max = self.config.limits.neg_sets_bytes_max;
        let mut fits = self.neg_sets.free(more, max, except);
        for _ in 0..IDLE_CLOSED_MAX {
            if fits {
                break;
            }
            let Some((conn, id)) = self.neg_holdings.longest_idle(now, IDLE_MS) else { break };
            self.fail_reconciliation(conn, &id, messages::RECONCILIATION_IDLE, None);
            fits = self.neg_sets.free(more, max, except);
        }
        self.metrics.reconciliation_bytes = self.neg_sets.bytes() as u64;
        fits
    }

    /// Whether an address may hold this set too. Where sets take more than half of their memory, one address has half of that, or
    /// one set.
    fn may_hold_set(&mut self, conn: ConnId, set: &Arc<SortedSet>) -> bool {
        let max = self.config.limits.neg_sets_bytes_max;
        if self.neg_sets.bytes() <= max / 2 {
            return true;
        }
        let Some(session) = self.sessions.get(conn) else { return false };
        let key = FairnessKey::of(conn, session.address);
        self.neg_holdings.may_add(key, address_of(set), set.bytes(), max / 4)
    }
}

/// Tells a set from others for as long as it is held.
fn address_of<T: ?Sized>(set: &Arc<T>) -> usize {
    Arc::as_ptr(set).cast::<()>().addr()
}
