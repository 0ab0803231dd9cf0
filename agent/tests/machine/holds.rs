//! Jobs that are paid by hold invoices: charged on success, given back on failure.

use relay_agent::job::JobState;
use relay_agent::machine::{AgentState, ExchangeEvent};
use relay_agent::manifest::Manifest;
use relay_agent::testing::Customer;
use relay_engine::sql::{SqlConn as _, SqlValue};
use relay_engine::types::{Event, EventId};
use serde_json::{Value, json};

use crate::prepaid::{PRICE, books, order, paid, pay, required};
use crate::wallet::{Holding, Wallet};
use crate::world::World;

pub(crate) const ASKED: [&str; 1] = ["payment-required"];
pub(crate) const BEGUN: [&str; 2] = ["payment-required", "processing"];
pub(crate) const DELIVERED: [&str; 3] = ["payment-required", "processing", "result"];
pub(crate) const FAILED: [&str; 3] = ["payment-required", "processing", "error"];

pub(crate) fn holding(change: impl FnOnce(&mut Value)) -> Manifest {
    paid("hold", change)
}

/// An agent whose work is a call, its wallet, a customer, and a job of theirs that is asked for.
pub(crate) fn ordered(change: impl FnOnce(&mut Value)) -> (World, Wallet, Customer, Event) {
    let mut world = World::calling(&holding(change));
    let (mut wallet, customer) = (Wallet::new(), Customer::new(1));
    let request = order(&mut world, &mut wallet, &customer, "hello");
    assert_eq!(world.statuses(&request.id), ASKED);
    (world, wallet, customer, request)
}

/// One that works, with its payment hash.
pub(crate) fn begun(change: impl FnOnce(&mut Value)) -> (World, Wallet, Customer, Event, String) {
    let (mut world, mut wallet, customer, request) = ordered(change);
    let hash = pay(&world, &mut wallet, &customer, &request);
    world.pass_with(&mut wallet, 10);
    assert_eq!((world.statuses(&request.id), world.host.calls.len()), (strings(&BEGUN), 1));
    (world, wallet, customer, request, hash)
}

pub(crate) fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

pub(crate) fn state(world: &World, job: &EventId) -> (JobState, String, u64) {
    let job = world.agent.job(job).unwrap().unwrap();
    (job.state, job.cause, job.cost_msat)
}

pub(crate) fn held(wallet: &Wallet, hash: &str) -> Holding {
    wallet.invoices[hash].hold.expect("a hold invoice")
}

/// How often the wallet was asked this.
pub(crate) fn asked(wallet: &Wallet, method: &str) -> usize {
    wallet.asked.iter().filter(|asked| *asked == method).count()
}

/// All that the agent has stored, as text.
pub(crate) fn stored(world: &World) -> String {
    let mut all = String::new();
    for table in ["agent_invoice", "agent_job", "agent_meta", "agent_log", "agent_outbox", "agent_withheld"] {
        let found = &mut all;
        world
            .sqlite
            .query(&format!("SELECT * FROM {table}"), &[], &mut |row| {
                for value in row {
                    if let SqlValue::Blob(blob) = value {
                        found.push_str(&String::from_utf8_lossy(blob));
                        found.push_str(&faster_hex::hex_string(blob));
                    }
                }
                Ok(())
            })
            .unwrap();
    }
    all
}

