//! The rules of writing, as a pure function.

use super::facts::{Facts, TargetState, Version};
use super::request_tags::DELETION;
use super::{Op, Refusal};
use crate::store::{Seq, Tombstone};
use crate::types::{Class, Event, Timestamp, is_removal_request};

/// What one operation does to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// What becomes of the event.
    pub(super) verdict: Verdict,
    /// Events to remove, each once.
    pub(super) delete: Vec<Seq>,
    /// Tombstones to put, and the timestamp up to which each holds.
    pub(super) tombstones: Vec<(Tombstone, Timestamp)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Store,
    Duplicate,
    Refuse(Refusal),
}

/// Decides `op` at time `now`.
pub(super) fn plan(op: &Op, now: Timestamp, facts: &Facts) -> Plan {
    let event = op.event();
    let mut plan = Plan { verdict: verdict(event, now, facts), delete: Vec::new(), tombstones: Vec::new() };
    if plan.verdict == Verdict::Store {
        plan.delete.extend(facts.versions.iter().map(|version| version.seq));
        if event.kind == DELETION {
            delete(event, facts, &mut plan);
        }
    }
    // The request may be stored already, from a time when this relay did not have the URL that it names.
    if matches!(op, Op::Vanish(_)) && !matches!(plan.verdict, Verdict::Refuse(_)) {
        plan.delete.extend(&facts.vanishing);
        if facts.vanished_until < Some(event.created_at) {
            plan.tombstones.push((Tombstone::Vanished(event.pubkey), event.created_at));
        }
    }
    plan.delete.sort_unstable();
    plan.delete.dedup();
    plan
}

fn verdict(event: &Event, now: Timestamp, facts: &Facts) -> Verdict {
    // A removal request is stored though it has expired: its effect does not expire.
    if event.is_expired(now) && !is_removal_request(event.kind) {
        return Verdict::Refuse(Refusal::Expired);
    }
    if event.class() == Class::Ephemeral {
        return Verdict::Refuse(Refusal::Ephemeral);
    }
    if facts.stored.is_some() {
        return Verdict::Duplicate;
    }
    if facts.vanished_until >= Some(event.created_at) {
        return Verdict::Refuse(Refusal::Vanished);
    }
    if (facts.id_deleted && !is_removal_request(event.kind))
        || facts.address_deleted_until >= Some(event.created_at)
    {
        return Verdict::Refuse(Refusal::Deleted);
    }
    if facts.versions.iter().any(|version| supersedes(version, event)) {
        return Verdict::Refuse(Refusal::Superseded);
    }
    Verdict::Store
}

/// NIP-01: the newest version is kept; of two with the same `created_at`, the one with the lower id. An expired one
/// counts as removed, so that sweeping sooner or later makes no difference.
fn supersedes(version: &Version, event: &Event) -> bool {
    !version.expired
        && (version.created_at, std::cmp::Reverse(version.id))
            > (event.created_at, std::cmp::Reverse(event.id))
}

fn delete(request: &Event, facts: &Facts, plan: &mut Plan) {
    for target in &facts.targets {
        if let TargetState::Own(seq) = target.state {
            plan.delete.push(seq);
        }
        if target.state != TargetState::NotOwn {
            plan.tombstones.push((Tombstone::Id(target.id, request.pubkey), request.created_at));
        }
    }
    for (address, versions) in &facts.addresses {
        plan.delete.extend(versions);
        plan.tombstones.push((address.clone(), request.created_at));
    }
}
