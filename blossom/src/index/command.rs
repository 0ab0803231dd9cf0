//! The commands of the index, and their outcomes. On the edge both travel as JSON between the Worker and the Durable Object of Blossom.

use relay_site::blossom::RetentionRule;
use serde::{Deserialize, Serialize};

use crate::blob::{Blob, Media, Sha256};

/// A request to the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// The blob of this hash: [`Outcome::Blob`] or [`Outcome::Missing`].
    Get(Sha256),
    /// Whether a key owns a blob that is here: [`Outcome::Accepted`] or [`Outcome::Missing`].
    IsOwner {
        /// The blob.
        sha256: Sha256,
        /// The public key in hexadecimal.
        owner: String,
    },
    /// These blobs have been downloaded, for retention by last download: [`Outcome::Done`]. Writes at most once an hour for a blob,
    /// and nothing for one to which no such rule applies.
    RecordDownloads(Vec<Sha256>),
    /// Whether [`Command::Begin`] would refuse; changes nothing. [`Outcome::Accepted`] instead of [`Outcome::Begun`], and
    /// [`Outcome::Exists`] whoever owns the blob; but [`Outcome::Accepted`], if it must be paid and only the relay owns the blob.
    Check(Wanted),
    /// An upload begins: [`Outcome::Begun`]; or [`Outcome::Exists`], if the uploader owns the blob already; [`Outcome::OwnedByOthers`], if
    /// only others do; [`Outcome::Busy`]; [`Outcome::Refused`]. An upload that ends in any way but [`Outcome::Stored`] leaves
    /// nothing: whatever it may have stored is removed, unless it is live or another upload of it is under way.
    Begin(Wanted),
    /// The relay itself wants a blob that others have, at these URLs: as [`Command::Begin`]; [`Outcome::Missing`] if all of them have
    /// failed to give it within the last five minutes; [`Outcome::Pulling`] while another upload of it for the relay is under way
    /// that began less than two minutes ago.
    BeginPull(Wanted, Vec<String>),
    /// These URLs failed to return the blob that [`Command::BeginPull`] has begun, which ends as by [`Command::Abort`]: [`Outcome::Done`].
    AbortPull {
        /// The upload.
        upload: u64,
        /// The URLs.
        urls: Vec<String>,
    },
    /// A begun upload will have at least so many bytes: [`Outcome::Accepted`], and there is room for them as long as it is under way; or
    /// [`Outcome::Refused`], and it may only be aborted.
    Reserve {
        /// The upload.
        upload: u64,
        /// Bytes.
        size: u64,
    },
    /// The hash and size of a begun upload are known now, for its bytes have come: the answers of [`Command::Begin`], and
    /// [`Outcome::Begun`] has the key where the bytes belong; [`Outcome::Exists`] instead of [`Outcome::OwnedByOthers`], and the
    /// uploader is an owner now. Any other answer but [`Outcome::Busy`] has ended the upload.
    SetHash {
        /// The upload.
        upload: u64,
        /// Its hash.
        sha256: Sha256,
        /// Its size in bytes.
        size: u64,
    },
    /// The bytes of an upload are stored under their hash, or, after [`Outcome::OwnedByOthers`], have been hashed: [`Outcome::Stored`];
    /// [`Outcome::Exists`] if the blob is live already, and the uploader is an owner now; or [`Outcome::Refused`]. The upload has
    /// ended in any case.
    Finish(Commit),
    /// An upload has failed: [`Outcome::Done`], also if it is not known. Of an upload in parts only the joining has failed: the
    /// next part that is stored is told [`Outcome::Complete`] again, until three have failed.
    Abort {
        /// The upload.
        upload: u64,
    },
    /// Whether [`Command::BeginPart`] of this blob is to be paid for: [`Outcome::Accepted`] if it is, and nothing else is in the way;
    /// [`Outcome::Done`] if the owner's upload in parts is paid; [`Refusal::OtherLength`] if that has another length; or as
    /// [`Command::Check`]. Changes nothing.
    CheckPart(Wanted),
    /// A part of a blob comes (BUD-14): [`Outcome::Begun`] with the key for its bytes; [`Outcome::Accepted`] if stored parts have
    /// all of it, so that it need not come; [`Outcome::Complete`] as of [`Command::FinishPart`], if these are all of the blob and
    /// nobody joins them; or as [`Command::Begin`], but never [`Outcome::OwnedByOthers`]: parts are stored also of a blob of others.
    /// Where it must be paid, the upload of the part is paid already or is from now on, by [`Wanted::proof`]; otherwise, also if
    /// another upload is paid with that proof, it is [`Refusal::Unpaid`] and nothing has changed.
    BeginPart(Wanted, PartHead),
    /// A part is stored: [`Outcome::Accepted`] while others are missing or another request joins them; [`Outcome::Complete`]
    /// if all are there, and the one that is told so joins them and then sends [`Command::Finish`] or [`Command::Abort`].
    FinishPart {
        /// The upload, which the parts of one owner and hash share.
        upload: u64,
        /// The part's key.
        key: Key,
    },
    /// A part has failed: [`Outcome::Done`], also if it is not known.
    AbortPart {
        /// The upload.
        upload: u64,
        /// The part's key.
        key: Key,
    },
    /// The joining of the parts of an upload has ended through no fault of theirs: they stay, and the next part that is stored is told
    /// [`Outcome::Complete`] again. [`Outcome::Done`], also if it is not known.
    LeaveParts {
        /// The upload.
        upload: u64,
    },
    /// The parts of an upload are not the blob: they have another hash. The upload ends, and they are removed: [`Outcome::Done`],
    /// also if it is not known.
    AbortParts {
        /// The upload.
        upload: u64,
    },
    /// An owner of a blob of unknown type says of what type it is: [`Outcome::Exists`] with the type that it has now;
    /// [`Outcome::Missing`] or [`Outcome::Refused`]. A host whose store keeps types tells the store first.
    SetMime {
        /// The blob.
        sha256: Sha256,
        /// The owner's public key in hexadecimal.
        owner: String,
        /// The type.
        mime: String,
    },
    /// An owner deletes a blob, or an administrator removes it (`owner` is `None`): [`Outcome::Deleted`], [`Outcome::Missing`] or
    /// [`Outcome::Refused`]. With its last owner the uploads of it that are in progress are aborted: their later
    /// commands are [`Refusal::Gone`], and the bytes are removed now and once more when they end. An administrator's removal does that, and removes
    /// what the store may have, also if the blob is [`Outcome::Missing`].
    Delete {
        /// The blob.
        sha256: Sha256,
        /// The owner's public key in hexadecimal.
        owner: Option<String>,
    },
    /// Blobs of an owner, newest first: [`Outcome::Blobs`]. A cursor that is not one of them: [`Outcome::Missing`].
    List {
        /// The owner's public key in hexadecimal; all blobs without it.
        owner: Option<String>,
        /// The last blob of the page before.
        cursor: Option<Sha256>,
        /// Most blobs.
        limit: u32,
        /// Uploaded not before, in Unix seconds.
        since: Option<u64>,
        /// Uploaded not after.
        until: Option<u64>,
    },
    /// Somebody reports blobs: [`Outcome::Done`], or [`Outcome::Missing`] if none of them is here.
    Report(RelayEvent),
    /// An event of the relay ([`RelayEvent::of_relay`]) with its sequence number, which is kept: [`Outcome::Done`].
    Apply(RelayEvent, u64),
    /// The position in the relay's stream that is dealt with: [`Outcome::Position`].
    Position,
    /// The position moves on without an event: [`Outcome::Done`].
    SetPosition(u64),
    /// Bytes that may be removed: [`Outcome::Removal`]. Until [`Command::Removed`], uploads of them are [`Outcome::Busy`]. If
    /// that does not come within 15 minutes, they are handed out again: a host that takes removals must be done, or know that it
    /// will not be, before.
    TakeRemoval,
    /// The same of at most so many: [`Outcome::Removals`].
    TakeRemovals(u32),
    /// The same of bytes with this key, if they wait and nobody has taken them.
    TakeRemovalOf(Key),
    /// They are removed: [`Outcome::Done`].
    Removed(Key),
    /// They could not be removed, and no removal of them is under way any more: it waits again, and uploads of them may begin.
    /// [`Outcome::Done`], also if nobody has taken it.
    RemovalFailed(Key),
    /// What has run out is removed: blobs by retention, uploads that did not go on, parts; and what an event of the relay has
    /// begun to remove goes on. A bounded number at once: [`Outcome::Swept`] with the time of the next sweep, which is now if
    /// there is more. Removals that wait are not among it, but those that were taken and not reported for 15 minutes are.
    Sweep,
    /// All pending uploads belong to a process that is gone and are aborted, those in parts but for what was stored; removals
    /// that were taken are queued again. [`Outcome::Done`].
    Restart,
    /// Whether bytes with this key belong to something: [`Outcome::Accepted`] or [`Outcome::Missing`].
    IsKnown(Key),
    /// The store has these keys, of which none is of an upload that has just begun: bytes that belong to nothing are removed
    /// ([`Outcome::Unknown`]). Keys that are none of this index are left alone. If more than half of the hashes are unknown, the
    /// index may be the one that is wrong, new or restored: then no blob is removed unless an administrator asks for it.
    RemoveUnknown {
        /// At most a thousand.
        keys: Vec<Key>,
        /// Whether an administrator asks for it.
        is_asked: bool,
    },
    /// A blob with all that is known: [`Outcome::Info`] or [`Outcome::Missing`].
    Stat(Sha256),
    /// Removes and refuses a blob, as an administrator's [`Command::Delete`]: [`Outcome::Done`].
    Ban {
        /// The blob.
        sha256: Sha256,
        /// Why.
        reason: String,
    },
    /// Lifts a ban: [`Outcome::Done`] or [`Outcome::Missing`].
    Unban(Sha256),
    /// Bans, newest first: [`Outcome::Bans`].
    Bans {
        /// Most of them.
        limit: u32,
    },
    /// Reports, newest first: [`Outcome::Reports`].
    Reports {
        /// Most of them.
        limit: u32,
    },
    /// [`Outcome::Totals`].
    Totals,
}