#[test]
fn a_payment_is_held_while_the_job_works_and_taken_when_there_is_a_result() {
    let (mut world, mut wallet, customer, request) = ordered(|_| ());
    let asked_for = required(&world, &customer, &request.id);
    assert_eq!(asked_for.amount_msat, Some(PRICE));
    let message =
        "the price is 21000 msat; your payment is held, taken when there is a result, and else given back";
    assert_eq!(asked_for.content, message);
    world.pass_with(&mut wallet, 60);
    assert_eq!(world.statuses(&request.id), ASKED);
    let hash = pay(&world, &mut wallet, &customer, &request);
    world.pass_with(&mut wallet, 20);
    assert_eq!(world.statuses(&request.id), BEGUN);
    // It is not the agent's, and not in its books.
    assert_eq!((world.check_books(), held(&wallet, &hash)), (books(0, 0, 0), Holding::Held(PRICE)));
    let questions = wallet.asked.len();
    world.pass_with(&mut wallet, 60);
    assert_eq!(wallet.asked.len(), questions, "nothing is asked while it works");
    world.answer(200, "the answer");
    assert_eq!((world.statuses(&request.id), held(&wallet, &hash)), (strings(&BEGUN), Holding::Held(PRICE)));
    assert_eq!(state(&world, &request.id), (JobState::Withheld, String::new(), 0));
    let history = world.agent.history(u64::MAX, 9).unwrap();
    assert!(!format!("{history:?}").contains("the answer"));
    world.ask_wallet(&mut wallet);
    assert_eq!(world.statuses(&request.id), DELIVERED);
    assert_eq!(world.last(&customer, &request.id).1, "the answer");
    assert_eq!((world.check_books(), held(&wallet, &hash)), (books(PRICE, PRICE, 0), Holding::Settled));
    assert_eq!(state(&world, &request.id), (JobState::Done, String::new(), PRICE));
    let counts = ["make_hold_invoice", "settle_hold_invoice", "cancel_hold_invoice"];
    assert_eq!(counts.map(|method| asked(&wallet, method)), [1, 1, 0]);
    let payments = world.agent.metrics().payments;
    assert_eq!((payments["held"], payments["settled"], payments.get("released")), (1, 1, None));
    world.pass_with(&mut wallet, 100);
    assert!(world.agent.is_idle() && world.agent.poll_timeout().is_none());
}

#[test]
fn the_preimage_is_nowhere_but_in_the_request_that_takes_the_payment() {
    let (mut world, mut wallet, _, request, hash) = begun(|_| ());
    world.answer(200, "the answer");
    let before = stored(&world);
    world.ask_wallet(&mut wallet);
    assert_eq!(world.statuses(&request.id), DELIVERED);
    let preimage = faster_hex::hex_string(&wallet.invoices[&hash].preimage);
    let (export, log) = (world.agent.export().unwrap().to_string(), world.agent.logs(0, 100).unwrap());
    let published: Vec<_> =
        world.host.stored.iter().map(|event| String::from_utf8_lossy(event.json()).into_owned()).collect();
    for text in [before, stored(&world), export, format!("{log:?}"), published.join("\n")] {
        assert!(!text.is_empty() && !text.contains(&preimage));
    }
}

#[test]
fn a_notification_begins_the_job_at_once() {
    let (mut world, mut wallet, customer, request) = ordered(|_| ());
    let (open, _) = world.host.exchanges[0].clone();
    let hash = pay(&world, &mut wallet, &customer, &request);
    let mut transaction = wallet.transaction(world.now.seconds(), &hash).unwrap();
    transaction["settle_deadline"] = json!(900_000);
    let mut other = transaction.clone();
    other["payment_hash"] = json!("07".repeat(32));
    let mut nameless = transaction.clone();
    nameless.as_object_mut().unwrap().remove("payment_hash");
    let mut less = transaction.clone();
    less["amount"] = json!(PRICE - 1);
    let notify = |world: &mut World, wallet: &mut Wallet, name: &str, words: &Value| {
        let event = wallet.notification_of(name, words);
        world.agent.handle_exchange(world.now, open, ExchangeEvent::Event(event));
        world.run();
    };
    for words in [other, nameless, less] {
        notify(&mut world, &mut wallet, "hold_invoice_accepted", &words);
        assert_eq!(world.statuses(&request.id), ASKED, "{words}");
    }
    notify(&mut world, &mut wallet, "hold_invoice_rejected", &transaction);
    assert_eq!(world.statuses(&request.id), ASKED);
    // The state is optional there.
    transaction.as_object_mut().unwrap().remove("state");
    for _ in 0..2 {
        notify(&mut world, &mut wallet, "hold_invoice_accepted", &transaction);
        assert_eq!((world.statuses(&request.id), world.host.calls.len()), (strings(&BEGUN), 1));
    }
    assert_eq!(asked(&wallet, "lookup_invoice"), 0);
    world.answer(200, "x");
    world.pass_with(&mut wallet, 10);
    // What comes late changes nothing.
    assert_eq!(world.statuses(&request.id), DELIVERED);
    assert_eq!(world.check_books(), books(PRICE, PRICE, 0));
}

