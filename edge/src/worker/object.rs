//! `RelayDurableObject`: passes the runtime's events to [`Object`] and runs its ticks.
//!
//! The object is borrowed for single calls, never across an `await`. The handler of a message returns at once, so that
//! the messages of many sockets share a tick. It waits only if its socket must not be read further: the runtime delivers a
//! socket's next message when the handler of the last one has returned.

#[cfg(feature = "libsecp256k1")]
mod agents;
mod peers;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::{Either, select};
use js_sys::Uint8Array;
use relay_engine::store::Seq;
use relay_engine::types::{Event, Now};
use relay_engine::wire;
use relay_site::HttpResponse;
use wasm_bindgen::prelude::*;
use worker::{
    Delay, DurableObject, Env, Error, Method, Request, RequestInit, Response, Result, State, WebSocket,
    WebSocketIncomingMessage, WebSocketPair, durable_object,
};

use super::entry::response;
use super::js::{self, Socket, Storage};
use super::shards::{LIVE_PATH, OtherShards, stub_of};
use super::sql::DurableSql;
use super::{memory, variables, verifier};
use crate::object::{Host, Key, NextTick, Object, PeerConn};
use peers::Peers;

/// One shard of the relay.
#[durable_object]
pub struct RelayDurableObject {
    shared: Rc<Shared>,
}

struct Shared {
    state: State,
    env: Env,
    /// Opened on first use, and again if that failed.
    object: RefCell<Option<Object<DurableSql, Runtime>>>,
    /// Whether a tick is scheduled and has not begun.
    tick_is_due: Cell<bool>,
    /// When the timer for a later tick fires, in milliseconds since 1970; infinite if none is set.
    timer_at: Cell<f64>,
    /// Calls [`Shared::tick`]; created once, so that a tick allocates no closure.
    on_tick: RefCell<Option<Closure<dyn FnMut()>>>,
    on_timer: RefCell<Option<Closure<dyn FnMut()>>>,
    /// Batches for consumers that have not been sent yet.
    deliveries: Deliveries,
    /// The connection to another relay.
    peers: Peers,
    #[cfg(feature = "libsecp256k1")]
    agents: agents::AgentCalls,
    /// Message handlers that wait until their socket may be read again.
    waiting: RefCell<HashMap<Key, oneshot::Sender<()>>>,
}

/// A batch of a stream for its consumer.
struct Delivery {
    consumer: String,
    /// A line of JSON for each event.
    lines: String,
}

type Deliveries = Rc<RefCell<Vec<Delivery>>>;

/// The runtime, as the object uses it.
struct Runtime {
    storage: Storage,
    deliveries: Deliveries,
    peers: Peers,
    others: OtherShards,
    #[cfg(feature = "libsecp256k1")]
    agents: agents::AgentCalls,
    #[cfg(feature = "libsecp256k1")]
    agent_secrets: std::sync::Arc<crate::agent::EnvSecrets>,
}

impl Host for Runtime {
    type Socket = Socket;

    fn send(&self, socket: &Socket, text: &str) {
        // It throws if the socket has been closed; the close event follows.
        let _ = socket.send(text);
    }

    fn close(&self, socket: &Socket, code: u16, reason: &str) {
        let _ = socket.close(code, reason);
    }

    fn buffered_bytes(&self, socket: &Socket) -> usize {
        socket.buffered_amount().as_f64().map_or(0, |bytes| bytes as usize)
    }

    fn attach(&self, socket: &Socket, attachment: &[u8]) {
        if let Err(error) = socket.serialize_attachment(&Uint8Array::from(attachment)) {
            let message = js::error_message(&error);
            worker::console_error!("writing an attachment of {} bytes: {message}", attachment.len());
        }
    }

    fn memory_bytes(&self) -> u64 {
        memory::reserved_bytes()
    }

    fn memory_used_bytes(&self) -> u64 {
        memory::used_bytes()
    }

