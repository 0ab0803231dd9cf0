//! Sets that are kept for the next reconciliation of the same filter by a client who may see the same, so that a set of a
//! million events is not collected by a scan each time.
//!
//! A set is brought up to date when it is wanted: with what the log has gained since, and without what has expired. What
//! commits remove is taken out as it happens, because the log does not have it any more: each [`LiveEvent`] lists it, and
//! every shard is sent them in the order of commits. So a set is exact as of the last commit that was reported to this
//! shard ([`SetCache::reported`]), and a reconciliation waits for those that were made before it was opened. A set is
//! dropped if too many events were removed to be listed, or if a commit was not reported, as when another process writes to
//! the database. What is removed without a commit, by another process or by a sweep by age, is counted by the store
//! ([`Reader::unlogged_removals`]): a set that was scanned before is not given to new reconciliations. A set that nobody asks
//! for is kept for [`KEPT_MS`].

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::policy::{may_match_withheld, may_see};
use crate::reconcile::{CountedBytes, Item, MutableSet, SortedSet, TotalBytes};
use crate::relay::commit::ALREADY_DELIVERED;
use crate::relay::{LiveEvent, messages};
use crate::store::{
    Backend, Completeness, Reader, RemovedEvents, Scan, ScanLimits, ScanStep, Seq, SinkResult, StoreError,
    TermClasses, Viewer, read_log,
};
use crate::types::{
    CanonicalEvent, EventMatcher, Filter, Kind, Limits, Now, PubKey, Timestamp, parse_expiration,
};

/// Sets that are kept, at most.
const SETS_MAX: usize = 32;
/// Milliseconds for which a set is kept after it was last asked for.
const KEPT_MS: u64 = 10 * 60 * 1_000;
/// Bytes of an entry of [`CachedSet::expiring`].
const EXPIRING_BYTES: usize = 64;

/// What a set is of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SetKey {
    filter: Filter,
    /// The keys whose guarded events are in it, sorted; `None` if no match of the filter is withheld from the viewer.
    keys: Option<Box<[PubKey]>>,
}

impl SetKey {
    /// Of what a client that has authenticated `keys` sees.
    pub(super) fn new(filter: &Filter, guarded_kinds: &[Kind], keys: &[PubKey]) -> Arc<Self> {
        let keys = may_match_withheld(filter, guarded_kinds, keys).then(|| {
            let mut keys = keys.to_vec();
            keys.sort_unstable();
            keys.into()
        });
        Arc::new(SetKey { filter: filter.clone(), keys })
    }

    pub(super) fn filter(&self) -> &Filter {
        &self.filter
    }

    /// The kinds of which nothing is in the set; `None` if some of the guarded events are, and others are not.
    pub(super) fn hidden<'a>(&self, guarded_kinds: &'a [Kind]) -> Option<&'a [Kind]> {
        match self.keys.as_deref() {
            None => Some(&[]),
            Some([]) => Some(guarded_kinds),
            Some(_) => None,
        }
    }
}

/// Who sees the events of a set.
struct SetViewer<'a> {
    guarded_kinds: &'a [Kind],
    keys: Option<&'a [PubKey]>,
}

impl Viewer for SetViewer<'_> {
    fn guarded_kinds(&self) -> &[Kind] {
        if self.keys.is_some() { self.guarded_kinds } else { &[] }
    }

    fn sees(&self, event: CanonicalEvent<'_>) -> bool {
        self.keys.is_none_or(|keys| may_see(event, self.guarded_kinds, keys))
    }

    fn sees_all_matches(&self, filter: &Filter) -> bool {
        self.keys.is_none_or(|keys| !may_match_withheld(filter, self.guarded_kinds, keys))
    }
}

/// Why there is no set.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The filter matches more events than a set may have.
    TooMany,
    /// All that matches is guarded.
    Withheld,
    /// The store returned an error.
    Store(StoreError),
}

