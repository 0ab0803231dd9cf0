//! Random histories, converted back and forth, with stops and lost processes in between.

use std::cell::Cell;
use std::path::Path;

use relay_engine::store::kv::{ConversionReader, ConversionWriter};
use relay_engine::store::{Backend, Op, Outcome, Reader, Seq, commit, remove, remove_pending};
use relay_engine::testing::{EventGenerator, Rng};

use super::{Copied, Engine, Place, Summary, copy, summary};
use crate::lmdb::{LmdbBackend, LmdbOptions};
use crate::log_store::{LogBackend, LogOptions};

fn lmdb(folder: &Path) -> LmdbBackend {
    let options =
        LmdbOptions { map_bytes_max: 1 << 28, sync: false, removed_keys_max: 20, ..LmdbOptions::default() };
    LmdbBackend::open(folder, &options).expect("open")
}

fn log(folder: &Path) -> LogBackend {
    LogBackend::open(folder, LogOptions { removed_keys_max: 20, ..LogOptions::default() }, 0).expect("open")
}

const NOW: u64 = EventGenerator::START;

/// Commits random events and deletions, some of which leave events pending removal, and removes some as an operator does.
fn change(store: &impl Backend, generator: &mut EventGenerator, commits: usize) {
    for _ in 0..commits {
        let ops: Vec<Op> = (0..8).map(|_| generator.op()).collect();
        commit(store, NOW, &ops).expect("commit");
        if generator.rng.one_in(8) {
            remove_pending(store).expect("remove");
        }
        if generator.rng.one_in(8) {
            remove(store, &[generator.op().event().id]).expect("remove");
        }
    }
    // The last number given is of no stored event.
    let reader = store.reader().expect("reader");
    let last = reader.last_seq().expect("last_seq");
    let id = reader
        .event(last)
        .expect("event")
        .map(|json| relay_engine::types::Event::from_canonical((&*json).into()).id);
    drop(reader);
    if let Some(id) = id {
        remove(store, &[id]).expect("remove");
    }
}

fn whole<B>(store: &B) -> Summary
where
    B: Backend,
    for<'a> B::Reader<'a>: ConversionReader,
{
    summary(store, &mut |_| true).expect("summary").expect("not stopped")
}

/// Copies, stopping after every commit.
fn copy_in_steps<F, T>(from: &F, to: &T)
where
    F: Backend,
    for<'a> F::Reader<'a>: ConversionReader,
    T: Backend,
    for<'a> T::Reader<'a>: ConversionReader,
    for<'a> T::Writer<'a>: ConversionWriter,
{
    let steps = Cell::new(0);
    // Tombstones are copied again from the first, so a stop at each of their commits would never end.
    let one_step = &mut |_| {
        steps.set(steps.get() + 1);
        steps.get() > 3
    };
    while copy(from, to, one_step).expect("copy") == Copied::Stopped {}
    assert_eq!(whole(from), whole(to));
}

/// The same operations have the same outcomes on both.
fn check_same_answers(a: &impl Backend, b: &impl Backend, generator: &mut EventGenerator) {
    for _ in 0..40 {
        let ops: Vec<Op> = (0..8).map(|_| generator.op()).collect();
        let outcomes = |store: &dyn Fn() -> Vec<Outcome>| store();
        let of_a = outcomes(&|| commit(a, NOW, &ops).expect("commit"));
        assert_eq!(of_a, outcomes(&|| commit(b, NOW, &ops).expect("commit")), "{ops:#?}");
    }
}

#[test]
fn a_copy_is_the_same_store() {
    let mut seeds = Rng::new(17);
    for _ in 0..12 {
        let seed = seeds.bits();
        let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().expect("folder")).collect();
        let mut generator = EventGenerator::new(seed);
        let first = lmdb(folders[0].path());
        change(&first, &mut generator, 60);
        let second = log(folders[1].path());
        copy_in_steps(&first, &second);
        // What is stored after a conversion goes along with the next one.
        change(&second, &mut generator, 20);
        let third = lmdb(folders[2].path());
        copy_in_steps(&second, &third);
        assert_eq!(second.reader().unwrap().last_seq(), third.reader().unwrap().last_seq());
        check_same_answers(&second, &third, &mut generator);
        assert_eq!(whole(&second), whole(&third), "seed {seed}");
        // Hashes of tombstones are found again after a restart, and go along too.
        drop(third);
        let third = lmdb(folders[2].path());
        let again = tempfile::tempdir().expect("folder");
        let fourth = log(again.path());
        copy_in_steps(&third, &fourth);
        check_same_answers(&third, &fourth, &mut generator);
    }
}

#[test]
fn another_stores_copy_is_not_gone_on_with() {
    let folders: Vec<_> = (0..2).map(|_| tempfile::tempdir().expect("folder")).collect();
    let (from, to) = (lmdb(folders[0].path()), log(folders[1].path()));
    change(&to, &mut EventGenerator::new(1), 3);
    assert!(copy(&from, &to, &mut |_| true).is_err());
    assert_eq!(to.reader().unwrap().log(Seq(0), 1, &mut Vec::new()), Ok(()));
}

/// The databases change places by renames, of which any may be the last one before the process is killed.
#[test]
fn a_swap_that_was_cut_off_is_ended_by_the_next() {
    let old = ["data.mdb", "lock.mdb"];
    let new = ["LOCK", "READERS", "log-00000001", "log-00000002-1", "manifest-00000007", "pages-00000000"];
    let files: Vec<_> = old.iter().chain(&new).collect();
    for moved in 0..=files.len() {
        let folder = tempfile::tempdir().expect("folder");
        let (data, place) = (folder.path(), Place::of(folder.path()));
        std::fs::create_dir_all(place.folder()).unwrap();
        std::fs::write(data.join("blossom.sqlite"), "not of the database").unwrap();
        old.iter().for_each(|name| std::fs::write(data.join(name), name).unwrap());
        new.iter().for_each(|name| std::fs::write(place.folder().join(name), name).unwrap());
        assert_eq!(place.completed().unwrap(), None);
        place.complete(Engine::Log).unwrap();
        if moved > 0 {
            std::fs::create_dir(place.before()).unwrap();
        }
        for name in &files[..moved] {
            let (from, to) = match old.contains(name) {
                true => (data.join(name), place.before()),
                false => (place.folder().join(name), data.to_owned()),
            };
            std::fs::rename(from, to.join(name)).unwrap();
        }
        assert!(place.is_begun());
        assert_eq!(place.completed().unwrap(), Some(Engine::Log));
        place.swap(Engine::Log).unwrap();
        assert!(!place.is_begun() && place.completed().unwrap().is_none());
        assert_eq!(Engine::of(data), Some(Engine::Log), "{moved} moved");
        new.iter().for_each(|name| assert!(data.join(name).is_file(), "{name}, {moved} moved"));
        old.iter().for_each(|name| assert!(place.before().join(name).is_file(), "{name}, {moved} moved"));
        assert!(data.join("blossom.sqlite").is_file());
    }
}
