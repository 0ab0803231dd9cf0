//! Real events from the public network, for tests.

use std::path::{Path, PathBuf};

/// Real events as JSON lines: those of the shared folder (`RELAY_SHARED`, else `shared` beside the checkout), or
/// the two dozen of this crate's tests if there is none.
///
/// # Panics
/// If neither can be read, or the environment names a folder that has none.
pub fn real_event_lines() -> Vec<String> {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let named = std::env::var_os("RELAY_SHARED").map(PathBuf::from);
    let is_named = named.is_some();
    let file = named.unwrap_or_else(|| crate_dir.join("../../shared")).join("data/real-events.jsonl");
    let text = std::fs::read_to_string(&file)
        .or_else(|error| {
            assert!(!is_named, "RELAY_SHARED: {}: {error}", file.display());
            eprintln!("{} is not there: tests run on the few real events in the tree", file.display());
            std::fs::read_to_string(crate_dir.join("tests/wire_events.jsonl"))
        })
        .expect("the real events, or the few in the tree");
    text.lines().map(str::to_owned).collect()
}
