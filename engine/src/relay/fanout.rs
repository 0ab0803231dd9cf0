//! From a committed or ephemeral event to the connections that asked for it.
//!
//! A subscription is live, scanning, or behind. While it scans what is stored, newer matches are only noted;
//! once the scan is done they are read back from the store by number. The same happens to a reader that is
//! slow: its events wait in the store, and it resumes after the last number it was sent. So there is no gap,
//! no duplicate and no queue that grows with a reader's slowness. Only ephemeral events cannot be read
//! back: past `outbox_bytes_max` they are not sent, and the reader is told how many it missed.

use std::sync::Arc;

use super::outbox::Frame;
use super::request::Request;
use super::session::ConnId;
use super::stream::StreamId;
use super::{Live, Relay, words};
use crate::index::SubSlot;
use crate::policy::may_see;
use crate::store::{Backend, Replayed, Seq};
use crate::types::{Event, EventId, Filter, Now, SubId, Timestamp};

/// Ephemeral events held for a subscription until its EOSE.
const HELD_MAX: usize = 256;

/// Whom a subscription belongs to.
#[derive(Debug)]
pub(super) enum Owner {
    Client { conn: ConnId, sub: SubId },
    Stream(StreamId),
}

/// A place in the order of answers.
pub(super) type Place = (Timestamp, EventId);

/// Where a subscription stands.
#[derive(Debug)]
pub(super) enum State {
    /// Stored events are being sent, up to a horizon. `missed`: a newer one has matched since.
    /// `last` is the place of the last stored event that was sent, if any was.
    Scanning { missed: bool, held: Vec<Event>, last: Option<Place> },
    /// Events are sent as they come.
    Live,
    /// Events above `live_after` are being read back from the store.
    Behind,
}

#[derive(Debug)]
pub(super) struct LiveSub {
    /// Tells this subscription from others that had or will have the slot.
    pub(super) serial: u64,
    pub(super) owner: Owner,
    /// `["EVENT","sub",`
    pub(super) head: Arc<[u8]>,
    pub(super) filters: Arc<[Filter]>,
    pub(super) state: State,
    /// Events up to this number have been sent, or will be by the scan.
    pub(super) live_after: Seq,
}

impl LiveSub {
    /// Bytes that the events it holds will take in its reader's outbox.
    pub(super) fn held_bytes(&self) -> usize {
        match &self.state {
            State::Scanning { held, .. } => held.iter().map(|event| frame_len(&self.head, event)).sum(),
            State::Live | State::Behind => 0,
        }
    }
}

impl LiveSub {
    /// Its reader cannot take this stored event now: it is read back from the store later.
    fn fall_behind(&mut self, seq: Seq) {
        self.state = State::Behind;
        self.live_after = Seq(seq.0 - 1);
    }

    /// A replay has come this far. Whether it is done, and the subscription live.
    pub(super) fn caught_up(&mut self, replayed: Replayed) -> bool {
        self.live_after = self.live_after.max(replayed.covered);
        if replayed.caught_up {
            self.state = State::Live;
        }
        replayed.caught_up
    }
}

fn frame_len(head: &Arc<[u8]>, event: &Event) -> usize {
    Frame { head, body: Some(&event.shared_json()) }.len()
}

/// Subscriptions by index slot.
#[derive(Debug, Default)]
pub(super) struct LiveSubs {
    slots: Vec<Option<LiveSub>>,
    serial: u64,
    clients: usize,
    /// The last stored event that was delivered.
    delivered: Seq,
    /// Scratch of [`Relay::deliver_live`].
    matched: Vec<SubSlot>,
}

impl LiveSubs {
    pub(super) fn insert_client(
        &mut self,
        slot: SubSlot,
        conn: ConnId,
        sub: SubId,
        filters: Arc<[Filter]>,
        state: State,
        live_after: Seq,
    ) -> u64 {
        let mut head = Vec::new();
        crate::wire::frames::event_head(&mut head, &sub);
        self.insert(
            slot,
            LiveSub {
                serial: 0,
                owner: Owner::Client { conn, sub },
                head: head.into(),
                filters,
                state,
                live_after,
            },
        )
    }

    pub(super) fn insert_stream(
        &mut self,
        slot: SubSlot,
        stream: StreamId,
        filters: Arc<[Filter]>,
        state: State,
        live_after: Seq,
    ) -> u64 {
        let owner = Owner::Stream(stream);
        self.insert(slot, LiveSub { serial: 0, owner, head: Arc::default(), filters, state, live_after })
    }

    fn insert(&mut self, slot: SubSlot, mut sub: LiveSub) -> u64 {
        self.serial += 1;
        sub.serial = self.serial;
        let place = slot.0 as usize;
        if self.slots.len() <= place {
            self.slots.resize_with(place + 1, || None);
        }
        debug_assert!(self.slots[place].is_none(), "a slot has one subscription");
        if matches!(sub.owner, Owner::Client { .. }) {
            self.clients += 1;
        }
        self.slots[place] = Some(sub);
        self.serial
    }

    pub(super) fn remove(&mut self, slot: SubSlot) -> Option<LiveSub> {
        let removed = self.slots[slot.0 as usize].take();
        if let Some(LiveSub { owner: Owner::Client { .. }, .. }) = removed {
            self.clients -= 1;
        }
        removed
    }

    /// The subscription, if it still is the one of this serial.
    pub(super) fn get_mut(&mut self, slot: SubSlot, serial: u64) -> Option<&mut LiveSub> {
        self.slots.get_mut(slot.0 as usize)?.as_mut().filter(|sub| sub.serial == serial)
    }

    fn slot_mut(&mut self, slot: SubSlot) -> Option<&mut LiveSub> {
        self.slots.get_mut(slot.0 as usize)?.as_mut()
    }