    fn deliver(&self, consumer: &str, events: Vec<(Option<Seq>, Event)>) {
        let mut lines = String::new();
        for (seq, event) in events {
            let seq = seq.map_or_else(|| "null".to_owned(), |seq| seq.0.to_string());
            let json = String::from_utf8_lossy(event.json()).into_owned();
            lines.push_str(&format!("{{\"seq\":{seq},\"event\":{json}}}\n"));
        }
        if let Ok(mut deliveries) = self.deliveries.try_borrow_mut() {
            deliveries.push(Delivery { consumer: consumer.to_owned(), lines });
        }
    }

    fn set_alarm(&self, at: Now) {
        if let Err(error) = self.storage.set_alarm(at.millis() as f64) {
            worker::console_error!("setting an alarm: {}", js::error_message(&error));
        }
    }

    fn log(&self, line: &str) {
        worker::console_warn!("{line}");
    }

    fn forward(&self, events: &[Event]) {
        self.others.forward(events);
    }

    fn connect_peer(&self, conn: PeerConn, url: &str) {
        self.peers.want(conn, url);
    }

    fn send_to_peer(&self, conn: PeerConn, text: &str) {
        self.peers.send(conn, text);
    }

    fn close_peer(&self, conn: PeerConn) {
        self.peers.close(conn);
    }

    #[cfg(feature = "libsecp256k1")]
    fn call_agent(
        &self,
        call: crate::object::CallId,
        agent: &relay_engine::types::PubKey,
        delivery: crate::agent::message::Delivery,
    ) {
        self.agents.push(call, agent, delivery);
    }

    #[cfg(feature = "libsecp256k1")]
    fn agent_secrets(&self) -> std::sync::Arc<dyn relay_agent::secrets::Secrets + Send + Sync> {
        self.agent_secrets.clone()
    }
}

fn now() -> Now {
    Now::from_millis(js_sys::Date::now() as u64)
}

/// Room for the tables of some 140 authors: an isolate has 128 MB of memory, and may hold several shards.
const AUTHOR_CACHE_BYTES: usize = 4 << 20;

/// A consumer that has not answered by then has failed, and its batch is sent again.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(120);

/// Sends a batch to its consumer, whose name is `BINDING/OBJECT`.
async fn deliver(env: &Env, consumer: &str, lines: &str) -> std::result::Result<(), String> {
    let message = |error: Error| error.to_string();
    let (binding, name) = consumer.split_once('/').ok_or("its name is not BINDING/OBJECT")?;
    let placement = variables::settings(env)?.placement;
    let stub = stub_of(env, &placement, binding, name).map_err(message)?;
    let mut init = RequestInit::new();
    init.with_method(Method::Post).with_body(Some(JsValue::from_str(lines)));
    let request = Request::new_with_init("https://consumer/events", &init).map_err(message)?;
    let status = async {
        let mut response = stub.fetch_with_request(request).await?;
        // An unread body would keep this object from hibernating.
        response.bytes().await?;
        Ok::<u16, Error>(response.status_code())
    };
    match select(Box::pin(status), Delay::from(DELIVERY_TIMEOUT)).await {
        Either::Left((status, _)) => match status.map_err(message)? {
            200..=299 => Ok(()),
            status => Err(format!("status {status}")),
        },
        Either::Right(_) => Err(format!("no answer in {} seconds", DELIVERY_TIMEOUT.as_secs())),
    }
}

/// A socket's only tag: its key in hexadecimal.
fn tag(key: Key) -> String {
    format!("{key:016x}")
}

