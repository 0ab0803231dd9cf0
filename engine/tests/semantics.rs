//! The semantics suite on the machine, run in different ways.

use relay_engine::store::TermClasses;
use relay_engine::testing::semantics::{MachineWorld, Tuning, cases, run_all};

fn check(tuning: &Tuning) {
    let only = std::env::var("RELAY_CASE").unwrap_or_default();
    let ran = run_all(&mut |config| Box::new(MachineWorld::new(config.clone(), tuning.clone())), &only);
    match ran {
        Ok(count) => assert!(count > 0, "no case is called {only:?}"),
        Err(failures) => panic!("{failures}"),
    }
}

#[test]
fn names_of_cases_are_unique() {
    let mut names: Vec<&str> = cases().iter().map(|case| case.name).collect();
    assert!(names.iter().all(|name| name.contains(": ")), "a topic and a rule each");
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
}

#[test]
fn the_machine() {
    check(&Tuning::default());
}

#[test]
fn one_shard() {
    check(&Tuning { shards: 1, sweeps: false, removed_keys_max: 0, ..Tuning::default() });
}

#[test]
fn tiny_steps_and_few_terms() {
    check(&Tuning {
        shards: 3,
        step_cost_max: Some(3),
        verify_batch_max: Some(2),
        classes: TermClasses { all: false, author_kind: false },
        sweeps: false,
        removed_keys_max: 0,
        prefers_batch_hashing: true,
        hibernates: false,
    });
}

#[test]
fn ids_hashed_by_the_batch() {
    check(&Tuning { prefers_batch_hashing: true, ..Tuning::default() });
}

#[test]
fn with_hibernation_when_idle() {
    check(&Tuning { shards: 1, hibernates: true, ..Tuning::default() });
}

#[test]
fn with_hibernation_during_scans() {
    check(&Tuning { step_cost_max: Some(3), removed_keys_max: 0, hibernates: true, ..Tuning::default() });
}
