//! Agents beside the relay: every job that the relay has accepted is answered once, whatever loses its memory.

use relay_agent::api::{self, Caller};
use relay_agent::executor::HttpEvent;
use relay_agent::identity::npub;
use relay_agent::machine::AgentState;
use relay_agent::router::AgentEntry;
use relay_edge::agent::{RESPONSE_MEMORY_MAX, WORK_MEMORY_MAX, is_opened};
use relay_edge::metrics::{render, without_names};
use relay_edge::object::{NextTick, RowCountingConn};
use relay_edge::settings::Settings;
use relay_edge::shard::Shards;
use relay_engine::testing::Rng;
use relay_engine::testing::signing::{Draft, Signed, event, key};
use relay_engine::types::PubKey;
use relay_site::AgentRoute;
use relay_site::AgentSettings;

use super::agents_world::World;
use super::sqlite::Sqlite;
use super::world::{Hibernates, Runtime};

const ECHO: &str = r#"{"name":"echo","handlers":[{"kind":5050,"executor":"echo"}]}"#;
const WEBHOOK: &str = r#"{"name":"hook","handlers":[{"kind":5100,"executor":"webhook",
    "config":{"url":"https://hook.example/job"}}],"limits":{"timeout_s":300}}"#;
const HEARTBEAT: u16 = 11_998;

fn world() -> (World, PubKey) {
    let mut world = World::new(Settings::default());
    let agent = world.deploy(ECHO);
    // Publishing its announcements has set an alarm, which looks whether the relay has answered.
    world.advance(60);
    (world, agent)
}

fn request_of(world: &World, agent: &PubKey, kind: u16) -> Draft {
    event(&key(1)).kind(kind).at(world.relay.now.seconds()).tag(["p", &agent.to_string()])
}

fn request(world: &World, agent: &PubKey, text: &str) -> Signed {
    request_of(world, agent, 5_050).tag(["i", text, "text"]).sign()
}

#[track_caller]
fn is_answered(world: &World, request: &Signed, text: &str) {
    let answers = world.answers(request);
    let found: Vec<(&str, &str)> = answers.iter().map(|(status, text)| (&**status, &**text)).collect();
    assert_eq!(found, [("processing", ""), ("result", text)]);
}

/// Whether its alarm is that of its announcement.
fn sleeps_for_days(world: &World, agent: &PubKey) -> bool {
    let alarm = world.agents[agent].host.alarm.get();
    alarm.is_some_and(|at| at.millis_since(world.relay.now) > 2 * 86_400_000)
}

#[test]
fn a_job_takes_one_request_to_its_agent_and_another_to_confirm_its_answers() {
    let (mut world, agent) = world();
    let before = world.agents[&agent].requests;
    let job = request(&world, &agent, "hello");
    world.publish(&job);
    world.run();
    is_answered(&world, &job, "hello");
    assert_eq!(world.agents[&agent].requests - before, 1);
    world.advance(5);
    assert_eq!(world.agents[&agent].requests - before, 2);
    assert!(sleeps_for_days(&world, &agent));
    world.advance(3_600);
    assert_eq!(world.agents[&agent].requests - before, 2);
}

#[test]
fn an_announcement_is_renewed_by_one_alarm_and_waking_up_sets_none() {
    let (mut world, agent) = world();
    let announced_at = |world: &World| {
        let stored = world.stored();
        let found: Vec<u64> =
            stored.iter().filter(|event| event.kind == 31_990).map(|event| event.created_at).collect();
        assert_eq!(found.len(), 1, "each replaces the one before");
        found[0]
    };
    let (first, set) = (announced_at(&world), world.agents[&agent].host.alarms_set.get());
    for n in 0..5 {
        world.evict_agents();
        let job = request(&world, &agent, &n.to_string());
        world.publish(&job);
        world.run();
        is_answered(&world, &job, &n.to_string());
        world.advance(5);
    }
    assert_eq!(world.agents[&agent].host.alarms_set.get(), set, "it survives");
    assert!(sleeps_for_days(&world, &agent));
    world.evict_agents();
    let before = world.agents[&agent].requests;
    world.relay.now = world.agents[&agent].host.alarm.get().unwrap();
    world.advance(60);
    assert!(announced_at(&world) >= first + 3 * 86_400);
    assert!(sleeps_for_days(&world, &agent), "until the next time");
    assert!(
        world.agents[&agent].requests - before <= 2,
        "the alarm, and one that looks whether it is published"
    );
}

