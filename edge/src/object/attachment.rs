//! What is kept of a session beside its socket, so that the object may forget everything else.
//!
//! ```text
//! attachment  version:1  key:8  held:1  head  tail kind  tail, or its name:16
//! held        1 while a message of the session lies in memory only, unanswered
//! head        challenge (empty if none was sent), address (no bytes, 4 of IPv4, or 8 of IPv6), relay, keys, malformed messages, missed events, two rates
//! tail        subscriptions: id, progress, filters, or their name:16; COUNTs: id, filters or their name
//! ```
//!
//! An attachment has 16,384 bytes at most. What does not fit lies in SQLite as parts named by their hash:
//! the largest lists of filters first, then the tail itself. A part is written once and deleted when no
//! subscription of its connection needs it.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use relay_engine::relay::{SessionSnapshot, SubSnapshot};
use relay_engine::types::{Filter, Now, PubKey, SubId};
use sha2::{Digest, Sha256};

use super::bytes::{Malformed, Read, Write, filters_bytes, filters_from};

/// Written by this version; others are not read.
const VERSION: u8 = 3;
/// Bytes of an attachment; the platform's bound is 16,384 with its own wrapping.
pub(super) const ATTACHMENT_BYTES_MAX: usize = 15_000;

/// Identifies a connection of an object for as long as its socket lives.
pub type Key = u64;

/// The name of a part: the first bytes of its SHA-256.
pub type PartName = [u8; 16];

/// A session as it is to be kept.
#[derive(Debug)]
pub(super) struct Saved {
    pub(super) attachment: Vec<u8>,
    /// The parts it needs.
    pub(super) parts: BTreeMap<PartName, Rc<[u8]>>,
}

/// Remembers the bytes of filters, which live longer than one saving.
#[derive(Debug, Default)]
pub(super) struct Coder {
    /// By address; the filters are kept, so that no other filters can come to lie there.
    coded: HashMap<usize, (Arc<[Filter]>, Rc<Coded>)>,
}

/// The bytes of a list of filters.
#[derive(Debug)]
struct Coded {
    bytes: Rc<[u8]>,
    /// Made when it is needed first.
    name: OnceCell<PartName>,
}

impl Coded {
    fn name(&self) -> PartName {
        *self.name.get_or_init(|| name_of(&self.bytes))
    }
}

/// Bytes of a length, about; twice as many as can be.
const LENGTH_BYTES: usize = 10;

impl Coder {
    fn code(&mut self, filters: &Arc<[Filter]>) -> Rc<Coded> {
        let address = filters.as_ptr() as usize;
        let (_, coded) = self.coded.entry(address).or_insert_with(|| {
            let bytes = filters_bytes(filters).into();
            (Arc::clone(filters), Rc::new(Coded { bytes, name: OnceCell::new() }))
        });
        Rc::clone(coded)
    }

    /// Writes a session down in at most `bytes_max` bytes and as many parts as that takes.
    pub(super) fn save(
        &mut self,
        key: Key,
        is_held: bool,
        session: &SessionSnapshot,
        bytes_max: usize,
    ) -> Saved {
        let head = head_bytes(key, is_held, session);
        let lists = session.subs.iter().map(|(_, sub)| &sub.filters);
        let lists: Vec<Rc<Coded>> = lists
            .chain(session.counts.iter().map(|(_, filters)| filters))
            .map(|list| self.code(list))
            .collect();
        // Filters of subscriptions that have ended are let go at once: they may be large.
        if self.coded.len() > lists.len() {
            let kept: HashSet<*const Coded> = lists.iter().map(Rc::as_ptr).collect();
            self.coded.retain(|_, (_, coded)| kept.contains(&Rc::as_ptr(coded)));
        }
        let mut parts = BTreeMap::new();
        let room = bytes_max.saturating_sub(head.len() + LENGTH_BYTES);
        let least = tail_bytes(session, &lists, 0, &mut BTreeMap::new()).len();
        let bound = inline_bytes_max(&lists, room.saturating_sub(least));
        let tail = tail_bytes(session, &lists, bound, &mut parts);
        if tail.len() <= room {
            return Saved { attachment: joined(head, 0, &tail), parts };
        }
        let name = name_of(&tail);
        parts.insert(name, tail.into());
        Saved { attachment: joined(head, 1, &name), parts }
    }
}

