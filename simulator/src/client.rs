//! A client: its messages, the frames it receives, and the checks of each frame.
//!
//! A client knows only its own connection. Frames are compared with the [`History`] of the store; the machine's own
//! state is never consulted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use relay_engine::relay::ConnId;
use relay_engine::store::Seq;
use relay_engine::types::{Class, Event, EventId, Filter, PubKey, Timestamp};
use serde_json::Value;

use super::history::{History, NOT_REMOVED};
use super::pool::{Pool, may_see};

/// What really happened, which clients compare their frames with.
pub(super) struct GroundTruth<'a> {
    /// The events and filters that clients send.
    pub(super) pool: &'a Pool,
    /// Which events were stored in which version.
    pub(super) history: &'a History,
    /// How often each validly signed ephemeral event was sent to a shard, and the step of the last time.
    pub(super) ephemeral: &'a HashMap<EventId, (usize, u64)>,
    /// Events for which any client received `OK true`.
    pub(super) accepted: &'a HashSet<EventId>,
    /// `limit_default` and `limit_max`.
    pub(super) limits: (u32, u32),
    /// The time.
    pub(super) now: Timestamp,
    /// The step of the simulation.
    pub(super) step: u64,
}

/// A message that the client has sent.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// The WebSocket message.
    pub(super) text: String,
    /// What it is, for the checks of its answer.
    pub(super) meaning: Meaning,
}

/// What a message means.
#[derive(Clone, Debug)]
pub(super) enum Meaning {
    /// An EVENT under this id, and whether its signature and id are valid.
    Event(EventId, bool),
    /// An AUTH event of this id and author.
    Auth(EventId, PubKey),
    /// A REQ.
    Req(String, Vec<Filter>),
    /// A COUNT.
    Count(String),
    /// A CLOSE.
    Close(String),
    /// A REQ that is refused with CLOSED, which also ends an open subscription of that id.
    BadReq(String),
    /// A message whose answer is not tracked: a NOTICE, an answer to an id that no other message uses, or none.
    Untracked,
}

/// A subscription as its client knows it.
#[derive(Debug)]
pub(super) struct Sub {
    /// The filters of its REQ.
    pub(super) filters: Vec<Filter>,
    /// The filters of the subscription that this one replaces, while frames of that one may still arrive.
    replaces: Option<Vec<Filter>>,
    /// The version of the store when the host read the REQ.
    read_in: u64,
    /// Whether the relay handled it in that version: no earlier message was unanswered for which it may have waited.
    runs_immediately: bool,
    /// Its position among the messages of the connection.
    position: u64,
    /// Keys that were certainly authenticated when it was read.
    keys: Vec<PubKey>,
    /// Version of the store and step of the simulation at its EOSE.
    pub(super) eose_at: Option<(u64, u64)>,
    /// The hint of the EOSE (NIP-67).
    pub(super) hint: Option<String>,
    /// CLOSED was received.
    pub(super) ended: bool,
    /// The host has read a CLOSE, or a refused REQ of the same id, which ends it too.
    closing: bool,
    /// A `CLOSED error:` was received that was meant either for this one or for the one that it replaces.
    may_have_failed: bool,
    /// Bad REQs of this id whose CLOSED has not been received.
    refusals: usize,
    /// Events it was sent, in order.
    pub(super) seen: Vec<EventId>,
    last_stored: Option<(Reverse<Timestamp>, EventId)>,
    last_seq: Seq,
}

/// An EVENT or AUTH without its OK.
#[derive(Clone, Copy, Debug)]
struct Unanswered {
    /// Its position among the messages of the connection.
    position: u64,
    id: EventId,
    is_good: bool,
    /// The key that an AUTH authenticates.
    key: Option<PubKey>,
}

/// A connection from the client's side.
#[derive(Debug)]
pub(super) struct Client {
    /// The shard it is connected to.
    pub(super) shard: usize,
    /// Its connection in that shard.
    pub(super) conn: ConnId,
    /// Messages sent and not yet read by the host.
    pub(super) socket: VecDeque<Message>,
    /// The host has stopped reading from it.
    pub(super) paused: bool,
    /// The machine has named it in `poll_ready`.
    pub(super) ready: bool,
    /// Subscriptions by id, ended ones included.
    pub(super) subs: BTreeMap<String, Sub>,
    /// Answers to COUNT, `None` while there is none.
    pub(super) counts: BTreeMap<String, Option<Value>>,
    /// From its AUTH frame.
    pub(super) challenge: Option<String>,
    /// Everything has been answered: nothing more may arrive unless something new happens.
    pub(super) idle: bool,
    /// Ids made so far.
    pub(super) ids_made: u32,
    /// Events for which it received `OK true`.
    pub(super) accepted: Vec<EventId>,
    /// Frames received.
    pub(super) frames: usize,
    /// Messages of this connection that the host has read.
    messages_read: u64,
    unanswered: Vec<Unanswered>,
    keys: Vec<PubKey>,
    keys_possible: Vec<PubKey>,
    missed_ephemeral: bool,
}

