//! Another relay, as a script: honest, poor, or lying. For tests.

use std::collections::{BTreeMap, HashMap, VecDeque};

use negentropy::{Item, Negentropy, Storage};
use relay_engine::testing::event_of_json;
use relay_engine::testing::signing::{event, key};
use relay_engine::types::{Event, EventId, Filter};
use relay_engine::wire;
use serde_json::{Value, json};

use super::frames::neg_id;
use super::ranges::Slice;

/// Events by id.
pub type Events = BTreeMap<EventId, Event>;

/// Signed events of these seconds, whose contents begin with `name`.
pub fn events(name: &str, seconds: impl IntoIterator<Item = u64>) -> Events {
    let author = key(1);
    let signed = seconds.into_iter().enumerate().map(|(number, at)| {
        let signed = event(&author).at(at).content(format!("{name} {number}")).sign();
        event_of_json(&signed.json()).expect("a valid event")
    });
    signed.map(|event| (event.id, event)).collect()
}

/// Both.
pub fn both(a: &Events, b: &Events) -> Events {
    a.iter().chain(b).map(|(id, event)| (*id, event.clone())).collect()
}

/// What a relay does otherwise than it should.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lie {
    /// Nothing.
    #[default]
    None,
    /// Other events than those that were asked for by id.
    OtherEvents,
    /// Signatures of other events.
    Forged,
    /// Events that nobody has asked for, with every answer.
    Flood,
    /// Notices, with every answer.
    Chatter,
    /// Never EOSE.
    NoEose,
    /// Says that it has events, and does not send them.
    Empty,
    /// Answers no REQ by id before the second time that it is asked.
    Mute,
    /// Messages of reconciliations that are none.
    Malformed,
    /// Of reconciliations, ever the same answer.
    Endless,
    /// Events that do not match the filter.
    Mismatched,
}

