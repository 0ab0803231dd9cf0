//! Reads everything that the decision on one operation depends on. Decides nothing.

use std::ops::RangeInclusive;

use super::Op;
use super::request_tags::{DELETION, GIFT_WRAP, VANISH, deleted_addresses, deleted_ids, wrapped_for};
use crate::store::{Posting, Rank, Reader, Seq, StartAt, StoreError, Term, Tombstone};
use crate::types::{CanonicalEvent, Event, EventId, Kind, PubKey, Timestamp, parse_expiration};

/// Postings read in one call while all postings of a term are iterated.
const CHUNK: usize = 1024;

/// What the decision on one operation depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The sequence number of the event itself, if it is stored.
    pub(super) stored: Option<Seq>,
    /// The timestamp up to which its author, or one it is wrapped for, has vanished.
    pub(super) vanished_until: Option<Timestamp>,
    /// Whether a deletion request names its id, by an author who may delete it.
    pub(super) id_deleted: bool,
    /// The timestamp up to which its address is deleted.
    pub(super) address_deleted_until: Option<Timestamp>,
    /// Other stored events of its address; usually one or none.
    pub(super) versions: Vec<Version>,
    /// What it asks to delete by id.
    pub(super) targets: Vec<Target>,
    /// What it asks to delete by address, with the stored versions that this removes.
    pub(super) addresses: Vec<(Tombstone, Vec<Seq>)>,
    /// If it is a request to vanish: the stored events that it removes.
    pub(super) vanishing: Vec<Seq>,
}

/// A stored version of a replaceable or addressable event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) seq: Seq,
    pub(super) created_at: Timestamp,
    pub(super) id: EventId,
    pub(super) expired: bool,
}

/// An event that a deletion request names by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) id: EventId,
    pub(super) state: TargetState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TargetState {
    /// Not stored. Whether the requester may delete it is decided when it arrives.
    Unknown,
    /// Stored, and the requester's to delete.
    Own(Seq),
    /// Stored, and not the requester's to delete.
    NotOwn,
}

/// Reads what the decision on `op` at time `now` depends on.
pub(super) fn gather(reader: &impl Reader, op: &Op, now: Timestamp) -> Result<Facts, StoreError> {
    let event = op.event();
    let recipients = wrapped_for(event);
    let mut facts = Facts { stored: reader.seq_of(&event.id)?, ..Facts::default() };
    for &key in recipients.iter().chain([&event.pubkey]) {
        facts.vanished_until = facts.vanished_until.max(reader.tombstone(&Tombstone::Vanished(key))?);
        facts.id_deleted |= reader.tombstone(&Tombstone::Id(event.id, key))?.is_some();
    }
    if let Some(d) = event.view().address_d() {
        let (kind, pubkey, d): (_, _, Box<[u8]>) = (event.kind, event.pubkey, d.into());
        let key = Tombstone::Address { kind, pubkey, d: d.clone() };
        facts.address_deleted_until = reader.tombstone(&key)?;
        for posting in all_postings(reader, &Term::Address(kind, pubkey, d), ANY_TIME)? {
            if Some(posting.seq) != facts.stored {
                facts.versions.push(version(reader, posting, now)?);
            }
        }
    }
    if event.kind == DELETION && facts.stored.is_none() {
        for id in deleted_ids(event) {
            facts.targets.push(target(reader, id, event.pubkey)?);
        }
        for (kind, d) in deleted_addresses(event) {
            let pubkey = event.pubkey;
            let key = Tombstone::Address { kind, pubkey, d: d.clone() };
            let term = Term::Address(kind, pubkey, d);
            let versions = all_postings(reader, &term, 0..=event.created_at)?;
            facts.addresses.push((key, versions.iter().map(|posting| posting.seq).collect()));
        }
    }
    if matches!(op, Op::Vanish(_)) && facts.vanished_until < Some(event.created_at) {
        facts.vanishing = vanishing(reader, event, facts.vanished_until.unwrap_or(0))?;
        facts.vanishing.retain(|&seq| Some(seq) != facts.stored);
    }
    Ok(facts)
}

