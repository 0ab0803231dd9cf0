//! Bytes of blobs in the bucket. The runtime passes streams from one end to the other; what enters wasm is no more than a blob's
//! first bytes.

use std::collections::HashMap;
use std::ops::Range as Bounds;

use bytes::Bytes;
use js_sys::futures::JsFuture;
use js_sys::{Object as JsObject, Promise, Reflect};
use relay_blossom::exchange::{PlannedRead, Receive, Received, StepError, Uploader};
use relay_blossom::index::Part;
use relay_blossom::{Blob, Sha256, mime};
use sha2::{Digest as _, Sha256 as Hasher};
use wasm_bindgen::prelude::*;
use worker::crypto::{DigestStream, DigestStreamAlgorithm};
use worker::web_sys::ReadableStream;
use worker::{
    AbortController, AbortSignal, Bucket, Conditional, Data, Env, Error, HttpMetadata, Object, Range,
    ResponseBody, Result as WorkerResult,
};

use crate::worker::blossom_object::BLOBS;

/// First bytes of a blob of unknown hash, from which its type is told.
const FIRST_BYTES: u64 = 4_096;
/// What the keys of parts begin with.
const PARTS: &str = "parts/";
/// What the runtime says of a body, or of the bucket, whose connection is gone.
const LOST: &str = "Network connection lost";
/// Names of what is kept with an object.
const EXPIRES: &str = "expires";
const MEDIA: &str = "media";
const UPLOADED: &str = "uploaded";
/// Largest integer of JavaScript that a range may name.
const INTEGER_MAX: u64 = (1 << 53) - 1;

#[wasm_bindgen]
extern "C" {
    type Stream;

    #[wasm_bindgen(method, catch, js_name = pipeTo)]
    fn pipe_to(this: &Stream, to: &JsValue, options: &JsValue) -> Result<Promise, JsValue>;

    type FixedLengthStream;

    #[wasm_bindgen(constructor, catch)]
    fn new(length: f64) -> Result<FixedLengthStream, JsValue>;

    #[wasm_bindgen(method, getter)]
    fn readable(this: &FixedLengthStream) -> ReadableStream;

    #[wasm_bindgen(method, getter)]
    fn writable(this: &FixedLengthStream) -> Writable;

    #[wasm_bindgen(js_name = WritableStream)]
    type Sink;

    #[wasm_bindgen(constructor, js_class = "WritableStream", catch)]
    fn new() -> Result<Sink, JsValue>;

    #[derive(Clone)]
    type Writable;

    #[wasm_bindgen(method, catch)]
    fn close(this: &Writable) -> Result<Promise, JsValue>;

    #[wasm_bindgen(method, catch)]
    fn abort(this: &Writable, reason: &str) -> Result<Promise, JsValue>;
}

/// The bucket of blobs.
pub(super) struct BlobStore(Bucket);

/// What came of a put.
enum Put {
    Stored(Received),
    /// Others' bytes were there already.
    Kept(Received),
}

pub(super) fn failed(error: Error) -> StepError {
    StepError::Store(error.to_string())
}

fn thrown(error: JsValue) -> StepError {
    failed(error.into())
}

impl BlobStore {
    pub(super) fn new(env: &Env) -> WorkerResult<Self> {
        env.bucket(BLOBS).map(BlobStore)
    }

