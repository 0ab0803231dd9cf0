//! What must be true once nothing more happens.

use std::collections::BTreeSet;

use relay_agent::job::JobState;
use relay_agent::nip90;
use relay_agent::testing::answers;
use relay_engine::types::{Event, EventId, PubKey};

use super::World;
use super::customer::KIND;

impl World {
    /// # Panics
    /// If a job is lost or answered twice, or a customer was not sent an answer.
    pub(super) fn check(&mut self) {
        let stored = self.shards.stored();
        let accepted: BTreeSet<EventId> =
            self.customers.iter().flat_map(|customer| customer.accepted.iter().copied()).collect();
        for request in self.requests.clone() {
            let is_accepted =
                accepted.contains(&request.id) || stored.iter().any(|event| event.id == request.id);
            let named = nip90::named_keys(&request);
            self.report.accepted += usize::from(is_accepted);
            self.report.open += usize::from(is_accepted && named.is_empty());
            let mut answering = 0;
            for agent in self.agents.keys().copied().collect::<Vec<_>>() {
                let is_for = named.is_empty() || named.contains(&agent);
                answering += usize::from(self.check_answers(&stored, &request, &agent, is_for, is_accepted));
            }
            let may_be_known = is_accepted || self.cancelled.contains(&request.id);
            assert!(may_be_known || answering == 0, "{request:?} was never accepted");
        }
        self.check_customers(&stored);
    }

    /// Checks what an agent has answered; whether it has.
    fn check_answers(
        &mut self,
        stored: &[Event],
        request: &Event,
        agent: &PubKey,
        is_for: bool,
        is_accepted: bool,
    ) -> bool {
        let own: Vec<Event> = stored.iter().filter(|event| event.pubkey == *agent).cloned().collect();
        let mut answers = answers(&own, &request.id);
        answers.sort_by_key(|(_, event)| event.created_at);
        let statuses: Vec<&str> = answers.iter().map(|(status, _)| status.as_str()).collect();
        assert!(
            answers.windows(2).all(|pair| pair[0].1.created_at < pair[1].1.created_at),
            "times rise within a job: {answers:?}"
        );
        let of = |wanted: &str| statuses.iter().filter(|status| **status == wanted).count();
        let is_open = nip90::named_keys(request).is_empty();
        let is_taken_back = self.cancelled.contains(&request.id);
        // What was deleted at once concerns nobody.
        let must_be_known = is_accepted && is_for && !is_taken_back;
        let Some(state) = self.state(agent, &request.id) else {
            assert!(!must_be_known || is_open, "{request:?} is lost: {statuses:?}");
            assert!(statuses.is_empty(), "{statuses:?} for a job that the agent does not know");
            return false;
        };
        // Of one that was taken back before its customer heard of it, no client knows that it was accepted.
        assert!((is_accepted || is_taken_back) && is_for, "{request:?} is not for this agent");
        assert!(state.is_final(), "{state:?} {request:?} {statuses:?}");
        let hidden = statuses.contains(&"encrypted");
        assert!(of("processing") <= 1, "{statuses:?}");
        match state {
            JobState::Done => {
                self.report.results += 1;
                assert_eq!((of("result"), of("error")), (1, 0), "{statuses:?}");
                assert_eq!(statuses.last(), Some(&"result"), "{statuses:?}");
            }
            JobState::Cancelled => {
                self.report.cancelled += 1;
                assert!(is_taken_back, "{request:?}");
                assert_eq!((of("result"), of("error")), (0, 0), "{statuses:?}");
            }
            // Encrypted feedback does not tell its status; and an open job is refused silently.
            _ if hidden || is_open => assert_eq!(of("result"), 0, "{statuses:?}"),
            _ => {
                self.report.errors += 1;
                assert_eq!((of("result"), of("error")), (0, 1), "{statuses:?}");
                assert_eq!(statuses.last(), Some(&"error"), "{statuses:?}");
            }
        }
        true
    }

    /// Every customer is subscribed to all answers.
    fn check_customers(&mut self, stored: &[Event]) {
        let results = stored.iter().filter(|event| event.kind == KIND + 1_000);
        for result in results {
            for customer in &self.customers {
                assert!(customer.received.contains(&result.id), "a customer was not sent {result:?}");
            }
        }
        self.report.received = self.customers.iter().map(|customer| customer.received.len()).sum();
    }
}