/// The length up to which lists fit into `room` more bytes than their names take; the longest go first.
fn inline_bytes_max(lists: &[Rc<Coded>], room: usize) -> usize {
    let mut lens: Vec<usize> = lists.iter().map(|list| list.bytes.len()).collect();
    lens.sort_unstable();
    let mut taken = 0;
    for len in lens {
        taken += len + LENGTH_BYTES;
        if taken > room {
            return len.saturating_sub(1);
        }
    }
    usize::MAX
}

fn name_of(bytes: &[u8]) -> PartName {
    let mut name = PartName::default();
    name.iter_mut().zip(Sha256::digest(bytes)).for_each(|(to, from)| *to = from);
    name
}

fn head_bytes(key: Key, is_held: bool, session: &SessionSnapshot) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.extend_from_slice(&key.to_be_bytes());
    out.push(u8::from(is_held));
    let mut write = Write(&mut out);
    write.bytes(session.challenge.as_deref().unwrap_or_default().as_bytes());
    write.address(session.address);
    write.option(session.relay.as_deref(), |write, relay| write.bytes(relay.as_bytes()));
    write.number(session.keys.len() as u64);
    session.keys.iter().for_each(|key| write.raw(&key.0));
    write.number(u64::from(session.bad_messages));
    write.number(session.ephemeral_missed);
    for (level, at) in [session.event_rate, session.request_rate] {
        write.number(level);
        write.number(at.micros());
    }
    out
}

fn tail_bytes(
    session: &SessionSnapshot,
    lists: &[Rc<Coded>],
    bound: usize,
    parts: &mut BTreeMap<PartName, Rc<[u8]>>,
) -> Vec<u8> {
    let mut out = Vec::new();
    let mut write = Write(&mut out);
    let mut lists = lists.iter();
    let mut list = |write: &mut Write<'_>| {
        let Some(list) = lists.next() else { return };
        // A name is longer than the shortest lists.
        if list.bytes.len() > bound.max(size_of::<PartName>()) {
            write.number(1);
            write.raw(&list.name());
            parts.insert(list.name(), Rc::clone(&list.bytes));
        } else {
            write.number(0);
            write.bytes(&list.bytes);
        }
    };
    write.number(session.subs.len() as u64);
    for (id, sub) in &session.subs {
        write.bytes(id.as_str().as_bytes());
        write.progress(sub.progress);
        list(&mut write);
    }
    write.number(session.counts.len() as u64);
    for (id, _) in &session.counts {
        write.bytes(id.as_str().as_bytes());
        list(&mut write);
    }
    out
}

fn joined(mut head: Vec<u8>, tail_kind: u8, tail: &[u8]) -> Vec<u8> {
    head.push(tail_kind);
    head.extend_from_slice(tail);
    head
}

/// Parts by name, for whoever reads an attachment back.
pub(super) type Parts<'a> = dyn FnMut(PartName) -> Option<Vec<u8>> + 'a;

/// The key alone; the rest may be beyond reading.
pub(super) fn key_of(attachment: &[u8]) -> Option<Key> {
    let mut read = Read(attachment);
    (read.array::<1>() == Ok([VERSION])).then(|| read.array().map(Key::from_be_bytes).ok()).flatten()
}

/// Whether a message of the session was in memory only when this was written.
pub(super) fn is_held(attachment: &[u8]) -> bool {
    key_of(attachment).is_some() && attachment.get(1 + size_of::<Key>()).is_some_and(|held| *held != 0)
}

