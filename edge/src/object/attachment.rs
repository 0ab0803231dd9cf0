//! A session as the attachment of its socket, which survives hibernation.
//!
//! ```text
//! attachment  version:1  key:8  unanswered:1  head  tail kind:1 (0 inline, 1 overflow)  tail, or the name of its overflow:16
//! ended       0  address: the session is over, and its socket holds output that its client has not read. Empty without
//!             an address, and of earlier versions
//! unanswered  1 while a message of the session is in memory only
//! head        challenge (empty if none was sent), address (no bytes, 4 of IPv4, or 8 of IPv6), Host header,
//!             authenticated keys, malformed messages, missed ephemeral events, two rate limiters
//! tail        subscriptions: id, progress, filters or the name of their overflow; COUNTs: id, filters or the name of their overflow
//! ```
//!
//! An attachment has 16,384 bytes at most. What does not fit is stored in SQLite as *overflows* named by their hash: the
//! largest lists of filters first, then the tail itself. An overflow is written once, and deleted when no subscription
//! of its connection needs it.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use relay_engine::relay::{SessionSnapshot, SubSnapshot};
use relay_engine::types::{ClientAddress, Filter, Now, PubKey, SubId};
use sha2::{Digest, Sha256};

use super::bytes::{Malformed, Read, Write, filters_bytes, filters_from};

/// The format's version; attachments of other versions are not read.
const VERSION: u8 = 3;
/// Instead of a version: the session has ended.
const ENDED: u8 = 0;
/// Largest attachment, in bytes. The platform's limit of 16,384 includes its own serialization.
pub(super) const ATTACHMENT_BYTES_MAX: usize = 15_000;

/// Identifies a connection of an object for as long as its socket lives.
pub type Key = u64;

/// The name of an overflow: the first bytes of its SHA-256.
pub type OverflowName = [u8; 16];

/// A session, encoded.
#[derive(Debug)]
pub(super) struct Saved {
    pub(super) attachment: Vec<u8>,
    /// The overflows that it names.
    pub(super) overflows: BTreeMap<OverflowName, Rc<[u8]>>,
}

/// Encodes the sessions of one connection. Keeps the encoded filters, which most changes of a session leave as they are.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    /// By memory address; the filters are kept too, so that the address is not reused.
    encoded: HashMap<usize, (Arc<[Filter]>, Rc<Encoded>)>,
}

/// The bytes of a list of filters.
#[derive(Debug)]
struct Encoded {
    bytes: Rc<[u8]>,
    /// Computed on first use.
    name: OnceCell<OverflowName>,
}

impl Encoded {
    fn name(&self) -> OverflowName {
        *self.name.get_or_init(|| name_of(&self.bytes))
    }
}

/// More than a length in LEB128 takes.
const LENGTH_BYTES: usize = 10;

impl Encoder {
    fn encode(&mut self, filters: &Arc<[Filter]>) -> Rc<Encoded> {
        let address = filters.as_ptr() as usize;
        let (_, encoded) = self.encoded.entry(address).or_insert_with(|| {
            let bytes = filters_bytes(filters).into();
            (Arc::clone(filters), Rc::new(Encoded { bytes, name: OnceCell::new() }))
        });
        Rc::clone(encoded)
    }

    /// Encodes a session into an attachment of at most `bytes_max` bytes and as many overflows as that takes.
    pub(super) fn save(
        &mut self,
        key: Key,
        has_unanswered: bool,
        session: &SessionSnapshot,
        bytes_max: usize,
    ) -> Saved {
        let head = head_bytes(key, has_unanswered, session);
        let lists = session.subs.iter().map(|(_, sub)| &sub.filters);
        let lists: Vec<Rc<Encoded>> = lists
            .chain(session.counts.iter().map(|(_, filters)| filters))
            .map(|list| self.encode(list))
            .collect();
        // Filters of closed subscriptions are dropped at once: they may be large.
        if self.encoded.len() > lists.len() {
            let kept: HashSet<*const Encoded> = lists.iter().map(Rc::as_ptr).collect();
            self.encoded.retain(|_, (_, encoded)| kept.contains(&Rc::as_ptr(encoded)));
        }
        let mut overflows = BTreeMap::new();
        let room = bytes_max.saturating_sub(head.len() + LENGTH_BYTES);
        let least = tail_bytes(session, &lists, 0, &mut BTreeMap::new()).len();
        let bound = inline_bytes_max(&lists, room.saturating_sub(least));
        let tail = tail_bytes(session, &lists, bound, &mut overflows);
        if tail.len() <= room {
            return Saved { attachment: joined(head, 0, &tail), overflows };
        }
        let name = name_of(&tail);
        overflows.insert(name, tail.into());
        Saved { attachment: joined(head, 1, &name), overflows }
    }
}

