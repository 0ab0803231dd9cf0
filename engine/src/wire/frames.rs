//! What the relay says, appended to a buffer: one call, one message.
//!
//! Messages for people are escaped here; the caller puts the machine-readable prefix in front.

use super::escape::write_json_string;
use super::event::Digits;
use crate::types::{EventId, SubId};

/// What an EOSE says about the stored events (NIP-67).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EoseHint {
    /// Every stored event that matches was sent.
    Finish,
    /// There are more.
    More,
}

/// `["EVENT","<sub>",`: the event's canonical JSON and `]` must follow (NIP-01).
pub fn event_head(out: &mut Vec<u8>, sub: &SubId) {
    open(out, "EVENT", sub.as_str());
    out.push(b',');
}

/// `["OK","<id>",<accepted>,"<message>"]` (NIP-01). A refusal's message starts with a prefix.
pub fn ok(out: &mut Vec<u8>, id: &EventId, accepted: bool, message: &str) {
    out.extend_from_slice(b"[\"OK\",\"");
    out.extend_from_slice(&id.to_hex());
    out.extend_from_slice(if accepted { b"\",true," } else { b"\",false," });
    write_json_string(out, message);
    out.push(b']');
}

/// `["OK","<id>",false,"<message>"]` for an id that may be any text (NIP-01). The message starts with a prefix.
pub fn not_ok(out: &mut Vec<u8>, id: &str, message: &str) {
    open(out, "OK", id);
    out.extend_from_slice(b",false,");
    write_json_string(out, message);
    out.push(b']');
}

/// `["EOSE","<sub>"]`, with a hint if there is one to give (NIP-01, NIP-67).
pub fn eose(out: &mut Vec<u8>, sub: &SubId, hint: Option<EoseHint>) {
    open(out, "EOSE", sub.as_str());
    out.extend_from_slice(match hint {
        None => b"]",
        Some(EoseHint::Finish) => b",[\"finish\"]]",
        Some(EoseHint::More) => b",[\"more\"]]",
    });
}

/// `["CLOSED","<sub>","<message>"]` for an id that may be any text (NIP-01). The message starts with a prefix.
pub fn closed(out: &mut Vec<u8>, sub: &str, message: &str) {
    open(out, "CLOSED", sub);
    out.push(b',');
    write_json_string(out, message);
    out.push(b']');
}

/// `["NEG-ERR","<id>","<message>"]` (NIP-77), and after the message the most events that a set may have, if that is what
/// was exceeded. The message starts with a prefix.
pub fn neg_err(out: &mut Vec<u8>, id: &str, message: &str, events_max: Option<usize>) {
    open(out, "NEG-ERR", id);
    out.push(b',');
    write_json_string(out, message);
    if let Some(events_max) = events_max {
        out.push(b',');
        out.extend_from_slice(Digits::of(events_max as u64).as_bytes());
    }
    out.push(b']');
}

/// `["NEG-MSG","<id>","<message in hex>"]` (NIP-77).
pub fn neg_msg(out: &mut Vec<u8>, id: &SubId, message: &[u8]) {
    open(out, "NEG-MSG", id.as_str());
    out.extend_from_slice(b",\"");
    let start = out.len();
    out.resize(start + 2 * message.len(), 0);
    faster_hex::hex_encode(message, &mut out[start..]).expect("the buffer is twice as long");
    out.extend_from_slice(b"\"]");
}

/// `["NOTICE","<message>"]` (NIP-01).
pub fn notice(out: &mut Vec<u8>, message: &str) {
    open(out, "NOTICE", message);
    out.push(b']');
}

/// `["AUTH","<challenge>"]` (NIP-42).
pub fn auth(out: &mut Vec<u8>, challenge: &str) {
    open(out, "AUTH", challenge);
    out.push(b']');
}