/// A session from its attachment, and the names of the parts that it needs.
///
/// # Errors
/// The attachment or a part is malformed, or a part is missing.
pub(super) fn load(
    attachment: &[u8],
    parts: &mut Parts<'_>,
) -> Result<(SessionSnapshot, Vec<PartName>), Malformed> {
    let mut read = Read(attachment);
    if read.array()? != [VERSION] {
        return Err(Malformed);
    }
    let _key_and_held: [u8; 9] = read.array()?;
    let mut session = SessionSnapshot {
        challenge: Some(read.text()?).filter(|challenge| !challenge.is_empty()).map(Into::into),
        address: read.address()?,
        relay: read.option(Read::text)?.map(Into::into),
        keys: read.list(|read| Ok(PubKey(read.array()?)))?,
        bad_messages: read.small()?,
        ephemeral_missed: read.number()?,
        event_rate: (read.number()?, Now::from_micros(read.number()?)),
        request_rate: (read.number()?, Now::from_micros(read.number()?)),
        subs: Vec::new(),
        counts: Vec::new(),
    };
    let mut names = Vec::new();
    match read.array()? {
        [0] => load_tail(read, &mut session, &mut names, parts)?,
        [1] => {
            let name = read.array()?;
            read.end()?;
            names.push(name);
            let tail = parts(name).ok_or(Malformed)?;
            load_tail(Read(&tail), &mut session, &mut names, parts)?;
        }
        _ => return Err(Malformed),
    }
    Ok((session, names))
}

