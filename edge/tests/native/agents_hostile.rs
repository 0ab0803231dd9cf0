//! Agents beside the relay whose storage fails, and customers who send too much.

use relay_edge::settings::Settings;
use relay_engine::testing::signing::{Draft, Signed, event, key};
use relay_engine::types::PubKey;

use super::agents_world::World;

const ECHO: &str = r#"{"name":"echo","handlers":[{"kind":5050,"executor":"echo"}]}"#;

fn request(world: &World, agent: &PubKey, customer: u64, text: &str) -> Draft {
    let draft = event(&key(customer)).kind(5_050).at(world.relay.now.seconds());
    draft.tag(["p", &agent.to_string()]).tag(["i", text, "text"])
}

#[track_caller]
fn is_answered(world: &World, request: &Signed, text: &str, context: &str) {
    let answers = world.answers(request);
    let found: Vec<(&str, &str)> = answers.iter().map(|(status, text)| (&**status, &**text)).collect();
    assert_eq!(found, [("processing", ""), ("result", text)], "{context}");
}

fn set_broken(world: &World, agent: &PubKey, is_broken: bool) {
    let store = world.agents[agent].store.as_ref().expect("an agent that was deployed has a store");
    store.is_broken.set(is_broken);
}

/// The storage of the agent's object fails from some step on, for a minute. The job is answered once all the same, whether the
/// object keeps its memory or not.
#[test]
fn a_job_outlives_an_agent_whose_storage_fails() {
    for steps in 0.. {
        let mut is_over = false;
        for loses_memory in [false, true] {
            let mut world = World::new(Settings::default());
            let agent = world.deploy(ECHO);
            world.advance(60);
            let job = request(&world, &agent, 1, "hello").sign();
            world.publish(&job);
            is_over = !(0..steps).all(|_| world.step());
            set_broken(&world, &agent, true);
            world.advance(60);
            if loses_memory {
                world.evict_agents();
            }
            set_broken(&world, &agent, false);
            world.advance(600);
            // That it was being processed need not be told when it is done.
            let mut answers = world.answers(&job);
            answers.retain(|(status, _)| status != "processing");
            let context = format!("broken after {steps} steps, loses its memory: {loses_memory}");
            assert_eq!(answers, [("result".to_owned(), "hello".to_owned())], "{context}");
            let next = request(&world, &agent, 1, "again").sign();
            world.publish(&next);
            world.run();
            is_answered(&world, &next, "again", &context);
        }
        if is_over {
            assert!(steps > 3, "a job takes some steps");
            return;
        }
    }
}

#[test]
fn ten_thousand_jobs_of_one_key_get_a_bounded_number_of_answers() {
    let mut world = World::new(Settings::default());
    let agent = world.deploy(ECHO);
    world.advance(60);
    let client = world.relay.connect().unwrap();
    for chunk in 0..20 {
        for serial in 0..500 {
            let job = request(&world, &agent, 1, &format!("{chunk} {serial}")).sign();
            world.relay.text(client.key, &format!(r#"["EVENT",{}]"#, job.json()));
        }
        world.run();
        assert!(client.output.borrow_mut().drain(..).all(|frame| !frame.contains(",false,")));
    }
    let patient = request(&world, &agent, 2, "patient").sign();
    world.publish(&patient);
    world.run();
    is_answered(&world, &patient, "patient", "another customer's");
    // 60 jobs and 10 errors a minute, of which none has passed; and the other customer's.
    assert_eq!(world.published(&agent, 6_050), 61);
    assert_eq!(world.published(&agent, 7_000), 60 + 10 + 1);
}

#[test]
fn long_parameters_and_inputs_are_refused_in_words() {
    let mut world = World::new(Settings::default());
    let agent = world.deploy(
        r#"{"name":"echo","handlers":[{"kind":5050,"executor":"echo"}],"limits":{"input_bytes":65536}}"#,
    );
    world.advance(60);
    // What a message of this relay may have.
    let long = "x".repeat(100_000);
    let params = request(&world, &agent, 1, "text").tag(["param", "a", &long]).sign();
    let input = request(&world, &agent, 1, &long).sign();
    for (job, wrong) in [(&params, "param"), (&input, "input")] {
        world.publish(job);
        world.run();
        let answers = world.answers(job);
        assert!(
            matches!(&answers[..], [(status, text)] if status == "error" && text.contains(wrong)),
            "{answers:?}"
        );
    }
}