fn version(reader: &impl Reader, posting: Posting, now: Timestamp) -> Result<Version, StoreError> {
    let json = stored(reader, posting.seq)?;
    let view = CanonicalEvent::trusted(&json);
    Ok(Version {
        seq: posting.seq,
        created_at: posting.rank.created_at,
        id: view.id(),
        expired: posting.expires && parse_expiration(view.tags()).is_some_and(|at| at <= now),
    })
}

fn target(reader: &impl Reader, id: EventId, requester: PubKey) -> Result<Target, StoreError> {
    let state = match reader.seq_of(&id)? {
        None => TargetState::Unknown,
        Some(seq) => {
            let json = stored(reader, seq)?;
            let view = CanonicalEvent::trusted(&json);
            match may_delete(view, requester) {
                true => TargetState::Own(seq),
                false => TargetState::NotOwn,
            }
        }
    };
    Ok(Target { id, state })
}

/// NIP-09: the requester's own events, except deletion requests and requests to vanish; NIP-59: gift wraps for the
/// requester's key.
fn may_delete(event: CanonicalEvent<'_>, requester: PubKey) -> bool {
    let kind: Kind = event.kind();
    let wrapped_for = || {
        let hex = requester.to_hex();
        event.tags().named(b"p").any(|tag| tag.value().is_some_and(|value| *value == hex))
    };
    match kind {
        DELETION | VANISH => false,
        _ => event.pubkey() == requester || (kind == GIFT_WRAP && wrapped_for()),
    }
}

/// All events of the author of a request to vanish, and the gift wraps for it, up to the request's `created_at`. An earlier
/// request, if there was one, has removed those up to `vanished_until`.
fn vanishing(
    reader: &impl Reader,
    request: &Event,
    vanished_until: Timestamp,
) -> Result<Vec<Seq>, StoreError> {
    let (author, times) = (request.pubkey, vanished_until..=request.created_at);
    let mut seqs = Vec::new();
    each_posting(reader, &Term::Author(author), times.clone(), |posting| seqs.push(posting.seq))?;
    let mentions = Term::Tag(b'p', author.to_hex().as_slice().into());
    each_posting(reader, &mentions, times, |posting| {
        if posting.kind == GIFT_WRAP {
            seqs.push(posting.seq);
        }
    })?;
    seqs.sort_unstable();
    seqs.dedup();
    Ok(seqs)
}

const ANY_TIME: RangeInclusive<Timestamp> = 0..=Timestamp::MAX;

fn all_postings(
    reader: &impl Reader,
    term: &Term,
    times: RangeInclusive<Timestamp>,
) -> Result<Vec<Posting>, StoreError> {
    let mut postings = Vec::new();
    each_posting(reader, term, times, |posting| postings.push(posting))?;
    Ok(postings)
}

/// Calls `sink` with the postings of `term` that are not of events pending removal and whose `created_at` is in `times`, newest first.
fn each_posting(
    reader: &impl Reader,
    term: &Term,
    times: RangeInclusive<Timestamp>,
    mut sink: impl FnMut(Posting),
) -> Result<(), StoreError> {
    let mut start = StartAt::Rank(Rank::newest(*times.end()));
    let mut postings = Vec::new();
    loop {
        reader.postings(term, start, *times.start(), CHUNK, &mut postings)?;
        let next = match postings.last() {
            Some(last) if postings.len() == CHUNK => Some(StartAt::After(last.rank, last.seq)),
            _ => None,
        };
        for posting in postings.drain(..) {
            if !reader.is_pending_removal(posting.seq)? {
                sink(posting);
            }
        }
        match next {
            Some(next) => start = next,
            None => return Ok(()),
        }
    }
}

fn stored<R: Reader>(reader: &R, seq: Seq) -> Result<std::borrow::Cow<'_, [u8]>, StoreError> {
    reader.event(seq)?.ok_or_else(|| StoreError::Corrupt(format!("event {} is listed but not stored", seq.0)))
}
