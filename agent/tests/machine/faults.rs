//! A database that fails, and a relay that fails.

use relay_agent::executor::HttpEvent;
use relay_agent::job::JobState;
use relay_agent::machine::{Agent, Effect, Published};
use relay_agent::testing::{Customer, Sqlite};
use relay_engine::sql::StoreError;
use relay_engine::types::{Event, Now};
use serde_json::json;

use crate::world::{START, World, context, manifest, owner};

fn full() -> Option<StoreError> {
    Some(StoreError::Full("the disk".to_owned()))
}

#[test]
fn what_is_not_stored_is_not_accepted_and_nothing_is_sent_of_it() {
    let mut world = World::new(&manifest(|_| ()));
    let request = Customer::new(1).sign(&world.request().text("hello"));
    world.sqlite.fail_with(full());
    for _ in 0..3 {
        assert!(world.agent.deliver(world.now, std::slice::from_ref(&request)).is_err());
        assert!(world.agent.poll_effect().is_none());
    }
    world.sqlite.fail_with(None);
    world.deliver(&request);
    assert_eq!(world.statuses(&request.id), ["processing", "result"]);
    assert!(world.agent.is_idle());
}

#[test]
fn a_result_outlives_a_full_disk() {
    let mut world = World::calling(&manifest(|_| ()));
    let request = Customer::new(1).sign(&world.request().text("hello"));
    world.deliver(&request);
    world.sqlite.fail_with(full());
    world.answer(200, "expensive");
    world.pass(300);
    assert_eq!(world.statuses(&request.id), ["processing"]);
    world.sqlite.fail_with(None);
    world.pass(30);
    assert_eq!(world.statuses(&request.id), ["processing", "result"]);
    assert_eq!(world.last(&Customer::new(1), &request.id).1, "expensive");
    assert_eq!(world.agent.metrics().attempts, 1);
    world.crash();
    assert_eq!(world.agent.job(&request.id).unwrap().unwrap().state, JobState::Done);
}

#[test]
fn an_owners_command_that_cannot_be_stored_has_changed_nothing() {
    let mut world = World::new(&manifest(|json| json["announce"] = json!(true)));
    let other = manifest(|json| {
        json["announce"] = json!(true);
        json["about"] = json!("other");
        json["schedules"] = json!([{"every_s": 60, "kind": 5050}]);
    });
    for n in 1.. {
        world.sqlite.fail_at(n);
        let failed = world.agent.deploy(world.now, &other, &owner()).is_err();
        if !failed {
            assert!(n > 3, "{n}");
            break;
        }
        assert_eq!(world.agent.version(), 1);
        assert_eq!(world.agent.manifest().unwrap().about, "");
        // No schedule; the announcement is renewed in some days.
        let is_soon = |at: &Now| (START + 31..START + 86_400).contains(&at.seconds());
        assert_eq!(world.agent.poll_timeout().filter(is_soon), None);
        assert!(world.agent.poll_effect().is_none());
    }
    world.sqlite.fail_with(None);
    assert_eq!(world.agent.deploy(world.now, &other, &owner()), Ok(2));
    world.run();
    assert_eq!(world.host.stored.iter().filter(|event| event.kind == 31_990).count(), 2);
}

/// Deliveries and answers with each statement failing once, with and without a crash afterwards: the router delivers
/// again what was not accepted, and everything is answered once.
#[test]
fn each_statement_may_fail() {
    for is_crashing in [false, true] {
        for failing in 1..200 {
            let mut world = World::calling(&manifest(|json| {
                json["memory"] = json!({"sessions": true});
                json["limits"] = json!({"concurrency": 1});
            }));
            let a = Customer::new(1).sign(&world.request().text("a"));
            let b = Customer::new(1).sign(&world.request().text("b"));
            let malformed = Customer::new(2).sign(&world.request().tag(&["i", "x", "data"]));
            world.sqlite.fail_at(failing);
            let events = [a.clone(), b.clone(), malformed.clone()];
            while world.agent.deliver(world.now, &events).is_err() {
                if is_crashing {
                    world.crash();
                }
            }
            world.run();
            for _ in 0..20 {
                if is_crashing && !world.sqlite.is_armed() {
                    world.sqlite.fail_with(None);
                    world.crash();
                    world.run();
                }
                if !world.host.calls.is_empty() {
                    world.answer(200, "done");
                }
                world.pass(5);
            }
            for request in [&a, &b] {
                assert_eq!(world.statuses(&request.id), ["processing", "result"], "{failing} {is_crashing}");
            }
            assert_eq!(world.statuses(&malformed.id), ["error"], "{failing} {is_crashing}");
            if world.sqlite.is_armed() {
                assert!(failing > 20, "{failing}");
                break;
            }
        }
    }
}

#[test]
fn each_statement_of_opening_may_fail() {
    let sqlite = Sqlite::new();
    for failing in 1.. {
        sqlite.fail_at(failing);
        if Agent::open(Now::from_seconds(START), sqlite.clone(), context(0)).is_ok() {
            assert!(failing > 5);
            break;
        }
    }
    sqlite.fail_with(None);
    let mut agent = Agent::open(Now::from_seconds(START), sqlite.clone(), context(0)).unwrap();
    agent.deploy(Now::from_seconds(START), &manifest(|_| ()), &owner()).unwrap();
}

