//! Removing events: at once where that is little work, else in later steps; and the sweeps of events that are no longer
//! served. No transaction removes more keys than the backend can in a few milliseconds, except that one event is removed whole.

use std::sync::Arc;

use crate::store::{
    Backend, Posting, Rank, Reader, Seq, StartAt, StoreError, Term, TermClasses, Writer, terms_of,
};
use crate::types::{CanonicalEvent, Event, EventId, Kind, Timestamp, is_removal_request};

/// Least bytes of canonical JSON for each key of an event: a tag has one key and is no shorter than `["t",""],`; the fields that
/// every event has are longer than this for each of their keys.
const KEY_BYTES_MIN: usize = 9;
/// On a full disk a commit may remove this many times as many keys at once, which frees space; a later step removes this many
/// times fewer, because it must fit into the reserve.
const FULL_DISK_FACTOR: usize = 16;
/// Postings that a retention sweep reads at once.
const SWEEP_PAGE: usize = 256;

/// What one step of removal did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Events removed.
    pub events: usize,
    /// Keys that they were found by.
    pub keys: usize,
    /// Whether a further step has something to remove.
    pub more: bool,
}

/// How much a commit removes at once; it leaves the rest to later steps.
pub(super) struct RemovalBudget {
    classes: TermClasses,
    keys_max: usize,
    /// How many keys may still be removed.
    keys_left: usize,
    /// Whether it takes as little space as possible.
    is_least: bool,
}

impl RemovalBudget {
    pub(super) fn new(backend: &impl Backend) -> Self {
        let keys_max = backend.removed_keys_max();
        RemovalBudget { classes: backend.classes(), keys_max, keys_left: keys_max, is_least: false }
    }

    /// What a commit removes at once when the disk is full: more, since that frees space.
    pub(super) fn on_full_disk(backend: &impl Backend) -> Self {
        let budget = RemovalBudget::new(backend);
        RemovalBudget { keys_left: budget.keys_max.saturating_mul(FULL_DISK_FACTOR), ..budget }
    }

    /// Removes nothing at once, which takes hardly any space. A backend without a bound on removed keys removes at once
    /// even so.
    pub(super) fn least(backend: &impl Backend) -> Self {
        let budget = RemovalBudget { is_least: true, ..RemovalBudget::new(backend) };
        match budget.keys_max {
            usize::MAX => budget,
            _ => RemovalBudget { keys_max: 0, keys_left: 0, ..budget },
        }
    }

    pub(super) fn is_least(&self) -> bool {
        self.is_least
    }

    pub(super) fn classes(&self) -> TermClasses {
        self.classes
    }

    /// An event is stored: as many keys as its size allows may be removed in addition, so that a commit of replaceable events
    /// removes their earlier versions at once, however many they are.
    pub(super) fn credit(&mut self, event: &Event) {
        self.keys_left = self.keys_left.saturating_add(keys_max(event.json().len()).min(self.keys_max));
    }

