//! Jobs that are paid before they begin.

use relay_agent::cipher::Cipher;
use relay_agent::job::JobState;
use relay_agent::machine::CommandError;
use relay_agent::manifest::Manifest;
use relay_agent::testing::{Customer, Request};
use serde_json::json;

use crate::bunker::Manner;
use crate::prepaid::{PRICE, books, order, pay, prepaid, prepaying, required};
use crate::signer::Signed;
use crate::wallet::Wallet;
use crate::world::{World, manifest, owner};

#[test]
fn a_paid_job_is_delivered() {
    let (mut world, mut wallet) = prepaying();
    let customer = Customer::new(1);
    let request = order(&mut world, &mut wallet, &customer, "hello");
    assert_eq!(world.statuses(&request.id), ["payment-required"]);
    let asked = required(&world, &customer, &request.id);
    assert_eq!((asked.amount_msat, asked.request), (Some(PRICE), Some(request.id)));
    let invoice = wallet.invoices.values().next().unwrap();
    assert_eq!((asked.bolt11.as_ref(), invoice.msat), (Some(&invoice.bolt11), PRICE));
    assert!(invoice.description.contains("Tester"), "{}", invoice.description);
    // Time alone begins nothing.
    world.pass_with(&mut wallet, 120);
    assert_eq!(world.statuses(&request.id), ["payment-required"]);
    pay(&world, &mut wallet, &customer, &request);
    world.pass_with(&mut wallet, 40);
    assert_eq!(world.statuses(&request.id), ["payment-required", "processing", "result"]);
    assert_eq!(world.last(&customer, &request.id).1, "hello");
    let answers = world.host.answers_to(&request.id);
    assert!(answers.is_sorted_by(|(_, a), (_, b)| a.created_at < b.created_at));
    let job = world.agent.job(&request.id).unwrap().unwrap();
    assert_eq!((job.state, job.cost_msat), (JobState::Done, PRICE));
    assert_eq!(world.check_books(), books(PRICE, PRICE, 0));
    let metrics = world.agent.metrics();
    assert_eq!(
        (metrics.payments["invoiced"], metrics.payments["settled"], metrics.received_msat),
        (1, 1, PRICE)
    );
    assert!(world.agent.is_idle());
    assert_eq!(world.agent.poll_timeout(), None, "nothing is asked any more");
}

#[test]
fn the_price_is_asked_for_and_a_lower_bid_is_refused() {
    let (mut world, mut wallet) = prepaying();
    let customer = Customer::new(1);
    let low = customer.sign(&world.request().text("x").tag(&["bid", "20000"]));
    world.deliver(&low);
    assert_eq!(world.statuses(&low.id), ["error"]);
    assert_eq!(world.last(&customer, &low.id).1, "the price is 21000 msat, and the bid is 20000 msat");
    let high = customer.sign(&world.request().text("y").tag(&["bid", "90000"]));
    world.deliver(&high);
    world.ask_wallet(&mut wallet);
    assert_eq!(required(&world, &customer, &high.id).amount_msat, Some(PRICE));
    // An open job is silent about it.
    let open = customer.sign(&Request::new(5050, world.now.seconds()).text("z").tag(&["bid", "1"]));
    world.deliver(&open);
    assert!(world.statuses(&open.id).is_empty());
    // Free handlers cost nothing beside it.
    let both = prepaid(|json| {
        let free = json!({"kind": 5051, "executor": "echo", "config": {}});
        json["handlers"].as_array_mut().unwrap().push(free);
    });
    world.agent.deploy(world.now, &both, &owner()).unwrap();
    let free = customer.sign(&Request::new(5051, world.now.seconds()).to(&world.pubkey()).text("free"));
    world.deliver(&free);
    assert_eq!(world.statuses(&free.id), ["processing", "result"]);
}

