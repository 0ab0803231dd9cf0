//! Messages between a client and a relay, from the client's side (NIP-01, NIP-42, NIP-77).

use negentropy::Id;
use relay_engine::types::EventId;
use relay_engine::wire::write_json_string;
use serde_json::Value;

/// A message of a relay.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// An event of a subscription.
    Event {
        /// The id of the subscription.
        sub: String,
        /// The event as it came, unchecked.
        json: &'a str,
    },
    /// What became of an event that was sent.
    Ok {
        /// The event.
        id: EventId,
        /// Whether the relay has it.
        accepted: bool,
        /// Why, with a prefix (NIP-01).
        message: String,
    },
    /// All stored events of the subscription of this id have been sent.
    Eose(String),
    /// A subscription is closed or refused.
    Closed {
        /// The id of the subscription.
        sub: String,
        /// Why, with a prefix (NIP-01).
        message: String,
    },
    /// Words for people.
    Notice(String),
    /// The challenge that an AUTH event has to sign.
    Auth(String),
    /// A message of a reconciliation.
    NegMsg {
        /// The id of the reconciliation.
        id: String,
        /// The message of the Negentropy protocol.
        message: Vec<u8>,
    },
    /// A reconciliation is refused, or ended.
    NegErr {
        /// The id of the reconciliation.
        id: String,
        /// Why, with a prefix (NIP-77).
        reason: String,
    },
}

impl<'a> Frame<'a> {
    /// Reads a message. `None` if it is none of these, or malformed.
    pub fn parse(text: &'a str) -> Option<Self> {
        let text = text.trim();
        let (name, rest) = first_string(text.strip_prefix('[')?)?;
        if name == "EVENT" {
            let (sub, rest) = first_string(rest.strip_prefix(',')?)?;
            let json = rest.strip_prefix(',')?.strip_suffix(']')?.trim();
            return Some(Frame::Event { sub, json });
        }
        let fields: Vec<Value> = serde_json::from_str(text).ok()?;
        let string = |at: usize| fields.get(at).and_then(Value::as_str).map(str::to_owned);
        let words = |at: usize| string(at).unwrap_or_default();
        Some(match &*name {
            "OK" => Frame::Ok {
                id: EventId::from_hex(string(1)?.as_bytes()).ok()?,
                accepted: fields.get(2)?.as_bool()?,
                message: words(3),
            },
            "EOSE" => Frame::Eose(string(1)?),
            "CLOSED" => Frame::Closed { sub: string(1)?, message: words(2) },
            "NOTICE" => Frame::Notice(words(1)),
            "AUTH" => Frame::Auth(string(1)?),
            "NEG-MSG" => Frame::NegMsg { id: string(1)?, message: bytes_of(&string(2)?)? },
            "NEG-ERR" => Frame::NegErr { id: string(1)?, reason: words(2) },
            _ => return None,
        })
    }
}

/// The string that a text begins with, and what follows it and white space.
fn first_string(text: &str) -> Option<(String, &str)> {
    let mut strings = serde_json::Deserializer::from_str(text).into_iter::<String>();
    let string = strings.next()?.ok()?;
    Some((string, text[strings.byte_offset()..].trim_start()))
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let mut bytes = vec![0; hex.len() / 2];
    faster_hex::hex_decode(hex.as_bytes(), &mut bytes).ok()?;
    Some(bytes)
}

/// Why a relay refuses something, by the prefix of its words (NIP-01).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It wants the client to authenticate (NIP-42).
    Auth,
    /// Later it may be different.
    Temporary,
    /// It will not be different.
    Final,
}

impl Refusal {
    /// Of the words of an OK, a CLOSED or a NEG-ERR.
    pub fn of(message: &str) -> Self {
        match message.split(':').next().unwrap_or_default() {
            "auth-required" => Refusal::Auth,
            "rate-limited" | "error" | "closed" | "" => Refusal::Temporary,
            _ => Refusal::Final,
        }
    }
}

