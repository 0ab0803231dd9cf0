//! `relay market verify`: recomputes the figures of a provider from signed events, and compares them with what a relay claims.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use clap::{Args, Subcommand};
use relay_agent::identity::{npub, parse_pubkey};
use relay_agent::nip57::KIND_ZAP_RECEIPT;
use relay_agent::nip90::KIND_FEEDBACK;
use relay_engine::types::{Event, EventId, Kind, PubKey};
use relay_engine::verify::{Verifier, verify_one};
use relay_engine::wire;
use relay_market::evidence::{Evidence, Role};
use relay_market::figures::WINDOW_SECONDS;
use relay_market::proof::Proof;
use relay_market::receipt::Receipt;
use relay_market::registry::{REQUESTS, RESULTS};
use serde_json::{Value, json};

use super::exit::Failure;
use super::remote::print;
use crate::agents::tls;
use crate::config::Settings;
use crate::sync::peer::{Connection, Connector, RelayUrl};
use relay_sync::session::quoted;

/// Longest time without an answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Largest proof, in bytes.
const PROOF_BYTES_MAX: usize = 64 << 20;
/// Ids that are asked for at once.
const IDS_MAX: usize = 200;
/// Events that are asked for at once.
const EVENTS_MAX: usize = 500;
/// Parts that are asked for of one filter.
const PARTS_MAX: usize = 20_000;
/// Events that are taken of a relay.
const EVENTS_TAKEN_MAX: usize = 500_000;
/// Events that the relay may have stored after it made the proof, though they state an earlier time.
const SETTLED_SECONDS: u64 = 10;

/// The subcommand.
#[derive(Args, Debug)]
pub struct MarketArgs {
    #[command(subcommand)]
    command: MarketCommand,
}

