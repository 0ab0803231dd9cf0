//! Credit that is paid out, once.

use relay_agent::api::{self, Caller, Relay, Request};
use relay_agent::machine::{AgentState, CommandError, Effect, RefundRecord};
use relay_agent::manifest::Manifest;
use relay_agent::testing::Customer;
use relay_site::{AgentRoute, HttpResponse};
use serde_json::{Value, json};

use crate::invoices::Draft;
use crate::prepaid::{PRICE, books, order, prepaid, required};
use crate::wallet::{Paying, Wallet};
use crate::world::{Books, World, manifest, owner};

pub(crate) const CREDIT: u64 = 10 * PRICE;

pub(crate) fn refunding(change: impl FnOnce(&mut Value)) -> Manifest {
    prepaid(|json| {
        json["payment"]["refund"] = json!("invoice");
        json["limits"] = json!({"daily_spend_msat": 500_000});
        change(json);
    })
}

/// An agent of which customer 1 has credit.
pub(crate) fn indebted(manifest: &Manifest) -> (World, Wallet, Customer) {
    let (mut world, mut wallet, customer) = (World::new(manifest), Wallet::new(), Customer::new(1));
    credit(&mut world, &mut wallet, &customer);
    (world, wallet, customer)
}

/// A customer pays for a job that is over.
fn credit(world: &mut World, wallet: &mut Wallet, customer: &Customer) {
    for number in 0..5 {
        let request = order(world, wallet, customer, &format!("{number}"));
        let bolt11 = required(world, customer, &request.id).bolt11.unwrap();
        world.deliver(&customer.cancel(&[request.id], world.now.seconds()));
        wallet.pay(&bolt11, Some(2 * PRICE));
    }
    world.pass_with(wallet, 30);
    assert_eq!(world.agent.credit_of(&customer.pubkey()).unwrap(), CREDIT);
}

/// A customer's invoice, payable for an hour.
pub(crate) fn invoice(world: &World, number: u8, msat: u64) -> String {
    of_seconds(world, number, Some(msat), 3_600)
}

fn of_seconds(world: &World, number: u8, msat: Option<u64>, expiry_s: u64) -> String {
    let created_at = world.now.seconds();
    Draft { msat, description: "refund", preimage: [number; 32], created_at, expiry_s }.sign()
}

pub(crate) fn refund(world: &mut World, customer: &Customer, bolt11: &str) -> Result<RefundRecord, String> {
    match world.agent.refund(world.now, &customer.pubkey(), bolt11) {
        Ok(record) => Ok(record),
        Err(CommandError::Manifest(error)) => Err(error.to_string()),
        Err(other) => panic!("{other:?}"),
    }
}

pub(crate) fn times(wallet: &Wallet) -> u32 {
    wallet.outgoing.values().map(|payment| payment.times).sum()
}

#[test]
fn credit_is_paid_out_to_an_invoice_of_its_customer() {
    let (mut world, mut wallet, customer) = indebted(&refunding(|_| ()));
    wallet.paying = Paying::Pays(700);
    let bolt11 = invoice(&world, 1, 100_000);
    let record = refund(&mut world, &customer, &bolt11).unwrap();
    assert_eq!((record.state, record.msat, record.fees_msat), ("pending", 100_000, 10_000));
    assert_eq!(world.check_books(), Books { refunds: 110_000, ..books(CREDIT, 0, CREDIT - 110_000) });
    // It cannot be spent meanwhile, nor paid out twice.
    let second = invoice(&world, 2, 50_000);
    assert!(refund(&mut world, &customer, &second).unwrap_err().contains("has to wait"));
    world.run();
    world.ask_wallet(&mut wallet);
    let left = CREDIT - 100_700;
    assert_eq!(world.check_books(), books(left, 0, left));
    for text in [bolt11.clone(), format!("LIGHTNING:{}", bolt11.to_ascii_uppercase())] {
        let again = refund(&mut world, &customer, &text).unwrap();
        assert_eq!((again.state, again.fees_msat), ("paid", 700));
        world.pass_with(&mut wallet, 100);
        assert_eq!(times(&wallet), 1);
        world.crash();
        world.run();
    }
    assert_eq!(world.agent.refunds_of(&customer.pubkey(), 9).unwrap().len(), 1);
    assert_eq!(world.agent.metrics().payments["refunded"], 1);
    assert_eq!((world.agent.is_idle(), world.agent.poll_timeout()), (true, None));
    // Fees beyond the reserve are taken of the credit that is left, and what that does not cover is the agent's.
    wallet.paying = Paying::Pays(15_000);
    refund(&mut world, &customer, &format!("LIGHTNING:{}", second.to_ascii_uppercase())).unwrap();
    world.run();
    world.ask_wallet(&mut wallet);
    let left = left - 65_000;
    assert_eq!(world.check_books(), books(left, 0, left));
    assert_eq!(refund(&mut world, &customer, &second).unwrap().fees_msat, 15_000);
    let last = invoice(&world, 3, left - 10_000);
    refund(&mut world, &customer, &last).unwrap();
    world.run();
    world.ask_wallet(&mut wallet);
    assert_eq!(refund(&mut world, &customer, &last).unwrap().fees_msat, 10_000);
    assert_eq!(world.check_books(), Books { received: -5_000, income: -5_000, ..books(0, 0, 0) });
    assert_eq!(times(&wallet), 3);
}