impl Command {
    /// Whether it only reads tables, so that another connection to the same database may answer it. What is pending is also in
    /// the memory of the index that writes.
    pub fn is_read(&self) -> bool {
        matches!(
            self,
            Command::Get(_)
                | Command::IsOwner { .. }
                | Command::List { .. }
                | Command::Stat(_)
                | Command::Bans { .. }
                | Command::Reports { .. }
        )
    }

    /// Whether bytes may wait to be removed after it.
    pub fn may_remove(&self) -> bool {
        matches!(
            self,
            Command::SetHash { .. }
                | Command::Finish(_)
                | Command::Abort { .. }
                | Command::AbortPull { .. }
                | Command::BeginPart(..)
                | Command::FinishPart { .. }
                | Command::AbortPart { .. }
                | Command::AbortParts { .. }
                | Command::Delete { .. }
                | Command::Apply(..)
                | Command::Sweep
                | Command::Restart
                | Command::Ban { .. }
                | Command::RemoveUnknown { .. }
        )
    }

    /// The key of the bytes that are not to be there any more when its sender is answered, unless they are live.
    pub fn removes(&self) -> Option<Key> {
        match self {
            Command::Finish(Commit { sha256, .. })
            | Command::Delete { sha256, .. }
            | Command::Ban { sha256, .. } => Some(sha256.to_string()),
            _ => None,
        }
    }
}

