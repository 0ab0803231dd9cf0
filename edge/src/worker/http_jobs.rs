//! `POST /agent/{npub}/jobs`: the Worker is a client of the relay's object for as long as the buyer waits. Requests are admitted
//! like those of a client that has not authenticated.

use std::net::IpAddr;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use futures_channel::mpsc;
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use relay_agent::http_jobs::{
    Authorization, Body, Conversation, Limiter, Progress, STREAM_SECONDS, Secret, Step, Token, Wanted, answer,
};
use relay_agent::identity::MASTER_SECRET;
use relay_agent::secrets::Secrets as _;
use relay_engine::types::{Event, PubKey};
use relay_site::HttpResponse;
use sha2::{Digest as _, Sha256};
use worker::{
    Context, Date, Delay, Env, Error, Headers, Request, Response, Result, WebSocket, WebsocketEvent,
};

use super::entry::response;
use super::shards::stub;
use super::sockets::upgrade;
use super::{js, variables};
use crate::settings::Settings;

/// Orders of this minute, as far as this isolate has seen them.
static LIMITER: LazyLock<Mutex<Limiter>> = LazyLock::new(Mutex::default);
/// Pieces that wait for a buyer.
const PIECES_WAITING: usize = 64;
/// After how long without a piece a comment is sent, so that proxies keep the connection open.
const COMMENT_AFTER: Duration = Duration::from_secs(15);

/// What a request says beside its body.
pub(super) struct Asked {
    wanted: Wanted,
    authorization: Option<String>,
    from: Option<String>,
}

impl Asked {
    /// # Errors
    /// The runtime's; the response.
    pub(super) fn of(request: &Request) -> Result<std::result::Result<Self, HttpResponse>> {
        let header = |name| request.headers().get(name);
        let (accept, query) = (header("accept")?, request.url()?.query().unwrap_or_default().to_owned());
        let wanted = match Wanted::of(accept.as_deref(), &query) {
            Ok(wanted) => wanted,
            Err(answer) => return Ok(Err(answer)),
        };
        let (authorization, from) = (header("authorization")?, header("cf-connecting-ip")?);
        Ok(Ok(Asked { wanted, authorization, from }))
    }

    /// Whether it is a new order.
    pub(super) fn is_new(&self) -> bool {
        self.authorization.is_none()
    }
}

/// An order, or the job of an earlier one.
struct Job {
    secret: Secret,
    agent: PubKey,
    token: Token,
    /// What is to be published.
    request: Option<Event>,
}

/// Takes an order for an agent that is here, or finds an earlier one, and tells how far it is.
pub(super) async fn respond(
    env: &Env,
    context: &Context,
    settings: &Settings,
    agent: PubKey,
    asked: Asked,
    body: &[u8],
) -> Result<Response> {
    let job = match job(env, settings, agent, &asked, body)? {
        Ok(job) => job,
        Err(answer) => return response(answer),
    };
    let Asked { wanted, from, .. } = asked;
    let wait = if wanted.as_stream { 1 } else { wanted.wait_seconds };
    let conversation = Conversation::new(agent, job.token, job.request.clone());
    let socket = connect(env, settings, from.as_deref()).await?;
    let told = talk(&socket, conversation, Duration::from_secs(wait), &mut |progress| {
        wanted.as_stream || progress.is_final()
    })
    .await;
    let _ = socket.close(Some(1000), Some(""));
    let progress = match told? {
        Ok(progress) => progress,
        Err(answer) => return response(answer),
    };
    if !wanted.as_stream || progress.is_final() {
        return response(answer::answer(&job.secret, &agent, &job.token, &progress));
    }
    stream(context, connect(env, settings, from.as_deref()).await?, job, &progress)
}

fn job(
    env: &Env,
    settings: &Settings,
    agent: PubKey,
    asked: &Asked,
    body: &[u8],
) -> Result<std::result::Result<Job, HttpResponse>> {
    let max = settings.agents.http_jobs_per_minute_max;
    if max == 0 {
        return Ok(Err(HttpResponse::error(404, "jobs are not ordered over HTTP on this relay")));
    }
    let Some(master) = variables::agent_secrets(env).get(MASTER_SECRET) else {
        return Ok(Err(HttpResponse::error(503, "the relay has no key for tokens: AGENT_MASTER_SECRET")));
    };
    let secret =
        Secret::new(Sha256::new_with_prefix(b"jobs over HTTP").chain_update(master).finalize().into());
    let (now, nonce) = (Date::now().as_millis() / 1_000, js::random()?);
    let address: Option<IpAddr> = asked.from.as_deref().and_then(|from| from.parse().ok());
    let ordered = || {
        let header = asked.authorization.as_deref();
        if let Authorization::Job(token) = Authorization::read(header, &secret, &agent, now)? {
            return Ok((token, None));
        }
        let body = Body::parse(body, &agent)?;
        let mut limiter = LIMITER.lock().unwrap_or_else(PoisonError::into_inner);
        limiter.take(address.map(Into::into), max, now)?;
        let event = match body {
            Body::Signed(event) => event,
            Body::Order(order) => secret.buyer(&agent, &nonce)?.sign(&order.draft(&agent, now)),
        };
        let token = Token { kind: event.kind, created_at: now, request: event.id, payment_hash: None };
        Ok((token, Some(event)))
    };
    Ok(ordered().map(|(token, request)| Job { secret: secret.clone(), agent, token, request }))
}

