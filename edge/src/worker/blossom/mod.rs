//! Blossom in the Worker: carries out the steps of exchanges with the bucket and the index's object. Bytes whose hash is known go
//! from the request into the bucket, and from there into responses, without entering wasm.
//!
//! | module | role |
//! |---|---|
//! | `bucket` | bytes |
//! | `fetch` | blobs of other servers, and lists of servers; in builds with the feature `libsecp256k1` |
//! | `internal_upload` | blobs that agents store and read; likewise |
//! | `payment` | an agent makes invoices and says whether they are paid; likewise |

mod bucket;
#[cfg(feature = "libsecp256k1")]
mod fetch;
#[cfg(feature = "libsecp256k1")]
mod internal_upload;
#[cfg(feature = "libsecp256k1")]
mod payment;

use std::ops::Range;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::select;
use js_sys::Uint8Array;
use relay_blossom::exchange::{
    Body, Context, Exchange, Head, Input, Keys, PlannedRead, Received, Response as Answered, Step, StepError,
    base_url, is_local_origin, planned_read,
};
use relay_blossom::{Blob, Command, Outcome, Sha256, media, mime};
use relay_engine::sql::StoreError;
use relay_engine::verify::Verifier;
use relay_site::authorization::is_loopback;
use relay_site::nip98::{Nip98Error, ServerUrl, VerifiedRequest};
use relay_site::{BlossomRoute, HttpResponse, PaymentOutcome, PaymentRequest};
use wasm_bindgen::JsValue;
use worker::{Data, Date, Delay, Env, Headers, Method, Object, Request, RequestInit, Response, Result};

#[cfg(feature = "libsecp256k1")]
pub(super) use self::internal_upload::{put_own, read_own, server};

use self::bucket::{BlobStore, blob_of, discard, failed, stream_of};
use super::entry::{address, response};
use super::shards::stub_of;
use super::verifier;
use crate::blossom::{
    BLOSSOM, COMMAND_PATH, OBJECT, ReportedDownloads, USE_PATH, decode_outcome, encode_command,
};
use crate::settings::{Placement, Settings};
use crate::used_auth_events::{SignedBy, decode_taken};

/// Longest body that nobody wants and that is read all the same, and how long.
const DRAIN_BYTES_MAX: u64 = 16 << 20;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);
/// After this an upload that has not ended counts as abandoned, and is given up even if its bytes still come: 4 GiB, the default of
/// `blob_bytes_max`, come in time at 3.6 MB/s.
const UPLOAD_SECONDS_MAX: u64 = 20 * 60;
/// Downloads that this isolate has reported to the index.
static REPORTED: LazyLock<Mutex<ReportedDownloads>> = LazyLock::new(Mutex::default);

/// A request in progress.
struct BlossomRequest<'a> {
    env: &'a Env,
    worker: &'a worker::Context,
    settings: &'a Settings,
    bodies: BlobStore,
    request: Request,
    /// What is read of the blob, so that one operation of the bucket answers.
    planned: PlannedRead,
    /// The blob that was found, with these bytes of it.
    found: Option<(Object, Range<u64>)>,
}

/// What an exchange needs to know, now.
fn context<'a>(
    settings: &'a Settings,
    relay_url: &'a str,
    base_url: &'a str,
    is_local: bool,
    verifier: &'a dyn Verifier,
) -> Context<'a> {
    Context {
        settings: &settings.blossom,
        keys: Keys {
            admins: &settings.policy.admin_pubkeys,
            allowed: settings.policy.allow_pubkeys.as_deref(),
            denied: &settings.policy.deny_pubkeys,
        },
        base_url,
        origin: ServerUrl::Url(relay_url),
        name: &settings.info.name,
        is_local,
        now: now(),
        verifier,
        processes_media: true,
        upload_seconds_max: UPLOAD_SECONDS_MAX,
    }
}

