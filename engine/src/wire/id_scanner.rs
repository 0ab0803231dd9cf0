//! Finds the type of a message, and the id that an answer has to name, without parsing the message.
//!
//! For messages that are malformed, and for those that are too long to be buffered, which are fed in pieces of any size as
//! they arrive. Only strings and nesting are followed; other errors of syntax are ignored.

use super::cursor::{JsonCursor, Parsed};
use super::error::ReplyTarget;
use super::message::MessageType;

/// An id longer than this, in bytes as it was written, is not kept, so that what skips a message holds little.
const ID_BYTES_MAX: usize = 128 << 10;
/// What is longer is not the name `id`, however it is escaped.
const NAME_BYTES_MAX: usize = 12;

/// Looks for the id in a message that is fed in pieces. Costs no allocation but for the strings that it keeps, and less than a
/// nanosecond a byte inside of strings.
#[derive(Debug)]
pub struct IdScanner {
    state: State,
    reply_to: ReplyTarget,
    /// The current string as it is written, if it is one to be kept.
    text: Vec<u8>,
    /// The current string is longer than is kept.
    is_too_long: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the array.
    Start,
    /// Before the message type.
    MessageType,
    /// Before the comma that follows the message type.
    Comma(MessageType),
    /// Before the element after the message type.
    First(MessageType),
    /// In the event, inside `depth` objects and arrays.
    Event { depth: u32 },
    /// After a string that may be the name of the field `id`.
    Colon,
    /// Before the value of the field `id`.
    Id,
    /// In a string.
    Text { role: Role, after_backslash: bool },
    /// Nothing that follows changes anything.
    Done,
}

/// What a string is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    MessageType,
    /// The id that follows a message type.
    First(MessageType),
    /// A string of the event object itself: the name of a field, or its value.
    Name,
    /// The event's id.
    Id,
    /// Any other string, inside `depth` objects and arrays of the event.
    Other {
        depth: u32,
    },
}

impl Default for IdScanner {
    fn default() -> Self {
        IdScanner { state: State::Start, reply_to: ReplyTarget::Notice, text: Vec::new(), is_too_long: false }
    }
}

impl IdScanner {
    /// What the reply to a whole message must name.
    pub fn scan(message: &[u8]) -> ReplyTarget {
        let mut scanner = IdScanner::default();
        scanner.feed(message);
        scanner.reply_to
    }

    /// The same for an event object without a message around it.
    pub(super) fn scan_event(object: &[u8]) -> ReplyTarget {
        let state = State::Event { depth: 0 };
        let mut scanner = IdScanner { state, reply_to: ReplyTarget::Event(None), ..IdScanner::default() };
        scanner.feed(object);
        scanner.reply_to
    }

