//! Finds the type of a message, and the id that an answer has to name, without parsing the message.
//!
//! For messages that are malformed, and for those that are too long to be buffered, which are fed in pieces of any size as
//! they arrive. Only strings and nesting are followed; other errors of syntax are ignored.

use super::cursor::{Cursor, Parsed};
use super::error::About;
use super::message::Verb;

/// An id longer than this, in bytes as it was written, is not kept, so that what skips a message holds little.
const ID_BYTES_MAX: usize = 128 << 10;
/// What is longer is not the name `id`, however it is escaped.
const NAME_BYTES_MAX: usize = 12;

/// Looks for the id in a message that is fed in pieces. Costs no allocation but for the strings that it keeps, and less than a
/// nanosecond a byte inside of strings.
#[derive(Debug)]
pub struct IdScanner {
    state: State,
    about: About,
    /// The current string as it is written, if it is one to be kept.
    text: Vec<u8>,
    /// The current string is longer than is kept.
    is_too_long: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the array.
    Start,
    /// Before the verb.
    Verb,
    /// Before the comma that follows the verb.
    Comma(Verb),
    /// Before what follows the verb.
    First(Verb),
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
    Verb,
    /// The id that follows a verb.
    First(Verb),
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
        IdScanner { state: State::Start, about: About::Frame, text: Vec::new(), is_too_long: false }
    }
}

impl IdScanner {
    /// What a whole message is about.
    pub fn scan(message: &[u8]) -> About {
        let mut scanner = IdScanner::default();
        scanner.feed(message);
        scanner.about
    }

    /// What an event object without a message around it is about.
    pub(super) fn scan_event(object: &[u8]) -> About {
        let state = State::Event { depth: 0 };
        let mut scanner = IdScanner { state, about: About::Event(None), ..IdScanner::default() };
        scanner.feed(object);
        scanner.about
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

    /// What the message is about, as far as the bytes so far say.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Reads a byte outside of strings. False if it is to be read again, in the new state.
    fn between(&mut self, byte: u8) -> bool {
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            return true;
        }
        let text = |role| State::Text { role, after_backslash: false };
        let (next, is_used) = match (self.state, byte) {
            (State::Start, b'[') => (State::Verb, true),
            (State::Verb, b'"') => (text(Role::Verb), true),
            (State::Comma(verb), b',') => {
                match verb {
                    Verb::Event => self.about = About::Event(None),
                    Verb::Auth => self.about = About::Auth(None),
                    _ => {}
                }
                (State::First(verb), true)
            }
            (State::First(Verb::Event | Verb::Auth), b'{') => (State::Event { depth: 0 }, false),
            (State::First(Verb::Event | Verb::Auth), _) => (State::Done, true),
            (State::First(verb), b'"') => (text(Role::First(verb)), true),
            (State::Event { depth }, b'{' | b'[') => (State::Event { depth: depth.saturating_add(1) }, true),
            (State::Event { depth: 0 | 1 }, b'}' | b']') => (State::Done, true),
            (State::Event { depth }, b'}' | b']') => (State::Event { depth: depth - 1 }, true),
            (State::Event { depth: 1 }, b'"') => (text(Role::Name), true),
            (State::Event { depth }, b'"') => (text(Role::Other { depth }), true),
            (State::Event { depth }, _) => (State::Event { depth }, true),
            (State::Colon, b':') => (State::Id, true),
            (State::Id, b'"') => (text(Role::Id), true),
            // It was a value, or the id is no string.
            (State::Colon | State::Id, _) => (State::Event { depth: 1 }, false),
            _ => (State::Done, true),
        };
        self.state = next;
        is_used
    }

    /// Continues in a string; returns how many bytes of it were read.
    fn in_text(&mut self, bytes: &[u8], role: Role, after_backslash: bool) -> usize {
        let bytes_max = match role {
            Role::Verb | Role::First(_) | Role::Id => ID_BYTES_MAX,
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
            (Role::Verb, Some(verb)) => State::Comma(Verb::of(&verb)),
            (Role::First(verb), Some(id)) => {
                self.about = about_first(verb, id);
                State::Done
            }
            (Role::Name, Some(name)) if &*name == "id" => State::Colon,
            (Role::Name, _) => State::Event { depth: 1 },
            (Role::Id, text) => {
                if let About::Event(id) | About::Auth(id) = &mut self.about {
                    *id = text;
                }
                State::Done
            }
            _ => State::Done,
        };
    }
}

