//! A simple relay in this process, with optional faults. It checks no signatures.

use std::collections::HashMap;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use negentropy::{Id, Negentropy, NegentropyStorageVector, Storage};
use relay_bench::hex;
use serde_json::{Value, json};
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

/// A fault of the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Answers `OK true` and forgets every 50th event.
    Forgets,
    /// Refuses every 50th event.
    Refuses,
    /// Never answers for every 50th event.
    Silent,
    /// Answers twice for every 50th event.
    AnswersTwice,
    /// Serves older versions of replaceable events.
    KeepsAll,
    /// Sends events of one second highest id first.
    OtherOrder,
    /// Skips the newest event of an answer.
    SkipsNewest,
    /// Every 50th live delivery is lost.
    LosesDeliveries,
    /// Every 50th live delivery comes twice.
    DeliversTwice,
}

type Writer = Arc<Mutex<WebSocket<TcpStream>>>;

#[derive(Default)]
struct State {
    events: Vec<Value>,
    subs: HashMap<(usize, String), (Writer, Vec<Value>)>,
    reconciliations: HashMap<(usize, String), NegentropyStorageVector>,
    published: usize,
    deliveries: usize,
}

/// Starts a relay and returns its URL; it ends with the test.
pub(crate) fn start(fault: Fault) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let state = Arc::new(Mutex::new(State::default()));
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let state = Arc::clone(&state);
            std::thread::spawn(move || serve(number, stream.unwrap(), &state, fault));
        }
    });
    url
}

fn serve(number: usize, stream: TcpStream, state: &Mutex<State>, fault: Fault) {
    stream.set_nodelay(true).unwrap();
    let copy = stream.try_clone().unwrap();
    let mut reader = tungstenite::accept(stream).unwrap();
    let writer: Writer = Arc::new(Mutex::new(WebSocket::from_raw_socket(copy, Role::Server, None)));
    send(&writer, &json!(["AUTH", "a challenge, as many relays send"]));
    while let Ok(message) = reader.read() {
        let Message::Text(text) = message else { continue };
        let frame: Vec<Value> = serde_json::from_str(&text).unwrap();
        let mut state = state.lock().unwrap();
        match frame[0].as_str().unwrap() {
            "EVENT" => publish(&mut state, &writer, &frame[1], fault),
            "REQ" => {
                let sub = frame[1].as_str().unwrap().to_owned();
                for event in answer(&state.events, &frame[2..], fault) {
                    send(&writer, &json!(["EVENT", sub, event]));
                }
                send(&writer, &json!(["EOSE", sub]));
                state.subs.insert((number, sub), (Arc::clone(&writer), frame[2..].to_vec()));
            }
            "CLOSE" => {
                state.subs.remove(&(number, frame[1].as_str().unwrap().to_owned()));
            }
            "NEG-OPEN" => {
                let sub = frame[1].as_str().unwrap().to_owned();
                let set = set_of(&answer(&state.events, &frame[2..3], fault));
                send(&writer, &json!(["NEG-MSG", sub, reconcile(&set, &frame[3])]));
                state.reconciliations.insert((number, sub), set);
            }
            "NEG-MSG" => {
                let sub = frame[1].as_str().unwrap().to_owned();
                let message = reconcile(&state.reconciliations[&(number, sub.clone())], &frame[2]);
                send(&writer, &json!(["NEG-MSG", sub, message]));
            }
            "NEG-CLOSE" => {
                state.reconciliations.remove(&(number, frame[1].as_str().unwrap().to_owned()));
            }
            other => panic!("{other}"),
        }
    }
}

fn set_of(events: &[Value]) -> NegentropyStorageVector {
    let mut set = NegentropyStorageVector::new();
    for event in events {
        let id = hex::decode32(event["id"].as_str().unwrap().as_bytes()).unwrap();
        set.insert(event["created_at"].as_u64().unwrap(), Id::from_byte_array(id)).unwrap();
    }
    set.seal().unwrap();
    set
}

fn reconcile(set: &NegentropyStorageVector, message: &Value) -> String {
    let mut negentropy = Negentropy::new(Storage::Borrowed(set), 0).unwrap();
    let message = hex::decode(message.as_str().unwrap()).unwrap();
    hex::encode(&negentropy.reconcile(&message).unwrap())
}

