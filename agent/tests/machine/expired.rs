//! Feedback that waited in the outbox until it had expired (NIP-40).

use relay_agent::cipher::Cipher;
use relay_agent::machine::{AgentState, Published};
use relay_agent::testing::{Customer, Request};
use relay_engine::types::{Event, EventId};
use serde_json::json;

use crate::world::{World, manifest};

const HOURS: u64 = 3 * 3_600;

/// The relay takes nothing.
fn shut(world: &mut World) {
    world.host.outcomes = vec![Published::Failed("the disk is full".to_owned()); 100_000].into();
}

/// It takes events again; whatever has expired it would refuse.
fn reopen(world: &mut World) {
    world.host.outcomes.clear();
    let before = world.host.stored.len();
    world.pass(60);
    for event in &world.host.stored[before..] {
        let expires = event.tags().find(b"expiration");
        let expires = expires.map(|at| std::str::from_utf8(&at).unwrap().parse::<u64>().unwrap());
        assert!(expires.is_none_or(|at| at > world.now.seconds()), "{event:?}");
    }
}

fn ask(world: &mut World, number: u64, change: impl FnOnce(Request) -> Request) -> Event {
    let request = Customer::new(number).sign(&change(world.request()));
    world.deliver(&request);
    request
}

fn sent_ids(world: &World, job: &EventId) -> Vec<String> {
    world.agent.job(job).unwrap().unwrap().sent.iter().map(|sent| sent.id.clone()).collect()
}

#[test]
fn an_error_is_signed_again_and_what_was_before_it_is_dropped() {
    let mut world = World::calling(&manifest(|json| json["encryption"] = json!(true)));
    shut(&mut world);
    let agent = world.pubkey();
    let plain = ask(&mut world, 1, |request| request.text("plain"));
    world.answer(400, "no");
    let sealed = ask(&mut world, 2, |request| request.text("secret").encrypted(Cipher::Nip44, &agent));
    world.answer(400, "no");
    let refused = ask(&mut world, 3, |_| Request::new(5_051, crate::world::START).to(&agent));
    for crash in [false, true] {
        if crash {
            world.crash();
        }
        world.pass(HOURS);
    }
    reopen(&mut world);
    for (number, job) in [(1, &plain), (2, &sealed), (3, &refused)] {
        let answers = world.host.answers_to(&job.id);
        assert_eq!(answers.len(), 1, "one last word: {answers:?}");
        let event = &answers[0].1;
        assert!(!Customer::new(number).read(event).is_empty(), "it says why");
        assert!(event.created_at > job.created_at + HOURS);
        assert_eq!(sent_ids(&world, &job.id).last(), Some(&event.id.to_string()), "the history knows it");
    }
    assert_eq!(world.statuses(&plain.id), ["error"]);
    assert_eq!(world.statuses(&refused.id), ["error"]);
    world.crash();
    world.pass(HOURS);
    assert_eq!(world.host.repeated, 0, "nothing is sent twice");
}

/// Regression: if the job of an expired error could not be read at that moment, its history did not know what was published.
#[test]
fn an_error_is_signed_again_although_the_database_fails_once() {
    for n in 1..20 {
        let mut world = World::calling(&manifest(|_| ()));
        shut(&mut world);
        let request = ask(&mut world, 1, |request| request.text("plain"));
        world.answer(400, "no");
        world.now = world.now.plus_millis(HOURS * 1_000);
        world.host.outcomes.clear();
        world.sqlite.fail_at(n);
        world.agent.handle_timeout(world.now);
        world.run();
        world.sqlite.fail_with(None);
        reopen(&mut world);
        let answers = world.host.answers_to(&request.id);
        assert_eq!(answers.iter().map(|(status, _)| status.as_str()).collect::<Vec<_>>(), ["error"], "{n}");
        assert_eq!(sent_ids(&world, &request.id).last(), Some(&answers[0].1.id.to_string()), "{n}");
    }
}

#[test]
fn a_result_waits_for_ever_and_its_processing_does_not() {
    let mut world = World::calling(&manifest(|_| ()));
    shut(&mut world);
    let (done, running) = (ask(&mut world, 1, |r| r.text("a")), ask(&mut world, 2, |r| r.text("b")));
    world.answer(200, "done");
    let result = sent_ids(&world, &done.id).pop();
    world.pass(700);
    reopen(&mut world);
    assert_eq!(world.statuses(&done.id), ["result"]);
    assert_eq!(world.host.answers_to(&done.id)[0].1.id.to_string(), result.unwrap(), "the same one");
    // It has expired meanwhile: now it is its turn to say so.
    let last = world.statuses(&running.id);
    assert_eq!(last, ["error"], "{last:?}");
}

#[test]
fn a_job_that_was_taken_back_hears_nothing_and_pongs_are_for_now() {
    let mut world = World::calling(&manifest(|_| ()));
    let agent = world.pubkey();
    shut(&mut world);
    let taken_back = ask(&mut world, 1, |request| request.text("never mind"));
    let cancel = Customer::new(1).cancel(&[taken_back.id], world.now.seconds());
    world.deliver(&cancel);
    let ping = Customer::new(2).sign(&Request::new(7_007, world.now.seconds()).to(&agent));
    world.deliver(&ping);
    world.pass(HOURS);
    reopen(&mut world);
    assert!(world.host.answers_to(&taken_back.id).is_empty());
    assert!(world.host.answers_to(&ping.id).is_empty());
}

#[test]
fn a_deleted_agents_pending_events_do_not_block_its_removal() {
    let mut world = World::calling(&manifest(|_| ()));
    shut(&mut world);
    ask(&mut world, 1, |request| request.text("x"));
    world.agent.set_state(world.now, AgentState::Deleted).unwrap();
    world.run();
    world.pass(HOURS);
    // The real relay refuses what has expired.
    world.host.outcomes = vec![Published::Refused("invalid: the event has expired".to_owned()); 2].into();
    world.pass(60);
    assert!(world.agent.is_removable());
}
