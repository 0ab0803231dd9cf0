//! What becomes of money that no result was given for: it is credit, and is spent first.

use relay_agent::executor::HttpEvent;
use relay_agent::job::JobState;
use relay_agent::machine::{AgentState, CommandError, ExchangeEvent, Published, Reason};
use relay_agent::testing::Customer;
use relay_engine::sql::{SqlConn as _, SqlValue};
use serde_json::{Value, json};

use crate::prepaid::{PRICE, books, order, pay, prepaid, prepaying, required};
use crate::wallet::Wallet;
use crate::world::{Books, World, owner};

#[test]
fn what_comes_late_or_for_a_job_that_fails_is_credit_and_is_spent_first() {
    let (mut world, mut wallet) = prepaying();
    let customer = Customer::new(1);
    // Late.
    let late = order(&mut world, &mut wallet, &customer, "late");
    let bolt11 = required(&world, &customer, &late.id).bolt11.unwrap();
    world.pass_with(&mut wallet, 700);
    assert_eq!(world.statuses(&late.id), ["payment-required", "error"]);
    assert_eq!(world.last(&customer, &late.id).1, "the payment did not come in time");
    assert_eq!(world.agent.job(&late.id).unwrap().unwrap().state, JobState::Expired);
    wallet.pay(&bolt11, None);
    world.pass_with(&mut wallet, 3_600);
    assert_eq!(world.statuses(&late.id), ["payment-required", "error"], "nothing follows an error");
    assert_eq!(world.agent.credit_of(&customer.pubkey()).unwrap(), PRICE);
    assert_eq!(world.agent.metrics().payments["late"], 1);
    // It pays the next one.
    let next = order(&mut world, &mut wallet, &customer, "next");
    assert_eq!(world.statuses(&next.id), ["processing", "result"]);
    assert_eq!(world.check_books(), books(PRICE, PRICE, 0));
    // Others have none of it.
    let other = order(&mut world, &mut wallet, &Customer::new(2), "other");
    assert_eq!(world.statuses(&other.id), ["payment-required"]);
}

#[test]
fn a_job_that_fails_after_its_payment_leaves_credit() {
    let mut world = World::calling(&prepaid(|_| ()));
    let (mut wallet, customer) = (Wallet::new(), Customer::new(1));
    let request = order(&mut world, &mut wallet, &customer, "hello");
    pay(&world, &mut wallet, &customer, &request);
    world.pass_with(&mut wallet, 10);
    assert_eq!(world.host.calls.len(), 1);
    assert_eq!(world.check_books(), Books { reserved: PRICE as i64, ..books(PRICE, 0, 0) });
    world.answer(404, "");
    assert_eq!(world.statuses(&request.id), ["payment-required", "processing", "error"]);
    let message = world.last(&customer, &request.id).1;
    assert_eq!(message, format!("the work has failed; {PRICE} msat are credit for your next job"));
    assert_eq!(world.check_books(), books(PRICE, 0, PRICE));
    assert_eq!(world.agent.job(&request.id).unwrap().unwrap().cost_msat, 0);
    // Paid after it was cancelled.
    let poor = Customer::new(2);
    let cancelled = order(&mut world, &mut wallet, &poor, "cancelled");
    let bolt11 = required(&world, &poor, &cancelled.id).bolt11.unwrap();
    world.deliver(&poor.cancel(&[cancelled.id], world.now.seconds()));
    wallet.pay(&bolt11, None);
    world.pass_with(&mut wallet, 60);
    assert_eq!(world.statuses(&cancelled.id), ["payment-required"]);
    assert_eq!(world.check_books(), books(2 * PRICE, 0, 2 * PRICE));
}