/// `["COUNT","<id>",{"count":N}]`, with `approximate` only if it is, and the 256 registers of a
/// HyperLogLog in hex if there are any (NIP-45).
pub fn count(out: &mut Vec<u8>, id: &SubId, count: u64, approximate: bool, hll: Option<&[u8; 256]>) {
    open(out, "COUNT", id.as_str());
    out.extend_from_slice(b",{\"count\":");
    out.extend_from_slice(Digits::of(count).as_bytes());
    if approximate {
        out.extend_from_slice(b",\"approximate\":true");
    }
    if let Some(registers) = hll {
        out.extend_from_slice(b",\"hll\":\"");
        let mut text = [0; 512];
        faster_hex::hex_encode(registers, &mut text).expect("the buffer is twice as long");
        out.extend_from_slice(&text);
        out.push(b'"');
    }
    out.extend_from_slice(b"}]");
}

/// `["<message type>","<first>"`
fn open(out: &mut Vec<u8>, message_type: &str, first: &str) {
    out.extend_from_slice(b"[\"");
    out.extend_from_slice(message_type.as_bytes());
    out.extend_from_slice(b"\",");
    write_json_string(out, first);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(write: impl FnOnce(&mut Vec<u8>), expected: &str) {
        let mut out = b"before".to_vec();
        write(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), format!("before{expected}"));
    }

    #[test]
    fn frames_have_the_form_of_the_nips() {
        let sub = SubId::new("a\"b\\c\n💜\u{1}").unwrap();
        let id = EventId([0xab; 32]);
        let hex = "ab".repeat(32);
        check(|out| event_head(out, &sub), r#"["EVENT","a\"b\\c\n💜\u0001","#);
        check(|out| ok(out, &id, true, ""), &format!(r#"["OK","{hex}",true,""]"#));
        check(
            |out| ok(out, &id, false, "invalid: a \"b\""),
            &format!(r#"["OK","{hex}",false,"invalid: a \"b\""]"#),
        );
        check(|out| eose(out, &sub, None), r#"["EOSE","a\"b\\c\n💜\u0001"]"#);
        check(|out| eose(out, &sub, Some(EoseHint::Finish)), r#"["EOSE","a\"b\\c\n💜\u0001",["finish"]]"#);
        check(|out| eose(out, &sub, Some(EoseHint::More)), r#"["EOSE","a\"b\\c\n💜\u0001",["more"]]"#);
        check(|out| not_ok(out, "a\"b", "invalid: c"), r#"["OK","a\"b",false,"invalid: c"]"#);
        check(
            |out| closed(out, sub.as_str(), "error: x\ny"),
            r#"["CLOSED","a\"b\\c\n💜\u0001","error: x\ny"]"#,
        );
        check(|out| neg_err(out, "n\n", "unsupported: x", None), r#"["NEG-ERR","n\n","unsupported: x"]"#);
        check(|out| neg_err(out, "n", "blocked: x", Some(12)), r#"["NEG-ERR","n","blocked: x",12]"#);
        check(|out| neg_msg(out, &sub, &[0x61, 0, 0xff]), r#"["NEG-MSG","a\"b\\c\n💜\u0001","6100ff"]"#);
        check(|out| notice(out, "hello\t"), r#"["NOTICE","hello\t"]"#);
        check(|out| auth(out, "chal\"lenge"), r#"["AUTH","chal\"lenge"]"#);
        let query = SubId::new("q").unwrap();
        check(|out| count(out, &query, 0, false, None), r#"["COUNT","q",{"count":0}]"#);
        check(
            |out| count(out, &query, u64::MAX, true, None),
            r#"["COUNT","q",{"count":18446744073709551615,"approximate":true}]"#,
        );
        let mut registers = [0; 256];
        registers[255] = 0x1f;
        check(
            |out| count(out, &query, 7, false, Some(&registers)),
            &format!(r#"["COUNT","q",{{"count":7,"hll":"{}1f"}}]"#, "00".repeat(255)),
        );
    }
}
