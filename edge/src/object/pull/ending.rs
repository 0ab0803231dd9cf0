//! How a slice ends, and when the next one begins.

use std::time::Duration;

use relay_engine::types::{Now, Timestamp};
use relay_sync::backoff::Backoff;
use relay_sync::session::End;

use super::refused::{self, Refused};
use super::slice::{Slice, Stage};
use super::{Pulls, position};
use crate::object::{Host, Object, RowCountingConn};

/// Seconds between the slices of a comparison.
const PAUSE_SECONDS: u64 = 1;
/// The first wait after a failure, and the longest: it doubles with each, with jitter.
const BACKOFF_FIRST: Duration = Duration::from_secs(5);
const BACKOFF_LONGEST: Duration = Duration::from_secs(3_600);
/// Least seconds until a relay that was cut off is asked again.
const CUT_OFF_SECONDS: u64 = 3_600;
/// Events that this relay does not take, of one comparison, after which it is given up: their ids are in memory, so that they
/// are asked for once.
const SETTLED_MAX: usize = 100_000;

/// How a slice has ended.
enum Ended {
    /// A range is done.
    Range,
    /// By its own bounds, after it has made progress.
    Bounds,
    /// By the other relay or the network, or by its own bounds without progress.
    Failed(String),
    /// Because the other relay has sent wrong or unwanted data; it is cut off.
    CutOff(String),
}

