//! What an agent remembers: sessions with customers, its history; and what it does by itself.

use relay_agent::job::JobState;
use relay_agent::machine::{Agent, AgentState, CommandError};
use relay_agent::testing::{Customer, Sqlite};
use relay_engine::types::{Event, PubKey};
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
    assert_eq!(there.take_metrics_delta(), None, "this host has not done it");
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

#[test]
fn what_was_said_in_secret_is_no_history_of_a_public_job() {
    use relay_agent::cipher::Cipher;
    let mut world = remembering();
    let agent = world.pubkey();
    let secret = |world: &mut World, text: &str| {
        let request = world.request().text(text).encrypted(Cipher::Nip44, &agent);
        world.deliver(&Customer::new(1).sign(&request));
    };
    secret(&mut world, "my diary");
    world.answer(200, "noted");
    ask(&mut world, 1, "what do you know?");
    assert_eq!(body(&world), "what do you know?");
    world.answer(200, "nothing");
    world.crash();
    secret(&mut world, "and now?");
    let said = "User: my diary\nAssistant: noted\nUser: what do you know?\nAssistant: nothing\nand now?";
    assert_eq!(body(&world), said);
}

fn vanish(customer: u64, at: u64) -> Event {
    let draft = relay_agent::identity::Draft {
        created_at: at,
        kind: 62,
        tags: vec![vec!["relay".to_owned(), "ALL_RELAYS".to_owned()]],
        content: String::new(),
    };
    Customer::new(customer).keys.sign(&draft)
}

/// Everybody can publish once more what somebody else has signed long ago.
#[test]
fn a_request_to_vanish_is_about_what_was_before_it() {
    let mut world = remembering();
    let old = ask(&mut world, 1, "old");
    world.answer(200, "old answer");
    world.pass(100);
    let done = ask(&mut world, 1, "new");
    world.answer(200, "new answer");
    let running = ask(&mut world, 1, "running");
    world.deliver(&vanish(1, START + 50));
    let record = |world: &World, event: &Event| world.agent.job(&event.id).unwrap().unwrap();
    assert!(record(&world, &old).request.is_null());
    assert_eq!(record(&world, &done).request["id"], json!(done.id.to_string()));
    assert_eq!(record(&world, &running).state, JobState::Running);
    let session = world.agent.session(&Customer::new(1).pubkey()).unwrap().unwrap();
    let said: Vec<&str> = session.messages.iter().map(|said| said.text.as_str()).collect();
    assert_eq!(said, ["new", "new answer"]);
    let waiting = ask(&mut world, 1, "of the same second");
    let now = world.now.seconds();
    world.deliver(&vanish(1, now));
    assert_eq!(record(&world, &waiting).state, JobState::Cancelled);
    assert!(record(&world, &done).request.is_null());
    assert_eq!(world.agent.session(&Customer::new(1).pubkey()), Ok(None));
}

#[test]
fn what_is_forgotten_is_not_forgotten_again() {
    let mut world = World::new(&manifest(|json| json["limits"] = json!({"per_customer_per_min": 1000})));
    (0..50).for_each(|n| drop(ask(&mut world, 1, &n.to_string())));
    let now = world.now.seconds();
    world.deliver(&vanish(1, now));
    let before = world.sqlite.rows_written();
    (1..20).for_each(|n| world.deliver(&vanish(1, now + n)));
    assert_eq!(world.sqlite.rows_written() - before, 0);
}

/// An export with as many finished jobs as `received` says, each with so many bytes of request; the oldest first.
fn history(world: &World, received: impl Iterator<Item = u64>, bytes: usize) -> serde_json::Value {
    let mut jobs: Vec<_> = received
        .enumerate()
        .map(|(n, millis)| {
            json!({"number": n, "id": format!("{n:064x}"), "customer": "ab".repeat(32), "kind": 5050,
                "state": "done", "received_at": millis, "finished_at": millis, "version": 1, "attempts": 1,
                "cost_msat": 0, "partials": 0, "request": {"text": "x".repeat(bytes)}, "sent": []})
        })
        .collect();
    jobs.reverse();
    let mut export = world.agent.export().unwrap();
    export["jobs"] = json!(jobs);
    export
}

const HOUR: u64 = 3_600_000;