/// Where collecting a set has come to.
pub(super) enum Collected {
    /// There is more to read.
    More,
    /// A commit that was made before the reconciliation was opened has not been reported to this shard.
    CommitPending,
    /// The set.
    Set(Arc<SortedSet>),
    /// There is none, for whoever waits for it.
    Failed(Failure),
    /// The same, and somebody has been told before.
    FailedBefore(Failure),
}

enum State {
    /// Its scan is being made, by whichever of the queries that want it has a turn.
    Scanning(Box<Scan>),
    /// It has all that the log had up to `CachedSet::added`.
    Current,
    Failed(Failure),
}

/// A set that is kept, or being collected.
struct CachedSet {
    id: u64,
    key: Arc<SetKey>,
    state: State,
    set: MutableSet,
    /// The set as it is, if it was wanted since it changed.
    version: Option<Arc<SortedSet>>,
    /// Events in it that will expire, soonest first.
    expiring: BTreeSet<(Timestamp, Item)>,
    expiring_bytes: CountedBytes,
    /// The last sequence number that its scan answers for. What was removed before was never in it.
    horizon: Seq,
    /// Events up to this sequence number are in it.
    added: Seq,
    /// It lacks an event that only a new scan finds.
    is_stale: bool,
    /// [`Reader::unlogged_removals`] when its scan began.
    removals: u64,
    asked_at: Now,
    used: u64,
    /// Shared with the queries that want it.
    users: Arc<()>,
}

impl CachedSet {
    fn is_current(&self) -> bool {
        matches!(self.state, State::Current)
    }

    fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.users) > 1
    }

    /// Whether a reconciliation may use it that was opened when `after` was the last sequence number and the store counted
    /// `removals`.
    fn is_usable(&self, after: Seq, removals: u64, now: Now, must_be_new: bool) -> bool {
        let is_old = now.millis_since(self.asked_at) >= KEPT_MS;
        let is_fixed = must_be_new || self.key.filter.limit.is_some();
        !is_old
            && !self.is_stale
            && self.removals == removals
            && !matches!(self.state, State::Failed(_))
            && (!is_fixed || self.horizon >= after)
    }

    /// Takes an event out. False if the budget is used up; then nothing is done.
    fn remove(&mut self, item: &Item, budget: &mut usize) -> bool {
        if *budget == 0 {
            return false;
        }
        *budget = budget.saturating_sub(self.set.removal_cost(item));
        if self.set.remove(item) {
            self.version = None;
            // The next older event would take its place.
            self.is_stale |= self.key.filter.limit.is_some();
        }
        true
    }

    fn add(&mut self, event: CanonicalEvent<'_>, expires_at: Option<Timestamp>) {
        let item = Item { created_at: event.created_at(), id: event.id() };
        if self.set.insert(item) {
            self.version = None;
            if let Some(expires_at) = expires_at {
                self.expiring.insert((expires_at, item));
                self.expiring_bytes.set(self.expiring.len() * EXPIRING_BYTES);
            }
        }
    }

    /// Takes out what has expired, as far as `budget` allows. True if that is all of it.
    fn expire(&mut self, now: Timestamp, budget: &mut usize) -> bool {
        let mut is_done = true;
        while let Some(&(expires_at, item)) = self.expiring.first()
            && expires_at <= now
        {
            is_done = self.remove(&item, budget);
            if !is_done {
                break;
            }
            self.expiring.pop_first();
        }
        self.expiring_bytes.set(self.expiring.len() * EXPIRING_BYTES);
        is_done
    }

    /// Goes on collecting, as far as `budget` allows.
    fn step<R: Reader>(
        &mut self,
        reader: &R,
        now: Timestamp,
        budget: &mut usize,
        request: &SetRequest<'_>,
    ) -> Result<Collected, StoreError> {
        let key = Arc::clone(&self.key);
        let viewer = SetViewer { guarded_kinds: request.guarded_kinds, keys: key.keys.as_deref() };
        if let State::Scanning(mut scan) = std::mem::replace(&mut self.state, State::Current) {
            let step = scan.step(reader, now, budget, &viewer, &mut |hit| {
                self.add(hit.event, parse_expiration(hit.event.tags()));
                if self.set.len() > request.events_max { SinkResult::Pause } else { SinkResult::Continue }
            });
            match step {
                _ if self.set.len() > request.events_max => return Ok(Collected::Failed(Failure::TooMany)),
                Ok(ScanStep::Done(Completeness::Withheld)) => {
                    return Ok(Collected::Failed(Failure::Withheld));
                }
                Ok(ScanStep::Done(_)) => {}
                Ok(ScanStep::More) => {
                    self.state = State::Scanning(scan);
                    return Ok(Collected::More);
                }
                Err(error) => return Err(error),
            }
        }
        // A million may expire in one second.
        if !self.expire(now, budget) {
            return Ok(Collected::More);
        }
        // One with a limit stays as its scan found it.
        if key.filter.limit.is_none() {
            if !self.read_log(reader, now, budget, request, &viewer)? {
                return Ok(Collected::More);
            }
            if self.set.len() > request.events_max {
                return Ok(Collected::Failed(Failure::TooMany));
            }
        }
        // Its scan may have found all that there was.
        if request.reported.max(self.horizon) < request.after {
            return Ok(Collected::CommitPending);
        }
        let version = self.version.get_or_insert_with(|| Arc::new(self.set.version()));
        Ok(Collected::Set(Arc::clone(version)))
    }

    /// Adds what the log has gained, up to the last commit that was reported. True if that is all of it.
    fn read_log<R: Reader>(
        &mut self,
        reader: &R,
        now: Timestamp,
        budget: &mut usize,
        request: &SetRequest<'_>,
        viewer: &SetViewer<'_>,
    ) -> Result<bool, StoreError> {
        if self.added >= request.reported {
            return Ok(true);
        }
        let key = Arc::clone(&self.key);
        let replayed = read_log(reader, self.added, budget, &mut |hit| {
            let mut matcher = EventMatcher::new(hit.event);
            if hit.seq > request.reported {
                return (SinkResult::Pause, matcher.cost());
            }
            let expires_at = parse_expiration(hit.event.tags());
            if matcher.matches(&key.filter)
                && expires_at.is_none_or(|at| at > now)
                && (viewer.sees_all_of(hit.event.kind()) || viewer.sees(hit.event))
            {
                self.add(hit.event, expires_at);
            }
            (SinkResult::Continue, matcher.cost())
        })?;
        self.added = self.added.max(replayed.covered.min(request.reported));
        Ok(self.added >= request.reported)
    }
}

