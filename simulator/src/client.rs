//! One client's connection: what it says, what it is told, and what it may and must be told.
//!
//! A client knows only its own frames. What is right is looked up in the [`History`] of the store, never
//! asked of the machine.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use relay_engine::relay::ConnId;
use relay_engine::store::Seq;
use relay_engine::types::{Class, Event, EventId, Filter, PubKey, Timestamp};
use serde_json::Value;

use super::history::{FOREVER, History};
use super::pool::{Pool, may_see};

/// What all clients are judged by.
pub(super) struct Truth<'a> {
    /// Everything that may be said.
    pub(super) pool: &'a Pool,
    /// What was stored when.
    pub(super) history: &'a History,
    /// How often each signed ephemeral event was handed to a shard, and the step of the last time.
    pub(super) ephemeral: &'a HashMap<EventId, (usize, u64)>,
    /// What any client was told is accepted.
    pub(super) acked: &'a HashSet<EventId>,
    /// `limit_default` and `limit_max`.
    pub(super) limits: (u32, u32),
    /// The time.
    pub(super) now: Timestamp,
    /// The step of the simulation.
    pub(super) step: u64,
}

/// A message on its way to the host.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// The bytes.
    pub(super) text: String,
    /// What they mean.
    pub(super) meaning: Meaning,
}

/// What a message means.
#[derive(Clone, Debug)]
pub(super) enum Meaning {
    /// An event of this id, and whether it is signed and its hash.
    Event(EventId, bool),
    /// An AUTH event of this id and author.
    Auth(EventId, PubKey),
    /// A subscription.
    Req(String, Vec<Filter>),
    /// A count.
    Count(String),
    /// The end of a subscription.
    Close(String),
    /// A REQ that must be refused, and ends the subscription of that id if there is one.
    BadReq(String),
    /// Something to be answered by a NOTICE, by an answer to an id that nothing else has, or not at all.
    Junk,
}

/// A subscription as its client knows it.
#[derive(Debug)]
pub(super) struct Sub {
    /// What is asked.
    pub(super) filters: Vec<Filter>,
    /// What the subscription that this one replaces asked, until its frames cannot come any more.
    replaces: Option<Vec<Filter>>,
    /// The version of the store when the host took the REQ.
    handed: u64,
    /// Whether it took effect in that version: there was nothing before it that it may have waited for.
    at_once: bool,
    /// Messages handed before it.
    number: u64,
    /// Keys authenticated for sure when it was handed.
    keys: Vec<PubKey>,
    /// Version of the store and step of the simulation at its EOSE.
    pub(super) answered: Option<(u64, u64)>,
    /// What the EOSE said (NIP-67).
    pub(super) hint: Option<String>,
    /// CLOSED came.
    pub(super) ended: bool,
    /// CLOSE, or what ends it all the same, was handed.
    closing: bool,
    /// An error closed this one or the one that it replaces.
    doubtful: bool,
    /// Bad REQs of this id that wait for their CLOSED.
    refusals: usize,
    /// Events it was sent, in order.
    pub(super) seen: Vec<EventId>,
    last_stored: Option<(Reverse<Timestamp>, EventId)>,
    last_seq: Seq,
}

/// An EVENT or AUTH without its OK.
#[derive(Clone, Copy, Debug)]
struct Outstanding {
    /// Messages handed before it.
    number: u64,
    id: EventId,
    is_good: bool,
    /// Whom it authenticates.
    key: Option<PubKey>,
}

/// A connection from the client's side.
#[derive(Debug)]
pub(super) struct Client {
    /// Where it is connected.
    pub(super) shard: usize,
    /// As the shard knows it.
    pub(super) conn: ConnId,
    /// Sent, and not read by the host.
    pub(super) socket: VecDeque<Message>,
    /// The host has stopped reading.
    pub(super) paused: bool,
    /// The host knows of output.
    pub(super) ready: bool,
    /// Subscriptions by id, ended ones too.
    pub(super) subs: BTreeMap<String, Sub>,
    /// Answers to COUNT.
    pub(super) counts: BTreeMap<String, Option<Value>>,
    /// From its AUTH frame.
    pub(super) challenge: Option<String>,
    /// Nothing more may come unless it asks or something happens.
    pub(super) settled: bool,
    /// Numbers for new ids.
    pub(super) named: u32,
    /// Events accepted, as it was told.
    pub(super) accepted: Vec<EventId>,
    /// Frames it got.
    pub(super) frames: usize,
    handed: u64,
    outstanding: Vec<Outstanding>,
    keys: Vec<PubKey>,
    keys_possible: Vec<PubKey>,
    missed_ephemeral: bool,
}