/// A key of the store of bytes: a hash, `staged/...` or `parts/...`.
pub type Key = String;

/// A blob that somebody wants to upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The uploader's public key in hexadecimal.
    pub owner: String,
    /// The hash, if it is known.
    pub sha256: Option<Sha256>,
    /// The size in bytes, as far as it is known: it counts for quotas.
    pub size: u64,
    /// The MIME type that was declared.
    pub mime: String,
    /// Quota of the owner in bytes.
    pub key_bytes_max: Option<u64>,
    /// Quota of all in bytes.
    pub total_bytes_max: Option<u64>,
    /// When the upload counts as abandoned, in Unix seconds.
    pub abandoned_at: u64,
    /// Until when a blob that is here already is to be kept, in Unix seconds; `None`: for ever. It is kept so long if that is longer
    /// than it is now, by more than a little. With rules in [`Wanted::retention`] these decide instead. How long a new blob is
    /// kept [`Commit::expires_at`] says.
    #[serde(default)]
    pub expires_at: Option<u64>,
    /// For how many seconds without a download it is to be kept; likewise.
    #[serde(default)]
    pub unused_seconds: Option<u64>,
    /// The retention rules. A blob that is here already is kept as the first rule says that fits its own type and size, whatever this
    /// upload declares, and for ever if none does. If the hash was not known when the upload began, rules do not prolong its life.
    #[serde(default)]
    pub retention: Vec<RetentionRule>,
    /// The upload costs something, unless the blob is here and not owned by the relay alone. It does not prolong the life of a blob that is here.
    #[serde(default)]
    pub must_be_paid: bool,
    /// The owner pays for uploads. So an upload whose stated size is smaller than the blob's, and may be free, does not prolong the blob's life.
    #[serde(default)]
    pub owner_pays: bool,
    /// The proof of payment of a part that must be paid. It was checked, and is kept until the upload ends.
    #[serde(default)]
    pub proof: Option<String>,
}

