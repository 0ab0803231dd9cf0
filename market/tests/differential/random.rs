//! Random events, of whatever was made before.

use relay_engine::testing::Rng;
use relay_engine::types::{Event, PubKey, Timestamp};

use super::common::zaps::Zap;
use super::common::{Draft, pubkey};
use super::naive::tags;
use super::{AUTHORS, PROVIDERS, WINDOW};

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
        names_amount: !rng.one_in(5),
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
        3 => {
            // By whoever has seen the zap request, at another time.
            let at = (zap.at + 5_000).saturating_sub(rng.below(150_000)).min(now + 60);
            return Some((Draft { created_at: at, ..zap.receipt() }, Some(zap)));
        }
        _ => return Some((zap.receipt(), Some(zap))),
    };
    Some((zap.receipt_of(&forged), None))
}

/// An event, and what it says if it is a receipt that is not forged.
pub(crate) fn random_event(rng: &mut Rng, made: &[Event], now: Timestamp) -> (Event, Option<Zap>) {
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
            let most = if rng.one_in(6) { 200_000 } else { 5_000 };
            let at = to.created_at + rng.below(most) - rng.below(3).min(to.created_at);
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