impl Client {
    /// A connection that has said and heard nothing.
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
            settled: false,
            named: 0,
            accepted: Vec::new(),
            frames: 0,
            handed: 0,
            outstanding: Vec::new(),
            keys: Vec::new(),
            keys_possible: Vec::new(),
            missed_ephemeral: false,
        }
    }

    /// Keys that are authenticated for sure.
    pub(super) fn keys(&self) -> &[PubKey] {
        &self.keys
    }

    /// The host takes a message: from here on it may be answered.
    pub(super) fn hand(&mut self, meaning: Meaning, history: &History) {
        self.handed += 1;
        let number = self.handed;
        match meaning {
            Meaning::Event(id, is_good) => {
                self.outstanding.push(Outstanding { number, id, is_good, key: None })
            }
            Meaning::Auth(id, key) => {
                self.keys_possible.push(key);
                self.outstanding.push(Outstanding { number, id, is_good: true, key: Some(key) });
            }
            Meaning::Req(id, filters) => {
                let at_once = self.outstanding.is_empty()
                    && self.subs.values().all(|sub| sub.answered.is_some() || sub.ended)
                    && self.counts.values().all(Option::is_some);
                let replaces = self.subs.remove(&id).filter(|sub| !sub.ended).map(|sub| sub.filters);
                let sub = Sub {
                    filters,
                    replaces,
                    handed: history.version,
                    at_once,
                    number,
                    keys: self.keys.clone(),
                    answered: None,
                    hint: None,
                    ended: false,
                    closing: false,
                    doubtful: false,
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
            Meaning::Junk => {}
        }
    }

    /// A frame arrives.
    ///
    /// # Panics
    /// If it is not one that may come now.
    pub(super) fn receive(&mut self, frame: &[u8], truth: &Truth<'_>) {
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
                self.receive_ok(id, value[2].as_bool().expect("yes or no"), &text(3), truth);
            }
            "EOSE" => {
                let hint = value.get(2).map(|hint| hint[0].as_str().expect("a hint is a word").to_owned());
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
                assert_eq!(text(1), "never", "the id of the NEG-OPEN");
                check_words(&text(2), &["unsupported"]);
            }
            "NOTICE" => self.missed_ephemeral |= text(1).contains("ephemeral"),
            other => panic!("an unknown frame: {other}"),
        }
    }

    fn receive_ok(&mut self, id: EventId, accepted: bool, words: &str, truth: &Truth<'_>) {
        let proven_bad = !accepted && (words.contains("signature") || words.contains("hash"));
        let first = |client: &Client, fits: &dyn Fn(&Outstanding) -> bool| {
            client.outstanding.iter().position(|own| own.id == id && fits(own))
        };
        let place = if proven_bad {
            first(self, &|own| !own.is_good).expect("a good event is not refused as a bad one")
        } else {
            first(self, &|_| true).expect("each OK answers an EVENT or AUTH")
        };
        let Outstanding { key, is_good, .. } = self.outstanding.remove(place);
        // Of several copies, nobody knows which was answered: if not the bad one, it is still to come.
        if !is_good
            && !proven_bad
            && let Some(other) = first(self, &|own| own.is_good)
        {
            self.outstanding[other].is_good = false;
        }
        if !accepted {
            check_words(words, &["invalid", "blocked", "error", "auth-required", "restricted"]);
        }
        match key {
            Some(key) if accepted => self.keys.push(key),
            Some(_) => {}
            None if accepted => {
                let was_stored = truth.history.stays_of(id).next().is_some();
                let was_live = truth.ephemeral.contains_key(&id);
                assert!(was_stored || was_live, "OK true of {id} before it is stored");
                self.accepted.push(id);
            }
            None => {}
        }
    }

    fn receive_eose(&mut self, id: &str, hint: Option<String>, truth: &Truth<'_>) {
        let first_outstanding = self.outstanding.iter().map(|outstanding| outstanding.number).min();
        let sub = self.subs.get_mut(id).expect("EOSE answers a REQ");
        assert!(!sub.ended && sub.answered.is_none(), "one EOSE for {id}");
        assert!(!(self.settled && sub.closing), "nothing after CLOSE for {id}");
        assert!(
            first_outstanding.is_none_or(|number| number > sub.number),
            "events before {id} were answered"
        );
        let version = truth.history.version;
        sub.answered = Some((version, truth.step));
        sub.hint = hint;
        sub.replaces = None;
        for stay in &truth.history.stays {
            let must = !stay.event.is_expired(truth.now)
                && may_see(&stay.event, &sub.keys)
                && truth.history.must_answer(stay, &sub.filters, truth.limits, sub.handed, version);
            assert!(!must || sub.seen.contains(&stay.event.id), "{id} is not sent {:?}", stay.event);
        }
    }

    fn receive_closed(&mut self, id: &str, words: &str) {
        let prefixes =
            ["invalid", "unsupported", "error", "blocked", "auth-required", "restricted", "rate-limited"];
        check_words(words, &prefixes);
        if let Some(answer) = self.counts.get_mut(id) {
            assert!(answer.is_none(), "a COUNT is answered once");
            *answer = Some(Value::Null);
        }
        if let Some(sub) = self.subs.get_mut(id) {
            if sub.replaces.is_some() && !sub.doubtful && words.starts_with("error") {
                sub.doubtful = true;
                return;
            }
            if words.starts_with("unsupported") {
                // The store may have failed the subscription before the REQ that is refused came.
                sub.refusals = sub.refusals.checked_sub(1).expect("one CLOSED for a bad REQ");
            } else {
                assert!(!sub.ended, "one CLOSED for {id}");
            }
            sub.ended = true;
        }
    }

    fn receive_event(&mut self, id: &str, json: &[u8], truth: &Truth<'_>) {
        let text = String::from_utf8_lossy(json);
        let event = Event::from_canonical(json.into());
        let signed = truth.pool.signed(&event.id).expect("only what somebody signed is sent");
        assert_eq!(signed.json(), json, "only what was verified is sent");
        assert!(may_see(&event, &self.keys_possible), "{text} is private");
        let first_outstanding = self.outstanding.iter().map(|outstanding| outstanding.number).min();
        let sub = self.subs.get_mut(id).expect("events are for subscriptions");
        assert!(!sub.ended, "nothing after CLOSED for {id}");
        assert!(!(self.settled && sub.closing), "nothing after CLOSE for {id}");
        let matches = |filters: &[Filter]| filters.iter().any(|filter| filter.matches(&event));
        assert!(
            matches(&sub.filters) || sub.replaces.as_deref().is_some_and(matches),
            "{text} was not asked for by {id}"
        );
        let copies_max = match event.class() {
            Class::Ephemeral => truth.ephemeral.get(&event.id).map_or(0, |sent| sent.0),
            _ => truth.history.stays_of(event.id).count(),
        };
        assert!(copies_max > 0, "{text} is sent and was not accepted");
        if sub.replaces.is_some() {
            // Frames of the replaced subscription look the same.
            if matches(&sub.filters) {
                sub.seen.push(event.id);
            }
            return;
        }
        assert!(
            first_outstanding.is_none_or(|number| number > sub.number),
            "events before {id} were answered"
        );
        sub.seen.push(event.id);
        if event.class() == Class::Ephemeral {
            assert!(sub.answered.is_some(), "{id}: an ephemeral event among stored ones");
        } else if sub.answered.is_none() {
            let key = (Reverse(event.created_at), event.id);
            assert!(sub.last_stored.is_none_or(|last| last < key), "{id}: stored events in order: {text}");
            sub.last_stored = Some(key);
        } else {
            let later = truth.history.stays_of(event.id).map(|stay| stay.seq).find(|seq| *seq > sub.last_seq);
            sub.last_seq =
                later.unwrap_or_else(|| panic!("{id}: live events in the order of commits: {text}"));
        }
        let copies = sub.seen.iter().filter(|seen| **seen == event.id).count();
        assert!(copies <= copies_max, "{id} is sent {text} twice");
    }

    /// Everything has come to rest: nothing that was asked is open, nothing is missing.
    ///
    /// # Panics
    /// If something is.
    pub(super) fn check_settled(&self, truth: &Truth<'_>) {
        assert!(self.outstanding.is_empty(), "without an OK: {:?}", self.outstanding);
        for (id, answer) in &self.counts {
            assert!(answer.is_some(), "COUNT {id} without an answer");
        }
        for (id, sub) in &self.subs {
            if sub.ended || sub.closing || (sub.doubtful && sub.answered.is_none()) {
                continue;
            }
            let (version, step) = sub.answered.unwrap_or_else(|| panic!("REQ {id} without an EOSE"));
            let live_since = if sub.at_once { sub.handed } else { version };
            let wants = |event: &Event| {
                !event.is_expired(truth.now)
                    && may_see(event, &sub.keys)
                    && sub.filters.iter().any(|filter| filter.matches(event))
            };
            for stay in truth.history.stays.iter().filter(|stay| stay.from > live_since && stay.to == FOREVER)
            {
                let got = sub.seen.contains(&stay.event.id);
                assert!(got || !wants(&stay.event), "{id} is never sent {:?}", stay.event);
            }
            for (id, (times, sent)) in truth.ephemeral {
                let event = truth.pool.signed(id).expect("only signed ones are noted");
                // Of several copies nobody knows which was accepted.
                let was_accepted = *times == 1 && truth.acked.contains(id);
                let must = was_accepted && *sent > step && !self.missed_ephemeral && wants(event);
                assert!(!must || sub.seen.contains(&event.id), "{event:?} is never sent");
            }
        }
    }

    /// An id for something new.
    pub(super) fn name(&mut self, prefix: &str) -> String {
        self.named += 1;
        format!("{prefix}{}", self.named)
    }

    /// Ids of subscriptions that are live, as far as the client knows.
    pub(super) fn live(&self) -> Vec<String> {
        let is_live = |sub: &Sub| sub.answered.is_some() && !sub.ended && !sub.closing;
        self.subs.iter().filter(|(_, sub)| is_live(sub)).map(|(id, _)| id.clone()).collect()
    }
}

fn check_words(words: &str, prefixes: &[&str]) {
    let prefix = words.split_once(": ").map(|(prefix, _)| prefix);
    assert!(prefix.is_some_and(|prefix| prefixes.contains(&prefix)), "words with a prefix: {words:?}");
}
