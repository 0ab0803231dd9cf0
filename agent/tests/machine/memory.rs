//! What an agent remembers: sessions with customers, its history; and what it does by itself.

use relay_agent::job::JobState;
use relay_agent::machine::{Agent, AgentState, CommandError};
use relay_agent::testing::{Customer, Sqlite};
use relay_engine::types::Event;
use serde_json::json;

use crate::world::{START, World, context, manifest, owner};

fn ask(world: &mut World, customer: u64, text: &str) -> Event {
    let request = Customer::new(customer).sign(&world.request().text(text));
    world.deliver(&request);
    request
}

fn body(world: &World) -> String {
    String::from_utf8_lossy(&world.host.calls[0].1.body).into_owned()
}

fn remembering() -> World {
    World::calling(&manifest(|json| json["memory"] = json!({"sessions": true, "messages": 4, "ttl_days": 1})))
}

#[test]
fn an_executor_is_told_what_was_said_before_by_the_same_customer_only() {
    let mut world = remembering();
    ask(&mut world, 1, "one");
    assert_eq!(body(&world), "one");
    world.answer(200, "first answer");
    ask(&mut world, 2, "of another");
    assert_eq!(body(&world), "of another");
    world.answer(200, "private");
    world.crash();
    ask(&mut world, 1, "two");
    assert_eq!(body(&world), "User: one\nAssistant: first answer\ntwo");
    world.answer(200, "second answer");
    ask(&mut world, 1, "three");
    world.answer(200, "third answer");
    ask(&mut world, 1, "four");
    let expected = "User: two\nAssistant: second answer\nUser: three\nAssistant: third answer\nfour";
    assert_eq!(body(&world), expected, "four messages are kept");
    world.answer(400, "failed");
    world.pass(86_401);
    ask(&mut world, 1, "five");
    assert_eq!(body(&world), "five", "a day later");
}

#[test]
fn jobs_of_one_batch_see_each_other() {
    let mut world = World::new(&manifest(|json| json["memory"] = json!({"sessions": true})));
    let requests: Vec<Event> =
        ["a", "b"].map(|text| Customer::new(1).sign(&world.request().text(text))).into();
    world.agent.deliver(world.now, &requests).unwrap();
    world.run();
    let session = world.agent.session(&Customer::new(1).pubkey()).unwrap().unwrap();
    let said: Vec<_> = session.messages.iter().map(|said| (said.is_agent, said.text.as_str())).collect();
    assert_eq!(said, [(false, "a"), (true, "a"), (false, "b"), (true, "b")]);
    assert_eq!(world.agent.memory().unwrap().sessions, 1);
}

#[test]
fn a_customer_is_forgotten_and_what_was_done_is_not_done_again() {
    let mut world = remembering();
    let mine = ask(&mut world, 1, "mine");
    world.answer(200, "my answer");
    let other = ask(&mut world, 2, "other");
    world.answer(200, "other answer");
    world.agent.forget(world.now, &Customer::new(1).pubkey()).unwrap();
    world.crash();
    assert_eq!(world.agent.session(&Customer::new(1).pubkey()), Ok(None));
    let dump = world.agent.export().unwrap().to_string();
    assert!(!dump.contains("my answer") && dump.contains("other answer"));
    world.deliver(&mine);
    world.deliver(&other);
    assert_eq!(world.host.calls.len(), 0);
    assert_eq!(world.agent.job(&mine.id).unwrap().unwrap().state, JobState::Done);
}

#[test]
fn the_history_is_read_in_pages_newest_first() {
    let mut world = World::new(&manifest(|_| ()));
    let requests: Vec<Event> = (0..10).map(|n| ask(&mut world, 1, &n.to_string())).collect();
    let mut read = Vec::new();
    let mut before = u64::MAX;
    loop {
        let page = world.agent.history(before, 3).unwrap();
        let Some(last) = page.last() else { break };
        before = last.number;
        read.extend(page.into_iter().map(|job| job.id));
    }
    let expected: Vec<String> = requests.iter().rev().map(|request| request.id.to_string()).collect();
    assert_eq!(read, expected);
    let job = world.agent.job(&requests[3].id).unwrap().unwrap();
    assert_eq!(job.request["id"], json!(requests[3].id.to_string()));
    let sent: Vec<_> =
        job.sent.iter().map(|sent| (sent.kind, sent.status.as_str(), sent.text.as_str())).collect();
    assert_eq!(sent, [(7000, "processing", ""), (6050, "success", "3")]);
}

