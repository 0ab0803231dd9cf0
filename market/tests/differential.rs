//! The registry against a naive recomputation over random histories: events in any order, with repeats, deletions, requests to
//! vanish, expirations, restarts, and receipts, right ones and others. The naive one keeps all events, and computes with loops and floating point
//! numbers alone; what a receipt says it knows from who has made it.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::zaps::Zap;
use common::{Draft, pubkey};
use relay_agent::api::Relay;
use relay_agent::identity::npub;
use relay_engine::testing::Rng;
use relay_engine::types::{Event, EventId, NO_EXPIRY, PubKey, Timestamp};
use relay_market::Registry;
use relay_market::http::{Request, answer};
use relay_market::proof::Proof;
use relay_market::testing::Sqlite;
use relay_site::MarketRoute;
use serde_json::Value;

const START: Timestamp = 2_000_000_000;
const WINDOW: Timestamp = 30 * 86_400;
const PROVIDERS: u64 = 3;
const AUTHORS: u64 = 7;

/// The events that a relay has, and has shown whole because they expire.
#[derive(Default)]
struct Naive {
    events: Vec<Event>,
    /// What receipts say, of those that are not forged.
    zaps: BTreeMap<EventId, Zap>,
}

/// What the naive one finds.
struct Found {
    /// Delivered, failed, unpaid, pending, answers to open requests, customers served, paid, paying customers, millisatoshis.
    counts: Vec<u64>,
    success: Option<u64>,
    bound: f64,
    latency: Option<u64>,
    /// Requests whose answer is gone.
    gone: Vec<String>,
}

/// A delivered job that the provider wants to be paid for.
struct Demanded<'e> {
    request: &'e Event,
    least: u64,
    zappable: Vec<EventId>,
}

/// `amount` of an answer, if it can be read.
fn amount(event: &Event) -> u64 {
    tags(event, "amount").next().and_then(|amount| amount.parse().ok()).unwrap_or(0)
}

fn tags<'e>(event: &'e Event, name: &'static str) -> impl Iterator<Item = String> + 'e {
    event
        .tags()
        .named(name.as_bytes())
        .filter_map(|tag| tag.value())
        .map(|value| String::from_utf8_lossy(&value).into_owned())
}

impl Naive {
    fn put(&mut self, event: &Event) {
        if event.kind == 5 {
            let named: Vec<String> = tags(event, "e").collect();
            self.events.retain(|one| one.pubkey != event.pubkey || !named.contains(&one.id.to_string()));
        } else if event.kind == 62 {
            self.events.retain(|one| one.pubkey != event.pubkey || one.created_at > event.created_at);
        } else if self.events.iter().all(|one| one.id != event.id) {
            self.events.push(event.clone());
        }
    }

