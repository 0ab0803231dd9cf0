//! Real events: each is parsed, hashes to its id, and has one canonical form.

mod wire_model;

use std::path::PathBuf;

use relay_engine::types::Event;
use relay_engine::wire::parse_event;
use sha2::{Digest, Sha256};
use wire_model::{Json, ModelEvent, OddWriter, Rng};

/// A few of them, for machines without the collection.
const FEW: &str = include_str!("wire_events.jsonl");

fn real_events() -> String {
    let shared = std::env::var_os("RELAY_SHARED")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")), PathBuf::from);
    std::fs::read_to_string(shared.join("data/real-events.jsonl")).unwrap_or_else(|_| FEW.to_owned())
}

#[test]
fn ids_and_canonical_form_are_what_another_json_library_makes_of_them() {
    for line in real_events().lines().chain(FEW.lines()) {
        let event = parse_event(line.as_bytes()).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(event.compute_id(), event.id, "{line}");
        let model = ModelEvent::read(&serde_json::from_str::<Json>(line).unwrap()).unwrap();
        assert_eq!(model.compute_id(), event.id, "{line}");

        let owned = event.to_event();
        assert_eq!(std::str::from_utf8(owned.json()).unwrap(), model.canonical(), "{line}");
        assert_eq!(owned, Event::from_canonical(owned.shared_json()));
        let mut serialisation = Vec::new();
        owned.view().serialisation(|piece| serialisation.extend_from_slice(piece));
        assert_eq!(Sha256::digest(serialisation)[..], event.id.0, "{line}");
        let again = parse_event(owned.json()).unwrap();
        assert_eq!(again.to_event(), owned, "{line}");
        assert_eq!(again.json_len(), owned.json().len());
        assert_eq!(again.content_chars(), model.content.chars().count());
    }
}

#[test]
fn any_json_form_hashes_to_the_same_id() {
    for (seed, line) in FEW.lines().enumerate() {
        let model = ModelEvent::read(&serde_json::from_str::<Json>(line).unwrap()).unwrap();
        for round in 0..20 {
            let mut rng = Rng((seed * 1000 + round) as u64);
            let mut writer = OddWriter { rng: &mut rng, out: String::new(), tidy: false };
            writer.event(&model);
            let event = parse_event(writer.out.as_bytes()).unwrap();
            assert_eq!(event.compute_id(), model.id, "{}", writer.out);
            assert_eq!(std::str::from_utf8(event.to_event().json()).unwrap(), model.canonical());
        }
    }
}
