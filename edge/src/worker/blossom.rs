//! Blossom in the Worker: carries out the steps of exchanges with the bucket and the index's object. Bytes whose hash is known go
//! from the request into the bucket, and from there into responses, without entering wasm.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use bytes::Bytes;
use js_sys::futures::JsFuture;
use js_sys::{Object as JsObject, Promise, Reflect, Uint8Array};
use relay_blossom::exchange::{
    Body, Context, Exchange, Failure, Head, Input, Keys, Receive, Received, Response as Answered, Step,
};
use relay_blossom::index::Part;
use relay_blossom::{Blob, Command, Outcome, Sha256};
use relay_engine::sql::StoreError;
use relay_engine::types::PubKey;
use relay_site::nip98::{Author, Origin, UsedEvents};
use relay_site::route::Endpoint;
use relay_site::{BlossomRoute, Found};
use wasm_bindgen::prelude::*;
use worker::crypto::{DigestStream, DigestStreamAlgorithm};
use worker::web_sys::ReadableStream;
use worker::{
    Bucket, Data, Date, Env, Error, Headers, HttpMetadata, Method, Object, Range, Request, RequestInit,
    Response, ResponseBody, Result,
};

use super::blossom_object::BLOBS;
use super::entry::address;
use super::shards::stub_of;
use super::verifier;
use crate::blossom::{BLOSSOM, COMMAND_PATH, OBJECT, decode_outcome, encode_command};
use crate::settings::Settings;

/// First bytes of a blob of unknown hash, from which its type is told.
const FIRST_BYTES: u64 = 4_096;

/// Events that have signed requests of operators, as far as this isolate has seen them.
static USED: LazyLock<Mutex<UsedEvents>> = LazyLock::new(Mutex::default);

#[wasm_bindgen]
extern "C" {
    type Stream;

    #[wasm_bindgen(method, catch, js_name = pipeTo)]
    fn pipe_to(this: &Stream, to: &JsValue, options: &JsValue) -> std::result::Result<Promise, JsValue>;

    type FixedLengthStream;

    #[wasm_bindgen(constructor, catch)]
    fn new(length: f64) -> std::result::Result<FixedLengthStream, JsValue>;

    #[wasm_bindgen(method, getter)]
    fn readable(this: &FixedLengthStream) -> ReadableStream;

    #[wasm_bindgen(method, getter)]
    fn writable(this: &FixedLengthStream) -> Writable;

    #[derive(Clone)]
    type Writable;

    #[wasm_bindgen(method, catch)]
    fn close(this: &Writable) -> std::result::Result<Promise, JsValue>;

    #[wasm_bindgen(method, catch)]
    fn abort(this: &Writable, reason: &str) -> std::result::Result<Promise, JsValue>;
}

/// The variable part of a path.
pub(super) fn param(found: &Found<'_, '_>) -> Option<String> {
    ["blob", "pubkey", "sha256"].iter().find_map(|name| found.param(name)).map(str::to_owned)
}

/// A request under way.
struct Exchanging<'a> {
    env: &'a Env,
    settings: &'a Settings,
    bucket: Bucket,
    request: Request,
    /// Whether the whole blob is wanted, so that one operation of the bucket answers.
    wants_whole: bool,
    /// The blob that was found, with its body.
    found: Option<Object>,
}

/// Has a request answered.
pub(super) async fn respond(
    request: Request,
    env: &Env,
    settings: &Settings,
    endpoint: &Endpoint,
    route: BlossomRoute,
    param: Option<String>,
) -> Result<Response> {
    let _ = endpoint;
    let url = request.url()?;
    let path_and_query = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let head = Head {
        route,
        method: request.method().to_string(),
        path_and_query,
        param,
        headers: request.headers().entries().map(|(name, value)| (name.to_lowercase(), value)).collect(),
    };
    let conditional = ["range", "if-none-match", "if-match", "if-modified-since", "if-unmodified-since"];
    let wants_whole = head.method == "GET" && conditional.iter().all(|name| head.header(name).is_none());
    let at = address(&request);
    let base_url = base_url(settings.url.as_deref().unwrap_or(&at));
    let is_local =
        settings.url.is_none() && matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    let verifier = verifier(0)?;
    let context = Context {
        settings: &settings.blossom,
        keys: Keys {
            admins: &settings.policy.admin_pubkeys,
            allowed: settings.policy.allow_pubkeys.as_deref(),
            denied: &settings.policy.deny_pubkeys,
        },
        base_url: &base_url,
        origin: Origin::Url(settings.url.as_deref().unwrap_or(&at)),
        name: &settings.info.name,
        is_local,
        processes_media: false,
        upload_seconds_max: 20 * 60,
        now: 0,
        verifier: &*verifier,
        payments: None,
    };
    let is_head = head.method == "HEAD";
    let context = || Context { now: Date::now().as_millis() / 1_000, ..context };
    let mut exchanging =
        Exchanging { env, settings, bucket: env.bucket(BLOBS)?, request, wants_whole, found: None };
    let (mut exchange, mut step) = Exchange::begin(&context(), head);
    loop {
        let input = match step {
            Step::Respond(answered) => return exchanging.render(answered, is_head).await,
            step => exchanging.carry_out(step).await,
        };
        step = exchange.resume(&context(), input);
    }
}