/// Answers a request.
pub(super) async fn respond(
    request: Request,
    env: &Env,
    worker: &worker::Context,
    settings: &Settings,
    route: BlossomRoute,
    param: Option<String>,
) -> Result<Response> {
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
    let planned = planned_read(&head);
    let at = address(&request);
    let base_url = base_url(settings.url.as_deref().unwrap_or(&at));
    let is_local = settings.url.is_none()
        && url.host_str().is_some_and(is_loopback)
        && is_local_origin(head.header("origin"));
    let verifier = verifier(0)?;
    let relay_url = settings.url.as_deref().unwrap_or(&at);
    let context = || context(settings, relay_url, &base_url, is_local, &*verifier);
    let is_head = head.method == "HEAD";
    let bodies = BlobStore::new(env)?;
    let mut exchanging = BlossomRequest { env, worker, settings, bodies, request, planned, found: None };
    let (mut exchange, mut step) = Exchange::begin(&context(), head);
    loop {
        let input = match step {
            Step::Respond(answered) => {
                if is_local {
                    exchanging.drain().await;
                }
                return exchanging.render(answered, is_head).await;
            }
            step => exchanging.carry_out(step).await,
        };
        step = exchange.resume(&context(), input);
    }
}

/// Keeps with the bytes of a blob when retention removes it.
///
/// # Errors
/// Why, if the bucket fails.
pub(super) async fn keep_expiry(
    env: &Env,
    sha256: &Sha256,
    expires_at: Option<u64>,
) -> std::result::Result<(), String> {
    let bodies = BlobStore::new(env).map_err(|error| error.to_string())?;
    bodies.keep_expiry(sha256, expires_at).await.map_err(|failure| format!("{failure:?}"))
}

/// Unix seconds.
fn now() -> u64 {
    Date::now().as_millis() / 1_000
}

async fn post(
    env: &Env,
    placement: &Placement,
    path: &str,
    body: &[u8],
) -> std::result::Result<Vec<u8>, StepError> {
    let stub = stub_of(env, placement, BLOSSOM, OBJECT).map_err(failed)?;
    let body: JsValue = Uint8Array::from(body).into();
    let mut init = RequestInit::new();
    init.with_method(Method::Post).with_body(Some(body));
    let request = Request::new_with_init(&format!("https://blossom{path}"), &init).map_err(failed)?;
    let mut response = stub.fetch_with_request(request).await.map_err(failed)?;
    response.bytes().await.map_err(failed)
}

/// Marks the event that has signed an administrator's request as used, in the index's object: an isolate knows only of its own requests.
async fn mark_used(
    env: &Env,
    placement: &Placement,
    signed: &VerifiedRequest,
) -> std::result::Result<std::result::Result<(), Nip98Error>, StepError> {
    let body = serde_json::to_vec(&SignedBy::from(signed)).unwrap_or_default();
    let answer = post(env, placement, USE_PATH, &body).await?;
    decode_taken(&answer).ok_or_else(|| StepError::Store(String::from_utf8_lossy(&answer).into_owned()))
}

/// Has the index's object carry out a command.
async fn ask(env: &Env, placement: &Placement, command: &Command) -> std::result::Result<Outcome, StepError> {
    let answer = post(env, placement, COMMAND_PATH, &encode_command(command)).await?;
    decode_outcome(&answer).map_err(|error| match error {
        StoreError::Full(_) => StepError::Full,
        other => StepError::Store(other.to_string()),
    })
}

