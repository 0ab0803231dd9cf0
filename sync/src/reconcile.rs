//! One reconciliation of a range with another relay (NIP-77). The `negentropy` crate does the protocol.

use std::collections::HashSet;
use std::fmt;

use negentropy::{Error, Id, Item, Negentropy, Storage};
use relay_engine::types::EventId;

use super::frames::event_id;
use super::ranges::Slice;

/// Messages after which a relay that has named no other id is not asked any further. An honest relay names an id after at most as
/// many messages as its range can be halved.
const IDLE_ROUNDS_MAX: u32 = 1_000;

/// What is known of a range.
#[derive(Debug, Default)]
pub(crate) struct Reconciliation {
    frame_bytes_max: u64,
    /// Ids that a message has named; a message may name one again.
    seen: HashSet<Id>,
    idle_rounds: u32,
}

/// What came of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Ids that are here and not there, oldest first.
    pub(crate) have: Vec<EventId>,
    /// Ids that are there and not here.
    pub(crate) need: Vec<EventId>,
    /// The next message; `None` if everything is known.
    pub(crate) next: Option<Vec<u8>>,
}

/// Why a reconciliation cannot go on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The other relay has only another version of the protocol.
    Version,
    /// Its message is not one of the protocol.
    Malformed(String),
    /// It answers and answers, and tells nothing.
    Endless,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Version => f.write_str("it has another version of the protocol"),
            Problem::Malformed(why) => write!(f, "a message of its reconciliation is malformed: {why}"),
            Problem::Endless => f.write_str("its reconciliation comes to no end"),
        }
    }
}

impl Reconciliation {
    /// With messages of at most this many bytes, 4096 or more.
    pub(crate) fn new(frame_bytes_max: u64) -> Self {
        Reconciliation { frame_bytes_max, ..Reconciliation::default() }
    }

    /// The first message about these items.
    pub(crate) fn open(&self, items: &[Item]) -> Result<Vec<u8>, Problem> {
        let mut negentropy = self.negentropy(items)?;
        negentropy.initiate().map_err(|error| malformed(&error))
    }

    /// Handles an answer. The items are those of the first message.
    pub(crate) fn handle(&mut self, items: &[Item], message: &[u8]) -> Result<Step, Problem> {
        let mut negentropy = self.negentropy(items)?;
        negentropy.set_initiator();
        let (mut have, mut need) = (Vec::new(), Vec::new());
        let next = match negentropy.reconcile_with_ids(message, &mut have, &mut need) {
            Ok(next) => next,
            Err(Error::UnsupportedProtocolVersion) => return Err(Problem::Version),
            Err(error) => return Err(malformed(&error)),
        };
        have.retain(|id| self.seen.insert(*id));
        need.retain(|id| self.seen.insert(*id));
        // They come from a hash table.
        need.sort_unstable();
        self.idle_rounds = if have.is_empty() && need.is_empty() { self.idle_rounds + 1 } else { 0 };
        if self.idle_rounds > IDLE_ROUNDS_MAX {
            return Err(Problem::Endless);
        }
        let ids = |ids: Vec<Id>| ids.iter().map(event_id).collect();
        Ok(Step { have: ids(have), need: ids(need), next })
    }

    fn negentropy<'a>(&self, items: &'a [Item]) -> Result<Negentropy<'a, Slice<'a>>, Problem> {
        Negentropy::new(Storage::Owned(Slice(items)), self.frame_bytes_max).map_err(|error| malformed(&error))
    }
}

fn malformed(error: &Error) -> Problem {
    Problem::Malformed(error.to_string())
}
