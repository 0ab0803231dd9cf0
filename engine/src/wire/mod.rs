//! From bytes to messages and back: the borrowed-slice NIP-01 parser, the canonical form, the frame writer.
//!
//! Nothing here decides whether an event is welcome, checks a signature or keeps anything. An `EVENT` is
//! read in place and costs no allocation; its id is hashed straight from the sender's bytes, which are
//! escaped again only where the sender's escaping is not canonical.
//!
//! # What is taken and what is refused
//!
//! NIP-01 leaves some cases open. This is what happens in them:
//!
//! | input | answer |
//! |---|---|
//! | white space | wherever JSON allows it, also around the message |
//! | escapes | any legal one, surrogate pairs too; a lone surrogate is refused |
//! | raw characters below 0x20, invalid UTF-8 | refused everywhere, in fields that are dropped too |
//! | NUL as `\u0000`, noncharacters | taken |
//! | unknown fields of an event | must be JSON nested at most 64 deep, at most 64 fields; dropped; names repeated inside them are not noticed |
//! | a field named twice, in an event or a filter | refused, also when one name is written with escapes |
//! | `created_at`, `kind`, `kinds`, `since`, `until`, `limit` | digits only: `-1`, `-0`, `1.0`, `1e3`, `01` and `"1"` are refused |
//! | `created_at` | 0 to [`CREATED_AT_MAX`] |
//! | `since`, `until`, `limit` above any event or `u32` | lowered to a value that means the same |
//! | hex | lowercase, exact length |
//! | `tags` | an array of arrays of strings; an empty tag is refused: «each tag is an array of one or more strings» |
//! | unknown fields of a filter, `search`, `#` and anything but one letter | refused, prefix `unsupported` |
//! | an empty list in a filter | kept; it matches nothing |
//! | a REQ or COUNT without any filter | refused |
//! | an unknown type of message | refused, prefix `unsupported`; a string that follows it is taken for its id |
//! | elements after the event of EVENT and AUTH, after the id of CLOSE | must be JSON; ignored: «JSON arrays with trailing elements are accepted by conforming parsers» (NIP-67) |
//!
//! Every entry point takes any bytes at all and answers in time linear in their number; a test mutates
//! valid messages to see that none panics.
//!
//! # Canonical form
//!
//! *Canonical JSON* is the object that is stored and sent, the *NIP-01 serialisation* the array that is hashed. Both
//! escape strings as NIP-01 says (`\n \" \\ \r \t \b \f`), and the other characters below 0x20 as `\u00xx`
//! in lowercase, which is what `JSON.stringify` writes and what every id in use was hashed from, although
//! NIP-01 taken literally leaves them raw. Everything else, 0x7f and U+2028 too, is verbatim UTF-8.

mod cursor;
mod error;
mod escape;
mod event;
mod filter;
pub mod frames;
mod id_scanner;
mod message;

pub use error::{ReplyTarget, WireError, WireErrorKind};
pub use escape::write_json_string;
pub use event::{CREATED_AT_MAX, RawEvent, parse_event};
pub use filter::parse_filter;
pub use id_scanner::IdScanner;
pub use message::{ClientMessage, is_event_message, parse_client_message};