/// `wss://host/` as `https://host`.
fn base_url(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("wss", url));
    let scheme = if matches!(scheme, "wss" | "https") { "https" } else { "http" };
    format!("{scheme}://{}", rest.trim_end_matches('/'))
}

fn failed(error: Error) -> Failure {
    Failure::Store(error.to_string())
}

fn thrown(error: JsValue) -> Failure {
    failed(error.into())
}

impl Exchanging<'_> {
    async fn carry_out(&mut self, step: Step) -> Input {
        let done = match step {
            Step::Ask(Command::Get(sha256)) => self.find(&sha256).await.map(Input::Answered),
            Step::Ask(command) => self.ask(&command).await.map(Input::Answered),
            Step::Use(signed) => {
                let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(Input::Used(used.take(&signed, Author::Permitted, Date::now().as_millis() / 1_000)))
            }
            Step::Read { bytes_max } => self.read(bytes_max).await.map(Input::Body),
            Step::Receive(receive) => match self.request.inner().body() {
                Some(body) => self.store(body.into(), &receive).await.map(Input::Received),
                None => self.store(Data::Empty, &receive).await.map(Input::Received),
            },
            Step::Put { bytes, receive } => {
                self.store(Data::Bytes(bytes.to_vec()), &receive).await.map(Input::Received)
            }
            Step::Fetch { urls, receive } => self.fetch(&urls, &receive).await.map(Input::Received),
            Step::Promote { from, to, mime, expires_at } => {
                self.promote(&from, &to, &mime, expires_at).await.map(|()| Input::Done)
            }
            Step::Join { parts, receive } => self.join(&parts, &receive).await.map(Input::Received),
            Step::Discard(key) => {
                if let Err(error) = self.bucket.delete(&key).await {
                    worker::console_error!("staged bytes {key}: {error}");
                }
                Ok(Input::Done)
            }
            Step::FindServers { authors } => Ok(Input::Servers(self.servers(&authors).await)),
            Step::Process { .. } => Err(Failure::Unsupported),
            Step::Respond(_) => Ok(Input::Done),
        };
        done.unwrap_or_else(|failure| {
            if let Failure::Store(error) = &failure {
                worker::console_error!("the store of blobs: {error}");
            }
            Input::Failed(failure)
        })
    }

    /// Finds a blob in the bucket, without the index.
    async fn find(&mut self, sha256: &Sha256) -> std::result::Result<Outcome, Failure> {
        let key = sha256.to_string();
        let found = match self.wants_whole {
            true => self.bucket.get(key).execute().await,
            false => self.bucket.head(key).await,
        };
        let Some(object) = found.map_err(failed)? else { return Ok(Outcome::Missing) };
        let blob = blob_of(&object, *sha256);
        self.found = Some(object);
        Ok(Outcome::Blob(blob))
    }

    async fn ask(&self, command: &Command) -> std::result::Result<Outcome, Failure> {
        let stub = stub_of(self.env, &self.settings.placement, BLOSSOM, OBJECT).map_err(failed)?;
        let body: JsValue = Uint8Array::from(encode_command(command).as_slice()).into();
        let mut init = RequestInit::new();
        init.with_method(Method::Post).with_body(Some(body));
        let request =
            Request::new_with_init(&format!("https://blossom{COMMAND_PATH}"), &init).map_err(failed)?;
        let mut response = stub.fetch_with_request(request).await.map_err(failed)?;
        let bytes = response.bytes().await.map_err(failed)?;
        decode_outcome(&bytes).map_err(|error| match error {
            StoreError::Full(_) => Failure::Full,
            other => Failure::Store(other.to_string()),
        })
    }

    async fn read(&mut self, bytes_max: u64) -> std::result::Result<Bytes, Failure> {
        let mut bytes = Vec::new();
        let Ok(mut body) = self.request.stream() else { return Ok(Bytes::new()) };
        while let Some(piece) = futures_util::StreamExt::next(&mut body).await {
            let piece = piece.map_err(|_| Failure::Incomplete)?;
            if (bytes.len() + piece.len()) as u64 > bytes_max {
                return Err(Failure::TooLong);
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.into())
    }

    /// Stores bytes; the bucket checks their hash, if it is known.
    async fn store(&self, data: Data, receive: &Receive) -> std::result::Result<Received, Failure> {
        let mut put = self.bucket.put(&receive.key, data).http_metadata(metadata(&receive.mime));
        if let Some(expires_at) = receive.expires_at {
            put = put.custom_metadata(HashMap::from([("expires".to_owned(), expires_at.to_string())]));
        }
        if let Some(sha256) = &receive.sha256 {
            put = put.sha256(sha256.0.to_vec());
        }
        let object =
            put.execute().await.map_err(put_failure)?.ok_or_else(|| Failure::Store("not stored".into()))?;
        let size = object.size();
        let (sha256, first) = match receive.sha256 {
            Some(sha256) => (sha256, Bytes::new()),
            None => self.digest(&receive.key, size).await?,
        };
        Ok(Received { sha256, size, first, mime: None })
    }

    /// The hash of what is stored, and its first bytes. Only these enter wasm.
    async fn digest(&self, key: &str, size: u64) -> std::result::Result<(Sha256, Bytes), Failure> {
        let digest = DigestStream::new(DigestStreamAlgorithm::Sha256);
        let body = self.body_of(key, 0, size).await?;
        let to: &JsValue = digest.raw().as_ref();
        JsFuture::from(body.unchecked_ref::<Stream>().pipe_to(to, &JsValue::UNDEFINED).map_err(thrown)?)
            .await
            .map_err(thrown)?;
        let hash = digest.digest().await.map_err(failed)?.to_vec();
        let hash: [u8; 32] = hash.try_into().map_err(|_| Failure::Store("not a SHA-256".into()))?;
        if size == 0 {
            return Ok((Sha256(hash), Bytes::new()));
        }
        let range = Range::Prefix { length: FIRST_BYTES.min(size) };
        let first = self.bucket.get(key).range(range).execute().await.map_err(failed)?;
        let first = match first.as_ref().and_then(Object::body) {
            Some(body) => body.bytes().await.map_err(failed)?,
            None => Vec::new(),
        };
        Ok((Sha256(hash), first.into()))
    }

    /// A stream of stored bytes.
    async fn body_of(&self, key: &str, offset: u64, length: u64) -> std::result::Result<JsValue, Failure> {
        let missing = || Failure::Store(format!("{key} is not there"));
        let mut get = self.bucket.get(key);
        if length > 0 {
            get = get.range(Range::OffsetWithLength { offset, length });
        }
        let object = get.execute().await.map_err(failed)?.ok_or_else(missing)?;
        let body = object.body().ok_or_else(missing)?.response_body().map_err(failed)?;
        match body {
            ResponseBody::Stream(stream) => Ok(stream.into()),
            ResponseBody::Empty | ResponseBody::Body(_) => Err(missing()),
        }
    }

    async fn promote(
        &self,
        from: &str,
        to: &str,
        mime: &str,
        expires_at: Option<u64>,
    ) -> std::result::Result<(), Failure> {
        let staged = self.bucket.head(from).await.map_err(failed)?;
        let size = staged.ok_or_else(|| Failure::Store(format!("{from} is not there")))?.size();
        let sha256: Sha256 = to.parse().map_err(|_| Failure::Store("not a hash".into()))?;
        let data = match size {
            0 => Data::Empty,
            _ => Data::ReadableStream(self.body_of(from, 0, size).await?.unchecked_into()),
        };
        let put = self.bucket.put(to, data).http_metadata(metadata(mime)).sha256(sha256.0.to_vec());
        let put = match expires_at {
            Some(at) => put.custom_metadata(HashMap::from([("expires".to_owned(), at.to_string())])),
            None => put,
        };
        put.execute().await.map_err(put_failure)?;
        self.bucket.delete(from).await.map_err(failed)
    }

    /// Pipes parts one after the other into one put, which checks the hash.
    async fn join(&self, parts: &[Part], receive: &Receive) -> std::result::Result<Received, Failure> {
        let length: u64 = parts.iter().map(|part| part.take).sum();
        if length == 0 {
            return self.store(Data::Empty, receive).await;
        }
        let joined = FixedLengthStream::new(length as f64).map_err(thrown)?;
        let writable = joined.writable();
        let pipe = async {
            let piped = self.pipe(parts, &writable).await;
            let ended = match &piped {
                Ok(()) => writable.close(),
                Err(_) => writable.abort("a part cannot be read"),
            };
            if let Ok(ended) = ended {
                let _ = JsFuture::from(ended).await;
            }
            piped
        };
        let put = self.store(Data::ReadableStream(joined.readable()), receive);
        let (piped, stored) = futures_util::future::join(pipe, put).await;
        // If the hash is wrong, the pipe breaks too; the put knows why.
        match stored {
            Err(Failure::Store(error)) => Err(piped.err().unwrap_or(Failure::Store(error))),
            other => other,
        }
    }

    async fn pipe(&self, parts: &[Part], to: &Writable) -> std::result::Result<(), Failure> {
        let options = JsObject::new();
        Reflect::set(&options, &"preventClose".into(), &true.into()).map_err(thrown)?;
        for part in parts {
            let body = self.body_of(&part.key, part.skip, part.take).await?;
            let piped = body.unchecked_ref::<Stream>().pipe_to(to.as_ref(), &options).map_err(thrown)?;
            JsFuture::from(piped).await.map_err(thrown)?;
        }
        Ok(())
    }

    async fn fetch(&self, urls: &[String], receive: &Receive) -> std::result::Result<Received, Failure> {
        let _ = (urls, receive);
        Err(Failure::Unsupported)
    }

    async fn servers(&self, authors: &[String]) -> Vec<String> {
        let _: Vec<PubKey> =
            authors.iter().filter_map(|author| PubKey::from_hex(author.as_bytes()).ok()).collect();
        Vec::new()
    }

    async fn render(&mut self, answered: Answered, is_head: bool) -> Result<Response> {
        let headers = Headers::new();
        for (name, value) in &answered.headers {
            headers.append(name, value)?;
        }
        let response = Response::builder().with_status(answered.status).with_headers(headers);
        let (blob, range) = match answered.body {
            Body::Bytes(bytes) if bytes.is_empty() || is_head => return Ok(response.empty()),
            Body::Bytes(bytes) => return Ok(response.fixed(bytes.into())),
            Body::Blob { blob, range } => (blob, range),
        };
        if is_head || blob.size == 0 {
            return Ok(response.empty());
        }
        let whole = self.found.take().filter(|_| range.is_none() && self.wants_whole);
        let stream = match whole.as_ref().and_then(Object::body) {
            Some(body) => match body.response_body()? {
                ResponseBody::Stream(stream) => stream,
                ResponseBody::Empty | ResponseBody::Body(_) => return Ok(response.empty()),
            },
            None => {
                let range = range.unwrap_or(0..blob.size);
                let key = blob.sha256.to_string();
                match self.body_of(&key, range.start, range.end - range.start).await {
                    Ok(stream) => stream.unchecked_into(),
                    Err(failure) => {
                        worker::console_error!("{key}: {failure:?}");
                        return Response::error("the blob cannot be read\n", 500);
                    }
                }
            }
        };
        Ok(response.stream(stream))
    }
}

fn metadata(mime: &str) -> HttpMetadata {
    HttpMetadata { content_type: Some(mime.to_owned()), ..HttpMetadata::default() }
}

fn blob_of(object: &Object, sha256: Sha256) -> Blob {
    let expires = object.custom_metadata().ok().and_then(|metadata| metadata.get("expires")?.parse().ok());
    Blob {
        sha256,
        size: object.size(),
        mime: object.http_metadata().content_type.unwrap_or_else(|| "application/octet-stream".to_owned()),
        uploaded: object.uploaded().as_millis() / 1_000,
        expires_at: expires,
        media: None,
    }
}

/// Why a put failed: the bucket names another hash than was announced, or the body ended early.
fn put_failure(error: Error) -> Failure {
    let words = error.to_string();
    if words.contains("10037") || words.contains("does not match") {
        return Failure::WrongHash;
    }
    let early = ["Network connection lost", "FixedLengthStream", "disconnected", "premature"];
    if early.iter().any(|part| words.contains(part)) { Failure::Incomplete } else { Failure::Store(words) }
}
