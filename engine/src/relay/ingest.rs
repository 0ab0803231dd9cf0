//! The way of an EVENT from its frame to the commit queue.
//!
//! Cheap refusals come first: what is known or in flight is answered before any hashing, what policy
//! refuses before the signature. In-flight events are keyed by (id, signature): the id does not cover the
//! signature, so a forged copy sent first must not make the valid one fail. Where ids are hashed by the batch, one in
//! flight may claim another's id; so an apparent copy is compared whole, and hashed at once if it differs.

use super::costs::EVENT_COST;
use super::hash::{KeyedMap, KeyedState};
use super::ids::{ConnId, Ticket};
use super::publish::PublishOutcome;
use super::queries::FairnessKey;
use super::{LiveEvent, Relay, VerifyBatch, VerifyResult, messages};
use crate::policy::{self, Candidate, Publisher, VANISH_KIND, names_relay};
use crate::store::{Backend, Op, Reader};
use crate::types::{Class, Event, EventId, Kind, Limits, Now, Sig, unescape};
use crate::verify::{Verdict, Verified, verify_one};
use crate::wire::{self, RawEvent};

/// A connection counts as small while it has at most a 256th of what may be in flight (`in_flight_events_max`, `in_flight_bytes_max`).
const SMALL_SHARE: usize = 256;

/// An event between its frame and its OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlightId(u32);

struct InFlightEvent {
    id: EventId,
    sig: Sig,
    kind: Kind,
    bytes: usize,
    tags: usize,
    fairness_key: FairnessKey,
    /// The event, if its id has not been compared with its hash yet (that is done with the batch).
    unhashed: Option<Event>,
    first: Sender,
    /// Others that sent the very same event meanwhile.
    others: Vec<Sender>,
}

/// The sender of an event, which receives its outcome; to `policy` it is a [`Publisher`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    Client(ConnId),
    /// The host itself, under this ticket.
    Host(Ticket),
    /// Another relay, from which the host copies events, under this ticket.
    Peer(Ticket),
}

/// Two events claim the same id and signature and differ otherwise: one of the ids is wrong.
struct Collision;

/// An event to verify, and whether its id is known to be its hash.
struct Admitted {
    event: Event,
    tags: usize,
    is_hashed: bool,
}

/// What to do with a received event.
enum Decision {
    /// It is to be verified.
    Verify(Admitted),
    /// No answer of its own: it shares that of a copy in flight, or its connection is gone.
    Joined,
    /// This is its answer.
    Answer(PublishOutcome),
}

impl Decision {
    fn refuse(message: impl Into<String>) -> Self {
        Decision::Answer(PublishOutcome::Refused(message.into()))
    }
}

/// Events on their way, and the batch that is filling.
pub(super) struct Ingest {
    in_flight_events: Vec<Option<InFlightEvent>>,
    free: Vec<u32>,
    by_key: KeyedMap<(EventId, Sig), InFlightId>,
    /// EVENT messages that have not been answered, copies included.
    messages: usize,
    /// Bytes of the events that are on their way.
    bytes: usize,
    batch: VerifyBatch,
    batch_opened: Now,
}

impl Ingest {
    pub(super) fn new(seed: u64) -> Self {
        Ingest {
            in_flight_events: Vec::new(),
            free: Vec::new(),
            by_key: KeyedMap::with_hasher(KeyedState::new(seed)),
            messages: 0,
            bytes: 0,
            batch: VerifyBatch::default(),
            batch_opened: Now::default(),
        }
    }

    /// Whether a connection may send more, which has `events` events of `bytes` bytes in flight. The second half of the
    /// capacity is reserved for connections with few events in flight, so that others cannot starve them.
    pub(super) fn has_capacity(&self, events: usize, bytes: usize, limits: &Limits) -> bool {
        let is_small = events <= limits.in_flight_events_max / SMALL_SHARE
            && bytes <= limits.in_flight_bytes_max / SMALL_SHARE;
        let share = if is_small { 1 } else { 2 };
        self.messages < limits.in_flight_events_max.div_ceil(share)
            && self.bytes < limits.in_flight_bytes_max.div_ceil(share)
    }

