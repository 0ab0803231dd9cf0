//! Results that are too large for an event are blobs, and blobs of the host are inputs.

use relay_agent::cipher::Cipher;
use relay_agent::executor::HttpEvent;
use relay_agent::job::JobState;
use relay_agent::machine::{Agent, AgentState, Context, Effect};
use relay_agent::testing::{BLOSSOM_URL, Customer, Request, Sqlite, StoredBlob, calling_executor};
use relay_engine::types::{Event, Now};
use serde_json::{Value, json};

use crate::world::{START, World, context, manifest, owner};

/// More characters than an event's content may have.
const LARGE: usize = 131_073;

fn large() -> String {
    "x".repeat(LARGE)
}

fn world(change: impl FnOnce(&mut Value)) -> World {
    World::calling(&manifest(|json| {
        json["limits"] = json!({"output_bytes": 1_000_000, "timeout_s": 100});
        change(json);
    }))
}

fn ask(request: &Request, world: &mut World) -> Event {
    let request = Customer::new(1).sign(request);
    world.deliver(&request);
    request
}

/// How a job ended.
fn end(world: &World, request: &Event) -> (JobState, String) {
    let job = world.agent.job(&request.id).unwrap().unwrap();
    (job.state, job.cause)
}

/// Answers the open call with a large result, and returns the effect that stores it.
fn answer_large(world: &mut World) -> Effect {
    let (id, _) = world.host.calls.remove(0);
    world.agent.handle_http(world.now, id, HttpEvent::Head(200, Vec::new()));
    world.agent.handle_http(world.now, id, HttpEvent::Chunk(large().into()));
    world.agent.handle_http(world.now, id, HttpEvent::End);
    let effect = world.agent.poll_effect().expect("it is stored");
    assert!(matches!(effect, Effect::StoreBlob { .. }) && world.agent.poll_effect().is_none());
    effect
}

#[test]
fn a_large_result_is_the_url_of_a_blob_of_the_agent() {
    for (output, mime) in [
        (None, "text/plain; charset=utf-8"),
        (Some("text/markdown"), "text/markdown; charset=utf-8"),
        (Some("application/json"), "application/json"),
        // What a browser might run is text.
        (Some("text/html"), "text/plain; charset=utf-8"),
        (Some("image/svg+xml"), "text/plain; charset=utf-8"),
    ] {
        let mut world = world(|json| {
            json["handlers"][0]["outputs"] =
                json!(["text/plain", "text/markdown", "application/json", "text/html", "image/svg+xml"]);
            json["memory"] = json!({"sessions": true});
        });
        let mut request = world.request().text("hello");
        if let Some(output) = output {
            request = request.tag(&["output", output]);
        }
        let request = ask(&request, &mut world);
        world.answer(200, &large());
        assert_eq!(world.statuses(&request.id), ["processing", "result"], "{output:?}");
        let (_, url) = world.last(&Customer::new(1), &request.id);
        let (name, blob) = world.host.blobs.first_key_value().unwrap();
        assert_eq!(url, format!("{BLOSSOM_URL}/{name}.txt"));
        let want = StoredBlob { owner: world.pubkey(), bytes: large().into(), mime: mime.to_owned() };
        assert!(*blob == want, "{output:?}: {}", blob.mime);
        assert_eq!(end(&world, &request), (JobState::Done, String::new()));
        assert!(world.agent.is_idle());
        // What was said is the text, and not where it is.
        let session = world.agent.session(&Customer::new(1).pubkey()).unwrap().unwrap();
        assert_eq!(session.messages.last().unwrap().text.len(), LARGE);
    }
}

#[test]
fn a_result_that_fits_is_not_a_blob() {
    let mut world = world(|_| ());
    let request = ask(&world.request().text("hello"), &mut world);
    world.answer(200, &large()[1..]);
    assert_eq!(world.last(&Customer::new(1), &request.id).1.len(), LARGE - 1);
    assert!(world.host.blobs.is_empty());
}

