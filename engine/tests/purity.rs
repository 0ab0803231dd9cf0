//! Invariants of the source text: what the engine never uses, and which module may import which.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found
}

/// The code of a file without comments and without its unit tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Modules for tests may read files and the environment.
fn is_testing(path: &Path) -> bool {
    let below_src = path.components().rev().take_while(|part| part.as_os_str() != "src");
    below_src.into_iter().any(|part| {
        ["testing", "testing.rs", "tests", "tests.rs"].iter().any(|name| part.as_os_str() == *name)
    })
}

/// What a pure machine never uses: its host supplies time, randomness, bytes and storage.
const FORBIDDEN: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "std::fs",
    "std::net",
    "std::thread",
    "std::process",
    "std::env",
    "thread::spawn",
    "std::io::stdin",
    "unsafe ",
    "println!",
    "eprintln!",
    "getrandom",
    "rand::",
];

fn impurities(sources: &[PathBuf]) -> Vec<String> {
    let mut broken = Vec::new();
    for path in sources.iter().filter(|path| !is_testing(path)) {
        let code = code(path);
        let found = FORBIDDEN.iter().filter(|what| code.contains(**what));
        broken.extend(found.map(|what| format!("{}: {what}", path.display())));
    }
    broken
}

#[test]
fn the_engine_has_no_clock_socket_file_thread_or_unsafe() {
    let broken = impurities(&sources(&src()));
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Other pure crates that may exist.
const PURE_CRATES: &[&str] = &["agent", "blossom", "market", "sync"];
/// The modules of the engine that they may import.
const SHARED_MODULES: &[&str] = &["types", "wire", "verify", "sql"];

/// The modules of the engine that a file of another pure crate imports although it must not.
fn foreign_modules(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for rest in code.split("relay_engine::").skip(1) {
        // `relay_engine::types::Event` or `relay_engine::{types, wire::parse_event}`.
        let group = rest.strip_prefix('{').and_then(|rest| rest.split('}').next());
        for path in group.unwrap_or(rest).split(',').take(if group.is_some() { usize::MAX } else { 1 }) {
            let module: String =
                path.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !module.is_empty() && !SHARED_MODULES.contains(&&*module) {
                found.push(module);
            }
        }
    }
    found
}

#[test]
fn other_pure_crates_import_only_shared_modules() {
    assert_eq!(
        foreign_modules("use relay_engine::types::Event;\nuse relay_engine::{wire, verify::Verified};"),
        [""; 0]
    );
    assert_eq!(
        foreign_modules("use relay_engine::{types, relay::Relay};\nrelay_engine::store::Seq"),
        ["relay", "store"]
    );
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for folder in PURE_CRATES.iter().map(|name| root.join(name).join("src")).filter(|src| src.is_dir()) {
        let sources = sources(&folder);
        assert_eq!(impurities(&sources), [""; 0]);
        for path in sources.iter().filter(|path| !is_testing(path)) {
            assert_eq!(foreign_modules(&code(path)), [""; 0], "{}", path.display());
        }
    }
}

/// The files of a module: those of its folder, or the one file that it is.
fn module_sources(module: &str) -> Vec<PathBuf> {
    let file = src().join(module).with_extension("rs");
    if file.is_file() { vec![file] } else { sources(&src().join(module)) }
}

#[test]
fn modules_import_in_one_direction() {
    // A module and what it may import. `store` imports `verify`, because only verified events can be stored.
    let modules: [(&str, &[&str]); 9] = [
        ("types", &[]),
        ("sql", &["types"]),
        ("wire", &["types"]),
        ("verify", &["types"]),
        ("policy", &["types"]),
        ("index", &["types"]),
        ("store", &["types", "sql", "verify"]),
        ("reconcile", &["types", "sql"]),
        ("relay", &["types", "wire", "verify", "policy", "index", "store", "reconcile"]),
    ];
    let mut broken = Vec::new();
    for (module, allowed) in modules {
        for path in module_sources(module).into_iter().filter(|path| !is_testing(path)) {
            let code = code(&path);
            for (other, _) in modules.iter().filter(|(other, _)| *other != module && !allowed.contains(other))
            {
                if code.contains(&format!("crate::{other}"))
                    || code.contains(&format!("use crate::{{{other}"))
                {
                    broken.push(format!("{} imports {other}", path.display()));
                }
            }
            if code.contains("crate::testing") {
                broken.push(format!("{} imports testing", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_file_begins_with_a_module_comment() {
    let silent: Vec<_> = sources(&src())
        .into_iter()
        .filter(|path| !fs::read_to_string(path).unwrap().trim_start().starts_with("//!"))
        .collect();
    assert!(silent.is_empty(), "{silent:#?}");
}

/// Jobs, executors and what agents store are the same whatever asks for them: NIP-90 is an adapter of the machine.
#[test]
fn jobs_and_executors_know_nothing_of_nip90() {
    let agent = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("agent/src");
    let mut found = Vec::new();
    for folder in ["job", "executor", "fetch", "store", "identity", "cipher"] {
        let sources = sources(&agent.join(folder));
        assert!(!sources.is_empty(), "{folder}");
        found.extend(sources.into_iter().filter(|path| code(path).contains("nip90::")));
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// The crates of the workspace that a crate depends on, without those of its tests.
fn dependencies(name: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let manifest = fs::read_to_string(root.join(name).join("Cargo.toml")).unwrap();
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap_or_default();
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    let mut found: Vec<String> = lines
        .filter_map(|line| line.strip_prefix("relay-"))
        .map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '-').collect())
        .collect();
    found.sort();
    found
}

#[test]
fn crates_depend_in_one_direction() {
    let crates: [(&str, &[&str]); 10] = [
        ("schnorr", &[]),
        ("engine", &["schnorr"]),
        ("site", &["engine"]),
        ("agent", &["engine", "site"]),
        ("blossom", &["engine", "site"]),
        ("market", &["agent", "engine", "site"]),
        ("sync", &["engine"]),
        ("simulator", &["agent", "engine", "sync"]),
        ("server", &["agent", "blossom", "engine", "market", "site", "sync"]),
        ("edge", &["agent", "blossom", "engine", "market", "site", "sync"]),
    ];
    for (name, allowed) in crates {
        assert_eq!(dependencies(name), allowed, "{name}");
    }
    // Black boxes.
    assert_eq!(dependencies("conformance"), [""; 0]);
}
