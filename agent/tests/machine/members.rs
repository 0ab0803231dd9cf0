//! Memberships of the relay: an agent sells them, and signs the events that say who is a member (NIP-43).

use relay_agent::machine::Published;
use relay_agent::manifest::Manifest;
use relay_agent::testing::{Customer, Request};
use relay_engine::policy::Members;
use relay_engine::types::{Event, EventId, KIND_ADD_USER, KIND_MEMBERSHIP_REQUEST, PubKey};
use serde_json::json;

use crate::prepaid::{PRICE, books, pay, prepaid};
use crate::wallet::Wallet;
use crate::world::{World, manifest};

fn selling() -> Manifest {
    prepaid(|json| {
        json["handlers"][0]["kind"] = json!(KIND_MEMBERSHIP_REQUEST);
        json["handlers"][0]["executor"] = json!("membership");
        json["handlers"][0]["config"] = json!({});
        json["handlers"][0]["inputs"] = json!(["text"]);
    })
}

fn order(world: &mut World, wallet: &mut Wallet, customer: &Customer, inputs: &[&str]) -> Event {
    let request = Request::new(KIND_MEMBERSHIP_REQUEST, world.now.seconds()).to(&world.pubkey());
    let request = customer.sign(&inputs.iter().fold(request, |request, input| request.text(input)));
    world.deliver(&request);
    world.ask_wallet(wallet);
    request
}

/// The events by which the agent makes members.
fn additions(world: &World) -> Vec<Event> {
    let agent = world.pubkey();
    let of_agent = |event: &&Event| event.kind == KIND_ADD_USER && event.pubkey == agent;
    world.host.stored.iter().filter(of_agent).cloned().collect()
}

fn is_member(world: &World, key: &PubKey) -> bool {
    let mut members = Members::default();
    additions(world).iter().for_each(|event| members.record(event));
    members.contains(key, world.now.seconds())
}

fn check_refused(world: &mut World, wallet: &mut Wallet, inputs: &[&str], why: &str) {
    let customer = Customer::new(77);
    let request = order(world, wallet, &customer, inputs);
    assert_eq!(world.statuses(&request.id), ["error"], "{inputs:?}");
    let (_, message) = world.last(&customer, &request.id);
    assert!(message.contains(why), "{inputs:?}: {message}");
}

#[test]
fn whoever_pays_makes_the_key_in_the_input_a_member() {
    let (mut world, mut wallet) = (World::new(&selling()), Wallet::new());
    let (customer, member) = (Customer::new(1), Customer::new(2).pubkey());
    let request = order(&mut world, &mut wallet, &customer, &[&member.to_string()]);
    assert_eq!(world.statuses(&request.id), ["payment-required"]);
    assert!(!is_member(&world, &member));
    pay(&world, &mut wallet, &customer, &request);
    world.pass_with(&mut wallet, 40);
    assert_eq!(world.statuses(&request.id), ["payment-required", "processing", "result"]);
    assert!(world.last(&customer, &request.id).1.ends_with(" is a member of this relay"));
    assert!(is_member(&world, &member) && !is_member(&world, &customer.pubkey()));
    let [addition] = &additions(&world)[..] else { panic!("one event") };
    // NIP-43: «A NIP-70 `-` tag».
    assert!(relay_engine::policy::is_protected(addition.tags()));
    assert_eq!(world.check_books(), books(PRICE, PRICE, 0));
    // Nobody pays for what he has, also after a restart, and whoever asks.
    world.crash();
    check_refused(&mut world, &mut wallet, &[&member.to_string()], "this key is a member already");
    assert_eq!(wallet.invoices.len(), 1);
}

