//! One connection of a case: sends, reads until the frame that ends an answer, and checks the frames.
//!
//! Other frames that arrive meanwhile are kept in order and returned by later calls.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::oracle::Guard;
use super::stage::Transcript;
use super::{Client, Frame};
use crate::testing::signing::Signed;

pub(super) struct Conn {
    client: Box<dyn Client>,
    name: char,
    transcript: Transcript,
    /// The latest challenge; empty if none was received.
    pub(super) challenge: String,
    /// Number of challenges received.
    pub(super) challenges: usize,
    /// The read guard, as it applies to this connection.
    pub(super) guard: Guard,
    kept: VecDeque<Frame>,
    fences: u32,
    asked: u32,
}

/// The answer to a REQ up to its EOSE.
#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) events: Vec<Value>,
    pub(super) hint: Option<String>,
}

impl Answer {
    pub(super) fn ids(&self) -> Vec<String> {
        self.events.iter().map(id_of).collect()
    }
}

pub(super) fn id_of(event: &Value) -> String {
    event["id"].as_str().expect("frames with events have been checked").to_owned()
}

/// One filter or a list of filters, as a list.
pub(super) fn as_list(filters: Value) -> Vec<Value> {
    match filters {
        Value::Array(list) => list,
        one => vec![one],
    }
}

/// Prefix of subscription ids of [`Conn::ask`].
const ASKED: &str = "asked ";

fn request(verb: &str, id: &str, filters: Value) -> String {
    let mut parts = vec![json!(verb), json!(id)];
    parts.extend(as_list(filters));
    Value::Array(parts).to_string()
}

pub(super) fn req_text(sub: &str, filters: Value) -> String {
    request("REQ", sub, filters)
}

pub(super) fn count_text(query: &str, filters: Value) -> String {
    request("COUNT", query, filters)
}