    /// The object of a blob, and which bytes of it come with it. One operation; one more if the range does not lie within the blob.
    pub(super) async fn find(
        &self,
        sha256: &Sha256,
        planned: PlannedRead,
    ) -> Result<Option<(Object, Bounds<u64>)>, StepError> {
        let key = sha256.to_string();
        let range = match planned {
            PlannedRead::Nothing => return self.head(key).await,
            PlannedRead::From(first, _) if first > INTEGER_MAX => return self.head(key).await,
            PlannedRead::Whole => None,
            PlannedRead::From(first, Some(last)) if last < INTEGER_MAX => {
                Some(Range::OffsetWithLength { offset: first, length: last - first + 1 })
            }
            PlannedRead::From(offset, _) => Some(Range::OffsetToEnd { offset }),
            PlannedRead::Last(suffix) => Some(Range::Suffix { suffix: suffix.min(INTEGER_MAX) }),
        };
        let get = self.0.get(&key);
        let object = match range {
            None => get.execute().await.map_err(failed)?,
            Some(range) => match get.range(range).execute().await {
                Ok(object) => object,
                // It begins past the end, or the blob is empty, of which R2 and workerd make several errors. If the bucket is broken, this
                // fails too.
                Err(_) => return self.head(key).await,
            },
        };
        // The bucket cuts a range at the end of the object. Which one it has sent, the crate `worker` cannot read without a panic.
        Ok(object.map(|object| {
            let size = object.size();
            let bytes = match planned {
                PlannedRead::From(first, last) => {
                    first..last.map_or(size, |last| last.saturating_add(1).min(size))
                }
                PlannedRead::Last(count) => size.saturating_sub(count)..size,
                PlannedRead::Nothing | PlannedRead::Whole => 0..size,
            };
            (object, bytes)
        }))
    }

    async fn head(&self, key: String) -> Result<Option<(Object, Bounds<u64>)>, StepError> {
        Ok(self.0.head(key).await.map_err(failed)?.map(|object| (object, 0..0)))
    }

    /// Stores bytes; the bucket checks their hash, if it is known. One operation, and two more if it is not; none if they are only
    /// hashed. Of a known hash it overwrites nothing: a blob that is live stays as it is, with its type and expiry, whoever uploads
    /// it meanwhile. Then it is one operation more.
    ///
    /// # Errors
    /// [`StepError::Raced`] if it overwrites nothing.
    pub(super) async fn store(&self, data: Data, receive: &Receive) -> Result<Received, StepError> {
        match self.put(data, receive).await? {
            Put::Stored(received) => Ok(received),
            // Cloudflare does not say whether R2 looks at the hash before the condition (workerd's simulation does), or whether it reads the
            // body at all. So nothing is known of these bytes.
            Put::Kept(_) => Err(StepError::Raced),
        }
    }

    /// The same of bytes that have this hash, as is known already: it has not failed if it overwrites nothing.
    pub(super) async fn store_checked(&self, data: Data, receive: &Receive) -> Result<Received, StepError> {
        match self.put(data, receive).await? {
            Put::Stored(received) | Put::Kept(received) => Ok(received),
        }
    }

    async fn put(&self, data: Data, receive: &Receive) -> Result<Put, StepError> {
        if receive.only_hash {
            return only_hash(data, receive).await.map(Put::Stored);
        }
        let mut put = self.0.put(&receive.key, data).http_metadata(http_metadata(&receive.mime));
        let further = further_metadata(receive);
        if !further.is_empty() {
            put = put.custom_metadata(further);
        }
        if let Some(sha256) = &receive.sha256 {
            let is_new = Conditional { etag_does_not_match: Some("*".to_owned()), ..Conditional::default() };
            put = put.sha256(sha256.0.to_vec()).only_if(is_new);
        }
        let stored = put.execute().await.map_err(put_failure)?;
        let (object, is_kept) = match stored {
            Some(object) => (object, false),
            // Bytes are there, with this hash: the bucket has checked it when they came.
            None => {
                let there = self.0.head(&receive.key).await.map_err(failed)?;
                (there.ok_or_else(|| StepError::Store("not stored".into()))?, true)
            }
        };
        let size = object.size();
        if receive.length.is_some_and(|length| length != size) {
            return Err(StepError::Incomplete);
        }
        let (sha256, first) = match receive.sha256 {
            Some(sha256) => (sha256, Bytes::new()),
            // Nobody asks for the hash of a part; that of the joined blob is checked.
            None if receive.key.starts_with(PARTS) => (Sha256([0; 32]), Bytes::new()),
            None => self.digest(&receive.key, size).await?,
        };
        let kept_mime = is_kept.then(|| mime_of(&object));
        let received =
            Received { sha256, size, first, mime: None, kept_mime, uploaded: Some(uploaded(&object)) };
        Ok(if is_kept { Put::Kept(received) } else { Put::Stored(received) })
    }

