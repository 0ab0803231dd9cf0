//! What is wrong with a message, at which byte, and which id the answer must name.
//!
//! A [`WireErrorKind`] never quotes what the client sent, so its text is safe in any answer and any log.

use std::fmt;

use crate::types::SubId;

/// Why a message could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireError {
    /// Byte offset of what is wrong.
    pub at: usize,
    /// What is wrong there.
    pub kind: WireErrorKind,
    /// What the reply must name, as far as is known: decides between OK, CLOSED and NOTICE.
    pub reply_to: ReplyTarget,
}

/// What the reply to an unreadable message must name. An id is the client's own text, valid or not, so that the client
/// recognises it in the reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyTarget {
    /// Nothing can be named: a NOTICE.
    Notice,
    /// An EVENT: `OK false`, if an id could be found in it.
    Event(Option<Box<str>>),
    /// An AUTH: `OK false`, if an id could be found in it.
    Auth(Option<Box<str>>),
    /// A REQ: `CLOSED`, and with it the subscription that it would have replaced.
    Req(Box<str>),
    /// A COUNT: `CLOSED`.
    Count(Box<str>),
    /// A CLOSE: `CLOSED`, which is what was wanted.
    Close(Box<str>),
    /// A NEG-OPEN or NEG-MSG: `NEG-ERR`.
    Neg(Box<str>),
    /// A message of an unknown type whose next element is a string, as the id is in all that are known: `CLOSED`.
    Unknown(Box<str>),
}

impl ReplyTarget {
    /// The id, if one was found.
    pub fn id(&self) -> Option<&str> {
        match self {
            ReplyTarget::Notice => None,
            ReplyTarget::Event(id) | ReplyTarget::Auth(id) => id.as_deref(),
            ReplyTarget::Req(id)
            | ReplyTarget::Count(id)
            | ReplyTarget::Close(id)
            | ReplyTarget::Neg(id)
            | ReplyTarget::Unknown(id) => Some(id),
        }
    }
}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireErrorKind {
    /// More bytes than a message may have.
    MessageTooLong {
        /// How many it has.
        bytes: u64,
        /// `Limits::message_bytes_max`.
        bytes_max: usize,
    },
    /// The bytes end inside a value.
    End,
    /// Another token was expected here.
    Expected(&'static str),
    /// Bytes follow the end of the message.
    TrailingBytes,
    /// A character below 0x20 that is not escaped, in a string.
    ControlCharacter,
    /// Not UTF-8.
    Utf8,
    /// A backslash that starts no escape of JSON.
    Escape,
    /// Half of a surrogate pair.
    LoneSurrogate,
    /// Arrays and objects nested deeper than the bound, in a field that is dropped.
    TooDeep,
    /// More unknown fields in an event than are looked at.
    TooManyFields,
    /// A type of message (`EVENT`, `REQ`, ...) that this relay does not know.
    UnknownMessageType,
    /// A subscription id that is empty or longer than 64 characters.
    SubId,
    /// Not lowercase hex of the right length.
    Hex {
        /// Which field.
        field: &'static str,
        /// How many characters it has to have.
        chars: usize,
    },
    /// A message of the Negentropy protocol (NIP-77) that is not hex of whole bytes.
    HexBytes,
    /// Not digits, or a larger number than the field may have.
    Integer {
        /// Which field.
        field: &'static str,
        /// Largest value it may have.
        max: u64,
    },
    /// The event lacks this field.
    Missing(&'static str),
    /// The object has this field already.
    Repeated,
    /// A filter field this relay does not know.
    UnknownFilterField,
    /// The filter field of NIP-50.
    Search,
    /// A tag without a string: NIP-01 asks for one or more.
    EmptyTag,
    /// More tags than an event may have.
    TooManyTags {
        /// `Limits::tags_max_of_any`.
        max: usize,
    },
    /// A REQ or COUNT without a filter.
    NoFilter,
    /// More filters than a REQ or COUNT may have.
    TooManyFilters {
        /// `Limits::filters_max`.
        max: usize,
    },
    /// More values in all lists than a REQ or COUNT may have.
    TooManyValues {
        /// `Limits::filter_values_max`.
        max: usize,
    },
}

impl WireError {
    /// The machine-readable prefix of NIP-01 for an OK or a CLOSED: `invalid` or `unsupported`.
    ///
    /// `unsupported` is for what another relay may understand: an unknown type of message or filter field. All else is
    /// `invalid`, bounds of this relay too: NIP-01's own example for a bound, «event creation date is too far
    /// off», has that prefix, while `blocked` and `restricted` speak of the client.
    pub fn prefix(&self) -> &'static str {
        match self.kind {
            WireErrorKind::UnknownMessageType | WireErrorKind::UnknownFilterField | WireErrorKind::Search => {
                "unsupported"
            }
            _ => "invalid",
        }
    }
}

/// For operators: [`WireErrorKind`]'s text, and the place.
impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            // No place in the message says more than this text.
            WireErrorKind::MessageTooLong { .. }
            | WireErrorKind::Missing(_)
            | WireErrorKind::NoFilter
            | WireErrorKind::Search => self.kind.fmt(f),
            _ => write!(f, "{} at byte {}", self.kind, self.at),
        }
    }
}