/// A socket to the relay's object, which has not been accepted yet.
async fn connect(env: &Env, settings: &Settings, from: Option<&str>) -> Result<WebSocket> {
    let request = upgrade("https://relay/")?;
    let headers: &Headers = request.headers();
    if let Some(from) = from {
        headers.set("cf-connecting-ip", from)?;
    }
    let placement = &settings.placement;
    let answered =
        stub(env, placement, placement.shards.for_connection())?.fetch_with_request(request).await?;
    let status = answered.status_code();
    answered
        .websocket()
        .ok_or_else(|| Error::RustError(format!("the relay takes no connection: status {status}")))
}

/// Talks until `is_enough`, or until the time is over. How far the job is then.
async fn talk(
    socket: &WebSocket,
    mut conversation: Conversation,
    wait: Duration,
    is_enough: &mut dyn FnMut(&Progress) -> bool,
) -> Result<std::result::Result<Progress, HttpResponse>> {
    let mut frames = socket.events()?;
    socket.accept()?;
    socket.send_with_str(conversation.begin())?;
    let mut last = Progress::Working { status: None, content: String::new() };
    let mut delay = Delay::from(wait);
    loop {
        let frame = match select(frames.next(), &mut delay).await {
            Either::Left((frame, _)) => frame,
            Either::Right(_) => return Ok(Ok(last)),
        };
        match frame {
            Some(Ok(WebsocketEvent::Message(message))) => {
                match conversation.handle(&message.text().unwrap_or_default()) {
                    Step::Nothing => {}
                    Step::Send(text) => socket.send_with_str(text)?,
                    Step::Refused(answer) => return Ok(Err(answer)),
                    Step::Progress(progress) => {
                        if is_enough(&progress) {
                            return Ok(Ok(progress));
                        }
                        last = progress;
                    }
                }
            }
            // The object was lost: what is stored is asked for again.
            Some(Ok(WebsocketEvent::Close(_))) | None => return Ok(Ok(last)),
            Some(Err(error)) => return Err(error),
        }
    }
}

/// What the agent says from now on, until the job ends or the buyer leaves.
fn stream(context: &Context, socket: WebSocket, job: Job, first: &Progress) -> Result<Response> {
    let (mut pieces, received) = mpsc::channel::<Vec<u8>>(PIECES_WAITING);
    let Job { secret, agent, token, .. } = job;
    let first = answer::piece(&secret, &agent, &token, first);
    let _ = pieces.try_send(first.into_bytes());
    context.wait_until(async move {
        let conversation = Conversation::new(agent, token, None);
        let mut comments = pieces.clone();
        let talking = async {
            // What is stored was told before.
            let mut is_first = true;
            let mut tell = |progress: &Progress| {
                if std::mem::take(&mut is_first) && !progress.is_final() {
                    return false;
                }
                let piece = answer::piece(&secret, &agent, &token, progress).into_bytes();
                // A buyer who does not read loses the rest, and asks again.
                pieces.try_send(piece).is_err() || progress.is_final()
            };
            let wait = Duration::from_secs(STREAM_SECONDS);
            let _ = talk(&socket, conversation, wait, &mut tell).await;
        };
        let commenting = async {
            loop {
                Delay::from(COMMENT_AFTER).await;
                if comments.try_send(b":\n\n".to_vec()).is_err() {
                    break;
                }
            }
        };
        futures_util::pin_mut!(talking, commenting);
        select(talking, commenting).await;
        let _ = socket.close(Some(1000), Some(""));
    });
    let head = answer::stream();
    let headers = Headers::new();
    for (name, value) in &head.headers {
        headers.append(name, value)?;
    }
    Ok(Response::from_stream(received.map(Ok::<Vec<u8>, Error>))?.with_headers(headers))
}
