//! What all other modules use: ids, events, filters, kinds, time and limits.
//!
//! This module imports no other. Its values are checked when they are made, so that the other modules
//! can trust them.

mod address;
mod event;
mod event_matcher;
mod filter;
mod hex;
mod id_sum;
mod kind;
mod limits;
mod seq;
mod tags;
mod time;

pub use address::ClientAddress;
pub use event::{CanonicalEvent, Event, NO_EXPIRY};
pub use event_matcher::{EventMatcher, MatchCost};
pub use filter::{Filter, SubId, TagFilter};
pub use hex::{EventId, HexError, PubKey, Sig};
pub use id_sum::IdSum;
pub use kind::{
    Class, KIND_ADD_USER, KIND_MEMBERSHIP_REQUEST, KIND_REMOVE_USER, Kind, is_list, is_removal_request,
};
pub use limits::Limits;
pub use seq::Seq;
pub use tags::{Tag, Tags, parse_expiration, unescape};
pub use time::{Now, Timestamp};
