//! What the index should answer, from sets in memory that are looked through from end to end. It shares no code with the index.

use std::collections::{BTreeMap, BTreeSet};

use relay_site::blossom::RetentionRule;

use super::{HASHES, KEY_MAX, OWNERS, TOTAL_MAX, key, sha, size};
use crate::blob::Sha256;
use crate::index::{Command, Commit, Key, Outcome, Part, PartHead, Refusal, RelayEvent, Wanted};

const TAKEN_SECONDS: u64 = 900;
const JOIN_SECONDS: u64 = 900;

/// See the module.
#[derive(Debug, Default)]
pub struct Oracle {
    /// Live blobs by their number.
    pub live: BTreeMap<u32, Live>,
    /// Uploads that have not ended, as the index has numbered them.
    pub pending: BTreeMap<u64, Pending>,
    /// Banned blobs.
    pub banned: BTreeSet<u32>,
    /// Removals that a host has taken, and when.
    pub taken: BTreeMap<Key, u64>,
    links: BTreeSet<(String, u32, u8)>,
    numbers: BTreeSet<u64>,
    /// Blobs that have become live.
    pub stored: u64,
    /// Pictures with a thumbnail that were stored.
    pub pictures: u64,
}

/// A live blob.
#[derive(Debug)]
pub struct Live {
    /// And since when.
    pub owners: BTreeMap<u8, u64>,
    /// When it was uploaded first, in Unix seconds.
    pub uploaded: u64,
    /// When retention removes it.
    pub expires_at: Option<u64>,
    mime: String,
    /// Its thumbnail.
    pub thumbnail: Option<u32>,
}

/// An upload under way.
#[derive(Debug)]
pub struct Pending {
    owner: u8,
    /// Of which blob, if that is known.
    pub n: Option<u32>,
    size: u64,
    expires_at: Option<u64>,
    /// Its blob was banned or deleted, and its host has not said yet that it has ended.
    is_given_up: bool,
    /// Its blob was live when it began.
    blob_exists: bool,
    abandoned_at: u64,
    /// As a crash finds it.
    abandoned_at_stored: u64,
    /// The parts in which it comes.
    pub parts: Option<Parts>,
}

impl Pending {
    fn new(owner: u8, wanted: &Wanted, size: u64) -> Self {
        Pending {
            owner,
            n: wanted.sha256.as_ref().map(number),
            size,
            // With rules its type must be known.
            expires_at: if wanted.retention.is_empty() { wanted.expires_at } else { Some(1) },
            is_given_up: false,
            blob_exists: false,
            abandoned_at: wanted.abandoned_at,
            abandoned_at_stored: wanted.abandoned_at,
            parts: None,
        }
    }

    fn reserved(&self) -> u64 {
        match &self.parts {
            _ if self.is_given_up => 0,
            Some(parts) => parts.rows.values().map(|row| row.1).sum::<u64>().min(self.size),
            None => self.size,
        }
    }
}

/// Parts of an upload.
#[derive(Debug, Default)]
pub struct Parts {
    /// Offset, length, and whether it is stored.
    pub rows: BTreeMap<Key, (u64, u64, bool)>,
    joining: Option<u64>,
    failed: u32,
}

#[derive(Debug, PartialEq)]
enum UploadDecision {
    Exists,
    Here,
    Busy,
    Refused(Refusal),
    Free,
}

/// The number of a blob.
fn number(sha256: &Sha256) -> u32 {
    (0..HASHES).find(|n| sha(*n) == *sha256).expect("a hash of ours")
}

fn owner(text: &str) -> u8 {
    (0..=OWNERS).find(|n| key(*n) == text).expect("a key of ours")
}

/// Until when a blob is kept that is to be kept until `own` and until `other`.
fn later(now: u64, own: Option<u64>, other: Option<u64>) -> Option<u64> {
    let (own, other) = (own?, other?);
    let hour_or_tenth = (other.saturating_sub(now) / 10).min(3_600);
    Some(if other >= own + hour_or_tenth { other.max(own) } else { own })
}

