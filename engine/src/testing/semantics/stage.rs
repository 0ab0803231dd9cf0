//! The environment of a case: a relay, the messages so far (shown on failure), and the start time.

use std::cell::RefCell;
use std::rc::Rc;

use serde_json::{Value, json};

use super::conn::{Conn, as_list};
use super::oracle::Guard;
use super::{Client, RelayUnderTest};
use crate::relay::PublishOutcome;
use crate::testing::signing::{Draft, Key, Signed, event, key};
use crate::types::{Kind, Timestamp};

/// The environment of a case.
pub(super) struct Stage<'w> {
    pub(super) relay: &'w mut dyn RelayUnderTest,
    /// The start time, in Unix seconds.
    pub(super) t: Timestamp,
    guarded_kinds: Vec<Kind>,
    transcript: Transcript,
    opened: usize,
    markers: Vec<String>,
}

/// All messages in order, with sender and connection.
#[derive(Clone, Default)]
pub(super) struct Transcript(Rc<RefCell<Vec<String>>>);

/// Number of messages that a failure shows.
const LINES_SHOWN: usize = 40;
/// Characters of a frame that a failure shows.
const CHARS_SHOWN: usize = 240;

impl Transcript {
    pub(super) fn add(&self, line: &str) {
        let cut = line.char_indices().nth(CHARS_SHOWN).map(|(at, _)| at);
        let shown = cut.map_or(line.to_owned(), |at| format!("{}… ({} bytes)", &line[..at], line.len()));
        self.0.borrow_mut().push(shown);
    }

    pub(super) fn last_lines(&self) -> String {
        let lines = self.0.borrow();
        let from = lines.len().saturating_sub(LINES_SHOWN);
        format!("    messages, last {} lines:\n    {}", lines.len() - from, lines[from..].join("\n    "))
    }
}

/// The key that signs markers; see [`Stage::settle`].
const MARKER_KEY: u64 = 999_999;
const MARKER_TAG: &str = "marks the end of a case's wait";

impl<'w> Stage<'w> {
    pub(super) fn new(relay: &'w mut dyn RelayUnderTest, guarded_kinds: Vec<Kind>) -> Self {
        let t = relay.now();
        Stage { relay, t, guarded_kinds, transcript: Transcript::default(), opened: 0, markers: Vec::new() }
    }

    pub(super) fn transcript(&self) -> Transcript {
        self.transcript.clone()
    }

    /// Opens a connection.
    pub(super) fn open(&mut self) -> Conn {
        let client = self.relay.connect();
        self.conn(client)
    }

    /// A connection of a client at this address, if the relay has such.
    pub(super) fn open_from(&mut self, address: &str) -> Option<Conn> {
        let client = self.relay.connect_from(address.parse().expect("an address"))?;
        Some(self.conn(client))
    }

    fn conn(&mut self, client: Box<dyn Client>) -> Conn {
        let name = (b'A' + (self.opened % 26) as u8) as char;
        self.opened += 1;
        let guard = Guard { kinds: self.guarded_kinds.clone(), keys: Vec::new() };
        Conn::new(client, name, self.transcript.clone(), guard)
    }

    /// Publishes as the host, if the relay supports it.
    pub(super) fn publish(&mut self, event: &Signed) -> Option<PublishOutcome> {
        let outcome = self.relay.publish(event);
        self.transcript.add(&format!("-- the host publishes {}: {outcome:?}", event.json()));
        outcome
    }

    /// Advances the clock, if the relay supports it.
    pub(super) fn advance(&mut self, seconds: u64) -> bool {
        let moved = self.relay.advance(seconds);
        let outcome = if moved { "pass" } else { "cannot be advanced here" };
        self.transcript.add(&format!("-- {seconds} seconds {outcome}"));
        moved
    }

    /// Subscribes, with an additional filter for markers: see [`Stage::settle`].
    pub(super) fn watch(&mut self, conn: &mut Conn, sub: &str, filters: Value) {
        let mut filters = as_list(filters);
        filters.push(json!({"#t": [MARKER_TAG], "limit": 0}));
        conn.req(sub, Value::Array(filters));
    }

    /// Waits until all events published before have been delivered to `watcher`; returns the ids received on `sub`, in order.
    /// `publisher` publishes a stored and an ephemeral marker after its other events; both are delivered like all events.
    pub(super) fn settle(&mut self, publisher: &mut Conn, watcher: &mut Conn, sub: &str) -> Vec<String> {
        let mut seen = Vec::new();
        for kind in [20_001, 1] {
            let marker = event(&key(MARKER_KEY)).kind(kind).at(self.relay.now()).tag(["t", MARKER_TAG]);
            let marker = marker.content(format!("marker {}", self.markers.len())).sign();
            publisher.accept(&marker);
            self.markers.push(marker.id.clone());
            loop {
                let came = watcher.next_event(sub);
                if came == marker.id {
                    break;
                }
                // Ignores markers of earlier waits.
                if !self.markers.contains(&came) {
                    seen.push(came);
                }
            }
        }
        seen
    }

    /// A valid AUTH event for `conn`, without its tags; see [`Stage::auth_event`].
    pub(super) fn auth_draft(&self, key: &Key) -> Draft {
        event(key).kind(22242).at(self.relay.now())
    }

    /// The challenge of `conn`. If there is none yet, a request is sent that the relay refuses until AUTH, which makes it send
    /// the challenge first.
    pub(super) fn challenge(&self, conn: &mut Conn) -> String {
        if conn.challenge.is_empty() {
            conn.req_closed("challenge", json!({"kinds": [1059], "limit": 0}), "auth-required");
        }
        assert!(!conn.challenge.is_empty(), "auth-required: and no challenge to act on (NIP-42)");
        conn.challenge.clone()
    }

    /// A valid AUTH event for `conn`.
    pub(super) fn auth_event(&self, conn: &mut Conn, key: &Key) -> Signed {
        let (url, challenge) = (format!("ws://{}/", self.relay.host()), self.challenge(conn));
        self.auth_draft(key).tag(["relay", &url]).tag(["challenge", &challenge]).sign()
    }

    /// Authenticates a key on `conn`.
    pub(super) fn auth(&mut self, conn: &mut Conn, key: &Key) {
        let event = self.auth_event(conn, key);
        let (accepted, message) = conn.auth(&event);
        assert!(accepted, "AUTH as it should be was refused: {message}");
    }
}
