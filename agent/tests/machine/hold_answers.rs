//! What the agent believes of a wallet that holds payments, and what it does when the wallet loses, refuses or denies what it is asked.

use relay_agent::job::JobState;
use relay_agent::machine::ExchangeEvent;
use relay_agent::testing::Customer;
use serde_json::{Value, json};

use crate::holds::{
    ASKED, BEGUN, DELIVERED, FAILED, asked, begun, held, holding, ordered, state, stored, strings,
};
use crate::prepaid::{PRICE, books, order, paid, pay};
use crate::wallet::{Holding, Wallet};
use crate::world::{World, owner};

/// What a wallet does with a request.
enum Does {
    /// What it should.
    Right,
    /// It does not get it.
    Nothing,
    /// It does what it should, and the answer is lost.
    Silently,
    /// It says this, and does nothing.
    Says(Value),
    /// It does what it should, and says this.
    RightButSays(Value),
}

fn error(code: &str) -> Value {
    json!({"result": null, "error": {"code": code, "message": "x"}})
}

/// Time passes, with a wallet that does what `does` wants when it is asked.
fn pass_with(
    world: &mut World,
    wallet: &mut Wallet,
    seconds: u64,
    mut does: impl FnMut(&Wallet, &str) -> Does,
) {
    let end = world.now.plus_millis(seconds * 1_000);
    loop {
        let mut is_new = false;
        for (id, requests) in world.host.exchanges.clone() {
            for request in &requests {
                if !world.takes_up(&request.id) {
                    continue;
                }
                is_new = true;
                let method = wallet.read(request).0;
                let now = world.now.seconds();
                let answer = match does(wallet, &method) {
                    Does::Right => wallet.answer(now, request),
                    Does::Nothing => continue,
                    Does::Silently => {
                        wallet.answer(now, request);
                        continue;
                    }
                    Does::Says(words) => wallet.respond(request, &words),
                    Does::RightButSays(words) => {
                        wallet.answer(now, request);
                        wallet.respond(request, &words)
                    }
                };
                world.agent.handle_exchange(world.now, id, ExchangeEvent::Event(answer));
                world.run();
            }
        }
        if is_new {
            continue;
        }
        let Some(at) = world.agent.poll_timeout().filter(|at| *at <= end) else { break };
        world.now = world.now.max(at);
        world.agent.handle_timeout(world.now);
        world.run();
    }
    world.now = end;
}

/// What the wallet says about an invoice that nobody has paid, given what is true.
type Lie = fn(&Value) -> Value;

#[test]
fn nothing_is_worked_for_a_payment_that_is_not_held() {
    fn with(of: &Value, changes: Value) -> Value {
        let mut changed = of.clone();
        changes.as_object().unwrap().iter().for_each(|(name, value)| changed[name] = value.clone());
        changed
    }
    let lies: [(&str, Lie); 8] = [
        ("settled, though nobody has been told the preimage", |of| {
            with(of, json!({"state": "settled", "settled_at": 1, "preimage": null}))
        }),
        ("settled, with another preimage", |of| {
            with(of, json!({"state": "settled", "preimage": "07".repeat(32)}))
        }),
        ("another one is held", |of| with(of, json!({"state": "accepted", "payment_hash": "07".repeat(32)}))),
        ("some one is held", |of| with(of, json!({"state": "accepted", "payment_hash": null}))),
        ("less is held", |of| with(of, json!({"state": "accepted", "amount": PRICE - 1}))),
        ("nothing is held", |of| with(of, json!({"state": "accepted", "amount": 0}))),
        ("it is the payer", |of| with(of, json!({"state": "accepted", "type": "outgoing"}))),
        ("given back", |of| with(of, json!({"state": "failed"}))),
    ];
    for (name, lie) in lies {
        let (mut world, mut wallet, _, request) = ordered(|_| ());
        let hash = wallet.invoices.keys().next().unwrap().clone();
        let mut questions = 0;
        let now = world.now.seconds();
        pass_with(&mut world, &mut wallet, 2_000, |wallet, method| match method {
            "lookup_invoice" => {
                questions += 1;
                Does::Says(json!({ "result": lie(&wallet.transaction(now, &hash).unwrap()) }))
            }
            _ => Does::Right,
        });
        assert!(questions > 10, "{name}: {questions}");
        assert_eq!(world.statuses(&request.id), ["payment-required", "error"], "{name}");
        assert!(world.host.calls.is_empty() && asked(&wallet, "settle_hold_invoice") == 0, "{name}");
        assert_eq!(world.check_books(), books(0, 0, 0), "{name}");
    }
}

