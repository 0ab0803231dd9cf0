//! Where the bytes of blobs are: a folder or a bucket (`object_store`). A blob is visible under its key only when all of its
//! bytes are there, have the right hash, and are on the disk.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path as FilePath;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use hyper::body::Bytes;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, GetResultPayload, MultipartUpload, ObjectStore, ObjectStoreExt as _, PutPayload,
};
use relay_blossom::Sha256;
use relay_blossom::exchange::{Receive, Received, StepError};
use sha2::Digest as _;

/// Bytes that are written to a file at a time.
const FILE_PIECE: usize = 256 << 10;
/// Bytes of a part of an upload to a bucket. Buckets take no smaller ones but the last, and R2 wants all to be alike.
const BUCKET_PIECE: usize = 5 << 20;
/// Bytes that are read at a time.
pub(super) const READ_PIECE: u64 = 256 << 10;
/// What is left free of a disk: a twentieth of it, and at most a gigabyte.
const FLOOR_SHARE: u64 = 20;
const FLOOR_BYTES_MAX: u64 = 1 << 30;
/// First bytes that are kept to sniff the type.
const FIRST_BYTES: usize = 4_096;
/// Bytes that are hashed sooner than they are handed to another thread.
const HASHED_HERE: usize = 16 << 10;

/// A store of bytes.
#[derive(Clone)]
pub(super) struct BlobStore {
    store: Arc<dyn ObjectStore>,
    piece: usize,
    /// Parts that are sent at a time.
    concurrency: usize,
    /// The folder; without it, it is a bucket, in which others may have keys too.
    folder: Option<Arc<FilePath>>,
}

impl BlobStore {
    /// A folder, which is made if it is not there.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(super) fn folder(folder: &FilePath) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let store = LocalFileSystem::new_with_prefix(folder).map_err(io::Error::other)?.with_fsync(true);
        Ok(BlobStore {
            store: Arc::new(store),
            piece: FILE_PIECE,
            concurrency: 1,
            folder: Some(folder.into()),
        })
    }

    /// A bucket.
    pub(super) fn bucket(store: Arc<dyn ObjectStore>) -> Self {
        BlobStore { store, piece: BUCKET_PIECE, concurrency: 2, folder: None }
    }

    /// How many uploads may be taken at a time, by the memory and the open files that each needs.
    pub(super) fn uploads_max(&self) -> usize {
        if self.folder.is_some() { 256 } else { 16 }
    }

    /// The folder, if bytes are in one.
    pub(super) fn own_folder(&self) -> Option<&FilePath> {
        self.folder.as_deref()
    }

    /// Whether the folder has blobs in it, or has had some.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn has_any(&self) -> io::Result<bool> {
        let Some(folder) = &self.folder else { return Ok(false) };
        // Blobs are in folders by the first two digits of their hash.
        for entry in folder.read_dir()? {
            let name = entry?.file_name();
            if name.len() == 2 && name.to_string_lossy().bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether so many more bytes leave some of the disk free: events and deletions need it too.
    ///
    /// # Errors
    /// [`StepError::Full`].
    pub(super) fn check_room(&self, bytes: u64) -> Result<(), StepError> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let Ok(disk) = rustix::fs::statvfs(&**folder) else { return Ok(()) };
        let floor = (disk.f_blocks.saturating_mul(disk.f_frsize) / FLOOR_SHARE).min(FLOOR_BYTES_MAX);
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < floor.saturating_add(bytes) { Err(StepError::Full) } else { Ok(()) }
    }

    /// Begins to store bytes, or only to hash them. Nothing is sent before there is a piece of them.
    pub(super) fn begin(&self, receive: &Receive) -> Writing {
        Writing {
            bodies: self.clone(),
            path: path(&receive.key),
            only_hash: receive.only_hash,
            upload: None,
            buffer: Vec::new(),
            last: Bytes::new(),
            sending: Vec::new(),
            hash: Hash::Here(sha2::Sha256::new()),
            size: 0,
            first: Vec::new(),
        }
    }

    /// The bytes of a key, or a range of them, in pieces.
    ///
    /// # Errors
    /// If they are not there, or the store fails.
    pub(super) async fn read(&self, key: &str, range: Range<u64>) -> Result<Reading, StepError> {
        if range.is_empty() {
            return Ok(Reading::Done);
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
        let found = self.store.get_opts(&path(key), options).await.map_err(failure)?;
        if found.range != range {
            return Err(StepError::Store(format!("{key} is shorter than the index says")));
        }
        Ok(match found.payload {
            GetResultPayload::File(file, _) => Reading::File(Arc::new(file), range),
            GetResultPayload::Stream(stream) => Reading::Stream(stream),
        })
    }

    /// The bytes of a key, or a range of them, in memory.
    ///
    /// # Errors
    /// As [`BlobStore::read`].
    pub(super) async fn read_whole(&self, key: &str, range: Range<u64>) -> Result<Bytes, StepError> {
        let Some(folder) = &self.folder else {
            let bytes = self.store.get_range(&path(key), range.clone()).await.map_err(failure)?;
            return match bytes.len() as u64 == range.end - range.start {
                true => Ok(bytes),
                false => Err(StepError::Store(format!("{key} is shorter than the index says"))),
            };
        };
        // Opened and read by one task, where the store would take two.
        let file = folder.join(path(key).as_ref());
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            File::open(file)?.read_exact_at(&mut bytes, range.start).map(|()| Bytes::from(bytes))
        });
        let read = read.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        read.map_err(|error| StepError::Store(error.to_string()))
    }

    /// Gives bytes another key.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) async fn rename(&self, from: &str, to: &str) -> Result<(), StepError> {
        self.store.rename(&path(from), &path(to)).await.map_err(failure)
    }

    /// Removes bytes, if they are there.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) async fn remove(&self, key: &str) -> Result<(), StepError> {
        let path = path(key);
        match self.store.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(failure(error)),
        }
        let Some(folder) = self.folder.clone() else { return Ok(()) };
        // Otherwise it may be there again after power loss.
        let synced = tokio::task::spawn_blocking(move || {
            let file = folder.join(path.as_ref());
            match file.parent().map(File::open) {
                Some(Ok(parent)) => parent.sync_all(),
                Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        });
        let synced = synced.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        synced.map_err(|error| StepError::Store(error.to_string()))
    }

    /// The keys of all bytes below a prefix.
    pub(super) fn keys(&self, prefix: &str) -> BoxStream<'static, Result<String, StepError>> {
        let prefix = (!prefix.is_empty()).then(|| Path::from(prefix));
        let found = self.store.list(prefix.as_ref());
        found.map(|object| object.map(|object| key(&object.location)).map_err(failure)).boxed()
    }
}

