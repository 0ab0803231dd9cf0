//! Jobs that are paid by zaps, and zaps that pay no job.

use relay_agent::job::JobState;
use relay_agent::machine::{AgentState, Reason};
use relay_agent::testing::Customer;
use relay_engine::types::EventId;
use serde_json::json;

use crate::prepaid::{PRICE, books, order, pay, prepaid};
use crate::refunds::refund;
use crate::wallet::{Paying, Wallet};
use crate::world::{Books, World, owner};
use crate::zapping::{
    Service, feedback, receipt_tags, signed, zap, zap_invoice, zap_request, zappable, zapped,
};

const PAID: [&str; 3] = ["payment-required", "processing", "result"];

#[test]
fn a_job_is_paid_by_a_zap_of_its_feedback_or_of_its_request() {
    for policy in ["prepay", "postpay", "sample"] {
        let (mut world, mut wallet, mut service) = zappable(policy, "receipt");
        let customer = Customer::new(1);
        for (at, is_request) in [(1, false), (2, true)] {
            let request = order(&mut world, &mut wallet, &customer, &format!("hello {at}"));
            let event = if is_request { request.id } else { feedback(&world, &request.id) };
            zap(&mut world, &mut service, &customer, Some(&event), PRICE);
            let statuses = world.statuses(&request.id);
            let expected =
                if policy == "prepay" { PAID } else { ["processing", "payment-required", "result"] };
            assert_eq!(statuses, expected, "{policy}");
            assert_eq!(world.last(&customer, &request.id).1, format!("hello {at}"));
            assert_eq!(world.check_books(), books(at * PRICE, at * PRICE, 0));
            let job = world.agent.job(&request.id).unwrap().unwrap();
            assert_eq!((job.state, job.cost_msat), (JobState::Done, PRICE));
        }
        let metrics = world.agent.metrics();
        assert_eq!((metrics.payments["zapped"], metrics.received_msat), (2, 2 * PRICE));
        let transfers = world.agent.transfers(0, 100).unwrap();
        assert_eq!(transfers.iter().filter(|transfer| transfer.reason == Reason::Zap).count(), 2);
        // Nobody pays the invoices.
        world.pass_with(&mut wallet, 2 * 86_400);
        assert_eq!((world.agent.is_idle(), world.agent.poll_timeout()), (true, None));
        assert_eq!(world.check_books(), books(2 * PRICE, 2 * PRICE, 0));
    }
}

#[test]
fn a_zap_counts_when_the_wallet_says_that_it_has_the_payment() {
    let (mut world, mut wallet, mut service) = zappable("prepay", "wallet");
    let (customer, agent) = (Customer::new(1), world.pubkey());
    let request = order(&mut world, &mut wallet, &customer, "hello");
    let event = feedback(&world, &request.id);
    let (receipt, bolt11, preimage) =
        service.zap(world.now.seconds(), &agent, &customer, Some(&event), PRICE);
    world.deliver(&receipt);
    world.pass_with(&mut wallet, 20);
    assert_eq!(world.statuses(&request.id), ["payment-required"], "a receipt alone is not enough");
    world.crash();
    world.run();
    wallet.receive(&bolt11, preimage);
    world.pass_with(&mut wallet, 20);
    assert_eq!(world.statuses(&request.id), PAID);
    assert_eq!(world.check_books(), books(PRICE, PRICE, 0));
    // Somebody with an address of the same service has paid himself.
    let next = order(&mut world, &mut wallet, &customer, "next");
    let event = feedback(&world, &next.id);
    zap(&mut world, &mut service, &customer, Some(&event), PRICE);
    world.pass_with(&mut wallet, 700);
    assert_eq!(world.statuses(&next.id), ["payment-required", "error"]);
    world.crash();
    world.run();
    world.pass_with(&mut wallet, 2 * 86_400);
    assert_eq!(world.check_books(), books(PRICE, PRICE, 0));
    assert_eq!(world.agent.metrics().payments["zap_refused"], 1);
    let log = world.agent.logs(0, 1_000).unwrap();
    assert!(
        log.iter().any(|line| line.message.contains("the wallet has not confirmed the 21000 msat")),
        "{log:?}"
    );
    assert_eq!((world.agent.is_idle(), world.agent.poll_timeout()), (true, None));
}

