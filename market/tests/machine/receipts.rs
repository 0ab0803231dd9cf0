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

/// Zaps of everybody, of whatever, are most of the zaps of a relay, and anybody can make receipts that name a provider.
#[test]
fn what_matches_no_job_pushes_out_no_payments() {
    let bounds = Bounds { receipts: 100, ..Bounds::default() };
    let mut host = bounded(bounds);
    let mut all = vec![announcement(1, "shout", &["5050"], "5")];
    let mut first = None;
    for customer in 2..12 {
        let at = NOW - 10_000 + u64::from(customer);
        let [asked, result] = job(customer, at);
        first.get_or_insert(asked.clone());
        all.extend([receipt(&asked, at + 9), asked, result]);
    }
    let first = first.unwrap();
    host.apply(&all);
    assert_eq!(figures(&host), ([10, 10, 50_000], 10));
    for part in 0..6u64 {
        let note = |n: u64| Draft::new(70, 1, n);
        let zaps: Vec<Draft> = (0..30)
            .map(|n| match n % 3 {
                0 => zap_of(60, 61, &note(part * 30 + n), 1_000, NOW - 5_000 + part),
                // To the provider, of nothing; and of a job of somebody else.
                1 => zap_of(60, 1, &note(part * 30 + n), 5_000, NOW - 5_000 + part),
                _ => zap_of(100 + n as u8, 1, &first, 5_000 + part, NOW - 5_000),
            })
            .map(|zap| zap.receipt())
            .collect();
        host.apply(&zaps);
        all.extend(zaps);
        assert!(host.db.count("market_receipts") <= 100);
        assert_eq!(figures(&host), ([10, 10, 50_000], 10), "{part}");
        let (found, claimed) = recomputed(&host, 1, &all);
        assert_eq!(found, claimed, "{part}");
    }
    let proof = host.proof(1);
    assert_eq!((&proof["receipts_since"], &proof["since"]), (&json!(0), &json!(0)));
    assert_eq!(proof["figures"]["newest_payments_only"], false);
    // The count is the same after a restart.
    host.registry = Registry::open_bounded(host.db.clone(), bounds).unwrap();
    let [asked, result] = job(50, NOW - 10);
    host.apply(&[receipt(&asked, NOW), asked, result]);
    assert_eq!((host.db.count("market_receipts"), figures(&host)), (100, ([11, 11, 55_000], 11)));
}

/// Of receipts that match the oldest are forgotten, and figures say so.
#[test]
fn more_payments_than_are_kept_are_not_silent() {
    let mut host = bounded(Bounds { receipts: 20, ..Bounds::default() });
    let mut all = vec![announcement(1, "shout", &["5050"], "5")];
    host.apply(&all);
    for n in 0..30 {
        let [asked, result] = job(2 + n, NOW - 10_000 + u64::from(n));
        let events = [asked.clone(), result, receipt(&asked, NOW - 9_000 + u64::from(n))];
        host.apply(&events);
        all.extend(events);
    }
    assert_eq!(figures(&host), ([20, 20, 100_000], 30));
    let proof = host.proof(1);
    assert_eq!(proof["receipts_since"], NOW - 9_000 + 9);
    for found in [&proof["figures"], &host.only()["figures"]] {
        assert_eq!(
            (&found["newest_payments_only"], &found["newest_jobs_only"]),
            (&json!(true), &json!(false))
        );
    }
    let (found, claimed) = recomputed(&host, 1, &all);
    assert_eq!(found, claimed);
    let page = host.get(relay_site::MarketRoute::ListPage, None, "");
    let page = String::from_utf8(page.body.to_vec()).unwrap();
    assert!(page.contains("<dt>Jobs paid</dt><dd>20+</dd>"), "{page}");
}

/// A receipt that comes first waits for its job: for the request, or for the answer that was zapped.
#[test]
fn receipts_match_when_their_job_comes_and_no_longer_when_it_goes() {
    let [asked, done] = job(2, NOW - HOUR);
    let of_request = receipt(&asked, NOW - 60);
    let of_result = zap_of(2, 1, &done, 5_000, NOW - 50).receipt();
    let events = [of_request, of_result, asked.clone(), done.clone()];
    let matched = |host: &Host| {
        let all = "SELECT count(*) FROM market_receipts WHERE matched = 1";
        relay_engine::sql::query_one(&host.db, all, &[], |row| relay_engine::sql::column::int(row, 0))
            .unwrap()
            .unwrap()
    };
    for order in [[0, 1, 2, 3], [0, 1, 3, 2], [2, 3, 0, 1], [3, 0, 1, 2], [2, 0, 1, 3], [3, 2, 1, 0]] {
        let mut host = Host::new();
        host.apply(&[announcement(1, "shout", &["5050"], "5")]);
        for at in order {
            host.apply(&[events[at].clone()]);
        }
        assert_eq!((matched(&host), figures(&host)), (2, ([1, 1, 5_000], 1)), "{order:?}");
        host.apply(&[Draft::new(1, 5, NOW).tag(&["e", &done.event().id.to_string()])]);
        assert_eq!((matched(&host), figures(&host)), (1, ([0; 3], 0)), "{order:?}");
        host.apply(&[Draft::new(2, 5, NOW).tag(&["e", &asked.event().id.to_string()])]);
        assert_eq!(matched(&host), 0, "{order:?}");
    }
    // Of nobody's job: by another, to another.
    let mut host = Host::new();
    let [by, to] = [(3, 1), (2, 9)].map(|(payer, payee)| zap_of(payer, payee, &asked, 5_000, NOW).receipt());
    host.apply(&[by.clone(), to.clone(), asked.clone(), done.clone()]);
    assert_eq!(matched(&host), 0);
    let mut host = Host::new();
    host.apply(&[asked, done, by, to]);
    assert_eq!((matched(&host), host.db.count("market_receipts")), (0, 2));
}