/// Regression: all of it became credit, so whoever cancelled before the end had the work, and what was sent of it, for nothing, again and
/// again.
#[test]
fn a_job_that_is_cancelled_when_its_work_has_begun_is_paid() {
    let mut world = World::calling(&prepaid(|json| json["limits"] = json!({"concurrency": 1})));
    let (mut wallet, customer) = (Wallet::new(), Customer::new(1));
    let request = order(&mut world, &mut wallet, &customer, "hello");
    pay(&world, &mut wallet, &customer, &request);
    world.pass_with(&mut wallet, 10);
    let (id, _) = world.host.calls[0];
    world.agent.handle_http(world.now, id, HttpEvent::Head(206, Vec::new()));
    world.agent.handle_http(world.now, id, HttpEvent::Chunk("most of it".into()));
    world.run();
    assert_eq!(world.last(&customer, &request.id), ("partial".to_owned(), "most of it".to_owned()));
    // Another one waits for its turn.
    let next = order(&mut world, &mut wallet, &customer, "next");
    pay(&world, &mut wallet, &customer, &next);
    world.pass_with(&mut wallet, 10);
    assert_eq!(world.check_books(), Books { reserved: 2 * PRICE as i64, ..books(2 * PRICE, 0, 0) });
    world.deliver(&customer.cancel(&[next.id, request.id], world.now.seconds()));
    assert_eq!(world.check_books(), books(2 * PRICE, PRICE, PRICE));
    let cost = |id| world.agent.job(id).unwrap().map(|job| (job.state, job.cost_msat));
    assert_eq!(cost(&request.id), Some((JobState::Cancelled, PRICE)));
    assert_eq!(cost(&next.id), Some((JobState::Cancelled, 0)));
    let reasons: Vec<Reason> = world.agent.transfers(0, 100).unwrap().iter().map(|one| one.reason).collect();
    assert!(
        reasons.ends_with(&[Reason::Return, Reason::Cancellation])
            || reasons.ends_with(&[Reason::Cancellation, Reason::Return])
    );
}

#[test]
fn a_result_that_the_relay_refuses_is_not_paid() {
    let (mut world, mut wallet) = prepaying();
    let customer = Customer::new(1);
    let request = order(&mut world, &mut wallet, &customer, "hello");
    pay(&world, &mut wallet, &customer, &request);
    let refused = Published::Refused("blocked: no".to_owned());
    world.host.outcomes.extend([Published::Accepted, refused]);
    world.pass_with(&mut wallet, 10);
    assert_eq!(world.statuses(&request.id), ["payment-required", "processing", "error"]);
    assert_eq!(world.check_books(), books(PRICE, 0, PRICE));
}

#[test]
fn part_of_the_price_is_not_lost_and_more_than_it_neither() {
    let (mut world, mut wallet) = prepaying();
    let customer = Customer::new(1);
    let request = order(&mut world, &mut wallet, &customer, "hello");
    let first = required(&world, &customer, &request.id).bolt11.unwrap();
    wallet.pay(&first, Some(5_500));
    world.pass_with(&mut wallet, 5);
    // The rest is asked for, in whole satoshis.
    assert_eq!(world.statuses(&request.id), ["payment-required", "payment-required"]);
    let second = required(&world, &customer, &request.id);
    assert_eq!(second.amount_msat, Some(16_000));
    assert_ne!(second.bolt11.as_ref(), Some(&first));
    assert_eq!(world.check_books(), Books { reserved: 5_500, ..books(5_500, 0, 0) });
    world.crash();
    world.run();
    wallet.pay(&second.bolt11.unwrap(), Some(30_000));
    world.pass_with(&mut wallet, 5);
    assert_eq!(world.last(&customer, &request.id), ("result".to_owned(), "hello".to_owned()));
    assert_eq!(world.check_books(), books(35_500, PRICE, 14_500));
    // Credit that does not suffice is taken first, and given back if the rest does not come.
    let next = order(&mut world, &mut wallet, &customer, "next");
    assert_eq!(required(&world, &customer, &next.id).amount_msat, Some(7_000));
    assert_eq!(world.check_books(), Books { reserved: 14_500, ..books(35_500, PRICE, 0) });
    world.pass_with(&mut wallet, 700);
    assert_eq!(world.check_books(), books(35_500, PRICE, 14_500));
    // A wallet that says that too much came is believed so far as the network goes.
    let greedy = order(&mut world, &mut wallet, &Customer::new(2), "greedy");
    let bolt11 = required(&world, &Customer::new(2), &greedy.id).bolt11.unwrap();
    wallet.pay(&bolt11, Some(u64::MAX));
    world.pass_with(&mut wallet, 5);
    assert_eq!(world.agent.credit_of(&Customer::new(2).pubkey()).unwrap(), PRICE);
    world.check_books();
}

