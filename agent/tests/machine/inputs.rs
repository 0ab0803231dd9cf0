//! Inputs that are events, results of other jobs, or URLs.

use relay_agent::cipher::Cipher;
use relay_agent::executor::{Access, HttpError, HttpEvent};
use relay_agent::identity::Draft;
use relay_agent::job::JobState;
use relay_agent::testing::{Customer, Request};
use relay_engine::types::{Event, EventId};
use serde_json::json;

use crate::world::{START, World, manifest};

fn note(author: u64, content: &str) -> Event {
    let draft = Draft { created_at: START, kind: 1, tags: Vec::new(), content: content.to_owned() };
    Customer::new(author).keys.sign(&draft)
}

/// The result of a request, by the agent with this key.
fn result(by: u64, request: &Event, content: &str, has_request: bool) -> Event {
    let mut tags =
        vec![vec!["e".to_owned(), request.id.to_string()], vec!["p".to_owned(), request.pubkey.to_string()]];
    if has_request {
        tags.push(vec!["request".to_owned(), String::from_utf8_lossy(request.json()).into_owned()]);
    }
    let draft = Draft { created_at: START, kind: 6050, tags, content: content.to_owned() };
    Customer::new(by).keys.sign(&draft)
}

/// A request that is already answered: the request, and its result.
fn answered(by: u64, content: &str, inputs: &[EventId]) -> (Event, Event) {
    let mut request = Request::new(5050, START).to(&Customer::new(by).pubkey()).text(content);
    for input in inputs {
        request = request.tag(&["i", &input.to_string(), "job"]);
    }
    let request = Customer::new(1).sign(&request);
    let result = result(by, &request, content, true);
    (request, result)
}

fn told(world: &World, id: &EventId) -> (String, String) {
    world.last(&Customer::new(1), id)
}

fn is_result(text: &str) -> (String, String) {
    ("result".to_owned(), text.to_owned())
}

fn is_error(message: &str) -> (String, String) {
    ("error".to_owned(), message.to_owned())
}

#[test]
fn events_are_read_from_the_relay_and_inputs_keep_their_order() {
    let mut world = World::new(&manifest(|_| ()));
    let (a, b) = (note(7, "from a"), note(8, "from \"b\"\n"));
    world.host.store(a.clone());
    world.host.store(b.clone());
    let request = world.request().tag(&["i", &b.id.to_string(), "event"]).text("between");
    let request = Customer::new(1).sign(&request.tag(&["i", &a.id.to_string(), "event"]));
    world.deliver(&request);
    assert_eq!(told(&world, &request.id), is_result("from \"b\"\n\nbetween\nfrom a"));
    assert_eq!(world.statuses(&request.id), ["processing", "result"]);
}

#[test]
fn an_event_that_is_not_there_is_an_error() {
    let mut world = World::new(&manifest(|_| ()));
    let id = "ab".repeat(32);
    let request =
        Customer::new(1).sign(&world.request().tag(&["i", &id, "event", "wss://elsewhere.example"]));
    world.deliver(&request);
    assert_eq!(told(&world, &request.id), is_error(&format!("event {id} is not on this relay")));
}

#[test]
fn a_relay_that_cannot_be_read_is_asked_again() {
    let mut world = World::new(&manifest(|_| ()));
    let a = note(7, "text");
    world.host.store(a.clone());
    world.host.is_blind = true;
    let request = Customer::new(1).sign(&world.request().tag(&["i", &a.id.to_string(), "event"]));
    world.deliver(&request);
    world.pass(5);
    assert_eq!(world.statuses(&request.id), ["processing"]);
    assert!(world.agent.is_idle());
    world.host.is_blind = false;
    world.pass(10);
    assert_eq!(told(&world, &request.id), is_result("text"));
}

#[test]
fn a_job_waits_for_the_result_of_another_and_writes_nothing_meanwhile() {
    let mut world = World::new(&manifest(|_| ()));
    let (first, result) = answered(7, "from the first", &[]);
    world.host.store(first.clone());
    let request = Customer::new(1).sign(&world.request().tag(&["i", &first.id.to_string(), "job"]));
    world.deliver(&request);
    let written = world.sqlite.rows_written();
    world.pass(20);
    assert_eq!(world.statuses(&request.id), ["processing"]);
    assert_eq!(world.sqlite.rows_written(), written);
    world.crash();
    world.run();
    world.host.store(result);
    world.pass(40);
    assert_eq!(told(&world, &request.id), is_result("from the first"));
}

