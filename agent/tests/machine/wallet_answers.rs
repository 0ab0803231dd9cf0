//! What the agent asks its wallet, and what it believes of the answers.

use relay_agent::cipher::Cipher;
use relay_agent::identity::Draft;
use relay_agent::job::JobState;
use relay_agent::machine::{AgentState, Effect, ExchangeEvent};
use relay_agent::testing::Customer;
use relay_engine::sql::SqlConn as _;
use relay_engine::types::Event;
use serde_json::{Value, json};

use crate::prepaid::{PRICE, books, order, pay, prepaid, prepaying, required};
use crate::wallet::{WALLET_RELAY, Wallet};
use crate::world::World;

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
        let (new, requests) = world.host.exchanges.last().unwrap().clone();
        assert_eq!(wallet.read(&requests[0]).0, "lookup_invoice");
        // The exchange before is open until this one is answered: nothing that the wallet tells falls between them.
        for open in [open, new] {
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

/// Regression: a restart forgot the first of the two claims.
#[test]
fn a_claim_without_a_preimage_is_remembered_after_a_restart() {
    let (mut world, mut wallet) = prepaying();
    let customer = Customer::new(1);
    let request = order(&mut world, &mut wallet, &customer, "hello");
    let hash = wallet.invoices.keys().next().unwrap().clone();
    for statuses in [&["payment-required"][..], &["payment-required", "processing", "result"]] {
        let (id, asked) = loop {
            let open = world.host.exchanges.iter();
            let asked = open.flat_map(|(id, requests)| requests.iter().map(|asked| (*id, asked.clone())));
            let mut lookups = asked.filter(|(_, asked)| wallet.read(asked).0 == "lookup_invoice");
            if let Some(found) = lookups.next() {
                break found;
            }
            drop(lookups);
            world.pass(1);
        };
        let honest = wallet.transaction(world.now.seconds(), &hash).unwrap();
        let answer =
            wallet.respond(&asked, &json!({"result": with(&honest, &[("state", json!("settled"))])}));
        world.agent.handle_exchange(world.now, id, ExchangeEvent::Event(answer));
        world.run();
        assert_eq!(world.statuses(&request.id), statuses);
        world.crash();
        world.run();
    }
    assert_eq!(world.check_books(), books(PRICE, PRICE, 0));
}

/// Regression: after each start all open invoices were asked for at once.
#[test]
fn after_a_restart_invoices_are_asked_for_when_they_would_have_been() {
    let mut world = World::new(&prepaid(|json| json["limits"] = json!({"queue": 400})));
    let mut wallet = Wallet::new();
    let mut requests = Vec::new();
    for number in 1..=40 {
        let customer = Customer::new(number);
        requests.push((order(&mut world, &mut wallet, &customer, "hello"), customer));
        world.pass_with(&mut wallet, 1);
    }
    world.pass_with(&mut wallet, 200);
    let lookups = |wallet: &Wallet| wallet.asked.iter().filter(|method| *method == "lookup_invoice").count();
    let before = lookups(&wallet);
    world.crash();
    world.run();
    world.pass_with(&mut wallet, 0);
    assert!(lookups(&wallet) - before < 12, "{} of 40", lookups(&wallet) - before);
    // However often it is opened, each is asked for.
    for (request, customer) in &requests {
        pay(&world, &mut wallet, customer, request);
    }
    for _ in 0..10 {
        world.pass_with(&mut wallet, 7);
        world.crash();
        world.run();
    }
    let paid = |(request, _): &&(Event, Customer)| world.statuses(&request.id).len() == 3;
    assert_eq!(requests.iter().filter(paid).count(), 40);
    assert_eq!(world.check_books(), books(40 * PRICE, 40 * PRICE, 0));
}

/// Regression: such an invoice was given up a day after its job, although it could still be paid.
#[test]
fn an_invoice_that_can_be_paid_for_longer_than_its_job_waits_is_not_given_up() {
    let (mut world, mut wallet) = prepaying();
    wallet.expiry_s = Some(3 * 86_400);
    let customer = Customer::new(1);
    let request = order(&mut world, &mut wallet, &customer, "hello");
    let bolt11 = required(&world, &customer, &request.id).bolt11.unwrap();
    world.pass_with(&mut wallet, 700);
    assert_eq!(world.statuses(&request.id), ["payment-required", "error"]);
    world.pass_with(&mut wallet, 2 * 86_400);
    wallet.pay(&bolt11, None);
    world.pass_with(&mut wallet, 3 * 86_400);
    assert_eq!(world.check_books(), books(PRICE, 0, PRICE));
    assert_eq!(world.agent.poll_timeout(), None);
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
        (
            |_, result| result["invoice"] = json!("lnbc1"),
            "the wallet has made an invoice that cannot be read: ",
        ),
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
            |_, result| {
                result["payment_hash"] = Value::Null;
                result["invoice"] = json!(signed(Some(PRICE), 400 * 86_400));
            },
            "for longer than a year",
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
    assert_eq!(
        world.agent.error(),
        Some("the wallet has no method lookup_invoice: allow it for this connection")
    );
}

/// Regression: sixteen requests for invoices left no room for the question whether one is paid, and a wallet that made none for a while was not
/// asked about others either.
#[test]
fn whoever_asks_for_invoices_keeps_nobody_waiting_who_has_paid() {
    let mut world = World::new(&prepaid(|json| json["limits"] = json!({"queue": 4_000})));
    let (mut wallet, customer) = (Wallet::new(), Customer::new(1));
    let request = order(&mut world, &mut wallet, &customer, "hello");
    let late = order(&mut world, &mut wallet, &Customer::new(2), "late");
    pay(&world, &mut wallet, &customer, &request);
    wallet.makes_none = Some("RATE_LIMITED");
    for number in 3..100 {
        world.deliver(&Customer::new(number).sign(&world.request().text("stranger")));
    }
    world.ask_wallet(&mut wallet);
    // Regression: it was woken at once, again and again.
    assert!(world.agent.poll_timeout().is_some_and(|at| at > world.now), "{:?}", world.agent.poll_timeout());
    world.pass_with(&mut wallet, 10);
    assert_eq!(world.statuses(&request.id), ["payment-required", "processing", "result"]);
    pay(&world, &mut wallet, &Customer::new(2), &late);
    world.pass_with(&mut wallet, 30);
    assert_eq!(world.statuses(&late.id), ["payment-required", "processing", "result"]);
    assert_eq!(world.check_books(), books(2 * PRICE, 2 * PRICE, 0));
    let makes = wallet.asked.iter().filter(|method| *method == "make_invoice").count();
    assert!(makes < 100, "{makes}");
}

/// Regression: the one that came last counted. Relays may have old ones.
#[test]
fn the_newest_info_event_of_a_wallet_counts() {
    let (mut world, mut wallet) = prepaying();
    wallet.info_at = 5;
    let customer = Customer::new(1);
    let request = order(&mut world, &mut wallet, &customer, "hello");
    let mut old = Wallet::new();
    (old.cipher, old.info_at) = (Cipher::Nip04, 4);
    let (open, _) = world.host.exchanges[0];
    world.agent.handle_exchange(world.now, open, ExchangeEvent::Event(old.info()));
    world.run();
    // It asserts that it is asked in its cipher.
    pay(&world, &mut wallet, &customer, &request);
    world.pass_with(&mut wallet, 20);
    assert_eq!(world.statuses(&request.id), ["payment-required", "processing", "result"]);
    // Before it is known, an older one that has more does not count either.
    let (mut world, mut wallet) = prepaying();
    (wallet.info_at, wallet.methods) = (5, "pay_invoice");
    world.deliver(&customer.sign(&world.request().text("hello")));
    let (open, _) = world.host.exchanges[0];
    for info in [wallet.info(), old.info()] {
        world.agent.handle_exchange(world.now, open, ExchangeEvent::Event(info));
        world.run();
    }
    world.pass(15);
    assert_eq!(
        world.agent.error(),
        Some("the wallet has no method make_invoice: allow it for this connection")
    );
}

/// Regression: without its wallet an invoice stayed open for ever, and a deleted agent with it.
#[test]
fn an_invoice_that_nobody_can_be_asked_for_ends() {
    let (mut world, mut wallet) = prepaying();
    order(&mut world, &mut wallet, &Customer::new(1), "hello");
    world.agent.set_state(world.now, AgentState::Deleted).unwrap();
    world.run();
    world.sqlite.exec("UPDATE agent_invoice SET wallet = x'00'", &[]).unwrap();
    world.crash();
    world.pass(29 * 86_400);
    assert!(!world.agent.is_removable());
    world.pass(2 * 86_400);
    assert!(world.agent.is_removable());
    assert_eq!(world.agent.poll_timeout(), None);
}
