//! What tests of paid jobs have in common: a manifest with a price, orders, payments, and the books as they should be.

use relay_agent::manifest::Manifest;
use relay_agent::testing::{Customer, JobAnswer, Status, read_answer};
use relay_engine::types::{Event, EventId};
use serde_json::{Value, json};

use crate::wallet::Wallet;
use crate::world::{Books, World, manifest};

pub(crate) const PRICE: u64 = 21_000;

pub(crate) fn prepaid(change: impl FnOnce(&mut Value)) -> Manifest {
    paid("prepay", change)
}

pub(crate) fn paid(policy: &str, change: impl FnOnce(&mut Value)) -> Manifest {
    manifest(|json| {
        json["handlers"][0]["price"] = json!({"model": "per_job", "msat": PRICE});
        json["payment"] = json!({"policy": policy, "wallet_ref": "AGENT_WALLET"});
        change(json);
    })
}

pub(crate) fn prepaying() -> (World, Wallet) {
    (World::new(&prepaid(|_| ())), Wallet::new())
}

/// A request is delivered, and the wallet answers.
pub(crate) fn order(world: &mut World, wallet: &mut Wallet, customer: &Customer, text: &str) -> Event {
    let request = customer.sign(&world.request().text(text));
    world.deliver(&request);
    world.ask_wallet(wallet);
    request
}

/// What a customer is asked for.
pub(crate) fn required(world: &World, customer: &Customer, request: &EventId) -> JobAnswer {
    let (_, event) = world.host.answers_to(request).pop().expect("an answer");
    let answer = read_answer(&event, &customer.keys).unwrap();
    assert_eq!(answer.status, Status::PaymentRequired, "{answer:?}");
    answer
}

pub(crate) fn pay(world: &World, wallet: &mut Wallet, customer: &Customer, request: &Event) -> String {
    let bolt11 = required(world, customer, &request.id).bolt11.expect("an invoice");
    wallet.pay(&bolt11, None)
}

pub(crate) fn books(received: u64, income: u64, credit: u64) -> Books {
    Books {
        received: received as i64,
        reserved: 0,
        income: income as i64,
        credit: credit as i64,
        refunds: 0,
        shares: 0,
    }
}