    /// Removes an event, or marks it as pending removal if its size says that its keys may be more than is left. Returns
    /// its `created_at` and id, if it was looked at.
    pub(super) fn remove_or_mark(
        &mut self,
        writer: &mut impl Writer,
        seq: Seq,
    ) -> Result<Option<(Timestamp, EventId)>, StoreError> {
        if self.keys_left < KEYS_MIN {
            // Without looking at it: there may be very many.
            writer.mark_removed(seq)?;
            return Ok(None);
        }
        let bytes = match writer.event(seq) {
            Ok(json) => json.map_or(0, |json| json.len()),
            Err(StoreError::Corrupt(_)) => {
                // A later step removes what can't be read.
                writer.mark_removed(seq)?;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        match self.keys_left.checked_sub(keys_max(bytes)) {
            Some(left) => {
                self.keys_left = left;
                let event = read_event(writer, seq)?;
                writer.remove(seq, &event, &terms_of(event.view(), self.classes))?;
                Ok(Some((event.created_at, event.id)))
            }
            None => {
                self.keys_left = 0;
                writer.mark_removed(seq)?;
                Ok(None)
            }
        }
    }
}

/// The least value of [`keys_max`]: no canonical JSON is shorter than 300 bytes.
const KEYS_MIN: usize = 300 / KEY_BYTES_MIN;

/// The most keys that an event of `bytes` bytes may have.
fn keys_max(bytes: usize) -> usize {
    bytes / KEY_BYTES_MIN
}

/// One step towards removing events pending removal: as many as have [`Backend::removed_keys_max`] keys, one at least, those that were
/// stored first before others. To be called, with other changes in between, until there is no more. What is still pending
/// removal when the program ends is pending removal when it starts again.
///
/// # Errors
/// The backend's. Then none was removed.
pub fn remove_pending<B: Backend>(backend: &B) -> Result<Removed, StoreError> {
    let mut pending_removal = Vec::new();
    // A read first, so that an idle relay does not open a write transaction.
    backend.reader()?.pending_removal(1, &mut pending_removal)?;
    if pending_removal.is_empty() {
        return Ok(Removed::default());
    }
    change(backend, |writer, mut step| {
        pending_removal.clear();
        writer.pending_removal(step.events_max() + 1, &mut pending_removal)?;
        for &seq in &pending_removal {
            if step.remove(writer, seq)?.is_not_yet() {
                break;
            }
        }
        Ok(step.removed(pending_removal.len()))
    })
}

/// Removes events without tombstones: they may be stored again. Returns how many there were. Many are removed in
/// several changes, so that others can write in between.
///
/// # Errors
/// The backend's. Then what has been removed stays removed, and the rest is kept.
pub fn remove<B: Backend>(backend: &B, ids: &[EventId]) -> Result<usize, StoreError> {
    let (mut left, mut removed) = (ids, 0);
    while !left.is_empty() {
        let (events, others) = change(backend, |writer, mut step| {
            let mut left = left;
            while let [id, others @ ..] = left {
                if let Some(seq) = writer.seq_of(id)?
                    && step.remove(writer, seq)?.is_not_yet()
                {
                    break;
                }
                left = others;
            }
            step.note_unlogged(writer)?;
            Ok((step.events, left))
        })?;
        (removed, left) = (removed + events, others);
    }
    Ok(removed)
}

/// Removes up to `events_max` events that have expired at time `now` (NIP-40), soonest first, as many as have
/// [`Backend::removed_keys_max`] keys, one at least. Events pending removal among them are removed and not counted. Removal
/// requests stay, unserved ([`is_removal_request`]); those that an earlier version of this program listed for sweeping
/// are stored again under a new sequence number, unlisted.
///
/// # Errors
/// The backend's. Then none was removed.
pub fn sweep_expired<B: Backend>(
    backend: &B,
    now: Timestamp,
    events_max: usize,
) -> Result<Removed, StoreError> {
    let mut expired = Vec::new();
    // A read first, so that an idle relay does not open a write transaction.
    backend.reader()?.expiring(now, 1, &mut expired)?;
    if expired.is_empty() || events_max == 0 {
        return Ok(Removed { more: !expired.is_empty(), ..Removed::default() });
    }
    let classes = backend.classes();
    change(backend, |writer, mut step| {
        let events_max = events_max.min(step.events_max());
        expired.clear();
        writer.expiring(now, events_max + 1, &mut expired)?;
        let (mut last, mut pending_removal) = (writer.last_seq()?, 0);
        for &seq in expired.iter().take(events_max) {
            let was_pending_removal = writer.is_pending_removal(seq)?;
            let event = match step.remove(writer, seq)? {
                Removal::Removed(event) => Some(event),
                Removal::RemovedUnread => None,
                Removal::NotYet => break,
            };
            pending_removal += usize::from(was_pending_removal);
            if let Some(event) = event
                && is_removal_request(event.kind)
                && !was_pending_removal
            {
                last = Seq(last.0 + 1);
                writer.insert(last, &event, &terms_of(event.view(), classes))?;
            }
        }
        let removed = step.removed(expired.len());
        Ok(Removed { events: removed.events - pending_removal, ..removed })
    })
}

/// Retention: removes up to `events_max` events with a `created_at` below `before` and of a kind that `is_swept`
/// accepts, without tombstones: they may be stored again. Like [`sweep_expired`] it ends with the keys that one change may
/// remove. Removal requests ([`is_removal_request`]) are never swept, because their effect must last.
///
/// Costs one look-up a stored kind, and one for each old event of these kinds that it comes to: as many as it removes, and those that are
/// pending removal.
///
/// # Errors
/// The backend's. Then none was removed.
pub fn sweep_older_than<B: Backend>(
    backend: &B,
    before: Timestamp,
    is_swept: &dyn Fn(Kind) -> bool,
    events_max: usize,
) -> Result<Removed, StoreError> {
    let (classes, Some(newest)) = (backend.classes(), before.checked_sub(1)) else {
        return Ok(Removed::default());
    };
    let events_max = events_max.min(RemovalStep::new(backend).events_max());
    let is_swept = |kind: Kind| !is_removal_request(kind) && is_swept(kind);
    let mut aged = Vec::new();
    {
        let reader = backend.reader()?;
        let kinds = reader.kinds()?;
        let swept: Vec<Kind> = kinds.iter().copied().filter(|kind| is_swept(*kind)).collect();
        // Old events of kinds that are kept are not looked at.
        let terms = match classes.all && swept.len() == kinds.len() {
            true => vec![Term::All],
            false => swept.into_iter().map(Term::Kind).collect(),
        };
        for term in &terms {
            let mut start = StartAt::Rank(Rank::newest(newest));
            let mut page: Vec<Posting> = Vec::new();
            while aged.len() <= events_max {
                page.clear();
                reader.postings(term, start, 0, SWEEP_PAGE, &mut page)?;
                for posting in page.iter().filter(|posting| is_swept(posting.kind)) {
                    if !reader.is_pending_removal(posting.seq)? {
                        aged.push(posting.seq);
                    }
                }
                match page.last() {
                    Some(last) if page.len() == SWEEP_PAGE => start = StartAt::After(last.rank, last.seq),
                    _ => break,
                }
            }
        }
    }
    if aged.is_empty() || events_max == 0 {
        return Ok(Removed { more: !aged.is_empty(), ..Removed::default() });
    }
    change(backend, |writer, mut step| {
        for &seq in aged.iter().take(events_max) {
            if step.remove(writer, seq)?.is_not_yet() {
                break;
            }
        }
        step.note_unlogged(writer)?;
        Ok(step.removed(aged.len()))
    })
}

/// Retention by number: removes up to `events_max` events of a kind that `is_swept` accepts, in the order in which they were stored, beginning after
/// `after`; without tombstones, and ending with the keys that one change may remove, like [`sweep_older_than`]. Reads 256 events at most. Returns
/// what was removed, with `more` unless no event comes after `after`, and the last event that need not be looked at again.
///
/// # Errors
/// The backend's. Then none was removed.
pub fn sweep_first<B: Backend>(
    backend: &B,
    after: Seq,
    is_swept: &dyn Fn(Kind) -> bool,
    events_max: usize,
) -> Result<(Removed, Seq), StoreError> {
    let events_max = events_max.min(RemovalStep::new(backend).events_max());
    let (mut first, mut seqs) = (Vec::new(), Vec::new());
    {
        let reader = backend.reader()?;
        reader.log(after, SWEEP_PAGE, &mut seqs)?;
        for seq in &seqs {
            let json = match reader.event(*seq) {
                Ok(Some(json)) => json,
                // Of what can't be read the kind is not known, so it stays.
                Ok(None) | Err(StoreError::Corrupt(_)) => continue,
                Err(error) => return Err(error),
            };
            let kind = CanonicalEvent::trusted(&json).kind();
            if first.len() < events_max && !is_removal_request(kind) && is_swept(kind) {
                first.push(*seq);
            }
        }
    }
    let Some(last) = seqs.last().copied() else { return Ok((Removed::default(), after)) };
    if first.is_empty() {
        return Ok((Removed { more: true, ..Removed::default() }, last));
    }
    let is_page_done = first.len() < events_max;
    let (removed, done) = change(backend, |writer, mut step| {
        let mut done = after;
        for &seq in &first {
            if step.remove(writer, seq)?.is_not_yet() {
                break;
            }
            done = seq;
        }
        step.note_unlogged(writer)?;
        Ok((step.removed(first.len()), done))
    })?;
    let done = if is_page_done && removed.events == first.len() { last } else { done };
    Ok((Removed { more: true, ..removed }, done))
}

/// Changes `backend` by `work`, which removes events; if the disk is full, by less and in the reserved space.
fn change<B: Backend, T>(
    backend: &B,
    mut work: impl FnMut(&mut B::Writer<'_>, RemovalStep) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let step = RemovalStep::new(backend);
    match backend.write(|writer| work(writer, step)) {
        Err(StoreError::Full(_)) => {
            let small = RemovalStep { keys_max: step.keys_max / FULL_DISK_FACTOR, ..step };
            backend.write_from_reserve(|writer| work(writer, small))
        }
        done => done,
    }
}

/// What became of an event that was to be removed.
enum Removal {
    Removed(Event),
    /// It is removed, though it could not be read.
    RemovedUnread,
    /// Its keys are more than this change may remove beside what it has removed.
    NotYet,
}

impl Removal {
    fn is_not_yet(&self) -> bool {
        matches!(self, Removal::NotYet)
    }
}

/// One change that removes as many events as it may.
#[derive(Clone, Copy)]
struct RemovalStep {
    classes: TermClasses,
    keys_max: usize,
    events: usize,
    keys: usize,
}

impl RemovalStep {
    fn new(backend: &impl Backend) -> Self {
        RemovalStep { classes: backend.classes(), keys_max: backend.removed_keys_max(), events: 0, keys: 0 }
    }

    /// No more events than this can be removed: each has an id, a kind and an author, at least.
    fn events_max(&self) -> usize {
        (self.keys_max / 3).max(1)
    }

    /// Removes an event, if this change may remove so much. One that can't be read is removed without its keys, if the store can do that: what
    /// is to be removed after it must not wait for ever.
    fn remove(&mut self, writer: &mut impl Writer, seq: Seq) -> Result<Removal, StoreError> {
        if self.events > 0 && self.keys >= self.keys_max {
            return Ok(Removal::NotYet);
        }
        let event = match read_event(writer, seq) {
            Err(error @ StoreError::Corrupt(_)) => {
                if !writer.remove_unreadable(seq)? {
                    return Err(error);
                }
                self.events += 1;
                return Ok(Removal::RemovedUnread);
            }
            event => event?,
        };
        let terms = terms_of(event.view(), self.classes);
        // The id's key is not among the terms.
        let keys = self.keys + terms.len() + 1;
        if self.events > 0 && keys > self.keys_max {
            return Ok(Removal::NotYet);
        }
        writer.remove(seq, &event, &terms)?;
        (self.events, self.keys) = (self.events + 1, keys);
        Ok(Removal::Removed(event))
    }

    /// Readers that keep sets of events are told that some are gone, if any was removed.
    fn note_unlogged(&self, writer: &mut impl Writer) -> Result<(), StoreError> {
        if self.events > 0 { writer.record_unlogged_removal() } else { Ok(()) }
    }

    /// What was done, if there were `events` to remove.
    fn removed(&self, events: usize) -> Removed {
        Removed { events: self.events, keys: self.keys, more: self.events < events }
    }
}

fn read_event(reader: &impl Reader, seq: Seq) -> Result<Event, StoreError> {
    let json: Arc<[u8]> = match reader.event_or_pending_removal(seq)? {
        Some(json) => json.as_ref().into(),
        None => return Err(StoreError::Corrupt(format!("event {} is listed but not stored", seq.0))),
    };
    Ok(Event::from_canonical(json))
}
