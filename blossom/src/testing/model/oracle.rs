//! What the index should answer, from sets in memory that are looked through from end to end. It shares no code with the index.

mod uploads;

use std::collections::{BTreeMap, BTreeSet};

use relay_site::blossom::RetentionRule;

use super::{HASHES, KEY_MAX, OWNERS, TOTAL_MAX, key, sha, size};
use crate::blob::Sha256;
use crate::index::{Command, Key, Outcome, Refusal, RelayEvent, Wanted};

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
            Command::LeaveParts { .. } => {}
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
