//! Jobs that are paid before they begin.

use relay_agent::cipher::Cipher;
use relay_agent::identity::Draft;
use relay_agent::job::JobState;
use relay_agent::machine::{AgentState, CommandError, Effect, ExchangeEvent, Published};
use relay_agent::manifest::Manifest;
use relay_agent::testing::{Customer, JobAnswer, Request, Status, read_answer};
use relay_engine::types::{Event, EventId};
use serde_json::{Value, json};

use crate::wallet::{WALLET_RELAY, Wallet};
use crate::world::{Books, World, manifest, owner};

const PRICE: u64 = 21_000;

fn prepaid(change: impl FnOnce(&mut Value)) -> Manifest {
    manifest(|json| {
        json["handlers"][0]["price"] = json!({"model": "per_job", "msat": PRICE});
        json["payment"] = json!({"policy": "prepay", "wallet_ref": "AGENT_WALLET"});
        change(json);
    })
}

fn prepaying() -> (World, Wallet) {
    (World::new(&prepaid(|_| ())), Wallet::new())
}

/// A request is delivered, and the wallet answers.
fn order(world: &mut World, wallet: &mut Wallet, customer: &Customer, text: &str) -> Event {
    let request = customer.sign(&world.request().text(text));
    world.deliver(&request);
    world.ask_wallet(wallet);
    request
}

/// What a customer is asked for.
fn required(world: &World, customer: &Customer, request: &EventId) -> JobAnswer {
    let (_, event) = world.host.answers_to(request).pop().expect("an answer");
    let answer = read_answer(&event, &customer.keys).unwrap();
    assert_eq!(answer.status, Status::PaymentRequired, "{answer:?}");
    answer
}

fn pay(world: &World, wallet: &mut Wallet, customer: &Customer, request: &Event) -> String {
    let bolt11 = required(world, customer, &request.id).bolt11.expect("an invoice");
    wallet.pay(&bolt11, None)
}

fn books(received: u64, income: u64, credit: u64) -> Books {
    Books { received: received as i64, held: 0, income: income as i64, credit: credit as i64 }
}

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
fn a_notification_begins_the_job_at_once_in_either_cipher() {
    for cipher in [Cipher::Nip44, Cipher::Nip04] {
        let (mut world, mut wallet) = prepaying();
        wallet.cipher = cipher;
        let customer = Customer::new(1);
        let request = order(&mut world, &mut wallet, &customer, "hello");
        let (open, _) = world.host.exchanges[0].clone();
        let hash = pay(&world, &mut wallet, &customer, &request);
        let transaction = wallet.transaction(world.now.seconds(), &hash).unwrap();
        // Of somebody else's payment, one without a preimage, and one that is no wallet's.
        let others = json!({"payment_hash": "07".repeat(32), "state": "settled"});
        let mut unproven = transaction.clone();
        unproven["preimage"] = Value::Null;
        let forged = Customer::new(9).keys.sign(&Draft::of(&wallet.notification(&transaction)));
        for event in [wallet.notification(&others), forged] {
            world.agent.handle_exchange(world.now, open, ExchangeEvent::Event(event));
            world.run();
            assert_eq!(world.statuses(&request.id), ["payment-required"], "{cipher:?}");
        }
        let event = wallet.notification(&unproven);
        world.agent.handle_exchange(world.now, open, ExchangeEvent::Event(event));
        world.run();
        assert_eq!(world.statuses(&request.id), ["payment-required"], "the wallet is asked first");
        let (open, requests) = world.host.exchanges[0].clone();
        assert_eq!(wallet.read(&requests[0]).0, "lookup_invoice");
        for _ in 0..2 {
            let event = wallet.notification(&transaction);
            world.agent.handle_exchange(world.now, open, ExchangeEvent::Event(event));
            world.run();
            assert_eq!(
                world.statuses(&request.id),
                ["payment-required", "processing", "result"],
                "{cipher:?}"
            );
        }
        world.pass_with(&mut wallet, 200);
        assert_eq!(world.check_books(), books(PRICE, PRICE, 0));
    }
}