#[test]
fn the_log_keeps_its_last_thousand_lines() {
    let mut world = World::new(&manifest(|_| ()));
    let states = [AgentState::Paused, AgentState::Active];
    for n in 0..1_100 {
        world.agent.set_state(world.now, states[n % 2]).unwrap();
    }
    let lines = world.agent.logs(0, 5_000).unwrap();
    assert_eq!(lines.len(), 1_000);
    assert_eq!((lines[0].number, lines[999].number), (102, 1_101));
    assert!(lines.is_sorted_by_key(|line| line.number));
    assert_eq!(world.agent.logs(1_100, 10).unwrap().len(), 1);
    world.crash();
    world.agent.set_state(world.now, AgentState::Paused).unwrap();
    assert_eq!(world.agent.logs(1_101, 10).unwrap()[0].number, 1_102);
}

#[test]
fn an_agent_moves_to_another_host_with_its_key_and_what_it_remembers() {
    let manifest = manifest(|json| json["memory"] = json!({"sessions": true}));
    let mut world = World::new(&manifest);
    let done = ask(&mut world, 1, "hello");
    world.agent.set_state(world.now, AgentState::Draining).unwrap();
    let export = world.agent.export().unwrap();
    assert!(!export.to_string().contains(&"5a".repeat(32)), "no secret");

    let mut there = Agent::open(world.now, Sqlite::new(), context(9)).unwrap();
    assert_eq!(there.import(world.now, &export), Err(CommandError::NotFound));
    there.deploy(world.now, &manifest, &owner()).unwrap();
    assert_eq!(there.pubkey(), world.agent.pubkey());
    there.import(world.now, &export).unwrap();
    assert_eq!(there.import(world.now, &export), Err(CommandError::State(AgentState::Active)), "once");
    assert_eq!(there.session(&Customer::new(1).pubkey()), world.agent.session(&Customer::new(1).pubkey()));
    let (mine, theirs) = (there.job(&done.id).unwrap().unwrap(), world.agent.job(&done.id).unwrap().unwrap());
    assert_eq!((mine.state, &mine.sent), (JobState::Done, &theirs.sent));
    assert_eq!(there.metrics().jobs["done"], 1);
    assert_eq!(there.take_counted(), None, "this host has not done it");
    // Its request comes once more, and is known.
    there.deliver(world.now, &[done]).unwrap();
    assert_eq!(there.metrics().duplicates, 1);

    let mut other = Agent::open(world.now, Sqlite::new(), context(9)).unwrap();
    let named = crate::world::manifest(|json| json["name"] = json!("Other"));
    other.deploy(world.now, &named, &owner()).unwrap();
    assert_eq!(other.import(world.now, &export), Err(CommandError::OtherKey));
    let mut damaged = export.clone();
    damaged["jobs"][0]["customer"] = json!("x");
    let mut third = Agent::open(world.now, Sqlite::new(), context(9)).unwrap();
    third.deploy(world.now, &manifest, &owner()).unwrap();
    let Err(CommandError::Manifest(error)) = third.import(world.now, &damaged) else { panic!() };
    assert_eq!(error.path, "jobs[0].customer");
    assert_eq!(third.sessions(10), Ok(Vec::new()), "nothing of it");
}

fn scheduled(every_s: u64) -> relay_agent::manifest::Manifest {
    manifest(|json| {
        json["schedules"] = json!([{"every_s": every_s, "kind": 5050, "input": "tick"}]);
        json["relays"] = json!(["wss://other.example"]);
    })
}

fn notes(world: &World) -> usize {
    world.host.stored.iter().filter(|event| event.kind == 1).count()
}