    /// Gives a stored blob another type: the bucket changes metadata only with the bytes, which it copies, unless they have been removed
    /// meanwhile. Two operations.
    pub(super) async fn set_type(&self, sha256: &Sha256, mime: &str) -> Result<(), StepError> {
        let key = sha256.to_string();
        let Some(object) = self.0.get(&key).execute().await.map_err(failed)? else { return Ok(()) };
        let further = object.custom_metadata().map_err(failed)?;
        self.copy_with(sha256, &object, mime, further).await
    }

    /// Keeps with a stored blob when retention removes it, if it is there. One operation; two more if that changes anything.
    pub(super) async fn keep_expiry(
        &self,
        sha256: &Sha256,
        expires_at: Option<u64>,
    ) -> Result<(), StepError> {
        let key = sha256.to_string();
        let Some(there) = self.0.head(&key).await.map_err(failed)? else { return Ok(()) };
        if expiry(&there) == expires_at {
            return Ok(());
        }
        let Some(object) = self.0.get(&key).execute().await.map_err(failed)? else { return Ok(()) };
        let mut further = object.custom_metadata().map_err(failed)?;
        match expires_at {
            Some(at) => further.insert(EXPIRES.to_owned(), at.to_string()),
            None => further.remove(EXPIRES),
        };
        self.copy_with(sha256, &object, &mime_of(&object), further).await
    }

    /// Copies an object onto itself with other metadata, unless it has been removed meanwhile.
    async fn copy_with(
        &self,
        sha256: &Sha256,
        object: &Object,
        mime: &str,
        mut further: HashMap<String, String>,
    ) -> Result<(), StepError> {
        let data = match object.size() {
            0 => Data::Empty,
            _ => Data::ReadableStream(stream_of(object)?),
        };
        further.insert(UPLOADED.to_owned(), uploaded(object).to_string());
        let is_same = Conditional { etag_matches: Some(object.etag()), ..Conditional::default() };
        let put = self.0.put(sha256.to_string(), data).http_metadata(http_metadata(mime));
        let put = put.custom_metadata(further).sha256(sha256.0.to_vec()).only_if(is_same);
        put.execute().await.map(drop).map_err(put_failure)
    }

    /// The hash of what is stored, and its first bytes.
    async fn digest(&self, key: &str, size: u64) -> Result<(Sha256, Bytes), StepError> {
        let hash = digest(self.present(key, 0, size).await?).await.map_err(failed)?;
        if size == 0 {
            return Ok((hash, Bytes::new()));
        }
        let range = Range::Prefix { length: FIRST_BYTES.min(size) };
        let first = self.0.get(key).range(range).execute().await.map_err(failed)?;
        let first = match first.as_ref().and_then(Object::body) {
            Some(body) => body.bytes().await.map_err(failed)?,
            None => Vec::new(),
        };
        Ok((hash, first.into()))
    }

    /// A stream of stored bytes, if they are there. One operation.
    pub(super) async fn read(
        &self,
        key: &str,
        offset: u64,
        length: u64,
    ) -> Result<Option<ReadableStream>, StepError> {
        let mut get = self.0.get(key);
        // A range of an empty object is an error.
        if length > 0 {
            get = get.range(Range::OffsetWithLength { offset, length });
        }
        match get.execute().await.map_err(failed)? {
            Some(object) => stream_of(&object).map(Some),
            None => Ok(None),
        }
    }

    async fn present(&self, key: &str, offset: u64, length: u64) -> Result<ReadableStream, StepError> {
        let stream = self.read(key, offset, length).await?;
        stream.ok_or_else(|| StepError::Store(format!("{key} is not there")))
    }

