//! Jobs that are paid after the work.

use relay_agent::cipher::Cipher;
use relay_agent::executor::HttpEvent;
use relay_agent::job::JobState;
use relay_agent::machine::{AgentState, Published};
use relay_agent::manifest::Manifest;
use relay_agent::testing::Customer;
use relay_engine::sql::{SqlConn as _, SqlValue};
use relay_engine::types::{Event, EventId};
use serde_json::{Value, json};

use crate::prepaid::{PRICE, books, order, paid, pay, required};
use crate::wallet::Wallet;
use crate::world::{Books, World, owner};

const ASKED: [&str; 2] = ["processing", "payment-required"];
const DELIVERED: [&str; 3] = ["processing", "payment-required", "result"];
const DROPPED: [&str; 3] = ["processing", "payment-required", "error"];
const PREPAID: [&str; 1] = ["payment-required"];

fn postpaid(change: impl FnOnce(&mut Value)) -> Manifest {
    paid("postpay", change)
}

fn postpaying() -> (World, Wallet, Customer) {
    (World::new(&postpaid(|_| ())), Wallet::new(), Customer::new(1))
}

fn state(world: &World, job: &EventId) -> (JobState, String, u64) {
    let job = world.agent.job(job).unwrap().unwrap();
    (job.state, job.cause, job.cost_msat)
}

/// Results that are stored and not published.
fn withheld(world: &World) -> i64 {
    let mut count = -1;
    let sql = "SELECT count(*) FROM agent_withheld";
    world
        .sqlite
        .query(sql, &[], &mut |row| {
            let SqlValue::Int(found) = row[0] else { panic!("{row:?}") };
            count = found;
            Ok(())
        })
        .unwrap();
    count
}

/// Whether the text is in anything that was published by the agent.
fn is_published(world: &World, text: &str) -> bool {
    let agent = world.pubkey();
    let mut own = world.host.stored.iter().filter(|event| event.pubkey == agent);
    own.any(|event| String::from_utf8_lossy(event.json()).contains(text))
}

#[test]
fn a_result_is_published_when_it_is_paid() {
    let mut world = World::calling(&postpaid(|_| ()));
    let (mut wallet, customer) = (Wallet::new(), Customer::new(1));
    let request = order(&mut world, &mut wallet, &customer, "hello");
    assert_eq!(world.statuses(&request.id), ["processing"]);
    assert!(wallet.invoices.is_empty(), "nothing is asked for before the work is done");
    world.answer(200, "the answer");
    world.ask_wallet(&mut wallet);
    assert_eq!(world.statuses(&request.id), ASKED);
    let asked = required(&world, &customer, &request.id);
    assert_eq!(asked.amount_msat, Some(PRICE));
    let message = "the price is 21000 msat; the result is ready, and is published when it is paid";
    assert_eq!((asked.content.as_str(), asked.message.as_deref()), (message, Some(message)));
    assert_eq!(state(&world, &request.id), (JobState::Withheld, String::new(), 0));
    world.pass_with(&mut wallet, 120);
    for _ in 0..2 {
        assert_eq!((world.statuses(&request.id).len(), withheld(&world)), (2, 1));
        assert!(!is_published(&world, "the answer"));
        let history = world.agent.history(u64::MAX, 9).unwrap();
        let export = world.agent.export().unwrap().to_string();
        assert!(!format!("{history:?}{export}").contains("the answer"), "nor is it read elsewhere");
        world.crash();
        world.run();
    }
    pay(&world, &mut wallet, &customer, &request);
    world.pass_with(&mut wallet, 40);
    assert_eq!(world.statuses(&request.id), DELIVERED);
    assert_eq!(world.last(&customer, &request.id).1, "the answer");
    let answers = world.host.answers_to(&request.id);
    assert!(answers.is_sorted_by(|(_, a), (_, b)| a.created_at < b.created_at));
    assert_eq!(state(&world, &request.id), (JobState::Done, String::new(), PRICE));
    assert_eq!((world.check_books(), withheld(&world)), (books(PRICE, PRICE, 0), 0));
    let metrics = world.agent.metrics();
    assert_eq!((metrics.payments["settled"], metrics.tokens, metrics.jobs["done"]), (1, (3, 4), 1));
    assert!(world.host.calls.is_empty() && world.agent.is_idle());
    assert_eq!(world.agent.poll_timeout(), None);
}