#[test]
fn the_first_jobs_of_a_day_may_be_free() {
    let mut world = World::new(&prepaid(|json| json["payment"]["free_quota"] = json!(2)));
    let (mut wallet, customer) = (Wallet::new(), Customer::new(1));
    let statuses = |world: &mut World, wallet: &mut Wallet, customer: &Customer, text: &str| {
        let request = order(world, wallet, customer, text);
        world.statuses(&request.id)
    };
    for text in ["one", "two"] {
        assert_eq!(statuses(&mut world, &mut wallet, &customer, text), ["processing", "result"]);
        world.crash();
        world.run();
    }
    assert_eq!(statuses(&mut world, &mut wallet, &customer, "three"), ["payment-required"]);
    assert_eq!(statuses(&mut world, &mut wallet, &Customer::new(2), "other"), ["processing", "result"]);
    world.pass_with(&mut wallet, 86_400);
    assert_eq!(statuses(&mut world, &mut wallet, &customer, "tomorrow"), ["processing", "result"]);
    // Without prices it is how much is done.
    let free = manifest(|json| json["payment"] = json!({"free_quota": 1}));
    let mut world = World::new(&free);
    assert_eq!(statuses(&mut world, &mut wallet, &customer, "one"), ["processing", "result"]);
    let second = order(&mut world, &mut wallet, &customer, "two");
    assert_eq!(world.statuses(&second.id), ["error"]);
    assert_eq!(
        world.last(&customer, &second.id).1,
        "your 1 jobs of today are used up; try again after midnight UTC"
    );
}

/// Regression: an encrypted request to an agent whose key a remote signer has was done whatever the quota.
#[test]
fn the_quota_counts_encrypted_requests_that_a_remote_signer_decrypts() {
    let mut world = Signed::with(Manner::Willing, |json| json["payment"] = json!({"free_quota": 2}));
    let (customer, agent) = (Customer::new(1), world.bunker.user.pubkey());
    let mut done = 0;
    for number in 0..4 {
        let request = world.request().tag(&["param", "n", &number.to_string()]);
        let id = world.order(&customer, &request.encrypted(Cipher::Nip44, &agent));
        world.pass(5);
        let job = world.agent.job(&id).unwrap().unwrap();
        match job.state {
            JobState::Done => done += 1,
            _ => assert_eq!(job.cause, "quota"),
        }
    }
    assert_eq!(done, 2);
    // Those that wait for the signer at the same time are counted when they are decrypted.
    let mut world = Signed::with(Manner::Silent, |json| json["payment"] = json!({"free_quota": 2}));
    let ids = [0, 1, 2, 3].map(|number: u8| {
        let request = world.request().tag(&["param", "n", &number.to_string()]);
        world.order(&customer, &request.encrypted(Cipher::Nip44, &agent))
    });
    world.bunker.manner = Manner::Willing;
    world.pass(100);
    let jobs = ids.map(|id| world.agent.job(&id).unwrap().unwrap());
    assert_eq!(jobs.iter().filter(|job| job.state == JobState::Done).count(), 2, "{jobs:?}");
    assert_eq!(jobs.iter().filter(|job| job.cause == "quota").count(), 2, "{jobs:?}");
}

/// Regression: whoever had credit was refused because of jobs that were not paid, and these took the places of paid ones in the queue.
#[test]
fn unpaid_jobs_do_not_stand_in_the_way_of_paid_ones() {
    let mut world = World::calling(&prepaid(|json| {
        json["limits"] = json!({"queue": 8, "concurrency": 1, "per_customer": 3});
    }));
    let (mut wallet, customer) = (Wallet::new(), Customer::new(1));
    let credit = order(&mut world, &mut wallet, &customer, "too much");
    let bolt11 = required(&world, &customer, &credit.id).bolt11.unwrap();
    wallet.pay(&bolt11, Some(2 * PRICE));
    world.pass_with(&mut wallet, 5);
    world.answer(404, "");
    // It has credit for two jobs. Strangers take all places of those that wait for their payment.
    for number in 2..4 {
        let request = order(&mut world, &mut wallet, &Customer::new(number), "unpaid");
        assert_eq!(world.statuses(&request.id), ["payment-required"]);
    }
    let refused = order(&mut world, &mut wallet, &Customer::new(9), "unpaid");
    assert_eq!(world.statuses(&refused.id), ["error"]);
    for text in ["one", "two"] {
        let request = order(&mut world, &mut wallet, &customer, text);
        assert_eq!(world.statuses(&request.id), ["processing"], "{text}");
    }
    world.check_books();
}

