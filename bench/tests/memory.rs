//! What live filters take in memory, counted at the allocator: no more than they are charged, and nothing when they
//! have ended.

use std::sync::Arc;

use allocation_counter::measure;
use relay_engine::relay::{ClientInfo, Config, Relay};
use relay_engine::store::MemoryBackend;
use relay_engine::types::Now;
use relay_engine::verify::Libsecp256k1;

const NOW: Now = Now::from_seconds(1_700_000_000);
const CONNECTIONS: usize = 10;
const SUBSCRIPTIONS: usize = 4;
/// A connection without subscriptions takes less.
const CONNECTION_BYTES: i64 = 3_000;

/// What an attacker may ask for: filters of the subscription of this number.
type Shape = fn(usize) -> String;

fn list(count: usize, value: impl Fn(usize) -> String) -> String {
    (0..count).map(value).collect::<Vec<_>>().join(",")
}

fn quoted(count: usize, value: impl Fn(usize) -> String) -> String {
    list(count, |n| format!("\"{}\"", value(n)))
}

fn hex(sub: usize, n: usize) -> String {
    format!("{:064x}", sub * 1_000_000 + n)
}

const SHAPES: [(&str, Shape); 10] = [
    ("hashtags", |sub| format!(r##"{{"#t":[{}]}}"##, quoted(5_000, |n| format!("{sub}-{n}")))),
    ("long values", |sub| format!(r##"{{"#x":[{}]}}"##, quoted(500, |n| format!("{sub}-{n:02000}")))),
    ("authors", |sub| format!(r#"{{"authors":[{}]}}"#, quoted(5_000, |n| hex(sub, n)))),
    ("ids", |sub| format!(r#"{{"ids":[{}]}}"#, quoted(5_000, |n| hex(sub, n)))),
    ("threads", |sub| format!(r##"{{"#e":[{}]}}"##, quoted(5_000, |n| hex(sub, n)))),
    ("the same authors", |_| format!(r#"{{"authors":[{}]}}"#, quoted(5_000, |n| hex(0, n)))),
    ("conditions", |sub| {
        let authors = quoted(2_000, |n| hex(sub, n));
        format!(r##"{{"authors":[{authors}],"#p":[{}],"kinds":[1,{sub}]}}"##, quoted(2_000, |n| hex(sub, n)))
    }),
    ("kinds", |sub| {
        list(20, |n| {
            format!(r#"{{"kinds":[{}],"since":{n}}}"#, list(10, |k| (1_000 + sub * 100 + n + k).to_string()))
        })
    }),
    ("small filters", |sub| {
        list(100, |n| format!(r##"{{"authors":["{}"],"#t":["{sub}-{n}"],"kinds":[{n}]}}"##, hex(sub, n)))
    }),
    ("filters of the future", |_| list(20, |n| format!(r#"{{"since":{}}}"#, 4_000_000_000u64 + n as u64))),
];

fn work(relay: &mut Relay<MemoryBackend>) {
    while relay.work(NOW) {}
    while let Some(conn) = relay.poll_ready() {
        relay.drain(conn, usize::MAX, &mut |frame| assert!(frame.head.starts_with(br#"["EOSE""#)));
    }
    while relay.poll_changed().is_some() {}
}

#[test]
fn filters_take_no_more_than_they_are_charged_and_leave_nothing() {
    for (name, shape) in SHAPES {
        let config = Arc::new(Config::default());
        let mut relay = Relay::new(config, MemoryBackend::default(), Arc::new(Libsecp256k1), [1; 32]);
        let mut conns = Vec::new();
        let mut sent = 0;
        let kept = measure(|| {
            for number in 0..CONNECTIONS {
                let conn = relay.connect(NOW, ClientInfo::default()).expect("there is room");
                conns.push(conn);
                for sub in 0..SUBSCRIPTIONS {
                    let text = format!(r#"["REQ","{sub}",{}]"#, shape(number * SUBSCRIPTIONS + sub));
                    sent += text.len();
                    relay.handle_text(NOW, conn, text.as_bytes());
                    work(&mut relay);
                }
            }
        });
        let (values, charged) = (relay.metrics().filter_values, relay.metrics().filter_bytes as i64);
        let taken = kept.bytes_current - CONNECTIONS as i64 * CONNECTION_BYTES;
        eprintln!(
            "{name}: {sent} bytes sent, {taken} taken, {charged} charged, {} a value, peak {}",
            taken / values as i64,
            kept.bytes_max
        );
        assert!(taken <= charged, "{name}: {taken} bytes are charged as {charged}");
        let shares = name == "the same authors";
        assert!(charged <= 3 * taken || shares, "{name}: {taken} bytes are charged as {charged}");
        let index = relay.metrics().index_bytes as i64;
        assert!(index < taken, "{name}: the index says {index}");

        let gone = measure(|| {
            conns.into_iter().for_each(|conn| relay.disconnect(conn));
            work(&mut relay);
        });
        let left = kept.bytes_current + gone.bytes_current;
        assert!(left < 30_000, "{name}: {left} bytes of {taken} stay when all have ended");
        assert_eq!((relay.metrics().filter_values, relay.metrics().filter_bytes), (0, 0));
    }
}