/// A wallet that gives no preimage says it twice.
#[test]
fn a_wallet_that_shows_nothing_is_asked_twice_about_a_zap() {
    let (mut world, mut wallet, mut service) = zappable("prepay", "wallet");
    let (customer, agent) = (Customer::new(1), world.pubkey());
    let request = order(&mut world, &mut wallet, &customer, "hello");
    let (receipt, bolt11, preimage) =
        service.zap(world.now.seconds(), &agent, &customer, Some(&request.id), PRICE);
    wallet.receive(&bolt11, preimage);
    wallet.shows_preimages = false;
    world.deliver(&receipt);
    let asked = |wallet: &Wallet| wallet.asked.iter().filter(|method| *method == "lookup_invoice").count();
    let before = asked(&wallet);
    world.ask_wallet(&mut wallet);
    assert_eq!(asked(&wallet) - before, 1);
    assert_eq!(world.statuses(&request.id), ["payment-required"]);
    world.pass_with(&mut wallet, 3);
    assert_eq!(world.statuses(&request.id), PAID);
    // A preimage of something else is not believed.
    let next = order(&mut world, &mut wallet, &customer, "next");
    let (receipt, bolt11, _) = service.zap(world.now.seconds(), &agent, &customer, Some(&next.id), PRICE);
    wallet.receive(&bolt11, [7; 32]);
    wallet.shows_preimages = true;
    world.deliver(&receipt);
    world.pass_with(&mut wallet, 30);
    assert_eq!(world.statuses(&next.id), ["payment-required"]);
}

/// Regression: when very many zaps waited for the wallet, nothing was delivered to the agent any more. Somebody with an address of the same
/// service makes as many as they like.
#[test]
fn zaps_that_the_wallet_does_not_know_stand_in_nobodys_way() {
    let (mut world, mut wallet, mut service) = zappable("prepay", "wallet");
    let (customer, agent) = (Customer::new(1), world.pubkey());
    for _ in 0..1_002 {
        zap(&mut world, &mut service, &Customer::new(9), None, PRICE);
    }
    let refused = |world: &World| world.agent.metrics().payments["zap_refused"];
    assert_eq!(refused(&world), 2, "the wallet has not been asked");
    world.pass_with(&mut wallet, 3);
    let request = order(&mut world, &mut wallet, &customer, "hello");
    let (receipt, bolt11, preimage) =
        service.zap(world.now.seconds(), &agent, &customer, Some(&request.id), PRICE);
    wallet.receive(&bolt11, preimage);
    world.deliver(&receipt);
    world.pass_with(&mut wallet, 10);
    assert_eq!(world.statuses(&request.id), PAID);
    assert_eq!((world.check_books(), refused(&world)), (books(PRICE, PRICE, 0), 3));
}

/// What has come is what the wallet says.
#[test]
fn the_wallet_says_how_much_a_zap_was() {
    let (mut world, mut wallet, mut service) = zappable("prepay", "wallet");
    let (customer, agent) = (Customer::new(1), world.pubkey());
    for (came, credit) in [(0, 0), (1_000, 1_000), (PRICE + 1, PRICE + 1_001), (9 * PRICE, 3 * PRICE + 1_001)]
    {
        let (receipt, bolt11, preimage) = service.zap(world.now.seconds(), &agent, &customer, None, PRICE);
        wallet.receive(&bolt11, preimage);
        let invoice = wallet.invoices.values_mut().find(|invoice| invoice.bolt11 == bolt11).unwrap();
        invoice.paid = Some(came);
        world.deliver(&receipt);
        world.pass_with(&mut wallet, 5);
        assert_eq!(world.agent.credit_of(&customer.pubkey()).unwrap(), credit, "{came}");
        world.check_books();
    }
}