/// What a message is about whose verb is followed by a string.
fn about_first(verb: Verb, id: Box<str>) -> About {
    match verb {
        Verb::Event | Verb::Auth | Verb::NegClose => About::Frame,
        Verb::Req => About::Req(id),
        Verb::Count => About::Count(id),
        Verb::Close => About::Close(id),
        Verb::NegOpen | Verb::NegMsg => About::Neg(id),
        Verb::Unknown => About::Unknown(id),
    }
}

/// The text of a string without its quotes.
fn unescape(mut written: Vec<u8>) -> Parsed<Box<str>> {
    written.push(b'"');
    written.insert(0, b'"');
    Ok(Cursor::new(&written).string()?.unescape().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_pieces(message: &str, piece: usize) -> About {
        let mut scanner = IdScanner::default();
        message.as_bytes().chunks(piece).for_each(|bytes| scanner.feed(bytes));
        scanner.about().clone()
    }

    #[test]
    fn what_is_found_does_not_depend_on_the_pieces() {
        let some = |id: &str| Some(id.into());
        let cases = [
            ("", About::Frame),
            ("[]", About::Frame),
            (r#"["EVENT"]"#, About::Frame),
            (r#"["EVENT",1]"#, About::Event(None)),
            (r#"["EVENT",{"kind":1,"tags":[["id","x"]],"content":"id","id":"a"}]"#, About::Event(some("a"))),
            (r#"["EVENT",{"id" : "A\u0042","id":"c"}]"#, About::Event(some("AB"))),
            (r#"["EVENT",{"content":"\\\"id\":\"x\"","\u0069d":"y"#, About::Event(None)),
            (r#"["EVENT",{"content":"\\\"id\":\"x\"","\u0069d":"y""#, About::Event(some("y"))),
            (r#"["EVENT",{"id":7,"x":{"id":"no"},"id":"yes"}]"#, About::Event(some("yes"))),
            (r#"["EVENT",{"kind":1},{"id":"no"}]"#, About::Event(None)),
            (r#"["AUTH",{"id":"a"}]"#, About::Auth(some("a"))),
            (r#"["AUTH","words"]"#, About::Auth(None)),
            (" [ \"REQ\" ,\t\"a\\n\u{1f49c}\"", About::Req("a\n\u{1f49c}".into())),
            (r#"["REQ","",{}]"#, About::Req("".into())),
            (r#"["REQ","\ud800",{}]"#, About::Frame),
            (r#"["REQ" "x"]"#, About::Frame),
            (r#"["REQ",7]"#, About::Frame),
            (r#"["COUNT","q"]"#, About::Count("q".into())),
            (r#"["CLOSE","s"]"#, About::Close("s".into())),
            (r#"["NEG-OPEN","n",{},""]"#, About::Neg("n".into())),
            (r#"["NEG-MSG","n",""]"#, About::Neg("n".into())),
            (r#"["NEG-CLOSE","n"]"#, About::Frame),
            (r#"["FROB","f",1]"#, About::Unknown("f".into())),
            (r#"["\u0046ROB","f""#, About::Unknown("f".into())),
            (r#"["FROB"]"#, About::Frame),
        ];
        for (message, about) in cases {
            for piece in [1, 2, 3, 5, 1_000] {
                assert_eq!(in_pieces(message, piece), about, "{message} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn an_id_without_end_is_not_kept() {
        for (len, is_named) in [(ID_BYTES_MAX, true), (ID_BYTES_MAX + 1, false)] {
            let id = "x".repeat(len);
            let about = in_pieces(&format!(r#"["REQ","{id}",{{}}]"#), 4_096);
            assert_eq!(about, if is_named { About::Req(id.into()) } else { About::Frame });
        }
        let mut scanner = IdScanner::default();
        scanner.feed(br#"["REQ",""#);
        (0..100).for_each(|_| scanner.feed(&[b'x'; 16 << 10]));
        assert!(scanner.text.capacity() <= 2 * ID_BYTES_MAX);
    }
}
