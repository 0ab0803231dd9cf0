//! How the subscriptions of one connection catch up that fell behind: together, in one walk along the log.
//!
//! Each knows up to which number it has been served. The walk begins at the smallest of these and hands an event to those
//! that match it and have not been served up to it, which an index of their filters finds. One that joins from further
//! back takes the walk back; those that have had what comes then are passed over. At the end of the log all are live. So
//! what catching up costs is the log once for each connection, and the matches.
//!
//! The index costs as much memory as those filters do in the index of live subscriptions, so there is one only while the
//! walk goes on: it is dropped when the reader is slow, and made again, at its cost in rows, when that has read. It takes
//! [`WALK_VALUES_MAX`] values; subscriptions beyond have the next walk.

use std::sync::Arc;

use super::Relay;
use super::ids::ConnId;
use super::jobs::{Job, Next};
use super::session::Session;
use super::subscriptions::{SubKey, Subscriptions};
use crate::index::Index;
use crate::policy::may_see;
use crate::store::{Backend, Replayed, Seq, StoreError, Take, walk_log};
use crate::types::{Now, parse_expiration};

/// Values of filters that a walk takes into its index, filters themselves counted; one subscription may bring more.
const WALK_VALUES_MAX: usize = 20_000;
/// Values that enter the index in the time of a row.
const VALUES_A_ROW: usize = 4;
/// What queueing an event costs, in comparisons (`store/cost.rs`).
const SENT_COMPARISONS: usize = 2;

/// The walk of a connection's subscriptions along the log.
pub(super) struct Walk {
    index: Index,
    /// By index slot.
    keys: Vec<Option<SubKey>>,
    values: usize,
}

impl Walk {
    fn new(index_seed: u64) -> Self {
        Walk { index: Index::with_seed(index_seed), keys: Vec::new(), values: 0 }
    }

    /// Takes in those who are `behind`, as long as there is room and there are rows.
    fn take_up(&mut self, behind: &mut Vec<SubKey>, subscriptions: &Subscriptions, rows: &mut usize) {
        while *rows > 0
            && self.values < WALK_VALUES_MAX
            && let Some(key) = behind.pop()
        {
            let Some(subscription) = subscriptions.get(key) else { continue };
            let values: usize = subscription.filters.iter().map(|filter| 1 + filter.value_count()).sum();
            self.values += values;
            *rows = rows.saturating_sub(1 + values / VALUES_A_ROW);
            let slot = self.index.subscribe(&*subscription.filters).0 as usize;
            if self.keys.len() <= slot {
                self.keys.resize(slot + 1, None);
            }
            self.keys[slot] = Some(key);
        }
    }

    fn keys(&self) -> impl Iterator<Item = SubKey> {
        self.keys.iter().copied().flatten()
    }

    /// The number up to which all have been served; none if all have ended.
    fn covered(&self, subscriptions: &Subscriptions) -> Option<Seq> {
        self.keys().filter_map(|key| subscriptions.get(key)).map(|own| own.covered).min()
    }
}

impl<B: Backend> Relay<B> {
    /// A client's subscription is behind: events above its `covered` are read back when its reader reads.
    pub(super) fn catch_up(&mut self, conn: ConnId, key: SubKey) {
        let Some(session) = self.sessions.get_mut(conn) else { return };
        session.behind.push(key);
        if std::mem::replace(&mut session.is_replaying, true) {
            return;
        }
        let replay = Job::Replay(conn, None);
        if session.is_slow(self.unread, &self.config.limits) {
            session.stalled.push(replay);
        } else {
            self.enqueue(replay);
        }
    }