fn send(writer: &Writer, frame: &Value) {
    // The client may have closed the connection.
    let _ = writer.lock().unwrap().send(Message::text(frame.to_string()));
}

fn publish(state: &mut State, writer: &Writer, event: &Value, fault: Fault) {
    state.published += 1;
    let chosen = state.published.is_multiple_of(50);
    let verdict = |accepted: bool, why: &str| json!(["OK", event["id"], accepted, why]);
    let older = |old: &Value| {
        address(old).is_some_and(|of_old| Some(of_old) == address(event)) && rank(old) <= rank(event)
    };
    if chosen && fault == Fault::Refuses {
        return send(writer, &verdict(false, "error: full"));
    }
    if fault != Fault::KeepsAll && state.events.iter().any(older) {
        return send(writer, &verdict(false, "replaced: have newer event"));
    }
    if !(chosen && fault == Fault::Forgets) {
        if fault != Fault::KeepsAll {
            let of_new = address(event);
            state.events.retain(|old| of_new.is_none() || address(old) != of_new);
        }
        state.events.push(event.clone());
    }
    let times = match fault {
        Fault::Silent if chosen => 0,
        Fault::AnswersTwice if chosen => 2,
        _ => 1,
    };
    (0..times).for_each(|_| send(writer, &verdict(true, "")));
    let State { subs, deliveries, .. } = state;
    for ((_, sub), (to, filters)) in subs {
        if filters.iter().any(|filter| matches(filter, event)) {
            *deliveries += 1;
            let times = match fault {
                Fault::LosesDeliveries if deliveries.is_multiple_of(50) => 0,
                Fault::DeliversTwice if deliveries.is_multiple_of(50) => 2,
                _ => 1,
            };
            (0..times).for_each(|_| send(to, &json!(["EVENT", sub, event])));
        }
    }
}

/// Kind, author and `d` tag of a replaceable or addressable event.
fn address(event: &Value) -> Option<(u64, &str, &str)> {
    let kind = event["kind"].as_u64().unwrap();
    let d = match kind {
        0 | 3 | 10_000..=19_999 => "",
        30_000..=39_999 => {
            let tags = event["tags"].as_array().unwrap();
            tags.iter().find(|tag| tag[0] == "d").map_or("", |tag| tag[1].as_str().unwrap())
        }
        _ => return None,
    };
    Some((kind, event["pubkey"].as_str().unwrap(), d))
}

/// Newest first, lowest id first.
fn rank(event: &Value) -> (std::cmp::Reverse<u64>, &str) {
    (std::cmp::Reverse(event["created_at"].as_u64().unwrap()), event["id"].as_str().unwrap())
}

fn answer(events: &[Value], filters: &[Value], fault: Fault) -> Vec<Value> {
    let mut found: Vec<&Value> =
        events.iter().filter(|event| filters.iter().any(|filter| matches(filter, event))).collect();
    if fault == Fault::OtherOrder {
        found.sort_by_key(|event| (rank(event).0, std::cmp::Reverse(rank(event).1)));
    } else {
        found.sort_by_key(|event| rank(event));
    }
    let limit = filters[0]["limit"].as_u64().map_or(usize::MAX, |limit| limit as usize);
    let skip = usize::from(fault == Fault::SkipsNewest);
    found.into_iter().skip(skip).take(limit).cloned().collect()
}

fn matches(filter: &Value, event: &Value) -> bool {
    filter.as_object().unwrap().iter().all(|(name, wanted)| {
        let has = |value: &Value| wanted.as_array().unwrap().contains(value);
        match name.as_str() {
            "ids" => has(&event["id"]),
            "authors" => has(&event["pubkey"]),
            "kinds" => has(&event["kind"]),
            "since" => event["created_at"].as_u64() >= wanted.as_u64(),
            "until" => event["created_at"].as_u64() <= wanted.as_u64(),
            "limit" => true,
            tag => {
                let letter = tag.strip_prefix('#').unwrap();
                let tags = event["tags"].as_array().unwrap();
                tags.iter().any(|tag| tag[0] == letter && tag.get(1).is_some_and(has))
            }
        }
    })
}
