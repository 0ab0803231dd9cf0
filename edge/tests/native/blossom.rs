//! What the relay's object and the Worker tell the index of blobs.

use relay_blossom::index::RelayEvent;
use relay_blossom::{Command, Sha256};
use relay_edge::blossom::{BucketScan, ReportedDownloads, decode_events};
use relay_engine::testing::signing::{Signed, event, key};

use super::sqlite::Sqlite;

const OWN: &str = "wss://relay.example";

fn line(seq: Option<u64>, event: &Signed) -> String {
    let seq = seq.map_or_else(|| "null".to_owned(), |seq| seq.to_string());
    format!("{{\"seq\":{seq},\"event\":{}}}\n", event.json())
}

/// The commands for one event of the relay.
fn commands(event: &Signed) -> Vec<Command> {
    decode_events(line(Some(7), event).as_bytes(), Some(OWN)).unwrap()
}

fn signed(kind: u16, tags: &[[&str; 2]]) -> Signed {
    let draft = event(&key(1)).kind(kind).at(1_767_225_600).content("a \"b\"\n");
    tags.iter().fold(draft, |draft, tag| draft.tag(*tag)).sign()
}

#[test]
fn events_of_the_relay_become_commands() {
    let hash = "ab".repeat(32);
    for event in [signed(5, &[["e", &hash]]), signed(1_063, &[["x", &hash]])] {
        let found = commands(&event);
        let [Command::Apply(applied, 7)] = found.as_slice() else { panic!("{found:?}") };
        let RelayEvent { id, pubkey, kind, tags, .. } = applied;
        assert_eq!((id, pubkey, *kind), (&event.id, &event.pubkey, event.kind));
        assert_eq!(tags[0][1], hash);
    }
}

#[test]
fn requests_to_vanish_count_only_if_they_name_this_relay() {
    let vanish = |relay| commands(&signed(62, &[["relay", relay]])).len();
    assert_eq!(vanish("ALL_RELAYS"), 1);
    assert_eq!(vanish(OWN), 1);
    // An import may store one for another relay.
    assert_eq!(vanish("wss://other.example"), 0);
}

#[test]
fn a_batch_keeps_its_order_and_ephemeral_events_mean_nothing() {
    let events = [signed(5, &[]), signed(1_063, &[])];
    let body: String =
        [line(Some(3), &events[0]), line(None, &events[0]), line(Some(9), &events[1])].concat();
    let found = decode_events(body.as_bytes(), None).unwrap();
    let seqs: Vec<u64> =
        found.iter().map(|command| if let Command::Apply(_, seq) = command { *seq } else { 0 }).collect();
    assert_eq!(seqs, [3, 9]);
    assert!(decode_events(b"{}", None).is_err());
    assert!(decode_events(b"{\"seq\":1,\"event\":{}}", None).is_err());
}

#[test]
fn the_index_is_told_of_a_download_once_an_hour() {
    let mut reported = ReportedDownloads::default();
    let blob = |n: u32| Sha256(std::array::from_fn(|i| n.to_be_bytes().get(i).copied().unwrap_or(0)));
    assert!(reported.is_due(blob(0), 1_000));
    assert!(!reported.is_due(blob(0), 4_599));
    assert!(reported.is_due(blob(1), 4_599), "another blob");
    assert!(reported.is_due(blob(0), 4_600));
    // However many there are, memory is bounded: if there are too many, all are forgotten.
    let told = (0..40_000).filter(|n| reported.is_due(blob(*n), 4_700)).count();
    assert!((39_998..=40_000).contains(&told), "{told}");
    assert!(!reported.is_due(blob(39_999), 4_700));
}

#[test]
fn the_bucket_is_looked_through_page_by_page_once_a_day() {
    const DAY: u64 = 86_400;
    let conn = Sqlite::new();
    assert_eq!(BucketScan::read(&conn), Ok(None));
    let first = BucketScan::scheduled(1_000);
    assert_eq!((first.due, first.is_asked), (1_000 + DAY, false));
    let asked = BucketScan::requested(2_000);
    assert_eq!((asked.due, &asked.after), (2_000, &None));
    let second = asked.next(Some("k".to_owned()), 2_010);
    assert_eq!((second.due, second.after.as_deref(), second.is_asked), (2_010, Some("k"), true));
    let failed = second.failed(2_020);
    assert!(failed.due > 2_020 && failed.after == second.after && failed.is_asked, "{failed:?}");
    for listing in [first, failed.clone()] {
        listing.write(&conn).unwrap();
        assert_eq!(BucketScan::read(&conn), Ok(Some(listing)));
    }
    assert_eq!(failed.next(None, 3_000), BucketScan::scheduled(3_000), "the administrator's request is done");
    assert!(!BucketScan::is_old(1_000, 4_599) && BucketScan::is_old(1_000, 4_600));
}
