//! What an owner does with an agent, and how it is found.

use relay_agent::job::JobState;
use relay_agent::machine::{Agent, AgentState, CommandError, Context, Published};
use relay_agent::nip90;
use relay_agent::testing::{Customer, FakeHost, Sqlite};
use relay_engine::types::{Event, Now};
use serde_json::json;

use crate::world::{START, World, context, manifest, owner};

fn asked(world: &mut World, text: &str) -> Event {
    let request = Customer::new(1).sign(&world.request().text(text));
    world.deliver(&request);
    request
}

fn kinds(host: &FakeHost) -> Vec<u16> {
    host.stored.iter().map(|event| event.kind).collect()
}

#[test]
fn a_manifest_is_a_version_and_the_same_one_is_not_another() {
    let mut world = World::new(&manifest(|_| ()));
    assert_eq!(world.agent.version(), 1);
    assert_eq!(world.agent.deploy(world.now, &manifest(|_| ()), &owner()), Ok(1));
    let second = manifest(|json| json["about"] = json!("second"));
    assert_eq!(world.agent.deploy(world.now, &second, &owner()), Ok(2));
    let other = Customer::new(5).pubkey();
    assert_eq!(world.agent.rollback(world.now, 1, &other), Ok(3));
    assert_eq!(world.agent.rollback(world.now, 7, &other), Err(CommandError::NotFound));
    world.crash();
    assert_eq!(world.agent.manifest(), Some(&manifest(|_| ())));
    let versions = world.agent.versions().unwrap();
    let summary: Vec<_> = versions
        .iter()
        .map(|version| (version.version, version.deployed_by.clone(), version.is_current))
        .collect();
    let (first, third) = (owner().to_string(), other.to_string());
    assert_eq!(summary, [(1, first.clone(), false), (2, first, false), (3, third, true)]);
    assert_eq!(world.agent.owner(), Some(owner()), "whoever deployed it first");
    assert_eq!(world.agent.manifest_of_version(2).unwrap(), Some(second));
}

#[test]
fn another_key_is_another_agent() {
    let mut world = World::new(&manifest(|_| ()));
    let renamed = manifest(|json| json["name"] = json!("Other"));
    assert_eq!(world.agent.deploy(world.now, &renamed, &owner()), Err(CommandError::OtherKey));
    let same = manifest(|json| {
        json["name"] = json!("Other");
        json["identity"] = json!({"derived": {"account": relay_agent::identity::account_of("Tester")}});
    });
    assert_eq!(world.agent.deploy(world.now, &same, &owner()), Ok(2));
    let wanted = manifest(|json| json["pubkey"] = json!("ab".repeat(32)));
    let Err(CommandError::Manifest(error)) = world.agent.deploy(world.now, &wanted, &owner()) else {
        panic!()
    };
    assert_eq!(error.path, "pubkey");
    let imported = manifest(|json| json["identity"] = json!({"imported": {"secret": "AGENT_KEY"}}));
    let error = CommandError::Identity("secret AGENT_KEY is not set".to_owned());
    assert_eq!(world.agent.deploy(world.now, &imported, &owner()), Err(error));
    assert_eq!(world.agent.version(), 2);
}

#[test]
fn jobs_finish_with_the_version_with_which_they_began() {
    let handler = |param: &str| {
        manifest(|json| {
            json["handlers"][0]["params"] = json!({"from": {"default": param}});
            json["limits"] = json!({"concurrency": 1});
        })
    };
    let mut world = World::calling(&handler("first"));
    let running = asked(&mut world, "running");
    let queued = asked(&mut world, "queued");
    world.agent.deploy(world.now, &handler("second"), &owner()).unwrap();
    world.run();
    world.answer(503, "again");
    // Its turn comes while the first one waits for its second attempt.
    assert_eq!(&world.host.calls[0].1.body[..], b"queued\nfrom=second");
    world.answer(200, "done");
    world.pass(10);
    assert_eq!(&world.host.calls[0].1.body[..], b"running\nfrom=first");
    world.answer(200, "done");
    let version = |request: &Event| world.agent.job(&request.id).unwrap().unwrap().version;
    assert_eq!((version(&running), version(&queued)), (1, 2));
}