    /// The next bytes of the message.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(&first) = bytes.first() {
            let used = match self.state {
                State::Done => return,
                State::Text { role, after_backslash } => self.in_text(bytes, role, after_backslash),
                _ => usize::from(self.between(first)),
            };
            bytes = &bytes[used..];
        }
    }

    /// Whether no more bytes need be fed.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// What the reply must name, as far as the bytes so far say.
    pub fn reply_to(&self) -> &ReplyTarget {
        &self.reply_to
    }

    /// Reads a byte outside of strings. False if it is to be read again, in the new state.
    fn between(&mut self, byte: u8) -> bool {
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            return true;
        }
        let text = |role| State::Text { role, after_backslash: false };
        let (next, is_used) = match (self.state, byte) {
            (State::Start, b'[') => (State::MessageType, true),
            (State::MessageType, b'"') => (text(Role::MessageType), true),
            (State::Comma(message_type), b',') => {
                match message_type {
                    MessageType::Event => self.reply_to = ReplyTarget::Event(None),
                    MessageType::Auth => self.reply_to = ReplyTarget::Auth(None),
                    _ => {}
                }
                (State::First(message_type), true)
            }
            (State::First(MessageType::Event | MessageType::Auth), b'{') => {
                (State::Event { depth: 0 }, false)
            }
            (State::First(MessageType::Event | MessageType::Auth), _) => (State::Done, true),
            (State::First(message_type), b'"') => (text(Role::First(message_type)), true),
            (State::Event { depth }, b'{' | b'[') => (State::Event { depth: depth.saturating_add(1) }, true),
            (State::Event { depth: 0 | 1 }, b'}' | b']') => (State::Done, true),
            (State::Event { depth }, b'}' | b']') => (State::Event { depth: depth - 1 }, true),
            (State::Event { depth: 1 }, b'"') => (text(Role::Name), true),
            (State::Event { depth }, b'"') => (text(Role::Other { depth }), true),
            (State::Event { depth }, _) => (State::Event { depth }, true),
            (State::Colon, b':') => (State::Id, true),
            (State::Id, b'"') => (text(Role::Id), true),
            // It was a value, or the id is not a string.
            (State::Colon | State::Id, _) => (State::Event { depth: 1 }, false),
            _ => (State::Done, true),
        };
        self.state = next;
        is_used
    }

    /// Continues in a string; returns how many bytes of it were read.
    fn in_text(&mut self, bytes: &[u8], role: Role, after_backslash: bool) -> usize {
        let bytes_max = match role {
            Role::MessageType | Role::First(_) | Role::Id => ID_BYTES_MAX,
            Role::Name => NAME_BYTES_MAX,
            Role::Other { .. } => 0,
        };
        if after_backslash {
            self.keep(bytes_max, &bytes[..1]);
            self.state = State::Text { role, after_backslash: false };
            return 1;
        }
        let len = memchr::memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
        self.keep(bytes_max, &bytes[..len]);
        match bytes.get(len) {
            None => return len,
            Some(b'"') => self.end_text(role),
            Some(_) => {
                self.keep(bytes_max, b"\\");
                self.state = State::Text { role, after_backslash: true };
            }
        }
        len + 1
    }

    fn keep(&mut self, bytes_max: usize, bytes: &[u8]) {
        self.is_too_long |= self.text.len() + bytes.len() > bytes_max;
        if !self.is_too_long {
            self.text.extend_from_slice(bytes);
        }
    }

    fn end_text(&mut self, role: Role) {
        let is_too_long = std::mem::take(&mut self.is_too_long);
        let written = std::mem::take(&mut self.text);
        if let Role::Other { depth } = role {
            self.state = State::Event { depth };
            return;
        }
        let text = if is_too_long { None } else { unescape(written).ok() };
        self.state = match (role, text) {
            (Role::MessageType, Some(message_type)) => State::Comma(MessageType::of(&message_type)),
            (Role::First(message_type), Some(id)) => {
                self.reply_to = target_named_first(message_type, id);
                State::Done
            }
            (Role::Name, Some(name)) if &*name == "id" => State::Colon,
            (Role::Name, _) => State::Event { depth: 1 },
            (Role::Id, text) => {
                if let ReplyTarget::Event(id) | ReplyTarget::Auth(id) = &mut self.reply_to {
                    *id = text;
                }
                State::Done
            }
            _ => State::Done,
        };
    }
}

/// What the reply names to a message whose type is followed by a string.
fn target_named_first(message_type: MessageType, id: Box<str>) -> ReplyTarget {
    match message_type {
        MessageType::Event | MessageType::Auth | MessageType::NegClose => ReplyTarget::Notice,
        MessageType::Req => ReplyTarget::Req(id),
        MessageType::Count => ReplyTarget::Count(id),
        MessageType::Close => ReplyTarget::Close(id),
        MessageType::NegOpen | MessageType::NegMsg => ReplyTarget::Neg(id),
        MessageType::Unknown => ReplyTarget::Unknown(id),
    }
}