#[test]
fn a_payment_is_given_back_if_the_job_fails_or_is_cancelled() {
    let (mut world, mut wallet, customer, request, hash) = begun(|_| ());
    world.answer(404, "");
    assert_eq!(world.statuses(&request.id), FAILED);
    assert!(world.last(&customer, &request.id).1.ends_with("; your payment is given back"));
    world.ask_wallet(&mut wallet);
    assert_eq!((held(&wallet, &hash), world.check_books()), (Holding::Cancelled, books(0, 0, 0)));
    let payments = world.agent.metrics().payments;
    assert_eq!((payments["released"], payments.get("unpaid"), payments.get("settled")), (1, None, None));

    let (mut world, mut wallet, customer, request, hash) = begun(|_| ());
    world.deliver(&customer.cancel(&[request.id], world.now.seconds()));
    world.ask_wallet(&mut wallet);
    assert_eq!((held(&wallet, &hash), world.check_books()), (Holding::Cancelled, books(0, 0, 0)));
    assert_eq!(state(&world, &request.id), (JobState::Cancelled, String::new(), 0));
    world.pass_with(&mut wallet, 100);
    assert!(world.agent.is_idle() && world.agent.poll_timeout().is_none());
    assert_eq!(asked(&wallet, "settle_hold_invoice"), 0);
}

#[test]
fn an_invoice_that_nobody_pays_is_cancelled() {
    let (mut world, mut wallet, _, request) = ordered(|_| ());
    world.pass_with(&mut wallet, 700);
    assert_eq!(world.statuses(&request.id), ["payment-required", "error"]);
    let hash = wallet.invoices.keys().next().unwrap().clone();
    assert_eq!((held(&wallet, &hash), asked(&wallet, "cancel_hold_invoice")), (Holding::Cancelled, 1));
    assert_eq!(world.agent.poll_timeout(), None);
    assert_eq!(world.agent.metrics().payments["unpaid"], 1);
}

/// Alby Hub cancels only what it holds.
#[test]
fn what_is_paid_too_late_is_given_back() {
    let (mut world, mut wallet, customer, request) = ordered(|_| ());
    wallet.cancels_unpaid = false;
    let bolt11 = required(&world, &customer, &request.id).bolt11.unwrap();
    world.pass_with(&mut wallet, 700);
    assert_eq!((world.statuses(&request.id).len(), asked(&wallet, "cancel_hold_invoice")), (2, 1));
    assert_eq!(world.agent.error(), None, "that it does not is no trouble");
    for _ in 0..2 {
        world.crash();
        world.run();
    }
    let hash = wallet.pay(&bolt11, None);
    world.pass_with(&mut wallet, 3_600);
    assert_eq!((held(&wallet, &hash), asked(&wallet, "cancel_hold_invoice")), (Holding::Cancelled, 2));
    assert_eq!((world.check_books(), world.statuses(&request.id).len()), (books(0, 0, 0), 2));
    world.pass_with(&mut wallet, 2 * 86_400);
    assert_eq!(world.agent.poll_timeout(), None);
}