/// `["REQ",sub,filter]`.
pub fn req(sub: &str, filter: &str) -> String {
    format!("[\"REQ\",{},{filter}]", quoted(sub))
}

/// `["CLOSE",sub]`.
pub fn close(sub: &str) -> String {
    format!("[\"CLOSE\",{}]", quoted(sub))
}

/// `["EVENT",event]`.
pub fn event(json: &str) -> String {
    format!("[\"EVENT\",{json}]")
}

/// `["AUTH",event]`.
pub fn auth(json: &str) -> String {
    format!("[\"AUTH\",{json}]")
}

/// `["NEG-OPEN",id,filter,message]`.
pub fn neg_open(id: &str, filter: &str, message: &[u8]) -> String {
    format!("[\"NEG-OPEN\",{},{filter},\"{}\"]", quoted(id), faster_hex::hex_string(message))
}

/// `["NEG-MSG",id,message]`.
pub fn neg_msg(id: &str, message: &[u8]) -> String {
    format!("[\"NEG-MSG\",{},\"{}\"]", quoted(id), faster_hex::hex_string(message))
}

/// `["NEG-CLOSE",id]`.
pub fn neg_close(id: &str) -> String {
    format!("[\"NEG-CLOSE\",{}]", quoted(id))
}

/// A filter of event ids.
pub fn ids_filter<'a>(ids: impl Iterator<Item = &'a EventId>) -> String {
    let list: Vec<String> = ids.map(|id| format!("\"{id}\"")).collect();
    format!("{{\"ids\":[{}],\"limit\":{}}}", list.join(","), list.len())
}

fn quoted(text: &str) -> String {
    let mut out = Vec::new();
    write_json_string(&mut out, text);
    String::from_utf8_lossy(&out).into_owned()
}

/// An id as the `negentropy` crate has it.
pub fn neg_id(id: &EventId) -> Id {
    Id::from_byte_array(id.0)
}

/// An id of the `negentropy` crate.
pub fn event_id(id: &Id) -> EventId {
    EventId(**id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_relays_are_read() {
        let id = EventId([7; 32]);
        let text = |text: &str| text.to_owned();
        for (message, want) in [
            (
                text(r#"["EVENT","r1",{"a":[1]}]"#),
                Some(Frame::Event { sub: text("r1"), json: r#"{"a":[1]}"# }),
            ),
            (text(" [ \"EVENT\" , \"r\\u0031\" , {} ] "), Some(Frame::Event { sub: text("r1"), json: "{}" })),
            (format!(r#"["OK","{id}",false,"blocked: no"]"#), {
                Some(Frame::Ok { id, accepted: false, message: text("blocked: no") })
            }),
            (format!(r#"["OK","{id}",true]"#), Some(Frame::Ok { id, accepted: true, message: text("") })),
            (text(r#"["EOSE","r1","finish"]"#), Some(Frame::Eose(text("r1")))),
            (text(r#"["CLOSED","r1"]"#), Some(Frame::Closed { sub: text("r1"), message: text("") })),
            (text(r#"["NOTICE",7]"#), Some(Frame::Notice(text("")))),
            (text(r#"["AUTH","x"]"#), Some(Frame::Auth(text("x")))),
            (
                text(r#"["NEG-MSG","n","61fF"]"#),
                Some(Frame::NegMsg { id: text("n"), message: vec![0x61, 0xff] }),
            ),
            (text(r#"["NEG-ERR","n","blocked: x",7]"#), {
                Some(Frame::NegErr { id: text("n"), reason: text("blocked: x") })
            }),
            (text(r#"["NEG-MSG","n","61f"]"#), None),
            (text(r#"["NEG-MSG","n","zz"]"#), None),
            (text(r#"["EVENT","r1"]"#), None),
            (text(r#"["OK","7",true,""]"#), None),
            (text(r#"["EOSE"]"#), None),
            (text("[]"), None),
            (text("7"), None),
            (text(""), None),
        ] {
            assert_eq!(Frame::parse(&message), want, "{message}");
        }
    }
}
