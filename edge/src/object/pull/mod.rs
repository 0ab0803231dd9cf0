//! Copying events from other relays (`sync.peers`), by alarm in slices.
//!
//! Of each relay and filter, the events there are compared with those here (NIP-77, or pages of REQs where it has none), newest
//! first, and what is missing here is fetched: `relay_sync`'s session does that. A slice is one connection of some seconds, so
//! that neither the connection keeps the object awake for long nor an invocation reaches the platform's limits; one relay has a
//! slice at a time. Events enter as clients' do, by [`Relay::publish_copy`](relay_engine::relay::Relay::publish_copy).
//!
//! When a slice ends, a row says how far the comparison is ([`position`]). If memory is lost before, the alarm repeats the
//! slice; what it had stored is here already and is not fetched again. When all is compared, the next comparison begins `every_seconds`
//! later.
//!
//! | module | role |
//! |---|---|
//! | `slice` | the state of a slice, and its bounds |
//! | `ending` | how it ends, and when the next one begins |
//! | `parts` | what of a filter is compared |
//! | `position` | the row of a comparison |
//! | `refused` | the row of what is not asked for again |
//! | `metrics` | what is counted, by relay |

mod ending;
pub(crate) mod metrics;
mod parts;
mod position;
mod refused;
mod slice;

use std::sync::Arc;
use std::time::Duration;

use relay_engine::relay::ClientViewer;
use relay_engine::store::sql::SqlConn;
use relay_engine::store::{
    Backend, Reader, Scan, ScanLimits, ScanStep, SinkResult, StoreError, Unrestricted, Viewer,
};
use relay_engine::types::{Filter, Now, Timestamp};
use relay_sync::outcome_counts::OutcomeCounts;
use relay_sync::ranges::{LocalEvents, Range};
use relay_sync::session::{Action, End, Plan, Progress, Session};
use sha2::{Digest, Sha256};

use super::{Host, NextTick, Object, RowCountingConn};
use crate::settings::{PeerSettings, Settings};
use metrics::Counters;
use parts::{Part, parts};
use position::Position;
use refused::{Refused, Rules};
pub use slice::{PEER_MESSAGE_BYTES_MAX, PeerConn, PeerEvent};
use slice::{PUBLISHED_MAX, RANGE_EVENTS, Slice, Stage};

/// Longest time without an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Seconds after which an alarm looks after a slice that may be lost with the object's memory.
const CHECK_SECONDS: u64 = 60;

/// All relays that are copied from.
#[derive(Default)]
pub(super) struct Pulls {
    peers: Vec<Peer>,
    slice: Option<Slice>,
    last_conn: PeerConn,
    /// The state of the random generator for jitter.
    random: u64,
    rules: Rules,
    /// Whether a slice is due for which the object's alarm may not be set.
    is_unscheduled: bool,
}

/// A relay and a filter.
struct Peer {
    /// The key of its rows in the database.
    name: String,
    url: String,
    plan: Arc<Plan>,
    /// Seconds for which its events are kept, if they are not for ever.
    retention: Option<u64>,
    every_seconds: u64,
    position: Position,
    /// How far the comparison is, between slices and while the object keeps its memory.
    progress: Option<Progress>,
    refused: Refused,
    counters: Counters,
    /// Events stored by this comparison, for the log.
    stored: u64,
}

impl Peer {
    fn new(settings: &PeerSettings, part: Part) -> Self {
        let Part { name, scope, retention } = part;
        let until = scope.range().until;
        let plan = Plan { scope, down: true, up: false, dry_run: false, timeout: TIMEOUT, has_key: false };
        Peer {
            name,
            url: settings.url.clone(),
            plan: Arc::new(plan),
            retention,
            every_seconds: settings.every_seconds,
            position: Position { until, due: 0, failures: 0 },
            progress: None,
            refused: Refused::default(),
            counters: Counters::default(),
            stored: 0,
        }
    }

    /// The range of time that is to be compared.
    fn range(&self, now: Now) -> Range {
        let range = self.plan.scope.range();
        let kept_since = self.retention.map_or(0, |seconds| now.seconds().saturating_sub(seconds));
        Range { since: range.since.max(kept_since), ..range }
    }

    /// The filter, from the newest second that is left.
    fn rest(&self, now: Now) -> (Filter, Range) {
        let mut filter = self.plan.scope.filter().clone();
        let until = self.position.until;
        // The retention may have passed what was left.
        let range = Range { since: self.range(now).since.min(until), until };
        (filter.since, filter.until) = (Some(range.since), Some(range.until));
        filter.normalise();
        (filter, range)
    }

    /// Resets the position: the next comparison begins at `due`, with everything.
    fn begin_anew(&mut self, due: Timestamp) {
        self.position = Position { until: self.plan.scope.range().until, due, failures: 0 };
        (self.progress, self.stored) = (None, 0);
    }
}

