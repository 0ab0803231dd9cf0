//! The naive recomputation: it keeps all events, and computes with loops and floating point numbers alone; what a receipt says it knows from who has made it.

use std::collections::{BTreeMap, BTreeSet};

use relay_engine::types::{Event, EventId, NO_EXPIRY, PubKey, Timestamp};

use super::WINDOW;
use super::common::pubkey;
use super::common::zaps::Zap;

/// The events that a relay has, and has shown whole because they expire.
#[derive(Default)]
pub(crate) struct Naive {
    pub(crate) events: Vec<Event>,
    /// What receipts say, of those that are not forged.
    pub(crate) zaps: BTreeMap<EventId, Zap>,
}

/// What the naive one finds.
pub(crate) struct Found {
    /// Delivered, failed, unpaid, pending, answers to open requests, customers served, paid, paying customers, millisatoshis.
    pub(crate) counts: Vec<u64>,
    pub(crate) success: Option<u64>,
    pub(crate) bound: f64,
    pub(crate) latency: Option<u64>,
    /// Requests whose answer is gone.
    pub(crate) gone: Vec<String>,
}

/// A delivered job that the provider wants to be paid for.
struct Demanded<'e> {
    request: &'e Event,
    least: u64,
    demanded_at: Timestamp,
    zappable: Vec<EventId>,
}

/// `amount` of an answer, if it can be read.
fn amount(event: &Event) -> u64 {
    tags(event, "amount").next().and_then(|amount| amount.parse().ok()).unwrap_or(0)
}

pub(crate) fn tags<'e>(event: &'e Event, name: &'static str) -> impl Iterator<Item = String> + 'e {
    event
        .tags()
        .named(name.as_bytes())
        .filter_map(|tag| tag.value())
        .map(|value| String::from_utf8_lossy(&value).into_owned())
}

impl Naive {
    pub(crate) fn put(&mut self, event: &Event) {
        if event.kind == 5 {
            let named: Vec<String> = tags(event, "e").collect();
            self.events.retain(|one| one.pubkey != event.pubkey || !named.contains(&one.id.to_string()));
        } else if event.kind == 62 {
            self.events.retain(|one| one.pubkey != event.pubkey || one.created_at > event.created_at);
        } else if self.events.iter().all(|one| one.id != event.id) {
            self.events.push(event.clone());
        }
    }

    pub(crate) fn figures(&self, provider: &PubKey, now: Timestamp) -> Found {
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
                    event.kind == 7_000
                        && tags(event, "status").next().as_deref() == Some("payment-required")
                        && event.created_at < request.created_at + 3_600
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
            let demands = answers.iter().filter(|event| is_shown(event) && asks(event));
            let demands = demands.map(|event| (amount(event) == 0, amount(event), event.created_at));
            if let (Some(_), Some((_, least, demanded_at))) = (first, demands.min()) {
                let is_evidence = |event: &&&Event| is_shown(event) && (event.kind != 7_000 || asks(event));
                let mut zappable: Vec<EventId> =
                    answers.iter().filter(is_evidence).map(|event| event.id).collect();
                zappable.push(request.id);
                demanded.push(Demanded { request, least, demanded_at, zappable });
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
            // It is forged if it states to be a day older than what the payer has signed.
            if receipt.created_at + 86_400 <= zap.at {
                continue;
            }
            for Demanded { request, least, demanded_at, zappable } in demanded {
                if zappable.contains(&zap.zapped)
                    && request.pubkey == payer
                    && pubkey(zap.payee) == *provider
                    && (if zap.names_amount { zap.msat } else { 0 }) >= *least
                    && receipt.created_at <= now
                    && zap.at + 86_400 > request.created_at
                    && *demanded_at <= zap.at + 86_400
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
