//! What Blossom sells (BUD-07): the agent makes an invoice for each purchase, and a payment is good for it once.

use relay_agent::machine::PaymentReply;
use relay_agent::manifest::{KIND_BLOB_PAYMENT, Manifest};
use relay_agent::testing::{Customer, Request};
use relay_engine::sql::StoreError;
use relay_site::{Operation, PaymentOutcome, PaymentRequest, Purchase};
use serde_json::json;

use crate::prepaid::{books, prepaid};
use crate::wallet::Wallet;
use crate::world::{World, owner};

const MSAT: u64 = 7_000;

fn selling() -> Manifest {
    prepaid(|json| {
        json["handlers"][0] = json!({
            "kind": KIND_BLOB_PAYMENT,
            "executor": "blob_payment",
            "inputs": ["text"],
            "price": {"model": "per_job", "msat": 1_000},
        });
    })
}

fn shop() -> (World, Wallet) {
    (World::new(&selling()), Wallet::new())
}

fn purchase(size: u64) -> Purchase {
    Purchase { operation: Operation::Upload, sha256: "ab".repeat(32), size }
}

fn ask(world: &mut World, request: &PaymentRequest) -> PaymentReply {
    let reply = world.agent.handle_payment_request(world.now, request);
    world.run();
    reply
}

/// Asks again while the wallet answers, as hosts do.
fn wait(world: &mut World, wallet: &mut Wallet, request: &PaymentRequest) -> PaymentOutcome {
    for _ in 0..10 {
        let reply = ask(world, request);
        if reply.is_final {
            return reply.outcome;
        }
        world.pass_with(wallet, 1);
    }
    ask(world, request).outcome
}

fn quote(world: &mut World, wallet: &mut Wallet, purchase: &Purchase, msat: u64) -> PaymentOutcome {
    wait(world, wallet, &PaymentRequest::Quote { purchase: purchase.clone(), msat })
}

fn invoice(world: &mut World, wallet: &mut Wallet, purchase: &Purchase) -> String {
    match quote(world, wallet, purchase, MSAT) {
        PaymentOutcome::Invoice(invoice) => invoice,
        other => panic!("{other:?}"),
    }
}

fn preimage(wallet: &Wallet, bolt11: &str) -> String {
    let invoice = wallet.invoices.values().find(|invoice| invoice.bolt11 == bolt11).expect("its invoice");
    faster_hex::hex_string(&invoice.preimage)
}

fn request(purchase: &Purchase, preimage: &str, spends: bool) -> PaymentRequest {
    PaymentRequest::Check { purchase: purchase.clone(), preimage: preimage.to_owned(), spends }
}

#[track_caller]
fn check_refused(outcome: &PaymentOutcome, why: &str) {
    let PaymentOutcome::Refused(told) = outcome else { panic!("{outcome:?}") };
    assert!(told.contains(why), "{told}");
}

#[test]
fn a_payment_is_good_for_its_purchase_once() {
    let (mut world, mut wallet) = shop();
    let bought = purchase(100);
    let bolt11 = invoice(&mut world, &mut wallet, &bought);
    assert_eq!(wallet.invoices.values().next().map(|invoice| invoice.msat), Some(MSAT));
    let proof = preimage(&wallet, &bolt11);
    let check = |spends| request(&bought, &proof, spends);
    // Whoever has the preimage has not paid therefore.
    check_refused(&wait(&mut world, &mut wallet, &check(false)), "has not received this payment");
    wallet.pay(&bolt11, None);
    assert_eq!(wait(&mut world, &mut wallet, &check(false)), PaymentOutcome::Paid);
    for other in [purchase(101), Purchase { operation: Operation::Media, ..purchase(100) }] {
        check_refused(
            &ask(&mut world, &request(&other, &proof, true)).outcome,
            "for something else: upload ab",
        );
    }
    for wrong in ["", "00", &"zz".repeat(32), &proof[2..]] {
        check_refused(&ask(&mut world, &request(&bought, wrong, true)).outcome, "64 hexadecimal digits");
    }
    let foreign = "11".repeat(32);
    check_refused(&ask(&mut world, &request(&bought, &foreign, true)).outcome, "no invoice of this server");
    // A failed upload spends nothing, whoever asks how often.
    world.crash();
    assert_eq!(wait(&mut world, &mut wallet, &check(false)), PaymentOutcome::Paid);
    assert_eq!(ask(&mut world, &check(true)).outcome, PaymentOutcome::Paid);
    // What broke is repeated, for a while.
    assert_eq!(ask(&mut world, &check(true)).outcome, PaymentOutcome::Paid);
    world.pass_with(&mut wallet, 601);
    for spends in [false, true] {
        check_refused(&ask(&mut world, &check(spends)).outcome, "is spent");
    }
    world.crash();
    check_refused(&ask(&mut world, &request(&bought, &proof.to_uppercase(), true)).outcome, "is spent");
    assert_eq!(world.check_books(), books(MSAT, MSAT, 0));
}