/// The bytes of an upload are stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The upload.
    pub upload: u64,
    /// The hash, under which the bytes are stored.
    pub sha256: Sha256,
    /// The size in bytes.
    pub size: u64,
    /// The MIME type.
    pub mime: String,
    /// When it was uploaded, in Unix seconds, if the store says so; now, if it does not or says a later time.
    #[serde(default)]
    pub uploaded: Option<u64>,
    /// When retention removes it, in Unix seconds; if the blob is here meanwhile, as in [`Wanted::expires_at`].
    pub expires_at: Option<u64>,
    /// Retention removes it after as many seconds without a download; likewise.
    #[serde(default)]
    pub unused_seconds: Option<u64>,
    /// The retention rules, for a blob that is here meanwhile.
    #[serde(default)]
    pub retention: Vec<RetentionRule>,
    /// What `/media` has found out.
    pub media: Option<Media>,
    /// Nothing was paid because the blob was here: [`Refusal::Unpaid`] if it is gone now.
    #[serde(default)]
    pub is_unpaid: bool,
}

/// Where a part belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartHead {
    /// Byte offset in the blob.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// Bytes of a stored part that belong into the blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Where they are stored.
    pub key: Key,
    /// Bytes to skip, which an earlier part has.
    pub skip: u64,
    /// Bytes to take.
    pub take: u64,
}

/// An event of the relay, or a report, with a verified signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayEvent {
    /// Its id in hexadecimal.
    pub id: String,
    /// Its author in hexadecimal.
    pub pubkey: String,
    /// Its kind.
    pub kind: u16,
    /// Its time.
    pub created_at: u64,
    /// Its tags.
    pub tags: Vec<Vec<String>>,
    /// Its content.
    pub content: String,
}