#[test]
fn an_invoice_that_is_not_what_was_asked_for_is_not_shown() {
    let mut world = World::calling(&holding(|_| ()));
    let (mut wallet, customer) = (Wallet::new(), Customer::new(1));
    wallet.blocks = Some(63);
    let request = order(&mut world, &mut wallet, &customer, "hello");
    assert_eq!((world.statuses(&request.id), wallet.invoices.len()), (strings(&["error"]), 1));
    let why = "the wallet has made an invoice whose payment can be held for 63 blocks, and 64 are needed: it may need a \
               shorter payment.hold_s";
    assert_eq!(world.agent.error(), Some(why));
    wallet.blocks = Some(64);
    let request = order(&mut world, &mut wallet, &customer, "enough");
    assert_eq!(world.statuses(&request.id), ASKED);
    // One for which it knows the preimage itself.
    let before = wallet.transaction(world.now.seconds(), wallet.invoices.keys().next().unwrap()).unwrap();
    world.deliver(&customer.sign(&world.request().text("other")));
    pass_with(&mut world, &mut wallet, 1, |_, _| Does::Says(json!({ "result": before })));
    let log = format!("{:?}", world.agent.logs(0, 100).unwrap());
    assert!(log.contains("another payment hash than it was given"), "{log}");
}

#[test]
fn a_wallet_that_holds_no_payments_makes_no_invoices() {
    let mut world = World::calling(&paid("prepay", |_| ()));
    let (mut wallet, customer) = (Wallet::new(), Customer::new(1));
    wallet.methods = "make_invoice lookup_invoice";
    let before = order(&mut world, &mut wallet, &customer, "before");
    assert_eq!(world.statuses(&before.id), ASKED);
    // What it can do is known by now.
    world.agent.deploy(world.now, &holding(|_| ()), &owner()).unwrap();
    let request = order(&mut world, &mut wallet, &customer, "hello");
    world.pass_with(&mut wallet, 70);
    assert_eq!(world.statuses(&request.id), ["error"]);
    assert_eq!(
        world.agent.error(),
        Some("the wallet has no method make_hold_invoice: allow it for this connection")
    );
    // Who has paid before is not kept waiting.
    pay(&world, &mut wallet, &customer, &before);
    world.pass_with(&mut wallet, 120);
    assert_eq!(world.statuses(&before.id), BEGUN);
    (wallet.methods, wallet.info_at) = (Wallet::new().methods, 2);
    world.pass_with(&mut wallet, 200);
    let next = order(&mut world, &mut wallet, &Customer::new(2), "next");
    assert_eq!((world.statuses(&next.id), world.agent.error()), (strings(&ASKED), None));
}

#[test]
fn a_payment_is_taken_whatever_becomes_of_the_wallets_answers() {
    type Wrong = fn(usize) -> Does;
    let wrongs: [(&str, Wrong); 4] = [
        ("it is busy three times", |n| if n < 3 { Does::Says(error("INTERNAL")) } else { Does::Right }),
        ("it does not get it twice", |n| if n < 2 { Does::Nothing } else { Does::Right }),
        ("its answer is lost", |_| Does::Silently),
        ("it does it and says that it does not", |_| Does::RightButSays(error("OTHER"))),
    ];
    for (name, wrong) in wrongs {
        let (mut world, mut wallet, customer, request, hash) = begun(|_| ());
        world.answer(200, "the answer");
        let mut settles = 0;
        pass_with(&mut world, &mut wallet, 200, |_, method| match method {
            "settle_hold_invoice" => {
                settles += 1;
                wrong(settles - 1)
            }
            _ => Does::Right,
        });
        assert_eq!(
            (world.statuses(&request.id), settles < 5),
            (strings(&DELIVERED), true),
            "{name}: {settles}"
        );
        assert_eq!(world.last(&customer, &request.id).1, "the answer");
        assert_eq!(
            (held(&wallet, &hash), world.check_books()),
            (Holding::Settled, books(PRICE, PRICE, 0)),
            "{name}"
        );
    }
}

