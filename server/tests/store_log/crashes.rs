//! Crashes and failures at every call to the disk.

use std::io::ErrorKind;

use relay_engine::store::{Backend, Reader, Seq, StoreError, Writer, terms_of};
use relay_server::log_store::LogBackend;

use crate::backend_contract::{Chance, Model, author, note, of_author};
use crate::crash_disk::{CrashDisk, Kept};
use crate::tiny;

/// Writes of one run: enough for several segments, levels, cleaned segments and manifests.
const ROUNDS: u64 = 50;

/// One write of random changes. The model is as after it if it was acknowledged.
fn write(
    backend: &LogBackend<CrashDisk>,
    model: &mut Model,
    chance: &mut Chance,
) -> (Result<(), StoreError>, Model) {
    let mut next = model.clone();
    let classes = backend.classes();
    let (changes, removes_most) = (1 + chance.below(9), chance.below(9) == 0);
    let result = backend.write(|writer| {
        if removes_most {
            next.remove_most(writer, chance);
        }
        for _ in 0..changes {
            next.change(writer, classes, chance);
        }
        // So that the last number tells whether the write is there.
        next.insert(writer, classes, chance);
        Ok(())
    });
    if result.is_ok() {
        *model = next.clone();
    }
    (result, next)
}

/// `note` is printed, so that a panic below is explained.
#[allow(clippy::print_stdout, reason = "captured, and shown if the test fails")]
fn check(backend: &LogBackend<CrashDisk>, model: &Model, note: &str) {
    println!("{note}");
    let reader = backend.reader().expect("reader");
    model.check(&reader, backend.classes(), &mut Chance::new(7));
    let checked = backend.check().expect("checked");
    assert!(checked.damage.is_empty(), "{note}: {:?}", checked.damage);
}

/// Nothing of what was removed is on the disk after what is due was done.
fn check_removed_is_gone(backend: &LogBackend<CrashDisk>, disk: &CrashDisk, model: &Model, note: &str) {
    backend.maintain();
    let image = disk.image();
    for trace in model.traces() {
        for (name, bytes) in &image {
            let is_there = memchr::memmem::find(bytes, &trace).is_some();
            assert!(!is_there, "{note}: {name} has {:?}", String::from_utf8_lossy(&trace));
        }
    }
}

fn open(disk: &CrashDisk) -> Result<LogBackend<CrashDisk>, StoreError> {
    LogBackend::open_on(disk.clone(), tiny())
}

/// Runs until the machine stops. Returns what was acknowledged, and what was being written.
fn run(disk: &CrashDisk, seed: u64) -> (Model, Model) {
    let (mut model, mut chance) = (Model::default(), Chance::new(seed));
    let Ok(backend) = open(disk) else { return (model.clone(), model) };
    let mut being_written = model.clone();
    for _ in 0..ROUNDS {
        if disk.has_crashed() {
            break;
        }
        being_written = write(&backend, &mut model, &mut chance).1;
    }
    (model, being_written)
}

#[test]
fn what_was_acknowledged_is_there_after_a_crash_at_any_call() {
    let disk = CrashDisk::new(1);
    run(&disk, 5);
    let names: Vec<String> = disk.image().into_keys().collect();
    let calls = disk.calls();
    assert!(calls > 500, "{calls}");
    assert!(names.iter().any(|name| name.matches('-').count() == 2), "no segment was cleaned: {names:?}");
    assert!(disk.packed().len() > 1, "no segment was packed: {names:?}");
    for n in 1..=calls {
        let disk = CrashDisk::new(n);
        disk.crash_at(n);
        let (acknowledged, being_written) = run(&disk, 5);
        for (kept, seed) in [(Kept::Nothing, 0), (Kept::Everything, 0), (Kept::Some, n), (Kept::Some, n + 1)]
        {
            let note = format!("crash at call {n} of {calls}, {kept:?} kept, seed {seed}");
            let found = disk.after_crash(kept, seed);
            let backend = open(&found).unwrap_or_else(|error| panic!("{note}: {error}"));
            let last = backend.reader().and_then(|reader| reader.last_seq()).expect("last");
            let mut model =
                if last == being_written.last_seq() { being_written.clone() } else { acknowledged.clone() };
            check(&backend, &model, &note);
            check_removed_is_gone(&backend, &found, &model, &note);
            check(&backend, &model, &format!("{note}, after maintenance"));
            if !n.is_multiple_of(3) {
                continue;
            }
            // It goes on from there, and is opened again.
            let mut chance = Chance::new(n);
            for _ in 0..4 {
                write(&backend, &mut model, &mut chance).0.expect("writes");
            }
            check(&backend, &model, &format!("{note}, after more"));
            drop(backend);
            let backend = open(&found.after_crash(Kept::Nothing, 0)).expect("opens again");
            check(&backend, &model, &format!("{note}, opened again"));
        }
    }
}

