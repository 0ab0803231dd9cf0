//! A slice of a comparison: one connection to another relay, some seconds long.
//!
//! ```text
//! Scanning --> Connecting --> Talking --> Storing --> over, or Scanning again: the next range of the same connection
//! ```
//!
//! The events of a range that are stored here are scanned in steps, one a tick. The session asks for what is missing, and what
//! comes is published in small batches, one a tick, so that clients are served in between. A range is done when all that came
//! is stored.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use negentropy::{Id, Item};
use relay_engine::relay::{PublishOutcome, Ticket};
use relay_engine::store::Scan;
use relay_engine::types::{Event, EventId, Now, Timestamp};
use relay_sync::information::Information;
use relay_sync::ranges::Range;
use relay_sync::session::{End, Outcomes, Session};

/// Milliseconds after which a slice ends; and after which it ends even without progress, when no page has ended.
pub(super) const SLICE_MS: u64 = 20_000;
pub(super) const SLICE_MS_MAX: u64 = 120_000;
/// Events that came, after which it ends.
pub(super) const SLICE_EVENTS: u64 = 20_000;
/// Events here that are compared at once, 40 bytes each: a message about them is answered in some milliseconds.
pub(super) const RANGE_EVENTS: u32 = 32_768;
/// Events that are on their way to the store at a time: they are verified together, in some milliseconds.
pub(super) const PUBLISHED_MAX: usize = 64;
/// Bytes of events that wait, above which the slice ends: the next one asks for the rest.
pub(super) const WAITING_BYTES_MAX: usize = 8 << 20;
/// Bytes of waiting events above which no more are requested until fewer wait.
pub(super) const HELD_BYTES: usize = 2 << 20;
/// Longest message of another relay, in bytes.
pub const PEER_MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Messages that may come beyond those that were asked for.
const MESSAGES_FREE: u64 = 1_000;
/// Messages that answer a REQ: a page or a batch, and some notices.
const ANSWERS_MAX: u64 = 600;
/// Most lines that a slice writes to the log.
const LINES_MAX: u32 = 10;

/// A connection to another relay, until another one is opened.
pub type PeerConn = u64;

/// What happens on a connection to another relay.
#[derive(Debug)]
pub enum PeerEvent<'a> {
    /// It is open. The other relay tells this about itself.
    Opened(Information),
    /// A text message.
    Text(&'a str),
    /// A message of more bytes than [`PEER_MESSAGE_BYTES_MAX`].
    TooLong,
    /// It could not be opened, or has ended, for this reason.
    Closed(String),
}

/// What is being done.
pub(super) enum Stage {
    /// The events here are scanned, from a second on.
    Scanning(Box<Scan>),
    /// The connection is being opened.
    Connecting,
    /// The relays talk.
    Talking,
    /// The session has ended, and what came is being stored.
    Storing(End),
}

/// A slice.
pub(super) struct Slice {
    /// Which of the configured relays.
    pub(super) peer: usize,
    pub(super) conn: PeerConn,
    pub(super) begun: Now,
    pub(super) stage: Stage,
    /// The range that is compared, and the events of it that are stored here.
    pub(super) range: Range,
    pub(super) items: Vec<Item>,
    /// Events here that the other relay is not told of.
    pub(super) hidden: HashSet<EventId>,
    /// The second of the event that was found last: the oldest.
    pub(super) oldest: Timestamp,
    /// What the other relay tells, once the connection is open.
    pub(super) information: Option<Information>,
    pub(super) session: Option<(Session, Now)>,
    /// Events that have come and are not on their way to the store.
    pub(super) waiting: VecDeque<Event>,
    pub(super) waiting_bytes: usize,
    /// Ids and times of those that are.
    pub(super) tickets: HashMap<Ticket, (EventId, Timestamp)>,
    pub(super) outcomes: Outcomes,
    /// How many events the relay's rules refuse, of `outcomes.refused`.
    pub(super) refused: u64,
    /// Events that are not to be asked for with the next comparison either.
    pub(super) refused_for_good: Vec<EventId>,
    /// Why the store could not take an event.
    pub(super) store_failed: Option<String>,
    /// Events that came and were asked for.
    pub(super) received: u64,
    /// Messages that have come, and how many may come at most.
    pub(super) messages: u64,
    pub(super) allowed: u64,
    pub(super) lines: u32,
    /// Whether it has ended by its own bounds.
    pub(super) is_over: bool,
}

impl Slice {
    pub(super) fn new(peer: usize, conn: PeerConn, begun: Now, range: Range, scan: Scan) -> Self {
        Slice {
            peer,
            conn,
            begun,
            stage: Stage::Scanning(Box::new(scan)),
            range,
            items: Vec::new(),
            hidden: HashSet::new(),
            oldest: Timestamp::MAX,
            information: None,
            session: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            tickets: HashMap::new(),
            outcomes: Outcomes::default(),
            refused: 0,
            refused_for_good: Vec::new(),
            store_failed: None,
            received: 0,
            messages: 0,
            allowed: MESSAGES_FREE,
            lines: 0,
            is_over: false,
        }
    }

