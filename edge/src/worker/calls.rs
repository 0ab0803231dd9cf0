//! Calls of agents to the world: HTTP, Workers AI, other relays.
//!
//! The Worker's runtime resolves names by itself, and connects to nothing but public addresses: workerd's own rule, which does
//! not depend on what a name resolved to before. What a URL says is checked here, and each redirect.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use js_sys::futures::JsFuture;
use js_sys::{ArrayBuffer, JSON, Reflect, Uint8Array};
use relay_agent::exchange::{Answers, Frames};
use relay_agent::executor::{Access, HttpError, HttpEvent, HttpRequest};
use relay_agent::fetch::{PrivateHosts, check_url, redirect};
use relay_engine::types::Event;
use wasm_bindgen::{JsCast, JsValue};
use worker::{
    AbortController, AbortSignal, Delay, Env, Error, Fetch, Headers, Method, Request, RequestInit,
    RequestRedirect, Response, Result, WebSocket, WebsocketEvent,
};

use super::js;
use super::sockets::connect;
use crate::agent::remote_relays::{EXCHANGE_FRAME_BYTES_MAX, FRAME_BYTES_MAX, PendingOks};

/// Another relay that has not taken all events by then is left.
const RELAY_TIMEOUT: Duration = Duration::from_secs(10);
/// How soon it is seen that an agent wants nothing more of an exchange.
const EXCHANGE_CHECK: Duration = Duration::from_millis(250);

/// Makes a call over HTTP and tells what comes of it. `private` are the hosts that the operator allows although they are
/// private.
pub(super) async fn http(
    private: &[String],
    request: HttpRequest,
    signal: &AbortSignal,
    mut tell: impl FnMut(HttpEvent),
) {
    let ms = request.limits.deadline.saturating_mul(1_000).saturating_sub(js_sys::Date::now() as u64);
    let outcome = {
        let exchange = Box::pin(exchange(private, request, signal, &mut tell));
        match select(exchange, Delay::from(Duration::from_millis(ms))).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => Err(HttpError::Timeout),
        }
    };
    tell(outcome.map_or_else(HttpEvent::Failed, |()| HttpEvent::End));
}

async fn exchange(
    private: &[String],
    mut request: HttpRequest,
    signal: &AbortSignal,
    tell: &mut impl FnMut(HttpEvent),
) -> std::result::Result<(), HttpError> {
    let broken = |error: Error| HttpError::Connection(error.to_string());
    let private = PrivateHosts::parse(private).map_err(HttpError::Forbidden)?;
    let mut response = loop {
        check_url(&request.url, request.access, &private, &request.allow_domains)
            .map_err(|forbidden| HttpError::Forbidden(forbidden.0))?;
        let response = send(&request, signal).await.map_err(broken)?;
        let location = response.headers().get("location").ok().flatten();
        match redirect(&request, response.status_code(), location.as_deref()) {
            Some(next) => request = next,
            None => break response,
        }
    };
    tell(HttpEvent::Head(response.status_code(), response.headers().entries().collect()));
    // A response without a body has no stream.
    let Ok(mut body) = response.stream() else { return Ok(()) };
    let mut bytes = 0;
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(broken)?;
        bytes += chunk.len();
        if bytes > request.limits.response_bytes_max {
            return Err(HttpError::TooLarge);
        }
        tell(HttpEvent::Chunk(chunk.into()));
    }
    Ok(())
}

pub(super) async fn send(request: &HttpRequest, signal: &AbortSignal) -> Result<Response> {
    let headers = Headers::new();
    for (name, value) in &request.headers {
        headers.append(name, value)?;
    }
    let body = (!request.body.is_empty()).then(|| Uint8Array::from(&*request.body).into());
    let mut init = RequestInit::new();
    init.with_method(Method::from(request.method.to_owned()))
        .with_headers(headers)
        .with_redirect(RequestRedirect::Manual)
        .with_body(body);
    Fetch::Request(Request::new_with_init(&request.url, &init)?).send_with_signal(signal).await
}

/// Calls a model of Workers AI by the binding `AI`, and tells its result as the body of a response.
pub(super) async fn model(
    env: &Env,
    model: &str,
    input: &[u8],
    signal: &AbortSignal,
    mut tell: impl FnMut(HttpEvent),
) {
    let binding = Reflect::get(env, &JsValue::from_str("AI")).unwrap_or_default();
    if !binding.is_object() {
        return tell(HttpEvent::Failed(HttpError::Unsupported));
    }
    match run_model(&binding, model, input).await {
        _ if signal.aborted() => {}
        Ok(body) => {
            tell(HttpEvent::Head(200, vec![("content-type".into(), "application/json".into())]));
            tell(HttpEvent::Chunk(body));
            tell(HttpEvent::End);
        }
        Err(error) => tell(HttpEvent::Failed(HttpError::Connection(js::error_message(&error)))),
    }
}

async fn run_model(binding: &JsValue, model: &str, input: &[u8]) -> std::result::Result<Bytes, JsValue> {
    let input = JSON::parse(&String::from_utf8_lossy(input))?;
    let ai: &js::Ai = binding.unchecked_ref();
    let result = JsFuture::from(ai.run(model, &input)?).await?;
    if let Some(buffer) = result.dyn_ref::<ArrayBuffer>() {
        return Ok(Uint8Array::new(buffer).to_vec().into());
    }
    Ok(String::from(JSON::stringify(&result)?).into())
}

