//! `cargo xtask test`: the parts of the one test command, in order.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail};

use crate::edge;
use crate::run::{cargo, run, succeeds};

struct Part {
    name: &'static str,
    about: &'static str,
    run: fn() -> anyhow::Result<()>,
}

impl Part {
    fn chosen(&self, names: &[String]) -> bool {
        names.is_empty() || names.iter().any(|name| name == self.name)
    }
}

const PARTS: &[Part] = &[
    Part { name: "format", about: "rustfmt --check", run: format },
    Part { name: "lint", about: "clippy, every target, warnings denied", run: lint },
    Part { name: "docs", about: "rustdoc, warnings denied", run: docs },
    Part { name: "wasm", about: "the engine builds for wasm32 and has no C in it", run: wasm },
    Part {
        name: "tests",
        about: "unit, property, semantics and simulation tests, fuzz corpora, the real binary, doc tests",
        run: tests,
    },
    Part { name: "clients", about: "third-party Nostr clients against the real binary", run: clients },
    Part {
        name: "edge-toolchain",
        about: "installs and checks the pinned toolchain of the Worker",
        run: edge::setup,
    },
    Part {
        name: "edge",
        about: "the Worker in workerd: hibernation, eviction, restarts, limits, costs, third-party clients",
        run: edge::tests,
    },
    Part {
        name: "edge-e2e",
        about: "the server's semantics suite, end-to-end tests and nostr-sdk, against the Worker",
        run: edge::shared_tests,
    },
    Part {
        name: "oracle",
        about: "100,000 random groups of filters on each backend, compared with the naive oracle",
        run: oracle,
    },
    Part { name: "benches", about: "runs each bench once and checks its answers", run: benches },
];

/// What a contributor runs between edits.
const QUICK: &[Part] = &[
    Part { name: "format", about: "rustfmt --check", run: format },
    Part {
        name: "lint",
        about: "clippy on the engine and the native host, warnings denied",
        run: lint_quick,
    },
    Part {
        name: "tests",
        about: "tests of the same packages, the real binary and the simulator included, without the stores in SQLite and on files",
        run: tests_quick,
    },
];

pub(crate) fn list() {
    for part in PARTS {
        eprintln!("{:14} {}", part.name, part.about);
    }
}

pub(crate) fn run_quick() -> anyhow::Result<()> {
    run_parts(QUICK.iter())
}

pub(crate) fn run_all(names: &[String]) -> anyhow::Result<()> {
    if let Some(unknown) = names.iter().find(|name| PARTS.iter().all(|part| part.name != *name)) {
        bail!("unknown part {unknown}; `cargo xtask test --list` prints all");
    }
    run_parts(PARTS.iter().filter(|part| part.chosen(names)))
}

fn run_parts<'a>(parts: impl Iterator<Item = &'a Part>) -> anyhow::Result<()> {
    let mut times = Vec::new();
    for part in parts {
        eprintln!("\n== {}: {}", part.name, part.about);
        let started = Instant::now();
        (part.run)().with_context(|| format!("part {} failed", part.name))?;
        times.push((part.name, started.elapsed().as_secs()));
    }
    eprintln!("\nAll parts passed:");
    for (name, seconds) in times {
        eprintln!("  {name:14} {seconds:5} s");
    }
    Ok(())
}

fn format() -> anyhow::Result<()> {
    run(&mut cargo(&["fmt", "--all", "--check"]))
}

fn lint() -> anyhow::Result<()> {
    run(&mut cargo(&[
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]))
}

/// The packages in which most edits are made; the others are tested by `cargo xtask test`.
const QUICK_PACKAGES: [&str; 10] = [
    "--package",
    "relay-engine",
    "--package",
    "relay-site",
    "--package",
    "relay-server",
    "--package",
    "relay-simulator",
    "--package",
    "relay-sync",
];

fn lint_quick() -> anyhow::Result<()> {
    let mut command = cargo(&["clippy", "--locked", "--quiet", "--all-targets"]);
    run(command.args(QUICK_PACKAGES).args(["--", "-D", "warnings"]))
}

fn tests_quick() -> anyhow::Result<()> {
    // All but `store_sql` and `store_log`, which take longer than the others together.
    let globs = ["[!s]*", "s[!t]*", "store_m*", "store_lmdb", "store_scan_cost"];
    let mut command = cargo(&["test", "--locked", "--quiet", "--lib"]);
    command.args(QUICK_PACKAGES).args(globs.iter().flat_map(|glob| ["--test", glob]));
    run(with_threads(&mut command))
}

/// Two tests at once on each core, because many wait for deadlines and sockets.
fn with_threads(command: &mut Command) -> &mut Command {
    const VARIABLE: &str = "RUST_TEST_THREADS";
    match std::env::var_os(VARIABLE) {
        Some(_) => command,
        None => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            command.env(VARIABLE, (2 * cores).to_string())
        }
    }
}

fn docs() -> anyhow::Result<()> {
    run(cargo(&["doc", "--locked", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"))
}

/// Builds the engine for wasm32, without the C library libsecp256k1, which is a feature that hosts choose.
fn wasm() -> anyhow::Result<()> {
    const TARGET: &str = "wasm32-unknown-unknown";
    let has_std = || {
        let out =
            Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output().ok()?;
        let folder = String::from_utf8(out.stdout).ok()?;
        std::fs::read_dir(folder.trim()).ok()?.next().map(|_| ())
    };
    if has_std().is_none() && !succeeds(Command::new("rustup").args(["target", "add", TARGET])) {
        bail!("no standard library for {TARGET}: `rustup target add {TARGET}` adds it");
    }
    for features in ["", "schnorr"] {
        run(&mut cargo(&[
            "build",
            "--locked",
            "--package",
            "relay-engine",
            "--no-default-features",
            "--features",
            features,
            "--target",
            TARGET,
        ]))?;
    }
    Ok(())
}

/// The whole workspace at once, so that every dependency is built once.
fn tests() -> anyhow::Result<()> {
    run(with_threads(&mut cargo(&["test", "--locked", "--workspace"])))
}

fn oracle() -> anyhow::Result<()> {
    let stores = ["store_memory", "store_lmdb", "store_log", "store_sql"];
    let tests = stores.iter().flat_map(|store| ["--test", store]);
    let mut command = cargo(&["test", "--locked", "--workspace"]);
    run(command.args(tests).args(["--", "agrees_with_the_oracle"]).env("RELAY_GROUPS", "100000"))
}

fn clients() -> anyhow::Result<()> {
    // The binary that the tests above were run on.
    run(&mut cargo(&["test", "--locked", "--workspace", "--no-run"]))?;
    run(Command::new("npm").arg("test").current_dir("server/tests/clients"))
}

fn benches() -> anyhow::Result<()> {
    run(&mut cargo(&["test", "--locked", "--workspace", "--bench", "*"]))
}
