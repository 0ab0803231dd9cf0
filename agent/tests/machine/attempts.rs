//! Jobs whose work takes time: it ends, fails, is tried again, takes too long, is taken back, or the process dies meanwhile.

use relay_agent::executor::{HttpError, HttpEvent};
use relay_agent::job::JobState;
use relay_agent::testing::Customer;
use relay_engine::types::{Event, EventId};

use crate::world::{START, World, manifest};

fn asked(world: &mut World, text: &str) -> Event {
    let request = Customer::new(1).sign(&world.request().text(text));
    world.deliver(&request);
    request
}

fn state(world: &World, id: &EventId) -> JobState {
    world.agent.job(id).unwrap().expect("a job").state
}

/// What customer 1 was told last: a status and its message.
fn told(world: &World, id: &EventId) -> (String, String) {
    world.last(&Customer::new(1), id)
}

#[test]
fn a_job_is_stored_as_running_before_its_call_is_made() {
    let mut world = World::calling(&manifest(|_| ()));
    let request = asked(&mut world, "hello");
    assert_eq!(world.statuses(&request.id), ["processing"]);
    assert_eq!(state(&world, &request.id), JobState::Running);
    assert_eq!(&world.host.calls[0].1.body[..], b"hello");
    assert!(!world.agent.is_idle());
    world.answer(200, "done");
    assert_eq!(world.statuses(&request.id), ["processing", "result"]);
    assert_eq!(state(&world, &request.id), JobState::Done);
    assert_eq!(told(&world, &request.id).1, "done");
    let job = world.agent.job(&request.id).unwrap().unwrap();
    assert_eq!((job.tokens, job.attempts, job.version), (Some((3, 4)), 1, 1));
    assert!(world.agent.is_idle());
}

#[test]
fn a_process_that_dies_begins_another_attempt_and_never_one_after_the_result() {
    let mut world = World::calling(&manifest(|_| ()));
    let request = asked(&mut world, "hello");
    world.crash();
    world.run();
    assert_eq!(world.host.calls.len(), 1, "the second attempt");
    world.answer(200, "done");
    assert_eq!(world.agent.job(&request.id).unwrap().unwrap().attempts, 2);
    world.crash();
    world.run();
    world.pass(10_000);
    assert_eq!(world.host.calls.len(), 0);
    assert_eq!(world.statuses(&request.id), ["processing", "result"]);
    assert_eq!(world.agent.metrics().interrupted, 1);
}

#[test]
fn a_job_that_kills_its_process_is_given_up() {
    let mut world = World::calling(&manifest(|_| ()));
    let request = asked(&mut world, "hello");
    for _ in 0..5 {
        world.crash();
        world.run();
    }
    assert_eq!(world.statuses(&request.id), ["processing", "error"]);
    assert_eq!(told(&world, &request.id).1, "the work was interrupted 3 times");
    assert_eq!(world.host.calls.len(), 0);
}

#[test]
fn a_transient_failure_is_tried_again_with_longer_and_longer_waits() {
    let mut world = World::calling(&manifest(|_| ()));
    let request = asked(&mut world, "hello");
    world.answer(503, "busy");
    assert_eq!(state(&world, &request.id), JobState::Queued);
    assert!(world.agent.is_idle(), "it may be closed while it waits");
    world.pass(1);
    assert_eq!(world.host.calls.len(), 0);
    // The wait outlives the process.
    world.crash();
    world.run();
    assert_eq!(world.host.calls.len(), 0);
    world.pass(1);
    assert_eq!(world.host.calls.len(), 1);
    let (id, _) = world.host.calls.remove(0);
    world.agent.handle_http(world.now, id, HttpEvent::Failed(HttpError::Connection("reset".to_owned())));
    world.run();
    world.pass(3);
    assert_eq!(world.host.calls.len(), 0);
    world.pass(1);
    world.answer(503, "busy");
    assert_eq!(world.statuses(&request.id), ["processing", "error"]);
    assert_eq!(told(&world, &request.id).1, "the work has failed");
    let metrics = world.agent.metrics();
    assert_eq!((metrics.attempts, metrics.failures["http_status"], metrics.jobs["failed"]), (3, 1, 1));
    let log: Vec<String> = world.agent.logs(0, 100).unwrap().into_iter().map(|line| line.message).collect();
    assert!(log.iter().any(|line| line.contains("status 503")), "{log:?}");
}

