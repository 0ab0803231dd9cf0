//! The random configuration of a run.

use relay_engine::policy::Policy;
use relay_engine::testing::Rng;
use relay_engine::types::{Filter, Limits};

/// The filter of a shard's consumer: everything for the first shard, some kinds for the others.
pub(super) fn consumer_filter(shard: usize) -> Filter {
    match shard {
        0 => Filter::default(),
        _ => Filter { kinds: Some([1, 5, 1059, 20_000].into()), ..Filter::default() },
    }
}

/// With the EOSE hints of NIP-67, which clients check, and with a challenge on connect or only when it is needed.
pub(super) fn policy(setup_seed: u64) -> Policy {
    Policy { eose_hints: true, challenge_on_connect: setup_seed.is_multiple_of(2), ..Policy::default() }
}

/// Limits so small that a run reaches all of them.
pub(super) fn limits(rng: &mut Rng) -> Limits {
    let outbox_pause_bytes = *rng.pick(&[600, 2_000, 1 << 20]);
    Limits {
        subscriptions_max: 2 + rng.below(5) as usize,
        limit_max: 1 + rng.below(40) as u32,
        limit_default: 1 + rng.below(40) as u32,
        step_cost_max: 1 + rng.below(12) as usize,
        outbox_pause_bytes,
        outbox_bytes_max: outbox_pause_bytes * *rng.pick(&[2, 8]),
        deferred_messages_max: 1 + rng.below(5) as usize,
        verify_batch_max: 1 + rng.below(6) as usize,
        verify_wait_ms_max: rng.below(20),
        in_flight_events_max: 1 + rng.below(8) as usize,
        malformed_messages_max: 3 + rng.below(20) as u32,
        shard_outbox_bytes_max: *rng.pick(&[2_000, 20_000, 1 << 20]),
        deferred_bytes_max: 2_000,
        query_bytes_max: 20_000,
        ..Limits::default()
    }
}