impl<C: RowCountingConn + 'static, H: Host> Object<C, H> {
    /// Once a session has ended and all that came is stored: the next range, or the end of the slice.
    pub(super) fn end_if_stored(&mut self, pulls: &mut Pulls, now: Now) {
        let is_over = |slice: &Slice| slice.is_stored() && matches!(slice.stage, Stage::Storing(_));
        if !pulls.slice.as_ref().is_some_and(is_over) {
            return;
        }
        let Pulls { peers, slice: Some(slice), .. } = pulls else { return };
        let Stage::Storing(end) = std::mem::replace(&mut slice.stage, Stage::Connecting) else { return };
        let Some(peer) = peers.get_mut(slice.peer) else { return };
        let session = slice.session.take();
        let had_session = session.is_some();
        let mut progress = match session {
            Some((session, _)) => session.into_progress(),
            None => peer.progress.take().unwrap_or_default(),
        };
        let counts = std::mem::take(&mut progress.counts);
        let had_progress = std::mem::take(&mut progress.steps) > 0;
        peer.counters.wrong += counts.invalid + counts.unasked + counts.mismatched;
        let is_all_stored = slice.store_failed.is_none();
        let ended = match (slice.store_failed.take(), counts.lie(), end) {
            (Some(why), ..) => Ended::Failed(format!("this relay cannot store what it sends: {why}")),
            (None, Some(why), _) => Ended::CutOff(why.to_owned()),
            (None, None, End::Done) => Ended::Range,
            (None, None, End::Failed(why)) => Ended::CutOff(why),
            (None, None, End::Retry(_)) if slice.is_over && had_progress => Ended::Bounds,
            (None, None, End::Retry(_)) if slice.is_over => {
                Ended::Failed("its slice has ended, and nothing was copied".to_owned())
            }
            (None, None, End::Retry(why)) => Ended::Failed(why),
        };
        match &ended {
            Ended::Range => peer.position.until = slice.range.since.saturating_sub(1),
            Ended::Bounds | Ended::Failed(_) if had_session && is_all_stored => {
                let left = progress.left().map_or(slice.range.until, |left| left.until);
                peer.position.until = left.min(slice.range.until);
            }
            _ => {}
        }
        let is_complete = matches!(ended, Ended::Range) && slice.range.since <= peer.range(now).since;
        let (at, is_at_its_end) = (slice.peer, slice.is_at_its_end(now));
        peer.progress = Some(progress);
        match ended {
            _ if peer.progress.as_ref().is_some_and(|progress| progress.settled() > SETTLED_MAX) => {
                let why = format!(
                    "it has more than {SETTLED_MAX} events that this relay does not take: narrow its filter"
                );
                self.cut_off(pulls, now, at, &why);
            }
            Ended::Range if is_complete => {
                peer.counters.comparisons += 1;
                self.host.log(&format!("copying from {}: compared; {} events stored", peer.url, peer.stored));
                peer.begin_anew(now.seconds().saturating_add(peer.every_seconds));
                self.end_pull(pulls, now, at);
            }
            Ended::Range if !is_at_its_end => self.next_range(pulls, now),
            Ended::Range | Ended::Bounds => {
                (peer.position.failures, peer.position.due) = (0, now.seconds() + PAUSE_SECONDS);
                self.end_pull(pulls, now, at);
            }
            Ended::Failed(why) => {
                if had_progress {
                    peer.position.failures = 0;
                }
                self.slice_failed(pulls, now, at, &why);
            }
            Ended::CutOff(why) => self.cut_off(pulls, now, at, &why),
        }
    }

    /// The next range on the same connection.
    fn next_range(&mut self, pulls: &mut Pulls, now: Now) {
        let Pulls { peers, slice: Some(slice), .. } = pulls else { return };
        let Some(peer) = peers.get(slice.peer) else { return };
        let (filter, range) = peer.rest(now);
        (slice.range, slice.oldest) = (range, Timestamp::MAX);
        match self.scan_of(filter) {
            Ok(scan) => slice.stage = Stage::Scanning(Box::new(scan)),
            Err(error) => {
                let at = slice.peer;
                self.slice_failed(pulls, now, at, &format!("the store failed: {error}"));
            }
        }
    }

    /// The next slice is tried later, after a wait that grows with each failure in a row.
    pub(super) fn slice_failed(&mut self, pulls: &mut Pulls, now: Now, at: usize, why: &str) {
        let random = pulls.random();
        let Some(peer) = pulls.peers.get_mut(at) else { return };
        let mut backoff = Backoff::endless(BACKOFF_FIRST, BACKOFF_LONGEST).after(peer.position.failures);
        let wait = backoff.failed(false, random).unwrap_or(BACKOFF_LONGEST).as_secs().max(1);
        peer.position.failures = backoff.failures();
        peer.position.due = now.seconds().saturating_add(wait);
        peer.counters.failures += 1;
        self.host.log(&format!("copying from {}: {why}; again in {wait} s", peer.url));
        self.end_pull(pulls, now, at);
    }

    /// The relay is asked no more for a long time.
    fn cut_off(&mut self, pulls: &mut Pulls, now: Now, at: usize, why: &str) {
        let Some(peer) = pulls.peers.get_mut(at) else { return };
        let wait = peer.every_seconds.max(CUT_OFF_SECONDS);
        peer.begin_anew(now.seconds().saturating_add(wait));
        peer.counters.cut_offs += 1;
        self.host.log(&format!("copying from {}: cut off: {why}; again in {wait} s", peer.url));
        self.end_pull(pulls, now, at);
    }

    /// The slice is over: its connection is closed, and what the next one has to know is stored.
    fn end_pull(&mut self, pulls: &mut Pulls, now: Now, at: usize) {
        if let Some(slice) = pulls.slice.take() {
            self.host.close_peer(slice.conn);
        }
        let Pulls { peers, rules, .. } = pulls;
        let Some(peer) = peers.get_mut(at) else { return };
        let conn = self.relay.store().conn();
        // If it cannot be stored, it is asked for again.
        if let Err(error) = refused::write(conn, &peer.name, rules, &mut peer.refused) {
            self.host.log(&format!("copying from {}: what was refused is not stored: {error}", peer.url));
        }
        if peer.progress.is_none() {
            peer.refused = Refused::default();
        }
        if let Err(error) = position::write(conn, &peer.name, peer.position) {
            // What is in memory counts until it is lost; then the slice is repeated.
            self.host.log(&format!("copying from {}: its position is not stored: {error}", peer.url));
        }
        self.set_alarm_for_pulls(pulls, now);
    }
}