/// The largest list of filters that stays inline, if those inline may take `room` bytes: the largest become overflows first.
fn inline_bytes_max(lists: &[Rc<Encoded>], room: usize) -> usize {
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

fn name_of(bytes: &[u8]) -> OverflowName {
    let mut name = OverflowName::default();
    name.iter_mut().zip(Sha256::digest(bytes)).for_each(|(to, from)| *to = from);
    name
}

fn head_bytes(key: Key, has_unanswered: bool, session: &SessionSnapshot) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.extend_from_slice(&key.to_be_bytes());
    out.push(u8::from(has_unanswered));
    let mut write = Write(&mut out);
    write.bytes(session.challenge.as_deref().unwrap_or_default().as_bytes());
    write.address(session.address);
    write.option(session.relay.as_deref(), |write, relay| write.bytes(relay.as_bytes()));
    write.number(session.keys.len() as u64);
    session.keys.iter().for_each(|key| write.raw(&key.0));
    write.number(u64::from(session.malformed_messages));
    write.number(session.ephemeral_missed);
    for (level, at) in [session.event_rate, session.request_rate] {
        write.number(level);
        write.number(at.micros());
    }
    out
}

fn tail_bytes(
    session: &SessionSnapshot,
    lists: &[Rc<Encoded>],
    bound: usize,
    overflows: &mut BTreeMap<OverflowName, Rc<[u8]>>,
) -> Vec<u8> {
    let mut out = Vec::new();
    let mut write = Write(&mut out);
    let mut lists = lists.iter();
    let mut list = |write: &mut Write<'_>| {
        let Some(list) = lists.next() else { return };
        // Lists that are shorter than a name are never overflows.
        if list.bytes.len() > bound.max(size_of::<OverflowName>()) {
            write.number(1);
            write.raw(&list.name());
            overflows.insert(list.name(), Rc::clone(&list.bytes));
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

/// Looks overflows up by name when an attachment is decoded.
pub(super) type Overflows<'a> = dyn FnMut(OverflowName) -> Option<Vec<u8>> + 'a;

/// The key alone, also if the rest is malformed.
pub(super) fn key_of(attachment: &[u8]) -> Option<Key> {
    let mut read = Read(attachment);
    (read.array::<1>() == Ok([VERSION])).then(|| read.array().map(Key::from_be_bytes).ok()).flatten()
}

/// Whether the session had unanswered messages when this was written.
pub(super) fn has_unanswered(attachment: &[u8]) -> bool {
    key_of(attachment).is_some()
        && attachment.get(1 + size_of::<Key>()).is_some_and(|unanswered| *unanswered != 0)
}

/// The attachment of a socket whose session has ended.
pub(super) fn ended(address: Option<ClientAddress>) -> Vec<u8> {
    let mut out = Vec::new();
    if address.is_some() {
        out.push(ENDED);
        Write(&mut out).address(address);
    }
    out
}

/// Whether the session has ended.
pub(super) fn has_ended(attachment: &[u8]) -> bool {
    attachment.first().is_none_or(|version| *version == ENDED)
}

/// The client address, also if the rest is malformed and after the session has ended. `None` if it has none or it cannot be read.
pub(super) fn address_of(attachment: &[u8]) -> Option<ClientAddress> {
    let mut read = Read(attachment);
    match read.array().ok()? {
        [ENDED] => {}
        [VERSION] => {
            let _key_and_unanswered: [u8; 9] = read.array().ok()?;
            read.bytes().ok()?;
        }
        _ => return None,
    }
    read.address().ok()?
}

/// Decodes a session from its attachment. Also returns the names of its overflows.
///
/// # Errors
/// The attachment or an overflow is malformed, or an overflow is missing.
pub(super) fn load(
    attachment: &[u8],
    overflows: &mut Overflows<'_>,
) -> Result<(SessionSnapshot, Vec<OverflowName>), Malformed> {
    let mut read = Read(attachment);
    if read.array()? != [VERSION] {
        return Err(Malformed);
    }
    let _key_and_unanswered: [u8; 9] = read.array()?;
    let mut session = SessionSnapshot {
        challenge: Some(read.text()?).filter(|challenge| !challenge.is_empty()).map(Into::into),
        address: read.address()?,
        relay: read.option(Read::text)?.map(Into::into),
        keys: read.list(|read| Ok(PubKey(read.array()?)))?,
        malformed_messages: read.small()?,
        ephemeral_missed: read.number()?,
        event_rate: (read.number()?, Now::from_micros(read.number()?)),
        request_rate: (read.number()?, Now::from_micros(read.number()?)),
        subs: Vec::new(),
        counts: Vec::new(),
    };
    let mut names = Vec::new();
    match read.array()? {
        [0] => load_tail(read, &mut session, &mut names, overflows)?,
        [1] => {
            let name = read.array()?;
            read.end()?;
            names.push(name);
            let tail = overflows(name).ok_or(Malformed)?;
            load_tail(Read(&tail), &mut session, &mut names, overflows)?;
        }
        _ => return Err(Malformed),
    }
    Ok((session, names))
}

fn load_tail(
    mut read: Read<'_>,
    session: &mut SessionSnapshot,
    names: &mut Vec<OverflowName>,
    overflows: &mut Overflows<'_>,
) -> Result<(), Malformed> {
    let mut filters = |read: &mut Read<'_>| match read.number()? {
        0 => filters_from(read.bytes()?),
        1 => {
            let name = read.array()?;
            names.push(name);
            filters_from(&overflows(name).ok_or(Malformed)?)
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
            any::<u64>().prop_map(|after| Progress::Lagging { after: Seq(after) }),
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
            (malformed_messages, ephemeral_missed) in any::<(u32, u64)>(),
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
                malformed_messages,
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
            session in session(), key in any::<u64>(), unanswered in any::<bool>(), bytes_max in 1_000usize..15_000
        ) {
            let mut encoder = Encoder::default();
            for _ in 0..2 {
                let saved = encoder.save(key, unanswered, &session, bytes_max);
                prop_assert!(saved.attachment.len() <= bytes_max);
                prop_assert_eq!(key_of(&saved.attachment), Some(key));
                prop_assert_eq!(has_unanswered(&saved.attachment), unanswered);
                prop_assert_eq!(address_of(&saved.attachment), session.address);
                prop_assert!(!has_ended(&saved.attachment));
                let mut overflows = |name| saved.overflows.get(&name).map(|overflow: &Rc<[u8]>| overflow.to_vec());
                let (loaded, mut names) = load(&saved.attachment, &mut overflows).unwrap();
                prop_assert_eq!(&loaded, &session);
                names.sort_unstable();
                names.dedup();
                prop_assert_eq!(names, saved.overflows.keys().copied().collect::<Vec<_>>());
            }
        }

        #[test]
        fn what_is_cut_or_changed_is_an_error_or_a_session(
            session in session(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()
        ) {
            let saved = Encoder::default().save(7, false, &session, 15_000);
            let mut bytes = saved.attachment;
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] = byte }
            let mut overflows = |name| saved.overflows.get(&name).map(|overflow: &Rc<[u8]>| overflow.to_vec());
            let _ = address_of(&bytes);
            let loaded = load(&bytes, &mut overflows);
            prop_assert!(!cut || loaded.is_err());
        }
    }

    /// Written before sockets of ended sessions had an address, and by the same version of the format.
    #[test]
    fn attachments_of_earlier_versions_are_read() {
        let mut earlier = vec![3, 0, 0, 0, 0, 0, 0, 0, 7, 0];
        // A challenge, 192.0.2.7, no Host header, no keys, no malformed messages, nothing missed.
        earlier.extend([1, b'c', 4, 192, 0, 2, 7, 0, 0, 0, 0]);
        // Two full rate limiters; the tail is inline: no subscriptions, no COUNTs.
        earlier.extend([5, 6, 7, 8, 0, 0, 0]);
        let (session, names) = load(&earlier, &mut |_| None).unwrap();
        let address = IpAddr::from([192, 0, 2, 7]).into();
        assert_eq!((session.address, session.challenge.as_deref()), (Some(address), Some("c")));
        assert!(names.is_empty() && session.subs.is_empty() && !has_ended(&earlier));
        assert_eq!((key_of(&earlier), address_of(&earlier)), (Some(7), Some(address)));
        assert!(has_ended(&[]) && address_of(&[]).is_none());

        for own in [None, Some(address), Some(IpAddr::from([0x2001_u16, 0xdb8, 0, 0, 0, 0, 0, 1]).into())] {
            let attachment = ended(own);
            assert!(has_ended(&attachment) && address_of(&attachment) == own);
            assert!(key_of(&attachment).is_none() && load(&attachment, &mut |_| None).is_err());
        }
    }

    #[test]
    fn many_long_ids_become_an_overflow() {
        let empty: Arc<[Filter]> = Arc::new([Filter::default()]);
        let mut session = SessionSnapshot {
            challenge: Some("c".into()),
            address: None,
            relay: None,
            keys: vec![PubKey([7; 32]); 16],
            malformed_messages: 0,
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
        let saved = Encoder::default().save(1, false, &session, ATTACHMENT_BYTES_MAX);
        assert_eq!(saved.overflows.len(), 1);
        assert!(saved.attachment.len() < 700);
        let mut overflows = |name| saved.overflows.get(&name).map(|overflow: &Rc<[u8]>| overflow.to_vec());
        assert_eq!(load(&saved.attachment, &mut overflows).unwrap().0, session);
        assert_eq!(load(&saved.attachment, &mut |_| None), Err(Malformed));
    }
}
