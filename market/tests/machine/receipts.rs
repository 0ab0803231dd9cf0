//! Zap receipts in the registry: their bounds, their end, what they cost, and who can remove them.

use relay_market::Registry;
use relay_market::registry::Bounds;
use serde_json::json;

use super::common::Draft;
use super::payments::{paid, zap_of};
use super::{DAY, HOUR, Host, NOW, announcement, bounded, key, recomputed, request, result};

/// A delivered job of a customer, with what the provider asks for it.
fn job(customer: u8, at: u64) -> [Draft; 2] {
    let asked = request(customer, 1, at);
    let result = result(1, &asked, at + 5).tag(&["amount", "5000"]);
    [asked, result]
}

fn receipt(asked: &Draft, at: u64) -> Draft {
    zap_of(asked.author, 1, asked, 5_000, at).receipt()
}

fn figures(host: &Host) -> ([u64; 3], u64) {
    let figures = host.only()["figures"].clone();
    (paid(&figures), figures["jobs_delivered"].as_u64().unwrap())
}

#[test]
fn whoever_has_signed_a_receipt_can_remove_it() {
    let [asked, result] = job(2, NOW - HOUR);
    let paid_by = receipt(&asked, NOW - 60);
    let id = paid_by.event().id.to_string();
    let signer = paid_by.author;
    let by = |author: u8| Draft::new(author, 5, NOW).tag(&["e", &id]);
    for (name, last, want) in [
        ("a deletion by the signer", by(signer), ([0; 3], 1)),
        ("by the customer", by(2), ([1, 1, 5_000], 1)),
        ("by the provider", by(1), ([1, 1, 5_000], 1)),
        ("the signer vanishes", Draft::new(signer, 62, NOW), ([0; 3], 1)),
        ("it vanished earlier", Draft::new(signer, 62, NOW - 61), ([1, 1, 5_000], 1)),
        ("the customer vanishes", Draft::new(2, 62, NOW), ([0; 3], 0)),
    ] {
        let mut host = Host::new();
        let offer = announcement(1, "shout", &["5050"], "5");
        host.apply(&[offer, asked.clone(), result.clone(), paid_by.clone()]);
        assert_eq!(figures(&host), ([1, 1, 5_000], 1));
        host.apply(&[last]);
        assert_eq!(figures(&host), want, "{name}");
    }
}

#[test]
fn a_receipt_counts_from_the_time_that_it_states() {
    let mut host = Host::new();
    let [asked, result] = job(2, NOW - HOUR);
    host.apply(&[announcement(1, "shout", &["5050"], "5"), asked.clone(), result, receipt(&asked, NOW + 50)]);
    assert_eq!(figures(&host), ([0; 3], 1));
    assert_eq!(host.registry.next_due().unwrap(), Some(NOW + 50));
    host.pass(50);
    assert_eq!(figures(&host), ([1, 1, 5_000], 1));
    // After a restart it is the same.
    host.registry = Registry::open(host.db.clone()).unwrap();
    assert_eq!(figures(&host), ([1, 1, 5_000], 1));
    host.pass(31 * DAY);
    assert_eq!((figures(&host), host.db.count("market_receipts")), (([0; 3], 0), 0));
    assert_eq!(host.registry.next_due().unwrap(), None);
    // What comes later than a month is not kept.
    host.apply(&[receipt(&asked, NOW)]);
    assert_eq!(host.db.count("market_receipts"), 0);
}

#[test]
fn a_receipt_writes_five_rows_and_again_one() {
    let mut host = Host::new();
    let [asked, result] = job(2, NOW - HOUR);
    host.apply(&[asked.clone(), result]);
    let paid_by = receipt(&asked, NOW);
    for want in [4 + 1, 1] {
        let before = host.db.rows_written();
        host.apply(std::slice::from_ref(&paid_by));
        assert_eq!(host.db.rows_written() - before, want, "its row, three indexes and the state");
    }
    // One that proves nothing is only a position.
    let before = host.db.rows_written();
    host.apply(&[Draft::new(9, 9_735, NOW).tag(&["p", &key(1)])]);
    assert_eq!(host.db.rows_written() - before, 1);
}

/// Zaps of everybody, of whatever, are most of the zaps of a relay.
#[test]
fn many_zaps_push_out_no_jobs_and_figures_stay_true() {
    let mut host = bounded(Bounds { receipts: 100, ..Bounds::default() });
    let mut all = vec![announcement(1, "shout", &["5050"], "5")];
    for customer in 2..12 {
        let at = NOW - 10_000 + u64::from(customer);
        let [asked, result] = job(customer, at);
        all.extend([receipt(&asked, at + 9), asked, result]);
    }
    host.apply(&all);
    assert_eq!(figures(&host), ([10, 10, 50_000], 10));
    for part in 0..6u64 {
        let note = |n: u64| Draft::new(70, 1, n);
        let zaps: Vec<Draft> = (0..30)
            .map(|n| zap_of(60, 61, &note(part * 30 + n), 1_000, NOW - 5_000 + part).receipt())
            .collect();
        host.apply(&zaps);
        all.extend(zaps);
        assert!(host.db.count("market_receipts") <= 100);
        let (found, claimed) = recomputed(&host, 1, &all);
        assert_eq!(found, claimed, "{part}");
    }
    assert_eq!(figures(&host), ([0; 3], 10));
    let proof = host.proof(1);
    assert!(proof["receipts_since"].as_u64().unwrap() >= NOW - 10_000 + 9, "{}", proof["receipts_since"]);
    assert_eq!((&proof["since"], &proof["figures"]["newest_jobs_only"]), (&json!(0), &json!(false)));
    // The count is the same after a restart.
    host.registry =
        Registry::open_bounded(host.db.clone(), Bounds { receipts: 100, ..Bounds::default() }).unwrap();
    let [asked, result] = job(50, NOW - 10);
    host.apply(&[receipt(&asked, NOW), asked, result]);
    assert_eq!((host.db.count("market_receipts"), figures(&host)), (100, ([1, 1, 5_000], 11)));
}

#[test]
fn of_a_provider_with_many_receipts_the_newest_count() {
    let mut host = bounded(Bounds { payee_receipts: 5, ..Bounds::default() });
    let mut all = vec![announcement(1, "shout", &["5050"], "5")];
    for customer in 2..12 {
        let at = NOW - 10_000 + 10 * u64::from(customer / 2);
        let [asked, result] = job(customer, at);
        all.extend([receipt(&asked, at + 9), asked, result]);
    }
    host.apply(&all);
    // Two of each time: five would be one of the third.
    assert_eq!(figures(&host), ([4, 4, 20_000], 10));
    let (found, claimed) = recomputed(&host, 1, &all);
    assert_eq!(found, claimed);
    let before = host.db.rows_returned();
    host.proof(1);
    let read = host.db.rows_returned() - before;
    for n in 0..200 {
        host.apply(&[receipt(&request(2, 1, NOW - 9_000), NOW - 9_000 + n)]);
    }
    let before = host.db.rows_returned();
    host.proof(1);
    assert_eq!(host.db.rows_returned() - before, read, "as many rows for a proof");
}