#[test]
fn a_call_that_fails_loses_nothing_that_was_acknowledged() {
    let disk = CrashDisk::new(1);
    run(&disk, 6);
    let calls = disk.calls();
    let mut refused = [0, 0];
    for n in 1..=calls {
        for (at, kind) in [ErrorKind::Other, ErrorKind::StorageFull].into_iter().enumerate() {
            let note = format!("call {n} of {calls} fails: {kind:?}");
            let mut disk = CrashDisk::new(n);
            disk.fail_at(n, kind);
            let (mut model, mut chance) = (Model::default(), Chance::new(6));
            let backend = match open(&disk) {
                Ok(backend) => backend,
                // What was left of the attempt is no database, or an empty one.
                Err(_) => {
                    disk = disk.after_crash(Kept::Some, n);
                    open(&disk).unwrap_or_else(|error| panic!("{note}: {error}"))
                }
            };
            let mut failed = None;
            for _ in 0..ROUNDS {
                let (result, next) = write(&backend, &mut model, &mut chance);
                failed = None;
                if let Err(error) = result {
                    assert_eq!(
                        matches!(error, StoreError::Full(_)),
                        kind == ErrorKind::StorageFull,
                        "{note}: {error}"
                    );
                    refused[at] += 1;
                    failed = Some(next);
                    check(&backend, &model, &note);
                }
            }
            drop(backend);
            for kept in [Kept::Nothing, Kept::Some] {
                let backend =
                    open(&disk.after_crash(kept, n)).unwrap_or_else(|error| panic!("{note}: {error}"));
                let last = backend.reader().and_then(|reader| reader.last_seq()).expect("last");
                let model = failed.as_ref().filter(|next| next.last_seq() == last).unwrap_or(&model);
                check(&backend, model, &format!("{note}, {kept:?} kept"));
            }
        }
    }
    assert!(refused.iter().all(|refused| *refused as u64 > ROUNDS), "{refused:?}");
}

/// Regression: a segment was written again under a name that an edit of the manifest had which might be there, though writing it
/// had failed; a crash then left a segment that was named and not whole.
#[test]
fn a_failure_and_a_crash_soon_after_lose_nothing_that_was_acknowledged() {
    let disk = CrashDisk::new(1);
    run(&disk, 5);
    let calls = disk.calls();
    for n in 1..=calls {
        for crash in [n + 1 + n % 4, n + 5 + n % 11] {
            let note = format!("call {n} of {calls} fails, crash at call {crash}");
            let disk = CrashDisk::new(n);
            disk.fail_at(n, ErrorKind::Other);
            disk.crash_at(crash);
            let (mut model, mut chance) = (Model::default(), Chance::new(5));
            let mut attempts = Vec::new();
            if let Ok(backend) = open(&disk) {
                for _ in 0..ROUNDS {
                    if disk.has_crashed() {
                        break;
                    }
                    match write(&backend, &mut model, &mut chance) {
                        (Ok(()), _) => attempts.clear(),
                        (Err(_), next) => attempts.push(next),
                    }
                }
            }
            attempts.push(model);
            for (kept, seed) in [(Kept::Nothing, 0), (Kept::Everything, 0), (Kept::Some, n)] {
                let note = format!("{note}, {kept:?} kept");
                let backend = open(&disk.after_crash(kept, seed));
                let backend = backend.unwrap_or_else(|error| panic!("{note}: {error}"));
                let reader = backend.reader().expect("reader");
                // One that failed may be there whole.
                let found = attempts.iter().find(|model| model.is_likely(&reader));
                check(&backend, found.unwrap_or_else(|| panic!("{note}: another state")), &note);
            }
        }
    }
}