#[test]
fn a_deleted_agent_stays_until_nothing_is_owed() {
    let (mut world, mut wallet) = prepaying();
    let customer = Customer::new(1);
    let request = order(&mut world, &mut wallet, &customer, "hello");
    let bolt11 = required(&world, &customer, &request.id).bolt11.unwrap();
    world.agent.set_state(world.now, AgentState::Deleted).unwrap();
    world.run();
    assert_eq!(world.statuses(&request.id), ["payment-required", "error"]);
    assert!(!world.agent.is_removable(), "an invoice is open");
    wallet.pay(&bolt11, None);
    world.pass_with(&mut wallet, 60);
    assert_eq!(world.check_books(), books(PRICE, 0, PRICE));
    assert!(world.agent.is_idle() && !world.agent.is_removable(), "it is owed");
    world.crash();
    world.run();
    assert!(!world.agent.is_removable());
    // It is deployed again, and works for it.
    world.agent.deploy(world.now, &prepaid(|_| ()), &owner()).unwrap();
    world.run();
    let next = order(&mut world, &mut wallet, &customer, "next");
    assert_eq!(world.statuses(&next.id), ["processing", "result"]);
    world.agent.set_state(world.now, AgentState::Deleted).unwrap();
    world.run();
    assert!(world.agent.is_removable());
}

/// Regression: the new wallet knew nothing of the invoices of the one before, so they counted as not paid.
#[test]
fn the_wallet_before_is_asked_for_its_invoices() {
    let (mut world, mut before) = prepaying();
    let (mut wallet, customer) = (Wallet::other(), Customer::new(1));
    let waits = order(&mut world, &mut before, &customer, "waits");
    let late = order(&mut world, &mut before, &Customer::new(2), "late");
    let bolt11 = required(&world, &Customer::new(2), &late.id).bolt11.unwrap();
    let other = prepaid(|json| json["payment"]["wallet_ref"] = json!("AGENT_SECOND_WALLET"));
    world.agent.deploy(world.now, &other, &owner()).unwrap();
    world.run();
    let new = order(&mut world, &mut wallet, &customer, "new");
    assert_eq!(world.statuses(&new.id), ["payment-required"]);
    assert_eq!((before.invoices.len(), wallet.invoices.len()), (2, 1));
    pay(&world, &mut before, &customer, &waits);
    pay(&world, &mut wallet, &customer, &new);
    let pass = |world: &mut World, before: &mut Wallet, wallet: &mut Wallet, seconds| {
        for _ in 0..seconds {
            world.pass_with(before, 1);
            world.ask_wallet(wallet);
        }
    };
    pass(&mut world, &mut before, &mut wallet, 60);
    for request in [&waits, &new] {
        assert_eq!(world.statuses(&request.id), ["payment-required", "processing", "result"]);
    }
    world.crash();
    world.run();
    pass(&mut world, &mut before, &mut wallet, 700);
    before.pay(&bolt11, None);
    pass(&mut world, &mut before, &mut wallet, 1_500);
    // Each was asked once for each job.
    assert_eq!((before.invoices.len(), wallet.invoices.len()), (2, 1));
    assert_eq!(world.check_books(), books(3 * PRICE, 2 * PRICE, PRICE));
}

/// If its secret is gone, invoices are nobody's until it is there again, and their owner is told.
#[test]
fn invoices_of_a_wallet_that_is_not_known_are_not_given_up_by_another() {
    let (mut world, mut wallet) = prepaying();
    let customer = Customer::new(1);
    let request = order(&mut world, &mut wallet, &customer, "hello");
    let digest = |world: &World, to: &str| {
        let sql = format!("UPDATE agent_invoice SET wallet = CAST('{to}' AS BLOB)");
        world.sqlite.exec(&sql, &[]).unwrap();
    };
    let mut known = String::new();
    world
        .sqlite
        .query("SELECT wallet FROM agent_invoice", &[], &mut |row| {
            let SqlValue::Blob(blob) = &row[0] else { panic!("{row:?}") };
            known = String::from_utf8(blob.to_vec()).unwrap();
            Ok(())
        })
        .unwrap();
    digest(&world, "another");
    world.crash();
    world.run();
    let asked = wallet.asked.len();
    pay(&world, &mut wallet, &customer, &request);
    world.pass_with(&mut wallet, 2 * 86_400);
    assert_eq!(
        (wallet.asked.len(), world.statuses(&request.id)),
        (asked, vec!["payment-required".to_owned(), "error".to_owned()])
    );
    assert!(
        world.agent.error().unwrap().contains("1 open invoices and refunds"),
        "{:?}",
        world.agent.error()
    );
    digest(&world, &known);
    world.crash();
    world.run();
    world.pass_with(&mut wallet, 2 * 86_400);
    assert_eq!(world.check_books(), books(PRICE, 0, PRICE));
    assert_eq!(world.agent.error(), None);
}