/// Regression: whoever cancelled each job had ever more invoices that could be paid.
#[test]
fn invoices_of_cancelled_jobs_count_until_they_expire() {
    let (mut world, mut wallet) = prepaying();
    let customer = Customer::new(1);
    for at in 0..8 {
        let request = order(&mut world, &mut wallet, &customer, &format!("job {at}"));
        assert_eq!(world.statuses(&request.id), ["payment-required"]);
        world.deliver(&customer.cancel(&[request.id], world.now.seconds()));
    }
    let refused = order(&mut world, &mut wallet, &customer, "one more");
    assert_eq!(world.statuses(&refused.id), ["error"]);
    world.pass_with(&mut wallet, 600);
    let later = order(&mut world, &mut wallet, &customer, "later");
    assert_eq!(world.statuses(&later.id), ["payment-required"]);
}

#[test]
fn unpaid_jobs_leave_room_for_others() {
    let mut world = World::new(&prepaid(|json| json["limits"] = json!({"queue": 40})));
    let mut wallet = Wallet::new();
    let customer = Customer::new(1);
    for at in 0..8 {
        let request = order(&mut world, &mut wallet, &customer, &format!("job {at}"));
        assert_eq!(world.statuses(&request.id), ["payment-required"], "{at}");
    }
    let ninth = order(&mut world, &mut wallet, &customer, "ninth");
    assert_eq!(world.statuses(&ninth.id), ["error"]);
    for at in 2..4 {
        let request = order(&mut world, &mut wallet, &Customer::new(at), "x");
        assert_eq!(world.statuses(&request.id), ["payment-required"], "{at}");
    }
    let late = order(&mut world, &mut wallet, &Customer::new(9), "x");
    assert_eq!(world.statuses(&late.id), ["error"]);
    // Many are asked for together.
    let before = world.host.cancelled.len();
    world.pass_with(&mut wallet, 700);
    assert!(world.host.cancelled.len() - before < 80, "{}", world.host.cancelled.len() - before);
}

#[test]
fn encrypted_requests_are_paid_like_others() {
    let (mut world, mut wallet) = prepaying();
    let customer = Customer::new(1);
    let agent = world.pubkey();
    let request = customer.sign(&world.request().text("secret").encrypted(Cipher::Nip44, &agent));
    world.deliver(&request);
    world.ask_wallet(&mut wallet);
    let (_, event) = world.host.answers_to(&request.id).pop().unwrap();
    assert!(!String::from_utf8_lossy(event.json()).contains("lnbcrt"), "the invoice is hidden");
    assert_eq!(required(&world, &customer, &request.id).amount_msat, Some(PRICE));
    pay(&world, &mut wallet, &customer, &request);
    world.pass_with(&mut wallet, 10);
    assert_eq!(world.last(&customer, &request.id), ("result".to_owned(), "secret".to_owned()));
}

#[test]
fn inputs_are_fetched_when_the_job_is_paid() {
    let (mut world, mut wallet) = prepaying();
    let customer = Customer::new(1);
    let note = Customer::new(7).sign(&Request::new(1, world.now.seconds()));
    let request = customer.sign(&world.request().tag(&["i", &note.id.to_string(), "event"]));
    world.deliver(&request);
    world.ask_wallet(&mut wallet);
    assert_eq!(world.statuses(&request.id), ["payment-required"]);
    // Longer than inputs may take.
    world.pass_with(&mut wallet, 300);
    world.host.store(note);
    pay(&world, &mut wallet, &customer, &request);
    world.pass_with(&mut wallet, 60);
    assert_eq!(world.statuses(&request.id), ["payment-required", "processing", "result"]);
}

#[test]
fn a_manifest_is_deployed_only_with_its_wallet() {
    let mut world = World::new(&manifest(|_| ()));
    let other = prepaid(|json| json["payment"]["wallet_ref"] = json!("AGENT_OTHER_WALLET"));
    let refused = |world: &mut World, manifest: &Manifest| match world
        .agent
        .deploy(world.now, manifest, &owner())
        .unwrap_err()
    {
        CommandError::Manifest(error) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let words = refused(&mut world, &other);
    assert_eq!(words, "payment.wallet_ref: secret AGENT_OTHER_WALLET is not set");
    let wrong = prepaid(|json| json["payment"]["wallet_ref"] = json!("AGENT_MASTER_SECRET"));
    let words = refused(&mut world, &wrong);
    assert_eq!(words, "payment.wallet_ref: secret AGENT_MASTER_SECRET is not a nostr+walletconnect:// URI");
    assert_eq!(world.agent.version(), 1);
}