impl Shared {
    /// Calls `work` with the object, which is opened if needed, and schedules what it needs next.
    fn with<T>(
        self: &Rc<Self>,
        work: impl FnOnce(&mut Object<DurableSql, Runtime>) -> (T, NextTick),
    ) -> std::result::Result<T, String> {
        let (done, next, resumed) = {
            let mut place = self
                .object
                .try_borrow_mut()
                .map_err(|_| "internal error: the relay is busy; try again".to_owned())?;
            let woken = if place.is_none() {
                let (object, next) = self.open()?;
                *place = Some(object);
                next
            } else {
                NextTick::None
            };
            let object = place.as_mut().ok_or("internal error: the relay is not loaded; try again")?;
            let (done, next) = work(object);
            let mut resumed = Vec::new();
            while let Some(key) = object.poll_resumed() {
                resumed.push(key);
            }
            #[cfg(feature = "libsecp256k1")]
            self.agents.answer(object);
            (done, if next == NextTick::None { woken } else { next }, resumed)
        };
        if !resumed.is_empty()
            && let Ok(mut waiting) = self.waiting.try_borrow_mut()
        {
            for key in resumed {
                if let Some(handler) = waiting.remove(&key) {
                    let _ = handler.send(());
                }
            }
        }
        self.schedule(next);
        self.send_deliveries();
        self.open_peer();
        #[cfg(feature = "libsecp256k1")]
        self.call_agents();
        Ok(done)
    }

    /// Sends the batches for consumers, and reports the outcomes to the object.
    fn send_deliveries(self: &Rc<Self>) {
        let Ok(deliveries) =
            self.deliveries.try_borrow_mut().map(|mut waiting| std::mem::take(&mut *waiting))
        else {
            return;
        };
        for Delivery { consumer, lines } in deliveries {
            let shared = Rc::clone(self);
            worker::wasm_bindgen_futures::spawn_local(async move {
                let sent = deliver(&shared.env, &consumer, &lines).await;
                if let Err(message) = &sent {
                    worker::console_error!("consumer {consumer}: {message}");
                }
                let reported = shared.with(|object| ((), object.acknowledge(now(), &consumer, sent.is_ok())));
                if let Err(message) = reported {
                    worker::console_error!("consumer {consumer}: {message}");
                }
            });
        }
    }

    /// Opens the store and restores the sessions from their sockets' attachments.
    fn open(&self) -> std::result::Result<(Object<DurableSql, Runtime>, NextTick), String> {
        let settings = variables::shard_settings(&self.env)?;
        let storage: Storage = self.storage()?;
        let seed = js::random().map_err(|error| js::error_message(&error))?;
        let others = OtherShards::new(&self.env, &settings.placement, &self.state);
        let others = others.map_err(|error| error.to_string())?;
        #[cfg(feature = "libsecp256k1")]
        self.agents.set_placement(&settings.placement);
        let runtime = Runtime {
            storage: storage.clone(),
            deliveries: Rc::clone(&self.deliveries),
            peers: self.peers.clone(),
            others,
            #[cfg(feature = "libsecp256k1")]
            agents: self.agents.clone(),
            #[cfg(feature = "libsecp256k1")]
            agent_secrets: std::sync::Arc::new(variables::agent_secrets(&self.env)),
        };
        let verifier = verifier(AUTHOR_CACHE_BYTES).map_err(|error| js::error_message(&error))?;
        let mut object = Object::open(DurableSql::new(storage), runtime, &settings, verifier, seed)
            .map_err(|error| error.to_string())?;
        let sockets = self.state.as_raw().get_websockets().map_err(|error| js::error_message(&error))?;
        let sockets = sockets.into_iter().map(|socket| {
            let key = self.key_of_raw(&socket).unwrap_or_default();
            let socket: Socket = socket.unchecked_into();
            let attached = socket.deserialize_attachment().ok();
            let attached = attached.and_then(|value| value.dyn_into::<Uint8Array>().ok());
            let bytes = attached.map_or_else(Vec::new, |bytes| bytes.to_vec());
            (key, socket, bytes)
        });
        let now = now();
        let next = object.restore(now, sockets);
        if object.needs_alarms() {
            object.schedule_alarms(now);
        }
        Ok((object, next))
    }

    fn storage(&self) -> std::result::Result<Storage, String> {
        let storage = self.state.as_raw().storage().map_err(|error| js::error_message(&error))?;
        Ok(storage.unchecked_into())
    }

