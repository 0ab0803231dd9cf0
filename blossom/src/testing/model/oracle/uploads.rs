//! Uploads: what begins, goes on in parts, and ends.

use std::collections::BTreeSet;

use super::super::{sha, size};
use super::{JOIN_SECONDS, Live, Oracle, Parts, Pending, UploadDecision, by_rule, number, owner};
use crate::index::{Commit, Key, Outcome, Part, PartHead, Refusal, Wanted};

impl Oracle {
    pub(super) fn begin(&mut self, now: u64, wanted: &Wanted, part: Option<&PartHead>, outcome: &Outcome) {
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
                let Outcome::OwnedByOthers { upload, .. } = outcome else { panic!("it is another owner's") };
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

    pub(super) fn pend(&mut self, upload: u64, pending: Pending) {
        assert!(self.numbers.insert(upload), "{upload} was given before");
        assert!(self.pending.insert(upload, pending).is_none());
    }

    pub(super) fn extend(&mut self, upload: u64, abandoned_at: u64) {
        let pending = self.pending.get_mut(&upload).expect("it has begun");
        pending.abandoned_at = pending.abandoned_at.max(abandoned_at);
        if pending.abandoned_at >= pending.abandoned_at_stored + 60 {
            pending.abandoned_at_stored = pending.abandoned_at;
        }
    }

    /// What an upload hears that has ended.
    pub(super) fn too_late(&self, n: u32, outcome: &Outcome) {
        let refusal = if self.banned.contains(&n) { Refusal::Banned } else { Refusal::Gone };
        assert_eq!(*outcome, Outcome::Refused(refusal));
    }

    pub(super) fn set_hash(&mut self, now: u64, upload: u64, n: u32, bytes: u64, outcome: &Outcome) {
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

    pub(super) fn finish(&mut self, now: u64, commit: &Commit, outcome: &Outcome) {
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

    pub(super) fn abort(&mut self, upload: u64) {
        if let Some(parts) = self.pending.get_mut(&upload).and_then(|pending| pending.parts.as_mut()) {
            parts.failed += u32::from(parts.joining.take().is_some());
            if parts.failed < 3 {
                return;
            }
        }
        self.pending.remove(&upload);
    }

    pub(super) fn finish_part(&mut self, now: u64, upload: u64, key: &Key, outcome: &Outcome) {
        let gone = Outcome::Refused(Refusal::Gone);
        let parts = self.pending.get_mut(&upload).and_then(|pending| pending.parts.as_mut());
        let row = parts.and_then(|parts| parts.rows.get_mut(key));
        let Some(row) = row else { return assert_eq!(*outcome, gone) };
        row.2 = true;
        self.joins(now, upload, outcome);
    }

    pub(super) fn joins(&mut self, now: u64, upload: u64, outcome: &Outcome) {
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

    pub(super) fn abort_part(&mut self, upload: u64, key: &Key) {
        let parts = self.pending.get_mut(&upload).and_then(|pending| pending.parts.as_mut());
        let Some(parts) = parts else { return };
        if parts.rows.remove(key).is_some() && parts.rows.is_empty() {
            self.pending.remove(&upload);
        }
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