/// A customer who knows the id of an event for others only must not get it through an agent.
#[test]
fn an_agent_reads_what_everybody_may_read() {
    let (mut world, agent) = world();
    let at = world.relay.now.seconds();
    let wrap = event(&key(2)).kind(1_059).at(at).tag(["p", key(3).hex()]).content("for you only").sign();
    let note = event(&key(2)).kind(1).at(at).content("for everybody").sign();
    for (input, expected) in
        [(&wrap, ("error", " is not on this relay")), (&note, ("result", "for everybody"))]
    {
        world.publish(input);
        let job = request_of(&world, &agent, 5_050).tag(["i", &input.id, "event"]).sign();
        world.publish(&job);
        world.run();
        world.advance(5);
        let answers = world.answers(&job);
        let (status, text) = answers.last().unwrap();
        assert!(*status == expected.0 && text.ends_with(expected.1), "{answers:?}");
    }
}

#[test]
fn jobs_that_come_one_after_the_other_share_confirmations_with_deliveries() {
    let (mut world, agent) = world();
    let before = world.agents[&agent].requests;
    let jobs: Vec<Signed> = (0..50).map(|n| request(&world, &agent, &n.to_string())).collect();
    for job in &jobs {
        world.publish(job);
        world.run();
    }
    for (n, job) in jobs.iter().enumerate() {
        is_answered(&world, job, &n.to_string());
    }
    assert_eq!(world.agents[&agent].requests - before, 50);
}

