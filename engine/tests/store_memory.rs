//! The store suite on the memory backend, with every choice of term classes.

use relay_engine::store::{MemoryBackend, TermClasses};
use relay_engine::testing::{
    Groups, conformance, differential, differential_over, event_of_json, real_event_lines,
};

fn classes() -> impl Iterator<Item = TermClasses> {
    let both = [false, true];
    both.into_iter().flat_map(move |all| both.map(|author_kind| TermClasses { all, author_kind }))
}

#[test]
fn conforms() {
    for classes in classes() {
        conformance(|| MemoryBackend::new(classes));
    }
}

#[test]
fn agrees_with_the_oracle() {
    for (seed, classes) in classes().enumerate() {
        differential(|| MemoryBackend::new(classes), seed as u64, Groups::wanted(4_000).generated / 4);
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