#[test]
fn what_is_no_key_is_refused_before_anything_is_asked_for() {
    let (mut world, mut wallet) = (World::new(&selling()), Wallet::new());
    let key = Customer::new(2).pubkey().to_string();
    for inputs in [&[][..], &["alice"], &["npub1qqqq"], &[&key[..63]], &[&key, &key], &[&"f".repeat(64)]] {
        check_refused(&mut world, &mut wallet, inputs, "the input must be one public key");
    }
    assert!(wallet.invoices.is_empty());
}

#[test]
fn two_who_pay_for_one_key_are_not_both_charged() {
    let (mut world, mut wallet) = (World::new(&selling()), Wallet::new());
    let (first, second, member) = (Customer::new(1), Customer::new(2), Customer::new(3).pubkey());
    let requests =
        [&first, &second].map(|customer| order(&mut world, &mut wallet, customer, &[&member.to_string()]));
    for (customer, request) in [&first, &second].into_iter().zip(&requests) {
        pay(&world, &mut wallet, customer, request);
    }
    world.pass_with(&mut wallet, 60);
    let ends: Vec<String> =
        requests.iter().map(|request| world.statuses(&request.id).pop().unwrap()).collect();
    assert!(ends.contains(&"result".to_owned()) && ends.contains(&"error".to_owned()), "{ends:?}");
    assert_eq!(additions(&world).len(), 1);
    // What the other one has paid is his credit.
    assert_eq!(world.check_books(), books(2 * PRICE, PRICE, PRICE));
}

/// Whatever is lost by a crash after the payment: in the end there is one result and one member.
#[test]
fn a_crash_at_any_time_makes_no_second_member_and_loses_none() {
    for steps in 0..40 {
        let (mut world, mut wallet) = (World::new(&selling()), Wallet::new());
        let (customer, member) = (Customer::new(1), Customer::new(2).pubkey());
        let request = order(&mut world, &mut wallet, &customer, &[&member.to_string()]);
        pay(&world, &mut wallet, &customer, &request);
        world.pass_with(&mut wallet, steps);
        world.crash();
        world.pass_with(&mut wallet, 120);
        assert_eq!(world.statuses(&request.id).last().map(String::as_str), Some("result"), "{steps}");
        assert!(is_member(&world, &member), "{steps}");
        let ids: std::collections::BTreeSet<EventId> =
            additions(&world).iter().map(|event| event.id).collect();
        assert_eq!(ids.len(), 1, "{steps}");
        assert_eq!(world.check_books(), books(PRICE, PRICE, 0), "{steps}");
    }
}

#[test]
fn a_relay_may_be_free_to_join() {
    let free = manifest(|json| {
        json["handlers"][0] =
            json!({"kind": KIND_MEMBERSHIP_REQUEST, "executor": "membership", "inputs": ["text"]});
    });
    let (mut world, mut wallet) = (World::new(&free), Wallet::new());
    let member = Customer::new(2).pubkey();
    let request = order(&mut world, &mut wallet, &Customer::new(1), &[&member.to_string()]);
    assert_eq!(world.statuses(&request.id), ["processing", "result"]);
    assert!(is_member(&world, &member));
}

/// Regression: a membership was kept and its price given back when the relay took the event that makes the member, and refused the larger
/// result. So one payment bought any number of memberships.
#[test]
fn a_refused_result_gives_nothing_back_for_a_membership() {
    let (mut world, mut wallet) = (World::new(&selling()), Wallet::new());
    let (customer, member) = (Customer::new(1), Customer::new(2).pubkey());
    let request = order(&mut world, &mut wallet, &customer, &[&member.to_string()]);
    pay(&world, &mut wallet, &customer, &request);
    // Of `processing`, the member and the result.
    let refused = Published::Refused("invalid: the event is too large".to_owned());
    world.host.outcomes.extend([Published::Accepted, Published::Accepted, refused]);
    world.pass_with(&mut wallet, 40);
    assert_eq!(world.statuses(&request.id).last().map(String::as_str), Some("error"));
    assert!(is_member(&world, &member));
    assert_eq!(world.check_books(), books(PRICE, PRICE, 0));
}