/// It is signed once, in the transaction in which it is paid.
#[test]
fn a_paid_result_is_published_again_as_it_is() {
    let (mut world, mut wallet, customer) = postpaying();
    let request = order(&mut world, &mut wallet, &customer, "hello");
    pay(&world, &mut wallet, &customer, &request);
    world.host.outcomes.extend(vec![Published::Failed("busy".to_owned()); 40]);
    world.pass_with(&mut wallet, 30);
    let stored = |world: &World| {
        let mut events = Vec::new();
        let found = &mut events;
        let sql = "SELECT events FROM agent_outbox";
        world
            .sqlite
            .query(sql, &[], &mut |row| {
                let SqlValue::Blob(blob) = row[0] else { panic!("{row:?}") };
                found.push(String::from_utf8(blob.to_vec()).unwrap());
                Ok(())
            })
            .unwrap();
        events
    };
    let before = stored(&world);
    assert_eq!((before.len(), state(&world, &request.id).0), (1, JobState::Responding));
    world.crash();
    world.run();
    assert_eq!(stored(&world), before);
    world.host.outcomes.clear();
    world.pass_with(&mut wallet, 60);
    let (_, result) = world.host.answers_to(&request.id).pop().unwrap();
    assert_eq!(String::from_utf8_lossy(result.json()), before[0]);
    assert_eq!(world.check_books(), books(PRICE, PRICE, 0));
}

#[test]
fn a_result_that_is_not_paid_is_dropped_and_late_money_is_credit() {
    let (mut world, mut wallet, customer) = postpaying();
    let request = order(&mut world, &mut wallet, &customer, "hello");
    let bolt11 = required(&world, &customer, &request.id).bolt11.unwrap();
    world.pass_with(&mut wallet, 700);
    assert_eq!(world.statuses(&request.id), DROPPED);
    assert_eq!(world.last(&customer, &request.id).1, "the result was not paid in time, and is dropped");
    assert_eq!(state(&world, &request.id), (JobState::Unpaid, "payment_timeout".to_owned(), 0));
    assert_eq!((world.agent.metrics().jobs["unpaid"], withheld(&world)), (1, 0));
    let log = world.agent.logs(0, 100).unwrap();
    assert!(log.iter().any(|line| line.message.contains("the result was not paid")), "{log:?}");
    wallet.pay(&bolt11, None);
    world.pass_with(&mut wallet, 3_600);
    assert_eq!((world.statuses(&request.id).len(), world.check_books()), (3, books(PRICE, 0, PRICE)));
    // Credit is spent first: there is nothing to wait for.
    let next = order(&mut world, &mut wallet, &customer, "next");
    assert_eq!(world.statuses(&next.id), ["processing", "result"]);
    assert_eq!(world.check_books(), books(PRICE, PRICE, 0));
}