#[test]
fn what_is_not_stored_is_an_error_in_words() {
    let fits = "the result has 131073 characters, and 131072 at most fit; ";
    let check = |world: &mut World, request: Request, result: &str, cause: &str, message: &str| {
        let request = ask(&request, world);
        world.answer(200, result);
        assert_eq!(world.last(&Customer::new(1), &request.id), ("error".to_owned(), message.to_owned()));
        assert_eq!(end(world, &request), (JobState::Failed, cause.to_owned()));
        assert!(world.host.blobs.is_empty() && world.agent.is_idle());
    };
    let mut failing = world(|_| ());
    failing.host.refuses_blobs = Some("this server has no room left".to_owned());
    let request = failing.request();
    let message = "the result cannot be stored: this server has no room left";
    check(&mut failing, request, &large(), "output_store", message);

    let mut too_large = world(|_| ());
    let request = too_large.request();
    let message =
        "the result has 400001 characters, and 131072 at most fit; a blob has 400000 bytes at most here";
    check(&mut too_large, request, &"x".repeat(400_001), "output_size", message);

    let mut bounded = world(|json| json["limits"]["output_bytes"] = json!(LARGE - 1));
    let request = bounded.request();
    check(&mut bounded, request, &large(), "output_size", "the result is larger than 131072 bytes");

    let mut without = world(|_| ());
    let context = Context { blossom: None, ..context(9) };
    let sqlite = without.sqlite.clone();
    without.agent = Agent::open_with_executors(without.now, sqlite, context, calling_executor).unwrap();
    let request = without.request();
    let message = "larger results have to be stored on a Blossom server, and this agent has none";
    check(&mut without, request, &large(), "output_size", &format!("{fits}{message}"));
}

/// Anybody can read a blob.
#[test]
fn an_encrypted_result_is_never_a_blob() {
    let mut world = world(|_| ());
    let agent = world.pubkey();
    let request = ask(&world.request().text("secret").encrypted(Cipher::Nip44, &agent), &mut world);
    world.answer(200, &large());
    let (_, message) = world.last(&Customer::new(1), &request.id);
    assert!(
        message.ends_with("; an encrypted result is not stored where anybody could read it"),
        "{message}"
    );
    assert_eq!(end(&world, &request), (JobState::Failed, "output_size".to_owned()));
    assert!(world.host.blobs.is_empty());
}

#[test]
fn a_slow_store_has_its_time_and_what_comes_later_changes_nothing() {
    let mut world = world(|_| ());
    let request = ask(&world.request().text("hello"), &mut world);
    world.pass(99);
    let Effect::StoreBlob { id, .. } = answer_large(&mut world) else { unreachable!() };
    // The attempt's own time is over, and the result is not lost for it.
    world.pass(28);
    assert_eq!(world.statuses(&request.id), ["processing"]);
    assert_eq!(end(&world, &request), (JobState::Running, String::new()));
    world.pass(3);
    assert_eq!(end(&world, &request), (JobState::Failed, "output_store".to_owned()));
    let (_, message) = world.last(&Customer::new(1), &request.id);
    assert_eq!(message, "the result could not be stored in time");
    world.agent.handle_stored(world.now, id, Ok("https://late.example".to_owned()));
    world.run();
    assert_eq!(world.statuses(&request.id), ["processing", "error"]);
    assert!(world.agent.is_idle());
}

#[test]
fn outcomes_that_come_twice_or_of_something_else_change_nothing() {
    let mut world = world(|_| ());
    let request = ask(&world.request().text("hello"), &mut world);
    let (call, _) = world.host.calls[0].clone();
    world.agent.handle_stored(world.now, call, Ok("https://wrong.example".to_owned()));
    let Effect::StoreBlob { id, .. } = answer_large(&mut world) else { unreachable!() };
    world.agent.handle_http(world.now, id, HttpEvent::End);
    world.agent.handle_http(world.now, call, HttpEvent::End);
    world.run();
    assert_eq!(world.statuses(&request.id), ["processing"]);
    let outcomes = [Ok("https://first.example".to_owned()), Err("second".to_owned()), Ok("third".to_owned())];
    for outcome in outcomes {
        world.agent.handle_stored(world.now, id, outcome);
    }
    world.run();
    assert_eq!(world.statuses(&request.id), ["processing", "result"]);
    assert_eq!(world.last(&Customer::new(1), &request.id).1, "https://first.example");
}

#[test]
fn a_job_is_cancelled_and_an_agent_deleted_while_a_result_is_stored() {
    let mut world = world(|_| ());
    let request = ask(&world.request().text("hello"), &mut world);
    let Effect::StoreBlob { id, .. } = answer_large(&mut world) else { unreachable!() };
    let cancel = Customer::new(1).cancel(&[request.id], world.now.seconds());
    world.deliver(&cancel);
    assert_eq!(world.host.cancelled, [id]);
    world.agent.handle_stored(world.now, id, Ok("https://late.example".to_owned()));
    world.run();
    assert_eq!(world.statuses(&request.id), ["processing"]);

    let request = ask(&world.request().text("again"), &mut world);
    let Effect::StoreBlob { id, .. } = answer_large(&mut world) else { unreachable!() };
    world.agent.set_state(world.now, AgentState::Deleted).unwrap();
    world.agent.handle_stored(world.now, id, Ok("https://late.example".to_owned()));
    world.run();
    assert_eq!(world.statuses(&request.id), ["processing", "error"]);
    assert!(world.agent.is_idle());
}

