//! The query of a NEG-OPEN or a NEG-MSG: its steps collect the set, answer the client's message, and charge the cost of the
//! answer.

use std::sync::Arc;

use super::sets::{Collected, Failure, KeptMessage, SetKey, SetRequest, SetUse};
use super::summed::{Summed, SumsQuery};
use super::{ANSWER_BYTES_MAX, ANSWER_BYTES_MIN, Reconciliation};
use crate::reconcile::{AnswerError, EventSet, LOOKUPS_MAX, answer};
use crate::relay::ids::ConnId;
use crate::relay::queries::{FairnessKey, Query, StepResult};
use crate::relay::query_memory::Reservation;
use crate::relay::{Relay, messages};
use crate::store::{Backend, Seq};
use crate::types::{Now, SubId};

/// How long to wait for the report of a commit that was made before a NEG-OPEN came: so many turns, and so many
/// milliseconds. It takes some microseconds, unless another process has made the commit.
const WAIT_TURNS: u32 = 100;
const WAIT_MS: u64 = 100;
/// The wait ends after so many turns in any case.
const WAIT_TURNS_MAX: u32 = 10_000;

/// An answer of NIP-77 that is being worked out.
pub(in crate::relay) struct NegQuery {
    pub(in crate::relay) conn: ConnId,
    id: SubId,
    serial: u64,
    message: KeptMessage,
    /// The message's answer from the store's sums, if it may be answered from these.
    sums: Option<SumsQuery>,
    /// It is not answered from sums.
    is_collected: bool,
    /// The set to collect; `None` if the reconciliation has it.
    opening: Option<Opening>,
    /// The answer, or why there is none, and its cost that has not been charged yet.
    answered: Option<(Result<Vec<u8>, AnswerError>, usize)>,
    pub(in crate::relay) has_started: bool,
    pub(in crate::relay) reservation: Reservation,
    /// Bytes of the cursors of its scan.
    pub(in crate::relay) cursor_bytes: usize,
}

/// A set that is being collected.
struct Opening {
    key: Arc<SetKey>,
    set: Option<SetUse>,
    /// The last sequence number when the NEG-OPEN came.
    after: Seq,
    asked_at: Now,
    turns_waited: u32,
    timed_out: bool,
}

impl NegQuery {
    /// Of a NEG-OPEN, or of a NEG-MSG of a reconciliation that has no set.
    #[expect(clippy::too_many_arguments, reason = "each is a part of the query")]
    pub(super) fn opening(
        conn: ConnId,
        id: SubId,
        serial: u64,
        message: KeptMessage,
        reservation: Reservation,
        key: Arc<SetKey>,
        after: Seq,
        lookups_max: usize,
        asked_at: Now,
    ) -> Self {
        let sums = Some(SumsQuery::new(Arc::clone(&key), lookups_max));
        let opening = Opening { key, set: None, after, asked_at, turns_waited: 0, timed_out: false };
        NegQuery {
            sums,
            opening: Some(opening),
            reservation,
            ..NegQuery::answering(conn, id, serial, message)
        }
    }

    /// Of a NEG-MSG.
    pub(super) fn answering(conn: ConnId, id: SubId, serial: u64, message: KeptMessage) -> Self {
        let reservation = Reservation::of(0);
        let (opening, answered) = (None, None);
        NegQuery {
            conn,
            id,
            serial,
            message,
            sums: None,
            is_collected: false,
            opening,
            answered,
            has_started: false,
            reservation,
            cursor_bytes: 0,
        }
    }
}

impl Opening {
    /// Whether to wait for a commit no longer.
    fn times_out(&mut self, now: Now) -> bool {
        self.turns_waited += 1;
        let is_late = self.turns_waited > WAIT_TURNS && now.millis_since(self.asked_at) > WAIT_MS;
        is_late || self.turns_waited > WAIT_TURNS_MAX
    }
}