/// When a rule removes a blob of this type and size.
fn by_rule(now: u64, rules: &[RetentionRule], mime: &str, size: u64) -> Option<u64> {
    let fits = |rule: &&RetentionRule| {
        size >= rule.bytes_min && (rule.types.is_empty() || rule.types.iter().any(|own| own == mime))
    };
    Some(now + rules.iter().find(fits)?.age_seconds?)
}

impl Oracle {
    /// Checks an answer, and does what the command has done.
    ///
    /// # Panics
    /// If it is the wrong answer.
    pub fn check(&mut self, now: u64, command: &Command, outcome: &Outcome) {
        match command {
            Command::Begin(wanted) => self.begin(now, wanted, None, outcome),
            Command::BeginPart(wanted, part) => self.begin(now, wanted, Some(part), outcome),
            Command::SetHash { upload, sha256, size } => {
                self.set_hash(now, *upload, number(sha256), *size, outcome)
            }
            Command::Finish(commit) => self.finish(now, commit, outcome),
            Command::Abort { upload } => self.abort(*upload),
            Command::AbortParts { upload } => drop(self.pending.remove(upload)),
            Command::FinishPart { upload, key } => self.finish_part(now, *upload, key, outcome),
            Command::AbortPart { upload, key } => self.abort_part(*upload, key),
            Command::Delete { sha256, owner: text } => {
                let (n, text) = (number(sha256), text.as_deref());
                let Some(live) = self.live.get(&n) else {
                    if text.is_none() {
                        self.purge(n);
                    }
                    return assert_eq!(*outcome, Outcome::Missing);
                };
                match text.map(owner) {
                    Some(owner) if !live.owners.contains_key(&owner) => {
                        return assert_eq!(*outcome, Outcome::Refused(Refusal::NotOwner));
                    }
                    Some(owner) => self.remove_owner(n, owner),
                    None => self.purge(n),
                }
                assert_eq!(*outcome, Outcome::Deleted);
            }
            Command::Ban { sha256, .. } => {
                self.banned.insert(number(sha256));
                self.purge(number(sha256));
            }
            Command::Unban(sha256) => {
                let was = self.banned.remove(&number(sha256));
                assert_eq!(*outcome, if was { Outcome::Done } else { Outcome::Missing });
            }
            Command::Apply(event, _) => self.apply(event),
            Command::TakeRemoval => {
                let Outcome::Removal(removal) = outcome else { panic!("a removal or none") };
                self.take(now, removal.as_slice(), 1);
            }
            Command::TakeRemovals(limit) => {
                let Outcome::Removals(removals) = outcome else { panic!("removals") };
                self.take(now, removals, *limit as usize);
            }
            Command::TakeRemovalOf(key) => {
                let Outcome::Removal(removal) = outcome else { panic!("a removal or none") };
                if removal.is_some() {
                    assert_eq!(removal.as_ref(), Some(key));
                    assert!(self.taken.insert(key.clone(), now).is_none(), "{key} was taken by another one");
                }
            }
            Command::Removed(key) | Command::RemovalFailed(key) => drop(self.taken.remove(key)),
            Command::Sweep => self.sweep(now, outcome),
            Command::Restart => self.restart(),
            Command::Get(sha256) => self.is_blob(number(sha256), outcome),
            _ => {}
        }
    }

    /// What is in memory only is gone.
    pub fn reload(&mut self) {
        for pending in self.pending.values_mut() {
            pending.abandoned_at = pending.abandoned_at_stored;
            if let Some(parts) = &mut pending.parts {
                (parts.joining, parts.failed) = (None, 0);
            }
        }
        self.taken.retain(|key, _| !key.contains('/'));
    }

