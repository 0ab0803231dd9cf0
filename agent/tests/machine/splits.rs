//! Shares of what is earned, for others.

use relay_agent::executor::{HttpError, HttpEvent};
use relay_agent::lnurl::{LightningAddress, PayTerms};
use relay_agent::machine::{AgentState, Published, Reason, ShareRecord};
use relay_agent::manifest::Manifest;
use relay_agent::testing::Customer;
use serde_json::{Value, json};

use crate::prepaid::{books, order, pay, prepaid};
use crate::recipients::{ALICE, BOB, Friends, TERMS_URL};
use crate::refunds::times;
use crate::wallet::{Paying, Wallet};
use crate::world::{Books, World, owner};

/// Of a job, and 30 percent of it, and 12.
const PRICE: u64 = 210_000;
const ALICES: i64 = 63_000;
const BOBS: i64 = 25_200;
/// What is paid of twice what is Alice's: 10,000 are reserved for fees.
const PAID: i64 = 116_000;

fn sharing(change: impl FnOnce(&mut Value)) -> Manifest {
    prepaid(|json| {
        json["payment"]["splits"] =
            json!([{"address": ALICE, "percent": 30}, {"address": BOB, "percent": 12}]);
        json["handlers"][0]["price"]["msat"] = json!(PRICE);
        json["payment"]["splits_min_msat"] = json!(100_000);
        json["limits"] = json!({"daily_spend_msat": 5_000_000});
        change(json);
    })
}

fn earn(world: &mut World, wallet: &mut Wallet, jobs: usize) {
    for number in 0..jobs {
        let customer = Customer::new(1);
        let request = order(world, wallet, &customer, &format!("{} {number}", world.now.seconds()));
        pay(world, wallet, &customer, &request);
        world.pass_with(wallet, 4);
        assert_eq!(world.last(&customer, &request.id).0, "result");
    }
}

fn due(world: &World) -> Vec<(String, i64)> {
    let shares = world.agent.shares().unwrap().into_iter();
    let mut due: Vec<_> = shares.map(|ShareRecord { address, due_msat, .. }| (address, due_msat)).collect();
    due.sort_unstable();
    due
}

#[test]
fn shares_are_paid_out_when_enough_is_due() {
    let (mut world, mut wallet, mut friends) =
        (World::new(&sharing(|_| ())), Wallet::new(), Friends::default());
    earn(&mut world, &mut wallet, 1);
    assert_eq!(due(&world), [(ALICE.to_owned(), ALICES), (BOB.to_owned(), BOBS)]);
    assert!(world.host.calls.is_empty(), "less than 100,000 are due");
    let shares = ALICES + BOBS;
    let earned = PRICE as i64 - shares;
    assert_eq!(world.check_books(), Books { income: earned, shares, ..books(PRICE, 0, 0) });
    earn(&mut world, &mut wallet, 1);
    let (_, request) = world.host.calls.first().expect("a call");
    assert_eq!((request.method, request.url.clone()), ("GET", format!("{TERMS_URL}alice")));
    wallet.paying = Paying::Pays(700);
    friends.run(&mut world, &mut wallet);
    // What the fees leave is due again.
    assert_eq!(due(&world), [(ALICE.to_owned(), 2 * ALICES - PAID - 700), (BOB.to_owned(), 2 * BOBS)]);
    let shares = 2 * shares - PAID - 700;
    let received = 2 * PRICE as i64 - PAID - 700;
    assert_eq!(world.check_books(), Books { received, income: 2 * earned, shares, ..books(0, 0, 0) });
    assert_eq!((times(&wallet), world.agent.metrics().payments["shared"]), (1, 1));
    let reasons: Vec<_> = world.agent.transfers(0, 100).unwrap().iter().map(|one| one.reason).collect();
    assert_eq!(reasons.iter().filter(|reason| **reason == Reason::Share).count(), 4);
    // The rest is paid when enough is due again.
    earn(&mut world, &mut wallet, 2);
    friends.run(&mut world, &mut wallet);
    assert_eq!(times(&wallet), 3, "{:?}", due(&world));
    world.pass_with(&mut wallet, 2 * 86_400);
    assert_eq!((world.agent.is_idle(), world.agent.poll_timeout(), times(&wallet)), (true, None, 3));
    // It is not the customers' business.
    let text = sharing(|_| ()).public_json(&world.pubkey()).to_string();
    assert!(!text.contains("friends.example"), "{text}");
}

