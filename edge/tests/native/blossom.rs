//! What the relay's object and the Worker tell the index of blobs.

use relay_blossom::index::{Commit, SignedEvent, Wanted};
use relay_blossom::{Command, Sha256};
use relay_edge::blossom::{Touched, decode_events, wake_at};
use relay_engine::testing::signing::{Signed, event, key};

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
        let SignedEvent { id, pubkey, kind, tags, .. } = applied;
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
    let mut touched = Touched::default();
    let blob = |n: u32| Sha256(std::array::from_fn(|i| n.to_be_bytes().get(i).copied().unwrap_or(0)));
    assert!(touched.is_due(blob(0), 1_000));
    assert!(!touched.is_due(blob(0), 4_599));
    assert!(touched.is_due(blob(1), 4_599), "another blob");
    assert!(touched.is_due(blob(0), 4_600));
    // However many there are, memory is bounded: if there are too many, all are forgotten.
    let told = (0..40_000).filter(|n| touched.is_due(blob(*n), 4_700)).count();
    assert!((39_998..=40_000).contains(&told), "{told}");
    assert!(!touched.is_due(blob(39_999), 4_700));
}

#[test]
fn an_alarm_rings_when_something_may_have_to_go() {
    let wanted = |expires_at, unused_seconds| {
        let (sha256, mime) = (Some(Sha256([1; 32])), String::new());
        let (owner, size, key_bytes_max, total_bytes_max) = (String::new(), 1, None, None);
        let abandoned_at = 5_000;
        Command::Begin(Wanted {
            owner,
            sha256,
            size,
            mime,
            key_bytes_max,
            total_bytes_max,
            abandoned_at,
            expires_at,
            unused_seconds,
            retention: Vec::new(),
        })
    };
    let commit = |expires_at, unused_seconds| {
        let (upload, sha256, size, mime, media) = (1, Sha256([1; 32]), 1, String::new(), None);
        Command::Finish(Commit { upload, sha256, size, mime, expires_at, unused_seconds, media })
    };
    let vanish = commands(&signed(62, &[["relay", OWN]])).remove(0);
    let cases = [
        ("an upload that ends nowhere", wanted(None, None), Some(5_000)),
        ("retention by age", wanted(Some(4_000), None), Some(4_000)),
        ("by last access", wanted(Some(4_000), Some(2_000)), Some(3_000)),
        ("later than the upload may last", wanted(Some(9_000), None), Some(5_000)),
        ("a blob that is kept", commit(None, None), None),
        ("another type, another rule", commit(Some(7_000), Some(8_000)), Some(7_000)),
        ("more than one command lets go of", vanish, Some(1_000)),
        ("what only reads", Command::Totals, None),
    ];
    for (what, command, at) in cases {
        assert_eq!(wake_at(&command, 1_000), at, "{what}");
    }
}
