//! The store suite on the memory backend, with every choice of term classes.

use relay_engine::store::{MemoryBackend, REMOVED_KEYS_MAX, TermClasses};
use relay_engine::testing::{
    Groups, backend_tests, differential, differential_over, event_of_json, real_event_lines,
};

fn classes() -> impl Iterator<Item = TermClasses> {
    let both = [false, true];
    both.into_iter().flat_map(move |all| both.map(|author_kind| TermClasses { all, author_kind }))
}

#[test]
fn conforms() {
    for classes in classes() {
        backend_tests(|| MemoryBackend::new(classes));
    }
}

/// Nearly all deleted events are marked as removed first.
#[test]
fn conforms_when_removal_is_put_off() {
    for keys in [0, 12] {
        backend_tests(|| MemoryBackend::default().with_removed_keys_max(keys));
    }
}

#[test]
fn agrees_with_the_oracle() {
    for (seed, classes) in classes().enumerate() {
        let removed_keys_max = [REMOVED_KEYS_MAX, 0, 20, 100][seed];
        let make = || MemoryBackend::new(classes).with_removed_keys_max(removed_keys_max);
        differential(make, seed as u64, Groups::wanted(4_000).generated / 4);
    }
}

#[test]
fn agrees_with_the_oracle_on_real_events() {
    let lines = real_event_lines();
    let events: Vec<_> = lines.iter().map(|line| event_of_json(line).expect("an event a line")).collect();
    for (seed, classes) in classes().enumerate() {
        differential_over(MemoryBackend::new(classes), &events, seed as u64, Groups::wanted(4_000).real / 4);
    }
}