/// What a query needs of a set.
pub(super) struct SetRequest<'a> {
    /// The last sequence number when the reconciliation was opened.
    pub(super) after: Seq,
    /// It no longer waits for a report of that commit.
    pub(super) timed_out: bool,
    pub(super) guarded_kinds: &'a [Kind],
    pub(super) events_max: usize,
    reported: Seq,
}

impl<'a> SetRequest<'a> {
    pub(super) fn new(after: Seq, timed_out: bool, guarded_kinds: &'a [Kind], limits: &Limits) -> Self {
        SetRequest {
            after,
            timed_out,
            guarded_kinds,
            events_max: limits.neg_set_events_max,
            reported: Seq(0),
        }
    }
}

/// A query's hold on a set.
pub(in crate::relay) struct SetUse {
    id: u64,
    /// Counted by the entry.
    _user: Arc<()>,
}

/// A message of the Negentropy protocol that waits for its answer, counted among the memory of sets.
pub(super) struct KeptMessage {
    bytes: Box<[u8]>,
    _counted: CountedBytes,
}

impl KeptMessage {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The cache of the sets of a shard.
#[derive(Default)]
pub(in crate::relay) struct SetCache {
    entries: Vec<CachedSet>,
    last_id: u64,
    uses: u64,
    /// The last commit that was reported to this shard; `None` while no set is kept.
    reported: Option<Seq>,
    total: TotalBytes,
}

impl SetCache {
    /// Bytes of all sets, of those too that only reconciliations have, and of messages that wait for their answer.
    pub(in crate::relay) fn bytes(&self) -> usize {
        self.total.get()
    }