impl Pulls {
    /// The configured relays, with their positions in the store.
    ///
    /// # Errors
    /// The store's.
    pub(super) fn open<C: SqlConn>(
        conn: &C,
        settings: &Settings,
        seed: &[u8; 32],
    ) -> Result<Self, StoreError> {
        let peers = settings
            .sync
            .peers
            .iter()
            .flat_map(|peer| parts(peer, &settings.store).into_iter().map(|part| Peer::new(peer, part)));
        let rules = refused::rules(settings);
        let mut pulls = Pulls { peers: peers.collect(), rules, ..Pulls::default() };
        if pulls.peers.is_empty() {
            return Ok(pulls);
        }
        position::create(conn)?;
        refused::create(conn)?;
        for peer in &mut pulls.peers {
            if let Some(position) = position::read(conn, &peer.name)? {
                peer.position = position;
            }
        }
        let random = Sha256::new().chain_update(seed).chain_update(b"pull").finalize();
        pulls.random = random.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        Ok(pulls)
    }

    /// The object has just woken up, perhaps without an alarm.
    pub(super) fn woken(&mut self, now: Now) {
        self.is_unscheduled = self.peers.iter().any(|peer| peer.position.due <= now.seconds());
    }

    /// Whether a slice is due for which the object's alarm may not be set.
    pub(super) fn is_unscheduled(&self) -> bool {
        self.is_unscheduled
    }

    /// When the alarm is to wake the object.
    pub(super) fn alarm_at(&self, now: Now) -> Option<Now> {
        let soonest = self.peers.iter().map(|peer| peer.position.due).min()?;
        // What is due is begun by the next tick; the alarm repeats it if it is lost.
        let is_begun = self.slice.is_some() || soonest <= now.seconds();
        let at = if is_begun { now.seconds().saturating_add(CHECK_SECONDS) } else { soonest };
        Some(Now::from_seconds(at))
    }

    /// Whether a tick would do something.
    pub(super) fn wants_tick(&self, now: Now) -> bool {
        match &self.slice {
            Some(slice) => slice.wants_tick() || slice.deadline() <= now,
            None => self.next_due(now).is_some(),
        }
    }

    /// Milliseconds until a tick is needed although nothing happens.
    pub(super) fn timer_ms(&self, now: Now) -> Option<u64> {
        self.slice.as_ref().map(|slice| slice.deadline().millis_since(now))
    }

    /// The relay whose slice is due the longest.
    fn next_due(&self, now: Now) -> Option<usize> {
        let due = self.peers.iter().enumerate().filter(|(_, peer)| peer.position.due <= now.seconds());
        due.min_by_key(|(_, peer)| peer.position.due).map(|(at, _)| at)
    }

