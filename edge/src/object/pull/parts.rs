//! What of a filter is compared. With a retention (`store.retention_seconds`) events that it has removed here are still on the other
//! relay: they would be copied, and removed, again with each comparison. So kinds that the retention removes are compared only as
//! far back as they are kept.

use std::collections::BTreeSet;

use relay_engine::types::Kind;
use relay_sync::ranges::Scope;
use serde_json::{Value, json};

use crate::settings::{PeerSettings, StoreSettings};

/// Kinds of which older events are compared too if the filter names no kinds, beside those that the settings spare: what an author
/// has one of, whatever its age (NIP-01), and what removes others (NIP-09, NIP-62).
const KEPT_KINDS: [Kind; 4] = [0, 3, 5, 62];

/// A filter, and how far back it is compared.
pub(super) struct Part {
    /// The key of its rows in the database.
    pub(super) name: String,
    pub(super) scope: Scope,
    /// The retention of its events in seconds; `None` if they are kept.
    pub(super) retention: Option<u64>,
}

impl Part {
    fn new(peer: &PeerSettings, filter: Value, retention: Option<u64>) -> Option<Self> {
        let part = PeerSettings { filter, ..peer.clone() };
        Some(Part { name: part.name(), scope: part.scope().ok()?, retention })
    }
}

/// The parts of a peer's filter. None are wrong: the settings have been checked.
pub(super) fn parts(peer: &PeerSettings, store: &StoreSettings) -> Vec<Part> {
    let whole = |retention| Part::new(peer, peer.filter.clone(), retention);
    let only = |kinds: &[Kind], retention| {
        let mut filter = peer.filter.clone();
        filter.as_object_mut()?.insert("kinds".to_owned(), json!(kinds));
        Part::new(peer, filter, retention)
    };
    let retention = Some(store.retention_seconds).filter(|seconds| *seconds > 0);
    let named = peer.scope().ok().and_then(|scope| scope.filter().kinds.clone());
    let parts = match (retention, named) {
        (None, _) => vec![whole(None)],
        (Some(_), None) => {
            let kept: BTreeSet<Kind> =
                KEPT_KINDS.into_iter().chain(store.retention_kinds_spared.iter().copied()).collect();
            vec![whole(retention), only(&kept.into_iter().collect::<Vec<_>>(), None)]
        }
        (Some(_), Some(kinds)) => {
            let (aged, kept): (Vec<Kind>, Vec<Kind>) =
                kinds.iter().copied().partition(|kind| store.is_removed_by_age(*kind));
            match (aged.is_empty(), kept.is_empty()) {
                (true, _) => vec![whole(None)],
                (_, true) => vec![whole(retention)],
                _ => vec![only(&aged, retention), only(&kept, None)],
            }
        }
    };
    parts.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_that_are_kept_are_compared_from_the_beginning() {
        let store = |retention_seconds| StoreSettings {
            retention_seconds,
            retention_kinds_spared: vec![30, 7],
            ..StoreSettings::default()
        };
        let found = |filter: Value, retention| {
            let peer = PeerSettings { url: "wss://peer.example".into(), filter, every_seconds: 60 };
            let parts = parts(&peer, &store(retention));
            let names: BTreeSet<_> = parts.iter().map(|part| part.name.clone()).collect();
            assert_eq!(names.len(), parts.len(), "each has a row of its own");
            parts
                .iter()
                .map(|part| (part.scope.json(part.scope.range(), None), part.retention))
                .collect::<Vec<_>>()
        };
        let part = |filter: Value, retention| (filter.to_string(), retention);
        for filter in [json!({}), json!({"kinds": [0, 1]})] {
            assert_eq!(found(filter.clone(), 0), [part(filter, None)]);
        }
        assert_eq!(
            found(json!({"since": 9}), 100),
            [
                part(json!({"since": 9}), Some(100)),
                part(json!({"kinds": [0, 3, 5, 7, 30, 62], "since": 9}), None)
            ]
        );
        assert_eq!(
            found(json!({"kinds": [0, 1, 4, 7, 10_002, 30_023, 62]}), 100),
            [
                part(json!({"kinds": [1, 4]}), Some(100)),
                part(json!({"kinds": [0, 7, 62, 10_002, 30_023]}), None)
            ]
        );
        assert_eq!(found(json!({"kinds": [1]}), 100), [part(json!({"kinds": [1]}), Some(100))]);
        assert_eq!(found(json!({"kinds": [30]}), 100), [part(json!({"kinds": [30]}), None)]);
    }
}