#[derive(Subcommand, Debug)]
enum MarketCommand {
    /// Recompute the figures of a provider from signed events, and compare them with those that a relay claims
    Verify {
        /// The relay: http(s):// or ws(s)://
        url: String,
        /// The provider: an npub, or 64 hexadecimal digits
        provider: String,
        /// Print one JSON object instead of lines
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
pub(super) fn run(args: &MarketArgs) -> Result<(), Failure> {
    let MarketCommand::Verify { url, provider, json } = &args.command;
    let provider = parse_pubkey(provider)
        .ok_or_else(|| Failure::Usage(format!("{provider}: expected an npub or 64 hexadecimal digits")))?;
    let (http, ws) = urls(url)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let found = runtime.block_on(verify(&http, &ws, &provider))?;
    print(&if *json { found.json().to_string() } else { found.words() })?;
    if found.is_right() { Ok(()) } else { Err(Failure::Refused) }
}

/// The relay's HTTP and WebSocket URLs.
fn urls(url: &str) -> Result<(String, RelayUrl), Failure> {
    let wrong = || Failure::Usage(format!("{url}: expected http://, https://, ws:// or wss://"));
    let (scheme, rest) = url.trim().split_once("://").ok_or_else(wrong)?;
    let is_tls = match &*scheme.to_ascii_lowercase() {
        "http" | "ws" => false,
        "https" | "wss" => true,
        _ => return Err(wrong()),
    };
    let rest = rest.trim_end_matches('/');
    let (http, ws) = if is_tls { ("https", "wss") } else { ("http", "ws") };
    let ws = format!("{ws}://{rest}").parse().map_err(Failure::Usage)?;
    Ok((format!("{http}://{rest}"), ws))
}

/// What was found.
struct Found {
    provider: PubKey,
    claimed: Value,
    recomputed: Value,
    /// Events from which they were recomputed.
    events: usize,
    /// Events that the proof names and the relay does not have.
    missing: Vec<EventId>,
    /// Requests that name the provider, are on the relay, and are not in the proof.
    left_out: Vec<EventId>,
    /// Jobs that do not count because an answer has expired.
    expired: usize,
    /// Requests that name the provider, are on the relay, and do not count because its registry has forgotten some of that time.
    forgotten: usize,
    /// Jobs that receipts on the relay would pay, which the proof does not name. Its registry keeps a bounded number of them.
    unnamed_payments: u64,
}

impl Found {
    fn is_right(&self) -> bool {
        // Of a provider with too many jobs the proof has only the newest.
        let is_complete = self.left_out.is_empty() || self.claimed["newest_jobs_only"] == true;
        self.claimed == self.recomputed && self.missing.is_empty() && is_complete
    }

    fn json(&self) -> Value {
        let ids = |ids: &[EventId]| ids.iter().map(EventId::to_string).collect::<Vec<_>>();
        json!({
            "npub": npub(&self.provider),
            "right": self.is_right(),
            "claimed": self.claimed,
            "recomputed": self.recomputed,
            "events": self.events,
            "missing": ids(&self.missing),
            "left_out": ids(&self.left_out),
            "expired": self.expired,
            "forgotten": self.forgotten,
            "unnamed_payments": self.unnamed_payments,
        })
    }

    fn words(&self) -> String {
        let mut text = format!("{}: figures of {} events\n", npub(&self.provider), self.events);
        let names = self.recomputed.as_object().into_iter().flatten();
        for (name, recomputed) in names {
            let claimed = &self.claimed[name];
            let verdict = match claimed == recomputed {
                true => String::new(),
                false => format!("  WRONG: {} is claimed", quoted(&claimed.to_string())),
            };
            text.push_str(&format!("  {name:<38} {recomputed}{verdict}\n"));
        }
        for (count, what) in [
            (self.missing.len(), "events of the proof are not on the relay"),
            (self.left_out.len(), "requests that name the provider are on the relay and not in the proof"),
            (self.expired, "jobs do not count, because an answer has expired"),
            (
                self.forgotten,
                "requests do not count, because the registry has forgotten others of their time",
            ),
            (
                self.unnamed_payments as usize,
                "more jobs would be paid by receipts that are on the relay and not in the proof",
            ),
        ] {
            if count > 0 {
                text.push_str(&format!("  {count} {what}\n"));
            }
        }
        for (name, what) in [
            ("newest_jobs_only", "the registry has not kept all jobs of the window: older ones do not count"),
            (
                "newest_payments_only",
                "the registry has not kept all payments of the window: older ones do not count",
            ),
        ] {
            if self.claimed[name] == true {
                text.push_str(&format!("  {what}\n"));
            }
        }
        text.push_str(if self.is_right() { "right" } else { "WRONG" });
        text
    }
}

async fn verify(http: &str, ws: &RelayUrl, provider: &PubKey) -> Result<Found, Failure> {
    let document = proof(http, provider).await?;
    let proof =
        Proof::read(&document).map_err(|error| Failure::External(format!("{http}: the proof: {error}")))?;
    if proof.pubkey != *provider {
        return Err(Failure::External(format!("{http}: the proof is of another key")));
    }
    let verifier = Settings::default().verify.verifier(usize::MAX);
    let connector = Connector::new()?;
    let connected = tokio::time::timeout(TIMEOUT, connector.connect(ws)).await;
    let connection =
        connected.map_err(|_| timed_out(ws))?.map_err(|error| no_answer(ws, &error.to_string()))?;
    let mut relay = Relay { connection, url: ws, verifier: &*verifier, events: HashMap::new() };
    for event in &proof.events {
        relay.add(event.clone())?;
    }
    for ids in proof.ids.chunks(IDS_MAX) {
        let ids: Vec<String> = ids.iter().map(EventId::to_string).collect();
        relay.request(&json!({ "ids": ids })).await?;
    }
    let missing = proof.ids.iter().filter(|id| !relay.events.contains_key(id)).copied().collect();
    let mut known: Vec<EventId> = relay.events.keys().copied().collect();
    known.sort_unstable();
    let key = provider.to_string();
    let since = proof.as_of.saturating_sub(WINDOW_SECONDS - 1);
    let requests_and_receipts: Vec<Kind> = REQUESTS.chain([KIND_ZAP_RECEIPT]).collect();
    let answers: Vec<Kind> = RESULTS.chain([KIND_FEEDBACK]).collect();
    for filter in [
        json!({ "#p": [key], "kinds": requests_and_receipts }),
        json!({ "authors": [key], "kinds": answers }),
    ] {
        relay.request_all(&filter, since, proof.as_of).await?;
    }
    let events = relay.events;
    let is_settled = |event: &&Event| {
        event.created_at + SETTLED_SECONDS <= proof.as_of || known.binary_search(&event.id).is_ok()
    };
    let used: Vec<&Event> = events.values().filter(is_settled).collect();
    let names =
        |one: &Evidence| one.role == Role::Request && one.author != *provider && one.named.contains(provider);
    let requests = used.iter().filter_map(|event| Evidence::of(event)).filter(names);
    let is_in_proof: HashSet<&EventId> = proof.requests.iter().chain(&proof.expired).collect();
    let (forgotten, requests): (Vec<Evidence>, Vec<Evidence>) = requests.partition(|one| {
        proof.is_forgotten(one) || proof.needs_result(one) && !is_in_proof.contains(&one.id)
    });
    let mut left_out: Vec<EventId> =
        requests.iter().map(|one| one.id).filter(|id| !is_in_proof.contains(id)).collect();
    left_out.sort_unstable();
    Ok(Found {
        provider: *provider,
        recomputed: proof.recompute(used.iter().copied()),
        unnamed_payments: proof.unnamed_payments(used.iter().copied()),
        claimed: proof.claimed,
        events: used
            .iter()
            .filter(|event| Evidence::of(event).is_some() || Receipt::of(event).is_some())
            .count(),
        missing,
        left_out,
        expired: proof.expired.len(),
        forgotten: forgotten.len(),
    })
}

/// The relay's proof.
async fn proof(http: &str, provider: &PubKey) -> Result<Value, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::External(format!("{http}: {error}"));
    let tls = tls::config(tls::roots()).map_err(|error| failed(&error))?;
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(TIMEOUT)
        .build()
        .map_err(|error| failed(&error))?;
    let url = format!("{http}/market/{}/proof", npub(provider));
    let mut response = client.get(url).send().await.map_err(|error| failed(&error))?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| failed(&error))? {
        body.extend_from_slice(&piece);
        if body.len() > PROOF_BYTES_MAX {
            return Err(failed(&"the proof is too large"));
        }
    }
    let document: Value = serde_json::from_slice(&body).unwrap_or_default();
    if status.is_success() {
        return Ok(document);
    }
    let why = document["error"].as_str().map_or_else(|| "it has no market".to_owned(), quoted);
    Err(failed(&format!("no proof ({}): {why}", status.as_u16())))
}