pub(super) fn event_text(event: &Signed) -> String {
    format!(r#"["EVENT",{}]"#, event.json())
}

impl Conn {
    pub(super) fn new(client: Box<dyn Client>, name: char, transcript: Transcript, guard: Guard) -> Self {
        let (challenge, kept) = (String::new(), VecDeque::new());
        Conn { client, name, transcript, challenge, challenges: 0, guard, kept, fences: 0, asked: 0 }
    }

    pub(super) fn send(&mut self, text: &str) {
        self.transcript.add(&format!("{} > {text}", self.name));
        self.client.send(text);
    }

    /// Sends all messages without waiting for answers.
    pub(super) fn send_all(&mut self, texts: &[String]) {
        for text in texts {
            self.transcript.add(&format!("{} » {text}", self.name));
        }
        self.client.send_all(texts);
    }

    pub(super) fn send_binary(&mut self, bytes: &[u8]) {
        self.transcript.add(&format!("{} > {} binary bytes", self.name, bytes.len()));
        self.client.send_binary(bytes);
    }

    pub(super) fn closed(&mut self) -> Option<u16> {
        self.client.closed()
    }

    /// The next frame, kept ones first; challenges are recorded, not returned.
    pub(super) fn next(&mut self) -> Option<Frame> {
        if let Some(frame) = self.kept.pop_front() {
            return Some(frame);
        }
        self.read()
    }

    /// Waits for the next frame and keeps it: then the relay has handled everything sent before.
    pub(super) fn await_answer(&mut self) {
        if self.kept.is_empty() {
            let frame = self.read().unwrap_or_else(|| panic!("{} waited for an answer", self.name));
            self.kept.push_back(frame);
        }
    }

    fn read(&mut self) -> Option<Frame> {
        loop {
            let text = self.client.recv()?;
            self.transcript.add(&format!("{} < {text}", self.name));
            match Frame::read(&text) {
                Frame::Auth(challenge) => {
                    assert!(challenge.len() >= 8, "a challenge that cannot be guessed");
                    self.challenge = challenge;
                    self.challenges += 1;
                }
                frame => return Some(frame),
            }
        }
    }

    /// The first frame for which `wanted` returns something; others are kept.
    pub(super) fn wait<T>(&mut self, what: &str, wanted: impl Fn(&Frame) -> Option<T>) -> T {
        if let Some((index, found)) =
            self.kept.iter().enumerate().find_map(|(index, frame)| Some((index, wanted(frame)?)))
        {
            self.kept.remove(index);
            return found;
        }
        loop {
            let Some(frame) = self.read() else {
                panic!("{} waited for {what}, but no more came; kept: {:?}", self.name, self.kept)
            };
            match wanted(&frame) {
                Some(found) => return found,
                None => self.kept.push_back(frame),
            }
        }
    }

    /// The OK of an id.
    pub(super) fn ok(&mut self, id: &str) -> (bool, String) {
        self.wait(&format!("the OK of {id}"), |frame| match frame {
            Frame::Ok { id: answered, accepted, message } if answered == id => {
                Some((*accepted, message.clone()))
            }
            _ => None,
        })
    }

    /// Publishes and waits for the OK.
    pub(super) fn publish(&mut self, event: &Signed) -> (bool, String) {
        self.send(&event_text(event));
        self.ok(&event.id)
    }

    /// Publishes an event that must be accepted as new.
    pub(super) fn accept(&mut self, event: &Signed) {
        let answer = self.publish(event);
        assert!(answer.0 && !answer.1.starts_with("duplicate:"), "{} was answered {answer:?}", event.json());
    }

    pub(super) fn accept_all(&mut self, events: &[Signed]) {
        events.iter().for_each(|event| self.accept(event));
    }

    /// Publishes an event that must be refused with this prefix; any refusal without a prefix if it is empty.
    pub(super) fn refuse(&mut self, event: &Signed, prefix: &str) {
        let (accepted, message) = self.publish(event);
        assert!(!accepted, "{} was accepted: {message:?}", event.json());
        assert_prefix(&message, prefix);
    }

    /// Sends an event in the given JSON form and waits for the OK of `id`.
    pub(super) fn publish_as(&mut self, id: &str, json: &str) -> (bool, String) {
        self.send(&format!(r#"["EVENT",{json}]"#));
        self.ok(id)
    }

    pub(super) fn auth(&mut self, event: &Signed) -> (bool, String) {
        self.send(&format!(r#"["AUTH",{}]"#, event.json()));
        let answer = self.ok(&event.id);
        if answer.0 {
            self.guard.keys.push(event.pubkey.clone());
        }
        answer
    }

    /// Sends a REQ and reads up to its EOSE.
    pub(super) fn req(&mut self, sub: &str, filters: Value) -> Answer {
        self.send(&req_text(sub, filters));
        self.answer(sub)
    }

    /// Queries stored events once: the subscription is closed after its EOSE.
    pub(super) fn ask(&mut self, filters: Value) -> Answer {
        self.asked += 1;
        let sub = format!("{ASKED}{}", self.asked);
        let answer = self.req(&sub, filters);
        self.close_sub(&sub);
        answer
    }

    /// Reads the answer of `sub` up to its EOSE.
    pub(super) fn answer(&mut self, sub: &str) -> Answer {
        let mut events = Vec::new();
        loop {
            let frame = self.wait(&format!("the EOSE of {sub:?}"), |frame| of_sub(frame, sub));
            match frame {
                Frame::Event { event, .. } => events.push(event),
                Frame::Eose { hint, .. } => return Answer { events, hint },
                other => panic!("{other:?} where the EOSE of {sub:?} should come"),
            }
        }
    }

    /// Sends a REQ that must be refused with this prefix.
    pub(super) fn req_closed(&mut self, sub: &str, filters: Value, prefix: &str) {
        self.send(&req_text(sub, filters));
        self.expect_closed(sub, prefix);
    }

    /// Expects a CLOSED of `sub` as its next frame.
    pub(super) fn expect_closed(&mut self, sub: &str, prefix: &str) {
        let frame = self.wait(&format!("the CLOSED of {sub:?}"), |frame| of_sub(frame, sub));
        let Frame::Closed { message, .. } = &frame else {
            panic!("{frame:?} where a CLOSED of {sub:?} should come")
        };
        assert_prefix(message, prefix);
    }

    /// Sends a COUNT; returns the object of the answer.
    pub(super) fn count_body(&mut self, query: &str, filters: Value) -> Value {
        self.send(&count_text(query, filters));
        self.wait(&format!("the COUNT of {query:?}"), |frame| match frame {
            Frame::Count { query: counted, body } if counted == query => Some(body.clone()),
            Frame::Closed { sub, .. } if sub == query => panic!("{frame:?} where a COUNT should come"),
            _ => None,
        })
    }

    /// Sends a COUNT that must be exact, and not marked approximate unless the read guard may withhold something.
    pub(super) fn count(&mut self, filters: Value) -> u64 {
        let body = self.count_body("count", filters.clone());
        let count = body["count"].as_u64().expect("frames with counts have been checked");
        let may_be_incomplete = self.guard.may_lack_of_count(&as_list(filters.clone()), count as usize);
        assert_eq!(body["approximate"] == json!(true), may_be_incomplete, "{body}, the count of {filters}");
        count
    }

    pub(super) fn count_closed(&mut self, query: &str, filters: Value, prefix: &str) {
        self.send(&count_text(query, filters));
        self.expect_closed(query, prefix);
    }

    /// The id of the next event of a subscription.
    pub(super) fn next_event(&mut self, sub: &str) -> String {
        let frame = self.wait(&format!("an event of {sub:?}"), |frame| of_sub(frame, sub));
        match &frame {
            Frame::Event { event, .. } => id_of(event),
            other => panic!("{other:?} where an event of {sub:?} should come"),
        }
    }

    /// The next frame of a subscription or query.
    pub(super) fn next_of(&mut self, sub: &str) -> Frame {
        self.wait(&format!("a frame of {sub:?}"), |frame| of_sub(frame, sub))
    }

    pub(super) fn expect_notice(&mut self) -> String {
        self.wait("a NOTICE", |frame| match frame {
            Frame::Notice(message) => Some(message.clone()),
            _ => None,
        })
    }

    pub(super) fn close_sub(&mut self, sub: &str) {
        self.send(&json!(["CLOSE", sub]).to_string());
    }

    /// Waits until the relay has answered everything sent so far; returns the frames that no other call has read. Works even
    /// if the relay refuses requests.
    pub(super) fn fence(&mut self) -> Vec<Frame> {
        self.fences += 1;
        let sub = format!("fence {}", self.fences);
        self.send(&req_text(&sub, json!({"ids": []})));
        let end = self.wait("the answer to a fence", |frame| of_sub(frame, &sub));
        assert!(!matches!(end, Frame::Event { .. }), "an event for a filter that matches nothing");
        if matches!(end, Frame::Eose { .. }) {
            self.close_sub(&sub);
        }
        // Ignores live events between the EOSE and the CLOSE of [`Conn::ask`].
        let asked = |frame: &Frame| frame.sub().is_some_and(|sub| sub.starts_with(ASKED));
        self.kept.drain(..).filter(|frame| !asked(frame)).collect()
    }

    /// Checks that no unexpected frame has arrived.
    pub(super) fn expect_silence(&mut self) {
        let rest = self.fence();
        assert!(rest.is_empty(), "{} should have been sent no more, but {rest:?}", self.name);
    }
}

fn of_sub(frame: &Frame, sub: &str) -> Option<Frame> {
    (frame.sub() == Some(sub)).then(|| frame.clone())
}

#[track_caller]
fn assert_prefix(message: &str, prefix: &str) {
    let fits = prefix.is_empty() || message.split_once(':').is_some_and(|(found, _)| found == prefix);
    assert!(fits, "{message:?} where a message with {prefix:?} should be");
}