/// An answer of the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The blob.
    Blob(Blob),
    /// There is no such blob.
    Missing,
    /// It would be accepted; the part is accepted.
    Accepted,
    /// The upload may send its bytes.
    Begun {
        /// Its number.
        upload: u64,
        /// Where they are stored.
        key: Key,
    },
    /// The blob exists; the uploader is one of its owners.
    Exists(Blob),
    /// The blob exists, and others own it. An uploader who sends its bytes becomes an owner: they are hashed and not
    /// stored, then [`Command::Finish`] or [`Command::Abort`] follows.
    OwnedByOthers {
        /// The upload's number.
        upload: u64,
        /// It must be paid nevertheless, for only the relay owns the blob.
        #[serde(default)]
        is_sold: bool,
    },
    /// Its bytes are being removed: repeat the command soon.
    Busy,
    /// The relay is fetching it for another request: ask again soon.
    Pulling,
    /// It is refused.
    Refused(Refusal),
    /// The blob is new.
    Stored(Blob),
    /// All parts are there; they are to be joined.
    Complete {
        /// The upload.
        upload: u64,
        /// Where the blob is to be stored.
        key: Key,
        /// In order.
        parts: Vec<Part>,
        /// The blob exists: the parts are hashed and not stored.
        blob_exists: bool,
        /// The proof with which the upload is paid ([`Wanted::proof`]), unless others than the relay own the blob.
        #[serde(default)]
        payment: Option<String>,
    },
    /// The owner is removed, and the blob with its last owner.
    Deleted,
    /// Blobs.
    Blobs(Vec<Blob>),
    /// Done.
    Done,
    /// The last sequence number dealt with.
    Position(Option<u64>),
    /// Bytes to remove, if any.
    Removal(Option<Key>),
    /// Bytes to remove.
    Removals(Vec<Key>),
    /// How many keys are unknown and will be removed, and how many hashes are unknown and are left.
    Unknown {
        /// Removed.
        removed: u64,
        /// Left.
        left: u64,
    },
    /// The time of the next sweep, in Unix seconds, if anything will expire.
    Swept(Option<u64>),
    /// A blob with all that is known.
    Info(Box<BlobInfo>),
    /// Hashes, reasons and times.
    Bans(Vec<(Sha256, String, u64)>),
    /// Reports.
    Reports(Vec<ReportRow>),
    /// Counts.
    Totals(Totals),
}

/// Why the index refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The hash is banned.
    Banned,
    /// The owner has no room left.
    KeyQuota,
    /// The relay has no room left.
    TotalQuota,
    /// The uploader has too many uploads (1,024), uploads in parts (16) or parts (10,000) under way, or the parts of the upload
    /// have more than twice its bytes.
    TooMany,
    /// The blob belongs to others.
    NotOwner,
    /// The upload is not known, or was aborted.
    Gone,
    /// Parts of this upload declared another length, or this part does not lie within it.
    OtherLength,
    /// It must be paid, and is not.
    Unpaid,
}

/// A blob with all that is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobInfo {
    /// The blob, if it is here.
    pub blob: Option<Blob>,
    /// Public keys of its owners in hexadecimal.
    pub owners: Vec<String>,
    /// Ids of events of kind 1063 that describe it.
    pub events: Vec<String>,
    /// Reports.
    pub reports: Vec<ReportRow>,
    /// Why it is banned.
    pub banned: Option<String>,
    /// When it was last downloaded, in Unix seconds, if that is kept.
    pub last_access: Option<u64>,
}

/// A report of a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportRow {
    /// The blob.
    pub sha256: Sha256,
    /// NIP-56's type.
    pub category: String,
    /// Who reports it, in hexadecimal.
    pub reporter: String,
    /// The event's id.
    pub event: String,
    /// What they say.
    pub content: String,
    /// When, in Unix seconds.
    pub at: u64,
}

/// What is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Owners.
    pub owners: u64,
    /// Uploads under way.
    pub uploads: u64,
    /// Removals that wait.
    pub removals: u64,
    /// Bans.
    pub bans: u64,
    /// Reports.
    pub reports: u64,
}