    /// Compares the index with the bytes that there are; `is_there` tells whether those of a blob are, whole.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn check_bytes(&self, is_there: impl Fn(u32) -> bool) {
        for (n, live) in &self.live {
            assert!(is_there(*n), "bytes of {n}");
            assert!(!self.banned.contains(n), "{n} is banned");
            assert!(!live.owners.is_empty(), "{n} is nobody's");
        }
        for n in 0..HASHES {
            let is_wanted = self.live.contains_key(&n) || self.is_pending(n);
            assert!(!is_wanted || !self.taken.contains_key(&sha(n).to_string()), "{n} is being removed");
        }
        for owner in 1..=OWNERS {
            // Thumbnails come with pictures, beyond the quota.
            let owned = self
                .live
                .iter()
                .filter(|(n, live)| live.owners.contains_key(&owner) && !self.has_picture(owner, **n));
            assert!(owned.map(|(n, _)| size(*n)).sum::<u64>() <= KEY_MAX, "{owner}");
        }
        assert!(self.total() <= TOTAL_MAX);
    }

    /// Compares a list, newest first, of one owner's blobs or of all.
    ///
    /// # Panics
    /// If it is another.
    pub fn check_list(&self, owner: Option<u8>, list: &[Sha256]) {
        let has = |owners: &BTreeMap<u8, u64>| owner.is_none_or(|owner| owners.contains_key(&owner));
        let live = self.live.iter().filter(|(_, live)| has(&live.owners));
        let mut expected: Vec<_> = live.map(|(n, live)| (live.uploaded, sha(*n))).collect();
        expected.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(list, expected.iter().map(|(_, sha256)| *sha256).collect::<Vec<_>>(), "{owner:?}");
    }

    /// The hashes of all live blobs, as the keys of their bytes.
    pub fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = self.live.keys().map(|n| sha(*n).to_string()).collect();
        keys.sort();
        keys
    }

    fn restart(&mut self) {
        self.reload();
        self.taken.clear();
        self.pending.retain(|_, pending| {
            pending.parts.as_mut().is_some_and(|parts| {
                parts.rows.retain(|_, row| row.2);
                !parts.rows.is_empty()
            })
        });
    }

    fn owned(&self, owner: u8) -> u64 {
        self.live.iter().filter(|(_, live)| live.owners.contains_key(&owner)).map(|(n, _)| size(*n)).sum()
    }

    /// Bytes of all live blobs.
    pub fn total(&self) -> u64 {
        self.live.keys().map(|n| size(*n)).sum()
    }

    /// Whether an upload of it is under way.
    pub fn is_pending(&self, n: u32) -> bool {
        self.pending.values().any(|pending| !pending.is_given_up && pending.n == Some(n))
    }

    /// A blob ends, and what is being uploaded of it.
    fn purge(&mut self, n: u32) {
        self.remove(n);
        for pending in self.pending.values_mut().filter(|pending| pending.n == Some(n)) {
            (pending.is_given_up, pending.parts) = (true, None);
        }
    }

    /// Whether an upload has neither ended nor been given up.
    pub fn is_under_way(&self, upload: u64) -> bool {
        self.pending.get(&upload).is_some_and(|pending| !pending.is_given_up)
    }

    /// Uploads that have not been given up.
    pub fn under_way(&self) -> usize {
        self.pending.values().filter(|pending| !pending.is_given_up).count()
    }

    fn room(
        &self,
        owner: u8,
        n: Option<u32>,
        size: u64,
        is_total: bool,
        own: Option<u64>,
    ) -> Option<Refusal> {
        let is_other = |id, other: &Pending| Some(id) != own && (n.is_none() || other.n != n);
        let others = || self.pending.iter().filter(|(id, p)| is_other(**id, p)).map(|(_, pending)| pending);
        let all: u64 = others().filter(|p| !p.blob_exists).map(Pending::reserved).sum();
        let of_owner: u64 = others().filter(|p| p.owner == owner).map(Pending::reserved).sum();
        if is_total && self.total() + all + size > TOTAL_MAX {
            return Some(Refusal::TotalQuota);
        }
        (self.owned(owner) + of_owner + size > KEY_MAX).then_some(Refusal::KeyQuota)
    }

    fn decide_upload(&self, owner: u8, n: Option<u32>, bytes: u64, own: Option<u64>) -> UploadDecision {
        if let Some(n) = n {
            if self.banned.contains(&n) {
                return UploadDecision::Refused(Refusal::Banned);
            }
            if let Some(live) = self.live.get(&n) {
                if live.owners.contains_key(&owner) {
                    return UploadDecision::Exists;
                }
                let refusal = self.room(owner, Some(n), size(n), false, own);
                return refusal.map_or(UploadDecision::Here, UploadDecision::Refused);
            }
            if self.taken.contains_key(&sha(n).to_string()) {
                return UploadDecision::Busy;
            }
        }
        self.room(owner, n, bytes, true, own).map_or(UploadDecision::Free, UploadDecision::Refused)
    }

    fn own(&mut self, now: u64, n: u32, owner: u8, expires_at: Option<u64>, outcome: &Outcome) {
        self.add_owner(now, n, owner, expires_at);
        let Outcome::Exists(blob) = outcome else { panic!("{n} exists") };
        self.is_blob(n, &Outcome::Blob(blob.clone()));
    }

    /// A new owner of a picture owns its thumbnail too.
    fn add_owner(&mut self, now: u64, n: u32, owner: u8, expires_at: Option<u64>) {
        let Some(live) = self.live.get_mut(&n) else { return };
        let is_new = live.owners.insert(owner, now).is_none_or(|since| {
            live.owners.insert(owner, since);
            false
        });
        live.expires_at = later(now, live.expires_at, expires_at);
        if let (Some(thumbnail), true) = (live.thumbnail, is_new) {
            self.add_owner(now, thumbnail, owner, expires_at);
        }
    }

    /// Whether an owner has a picture with this thumbnail.
    pub fn has_picture(&self, owner: u8, thumbnail: u32) -> bool {
        let mut live = self.live.values();
        live.any(|live| live.thumbnail == Some(thumbnail) && live.owners.contains_key(&owner))
    }

    /// Somebody who owned a picture lets its thumbnail go with their last one.
    fn remove_thumbnail_owner(&mut self, thumbnail: u32, owner: u8) {
        let is_owner = self.live.get(&thumbnail).is_some_and(|live| live.owners.contains_key(&owner));
        if is_owner && !self.has_picture(owner, thumbnail) {
            self.remove_owner(thumbnail, owner);
        }
    }

    fn is_blob(&self, n: u32, outcome: &Outcome) {
        let Some(live) = self.live.get(&n) else { return assert_eq!(*outcome, Outcome::Missing) };
        let Outcome::Blob(blob) = outcome else { panic!("{n} is live") };
        assert_eq!(
            (blob.sha256, blob.size, blob.uploaded, blob.expires_at),
            (sha(n), size(n), live.uploaded, live.expires_at)
        );
        let thumbnail = blob.media.as_ref().and_then(|media| media.thumbnail);
        assert_eq!(thumbnail, live.thumbnail.map(sha));
    }

    fn begin(&mut self, now: u64, wanted: &Wanted, part: Option<&PartHead>, outcome: &Outcome) {
        let (owner, n) = (owner(&wanted.owner), wanted.sha256.as_ref().map(number));
        let is_it = |pending: &Pending| pending.parts.is_some() && pending.n == n && pending.owner == owner;
        let found =
            self.pending.iter().find(|(_, pending)| part.is_some() && is_it(pending)).map(|(id, _)| *id);
        let (mut bytes, mut sum, mut has_it) = (wanted.size, 0, false);
        if let Some(part) = part {
            let parts = found.and_then(|id| self.pending[&id].parts.as_ref());
            let rows: Vec<_> = parts.map(|parts| parts.rows.values().copied().collect()).unwrap_or_default();
            let stored = |byte| rows.iter().any(|row| row.2 && (row.0..row.0 + row.1).contains(&byte));
            has_it = (part.offset..part.offset + part.length).all(stored);
            sum = rows.iter().map(|row| row.1).sum::<u64>() + if has_it { 0 } else { part.length };
            bytes = sum.min(wanted.size);
        }
        match self.decide_upload(owner, n, bytes, found) {
            UploadDecision::Exists => {
                found.map(|id| self.pending.remove(&id));
                let n = n.expect("it exists");
                let expires_at = match wanted.retention.is_empty() {
                    true => wanted.expires_at,
                    false => by_rule(now, &wanted.retention, &self.live[&n].mime, size(n)),
                };
                return self.own(now, n, owner, expires_at, outcome);
            }
            UploadDecision::Here if part.is_some() => {
                let refusal = self.room(owner, n, bytes, true, found);
                if let (Some(refusal), false) = (refusal, has_it) {
                    return assert_eq!(*outcome, Outcome::Refused(refusal));
                }
            }
            UploadDecision::Here => {
                let Outcome::OwnedByOthers { upload } = outcome else { panic!("it is another owner's") };
                let size = size(n.expect("it is here"));
                return self
                    .pend(*upload, Pending { blob_exists: true, ..Pending::new(owner, wanted, size) });
            }
            UploadDecision::Busy => return assert_eq!(*outcome, Outcome::Busy),
            UploadDecision::Refused(_) if has_it => {}
            UploadDecision::Refused(refusal) => return assert_eq!(*outcome, Outcome::Refused(refusal)),
            UploadDecision::Free => {}
        }
        if let (Some(id), true) = (found, has_it) {
            self.extend(id, wanted.abandoned_at);
            return self.joins(now, id, outcome);
        }
        if part.is_some() && sum > 2 * wanted.size {
            return assert_eq!(*outcome, Outcome::Refused(Refusal::TooMany));
        }
        let Outcome::Begun { upload, key } = outcome else { panic!("the upload may begin") };
        match found {
            Some(id) => assert_eq!(*upload, id),
            None => {
                let parts = part.map(|_| Parts::default());
                self.pend(*upload, Pending { parts, ..Pending::new(owner, wanted, wanted.size) });
            }
        }
        let pending = self.pending.get_mut(upload).expect("it has begun");
        match (part, &mut pending.parts, n) {
            (Some(part), Some(parts), Some(n)) => {
                let id = key.strip_prefix(&format!("parts/{}/", sha(n))).expect("a key of a part");
                assert!(self.numbers.insert(id.parse().expect("a number")), "{id} was given before");
                assert!(parts.rows.insert(key.clone(), (part.offset, part.length, false)).is_none());
                self.extend(*upload, wanted.abandoned_at);
            }
            (_, _, Some(n)) => assert_eq!(*key, sha(n).to_string()),
            (_, _, None) => assert_eq!(*key, format!("staged/{upload}")),
        }
    }

    fn pend(&mut self, upload: u64, pending: Pending) {
        assert!(self.numbers.insert(upload), "{upload} was given before");
        assert!(self.pending.insert(upload, pending).is_none());
    }

    fn extend(&mut self, upload: u64, abandoned_at: u64) {
        let pending = self.pending.get_mut(&upload).expect("it has begun");
        pending.abandoned_at = pending.abandoned_at.max(abandoned_at);
        if pending.abandoned_at >= pending.abandoned_at_stored + 60 {
            pending.abandoned_at_stored = pending.abandoned_at;
        }
    }

    /// What an upload hears that has ended.
    fn too_late(&self, n: u32, outcome: &Outcome) {
        let refusal = if self.banned.contains(&n) { Refusal::Banned } else { Refusal::Gone };
        assert_eq!(*outcome, Outcome::Refused(refusal));
    }

    fn set_hash(&mut self, now: u64, upload: u64, n: u32, bytes: u64, outcome: &Outcome) {
        let Some(pending) = self.pending.get(&upload) else {
            return assert_eq!(*outcome, Outcome::Refused(Refusal::Gone));
        };
        if pending.is_given_up {
            self.pending.remove(&upload);
            return self.too_late(n, outcome);
        }
        let begun = Outcome::Begun { upload, key: sha(n).to_string() };
        if pending.n == Some(n) {
            return assert_eq!(*outcome, begun);
        }
        let (owner, expires_at) = (pending.owner, pending.expires_at);
        match self.decide_upload(owner, Some(n), bytes, Some(upload)) {
            UploadDecision::Exists | UploadDecision::Here => {
                self.pending.remove(&upload);
                self.own(now, n, owner, expires_at, outcome);
            }
            UploadDecision::Busy => assert_eq!(*outcome, Outcome::Busy),
            UploadDecision::Refused(refusal) => {
                self.pending.remove(&upload);
                assert_eq!(*outcome, Outcome::Refused(refusal));
            }
            UploadDecision::Free => {
                let pending = self.pending.get_mut(&upload).expect("it is pending");
                (pending.n, pending.size) = (Some(n), bytes);
                assert_eq!(*outcome, begun);
            }
        }
    }

    fn finish(&mut self, now: u64, commit: &Commit, outcome: &Outcome) {
        let n = number(&commit.sha256);
        let pending = self.pending.remove(&commit.upload);
        let Some(pending) = pending.filter(|pending| !pending.is_given_up) else {
            return self.too_late(n, outcome);
        };
        let room = || self.room(pending.owner, Some(n), commit.size, true, None);
        let refusal = match self.banned.contains(&n) {
            true => Some(Refusal::Banned),
            false => {
                if commit.size > pending.size || (pending.blob_exists && !self.live.contains_key(&n)) {
                    room()
                } else {
                    None
                }
            }
        };
        if let Some(refusal) = refusal {
            return assert_eq!(*outcome, Outcome::Refused(refusal));
        }
        if let Some(live) = self.live.get(&n) {
            let expires_at = match commit.retention.is_empty() {
                true => commit.expires_at,
                false => by_rule(now, &commit.retention, &live.mime, size(n)),
            };
            return self.own(now, n, pending.owner, expires_at, outcome);
        }
        let thumbnail = commit.media.as_ref().and_then(|media| media.thumbnail).map(|sha256| number(&sha256));
        let thumbnail = thumbnail.filter(|thumbnail| self.live.contains_key(thumbnail));
        if let Some(thumbnail) = thumbnail {
            self.pictures += 1;
            self.add_owner(now, thumbnail, pending.owner, commit.expires_at);
        }
        let owners = [(pending.owner, now)].into();
        let uploaded = commit.uploaded.map_or(now, |at| at.min(now));
        let (expires_at, mime) = (commit.expires_at, commit.mime.clone());
        self.live.insert(n, Live { owners, uploaded, expires_at, mime, thumbnail });
        self.stored += 1;
        let Outcome::Stored(blob) = outcome else { panic!("it is new") };
        self.is_blob(n, &Outcome::Blob(blob.clone()));
    }

    fn abort(&mut self, upload: u64) {
        if let Some(parts) = self.pending.get_mut(&upload).and_then(|pending| pending.parts.as_mut()) {
            parts.failed += u32::from(parts.joining.take().is_some());
            if parts.failed < 3 {
                return;
            }
        }
        self.pending.remove(&upload);
    }

    fn finish_part(&mut self, now: u64, upload: u64, key: &Key, outcome: &Outcome) {
        let gone = Outcome::Refused(Refusal::Gone);
        let parts = self.pending.get_mut(&upload).and_then(|pending| pending.parts.as_mut());
        let row = parts.and_then(|parts| parts.rows.get_mut(key));
        let Some(row) = row else { return assert_eq!(*outcome, gone) };
        row.2 = true;
        self.joins(now, upload, outcome);
    }

    fn joins(&mut self, now: u64, upload: u64, outcome: &Outcome) {
        let pending = self.pending.get_mut(&upload).expect("it is pending");
        let parts = pending.parts.as_mut().expect("it has parts");
        let mut missing: BTreeSet<u64> = (0..pending.size).collect();
        for (offset, length, _) in parts.rows.values().filter(|row| row.2) {
            missing.retain(|byte| !(*offset..offset + length).contains(byte));
        }
        if !missing.is_empty() || parts.joining.is_some_and(|since| now < since + JOIN_SECONDS) {
            return assert_eq!(*outcome, Outcome::Accepted);
        }
        parts.joining = Some(now);
        let n = pending.n.expect("parts have a hash");
        let Outcome::Complete { parts: cover, blob_exists, .. } = outcome else {
            panic!("all parts are there")
        };
        assert_eq!(*blob_exists, self.live.contains_key(&n));
        assert_eq!(joined(parts, cover), (0..pending.size).collect::<Vec<_>>());
    }

    fn abort_part(&mut self, upload: u64, key: &Key) {
        let parts = self.pending.get_mut(&upload).and_then(|pending| pending.parts.as_mut());
        let Some(parts) = parts else { return };
        if parts.rows.remove(key).is_some() && parts.rows.is_empty() {
            self.pending.remove(&upload);
        }
    }

    fn remove_owner(&mut self, n: u32, owner: u8) {
        let Some(live) = self.live.get_mut(&n).filter(|live| live.owners.contains_key(&owner)) else {
            return;
        };
        if live.owners.len() == 1 {
            return self.purge(n);
        }
        live.owners.remove(&owner);
        let thumbnail = live.thumbnail;
        self.links.retain(|link| (link.1, link.2) != (n, owner));
        if let Some(thumbnail) = thumbnail {
            self.remove_thumbnail_owner(thumbnail, owner);
        }
    }

    fn remove(&mut self, n: u32) {
        self.links.retain(|link| link.1 != n);
        let Some(ended) = self.live.remove(&n) else { return };
        for live in self.live.values_mut().filter(|live| live.thumbnail == Some(n)) {
            live.thumbnail = None;
        }
        if let Some(thumbnail) = ended.thumbnail {
            ended.owners.keys().for_each(|owner| self.remove_thumbnail_owner(thumbnail, *owner));
        }
    }

    fn apply(&mut self, event: &RelayEvent) {
        let author = owner(&event.pubkey);
        match event.kind {
            1063 => {
                let n = number(&event.tags[0][1].parse().expect("a hash"));
                if self.live.get(&n).is_some_and(|live| live.owners.contains_key(&author)) {
                    self.links.insert((event.id.clone(), n, author));
                }
            }
            5 => {
                let links = self.links.clone();
                let is_meant = |link: &&(String, u32, u8)| link.0 == event.tags[0][1] && link.2 == author;
                for link in links.iter().filter(is_meant) {
                    self.links.remove(link);
                    if !self.links.iter().any(|other| (other.1, other.2) == (link.1, author)) {
                        self.remove_owner(link.1, author);
                    }
                }
            }
            _ => {
                for n in 0..HASHES {
                    let since = self.live.get(&n).and_then(|live| live.owners.get(&author));
                    if since.is_some_and(|since| *since <= event.created_at) {
                        self.remove_owner(n, author);
                    }
                }
            }
        }
    }

    fn take(&mut self, now: u64, removals: &[Key], limit: usize) {
        let is_due = |at: &u64| at + TAKEN_SECONDS <= now;
        for key in removals {
            if let Some(at) = self.taken.insert(key.clone(), now) {
                assert!(is_due(&at), "{key} was taken by another one");
            }
        }
        assert!(removals.len() <= limit);
        let is_left = removals.len() < limit && self.taken.values().any(is_due);
        assert!(!is_left, "it is to be handed out again");
    }

    fn sweep(&mut self, now: u64, outcome: &Outcome) {
        let expired = |live: &Live| live.expires_at.is_some_and(|at| at <= now);
        let expired: Vec<u32> = self.live.iter().filter(|(_, live)| expired(live)).map(|(n, _)| *n).collect();
        expired.into_iter().for_each(|n| self.remove(n));
        let until = |pending: &Pending| {
            let joining = pending.parts.as_ref().and_then(|parts| parts.joining);
            pending.abandoned_at.max(joining.map_or(0, |since| since + JOIN_SECONDS))
        };
        self.pending.retain(|_, pending| until(pending) > now);
        let next = self.live.values().filter_map(|live| live.expires_at);
        let next = next.chain(self.pending.values().map(until));
        let next = next.chain(self.taken.values().map(|at| at + TAKEN_SECONDS)).min();
        assert_eq!(*outcome, Outcome::Swept(next));
    }
}

/// The bytes that these parts give, as offsets in the blob.
fn joined(parts: &Parts, cover: &[Part]) -> Vec<u64> {
    let mut bytes = Vec::new();
    for part in cover {
        let (offset, length, is_stored) = parts.rows[&part.key];
        assert!(is_stored && part.skip + part.take <= length, "{part:?}");
        bytes.extend(offset + part.skip..offset + part.skip + part.take);
    }
    bytes
}