#[test]
fn credit_moves_with_an_export() {
    let (mut world, mut wallet) = prepaying();
    let customer = Customer::new(1);
    let request = order(&mut world, &mut wallet, &customer, "hello");
    let bolt11 = required(&world, &customer, &request.id).bolt11.unwrap();
    wallet.pay(&bolt11, Some(2 * PRICE));
    world.pass_with(&mut wallet, 10);
    let export = world.agent.export().unwrap();
    let mut other = World::new(&prepaid(|_| ()));
    other.agent.import(other.now, &export).unwrap();
    assert_eq!(other.check_books(), books(PRICE, 0, PRICE));
    assert_eq!(other.agent.job(&request.id).unwrap().unwrap().cost_msat, PRICE);
    let next = order(&mut other, &mut wallet, &customer, "next");
    assert_eq!(other.statuses(&next.id), ["processing", "result"]);
    assert_eq!(other.check_books(), books(PRICE, PRICE, 0));
}

/// Regression: credit was counted twice when an export without jobs was imported again, or over books that a deleted agent had left.
#[test]
fn credit_is_imported_once() {
    let (mut world, mut wallet) = prepaying();
    let customer = Customer::new(1);
    let request = order(&mut world, &mut wallet, &customer, "hello");
    let bolt11 = required(&world, &customer, &request.id).bolt11.unwrap();
    wallet.pay(&bolt11, Some(2 * PRICE));
    world.pass_with(&mut wallet, 10);
    let mut export = world.agent.export().unwrap();
    let refused = |world: &mut World, export: &Value| match world.agent.import(world.now, export).unwrap_err()
    {
        CommandError::Manifest(error) => error.to_string(),
        other => panic!("{other:?}"),
    };
    // Into the agent that goes on with its books after it was deleted.
    world.agent.set_state(world.now, AgentState::Deleted).unwrap();
    world.run();
    world.agent.deploy(world.now, &prepaid(|_| ()), &owner()).unwrap();
    world.run();
    assert!(refused(&mut world, &export).starts_with("credits: cannot be imported"));
    assert_eq!(world.check_books(), books(2 * PRICE, PRICE, PRICE));
    export["jobs"] = json!([]);
    let mut other = World::new(&prepaid(|_| ()));
    // More than there is, in all.
    let record = |number: u64, msat: u64| json!({"customer": Customer::new(number).pubkey().to_string(), "msat": msat});
    for (credits, why) in [
        (
            vec![record(1, 1 << 51), record(2, 1 << 51), record(3, 1)],
            "credits[2].msat: is more than there is",
        ),
        (vec![record(1, 1), record(1, 1)], "credits[1].customer: is there twice"),
    ] {
        let mut wrong = export.clone();
        wrong["credits"] = json!(credits);
        assert_eq!(refused(&mut other, &wrong), why);
    }
    // A full disk leaves it as it was.
    other.sqlite.set_full(true);
    assert!(matches!(other.agent.import(other.now, &export), Err(CommandError::Store(_))));
    other.sqlite.set_full(false);
    other.agent.import(other.now, &export).unwrap();
    assert_eq!(other.check_books(), books(PRICE, 0, PRICE));
    assert!(refused(&mut other, &export).starts_with("credits: "));
    other.crash();
    assert!(refused(&mut other, &export).starts_with("credits: "));
    assert_eq!(other.check_books(), books(PRICE, 0, PRICE));
}

