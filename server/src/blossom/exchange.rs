//! Carries out the steps of exchanges.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, LengthLimitError};
use hyper::body::Bytes;
use relay_blossom::exchange::{
    Body, Exchange, Head, Input, Receive, Received, Reservation, Response, Retries, Step, StepError,
    Uploader, listed_servers, server_lists,
};
use relay_blossom::index::{Part, Refusal};
use relay_blossom::{Command, Outcome};
use relay_engine::sql::StoreError;
use relay_site::nip98::SignerTrust;
use relay_site::{BlossomRoute, HttpResponse};
use tower_http::timeout::TimeoutError;

use super::store::{BlobStore, Reading};
use super::{Blossom, RequestOrigin, background, fetch};
use crate::host::now;
use crate::net::api::{self, Upload};
use crate::net::response;
use crate::permits::{Holder, Permit};

/// What a body brings at least in this time.
const PACE_BYTES: usize = 64 << 10;
const PACE_TIME: Duration = Duration::from_secs(60);
/// Blobs and ranges of up to this many bytes are read and sent in one piece.
const SMALL_BYTES: u64 = 64 << 10;

/// A response, with what is read of it.
pub(crate) struct Answered {
    pub(crate) response: Response,
    /// The bytes of a blob.
    pub(crate) reading: Option<Reading>,
}

impl Blossom {
    /// A piece of a blob is sent.
    pub(crate) fn count_sent(&self, bytes: usize) {
        self.counters.sent(bytes);
    }

    /// Answers a request. Goes on if the client of an upload leaves: then the body ends early, which the exchange handles.
    pub(crate) async fn answer(self: Arc<Self>, head: Head, seen: RequestOrigin, body: Upload) -> Answered {
        // Nothing is begun by a download, so there is nothing that would have to be ended.
        let settings = &self.settings.blossom;
        let only_reads = !settings.pull_through && !settings.payment.sells_downloads();
        if head.route == BlossomRoute::Blob && only_reads {
            return self.answer_here(head, seen, body).await;
        }
        tokio::spawn(async move { self.answer_here(head, seen, body).await }).await.unwrap_or_else(|error| {
            tracing::error!(%error, "an exchange of Blossom failed");
            answered(HttpResponse::error(500, "internal error"))
        })
    }

    async fn answer_here(&self, head: Head, seen: RequestOrigin, body: Upload) -> Answered {
        let expects = head.header("expect").is_some();
        let (route, method) = (head.route, head.method.clone());
        let mut body = Some(body);
        let response = self.exchange(head, &seen, &mut body).await;
        if let Some(unread) = body.filter(|_| !expects) {
            api::discard_body(unread);
        }
        let answered = self.open_blob(response, method == "HEAD").await;
        self.counters.answered(route, &method, answered.response.status);
        answered
    }

    async fn exchange(&self, head: Head, seen: &RequestOrigin, body: &mut Option<Upload>) -> Response {
        let (mut exchange, mut step) = Exchange::begin(&self.context(seen, &self.admins()), head);
        // Room for a body that is in memory, until the response.
        let mut room = None;
        loop {
            let input = match step {
                Step::Respond(response) => return response,
                Step::Read { bytes_max } => {
                    room = room.or(self.media.reserve(bytes_max).await);
                    self.carry_out(Step::Read { bytes_max }, seen, body).await
                }
                step => self.carry_out(step, seen, body).await,
            };
            step = exchange.resume(&self.context(seen, &self.admins()), input);
        }
    }