/// A result that is being stored is work: it takes one of the places of jobs that run.
#[test]
fn what_is_stored_counts_as_running() {
    let mut world = world(|json| json["limits"]["concurrency"] = json!(1));
    let first = ask(&world.request().text("first"), &mut world);
    let second = ask(&world.request().text("second"), &mut world);
    let store = answer_large(&mut world);
    assert!(world.host.calls.is_empty());
    world.host.carry_out(world.now, &mut world.agent, store);
    world.run();
    assert_eq!(world.statuses(&first.id), ["processing", "result"]);
    world.answer(200, "done");
    assert_eq!(world.statuses(&second.id), ["processing", "result"]);
}

/// The work is done again: what was stored for it before is the same blob, if the result is the same.
#[test]
fn a_crash_while_a_result_is_stored_runs_the_job_again() {
    let mut world = world(|_| ());
    let request = ask(&world.request().text("hello"), &mut world);
    let Effect::StoreBlob { owner, bytes, mime, .. } = answer_large(&mut world) else { unreachable!() };
    world.host.put_blob(owner, bytes, mime).unwrap();
    world.crash();
    world.run();
    world.answer(200, &large());
    assert_eq!(world.statuses(&request.id), ["processing", "result"]);
    assert_eq!((world.host.blobs.len(), world.agent.metrics().attempts), (1, 2));
}

#[test]
fn a_disk_that_is_full_when_the_blob_is_stored_loses_nothing() {
    let mut world = world(|_| ());
    let request = ask(&world.request().text("hello"), &mut world);
    let store = answer_large(&mut world);
    world.sqlite.fail_with(Some(relay_engine::sql::StoreError::Full("the disk".to_owned())));
    world.host.carry_out(world.now, &mut world.agent, store);
    world.pass(60);
    assert_eq!(world.statuses(&request.id), ["processing"]);
    world.sqlite.fail_with(None);
    world.pass(60);
    assert_eq!(world.statuses(&request.id), ["processing", "result"]);
    assert_eq!(world.agent.metrics().attempts, 1);
}

/// By the rules of other URLs, and without a call.
#[test]
fn a_blob_of_the_host_is_an_input() {
    let world = |change: fn(&mut Value)| {
        let mut world = World::new(&manifest(|json| {
            json["network"] = json!({"max_fetch_bytes": 1_000});
            change(json);
        }));
        let owner = owner();
        let text = world.host.put_blob(owner, "some text".into(), "text/plain").unwrap();
        let binary = world.host.put_blob(owner, "\0".into(), "image/png").unwrap();
        let large = world.host.put_blob(owner, "x".repeat(1_001).into(), "text/plain").unwrap();
        (world, text, binary, large)
    };
    let check = |world: &mut World, url: &str, want: (&str, &str)| {
        let request = ask(&world.request().tag(&["i", url, "url"]), world);
        assert!(world.host.calls.is_empty(), "{url}");
        let (status, said) = world.last(&Customer::new(1), &request.id);
        assert_eq!((&*status, &*said), want, "{url}");
    };
    let (mut here, text, binary, large) = world(|_| ());
    check(&mut here, &text, ("result", "some text"));
    check(&mut here, text.trim_end_matches(".txt"), ("result", "some text"));
    check(&mut here, &format!("{text}?a=b#c"), ("result", "some text"));
    check(&mut here, &binary, ("error", "the URL does not serve a text"));
    check(&mut here, &large, ("error", "the text of the URL is too large"));
    let missing = format!("{BLOSSOM_URL}/{}", "0".repeat(64));
    check(&mut here, &missing, ("error", "the URL answers with status 404"));
    let (mut bounded, text, ..) = world(|json| json["limits"] = json!({"input_bytes": 8}));
    check(&mut bounded, &text, ("error", "the text of the URL is too large"));
    let (mut elsewhere, text, ..) = world(|json| json["network"]["allow_domains"] = json!(["other.example"]));
    let message = "the URL is not read: not one of the domains that the agent reads";
    check(&mut elsewhere, &text, ("error", message));
}

#[test]
fn an_agent_without_a_blossom_server_reads_its_urls_from_the_web() {
    let context = Context { blossom: None, ..context(0) };
    let mut agent = Agent::open(Now::from_seconds(START), Sqlite::new(), context).unwrap();
    agent.deploy(Now::from_seconds(START), &manifest(|_| ()), &owner()).unwrap();
    while agent.poll_effect().is_some() {}
    let url = format!("{BLOSSOM_URL}/{}", "0".repeat(64));
    let request = Request::new(5050, START).to(&agent.pubkey().unwrap()).tag(&["i", &url, "url"]);
    agent.deliver(Now::from_seconds(START), &[Customer::new(1).sign(&request)]).unwrap();
    let mut effects = std::iter::from_fn(|| agent.poll_effect());
    assert!(effects.any(|effect| matches!(effect, Effect::Http { .. })));
}