    fn figures(&self, provider: &PubKey, now: Timestamp) -> Found {
        let is_shown = |event: &Event| event.expires_at > now || event.json().len() <= 4_096;
        let mut counts = vec![0; 5];
        let (mut gone, mut demanded) = (Vec::new(), Vec::new());
        let mut ratios: BTreeMap<PubKey, (f64, f64)> = BTreeMap::new();
        let mut times: BTreeMap<PubKey, Vec<u64>> = BTreeMap::new();
        for request in self.events.iter().filter(|event| (5_000..6_000).contains(&event.kind)) {
            let named: Vec<String> = tags(request, "p").collect();
            let is_named = named.contains(&provider.to_string());
            let age = now.checked_sub(request.created_at);
            if request.pubkey == *provider || !is_shown(request) || age.is_none_or(|age| age >= WINDOW) {
                continue;
            }
            if !is_named && request.tags().named(b"p").next().is_some() {
                continue;
            }
            let answers: Vec<&Event> = self
                .events
                .iter()
                .filter(|event| event.pubkey == *provider && event.created_at <= now)
                .filter(|event| tags(event, "e").next() == Some(request.id.to_string()))
                .collect();
            let results: Vec<&&Event> =
                answers.iter().filter(|event| event.kind == request.kind + 1_000).collect();
            let invoices: Vec<&&Event> = answers
                .iter()
                .filter(|event| {
                    event.kind == 7_000 && tags(event, "status").next().as_deref() == Some("payment-required")
                })
                .collect();
            let first = results.iter().filter(|event| is_shown(event)).map(|event| event.created_at).min();
            let is_gone = |all: &[&&Event]| !all.is_empty() && all.iter().all(|event| !is_shown(event));
            if is_gone(&results) || (is_named && first.is_none() && is_gone(&invoices)) {
                gone.push(request.id.to_string());
                continue;
            }
            if !is_named && first.is_none() {
                continue;
            }
            let index = match first {
                Some(_) => 0,
                None if age.is_some_and(|age| age < 3_600) => 3,
                None if !invoices.is_empty() => 2,
                None => 1,
            };
            if !is_named {
                counts[4] += 1;
                continue;
            }
            counts[index] += 1;
            let asks = |event: &Event| match event.kind {
                7_000 => tags(event, "status").next().as_deref() == Some("payment-required"),
                _ => amount(event) > 0,
            };
            let mut demands: Vec<u64> = answers
                .iter()
                .filter(|event| is_shown(event) && asks(event))
                .map(|event| amount(event))
                .collect();
            if first.is_some() && !demands.is_empty() {
                let is_evidence = |event: &&&Event| is_shown(event) && (event.kind != 7_000 || asks(event));
                let mut zappable: Vec<EventId> =
                    answers.iter().filter(is_evidence).map(|event| event.id).collect();
                zappable.push(request.id);
                demands.sort_unstable();
                let least = demands.iter().copied().find(|amount| *amount > 0).unwrap_or(0);
                demanded.push(Demanded { request, least, zappable });
            }
            if let Some(at) = first {
                times.entry(request.pubkey).or_default().push(at.saturating_sub(request.created_at));
            }
            if index < 2 {
                let (delivered, decided) = ratios.entry(request.pubkey).or_default();
                *delivered += f64::from(u8::from(index == 0));
                *decided += 1.0;
            }
        }
        let median = |mut all: Vec<u64>| {
            all.sort_unstable();
            all.get(all.len().wrapping_sub(1) / 2).copied()
        };
        let medians: Vec<u64> = times.into_values().filter_map(median).collect();
        counts.push(medians.len() as u64);
        let mean = ratios.values().map(|(delivered, decided)| delivered / decided).sum::<f64>()
            / ratios.len() as f64;
        let success = (!ratios.is_empty()).then_some((mean * 1_000.0) as u64);
        let paying = self.pay(provider, now, &demanded, &mut counts);
        let count: f64 = ratios.keys().map(|key| if paying.contains(key) { 1.0 } else { 0.5 }).sum();
        let (z, bound) = (1.96_f64.powi(2), success.map_or(0.0, |_| mean));
        let spread = (z * (bound * (1.0 - bound) / count + z / (4.0 * count * count))).sqrt();
        let bound = (bound + z / (2.0 * count) - spread) / (1.0 + z / count);
        gone.sort();
        let bound = if success.is_some() { bound.max(0.0) * 1_000.0 } else { 0.0 };
        Found { counts, success, bound, latency: median(medians), gone }
    }