    /// An event that is stored here, which everybody may read or not.
    pub(super) fn found(&mut self, created_at: Timestamp, id: EventId, is_public: bool) {
        self.oldest = created_at;
        if is_public {
            self.items.push(Item::with_timestamp_and_id(created_at, Id::from_byte_array(id.0)));
        } else {
            self.hidden.insert(id);
        }
    }

    /// Events that have been found.
    pub(super) fn found_count(&self) -> usize {
        self.items.len() + self.hidden.len()
    }

    /// Asks for more only while little waits: messages come faster than ticks.
    pub(super) fn hold_if_full(&mut self, now: Now) {
        if let Some((session, begun)) = &mut self.session {
            session.hold(Slice::elapsed(*begun, now), self.waiting_bytes > HELD_BYTES);
        }
    }

    /// Whether its bounds are reached.
    pub(super) fn is_at_its_end(&self, now: Now) -> bool {
        let is_late = now.millis_since(self.begun) >= SLICE_MS;
        is_late && !self.has_no_progress()
            || self.is_too_late(now)
            || self.received >= SLICE_EVENTS
            || self.waiting_bytes > WAITING_BYTES_MAX
    }

    /// Whether it has lasted as long as a slice may.
    pub(super) fn is_too_late(&self, now: Now) -> bool {
        now.millis_since(self.begun) >= SLICE_MS_MAX
    }

    /// Whether it has made no progress, so that the next slice would be sent the same: no page has ended.
    fn has_no_progress(&self) -> bool {
        let counts = self.session.as_ref().map(|(session, _)| session.counts());
        counts.is_some_and(|counts| counts.pages == 0 && counts.rounds == 0)
    }

    /// The newest second that is left, if all that was newer is stored.
    pub(super) fn stored_until(&self) -> Option<Timestamp> {
        let (session, _) = self.session.as_ref()?;
        let is_stored = self.is_stored() && self.store_failed.is_none();
        session.progress().left().filter(|_| is_stored).map(|left| left.until)
    }

    /// Whether the other relay sends far more messages than it was asked for.
    pub(super) fn is_flooded(&self) -> bool {
        self.messages > self.allowed
    }

    /// A message is sent, and is answered by so many at most.
    pub(super) fn allow_answers_to(&mut self, message: &str) {
        self.allowed += if message.starts_with("[\"REQ\"") { ANSWERS_MAX } else { 2 };
    }

    /// Whether a line of the session is to be logged.
    pub(super) fn takes_line(&mut self) -> bool {
        self.lines += 1;
        self.lines <= LINES_MAX
    }

    /// The relay has decided about an event.
    pub(super) fn decided(&mut self, ticket: Ticket, outcome: PublishOutcome, now: Now) {
        let Some((id, created_at)) = self.tickets.remove(&ticket) else { return };
        match outcome {
            PublishOutcome::Delivered | PublishOutcome::Superseded => self.refused_for_good.push(id),
            // An event that is too new may be taken later.
            PublishOutcome::Refused(_) if created_at <= now.seconds() => self.refused_for_good.push(id),
            _ => {}
        }
        let counts = &mut self.outcomes.counts;
        match outcome {
            PublishOutcome::Stored(_) => counts.stored += 1,
            // It is not asked for again where the scan has not seen it.
            PublishOutcome::Duplicate => {
                counts.duplicate += 1;
                self.outcomes.refused.push(id);
            }
            PublishOutcome::Delivered => {
                counts.ephemeral += 1;
                self.outcomes.refused.push(id);
            }
            PublishOutcome::Superseded => {
                counts.superseded += 1;
                self.outcomes.refused.push(id);
            }
            PublishOutcome::Forged(_) => {
                self.outcomes.invalid += 1;
                self.outcomes.refused.push(id);
            }
            PublishOutcome::Refused(_) => {
                self.refused += 1;
                self.outcomes.refused.push(id);
            }
            PublishOutcome::Failed(why) => self.store_failed = Some(why),
        }
    }

    /// Whether all that came has its outcome.
    pub(super) fn is_stored(&self) -> bool {
        self.waiting.is_empty() && self.tickets.is_empty()
    }

    /// Whether a tick would do something.
    pub(super) fn wants_tick(&self) -> bool {
        match &self.stage {
            Stage::Scanning(_) => true,
            Stage::Connecting => false,
            Stage::Talking => !self.waiting.is_empty() && self.tickets.len() < PUBLISHED_MAX,
            Stage::Storing(_) => self.is_stored() || self.tickets.len() < PUBLISHED_MAX,
        }
    }

    /// When it is to be looked at although nothing happens.
    pub(super) fn deadline(&self) -> Now {
        let ms = if self.has_no_progress() { SLICE_MS_MAX } else { SLICE_MS };
        let end = self.begun.plus_millis(ms);
        match &self.session {
            Some((session, begun)) => end.min(begun.plus_millis(session.deadline().as_millis() as u64)),
            None => end,
        }
    }

    /// Time since the session began.
    pub(super) fn elapsed(begun: Now, now: Now) -> Duration {
        Duration::from_millis(now.millis_since(begun))
    }
}