#[test]
fn a_result_that_never_comes_is_waited_for_until_the_deadline() {
    let mut world = World::new(&manifest(|json| json["limits"] = json!({"timeout_s": 60})));
    let (first, _) = answered(7, "x", &[]);
    let request = Customer::new(1).sign(&world.request().tag(&["i", &first.id.to_string(), "job"]));
    world.deliver(&request);
    world.pass(59);
    assert_eq!(world.statuses(&request.id), ["processing"]);
    world.pass(1);
    assert_eq!(told(&world, &request.id), is_error("the inputs did not come in time"));
    assert_eq!(world.agent.job(&request.id).unwrap().unwrap().state, JobState::Expired);
    assert_eq!(world.agent.poll_timeout(), None);
}

#[test]
fn a_result_of_somebody_whom_the_request_does_not_name_does_not_count() {
    let mut world = World::new(&manifest(|_| ()));
    let (first, real) = answered(7, "real", &[]);
    let false_one = result(9, &first, "false", true);
    let request = Customer::new(1).sign(&world.request().tag(&["i", &first.id.to_string(), "job"]));
    world.host.store(false_one);
    world.deliver(&request);
    assert_eq!(world.statuses(&request.id), ["processing"]);
    world.host.store(real);
    world.pass(30);
    assert_eq!(told(&world, &request.id), is_result("real"));
    // A large result leaves its request out.
    let (second, _) = answered(7, "second", &[]);
    world.host.store(second.clone());
    world.host.store(result(7, &second, "large", false));
    let request = Customer::new(1).sign(&world.request().tag(&["i", &second.id.to_string(), "job"]));
    world.deliver(&request);
    assert_eq!(told(&world, &request.id), is_result("large"));
}

#[test]
fn chains_are_followed_as_far_as_the_manifest_says() {
    // Each job has the one before as its input.
    let mut chain = vec![answered(7, "job 1", &[])];
    for n in 2..=6 {
        let before = chain.last().unwrap().0.id;
        chain.push(answered(7, &format!("job {n}"), &[before]));
    }
    for depth in 1..=6usize {
        let mut world = World::new(&manifest(|json| json["limits"] = json!({"chain_depth": 4})));
        for (request, result) in &chain {
            world.host.store(request.clone());
            world.host.store(result.clone());
        }
        let input = chain[depth - 1].0.id.to_string();
        let request = Customer::new(1).sign(&world.request().tag(&["i", &input, "job"]));
        world.deliver(&request);
        let expected = match depth {
            ..=4 => is_result(&format!("job {depth}")),
            _ => is_error("the chain of jobs is longer than 4"),
        };
        assert_eq!(told(&world, &request.id), expected, "{depth}");
    }
}

#[test]
fn an_encrypted_result_is_read_only_for_its_customer_and_answered_encrypted() {
    let mut world = World::new(&manifest(|_| ()));
    let agent = world.pubkey();
    let (customer, other) = (Customer::new(1), Customer::new(2));
    let secret = customer.sign(&world.request().text("the secret").encrypted(Cipher::Nip44, &agent));
    world.deliver(&secret);
    let input = ["i", &secret.id.to_string(), "job"];
    let ask = |world: &mut World, who: &Customer, request: Request| {
        let request = who.sign(&request);
        world.deliver(&request);
        request.id
    };
    let refused = is_error("the result of the job that is an input is encrypted");
    let request = world.request().tag(&input);
    let id = ask(&mut world, &customer, request.clone());
    assert_eq!(told(&world, &id), refused, "in the clear");
    let id = ask(&mut world, &other, request.clone());
    assert_eq!(world.last(&other, &id), refused);
    let id = ask(&mut world, &other, request.clone().encrypted(Cipher::Nip44, &agent));
    let job = world.agent.job(&id).unwrap().unwrap();
    assert_eq!((job.state, job.cause.as_str()), (JobState::Failed, "input_job"), "another customer");
    let id = ask(&mut world, &customer, request.encrypted(Cipher::Nip44, &agent));
    assert_eq!(told(&world, &id), is_result("the secret"));
    for event in &world.host.stored {
        assert!(!String::from_utf8_lossy(event.json()).contains("the secret"));
    }
}

