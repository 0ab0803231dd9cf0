//! Metrics of copying from other relays, by their URL. There are as many URLs as the operator has configured.

use std::collections::BTreeMap;

use relay_site::metrics::Metric;

use super::Pulls;
use crate::metrics::Family;

/// What has been counted of a relay since the object woke up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub(super) stored: u64,
    pub(super) duplicate: u64,
    /// Not stored: the relay's rules refuse them, or newer versions are stored.
    pub(super) refused: u64,
    /// Not stored: the id or the signature is wrong, or they were not asked for.
    pub(super) wrong: u64,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) slices: u64,
    pub(super) comparisons: u64,
    pub(super) failures: u64,
    pub(super) cut_offs: u64,
}

type Number = fn(&Counters) -> u64;

const FAMILIES: [(Metric, Number); 10] = [
    (Metric::counter("relay_pull_events_stored", "Events of other relays that were stored, by relay"), |n| {
        n.stored
    }),
    (
        Metric::counter(
            "relay_pull_events_duplicate",
            "Events of other relays that were here already, by relay",
        ),
        |n| n.duplicate,
    ),
    (
        Metric::counter(
            "relay_pull_events_refused",
            "Events of other relays that this one does not take, or has newer versions of, by relay",
        ),
        |n| n.refused,
    ),
    (
        Metric::counter(
            "relay_pull_events_wrong",
            "Events of other relays that are invalid, not asked for or not of the filter, by relay",
        ),
        |n| n.wrong,
    ),
    (Metric::counter("relay_pull_messages", "Messages of other relays, by relay"), |n| n.messages),
    (Metric::counter("relay_pull_bytes", "Bytes of messages of other relays, by relay"), |n| n.bytes),
    (Metric::counter("relay_pull_slices", "Slices of comparisons with other relays, by relay"), |n| n.slices),
    (
        Metric::counter(
            "relay_pull_comparisons",
            "Comparisons with other relays that are complete, by relay",
        ),
        |n| n.comparisons,
    ),
    (
        Metric::counter(
            "relay_pull_failures",
            "Slices that another relay or the network has ended, by relay",
        ),
        |n| n.failures,
    ),
    (
        Metric::counter(
            "relay_pull_cut_offs",
            "Slices that were ended because the other relay lied or flooded",
        ),
        |n| n.cut_offs,
    ),
];

/// Whether a metric names other relays, which is for administrators: URLs may have secrets of the operator.
pub(crate) fn names_peers(name: &str) -> bool {
    FAMILIES.iter().any(|(metric, _)| metric.name == name)
}

/// The metrics of all relays.
pub(in crate::object) fn families(pulls: &Pulls) -> Vec<Family> {
    if pulls.peers.is_empty() {
        return Vec::new();
    }
    let by_url = |number: Number| {
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for peer in &pulls.peers {
            *sums.entry(&peer.url).or_default() += number(&peer.counters);
        }
        sums
    };
    FAMILIES.map(|(metric, number)| Family::by(metric, "peer", by_url(number))).into()
}
