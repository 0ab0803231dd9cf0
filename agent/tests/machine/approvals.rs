//! Refunds that the owner has to approve.

use relay_agent::api::{self, Caller, Relay, Request};
use relay_agent::machine::CommandError;
use relay_agent::manifest::Manifest;
use relay_agent::testing::Customer;
use relay_site::{AgentRoute, HttpResponse};
use serde_json::{Value, json};

use crate::prepaid::books;
use crate::refunds::{CREDIT, indebted, invoice, refund, refunding, times};
use crate::wallet::Wallet;
use crate::world::{Books, World, owner};

fn approving() -> (World, Wallet, Customer) {
    indebted(&refunding(|json| json["limits"]["approval_msat"] = json!(50_000)))
}

fn ask(world: &mut World, route: AgentRoute, id: Option<&str>, query: &str, caller: Caller) -> (u16, Value) {
    let relay = Relay { name: "Test", url: "wss://relay.example", version: "1" };
    let request = Request { route, id, query, body: &[], caller, relay };
    let HttpResponse { status, body, .. } = api::agent(&mut world.agent, world.now, &request).answer;
    world.run();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

fn decide(world: &mut World, word: &str, hash: &str) -> (u16, Value) {
    let caller = Caller::Key(owner());
    ask(world, AgentRoute::Command, Some(word), &format!("refund={hash}"), caller)
}

fn waiting(world: &mut World) -> Value {
    ask(world, AgentRoute::Memory, None, "", Caller::Key(owner())).1["refunds_to_approve"].take()
}

#[test]
fn a_refund_above_an_amount_is_paid_when_the_owner_approves_it() {
    let (mut world, mut wallet, customer) = approving();
    // With what is kept for fees it is as much as needs none.
    let small = invoice(&world, 1, 40_000);
    assert_eq!(refund(&mut world, &customer, &small).unwrap().state, "pending");
    world.run();
    world.pass_with(&mut wallet, 30);
    assert_eq!((times(&wallet), waiting(&mut world)), (1, json!([])));
    let large = invoice(&world, 2, 40_001);
    let record = refund(&mut world, &customer, &large).unwrap();
    assert_eq!(record.state, "awaiting_approval");
    world.pass_with(&mut wallet, 600);
    world.crash();
    world.pass_with(&mut wallet, 600);
    // It is only noted, and taken of the credit.
    assert_eq!(times(&wallet), 1);
    let left = CREDIT - 40_000;
    assert_eq!(world.check_books(), Books { refunds: 50_001, ..books(left, 0, left - 50_001) });
    let listed = waiting(&mut world);
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["msat"]), (1, &json!(40_001)));
    assert_eq!(listed[0]["customer"], customer.pubkey().to_string());
    // Nobody else approves it.
    let query = format!("refund={}", record.payment_hash);
    for caller in [Caller::Anyone, Caller::Key(customer.pubkey())] {
        let status = ask(&mut world, AgentRoute::Command, Some("approve"), &query, caller).0;
        assert!(matches!(status, 401 | 403), "{status}");
    }
    assert_eq!(decide(&mut world, "approve", &"07".repeat(32)).0, 404);
    assert_eq!(decide(&mut world, "approve", "07").0, 400);
    let (status, answer) = decide(&mut world, "approve", &record.payment_hash);
    assert_eq!((status, answer["state"].as_str()), (200, Some("pending")));
    for word in ["approve", "decline"] {
        world.pass_with(&mut wallet, 30);
        let (status, answer) = decide(&mut world, word, &record.payment_hash);
        assert_eq!((status, answer["state"].as_str()), (200, Some("paid")), "it is decided once");
    }
    assert_eq!((times(&wallet), waiting(&mut world)), (2, json!([])));
    let left = left - 40_001;
    assert_eq!(world.check_books(), books(left, 0, left));
}

#[test]
fn a_refund_that_is_declined_or_forgotten_is_credit_again() {
    let (mut world, mut wallet, customer) = approving();
    let first = invoice(&world, 1, 100_000);
    let record = refund(&mut world, &customer, &first).unwrap();
    // The customer has one under way.
    let second = invoice(&world, 2, 60_000);
    assert!(refund(&mut world, &customer, &second).unwrap_err().contains("has to wait"));
    let (_, answer) = decide(&mut world, "decline", &record.payment_hash);
    assert_eq!(answer["state"].as_str(), Some("failed"));
    assert_eq!(world.check_books(), books(CREDIT, 0, CREDIT));
    assert_eq!(refund(&mut world, &customer, &second).unwrap().state, "awaiting_approval");
    world.pass_with(&mut wallet, 3_700);
    assert_eq!(refund(&mut world, &customer, &second).unwrap().state, "failed");
    assert_eq!((world.check_books(), times(&wallet)), (books(CREDIT, 0, CREDIT), 0));
    let log = world.agent.logs(0, 1_000).unwrap();
    assert!(log.iter().any(|line| line.message.ends_with("nobody has approved it in time")));
    assert_eq!(world.agent.poll_timeout(), None);
}

/// Each statement of the store may fail: what was not stored was not decided.
#[test]
fn a_full_disk_leaves_the_decision_to_be_made_again() {
    for word in [true, false] {
        let mut failed = 0;
        for fails_at in 1..20 {
            let (mut world, mut wallet, customer) = approving();
            let bolt11 = invoice(&world, 1, 100_000);
            let record = refund(&mut world, &customer, &bolt11).unwrap();
            let mut hash = [0; 32];
            faster_hex::hex_decode(record.payment_hash.as_bytes(), &mut hash).unwrap();
            world.sqlite.fail_at(fails_at);
            let decided = world.agent.decide_refund(world.now, &hash, word);
            world.sqlite.fail_with(None);
            if let Err(error) = &decided {
                assert!(matches!(error, CommandError::Store(_)), "{error:?}");
                failed += 1;
                assert_eq!(
                    world.check_books(),
                    Books { refunds: 110_000, ..books(CREDIT, 0, CREDIT - 110_000) }
                );
                world.crash();
                assert_eq!(world.agent.refunds_to_approve().len(), 1, "{fails_at}");
                world.agent.decide_refund(world.now, &hash, word).unwrap();
            }
            world.run();
            world.pass_with(&mut wallet, 3 * 3_600);
            let paid = if word { 100_000 } else { 0 };
            assert_eq!(u64::from(times(&wallet)) * 100_000, paid, "{fails_at}");
            assert_eq!(world.check_books(), books(CREDIT - paid, 0, CREDIT - paid), "{fails_at}");
        }
        assert!(failed > 0);
    }
}

#[test]
fn approval_is_of_use_where_something_is_paid_out() {
    let mut json = serde_json::to_value(refunding(|_| ())).unwrap();
    for (msat, why) in
        [(json!(0), None), (json!(1_000_000_000_001_u64), Some("must be from 0 to 1000000000000"))]
    {
        json["limits"]["approval_msat"] = msat;
        let read = Manifest::parse(json.to_string().as_bytes());
        let error = read.err().map(|error| error.to_string());
        assert_eq!(error, why.map(|why| format!("limits.approval_msat: {why}")));
    }
    json["limits"] = json!({"approval_msat": 1});
    json["payment"].as_object_mut().unwrap().remove("refund");
    let error = Manifest::parse(json.to_string().as_bytes()).unwrap_err().to_string();
    assert_eq!(error, "limits.approval_msat: is of no use without payment.refund invoice");
}
