//! Real events from the public network, to run tests on.

use std::path::{Path, PathBuf};

/// Real events as JSON lines: those of the shared folder (`RELAY_SHARED`, else `shared` beside the checkout), or
/// the two dozen of this crate's own tests where that is not at hand.
///
/// # Panics
/// If neither can be read.
pub fn real_event_lines() -> Vec<String> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shared = std::env::var_os("RELAY_SHARED").map_or_else(|| own.join("../../shared"), PathBuf::from);
    let text = std::fs::read_to_string(shared.join("data/real-events.jsonl"))
        .or_else(|_| std::fs::read_to_string(own.join("tests/wire_events.jsonl")))
        .expect("the real events, or the few in the tree");
    text.lines().map(str::to_owned).collect()
}