#[test]
fn a_refused_request_is_not_kept() {
    let mut world = World::new(&manifest(|_| ()));
    let refused = Customer::new(1).sign(&world.request().text("x").tag(&["i", "y", "data"]));
    world.deliver(&refused);
    let job = world.agent.job(&refused.id).unwrap().unwrap();
    assert_eq!((job.state, job.request.is_null()), (JobState::Rejected, true));
    assert_eq!(job.sent.len(), 1);
    world.deliver(&refused);
    assert_eq!(world.agent.metrics().duplicates, 1);
}

#[test]
fn of_the_history_the_newest_jobs_are_kept() {
    let mut world = World::new(&manifest(|_| ()));
    let now = world.now.millis();
    // All of them three days old.
    let export = history(&world, (0..10_600).map(|n| now - 72 * HOUR + n), 10);
    world.agent.import(world.now, &export).unwrap();
    let mut jobs = Vec::new();
    for n in 0..5 {
        let before = world.sqlite.rows_written();
        ask(&mut world, 1, &n.to_string());
        jobs.push(world.agent.memory().unwrap().jobs);
        assert!(world.sqlite.rows_written() - before < 1_100, "in steps");
    }
    assert_eq!(jobs, [10_601 - 256, 10_602 - 512, 10_000, 10_001, 10_002]);
    world.pass(7_200);
    ask(&mut world, 1, "an hour later");
    assert_eq!(world.agent.memory().unwrap().jobs, 10_000);
    let is_kept = |n: u64| world.agent.job(&format!("{n:064x}").parse().unwrap()).unwrap().is_some();
    assert_eq!((is_kept(605), is_kept(606)), (false, true));
}

#[test]
fn of_the_history_a_month_is_kept() {
    let mut world = World::new(&manifest(|_| ()));
    let days = [100, 31, 29, 3, 1];
    let export = history(&world, days.iter().map(|days| world.now.millis() - days * 24 * HOUR), 10);
    world.agent.import(world.now, &export).unwrap();
    ask(&mut world, 1, "now");
    let is_kept = |n: usize| world.agent.job(&format!("{n:064x}").parse().unwrap()).unwrap().is_some();
    assert_eq!([0, 1, 2, 3, 4].map(is_kept), [false, false, true, true, true]);
}

/// A request that is still answered when it comes again must be known.
#[test]
fn texts_beyond_the_budget_are_forgotten_and_their_jobs_are_known() {
    let mut world = World::new(&manifest(|_| ()));
    let now = world.now.millis();
    let export = history(&world, (0..80).map(|n| now - HOUR + n), 1 << 20);
    world.agent.import(world.now, &export).unwrap();
    ask(&mut world, 1, "now");
    let has_text = |n: usize| {
        let job = world.agent.job(&format!("{n:064x}").parse().unwrap()).unwrap().expect("it is known");
        !job.request.is_null()
    };
    assert_eq!((0..80).filter(|n| has_text(*n)).collect::<Vec<_>>(), (17..80).collect::<Vec<_>>());
}

#[test]
fn a_request_of_the_day_after_tomorrow_is_not_answered() {
    let mut world = World::new(&manifest(|_| ()));
    for (ahead, is_answered) in [(86_000, true), (90_000, false)] {
        let at = world.now.seconds() + ahead;
        let request = relay_agent::testing::Request::new(5050, at).to(&world.pubkey()).text("x");
        let request = Customer::new(1).sign(&request);
        world.deliver(&request);
        assert_eq!(!world.statuses(&request.id).is_empty(), is_answered, "{ahead}");
    }
}

#[test]
fn of_all_sessions_the_latest_are_kept() {
    let remembering = manifest(|json| json["memory"] = json!({"sessions": true, "ttl_days": 365}));
    let mut world = World::new(&remembering);
    let mut export = world.agent.export().unwrap();
    let now = world.now.seconds();
    let session = |n: u64| {
        json!({"customer": format!("{n:064x}"), "updated_at": now - n,
            "messages": [{"at": now - n, "is_agent": false, "text": "hello"}]})
    };
    export["sessions"] = json!((1..=10_050).map(session).collect::<Vec<_>>());
    world.agent.import(world.now, &export).unwrap();
    world.pass(3_600);
    ask(&mut world, 1, "an hour later");
    let has = |world: &World, n: u64| {
        let customer: PubKey = format!("{n:064x}").parse().unwrap();
        world.agent.session(&customer).unwrap().is_some()
    };
    assert_eq!(world.agent.memory().unwrap().sessions, 10_000);
    assert_eq!((has(&world, 1), has(&world, 9_999), has(&world, 10_000)), (true, true, false));
    assert!(world.agent.session(&Customer::new(1).pubkey()).unwrap().is_some());
}
