//! The registry alone, with a clock of its own: who is listed, what counts, what ends with time, what repeats change, what floods do.

mod bounds;
#[path = "../common/mod.rs"]
mod common;
mod counts;
mod floods;
mod host;
mod lists;
mod payments;
mod receipts;
mod weights;

use host::{DAY, HOUR, Host, NOW, announcement, bounded, key, recomputed, reply, request, result};