    pub(super) async fn carry_out(
        &self,
        step: Step,
        seen: &RequestOrigin,
        body: &mut Option<Upload>,
    ) -> Input {
        let done = match step {
            Step::Ask(command) => self.ask(command).await,
            Step::MarkEventUsed(signed) => {
                let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(Input::EventUsed(used.take(&signed, SignerTrust::Permitted, now().seconds())))
            }
            Step::Read { bytes_max } => match body.take() {
                Some(body) => read(body, bytes_max).await.map(Input::Body),
                None => Err(StepError::Incomplete),
            },
            Step::Receive(receive) => match body.take() {
                Some(mut unread) => {
                    let received = self.receive(&mut unread, receive, seen).await;
                    // Of a body that is not wanted any more the rest is still to come.
                    *body = Some(unread);
                    received.map(Input::Received)
                }
                None => Err(StepError::Incomplete),
            },
            Step::Fetch { urls, receive, reservation } => {
                self.fetch(&urls, &receive, reservation, seen).await.map(Input::Received)
            }
            Step::Measure { url, uploader } => self.measure(&url, &uploader, seen).await.map(Input::Measured),
            Step::Pay(request) => Ok(Input::Paid(self.pay(request, seen).await)),
            Step::Put { bytes, receive } => self.put(&bytes, &receive).await.map(Input::Received),
            Step::Promote { from, to, .. } => self.bodies.rename(&from, &to).await.map(|()| Input::Done),
            Step::Join { parts, receive } => self.join(&parts, &receive, seen).await.map(Input::Received),
            Step::Discard(key) => {
                if let Err(error) = self.bodies.remove(&key).await {
                    tracing::warn!(?error, key, "temporary file not removed");
                }
                Ok(Input::Done)
            }
            Step::FindServers { authors } => Ok(Input::Servers(self.servers(&authors))),
            // Types are in the index.
            Step::SetObjectType { .. } => Ok(Input::Done),
            Step::Process { bytes, mime } => self.media.process(bytes, mime).await.map(Input::Processed),
            Step::Respond(_) => Ok(Input::Done),
        };
        done.unwrap_or_else(|failure| {
            if let StepError::Store(error) = &failure {
                tracing::error!(error, "the store of blobs failed");
            }
            Input::Failed(failure)
        })
    }

    /// Asks the index, and asks again while it answers that the blob is being removed or fetched.
    async fn ask(&self, command: Command) -> Result<Input, StepError> {
        if command == Command::Sweep {
            background::report_downloads(self).await.map_err(StepError::Store)?;
        }
        let mut retries = Retries::default();
        loop {
            match self.index.run(command.clone()).await {
                Ok(outcome) => match retries.wait(&outcome) {
                    Some(pause) => {
                        self.wake.notify_one();
                        tokio::time::sleep(pause).await;
                    }
                    None => {
                        if command.may_remove() {
                            self.wake.notify_one();
                        }
                        return Ok(Input::Answered(outcome));
                    }
                },
                Err(StoreError::Full(_)) => return Err(StepError::Full),
                Err(error) => return Err(StepError::Store(error.to_string())),
            }
        }
    }

