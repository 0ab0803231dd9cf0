//! What simulated clients send: a small set of events, forged copies of them, and filters.

use std::collections::HashMap;

use relay_engine::testing::{Draft, EventGenerator, Rng};
use relay_engine::types::{Event, EventId, Filter, PubKey, TagFilter, Timestamp};
use relay_engine::verify::{Claim, Verifier};

/// The relay's own URL.
pub(super) const URL: &str = "wss://relay.example";
/// Number of authors.
pub(super) const AUTHORS: u8 = 5;

const KINDS: [u16; 16] = [0, 1, 1, 1, 1, 1, 3, 5, 5, 7, 62, 1059, 10_002, 20_001, 20_001, 30_023];
const EVENTS: usize = 70;
const FILTER_GROUPS: usize = 24;

/// Whether the signature is the simulation's valid one: the id, twice.
pub(super) fn is_signed(event: &Event) -> bool {
    let (sig, id) = (event.sig().0, event.id.0);
    sig[..32] == id && sig[32..] == id
}

/// [`is_signed`] as a verifier.
#[derive(Clone, Copy, Debug)]
pub(super) struct FakeVerifier {
    /// Whether ids are hashed in batches.
    pub(super) prefers_batch_hashing: bool,
}

impl Verifier for FakeVerifier {
    fn verify(&self, claims: &[Claim], valid: &mut [bool]) {
        for (claim, valid) in claims.iter().zip(valid) {
            *valid = claim.sig.0[..32] == claim.id.0 && claim.sig.0[32..] == claim.id.0;
        }
    }

    fn prefers_batch_hashing(&self) -> bool {
        self.prefers_batch_hashing
    }
}

/// The events and filters of a run.
#[derive(Debug)]
pub(super) struct Pool {
    /// Signed events.
    pub(super) events: Vec<Event>,
    /// Groups of filters.
    pub(super) filters: Vec<Vec<Filter>>,
    by_id: HashMap<EventId, usize>,
}

impl Pool {
    /// The pool of this seed.
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut events: Vec<Event> = Vec::new();
        for _ in 0..EVENTS {
            let event = draft(&mut rng, &events).event();
            events.push(event);
        }
        let filters = (0..FILTER_GROUPS)
            .map(|_| (0..1 + rng.below(3)).map(|_| filter(&mut rng, &events)).collect())
            .collect();
        let by_id = events.iter().enumerate().map(|(index, event)| (event.id, index)).collect();
        Pool { events, filters, by_id }
    }

    /// The signed event of this id.
    pub(super) fn signed(&self, id: &EventId) -> Option<&Event> {
        self.by_id.get(id).map(|&index| &self.events[index])
    }
}

/// An AUTH event of `author`.
pub(super) fn auth(author: u8, challenge: &str, now: Timestamp) -> Event {
    Draft::new(author, 22_242, now).tag(&["relay", URL]).tag(&["challenge", challenge]).event()
}

/// The event with an invalid signature.
pub(super) fn forged(event: &Event) -> String {
    let mut json = String::from_utf8_lossy(event.json()).into_owned();
    let last = json.len() - 3;
    let other = if json.as_bytes()[last] == b'0' { "1" } else { "0" };
    json.replace_range(last..last + 1, other);
    json
}

/// The event with an id that is not its hash.
pub(super) fn wrong_id(event: &Event) -> String {
    let json = String::from_utf8_lossy(event.json()).into_owned();
    let id = event.id.to_string();
    json.replace(&id, &id.chars().rev().collect::<String>())
}