/// What a host is asked to do for it: where, and for which events.
#[test]
fn the_wallet_is_asked_by_its_author_and_the_ids_of_requests() {
    let (mut world, wallet) = prepaying();
    let request = Customer::new(1).sign(&world.request().text("hello"));
    world.host.store(request.clone());
    world.agent.deliver(world.now, &[request]).unwrap();
    let effects: Vec<_> = std::iter::from_fn(|| world.agent.poll_effect()).collect();
    let [Effect::Exchange { id, relays, answers, requests }] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!((relays[0].as_str(), requests.len(), answers.filters().len()), (WALLET_RELAY, 0, 1));
    assert!(answers.filters()[0].matches(&wallet.info()));
    world.agent.handle_exchange(world.now, *id, ExchangeEvent::Event(wallet.info()));
    world.run();
    assert_eq!(world.host.exchanges.len(), 1);
    let requests = &world.host.exchanges[0].1;
    let draft = Draft::of(&requests[0]);
    assert_eq!((requests.len(), draft.kind), (1, 23_194));
    assert!(draft.tags.iter().any(|tag| tag[0] == "encryption" && tag[1] == "nip44_v2"), "{draft:?}");
    assert!(draft.tags.iter().any(|tag| tag[0] == "expiration"), "{draft:?}");
}

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
    assert_eq!(world.check_books(), Books { held: PRICE as i64, ..books(PRICE, 0, 0) });
    world.answer(404, "");
    assert_eq!(world.statuses(&request.id), ["payment-required", "processing", "error"]);
    let message = world.last(&customer, &request.id).1;
    assert_eq!(message, format!("the work has failed; {PRICE} msat are credit for your next job"));
    assert_eq!(world.check_books(), books(PRICE, 0, PRICE));
    assert_eq!(world.agent.job(&request.id).unwrap().unwrap().cost_msat, 0);
    // Cancelled while it runs.
    let again = order(&mut world, &mut wallet, &customer, "again");
    assert_eq!(world.check_books(), Books { held: PRICE as i64, ..books(PRICE, 0, 0) });
    world.deliver(&customer.cancel(&[again.id], world.now.seconds()));
    assert_eq!(world.check_books(), books(PRICE, 0, PRICE));
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
    assert_eq!(world.check_books(), Books { held: 5_500, ..books(5_500, 0, 0) });
    world.crash();
    world.run();
    wallet.pay(&second.bolt11.unwrap(), Some(30_000));
    world.pass_with(&mut wallet, 5);
    assert_eq!(world.last(&customer, &request.id), ("result".to_owned(), "hello".to_owned()));
    assert_eq!(world.check_books(), books(35_500, PRICE, 14_500));
    // Credit that does not suffice is taken first, and given back if the rest does not come.
    let next = order(&mut world, &mut wallet, &customer, "next");
    assert_eq!(required(&world, &customer, &next.id).amount_msat, Some(7_000));
    assert_eq!(world.check_books(), Books { held: 14_500, ..books(35_500, PRICE, 0) });
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

/// What a wallet says of an invoice the nth time, given what is true.
type Lie = fn(&Value, usize) -> Value;