#[test]
fn what_pays_no_job_is_credit_of_who_has_zapped() {
    let (mut world, mut wallet, mut service) = zappable("prepay", "receipt");
    let (customer, other) = (Customer::new(1), Customer::new(2));
    let credit = |world: &World, of: &Customer| world.agent.credit_of(&of.pubkey()).unwrap();
    // Too little: the rest may come by another zap.
    let request = order(&mut world, &mut wallet, &customer, "hello");
    zap(&mut world, &mut service, &customer, Some(&request.id), 5_000);
    assert_eq!(world.statuses(&request.id), ["payment-required"]);
    assert_eq!(credit(&world, &customer), 5_000);
    zap(&mut world, &mut service, &customer, Some(&request.id), 15_999);
    assert_eq!(world.statuses(&request.id), ["payment-required"]);
    zap(&mut world, &mut service, &customer, Some(&request.id), 1);
    assert_eq!(world.statuses(&request.id), PAID);
    assert_eq!(world.check_books(), books(PRICE, PRICE, 0));
    // Somebody else's job.
    let request = order(&mut world, &mut wallet, &customer, "mine");
    zap(&mut world, &mut service, &other, Some(&request.id), PRICE);
    assert_eq!(world.statuses(&request.id), ["payment-required"]);
    assert_eq!((credit(&world, &customer), credit(&world, &other)), (0, PRICE));
    // Too much.
    zap(&mut world, &mut service, &customer, Some(&request.id), PRICE + 700);
    assert_eq!(world.statuses(&request.id), PAID);
    assert_eq!(credit(&world, &customer), 700);
    // Of a job that is over: its result, its request; of something unknown, and of nothing.
    let result = feedback(&world, &request.id);
    for event in [Some(result), Some(request.id), Some(EventId([3; 32])), None] {
        zap(&mut world, &mut service, &customer, event.as_ref(), 1_000);
    }
    assert_eq!(credit(&world, &customer), 4_700);
    // Late.
    let late = order(&mut world, &mut wallet, &customer, "late");
    let event = feedback(&world, &late.id);
    world.pass_with(&mut wallet, 700);
    assert_eq!(world.statuses(&late.id), ["payment-required", "error"]);
    zap(&mut world, &mut service, &customer, Some(&event), PRICE);
    assert_eq!(world.statuses(&late.id), ["payment-required", "error"], "nothing follows an error");
    assert_eq!(world.check_books(), books(4 * PRICE + 4_700, 2 * PRICE, 2 * PRICE + 4_700));
    // Credit is spent first.
    let next = order(&mut world, &mut wallet, &other, "next");
    assert_eq!(world.statuses(&next.id), ["processing", "result"]);
}

#[test]
fn an_invoice_that_is_paid_beside_a_zap_is_credit() {
    for policy in ["prepay", "postpay"] {
        let (mut world, mut wallet, mut service) = zappable(policy, "receipt");
        let customer = Customer::new(1);
        let request = order(&mut world, &mut wallet, &customer, "hello");
        pay(&world, &mut wallet, &customer, &request);
        zap(&mut world, &mut service, &customer, Some(&request.id), PRICE);
        world.pass_with(&mut wallet, 60);
        assert_eq!(world.check_books(), books(2 * PRICE, PRICE, PRICE), "{policy}");
        assert_eq!(world.agent.metrics().payments["late"], 1);
        // The other way round.
        let (mut world, mut wallet, mut service) = zappable(policy, "receipt");
        let request = order(&mut world, &mut wallet, &customer, "hello");
        pay(&world, &mut wallet, &customer, &request);
        world.pass_with(&mut wallet, 60);
        zap(&mut world, &mut service, &customer, Some(&request.id), PRICE);
        assert_eq!(world.check_books(), books(2 * PRICE, PRICE, PRICE), "{policy}");
    }
}

/// A zap may be faster than the wallet that is to make an invoice.
#[test]
fn a_job_is_paid_by_a_zap_before_its_invoice_is_made() {
    let (mut world, mut wallet, mut service) = zappable("prepay", "receipt");
    let customer = Customer::new(1);
    let request = customer.sign(&world.request().text("hello"));
    world.deliver(&request);
    zap(&mut world, &mut service, &customer, Some(&request.id), PRICE);
    assert_eq!(world.statuses(&request.id), ["processing", "result"]);
    world.pass_with(&mut wallet, 100);
    assert_eq!(world.statuses(&request.id), ["processing", "result"]);
    assert_eq!(world.check_books(), books(PRICE, PRICE, 0));
}

#[test]
fn a_payment_counts_once() {
    for check in ["receipt", "wallet"] {
        let (mut world, mut wallet, mut service) = zappable("prepay", check);
        let (customer, agent, now) = (Customer::new(1), world.pubkey(), world.now.seconds());
        let description = signed(&customer, &zap_request(now, &agent, None, PRICE));
        let preimage = service.preimage();
        let bolt11 = zap_invoice(now, &description, preimage, Some(PRICE));
        wallet.receive(&bolt11, preimage);
        let mut tags = receipt_tags(&agent, &customer, None, &description, &bolt11);
        let receipt = service.receipt(now, tags.clone());
        tags.push(vec!["preimage".to_owned(), "00".to_owned()]);
        let second = service.receipt(now + 1, tags);
        assert_ne!(receipt.id, second.id);
        for round in 0..3 {
            for event in [&receipt, &second, &receipt] {
                world.agent.deliver(world.now, std::slice::from_ref(event)).unwrap();
                world.run();
                world.pass_with(&mut wallet, 10);
                assert_eq!(world.check_books(), books(PRICE, 0, PRICE), "{check} {round}");
            }
            world.crash();
            world.run();
        }
        // The second one was refused each time, and the first one is only known.
        assert_eq!(world.agent.metrics().payments["zap_refused"], 3, "{check}");
        assert_eq!(world.agent.metrics().payments["zapped"], 1);
    }
}