/// Regression: what was not stored yet was dropped when the agent was deleted, and the price of the job given back all the same.
#[test]
fn deleting_an_agent_on_a_full_disk_neither_doubles_nor_loses_money() {
    // The statement at which the deletion fails, if it does.
    for fails_at in 0..40 {
        let mut world = World::calling(&prepaid(|_| ()));
        let (mut wallet, customer) = (Wallet::new(), Customer::new(1));
        let request = order(&mut world, &mut wallet, &customer, "hello");
        let hash = pay(&world, &mut wallet, &customer, &request);
        world.pass(2);
        let transaction = wallet.transaction(world.now.seconds(), &hash).unwrap();
        let open: Vec<_> = world.host.exchanges.iter().map(|(id, _)| *id).collect();
        world.sqlite.set_full(true);
        for id in open {
            let event = wallet.notification(&transaction);
            world.agent.handle_exchange(world.now, id, ExchangeEvent::Event(event));
        }
        let refused = world.agent.set_state(world.now, AgentState::Deleted);
        assert!(matches!(refused, Err(CommandError::Store(_))), "{refused:?}");
        assert_eq!(world.agent.state(), Some(AgentState::Active));
        // The first write fails, and then one more.
        world.sqlite.set_full(false);
        world.sqlite.fail_at(2);
        world.agent.handle_timeout(world.now);
        if fails_at > 0 {
            world.sqlite.fail_at(fails_at);
        }
        let deleted = world.agent.set_state(world.now, AgentState::Deleted);
        world.sqlite.fail_with(None);
        match deleted {
            Ok(()) => assert_eq!(world.check_books(), books(PRICE, 0, PRICE), "{fails_at}"),
            Err(_) => {
                world.pass_with(&mut wallet, 30);
                assert_eq!(
                    world.check_books(),
                    Books { reserved: PRICE as i64, ..books(PRICE, 0, 0) },
                    "{fails_at}"
                );
            }
        }
        world.crash();
        world.pass_with(&mut wallet, 2 * 86_400);
        assert_eq!(world.check_books().received, PRICE as i64, "{fails_at}");
    }
}

/// Regression: what such a job had cost was not known any more, and stayed the agent's.
#[test]
fn a_result_that_the_relay_refuses_is_given_back_when_its_customer_is_forgotten() {
    let (mut world, mut wallet) = prepaying();
    let customer = Customer::new(1);
    let request = order(&mut world, &mut wallet, &customer, "hello");
    pay(&world, &mut wallet, &customer, &request);
    world.host.outcomes.extend([Published::Accepted, Published::Failed("busy".to_owned())]);
    while !world.agent.metrics().payments.contains_key("settled") {
        world.pass_with(&mut wallet, 1);
    }
    assert_eq!(world.check_books(), books(PRICE, PRICE, 0));
    world.agent.forget(world.now, &customer.pubkey()).unwrap();
    world.host.outcomes.clear();
    world.host.outcomes.push_back(Published::Refused("blocked: no".to_owned()));
    world.pass_with(&mut wallet, 60);
    assert_eq!(world.agent.job(&request.id).unwrap().unwrap().state, JobState::Failed);
    assert_eq!(world.check_books(), books(PRICE, 0, PRICE));
}

/// Regression: the wallet was not asked for anything as long as one job that waited for it could not be read.
#[test]
fn a_job_that_cannot_be_read_keeps_no_other_waiting() {
    let (mut world, mut wallet) = prepaying();
    let customers = [1, 2, 3].map(Customer::new);
    // The first is paid in part, and its next invoice has still to be made.
    let first = order(&mut world, &mut wallet, &customers[0], "first");
    let bolt11 = required(&world, &customers[0], &first.id).bolt11.unwrap();
    wallet.makes_none = Some("INTERNAL");
    wallet.pay(&bolt11, Some(5_000));
    world.pass_with(&mut wallet, 5);
    wallet.makes_none = None;
    assert_eq!(world.check_books(), Books { reserved: 5_000, ..books(5_000, 0, 0) });
    let second = customers[1].sign(&world.request().text("second"));
    world.deliver(&second);
    world.sqlite.exec("UPDATE agent_job SET trace = x'00' WHERE seq = 1", &[]).unwrap();
    world.pass_with(&mut wallet, 10);
    assert_eq!(world.statuses(&second.id), ["payment-required"]);
    assert_eq!(world.check_books(), books(5_000, 0, 5_000));
    assert_eq!(world.agent.job(&first.id).unwrap().unwrap().state, JobState::Failed);
    // One whose invoice is paid.
    let third = order(&mut world, &mut wallet, &customers[2], "third");
    pay(&world, &mut wallet, &customers[2], &third);
    pay(&world, &mut wallet, &customers[1], &second);
    world.sqlite.exec("UPDATE agent_job SET trace = x'00' WHERE seq = 3", &[]).unwrap();
    world.pass_with(&mut wallet, 30);
    assert_eq!(world.last(&customers[1], &second.id).0, "result");
    assert_eq!(world.agent.credit_of(&customers[2].pubkey()).unwrap(), PRICE);
    world.check_books();
}
