//! What a customer and the agent have said to each other, if the manifest wants that kept. Never another customer's; and what was
//! said encrypted never for a job whose answer everybody reads.

use std::collections::VecDeque;

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{Now, PubKey};

use super::Agent;
use super::jobs::{Active, Source};
use crate::executor::{PromptMessage, Role};
use crate::manifest::Memory;
use crate::store::{self, Session, SessionMessage};

impl<C: SqlConn> Agent<C> {
    fn stored_session(&self, customer: &PubKey) -> Result<Session, StoreError> {
        let session = match self.batch.session(customer) {
            Some(session) => session.clone(),
            None => store::session(&self.conn, customer)?,
        };
        Ok(session.unwrap_or_default())
    }

    /// What was said with a customer after a time, in Unix seconds.
    pub(super) fn session_after(&self, customer: &PubKey, until: u64) -> Result<Option<Session>, StoreError> {
        let mut session = self.stored_session(customer)?;
        session.messages.retain(|said| said.at > until);
        Ok(Some(session).filter(|session| !session.messages.is_empty()))
    }

    /// What was said before, for an attempt at a job.
    pub(super) fn history_of(&self, now: Now, active: &Active) -> Result<Vec<PromptMessage>, StoreError> {
        let Source::Event(_) = active.source else { return Ok(Vec::new()) };
        let mut session = self.stored_session(&active.request.customer)?;
        if let Some(deployed) = &self.deployed {
            trim(&mut session, &deployed.manifest.memory, now.seconds());
        }
        let message = |said: SessionMessage| PromptMessage {
            role: if said.is_agent { Role::Assistant } else { Role::User },
            text: said.text,
        };
        let is_encrypted = active.request.cipher.is_some();
        let messages = session.messages.into_iter().filter(|said| is_encrypted || !said.is_private);
        Ok(messages.map(message).collect())
    }

    /// Adds a job to its customer's session: the texts of its inputs, and the answer.
    pub(super) fn remember(&mut self, now: Now, active: &Active, memory: Memory, said: &str, answer: &str) {
        let Source::Event(_) = &active.source else { return };
        if !memory.sessions {
            return;
        }
        let at = now.seconds();
        let customer = active.request.customer;
        let is_private = active.request.cipher.is_some();
        // What cannot be read is begun anew: a result is not held back for it.
        let mut session = self.stored_session(&customer).unwrap_or_default();
        let said = [(false, said), (true, answer)];
        for (is_agent, text) in said.into_iter().filter(|(_, text)| !text.is_empty()) {
            session.messages.push_back(SessionMessage { at, is_agent, is_private, text: text.to_owned() });
        }
        session.updated_at = at;
        trim(&mut session, &memory, at);
        self.batch.put_session(customer, Some(session));
    }
}

/// Drops what is too old and what is too much, oldest first.
fn trim(session: &mut Session, memory: &Memory, now: u64) {
    let since = now.saturating_sub(u64::from(memory.ttl_days) * 86_400);
    let messages: &mut VecDeque<SessionMessage> = &mut session.messages;
    let mut bytes: usize = messages.iter().map(|said| said.text.len()).sum();
    while let Some(first) = messages.front() {
        if messages.len() <= memory.messages && bytes <= memory.bytes && first.at >= since {
            break;
        }
        bytes -= first.text.len();
        messages.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(memory: Memory, said: &[(u64, usize)], expected: &[u64]) {
        let mut session = Session::default();
        for (at, bytes) in said {
            session.messages.push_back(SessionMessage {
                at: *at,
                is_agent: false,
                is_private: false,
                text: "x".repeat(*bytes),
            });
        }
        trim(&mut session, &memory, 10 * 86_400);
        let kept: Vec<u64> = session.messages.iter().map(|said| said.at).collect();
        assert_eq!(kept, expected, "{memory:?} {said:?}");
    }

    #[test]
    fn the_oldest_goes_first() {
        let day = 86_400;
        let memory = Memory { sessions: true, ttl_days: 30, messages: 3, bytes: 100 };
        check(memory, &[], &[]);
        check(memory, &[(1, 10), (2, 10), (3, 10)], &[1, 2, 3]);
        check(memory, &[(1, 10), (2, 10), (3, 10), (4, 10)], &[2, 3, 4]);
        check(memory, &[(1, 60), (2, 60), (3, 40)], &[2, 3]);
        check(memory, &[(1, 10), (2, 101)], &[]);
        let short = Memory { ttl_days: 1, ..memory };
        check(short, &[(day, 1), (9 * day - 1, 1), (9 * day, 1), (10 * day, 1)], &[9 * day, 10 * day]);
    }
}
