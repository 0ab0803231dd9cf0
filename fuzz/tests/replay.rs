//! Runs every file of the corpora, on stable Rust, so that bugs once found do not return.

use std::fs;
use std::path::Path;

/// A fuzz target: its name, its function, and the fewest files its corpus may have.
type Target = (&'static str, fn(&[u8]), usize);

const TARGETS: [Target; 9] = [
    ("frames", relay_fuzz::frames, 30),
    ("events", relay_fuzz::events, 30),
    ("filters", relay_fuzz::filters, 30),
    ("index_ops", relay_fuzz::index_ops, 20),
    ("reconcile", relay_fuzz::reconcile, 20),
    ("store_ops", relay_fuzz::store_ops, 20),
    ("edge", relay_fuzz::edge, 20),
    ("schnorr", relay_fuzz::schnorr, 20),
    ("machine", relay_fuzz::machine, 20),
];

#[test]
fn every_corpus_file_replays() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target, files_min) in TARGETS {
        let mut files: Vec<_> = fs::read_dir(root.join(name))
            .unwrap_or_else(|error| panic!("corpus of {name}: {error}"))
            .map(|entry| entry.expect("a directory entry").path())
            .collect();
        files.sort();
        assert!(files.len() >= files_min, "the corpus of {name} has only {} files", files.len());
        for file in files {
            let data = fs::read(&file).expect("a corpus file");
            let run = std::panic::catch_unwind(|| target(&data));
            assert!(run.is_ok(), "{} fails", file.display());
        }
    }
}