#[test]
fn a_wallet_that_lies_is_not_worked_for() {
    // What the wallet says to each question about an invoice that nobody has paid.
    let lies: [(&str, Lie); 6] = [
        ("another preimage", |of, _| {
            with(of, &[("state", json!("settled")), ("preimage", json!("07".repeat(32)))])
        }),
        ("no preimage, and then not paid", |of, n| match n % 2 {
            0 => with(of, &[("state", json!("settled")), ("settled_at", json!(1))]),
            _ => of.clone(),
        }),
        ("another invoice", |of, _| {
            let other = "07".repeat(32);
            with(
                of,
                &[("state", json!("settled")), ("payment_hash", json!(other)), ("preimage", json!(other))],
            )
        }),
        ("nothing came", |of, _| with(of, &[("state", json!("settled")), ("amount", json!(0))])),
        ("accepted", |of, _| with(of, &[("state", json!("accepted")), ("settled_at", json!(1))])),
        ("outgoing", |of, _| with(of, &[("type", json!("outgoing")), ("state", json!("settled"))])),
    ];
    for (name, lie) in lies {
        let mut world = World::new(&prepaid(|_| ()));
        let (mut wallet, customer) = (Wallet::new(), Customer::new(1));
        let request = order(&mut world, &mut wallet, &customer, "hello");
        let hash = wallet.invoices.keys().next().unwrap().clone();
        let (mut questions, mut known) = (0, std::collections::HashSet::new());
        for _ in 0..2_000 {
            for (id, requests) in world.host.exchanges.clone() {
                for asked in &requests {
                    if wallet.read(asked).0 == "lookup_invoice" && known.insert(asked.id) {
                        let honest = wallet.transaction(world.now.seconds(), &hash).unwrap();
                        let result = lie(&honest, questions);
                        let words = json!({"result_type": "lookup_invoice", "result": result, "error": null});
                        let answer = wallet.respond(asked, &words);
                        world.agent.handle_exchange(world.now, id, ExchangeEvent::Event(answer));
                        questions += 1;
                    }
                }
            }
            world.run();
            world.pass(1);
        }
        assert!(questions > 10, "{name}: {questions}");
        assert_eq!(world.statuses(&request.id), ["payment-required", "error"], "{name}");
        assert_eq!(world.check_books(), books(0, 0, 0), "{name}");
    }
}

fn with(transaction: &Value, changes: &[(&str, Value)]) -> Value {
    let mut transaction = transaction.clone();
    for (name, value) in changes {
        transaction[*name] = value.clone();
    }
    transaction
}

#[test]
fn a_wallet_without_preimages_is_believed_the_second_time() {
    let (mut world, mut wallet) = prepaying();
    let customer = Customer::new(1);
    let request = order(&mut world, &mut wallet, &customer, "hello");
    let hash = wallet.invoices.keys().next().unwrap().clone();
    let (mut answered_at, mut known) = (Vec::new(), std::collections::HashSet::new());
    while world.statuses(&request.id).len() == 1 {
        for (id, requests) in world.host.exchanges.clone() {
            for asked in &requests {
                if wallet.read(asked).0 != "lookup_invoice" || !known.insert(asked.id) {
                    continue;
                }
                let honest = wallet.transaction(world.now.seconds(), &hash).unwrap();
                let result = with(&honest, &[("state", json!("settled"))]);
                let answer = wallet.respond(asked, &json!({"result": result}));
                world.agent.handle_exchange(world.now, id, ExchangeEvent::Event(answer));
                answered_at.push(world.now.millis());
            }
        }
        world.run();
        assert!(answered_at.len() < 4);
        if world.statuses(&request.id).len() == 1 {
            world.pass(1);
        }
    }
    assert_eq!(answered_at.len(), 2);
    assert!(answered_at[1] >= answered_at[0] + 2_000);
    assert_eq!(world.check_books(), books(PRICE, PRICE, 0));
}