#[test]
fn what_is_not_paid_out() {
    let (mut world, mut wallet, customer) = indebted(&refunding(|_| ()));
    let own = {
        let request = order(&mut world, &mut wallet, &Customer::new(2), "x");
        required(&world, &Customer::new(2), &request.id).bolt11.unwrap()
    };
    let cases = [
        ("lnbc1".to_owned(), "invoice: the checksum of the invoice is wrong"),
        (of_seconds(&world, 1, None, 3_600), "must have an amount"),
        (of_seconds(&world, 1, Some(1_000), 60), "expires too soon"),
        (of_seconds(&world, 1, Some(1_000), 8 * 86_400), "can be paid for longer than a week"),
        (
            invoice(&world, 1, CREDIT - 2_000),
            "asks for more than your credit: 208000 msat, and 10000 msat are reserved",
        ),
        (own, "was made by this agent's own wallet"),
    ];
    for (bolt11, why) in cases {
        let error = refund(&mut world, &customer, &bolt11).unwrap_err();
        assert!(error.contains(why), "{error}: {why}");
    }
    let bolt11 = invoice(&world, 1, 100_000);
    assert!(refund(&mut world, &Customer::new(3), &bolt11).unwrap_err().contains("you have 0 msat"));
    assert_eq!(world.check_books(), books(CREDIT, 0, CREDIT));
    // Another one's.
    refund(&mut world, &customer, &bolt11).unwrap();
    assert!(
        refund(&mut world, &Customer::new(2), &bolt11).unwrap_err().contains("was used for another payout")
    );
    world.run();
    world.ask_wallet(&mut wallet);
    // More than in a day.
    let spends = |msat: u64| refunding(move |json| json["limits"]["daily_spend_msat"] = json!(msat));
    world.agent.deploy(world.now, &spends(150_000), &owner()).unwrap();
    let more = of_seconds(&world, 2, Some(50_000), 3 * 86_400);
    assert!(refund(&mut world, &customer, &more).unwrap_err().contains("cannot be paid today"));
    world.pass_with(&mut wallet, 86_400);
    refund(&mut world, &customer, &more).unwrap();
    world.run();
    world.ask_wallet(&mut wallet);
    assert_eq!(times(&wallet), 2);
    // An agent that keeps credit.
    let (mut world, _, customer) = indebted(&prepaid(|_| ()));
    let bolt11 = invoice(&world, 1, 1_000);
    assert!(refund(&mut world, &customer, &bolt11).unwrap_err().contains("does not pay credit out"));
    // A wallet that does not pay: it is known before, or it says so.
    let (mut world, mut wallet, customer) = (World::new(&refunding(|_| ())), Wallet::new(), Customer::new(1));
    wallet.methods = "make_invoice lookup_invoice";
    credit(&mut world, &mut wallet, &customer);
    let bolt11 = invoice(&world, 1, 1_000);
    assert!(refund(&mut world, &customer, &bolt11).unwrap_err().contains("wallet cannot pay now"));
}

