//! A strict parser of the relay's frames: a frame that breaks a rule fails the case.

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::testing::signing::lower_hex;

/// One frame from the relay (NIPs 1, 42, 45, 67, 77).
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the parts are named as in NIP-01")]
pub enum Frame {
    Event { sub: String, event: Value },
    Ok { id: String, accepted: bool, message: String },
    Eose { sub: String, hint: Option<String> },
    Closed { sub: String, message: String },
    Notice(String),
    Auth(String),
    Count { query: String, body: Value },
    NegMsg { query: String, message: String },
    NegErr { query: String, message: String, events_max: Option<u64> },
}

/// The prefixes of NIP-01 and NIP-42, `unsupported` of NIP-01's examples, and `closed` of NIP-77.
const PREFIXES: [&str; 11] = [
    "duplicate",
    "pow",
    "blocked",
    "rate-limited",
    "invalid",
    "restricted",
    "mute",
    "error",
    "auth-required",
    "unsupported",
    "closed",
];

impl Frame {
    /// Reads a frame.
    ///
    /// # Panics
    /// If it is malformed or breaks a rule: a message without a prefix, an event whose id is not its hash, an unknown hint.
    pub fn read(text: &str) -> Frame {
        read(text).unwrap_or_else(|why| panic!("{why}, in the frame {text}"))
    }

    /// The subscription or query it belongs to.
    pub fn sub(&self) -> Option<&str> {
        match self {
            Frame::Event { sub, .. } | Frame::Eose { sub, .. } | Frame::Closed { sub, .. } => Some(sub),
            Frame::Count { query, .. } => Some(query),
            // The ids of NEG messages are separate.
            Frame::Ok { .. } | Frame::Notice(_) | Frame::Auth(_) => None,
            Frame::NegMsg { .. } | Frame::NegErr { .. } => None,
        }
    }
}

fn read(text: &str) -> Result<Frame, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("not JSON ({error})"))?;
    let Value::Array(parts) = value else { return Err("not an array".into()) };
    let [Value::String(message_type), parts @ ..] = &parts[..] else { return Err("no message type".into()) };
    let text_at = |index: usize| {
        let part = parts.get(index).and_then(Value::as_str);
        part.map(str::to_owned).ok_or_else(|| format!("no string at {}", index + 1))
    };
    let len_is = |len: usize| match parts.len() == len {
        true => Ok(()),
        false => Err(format!("{} elements", parts.len() + 1)),
    };
    match message_type.as_str() {
        "EVENT" => {
            len_is(2)?;
            check_event(&parts[1])?;
            Ok(Frame::Event { sub: text_at(0)?, event: parts[1].clone() })
        }
        "OK" => {
            len_is(3)?;
            let accepted = parts[1].as_bool().ok_or("no boolean at 2")?;
            let message = text_at(2)?;
            if !accepted || !message.is_empty() {
                check_prefix(&message)?;
            }
            Ok(Frame::Ok { id: text_at(0)?, accepted, message })
        }
        "EOSE" => {
            let hint = match &parts[1..] {
                [] => None,
                [Value::Array(hints)] => match &hints[..] {
                    [Value::String(hint)] if hint == "finish" || hint == "more" => Some(hint.clone()),
                    _ => return Err("unknown hints".into()),
                },
                _ => return Err("not an EOSE of NIP-67".into()),
            };
            Ok(Frame::Eose { sub: text_at(0)?, hint })
        }
        "CLOSED" => {
            len_is(2)?;
            let message = text_at(1)?;
            check_prefix(&message)?;
            Ok(Frame::Closed { sub: text_at(0)?, message })
        }
        "NEG-ERR" => {
            let events_max = match &parts[2.min(parts.len())..] {
                [] => len_is(2).map(|()| None)?,
                [max] => Some(max.as_u64().ok_or("a maximum that is no number")?),
                _ => return Err("not a NEG-ERR of NIP-77".into()),
            };
            let message = text_at(1)?;
            check_prefix(&message)?;
            Ok(Frame::NegErr { query: text_at(0)?, message, events_max })
        }
        "NEG-MSG" => {
            len_is(2)?;
            let message = text_at(1)?;
            match text.len() < 128 << 10
                && message.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            {
                true => Ok(Frame::NegMsg { query: text_at(0)?, message }),
                false => Err("a NEG-MSG that is too long, or no lowercase hex".into()),
            }
        }
        "NOTICE" => len_is(1).and_then(|()| Ok(Frame::Notice(text_at(0)?))),
        "AUTH" => len_is(1).and_then(|()| Ok(Frame::Auth(text_at(0)?))),
        "COUNT" => {
            len_is(2)?;
            parts[1]["count"].as_u64().ok_or("no count")?;
            Ok(Frame::Count { query: text_at(0)?, body: parts[1].clone() })
        }
        _ => Err("no message type of NIP-01".into()),
    }
}

fn check_prefix(message: &str) -> Result<(), String> {
    match message.split_once(": ") {
        Some((prefix, message)) if PREFIXES.contains(&prefix) && !message.is_empty() => Ok(()),
        _ => Err("a message without a prefix".into()),
    }
}

/// Seven fields, and the id is their hash.
fn check_event(event: &Value) -> Result<(), String> {
    if event.as_object().is_none_or(|fields| fields.len() != 7) || !event["sig"].is_string() {
        return Err("an event without exactly the seven fields of NIP-01".into());
    }
    let part = |name: &str| event[name].clone();
    let form = Value::Array(vec![
        0.into(),
        part("pubkey"),
        part("created_at"),
        part("kind"),
        part("tags"),
        part("content"),
    ]);
    match event["id"] == lower_hex(&Sha256::digest(form.to_string())) {
        true => Ok(()),
        false => Err("an event whose id is not its hash".into()),
    }
}
