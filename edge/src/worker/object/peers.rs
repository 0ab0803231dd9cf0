//! The connection of the relay's object to another relay, from which it copies events.
//!
//! Nothing of it survives the object's memory. An open connection keeps the object awake, so the object closes it after some
//! seconds. Messages of a WebSocket cannot be left unread: each is handed to the object at once, which bounds what it keeps.
//! What the platform lets the Worker connect to is the platform's rule; the operator has chosen the relays.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{Either, join, select};
use js_sys::JsString;
use relay_sync::information::Information;
use wasm_bindgen::JsCast;
use worker::{
    AbortController, AbortSignal, Delay, Error, Fetch, Headers, Request, RequestInit, RequestRedirect,
    Result, WebSocket, WebsocketEvent,
};

use super::{Shared, now};
use crate::object::{PEER_MESSAGE_BYTES_MAX, PeerConn, PeerEvent};
use crate::worker::sockets;

/// A relay that cannot be connected to by then does not answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long its NIP-11 document is waited for.
const INFORMATION_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest NIP-11 document, in bytes.
const INFORMATION_BYTES_MAX: usize = 256 << 10;

/// The connection, and what the object wants of it. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Peers(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    /// The connection that is to be opened.
    wanted: Option<(PeerConn, String)>,
    /// The one that is open, or being opened.
    current: Option<PeerConn>,
    socket: Option<WebSocket>,
    opening: Option<AbortController>,
}

impl State {
    fn end(&mut self) {
        self.current = None;
        if let Some(opening) = self.opening.take() {
            opening.abort();
        }
        if let Some(socket) = self.socket.take() {
            let _ = socket.close(Some(1000), Some(""));
        }
    }
}

impl Peers {
    pub(super) fn want(&self, conn: PeerConn, url: &str) {
        self.with(|state| {
            state.end();
            state.wanted = Some((conn, url.to_owned()));
        });
    }

    pub(super) fn send(&self, conn: PeerConn, text: &str) {
        self.with(|state| {
            if let (Some(socket), true) = (&state.socket, state.current == Some(conn)) {
                // It throws if the socket has been closed; the close event follows.
                let _ = socket.send_with_str(text);
            }
        });
    }

    pub(super) fn close(&self, conn: PeerConn) {
        self.with(|state| {
            state.wanted = state.wanted.take().filter(|(wanted, _)| *wanted != conn);
            if state.current == Some(conn) {
                state.end();
            }
        });
    }

    fn is_current(&self, conn: PeerConn) -> bool {
        self.0.try_borrow().is_ok_and(|state| state.current == Some(conn))
    }

    /// What it does never calls back, so the state is never borrowed twice.
    fn with<T: Default>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        self.0.try_borrow_mut().map(|mut state| work(&mut state)).unwrap_or_default()
    }
}

impl Shared {
    /// Opens the connection that the object wants, if there is one, and tells it what happens there.
    pub(super) fn open_peer(self: &Rc<Self>) {
        let Some((conn, url)) = self.peers.with(|state| state.wanted.take()) else { return };
        let opening = AbortController::default();
        let signal = opening.signal();
        self.peers.with(|state| (state.current, state.opening) = (Some(conn), Some(opening)));
        let shared = Rc::clone(self);
        worker::wasm_bindgen_futures::spawn_local(async move {
            if let Err(why) = shared.run_peer(conn, &url, &signal).await {
                shared.tell_peer(conn, PeerEvent::Closed(why));
            }
            shared.peers.close(conn);
        });
    }

    async fn run_peer(
        self: &Rc<Self>,
        conn: PeerConn,
        url: &str,
        signal: &AbortSignal,
    ) -> std::result::Result<(), String> {
        let message = |error: Error| error.to_string();
        // `ws` becomes `http`.
        let url = format!("http{}", url.get(2..).unwrap_or_default());
        let opened = select(
            Box::pin(join(sockets::connect(&url, signal), information(&url, signal))),
            Delay::from(CONNECT_TIMEOUT),
        );
        let (socket, information) = match opened.await {
            Either::Left(((socket, information), _)) => (socket.map_err(message)?, information),
            Either::Right(_) => return Err("no answer".into()),
        };
        let mut frames = socket.events().map_err(message)?;
        socket.accept().map_err(message)?;
        let kept = socket.clone();
        let is_wanted = self.peers.with(|state| {
            let is_wanted = state.current == Some(conn);
            if is_wanted {
                (state.socket, state.opening) = (Some(kept), None);
            }
            is_wanted
        });
        if !is_wanted {
            let _ = socket.close(Some(1000), Some(""));
            return Ok(());
        }
        self.tell_peer(conn, PeerEvent::Opened(information));
        while self.peers.is_current(conn) {
            match frames.next().await {
                Some(Ok(WebsocketEvent::Message(message))) => {
                    let data = message.as_ref().data();
                    // Its length is known without a copy of it.
                    let chars = data.dyn_ref::<JsString>().map_or(0, JsString::length) as usize;
                    if chars > PEER_MESSAGE_BYTES_MAX {
                        self.tell_peer(conn, PeerEvent::TooLong);
                    } else {
                        // A binary one is malformed.
                        let text = data.as_string().unwrap_or_default();
                        self.tell_peer(conn, PeerEvent::Text(&text));
                    }
                }
                Some(Ok(WebsocketEvent::Close(event))) => {
                    let code = event.code();
                    return Err(format!("it closes the connection: {code}"));
                }
                None => return Err("it closes the connection".into()),
                Some(Err(error)) => return Err(format!("the connection is cut: {error}")),
            }
        }
        Ok(())
    }

    fn tell_peer(self: &Rc<Self>, conn: PeerConn, event: PeerEvent<'_>) {
        if !self.peers.is_current(conn) {
            return;
        }
        if let Err(message) = self.with(|object| ((), object.peer(now(), conn, event))) {
            worker::console_error!("copying from another relay: {message}");
        }
    }
}

/// What a relay tells about itself (NIP-11); nothing if it does not.
async fn information(url: &str, signal: &AbortSignal) -> Information {
    match select(Box::pin(document(url, signal)), Delay::from(INFORMATION_TIMEOUT)).await {
        Either::Left((Ok(document), _)) => Information::of(&document),
        Either::Left((Err(_), _)) | Either::Right(_) => Information::default(),
    }
}

async fn document(url: &str, signal: &AbortSignal) -> Result<serde_json::Value> {
    let headers = Headers::new();
    headers.set("accept", "application/nostr+json")?;
    let mut init = RequestInit::new();
    init.with_headers(headers).with_redirect(RequestRedirect::Manual);
    let mut response = Fetch::Request(Request::new_with_init(url, &init)?).send_with_signal(signal).await?;
    let mut bytes = Vec::new();
    let mut body = response.stream()?;
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk?);
        if bytes.len() > INFORMATION_BYTES_MAX {
            return Err(Error::RustError("its document is too long".into()));
        }
    }
    Ok(serde_json::from_slice(&bytes)?)
}