    pub(super) fn has_batch(&self) -> bool {
        !self.batch.is_empty()
    }

    /// When the batch that is filling must close for its age.
    pub(super) fn batch_deadline(&self, limits: &Limits) -> Option<Now> {
        (!self.batch.is_empty()).then(|| self.batch_opened.plus_millis(limits.verify_wait_ms_max))
    }

    fn insert(&mut self, in_flight: InFlightEvent) -> InFlightId {
        let key = (in_flight.id, in_flight.sig);
        self.messages += 1;
        self.bytes += in_flight.bytes;
        let id = match self.free.pop() {
            Some(slot) => {
                self.in_flight_events[slot as usize] = Some(in_flight);
                InFlightId(slot)
            }
            None => {
                self.in_flight_events.push(Some(in_flight));
                InFlightId((self.in_flight_events.len() - 1) as u32)
            }
        };
        self.by_key.insert(key, id);
        id
    }

    /// The event in flight that this one is a copy of.
    fn find_copy(&mut self, raw: &RawEvent<'_>) -> Result<Option<&mut InFlightEvent>, Collision> {
        let Some(id) = self.by_key.get(&(raw.id, raw.sig)) else { return Ok(None) };
        let in_flight =
            self.in_flight_events[id.0 as usize].as_mut().expect("each key names an event in flight");
        match &in_flight.unhashed {
            Some(event) if *event != raw.to_event() => Err(Collision),
            _ => Ok(Some(in_flight)),
        }
    }

    fn in_flight(&self, id: InFlightId) -> &InFlightEvent {
        self.in_flight_events[id.0 as usize].as_ref().expect("an event is answered once")
    }

    fn remove(&mut self, id: InFlightId) -> InFlightEvent {
        let in_flight = self.in_flight_events[id.0 as usize].take().expect("an event is answered once");
        // Another event may have taken the key over from one with a wrong id.
        if self.by_key.get(&(in_flight.id, in_flight.sig)) == Some(&id) {
            self.by_key.remove(&(in_flight.id, in_flight.sig));
        }
        self.free.push(id.0);
        self.messages -= 1 + in_flight.others.len();
        self.bytes -= in_flight.bytes;
        in_flight
    }
}

impl<B: Backend> Relay<B> {
    pub(super) fn handle_event(&mut self, now: Now, conn: ConnId, raw: &RawEvent<'_>) {
        self.metrics.messages_event += 1;
        self.receive_event(now, Sender::Client(conn), raw);
    }

    /// An event has come from a client or from the host.
    pub(super) fn receive_event(&mut self, now: Now, sender: Sender, raw: &RawEvent<'_>) {
        match self.decide(now, sender, raw) {
            Decision::Verify(admitted) => self.queue_to_verify(now, sender, admitted),
            Decision::Joined => {}
            Decision::Answer(outcome) => {
                if outcome.is_accepted() {
                    self.metrics.events_duplicate += 1;
                } else {
                    self.metrics.events_refused += 1;
                }
                self.send_outcome(sender, &raw.id, outcome);
            }
        }
    }