#[test]
fn retry_after_is_kept() {
    let mut world = World::calling(&manifest(|_| ()));
    asked(&mut world, "hello");
    let (id, _) = world.host.calls.remove(0);
    let headers = vec![("retry-after".to_owned(), "60".to_owned())];
    world.agent.handle_http(world.now, id, HttpEvent::Head(503, headers));
    world.agent.handle_http(world.now, id, HttpEvent::End);
    world.run();
    world.pass(59);
    assert_eq!(world.host.calls.len(), 0);
    world.pass(1);
    assert_eq!(world.host.calls.len(), 1);
}

#[test]
fn what_fails_for_good_is_not_tried_again() {
    let mut world = World::calling(&manifest(|_| ()));
    let request = asked(&mut world, "hello");
    world.answer(400, "no");
    assert_eq!(world.statuses(&request.id), ["processing", "error"]);
    assert!(world.agent.is_idle());
    assert_eq!(world.agent.poll_timeout(), None);
}

#[test]
fn work_that_takes_too_long_is_ended() {
    let mut world = World::calling(&manifest(|json| json["limits"] = serde_json::json!({"timeout_s": 30})));
    let request = asked(&mut world, "hello");
    let call = world.host.calls[0].0;
    world.pass(29);
    assert_eq!(world.host.cancelled, []);
    world.pass(1);
    assert_eq!(world.host.cancelled, [call]);
    assert_eq!(told(&world, &request.id), ("error".to_owned(), "the work took longer than 30 s".to_owned()));
    // What comes too late changes nothing.
    world.agent.handle_http(world.now, call, HttpEvent::End);
    world.run();
    assert_eq!(world.statuses(&request.id), ["processing", "error"]);
}

/// Regression: the limit of the call was cut to whole seconds, so it ended before the attempt and counted as a transient failure: the
/// customer got the first partial results twice.
#[test]
fn a_call_that_takes_too_long_is_not_made_again() {
    for millis in [0, 1, 500, 999] {
        let json = manifest(|json| json["limits"] = serde_json::json!({"timeout_s": 30}));
        let mut world = World::calling(&json);
        world.now = world.now.plus_millis(millis);
        let request = asked(&mut world, "hello");
        let over = world.now.plus_millis(30_000);
        let (call, sent) = world.host.calls.remove(0);
        assert!(sent.limits.deadline * 1_000 > over.millis(), "the attempt ends first");
        assert!(sent.limits.deadline * 1_000 <= over.millis() + 1_000);
        // The host has noticed it first, all the same.
        world.now = over;
        world.agent.handle_http(over, call, HttpEvent::Failed(HttpError::Connection("time-out".to_owned())));
        world.run();
        let words = ("error".to_owned(), "the work took longer than 30 s".to_owned());
        assert_eq!(told(&world, &request.id), words, "{millis}");
        world.pass(3_600);
        assert_eq!(world.statuses(&request.id), ["processing", "error"]);
        assert_eq!(world.agent.metrics().attempts, 1);
    }
}