#[test]
fn a_database_of_another_schema_version_is_refused() {
    use relay_engine::sql::SqlConn;
    let sqlite = Sqlite::new();
    drop(Agent::open(Now::from_seconds(START), sqlite.clone(), context(0)).unwrap());
    sqlite.exec("UPDATE agent_meta SET value = x'3939' WHERE name = x'736368656d61'", &[]).unwrap();
    let error = Agent::open(Now::from_seconds(START), sqlite, context(0)).err().unwrap();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
}

#[test]
fn what_the_relay_does_not_take_now_is_published_later_in_its_order() {
    let mut world = World::new(&manifest(|_| ()));
    let failed = || Published::Failed("busy".to_owned());
    let requests: Vec<Event> =
        (0..3).map(|n| Customer::new(1).sign(&world.request().text(&n.to_string()))).collect();
    world.host.outcomes = [Published::Accepted, failed(), failed()].into();
    world.agent.deliver(world.now, &requests).unwrap();
    world.run();
    assert_eq!(world.host.stored.len(), 1);
    assert!(world.agent.poll_timeout().is_some());
    world.pass(10);
    for request in &requests {
        assert_eq!(world.statuses(&request.id), ["processing", "result"]);
    }
    assert!(world.agent.is_idle() && world.agent.poll_timeout().is_none());
}

/// A host tries events in their order. One that does not, and has the result but not the feedback before it, is not given the
/// feedback again.
#[test]
fn feedback_never_follows_a_result() {
    let mut world = World::new(&manifest(|_| ()));
    let request = Customer::new(1).sign(&world.request().text("hello"));
    world.agent.deliver(world.now, std::slice::from_ref(&request)).unwrap();
    let Some(Effect::Publish { id, events, .. }) = world.agent.poll_effect() else { panic!() };
    world.host.store(events[1].clone());
    let outcomes = [Published::Failed("busy".to_owned()), Published::Accepted];
    world.agent.handle_published(world.now, id, &outcomes);
    world.pass(60);
    assert_eq!(world.statuses(&request.id), ["result"]);
}

#[test]
fn a_result_that_the_relay_refuses_is_an_error() {
    let mut world = World::new(&manifest(|_| ()));
    world.host.outcomes =
        [Published::Accepted, Published::Refused("blocked: no such kinds".to_owned())].into();
    let request = Customer::new(1).sign(&world.request().text("hello"));
    world.deliver(&request);
    assert_eq!(world.statuses(&request.id), ["processing", "error"]);
    let message = "the relay does not take the result: blocked: no such kinds";
    assert_eq!(world.last(&Customer::new(1), &request.id).1, message);
    let job = world.agent.job(&request.id).unwrap().unwrap();
    assert_eq!((job.state, job.cause.as_str()), (JobState::Failed, "result_refused"));
    let answers = world.host.answers_to(&request.id);
    assert!(answers[0].1.created_at < answers[1].1.created_at);
}

/// While the relay is gone, what waits for it is in the database, and comes in order when it is back.
#[test]
fn a_long_outbox_is_not_in_memory_and_keeps_its_order() {
    let mut world = World::new(&manifest(|json| json["limits"] = json!({"per_customer_per_min": 10_000})));
    // A host that does not answer for the first publication.
    let mut requests = Vec::new();
    for n in 0..400 {
        let relay = format!("wss://r{}.example", n % 7);
        let request = Customer::new(1).sign(&world.request().text(&n.to_string()).tag(&["relays", &relay]));
        world.agent.deliver(world.now, std::slice::from_ref(&request)).unwrap();
        requests.push(request);
    }
    let first = world.agent.poll_effect().expect("the first publication");
    assert!(world.agent.poll_effect().is_none(), "one at a time");
    world.host.carry_out(world.now, &mut world.agent, first);
    world.run();
    for request in &requests {
        assert_eq!(world.statuses(&request.id), ["processing", "result"]);
    }
    assert_eq!(world.host.repeated, 0);
    assert!(world.agent.is_idle());
}

/// Whoever floods, hangs or lies: an executor's host that misbehaves costs a job, not the agent.
#[test]
fn events_out_of_order_change_nothing() {
    let mut world = World::calling(&manifest(|_| ()));
    let request = Customer::new(1).sign(&world.request().text("hello"));
    world.deliver(&request);
    let (id, _) = world.host.calls.remove(0);
    let unknown = relay_agent::machine::EffectId(999);
    world.agent.handle_http(world.now, unknown, HttpEvent::End);
    world.agent.handle_events(world.now, id, Ok(Vec::new()));
    world.agent.handle_published(world.now, id, &[Published::Accepted]);
    world.run();
    assert_eq!(world.statuses(&request.id), ["processing"]);
    world.pass(200);
    assert_eq!(world.statuses(&request.id), ["processing", "error"]);
}