    fn decide(&mut self, now: Now, sender: Sender, raw: &RawEvent<'_>) -> Decision {
        let config = &*self.config;
        let mut session = match sender {
            Sender::Client(conn) => match self.sessions.get_mut(conn) {
                Some(session) => Some(session),
                None => return Decision::Joined,
            },
            Sender::Host(_) | Sender::Peer(_) => None,
        };
        if let Some(session) = &mut session {
            if !session.event_rate.take(config.limits.events_per_minute_max, now) {
                return Decision::refuse(messages::TOO_MANY_EVENTS);
            }
            if !self.address_rates.take_event(session.address, &config.limits, now) {
                return Decision::refuse(messages::TOO_MANY_EVENTS_OF_ADDRESS);
            }
            if !self.address_rates.has_fanout_budget(session.address, &config.limits, now) {
                return Decision::refuse(messages::TOO_MUCH_FANOUT_OF_ADDRESS);
            }
            if let Err(refused) = policy::admit_sender(&config.policy, session.auth.keys()) {
                self.challenge(sender);
                return Decision::refuse(messages::admission_error(&refused));
            }
        }
        let mut is_hashed = !self.verifier.prefers_batch_hashing();
        match self.ingest.find_copy(raw) {
            Ok(None) => {}
            Ok(Some(in_flight)) => {
                in_flight.others.push(sender);
                let bytes = in_flight.bytes;
                self.ingest.messages += 1;
                if let Some(session) = session {
                    session.in_flight += 1;
                    session.in_flight_bytes += bytes;
                }
                return Decision::Joined;
            }
            Err(Collision) => is_hashed = true,
        }
        match self.store.reader().and_then(|reader| reader.seq_of(&raw.id)) {
            Ok(None) => {}
            // What has expired is refused below, whether or not it has been swept.
            Ok(Some(_)) if raw.expires_at() <= now.seconds() => {}
            // It may have been stored when it had no effect here: an import knows another URL, or none.
            Ok(Some(_)) if raw.kind == VANISH_KIND => {}
            Ok(Some(_)) => return Decision::Answer(PublishOutcome::Duplicate),
            Err(error) => {
                let message = self.record_store_error(&error);
                return Decision::Answer(PublishOutcome::Failed(message.into()));
            }
        }
        let event = raw.to_event();
        let is_of_member = match (&config.policy.admission, sender) {
            (None, _) | (_, Sender::Host(_)) => Ok(true),
            (Some(admission), _) => self.members.admit(&self.store, admission, &event, now.seconds()),
        };
        let is_of_member = match is_of_member {
            Ok(is_of_member) => is_of_member,
            Err(error) => {
                let message = self.record_store_error(&error);
                return Decision::Answer(PublishOutcome::Failed(message.into()));
            }
        };
        let candidate = Candidate {
            id: event.id,
            pubkey: event.pubkey,
            created_at: event.created_at,
            kind: event.kind,
            tags: event.tags(),
            tag_count: raw.tag_count(),
            embeds_protected: matches!(event.kind, 6 | 16) && embeds_protected(event.view().raw_content()),
            content_chars: raw.content_chars(),
            json_bytes: event.json().len(),
            is_of_member,
        };
        let publisher = match (&session, sender) {
            (Some(session), _) => Publisher::Client { keys: session.auth.keys() },
            (None, Sender::Peer(_)) => Publisher::Client { keys: &[] },
            (None, _) => Publisher::Host,
        };
        let admitted = policy::admit(&candidate, &config.policy, &config.limits, publisher, now.seconds());
        if let Err(refused) = admitted {
            if refused.wants_auth() {
                self.challenge(sender);
            }
            let message = messages::admission_error(&refused);
            return match (refused, sender) {
                // Its time comes, and the host has signed it for a reason.
                (policy::AdmissionError::TooNew, Sender::Host(_)) => {
                    Decision::Answer(PublishOutcome::Failed(message))
                }
                _ => Decision::refuse(message),
            };
        }
        // Never the client's `Host` header: with `Host: other` a client could make other people's requests to vanish from other
        // relays take effect here.
        if event.kind == VANISH_KIND && !names_relay(&event, config.url.as_deref()) {
            return Decision::refuse(messages::VANISH_ELSEWHERE);
        }
        if is_hashed && raw.compute_id() != raw.id {
            return Decision::Answer(PublishOutcome::Forged(messages::WRONG_ID.into()));
        }
        Decision::Verify(Admitted { event, tags: raw.tag_count(), is_hashed })
    }