    /// Every stored event up to this number has been delivered, or was before this machine.
    pub(super) fn delivered(&self) -> Seq {
        self.delivered
    }

    pub(super) fn get(&self, slot: SubSlot) -> Option<&LiveSub> {
        self.slots.get(slot.0 as usize)?.as_ref()
    }

    pub(super) fn owner(&self, slot: SubSlot) -> Option<&Owner> {
        self.slots.get(slot.0 as usize)?.as_ref().map(|sub| &sub.owner)
    }

    /// Subscriptions of clients; streams are not counted.
    pub(super) fn clients(&self) -> usize {
        self.clients
    }
}

impl<B: Backend> Relay<B> {
    /// Events committed by any shard, this one's own included, in commit order; ephemeral events of other
    /// shards in any.
    pub fn handle_live(&mut self, now: Now, live: &[Live]) {
        for Live { seq, event } in live {
            self.deliver_live(now, *seq, event);
            self.live.delivered = self.live.delivered.max(seq.unwrap_or_default());
        }
    }

    /// Queues `event` for every subscription that matches. Costs what matches, not what is subscribed.
    pub(super) fn deliver_live(&mut self, now: Now, seq: Option<Seq>, event: &Event) {
        if event.is_expired(now.seconds()) && seq.is_some() {
            return;
        }
        let mut matched = std::mem::take(&mut self.live.matched);
        matched.clear();
        let stats = self.index.matches(event, &mut matched);
        self.metrics.fanout_candidates.record(stats.candidates as u64);
        self.metrics.fanout_matches.record(matched.len() as u64);
        for slot in &matched {
            match seq {
                Some(seq) => self.deliver_stored(*slot, seq, event),
                None => self.deliver_ephemeral(*slot, event),
            }
        }
        self.live.matched = matched;
    }

    /// Queues a stored event for one subscription, or notes that it is to be read back from the store.
    fn deliver_stored(&mut self, slot: SubSlot, seq: Seq, event: &Event) {
        let limits = &self.config.limits;
        let Some(live) = self.live.slot_mut(slot).filter(|live| seq > live.live_after) else { return };
        let replay = Request::Replay { slot, serial: live.serial };
        let conn = match &live.owner {
            Owner::Stream(stream) => {
                let Some(stream) = self.streams.get_mut(*stream) else { return };
                if let State::Live = live.state {
                    if stream.is_full(limits) {
                        live.fall_behind(seq);
                        stream.stalled = Some(replay);
                        self.metrics.streams_lagged += 1;
                    } else {
                        stream.push(Some(seq), event.clone());
                    }
                }
                return;
            }
            Owner::Client { conn, .. } => *conn,
        };
        let Some(session) = self.sessions.get_mut(conn) else { return };
        if !may_see(event.view(), &self.config.policy.guarded_kinds, session.auth.keys()) {
            return;
        }
        match &mut live.state {
            State::Scanning { missed, .. } => *missed = true,
            State::Behind => {}
            State::Live if session.is_slow(limits) => {
                live.fall_behind(seq);
                session.stalled.push(replay);
                self.metrics.subscriptions_lagged += 1;
                self.mark_changed(conn);
            }
            State::Live => self.push_live(slot, conn, event),
        }
    }

    /// Queues an ephemeral event for one subscription: it cannot be read back later.
    fn deliver_ephemeral(&mut self, slot: SubSlot, event: &Event) {
        let limits = &self.config.limits;
        let Some(live) = self.live.slot_mut(slot) else { return };
        let conn = match &live.owner {
            Owner::Stream(stream) => {
                let fitted =
                    self.streams.get_mut(*stream).is_none_or(|own| own.push_ephemeral(event.clone(), limits));
                self.metrics.ephemeral_missed += u64::from(!fitted);
                return;
            }
            Owner::Client { conn, .. } => *conn,
        };
        let Some(session) = self.sessions.get_mut(conn) else { return };
        if !may_see(event.view(), &self.config.policy.guarded_kinds, session.auth.keys()) {
            return;
        }
        let full = session.unread_bytes() + session.held_bytes >= limits.outbox_bytes_max;
        match &mut live.state {
            State::Scanning { held, .. } if held.len() < HELD_MAX && !full => {
                session.held_bytes += frame_len(&live.head, event);
                held.push(event.clone());
            }
            State::Live | State::Behind if !full => self.push_live(slot, conn, event),
            _ => {
                session.ephemeral_missed += 1;
                self.metrics.ephemeral_missed += 1;
                self.mark_changed(conn);
            }
        }
    }

    fn push_live(&mut self, slot: SubSlot, conn: ConnId, event: &Event) {
        let Some(Some(live)) = self.live.slots.get(slot.0 as usize) else { return };
        let Some(session) = self.sessions.get_mut(conn) else { return };
        session.outbox.push_event(live.head.clone(), event.shared_json());
        self.metrics.sent_event += 1;
        self.mark_ready(conn);
    }

    /// The reader has taken some output: what waited for it goes on.
    pub(super) fn after_drain(&mut self, conn: ConnId) {
        let limits = &self.config.limits;
        let Some(session) = self.sessions.get_mut(conn) else { return };
        if session.unread_bytes() > limits.outbox_bytes_pause / 2 {
            return;
        }
        let stalled = std::mem::take(&mut session.stalled);
        let missed = std::mem::take(&mut session.ephemeral_missed);
        for request in stalled {
            self.enqueue(request);
        }
        if missed > 0 {
            self.mark_changed(conn);
            self.send_notice(conn, &words::ephemeral_missed(missed));
        }
        self.resume_input(conn);
    }
}
