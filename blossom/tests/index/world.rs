//! An index with a clock, and short ways to ask it.

use relay_blossom::blob::Media;
use relay_blossom::index::{Commit, Key, Part, PartHead, Refusal, RelayEvent, Totals, Wanted};
use relay_blossom::testing::Sqlite;
use relay_blossom::{Blob, Command, Index, Outcome, Sha256};

pub(crate) const START: u64 = 1_800_000_000;

pub(crate) struct World {
    pub(crate) sqlite: Sqlite,
    pub(crate) index: Index<Sqlite>,
    pub(crate) now: u64,
}

/// The `n`th public key.
pub(crate) fn key(n: u8) -> String {
    format!("{n:064x}")
}

/// The `n`th hash.
pub(crate) fn sha(n: u32) -> Sha256 {
    format!("{n:08x}").repeat(8).parse().unwrap()
}

/// What owner `owner` wants to upload: `size` bytes with the `n`th hash.
pub(crate) fn wanted(owner: u8, n: u32, size: u64) -> Wanted {
    Wanted {
        owner: key(owner),
        sha256: Some(sha(n)),
        size,
        mime: "text/plain".to_owned(),
        key_bytes_max: None,
        total_bytes_max: None,
        abandoned_at: START + 100_000,
        expires_at: None,
        unused_seconds: None,
        retention: Vec::new(),
        must_be_paid: false,
        owner_pays: false,
        proof: None,
    }
}

/// The same with an unknown hash.
pub(crate) fn unknown(owner: u8, size: u64) -> Wanted {
    Wanted { sha256: None, ..wanted(owner, 0, size) }
}

pub(crate) fn commit(upload: u64, n: u32, size: u64) -> Commit {
    Commit {
        upload,
        sha256: sha(n),
        size,
        mime: "text/plain".to_owned(),
        uploaded: None,
        expires_at: None,
        unused_seconds: None,
        retention: Vec::new(),
        media: None,
        is_unpaid: false,
    }
}

/// A picture, whose thumbnail has the `thumbnail`th hash.
pub(crate) fn picture(upload: u64, n: u32, thumbnail: u32) -> Commit {
    let media = Media { original: sha(0), dim: None, blurhash: None, thumbnail: Some(sha(thumbnail)) };
    Commit { media: Some(media), mime: "image/jpeg".to_owned(), ..commit(upload, n, 10) }
}

/// An event of author `author`.
pub(crate) fn event(author: u8, kind: u16, created_at: u64, tags: &[&[&str]]) -> RelayEvent {
    let tags = tags.iter().map(|tag| tag.iter().map(|s| (*s).to_owned()).collect()).collect();
    let id = format!("{:064x}", u64::from(author) << 40 | u64::from(kind) << 20 | (created_at % 1_000_000));
    RelayEvent { id, pubkey: key(author), kind, created_at, tags, content: String::new() }
}

impl World {
    pub(crate) fn new() -> Self {
        let sqlite = Sqlite::new();
        World { index: Index::open(sqlite.clone()).unwrap(), sqlite, now: START }
    }

    /// The process ends, and another one opens the tables.
    pub(crate) fn reopen(&mut self) {
        self.index = Index::open(self.sqlite.clone()).unwrap();
    }

    pub(crate) fn run(&mut self, command: Command) -> Outcome {
        self.index.run(self.now, command).unwrap()
    }

    #[track_caller]
    pub(crate) fn check(&mut self, command: Command, expected: &Outcome) {
        assert_eq!(self.run(command.clone()), *expected, "{command:?}");
    }

    #[track_caller]
    pub(crate) fn refused(&mut self, command: Command, refusal: Refusal) {
        self.check(command, &Outcome::Refused(refusal));
    }

    /// An upload that begins.
    #[track_caller]
    pub(crate) fn begin(&mut self, wanted: Wanted) -> (u64, Key) {
        match self.run(Command::Begin(wanted.clone())) {
            Outcome::Begun { upload, key } => (upload, key),
            other => panic!("{wanted:?}: {other:?}"),
        }
    }

    /// An upload of a blob that others own.
    #[track_caller]
    pub(crate) fn begin_here(&mut self, wanted: Wanted) -> u64 {
        match self.run(Command::Begin(wanted.clone())) {
            Outcome::OwnedByOthers { upload, .. } => upload,
            other => panic!("{wanted:?}: {other:?}"),
        }
    }

    /// A whole upload; the blob is new or not.
    #[track_caller]
    pub(crate) fn upload(&mut self, wanted: Wanted) -> Blob {
        let upload = match self.run(Command::Begin(wanted.clone())) {
            Outcome::Begun { upload, .. } | Outcome::OwnedByOthers { upload, .. } => upload,
            Outcome::Exists(blob) => return blob,
            other => panic!("{wanted:?}: {other:?}"),
        };
        let commit = Commit {
            upload,
            sha256: wanted.sha256.unwrap(),
            size: wanted.size,
            mime: wanted.mime,
            uploaded: None,
            expires_at: wanted.expires_at,
            unused_seconds: wanted.unused_seconds,
            retention: Vec::new(),
            media: None,
            is_unpaid: false,
        };
        match self.run(Command::Finish(commit)) {
            Outcome::Stored(blob) | Outcome::Exists(blob) => blob,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn delete(&mut self, owner: u8, n: u32) -> Outcome {
        self.run(Command::Delete { sha256: sha(n), owner: Some(key(owner)) })
    }

    pub(crate) fn is_live(&mut self, n: u32) -> bool {
        matches!(self.run(Command::Get(sha(n))), Outcome::Blob(_))
    }

    /// All removals that wait are carried out.
    pub(crate) fn remove_all(&mut self) -> Vec<Key> {
        let mut removed = Vec::new();
        while let Outcome::Removal(Some(key)) = self.run(Command::TakeRemoval) {
            self.check(Command::Removed(key.clone()), &Outcome::Done);
            removed.push(key);
        }
        removed
    }

    /// Hashes of a list, as numbers.
    #[track_caller]
    pub(crate) fn list(&mut self, owner: Option<u8>, cursor: Option<u32>, limit: u32) -> Vec<Sha256> {
        let command =
            Command::List { owner: owner.map(key), cursor: cursor.map(sha), limit, since: None, until: None };
        match self.run(command) {
            Outcome::Blobs(blobs) => blobs.into_iter().map(|blob| blob.sha256).collect(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn totals(&mut self) -> Totals {
        match self.run(Command::Totals) {
            Outcome::Totals(totals) => totals,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn begin_part(&mut self, wanted: Wanted, offset: u64, length: u64) -> (u64, Key) {
        match self.run(Command::BeginPart(wanted, PartHead { offset, length })) {
            Outcome::Begun { upload, key } => (upload, key),
            other => panic!("{offset} {length}: {other:?}"),
        }
    }

    /// A whole part; what is to be joined, if all are there. Of one that need not come the number of its upload is 0.
    #[track_caller]
    pub(crate) fn part(&mut self, wanted: Wanted, offset: u64, length: u64) -> (u64, Option<Vec<Part>>) {
        let (upload, key) = match self.run(Command::BeginPart(wanted, PartHead { offset, length })) {
            Outcome::Begun { upload, key } => (upload, key),
            Outcome::Accepted => return (0, None),
            Outcome::Complete { upload, parts, .. } => return (upload, Some(parts)),
            other => panic!("{offset} {length}: {other:?}"),
        };
        match self.run(Command::FinishPart { upload, key }) {
            Outcome::Accepted => (upload, None),
            Outcome::Complete { parts, .. } => (upload, Some(parts)),
            other => panic!("{other:?}"),
        }
    }
}