    fn challenge(&mut self, sender: Sender) {
        if let Sender::Client(conn) = sender {
            self.send_challenge(conn);
        }
    }

    fn queue_to_verify(&mut self, now: Now, sender: Sender, admitted: Admitted) {
        let Admitted { event, tags, is_hashed } = admitted;
        let mut fairness_key =
            if let Sender::Peer(_) = sender { FairnessKey::Peer } else { FairnessKey::Host };
        if let Sender::Client(conn) = sender {
            let Some(session) = self.sessions.get_mut(conn) else { return };
            fairness_key = FairnessKey::of(conn, session.address);
            session.in_flight += 1;
            session.in_flight_bytes += event.json().len();
            self.costs.charge_address(now, session.address, EVENT_COST);
        }
        let in_flight = InFlightEvent {
            id: event.id,
            sig: event.sig(),
            kind: event.kind,
            bytes: event.json().len(),
            tags,
            fairness_key,
            unhashed: (!is_hashed).then(|| event.clone()),
            first: sender,
            others: Vec::new(),
        };
        let id = self.ingest.insert(in_flight);
        if self.ingest.batch.is_empty() {
            self.ingest.batch_opened = now;
        }
        match is_hashed {
            true => self.ingest.batch.push(event, id),
            false => self.ingest.batch.push_unhashed(event, id),
        }
    }

    /// A batch to check, once it is full, old enough, or the host is `idle`: has no more input at hand.
    pub fn poll_verify(&mut self, now: Now, idle: bool) -> Option<VerifyBatch> {
        let limits = &self.config.limits;
        let batch = &self.ingest.batch;
        let closes = idle
            || batch.len() >= limits.verify_batch_max
            || now.millis_since(self.ingest.batch_opened) >= limits.verify_wait_ms_max;
        if batch.is_empty() || !closes {
            return None;
        }
        self.metrics.verify_batch_events.record(batch.len() as u64);
        Some(std::mem::take(&mut self.ingest.batch))
    }

    /// The verdicts on a batch.
    pub fn handle_verified(&mut self, now: Now, checked: VerifyResult) {
        let mut delivery_budget = self.delivery_budget();
        for (verdict, id) in checked {
            match verdict {
                Verdict::Invalid(_) => {
                    self.metrics.events_invalid_signature += 1;
                    let publisher = self.ingest.in_flight(id).fairness_key.address();
                    self.address_rates.spend_invalid_event(publisher, &self.config.limits, now);
                    self.finish(now, id, PublishOutcome::Forged(messages::WRONG_SIGNATURE.into()));
                }
                Verdict::WrongId(_) => {
                    self.finish(now, id, PublishOutcome::Forged(messages::WRONG_ID.into()))
                }
                Verdict::Valid(verified) => self.accept(now, verified, id, &mut delivery_budget),
            }
        }
        self.resume_after_ingest();
    }

    /// `budget`: what live delivery may cost now.
    fn accept(&mut self, now: Now, verified: Verified, id: InFlightId, budget: &mut usize) {
        let event = verified.event();
        self.costs.charge_author(now, event.pubkey, event.json().len());
        if event.class() == Class::Ephemeral {
            self.metrics.events_ephemeral += 1;
            let publisher = self.ingest.in_flight(id).fairness_key.address();
            let live = LiveEvent::ephemeral(verified.into_event(), publisher);
            self.deliver(now, &live, budget);
            self.forwarded.push_back(live);
            self.finish(now, id, PublishOutcome::Delivered);
        } else {
            let op = if event.kind == VANISH_KIND { Op::Vanish(verified) } else { Op::Put(verified) };
            let InFlightEvent { fairness_key, tags, .. } = *self.ingest.in_flight(id);
            self.commit_queue.push(op, id, fairness_key, tags);
        }
    }