#[test]
fn partial_results_are_sent_once_a_second_and_the_result_is_last() {
    let mut world = World::calling(&manifest(|_| ()));
    let request = asked(&mut world, "hello");
    let (id, _) = world.host.calls.remove(0);
    world.agent.handle_http(world.now, id, HttpEvent::Head(206, Vec::new()));
    for n in 0..100 {
        for part in ["a", "b", "c", "d"] {
            let piece = format!("{part}{n} ");
            world.agent.handle_http(world.now, id, HttpEvent::Chunk(piece.into()));
            world.run();
        }
        world.pass(1);
    }
    world.agent.handle_http(world.now, id, HttpEvent::End);
    world.run();
    let answers = world.host.answers_to(&request.id);
    let count = |status: &str| answers.iter().filter(|(of, _)| of == status).count();
    assert_eq!((count("processing"), count("partial"), count("result")), (1, 64, 1));
    assert!(answers.is_sorted_by(|(_, a), (_, b)| a.created_at < b.created_at), "{answers:?}");
    assert_eq!(answers.last().unwrap().0, "result");
    let customer = Customer::new(1);
    let pieces: String = answers[1..65].iter().map(|(_, event)| customer.read(event)).collect();
    let whole = customer.read(&answers[65].1);
    assert!(whole.starts_with(&pieces) && whole.ends_with("d99 "));
    assert!(pieces.contains("d60"), "what could not be sent at once is sent later: {pieces}");
    // 100 s of partial results are some rows, not one for each.
    assert!(world.agent.job(&request.id).unwrap().unwrap().partials == 64);
}

/// A partial result is not stored. What follows it after a crash must be later all the same, also by a clock that was set back.
#[test]
fn after_a_crash_the_result_is_still_later_than_all_partial_results() {
    let mut world = World::calling(&manifest(|_| ()));
    let request = asked(&mut world, "hello");
    let (id, _) = world.host.calls.remove(0);
    world.agent.handle_http(world.now, id, HttpEvent::Head(206, Vec::new()));
    for _ in 0..50 {
        world.pass(1);
        world.agent.handle_http(world.now, id, HttpEvent::Chunk("x".into()));
        world.run();
    }
    world.now = relay_engine::types::Now::from_seconds(world.now.seconds() - 40);
    world.crash();
    world.run();
    world.answer(200, "done");
    let answers = world.host.answers_to(&request.id);
    assert_eq!(answers.len(), 52);
    assert!(answers.is_sorted_by(|(_, a), (_, b)| a.created_at < b.created_at), "{answers:?}");
}

#[test]
fn a_customer_cancels_a_job() {
    let customer = Customer::new(1);
    let mut world = World::calling(&manifest(|_| ()));
    let request = asked(&mut world, "hello");
    let call = world.host.calls[0].0;
    let other = Customer::new(2).cancel(&[request.id], world.now.seconds());
    world.deliver(&other);
    assert_eq!(world.host.cancelled, [], "it is not theirs");
    let cancel = customer.cancel(&[request.id], world.now.seconds());
    world.deliver(&cancel);
    world.deliver(&cancel);
    assert_eq!(world.host.cancelled, [call]);
    assert_eq!(state(&world, &request.id), JobState::Cancelled);
    world.deliver(&request);
    world.crash();
    world.run();
    assert_eq!(world.statuses(&request.id), ["processing"]);
    assert_eq!(world.host.calls.len(), 0);
}

#[test]
fn a_cancellation_may_come_before_its_request() {
    for is_same_batch in [false, true] {
        let mut world = World::calling(&manifest(|_| ()));
        let customer = Customer::new(1);
        let request = customer.sign(&world.request().text("hello"));
        let foreign = Customer::new(2).sign(&world.request().text("hello"));
        let cancel = customer.cancel(&[request.id, foreign.id], world.now.seconds());
        let events = [cancel, request.clone(), foreign.clone()];
        if is_same_batch {
            world.agent.deliver(world.now, &events).unwrap();
        } else {
            world.agent.deliver(world.now, &events[..1]).unwrap();
            world.crash();
            world.agent.deliver(world.now, &events[1..]).unwrap();
        }
        world.run();
        assert_eq!(world.statuses(&request.id), [""; 0]);
        assert_eq!(state(&world, &request.id), JobState::Cancelled);
        assert_eq!(world.statuses(&foreign.id), ["processing"], "nobody cancels for others");
    }
}