#[test]
fn jobs_that_wait_for_a_kind_that_is_gone_are_told_so() {
    let mut world = World::calling(&manifest(|json| json["limits"] = json!({"concurrency": 1})));
    asked(&mut world, "running");
    let queued = asked(&mut world, "queued");
    let other = manifest(|json| json["handlers"][0]["kind"] = json!(5100));
    world.agent.deploy(world.now, &other, &owner()).unwrap();
    world.run();
    let (status, message) = world.last(&Customer::new(1), &queued.id);
    assert_eq!((status.as_str(), message.as_str()), ("error", "kind 5050 is no longer supported"));
    world.answer(200, "done");
}

#[test]
fn a_paused_agent_takes_no_jobs_and_keeps_those_it_has() {
    let mut world = World::calling(&manifest(|json| json["limits"] = json!({"concurrency": 1})));
    let running = asked(&mut world, "running");
    let queued = asked(&mut world, "queued");
    world.agent.set_state(world.now, AgentState::Paused).unwrap();
    let refused = asked(&mut world, "refused");
    let message = "this agent is paused and takes no new jobs";
    assert_eq!(world.last(&Customer::new(1), &refused.id), ("error".to_owned(), message.to_owned()));
    world.answer(200, "done");
    assert_eq!(world.statuses(&running.id), ["processing", "result"]);
    assert_eq!(world.host.calls.len(), 0);
    world.crash();
    world.run();
    assert_eq!(world.host.calls.len(), 0);
    world.agent.set_state(world.now, AgentState::Active).unwrap();
    world.run();
    world.answer(200, "done");
    assert_eq!(world.statuses(&queued.id), ["processing", "result"]);
}

#[test]
fn a_draining_agent_finishes_what_it_has() {
    let mut world = World::calling(&manifest(|json| json["limits"] = json!({"concurrency": 1})));
    let jobs = [asked(&mut world, "a"), asked(&mut world, "b")];
    world.agent.set_state(world.now, AgentState::Draining).unwrap();
    assert_eq!(
        world.agent.set_state(world.now, AgentState::Paused),
        Err(CommandError::State(AgentState::Draining))
    );
    let refused = asked(&mut world, "refused");
    assert_eq!(world.statuses(&refused.id), ["error"]);
    world.answer(200, "done");
    world.answer(200, "done");
    for job in &jobs {
        assert_eq!(world.statuses(&job.id), ["processing", "result"]);
    }
    assert!(world.agent.is_idle());
}

#[test]
fn a_deleted_agent_answers_what_is_open_retracts_and_forgets() {
    let mut world = World::calling(&manifest(|json| {
        json["announce"] = json!(true);
        json["limits"] = json!({"concurrency": 1});
        json["memory"] = json!({"sessions": true});
    }));
    let done = asked(&mut world, "done");
    world.answer(200, "done");
    let open = [asked(&mut world, "running"), asked(&mut world, "queued")];
    let announced =
        world.host.stored.iter().find(|event| event.kind == nip90::KIND_ANNOUNCEMENT).unwrap().clone();
    world.agent.set_state(world.now, AgentState::Deleted).unwrap();
    // It dies before it has published anything of that.
    world.crash();
    world.run();
    for job in &open {
        assert_eq!(world.statuses(&job.id), ["processing", "error"]);
        assert_eq!(world.last(&Customer::new(1), &job.id).1, "the agent has been deleted");
    }
    let retraction = world.host.stored.iter().find(|event| event.kind == nip90::KIND_DELETION).unwrap();
    assert!(retraction.created_at > announced.created_at);
    assert_eq!(world.agent.state(), Some(AgentState::Deleted));
    assert_eq!(world.agent.job(&done.id), Ok(None));
    assert_eq!(world.agent.versions(), Ok(Vec::new()));
    assert_eq!(world.agent.sessions(10), Ok(Vec::new()));
    assert_eq!(world.agent.logs(0, 10), Ok(Vec::new()));
    world.deliver(&Customer::new(1).sign(&world.request().text("nobody is there")));
    assert!(world.agent.is_idle());
    assert_eq!(world.agent.poll_timeout(), None);
    let state = AgentState::Deleted;
    assert_eq!(world.agent.set_state(world.now, AgentState::Active), Err(CommandError::State(state)));

    // The same agent again is announced later than it was retracted.
    let again = manifest(|json| json["announce"] = json!(true));
    world.agent.deploy(world.now, &again, &owner()).unwrap();
    world.run();
    let last = world.host.stored.iter().rfind(|event| event.kind == nip90::KIND_ANNOUNCEMENT).unwrap();
    let retraction = world.host.stored.iter().find(|event| event.kind == nip90::KIND_DELETION).unwrap();
    assert!(last.created_at > retraction.created_at);
    assert_eq!(world.agent.state(), Some(AgentState::Active));
}