/// What a service may say wrong: nothing is paid, the owner sees why, and it is asked again.
#[test]
fn nothing_is_paid_to_a_service_that_says_something_wrong() {
    let terms = |change: &dyn Fn(&mut Value)| {
        let mut terms = Friends::terms("alice");
        change(&mut terms);
        terms.to_string()
    };
    for (status, body, words) in [
        (500, String::new(), "status 500"),
        (200, "<html>".to_owned(), "not a JSON object"),
        (200, json!({"status": "ERROR", "reason": "gone\nfishing"}).to_string(), "it says: gonefishing"),
        (200, terms(&|json| json["tag"] = json!("withdrawRequest")), "not a payRequest"),
        (200, terms(&|json| json["callback"] = json!("alice")), "callback is not a URL"),
        (200, terms(&|json| json["callback"] = json!("http://friends.example/pay")), "must be an https URL"),
        (200, terms(&|json| json["minSendable"] = json!(0)), "does not tell how much"),
        (200, terms(&|json| json["maxSendable"] = json!(900)), "does not tell how much"),
        (200, terms(&|json| json["minSendable"] = json!(117_000)), "no less than 117000 msat"),
        (200, terms(&|json| json["maxSendable"] = json!(80_000)), "no more than 80000 msat at a time"),
        (200, "x".repeat(300 << 10), "too large"),
    ] {
        check_wrong(words, |world, _| world.answer(status, &body));
    }
    check_wrong("cannot be reached", |world, _| {
        let (id, _) = world.host.calls.remove(0);
        let failed = HttpEvent::Failed(HttpError::Connection("reset".to_owned()));
        world.agent.handle_http(world.now, id, failed);
    });
    check_wrong("takes too long", |world, _| world.pass(16));
    // A service may take no more than this at once.
    let (mut world, mut wallet) = (World::new(&sharing(|_| ())), Wallet::new());
    earn(&mut world, &mut wallet, 2);
    world.answer(200, &terms(&|json| json["maxSendable"] = json!(95_500)));
    assert!(world.host.calls[0].1.url.ends_with("?to=alice&amount=95000"), "{}", world.host.calls[0].1.url);
}

/// What a service answers.
type Answer<'a> = &'a dyn Fn(&mut World, &mut Friends) -> String;

