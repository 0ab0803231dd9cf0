//! What is whole in a broken database is found, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use relay_engine::store::{Backend, Reader, Seq};
use relay_engine::testing::Rng;
use relay_server::log_store::{LogBackend, LogOpenError, LogOptions, Salvaged, salvage};

use super::{open, remove, tiny};
use crate::backend_contract::{insert, note};

/// Like [`tiny`], with segments that are sealed, cleaned and overwritten as they come.
fn options() -> LogOptions {
    LogOptions { removed_keys_max: 20, ..tiny() }
}

/// A database of 200 events of which every third was removed; with the JSON of the others by number.
fn stored(path: &Path) -> BTreeMap<u64, Vec<u8>> {
    let store = open(path, options());
    for n in 1..=200 {
        insert(&store, n, &note(n, 1_000 + n)).expect("insert");
        if n % 3 == 0 {
            remove(&store, n..=n);
        }
    }
    store.maintain();
    let reader = store.reader().expect("reader");
    let mut seqs = Vec::new();
    reader.log(Seq(0), 1_000, &mut seqs).expect("log");
    let all: BTreeMap<u64, Vec<u8>> = seqs
        .iter()
        .map(|seq| (seq.0, reader.event(*seq).expect("reads").expect("stored").into_owned()))
        .collect();
    assert_eq!(all.len(), 134);
    all
}

fn salvaged(path: &Path) -> Result<(Vec<Vec<u8>>, Salvaged), LogOpenError> {
    let mut found = Vec::new();
    let salvaged = salvage(path, &mut |json| {
        found.push(json.to_vec());
        Ok::<(), LogOpenError>(())
    })?;
    assert_eq!(salvaged.events, found.len() as u64);
    Ok((found, salvaged))
}

fn names(path: &Path, prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(path).expect("folder").map(|entry| entry.expect("entry").file_name());
    let mut names: Vec<String> = entries.filter_map(|name| name.into_string().ok()).collect();
    names.retain(|name| name.starts_with(prefix));
    names.sort();
    names
}

#[test]
fn a_whole_database_is_salvaged_whole() {
    let folder = tempfile::tempdir().expect("folder");
    let all = stored(folder.path());
    let (found, Salvaged { damage, .. }) = salvaged(folder.path()).expect("salvage");
    assert_eq!(found, all.into_values().collect::<Vec<_>>());
    assert!(damage.is_empty(), "{damage:?}");
}

#[test]
fn only_the_log_is_needed() {
    let folder = tempfile::tempdir().expect("folder");
    let all = stored(folder.path());
    for name in [names(folder.path(), "manifest"), names(folder.path(), "pages")].concat() {
        fs::remove_file(folder.path().join(name)).expect("remove");
    }
    assert!(!LogBackend::is_in(folder.path()));
    let (found, Salvaged { damage, .. }) = salvaged(folder.path()).expect("salvage");
    assert_eq!(found, all.into_values().collect::<Vec<_>>(), "no removed event comes back");
    assert_eq!(damage, ["no manifest can be read"]);
}

#[test]
fn a_segment_that_is_missing_takes_its_events_only() {
    let folder = tempfile::tempdir().expect("folder");
    let all = stored(folder.path());
    let segments = names(folder.path(), "log");
    fs::remove_file(folder.path().join(&segments[2])).expect("remove");
    assert!(LogBackend::open(folder.path(), options(), 0).is_err(), "it cannot be opened any more");
    let (found, _) = salvaged(folder.path()).expect("salvage");
    let all: BTreeSet<Vec<u8>> = all.into_values().collect();
    assert!(found.len() >= all.len() - 20 && found.len() < all.len(), "{}", found.len());
    assert!(found.iter().all(|json| all.contains(json)));
}

#[test]
fn a_database_in_use_or_none_is_not_salvaged() {
    let folder = tempfile::tempdir().expect("folder");
    assert!(matches!(salvaged(folder.path()), Err(LogOpenError::NoDatabase(_))));
    assert!(matches!(salvaged(&folder.path().join("none")), Err(LogOpenError::NoDatabase(_))));
    let store = open(folder.path(), options());
    assert!(matches!(salvaged(folder.path()), Err(LogOpenError::InUse(_))));
    drop(store);
    assert!(salvaged(folder.path()).is_ok());
}

/// Regression: the head of one generation of a segment was broken, and its events were counted from 0: they came twice, or were taken for others.
#[test]
fn events_that_two_generations_have_come_once() {
    let folder = tempfile::tempdir().expect("folder");
    let all = stored(folder.path());
    for name in names(folder.path(), "log") {
        let mut bytes = fs::read(folder.path().join(&name)).expect("read");
        bytes[..32].fill(0xff);
        let number = name.split('-').nth(1).expect("a number");
        fs::write(folder.path().join(format!("log-{number}-77")), bytes).expect("write");
    }
    let (found, Salvaged { damage, .. }) = salvaged(folder.path()).expect("salvage");
    let distinct: BTreeSet<&Vec<u8>> = found.iter().collect();
    assert_eq!(distinct.len(), found.len(), "an event comes twice");
    assert!(all.values().all(|json| distinct.contains(json)), "none is left out");
    assert!(damage.iter().any(|what| what.contains("its head is broken")), "{damage:?}");
}

/// Bytes are changed anywhere: what is found was stored and is not removed, each event once, and an event is lost only near a change.
#[test]
fn whatever_is_broken_the_rest_is_found() {
    let folder = tempfile::tempdir().expect("folder");
    let all = stored(folder.path());
    let all: BTreeSet<Vec<u8>> = all.into_values().collect();
    let mut whole = BTreeMap::new();
    for name in names(folder.path(), "") {
        whole.insert(name.clone(), fs::read(folder.path().join(name)).expect("read"));
    }
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let changes = 1 + rng.below(4);
        for _ in 0..changes {
            let (name, bytes) = rng.pick(&whole.iter().collect::<Vec<_>>()).to_owned();
            let mut bytes = bytes.clone();
            if bytes.is_empty() {
                continue;
            }
            let at = rng.below(bytes.len() as u64) as usize;
            match rng.below(3) {
                0 => bytes.truncate(at),
                1 => bytes[at] ^= 1 << rng.below(8),
                _ => {
                    let end = (at + 1 + rng.below(600) as usize).min(bytes.len());
                    bytes[at..end].fill(0);
                }
            }
            fs::write(folder.path().join(name), bytes).expect("write");
        }
        let (found, Salvaged { damage, .. }) = salvaged(folder.path()).expect("salvage");
        let distinct: BTreeSet<&Vec<u8>> = found.iter().collect();
        assert_eq!(distinct.len(), found.len(), "seed {seed}: an event comes twice");
        let is_headless = damage.iter().any(|what| what.contains("its head is broken"));
        for json in &distinct {
            assert!(
                is_headless || all.contains(*json),
                "seed {seed}: a removed event comes back: {damage:?}"
            );
        }
        // A segment has up to twenty events.
        let kept = distinct.iter().filter(|json| all.contains(**json)).count();
        assert!(
            kept + 20 * changes as usize >= all.len(),
            "seed {seed}: {kept} of {}: {damage:?}",
            all.len()
        );
        for (name, bytes) in &whole {
            fs::write(folder.path().join(name), bytes).expect("write");
        }
    }
}
