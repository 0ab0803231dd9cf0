//! The examples are manifests.

use std::path::Path;

use relay_agent::manifest::{ExecutorKind, Manifest};

#[test]
fn every_example_is_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut executors = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|ending| ending != "toml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a text");
        let table: toml::Table = text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let json = serde_json::to_vec(&table).expect("JSON");
        let manifest = Manifest::parse(&json).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        executors.extend(manifest.handlers.iter().map(|handler| handler.executor.kind()));
        if path.ends_with("echo.toml") {
            assert_eq!(manifest.handlers[0].kind, 5050);
        }
    }
    for executor in [
        ExecutorKind::Echo,
        ExecutorKind::Text,
        ExecutorKind::OpenaiHttp,
        ExecutorKind::WorkersAi,
        ExecutorKind::Webhook,
        ExecutorKind::Mcp,
        ExecutorKind::Membership,
        ExecutorKind::BlobPayment,
    ] {
        assert!(executors.contains(&executor), "no example of {executor:?}");
    }
}