#[test]
fn a_zap_is_not_lost_if_the_disk_is_full() {
    for check in ["receipt", "wallet"] {
        let (mut world, mut wallet, mut service) = zappable("prepay", check);
        let (customer, agent) = (Customer::new(1), world.pubkey());
        let request = order(&mut world, &mut wallet, &customer, "hello");
        let (receipt, bolt11, preimage) =
            service.zap(world.now.seconds(), &agent, &customer, Some(&request.id), PRICE);
        wallet.receive(&bolt11, preimage);
        world.sqlite.set_full(true);
        for _ in 0..3 {
            assert!(world.agent.deliver(world.now, std::slice::from_ref(&receipt)).is_err());
            world.run();
        }
        assert_eq!(world.statuses(&request.id), ["payment-required"], "{check}");
        world.sqlite.set_full(false);
        world.agent.deliver(world.now, std::slice::from_ref(&receipt)).unwrap();
        world.pass_with(&mut wallet, 10);
        assert_eq!(world.statuses(&request.id), PAID, "{check}");
        assert_eq!(world.check_books(), books(PRICE, PRICE, 0));
    }
}

#[test]
fn jobs_that_zaps_have_paid_leave_room_for_others() {
    let (mut world, mut wallet, mut service) = zappable("prepay", "receipt");
    let customer = Customer::new(1);
    for at in 0..20 {
        let request = order(&mut world, &mut wallet, &customer, &format!("job {at}"));
        zap(&mut world, &mut service, &customer, Some(&request.id), PRICE);
        assert_eq!(world.statuses(&request.id), PAID, "{at}");
    }
    assert_eq!(world.check_books(), books(20 * PRICE, 20 * PRICE, 0));
}

/// An archive of receipts, or what another host has counted, is nobody's credit.
#[test]
fn what_was_paid_before_the_address_was_the_agents_does_not_count() {
    let (mut world, _, mut service) = zappable("prepay", "receipt");
    let (customer, agent, now) = (Customer::new(1), world.pubkey(), world.now.seconds());
    let (old, ..) = service.zap(now - 1, &agent, &customer, None, PRICE);
    world.deliver(&old);
    let counted = zap(&mut world, &mut service, &customer, None, PRICE);
    assert_eq!(world.check_books(), books(PRICE, 0, PRICE));
    let export = world.agent.export().unwrap();
    // A receipt that is not judged yet would count beside the credit.
    let mut early = World::new(&zapped("prepay", "receipt", |_| ()));
    early.deliver(&counted);
    let error = early.agent.import(early.now, &export).unwrap_err();
    assert!(format!("{error:?}").contains("zaps"), "{error:?}");
    let mut moved = World::new(&zapped("prepay", "receipt", |_| ()));
    service.tell(&mut moved);
    moved.pass(60);
    moved.agent.import(moved.now, &export).unwrap();
    moved.deliver(&counted);
    assert_eq!(moved.check_books(), books(PRICE, 0, PRICE));
    zap(&mut moved, &mut service, &customer, None, PRICE);
    assert_eq!(moved.check_books(), books(2 * PRICE, 0, 2 * PRICE));
}

/// Whoever has an address of the same service can have the agent pay the invoice of a zap.
#[test]
fn what_the_agent_has_paid_itself_is_no_zap() {
    let manifest = zapped("prepay", "wallet", |json| {
        json["payment"]["refund"] = json!("invoice");
        json["limits"] = json!({"daily_spend_msat": 500_000});
    });
    let (mut world, mut wallet, mut service) = (World::new(&manifest), Wallet::new(), Service::new());
    service.tell(&mut world);
    let (customer, agent) = (Customer::new(1), world.pubkey());
    let (receipt, bolt11, preimage) = service.zap(world.now.seconds(), &agent, &customer, None, 5 * PRICE);
    world.deliver(&receipt);
    let own = refund(&mut world, &customer, &bolt11).unwrap_err();
    assert!(own.contains("was paid by a zap before"), "{own}");
    wallet.receive(&bolt11, preimage);
    world.pass_with(&mut wallet, 30);
    assert_eq!(world.check_books(), books(5 * PRICE, 0, 5 * PRICE));
    let request = zap_request(world.now.seconds(), &agent, None, PRICE);
    let description = signed(&customer, &request);
    let bolt11 = zap_invoice(world.now.seconds(), &description, [9; 32], Some(PRICE));
    let tags = receipt_tags(&agent, &customer, None, &description, &bolt11);
    let receipt = service.receipt(world.now.seconds(), tags);
    refund(&mut world, &customer, &bolt11).unwrap();
    world.pass_with(&mut wallet, 30);
    let after = world.check_books();
    world.deliver(&receipt);
    world.pass_with(&mut wallet, 90);
    assert_eq!(world.check_books(), after);
    assert_eq!(world.agent.metrics().payments["zap_refused"], 1);
}