impl<B: Backend> Relay<B> {
    pub(in crate::relay) fn step_neg(
        &mut self,
        now: Now,
        mut query: Box<NegQuery>,
        budget: &mut usize,
    ) -> StepResult {
        let Some(session) = self.sessions.get_mut(query.conn) else { return StepResult::Done };
        if session.is_slow(self.queued_output, &self.config.limits) {
            self.release_neg_cursors(&mut query);
            return StepResult::Pause(query.conn, Query::Neg(query));
        }
        let found = session.reconciliations.get(&query.id).filter(|one| one.serial == query.serial);
        // Closed, or opened anew.
        let Some(reconciliation) = found else { return StepResult::Done };
        let held = reconciliation.set.as_ref().map(Arc::clone);
        let bytes_max = self.outbox_pause_bytes().clamp(ANSWER_BYTES_MIN, ANSWER_BYTES_MAX);
        let may_be_summed = query.answered.is_none() && held.is_none() && !query.is_collected;
        if let Some(sums) = &mut query.sums {
            // What earlier steps have cost above their budgets comes first.
            let paid = sums.debt.min(*budget);
            (sums.debt, *budget) = (sums.debt - paid, *budget - paid);
            if *budget == 0 {
                return StepResult::Again(Query::Neg(query));
            }
        }
        if let Some(sums) = query.sums.as_mut().filter(|_| may_be_summed) {
            match self.answer_from_sums(now, sums, query.message.bytes(), bytes_max, budget) {
                Ok(Summed::Again) => return StepResult::Again(Query::Neg(query)),
                Ok(Summed::Later(at)) => return StepResult::Later(at, Query::Neg(query)),
                Ok(Summed::Answered(answer)) => {
                    let cost = answer.cost + std::mem::take(&mut sums.debt);
                    query.answered = Some((answer.message, cost));
                }
                Ok(Summed::Collect) => query.is_collected = true,
                Err(error) => {
                    let message = self.record_store_error(&error);
                    self.fail_reconciliation(query.conn, &query.id, message, None);
                    return StepResult::Done;
                }
            }
        }
        if query.answered.is_none() {
            let set = match held {
                Some(set) => set,
                None => match self.collect(now, &mut query, budget) {
                    Some(set) => set,
                    None if self.is_reconciling(&query) => return StepResult::Again(Query::Neg(query)),
                    None => return StepResult::Done,
                },
            };
            let answer = answer(&*set, query.message.bytes(), bytes_max);
            query.answered = Some((answer.message, answer.cost));
        }
        if let Some((_, cost_left)) = &mut query.answered {
            let charged = (*cost_left).min(*budget);
            (*cost_left, *budget) = (*cost_left - charged, *budget - charged);
            if *cost_left > 0 {
                return StepResult::Again(Query::Neg(query));
            }
        }
        let Some((answered, _)) = query.answered else { return StepResult::Done };
        let message = match answered {
            Ok(message) => message,
            Err(error) => {
                let message = match &error {
                    AnswerError::Malformed => messages::MALFORMED_NEGENTROPY,
                    AnswerError::TooMuch => messages::TOO_MANY_RANGES,
                    AnswerError::Store(error) => self.record_store_error(error),
                };
                self.fail_reconciliation(query.conn, &query.id, message, None);
                return StepResult::Done;
            }
        };
        let lookups_max = query.sums.as_ref().map(|sums| sums.lookups_max);
        if let Some(reconciliation) = self.reconciliation_mut(query.conn, &query.id) {
            reconciliation.waits = false;
            reconciliation.last_used = now;
            if let Some(lookups_max) = lookups_max {
                // The next message may need less.
                reconciliation.lookups_max = (4 * lookups_max).min(LOOKUPS_MAX);
            }
            // Without a set it holds no memory that could be needed.
            if reconciliation.set.is_some() {
                self.neg_holdings.begin_idle(now, query.serial, query.conn, &query.id);
            }
        }
        self.send_neg_msg(query.conn, &query.id, &message);
        StepResult::Done
    }

    fn reconciliation_mut(&mut self, conn: ConnId, id: &SubId) -> Option<&mut Reconciliation> {
        self.sessions.get_mut(conn)?.reconciliations.get_mut(id)
    }