#[test]
fn a_payment_is_given_back_whatever_becomes_of_the_wallets_answers() {
    type Wrong = fn(usize) -> Does;
    let wrongs: [(&str, Wrong); 4] = [
        ("it is busy three times", |n| if n < 3 { Does::Says(error("INTERNAL")) } else { Does::Right }),
        ("it does not get it twice", |n| if n < 2 { Does::Nothing } else { Does::Right }),
        ("its answer is lost", |_| Does::Silently),
        ("it does it and says that it does not", |_| Does::RightButSays(error("OTHER"))),
    ];
    for (name, wrong) in wrongs {
        let (mut world, mut wallet, _, request, hash) = begun(|_| ());
        world.answer(404, "");
        let mut cancels = 0;
        pass_with(&mut world, &mut wallet, 200, |_, method| match method {
            "cancel_hold_invoice" => {
                cancels += 1;
                wrong(cancels - 1)
            }
            _ => Does::Right,
        });
        assert_eq!((held(&wallet, &hash), cancels < 5), (Holding::Cancelled, true), "{name}: {cancels}");
        assert_eq!(
            (world.statuses(&request.id), world.check_books()),
            (strings(&FAILED), books(0, 0, 0)),
            "{name}"
        );
        assert_eq!(world.agent.poll_timeout(), None, "{name}");
    }
}

#[test]
fn a_payment_that_is_gone_before_it_is_taken_costs_its_customer_nothing() {
    let (mut world, mut wallet, customer, request, hash) = begun(|_| ());
    wallet.cancel(&hash);
    world.answer(200, "the answer");
    world.pass_with(&mut wallet, 60);
    assert_eq!(world.statuses(&request.id), FAILED);
    let message = "the wallet does not hold the payment any more, and the result is dropped; your payment is given back";
    assert_eq!(world.last(&customer, &request.id).1, message);
    assert_eq!(
        (state(&world, &request.id), world.check_books()),
        ((JobState::Failed, "wallet".to_owned(), 0), books(0, 0, 0))
    );
    assert!(!stored(&world).contains("the answer"));
    world.pass_with(&mut wallet, 2 * 86_400);
    assert_eq!(world.agent.poll_timeout(), None);
}

/// It has said that it has given the payment back, and has taken it.
#[test]
fn what_is_taken_after_all_is_credit() {
    let (mut world, mut wallet, customer, request, hash) = begun(|_| ());
    world.answer(200, "the answer");
    let failed = json!({"result": {"state": "failed", "payment_hash": hash}});
    let mut lookups = 0;
    pass_with(&mut world, &mut wallet, 300, |_, method| match method {
        "settle_hold_invoice" => Does::RightButSays(error("INTERNAL")),
        "lookup_invoice" if lookups == 0 => {
            lookups += 1;
            Does::Says(failed.clone())
        }
        _ => Does::Right,
    });
    assert_eq!((world.statuses(&request.id), held(&wallet, &hash)), (strings(&FAILED), Holding::Settled));
    assert_eq!(world.check_books(), books(PRICE, 0, PRICE));
    // It pays for the next one.
    let next = order(&mut world, &mut wallet, &customer, "next");
    assert_eq!(world.statuses(&next.id), ["processing"]);
}

#[test]
fn a_wallet_that_is_away_for_hours_keeps_nobodys_money() {
    // It comes back in time: the payment is taken, and the result published.
    let (mut world, mut wallet, customer, request, hash) = begun(|_| ());
    world.answer(200, "the answer");
    pass_with(&mut world, &mut wallet, 5_000, |_, _| Does::Nothing);
    world.crash();
    world.run();
    pass_with(&mut world, &mut wallet, 1_000, |_, _| Does::Nothing);
    assert_eq!((world.statuses(&request.id), held(&wallet, &hash)), (strings(&BEGUN), Holding::Held(PRICE)));
    world.pass_with(&mut wallet, 300);
    assert_eq!(world.last(&customer, &request.id).1, "the answer");
    assert_eq!((held(&wallet, &hash), world.check_books()), (Holding::Settled, books(PRICE, PRICE, 0)));

    // It does not: nobody waits for ever, and it is given back.
    let (mut world, mut wallet, customer, request, hash) = begun(|_| ());
    world.answer(200, "the answer");
    pass_with(&mut world, &mut wallet, 7_300, |_, _| Does::Nothing);
    assert_eq!(world.statuses(&request.id), FAILED);
    let message =
        "the payment could not be taken in time, and the result is dropped; your payment is given back";
    assert_eq!(world.last(&customer, &request.id).1, message);
    world.pass_with(&mut wallet, 300);
    assert_eq!((held(&wallet, &hash), world.check_books()), (Holding::Cancelled, books(0, 0, 0)));
}
