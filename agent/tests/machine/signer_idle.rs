//! What a remote signer is asked for only if it answers: heartbeats, and partial results.

use relay_agent::cipher::Cipher;
use relay_agent::executor::HttpEvent;
use relay_agent::machine::AgentState;
use relay_agent::nip90::{HEARTBEAT_EVERY_SECONDS, KIND_HEARTBEAT};
use relay_agent::testing::Customer;
use serde_json::{Value, json};

use crate::bunker::Manner;
use crate::signer::Signed;

fn heartbeats(world: &Signed) -> usize {
    world.host.stored.iter().filter(|event| event.kind == KIND_HEARTBEAT).count()
}

#[test]
fn heartbeats_of_an_announced_agent_are_signed_by_its_signer() {
    let mut world = Signed::with(Manner::Willing, |json| json["announce"] = json!(true));
    world.pass(10 * HEARTBEAT_EVERY_SECONDS);
    assert!((10..=11).contains(&heartbeats(&world)), "{}", heartbeats(&world));
    let last = world.host.stored.iter().rev().find(|event| event.kind == KIND_HEARTBEAT).unwrap();
    assert!(world.now.seconds() - last.created_at <= HEARTBEAT_EVERY_SECONDS);
    // Each opening is not another heartbeat.
    let before = heartbeats(&world);
    for _ in 0..5 {
        world.crash();
        world.pass(1);
    }
    assert!(heartbeats(&world) <= before + 1);

    let before = heartbeats(&world);
    world.agent.set_state(world.now, AgentState::Paused).unwrap();
    world.run();
    world.pass(5 * HEARTBEAT_EVERY_SECONDS);
    assert_eq!(heartbeats(&world), before, "it is not there");
    world.agent.set_state(world.now, AgentState::Active).unwrap();
    world.run();
    world.pass(HEARTBEAT_EVERY_SECONDS);
    assert!(heartbeats(&world) > before);
    world.check();
    let mut quiet = Signed::new(Manner::Willing);
    quiet.pass(2 * HEARTBEAT_EVERY_SECONDS);
    assert_eq!(heartbeats(&quiet), 0, "it is not announced");
}

#[test]
fn a_signer_that_fails_is_asked_for_no_heartbeats_and_one_that_refuses_them_signs_the_rest() {
    let mut world = Signed::with(Manner::Willing, |json| json["announce"] = json!(true));
    world.pass(HEARTBEAT_EVERY_SECONDS);
    let before = heartbeats(&world);
    world.bunker.manner = Manner::Silent;
    world.pass(20 * HEARTBEAT_EVERY_SECONDS);
    world.bunker.manner = Manner::Willing;
    world.pass(600);
    let late = world.host.stored.iter().filter(|event| event.kind == KIND_HEARTBEAT).skip(before);
    assert!(late.clone().count() <= 3, "none of those that were not signed comes late");
    assert!(late.clone().all(|event| event.created_at + 660 > world.now.seconds()));

    world.bunker.manner = Manner::Refusing(KIND_HEARTBEAT);
    world.pass(2 * HEARTBEAT_EVERY_SECONDS);
    let job = world.order(&Customer::new(1), &world.request());
    world.pass(60);
    assert_eq!(world.statuses(&job), ["processing", "result"]);
}

fn streaming(json: &mut Value) {
    json["handlers"] = json!([{"kind": 5050, "executor": "openai_http",
        "config": {"base_url": "https://model.example/v1", "model": "m", "stream": true}}]);
    json["encryption"] = json!(true);
}

/// A piece of the stream, a second after the one before.
fn say(world: &mut Signed, text: &str) {
    let data = json!({"choices": [{"delta": {"content": text}}]});
    chunk(world, &format!("data: {data}\n\n"));
}

fn chunk(world: &mut Signed, text: &str) {
    world.pass(2);
    let id = world.host.calls[0].0;
    world.agent.handle_http(world.now, id, HttpEvent::Chunk(text.to_owned().into()));
    world.run();
}

fn begin(world: &mut Signed) {
    let id = world.host.calls[0].0;
    let headers = vec![("content-type".to_owned(), "text/event-stream".to_owned())];
    world.agent.handle_http(world.now, id, HttpEvent::Head(200, headers));
}

#[test]
fn partial_results_are_signed_and_the_result_is_last() {
    for is_encrypted in [false, true] {
        let mut world = Signed::with(Manner::Willing, streaming);
        let customer = Customer::new(1);
        let agent = world.bunker.user.pubkey();
        let request = match is_encrypted {
            true => world.request().encrypted(Cipher::Nip44, &agent),
            false => world.request(),
        };
        let job = world.order(&customer, &request);
        begin(&mut world);
        ["one ", "two ", "three "].into_iter().for_each(|text| say(&mut world, text));
        chunk(&mut world, "data: [DONE]\n\n");
        let answers = world.host.answers_to(&job);
        let said: Vec<String> = answers.iter().map(|(_, event)| customer.read(event)).collect();
        assert_eq!(said, ["", "one ", "two ", "three ", "one two three "]);
        assert_eq!(answers.last().unwrap().0, "result");
        world.check();
    }
}

#[test]
fn partial_results_that_are_not_signed_at_once_do_not_come_late_and_the_result_does() {
    let mut world = Signed::with(Manner::Willing, streaming);
    let job = world.order(&Customer::new(1), &world.request());
    begin(&mut world);
    say(&mut world, "one ");
    world.bunker.manner = Manner::Silent;
    ["two ", "three "].into_iter().for_each(|text| say(&mut world, text));
    chunk(&mut world, "data: [DONE]\n\n");
    world.pass(300);
    assert_eq!(world.statuses(&job), ["processing", "partial"]);
    world.bunker.manner = Manner::Willing;
    world.pass(300);
    let statuses = world.statuses(&job);
    assert_eq!(statuses.last().map(String::as_str), Some("result"), "{statuses:?}");
    assert!(statuses.len() <= 4, "{statuses:?}");
    world.check();
}