#[test]
fn who_asks_again_gets_the_same_invoice_as_long_as_it_can_be_paid() {
    let (mut world, mut wallet) = shop();
    let bought = purchase(100);
    let first = invoice(&mut world, &mut wallet, &bought);
    world.crash();
    assert_eq!(invoice(&mut world, &mut wallet, &bought), first, "also after a restart");
    assert_ne!(invoice(&mut world, &mut wallet, &purchase(101)), first);
    // Another price.
    let PaymentOutcome::Invoice(dearer) = quote(&mut world, &mut wallet, &bought, 2 * MSAT) else { panic!() };
    assert_ne!(dearer, first);
    assert_eq!(wallet.invoices.len(), 3);
    world.pass_with(&mut wallet, 560);
    let later = invoice(&mut world, &mut wallet, &bought);
    assert_ne!(later, first, "it has no minute left");
    // One that is paid is not shown again: it may be somebody else's.
    wallet.pay(&later, None);
    world.pass_with(&mut wallet, 30);
    assert_ne!(invoice(&mut world, &mut wallet, &bought), later);
    // Two that ask before the wallet has answered wait for one invoice.
    let made = wallet.invoices.len();
    let asked = PaymentRequest::Quote { purchase: purchase(5), msat: MSAT };
    assert!(!ask(&mut world, &asked).is_final && !ask(&mut world, &asked).is_final);
    invoice(&mut world, &mut wallet, &purchase(5));
    assert_eq!(wallet.invoices.len(), made + 1);
}

/// A wallet whose invoices can hardly be paid: each request makes one, and no more.
#[test]
fn short_invoices_are_shown_once() {
    let (mut world, mut wallet) = shop();
    wallet.expiry_s = Some(30);
    let first = invoice(&mut world, &mut wallet, &purchase(1));
    assert_eq!(wallet.invoices.len(), 1);
    assert_ne!(invoice(&mut world, &mut wallet, &purchase(1)), first);
    assert_eq!(wallet.invoices.len(), 2);
}

#[test]
fn an_invoice_that_runs_out_is_no_proof_and_one_that_settles_late_is() {
    let (mut world, mut wallet) = shop();
    let (lost, late) = (purchase(1), purchase(2));
    let [unpaid, settled] = [&lost, &late].map(|bought| invoice(&mut world, &mut wallet, bought));
    // The job is over, and nobody can pay any more; a payment of the last second settles then.
    world.pass_with(&mut wallet, 900);
    wallet.pay(&settled, None);
    let proof = preimage(&wallet, &settled);
    assert_eq!(wait(&mut world, &mut wallet, &request(&late, &proof, false)), PaymentOutcome::Paid);
    assert_eq!(world.check_books(), books(MSAT, 0, MSAT));
    assert_eq!(ask(&mut world, &request(&late, &proof, true)).outcome, PaymentOutcome::Paid);
    assert_eq!(world.check_books(), books(MSAT, MSAT, 0));
    world.pass_with(&mut wallet, 601);
    check_refused(&ask(&mut world, &request(&late, &proof, true)).outcome, "is spent");
    let proof = preimage(&wallet, &unpaid);
    check_refused(&wait(&mut world, &mut wallet, &request(&lost, &proof, true)), "has not received");
    world.pass_with(&mut wallet, 3 * 86_400);
    // The wallet is asked once more, and once only for a while.
    let asked = wallet.asked.len();
    check_refused(&wait(&mut world, &mut wallet, &request(&lost, &proof, true)), "not paid in time");
    let once = wallet.asked.len();
    assert!(once > asked, "{once}");
    check_refused(&ask(&mut world, &request(&lost, &proof, true)).outcome, "not paid in time");
    world.pass_with(&mut wallet, 10);
    assert_eq!(wallet.asked.len(), once);
}