    fn schedule(self: &Rc<Self>, next: NextTick) {
        match next {
            NextTick::None => {}
            NextTick::Soon if self.tick_is_due.replace(true) => {}
            NextTick::Soon => self.call_in(&self.on_tick, 0.0, |shared| {
                shared.tick_is_due.set(false);
                shared.tick();
            }),
            NextTick::After(ms) => {
                // A timer that is set for later does not delay this one.
                let at = js_sys::Date::now() + ms as f64;
                if at < self.timer_at.get() {
                    self.timer_at.set(at);
                    self.call_in(&self.on_timer, ms as f64, |shared| {
                        shared.timer_at.set(f64::INFINITY);
                        shared.tick();
                    });
                }
            }
        }
    }

    fn call_in(
        self: &Rc<Self>,
        place: &RefCell<Option<Closure<dyn FnMut()>>>,
        ms: f64,
        work: fn(&Rc<Shared>),
    ) {
        let Ok(mut place) = place.try_borrow_mut() else { return };
        let closure = place.get_or_insert_with(|| {
            let shared: Weak<Shared> = Rc::downgrade(self);
            Closure::new(move || {
                if let Some(shared) = shared.upgrade() {
                    work(&shared);
                }
            })
        });
        js::set_timeout(closure.as_ref().unchecked_ref(), ms);
    }

    fn tick(self: &Rc<Self>) {
        if let Err(message) = self.with(|object| ((), object.tick(now()))) {
            worker::console_error!("a tick failed: {message}");
        }
    }

    fn key_of(&self, socket: &WebSocket) -> Option<Key> {
        self.key_of_raw(socket.as_ref())
    }

    fn key_of_raw(&self, socket: &web_sys::WebSocket) -> Option<Key> {
        let tags = self.state.as_raw().get_tags(socket).ok()?;
        Key::from_str_radix(tags.first()?, 16).ok()
    }

    fn connect(self: &Rc<Self>, request: &Request) -> Result<Response> {
        let url = request.url()?;
        let host = url.host_str().map(|host| match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        });
        // The platform sets this header, and replaces one that a client sends.
        let from =
            request.headers().get("cf-connecting-ip")?.and_then(|address| address.parse::<IpAddr>().ok());
        // Before there is a socket.
        match self.with(|object| (object.admit(from), NextTick::None)) {
            Ok(Ok(())) => {}
            Ok(Err(refused)) => return response(refused.answer()),
            Err(message) => return response(HttpResponse::error(503, &message).with("retry-after", "30")),
        }
        let key = Key::from_be_bytes(js::random()?);
        let pair = WebSocketPair::new()?;
        let tags = vec![JsValue::from_str(&tag(key))];
        self.state.as_raw().accept_websocket_with_tags(pair.server.as_ref(), tags)?;
        let socket: Socket = AsRef::<web_sys::WebSocket>::as_ref(&pair.server).clone().unchecked_into();
        let connected = self.with(|object| match object.connect(now(), key, socket, host, from) {
            Ok(next) => (Ok(()), next),
            Err(refused) => (Err(refused), NextTick::None),
        });
        let refusal = match connected {
            Ok(Ok(())) => return Response::from_websocket(pair.client),
            Ok(Err(refused)) => refused.answer(),
            Err(message) => HttpResponse::error(503, &message).with("retry-after", "30"),
        };
        let _ = pair.server.close(Some(1013), Some("too many connections"));
        response(refusal)
    }

    fn receive(self: &Rc<Self>, key: Key, message: &WebSocketIncomingMessage) -> Result<bool> {
        self.with(|object| {
            let now = now();
            let next = match message {
                WebSocketIncomingMessage::String(text) => object.text(now, key, text),
                WebSocketIncomingMessage::Binary(_) => object.binary(now, key),
            };
            (object.wants_input(now, key), next)
        })
        .map_err(Error::RustError)
    }

    async fn answer(self: &Rc<Self>, mut request: Request) -> Result<Response> {
        match request.path().as_str() {
            LIVE_PATH if request.method() == Method::Post => {
                let body = request.bytes().await?;
                let lines = body.split(|byte| *byte == b'\n');
                let events = lines.map(|line| wire::parse_event(line).map(|event| event.to_event()));
                match events.collect::<std::result::Result<Vec<Event>, _>>() {
                    Ok(events) => {
                        self.with(|object| ((), object.live(now(), events))).map_err(Error::RustError)?;
                        Response::ok("")
                    }
                    Err(error) => Response::error(format!("{error}\n"), 400),
                }
            }
            "/metric-families" => {
                let families =
                    self.with(|object| (object.families(now()), NextTick::None)).map_err(Error::RustError)?;
                Response::from_json(&families)
            }
            "/stats" => {
                let stats = self.with(|object| (object.stats(), NextTick::None)).map_err(Error::RustError)?;
                let stats = stats.map_err(Error::RustError)?;
                Response::from_json(
                    &serde_json::json!({ "events": stats.events, "store_bytes": stats.bytes }),
                )
            }
            #[cfg(feature = "libsecp256k1")]
            path if path.starts_with("/agents/") => self.answer_agents(request).await,
            _ => Response::error("not found\n", 404),
        }
    }
}