impl Client {
    /// A new connection.
    pub(super) fn new(shard: usize, conn: ConnId) -> Self {
        Client {
            shard,
            conn,
            socket: VecDeque::new(),
            paused: false,
            ready: false,
            subs: BTreeMap::new(),
            counts: BTreeMap::new(),
            challenge: None,
            idle: false,
            ids_made: 0,
            accepted: Vec::new(),
            frames: 0,
            messages_read: 0,
            unanswered: Vec::new(),
            keys: Vec::new(),
            keys_possible: Vec::new(),
            missed_ephemeral: false,
        }
    }

    /// Keys that are certainly authenticated.
    pub(super) fn keys(&self) -> &[PubKey] {
        &self.keys
    }

    /// The host has read a message: from here on it may be answered.
    pub(super) fn on_host_read(&mut self, meaning: Meaning, history: &History) {
        self.messages_read += 1;
        let position = self.messages_read;
        match meaning {
            Meaning::Event(id, is_good) => {
                self.unanswered.push(Unanswered { position, id, is_good, key: None })
            }
            Meaning::Auth(id, key) => {
                self.keys_possible.push(key);
                self.unanswered.push(Unanswered { position, id, is_good: true, key: Some(key) });
            }
            Meaning::Req(id, filters) => {
                let runs_immediately = self.unanswered.is_empty()
                    && self.subs.values().all(|sub| sub.eose_at.is_some() || sub.ended)
                    && self.counts.values().all(Option::is_some);
                let replaces = self.subs.remove(&id).filter(|sub| !sub.ended).map(|sub| sub.filters);
                let sub = Sub {
                    filters,
                    replaces,
                    read_in: history.version,
                    runs_immediately,
                    position,
                    keys: self.keys.clone(),
                    eose_at: None,
                    hint: None,
                    ended: false,
                    closing: false,
                    may_have_failed: false,
                    refusals: 0,
                    seen: Vec::new(),
                    last_stored: None,
                    last_seq: Seq(0),
                };
                self.subs.insert(id, sub);
            }
            Meaning::Count(id) => drop(self.counts.insert(id, None)),
            Meaning::Close(id) => {
                if let Some(sub) = self.subs.get_mut(&id) {
                    sub.closing = true;
                }
            }
            Meaning::BadReq(id) => {
                if let Some(sub) = self.subs.get_mut(&id) {
                    sub.closing = true;
                    sub.refusals += 1;
                }
            }
            Meaning::Untracked => {}
        }
    }

    /// Checks a frame that has been received.
    ///
    /// # Panics
    /// If the relay may not send it now.
    pub(super) fn receive(&mut self, frame: &[u8], truth: &GroundTruth<'_>) {
        self.frames += 1;
        let value: Value = serde_json::from_slice(frame).expect("frames are JSON");
        let text = |at: usize| value[at].as_str().unwrap_or_default().to_owned();
        match text(0).as_str() {
            "EVENT" => {
                let head = format!("[\"EVENT\",{},", serde_json::to_string(&value[1]).expect("a string"));
                let body = frame.strip_prefix(head.as_bytes()).and_then(|rest| rest.strip_suffix(b"]"));
                self.receive_event(&text(1), body.expect("an event frame holds an event"), truth);
            }
            "OK" => {
                let id = EventId::from_hex(text(1).as_bytes()).expect("OK names an id");
                self.receive_ok(id, value[2].as_bool().expect("a boolean"), &text(3), truth);
            }
            "EOSE" => {
                let hint = value.get(2).map(|hint| hint[0].as_str().expect("a hint is a string").to_owned());
                self.receive_eose(&text(1), hint, truth);
            }
            "CLOSED" => self.receive_closed(&text(1), &text(2)),
            "COUNT" => {
                let answer = self.counts.get_mut(&text(1)).expect("COUNT answers a COUNT");
                assert!(answer.is_none(), "a COUNT is answered once");
                *answer = Some(value[2].clone());
            }
            "AUTH" => self.challenge = Some(text(1)),
            "NEG-ERR" => {
                assert_eq!(text(1), "never", "the id of the NEG-MSG");
                check_message(&text(2), &["closed"]);
            }
            "NOTICE" => self.missed_ephemeral |= text(1).contains("ephemeral"),
            other => panic!("an unknown frame: {other}"),
        }
    }

