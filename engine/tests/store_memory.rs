//! The store suite on the memory backend, with every choice of term classes.

use relay_engine::store::{MemoryBackend, TermClasses};
use relay_engine::testing::{conformance, differential, differential_over, event_of_json, groups_wanted};

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
        differential(|| MemoryBackend::new(classes), seed as u64, groups_wanted(4_000) / 4);
    }
}

/// Events from the public network, where the checkout has them beside it.
#[test]
fn agrees_with_the_oracle_on_real_events() {
    let shared = std::env::var("RELAY_SHARED")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared").to_owned());
    let Ok(lines) = std::fs::read_to_string(format!("{shared}/data/real-events.jsonl")) else {
        return;
    };
    let events: Vec<_> = lines.lines().map(|line| event_of_json(line).expect("an event a line")).collect();
    for (seed, classes) in classes().enumerate() {
        differential_over(MemoryBackend::new(classes), &events, seed as u64, groups_wanted(400) / 4);
    }
}