    fn random(&mut self) -> u64 {
        // xorshift64*
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

impl<C: RowCountingConn + 'static, H: Host> Object<C, H> {
    /// Something has happened on the connection that [`Host::connect_peer`] was told to open.
    pub fn peer(&mut self, now: Now, conn: PeerConn, event: PeerEvent<'_>) -> NextTick {
        let mut pulls = std::mem::take(&mut self.pulls);
        if let Some(slice) = pulls.slice.as_mut().filter(|slice| slice.conn == conn) {
            match event {
                PeerEvent::Opened(information) => {
                    slice.information = Some(information);
                    if matches!(slice.stage, Stage::Connecting) {
                        begin_session(&mut pulls, now);
                    }
                }
                PeerEvent::Text(text) => self.handle_peer_text(&mut pulls, now, text),
                PeerEvent::TooLong => {
                    let why = format!("it sends a message of more than {PEER_MESSAGE_BYTES_MAX} bytes");
                    end_slice(slice, End::Failed(why));
                }
                PeerEvent::Closed(why) => match &mut slice.session {
                    Some((session, _)) => session.closed(&why),
                    None => end_slice(slice, End::Retry(why)),
                },
            }
            self.act(&mut pulls, now);
        }
        self.pulls = pulls;
        self.flush(now)
    }

    fn handle_peer_text(&mut self, pulls: &mut Pulls, now: Now, text: &str) {
        let Pulls { peers, slice, .. } = pulls;
        let Some(slice) = slice else { return };
        if let Some(peer) = peers.get_mut(slice.peer) {
            peer.counters.messages += 1;
            peer.counters.bytes += text.len() as u64;
        }
        slice.messages += 1;
        if slice.is_flooded() {
            return end_slice(
                slice,
                End::Failed("it sends messages without end that were not asked for".into()),
            );
        }
        if let (Some((session, begun)), Stage::Talking) = (&mut slice.session, &slice.stage) {
            session.handle(Slice::elapsed(*begun, now), text);
        }
    }

    /// Goes on copying: a step of a scan, a small batch of events.
    pub(super) fn step_pulls(&mut self, now: Now) {
        if self.pulls.peers.is_empty() {
            return;
        }
        let mut pulls = std::mem::take(&mut self.pulls);
        let before = self.rows();
        if pulls.slice.is_none()
            && let Some(peer) = pulls.next_due(now)
        {
            self.begin_slice(&mut pulls, now, peer);
        }
        self.take_outcomes(&mut pulls, now);
        if let Some(slice) = &mut pulls.slice {
            match &slice.stage {
                Stage::Scanning(_) => self.scan_for_slice(&mut pulls, now),
                Stage::Connecting if slice.deadline() <= now => {
                    end_slice(slice, End::Retry("no answer".into()));
                }
                Stage::Talking => check_deadline(slice, now),
                Stage::Connecting | Stage::Storing(_) => {}
            }
        }
        self.act(&mut pulls, now);
        self.store_position(&mut pulls);
        self.publish_copies(&mut pulls, now);
        self.act(&mut pulls, now);
        // Those that admission refuses are decided at once: nothing else would bring about the next tick.
        self.take_outcomes(&mut pulls, now);
        self.end_if_stored(&mut pulls, now);
        self.counters.rows.sync.add(self.rows().since(before));
        self.pulls = pulls;
    }

    fn begin_slice(&mut self, pulls: &mut Pulls, now: Now, at: usize) {
        let Some(peer) = pulls.peers.get_mut(at) else { return };
        pulls.last_conn += 1;
        peer.counters.slices += 1;
        if peer.progress.is_none() {
            // Without them they are asked for again.
            let conn = self.relay.store().conn();
            peer.refused = refused::read(conn, &peer.name, &pulls.rules).unwrap_or_default();
            peer.progress.get_or_insert_default().settle(peer.refused.ids());
        }
        let (filter, range) = peer.rest(now);
        match self.scan_of(filter) {
            Ok(scan) => {
                pulls.slice = Some(Slice::new(at, pulls.last_conn, now, range, scan));
                pulls.is_unscheduled = false;
                self.set_alarm_for_pulls(pulls, now);
            }
            Err(error) => self.slice_failed(pulls, now, at, &format!("the store failed: {error}")),
        }
    }

    /// A scan of the newest events that match a filter.
    fn scan_of(&self, filter: Filter) -> Result<Scan, StoreError> {
        let store = self.relay.store();
        let limits = ScanLimits { limit_default: RANGE_EVENTS, limit_max: RANGE_EVENTS };
        Ok(Scan::new([filter].into(), limits, store.classes(), store.reader()?.last_seq()?))
    }

    /// A step of the scan. Once it is over, the relay is asked.
    fn scan_for_slice(&mut self, pulls: &mut Pulls, now: Now) {
        let Pulls { peers, slice: Some(slice), .. } = pulls else { return };
        let Stage::Scanning(mut scan) = std::mem::replace(&mut slice.stage, Stage::Connecting) else {
            return;
        };
        let mut budget = self.relay.config().limits.step_cost_max;
        // What is hidden from the other relay must be known too, or it would be fetched each time.
        let anybody = ClientViewer { guarded_kinds: &self.relay.config().policy.guarded_kinds, keys: &[] };
        let step = self.relay.store().reader().and_then(|reader| {
            scan.step(&reader, now.seconds(), &mut budget, &Unrestricted, &mut |hit| {
                let is_public = anybody.sees_all_of(hit.event.kind()) || anybody.sees(hit.event);
                slice.found(hit.event.created_at(), hit.event.id(), is_public);
                SinkResult::Continue
            })
        });
        match step {
            Ok(ScanStep::More) => slice.stage = Stage::Scanning(scan),
            Ok(ScanStep::Done(_)) => {
                // What is older is compared later. Of the last second some events may be missing: they are fetched for nothing.
                if slice.found_count() >= RANGE_EVENTS as usize {
                    slice.range.since = slice.range.since.max(slice.oldest);
                }
                slice.items.sort_unstable();
                if slice.information.is_some() {
                    begin_session(pulls, now);
                } else if let Some(peer) = peers.get(slice.peer) {
                    self.host.connect_peer(slice.conn, &peer.url);
                }
            }
            Err(error) => end_slice(slice, End::Retry(format!("the store failed: {error}"))),
        }
    }

    /// What the relay has decided about events of other relays.
    fn take_outcomes(&mut self, pulls: &mut Pulls, now: Now) {
        while let Some((ticket, outcome)) = self.relay.poll_copied() {
            if let Some(slice) = &mut pulls.slice {
                slice.decided(ticket, outcome, now);
            }
        }
        let Pulls { peers, slice: Some(slice), .. } = pulls else { return };
        let outcomes = std::mem::take(&mut slice.outcomes);
        let OutcomeCounts { stored, duplicate, superseded, ephemeral, .. } = outcomes.counts;
        if let Some(peer) = peers.get_mut(slice.peer) {
            peer.counters.stored += stored;
            peer.counters.duplicate += duplicate;
            peer.counters.refused += superseded + ephemeral + std::mem::take(&mut slice.refused);
            peer.stored += stored;
            slice.refused_for_good.drain(..).for_each(|id| peer.refused.add(id));
        }
        if let Some((session, _)) = &mut slice.session {
            session.stored(outcomes);
        }
    }

    /// Does what the session wants.
    fn act(&mut self, pulls: &mut Pulls, now: Now) {
        let Pulls { peers, slice: Some(slice), .. } = pulls else { return };
        while let Some((session, begun)) = &mut slice.session
            && let Some(action) = session.poll()
        {
            match action {
                Action::Send(message) => {
                    slice.allow_answers_to(&message);
                    self.host.send_to_peer(slice.conn, &message);
                }
                Action::Store(event) => {
                    slice.received += 1;
                    slice.waiting_bytes += event.json().len();
                    slice.waiting.push_back(event);
                    slice.hold_if_full(now);
                }
                // Nothing is sent to it.
                Action::Load(_) => session.loaded(Slice::elapsed(*begun, now), Vec::new()),
                Action::Authenticate(_) => {}
                Action::Print(line) => {
                    if slice.takes_line()
                        && let Some(peer) = peers.get(slice.peer)
                    {
                        self.host.log(&format!("copying from {}: {line}", peer.url));
                    }
                }
                Action::End(end) => end_slice(slice, end),
            }
        }
    }

    /// Events go on their way to the store, a few at a time.
    fn publish_copies(&mut self, pulls: &mut Pulls, now: Now) {
        let Some(slice) = &mut pulls.slice else { return };
        while slice.tickets.len() < PUBLISHED_MAX
            && let Some(event) = slice.waiting.pop_front()
        {
            slice.waiting_bytes = slice.waiting_bytes.saturating_sub(event.json().len());
            let ticket = self.relay.publish_copy(now, &event);
            slice.tickets.insert(ticket, (event.id, event.created_at));
        }
        slice.hold_if_full(now);
    }

    /// Stores how far pages have been read, so that they are not sent again if memory is lost.
    fn store_position(&mut self, pulls: &mut Pulls) {
        let Pulls { peers, slice: Some(slice), .. } = pulls else { return };
        let (Some(until), Some(peer)) = (slice.stored_until(), peers.get_mut(slice.peer)) else { return };
        if until < peer.position.until {
            let position = Position { until, ..peer.position };
            if position::write(self.relay.store().conn(), &peer.name, position).is_ok() {
                peer.position = position;
            }
        }
    }

    fn set_alarm_for_pulls(&mut self, pulls: &Pulls, now: Now) {
        if let Some(at) = pulls.alarm_at(now) {
            self.set_alarm_for(now, at);
        }
    }
}

/// Ends a slice, once what has come is stored.
fn end_slice(slice: &mut Slice, end: End) {
    // Valid events that have come are stored, also those of a relay that is cut off.
    if !matches!(slice.stage, Stage::Storing(_)) {
        slice.stage = Stage::Storing(end);
    }
}

/// The relays begin to talk.
fn begin_session(pulls: &mut Pulls, now: Now) {
    let Pulls { peers, slice: Some(slice), .. } = pulls else { return };
    let (Some(peer), Some(information)) = (peers.get_mut(slice.peer), slice.information) else { return };
    let mut progress = peer.progress.take().unwrap_or_default();
    progress.begin(slice.range);
    let (items, hidden) = (std::mem::take(&mut slice.items), std::mem::take(&mut slice.hidden));
    let local = LocalEvents { items, hidden, ..LocalEvents::default() };
    let session = Session::new(
        Arc::clone(&peer.plan),
        information,
        Arc::new(local),
        progress,
        Duration::ZERO,
        now.seconds(),
    );
    slice.session = Some((session, now));
    slice.stage = Stage::Talking;
}

/// Ends a slice at its bounds, or tells the session that nothing has come for long.
fn check_deadline(slice: &mut Slice, now: Now) {
    let is_at_its_end = slice.is_at_its_end(now);
    slice.is_over = is_at_its_end && !slice.is_too_late(now);
    let Some((session, begun)) = &mut slice.session else { return };
    let elapsed = Slice::elapsed(*begun, now);
    if is_at_its_end && slice.is_over {
        session.closed("the slice is over");
    } else if is_at_its_end {
        session.closed("a page of it takes minutes");
    } else if elapsed >= session.deadline() {
        session.timeout(elapsed);
    }
}