/// Regression: who had paid an invoice that the agent had given up was refused for good.
#[test]
fn an_invoice_that_was_given_up_and_is_paid_after_all_is_a_proof() {
    let (mut world, mut wallet) = shop();
    let bought = purchase(1);
    let bolt11 = invoice(&mut world, &mut wallet, &bought);
    world.pass_with(&mut wallet, 3 * 86_400);
    wallet.pay(&bolt11, None);
    world.pass_with(&mut wallet, 3_600);
    let proof = preimage(&wallet, &bolt11);
    assert_eq!(wait(&mut world, &mut wallet, &request(&bought, &proof, true)), PaymentOutcome::Paid);
    world.pass_with(&mut wallet, 601);
    check_refused(&ask(&mut world, &request(&bought, &proof, true)).outcome, "is spent");
    assert_eq!(world.check_books(), books(MSAT, MSAT, 0));
}

/// Regression: a download that broke, or whose client asked for one range after the other, was paid again.
#[test]
fn a_payment_is_good_for_the_same_again_for_ten_minutes() {
    let (mut world, mut wallet) = shop();
    let bought = Purchase { operation: Operation::Download, ..purchase(100) };
    let bolt11 = invoice(&mut world, &mut wallet, &bought);
    wallet.pay(&bolt11, None);
    let proof = preimage(&wallet, &bolt11);
    let check = request(&bought, &proof, true);
    assert_eq!(wait(&mut world, &mut wallet, &check), PaymentOutcome::Paid);
    world.crash();
    world.pass_with(&mut wallet, 590);
    assert_eq!(ask(&mut world, &check).outcome, PaymentOutcome::Paid);
    let other = Purchase { sha256: "cd".repeat(32), ..bought.clone() };
    check_refused(&ask(&mut world, &request(&other, &proof, true)).outcome, "for something else");
    world.pass_with(&mut wallet, 20);
    check_refused(&ask(&mut world, &check).outcome, "is spent");
    assert_eq!(world.check_books(), books(MSAT, MSAT, 0), "it is earned once");
}

/// Regression: what was bought was published with its hash, in feedback for each invoice and in results.
#[test]
fn nothing_is_published_about_purchases() {
    let (mut world, mut wallet) = shop();
    world.run();
    let before = world.host.stored.len();
    let bought = purchase(100);
    invoice(&mut world, &mut wallet, &purchase(101));
    let bolt11 = invoice(&mut world, &mut wallet, &bought);
    wallet.pay(&bolt11, None);
    let proof = preimage(&wallet, &bolt11);
    assert_eq!(wait(&mut world, &mut wallet, &request(&bought, &proof, true)), PaymentOutcome::Paid);
    // The one that nobody has paid ends, too, also when it was read from the database.
    world.crash();
    world.pass_with(&mut wallet, 900);
    let about = |event: &relay_engine::types::Event| {
        [KIND_BLOB_PAYMENT, KIND_BLOB_PAYMENT + 1_000, 7_000].contains(&event.kind)
    };
    let published: Vec<_> = world.host.stored[before..].iter().filter(|event| about(event)).collect();
    assert!(published.is_empty(), "{published:?}");
    let jobs = world.agent.history(u64::MAX, 10).unwrap();
    assert!(jobs.iter().any(|job| job.state == relay_agent::job::JobState::Done), "{jobs:?}");
}

#[test]
fn what_is_paid_in_part_is_asked_for_again() {
    let (mut world, mut wallet) = shop();
    let bought = purchase(100);
    let first = invoice(&mut world, &mut wallet, &bought);
    wallet.pay(&first, Some(5_000));
    world.pass_with(&mut wallet, 30);
    let proof = preimage(&wallet, &first);
    check_refused(&ask(&mut world, &request(&bought, &proof, true)).outcome, "only 5000 msat came");
    let rest = invoice(&mut world, &mut wallet, &bought);
    wallet.pay(&rest, None);
    let proof = preimage(&wallet, &rest);
    assert_eq!(wait(&mut world, &mut wallet, &request(&bought, &proof, true)), PaymentOutcome::Paid);
    assert_eq!(world.check_books(), books(MSAT, MSAT, 0));
}