    /// Adds what is paid to the counts. Returns who has paid.
    fn pay(
        &self,
        provider: &PubKey,
        now: Timestamp,
        demanded: &[Demanded<'_>],
        counts: &mut Vec<u64>,
    ) -> BTreeSet<PubKey> {
        let mut receipts: Vec<&Event> = self.events.iter().filter(|event| event.kind == 9_735).collect();
        receipts.sort_by_key(|receipt| (receipt.created_at, receipt.id));
        let (mut paid, mut paying, mut msat) = (Vec::new(), BTreeSet::new(), 0);
        for receipt in receipts.into_iter().filter(|receipt| receipt.expires_at == NO_EXPIRY) {
            let Some(zap) = self.zaps.get(&receipt.id) else { continue };
            let payer = pubkey(zap.payer);
            for Demanded { request, least, zappable } in demanded {
                if zappable.contains(&zap.zapped)
                    && request.pubkey == payer
                    && pubkey(zap.payee) == *provider
                    && zap.msat >= *least
                    && receipt.created_at <= now
                    && receipt.created_at + 86_400 > request.created_at
                    && !paid.contains(&request.id)
                {
                    paid.push(request.id);
                    paying.insert(payer);
                    msat += least;
                }
            }
        }
        counts.extend([paid.len() as u64, paying.len() as u64, msat]);
        paying
    }
}

/// A receipt about something that was made, mostly a right one. Of one that is not forged what it says.
fn random_receipt(rng: &mut Rng, made: &[Event], now: Timestamp) -> Option<(Draft, Option<Zap>)> {
    let number = |key: &PubKey| (1..=AUTHORS as u8).find(|each| pubkey(*each) == *key);
    let fitting: Vec<&Event> = made.iter().filter(|event| (5_000..=7_000).contains(&event.kind)).collect();
    let zapped = *fitting.get(rng.below(fitting.len().max(1) as u64) as usize)?;
    let request = match zapped.kind {
        5_000..6_000 => zapped,
        _ => made.iter().find(|event| tags(zapped, "e").next() == Some(event.id.to_string()))?,
    };
    let named = tags(request, "p").next().and_then(|key| key.parse().ok());
    let payee = if zapped.kind < 6_000 { named.as_ref().and_then(number) } else { number(&zapped.pubkey) };
    let mut zap = Zap {
        payer: number(&request.pubkey)?,
        payee: payee.unwrap_or(1),
        signer: rng.below(AUTHORS) as u8 + 1,
        zapped: zapped.id,
        msat: 1_000 * (1 + rng.below(4)),
        payment_hash: [rng.below(40) as u8; 32],
        at: match rng.below(4) {
            0 => request.created_at.saturating_sub(rng.below(100_000)),
            1 => now + rng.below(60),
            _ => request.created_at + rng.below(4_000),
        },
    };
    if rng.one_in(8) {
        zap.payer = rng.below(AUTHORS) as u8 + 1;
    }
    if rng.one_in(8) {
        zap.payee = rng.below(PROVIDERS) as u8 + 1;
    }
    let right = String::from_utf8(zap.request().event().json().to_vec()).unwrap();
    let forged = match rng.below(12) {
        0 => right.replacen("\"content\":\"\"", "\"content\":\"x\"", 1),
        1 => String::from_utf8(zap.request().tag(&["k", "1"]).event().json().to_vec()).unwrap(),
        2 => return Some((zap.receipt_with(&right, "lnbc"), None)),
        _ if zap.payer == zap.payee => right,
        _ => return Some((zap.receipt(), Some(zap))),
    };
    Some((zap.receipt_of(&forged), None))
}

/// An event, and what it says if it is a receipt that is not forged.
fn random_event(rng: &mut Rng, made: &[Event], now: Timestamp) -> (Event, Option<Zap>) {
    let author = rng.below(AUTHORS) as u8 + 1;
    let provider = rng.below(PROVIDERS) as u8 + 1;
    let at = match rng.below(6) {
        0 => now - rng.below(WINDOW + 100),
        1 => now + rng.below(60),
        _ => now - rng.below(9_000),
    };
    let some = |rng: &mut Rng, test: &dyn Fn(&Event) -> bool| {
        let fitting: Vec<&Event> = made.iter().filter(|event| test(event)).collect();
        if fitting.is_empty() { None } else { Some((*rng.pick(&fitting)).clone()) }
    };
    let mut zap = None;
    let mut draft = match rng.below(13) {
        0..4 => {
            let draft = Draft::new(author, 5_050 + rng.below(2) as u16, at);
            match rng.below(6) {
                0 => draft,
                1 => draft.tag(&["p", "zz"]),
                2 => draft.tag(&["p", &pubkey(provider).to_string()]).tag(&["p", &pubkey(2).to_string()]),
                _ => draft.tag(&["p", &pubkey(provider).to_string()]),
            }
        }
        4..8 => {
            let Some(to) = some(rng, &|event| (5_000..6_000).contains(&event.kind)) else {
                return random_event(rng, made, now);
            };
            let kind = *rng.pick(&[to.kind + 1_000, to.kind + 1_000, 6_050, 7_000]);
            let at = to.created_at + rng.below(5_000) - rng.below(3).min(to.created_at);
            let draft = Draft::new(provider, kind, at).tag(&["e", &to.id.to_string()]);
            match kind {
                7_000 => {
                    let draft =
                        draft.tag(&["status", *rng.pick(&["payment-required", "payment-required", "error"])]);
                    draft.tag(&["amount", *rng.pick(&["1000", "2000", "3000", "", "free"])])
                }
                _ if rng.one_in(2) => draft.tag(&["amount", *rng.pick(&["1000", "2000", "0", "1.5"])]),
                _ => draft,
            }
        }
        8 => {
            let Some(target) = some(rng, &|_| true) else { return random_event(rng, made, now) };
            let by = if rng.one_in(4) {
                author
            } else {
                (1..=AUTHORS as u8).find(|each| pubkey(*each) == target.pubkey).unwrap_or(1)
            };
            Draft::new(by, 5, at).tag(&["e", &target.id.to_string()])
        }
        9..12 => {
            let Some((draft, says)) = random_receipt(rng, made, now) else {
                return random_event(rng, made, now);
            };
            zap = says;
            draft
        }
        _ if rng.one_in(8) => Draft::new(author, 62, at),
        // A repeat, of which is known what it says.
        _ => {
            let again = some(rng, &|event| event.kind != 62);
            return (again.unwrap_or_else(|| Draft::new(author, 5_050, at).event()), None);
        }
    };
    if rng.one_in(4) && draft.kind > 62 {
        draft = draft.tag(&["expiration", &(now + 1 + rng.below(4_000)).to_string()]);
        if rng.one_in(2) {
            draft = draft.content(&"x".repeat(5_000));
        }
    }
    (draft.event(), zap)
}

#[test]
fn the_registry_and_a_naive_recomputation_agree() {
    let (mut compared, mut delivered, mut expired, mut paid) = (0, 0, 0, 0);
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let db = Sqlite::new();
        let mut registry = Registry::open(db.clone()).unwrap();
        let (mut naive, mut made, mut now, mut seq) = (Naive::default(), Vec::new(), START, 0);
        for provider in 1..=PROVIDERS as u8 {
            let offer = Draft::new(provider, 31_990, START - 1)
                .tag(&["d", "x"])
                .tag(&["k", "5050"])
                .content("{\"name\":\"x\"}");
            seq += 1;
            registry.apply(&[(seq, Some(offer.event()))], now, &|_| true).unwrap();
        }
        for _ in 0..50 {
            let mut items = Vec::new();
            for _ in 0..=rng.below(5) {
                let (event, zap) = random_event(&mut rng, &made, now);
                naive.zaps.extend(zap.map(|zap| (event.id, zap)));
                // The relay takes no event that has been deleted or has expired.
                let is_deleted = |by: &Event| {
                    by.kind == 5
                        && by.pubkey == event.pubkey
                        && tags(by, "e").any(|id| id == event.id.to_string())
                };
                let is_vanished = |by: &Event| {
                    by.kind == 62 && by.pubkey == event.pubkey && by.created_at >= event.created_at
                };
                if event.expires_at <= now || made.iter().any(|by| is_deleted(by) || is_vanished(by)) {
                    continue;
                }
                // What the window has left before it came is nowhere kept.
                if event.created_at + WINDOW + 86_400 > now || event.kind <= 62 {
                    naive.put(&event);
                }
                made.push(event.clone());
                seq += 1;
                items.push((seq, Some(event)));
            }
            registry.apply(&items, now, &|_| true).unwrap();
            if rng.one_in(3) {
                let most = if rng.one_in(5) { 10 * 86_400 } else { 3_000 };
                now += rng.below(most);
            }
            if rng.one_in(10) {
                registry = Registry::open(db.clone()).unwrap();
            }
            while registry.sweep(now).unwrap() {
                registry.refresh(now).unwrap();
            }
            while registry.refresh(now).unwrap() {}
            // Announcements go with a request to vanish; figures of whoever is listed are compared.
            let relay = Relay { name: "", url: "", version: "" };
            let ask = |route, npub: Option<&str>| {
                answer(&registry, &Request { route, npub, query: "", relay }, now).unwrap()
            };
            let listed: Value = serde_json::from_slice(&ask(MarketRoute::List, None).body).unwrap();
            for entry in listed["providers"].as_array().unwrap() {
                let provider: PubKey = entry["pubkey"].as_str().unwrap().parse().unwrap();
                let Found { counts, success, bound, latency, gone } = naive.figures(&provider, now);
                let proof: Value =
                    serde_json::from_slice(&ask(MarketRoute::Proof, Some(&npub(&provider))).body).unwrap();
                for (figures, what) in [(&entry["figures"], "list"), (&proof["figures"], "proof")] {
                    let found: Vec<u64> = [
                        "jobs_delivered",
                        "jobs_failed",
                        "jobs_unpaid",
                        "jobs_pending",
                        "open_requests_answered",
                        "distinct_customers_served",
                        "jobs_paid",
                        "distinct_paying_customers",
                        "paid_msat",
                    ]
                    .map(|name| figures[name].as_u64().unwrap())
                    .into();
                    assert_eq!(found, counts, "seed {seed}, {what}");
                    let thousandths = figures["success_ratio_mean_of_customers"]
                        .as_f64()
                        .map(|ratio| (ratio * 1_000.0).round() as u64);
                    assert!(
                        thousandths.is_some() == success.is_some()
                            && thousandths.unwrap_or(0).abs_diff(success.unwrap_or(0)) <= 1,
                        "seed {seed}, {what}: {thousandths:?} {success:?}"
                    );
                    let found = figures["success_ratio_lower_bound_95"].as_f64().unwrap() * 1_000.0;
                    assert!((found - bound).abs() < 1.5, "seed {seed}, {what}: {found} {bound}");
                    assert_eq!(
                        figures["latency_seconds_median_of_customers"].as_u64(),
                        latency,
                        "seed {seed}, {what}"
                    );
                }
                let days = "latency_seconds_by_day";
                assert_eq!(entry["figures"][days], proof["figures"][days], "seed {seed}");
                let found: Vec<&str> =
                    proof["expired"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
                assert_eq!(found, gone, "seed {seed}");
                // From what the proof shows and the relay still serves anybody recomputes it.
                let read = Proof::read(&proof).unwrap();
                let served = naive
                    .events
                    .iter()
                    .filter(|event| event.expires_at == NO_EXPIRY || event.expires_at > now);
                let mut ids = BTreeSet::new();
                let all: Vec<&Event> = read
                    .events
                    .iter()
                    .chain(served)
                    .filter(|event| event.created_at <= now && ids.insert(event.id))
                    .collect();
                assert_eq!(read.recompute(all.iter().copied()), proof["figures"], "seed {seed}");
                assert!(
                    read.ids.iter().all(|id| ids.contains(id)),
                    "seed {seed}: an id that the relay does not serve"
                );
                compared += 1;
                delivered += counts[0];
                paid += counts[6];
                expired += gone.len();
            }
        }
    }
    assert!(compared > 3_000 && delivered > 3_000, "{compared} {delivered}");
    assert!(expired > 100 && paid > 300, "{expired} {paid}");
}