#[test]
fn a_schedule_runs_every_so_often_and_what_was_missed_once() {
    let mut world = World::new(&scheduled(600));
    assert_eq!(notes(&world), 0);
    world.pass(599);
    assert_eq!(notes(&world), 0);
    world.pass(1);
    assert_eq!(notes(&world), 1);
    let note = world.host.stored.iter().find(|event| event.kind == 1).unwrap();
    assert_eq!(note.view().raw_content(), b"tick");
    assert_eq!(world.host.sent, [("wss://other.example".to_owned(), note.id)]);
    world.pass(1_200);
    assert_eq!(notes(&world), 3);
    // Nobody is there for a day.
    world.now = world.now.plus_millis(86_400_000);
    world.crash();
    world.pass(0);
    assert_eq!(notes(&world), 4);
    world.pass(599);
    assert_eq!(notes(&world), 4);
    world.pass(1);
    assert_eq!(notes(&world), 5);
    // The same manifest with another limit counts on.
    let other = manifest(|json| {
        json["schedules"] = json!([{"every_s": 600, "kind": 5050, "input": "tick"}]);
        json["limits"] = json!({"queue": 5});
    });
    world.pass(300);
    world.agent.deploy(world.now, &other, &owner()).unwrap();
    world.pass(300);
    assert_eq!(notes(&world), 6);
    world.agent.set_state(world.now, AgentState::Paused).unwrap();
    assert_eq!(world.agent.poll_timeout(), None);
    world.pass(6_000);
    assert_eq!(notes(&world), 6);
    let job = &world.agent.history(u64::MAX, 1).unwrap()[0];
    assert_eq!(job.request["schedule"]["input"], json!("tick"));
    assert_eq!(world.agent.session(&world.pubkey()), Ok(None));
}

#[test]
fn a_schedule_whose_last_run_goes_on_is_left_out() {
    let manifest = manifest(|json| {
        json["schedules"] = json!([{"every_s": 60, "kind": 5050, "input": "tick"}]);
        json["limits"] = json!({"timeout_s": 600});
    });
    let mut world = World::calling(&manifest);
    world.pass(60);
    assert_eq!(world.host.calls.len(), 1);
    world.pass(120);
    assert_eq!(world.host.calls.len(), 1);
    world.crash();
    world.run();
    world.answer(200, "tock");
    assert_eq!(notes(&world), 1);
    world.pass(60);
    assert_eq!(world.host.calls.len(), 1);
    world.answer(400, "no");
    assert_eq!(notes(&world), 1);
    assert_eq!(world.now.seconds(), START + 240);
}

#[test]
fn results_go_to_the_relays_of_the_request_or_where_the_customer_reads() {
    let mut world = World::new(&manifest(|_| ()));
    let customer = Customer::new(1);
    let relays = ["wss://a.example", "wss://relay.example"].map(|url| vec!["r".to_owned(), url.to_owned()]);
    let draft = relay_agent::identity::Draft {
        created_at: START,
        kind: 10_002,
        tags: relays.into(),
        content: String::new(),
    };
    world.host.store(customer.keys.sign(&draft));
    let sent = |world: &mut World| {
        let sent = std::mem::take(&mut world.host.sent);
        sent.into_iter()
            .map(|(relay, id)| {
                let event = world.host.stored.iter().find(|event| event.id == id).unwrap();
                (relay, event.kind)
            })
            .collect::<Vec<_>>()
    };
    let request = customer.sign(&world.request().tag(&["relays", "wss://b.example", "wss://c.example"]));
    world.deliver(&request);
    let named = [
        ("wss://b.example", 7000),
        ("wss://c.example", 7000),
        ("wss://b.example", 6050),
        ("wss://c.example", 6050),
    ];
    assert_eq!(sent(&mut world), named.map(|(relay, kind)| (relay.to_owned(), kind)));
    for n in ["first", "second"] {
        ask(&mut world, 1, n);
        assert_eq!(sent(&mut world), [("wss://a.example".to_owned(), 6050)]);
    }
    ask(&mut world, 2, "of somebody without a list");
    assert_eq!(sent(&mut world), []);
    assert!(world.agent.is_idle());
}