    /// Copies staged bytes to where they belong, and removes them. The bucket cannot rename: four operations.
    pub(super) async fn promote(
        &self,
        from: &str,
        to: &str,
        mime: &str,
        expires_at: Option<u64>,
    ) -> Result<Received, StepError> {
        let sha256: Sha256 = to.parse().map_err(|_| StepError::Store("not a hash".into()))?;
        let staged = self.0.head(from).await.map_err(failed)?;
        let size = staged.ok_or_else(|| StepError::Store(format!("{from} is not there")))?.size();
        let data = match size {
            0 => Data::Empty,
            _ => Data::ReadableStream(self.present(from, 0, size).await?),
        };
        let receive = Receive {
            key: to.to_owned(),
            only_hash: false,
            uploader: Uploader { pubkey: String::new(), is_listed: false },
            sha256: Some(sha256),
            length: Some(size),
            bytes_max: size,
            mime: mime.to_owned(),
            expires_at,
            media: None,
        };
        let stored = self.store_checked(data, &receive).await?;
        self.remove(from).await?;
        Ok(stored)
    }

    /// Pipes parts one after the other into one put, which checks the hash. An operation for each part, and one; the double if the blob
    /// has come another way meanwhile.
    pub(super) async fn join(&self, parts: &[Part], receive: &Receive) -> Result<Received, StepError> {
        match self.join_once(parts, receive).await {
            Err(StepError::Raced) => {
                self.join_once(parts, &Receive { only_hash: true, ..receive.clone() }).await
            }
            joined => joined,
        }
    }

    async fn join_once(&self, parts: &[Part], receive: &Receive) -> Result<Received, StepError> {
        let length: u64 = parts.iter().map(|part| part.take).sum();
        if length == 0 {
            return self.store(Data::Empty, receive).await;
        }
        let joined = FixedLengthStream::new(length as f64).map_err(thrown)?;
        let writable = joined.writable();
        // A put that refuses to overwrite may end before it has read anything: then nothing would end the pipe.
        let stop = AbortController::default();
        let signal = stop.signal();
        let pipe = async {
            let piped = self.pipe(parts, &writable, &signal).await;
            let ended = match &piped {
                Ok(()) => writable.close(),
                Err(_) => writable.abort("a part cannot be read"),
            };
            if let Ok(ended) = ended {
                let _ = JsFuture::from(ended).await;
            }
            piped
        };
        let put = async {
            let stored = self.store(Data::ReadableStream(joined.readable()), receive).await;
            stop.abort();
            stored
        };
        let (piped, stored) = futures_util::future::join(pipe, put).await;
        // If the hash is wrong, the pipe breaks too; the put knows why.
        match stored {
            Err(StepError::Store(error)) => Err(piped.err().unwrap_or(StepError::Store(error))),
            other => other,
        }
    }

    async fn pipe(&self, parts: &[Part], to: &Writable, signal: &AbortSignal) -> Result<(), StepError> {
        let options = JsObject::new();
        let signal: &JsValue = (**signal).as_ref();
        for (name, value) in [("preventClose", &true.into()), ("signal", signal)] {
            Reflect::set(&options, &name.into(), value).map_err(thrown)?;
        }
        for part in parts.iter().filter(|part| part.take > 0) {
            let body = self.present(&part.key, part.skip, part.take).await?;
            let piped = body.unchecked_ref::<Stream>().pipe_to(to.as_ref(), &options).map_err(thrown)?;
            JsFuture::from(piped).await.map_err(thrown)?;
        }
        Ok(())
    }

    /// Removes bytes, if they are there.
    pub(super) async fn remove(&self, key: &str) -> Result<(), StepError> {
        self.0.delete(key).await.map_err(failed)
    }
}

/// The hash of a stream, which does not enter wasm.
async fn digest(body: ReadableStream) -> WorkerResult<Sha256> {
    let digest = DigestStream::new(DigestStreamAlgorithm::Sha256);
    let to: &JsValue = digest.raw().as_ref();
    JsFuture::from(body.unchecked_ref::<Stream>().pipe_to(to, &JsValue::UNDEFINED)?).await?;
    let hash = digest.digest().await?.to_vec();
    let hash: [u8; 32] = hash.try_into().map_err(|_| Error::RustError("not a SHA-256".into()))?;
    Ok(Sha256(hash))
}

