//! A host that plays the relay: it stores what is published and answers queries, and the test says what comes of calls.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use relay_engine::sql::SqlConn;
use relay_engine::types::{Event, EventId, Filter, Now, PubKey};
use sha2::{Digest, Sha256};

use crate::executor::{HttpError, HttpEvent, HttpRequest};
use crate::machine::{Agent, Effect, EffectId, Published};
use crate::nip90;

/// Most events that a query returns.
const QUERY_MAX: usize = 16;

/// Where the host's blobs are.
pub const BLOSSOM_URL: &str = "https://blobs.example";

/// A blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBlob {
    /// Whose it is.
    pub owner: PubKey,
    /// The bytes.
    pub bytes: Bytes,
    /// The MIME type.
    pub mime: String,
}

/// See the module.
#[derive(Debug, Default)]
pub struct FakeHost {
    /// What the relay has stored, in order, without repetitions.
    pub stored: Vec<Event>,
    /// URLs of other relays, and what was sent to each.
    pub sent: Vec<(String, EventId)>,
    /// What the relay says to each of the next events; accepts all that come later.
    pub outcomes: VecDeque<Published>,
    /// Calls that are open.
    pub calls: Vec<(EffectId, HttpRequest)>,
    /// Exchanges that are open, with their requests: with a remote signer or a wallet.
    pub exchanges: Vec<(EffectId, Vec<Event>)>,
    /// Calls that were ended by the agent.
    pub cancelled: Vec<EffectId>,
    /// Blobs by their SHA-256 in hexadecimal.
    pub blobs: BTreeMap<String, StoredBlob>,
    /// Why no blob is stored.
    pub refuses_blobs: Option<String>,
    /// Whether the relay cannot be read.
    pub is_blind: bool,
    /// Events that were published again although the relay had them.
    pub repeated: usize,
}

impl FakeHost {
    /// Carries out effects until there are none. Calls stay open until the test answers them.
    pub fn run<C: SqlConn>(&mut self, now: Now, agent: &mut Agent<C>) {
        while let Some(effect) = agent.poll_effect() {
            self.carry_out(now, agent, effect);
        }
    }

    /// Carries out one effect.
    pub fn carry_out<C: SqlConn>(&mut self, now: Now, agent: &mut Agent<C>, effect: Effect) {
        match effect {
            Effect::Publish { id, events, relays } => {
                let outcomes = self.publish(&events, &relays);
                agent.handle_published(now, id, &outcomes);
            }
            Effect::Send { events, relays, .. } => {
                for event in &events {
                    self.sent.extend(relays.iter().map(|relay| (relay.clone(), event.id)));
                }
            }
            Effect::Query { id, filter } => {
                let events = if self.is_blind { Err("blind".to_owned()) } else { Ok(self.query(&filter)) };
                agent.handle_events(now, id, events);
            }
            Effect::Http { id, request } => self.calls.push((id, request)),
            Effect::StoreBlob { id, owner, bytes, mime } => {
                let stored = self.put_blob(owner, bytes, mime);
                agent.handle_stored(now, id, stored);
            }
            Effect::ReadBlob { id, sha256, bytes_max } => {
                let events = match self.blobs.get(&sha256) {
                    None => vec![HttpEvent::Head(404, Vec::new()), HttpEvent::End],
                    Some(blob) if blob.bytes.len() > bytes_max => {
                        vec![HttpEvent::Failed(HttpError::TooLarge)]
                    }
                    Some(blob) => {
                        let head = HttpEvent::Head(200, vec![("content-type".to_owned(), blob.mime.clone())]);
                        vec![head, HttpEvent::Chunk(blob.bytes.clone()), HttpEvent::End]
                    }
                };
                events.into_iter().for_each(|event| agent.handle_http(now, id, event));
            }
            Effect::Exchange { id, requests, .. } => self.exchanges.push((id, requests)),
            Effect::Ai { id, .. } => {
                agent.handle_http(now, id, HttpEvent::Failed(HttpError::Unsupported));
            }
            Effect::Cancel { id } => {
                self.calls.retain(|(open, _)| *open != id);
                self.exchanges.retain(|(open, _)| *open != id);
                self.cancelled.push(id);
            }
        }
    }

    /// Stores a blob; its URL.
    ///
    /// # Errors
    /// [`FakeHost::refuses_blobs`].
    pub fn put_blob(&mut self, owner: PubKey, bytes: Bytes, mime: &str) -> Result<String, String> {
        if let Some(why) = &self.refuses_blobs {
            return Err(why.clone());
        }
        let sha256 = faster_hex::hex_string(&Sha256::digest(&bytes));
        let url = format!("{BLOSSOM_URL}/{sha256}.txt");
        self.blobs.insert(sha256, StoredBlob { owner, bytes, mime: mime.to_owned() });
        Ok(url)
    }

    /// Stores events, as far as [`FakeHost::outcomes`] lets them in.
    pub fn publish(&mut self, events: &[Event], relays: &[String]) -> Vec<Published> {
        let mut outcomes: Vec<Published> = Vec::new();
        for event in events {
            let failed = outcomes.last().filter(|last| matches!(last, Published::Failed(_))).cloned();
            let outcome = failed.or_else(|| self.outcomes.pop_front()).unwrap_or(Published::Accepted);
            if outcome == Published::Accepted {
                self.store(event.clone());
                self.sent.extend(relays.iter().map(|relay| (relay.clone(), event.id)));
            }
            outcomes.push(outcome);
        }
        outcomes
    }

    /// Stores an event that somebody else has published.
    pub fn store(&mut self, event: Event) {
        match self.stored.iter().any(|known| known.id == event.id) {
            true => self.repeated += 1,
            false => self.stored.push(event),
        }
    }

    /// The stored events that match, newest first.
    pub fn query(&self, filter: &Filter) -> Vec<Event> {
        let mut found: Vec<Event> =
            self.stored.iter().filter(|event| filter.matches(event)).cloned().collect();
        found.sort_by_key(|event| (std::cmp::Reverse(event.created_at), event.id));
        found.truncate(QUERY_MAX);
        found
    }

    /// Answers the oldest open call with a status and a body.
    ///
    /// # Panics
    /// If no call is open.
    pub fn answer<C: SqlConn>(&mut self, now: Now, agent: &mut Agent<C>, status: u16, body: &str) {
        let (id, _) = self.calls.remove(0);
        agent.handle_http(now, id, HttpEvent::Head(status, Vec::new()));
        agent.handle_http(now, id, HttpEvent::Chunk(body.to_owned().into()));
        agent.handle_http(now, id, HttpEvent::End);
        self.run(now, agent);
    }

    /// What was published about a request, in order: a status of feedback, or `result`, and the event.
    pub fn answers_to(&self, request: &EventId) -> Vec<(String, Event)> {
        answers(&self.stored, request)
    }
}

/// What among `events` is about a request, in order: a status of feedback, `encrypted` if it is hidden, or `result`; and the
/// event.
pub fn answers(events: &[Event], request: &EventId) -> Vec<(String, Event)> {
    let hex = request.to_string();
    let about = events.iter().filter(|event| {
        let is_answer = event.kind == nip90::KIND_FEEDBACK || nip90::is_result(event.kind);
        is_answer && event.tags().find(b"e").is_some_and(|id| *id == *hex.as_bytes())
    });
    let status = |event: &Event| match event.tags().find(b"status") {
        _ if nip90::is_result(event.kind) => "result".to_owned(),
        Some(status) => String::from_utf8_lossy(&status).into_owned(),
        None => "encrypted".to_owned(),
    };
    about.map(|event| (status(event), event.clone())).collect()
}