/// The path of a key: blobs are in folders by the first digits of their hash.
fn path(key: &str) -> Path {
    match key.get(..2) {
        Some(folder) if !key.contains('/') => Path::from(format!("{folder}/{key}")),
        _ => Path::from(key),
    }
}

/// The key of a path.
fn key(path: &Path) -> String {
    let text = path.as_ref();
    match text.split_once('/') {
        Some((folder, name)) if folder.len() == 2 && name.starts_with(folder) => name.to_owned(),
        _ => text.to_owned(),
    }
}

fn failure(error: object_store::Error) -> StepError {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = next {
        let is_full = cause.downcast_ref::<io::Error>().is_some_and(|error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        });
        if is_full {
            return StepError::Full;
        }
        next = cause.source();
    }
    StepError::Store(error.to_string())
}

/// Bytes on their way into the store. Dropped, it leaves nothing in a folder; in a bucket, what a process that was killed has
/// left is removed by the bucket's life-cycle rule for incomplete uploads.
pub(super) struct Writing {
    bodies: BlobStore,
    path: Path,
    /// Nothing is stored.
    only_hash: bool,
    /// Once there is more than a piece.
    upload: Option<Box<dyn MultipartUpload>>,
    buffer: Vec<u8>,
    /// What is left of it when all have come.
    last: Bytes,
    sending: Vec<tokio::task::JoinHandle<object_store::Result<()>>>,
    hash: Hash,
    size: u64,
    first: Vec<u8>,
}

/// The hash of the pieces that were sent.
enum Hash {
    Here(sha2::Sha256),
    /// The last piece is being hashed, on a thread that may block.
    Away(tokio::task::JoinHandle<sha2::Sha256>),
}

impl Hash {
    /// When all pieces are hashed.
    async fn take(&mut self) -> Result<sha2::Sha256, StepError> {
        match std::mem::replace(self, Hash::Here(sha2::Sha256::new())) {
            Hash::Here(hash) => Ok(hash),
            Hash::Away(task) => task.await.map_err(|error| StepError::Store(error.to_string())),
        }
    }

    /// Goes on with these bytes: elsewhere, unless they are few.
    async fn update(&mut self, bytes: Bytes) -> Result<(), StepError> {
        let mut hash = self.take().await?;
        let is_short = bytes.len() <= HASHED_HERE;
        let work = move || {
            hash.update(&bytes);
            hash
        };
        *self = match is_short {
            true => Hash::Here(work()),
            false => Hash::Away(tokio::task::spawn_blocking(work)),
        };
        Ok(())
    }
}