#[test]
fn an_invoice_that_is_wrong_is_shown_to_nobody() {
    let of = |change: fn(&mut Wallet, &mut Value)| {
        let (mut world, mut wallet) = prepaying();
        let customer = Customer::new(1);
        let before = order(&mut world, &mut wallet, &Customer::new(2), "before");
        let request = customer.sign(&world.request().text("hello"));
        world.deliver(&request);
        let asked = world.host.exchanges.last().unwrap().clone();
        let (_, params) = wallet.read(&asked.1[0]);
        assert_eq!(params["amount"], PRICE);
        wallet.answer(world.now.seconds(), &asked.1[0]);
        let hash = wallet.invoices.keys().find(|hash| {
            let invoice = &wallet.invoices[*hash];
            invoice.description.contains(&request.id.to_string()[..16])
        });
        let mut result = wallet.transaction(world.now.seconds(), &hash.unwrap().clone()).unwrap();
        change(&mut wallet, &mut result);
        let words = match result.get("code") {
            Some(_) => json!({"result": null, "error": result}),
            None => json!({"result": result}),
        };
        let answer = wallet.respond(&asked.1[0], &words);
        world.agent.handle_exchange(world.now, asked.0, ExchangeEvent::Event(answer));
        world.run();
        assert_eq!(world.statuses(&before.id), ["payment-required"]);
        assert_eq!(world.statuses(&request.id), ["error"], "{result}");
        let (_, message) = world.last(&customer, &request.id);
        assert_eq!(message, "this agent's wallet makes no invoice; try again later");
        let job = world.agent.job(&request.id).unwrap().unwrap();
        assert_eq!((job.state, job.cause.as_str()), (JobState::Failed, "wallet"));
        world.agent.error().expect("its owner is told").to_owned()
    };
    for (change, why) in [
        ((|_, result| result["invoice"] = Value::Null) as fn(&mut Wallet, &mut Value), "no invoice"),
        (|_, result| result["invoice"] = json!("lnbc1"), "the wallet: "),
        (|_, result| result["payment_hash"] = json!("07".repeat(32)), "another payment hash"),
        (
            |_, result| {
                result["payment_hash"] = Value::Null;
                result["invoice"] = json!(signed(Some(PRICE - 1_000), 600));
            },
            "for another amount",
        ),
        (
            |_, result| {
                result["payment_hash"] = Value::Null;
                result["invoice"] = json!(signed(None, 600));
            },
            "for another amount",
        ),
        (
            |_, result| {
                result["payment_hash"] = Value::Null;
                result["invoice"] = json!(signed(Some(PRICE), 5));
            },
            "has expired",
        ),
        (
            |wallet, result| {
                let before = wallet.invoices.values().find(|one| one.bolt11 != result["invoice"]).unwrap();
                result["invoice"] = json!(before.bolt11);
                result["payment_hash"] = Value::Null;
            },
            "the same invoice before",
        ),
        (|_, result| *result = json!({"code": "RESTRICTED", "message": "no"}), "RESTRICTED no"),
    ] {
        let error = of(change);
        assert!(error.contains(why), "{error}, {why}");
    }
}

fn signed(msat: Option<u64>, expiry_s: u64) -> String {
    let created_at = crate::world::START - 60;
    crate::invoices::Draft { msat, description: "x", preimage: [7; 32], created_at, expiry_s }.sign()
}

#[test]
fn a_wallet_that_does_not_answer_is_asked_again_and_the_customer_is_told() {
    let (mut world, mut wallet) = prepaying();
    let customer = Customer::new(1);
    let request = customer.sign(&world.request().text("hello"));
    world.deliver(&request);
    // Nobody answers for a while.
    world.pass(40);
    assert_eq!(world.statuses(&request.id), Vec::<String>::new());
    assert!(world.agent.error().unwrap().contains("info event"), "{:?}", world.agent.error());
    world.pass(30);
    assert_eq!(world.statuses(&request.id), ["error"]);
    let (_, message) = world.last(&customer, &request.id);
    assert_eq!(message, "this agent's wallet cannot be reached; try again later");
    // Then it does.
    world.crash();
    let second = customer.sign(&world.request().text("second"));
    world.deliver(&second);
    world.pass_with(&mut wallet, 50);
    assert_eq!(world.statuses(&second.id), ["payment-required"]);
    assert_eq!(world.agent.error(), None);
    // It is away while the customer pays: what it cannot be asked for is not lost.
    pay(&world, &mut wallet, &customer, &second);
    let exchanges = world.host.exchanges.clone();
    for (id, _) in exchanges {
        world.agent.handle_exchange(world.now, id, ExchangeEvent::Failed("reset".to_owned()));
    }
    world.pass(200);
    assert_eq!(world.statuses(&second.id), ["payment-required"]);
    world.pass_with(&mut wallet, 130);
    assert_eq!(world.last(&customer, &second.id).1, "second");
    assert_eq!(world.check_books(), books(PRICE, PRICE, 0));
}

#[test]
fn a_wallet_that_cannot_look_up_invoices_makes_none() {
    let (mut world, mut wallet) = prepaying();
    wallet.methods = "pay_invoice make_invoice";
    let request = order(&mut world, &mut wallet, &Customer::new(1), "hello");
    world.pass_with(&mut wallet, 70);
    assert_eq!(world.statuses(&request.id), ["error"]);
    assert!(wallet.invoices.is_empty());
    assert_eq!(world.agent.error(), Some("the wallet has no method lookup_invoice"));
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
    assert_eq!(world.last(&customer, &second.id).1, "this agent does 1 jobs of a customer a day");
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