fn no_answer(url: &RelayUrl, why: &str) -> Failure {
    Failure::External(format!("{url}: {why}"))
}

fn timed_out(url: &RelayUrl) -> Failure {
    no_answer(url, &format!("no answer for {} seconds", TIMEOUT.as_secs()))
}

/// A connection to the relay, and the events that it has sent, with checked ids and signatures.
struct Relay<'a> {
    connection: Connection,
    url: &'a RelayUrl,
    verifier: &'a dyn Verifier,
    events: HashMap<EventId, Event>,
}

impl Relay<'_> {
    /// An event whose id has been checked.
    fn add(&mut self, event: Event) -> Result<(), Failure> {
        let id = event.id;
        let Some(verified) = verify_one(self.verifier, event) else {
            return Err(no_answer(self.url, &format!("the signature of event {id} is wrong")));
        };
        self.events.insert(id, verified.into_event());
        Ok(())
    }

    /// Asks for what a filter matches. Returns how many events came, and the lowest `created_at`.
    async fn request(&mut self, filter: &Value) -> Result<(usize, u64), Failure> {
        match tokio::time::timeout(TIMEOUT, self.answers(filter)).await {
            Ok(answered) => answered,
            Err(_) => Err(timed_out(self.url)),
        }
    }

    async fn answers(&mut self, filter: &Value) -> Result<(usize, u64), Failure> {
        let url = self.url;
        let room = self
            .connection
            .outgoing
            .room()
            .await
            .ok_or_else(|| no_answer(url, "it closes the connection"))?;
        room.send(json!(["REQ", "verify", filter]).to_string());
        let (mut count, mut lowest) = (0, u64::MAX);
        loop {
            let text = self.connection.incoming.next().await.map_err(|error| no_answer(url, &error))?;
            let message: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
            let is_ours = message.get(1).is_some_and(|id| id == "verify");
            match message.first().and_then(Value::as_str) {
                Some("EVENT") if is_ours => {
                    let event = message.get(2).map(Value::to_string).unwrap_or_default();
                    let event = wire::parse_event(event.as_bytes())
                        .map_err(|_| no_answer(url, "it sends no event"))?;
                    if event.compute_id() != event.id {
                        return Err(no_answer(url, &format!("{} is not the id of its event", event.id)));
                    }
                    count += 1;
                    lowest = lowest.min(event.created_at);
                    if self.events.len() >= EVENTS_TAKEN_MAX || count > EVENTS_MAX {
                        return Err(no_answer(url, "it sends more events than it was asked for"));
                    }
                    let event = event.to_event();
                    if !self.events.contains_key(&event.id) {
                        self.add(event)?;
                    }
                }
                Some("EOSE") if is_ours => return Ok((count, lowest)),
                Some("CLOSED") if is_ours => {
                    let why = message.get(2).and_then(Value::as_str).unwrap_or_default();
                    return Err(no_answer(url, &format!("it refuses the request: {}", quoted(why))));
                }
                _ => {}
            }
        }
    }

    /// All that a filter matches in this time, a part after the other, the newest first.
    async fn request_all(&mut self, filter: &Value, since: u64, mut until: u64) -> Result<(), Failure> {
        for _ in 0..PARTS_MAX {
            let before = self.events.len();
            let asked_until = until;
            let mut part = filter.clone();
            part["since"] = json!(since);
            part["until"] = json!(until);
            part["limit"] = json!(EVENTS_MAX);
            let (count, lowest) = self.request(&part).await?;
            if count == 0 || lowest < since {
                return Ok(());
            }
            if lowest > asked_until {
                return Err(no_answer(self.url, "it sends events of other times than it was asked for"));
            }
            // The lowest second may have more; a part that has nothing new has all of that second that a part can have.
            until =
                if self.events.len() > before && lowest < until { lowest } else { lowest.saturating_sub(1) };
            if until < since {
                return Ok(());
            }
        }
        Err(no_answer(self.url, "its answers come to no end"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: a relay's words reached the terminal as they were.
    #[test]
    fn what_a_relay_claims_cannot_control_a_terminal() {
        let hostile = "0\u{1b}[2J\u{9b}2J\r\n";
        let found = Found {
            provider: PubKey([7; 32]),
            claimed: json!({ "jobs_failed": hostile, "window_seconds": [hostile] }),
            recomputed: json!({ "jobs_failed": 0, "window_seconds": 9 }),
            events: 1,
            missing: Vec::new(),
            left_out: Vec::new(),
            expired: 0,
            forgotten: 0,
            unnamed_payments: 2,
        };
        let words = found.words();
        assert!(words.ends_with("\nWRONG") && words.matches("is claimed").count() == 2, "{words}");
        assert!(words.lines().all(|line| !line.contains(char::is_control)), "{words:?}");
        assert_eq!(words.lines().count(), 5);
        assert!(words.contains("  2 more jobs would be paid by receipts that are on the relay"), "{words}");
    }

    #[test]
    fn a_relay_is_named_by_any_of_its_urls() {
        for (url, http, ws) in [
            ("http://127.0.0.1:7777", "http://127.0.0.1:7777", "ws://127.0.0.1:7777"),
            ("wss://relay.example/", "https://relay.example", "wss://relay.example"),
        ] {
            let (found_http, found_ws) = urls(url).unwrap();
            assert_eq!((found_http.as_str(), found_ws.to_string().as_str()), (http, ws));
        }
        for url in ["relay.example", "ftp://relay.example", "http://"] {
            assert!(urls(url).is_err(), "{url}");
        }
    }
}