impl Writing {
    /// How many bytes have come.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The next bytes.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), StepError> {
        self.size += bytes.len() as u64;
        if self.first.len() < FIRST_BYTES {
            let room = FIRST_BYTES - self.first.len();
            self.first.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.buffer.len() == self.bodies.piece {
                self.send().await?;
            }
            let (now, later) = rest.split_at(rest.len().min(self.bodies.piece - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            rest = later;
        }
        Ok(())
    }

    /// Sends what there is as a part, while it is hashed.
    async fn send(&mut self) -> Result<(), StepError> {
        let full = Bytes::from(std::mem::replace(&mut self.buffer, Vec::with_capacity(self.bodies.piece)));
        self.hash.update(full.clone()).await?;
        if self.only_hash {
            return Ok(());
        }
        self.send_part(PutPayload::from(full)).await
    }

    async fn send_part(&mut self, part: PutPayload) -> Result<(), StepError> {
        while self.sending.len() >= self.bodies.concurrency {
            joined(self.sending.remove(0).await)?;
        }
        let upload = match &mut self.upload {
            Some(upload) => upload,
            none => none.insert(self.bodies.store.put_multipart(&self.path).await.map_err(failure)?),
        };
        self.sending.push(tokio::spawn(upload.put_part(part)));
        Ok(())
    }

    /// All bytes have come. They become visible if they have this hash, durably.
    ///
    /// # Errors
    /// [`StepError::WrongHash`], or if the store fails. Then nothing is stored.
    pub(super) async fn finish(mut self, sha256: Option<Sha256>) -> Result<Received, StepError> {
        let found = match self.hash_all().await {
            Ok(found) => found,
            Err(error) => {
                self.abort().await;
                return Err(error);
            }
        };
        if sha256.is_some_and(|wanted| wanted != found) {
            self.abort().await;
            return Err(StepError::WrongHash);
        }
        let done = if self.only_hash { Ok(()) } else { self.complete().await };
        match done {
            Ok(()) => Ok(Received {
                sha256: found,
                size: self.size,
                first: self.first.into(),
                mime: None,
                kept_mime: None,
                uploaded: None,
            }),
            Err(error) => {
                self.abort().await;
                Err(error)
            }
        }
    }

    /// The hash of all bytes, the last of which are still to be sent.
    async fn hash_all(&mut self) -> Result<Sha256, StepError> {
        self.last = Bytes::from(std::mem::take(&mut self.buffer));
        self.hash.update(self.last.clone()).await?;
        Ok(Sha256(self.hash.take().await?.finalize().into()))
    }

    async fn complete(&mut self) -> Result<(), StepError> {
        let last = PutPayload::from(std::mem::take(&mut self.last));
        if self.upload.is_none() {
            return self.bodies.store.put(&self.path, last).await.map(drop).map_err(failure);
        }
        if last.content_length() > 0 {
            self.send_part(last).await?;
        }
        for sent in self.sending.drain(..) {
            joined(sent.await)?;
        }
        match &mut self.upload {
            Some(upload) => upload.complete().await.map(drop).map_err(failure),
            None => Ok(()),
        }
    }

    /// Nothing of it is kept.
    pub(super) async fn abort(&mut self) {
        for sent in self.sending.drain(..) {
            let _ = sent.await;
        }
        if let Some(upload) = &mut self.upload
            && let Err(error) = upload.abort().await
        {
            tracing::debug!(%error, "an upload that was given up is not removed");
        }
    }
}

fn joined(sent: Result<object_store::Result<()>, tokio::task::JoinError>) -> Result<(), StepError> {
    match sent {
        Ok(sent) => sent.map_err(failure),
        Err(error) => Err(StepError::Store(error.to_string())),
    }
}

/// Stored bytes that are read.
pub(crate) enum Reading {
    /// From a file, the rest of this range.
    File(Arc<File>, Range<u64>),
    /// From a bucket.
    Stream(BoxStream<'static, object_store::Result<Bytes>>),
    /// Nothing is left.
    Done,
}

impl Reading {
    /// The next piece, which is not empty; `None` at the end.
    ///
    /// # Errors
    /// If the store fails, or the bytes end early.
    pub(crate) async fn next(&mut self) -> Option<io::Result<Bytes>> {
        match self {
            Reading::Done => None,
            Reading::Stream(stream) => Some(stream.next().await?.map_err(io::Error::other)),
            Reading::File(file, range) => {
                if range.is_empty() {
                    return None;
                }
                let piece = range.start..range.end.min(range.start + READ_PIECE);
                range.start = piece.end;
                let file = Arc::clone(file);
                let read = tokio::task::spawn_blocking(move || {
                    let mut bytes = vec![0; (piece.end - piece.start) as usize];
                    file.read_exact_at(&mut bytes, piece.start).map(|()| Bytes::from(bytes))
                });
                Some(read.await.unwrap_or_else(|error| Err(io::Error::other(error))))
            }
        }
    }
}
