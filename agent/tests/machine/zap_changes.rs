//! An agent gets another Lightning address or another wallet while customers zap it.

use relay_agent::manifest::Manifest;
use relay_agent::testing::Customer;
use serde_json::json;

use crate::prepaid::{PRICE, books, order, prepaid};
use crate::wallet::Wallet;
use crate::world::{World, owner};
use crate::zapping::{Service, feedback, zap, zappable, zapped};

const PAID: [&str; 3] = ["payment-required", "processing", "result"];

/// Another address and another wallet.
fn moved(check: &str) -> Manifest {
    zapped("prepay", check, |json| {
        json["payment"]["zap"] = json!("agent@other.example");
        json["payment"]["wallet_ref"] = json!("AGENT_SECOND_WALLET");
    })
}

fn deploy(world: &mut World, manifest: &Manifest) {
    world.agent.deploy(world.now, manifest, &owner()).unwrap();
    world.run();
}

/// Regression: a zap was worth nothing if its receipt came, or its payment was confirmed, after the address or the wallet had been replaced.
#[test]
fn a_zap_to_the_address_of_before_counts_for_an_hour() {
    for check in ["receipt", "wallet"] {
        for is_moved in [true, false] {
            let (mut world, mut wallet, mut service) = zappable("prepay", check);
            let (customer, agent) = (Customer::new(1), world.pubkey());
            let request = order(&mut world, &mut wallet, &customer, "hello");
            let event = feedback(&world, &request.id);
            let now = world.now.seconds();
            let (receipt, bolt11, preimage) = service.zap(now + 60, &agent, &customer, Some(&event), PRICE);
            wallet.receive(&bolt11, preimage);
            // The agent moves, or takes no zaps any more.
            let next = if is_moved { moved(check) } else { prepaid(|_| ()) };
            deploy(&mut world, &next);
            if is_moved {
                world.answer(200, &Service::of(0x77).answer().to_string());
            }
            world.pass_with(&mut wallet, 60);
            world.crash();
            world.run();
            world.deliver(&receipt);
            world.pass_with(&mut wallet, 10);
            assert_eq!(world.statuses(&request.id), PAID, "{check} {is_moved}");
            assert_eq!(world.check_books(), books(PRICE, PRICE, 0), "{check} {is_moved}");
            // It counts once, and not by somebody else's key, and not later.
            world.deliver(&receipt);
            zap(&mut world, &mut Service::of(0x78), &customer, None, PRICE);
            world.pass_with(&mut wallet, 3_700);
            world.host.calls.clear();
            // The key may have become somebody else's, who dates what they sign as they like.
            for created_at in [world.now.seconds(), now + 60] {
                world.pass_with(&mut wallet, 700);
                let (late, bolt11, preimage) = service.zap(created_at, &agent, &customer, None, PRICE);
                wallet.receive(&bolt11, preimage);
                world.deliver(&late);
                world.host.calls.clear();
                world.pass_with(&mut wallet, 60);
            }
            assert_eq!(world.check_books(), books(PRICE, PRICE, 0), "{check} {is_moved}");
        }
    }
}

/// A receipt waits for the key of its service, which is known from before, when the address is replaced.
#[test]
fn a_receipt_that_waits_is_judged_by_the_key_of_before() {
    let (mut world, mut wallet, mut service) = zappable("prepay", "receipt");
    let customer = Customer::new(1);
    world.pass(3_700);
    let request = order(&mut world, &mut wallet, &customer, "hello");
    zap(&mut world, &mut service, &customer, Some(&request.id), PRICE);
    zap(&mut world, &mut Service::of(0x78), &customer, None, PRICE);
    assert_eq!(world.statuses(&request.id), ["payment-required"], "the service is asked again");
    deploy(&mut world, &prepaid(|_| ()));
    assert_eq!(world.statuses(&request.id), PAID);
    world.host.calls.clear();
    world.pass_with(&mut wallet, 86_400);
    assert_eq!(world.check_books(), books(PRICE, PRICE, 0));
    assert_eq!((world.agent.is_idle(), world.agent.metrics().payments["zap_refused"]), (true, 1));
}