#[test]
fn an_event_that_is_an_earlier_request_stands_for_its_texts() {
    let mut world = World::new(&manifest(|_| ()));
    let earlier = Customer::new(1).sign(&Request::new(5300, START).text("page one"));
    world.host.store(earlier.clone());
    let request = Customer::new(1).sign(&world.request().tag(&["i", &earlier.id.to_string(), "event"]));
    world.deliver(&request);
    assert_eq!(told(&world, &request.id), is_result("page one"));
}

#[test]
fn urls_are_read_with_limits() {
    let mut world = World::new(&manifest(|json| json["network"] = json!({"max_fetch_bytes": 5000})));
    let ask = |world: &mut World, url: &str| {
        let request = Customer::new(1).sign(&world.request().tag(&["i", url, "url"]));
        world.deliver(&request);
        request.id
    };
    let id = ask(&mut world, "https://text.example/a");
    let call = &world.host.calls[0].1;
    assert_eq!((call.access, call.limits.response_bytes_max), (Access::Public, 5000));
    assert!(call.limits.deadline <= START + 10);
    world.answer(200, "from the web");
    assert_eq!(told(&world, &id), is_result("from the web"));

    let id = ask(&mut world, "https://text.example/b");
    world.answer(404, "");
    assert_eq!(told(&world, &id), is_error("the URL answers with status 404"));
    let id = ask(&mut world, "https://text.example/c");
    let (call, _) = world.host.calls.remove(0);
    world.agent.handle_http(world.now, call, HttpEvent::Failed(HttpError::TooLarge));
    world.run();
    assert_eq!(told(&world, &id), is_error("the text of the URL is too large"));
    for url in [
        "http://text.example/",
        "https://127.0.0.1/",
        "https://localhost/",
        "https://[::1]/",
        "https://a@b.example/",
    ] {
        let id = ask(&mut world, url);
        let (status, message) = told(&world, &id);
        assert!(status == "error" && message.starts_with("the URL is not read"), "{url}: {message}");
        assert_eq!(world.host.calls.len(), 0);
    }
}

#[test]
fn what_is_fetched_counts_as_input() {
    let mut world = World::new(&manifest(|json| json["limits"] = json!({"input_bytes": 10})));
    let a = note(7, "12345678901");
    world.host.store(a.clone());
    let request = Customer::new(1).sign(&world.request().tag(&["i", &a.id.to_string(), "event"]));
    world.deliver(&request);
    assert_eq!(told(&world, &request.id), is_error("the inputs are larger than 10 bytes"));
}

/// What was fetched is kept for the attempts that follow.
#[test]
fn inputs_are_fetched_once_for_all_attempts() {
    let mut world = World::calling(&manifest(|_| ()));
    let a = note(7, "fetched");
    world.host.store(a.clone());
    let request = Customer::new(1).sign(&world.request().tag(&["i", &a.id.to_string(), "event"]));
    world.deliver(&request);
    world.answer(503, "");
    world.host.stored.retain(|event| event.id != a.id);
    world.pass(2);
    assert_eq!(&world.host.calls[0].1.body[..], b"fetched");
    world.crash();
    world.run();
    assert_eq!(&world.host.calls[0].1.body[..], b"fetched");
    world.answer(200, "done");
    assert_eq!(told(&world, &request.id), is_result("done"));
}