/// A zap request can be put into as many receipts as anybody likes.
#[test]
fn copies_of_a_zap_request_are_bounded_and_the_first_stay() {
    let mut host = Host::new();
    let [asked, done] = job(2, NOW - HOUR);
    let zap = zap_of(2, 1, &asked, 5_000, NOW - 60);
    host.apply(&[announcement(1, "shout", &["5050"], "5"), asked.clone(), done, zap.receipt()]);
    let description = String::from_utf8(zap.request().event().json().to_vec()).unwrap();
    for n in 0..20 {
        host.apply(&[Draft { author: 100 + n, created_at: NOW - 30, ..zap.receipt_of(&description) }]);
    }
    assert_eq!((host.db.count("market_receipts"), figures(&host)), (4, ([1, 1, 5_000], 1)));
    let read = |host: &Host| {
        let before = host.db.rows_returned();
        host.proof(1);
        host.db.rows_returned() - before
    };
    let before = read(&host);
    // The customer can sign other amounts.
    for msat in 1..20 {
        host.apply(&[zap_of(2, 1, &asked, msat, NOW - 40).receipt()]);
    }
    assert_eq!(host.db.count("market_receipts"), 4 + 7);
    // Others are not read for a proof, however many there are.
    let few = read(&host);
    assert_eq!(few, before + 7);
    for n in 0..50 {
        host.apply(&[zap_of(60, 1, &asked, 5_000 + n, NOW).receipt()]);
        host.apply(&[zap_of(100 + n as u8, 1, &asked, 5_000, NOW).receipt()]);
    }
    assert_eq!(read(&host), few);
}

#[test]
fn a_receipt_of_no_job_makes_nobody_count() {
    let mut host = Host::new();
    let [asked, done] = job(2, NOW - HOUR);
    host.apply(&[announcement(1, "shout", &["5050"], "5"), asked.clone(), done]);
    let apply = |host: &mut Host, draft: Draft| {
        host.seq += 1;
        host.registry.apply(&[(host.seq, Some(draft.event()))], NOW, &|_| true).unwrap();
        host.registry.has_changes()
    };
    assert!(!apply(&mut host, zap_of(60, 1, &asked, 5_000, NOW).receipt()));
    assert!(!apply(&mut host, zap_of(2, 1, &Draft::new(9, 1, NOW), 5_000, NOW).receipt()));
    assert!(apply(&mut host, receipt(&asked, NOW)));
}

/// What a proof leaves out is reported, since a registry keeps a bounded number.
#[test]
fn receipts_that_a_proof_does_not_name_are_reported() {
    let mut host = Host::new();
    let [asked, done] = job(2, NOW - HOUR);
    let mut events = vec![announcement(1, "shout", &["5050"], "5"), asked.clone(), done];
    host.apply(&events);
    events.push(receipt(&asked, NOW - 60));
    let proof = relay_market::proof::Proof::read(&host.proof(1)).unwrap();
    let events: Vec<_> = events.iter().map(Draft::event).collect();
    assert_eq!(proof.recompute(&events), proof.claimed);
    assert_eq!((proof.unnamed_payments(&events), proof.unnamed_payments(&events[..3])), (1, 0));
}

#[test]
fn receipts_are_found_by_their_indexes() {
    let host = Host::new();
    for sql in [
        "SELECT id FROM market_receipts WHERE zapped = ? AND payer = ? AND payee = ? AND at > ?",
        "SELECT id, at FROM market_receipts WHERE matched = ? ORDER BY at, id LIMIT ?",
        "UPDATE market_receipts SET matched = 1 WHERE payer = ? AND matched = 0 \
         AND zapped IN (SELECT id FROM market_evidence WHERE request = ? AND role > 0) \
         AND payee = (SELECT author FROM market_evidence a WHERE a.id = market_receipts.zapped)",
        "SELECT e.id FROM market_copies c CROSS JOIN market_evidence e ON e.id = c.id ORDER BY c.at, c.id LIMIT ?",
        "SELECT id, at FROM market_evidence WHERE author = ? AND role = ? ORDER BY at, id LIMIT 1",
    ] {
        let plan = host.db.plan(sql);
        assert!(!plan.contains("SCAN market_receipts") && !plan.contains("SCAN e"), "{sql}\n{plan}");
        assert!(!plan.contains("ORDER BY") || plan.contains("LAST TERM"), "{sql}\n{plan}");
    }
}