fn load_tail(
    mut read: Read<'_>,
    session: &mut SessionSnapshot,
    names: &mut Vec<PartName>,
    parts: &mut Parts<'_>,
) -> Result<(), Malformed> {
    let mut filters = |read: &mut Read<'_>| match read.number()? {
        0 => filters_from(read.bytes()?),
        1 => {
            let name = read.array()?;
            names.push(name);
            filters_from(&parts(name).ok_or(Malformed)?)
        }
        _ => Err(Malformed),
    };
    let id = |read: &mut Read<'_>| SubId::new(read.text()?).ok_or(Malformed);
    session.subs = read.list(|read| {
        let sub = id(read)?;
        let progress = read.progress()?;
        Ok((sub, SubSnapshot { filters: filters(read)?, progress }))
    })?;
    session.counts = read.list(|read| Ok((id(read)?, filters(read)?)))?;
    read.end()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::net::IpAddr;

    use proptest::prelude::*;
    use relay_engine::relay::Progress;
    use relay_engine::store::Seq;
    use relay_engine::types::{EventId, TagFilter};

    use super::*;

    fn filter() -> impl Strategy<Value = Filter> {
        let bytes32 = any::<[u8; 32]>();
        let tag = ("[a-zA-Z]", prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20));
        (
            prop::option::of(prop::collection::vec(bytes32, 0..5)),
            prop::option::of(prop::collection::vec(bytes32, 0..60)),
            prop::option::of(prop::collection::vec(any::<u16>(), 0..5)),
            prop::collection::vec(tag, 0..3),
            any::<[Option<u64>; 2]>(),
            any::<Option<u32>>(),
        )
            .prop_map(|(ids, authors, kinds, tags, [since, until], limit)| {
                let mut filter = Filter {
                    ids: ids.map(|ids| ids.into_iter().map(EventId).collect()),
                    authors: authors.map(|keys| keys.into_iter().map(PubKey).collect()),
                    kinds: kinds.map(Into::into),
                    tags: tags
                        .into_iter()
                        .map(|(letter, values)| TagFilter {
                            letter: letter.as_bytes()[0],
                            values: values.into_iter().map(Into::into).collect(),
                        })
                        .collect(),
                    since,
                    until,
                    limit,
                };
                filter.normalise();
                filter
            })
    }

    fn progress() -> impl Strategy<Value = Progress> {
        prop_oneof![
            Just(Progress::Live),
            any::<u64>().prop_map(|after| Progress::Behind { after: Seq(after) }),
            (any::<u64>(), any::<Option<(u64, [u8; 32])>>()).prop_map(|(horizon, last)| {
                Progress::Scanning { horizon: Seq(horizon), last: last.map(|(at, id)| (at, EventId(id))) }
            }),
        ]
    }

    prop_compose! {
        fn session()(
            challenge in prop::option::of(".{1,40}"),
            address in prop::option::of(any::<[u8; 16]>()),
            relay in prop::option::of(".{0,60}"),
            keys in prop::collection::vec(any::<[u8; 32]>(), 0..4),
            (bad_messages, ephemeral_missed) in any::<(u32, u64)>(),
            rates in any::<[(u64, u64); 2]>(),
            subs in prop::collection::vec((".{1,64}", progress(), prop::collection::vec(filter(), 0..4)), 0..6),
            counts in prop::collection::vec((".{1,64}", prop::collection::vec(filter(), 0..3)), 0..2),
        ) -> SessionSnapshot {
            let rate = |(level, at)| (level, Now::from_millis(at));
            SessionSnapshot {
                challenge: challenge.map(Into::into),
                address: address.map(|octets| IpAddr::from(octets).into()),
                relay: relay.map(Into::into),
                keys: keys.into_iter().map(PubKey).collect(),
                bad_messages,
                ephemeral_missed,
                event_rate: rate(rates[0]),
                request_rate: rate(rates[1]),
                subs: subs.into_iter().map(|(id, progress, filters)| {
                    (SubId::new(&id).unwrap(), SubSnapshot { filters: filters.into(), progress })
                }).collect(),
                counts: counts.into_iter().map(|(id, filters)| {
                    (SubId::new(&id).unwrap(), filters.into())
                }).collect(),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_saved_is_loaded(
            session in session(), key in any::<u64>(), held in any::<bool>(), bytes_max in 1_000usize..15_000
        ) {
            let mut coder = Coder::default();
            for _ in 0..2 {
                let saved = coder.save(key, held, &session, bytes_max);
                prop_assert!(saved.attachment.len() <= bytes_max);
                prop_assert_eq!(key_of(&saved.attachment), Some(key));
                prop_assert_eq!(is_held(&saved.attachment), held);
                let mut parts = |name| saved.parts.get(&name).map(|part: &Rc<[u8]>| part.to_vec());
                let (loaded, mut names) = load(&saved.attachment, &mut parts).unwrap();
                prop_assert_eq!(&loaded, &session);
                names.sort_unstable();
                names.dedup();
                prop_assert_eq!(names, saved.parts.keys().copied().collect::<Vec<_>>());
            }
        }

        #[test]
        fn what_is_cut_or_changed_is_an_error_or_a_session(
            session in session(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()
        ) {
            let saved = Coder::default().save(7, false, &session, 15_000);
            let mut bytes = saved.attachment;
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] = byte }
            let mut parts = |name| saved.parts.get(&name).map(|part: &Rc<[u8]>| part.to_vec());
            let loaded = load(&bytes, &mut parts);
            prop_assert!(!cut || loaded.is_err());
        }
    }

    #[test]
    fn many_long_ids_lie_in_a_part() {
        let empty: Arc<[Filter]> = Arc::new([Filter::default()]);
        let mut session = SessionSnapshot {
            challenge: Some("c".into()),
            address: None,
            relay: None,
            keys: vec![PubKey([7; 32]); 16],
            bad_messages: 0,
            ephemeral_missed: 0,
            event_rate: (0, Now::default()),
            request_rate: (0, Now::default()),
            subs: Vec::new(),
            counts: Vec::new(),
        };
        for n in 0..300 {
            let id = SubId::new(&format!("{n:<64}")).unwrap();
            session.subs.push((id, SubSnapshot { filters: empty.clone(), progress: Progress::Live }));
        }
        let saved = Coder::default().save(1, false, &session, ATTACHMENT_BYTES_MAX);
        assert_eq!(saved.parts.len(), 1);
        assert!(saved.attachment.len() < 700);
        let mut parts = |name| saved.parts.get(&name).map(|part: &Rc<[u8]>| part.to_vec());
        assert_eq!(load(&saved.attachment, &mut parts).unwrap().0, session);
        assert_eq!(load(&saved.attachment, &mut |_| None), Err(Malformed));
    }
}