#[test]
fn who_leaves_results_unpaid_pays_before_the_work() {
    let (mut world, mut wallet, customer) = postpaying();
    let begin = |world: &mut World, wallet: &mut Wallet, customer: &Customer, text: &str| {
        let request = order(world, wallet, customer, text);
        (world.statuses(&request.id), request)
    };
    // Those that wait count as well as those that were not paid.
    for number in 0..2 {
        assert_eq!(begin(&mut world, &mut wallet, &customer, &format!("first {number}")).0, ASKED);
    }
    world.pass_with(&mut wallet, 700);
    assert_eq!(begin(&mut world, &mut wallet, &customer, "third").0, ASKED);
    for number in 0..2 {
        let (statuses, request) = begin(&mut world, &mut wallet, &customer, &format!("more {number}"));
        assert_eq!(statuses, PREPAID);
        let message = required(&world, &customer, &request.id).content;
        assert!(message.ends_with("results of yours are unpaid, so this job begins when it is paid"));
        world.crash();
        world.run();
    }
    // Of others nothing is known.
    assert_eq!(begin(&mut world, &mut wallet, &Customer::new(2), "other").0, ASKED);
    world.pass_with(&mut wallet, 700);
    let (statuses, request) = begin(&mut world, &mut wallet, &customer, "paid before");
    assert_eq!(statuses, PREPAID);
    pay(&world, &mut wallet, &customer, &request);
    world.pass_with(&mut wallet, 40);
    assert_eq!(world.statuses(&request.id), ["payment-required", "processing", "result"]);
    // Each paid result makes up for one.
    let (statuses, request) = begin(&mut world, &mut wallet, &customer, "after");
    assert_eq!(statuses, ASKED);
    assert_eq!(begin(&mut world, &mut wallet, &customer, "beside it").0, PREPAID);
    pay(&world, &mut wallet, &customer, &request);
    world.pass_with(&mut wallet, 40);
    assert_eq!(world.statuses(&request.id), DELIVERED);
    for number in 0..2 {
        assert_eq!(begin(&mut world, &mut wallet, &customer, &format!("again {number}")).0, ASKED);
    }
    assert_eq!(begin(&mut world, &mut wallet, &customer, "too many").0, PREPAID);
    assert_eq!(world.check_books(), books(2 * PRICE, 2 * PRICE, 0));
    // A month later it is forgotten.
    world.pass_with(&mut wallet, 31 * 86_400);
    world.deliver(&Customer::new(3).sign(&world.request().text("wakes it")));
    assert_eq!(begin(&mut world, &mut wallet, &customer, "a month later").0, ASKED);
}

/// Otherwise whoever cancels in time would have work done without end.
#[test]
fn what_is_cancelled_when_its_work_has_begun_counts_as_unpaid() {
    let mut world = World::calling(&postpaid(|json| {
        json["payment"]["unpaid_max"] = json!(2);
        json["limits"] = json!({"concurrency": 1});
    }));
    let (mut wallet, customer) = (Wallet::new(), Customer::new(1));
    // The second of them waits for its turn, and costs nothing.
    let [running, queued] = ["a", "b"].map(|text| order(&mut world, &mut wallet, &customer, text));
    world.deliver(&customer.cancel(&[queued.id], world.now.seconds()));
    world.answer(200, "done");
    world.ask_wallet(&mut wallet);
    assert_eq!(world.statuses(&running.id), ASKED);
    world.deliver(&customer.cancel(&[running.id], world.now.seconds()));
    assert_eq!((state(&world, &running.id).0, withheld(&world)), (JobState::Cancelled, 0));
    let second = order(&mut world, &mut wallet, &customer, "c");
    assert_eq!(world.statuses(&second.id), ["processing"]);
    world.deliver(&customer.cancel(&[second.id], world.now.seconds()));
    let third = order(&mut world, &mut wallet, &customer, "d");
    assert_eq!(world.statuses(&third.id), PREPAID);
    // A failure is not the customer's.
    let other = Customer::new(2);
    for text in ["e", "f", "g"] {
        let request = order(&mut world, &mut wallet, &other, text);
        assert_eq!(world.statuses(&request.id), ["processing"], "{text}");
        world.answer(404, "");
    }
    // Who has paid and cancels pays for the work; a part of the price is not taken for it.
    let bolt11 = required(&world, &customer, &third.id).bolt11.unwrap();
    world.deliver(&customer.cancel(&[third.id], world.now.seconds()));
    wallet.pay(&bolt11, Some(5_000));
    world.pass_with(&mut wallet, 60);
    world.agent.deploy(world.now, &postpaid(|_| ()), &owner()).unwrap();
    let part = order(&mut world, &mut wallet, &customer, "h");
    assert_eq!(world.check_books(), Books { reserved: 5_000, ..books(5_000, 0, 0) });
    world.deliver(&customer.cancel(&[part.id], world.now.seconds()));
    assert_eq!(world.check_books(), books(5_000, 0, 5_000));
}