    fn receive_ok(&mut self, id: EventId, accepted: bool, message: &str, truth: &GroundTruth<'_>) {
        let proven_bad = !accepted && (message.contains("signature") || message.contains("hash"));
        let first = |client: &Client, fits: &dyn Fn(&Unanswered) -> bool| {
            client.unanswered.iter().position(|publish| publish.id == id && fits(publish))
        };
        let index = if proven_bad {
            first(self, &|publish| !publish.is_good).expect("a good event is not refused as a bad one")
        } else {
            first(self, &|_| true).expect("each OK answers an EVENT or AUTH")
        };
        let Unanswered { key, is_good, .. } = self.unanswered.remove(index);
        // Of several copies it is unknown which was answered: if not the bad one, its refusal is still to come.
        if !is_good
            && !proven_bad
            && let Some(other) = first(self, &|publish| publish.is_good)
        {
            self.unanswered[other].is_good = false;
        }
        if !accepted {
            check_message(message, &["invalid", "blocked", "error", "auth-required", "restricted"]);
        }
        match key {
            Some(key) if accepted => self.keys.push(key),
            Some(_) => {}
            None if accepted => {
                let was_stored = truth.history.entries_of(id).next().is_some();
                let was_live = truth.ephemeral.contains_key(&id);
                assert!(was_stored || was_live, "OK true of {id} before it is stored");
                self.accepted.push(id);
            }
            None => {}
        }
    }

    fn receive_eose(&mut self, id: &str, hint: Option<String>, truth: &GroundTruth<'_>) {
        let first_unanswered = self.unanswered.iter().map(|unanswered| unanswered.position).min();
        let sub = self.subs.get_mut(id).expect("EOSE answers a REQ");
        assert!(!sub.ended && sub.eose_at.is_none(), "one EOSE for {id}");
        assert!(!(self.idle && sub.closing), "nothing after CLOSE for {id}");
        assert!(
            first_unanswered.is_none_or(|position| position > sub.position),
            "events before {id} were answered"
        );
        let version = truth.history.version;
        sub.eose_at = Some((version, truth.step));
        sub.hint = hint;
        sub.replaces = None;
        for entry in &truth.history.entries {
            let must = !entry.event.is_expired(truth.now)
                && may_see(&entry.event, &sub.keys)
                && truth.history.must_answer(entry, &sub.filters, truth.limits, sub.read_in, version);
            assert!(!must || sub.seen.contains(&entry.event.id), "{id} is not sent {:?}", entry.event);
        }
    }

    fn receive_closed(&mut self, id: &str, message: &str) {
        let prefixes =
            ["invalid", "unsupported", "error", "blocked", "auth-required", "restricted", "rate-limited"];
        check_message(message, &prefixes);
        if let Some(answer) = self.counts.get_mut(id) {
            assert!(answer.is_none(), "a COUNT is answered once");
            *answer = Some(Value::Null);
        }
        if let Some(sub) = self.subs.get_mut(id) {
            if sub.replaces.is_some() && !sub.may_have_failed && message.starts_with("error") {
                sub.may_have_failed = true;
                return;
            }
            if message.starts_with("unsupported") {
                // The store may have failed the subscription before the REQ that is refused came.
                sub.refusals = sub.refusals.checked_sub(1).expect("one CLOSED for a bad REQ");
            } else {
                assert!(!sub.ended, "one CLOSED for {id}");
            }
            sub.ended = true;
        }
    }