#[test]
fn without_its_wallet_it_says_so() {
    let (mut world, mut wallet) = shop();
    let asked = PaymentRequest::Quote { purchase: purchase(1), msat: MSAT };
    for _ in 0..10 {
        let reply = ask(&mut world, &asked);
        assert!(!reply.is_final && matches!(reply.outcome, PaymentOutcome::Unavailable(_)), "{reply:?}");
        world.pass(1);
    }
    // Its job has expired, and the next one has its own.
    world.pass(60);
    let reply = ask(&mut world, &asked);
    assert!(reply.is_final && matches!(reply.outcome, PaymentOutcome::Unavailable(_)), "{reply:?}");
    world.pass_with(&mut wallet, 130);
    let bolt11 = invoice(&mut world, &mut wallet, &purchase(1));
    wallet.pay(&bolt11, None);
    let proof = preimage(&wallet, &bolt11);
    // Paid, and the wallet is away: nobody is told that he has not paid.
    for _ in 0..20 {
        let reply = ask(&mut world, &request(&purchase(1), &proof, false));
        assert!(matches!(reply.outcome, PaymentOutcome::Unavailable(_)), "{reply:?}");
        world.pass(1);
    }
    world.pass_with(&mut wallet, 130);
    let paid = wait(&mut world, &mut wallet, &request(&purchase(1), &proof, true));
    assert_eq!(paid, PaymentOutcome::Paid);
}

#[test]
fn a_wallet_that_refuses_is_told_as_one_that_is_away() {
    let (mut world, mut wallet) = shop();
    wallet.makes_none = Some("RESTRICTED");
    let outcome = quote(&mut world, &mut wallet, &purchase(1), MSAT);
    assert!(matches!(outcome, PaymentOutcome::Unavailable(_)), "{outcome:?}");
    wallet.makes_none = None;
    invoice(&mut world, &mut wallet, &purchase(1));
}

/// However many ask for invoices: no more than a part of the queue is open.
#[test]
fn open_invoices_are_bounded() {
    let limited = prepaid(|json| {
        *json = serde_json::to_value(selling()).unwrap();
        json["limits"]["queue"] = json!(40);
    });
    let (mut world, mut wallet) = (World::new(&limited), Wallet::new());
    let outcomes: Vec<_> =
        (0..15).map(|size| quote(&mut world, &mut wallet, &purchase(size), MSAT)).collect();
    let made = outcomes.iter().filter(|outcome| matches!(outcome, PaymentOutcome::Invoice(_))).count();
    let refused = outcomes.iter().filter(|outcome| matches!(outcome, PaymentOutcome::TooMany(_))).count();
    assert_eq!((made, refused, wallet.invoices.len()), (10, 5, 10));
    assert_eq!(quote(&mut world, &mut wallet, &purchase(3), MSAT), outcomes[3], "known ones are shown");
}

#[test]
fn purchases_are_not_ordered_by_requests() {
    let (mut world, mut wallet) = shop();
    let customer = Customer::new(1);
    let order = Request::new(KIND_BLOB_PAYMENT, world.now.seconds()).to(&world.pubkey());
    let order = customer.sign(&order.text(&purchase(1).to_string()).tag(&["bid", "1000"]));
    world.deliver(&order);
    world.ask_wallet(&mut wallet);
    assert_eq!(world.statuses(&order.id), ["error"]);
    assert!(world.last(&customer, &order.id).1.contains("BUD-07"));
    assert!(wallet.invoices.is_empty());
}