#[test]
fn an_invoice_that_is_wrong_is_not_paid() {
    let pr = |bolt11: String| json!({"pr": bolt11, "routes": []}).to_string();
    let cases: [(&str, Answer<'_>); 6] = [
        ("has no invoice", &|_, _| json!({"routes": []}).to_string()),
        ("its invoice", &|_, _| json!({"pr": "lnbc1"}).to_string()),
        ("another amount", &|world, friends| pr(friends.invoice(world.now.seconds(), 117_000, 600))),
        ("expires in less", &|world, friends| pr(friends.invoice(world.now.seconds(), 116_000, 60))),
        ("more than a week", &|world, friends| pr(friends.invoice(world.now.seconds(), 116_000, 700_000))),
        ("it says: closed", &|_, _| json!({"status": "error", "reason": "closed"}).to_string()),
    ];
    for (words, change) in cases {
        check_wrong(words, |world, friends| {
            world.answer(200, &Friends::terms("alice").to_string());
            let body = change(world, friends);
            world.answer(200, &body);
        });
    }
    // One that was paid before.
    let alone = sharing(|json| json["payment"]["splits"] = json!([{"address": ALICE, "percent": 30}]));
    let (mut world, mut wallet, mut friends) = (World::new(&alone), Wallet::new(), Friends::default());
    earn(&mut world, &mut wallet, 2);
    let bolt11 = friends.invoice(world.now.seconds(), 116_000, 86_400);
    for _ in 0..2 {
        let mut terms = Friends::terms("alice");
        terms["maxSendable"] = json!(116_000);
        world.answer(200, &terms.to_string());
        world.answer(200, &pr(bolt11.clone()));
        world.ask_wallet(&mut wallet);
        world.host.calls.clear();
        earn(&mut world, &mut wallet, 2);
    }
    assert_eq!(times(&wallet), 1);
    let shares = world.agent.shares().unwrap();
    assert!(shares[0].error.as_ref().unwrap().contains("was paid before"), "{shares:?}");
}

/// 126,000 msat are due, and what comes of a call is wrong; after a while it is right.
fn check_wrong(words: &str, wrong: impl FnOnce(&mut World, &mut Friends)) {
    let (mut world, mut wallet, mut friends) =
        (World::new(&sharing(|_| ())), Wallet::new(), Friends::default());
    earn(&mut world, &mut wallet, 2);
    assert_eq!(world.host.calls.len(), 1, "{words}");
    wrong(&mut world, &mut friends);
    world.ask_wallet(&mut wallet);
    world.host.calls.clear();
    let shares = world.agent.shares().unwrap();
    let error = shares[0].error.clone().unwrap_or_default();
    assert!(error.contains(words) && error.contains(ALICE), "{words}: {error}");
    assert_eq!((times(&wallet), shares[0].due_msat), (0, 2 * ALICES), "{words}");
    let log = world.agent.logs(0, 1_000).unwrap();
    assert!(log.iter().any(|line| line.message == error), "{words}: {log:?}");
    world.pass_with(&mut wallet, 30);
    assert!(world.host.calls.is_empty(), "{words}: it is not asked at once");
    world.crash();
    world.run();
    assert!(world.host.calls.is_empty(), "{words}: nor after a restart");
    for _ in 0..60 {
        world.pass_with(&mut wallet, 1);
        friends.run(&mut world, &mut wallet);
    }
    assert_eq!((times(&wallet), world.agent.shares().unwrap()[0].error.clone()), (1, None), "{words}");
}

/// A payment fails: it is due again, and paid by another invoice, once.
#[test]
fn a_share_whose_payment_fails_is_due_again() {
    for paying in [Paying::Fails, Paying::Refuses("INSUFFICIENT_BALANCE"), Paying::TakesLong] {
        let (mut world, mut wallet, mut friends) =
            (World::new(&sharing(|_| ())), Wallet::new(), Friends::default());
        earn(&mut world, &mut wallet, 2);
        wallet.paying = paying;
        friends.run(&mut world, &mut wallet);
        wallet.paying = Paying::Pays(0);
        for _ in 0..90 {
            world.pass_with(&mut wallet, 60);
            wallet.outgoing.values_mut().for_each(|payment| payment.state = "settled");
            friends.run(&mut world, &mut wallet);
        }
        assert_eq!(times(&wallet), 1, "{paying:?}");
        assert_eq!(due(&world)[0].1, 2 * ALICES - PAID, "{paying:?}");
        assert_eq!((world.agent.is_idle(), world.agent.poll_timeout()), (true, None), "{paying:?}");
        world.check_books();
    }
}

/// The process dies after each step: one payment.
#[test]
fn a_crash_pays_no_share_twice() {
    for crash_at in 0..8 {
        let (mut world, mut wallet, mut friends) =
            (World::new(&sharing(|_| ())), Wallet::new(), Friends::default());
        earn(&mut world, &mut wallet, 2);
        for step in 0..12 {
            if step == crash_at {
                world.crash();
                world.run();
            }
            if let Some((_, request)) = world.host.calls.first() {
                let answer = friends.answer(world.now.seconds(), &request.url).unwrap();
                world.answer(200, &answer);
            } else if !world.hand_to_wallet(&mut wallet) {
                world.pass(10);
            }
            world.run();
        }
        // A payment of which nobody knows whether it was asked for is not asked for again before its invoice has expired.
        for _ in 0..100 {
            world.pass_with(&mut wallet, 60);
            friends.run(&mut world, &mut wallet);
        }
        assert_eq!((times(&wallet), due(&world)[0].1), (1, 2 * ALICES - PAID), "{crash_at}");
    }
}

/// What is paid out in a day is bounded, shares and refunds together.
#[test]
fn shares_wait_for_the_next_day() {
    let manifest = sharing(|json| json["limits"] = json!({"daily_spend_msat": 200_000}));
    let (mut world, mut wallet, mut friends) = (World::new(&manifest), Wallet::new(), Friends::default());
    earn(&mut world, &mut wallet, 8);
    for day in 1..=3 {
        friends.run(&mut world, &mut wallet);
        let paid = 8 * ALICES - due(&world)[0].1 + 8 * BOBS - due(&world)[1].1;
        assert!((180_000..=200_000 * day).contains(&paid), "day {day}: {paid}");
        assert_eq!(i64::from(times(&wallet)), day, "day {day}");
        let next = 86_400 - world.now.seconds() % 86_400;
        world.pass_with(&mut wallet, next);
    }
}

/// The customer does not get a result that was earned: shares are taken back, also those that are paid.
#[test]
fn a_share_of_a_result_that_nobody_has_is_taken_back() {
    let (mut world, mut wallet, mut friends) =
        (World::new(&sharing(|_| ())), Wallet::new(), Friends::default());
    earn(&mut world, &mut wallet, 1);
    for (number, is_paid) in [(1, false), (2, true)] {
        let customer = Customer::new(number);
        let request = order(&mut world, &mut wallet, &customer, &format!("hello {is_paid}"));
        pay(&world, &mut wallet, &customer, &request);
        let busy = || Published::Failed("busy".to_owned());
        world.host.outcomes = std::iter::once(Published::Accepted).chain((0..9).map(|_| busy())).collect();
        world.pass_with(&mut wallet, 3);
        assert_eq!(due(&world)[0].1, 2 * ALICES, "{:?}", world.statuses(&request.id));
        if is_paid {
            friends.run(&mut world, &mut wallet);
            assert_eq!((times(&wallet), due(&world)[0].1), (1, 2 * ALICES - PAID));
        } else {
            world.answer(500, "");
        }
        world.host.outcomes = [Published::Refused("blocked: no".to_owned())].into_iter().collect();
        world.pass(5);
        let left = if is_paid { ALICES - PAID } else { ALICES };
        assert_eq!(due(&world), [(ALICE.to_owned(), left), (BOB.to_owned(), BOBS)]);
        assert_eq!(world.agent.credit_of(&customer.pubkey()).unwrap(), PRICE);
        world.check_books();
        world.host.outcomes.clear();
        world.pass_with(&mut wallet, 70);
        assert!(world.host.calls.is_empty(), "less than 100,000 msat are due");
    }
    // What was paid too much is made up by the next shares.
    let customer = Customer::new(1);
    let next = order(&mut world, &mut wallet, &customer, "the last one");
    assert_eq!(world.last(&customer, &next.id).0, "result");
    assert!(world.host.calls.is_empty());
    assert_eq!(due(&world)[0].1, 2 * ALICES - PAID);
    world.check_books();
}

/// Who has no share any more is paid what is due.
#[test]
fn a_change_of_the_shares_keeps_what_is_due() {
    let (mut world, mut wallet, mut friends) =
        (World::new(&sharing(|_| ())), Wallet::new(), Friends::default());
    earn(&mut world, &mut wallet, 2);
    let without = sharing(|json| {
        json["payment"]["splits"] = json!([{"address": BOB, "percent": 50}]);
    });
    world.agent.deploy(world.now, &without, &owner()).unwrap();
    world.run();
    let shares = world.agent.shares().unwrap();
    assert_eq!((shares[0].percent, shares[0].due_msat), (0, 2 * ALICES));
    assert_eq!((shares[1].percent, shares[1].due_msat), (50, 2 * BOBS));
    // It moves with an export.
    let export = world.agent.export().unwrap();
    let mut other = World::new(&without);
    other.agent.import(other.now, &export).unwrap();
    other.run();
    assert_eq!(due(&other), due(&world));
    other.check_books();
    for (change, words) in [
        (json!([{"address": "alice", "msat": 1}]), "shares[0].address"),
        (json!([{"address": ALICE, "msat": i64::MAX}]), "shares[0].msat: is more than there is"),
        (
            json!([{"address": ALICE, "msat": 1}, {"address": ALICE, "msat": 1}]),
            "shares[1].address: is there twice",
        ),
    ] {
        let mut wrong = export.clone();
        wrong["shares"] = change;
        let mut other = World::new(&without);
        let error = format!("{:?}", other.agent.import(other.now, &wrong).unwrap_err());
        assert!(error.contains(words.split(": ").next().unwrap()), "{error}");
        assert_eq!(due(&other), [(BOB.to_owned(), 0)]);
    }
    // An agent is not forgotten as long as something is due, and goes on paying when it is deployed again.
    world.agent.set_state(world.now, AgentState::Deleted).unwrap();
    world.run();
    assert!(!world.agent.is_removable());
    let lower = sharing(|json| {
        json["payment"]["splits"] = json!([{"address": ALICE, "percent": 100}]);
    });
    world.agent.deploy(world.now, &lower, &owner()).unwrap();
    world.run();
    earn(&mut world, &mut wallet, 1);
    friends.run(&mut world, &mut wallet);
    assert_eq!(times(&wallet), 1);
    world.check_books();
}

/// A service on this machine leads nowhere else.
#[test]
fn a_callback_stays_where_the_address_is() {
    for (address, callback, is_right) in [
        ("a@pay.example", "https://other.example/cb", true),
        ("a@pay.example", "https://pay.example/cb?x=1", true),
        ("a@pay.example", "http://pay.example/cb", false),
        ("a@pay.example", "lightning:abc", false),
        ("a@127.0.0.1:8080", "http://127.0.0.1:8080/cb", true),
        ("a@127.0.0.1:8080", "http://127.0.0.1:9090/cb", false),
        ("a@127.0.0.1:8080", "http://10.0.0.1:8080/cb", false),
        ("a@127.0.0.1:8080", "https://127.0.0.1:8080/cb", false),
    ] {
        let mut terms = Friends::terms("a");
        terms["callback"] = json!(callback);
        let address = LightningAddress::parse(address).unwrap();
        let read = PayTerms::read(terms.to_string().as_bytes(), &address);
        assert_eq!(read.is_ok(), is_right, "{callback}: {read:?}");
        if let Ok(terms) = read {
            let joined = if callback.contains('?') { "&" } else { "?" };
            assert_eq!(terms.invoice_url(5_000), format!("{callback}{joined}amount=5000"));
        }
    }
}

/// Regression: a result was refused, and the database could be read once and not a second time: the money was kept, and the shares too. Whichever
/// statement fails, all is given back.
#[test]
fn a_refused_result_costs_nothing_whichever_statement_fails() {
    let mut hit = 0;
    for n in 1..60 {
        let (mut world, mut wallet) = (World::new(&sharing(|_| ())), Wallet::new());
        let customer = Customer::new(1);
        earn(&mut world, &mut wallet, 1);
        let request = order(&mut world, &mut wallet, &customer, "hello");
        pay(&world, &mut wallet, &customer, &request);
        let busy = || Published::Failed("busy".to_owned());
        world.host.outcomes = std::iter::once(Published::Accepted).chain((0..9).map(|_| busy())).collect();
        world.pass_with(&mut wallet, 3);
        world.host.calls.clear();
        world.host.outcomes = (0..20).map(|_| Published::Refused("blocked: no".to_owned())).collect();
        world.sqlite.fail_at(n);
        world.pass(20);
        hit += u32::from(!world.sqlite.is_armed());
        world.sqlite.fail_with(None);
        world.pass_with(&mut wallet, 60);
        assert_eq!(world.agent.job(&request.id).unwrap().unwrap().cost_msat, 0, "{n}");
        assert_eq!(world.agent.credit_of(&customer.pubkey()).unwrap(), PRICE, "{n}");
        assert_eq!(due(&world), [(ALICE.to_owned(), ALICES), (BOB.to_owned(), BOBS)], "{n}");
        world.check_books();
    }
    assert!(hit > 10, "{hit}");
}

/// What the owner's limits allow is paid, also to who has no share any more, and while customers' refunds have the other half.
#[test]
fn what_is_due_is_paid_when_nobody_has_a_share_any_more() {
    for refund in ["credit", "invoice"] {
        let (mut world, mut wallet, mut friends) =
            (World::new(&sharing(|_| ())), Wallet::new(), Friends::default());
        earn(&mut world, &mut wallet, 2);
        world.host.calls.clear();
        let without = sharing(|json| {
            json["payment"] = json!({"policy": "prepay", "wallet_ref": "AGENT_WALLET", "refund": refund});
            json["limits"] =
                if refund == "credit" { json!({}) } else { json!({"daily_spend_msat": 300_000}) };
        });
        world.agent.deploy(world.now, &without, &owner()).unwrap();
        world.run();
        friends.run(&mut world, &mut wallet);
        assert_eq!(
            (times(&wallet), due(&world)),
            (1, vec![(ALICE.to_owned(), 2 * ALICES - PAID), (BOB.to_owned(), 2 * BOBS)]),
            "{refund}"
        );
        world.pass_with(&mut wallet, 3 * 86_400);
        assert_eq!((world.agent.is_idle(), world.agent.poll_timeout()), (true, None), "{refund}");
    }
    // Half of the limit is left for refunds.
    let both = sharing(|json| {
        json["payment"]["refund"] = json!("invoice");
        json["limits"] = json!({"daily_spend_msat": 400_000});
    });
    let (mut world, mut wallet, mut friends) = (World::new(&both), Wallet::new(), Friends::default());
    earn(&mut world, &mut wallet, 9);
    for _ in 0..120 {
        world.pass_with(&mut wallet, 1);
        friends.run(&mut world, &mut wallet);
    }
    let paid: u64 = wallet.outgoing.values().map(|payment| payment.msat).sum();
    assert_eq!(paid, 190_000);
}

/// An agent that is paused or drained may be moved to another host, which pays then.
#[test]
fn an_agent_that_takes_no_jobs_pays_no_shares() {
    for state in [AgentState::Paused, AgentState::Draining] {
        let (mut world, mut wallet, mut friends) =
            (World::new(&sharing(|_| ())), Wallet::new(), Friends::default());
        earn(&mut world, &mut wallet, 1);
        let request = order(&mut world, &mut wallet, &Customer::new(1), "the last one");
        world.agent.set_state(world.now, state).unwrap();
        pay(&world, &mut wallet, &Customer::new(1), &request);
        world.pass_with(&mut wallet, 600);
        if state == AgentState::Draining {
            assert_eq!(due(&world)[0].1, 2 * ALICES);
        }
        assert!(world.host.calls.is_empty() && times(&wallet) == 0, "{state:?}");
        world.agent.set_state(world.now, AgentState::Active).unwrap();
        world.run();
        world.pass_with(&mut wallet, 10);
        friends.run(&mut world, &mut wallet);
        assert_eq!(times(&wallet), 1, "{state:?}");
    }
}

/// The service of each recipient has its turn: who was paid longest ago is first.
#[test]
fn no_recipient_takes_the_whole_limit_for_ever() {
    let equal = sharing(|json| {
        json["payment"]["splits"] =
            json!([{"address": ALICE, "percent": 40}, {"address": BOB, "percent": 40}]);
        json["limits"] = json!({"daily_spend_msat": 200_000});
    });
    let (mut world, mut wallet, mut friends) = (World::new(&equal), Wallet::new(), Friends::default());
    let mut before = Vec::new();
    for day in 0..4 {
        earn(&mut world, &mut wallet, 4);
        friends.run(&mut world, &mut wallet);
        let paid: Vec<i64> = due(&world).iter().map(|(_, due)| (day + 1) * 4 * 84_000 - due).collect();
        before.push(paid);
        let next = 86_400 - world.now.seconds() % 86_400;
        world.pass_with(&mut wallet, next);
        friends.run(&mut world, &mut wallet);
    }
    let last = before.last().unwrap();
    assert!(last.iter().all(|paid| *paid > 0) && (last[0] - last[1]).abs() <= 200_000, "{before:?}");
}