    /// One of the uploads whose bytes are taken at a time, until it is dropped.
    async fn slot(&self, receive: &Receive, seen: &RequestOrigin) -> Option<Permit<'_>> {
        let _waiting = self.counters.wait();
        self.uploads.acquire(Holder::of(&receive.uploader, seen.client)).await
    }

    async fn receive(
        &self,
        body: &mut Upload,
        receive: Receive,
        seen: &RequestOrigin,
    ) -> Result<Received, StepError> {
        // Further uploads wait here, before anything of their bodies is read.
        let _upload = self.slot(&receive, seen).await;
        self.bodies.check_room(new_bytes(&receive, receive.length.unwrap_or_default()))?;
        let mut writing = self.bodies.begin(&receive);
        let mut pace = Pace::begin(Instant::now());
        while let Some(frame) = body.frame().await {
            let failed = match frame {
                Ok(frame) => match frame.data_ref() {
                    Some(bytes) if pace.is_too_slow(Instant::now(), bytes.len()) => Err(StepError::Stalled),
                    Some(_) if writing.size() > receive.bytes_max => Err(StepError::TooLong),
                    Some(bytes) => {
                        self.counters.received(bytes.len());
                        writing.write(bytes).await
                    }
                    None => Ok(()),
                },
                Err(error) => Err(body_error(&error)),
            };
            if let Err(failure) = failed {
                writing.abort().await;
                return Err(failure);
            }
        }
        let size = writing.size();
        let failure = match receive.length {
            _ if size > receive.bytes_max => StepError::TooLong,
            Some(length) if size != length => StepError::Incomplete,
            _ => return writing.finish(receive.sha256).await,
        };
        writing.abort().await;
        Err(failure)
    }

    pub(super) async fn put(&self, bytes: &[u8], receive: &Receive) -> Result<Received, StepError> {
        let mut writing = self.bodies.begin(receive);
        if let Err(failure) = writing.write(bytes).await {
            writing.abort().await;
            return Err(failure);
        }
        writing.finish(receive.sha256).await
    }

    async fn join(
        &self,
        parts: &[Part],
        receive: &Receive,
        seen: &RequestOrigin,
    ) -> Result<Received, StepError> {
        let _upload = self.slot(receive, seen).await;
        self.bodies.check_room(new_bytes(receive, parts.iter().map(|part| part.take).sum()))?;
        let mut writing = self.bodies.begin(receive);
        for part in parts {
            if let Err(failure) = copy(&self.bodies, part, &mut writing).await {
                writing.abort().await;
                return Err(failure);
            }
        }
        writing.finish(receive.sha256).await
    }

    /// Makes room for bytes that are fetched, in the quotas and on the disk.
    ///
    /// # Errors
    /// [`StepError::Refused`], [`StepError::Full`], or that of the index.
    pub(super) async fn reserve(&self, command: Option<Command>, bytes: u64) -> Result<(), StepError> {
        let Some(command) = command else { return Ok(()) };
        self.bodies.check_room(bytes)?;
        match self.ask(command).await? {
            Input::Answered(Outcome::Refused(refusal)) => Err(StepError::Refused(refusal)),
            _ => Ok(()),
        }
    }

    /// How long what a URL serves is.
    async fn measure(&self, url: &str, uploader: &Uploader, seen: &RequestOrigin) -> Result<u64, StepError> {
        let fetch = self.fetches.acquire(Holder::of(uploader, seen.client)).await;
        let Some(_fetch) = fetch else { return Err(StepError::Refused(Refusal::TooMany)) };
        fetch::measure(self, url).await
    }

    /// The first of these URLs that answers.
    async fn fetch(
        &self,
        urls: &[String],
        receive: &Receive,
        mut reservation: Reservation,
        seen: &RequestOrigin,
    ) -> Result<Received, StepError> {
        let fetch = self.fetches.acquire(Holder::of(&receive.uploader, seen.client)).await;
        let Some(_fetch) = fetch else { return Err(StepError::Refused(Refusal::TooMany)) };
        self.bodies.check_room(0)?;
        let mut last = StepError::Origin("no URL".to_owned());
        for url in urls {
            let mut writing = self.bodies.begin(receive);
            let fetched = fetch::fetch(self, url, receive, &mut reservation, &mut writing).await;
            match fetched {
                Ok(mime) => match writing.finish(receive.sha256).await {
                    Ok(received) => {
                        self.counters.received(usize::try_from(received.size).unwrap_or(usize::MAX));
                        return Ok(Received { mime, ..received });
                    }
                    // Another server may have the right bytes.
                    Err(StepError::WrongHash) => last = StepError::WrongHash,
                    Err(failure) => return Err(failure),
                },
                Err(failure @ (StepError::Full | StepError::Refused(_))) => {
                    writing.abort().await;
                    return Err(failure);
                }
                Err(failure) => {
                    writing.abort().await;
                    last = failure;
                }
            }
        }
        Err(last)
    }

    /// The servers that these keys name in their lists on this relay.
    fn servers(&self, authors: &[String]) -> Vec<String> {
        listed_servers(&self.relay.query(server_lists(authors)).unwrap_or_default())
    }

    async fn open_blob(&self, response: Response, is_head: bool) -> Answered {
        let Body::Blob { blob, range } = &response.body else { return Answered { response, reading: None } };
        if is_head {
            return Answered { response, reading: Some(Reading::Done) };
        }
        let range = range.clone().unwrap_or(0..blob.size);
        let key = blob.sha256.to_string();
        let opened = match range.end - range.start <= SMALL_BYTES {
            true => self.bodies.read_whole(&key, range).await.map(Ok),
            false => self.bodies.read(&key, range).await.map(Err),
        };
        if opened.is_ok() {
            self.note_download(blob.sha256);
        }
        match opened {
            Ok(Ok(bytes)) => {
                self.counters.sent(bytes.len());
                Answered { response: Response { body: Body::Bytes(bytes), ..response }, reading: None }
            }
            Ok(Err(reading)) => Answered { response, reading: Some(reading) },
            // It has been deleted since the index was asked.
            Err(_) if matches!(self.index.run(Command::Get(blob.sha256)).await, Ok(Outcome::Missing)) => {
                answered(HttpResponse::error(404, "not found"))
            }
            Err(error) => {
                tracing::error!(?error, sha256 = %blob.sha256, "a blob of the index cannot be read");
                answered(HttpResponse::error(500, "the blob cannot be read"))
            }
        }
    }
}