/// The text of a string without its quotes.
fn unescape(mut written: Vec<u8>) -> Parsed<Box<str>> {
    written.push(b'"');
    written.insert(0, b'"');
    Ok(JsonCursor::new(&written).string()?.unescape().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_pieces(message: &str, piece: usize) -> ReplyTarget {
        let mut scanner = IdScanner::default();
        message.as_bytes().chunks(piece).for_each(|bytes| scanner.feed(bytes));
        scanner.reply_to().clone()
    }

    #[test]
    fn what_is_found_does_not_depend_on_the_pieces() {
        let some = |id: &str| Some(id.into());
        let cases = [
            ("", ReplyTarget::Notice),
            ("[]", ReplyTarget::Notice),
            (r#"["EVENT"]"#, ReplyTarget::Notice),
            (r#"["EVENT",1]"#, ReplyTarget::Event(None)),
            (
                r#"["EVENT",{"kind":1,"tags":[["id","x"]],"content":"id","id":"a"}]"#,
                ReplyTarget::Event(some("a")),
            ),
            (r#"["EVENT",{"id" : "A\u0042","id":"c"}]"#, ReplyTarget::Event(some("AB"))),
            (r#"["EVENT",{"content":"\\\"id\":\"x\"","\u0069d":"y"#, ReplyTarget::Event(None)),
            (r#"["EVENT",{"content":"\\\"id\":\"x\"","\u0069d":"y""#, ReplyTarget::Event(some("y"))),
            (r#"["EVENT",{"id":7,"x":{"id":"no"},"id":"yes"}]"#, ReplyTarget::Event(some("yes"))),
            (r#"["EVENT",{"kind":1},{"id":"no"}]"#, ReplyTarget::Event(None)),
            (r#"["AUTH",{"id":"a"}]"#, ReplyTarget::Auth(some("a"))),
            (r#"["AUTH","words"]"#, ReplyTarget::Auth(None)),
            (" [ \"REQ\" ,\t\"a\\n\u{1f49c}\"", ReplyTarget::Req("a\n\u{1f49c}".into())),
            (r#"["REQ","",{}]"#, ReplyTarget::Req("".into())),
            (r#"["REQ","\ud800",{}]"#, ReplyTarget::Notice),
            (r#"["REQ" "x"]"#, ReplyTarget::Notice),
            (r#"["REQ",7]"#, ReplyTarget::Notice),
            (r#"["COUNT","q"]"#, ReplyTarget::Count("q".into())),
            (r#"["CLOSE","s"]"#, ReplyTarget::Close("s".into())),
            (r#"["NEG-OPEN","n",{},""]"#, ReplyTarget::Neg("n".into())),
            (r#"["NEG-MSG","n",""]"#, ReplyTarget::Neg("n".into())),
            (r#"["NEG-CLOSE","n"]"#, ReplyTarget::Notice),
            (r#"["FROB","f",1]"#, ReplyTarget::Unknown("f".into())),
            (r#"["\u0046ROB","f""#, ReplyTarget::Unknown("f".into())),
            (r#"["FROB"]"#, ReplyTarget::Notice),
        ];
        for (message, reply_to) in cases {
            for piece in [1, 2, 3, 5, 1_000] {
                assert_eq!(in_pieces(message, piece), reply_to, "{message} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn an_id_without_end_is_not_kept() {
        for (len, is_named) in [(ID_BYTES_MAX, true), (ID_BYTES_MAX + 1, false)] {
            let id = "x".repeat(len);
            let reply_to = in_pieces(&format!(r#"["REQ","{id}",{{}}]"#), 4_096);
            assert_eq!(reply_to, if is_named { ReplyTarget::Req(id.into()) } else { ReplyTarget::Notice });
        }
        let mut scanner = IdScanner::default();
        scanner.feed(br#"["REQ",""#);
        (0..100).for_each(|_| scanner.feed(&[b'x'; 16 << 10]));
        assert!(scanner.text.capacity() <= 2 * ID_BYTES_MAX);
    }
}