    pub(super) fn keep_message(&self, bytes: Box<[u8]>) -> KeptMessage {
        KeptMessage { _counted: self.total.count(bytes.len()), bytes }
    }

    /// Records a commit: what it removed is in no set any more. A set from which more would have to be taken than the
    /// budget allows is dropped, and collected again when somebody wants it.
    pub(in crate::relay) fn record_live(&mut self, live: &LiveEvent, budget: &mut usize) {
        let (Some(reported), Some(seq)) = (self.reported, live.seq) else { return };
        if self.entries.is_empty() {
            self.reported = None;
            return;
        }
        match &live.removed {
            RemovedEvents::Unknown => self.entries.clear(),
            RemovedEvents::Listed(events) => self.entries.retain_mut(|entry| {
                seq <= entry.horizon && seq != ALREADY_DELIVERED
                    || events.iter().all(|&(created_at, id)| entry.remove(&Item { created_at, id }, budget))
            }),
        }
        if seq.0 > reported.0 + 1 {
            // Others have written to the store.
            self.entries.clear();
        }
        self.reported = Some(reported.max(seq));
    }

    /// Makes room for `more` bytes, of `max` in all, by dropping what is kept and not in use, the least recently used first.
    /// Whether there is room.
    pub(super) fn free(&mut self, more: usize, max: usize, except: Option<u64>) -> bool {
        while self.total.get() + more > max {
            if !self.drop_least_used(except) {
                return false;
            }
        }
        true
    }

    fn drop_least_used(&mut self, except: Option<u64>) -> bool {
        let unused = self
            .entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| !entry.is_in_use() && Some(entry.id) != except);
        let Some((at, _)) = unused.min_by_key(|(_, entry)| entry.used) else { return false };
        self.entries.swap_remove(at);
        true
    }

    /// The set of `key`, for a reconciliation that was opened when `after` was the last sequence number: one that is kept,
    /// or a new one whose scan starts. With `must_be_new` its scan answers up to `after`.
    pub(super) fn get_or_start<B: Backend>(
        &mut self,
        store: &B,
        key: &Arc<SetKey>,
        after: Seq,
        must_be_new: bool,
        now: Now,
        limits: &Limits,
    ) -> Result<SetUse, StoreError> {
        let (horizon, removals) = {
            let reader = store.reader()?;
            (reader.last_seq()?, reader.unlogged_removals()?)
        };
        self.entries.retain(|entry| {
            entry.is_in_use() || (entry.is_current() && entry.is_usable(Seq(0), removals, now, false))
        });
        self.uses += 1;
        let kept = self
            .entries
            .iter_mut()
            .find(|entry| entry.key == *key && entry.is_usable(after, removals, now, must_be_new));
        if let Some(entry) = kept {
            (entry.used, entry.asked_at) = (self.uses, now);
            return Ok(SetUse { id: entry.id, _user: Arc::clone(&entry.users) });
        }
        if self.entries.is_empty() {
            self.reported = None;
        }
        self.reported.get_or_insert(horizon);
        while self.entries.len() >= SETS_MAX && self.drop_least_used(None) {}
        self.last_id += 1;
        let entry = CachedSet {
            id: self.last_id,
            key: Arc::clone(key),
            state: State::Scanning(Box::new(new_scan(&key.filter, limits, store.classes(), horizon))),
            set: MutableSet::new(&self.total),
            version: None,
            expiring: BTreeSet::new(),
            expiring_bytes: self.total.count(0),
            horizon,
            added: horizon,
            is_stale: false,
            removals,
            asked_at: now,
            used: self.uses,
            users: Arc::new(()),
        };
        let set = SetUse { id: entry.id, _user: Arc::clone(&entry.users) };
        self.entries.push(entry);
        Ok(set)
    }

