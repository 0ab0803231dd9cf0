//! Counts allocations: accepting an EVENT allocates nothing but the event's own storage.

use std::sync::Arc;

use allocation_counter::measure;
use relay_bench::generate::Options;
use relay_engine::relay::{ClientInfo, Config, LiveEvent, Relay, commit};
use relay_engine::store::{MemoryBackend, RemovedEvents, Seq, TermClasses};
use relay_engine::types::{Limits, Now};
use relay_engine::verify::{Claim, Libsecp256k1, Schnorr, Verifier};
use relay_engine::wire::{ClientMessage, parse_client_message, parse_event};

fn messages(count: usize) -> Vec<String> {
    let events = Options { count, ..Options::default() }.events(2);
    events.into_iter().map(|event| format!(r#"["EVENT",{event}]"#)).collect()
}

#[test]
fn parsing_and_hashing_allocate_nothing_and_an_owned_event_allocates_once() {
    let limits = Limits::default();
    for message in messages(400) {
        let read = measure(|| {
            let Ok(ClientMessage::Event(event)) = parse_client_message(message.as_bytes(), &limits) else {
                panic!("{message}");
            };
            assert_eq!(event.compute_id(), event.id);
        });
        assert_eq!(read.count_total, 0, "{message}");
        let Ok(ClientMessage::Event(event)) = parse_client_message(message.as_bytes(), &limits) else {
            panic!("{message}");
        };
        let mut kept = None;
        let keep = measure(|| kept = Some(event.to_event()));
        assert_eq!(keep.count_total, 1, "{message}");
        let kept = kept.expect("it was just kept");
        // The reference counts before the bytes, and rounding to a word.
        let overhead = keep.bytes_total - kept.json().len() as u64;
        assert!(overhead < 24, "{overhead} bytes more than the event");
    }
}

/// Allocations an event of each step of the machine, for batches of `BATCH` events.
#[derive(Debug, Default)]
struct PerEvent {
    receive: f64,
    verify: f64,
    verified: f64,
    committed: f64,
    drain: f64,
}

const BATCH: usize = 256;
const WARM_UP: usize = 4;

#[test]
fn the_machine_accepts_an_event_with_few_allocations() {
    count_steps(Arc::new(Libsecp256k1), 0.05);
}

/// Hashes ids in batches, as machines without SHA-256 instructions do.
struct BatchHashing;

impl Verifier for BatchHashing {
    fn verify(&self, claims: &[Claim], valid: &mut [bool]) {
        Libsecp256k1.verify(claims, valid);
    }

    fn prefers_batch_hashing(&self) -> bool {
        true
    }
}

#[test]
fn few_allocations_if_ids_are_hashed_in_batches() {
    count_steps(Arc::new(BatchHashing), 0.1);
}

#[test]
fn few_allocations_with_the_batch_verifier() {
    // A frequent author gets a table, which allocates.
    count_steps(Arc::new(Schnorr::new(64 << 20)), 0.6);
}

fn count_steps(verifier: Arc<dyn Verifier>, verify_max: f64) {
    let messages = messages(BATCH * (WARM_UP + 4));
    let now = Now::from_seconds(Options::default().now + 60);
    let store = MemoryBackend::new(TermClasses { all: true, author_kind: true });
    let mut relay = Relay::new(Arc::new(Config::default()), store, Arc::clone(&verifier), [7; 32]);
    let conn = relay.connect(now, ClientInfo::default()).expect("room for one");
    let mut sum = PerEvent::default();
    let mut accepted = 0;
    for (round, batch) in messages.chunks(BATCH).enumerate() {
        let counts = |sum: &mut f64, work: &mut dyn FnMut()| {
            let info = measure(work);
            if round >= WARM_UP {
                *sum += info.count_total as f64 / (messages.len() - WARM_UP * BATCH) as f64;
            }
        };
        counts(&mut sum.receive, &mut || {
            batch.iter().for_each(|text| relay.handle_text(now, conn, text.as_bytes()))
        });
        let unchecked = relay.poll_verify(now, true).expect("a batch");
        let mut unchecked = Some(unchecked);
        let mut checked = None;
        counts(&mut sum.verify, &mut || checked = unchecked.take().map(|batch| batch.verify(&*verifier)));
        counts(&mut sum.verified, &mut || relay.handle_verified(now, checked.take().expect("checked above")));
        // The store's own work is not the machine's.
        let commits = std::iter::from_fn(|| relay.poll_commit()).collect();
        let mut done = commit(relay.store(), now, commits);
        assert!(done.error.is_none());
        counts(&mut sum.committed, &mut || {
            done.replies.drain(..).for_each(|reply| relay.handle_committed(now, reply));
            relay.handle_live(now, &done.live);
        });
        counts(&mut sum.drain, &mut || {
            while let Some(conn) = relay.poll_ready() {
                while relay.drain(conn, 1 << 20, &mut |frame| {
                    accepted += usize::from(
                        frame.head.starts_with(b"[\"OK\"")
                            && memchr::memmem::find(frame.head, b"true").is_some(),
                    );
                }) {}
            }
        });
    }
    // One allocation is the event itself; the rest is tables that grow.
    assert!((1.0..1.1).contains(&sum.receive), "{sum:?}");
    assert!(sum.verify < verify_max, "{sum:?}");
    assert!(sum.verified + sum.committed + sum.drain < 0.15, "{sum:?}");
    assert!(accepted > messages.len() * 8 / 10, "{accepted}");
}

/// What fits into a step is delivered without a copy of the event or of the list of its subscriptions.
#[test]
fn a_live_delivery_allocates_nothing_but_for_what_has_to_wait() {
    let now = Now::from_seconds(Options::default().now + 60);
    let mut relay =
        Relay::new(Arc::new(Config::default()), MemoryBackend::default(), Arc::new(Libsecp256k1), [7; 32]);
    let conns: Vec<_> =
        (0..10).map(|_| relay.connect(now, ClientInfo::default()).expect("there is room")).collect();
    for (sub, conn) in (0..50).flat_map(|sub| conns.iter().map(move |conn| (sub, *conn))) {
        relay.handle_text(now, conn, format!(r#"["REQ","{sub}",{{}}]"#).as_bytes());
        while relay.work(now) {}
    }
    let events = Options { count: 26, ..Options::default() }.events(1);
    let live: Vec<LiveEvent> = (1..)
        .zip(&events)
        .map(|(seq, json)| {
            let event = parse_event(json.as_bytes()).expect("it is well-formed").to_event();
            LiveEvent { seq: Some(Seq(seq)), event, publisher_address: None, removed: RemovedEvents::NOTHING }
        })
        .collect();
    let drained = |relay: &mut Relay<MemoryBackend>| {
        let mut frames = 0;
        while let Some(conn) = relay.poll_ready() {
            while relay.drain(conn, 1 << 20, &mut |_| frames += 1) {}
        }
        frames
    };
    let one_by_one = |relay: &mut Relay<MemoryBackend>, all: &[LiveEvent]| {
        let counted =
            measure(|| all.iter().for_each(|live| relay.handle_live(now, std::slice::from_ref(live))));
        assert_eq!(relay.metrics().deliveries_deferred, 0);
        counted.count_total
    };
    assert_eq!(drained(&mut relay), 500, "an EOSE each");
    // The outboxes grow to 512 frames each; then there is room for two more events.
    one_by_one(&mut relay, &live[..8]);
    assert_eq!(one_by_one(&mut relay, &live[8..10]), 0);
    assert_eq!(drained(&mut relay), 10 * 500);
    // From here on only the growth of the outboxes is counted, which is the same both times.
    let growth = one_by_one(&mut relay, &live[10..18]);
    assert_eq!(drained(&mut relay), 8 * 500);
    // A cost of 8,000 is more than a step. The queue is one allocation, and no list of subscriptions is copied.
    let counted = measure(|| {
        relay.handle_live(now, &live[18..]);
        while relay.work(now) {}
    });
    assert!(relay.metrics().deliveries_deferred > 0);
    assert!(counted.count_total <= growth + 2, "{} after {growth}", counted.count_total);
    assert_eq!(drained(&mut relay), 8 * 500);
}
