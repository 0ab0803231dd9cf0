//! Rows of 2 MB, which Durable Objects do not store.

use relay_agent::job::JobState;
use relay_agent::testing::Customer;
use serde_json::json;

use crate::world::{World, manifest};
use relay_agent::identity::Draft;
use relay_engine::types::Event;

/// A text of which each byte is six bytes of JSON.
fn control(bytes: usize) -> String {
    "\u{1}".repeat(bytes)
}

fn note(content: &str) -> Event {
    let draft =
        Draft { created_at: crate::world::START, kind: 1, tags: Vec::new(), content: content.to_owned() };
    Customer::new(7).keys.sign(&draft)
}

/// Whoever comes next is served.
fn check_goes_on(world: &mut World) {
    let request = Customer::new(9).sign(&world.request().text("hello"));
    world.deliver(&request);
    if !world.host.calls.is_empty() {
        world.answer(200, "hello");
    }
    assert_eq!(world.statuses(&request.id), ["processing", "result"]);
}

#[test]
fn inputs_that_do_not_fit_into_a_row_fail_their_job_only() {
    let mut world = World::new(&manifest(|_| ()));
    let fetched = note(&control(100_000));
    world.host.store(fetched.clone());
    let request = world.request().text(&control(150_000));
    let request = Customer::new(1).sign(&request.tag(&["i", &fetched.id.to_string(), "event"]));
    world.deliver(&request);
    assert_eq!(world.statuses(&request.id), ["processing", "error"]);
    let job = world.agent.job(&request.id).unwrap().unwrap();
    assert_eq!((job.state, job.cause.as_str()), (JobState::Failed, "input_bytes"));
    assert_eq!(world.last(&Customer::new(1), &request.id).1, "the inputs are too large to be stored");
    check_goes_on(&mut world);
}

#[test]
fn a_request_that_does_not_fit_into_a_row_is_refused() {
    let mut world = World::new(&manifest(|_| ()));
    let request = Customer::new(1).sign(&world.request().text("x").tag(&["other", &"x".repeat(1_990_000)]));
    world.deliver(&request);
    assert_eq!(world.statuses(&request.id), ["error"]);
    let (_, message) = world.last(&Customer::new(1), &request.id);
    assert_eq!(message, "the request is larger than 1500000 bytes");
    check_goes_on(&mut world);
}

#[test]
fn a_large_request_and_its_result_are_a_row() {
    let mut world = World::calling(&manifest(|_| ()));
    let request = Customer::new(1).sign(&world.request().text("x").tag(&["other", &"x".repeat(1_490_000)]));
    world.deliver(&request);
    world.answer(200, &control(60_000));
    let job = world.agent.job(&request.id).unwrap().unwrap();
    assert!(job.state.is_final(), "{:?}", job.state);
    check_goes_on(&mut world);
}

#[test]
fn a_session_is_a_row_whatever_the_manifest_says() {
    let mut world = World::calling(&manifest(|json| {
        json["memory"] = json!({"sessions": true, "bytes": 4 << 20});
    }));
    let customer = Customer::new(1);
    for n in 0..3 {
        let request = customer.sign(&world.request().text(&control(150_000 + n)));
        world.deliver(&request);
        world.answer(200, "answer");
        assert_eq!(world.statuses(&request.id), ["processing", "result"]);
    }
    let session = world.agent.session(&customer.pubkey()).unwrap().unwrap();
    assert!(serde_json::to_vec(&session.messages).unwrap().len() <= 1 << 20);
    assert_eq!(session.messages.last().unwrap().text, "answer", "the newest stay");
    check_goes_on(&mut world);
}

/// Documents are written by others: what they hold is made to fit.
#[test]
fn an_import_is_made_to_fit_into_rows() {
    let manifest = manifest(|_| ());
    let mut world = World::new(&manifest);
    let request = Customer::new(1).sign(&world.request().text("hello"));
    world.deliver(&request);
    let mut export = world.agent.export().unwrap();
    export["jobs"][0]["sent"][1]["text"] = json!("x".repeat(2_500_000));
    export["sessions"] = json!([{"customer": Customer::new(1).pubkey().to_string(), "updated_at": 1,
        "messages": [{"at": 1, "is_agent": false, "text": "x".repeat(2_500_000)}]}]);
    let mut there = World::new(&manifest);
    there.agent.import(there.now, &export).unwrap();
    assert_eq!(there.agent.job(&request.id).unwrap().unwrap().state, JobState::Done);
    check_goes_on(&mut there);
}