    fn is_reconciling(&mut self, query: &NegQuery) -> bool {
        self.reconciliation_mut(query.conn, &query.id).is_some_and(|one| one.serial == query.serial)
    }

    /// Goes on collecting the set of a reconciliation, and gives it that once it is there. `None` if there is more to do, or if
    /// the reconciliation has ended with a NEG-ERR.
    fn collect(
        &mut self,
        now: Now,
        query: &mut NegQuery,
        budget: &mut usize,
    ) -> Option<Arc<dyn EventSet + Send + Sync>> {
        let Opening { key, set, after, timed_out, .. } = query.opening.as_mut()?;
        let config = Arc::clone(&self.config);
        let limits = &config.limits;
        if set.is_none() {
            match self.neg_sets.get_or_start(&self.store, key, *after, *timed_out, now, limits) {
                Ok(opened) => *set = Some(opened),
                Err(error) => {
                    let message = self.record_store_error(&error);
                    self.fail_reconciliation(query.conn, &query.id, message, None);
                    return None;
                }
            }
        }
        let held = set.as_ref()?;
        let request = SetRequest::new(*after, *timed_out, &config.policy.guarded_kinds, limits);
        let collected = self.neg_sets.step(&self.store, held, now.seconds(), budget, request);
        if let Some(Collected::Failed(Failure::Store(error))) = &collected {
            self.record_store_error(error);
        }
        query.cursor_bytes = self.neg_sets.cursor_bytes(held);
        let id = held.id();
        if !self.free_set_memory(now, 0, Some(id)) {
            // Other queries that wait for this set start it again, if there is room then.
            self.neg_sets.forget(held);
            self.fail_reconciliation(query.conn, &query.id, &messages::too_busy(0), None);
            return None;
        }
        match collected {
            // Dropped: it is opened again.
            None => query.opening.as_mut()?.set = None,
            Some(Collected::More) => {}
            Some(Collected::CommitPending) => {
                let opening = query.opening.as_mut()?;
                if opening.times_out(now) {
                    opening.timed_out = true;
                    // Its scan must be no older than the NEG-OPEN, and what others keep cannot be brought up to date.
                    self.neg_sets.forget(opening.set.as_ref()?);
                    opening.set = None;
                }
            }
            Some(Collected::Set(set)) => {
                query.opening = None;
                if !self.may_hold_set(query.conn, &set) {
                    self.fail_reconciliation(query.conn, &query.id, &messages::too_busy(0), None);
                    return None;
                }
                let session = self.sessions.get_mut(query.conn)?;
                let key = FairnessKey::of(query.conn, session.address);
                let mut reconciliation = session.reconciliations.remove(&query.id)?;
                self.release_filters(query.conn, &mut reconciliation);
                reconciliation.key = None;
                self.neg_holdings.add(key, super::address_of(&set), set.bytes());
                let set: Arc<dyn EventSet + Send + Sync> = set;
                reconciliation.set = Some(Arc::clone(&set));
                let session = self.sessions.get_mut(query.conn)?;
                session.reconciliations.insert(query.id.clone(), reconciliation);
                return Some(set);
            }
            Some(Collected::Failed(Failure::Withheld) | Collected::FailedBefore(Failure::Withheld)) => {
                let reason = self.withheld_message(query.conn);
                self.fail_reconciliation(query.conn, &query.id, reason, None);
            }
            Some(Collected::Failed(failure) | Collected::FailedBefore(failure)) => {
                let events_max = matches!(failure, Failure::TooMany).then_some(limits.neg_set_events_max);
                self.fail_reconciliation(query.conn, &query.id, &failure.message(limits), events_max);
            }
        }
        None
    }

    /// Drops the cursors of a query's scan, which is opened again where it stands.
    pub(in crate::relay) fn release_neg_cursors(&mut self, query: &mut NegQuery) {
        if let Some(set) = query.opening.as_ref().and_then(|opening| opening.set.as_ref()) {
            self.neg_sets.release_cursors(set);
        }
        query.cursor_bytes = 0;
    }
}
