//! Deleted agents leave empty objects, and the relay's object knows whose they were.

use relay_agent::machine::AgentState;
use relay_edge::settings::Settings;
use relay_engine::types::PubKey;

use super::agents_world::World;

const ECHO: &str = r#"{"name":"echo","handlers":[{"kind":5050,"executor":"echo"}]}"#;

fn world() -> (World, PubKey) {
    let mut world = World::new(Settings::default());
    let agent = world.deploy(ECHO);
    world.advance(60);
    (world, agent)
}

/// As the API does it: the router is told at once.
fn delete(world: &mut World, agent: PubKey) {
    let now = world.relay.now;
    let known = world.relay.object().router().unwrap().get(&agent).cloned();
    world.with_agent(agent, |agent| {
        agent.with(now, |agent| agent.set_state(now, AgentState::Deleted)).unwrap();
    });
    let entry = relay_agent::router::AgentEntry { state: AgentState::Deleted, ..known.unwrap() };
    let (outcome, next) = world.relay.object().put_agent(now, entry);
    outcome.unwrap();
    world.relay.next = next;
}

#[track_caller]
fn check_removed(world: &mut World, agent: PubKey) {
    let place = &world.agents[&agent];
    assert!(place.store.is_none() && place.host.alarm.get().is_none(), "its object is empty");
    let deleted = world.relay.object().removal_record_of(&agent).unwrap();
    assert_eq!(deleted.map(|deleted| deleted.owner()), Some(PubKey([7; 32])));
    assert_eq!(world.published(&agent, 31_990), 0, "its announcement is retracted");
    assert_eq!(world.published(&agent, 5), 1);
}

#[test]
fn a_deleted_agent_is_removed_when_its_last_events_are_published() {
    let (mut world, agent) = world();
    delete(&mut world, agent);
    assert!(world.agents[&agent].store.is_some());
    world.run();
    check_removed(&mut world, agent);
    // It goes on from there.
    assert_eq!(world.deploy(ECHO), agent);
    assert_eq!(world.with_agent(agent, |agent| agent.agent().version()), 2);
    world.advance(60);
    assert_eq!(world.relay.object().removal_record_of(&agent), Ok(None));
    assert!(world.agents[&agent].store.is_some());
    assert_eq!(world.published(&agent, 31_990), 1);
}

/// Before its events are published, before the relay is asked, and before the object is emptied.
#[test]
fn a_deleted_agent_is_removed_whatever_object_loses_its_memory() {
    for steps in 0..12 {
        for is_relay in [false, true] {
            let (mut world, agent) = world();
            delete(&mut world, agent);
            (0..steps).for_each(|_| _ = world.step());
            if is_relay {
                world.evict_relay()
            } else {
                world.evict_agents()
            }
            world.advance(120);
            check_removed(&mut world, agent);
        }
    }
    let (mut world, agent) = world();
    world.is_lost_when_removed = true;
    delete(&mut world, agent);
    world.run();
    assert!(world.agents[&agent].store.is_some() && !world.is_lost_when_removed);
    world.advance(60);
    check_removed(&mut world, agent);
}

/// The relay gets the removal record of an agent that is being deployed again.
#[test]
fn an_agent_that_is_deployed_again_is_not_removed() {
    for steps in 0..12 {
        let (mut world, agent) = world();
        delete(&mut world, agent);
        (0..steps).for_each(|_| _ = world.step());
        assert_eq!(world.deploy(ECHO), agent);
        world.advance(120);
        assert_eq!(world.with_agent(agent, |agent| agent.agent().version()), 2, "after {steps} steps");
        assert!(world.agents[&agent].store.is_some());
        assert_eq!(world.relay.object().removal_record_of(&agent), Ok(None));
        assert_eq!(world.published(&agent, 31_990), 1);
    }
}
