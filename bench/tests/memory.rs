//! What filters cost in memory, counted at the allocator, and that it all goes back.

use std::sync::Arc;

use allocation_counter::{AllocationInfo, measure};
use relay_engine::relay::{Config, ConnId, Peer, Relay};
use relay_engine::store::MemoryBackend;
use relay_engine::types::Now;
use relay_engine::verify::Libsecp256k1;

const NOW: Now = Now::from_seconds(1_700_000_000);
const CONNECTIONS: usize = 10;
const SUBSCRIPTIONS: usize = 4;
const VALUES: usize = 5_000;

fn relay() -> Relay<MemoryBackend> {
    Relay::new(Arc::new(Config::default()), MemoryBackend::default(), Arc::new(Libsecp256k1), [1; 32])
}

fn work(relay: &mut Relay<MemoryBackend>) {
    while relay.work(NOW) {}
    while let Some(conn) = relay.poll_ready() {
        relay.drain(conn, usize::MAX, &mut |frame| assert!(frame.head.starts_with(br#"["EOSE""#)));
    }
    while relay.poll_changed().is_some() {}
}

/// Connections full of subscriptions, and what they took.
fn attacked(
    relay: &mut Relay<MemoryBackend>,
    filter: impl Fn(usize, usize) -> String,
) -> (Vec<ConnId>, AllocationInfo) {
    let mut conns = Vec::new();
    let kept = measure(|| {
        for place in 0..CONNECTIONS {
            let conn = relay.connect(NOW, Peer::default()).expect("there is room");
            conns.push(conn);
            for sub in 0..SUBSCRIPTIONS {
                let filter = filter(place, sub);
                relay.handle_text(NOW, conn, format!(r#"["REQ","{sub}",{filter}]"#).as_bytes());
                work(relay);
            }
        }
    });
    (conns, kept)
}

fn hashtags(place: usize, sub: usize) -> String {
    let values: Vec<_> = (0..VALUES).map(|n| format!("\"{place}-{sub}-{n}\"")).collect();
    format!(r##"{{"#t":[{}]}}"##, values.join(","))
}

fn bytes_a_value(kept: &AllocationInfo) -> i64 {
    kept.bytes_current / (CONNECTIONS * SUBSCRIPTIONS * VALUES) as i64
}

#[test]
fn what_filters_take_is_what_is_charged_and_goes_back() {
    let mut relay = relay();
    let (conns, kept) = attacked(&mut relay, hashtags);
    eprintln!("{} bytes a value", bytes_a_value(&kept));
    let gone = measure(|| {
        for conn in conns {
            relay.disconnect(conn);
        }
        work(&mut relay);
    });
    let left = kept.bytes_current + gone.bytes_current;
    eprintln!("{left} bytes left");
    assert!(left < 100_000, "{left} bytes of {} stay when all have gone", kept.bytes_current);
}