#[test]
fn credit_is_spent_first_also_what_has_come_during_the_work() {
    let mut world = World::calling(&postpaid(|_| ()));
    let (mut wallet, customer) = (Wallet::new(), Customer::new(1));
    let late = order(&mut world, &mut wallet, &customer, "late");
    world.answer(200, "x");
    world.ask_wallet(&mut wallet);
    let bolt11 = required(&world, &customer, &late.id).bolt11.unwrap();
    world.deliver(&customer.cancel(&[late.id], world.now.seconds()));
    let request = order(&mut world, &mut wallet, &customer, "hello");
    let more = order(&mut world, &mut wallet, &customer, "more");
    wallet.pay(&bolt11, Some(PRICE + 11_000));
    world.pass_with(&mut wallet, 60);
    assert_eq!(world.agent.credit_of(&customer.pubkey()).unwrap(), PRICE + 11_000);
    world.answer(200, "done");
    assert_eq!(world.statuses(&request.id), ["processing", "result"]);
    world.answer(200, "done too");
    world.ask_wallet(&mut wallet);
    let asked = required(&world, &customer, &more.id);
    assert_eq!(asked.amount_msat, Some(10_000));
    assert!(asked.content.starts_with("the price is 21000 msat, of which 11000 are paid by your credit"));
    assert_eq!(world.check_books(), Books { reserved: 11_000, ..books(32_000, PRICE, 0) });
    // Too little comes: the rest is asked for; and more than it is credit.
    wallet.pay(&asked.bolt11.unwrap(), Some(4_000));
    world.pass_with(&mut wallet, 30);
    let asked = required(&world, &customer, &more.id);
    assert_eq!((asked.amount_msat, withheld(&world)), (Some(6_000), 1));
    wallet.pay(&asked.bolt11.unwrap(), Some(7_000));
    world.pass_with(&mut wallet, 30);
    assert_eq!(world.last(&customer, &more.id), ("result".to_owned(), "done too".to_owned()));
    assert_eq!(world.check_books(), books(43_000, 2 * PRICE, 1_000));
    // The rest does not come.
    let third = order(&mut world, &mut wallet, &customer, "third");
    world.answer(200, "done");
    world.ask_wallet(&mut wallet);
    let bolt11 = required(&world, &customer, &third.id).bolt11.unwrap();
    wallet.pay(&bolt11, Some(10_000));
    world.pass_with(&mut wallet, 30);
    assert_eq!(world.check_books(), Books { reserved: 11_000, ..books(53_000, 2 * PRICE, 0) });
    world.pass_with(&mut wallet, 700);
    let words = "the result was not paid in time, and is dropped; 11000 msat are credit for your next job";
    assert_eq!(world.last(&customer, &third.id), ("error".to_owned(), words.to_owned()));
    assert_eq!(world.check_books(), books(53_000, 2 * PRICE, 11_000));
}

#[test]
fn nothing_of_a_result_is_shown_before_it_is_paid() {
    let mut world = World::calling(&postpaid(|json| {
        json["memory"] = json!({"sessions": true});
        json["limits"] = json!({"output_bytes": 1_000_000});
    }));
    let (mut wallet, customer) = (Wallet::new(), Customer::new(1));
    let request = order(&mut world, &mut wallet, &customer, "one");
    let (id, _) = world.host.calls.remove(0);
    world.agent.handle_http(world.now, id, HttpEvent::Head(206, Vec::new()));
    for piece in ["first ", "second"] {
        world.agent.handle_http(world.now, id, HttpEvent::Chunk(piece.into()));
        world.pass(3);
    }
    world.agent.handle_http(world.now, id, HttpEvent::End);
    world.run();
    world.ask_wallet(&mut wallet);
    assert_eq!(world.statuses(&request.id), ASKED);
    // It is not given to the executor, which might repeat it.
    let next = order(&mut world, &mut wallet, &customer, "two");
    assert_eq!(world.host.calls[0].1.body, "two");
    pay(&world, &mut wallet, &customer, &request);
    world.pass_with(&mut wallet, 30);
    assert_eq!(world.last(&customer, &request.id), ("result".to_owned(), "first second".to_owned()));
    order(&mut world, &mut wallet, &customer, "three");
    assert_eq!(world.host.calls[1].1.body, "User: one\nAssistant: first second\nthree");
    // A blob can be read by whoever knows where it is.
    world.answer(200, &"x".repeat(131_073));
    assert!(world.host.blobs.is_empty());
    let (status, words) = world.last(&customer, &next.id);
    assert!(status == "error" && words.contains("not stored elsewhere"), "{status} {words}");
    // What is paid by credit is.
    let rich = Customer::new(2);
    let paid = order(&mut world, &mut wallet, &rich, "four");
    world.answer(200, "done");
    world.answer(200, "done");
    world.ask_wallet(&mut wallet);
    let bolt11 = required(&world, &rich, &paid.id).bolt11.unwrap();
    wallet.pay(&bolt11, Some(2 * PRICE));
    world.pass_with(&mut wallet, 30);
    let large = order(&mut world, &mut wallet, &rich, "five");
    world.answer(200, &"x".repeat(131_073));
    assert_eq!((world.statuses(&large.id).last().unwrap().as_str(), world.host.blobs.len()), ("result", 1));
}