#[test]
fn jobs_that_come_together_share_a_request() {
    let (mut world, agent) = world();
    let before = world.agents[&agent].requests;
    let jobs: Vec<Signed> = (0..50).map(|n| request(&world, &agent, &n.to_string())).collect();
    let socket = world.relay.connect().unwrap();
    for job in &jobs {
        world.relay.text(socket.key, &format!(r#"["EVENT",{}]"#, job.json()));
    }
    world.run();
    for (n, job) in jobs.iter().enumerate() {
        is_answered(&world, job, &n.to_string());
    }
    world.advance(5);
    let requests = world.agents[&agent].requests - before;
    assert!(requests <= 5, "{requests} requests for 50 jobs");
}

#[test]
fn an_idle_agent_costs_its_heartbeats_and_nothing_else() {
    let (mut world, agent) = world();
    world.advance(300);
    let place = &world.agents[&agent];
    let (requests, rows) = (place.requests, place.store.as_ref().unwrap().rows().written);
    let (heartbeats, alarms) = (world.published(&agent, HEARTBEAT), world.relay.alarms);
    world.advance(2_400);
    let place = &world.agents[&agent];
    assert_eq!(place.requests, requests);
    assert_eq!(place.store.as_ref().unwrap().rows().written, rows);
    assert_eq!(world.published(&agent, HEARTBEAT), heartbeats, "each replaces the one before");
    assert_eq!(world.relay.alarms - alarms, 10, "one alarm for each heartbeat");
}

#[test]
fn a_relay_without_agents_does_nothing_for_them() {
    let enabled = Settings::default();
    let disabled = Settings {
        agents: AgentSettings { enabled: false, ..AgentSettings::default() },
        ..Settings::default()
    };
    let costs = [enabled, disabled].map(|settings| {
        let mut runtime = Runtime::new(settings, Hibernates::Never);
        let socket = runtime.connect().unwrap();
        let before = runtime.store.rows().written;
        for n in 0..1_500 {
            let at = runtime.now.seconds();
            let job = event(&key(1)).kind(5_050).at(at).content(n.to_string()).sign();
            runtime.text(socket.key, &format!(r#"["EVENT",{}]"#, job.json()));
            runtime.drive();
        }
        assert_eq!(runtime.next, NextTick::None);
        (runtime.store.rows().written - before, runtime.host.alarms_set.get())
    });
    assert_eq!(costs[0], costs[1]);
    assert_eq!(costs[0].1, 0);
}

#[test]
fn waking_up_sets_no_alarm() {
    let (mut world, _) = world();
    let set = world.relay.host.alarms_set.get();
    for _ in 0..20 {
        world.relay.evict();
        world.relay.next = NextTick::Soon;
        world.run();
    }
    assert_eq!(world.relay.host.alarms_set.get(), set);
    assert!(world.relay.host.alarm.get().is_some(), "the one that was set is still there");
}

#[test]
fn a_request_for_a_key_that_is_nobodys_leaves_an_empty_object() {
    let store = Sqlite::new();
    assert_eq!(is_opened(&store), Ok(false));
    assert_eq!(store.rows().written, 0);
    let (world, agent) = world();
    assert_eq!(is_opened(world.agents[&agent].store.as_ref().unwrap()), Ok(true));
    store.is_broken.set(true);
    assert!(is_opened(&store).is_err());
}

/// What loses its memory.
type Loss = fn(&mut World);
const LOSSES: [(&str, Loss); 3] = [
    ("the relay", World::evict_relay),
    ("the agent", World::evict_agents),
    ("both", |world| {
        world.evict_relay();
        world.evict_agents();
    }),
];

#[test]
fn a_job_is_answered_once_if_memory_is_lost_at_any_step() {
    for (name, lose) in LOSSES {
        let mut steps = 0;
        loop {
            let (mut world, agent) = world();
            let job = request(&world, &agent, "hello");
            world.publish(&job);
            let is_over = (0..steps).any(|_| !world.step());
            lose(&mut world);
            world.advance(150);
            let answers = world.answers(&job);
            assert_eq!(answers.len(), 2, "{name} after {steps} steps: {answers:?}");
            is_answered(&world, &job, "hello");
            if is_over {
                break;
            }
            steps += 1;
        }
        assert!(steps >= 3, "{name}: {steps} steps");
    }
}

#[test]
fn many_jobs_are_answered_once_while_memory_is_lost_all_the_time() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let mut world = World::new(Settings::default());
        let echo = world.deploy(ECHO);
        let upper = world.deploy(
            r#"{"name":"upper","handlers":[{"kind":5050,"executor":"text","config":{"tool":"uppercase"}}]}"#,
        );
        let mut jobs = Vec::new();
        for n in 0..40 {
            let (agent, text) =
                if rng.below(2) == 0 { (echo, format!("t{n}")) } else { (upper, format!("T{n}")) };
            let job = request(&world, &agent, &format!("t{n}"));
            world.publish(&job);
            jobs.push((job, text));
            for _ in 0..rng.below(12) {
                world.step();
                if rng.below(10) == 0 {
                    LOSSES[rng.below(3) as usize].1(&mut world);
                }
            }
        }
        world.advance(400);
        for (job, text) in &jobs {
            is_answered(&world, job, text);
        }
    }
}

#[test]
fn jobs_wait_for_an_agent_that_cannot_be_reached() {
    let (mut world, agent) = world();
    world.agents.get_mut(&agent).unwrap().is_down = true;
    let jobs: Vec<Signed> = (0..3).map(|n| request(&world, &agent, &n.to_string())).collect();
    for job in &jobs {
        world.publish(job);
        world.advance(7);
    }
    assert!(world.answers(&jobs[0]).is_empty());
    world.evict_relay();
    world.advance(60);
    world.agents.get_mut(&agent).unwrap().is_down = false;
    world.advance(400);
    for (n, job) in jobs.iter().enumerate() {
        is_answered(&world, job, &n.to_string());
    }
}

#[test]
fn an_event_is_read_from_the_relay() {
    let (mut world, agent) = world();
    let note = event(&key(2)).at(world.relay.now.seconds()).content("a note").sign();
    world.publish(&note);
    let job = request_of(&world, &agent, 5_050).tag(["i", &note.id, "event"]).sign();
    world.publish(&job);
    world.run();
    is_answered(&world, &job, "a note");
}

#[test]
fn a_call_goes_on_after_the_response_and_is_made_again_if_memory_is_lost() {
    let (mut world, _) = world();
    let agent = world.deploy(WEBHOOK);
    let job = request_of(&world, &agent, 5_100).tag(["i", "hello", "text"]).sign();
    world.publish(&job);
    world.run();
    assert_eq!(world.calls.len(), 1);
    assert_eq!(world.answers(&job), [("processing".to_owned(), String::new())]);
    let alarm = world.agents[&agent].host.alarm.get().expect("an alarm keeps it awake");
    assert!(alarm.millis_since(world.relay.now) <= 30_000);
    world.evict_agents();
    world.advance(40);
    assert_eq!(world.calls.len(), 1, "the alarm has made it begin again");
    let (_, id, request) = world.calls.remove(0);
    assert_eq!(request.url, "https://hook.example/job");
    let now = world.relay.now;
    for happened in [
        HttpEvent::Head(200, vec![("content-type".into(), "text/plain".into())]),
        HttpEvent::Chunk("done".into()),
        HttpEvent::End,
    ] {
        world.with_agent(agent, |agent| agent.http(now, id, happened));
    }
    world.run();
    is_answered(&world, &job, "done");
    world.advance(60);
    let requests = world.agents[&agent].requests;
    world.advance(600);
    assert_eq!(world.agents[&agent].requests, requests, "it sleeps again");
}

/// It is kept awake until the blob is stored; if its memory is lost, the work is done again.
#[test]
fn a_large_result_is_stored_as_a_blob() {
    let (mut world, _) = world();
    let agent = world.deploy(WEBHOOK);
    let job = request_of(&world, &agent, 5_100).tag(["i", "hello", "text"]).sign();
    world.publish(&job);
    let text = "x".repeat(200_000);
    for round in 0..2 {
        world.run();
        let (_, id, _) = world.calls.remove(0);
        let now = world.relay.now;
        for happened in [
            HttpEvent::Head(200, vec![("content-type".into(), "text/plain".into())]),
            HttpEvent::Chunk(text.clone().into()),
            HttpEvent::End,
        ] {
            world.with_agent(agent, |agent| agent.http(now, id, happened));
        }
        world.run();
        assert!(!world.with_agent(agent, |agent| agent.is_idle()));
        if round == 0 {
            world.evict_agents();
            world.advance(40);
        }
    }
    let stored = world.agents[&agent].host.stored.take();
    assert_eq!(stored.len(), 2);
    assert!(stored.iter().all(|(_, owner, bytes)| *owner == agent && *bytes == text.as_bytes()));
    let (now, url) = (world.relay.now, "https://relay.test/blob");
    for _ in 0..2 {
        world.with_agent(agent, |agent| agent.stored(now, stored[1].0, Ok(url.into())));
    }
    world.run();
    is_answered(&world, &job, url);
}

/// An isolate holds a thousand agents, each within its own bounds.
#[test]
fn a_job_waits_while_the_isolate_has_no_memory() {
    let (mut world, agent) = world();
    let first = request(&world, &agent, "first");
    world.publish(&first);
    world.run();
    let memory = world.agents[&agent].host.memory_used_bytes.clone();
    memory.set(WORK_MEMORY_MAX + 1);
    let job = request(&world, &agent, "second");
    world.publish(&job);
    world.run();
    assert!(world.answers(&job).is_empty());
    let is_idle = world.with_agent(agent, |agent| agent.is_idle());
    assert!(is_idle, "its first answer is confirmed all the same");
    world.advance(30);
    assert!(world.answers(&job).is_empty());
    memory.set(WORK_MEMORY_MAX);
    world.advance(60);
    is_answered(&world, &job, "second");
}

#[test]
fn a_response_that_the_isolate_has_no_memory_for_is_asked_for_again() {
    let (mut world, _) = world();
    let agent = world.deploy(WEBHOOK);
    let memory = world.agents[&agent].host.memory_used_bytes.clone();
    let job = request_of(&world, &agent, 5_100).tag(["i", "hello", "text"]).sign();
    world.publish(&job);
    world.run();
    for used in [RESPONSE_MEMORY_MAX + 1, RESPONSE_MEMORY_MAX] {
        let (_, id, _) = world.calls.remove(0);
        let now = world.relay.now;
        memory.set(used);
        let head = HttpEvent::Head(200, vec![("content-type".into(), "text/plain".into())]);
        for happened in [head, HttpEvent::Chunk("done".into()), HttpEvent::End] {
            world.with_agent(agent, |agent| agent.http(now, id, happened));
        }
        world.run();
        let is_cancelled = world.agents[&agent].host.cancelled.borrow().contains(&id);
        assert_eq!(is_cancelled, used > RESPONSE_MEMORY_MAX, "the rest of it is not read");
        world.advance(60);
    }
    is_answered(&world, &job, "done");
}

#[test]
fn a_deleted_job_is_cancelled() {
    let (mut world, _) = world();
    let agent = world.deploy(WEBHOOK);
    let job = request_of(&world, &agent, 5_100).tag(["i", "hello", "text"]).sign();
    world.publish(&job);
    world.run();
    let deletion =
        event(&key(1)).kind(5).at(world.relay.now.seconds()).tag(["e", &job.id]).tag(["k", "5100"]);
    world.publish(&deletion.sign());
    world.run();
    assert_eq!(world.agents[&agent].host.cancelled.borrow().len(), 1, "its call is ended");
    world.advance(600);
    assert!(world.answers(&job).iter().all(|(status, _)| status != "result"));
}

#[test]
fn answers_that_the_relay_failed_to_store_are_published_again_though_the_confirmation_is_lost() {
    let (mut world, agent) = world();
    let job = request(&world, &agent, "hello");
    world.publish(&job);
    let before = world.agents[&agent].requests;
    while world.agents[&agent].requests == before {
        assert!(world.step());
    }
    // The answers are on their way to the relay.
    world.relay.store.is_broken.set(true);
    assert!((0..1_000).any(|_| !world.step()), "it does not spin");
    world.relay.store.is_broken.set(false);
    assert!(world.answers(&job).is_empty());
    world.agents.get_mut(&agent).unwrap().is_down = true;
    world.advance(3);
    world.agents.get_mut(&agent).unwrap().is_down = false;
    world.advance(120);
    is_answered(&world, &job, "hello");
}

#[test]
fn an_agent_that_could_not_tell_the_router_of_its_change_tells_with_its_next_response() {
    for (state, is_listed) in [(AgentState::Paused, true), (AgentState::Deleted, false)] {
        let (mut world, agent) = world();
        let now = world.relay.now;
        world.with_agent(agent, |own| own.with(now, |own| own.set_state(now, state).unwrap()));
        world.run();
        let known =
            |world: &mut World| world.relay.object().router().unwrap().get(&agent).map(|entry| entry.state);
        // A deleted one whose last events are out leaves at once.
        assert_eq!(known(&mut world), is_listed.then_some(AgentState::Active));
        let job = request(&world, &agent, "hello");
        world.publish(&job);
        world.advance(5);
        assert_eq!(known(&mut world), is_listed.then_some(state));
        world.evict_relay();
        assert_eq!(known(&mut world), is_listed.then_some(state), "it is stored");
        assert!(world.answers(&job).iter().all(|(status, _)| status != "result"));
    }
}

#[test]
fn an_answer_that_is_older_than_the_routers_entry_does_not_replace_it() {
    let (mut world, agent) = world();
    let now = world.relay.now;
    let set = |world: &mut World, state| {
        world.with_agent(agent, |own| own.with(now, |own| own.set_state(now, state).unwrap()));
    };
    set(&mut world, AgentState::Paused);
    world.run();
    let job = request(&world, &agent, "hello");
    world.publish(&job);
    let before = world.agents[&agent].requests;
    while world.agents[&agent].requests == before {
        assert!(world.step());
    }
    // Its response says that it is paused, and comes after the news that it is active.
    set(&mut world, AgentState::Active);
    let entry =
        AgentEntry { version: 1, ..world.relay.object().router().unwrap().get(&agent).unwrap().clone() };
    world.relay.object().put_agent(now, entry).0.unwrap();
    world.run();
    assert_eq!(world.relay.object().router().unwrap().get(&agent).unwrap().state, AgentState::Active);
}

#[test]
fn an_agent_that_is_deleted_again_tells_the_router_again() {
    let (mut world, agent) = world();
    let now = world.relay.now;
    let (owner, stranger) = (PubKey([7; 32]), PubKey([8; 32]));
    let mut delete = |by: PubKey| {
        let request = api::Request {
            route: AgentRoute::Delete,
            id: None,
            query: "",
            body: b"",
            caller: Caller::Key(by),
            relay: api::Relay { name: "", url: "", version: "" },
        };
        let reply = world.with_agent(agent, |own| own.with(now, |own| api::agent(own, now, &request)));
        (reply.answer.status, reply.changed.map(|entry| (entry.pubkey, entry.state)))
    };
    let deleted = (200, Some((agent, AgentState::Deleted)));
    assert_eq!(delete(stranger), (403, None));
    assert_eq!(delete(owner), deleted);
    assert_eq!(delete(owner), deleted);
    assert_eq!(delete(stranger), (403, None));
}

/// Of `/metrics`, the sums over shards, as `name{labels} value`.
fn has_metrics(world: &mut World, lines: &[&str]) {
    let now = world.relay.now;
    let text = render(&[(Shards::ONE.for_connection(), Ok(world.relay.object().families(now)))]);
    for line in lines {
        assert!(text.lines().any(|found| found == *line), "{line}\nis not in\n{text}");
    }
}

/// The relay counts for its agents; this costs no request and no row, as the tests above show.
#[test]
fn metrics_of_agents_come_with_their_responses() {
    let (mut world, echo) = world();
    let hook = world.deploy(WEBHOOK);
    has_metrics(
        &mut world,
        &[r#"relay_agents{state="active"} 2"#, r#"relay_agent_jobs_total{state="done"} 0"#],
    );
    let requests = world.agents[&echo].requests;
    for n in 0..3 {
        let job = request(&world, &echo, &n.to_string());
        world.publish(&job);
        world.run();
    }
    assert_eq!(world.agents[&echo].requests - requests, 3);
    let failed = request_of(&world, &hook, 5_100).tag(["i", "hello", "text"]).sign();
    world.publish(&failed);
    world.run();
    has_metrics(
        &mut world,
        &[
            r#"relay_agent_jobs_total{state="done"} 3"#,
            "relay_agent_jobs_queued 0",
            "relay_agent_jobs_running 1",
            "relay_agent_attempts_total 4",
        ],
    );
    // It fails after the reply: the agent says so by a request.
    let (_, id, _) = world.calls.remove(0);
    world.relay.now = world.relay.now.plus_millis(700);
    let now = world.relay.now;
    for happened in [HttpEvent::Head(404, Vec::new()), HttpEvent::End] {
        world.with_agent(hook, |agent| agent.http(now, id, happened));
    }
    world.run();
    let of_busiest = |agent: &PubKey, count: u64| {
        format!("relay_agent_jobs_of_busiest_total{{agent=\"{}\"}} {count}", npub(agent))
    };
    let lines = [
        r#"relay_agent_jobs_total{state="done"} 3"#,
        r#"relay_agent_jobs_total{state="failed"} 1"#,
        r#"relay_agent_failures_total{cause="http_status"} 1"#,
        "relay_agent_jobs_running 0",
        "relay_agent_answer_seconds_count 3",
        r#"relay_agent_answer_seconds_bucket{le="0.01"} 3"#,
        "relay_agent_deliveries_failed_total 0",
        &of_busiest(&echo, 3),
        &of_busiest(&hook, 1),
    ];
    has_metrics(&mut world, &lines);
    let families = world.relay.object().families(now);
    let text = render(&[(Shards::ONE.for_connection(), without_names(Ok(families)))]);
    assert!(text.contains("relay_agent_jobs_total") && !text.contains("npub1"), "{text}");

    // Counters begin again with the object; agents do not repeat theirs.
    world.evict_relay();
    let job = request(&world, &echo, "again");
    world.publish(&job);
    world.run();
    has_metrics(&mut world, &[r#"relay_agent_jobs_total{state="done"} 1"#, &of_busiest(&echo, 1)]);
    world.agents.get_mut(&echo).unwrap().is_down = true;
    let job = request(&world, &echo, "nobody hears this");
    world.publish(&job);
    world.run();
    has_metrics(&mut world, &["relay_agent_deliveries_failed_total 1"]);
}