/// Another event with the id and the signature of this one.
pub(super) fn altered(event: &Event) -> String {
    let json = String::from_utf8_lossy(event.json()).into_owned();
    let second = |at| format!(r#""created_at":{at},"#);
    json.replacen(&second(event.created_at), &second(event.created_at + 1), 1)
}

fn draft(rng: &mut Rng, made: &[Event]) -> Draft {
    let kind = *rng.pick(&KINDS);
    let author = rng.below(u64::from(AUTHORS)) as u8;
    let mut draft = Draft::new(author, kind, EventGenerator::START - 20 + rng.below(40));
    let target = (!made.is_empty()).then(|| rng.pick(made).clone());
    match (kind, target) {
        (5, Some(target)) => {
            // Mostly by the author, the only one who can delete it.
            if !rng.one_in(4) {
                draft.author = (0..AUTHORS)
                    .find(|&number| EventGenerator::pubkey(number) == target.pubkey)
                    .unwrap_or(author);
            }
            let d = target.tags().find(b"d").unwrap_or_default().into_owned();
            let address = format!("{}:{}:{}", target.kind, target.pubkey, String::from_utf8_lossy(&d));
            draft = if rng.one_in(3) {
                draft.tag(&["a", &address])
            } else {
                draft.tag(&["e", &target.id.to_string()])
            };
        }
        (62, _) => draft = draft.tag(&["relay", if rng.one_in(2) { "ALL_RELAYS" } else { URL }]),
        // A nonce each, so that the oracle can tell them apart.
        (1059, _) => draft = draft.tag(&["p", &author_hex(rng)]).tag(&["nonce", &made.len().to_string()]),
        (30_023, _) => draft = draft.tag(&["d", ["", "x"][rng.below(2) as usize]]),
        (_, Some(target)) if rng.one_in(3) => draft = draft.tag(&["e", &target.id.to_string()]),
        _ => {}
    }
    if rng.one_in(3) {
        draft = draft.tag(&["t", ["a", "b", "é\"\n"][rng.below(3) as usize]]);
    }
    if rng.one_in(4) {
        draft = draft.tag(&["p", &author_hex(rng)]);
    }
    if rng.one_in(9) {
        draft = draft.tag(&["expiration", &(EventGenerator::START + rng.below(90)).to_string()]);
    }
    if rng.one_in(20) {
        draft = draft.tag(&["-"]);
    }
    let long = if rng.one_in(5) { "lorem ipsum ".repeat(rng.below(80) as usize) } else { String::new() };
    draft.content(&format!("{}{long}", rng.below(1000)))
}

fn author_hex(rng: &mut Rng) -> String {
    EventGenerator::pubkey(rng.below(u64::from(AUTHORS)) as u8).to_string()
}

fn filter(rng: &mut Rng, events: &[Event]) -> Filter {
    let mut filter = Filter::default();
    if rng.one_in(3) {
        let some = 1 + rng.below(3);
        filter.authors =
            Some((0..some).map(|_| EventGenerator::pubkey(rng.below(u64::from(AUTHORS)) as u8)).collect());
    }
    if rng.one_in(3) {
        filter.kinds = Some((0..1 + rng.below(4)).map(|_| *rng.pick(&KINDS)).collect());
    }
    if rng.one_in(8) {
        filter.ids = Some((0..1 + rng.below(6)).map(|_| rng.pick(events).id).collect());
    }
    let mut tags = Vec::new();
    if rng.one_in(6) {
        tags.push((b't', vec!["a".to_owned(), "é\"\n".to_owned()]));
    }
    if rng.one_in(8) {
        tags.push((b'p', vec![author_hex(rng), author_hex(rng)]));
    }
    if rng.one_in(10) {
        tags.push((b'e', vec![rng.pick(events).id.to_string()]));
    }
    if rng.one_in(10) {
        tags.push((b'd', vec![["", "x"][rng.below(2) as usize].to_owned()]));
    }
    tags.sort_by_key(|(letter, _)| *letter);
    let boxed = |text: String| text.into_bytes().into_boxed_slice();
    filter.tags = tags
        .into_iter()
        .map(|(letter, values)| TagFilter { letter, values: values.into_iter().map(boxed).collect() })
        .collect();
    if rng.one_in(6) {
        filter.since = Some(EventGenerator::START - 20 + rng.below(40));
    }
    if rng.one_in(6) {
        filter.until = Some(EventGenerator::START - 20 + rng.below(40));
    }
    if rng.one_in(3) {
        filter.limit = Some(rng.below(8) as u32);
    }
    filter.normalise();
    filter
}

/// Whether a client authenticated as `keys` may receive `event`: gift wraps go to their parties only.
pub(super) fn may_see(event: &Event, keys: &[PubKey]) -> bool {
    if !matches!(event.kind, 1059 | 21_059) {
        return true;
    }
    let names = |key: &PubKey| {
        let hex = key.to_string();
        event.tags().named(b"p").any(|tag| tag.value().as_deref() == Some(hex.as_bytes()))
    };
    keys.iter().any(|key| *key == event.pubkey || names(key))
}