#[test]
fn a_request_to_vanish_ends_all_jobs_of_its_author_and_forgets_them() {
    let mut world = World::calling(&manifest(|json| json["memory"] = serde_json::json!({"sessions": true})));
    let customer = Customer::new(1);
    let done = asked(&mut world, "first");
    world.answer(200, "answer");
    let open = asked(&mut world, "second");
    let other = Customer::new(2).sign(&world.request().text("mine"));
    world.deliver(&other);
    assert!(world.agent.session(&customer.pubkey()).unwrap().is_some());
    let draft = relay_agent::identity::Draft {
        created_at: world.now.seconds(),
        kind: 62,
        tags: vec![vec!["relay".to_owned(), "ALL_RELAYS".to_owned()]],
        content: String::new(),
    };
    world.deliver(&customer.keys.sign(&draft));
    assert_eq!(state(&world, &open.id), JobState::Cancelled);
    assert_eq!(state(&world, &other.id), JobState::Running);
    assert_eq!(world.agent.session(&customer.pubkey()).unwrap(), None);
    for id in [&done.id, &open.id] {
        let job = world.agent.job(id).unwrap().unwrap();
        assert_eq!((job.request, job.sent.len()), (serde_json::Value::Null, 0));
    }
    world.deliver(&done);
    assert_eq!(world.statuses(&done.id), ["processing", "result"], "and it is not done again");
}

#[test]
fn results_that_do_not_fit_are_errors_in_words() {
    let mut world =
        World::calling(&manifest(|json| json["limits"] = serde_json::json!({"output_bytes": 100})));
    let request = asked(&mut world, "hello");
    world.answer(200, &"x".repeat(101));
    assert_eq!(told(&world, &request.id).1, "the result is larger than 100 bytes");
    assert_eq!(state(&world, &request.id), JobState::Failed);
}

#[test]
fn as_many_jobs_run_at_a_time_as_the_manifest_says_in_their_order() {
    let limits = serde_json::json!({"concurrency": 2, "per_customer_per_min": 1000});
    let mut world = World::calling(&manifest(|json| json["limits"] = limits));
    let requests: Vec<Event> = (0..5).map(|n| asked(&mut world, &format!("job {n}"))).collect();
    assert_eq!(world.host.calls.len(), 2);
    assert_eq!((world.agent.metrics().queued, world.agent.metrics().running), (3, 2));
    world.crash();
    world.run();
    assert_eq!(world.host.calls.len(), 2);
    let mut done = Vec::new();
    while !world.host.calls.is_empty() {
        done.push(String::from_utf8_lossy(&world.host.calls[0].1.body).into_owned());
        world.answer(200, "done");
        assert!(world.host.calls.len() <= 2);
    }
    assert_eq!(done, ["job 0", "job 1", "job 2", "job 3", "job 4"]);
    for request in &requests {
        assert_eq!(world.statuses(&request.id), ["processing", "result"]);
    }
}

#[test]
fn a_job_that_waits_too_long_for_its_turn_is_told_so() {
    let mut world = World::calling(&manifest(|json| {
        json["limits"] = serde_json::json!({"concurrency": 1, "timeout_s": 5000})
    }));
    let first = asked(&mut world, "first");
    let second = asked(&mut world, "second");
    world.pass(3_599);
    assert_eq!(world.statuses(&second.id), ["processing"]);
    world.pass(1);
    assert_eq!(told(&world, &second.id).1, "the job waited too long for its turn");
    assert_eq!(state(&world, &second.id), JobState::Expired);
    assert_eq!(state(&world, &first.id), JobState::Running);
}

#[test]
fn cancellations_of_unknown_requests_are_no_way_to_write_rows() {
    let mut world = World::new(&manifest(|_| ()));
    let customer = Customer::new(1);
    let ids = |n: u64| -> Vec<relay_engine::types::EventId> {
        (0..16).map(|k| format!("{:064x}", n * 16 + k).parse().unwrap()).collect()
    };
    let before = world.sqlite.rows_written();
    (0..50).for_each(|n| world.deliver(&customer.cancel(&ids(n), START + n)));
    assert!(world.sqlite.rows_written() - before <= 32, "{}", world.sqlite.rows_written() - before);
    // The cancellation of another is not replaced.
    let request = Customer::new(2).sign(&world.request().text("x"));
    world.deliver(&Customer::new(2).cancel(&[request.id], START));
    world.deliver(&Customer::new(3).cancel(&[request.id], START));
    world.deliver(&request);
    assert_eq!(world.statuses(&request.id), [""; 0]);
}