/// Reads and hashes bytes of a blob that is here.
async fn only_hash(data: Data, receive: &Receive) -> Result<Received, StepError> {
    let (sha256, size) = match data {
        // The runtime lets through as many bytes as were announced, or fails.
        Data::ReadableStream(stream) => {
            let length = receive.length.ok_or_else(|| StepError::Store("a stream without length".into()))?;
            (digest(stream).await.map_err(put_failure)?, length)
        }
        Data::Bytes(bytes) => (Sha256(Hasher::digest(&bytes).into()), bytes.len() as u64),
        _ => (Sha256(Hasher::digest([]).into()), 0),
    };
    if receive.length.is_some_and(|length| length != size) {
        return Err(StepError::Incomplete);
    }
    match receive.sha256 {
        Some(expected) if expected != sha256 => Err(StepError::WrongHash),
        _ => Ok(Received { sha256, size, first: Bytes::new(), mime: None, kept_mime: None, uploaded: None }),
    }
}

/// Reads a body that nobody wants.
pub(super) async fn discard(body: ReadableStream) {
    let sink = Sink::new();
    let piped = sink.and_then(|sink| {
        let body: &JsValue = body.as_ref();
        body.unchecked_ref::<Stream>().pipe_to(sink.as_ref(), &JsValue::UNDEFINED)
    });
    if let Ok(piped) = piped {
        // It fails if its client has left.
        let _ = JsFuture::from(piped).await;
    }
}

/// The bytes of an object that was found with them.
pub(super) fn stream_of(object: &Object) -> Result<ReadableStream, StepError> {
    let missing = || StepError::Store("an object without a body".into());
    match object.body().ok_or_else(missing)?.response_body().map_err(failed)? {
        ResponseBody::Stream(stream) => Ok(stream),
        ResponseBody::Empty | ResponseBody::Body(_) => Err(missing()),
    }
}

fn mime_of(object: &Object) -> String {
    object.http_metadata().content_type.unwrap_or_else(|| mime::UNKNOWN.to_owned())
}

/// When the bytes of an object came, in Unix seconds: its own time, unless it is a copy with another type.
fn uploaded(object: &Object) -> u64 {
    let further = object.custom_metadata().unwrap_or_default();
    let own = || object.uploaded().as_millis() / 1_000;
    further.get(UPLOADED).and_then(|at| at.parse().ok()).unwrap_or_else(own)
}

/// When retention removes a blob, in Unix seconds.
fn expiry(object: &Object) -> Option<u64> {
    object.custom_metadata().ok()?.get(EXPIRES)?.parse().ok()
}

/// What the bucket knows of a blob: the same as the index.
pub(super) fn blob_of(object: &Object, sha256: Sha256) -> Blob {
    let further = object.custom_metadata().unwrap_or_default();
    Blob {
        sha256,
        size: object.size(),
        mime: mime_of(object),
        uploaded: uploaded(object),
        expires_at: expiry(object),
        media: further.get(MEDIA).and_then(|media| serde_json::from_str(media).ok()),
    }
}

fn http_metadata(mime: &str) -> HttpMetadata {
    HttpMetadata { content_type: Some(mime.to_owned()), ..HttpMetadata::default() }
}

fn further_metadata(receive: &Receive) -> HashMap<String, String> {
    let expires = receive.expires_at.map(|at| (EXPIRES.to_owned(), at.to_string()));
    let media = receive.media.as_ref().and_then(|media| serde_json::to_string(media).ok());
    expires.into_iter().chain(media.map(|media| (MEDIA.to_owned(), media))).collect()
}

/// Whether a connection was lost.
pub(super) fn is_lost(failure: &StepError) -> bool {
    matches!(failure, StepError::Store(words) if words.contains(LOST))
}

/// Why a put failed: the bucket has computed another hash than was announced, or the body ended early; a connection that is lost
/// may be the client's or the bucket's, and only the latter is told.
fn put_failure(error: Error) -> StepError {
    let words = error.to_string();
    // 10037 is R2's code of a wrong checksum (BadDigest).
    if words.contains("10037") || words.contains("does not match") {
        return StepError::WrongHash;
    }
    let early = ["FixedLengthStream", "disconnected", "premature"];
    if early.iter().any(|part| words.contains(part)) {
        StepError::Incomplete
    } else {
        StepError::Store(words)
    }
}
