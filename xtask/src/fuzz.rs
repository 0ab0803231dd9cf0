//! `cargo xtask fuzz`: runs one target. `fuzz/README.md` describes the targets.

use anyhow::{Context, ensure};

use crate::run::{cargo, run as run_command, succeeds};

const CARGO_FUZZ: &str = "0.13.2";

/// The targets, each with its longest input in bytes.
const TARGETS: &[(&str, u32)] = &[
    ("frames", 4096),
    ("events", 4096),
    ("filters", 4096),
    ("index_ops", 1024),
    ("reconcile", 4096),
    ("store_ops", 1024),
    ("schnorr", 1024),
    ("machine", 4096),
    ("edge", 4096),
];

pub(crate) fn run(target: &str, seconds: u32) -> anyhow::Result<()> {
    let names = TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let (target, len_max) = TARGETS
        .iter()
        .find(|(name, _)| *name == target)
        .with_context(|| format!("unknown target {target}; there are {names}"))?;
    if !succeeds(&mut cargo(&["fuzz", "--version"])) {
        run_command(&mut cargo(&["install", "--locked", "cargo-fuzz", "--version", CARGO_FUZZ]))?;
    }
    let found = format!("target/fuzz/{target}");
    std::fs::create_dir_all(&found)?;
    let corpus = format!("fuzz/corpus/{target}");
    ensure!(std::path::Path::new(&corpus).is_dir(), "{corpus} is missing");
    // The engine has no unsafe code, so it needs no sanitizer, which only a nightly compiler has. Debug assertions are
    // on (-a).
    let (time, len) = (format!("-max_total_time={seconds}"), format!("-max_len={len_max}"));
    let args = [
        "fuzz",
        "run",
        "-s",
        "none",
        "-O",
        "-a",
        target,
        &found,
        &corpus,
        "--",
        &time,
        &len,
        "-timeout=20",
        "-rss_limit_mb=2048",
        "-dict=fuzz/nostr.dict",
        "-print_final_stats=1",
    ];
    run_command(&mut cargo(&args))
}
