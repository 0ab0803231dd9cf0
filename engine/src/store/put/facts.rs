//! What the store knows that bears on one operation. Reads only, decides nothing.

use super::Op;
use super::requests::{DELETION, GIFT_WRAP, VANISH, deleted_addresses, deleted_ids, wrapped_for};
use crate::store::terms::address_d;
use crate::store::{Bound, Posting, Rank, Reader, Seq, StoreError, Term, Tombstone};
use crate::types::{CanonicalEvent, Event, EventId, Kind, PubKey, Timestamp, parse_expiration};

/// Postings read at once while all of a term's are gone through.
const CHUNK: usize = 1024;

/// What bears on one operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The number of the event itself, if it is stored.
    pub(super) stored: Option<Seq>,
    /// The second up to which its author, or one it is wrapped for, has vanished.
    pub(super) vanished_until: Option<Timestamp>,
    /// Whether a deletion request names its id, by one who may delete it.
    pub(super) id_deleted: bool,
    /// The second up to which its address is deleted.
    pub(super) address_deleted_until: Option<Timestamp>,
    /// Other stored events of its address; usually one or none.
    pub(super) versions: Vec<Version>,
    /// What it asks to delete by id.
    pub(super) targets: Vec<Target>,
    /// What it asks to delete by address, and what there is to delete.
    pub(super) addresses: Vec<(Tombstone, Vec<Seq>)>,
    /// What there is to delete if its author vanishes.
    pub(super) traces: Vec<Seq>,
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
    /// Not stored; whose it is will be known when it comes.
    Unknown,
    /// Stored, and the requester's to delete.
    Own(Seq),
    /// Stored, and not the requester's to delete.
    Foreign,
}

/// Reads all that bears on `op` at second `now`.
pub(super) fn gather(reader: &impl Reader, op: &Op, now: Timestamp) -> Result<Facts, StoreError> {
    let event = op.event();
    let recipients = wrapped_for(event);
    let mut facts = Facts { stored: reader.seq_of(&event.id)?, ..Facts::default() };
    for &key in recipients.iter().chain([&event.pubkey]) {
        facts.vanished_until = facts.vanished_until.max(reader.tombstone(&Tombstone::Vanished(key))?);
        facts.id_deleted |= reader.tombstone(&Tombstone::Id(event.id, key))?.is_some();
    }
    if let Some(d) = address_d(event.view()) {
        let (kind, pubkey) = (event.kind, event.pubkey);
        let key = Tombstone::Address { kind, pubkey, d: d.clone() };
        facts.address_deleted_until = reader.tombstone(&key)?;
        for posting in all_postings(reader, &Term::Address(kind, pubkey, d), Timestamp::MAX)? {
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
            let versions = all_postings(reader, &term, event.created_at)?;
            facts.addresses.push((key, versions.iter().map(|posting| posting.seq).collect()));
        }
    }
    if matches!(op, Op::Vanish(_)) && facts.vanished_until < Some(event.created_at) {
        facts.traces = traces(reader, event)?;
        facts.traces.retain(|&seq| Some(seq) != facts.stored);
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
                false => TargetState::Foreign,
            }
        }
    };
    Ok(Target { id, state })
}

/// NIP-09: one's own, but no deletion and no request to vanish; NIP-59: gift wraps for one's key.
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

/// All events of the author of a request to vanish, and the gift wraps for it, up to the request's second.
fn traces(reader: &impl Reader, request: &Event) -> Result<Vec<Seq>, StoreError> {
    let (author, until) = (request.pubkey, request.created_at);
    let own = all_postings(reader, &Term::Author(author), until)?;
    let mentions = all_postings(reader, &Term::Tag(b'p', author.to_hex().as_slice().into()), until)?;
    let wraps = mentions.iter().filter(|posting| posting.kind == GIFT_WRAP);
    let mut seqs: Vec<Seq> = own.iter().chain(wraps).map(|posting| posting.seq).collect();
    seqs.sort_unstable();
    seqs.dedup();
    Ok(seqs)
}

fn all_postings(reader: &impl Reader, term: &Term, until: Timestamp) -> Result<Vec<Posting>, StoreError> {
    let mut postings = Vec::new();
    let mut start = Bound::From(Rank::newest(until));
    loop {
        let before = postings.len();
        reader.postings(term, start, 0, CHUNK, &mut postings)?;
        match postings.last() {
            Some(last) if postings.len() - before == CHUNK => start = Bound::After(last.rank, last.seq),
            _ => return Ok(postings),
        }
    }
}

fn stored<R: Reader>(reader: &R, seq: Seq) -> Result<std::borrow::Cow<'_, [u8]>, StoreError> {
    reader.event(seq)?.ok_or_else(|| StoreError::Corrupt(format!("event {} is listed but not stored", seq.0)))
}