#[test]
fn an_agent_that_takes_no_jobs_sells_nothing_and_knows_what_it_sold() {
    use relay_agent::machine::AgentState;
    let (mut world, mut wallet) = shop();
    let bolt11 = invoice(&mut world, &mut wallet, &purchase(1));
    wallet.pay(&bolt11, None);
    world.pass_with(&mut wallet, 30);
    world.agent.set_state(world.now, AgentState::Draining).unwrap();
    let outcome = quote(&mut world, &mut wallet, &purchase(2), MSAT);
    assert!(matches!(&outcome, PaymentOutcome::Unavailable(why) if why.contains("draining")), "{outcome:?}");
    let proof = preimage(&wallet, &bolt11);
    assert_eq!(ask(&mut world, &request(&purchase(1), &proof, true)).outcome, PaymentOutcome::Paid);
    // Another agent that sells nothing.
    let mut world = World::new(&prepaid(|_| ()));
    let outcome = quote(&mut world, &mut wallet, &purchase(2), MSAT);
    assert!(
        matches!(&outcome, PaymentOutcome::Unavailable(why) if why.contains("blob_payment")),
        "{outcome:?}"
    );
}

/// Regression: when the agent did not sell blobs any more, what it had sold was a job like any other, and told everybody of the purchase.
#[test]
fn what_is_ordered_stays_a_purchase_when_nothing_is_sold_any_more() {
    let (mut world, mut wallet) = shop();
    let bolt11 = invoice(&mut world, &mut wallet, &purchase(1));
    world.agent.deploy(world.now, &prepaid(|_| ()), &owner()).unwrap();
    world.run();
    for is_opened_again in [false, true] {
        if is_opened_again {
            world.crash();
            world.run();
            wallet.pay(&bolt11, None);
        }
        world.pass_with(&mut wallet, 30);
    }
    let proof = preimage(&wallet, &bolt11);
    assert_eq!(ask(&mut world, &request(&purchase(1), &proof, true)).outcome, PaymentOutcome::Paid);
    assert!(world.host.stored.iter().all(|event| event.kind != 7000 && event.kind != 6944), "it is told");
    assert_eq!(world.check_books(), books(MSAT, MSAT, 0));
}

/// Whatever is lost: what was paid is good once, and the books agree.
#[test]
fn a_crash_at_any_time_loses_no_payment_and_spends_none_twice() {
    for steps in 0..25 {
        let (mut world, mut wallet) = shop();
        let bought = purchase(100);
        let bolt11 = invoice(&mut world, &mut wallet, &bought);
        let proof = preimage(&wallet, &bolt11);
        wallet.pay(&bolt11, None);
        world.pass_with(&mut wallet, steps);
        world.crash();
        let check = |spends| request(&bought, &proof, spends);
        assert_eq!(wait(&mut world, &mut wallet, &check(false)), PaymentOutcome::Paid, "{steps}");
        assert_eq!(ask(&mut world, &check(true)).outcome, PaymentOutcome::Paid, "{steps}");
        world.crash();
        world.pass_with(&mut wallet, 601);
        check_refused(&ask(&mut world, &check(true)).outcome, "is spent");
        assert_eq!(world.check_books(), books(MSAT, MSAT, 0), "{steps}");
    }
}

/// A database that fails at any statement: nothing is answered that is not stored.
#[test]
fn a_database_that_fails_spends_nothing_twice() {
    for n in 1..60 {
        let (mut world, mut wallet) = shop();
        let bought = purchase(100);
        let bolt11 = invoice(&mut world, &mut wallet, &bought);
        let proof = preimage(&wallet, &bolt11);
        wallet.pay(&bolt11, None);
        world.pass_with(&mut wallet, 30);
        world.sqlite.fail_at(n);
        let check = request(&bought, &proof, true);
        let outcome = ask(&mut world, &check).outcome;
        assert!(matches!(outcome, PaymentOutcome::Paid | PaymentOutcome::Unavailable(_)), "{n}: {outcome:?}");
        world.sqlite.fail_with(None);
        world.pass_with(&mut wallet, 60);
        assert_eq!(ask(&mut world, &check).outcome, PaymentOutcome::Paid, "{n}");
        world.crash();
        world.pass_with(&mut wallet, 601);
        check_refused(&ask(&mut world, &check).outcome, "is spent");
    }
    // A full disk: there is no invoice that is not stored.
    let (mut world, mut wallet) = shop();
    world.sqlite.fail_with(Some(StoreError::Full("the disk".to_owned())));
    let outcome = quote(&mut world, &mut wallet, &purchase(1), MSAT);
    assert!(matches!(outcome, PaymentOutcome::Unavailable(_)), "{outcome:?}");
    assert!(wallet.invoices.is_empty());
}
