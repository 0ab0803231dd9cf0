//! Packed segments: sealed ones whose events are each compressed by itself, in place of their JSON.
//!
//! ```text
//! log-<number>-<generation>    head (version 2)  frame("\xffdic", dictionary)  frame("\xffval", value:32*)  batch*  index
//! ```
//!
//! Everything else is as in other segments: each line has its number, its length and the checksum of the JSON, so bodies of
//! removed events are overwritten where they are, and whether an event is whole is known when it has been unpacked. An event that is
//! no canonical JSON stays as it is.
//!
//! Dictionary and values are the segment's **vocabulary**. An event takes about a third of its JSON. Compression is by LZ4 and not by zstd, since
//! events are read one by one: unpacking the same text with zstd took two and a half times as long, and saved a tenth of the
//! bytes (`bench/README.md`).
//!
//! | file | role |
//! |---|---|
//! | `event` | one event |
//! | `vocabulary` | what the events of a segment have in common: gathered, in a file, read |
//! | `dictionary` | its strings |

mod dictionary;
mod event;
mod vocabulary;

pub(super) use event::{ID_END_MAX, id, unpack};
pub(super) use vocabulary::{Gatherer, InFile, Packer, Places, Sizes, Vocabulary, sizes_of_frames};