    /// Reads back from the store what a client was not sent live.
    pub(super) fn replay_to_client(
        &mut self,
        now: Now,
        conn: ConnId,
        walk: Option<Box<Walk>>,
        rows: &mut usize,
    ) -> Next {
        let Some(session) = self.sessions.get_mut(conn) else { return Next::Done };
        if session.is_slow(self.unread, &self.config.limits) {
            return self.stall_replay(conn, walk);
        }
        let mut walk = walk.unwrap_or_else(|| Box::new(Walk::new(self.subscriptions.index_seed())));
        walk.take_up(&mut session.behind, &self.subscriptions, rows);
        let Some(after) = walk.covered(&self.subscriptions) else { return self.end_walk(conn) };
        let walked = self.walk_on(now, conn, &mut walk, after, rows);
        self.mark_ready(conn);
        self.mark_changed(conn);
        let walked = match walked {
            Ok(walked) => walked,
            Err(error) => {
                walk.keys().for_each(|key| self.fail_subscription(key, &error));
                return self.end_walk(conn);
            }
        };
        for key in walk.keys() {
            if let Some(own) = self.subscriptions.get_mut(key) {
                own.caught_up(walked);
            }
        }
        let is_slow =
            self.sessions.get(conn).is_some_and(|session| session.is_slow(self.unread, &self.config.limits));
        match walked.caught_up {
            true => self.end_walk(conn),
            false if is_slow => self.stall_replay(conn, Some(walk)),
            false => Next::Again(Job::Replay(conn, Some(walk))),
        }
    }

    /// Walks on behind `after`, and queues what matches until the reader is slow.
    fn walk_on(
        &mut self,
        now: Now,
        conn: ConnId,
        walk: &mut Walk,
        after: Seq,
        rows: &mut usize,
    ) -> Result<Replayed, StoreError> {
        let config = &*self.config;
        let here = Replayed { covered: after, caught_up: false };
        let Some(session) = self.sessions.get_mut(conn) else { return Ok(here) };
        let mut unread = self.unread;
        let Session { auth, outbox, backlog_bytes, .. } = &mut *session;
        let (subscriptions, Walk { index, keys, .. }) = (&mut self.subscriptions, walk);
        let (mut matched, mut sent, mut cut_short) = (Vec::new(), 0, None);
        let walked = walk_log(&self.store.reader()?, after, rows, &mut |hit| {
            matched.clear();
            let mut cost = index.matches_stored(hit.event, &mut matched).cost;
            let is_hidden = || {
                parse_expiration(hit.event.tags()).is_some_and(|at| at <= now.seconds())
                    || !may_see(hit.event, &config.policy.guarded_kinds, auth.keys())
            };
            if matched.is_empty() || is_hidden() {
                return (Take::Counted, cost);
            }
            let (mut body, mut take) = (None, Take::Counted);
            for slot in &matched {
                let key = keys.get(slot.0 as usize).copied().flatten();
                let own = key.and_then(|key| subscriptions.get_mut(key));
                let Some(own) = own.filter(|own| own.covered < hit.seq) else { continue };
                if take == Take::CountedAndPause {
                    // Others have this event still coming.
                    cut_short = Some(Seq(hit.seq.0 - 1));
                    break;
                }
                own.covered = hit.seq;
                let body = body.get_or_insert_with(|| Arc::<[u8]>::from(hit.event.json()));
                let before = outbox.bytes();
                outbox.push_event(Arc::clone(&own.head), Arc::clone(body));
                unread.change(before, outbox.bytes());
                sent += 1;
                cost.comparisons += SENT_COMPARISONS;
                if outbox.bytes() + *backlog_bytes >= unread.pause(&config.limits) {
                    take = Take::CountedAndPause;
                }
            }
            (take, cost)
        });
        self.metrics.sent_event += sent;
        session.account(&mut self.unread);
        walked.map(|walked| match cut_short {
            Some(covered) => Replayed { covered, caught_up: false },
            None => walked,
        })
    }

    /// The reader is slow: its subscriptions wait without an index.
    fn stall_replay(&mut self, conn: ConnId, walk: Option<Box<Walk>>) -> Next {
        if let Some(session) = self.sessions.get_mut(conn) {
            session.behind.extend(walk.iter().flat_map(|walk| walk.keys()));
        }
        Next::Stall(conn, Job::Replay(conn, None))
    }

    /// All who were on a walk are live or have ended. There is another for who is behind yet.
    fn end_walk(&mut self, conn: ConnId) -> Next {
        let Some(session) = self.sessions.get_mut(conn) else { return Next::Done };
        session.is_replaying = !session.behind.is_empty();
        if session.is_replaying { Next::Again(Job::Replay(conn, None)) } else { Next::Done }
    }
}