#[test]
fn a_payment_that_fails_is_credit_again_and_one_that_may_not_have_failed_is_not() {
    for code in ["INSUFFICIENT_BALANCE", "QUOTA_EXCEEDED", "RESTRICTED", "RATE_LIMITED"] {
        let (mut world, mut wallet, customer) = indebted(&refunding(|_| ()));
        wallet.paying = Paying::Refuses(code);
        let bolt11 = invoice(&world, 1, 100_000);
        refund(&mut world, &customer, &bolt11).unwrap();
        world.run();
        world.pass_with(&mut wallet, 10);
        assert_eq!(refund(&mut world, &customer, &bolt11).unwrap().state, "failed", "{code}");
        assert_eq!(world.check_books(), books(CREDIT, 0, CREDIT));
        assert!(world.agent.error().is_none_or(|error| error.contains(code)), "{:?}", world.agent.error());
    }
    let (mut world, mut wallet, customer) = indebted(&refunding(|_| ()));
    wallet.paying = Paying::Fails;
    let bolt11 = invoice(&world, 1, 100_000);
    refund(&mut world, &customer, &bolt11).unwrap();
    world.run();
    world.pass_with(&mut wallet, 10);
    assert_eq!(world.check_books(), books(CREDIT, 0, CREDIT));
    // Its answer is that it has failed, while it is on its way.
    wallet.paying = Paying::TakesLong;
    let bolt11 = invoice(&world, 2, 100_000);
    refund(&mut world, &customer, &bolt11).unwrap();
    world.run();
    world.pass_with(&mut wallet, 3 * 3_600);
    assert_eq!(world.check_books().refunds, 110_000);
    wallet.outgoing.values_mut().for_each(|payment| {
        if payment.state == "pending" {
            payment.state = "settled";
        }
    });
    world.pass_with(&mut wallet, 2 * 3_600);
    let left = CREDIT - 100_000;
    assert_eq!((world.check_books(), times(&wallet)), (books(left, 0, left), 1));
}

/// The process dies before or after each effect, and the wallet's answer is lost or not: it is paid once or not at all, and the books say
/// which.
#[test]
fn a_crash_at_each_effect_pays_nothing_twice() {
    let scenario = |crash_at: Option<(usize, bool)>| {
        let (mut world, mut wallet, customer) = indebted(&refunding(|_| ()));
        let bolt11 = invoice(&world, 1, 100_000);
        refund(&mut world, &customer, &bolt11).unwrap();
        let mut effects = 0;
        for step in 0..500 {
            while let Some(effect) = world.agent.poll_effect() {
                effects += 1;
                let dies = crash_at.filter(|(at, _)| *at == effects);
                match (dies, effect) {
                    (None, effect) => world.host.carry_out(world.now, &mut world.agent, effect),
                    (Some((_, is_done)), effect) => {
                        if let (true, Effect::Exchange { requests, .. }) = (is_done, effect) {
                            requests.iter().for_each(|asked| drop(wallet.answer(world.now.seconds(), asked)));
                        }
                        world.crash();
                    }
                }
            }
            world.hand_to_wallet(&mut wallet);
            // The customer asks again and again.
            assert!(refund(&mut world, &customer, &bolt11).is_ok());
            world.now = world.now.plus_millis(if step < 60 { 2_000 } else { 20_000 });
            world.agent.handle_timeout(world.now);
        }
        let (record, times) = (refund(&mut world, &customer, &bolt11).unwrap(), times(&wallet));
        let paid = if times == 1 { 100_000 } else { 0 };
        let state = if times == 1 { "paid" } else { "failed" };
        assert_eq!((record.state, times <= 1), (state, true), "{crash_at:?}");
        assert_eq!(world.check_books(), books(CREDIT - paid, 0, CREDIT - paid), "{crash_at:?}");
        (effects, times)
    };
    let (effects, paid) = scenario(None);
    assert_eq!(paid, 1);
    let mut outcomes = std::collections::BTreeSet::new();
    for at in 1..=effects {
        for is_done in [false, true] {
            outcomes.insert(scenario(Some((at, is_done))).1);
        }
    }
    assert_eq!(outcomes.into_iter().collect::<Vec<_>>(), [0, 1]);
}

/// Each statement of the store may fail.
#[test]
fn a_wallet_is_not_asked_to_pay_before_that_is_stored() {
    let mut failed = 0;
    for n in 1..40 {
        let (mut world, mut wallet, customer) = indebted(&refunding(|_| ()));
        let bolt11 = invoice(&world, 1, 100_000);
        world.sqlite.fail_at(n);
        let begun = world.agent.refund(world.now, &customer.pubkey(), &bolt11);
        failed += u32::from(begun.is_err());
        // What is in the database, whatever is in memory.
        world.run();
        let asked = world.host.exchanges.iter().flat_map(|(_, requests)| requests);
        if asked.clone().any(|asked| wallet.read(asked).0 == "pay_invoice") {
            world.sqlite.fail_with(None);
            world.crash();
            let record = refund(&mut world, &customer, &bolt11).unwrap();
            assert_eq!(record.state, "pending");
            world.pass_with(&mut wallet, 600);
            assert_eq!(times(&wallet), 0, "{n}: it is only looked up");
        }
        world.sqlite.fail_with(None);
        world.pass_with(&mut wallet, 3 * 3_600);
        let paid = u64::from(times(&wallet)) * 100_000;
        assert_eq!(world.check_books(), books(CREDIT - paid, 0, CREDIT - paid), "{n}");
        if begun.is_err() && paid == 0 {
            assert!(world.agent.refunds_of(&customer.pubkey(), 9).unwrap().is_empty(), "{n}");
        }
    }
    assert!(failed > 3, "{failed}");
}