/// What the agent has failed to pay somebody else may pay.
#[test]
fn a_zap_counts_after_a_refund_to_its_invoice_has_failed() {
    let manifest = zapped("prepay", "receipt", |json| {
        json["payment"]["refund"] = json!("invoice");
        json["limits"] = json!({"daily_spend_msat": 500_000});
    });
    let (mut world, mut wallet, mut service) = (World::new(&manifest), Wallet::new(), Service::new());
    service.tell(&mut world);
    let (customer, agent) = (Customer::new(1), world.pubkey());
    zap(&mut world, &mut service, &customer, None, 5 * PRICE);
    let (receipt, bolt11, _) = service.zap(world.now.seconds(), &agent, &customer, None, PRICE);
    wallet.paying = Paying::Fails;
    refund(&mut world, &customer, &bolt11).unwrap();
    world.pass_with(&mut wallet, 60);
    assert_eq!(world.check_books(), books(5 * PRICE, 0, 5 * PRICE));
    world.deliver(&receipt);
    assert_eq!(world.check_books(), books(6 * PRICE, 0, 6 * PRICE));
}

/// A wallet that does not say which way a payment went may speak of one that it has made.
#[test]
fn a_zap_counts_only_if_the_wallet_says_that_it_came_in() {
    let (mut world, mut wallet, mut service) = zappable("prepay", "wallet");
    let (customer, agent) = (Customer::new(1), world.pubkey());
    let (receipt, bolt11, preimage) = service.zap(world.now.seconds(), &agent, &customer, None, PRICE);
    wallet.receive(&bolt11, preimage);
    wallet.shows_types = false;
    world.deliver(&receipt);
    world.pass_with(&mut wallet, 30);
    assert_eq!(world.check_books(), books(0, 0, 0));
    wallet.shows_types = true;
    world.pass_with(&mut wallet, 90);
    assert_eq!(world.check_books(), books(PRICE, 0, PRICE));
}

#[test]
fn a_deleted_agent_stays_until_its_zaps_are_judged() {
    let (mut world, mut wallet, mut service) = zappable("prepay", "wallet");
    let (customer, agent) = (Customer::new(1), world.pubkey());
    let request = order(&mut world, &mut wallet, &customer, "hello");
    let (receipt, bolt11, preimage) =
        service.zap(world.now.seconds(), &agent, &customer, Some(&request.id), PRICE);
    world.deliver(&receipt);
    world.agent.set_state(world.now, AgentState::Deleted).unwrap();
    world.run();
    world.crash();
    world.run();
    assert!(!world.agent.is_removable());
    wallet.receive(&bolt11, preimage);
    world.pass_with(&mut wallet, 60);
    assert_eq!(world.check_books(), books(PRICE, 0, PRICE));
    assert_eq!(world.statuses(&request.id), ["payment-required", "error"]);
}

#[test]
fn agents_that_are_not_paid_by_zaps_take_none() {
    let (mut world, mut wallet) = (World::new(&prepaid(|_| ())), Wallet::new());
    let (customer, mut service) = (Customer::new(1), Service::new());
    let request = order(&mut world, &mut wallet, &customer, "hello");
    zap(&mut world, &mut service, &customer, Some(&request.id), PRICE);
    assert!(world.host.calls.is_empty());
    assert_eq!(world.statuses(&request.id), ["payment-required"]);
    assert_eq!(world.check_books(), books(0, 0, 0));
    // Of an earlier version, a payment that is held is none that a zap can make.
    let held = prepaid(|json| json["payment"]["policy"] = json!("hold"));
    world.agent.deploy(world.now, &held, &owner()).unwrap();
    world.run();
    let request = order(&mut world, &mut wallet, &customer, "held");
    world.agent.deploy(world.now, &zapped("prepay", "receipt", |_| ()), &owner()).unwrap();
    world.run();
    service.tell(&mut world);
    zap(&mut world, &mut service, &customer, Some(&request.id), PRICE);
    assert_eq!(world.statuses(&request.id), ["payment-required"]);
    assert_eq!(world.check_books(), Books { credit: PRICE as i64, ..books(PRICE, 0, 0) });
}