/// Publishes events on another relay.
///
/// # Errors
/// A message, if it does not take one of them in time.
pub(super) async fn publish(relay: &str, events: &[Event]) -> std::result::Result<(), String> {
    let url = relay.strip_prefix("wss://").map(|rest| format!("https://{rest}")).ok_or("not wss://")?;
    check_url(&url, Access::Public, &PrivateHosts::default(), &[]).map_err(|forbidden| forbidden.0)?;
    let call = AbortController::default();
    let signal = call.signal();
    let (socket, until) = match select(Box::pin(connect(&url, &signal)), Delay::from(RELAY_TIMEOUT)).await {
        Either::Left((socket, until)) => (socket.map_err(|error| error.to_string())?, until),
        Either::Right(_) => {
            call.abort();
            return Err(too_late());
        }
    };
    let outcome = match select(Box::pin(exchange_events(&socket, events)), until).await {
        Either::Left((outcome, _)) => outcome.map_err(|error| error.to_string()),
        Either::Right(_) => Err(too_late()),
    };
    // An open socket would keep the object awake.
    let _ = socket.close(Some(1000), Some(""));
    outcome
}

/// A socket to a relay of a remote signer or a wallet. `private` are the hosts that the operator allows although they are private.
///
/// # Errors
/// A message.
pub(super) async fn exchange_socket(
    private: &[String],
    relay: &str,
    signal: &AbortSignal,
) -> std::result::Result<WebSocket, String> {
    let url = match relay.split_once("://") {
        Some(("wss", rest)) => format!("https://{rest}"),
        Some(("ws", rest)) => format!("http://{rest}"),
        _ => return Err("not wss://".into()),
    };
    let private = PrivateHosts::parse(private)?;
    check_url(&url, Access::Configured, &private, &[]).map_err(|forbidden| forbidden.0)?;
    connect(&url, signal).await.map_err(|error| error.to_string())
}

/// Asks somebody by a socket to a relay, and tells each event that comes, until the signal is aborted. Closes the socket.
///
/// # Errors
/// Why it does not go on.
pub(super) async fn ask(
    socket: &WebSocket,
    answers: &Answers,
    requests: &[Event],
    signal: &AbortSignal,
    tell: impl FnMut(Event),
) -> std::result::Result<(), String> {
    let asked = ask_frames(socket, answers, requests, signal, tell).await;
    // An open socket would keep the object awake.
    let _ = socket.close(Some(1000), Some(""));
    asked
}

async fn ask_frames(
    socket: &WebSocket,
    answers: &Answers,
    requests: &[Event],
    signal: &AbortSignal,
    mut tell: impl FnMut(Event),
) -> std::result::Result<(), String> {
    let message = |error: Error| error.to_string();
    let mut frames = socket.events().map_err(message)?;
    socket.accept().map_err(message)?;
    for text in answers.messages(requests) {
        socket.send_with_str(text).map_err(message)?;
    }
    let mut exchange = Frames::new(answers, requests.len());
    while !signal.aborted() {
        // The agent's end of it has no event here: it is looked for now and then.
        let frame = match select(frames.next(), Delay::from(EXCHANGE_CHECK)).await {
            Either::Left((frame, _)) => frame,
            Either::Right(_) => continue,
        };
        match frame {
            Some(Ok(WebsocketEvent::Message(message))) => {
                let data = message.as_ref().data();
                // Its length is known without a copy of it.
                let bytes = data.dyn_ref::<js_sys::JsString>().map_or(0, js_sys::JsString::length);
                if bytes as usize > EXCHANGE_FRAME_BYTES_MAX {
                    return Err("it sends a large frame".into());
                }
                if let Some(event) = exchange.handle(&data.as_string().unwrap_or_default())? {
                    tell(event);
                }
            }
            Some(Ok(WebsocketEvent::Close(_))) | None => return Err("it has closed".into()),
            Some(Err(error)) => return Err(error.to_string()),
        }
    }
    Ok(())
}

fn too_late() -> String {
    format!("no answer in {} seconds", RELAY_TIMEOUT.as_secs())
}

async fn exchange_events(socket: &WebSocket, events: &[Event]) -> Result<()> {
    let mut frames = socket.events()?;
    socket.accept()?;
    for event in events {
        let json = String::from_utf8_lossy(event.json());
        socket.send_with_str(format!("[\"EVENT\",{json}]"))?;
    }
    let mut answers = PendingOks::new(events);
    while !answers.is_complete() {
        match frames.next().await {
            Some(Ok(WebsocketEvent::Message(message))) => {
                let data = message.as_ref().data();
                // Its length is known without a copy of it.
                let bytes = data.dyn_ref::<js_sys::JsString>().map_or(0, js_sys::JsString::length);
                if bytes as usize > FRAME_BYTES_MAX {
                    return Err(Error::RustError("it sends a large frame".into()));
                }
                answers
                    .handle(&data.as_string().unwrap_or_default())
                    .map_err(|why| Error::RustError(why.into()))?;
            }
            Some(Ok(WebsocketEvent::Close(_))) | None => {
                return Err(Error::RustError("it has closed".into()));
            }
            Some(Err(error)) => return Err(error),
        }
    }
    Ok(())
}