#[test]
fn an_agent_is_announced_when_what_is_announced_has_changed() {
    let announced = |change: &dyn Fn(&mut serde_json::Value)| {
        manifest(|json| {
            json["announce"] = json!(true);
            json["relays"] = json!(["wss://other.example"]);
            change(json);
        })
    };
    let mut world = World::new(&announced(&|_| ()));
    assert_eq!(kinds(&world.host), [0, 10_002, 10_050, 31_990]);
    assert_eq!(world.host.sent.len(), 4);
    assert!(world.host.sent.iter().all(|(relay, _)| relay == "wss://other.example"));
    let deploy = |world: &mut World, change: &dyn Fn(&mut serde_json::Value)| {
        world.host.stored.clear();
        world.agent.deploy(world.now, &announced(change), &owner()).unwrap();
        world.run();
        kinds(&world.host)
    };
    assert_eq!(deploy(&mut world, &|json| json["limits"] = json!({"queue": 5})), [0u16; 0]);
    assert_eq!(deploy(&mut world, &|json| json["about"] = json!("new")), [0, 10_002, 10_050, 31_990]);
    assert!(world.host.stored.iter().all(|event| event.created_at > START));
    assert_eq!(deploy(&mut world, &|json| json["announce"] = json!(false)), [5]);
    assert_eq!(deploy(&mut world, &|json| json["announce"] = json!(false)), [0u16; 0]);
    let times: Vec<u64> = world.host.stored.iter().map(|event| event.created_at).collect();
    assert!(times.is_sorted());
}

#[test]
fn what_an_empty_database_answers() {
    let mut agent = Agent::open(Now::from_seconds(START), Sqlite::new(), context(0)).unwrap();
    assert_eq!((agent.state(), agent.pubkey(), agent.version()), (None, None, 0));
    assert_eq!(agent.set_state(Now::from_seconds(START), AgentState::Paused), Err(CommandError::NotFound));
    let request = Customer::new(1).sign(&relay_agent::testing::Request::new(5050, START));
    assert_eq!(agent.deliver(Now::from_seconds(START), &[request]), Ok(()));
    assert!(agent.is_idle() && agent.poll_effect().is_none());
}

/// Nothing is accepted, so that the router keeps it; and nothing that was accepted is lost.
#[test]
fn without_its_secret_it_accepts_nothing_and_goes_on_when_it_has_it_again() {
    let mut world = World::calling(&manifest(|_| ()));
    let request = asked(&mut world, "hello");
    let secrets = |_: &str| None;
    let without =
        Context { secrets: std::sync::Arc::new(secrets), relay_url: None, blossom: None, seed: [9; 32] };
    let mut agent = Agent::open(world.now, world.sqlite.clone(), without).unwrap();
    assert_eq!(agent.error(), Some("secret AGENT_MASTER_SECRET is not set"));
    let other = Customer::new(2).sign(&world.request().text("new"));
    assert!(agent.deliver(world.now, std::slice::from_ref(&other)).is_err());
    assert_eq!(agent.poll_timeout(), None);
    agent.handle_timeout(world.now.plus_millis(86_400_000));
    assert!(agent.poll_effect().is_none());
    assert_eq!(agent.job(&request.id).unwrap().unwrap().state, JobState::Running);
    drop(agent);
    world.crash();
    world.run();
    world.answer(200, "done");
    assert_eq!(world.statuses(&request.id), ["processing", "result"]);
}