#[test]
fn a_refund_whose_wallet_cannot_be_reached_ends_and_one_of_a_deleted_agent_is_paid() {
    let (mut world, mut wallet, customer) = indebted(&refunding(|_| ()));
    let bolt11 = invoice(&world, 1, 100_000);
    refund(&mut world, &customer, &bolt11).unwrap();
    // It was not asked to pay if it was not known; here it was, and nobody has heard of it.
    world.run();
    world.pass(5 * 3_600);
    assert_eq!(world.check_books().refunds, 110_000);
    world.pass_with(&mut wallet, 2 * 3_600);
    assert_eq!((world.check_books(), times(&wallet)), (books(CREDIT, 0, CREDIT), 0));
    let bolt11 = invoice(&world, 2, CREDIT - 10_000);
    refund(&mut world, &customer, &bolt11).unwrap();
    world.agent.set_state(world.now, AgentState::Deleted).unwrap();
    world.run();
    assert!(!world.agent.is_removable());
    world.crash();
    world.pass_with(&mut wallet, 3_600);
    world.check_books();
}

#[test]
fn an_agent_that_pays_out_says_how_much_in_a_day() {
    let refused = |change: fn(&mut Value)| {
        let mut json = serde_json::to_value(refunding(|_| ())).unwrap();
        change(&mut json);
        Manifest::parse(json.to_string().as_bytes()).map_err(|error| error.to_string())
    };
    assert!(refused(|_| ()).is_ok());
    for (change, why) in [
        (
            (|json| json["limits"] = json!({})) as fn(&mut Value),
            "limits.daily_spend_msat: must be from 1 to 1000000000000",
        ),
        (
            |json| drop(json["payment"].as_object_mut().unwrap().remove("refund")),
            "limits.daily_spend_msat: is of no use without payment.refund invoice or payment.splits",
        ),
        (
            |json| {
                *json = serde_json::to_value(manifest(|_| ())).unwrap();
                json["payment"] = json!({"refund": "invoice"});
            },
            "payment.refund: is of no use with policy free",
        ),
        (
            |json| json["payment"]["refund"] = json!("never"),
            "payment.refund: must be one of: credit, invoice",
        ),
    ] {
        assert_eq!(refused(change).unwrap_err(), why);
    }
}

#[test]
fn a_customer_asks_for_it_by_a_signed_request() {
    let (mut world, mut wallet, customer) = indebted(&refunding(|_| ()));
    let ask = |world: &mut World, route, caller, body: &str| {
        let relay = Relay { name: "Test", url: "wss://relay.example", version: "1" };
        let request = Request { route, id: None, query: "", body: body.as_bytes(), caller, relay };
        let HttpResponse { status, body, .. } = api::agent(&mut world.agent, world.now, &request).answer;
        world.run();
        (status, serde_json::from_slice::<Value>(&body).unwrap_or_default())
    };
    let (signed, body) =
        (Caller::Key(customer.pubkey()), json!({"invoice": invoice(&world, 1, 50_000)}).to_string());
    assert_eq!(ask(&mut world, AgentRoute::Refund, Caller::Anyone, &body).0, 401);
    for (caller, body, field) in [
        (signed, "{}", "body"),
        (signed, r#"{"invoice": "lnbc", "to": 1}"#, "body"),
        (signed, r#"{"invoice": "lnbc"}"#, "invoice"),
        // The owner has no credit.
        (Caller::Key(owner()), body.as_str(), "invoice"),
    ] {
        let (status, answer) = ask(&mut world, AgentRoute::Refund, caller, body);
        assert_eq!((status, answer["field"].as_str()), (400, Some(field)), "{answer}");
    }
    let (status, answer) = ask(&mut world, AgentRoute::Refund, signed, &body);
    assert_eq!(
        (status, answer["state"].as_str(), answer["msat"].as_u64()),
        (202, Some("pending"), Some(50_000))
    );
    world.ask_wallet(&mut wallet);
    let (status, answer) = ask(&mut world, AgentRoute::Refund, signed, &body);
    assert_eq!((status, answer["state"].as_str()), (200, Some("paid")));
    let (_, memory) = ask(&mut world, AgentRoute::Memory, signed, "");
    assert_eq!(
        (memory["credit_msat"].as_u64(), &memory["refunds"]),
        (Some(CREDIT - 50_000), &json!([answer]))
    );
}