impl DurableObject for RelayDurableObject {
    fn new(state: State, env: Env) -> Self {
        RelayDurableObject {
            shared: Rc::new(Shared {
                state,
                env,
                object: RefCell::default(),
                tick_is_due: Cell::default(),
                timer_at: Cell::new(f64::INFINITY),
                on_tick: RefCell::default(),
                on_timer: RefCell::default(),
                deliveries: Deliveries::default(),
                peers: Peers::default(),
                #[cfg(feature = "libsecp256k1")]
                agents: agents::AgentCalls::default(),
                waiting: RefCell::default(),
            }),
        }
    }

    async fn fetch(&self, request: Request) -> Result<Response> {
        if request.headers().get("upgrade")?.is_some() {
            return self.shared.connect(&request);
        }
        self.shared.answer(request).await
    }

    async fn alarm(&self) -> Result<Response> {
        self.shared.with(|object| ((), object.alarm(now()))).map_err(Error::RustError)?;
        Response::ok("")
    }

    async fn websocket_message(&self, ws: WebSocket, message: WebSocketIncomingMessage) -> Result<()> {
        let Some(key) = self.shared.key_of(&ws) else { return Ok(()) };
        match self.shared.receive(key, &message) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => {
                // The object cannot be opened now, so the message is lost and would never be answered.
                worker::console_error!("receiving a message: {error}");
                let socket: Socket = AsRef::<web_sys::WebSocket>::as_ref(&ws).clone().unchecked_into();
                // An empty attachment: the session is not restored while the socket closes.
                let _ = socket.serialize_attachment(&Uint8Array::new_with_length(0));
                let _ = socket.close(1011, "the relay failed, please connect again");
                return Ok(());
            }
        }
        // The wait ends when the sender sends or is dropped.
        let (sender, resumed) = oneshot::channel();
        if let Ok(mut waiting) = self.shared.waiting.try_borrow_mut() {
            waiting.insert(key, sender);
        }
        let _ = resumed.await;
        Ok(())
    }

    async fn websocket_close(&self, ws: WebSocket, code: usize, _: String, _: bool) -> Result<()> {
        let Some(key) = self.shared.key_of(&ws) else { return Ok(()) };
        // Completes the close handshake if the runtime has not.
        let code = u16::try_from(code).ok().filter(|code| *code != 1005);
        let _ = ws.close(code, Some(""));
        self.shared.with(|object| ((), object.disconnect(now(), key))).map_err(Error::RustError)
    }

    async fn websocket_error(&self, ws: WebSocket, _: Error) -> Result<()> {
        let Some(key) = self.shared.key_of(&ws) else { return Ok(()) };
        self.shared.with(|object| ((), object.disconnect(now(), key))).map_err(Error::RustError)
    }
}