#[test]
fn an_encrypted_result_is_paid_like_others() {
    let (mut world, mut wallet, customer) = postpaying();
    let agent = world.pubkey();
    let request = customer.sign(&world.request().text("secret").encrypted(Cipher::Nip44, &agent));
    world.deliver(&request);
    world.ask_wallet(&mut wallet);
    assert_eq!(world.statuses(&request.id), ["encrypted", "encrypted"]);
    assert!(!is_published(&world, "lnbcrt"), "the invoice is hidden");
    pay(&world, &mut wallet, &customer, &request);
    world.pass_with(&mut wallet, 10);
    assert_eq!(world.last(&customer, &request.id), ("result".to_owned(), "secret".to_owned()));
}

#[test]
fn a_wallet_that_makes_no_invoice_for_a_result_is_waited_for() {
    let (mut world, mut wallet, customer) = postpaying();
    let request = customer.sign(&world.request().text("hello"));
    world.deliver(&request);
    world.pass(300);
    assert_eq!(world.statuses(&request.id), ["processing"]);
    world.pass_with(&mut wallet, 200);
    assert_eq!(world.statuses(&request.id), ASKED);
    pay(&world, &mut wallet, &customer, &request);
    world.pass_with(&mut wallet, 40);
    assert_eq!(world.statuses(&request.id), DELIVERED);
    // It is no fault of the customer's if it does not come.
    for number in 0..4 {
        let request = customer.sign(&world.request().text(&format!("job {number}")));
        world.deliver(&request);
        world.pass(700);
        assert_eq!(world.statuses(&request.id), ["processing", "error"], "{number}");
        assert_eq!(state(&world, &request.id), (JobState::Failed, "wallet".to_owned(), 0));
    }
    assert_eq!(withheld(&world), 0);
}

#[test]
fn a_deleted_agent_and_a_row_that_cannot_be_read_owe_what_was_paid() {
    let waiting = || {
        let (mut world, mut wallet, customer) = postpaying();
        let request = order(&mut world, &mut wallet, &customer, "hello");
        let bolt11 = required(&world, &customer, &request.id).bolt11.unwrap();
        wallet.pay(&bolt11, None);
        (world, wallet, request)
    };
    let (mut world, mut wallet, request) = waiting();
    world.agent.set_state(world.now, AgentState::Deleted).unwrap();
    world.run();
    world.pass_with(&mut wallet, 60);
    assert_eq!(world.statuses(&request.id), DROPPED);
    assert_eq!((world.check_books(), withheld(&world)), (books(PRICE, 0, PRICE), 0));
    for sql in ["UPDATE agent_job SET trace = x'00'", "DELETE FROM agent_withheld"] {
        let (mut world, mut wallet, request) = waiting();
        world.sqlite.exec(sql, &[]).unwrap();
        world.crash();
        world.pass_with(&mut wallet, 60);
        assert_eq!(state(&world, &request.id), (JobState::Failed, "internal".to_owned(), 0), "{sql}");
        assert_eq!((world.check_books(), withheld(&world)), (books(PRICE, 0, PRICE), 0), "{sql}");
    }
}

