//! Members of a relay (NIP-43), as other processes change them: the machine finds out when it is told of the next commit.

use std::sync::Arc;

use relay_engine::policy::Admission;
use relay_engine::relay::{ClientInfo, Config, ConnId, Relay};
use relay_engine::store::{self, MemoryBackend, Op};
use relay_engine::testing::signing::{Signed, event, key};
use relay_engine::testing::{drained, settle};
use relay_engine::types::{Now, PubKey};
use relay_engine::verify::{Batch, Libsecp256k1, Verdict};
use relay_engine::wire;

const NOW: Now = Now::from_seconds(1_700_000_000);

type Store = Arc<MemoryBackend>;

fn new_relay(store: &Store) -> Relay<Store> {
    let mut config = Config::default();
    config.policy.admission = Some(Admission { pubkey: PubKey(key(1).bytes()), msat: 0, payments_url: None });
    Relay::new(Arc::new(config), Arc::clone(store), Arc::new(Libsecp256k1), [1; 32])
}

/// Stores an event as another process does, of which the machine is not told.
fn store_silently(store: &Store, event: &Signed) {
    let mut batch = Batch::default();
    batch.push(wire::parse_event(event.json().as_bytes()).expect("an event").to_event(), ());
    let ops: Vec<Op> = batch
        .verify(&Libsecp256k1)
        .into_iter()
        .map(|(verdict, ())| match verdict {
            Verdict::Valid(verified) => Op::Put(verified),
            _ => panic!("it is signed"),
        })
        .collect();
    store::commit(store, NOW.seconds(), &ops).expect("memory does not fail");
}

fn is_taken(relay: &mut Relay<Store>, conn: ConnId, author: u64, n: u64) -> bool {
    let note = event(&key(author)).at(NOW.seconds() - n).sign();
    relay.handle_text(NOW, conn, format!(r#"["EVENT",{}]"#, note.json()).as_bytes());
    settle(relay, NOW);
    let answer = drained(relay, conn).concat();
    assert!(answer.contains(",true,") || answer.contains("restricted: "), "{answer}");
    answer.contains(",true,")
}

fn added(member: u64) -> Signed {
    event(&key(1)).kind(8_000).at(NOW.seconds() - 50).tag(["p", key(member).hex()]).sign()
}

#[test]
fn what_another_process_stores_counts_from_the_next_commit_on() {
    let store = Store::default();
    store_silently(&store, &added(2));
    let mut relay = new_relay(&store);
    let conn = relay.connect(NOW, ClientInfo::default()).expect("there is room");
    assert!(is_taken(&mut relay, conn, 2, 1), "it was there before");
    store_silently(&store, &added(3));
    assert!(!is_taken(&mut relay, conn, 3, 1), "nothing tells the machine");
    assert!(is_taken(&mut relay, conn, 2, 2));
    assert!(is_taken(&mut relay, conn, 3, 1), "there was a gap before the last commit");
    // A restart changes nothing.
    let mut relay = new_relay(&store);
    let conn = relay.connect(NOW, ClientInfo::default()).expect("there is room");
    assert!(is_taken(&mut relay, conn, 3, 2) && is_taken(&mut relay, conn, 2, 3));
    assert!(!is_taken(&mut relay, conn, 4, 1));
}
