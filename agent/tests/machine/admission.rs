//! Which requests are taken, and what those are told that are not.

use relay_agent::cipher::Cipher;
use relay_agent::manifest::Manifest;
use relay_agent::testing::{Customer, Request};
use relay_engine::types::PubKey;
use serde_json::{Value, json};

use crate::world::{START, World, manifest};

enum Expected {
    /// It is answered.
    Taken,
    /// It is refused, with this message.
    Refused(&'static str),
    /// Nothing is sent.
    Silent,
}
use Expected::{Refused, Silent, Taken};

fn check(manifest: &Manifest, request: impl FnOnce(Request, &PubKey) -> Request, expected: &Expected) {
    let mut world = World::new(manifest);
    let customer = Customer::new(1);
    let agent = world.pubkey();
    let request = customer.sign(&request(Request::new(5050, START), &agent));
    world.deliver(&request);
    let statuses = world.statuses(&request.id);
    match expected {
        Taken => assert_eq!(statuses, ["processing", "result"], "{request:?}"),
        Silent => assert_eq!(statuses, [""; 0], "{request:?}"),
        Refused(message) => {
            assert_eq!(statuses, ["error"], "{request:?}");
            assert_eq!(world.last(&customer, &request.id).1, *message, "{request:?}");
            world.deliver(&request);
            world.crash();
            world.run();
            assert_eq!(world.statuses(&request.id), ["error"], "told once");
        }
    }
}

fn with(field: &str, value: Value) -> Manifest {
    manifest(|json| json[field] = value)
}

fn handler(change: impl FnOnce(&mut Value)) -> Manifest {
    manifest(|json| change(&mut json["handlers"][0]))
}

#[test]
fn requests_for_others_and_of_other_kinds() {
    let plain = manifest(|_| ());
    let other = Customer::new(9).pubkey();
    check(&plain, |request, agent| request.to(agent), &Taken);
    check(&plain, |request, _| request, &Taken);
    check(&plain, |request, _| request.to(&other), &Silent);
    check(&plain, |request, agent| request.to(&other).to(agent), &Taken);
    let foreign = |_: Request, agent: &PubKey| Request::new(5100, START).to(agent);
    check(&plain, foreign, &Refused("kind 5100 is not supported; supported: 5050"));
    check(&plain, |_, _| Request::new(5100, START), &Silent);
    check(&with("access", json!({"open_jobs": false})), |request, _| request, &Silent);
}

#[test]
fn access() {
    let me = Customer::new(1).pubkey().to_string();
    let other = Customer::new(9).pubkey().to_string();
    let no = Refused("this agent does not work for your key");
    check(&with("access", json!({"deny": [me]})), |request, agent| request.to(agent), &no);
    check(&with("access", json!({"deny": [me]})), |request, _| request, &Silent);
    check(&with("access", json!({"allow": [other]})), |request, agent| request.to(agent), &no);
    check(&with("access", json!({"allow": [other, me]})), |request, agent| request.to(agent), &Taken);
    let work = Refused("60 bits of proof of work (NIP-13) are required");
    check(&with("access", json!({"min_pow": 60})), |request, agent| request.to(agent), &work);
    let public = with("encryption", json!(false));
    let encrypted = |request: Request, agent: &PubKey| request.to(agent).encrypted(Cipher::Nip04, agent);
    let mut world = World::new(&public);
    let request = Customer::new(1).sign(&encrypted(Request::new(5050, START), &world.pubkey()));
    world.deliver(&request);
    assert_eq!(world.statuses(&request.id), ["encrypted"]);
    assert_eq!(world.agent.metrics().failures["encryption"], 1);
}

#[test]
fn proof_of_work_counts_zeros_and_the_target() {
    let mut world = World::new(&with("access", json!({"min_pow": 8})));
    let customer = Customer::new(1);
    let mined = |world: &World, target: &str| {
        (0..)
            .map(|nonce: u32| customer.sign(&world.request().tag(&["nonce", &nonce.to_string(), target])))
            .find(|event| event.id.leading_zero_bits() >= 8)
            .unwrap()
    };
    let committed = mined(&world, "8");
    world.deliver(&committed);
    assert_eq!(world.statuses(&committed.id), ["processing", "result"]);
    let lucky = mined(&world, "4");
    world.deliver(&lucky);
    assert_eq!(world.statuses(&lucky.id), ["error"]);
}

#[test]
fn inputs_and_parameters() {
    let to = |request: Request, agent: &PubKey| request.to(agent);
    let min = handler(|handler| handler["inputs_min"] = json!(1));
    check(&min, to, &Refused("at least 1 inputs are needed, and there are 0"));
    check(&min, |request, agent| request.to(agent).text("x"), &Taken);
    let urls = handler(|handler| handler["inputs"] = json!(["url", "event"]));
    let taken = Refused("inputs of type text are not supported; supported: url, event");
    check(&urls, |request, agent| request.to(agent).text("x"), &taken);
    let small = with("limits", json!({"input_bytes": 10}));
    check(&small, |request, agent| request.to(agent).text("12345").text("67890"), &Taken);
    let large = Refused("the inputs are larger than 10 bytes");
    check(&small, |request, agent| request.to(agent).text("12345").text("678901"), &large);
    let unknown = |request: Request, agent: &PubKey| request.to(agent).tag(&["i", "x", "data"]);
    check(
        &manifest(|_| ()),
        unknown,
        &Refused("input type \"data\" is not known: use text, url, event or job"),
    );

    let params = handler(|handler| {
        handler["params"] = json!({
            "top-k": {"required": true, "values": ["1", "2"]},
            "style": {"required": true, "default": "plain"}
        });
    });
    check(&params, to, &Refused("parameter top-k is missing"));
    check(&params, |request, agent| request.to(agent).tag(&["param", "top_k", "2"]), &Taken);
    let three = |request: Request, agent: &PubKey| request.to(agent).tag(&["param", "top-k", "3"]);
    check(&params, three, &Refused("parameter top-k cannot be 3; allowed: 1, 2"));

    let outputs = handler(|handler| handler["outputs"] = json!(["text/plain", "text/markdown"]));
    check(&outputs, |request, agent| request.to(agent).tag(&["output", "text/markdown"]), &Taken);
    let png = Refused("output image/png is not supported; supported: text/plain, text/markdown");
    check(&outputs, |request, agent| request.to(agent).tag(&["output", "image/png"]), &png);

    let many = |request: Request, agent: &PubKey| {
        (0..17).fold(request.to(agent), |request, n| request.tag(&["i", &format!("{n:064x}"), "event"]))
    };
    check(&manifest(|_| ()), many, &Refused("at most 16 inputs may be events, jobs or URLs"));
    let chained = |request: Request, agent: &PubKey| request.to(agent).tag(&["i", &"a".repeat(64), "job"]);
    let no_chains = with("limits", json!({"chain_depth": 0}));
    check(&no_chains, chained, &Refused("this agent does not wait for other jobs"));
}

#[test]
fn old_and_expired_requests_are_not_answered() {
    let plain = manifest(|_| ());
    let at = |created_at: u64| move |_: Request, agent: &PubKey| Request::new(5050, created_at).to(agent);
    check(&plain, at(START - 86_400), &Taken);
    check(&plain, at(START - 86_401), &Silent);
    let expiring = |at: u64| {
        move |request: Request, agent: &PubKey| request.to(agent).tag(&["expiration", &at.to_string()])
    };
    check(&plain, expiring(START + 1), &Taken);
    check(&plain, expiring(START), &Silent);
}

#[test]
fn answers_are_not_older_than_a_request_by_a_clock_that_is_ahead() {
    let mut world = World::new(&manifest(|_| ()));
    let request = Customer::new(1).sign(&Request::new(5050, START + 90).to(&world.pubkey()));
    world.deliver(&request);
    let answers = world.host.answers_to(&request.id);
    assert_eq!(
        answers.iter().map(|(_, event)| event.created_at).collect::<Vec<_>>(),
        [START + 90, START + 91]
    );
}

#[test]
fn a_flood_of_one_key_is_bounded_and_made_no_flood_of_errors() {
    let mut world = World::new(&with("limits", json!({"per_customer_per_min": 20})));
    let (flooder, other) = (Customer::new(1), Customer::new(2));
    let requests: Vec<_> =
        (0..10_000).map(|n| flooder.sign(&world.request().tag(&["nr", &n.to_string()]))).collect();
    let before = world.sqlite.rows_written();
    for batch in requests.chunks(500) {
        world.agent.deliver(world.now, batch).unwrap();
        world.run();
    }
    let count = |world: &World, wanted: &str| {
        let answers = requests.iter().flat_map(|request| world.statuses(&request.id));
        answers.filter(|status| status == wanted).count()
    };
    assert_eq!((count(&world, "result"), count(&world, "error")), (20, 10));
    assert!(world.sqlite.rows_written() - before < 250, "{}", world.sqlite.rows_written() - before);
    assert_eq!(world.agent.metrics().silent, 10_000 - 30);
    let request = other.sign(&world.request());
    world.deliver(&request);
    assert_eq!(world.statuses(&request.id), ["processing", "result"], "others are not affected");
    world.pass(60);
    let request = flooder.sign(&world.request());
    world.deliver(&request);
    assert_eq!(world.statuses(&request.id), ["processing", "result"], "a minute later");
}

#[test]
fn the_queue_is_bounded() {
    let limits = json!({"concurrency": 1, "queue": 3, "per_customer": 2, "per_customer_per_min": 1000});
    let mut world = World::calling(&with("limits", limits));
    let mut ask = |customer: u64, n: u64| {
        let request = Customer::new(customer).sign(&world.request().text(&n.to_string()));
        world.deliver(&request);
        let (status, event) = world.host.answers_to(&request.id).pop().unwrap();
        (status, Customer::new(customer).read(&event))
    };
    let taken = ("processing".to_owned(), String::new());
    assert_eq!(ask(1, 1), taken);
    assert_eq!(ask(1, 2), taken);
    let message = "2 of your jobs are not finished yet; try again later";
    assert_eq!(ask(1, 3), ("error".to_owned(), message.to_owned()));
    assert_eq!(ask(2, 1), taken);
    assert_eq!(ask(3, 1), taken);
    let message = "this agent's queue is full; try again later";
    assert_eq!(ask(4, 1), ("error".to_owned(), message.to_owned()));
    world.answer(200, "done");
    let request = Customer::new(4).sign(&world.request().text("again"));
    world.deliver(&request);
    assert_eq!(world.statuses(&request.id), ["processing"]);
}

#[test]
fn pings_are_answered_but_not_a_flood_of_them() {
    let mut world = World::new(&manifest(|_| ()));
    let agent = world.pubkey();
    let ping = |to: &PubKey, n: u64| {
        Customer::new(1).sign(&Request::new(7007, START).to(to).tag(&["n", &n.to_string()]))
    };
    let first = ping(&agent, 0);
    world.deliver(&first);
    assert_eq!(world.statuses(&first.id), ["pong"]);
    let foreign = ping(&Customer::new(9).pubkey(), 0);
    world.deliver(&foreign);
    assert_eq!(world.statuses(&foreign.id), [""; 0]);
    for n in 1..100 {
        world.deliver(&ping(&agent, n));
    }
    assert_eq!(world.agent.metrics().pongs, 6);
}

#[test]
fn an_agent_does_not_answer_itself() {
    let mut world = World::new(&manifest(|_| ()));
    let keys =
        relay_agent::identity::keys(&relay_agent::manifest::Identity::default(), "Tester", &|name: &str| {
            (name == "AGENT_MASTER_SECRET").then(|| "5a".repeat(32))
        })
        .unwrap();
    assert_eq!(keys.pubkey(), world.pubkey());
    let own = Customer { keys }.sign(&world.request().text("loop"));
    world.deliver(&own);
    assert_eq!(world.statuses(&own.id), [""; 0]);
}

#[test]
fn rate_limits_survive_a_restart() {
    let mut world = World::new(&with("limits", json!({"per_customer_per_min": 3})));
    let ask = |world: &mut World, number: u64| {
        let customer = Customer::new(number);
        let request = customer.sign(&world.request().text(&world.host.stored.len().to_string()));
        world.deliver(&request);
        world.statuses(&request.id).pop()
    };
    for _ in 0..3 {
        assert_eq!(ask(&mut world, 1).as_deref(), Some("result"));
        world.crash();
    }
    assert_eq!(ask(&mut world, 1).as_deref(), Some("error"), "the fourth in this minute");
    assert_eq!(ask(&mut world, 2).as_deref(), Some("result"), "another customer");
    world.pass(60);
    world.crash();
    assert_eq!(ask(&mut world, 1).as_deref(), Some("result"), "the next minute");
}

#[test]
fn pongs_of_a_minute_are_counted_across_openings() {
    let mut world = World::new(&manifest(|_| ()));
    let agent = world.pubkey();
    for customer in 1..=20 {
        for _ in 0..6 {
            let at = world.now.seconds() - world.host.stored.len() as u64;
            let ping = Customer::new(customer).sign(&Request::new(7007, at).to(&agent));
            world.deliver(&ping);
        }
        world.crash();
    }
    assert_eq!(world.host.stored.iter().filter(|event| event.kind == 7000).count(), 60);
}

/// One customer with many jobs does not keep another waiting.
#[test]
fn customers_take_turns_in_the_queue() {
    let mut world = World::calling(&with("limits", json!({"concurrency": 1})));
    let ask = |world: &mut World, customer: u64, text: &str| {
        let request = Customer::new(customer).sign(&world.request().text(text));
        world.deliver(&request);
    };
    for n in 0..6 {
        ask(&mut world, 1, &format!("one {n}"));
    }
    for n in 0..2 {
        ask(&mut world, 2, &format!("two {n}"));
    }
    let mut order = Vec::new();
    while let Some((_, request)) = world.host.calls.first() {
        order.push(String::from_utf8_lossy(&request.body).into_owned());
        world.answer(200, "done");
    }
    // The first one began before the second customer came.
    let of_second = |order: &[String]| order.iter().map(|body| body.contains("two ")).collect::<Vec<_>>();
    assert_eq!(of_second(&order), [false, false, true, false, true, false, false, false], "{order:?}");
}
