//! Authentication to another relay (NIP-42): its challenges, the answer, and its refusals for want of one.

use relay_engine::types::EventId;

use crate::session::quoted;

/// Challenges that are answered on a connection.
const CHALLENGES_MAX: u32 = 5;
/// Refusals for want of authentication, after the relay has accepted it.
const REFUSALS_MAX: u32 = 3;

/// What is known on a connection.
#[derive(Debug)]
pub struct Authentication {
    has_key: bool,
    answer: Answer,
    /// Nothing is sent before the relay has accepted the answer.
    is_awaited: bool,
    challenges: u32,
    refusals: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Unasked,
    Signing,
    Sent(EventId),
    Accepted,
}

impl Authentication {
    /// With a key that signs, or without one.
    pub fn new(has_key: bool) -> Self {
        Authentication { has_key, answer: Answer::Unasked, is_awaited: false, challenges: 0, refusals: 0 }
    }

    /// A challenge has come. True if it is to be signed.
    pub fn challenged(&mut self) -> bool {
        self.challenges += 1;
        let signs = self.has_key && self.challenges <= CHALLENGES_MAX;
        if signs {
            self.answer = Answer::Signing;
        }
        signs
    }

    /// The AUTH event with this id is sent.
    pub fn sent(&mut self, id: EventId) {
        self.answer = Answer::Sent(id);
    }

    /// Handles an OK. `None` if it is not that of the AUTH event; an error if the relay does not accept that.
    pub fn answered(&mut self, id: EventId, accepted: bool, message: &str) -> Option<Result<(), String>> {
        if self.answer != Answer::Sent(id) {
            return None;
        }
        if !accepted {
            return Some(Err(format!("it refuses the authentication: {}", quoted(message))));
        }
        self.answer = Answer::Accepted;
        self.is_awaited = false;
        Some(Ok(()))
    }

    /// The relay does something only for clients that authenticate. What it was can be tried again once
    /// [`Authentication::is_awaited`] is false.
    ///
    /// # Errors
    /// It makes no sense to try it again.
    pub fn wanted(&mut self, message: &str) -> Result<(), String> {
        if !self.has_key {
            return Err(format!(
                "it asks for authentication, and there is no key to sign with (relay sync: --key; relay router: `key`): {}",
                quoted(message)
            ));
        }
        if self.answer != Answer::Accepted {
            // Its challenge has come, or will.
            self.is_awaited = true;
            return Ok(());
        }
        self.refusals += 1;
        match self.refusals > REFUSALS_MAX {
            true => Err(format!("it refuses this key: {}", quoted(message))),
            false => Ok(()),
        }
    }

    /// Whether nothing is to be sent before the relay has accepted the answer.
    pub fn is_awaited(&self) -> bool {
        self.is_awaited
    }
}