#[test]
fn the_work_ends_when_its_payment_is_not_held_for_longer() {
    let limits = |json: &mut Value| {
        json["payment"]["hold_s"] = json!(60);
        json["limits"] = json!({"concurrency": 1, "timeout_s": 50, "attempts": 2});
    };
    let (mut world, mut wallet, _, first, first_hash) = begun(limits);
    let customer = Customer::new(2);
    let second = order(&mut world, &mut wallet, &customer, "waits");
    let second_hash = pay(&world, &mut wallet, &customer, &second);
    world.pass_with(&mut wallet, 10);
    assert_eq!(world.statuses(&second.id), BEGUN);
    // It waits for the other one's end, and then works until its own payment ends.
    world.pass_with(&mut wallet, 45);
    assert_eq!(
        (world.statuses(&first.id), held(&wallet, &first_hash)),
        (strings(&FAILED), Holding::Cancelled)
    );
    assert_eq!((world.statuses(&second.id), world.host.calls.len()), (strings(&BEGUN), 1));
    world.crash();
    world.run();
    world.pass_with(&mut wallet, 20);
    assert_eq!(world.statuses(&second.id), FAILED);
    let message = "the work took longer than a payment is held; your payment is given back";
    assert_eq!(world.last(&customer, &second.id).1, message);
    assert_eq!(state(&world, &second.id), (JobState::Expired, "timeout".to_owned(), 0));
    assert_eq!((held(&wallet, &second_hash), world.check_books()), (Holding::Cancelled, books(0, 0, 0)));
    // One that waits for its turn ends, too.
    world.agent.set_state(world.now, AgentState::Paused).unwrap();
    world.agent.set_state(world.now, AgentState::Active).unwrap();
    let third = order(&mut world, &mut wallet, &customer, "paused");
    let third_hash = pay(&world, &mut wallet, &customer, &third);
    world.agent.set_state(world.now, AgentState::Paused).unwrap();
    world.pass_with(&mut wallet, 100);
    assert_eq!(
        (world.statuses(&third.id), held(&wallet, &third_hash)),
        (strings(&FAILED), Holding::Cancelled)
    );
}

#[test]
fn credit_pays_its_part_and_held_payments_are_not_unpaid() {
    let (mut world, mut wallet, customer, request) = ordered(|_| ());
    // More is held than was asked for.
    let bolt11 = required(&world, &customer, &request.id).bolt11.unwrap();
    wallet.pay(&bolt11, Some(PRICE + 5_000));
    world.pass_with(&mut wallet, 10);
    world.answer(200, "x");
    world.pass_with(&mut wallet, 10);
    assert_eq!(world.check_books(), books(PRICE + 5_000, PRICE, 5_000));
    let second = order(&mut world, &mut wallet, &customer, "second");
    assert_eq!(required(&world, &customer, &second.id).amount_msat, Some(PRICE - 5_000));
    let hash = pay(&world, &mut wallet, &customer, &second);
    world.pass_with(&mut wallet, 10);
    world.deliver(&customer.cancel(&[second.id], world.now.seconds()));
    world.pass_with(&mut wallet, 10);
    assert_eq!(
        (held(&wallet, &hash), world.check_books()),
        (Holding::Cancelled, books(PRICE + 5_000, PRICE, 5_000))
    );
    // Of another one eight may be unpaid; those that are held are not.
    let customer = Customer::new(2);
    for number in 0..9 {
        let request = order(&mut world, &mut wallet, &customer, &format!("job {number}"));
        pay(&world, &mut wallet, &customer, &request);
        world.pass_with(&mut wallet, 5);
        assert_eq!(world.statuses(&request.id), BEGUN, "{number}");
    }
}

#[test]
fn an_agent_that_is_deleted_gives_back_what_is_held() {
    let (mut world, mut wallet, _, request, hash) = begun(|_| ());
    let unpaid = order(&mut world, &mut wallet, &Customer::new(2), "unpaid");
    world.agent.set_state(world.now, AgentState::Deleted).unwrap();
    world.run();
    assert_eq!(world.statuses(&request.id), FAILED);
    assert!(!world.agent.is_removable());
    world.crash();
    world.run();
    world.pass_with(&mut wallet, 60);
    assert_eq!((held(&wallet, &hash), world.check_books()), (Holding::Cancelled, books(0, 0, 0)));
    assert_eq!(world.statuses(&unpaid.id), ["payment-required", "error"]);
    assert!(wallet.invoices.values().all(|invoice| invoice.hold == Some(Holding::Cancelled)));
    assert!(world.agent.is_removable());
}