impl std::error::Error for WireError {}

/// For people: clients show this text to their users. It quotes nothing.
impl fmt::Display for WireErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            WireErrorKind::MessageTooLong { bytes, bytes_max } => {
                write!(f, "the message has {bytes} bytes, which is over the limit of {bytes_max}")
            }
            WireErrorKind::End => f.write_str("the message ends too early"),
            WireErrorKind::Expected(what) => write!(f, "the message is malformed, {what} was expected"),
            WireErrorKind::TrailingBytes => {
                f.write_str("the message is malformed, there is text after its end")
            }
            WireErrorKind::ControlCharacter => f.write_str("a control character is not escaped"),
            WireErrorKind::Utf8 => f.write_str("the message is not UTF-8"),
            WireErrorKind::Escape => f.write_str("a string has an escape that JSON does not have"),
            WireErrorKind::LoneSurrogate => f.write_str("a string has half of a surrogate pair"),
            WireErrorKind::TooDeep => f.write_str("a field is nested too deep"),
            WireErrorKind::TooManyFields => {
                f.write_str("the event has too many fields that NIP-01 does not have")
            }
            WireErrorKind::UnknownMessageType => f.write_str("this relay does not know this type of message"),
            WireErrorKind::SubId => write!(f, "a subscription id has 1 to {} characters", SubId::CHARS_MAX),
            WireErrorKind::Hex { field, chars } => {
                write!(f, "{field} must be {chars} lowercase hex characters")
            }
            WireErrorKind::HexBytes => {
                f.write_str("the Negentropy message (NIP-77) must be hex of whole bytes")
            }
            WireErrorKind::Integer { field, max } => write!(f, "{field} must be an integer from 0 to {max}"),
            WireErrorKind::Missing(field) => write!(f, "the event has no {field}"),
            WireErrorKind::Repeated => f.write_str("a field is repeated"),
            WireErrorKind::UnknownFilterField => {
                f.write_str("a filter has a field that this relay does not know")
            }
            WireErrorKind::Search => f.write_str("this relay has no search (NIP-50)"),
            WireErrorKind::EmptyTag => f.write_str("a tag is empty"),
            WireErrorKind::TooManyTags { max } => write!(f, "the event has more than {max} tags"),
            WireErrorKind::NoFilter => f.write_str("the request has no filter"),
            WireErrorKind::TooManyFilters { max } => write!(f, "the request has more than {max} filters"),
            WireErrorKind::TooManyValues { max } => {
                write!(f, "the request names more than {max} ids, authors, kinds and tags")
            }
        }
    }
}
