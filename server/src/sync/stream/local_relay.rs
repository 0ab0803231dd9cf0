//! The relay that serves the folder, as a client of it: it is given the ephemeral events of other relays, and its own are taken
//! from it. All other events go through the store.

use std::sync::Arc;
use std::time::Duration;

use relay_engine::store::Backend;
use relay_engine::types::{Class, Event};
use relay_engine::wire;
use tokio::sync::mpsc;

use super::super::backoff::Backoff;
use super::super::frames::{self, Frame};
use super::super::peer::{Connection, RelayUrl};
use super::follower::Shared;
use super::notice::{Teller, What};

/// Events that wait to be given to it.
pub(super) const WAITING_EVENTS: usize = 1_024;
const CONNECT_TIME: Duration = Duration::from_secs(10);
const WAIT_FIRST: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Exchanges ephemeral events with it for ever.
pub(super) async fn run<B: Backend>(
    shared: Arc<Shared<B>>,
    url: RelayUrl,
    mut waiting: mpsc::Receiver<Arc<Event>>,
    teller: Teller,
) {
    let mut backoff = Backoff::endless(WAIT_FIRST, WAIT_MAX);
    let mut was_told = false;
    loop {
        let connected = tokio::time::timeout(CONNECT_TIME, shared.connector.connect(&url)).await;
        let why = match connected {
            Ok(Ok(connection)) => {
                was_told = false;
                exchange(&shared, connection, &mut waiting).await
            }
            Ok(Err(error)) => format!("cannot connect: {error}"),
            Err(_) => "it does not answer".to_owned(),
        };
        if !std::mem::replace(&mut was_told, true) {
            teller.tell(What::Notice, &format!("the relay here: {why}; ephemeral events wait for it"), None);
        }
        let mut random = [0; 8];
        let _ = getrandom::fill(&mut random);
        let wait = backoff.failed(false, u64::from_le_bytes(random)).unwrap_or(WAIT_MAX);
        tokio::time::sleep(wait).await;
    }
}

/// One connection. Why it has ended.
async fn exchange<B: Backend>(
    shared: &Shared<B>,
    mut connection: Connection,
    waiting: &mut mpsc::Receiver<Arc<Event>>,
) -> String {
    let Some(room) = connection.outgoing.room().await else { return "the connection is cut".to_owned() };
    // No filter names all ephemeral kinds.
    room.send(frames::req("live", r#"{"limit":0}"#));
    loop {
        tokio::select! {
            text = connection.incoming.next() => {
                let text = match text {
                    Ok(text) => text,
                    Err(why) => return why,
                };
                match Frame::parse(&text) {
                    Some(Frame::Event { json, .. }) => {
                        if let Ok(raw) = wire::parse_event(json.as_bytes()) {
                            let event = raw.to_event();
                            if event.class() == Class::Ephemeral {
                                shared.hub.published(event);
                            }
                        }
                    }
                    Some(Frame::Closed { message, .. }) => return format!("it closes the subscription: {message}"),
                    _ => {}
                }
            }
            event = waiting.recv() => {
                let Some(event) = event else { return std::future::pending().await };
                let Some(room) = connection.outgoing.room().await else { return "the connection is cut".to_owned() };
                room.send(frames::event(&String::from_utf8_lossy(event.json())));
            }
        }
    }
}