/// A payment that reached the wallet of before is confirmed by it; one that reached none is asked for at both, and ends.
#[test]
fn the_wallet_of_before_is_asked_too() {
    let (mut world, mut wallet, mut service) = zappable("prepay", "wallet");
    let (mut other, customer, agent) = (Wallet::other(), Customer::new(1), world.pubkey());
    let request = order(&mut world, &mut wallet, &customer, "hello");
    let now = world.now.seconds();
    let (receipt, bolt11, preimage) = service.zap(now, &agent, &customer, Some(&request.id), PRICE);
    world.deliver(&receipt);
    zap(&mut world, &mut service, &Customer::new(9), None, PRICE);
    world.pass_with(&mut wallet, 5);
    let elsewhere = zapped("prepay", "wallet", |json| {
        json["payment"]["wallet_ref"] = json!("AGENT_SECOND_WALLET");
    });
    deploy(&mut world, &elsewhere);
    service.tell(&mut world);
    wallet.receive(&bolt11, preimage);
    for _ in 0..20 {
        world.pass_with(&mut other, 1);
        world.ask_wallet(&mut wallet);
    }
    assert_eq!(world.statuses(&request.id), PAID);
    assert!(other.asked.iter().any(|method| method == "lookup_invoice"));
    // What reaches the wallet of before later is not the agent's.
    world.pass_with(&mut other, 3_700);
    world.host.calls.clear();
    let now = world.now.seconds();
    let (receipt, bolt11, preimage) = service.zap(now, &agent, &Customer::new(8), None, PRICE);
    wallet.receive(&bolt11, preimage);
    world.deliver(&receipt);
    service.tell(&mut world);
    for _ in 0..20 {
        world.pass_with(&mut other, 10);
        world.ask_wallet(&mut wallet);
    }
    assert_eq!(world.check_books(), books(PRICE, PRICE, 0));
    // The wallet of before is gone.
    for _ in 0..60 {
        world.pass_with(&mut other, 3_600);
        world.host.calls.clear();
    }
    assert_eq!(world.check_books(), books(PRICE, PRICE, 0));
    assert_eq!(world.agent.metrics().payments["zap_refused"], 2);
    // Only the invoice of the wallet of before is left to ask for.
    let asked = other.asked.len();
    world.pass_with(&mut other, 7 * 86_400);
    assert_eq!((world.agent.is_idle(), other.asked.len()), (true, asked));
}

/// Regression: while the wallet answered nothing but errors, somebody's thousand zaps kept out all others, and nobody was told.
#[test]
fn zaps_of_many_payers_have_room_while_the_wallet_fails() {
    let (mut world, mut wallet, mut service) = zappable("prepay", "wallet");
    let (customer, agent) = (Customer::new(1), world.pubkey());
    for _ in 0..1_000 {
        zap(&mut world, &mut service, &Customer::new(9), None, PRICE);
    }
    let request = order(&mut world, &mut wallet, &customer, "hello");
    let now = world.now.seconds();
    let (receipt, bolt11, preimage) = service.zap(now, &agent, &customer, Some(&request.id), PRICE);
    wallet.receive(&bolt11, preimage);
    wallet.tells_nothing = true;
    world.deliver(&receipt);
    world.pass_with(&mut wallet, 60);
    let log = world.agent.logs(0, 10_000).unwrap();
    let words = "the wallet does not tell of a zap: RESTRICTED no";
    assert!(log.iter().any(|line| line.message == words), "{log:?}");
    wallet.tells_nothing = false;
    world.pass_with(&mut wallet, 400);
    assert_eq!(world.statuses(&request.id), PAID);
    assert_eq!(world.agent.metrics().payments["zap_refused"], 1);
    // Of its own it has no more.
    zap(&mut world, &mut service, &Customer::new(9), None, PRICE);
    world.check_books();
}
