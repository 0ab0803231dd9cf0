//! The states that a job passes through.
//!
//! ```text
//! received -> rejected
//!          -> awaiting_payment -> as below, when it is paid
//!          -> waiting_input -> queued -> running -> responding -> done
//!          -> queued                     |    ^           |
//!                                        v    | retry     v
//!                                      failed queued    failed    (the relay refuses the result)
//!
//! running -> withheld -> responding    (its result is there, and is published when it is paid)
//!               |------> unpaid
//! ```
//!
//! An encrypted request that a remote signer has to decrypt is `waiting_input` before it is known what it costs.
//! Whatever is not finished and has no result yet can be cancelled or expire. A job whose process died while it ran is queued
//! again. From `responding` on nothing starts work: its result is signed and stored, and only has to be published.

use serde::{Deserialize, Serialize};

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It has been read, and nothing is decided.
    Received,
    /// It begins when it is paid.
    AwaitingPayment,
    /// An input has to be fetched or is awaited.
    WaitingInput,
    /// It waits for its turn, or for its next attempt.
    Queued,
    /// An executor works on it.
    Running,
    /// Its result is stored, and is published when it is paid.
    Withheld,
    /// Its result is stored and not yet published.
    Responding,
    /// Its result is published.
    Done,
    /// It was not accepted.
    Rejected,
    /// It has been answered with an error.
    Failed,
    /// Its customer took it back.
    Cancelled,
    /// It waited too long.
    Expired,
    /// Its result was not paid, and is dropped.
    Unpaid,
}

/// What happens to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobEvent {
    /// A rule refuses it.
    Reject,
    /// It is accepted, and has to be paid first.
    AwaitPayment,
    /// It is accepted, and inputs have to be fetched first.
    AwaitInputs,
    /// It is accepted, or its inputs are complete.
    Enqueue,
    /// An attempt begins.
    Start,
    /// The attempt has failed, and another may follow.
    Retry,
    /// The process died during the attempt.
    Interrupt,
    /// The executor has a result, which is stored.
    Complete,
    /// The executor has a result, which has to be paid first.
    Withhold,
    /// It is paid: the result that was withheld is stored as what is to be published.
    Release,
    /// The relay has the result.
    Publish,
    /// The relay refuses the result, or no further attempt follows, or an input cannot be had.
    Fail,
    /// The customer takes it back.
    Cancel,
    /// Its time is over.
    Expire,
}

impl JobState {
    /// All states.
    pub const ALL: [JobState; 13] = [
        JobState::Received,
        JobState::AwaitingPayment,
        JobState::WaitingInput,
        JobState::Queued,
        JobState::Running,
        JobState::Withheld,
        JobState::Responding,
        JobState::Done,
        JobState::Rejected,
        JobState::Failed,
        JobState::Cancelled,
        JobState::Expired,
        JobState::Unpaid,
    ];

    /// Whether something has still to be done or paid: it has neither a result that is to be published nor a final answer.
    pub fn is_unfinished(self) -> bool {
        matches!(
            self,
            JobState::Received
                | JobState::AwaitingPayment
                | JobState::WaitingInput
                | JobState::Queued
                | JobState::Running
                | JobState::Withheld
        )
    }

    /// Whether it waits for a payment: before its work, or before its result.
    pub fn awaits_payment(self) -> bool {
        matches!(self, JobState::AwaitingPayment | JobState::Withheld)
    }

    /// Its number in databases. Those of unfinished states are below 4, because the index of unfinished jobs ends there.
    pub fn number(self) -> i64 {
        match self {
            // They came later than the others.
            JobState::Withheld => -2,
            JobState::AwaitingPayment => -1,
            JobState::Received => 0,
            JobState::WaitingInput => 1,
            JobState::Queued => 2,
            JobState::Running => 3,
            JobState::Responding => 4,
            JobState::Done => 5,
            JobState::Rejected => 6,
            JobState::Failed => 7,
            JobState::Cancelled => 8,
            JobState::Expired => 9,
            JobState::Unpaid => 10,
        }
    }

    /// Whether nothing more can happen to it.
    pub fn is_final(self) -> bool {
        !self.is_unfinished() && self != JobState::Responding
    }