/// How a relay without NIP-77 answers NEG-OPEN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// With a NOTICE of these words.
    Notice(&'static str),
    /// With a NEG-ERR of these words.
    NegErr(&'static str),
    /// With a CLOSED of these words.
    Closed(&'static str),
    /// With nothing.
    Silence,
    /// Closes the connection.
    HangUp,
}

/// Another relay.
#[derive(Debug, Default)]
pub struct FakeRelay {
    /// What it has.
    pub events: Events,
    /// How it answers NEG-OPEN, if it has no NIP-77.
    pub without: Option<Without>,
    /// Events of an answer.
    pub limit_max: Option<usize>,
    /// Events of a reconciliation.
    pub set_max: Option<usize>,
    /// What it does wrong.
    pub lie: Lie,
    /// The answer to events: (words, how often).
    pub refuses: Option<(&'static str, u32)>,
    /// Wants NIP-42 for everything.
    pub wants_auth: bool,
    /// Whether the client has authenticated.
    pub is_authenticated: bool,
    /// Names of the messages that came.
    pub came: Vec<String>,
    /// The messages.
    pub texts: Vec<String>,
    /// Events that were sent.
    pub sent: usize,
    /// Ids that were asked for.
    pub asked_ids: usize,
    /// Whether it has closed the connection.
    pub has_hung_up: bool,
    /// One in so many NEG-MSG finds its reconciliation forgotten; 0: none does.
    pub forgets_one_in: usize,
    queries: HashMap<String, Vec<Item>>,
}

impl FakeRelay {
    /// An honest one with these events.
    pub fn with(events: &Events) -> Self {
        FakeRelay { events: events.clone(), ..FakeRelay::default() }
    }

    /// How often a message of this name came.
    pub fn count(&self, name: &str) -> usize {
        self.came.iter().filter(|came| *came == name).count()
    }

    /// Whether a message that came has the id of an event.
    pub fn was_told_of(&self, event: &Event) -> bool {
        let id = event.id.to_string();
        self.texts.iter().any(|text| text.contains(&id))
    }

    /// A client connects: the first messages.
    pub fn connect(&mut self) -> Vec<String> {
        (self.is_authenticated, self.has_hung_up) = (false, false);
        self.queries.clear();
        if self.wants_auth { vec![json!(["AUTH", "challenge"]).to_string()] } else { Vec::new() }
    }

    /// The answers to a message.
    pub fn handle(&mut self, text: &str) -> Vec<String> {
        let message: Value = serde_json::from_str(text).expect("clients send JSON");
        let name = message[0].as_str().expect("a name").to_owned();
        self.came.push(name.clone());
        self.texts.push(text.to_owned());
        let sub = message[1].as_str().unwrap_or_default().to_owned();
        let mut out = VecDeque::new();
        if self.wants_auth && !self.is_authenticated && name != "AUTH" {
            let words = "auth-required: who are you?";
            let refusal = match &*name {
                "EVENT" => json!(["OK", message[1]["id"], false, words]),
                "REQ" => json!(["CLOSED", sub, words]),
                "NEG-OPEN" => json!(["NEG-ERR", sub, words]),
                _ => return Vec::new(),
            };
            return vec![refusal.to_string()];
        }
        match &*name {
            "EVENT" => out.push_back(self.handle_event(&message[1])),
            "AUTH" => {
                let is_right = message[1]["kind"] == 22_242 && message[1].to_string().contains("challenge");
                self.is_authenticated = is_right;
                out.push_back(json!(["OK", message[1]["id"], is_right, ""]).to_string());
            }
            "REQ" => self.handle_req(&sub, &message[2], &mut out),
            "NEG-OPEN" => self.open(&sub, &message, &mut out),
            "NEG-MSG"
                if self.forgets_one_in > 0 && self.count("NEG-MSG").is_multiple_of(self.forgets_one_in) =>
            {
                out.push_back(json!(["NEG-ERR", sub, "closed: you took too long"]).to_string());
            }
            "NEG-MSG" => self.reconcile(&sub, &message[2], &mut out),
            "NEG-CLOSE" => drop(self.queries.remove(&sub)),
            "CLOSE" => {}
            other => panic!("{other} comes from no client"),
        }
        match self.lie {
            Lie::Flood => {
                for event in self.events.values().take(20) {
                    out.push_back(format!(r#"["EVENT","nobody",{}]"#, text_of(event)));
                }
            }
            Lie::Chatter => out.extend((0..50).map(|n| json!(["NOTICE", format!("{n}")]).to_string())),
            _ => {}
        }
        out.into()
    }

    fn handle_event(&mut self, event: &Value) -> String {
        if let Some((words, times)) = &mut self.refuses
            && *times > 0
        {
            *times -= 1;
            return json!(["OK", event["id"], false, words]).to_string();
        }
        let parsed = event_of_json(&event.to_string()).expect("clients send events");
        self.events.insert(parsed.id, parsed);
        json!(["OK", event["id"], true, ""]).to_string()
    }

    fn matching(&self, filter: &Value) -> (Filter, Vec<Event>) {
        let filter = wire::parse_filter(filter.to_string().as_bytes()).expect("clients send filters");
        let mut found: Vec<Event> =
            self.events.values().filter(|event| filter.matches(event)).cloned().collect();
        found.sort_by_key(|event| (std::cmp::Reverse(event.created_at), event.id));
        (filter, found)
    }

    fn handle_req(&mut self, sub: &str, filter: &Value, out: &mut VecDeque<String>) {
        let (parsed, mut found) = self.matching(filter);
        self.asked_ids += parsed.ids.as_ref().map_or(0, |ids| ids.len());
        let limit = parsed.limit.map_or(usize::MAX, |limit| limit as usize);
        found.truncate(limit.min(self.limit_max.unwrap_or(usize::MAX)));
        if self.lie == Lie::Mute && parsed.ids.is_some() && self.count("REQ") < 2 {
            return;
        }
        if self.lie == Lie::Empty && parsed.ids.is_some() {
            found.clear();
        }
        let others: Vec<Event> = self.events.values().take(found.len()).cloned().collect();
        for (event, other) in found.iter().zip(others) {
            let text = match self.lie {
                Lie::OtherEvents => text_of(&other),
                Lie::Forged => {
                    let mut value: Value = serde_json::from_str(&text_of(event)).expect("JSON");
                    value["sig"] = "0".repeat(128).into();
                    value.to_string()
                }
                _ => text_of(event),
            };
            self.sent += 1;
            out.push_back(format!(r#"["EVENT","{sub}",{text}]"#));
        }
        if self.lie != Lie::NoEose {
            out.push_back(json!(["EOSE", sub]).to_string());
        }
    }

    fn open(&mut self, query: &str, message: &Value, out: &mut VecDeque<String>) {
        match self.without {
            Some(Without::Notice(words)) => return out.push_back(json!(["NOTICE", words]).to_string()),
            Some(Without::NegErr(words)) => {
                return out.push_back(json!(["NEG-ERR", query, words]).to_string());
            }
            Some(Without::Closed(words)) => {
                return out.push_back(json!(["CLOSED", query, words]).to_string());
            }
            Some(Without::Silence) => return,
            Some(Without::HangUp) => {
                self.has_hung_up = true;
                return;
            }
            None => {}
        }
        let (_, mut found) = self.matching(&message[2]);
        if self.lie == Lie::Mismatched {
            found = self.events.values().cloned().collect();
        }
        if self.set_max.is_some_and(|max| found.len() > max) {
            let words = "blocked: too many query results";
            return out.push_back(json!(["NEG-ERR", query, words, self.set_max]).to_string());
        }
        let item = |event: &Event| Item::with_timestamp_and_id(event.created_at, neg_id(&event.id));
        let mut items: Vec<Item> = found.iter().map(item).collect();
        items.sort_unstable();
        self.queries.insert(query.to_owned(), items);
        self.reconcile(query, &message[3], out);
    }

    fn reconcile(&mut self, query: &str, hex: &Value, out: &mut VecDeque<String>) {
        let Some(items) = self.queries.get(query) else {
            return out.push_back(json!(["NEG-ERR", query, "closed: unknown"]).to_string());
        };
        let hex = hex.as_str().expect("hexadecimal");
        let mut bytes = vec![0; hex.len() / 2];
        faster_hex::hex_decode(hex.as_bytes(), &mut bytes).expect("hexadecimal");
        let mut negentropy = Negentropy::new(Storage::Owned(Slice(items)), 4_096).expect("a valid limit");
        let answer = match self.lie {
            Lie::Malformed => vec![0x61, 2, 0, 9],
            // All is different, whatever was said.
            Lie::Endless => [&[0x61, 0, 0, 1][..], &[7; 16]].concat(),
            _ => negentropy.reconcile(&bytes).expect("clients send messages of the protocol"),
        };
        out.push_back(json!(["NEG-MSG", query, faster_hex::hex_string(&answer)]).to_string());
    }
}

/// An event as JSON.
pub fn text_of(event: &Event) -> String {
    String::from_utf8(event.json().to_vec()).expect("JSON is UTF-8")
}

/// Numbers that a seed determines.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// Below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