    /// Answers all that sent this event and runs the messages that waited for it.
    pub(super) fn finish(&mut self, now: Now, id: InFlightId, outcome: PublishOutcome) {
        let in_flight = self.ingest.remove(id);
        match &outcome {
            PublishOutcome::Stored(_) | PublishOutcome::Delivered => {
                self.metrics.count_accepted(in_flight.kind)
            }
            PublishOutcome::Duplicate => {}
            PublishOutcome::Superseded
            | PublishOutcome::Forged(_)
            | PublishOutcome::Refused(_)
            | PublishOutcome::Failed(_) => self.metrics.events_refused += 1,
        }
        let of_copies = if outcome.is_accepted() { PublishOutcome::Duplicate } else { outcome.clone() };
        self.answer(now, in_flight.first, &in_flight.id, in_flight.bytes, outcome);
        for other in in_flight.others {
            self.answer(now, other, &in_flight.id, in_flight.bytes, of_copies.clone());
        }
    }

    fn answer(&mut self, now: Now, sender: Sender, id: &EventId, bytes: usize, outcome: PublishOutcome) {
        self.send_outcome(sender, id, outcome);
        let Sender::Client(conn) = sender else { return };
        let Some(session) = self.sessions.get_mut(conn) else { return };
        session.in_flight -= 1;
        session.in_flight_bytes -= bytes;
        if session.in_flight == 0 && !session.deferred.is_empty() {
            self.run_deferred(now, conn);
        }
    }

    pub(super) fn send_outcome(&mut self, sender: Sender, id: &EventId, outcome: PublishOutcome) {
        match sender {
            Sender::Client(conn) => {
                let (accepted, message) = messages::ok_message(&outcome);
                self.send_ok(conn, id, accepted, message);
            }
            Sender::Host(ticket) => self.published.push(ticket, outcome),
            Sender::Peer(ticket) => self.published.push_of_peer(ticket, outcome),
        }
    }

    /// NIP-42. Verified immediately, so that messages sent right after it are authenticated.
    pub(super) fn handle_auth(&mut self, now: Now, conn: ConnId, raw: &RawEvent<'_>) {
        self.metrics.messages_auth += 1;
        let Some(session) = self.sessions.get_mut(conn) else { return };
        // It costs a signature check, as an event does.
        if !session.event_rate.take(self.config.limits.events_per_minute_max, now) {
            return self.send_ok(conn, &raw.id, false, messages::TOO_MANY_EVENTS);
        }
        if !self.address_rates.take_event(session.address, &self.config.limits, now) {
            return self.send_ok(conn, &raw.id, false, messages::TOO_MANY_EVENTS_OF_ADDRESS);
        }
        let event = raw.to_event();
        let checked = session.auth.check(&event, &self.config.limits, now.seconds());
        let mut refusal = checked.err().map(messages::auth_error);
        if refusal.is_none() && raw.compute_id() != raw.id {
            refusal = Some(messages::WRONG_ID);
        }
        if refusal.is_none() {
            match verify_one(&*self.verifier, event) {
                Some(verified) => {
                    session.auth.add(verified.event().pubkey);
                    self.mark_changed(conn);
                }
                None => refusal = Some(messages::WRONG_SIGNATURE),
            }
        }
        self.send_ok(conn, &raw.id, refusal.is_none(), refusal.unwrap_or_default());
    }
}

/// NIP-70: whether a repost's content is an event that its author protected.
fn embeds_protected(raw_content: &[u8]) -> bool {
    // Most reposts carry nothing, and few carry a tag that looks like one. A hyphen may be escaped, but not
    // without these two bytes, however often it is.
    let may_have_hyphen =
        memchr::memchr(b'-', raw_content).is_some() || memchr::memmem::find(raw_content, b"\\u").is_some();
    if !may_have_hyphen {
        return false;
    }
    let content = unescape(raw_content);
    wire::parse_event(&content).is_ok_and(|inner| policy::is_protected(inner.to_event().tags()))
}