/// Each statement of the store may fail: the result is published once, and paid once.
///
/// Regression: a store that failed when the invoice came ended the job, as if the wallet had made none.
#[test]
fn a_full_disk_neither_loses_nor_repeats_a_paid_result() {
    for fails_at in 1..60 {
        let (mut world, mut wallet, customer) = postpaying();
        let request: Event = customer.sign(&world.request().text("hello"));
        world.sqlite.fail_at(fails_at);
        world.host.store(request.clone());
        while world.agent.deliver(world.now, std::slice::from_ref(&request)).is_err() {
            world.now = world.now.plus_millis(1_000);
        }
        world.pass_with(&mut wallet, 20);
        pay(&world, &mut wallet, &customer, &request);
        world.pass_with(&mut wallet, 100);
        assert_eq!(world.statuses(&request.id), DELIVERED, "{fails_at}");
        assert_eq!((world.check_books(), withheld(&world)), (books(PRICE, PRICE, 0), 0), "{fails_at}");
    }
}

fn sampling(change: impl FnOnce(&mut Value)) -> Manifest {
    paid("sample", change)
}

#[test]
fn a_sample_of_the_result_is_shown_before_it_is_paid() {
    let text = "0123456789".repeat(40);
    let (mut wallet, customer) = (Wallet::new(), Customer::new(1));
    for (settings, shown) in
        [(json!({}), 80), (json!({"sample_chars": 7}), 7), (json!({"sample_percent": 50}), 200)]
    {
        let mut world = World::new(&sampling(|json| {
            json["payment"].as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        }));
        let request = order(&mut world, &mut wallet, &customer, &text);
        assert_eq!(world.statuses(&request.id), ASKED);
        let asked = required(&world, &customer, &request.id);
        assert_eq!(asked.content, text[..shown]);
        let message = "the price is 21000 msat; this is the beginning of the result, all of which is published when it is paid";
        assert_eq!(asked.message.as_deref(), Some(message));
        // The rest is asked for with the same sample.
        wallet.pay(&asked.bolt11.unwrap(), Some(20_000));
        world.crash();
        world.pass_with(&mut wallet, 30);
        let rest = required(&world, &customer, &request.id);
        assert_eq!((rest.amount_msat, rest.content.as_str()), (Some(1_000), &text[..shown]));
        wallet.pay(&rest.bolt11.unwrap(), None);
        world.pass_with(&mut wallet, 30);
        assert_eq!(world.last(&customer, &request.id), ("result".to_owned(), text.clone()));
        assert_eq!(world.check_books(), books(PRICE, PRICE, 0));
        let history = world.agent.job(&request.id).unwrap().unwrap();
        assert_eq!(history.sent[1].text, text[..shown]);
    }
    // Of a short result there is no part to show, and who pays before has the whole.
    let mut world = World::new(&sampling(|json| json["payment"]["unpaid_max"] = json!(1)));
    let short = order(&mut world, &mut wallet, &customer, "yes");
    let message = "the price is 21000 msat; the result is ready, and is published when it is paid";
    assert_eq!(required(&world, &customer, &short.id).content, message);
    let next = order(&mut world, &mut wallet, &customer, &text);
    assert_eq!(world.statuses(&next.id), PREPAID);
    assert!(!required(&world, &customer, &next.id).content.contains("0123456789"));
}

#[test]
fn a_sample_is_encrypted_as_the_result_is() {
    let text = "0123456789".repeat(40);
    for cipher in [Cipher::Nip44, Cipher::Nip04] {
        let (mut world, mut wallet, customer) =
            (World::new(&sampling(|_| ())), Wallet::new(), Customer::new(1));
        let agent = world.pubkey();
        let request = customer.sign(&world.request().text(&text).encrypted(cipher, &agent));
        world.deliver(&request);
        world.ask_wallet(&mut wallet);
        assert_eq!(world.statuses(&request.id), ["encrypted", "encrypted"]);
        assert!(!is_published(&world, "0123456789"));
        assert_eq!(required(&world, &customer, &request.id).content, text[..80]);
        pay(&world, &mut wallet, &customer, &request);
        world.pass_with(&mut wallet, 10);
        assert_eq!(world.last(&customer, &request.id), ("result".to_owned(), text.clone()));
    }
}