/// How fast a body comes. One that is slow keeps other uploads waiting.
struct Pace {
    since: Instant,
    bytes: usize,
}

impl Pace {
    fn begin(now: Instant) -> Self {
        Pace { since: now, bytes: 0 }
    }

    /// More of it has come. True: a minute has passed with less than it should bring.
    fn is_too_slow(&mut self, now: Instant, bytes: usize) -> bool {
        self.bytes += bytes;
        if now.duration_since(self.since) < PACE_TIME {
            return false;
        }
        let is_slow = self.bytes < PACE_BYTES;
        *self = Pace::begin(now);
        is_slow
    }
}

fn answered(answer: HttpResponse) -> Answered {
    let HttpResponse { status, headers, body } = answer;
    Answered { response: Response { status, headers, body: Body::Bytes(body) }, reading: None }
}

async fn copy(from: &BlobStore, part: &Part, to: &mut super::store::Writing) -> Result<(), StepError> {
    let mut reading = from.read(&part.key, part.skip..part.skip + part.take).await?;
    while let Some(bytes) = reading.next().await {
        to.write(&bytes.map_err(|error| StepError::Store(error.to_string()))?).await?;
    }
    Ok(())
}

async fn read(mut body: Upload, bytes_max: u64) -> Result<Bytes, StepError> {
    let mut bytes = Vec::new();
    // A body that comes slowly holds memory for which others wait.
    let mut pace = Pace::begin(Instant::now());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| body_error(&error))?;
        if let Some(piece) = frame.data_ref() {
            if pace.is_too_slow(Instant::now(), piece.len()) {
                return Err(StepError::Stalled);
            }
            if (bytes.len() + piece.len()) as u64 > bytes_max {
                return Err(StepError::TooLong);
            }
            bytes.extend_from_slice(piece);
        }
    }
    Ok(bytes.into())
}

/// By how many bytes the store grows.
fn new_bytes(receive: &Receive, bytes: u64) -> u64 {
    if receive.only_hash { 0 } else { bytes }
}

/// Why a body ended.
fn body_error(error: &response::Error) -> StepError {
    if error.is::<TimeoutError>() {
        StepError::Stalled
    } else if error.is::<LengthLimitError>() {
        StepError::TooLong
    } else {
        StepError::Incomplete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_comes_too_slowly_is_given_up() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::begin(start);
        // A byte every 29 seconds never stalls.
        assert!(!pace.is_too_slow(at(29), 1) && !pace.is_too_slow(at(58), 1) && pace.is_too_slow(at(87), 1));
        let mut pace = Pace::begin(start);
        assert!(!pace.is_too_slow(at(30), PACE_BYTES) && !pace.is_too_slow(at(61), 1));
        // The next minute is looked at by itself.
        assert!(!pace.is_too_slow(at(120), 1) && pace.is_too_slow(at(121), 1));
    }
}