impl BlossomRequest<'_> {
    async fn carry_out(&mut self, step: Step) -> Input {
        let done = match step {
            Step::Ask(Command::Get(sha256)) => self.find(&sha256).await.map(Input::Answered),
            Step::Ask(command) => {
                ask(self.env, &self.settings.placement, &command).await.map(Input::Answered)
            }
            Step::MarkEventUsed(signed) => {
                mark_used(self.env, &self.settings.placement, &signed).await.map(Input::EventUsed)
            }
            Step::Read { bytes_max } => self.read(bytes_max).await.map(Input::Body),
            Step::Receive(receive) => {
                let data = self.request.inner().body().map_or(Data::Empty, Data::from);
                self.bodies.store(data, &receive).await.map(Input::Received)
            }
            Step::Put { bytes, receive } => {
                self.bodies.store_checked(Data::Bytes(bytes.to_vec()), &receive).await.map(Input::Received)
            }
            Step::Fetch { urls, receive, reservation } => {
                self.fetch(&urls, &receive, reservation).await.map(Input::Received)
            }
            Step::Measure { url, .. } => self.measure(&url).await.map(Input::Measured),
            Step::Pay(request) => self.pay(&request).await.map(Input::Paid),
            Step::Promote { from, to, mime, expires_at } => {
                self.bodies.promote(&from, &to, &mime, expires_at).await.map(Input::Received)
            }
            Step::SetObjectType { sha256, mime } => {
                self.bodies.set_type(&sha256, &mime).await.map(|()| Input::Done)
            }
            Step::Join { parts, receive } => self.bodies.join(&parts, &receive).await.map(Input::Received),
            // What is left is swept later.
            Step::Discard(key) => self.bodies.remove(&key).await.map(|()| Input::Done),
            Step::FindServers { authors } => Ok(Input::Servers(self.servers(&authors).await)),
            Step::Process { bytes, mime } => media::process(&bytes, &mime).map(Input::Processed),
            Step::Respond(_) => Ok(Input::Done),
        };
        done.unwrap_or_else(|failure| {
            if let StepError::Store(error) = &failure {
                worker::console_error!("the store of blobs: {error}");
            }
            Input::Failed(failure)
        })
    }

    /// Finds a blob in the bucket, without the index.
    async fn find(&mut self, sha256: &Sha256) -> std::result::Result<Outcome, StepError> {
        let Some((object, range)) = self.bodies.find(sha256, self.planned).await? else {
            return Ok(Outcome::Missing);
        };
        let blob = blob_of(&object, *sha256);
        self.found = Some((object, range));
        Ok(Outcome::Blob(blob))
    }

    async fn read(&mut self, bytes_max: u64) -> std::result::Result<Bytes, StepError> {
        let mut bytes = Vec::new();
        let Ok(mut body) = self.request.stream() else { return Ok(Bytes::new()) };
        while let Some(piece) = futures_util::StreamExt::next(&mut body).await {
            let piece = piece.map_err(|_| StepError::Incomplete)?;
            if (bytes.len() + piece.len()) as u64 > bytes_max {
                return Err(StepError::TooLong);
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.into())
    }

    #[cfg(feature = "libsecp256k1")]
    async fn fetch(
        &self,
        urls: &[String],
        receive: &relay_blossom::exchange::Receive,
        mut reservation: relay_blossom::exchange::Reservation,
    ) -> std::result::Result<Received, StepError> {
        use relay_agent::executor::Access;
        let is_private = self.settings.blossom.allow_private_addresses;
        let access = if is_private { Access::Anywhere } else { Access::Public };
        let make_room = async |size| match reservation.announced(size) {
            Some(command) => match ask(self.env, &self.settings.placement, &command).await? {
                Outcome::Refused(refusal) => Err(StepError::Refused(refusal)),
                _ => Ok(()),
            },
            None => Ok(()),
        };
        fetch::fetch(&self.bodies, access, urls, receive, make_room).await
    }

    #[cfg(feature = "libsecp256k1")]
    async fn measure(&self, url: &str) -> std::result::Result<u64, StepError> {
        use relay_agent::executor::Access;
        let is_private = self.settings.blossom.allow_private_addresses;
        fetch::measure(if is_private { Access::Anywhere } else { Access::Public }, url).await
    }

    #[cfg(feature = "libsecp256k1")]
    async fn pay(&self, request: &PaymentRequest) -> std::result::Result<PaymentOutcome, StepError> {
        let from = self.request.headers().get("cf-connecting-ip").ok().flatten();
        Ok(payment::pay(self.env, self.settings, request, from.as_deref(), now()).await)
    }

    #[cfg(feature = "libsecp256k1")]
    async fn servers(&self, authors: &[String]) -> Vec<String> {
        fetch::servers(self.env, self.settings, authors).await.unwrap_or_else(|error| {
            worker::console_error!("lists of servers: {error}");
            Vec::new()
        })
    }

    #[cfg(not(feature = "libsecp256k1"))]
    async fn fetch(
        &self,
        _: &[String],
        _: &relay_blossom::exchange::Receive,
        _: relay_blossom::exchange::Reservation,
    ) -> std::result::Result<Received, StepError> {
        Err(StepError::Unsupported)
    }

    #[cfg(not(feature = "libsecp256k1"))]
    async fn measure(&self, _: &str) -> std::result::Result<u64, StepError> {
        Err(StepError::Unsupported)
    }

    #[cfg(not(feature = "libsecp256k1"))]
    async fn pay(&self, _: &PaymentRequest) -> std::result::Result<PaymentOutcome, StepError> {
        Err(StepError::Unsupported)
    }

    #[cfg(not(feature = "libsecp256k1"))]
    async fn servers(&self, _: &[String]) -> Vec<String> {
        Vec::new()
    }

    /// Reads what is left of a body, so that its client reads the response: workerd closes a connection with an unread body at once,
    /// Cloudflare does not.
    async fn drain(&self) {
        let request = self.request.inner();
        let length = request.headers().get("content-length").ok().flatten();
        let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
        let is_short = (1..=DRAIN_BYTES_MAX).contains(&length);
        let waits = request.headers().has("expect").unwrap_or(true);
        if is_short
            && !waits
            && !request.body_used()
            && let Some(body) = request.body()
        {
            select(Box::pin(discard(body)), Delay::from(DRAIN_TIME_MAX)).await;
        }
    }

    async fn render(&mut self, answered: Answered, is_head: bool) -> Result<Response> {
        let headers = Headers::new();
        for (name, value) in &answered.headers {
            headers.append(name, value)?;
        }
        let built = Response::builder().with_status(answered.status).with_headers(headers);
        let (blob, range) = match answered.body {
            Body::Bytes(bytes) if bytes.is_empty() || is_head => return Ok(built.empty()),
            Body::Bytes(bytes) => return Ok(built.fixed(bytes.into())),
            Body::Blob { blob, range } => (blob, range),
        };
        if is_head || blob.size == 0 {
            return Ok(built.empty());
        }
        self.note_download(&blob);
        let range = range.unwrap_or(0..blob.size);
        let stream = match self.found.take().filter(|(_, found)| *found == range) {
            Some((object, _)) => stream_of(&object).map(Some),
            None => self.bodies.read(&blob.sha256.to_string(), range.start, range.end - range.start).await,
        };
        match stream {
            Ok(Some(stream)) => Ok(built.stream(stream)),
            // It has been deleted since it was found.
            Ok(None) => response(HttpResponse::error(404, "not found")),
            Err(failure) => {
                worker::console_error!("{}: {failure:?}", blob.sha256);
                response(HttpResponse::error(500, "the blob cannot be read"))
            }
        }
    }

    /// A blob is downloaded: the index is told, once an hour and isolate, if a rule of retention asks for it.
    fn note_download(&self, blob: &Blob) {
        let rule = mime::retention(&self.settings.blossom.retention, &blob.mime, blob.size);
        if rule.is_none_or(|rule| rule.unused_seconds.is_none()) {
            return;
        }
        let is_due = REPORTED.lock().unwrap_or_else(PoisonError::into_inner).is_due(blob.sha256, now());
        if is_due {
            let (env, placement) = (self.env.clone(), self.settings.placement.clone());
            let command = Command::RecordDownloads(vec![blob.sha256]);
            self.worker.wait_until(async move {
                if let Err(failure) = ask(&env, &placement, &command).await {
                    worker::console_error!("a download is not counted: {failure:?}");
                }
            });
        }
    }
}