    /// Goes on collecting a set. `None` if it was dropped: get it again.
    pub(super) fn step<B: Backend>(
        &mut self,
        store: &B,
        set: &SetUse,
        now: Timestamp,
        budget: &mut usize,
        mut request: SetRequest<'_>,
    ) -> Option<Collected> {
        let reported = self.reported.unwrap_or_default();
        let entry = self.entries.iter_mut().find(|entry| entry.id == set.id)?;
        if let State::Failed(failure) = &entry.state {
            return Some(Collected::FailedBefore(failure.clone()));
        }
        request.reported = reported;
        let step = store.reader().and_then(|reader| entry.step(&reader, now, budget, &request));
        let collected = step.unwrap_or_else(|error| Collected::Failed(Failure::Store(error)));
        match &collected {
            Collected::Failed(failure) => {
                entry.state = State::Failed(failure.clone());
                entry.set = MutableSet::new(&self.total);
                entry.version = None;
                entry.expiring.clear();
                entry.expiring_bytes.set(0);
            }
            Collected::Set(_) if request.timed_out => self.forget(set),
            _ => {}
        }
        Some(collected)
    }

    /// Whether there is a set of `key` that can be used now. `removals`: those that the store counts.
    pub(super) fn is_at_hand(&self, key: &SetKey, removals: u64, now: Now) -> bool {
        let is_at_hand =
            |entry: &CachedSet| entry.is_current() && entry.is_usable(Seq(0), removals, now, false);
        self.entries.iter().any(|entry| *entry.key == *key && is_at_hand(entry))
    }

    /// Whether there is a set of `key`, also if it is being collected or could not be.
    pub(super) fn is_kept(&self, key: &SetKey) -> bool {
        self.entries.iter().any(|entry| *entry.key == *key)
    }

    /// Events that have been collected of a set.
    pub(super) fn len(&self, set: &SetUse) -> usize {
        self.entries.iter().find(|entry| entry.id == set.id).map_or(0, |entry| entry.set.len())
    }

    /// Keeps a set no longer if nobody has it but its last user, who gives it back.
    pub(super) fn give_up(&mut self, set: SetUse) {
        let id = set.id;
        drop(set);
        self.entries.retain(|entry| entry.id != id || entry.is_in_use());
    }

    /// Keeps a set no longer; queries that want it get it again.
    pub(super) fn forget(&mut self, set: &SetUse) {
        self.entries.retain(|entry| entry.id != set.id);
    }

    /// Bytes of the cursors of a set's scan.
    pub(super) fn cursor_bytes(&self, set: &SetUse) -> usize {
        self.entries.iter().find(|entry| entry.id == set.id).map_or(0, |entry| match &entry.state {
            State::Scanning(scan) => scan.cursor_bytes(),
            _ => 0,
        })
    }

    /// Drops the cursors of a set's scan until it goes on.
    pub(super) fn release_cursors(&mut self, set: &SetUse) {
        if let Some(CachedSet { state: State::Scanning(scan), .. }) =
            self.entries.iter_mut().find(|entry| entry.id == set.id)
        {
            scan.release_cursors();
        }
    }
}

impl SetUse {
    pub(super) fn id(&self) -> u64 {
        self.id
    }
}

/// A scan of one event more than a set may have.
fn new_scan(filter: &Filter, limits: &Limits, classes: TermClasses, horizon: Seq) -> Scan {
    let events = u32::try_from(limits.neg_set_events_max).unwrap_or(u32::MAX).saturating_add(1);
    let limits = ScanLimits { limit_default: events, limit_max: events };
    Scan::new([filter.clone()].into(), limits, classes, horizon)
}

impl Failure {
    /// Its NEG-ERR message. That of [`Failure::Withheld`] depends on the client: `withheld_message` gives it.
    pub(super) fn message(&self, limits: &Limits) -> String {
        match self {
            Failure::TooMany => messages::too_many_to_reconcile(limits.neg_set_events_max),
            Failure::Withheld => messages::NOT_A_PARTY.into(),
            Failure::Store(error) => messages::store(error).into(),
        }
    }
}