/// What cannot be stored must not keep its owner from ending it.
#[test]
fn an_agent_whose_store_takes_no_more_texts_can_be_paused_and_deleted() {
    let busy = || {
        let mut world = World::calling(&manifest(|json| json["memory"] = json!({"sessions": true})));
        let first = asked(&mut world, "first");
        asked(&mut world, "second");
        // A result cannot be stored, and nothing is accepted meanwhile.
        world.sqlite.take_rows_of_at_most(2_500);
        world.answer(200, &"x".repeat(4_000));
        let third = Customer::new(1).sign(&world.request().text("third"));
        assert!(world.agent.deliver(world.now, &[third]).is_err());
        (world, first)
    };
    let (mut world, first) = busy();
    world.agent.set_state(world.now, AgentState::Paused).unwrap();
    assert_eq!(world.agent.state(), Some(AgentState::Paused));
    world.sqlite.take_rows_of_at_most(2_000_000);
    world.pass(60);
    assert_eq!(world.statuses(&first.id), ["processing", "result"], "nothing is lost by that");

    let (mut world, first) = busy();
    world.agent.set_state(world.now, AgentState::Deleted).unwrap();
    assert_eq!(world.agent.state(), Some(AgentState::Deleted));
    world.crash();
    world.sqlite.take_rows_of_at_most(2_000_000);
    world.run();
    assert_eq!(world.agent.job(&first.id), Ok(None));
    assert!(world.agent.is_idle() && world.agent.poll_timeout().is_none());
}

/// Clients list announcements of the last week only.
#[test]
fn what_is_announced_is_announced_again_every_few_days() {
    let mut world = World::new(&manifest(|json| json["announce"] = json!(true)));
    let times = |world: &World, kind: u16| -> Vec<u64> {
        let of_kind = world.host.stored.iter().filter(|event| event.kind == kind);
        of_kind.map(|event| event.created_at).collect()
    };
    assert_eq!(times(&world, 31_990), [START]);
    let wake = world.agent.poll_timeout().unwrap().seconds();
    assert!((START + 3 * 86_400..START + 4 * 86_400).contains(&wake), "nothing else wakes it: {wake}");
    world.crash();
    assert_eq!(world.agent.poll_timeout().unwrap().seconds(), wake, "an opening changes nothing");
    world.pass(30 * 86_400);
    for kind in [0, 10_002, 31_990] {
        let times = times(&world, kind);
        assert!((8..=11).contains(&times.len()), "kind {kind}: {times:?}");
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= 4 * 86_400), "kind {kind}: {times:?}");
    }
    let before = world.host.stored.len();
    world.agent.set_state(world.now, AgentState::Paused).unwrap();
    world.run();
    world.pass(10 * 86_400);
    assert_eq!(world.host.stored.len(), before, "one that takes no jobs is not");
    world.agent.set_state(world.now, AgentState::Active).unwrap();
    world.pass(1);
    assert!(world.host.stored.len() > before);
}

#[test]
fn what_was_signed_while_the_clock_was_wrong_is_given_up() {
    let mut world = World::new(&manifest(|_| ()));
    let too_new = || Published::Failed("invalid: created_at is too far in the future".to_owned());
    let customer = Customer::new(1);
    // A little ahead: it is tried until its time has come.
    let request = customer.sign(&world.request().text("soon"));
    world.host.outcomes.extend([too_new(), too_new()]);
    world.deliver(&request);
    world.pass(60);
    assert_eq!(world.statuses(&request.id), ["processing", "result"]);
    // The clock is set back by a day.
    let request = customer.sign(&world.request().text("tomorrow"));
    world.host.store(request.clone());
    world.agent.deliver(world.now, std::slice::from_ref(&request)).unwrap();
    world.now = Now::from_seconds(START - 86_400);
    world.host.outcomes.extend([too_new(), too_new()]);
    world.run();
    assert_eq!(world.agent.job(&request.id).unwrap().unwrap().state, JobState::Failed);
}