/// Stores notes in one write.
fn store(backend: &LogBackend<CrashDisk>, numbers: std::ops::Range<u64>) -> Result<(), StoreError> {
    backend.write(|writer| {
        numbers.into_iter().try_for_each(|n| {
            let event = note(n, n);
            writer.insert(Seq(n), &event, &terms_of(event.view(), backend.classes()))
        })
    })
}

/// Regression: the next segment was made in place of one without a batch, and when that failed the file of the latter was removed
/// while it was in use: what was acknowledged afterwards was gone with the process. And when the name of a next segment
/// could not be made durable, what went into the one before it later was taken for missing.
#[test]
fn a_segment_that_cannot_be_made_loses_nothing() {
    let mut refused = 0;
    for (before, kind, failing) in [
        (0, ErrorKind::Other, 1),
        (0, ErrorKind::StorageFull, 2),
        (0, ErrorKind::Other, 3),
        (2, ErrorKind::Other, 1),
        (2, ErrorKind::Other, 2),
        (2, ErrorKind::StorageFull, 3),
    ] {
        for first in 0..9 {
            let note =
                format!("{before} before, calls {first} to {} of the next write fail", first + failing);
            let disk = CrashDisk::new(first);
            let backend = open(&disk).expect("opens");
            (1..=before).for_each(|n| store(&backend, n..n + 1).expect("stores"));
            let mut stored: Vec<u64> = (1..=before).collect();
            let next = disk.calls() + 1 + first;
            disk.fail_calls(next..next + failing, kind);
            // The first one is too large for what the segment has left.
            for count in [30, 1, 1, 1, 1, 1] {
                let last = backend.reader().and_then(|reader| reader.last_seq()).expect("last").0;
                let range = last + 1..last + 1 + count;
                match store(&backend, range.clone()) {
                    Ok(()) => stored.extend(range),
                    Err(_) => refused += 1,
                }
            }
            stored.reverse();
            drop(backend);
            for kept in [Kept::Nothing, Kept::Everything, Kept::Some] {
                let backend = open(&disk.after_crash(kept, first));
                let backend = backend.unwrap_or_else(|error| panic!("{note}, {kept:?} kept: {error}"));
                assert_eq!(of_author(&backend, author(1)), stored, "{note}, {kept:?} kept");
                let checked = backend.check().expect("checked");
                assert!(checked.damage.is_empty(), "{note}: {:?}", checked.damage);
            }
        }
    }
    assert!(refused > 20, "{refused}");
}

/// A byte that changes on the disk: it is named, or it does not matter; nothing is lost without a word, and nothing is written.
#[test]
fn damage_is_named_and_nothing_is_written() {
    let disk = CrashDisk::new(1);
    let (model, _) = run(&disk, 5);
    let mut named = 0;
    for (name, bytes) in disk.image() {
        for at in (0..bytes.len()).step_by(41) {
            let note = format!("{name}, byte {at} of {}", bytes.len());
            let damaged = disk.after_crash(Kept::Everything, 0);
            damaged.damage(&name, at);
            let before = damaged.image();
            match open(&damaged) {
                Err(StoreError::Corrupt(what)) => {
                    named += 1;
                    assert!(what.contains('-') || what.contains("manifest"), "{note}: {what}");
                    assert_eq!(damaged.image(), before, "{note}");
                }
                Err(StoreError::Failed(what)) if what.contains("version") => {}
                Err(error) => panic!("{note}: {error}"),
                Ok(backend) => {
                    let last = backend.reader().and_then(|reader| reader.last_seq()).expect("last");
                    let is_end_of_log = last != model.last_seq();
                    let checked = backend.check().expect("checked");
                    if checked.damage.is_empty() && !is_end_of_log {
                        check(&backend, &model, &note);
                    } else if is_end_of_log {
                        // The last batch can't be told from one that was not finished.
                        let newest = before.keys().rfind(|name| name.starts_with("log-"));
                        assert_eq!(newest, Some(&name), "{note}");
                    } else {
                        named += 1;
                    }
                }
            }
        }
    }
    assert!(named > 100, "{named}");
}