    fn receive_event(&mut self, id: &str, json: &[u8], truth: &GroundTruth<'_>) {
        let text = String::from_utf8_lossy(json);
        let event = Event::from_canonical(json.into());
        let signed = truth.pool.signed(&event.id).expect("only signed events are sent");
        assert_eq!(signed.json(), json, "only verified events are sent");
        assert!(may_see(&event, &self.keys_possible), "{text} is private");
        let first_unanswered = self.unanswered.iter().map(|unanswered| unanswered.position).min();
        let sub = self.subs.get_mut(id).expect("events are for subscriptions");
        assert!(!sub.ended, "nothing after CLOSED for {id}");
        assert!(!(self.idle && sub.closing), "nothing after CLOSE for {id}");
        let matches = |filters: &[Filter]| filters.iter().any(|filter| filter.matches(&event));
        assert!(
            matches(&sub.filters) || sub.replaces.as_deref().is_some_and(matches),
            "{text} does not match the filters of {id}"
        );
        let copies_max = match event.class() {
            Class::Ephemeral => truth.ephemeral.get(&event.id).map_or(0, |sent| sent.0),
            _ => truth.history.entries_of(event.id).count(),
        };
        assert!(copies_max > 0, "{text} is sent but was never accepted");
        if sub.replaces.is_some() {
            // Frames of the replaced subscription look the same.
            if matches(&sub.filters) {
                sub.seen.push(event.id);
            }
            return;
        }
        assert!(
            first_unanswered.is_none_or(|position| position > sub.position),
            "events before {id} were answered"
        );
        sub.seen.push(event.id);
        if event.class() == Class::Ephemeral {
            assert!(sub.eose_at.is_some(), "{id}: an ephemeral event among stored ones");
        } else if sub.eose_at.is_none() {
            let key = (Reverse(event.created_at), event.id);
            assert!(sub.last_stored.is_none_or(|last| last < key), "{id}: stored events in order: {text}");
            sub.last_stored = Some(key);
        } else {
            let later =
                truth.history.entries_of(event.id).map(|entry| entry.seq).find(|seq| *seq > sub.last_seq);
            sub.last_seq =
                later.unwrap_or_else(|| panic!("{id}: live events in the order of commits: {text}"));
        }
        let copies = sub.seen.iter().filter(|seen| **seen == event.id).count();
        assert!(copies <= copies_max, "{id} is sent {text} twice");
    }

    /// Checks, once the relay is idle, that every request has been answered and no event is missing.
    ///
    /// # Panics
    /// If one is.
    pub(super) fn check_complete(&self, truth: &GroundTruth<'_>) {
        assert!(self.unanswered.is_empty(), "without an OK: {:?}", self.unanswered);
        for (id, answer) in &self.counts {
            assert!(answer.is_some(), "COUNT {id} without an answer");
        }
        for (id, sub) in &self.subs {
            if sub.ended || sub.closing || (sub.may_have_failed && sub.eose_at.is_none()) {
                continue;
            }
            let (version, step) = sub.eose_at.unwrap_or_else(|| panic!("REQ {id} without an EOSE"));
            let live_since = if sub.runs_immediately { sub.read_in } else { version };
            let wants = |event: &Event| {
                !event.is_expired(truth.now)
                    && may_see(event, &sub.keys)
                    && sub.filters.iter().any(|filter| filter.matches(event))
            };
            for entry in truth
                .history
                .entries
                .iter()
                .filter(|entry| entry.added_in > live_since && entry.removed_in == NOT_REMOVED)
            {
                let got = sub.seen.contains(&entry.event.id);
                assert!(got || !wants(&entry.event), "{id} is never sent {:?}", entry.event);
            }
            for (id, (times, sent)) in truth.ephemeral {
                let event = truth.pool.signed(id).expect("only signed ones are recorded");
                // Of several copies it is unknown which was accepted.
                let was_accepted = *times == 1 && truth.accepted.contains(id);
                let must_arrive = was_accepted && *sent > step && !self.missed_ephemeral && wants(event);
                assert!(!must_arrive || sub.seen.contains(&event.id), "{event:?} is never sent");
            }
        }
    }

    /// A new subscription id.
    pub(super) fn new_id(&mut self, prefix: &str) -> String {
        self.ids_made += 1;
        format!("{prefix}{}", self.ids_made)
    }

    /// Ids of subscriptions that are live, as far as the client knows.
    pub(super) fn live(&self) -> Vec<String> {
        let is_live = |sub: &Sub| sub.eose_at.is_some() && !sub.ended && !sub.closing;
        self.subs.iter().filter(|(_, sub)| is_live(sub)).map(|(id, _)| id.clone()).collect()
    }
}

fn check_message(message: &str, prefixes: &[&str]) {
    let prefix = message.split_once(": ").map(|(prefix, _)| prefix);
    assert!(prefix.is_some_and(|prefix| prefixes.contains(&prefix)), "a message with a prefix: {message:?}");
}