    /// Its name, as in JSON and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            JobState::Received => "received",
            JobState::AwaitingPayment => "awaiting_payment",
            JobState::WaitingInput => "waiting_input",
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Withheld => "withheld",
            JobState::Responding => "responding",
            JobState::Done => "done",
            JobState::Rejected => "rejected",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
            JobState::Expired => "expired",
            JobState::Unpaid => "unpaid",
        }
    }

    /// The state after `event`; `None` if that cannot happen in this state, and must then have no effect.
    pub fn after(self, event: JobEvent) -> Option<JobState> {
        use JobEvent as E;
        use JobState as S;
        match (self, event) {
            (S::Received, E::Reject) => Some(S::Rejected),
            (S::Received | S::WaitingInput, E::AwaitPayment) => Some(S::AwaitingPayment),
            (S::Received | S::AwaitingPayment, E::AwaitInputs) => Some(S::WaitingInput),
            (S::Received | S::AwaitingPayment | S::WaitingInput, E::Enqueue) => Some(S::Queued),
            (S::Queued, E::Start) => Some(S::Running),
            (S::Running, E::Retry | E::Interrupt) => Some(S::Queued),
            (S::Running, E::Withhold) => Some(S::Withheld),
            (S::Running, E::Complete) | (S::Withheld, E::Release) => Some(S::Responding),
            (S::Responding, E::Publish) => Some(S::Done),
            (
                S::AwaitingPayment | S::WaitingInput | S::Queued | S::Running | S::Withheld | S::Responding,
                E::Fail,
            ) => Some(S::Failed),
            (state, E::Cancel) if state.is_unfinished() => Some(S::Cancelled),
            (S::Withheld, E::Expire) => Some(S::Unpaid),
            (S::AwaitingPayment | S::WaitingInput | S::Queued | S::Running, E::Expire) => Some(S::Expired),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    const EVENTS: [JobEvent; 14] = [
        JobEvent::Reject,
        JobEvent::AwaitPayment,
        JobEvent::AwaitInputs,
        JobEvent::Enqueue,
        JobEvent::Start,
        JobEvent::Retry,
        JobEvent::Interrupt,
        JobEvent::Complete,
        JobEvent::Withhold,
        JobEvent::Release,
        JobEvent::Publish,
        JobEvent::Fail,
        JobEvent::Cancel,
        JobEvent::Expire,
    ];

    /// Every state and every event: what is not in this table cannot happen.
    #[test]
    fn the_table_is_complete() {
        use JobEvent as E;
        use JobState as S;
        let expected: HashMap<(S, E), S> = HashMap::from([
            ((S::Received, E::Reject), S::Rejected),
            ((S::Received, E::AwaitPayment), S::AwaitingPayment),
            ((S::Received, E::AwaitInputs), S::WaitingInput),
            ((S::Received, E::Enqueue), S::Queued),
            ((S::Received, E::Cancel), S::Cancelled),
            ((S::AwaitingPayment, E::AwaitInputs), S::WaitingInput),
            ((S::AwaitingPayment, E::Enqueue), S::Queued),
            ((S::AwaitingPayment, E::Fail), S::Failed),
            ((S::AwaitingPayment, E::Cancel), S::Cancelled),
            ((S::AwaitingPayment, E::Expire), S::Expired),
            ((S::WaitingInput, E::AwaitPayment), S::AwaitingPayment),
            ((S::WaitingInput, E::Enqueue), S::Queued),
            ((S::WaitingInput, E::Fail), S::Failed),
            ((S::WaitingInput, E::Cancel), S::Cancelled),
            ((S::WaitingInput, E::Expire), S::Expired),
            ((S::Queued, E::Start), S::Running),
            ((S::Queued, E::Fail), S::Failed),
            ((S::Queued, E::Cancel), S::Cancelled),
            ((S::Queued, E::Expire), S::Expired),
            ((S::Running, E::Retry), S::Queued),
            ((S::Running, E::Interrupt), S::Queued),
            ((S::Running, E::Complete), S::Responding),
            ((S::Running, E::Fail), S::Failed),
            ((S::Running, E::Cancel), S::Cancelled),
            ((S::Running, E::Expire), S::Expired),
            ((S::Running, E::Withhold), S::Withheld),
            ((S::Withheld, E::Release), S::Responding),
            ((S::Withheld, E::Fail), S::Failed),
            ((S::Withheld, E::Cancel), S::Cancelled),
            ((S::Withheld, E::Expire), S::Unpaid),
            ((S::Responding, E::Publish), S::Done),
            ((S::Responding, E::Fail), S::Failed),
        ]);
        for state in S::ALL {
            for event in EVENTS {
                assert_eq!(state.after(event), expected.get(&(state, event)).copied(), "{state:?} {event:?}");
            }
        }
    }

    /// All states that a job can be in after `state`.
    fn reachable(state: JobState) -> HashSet<JobState> {
        let mut found = HashSet::new();
        let mut open = vec![state];
        while let Some(state) = open.pop() {
            for next in EVENTS.iter().filter_map(|event| state.after(*event)) {
                if found.insert(next) {
                    open.push(next);
                }
            }
        }
        found
    }

    #[test]
    fn nothing_works_on_a_job_that_has_its_result() {
        let after = reachable(JobState::Responding);
        assert_eq!(after, HashSet::from([JobState::Done, JobState::Failed]));
        assert!(after.iter().all(|state| !state.is_unfinished()));
        let after = reachable(JobState::Withheld);
        assert!(after.iter().all(|state| !state.is_unfinished()), "{after:?}");
    }

    #[test]
    fn final_states_are_final_and_all_others_can_end() {
        for state in JobState::ALL {
            let after = reachable(state);
            assert_eq!(state.is_final(), after.is_empty(), "{state:?}");
            assert!(state.is_final() || after.iter().any(|state| state.is_final()), "{state:?}");
            assert!(!(state.is_final() && state.is_unfinished()), "{state:?}");
        }
    }

    #[test]
    fn no_history_of_seven_events_has_two_results_or_two_answers() {
        // All paths from `received`, with what a customer is sent on them.
        fn walk(state: JobState, results: usize, answers: usize, left: usize) {
            assert!(results <= 1, "two results");
            assert!(answers <= 1, "two answers");
            if state.is_final() {
                assert_eq!(answers, 1, "{state:?} without an answer");
            }
            if left == 0 {
                return;
            }
            for event in EVENTS {
                let Some(next) = state.after(event) else { continue };
                let result = usize::from(matches!(event, JobEvent::Complete | JobEvent::Release));
                walk(next, results + result, answers + usize::from(next.is_final()), left - 1);
            }
        }
        walk(JobState::Received, 0, 0, 7);
    }

    #[test]
    fn work_starts_only_where_a_job_waits_for_it() {
        for state in JobState::ALL {
            let starts = state.after(JobEvent::Start).is_some();
            assert_eq!(starts, state == JobState::Queued, "{state:?}");
        }
    }
}