#[test]
fn few_jobs_fetch_at_a_time_and_all_come_to_an_end() {
    let mut world = World::new(&manifest(|json| json["limits"] = json!({"per_customer_per_min": 1000})));
    let requests: Vec<Event> = (0..60)
        .map(|n| {
            let url = format!("https://a.example/{n}");
            Customer::new(n % 15 + 1).sign(&world.request().tag(&["i", &url, "url"]))
        })
        .collect();
    world.agent.deliver(world.now, &requests).unwrap();
    world.run();
    assert_eq!(world.host.calls.len(), 16);
    for _ in 0..20 {
        while !world.host.calls.is_empty() {
            world.answer(200, "text");
        }
        world.pass(1);
    }
    for request in &requests {
        assert_eq!(world.statuses(&request.id), ["processing", "result"]);
    }
}

/// Whoever sees a request can write a result of it that says nothing of the request.
#[test]
fn a_result_without_its_request_counts_only_by_whom_the_request_names() {
    let mut world = World::new(&manifest(|_| ()));
    let (first, _) = answered(7, "x", &[]);
    world.host.store(first.clone());
    for n in 0..20 {
        world.host.store(result(9, &first, &format!("forged {n}"), false));
    }
    let request = Customer::new(1).sign(&world.request().tag(&["i", &first.id.to_string(), "job"]));
    world.deliver(&request);
    assert_eq!(world.statuses(&request.id), ["processing"]);
    // It is among the newest 16 only of its author's.
    world.host.stored.insert(0, result(7, &first, "real", false));
    world.pass(30);
    assert_eq!(told(&world, &request.id), is_result("real"));
}

#[test]
fn a_result_of_an_unknown_request_has_to_hold_it() {
    let mut world = World::new(&manifest(|_| ()));
    let (first, real) = answered(7, "real", &[]);
    world.host.store(result(7, &first, "forged", false));
    let request = Customer::new(1).sign(&world.request().tag(&["i", &first.id.to_string(), "job"]));
    world.deliver(&request);
    assert_eq!(world.statuses(&request.id), ["processing"]);
    world.host.store(real);
    world.pass(30);
    assert_eq!(told(&world, &request.id), is_result("real"));
}

#[test]
fn a_result_of_an_open_job_is_addressed_to_its_customer() {
    let mut world = World::new(&manifest(|_| ()));
    let open = Customer::new(1).sign(&Request::new(5050, START).text("open"));
    world.host.store(open.clone());
    let tags = vec![vec!["e".to_owned(), open.id.to_string()], vec!["p".to_owned(), "ab".repeat(32)]];
    let draft = Draft { created_at: START, kind: 6050, tags, content: "to somebody else".to_owned() };
    world.host.store(Customer::new(9).keys.sign(&draft));
    let request = Customer::new(1).sign(&world.request().tag(&["i", &open.id.to_string(), "job"]));
    world.deliver(&request);
    assert_eq!(world.statuses(&request.id), ["processing"]);
    world.host.store(result(8, &open, "an answer", false));
    world.pass(30);
    assert_eq!(told(&world, &request.id), is_result("an answer"));
}

#[test]
fn a_page_is_not_read_beyond_what_an_input_may_have() {
    let mut world = World::new(&manifest(|json| json["limits"] = json!({"input_bytes": 1_000})));
    let request = world.request().text(&"x".repeat(400)).tag(&["i", "https://text.example/", "url"]);
    world.deliver(&Customer::new(1).sign(&request));
    assert_eq!(world.host.calls[0].1.limits.response_bytes_max, 600);
}

/// Pages that never come, and results that nobody writes, keep their customer's jobs waiting and nobody else's.
#[test]
fn one_customer_fills_neither_the_queue_nor_the_fetches() {
    let mut world = World::new(&manifest(|_| ()));
    let ask = |world: &mut World, who: u64, n: u64| {
        let url = format!("https://slow.example/{n}");
        let request = Customer::new(who).sign(&world.request().tag(&["i", &url, "url"]));
        world.deliver(&request);
        world.statuses(&request.id).concat()
    };
    let said: Vec<String> = (0..12).map(|n| ask(&mut world, 1, n)).collect();
    let taken = said.iter().filter(|status| *status == "processing").count();
    assert_eq!((taken, world.host.calls.len()), (8, 4));
    assert_eq!(said[8], "error");
    assert_eq!(ask(&mut world, 2, 0), "processing");
    assert_eq!(world.host.calls.len(), 5, "another customer's is fetched at once");
}
