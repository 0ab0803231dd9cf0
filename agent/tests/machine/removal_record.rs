//! What is kept of a deleted agent when its database is removed.

use relay_agent::machine::{Agent, AgentState, Published, RemovalRecord};
use relay_agent::nip90;
use relay_agent::testing::{Customer, Sqlite};
use serde_json::json;

use crate::world::{World, context, manifest, owner};

fn announced() -> relay_agent::manifest::Manifest {
    manifest(|json| json["announce"] = json!(true))
}

#[test]
fn a_deleted_agent_is_removable_when_the_relay_has_its_last_events() {
    let mut world = World::calling(&announced());
    let job = Customer::new(1).sign(&world.request().text("never done"));
    world.deliver(&job);
    assert!(!world.agent.is_removable() && world.agent.removal_record().is_none(), "it is not deleted");
    let down = Published::Failed("down".to_owned());
    world.host.outcomes = vec![down; 3].into();
    world.agent.set_state(world.now, AgentState::Deleted).unwrap();
    assert!(!world.agent.is_removable(), "its last events are not published");
    world.run();
    assert!(!world.agent.is_removable(), "the relay has not taken them");
    world.crash();
    assert!(!world.agent.is_removable(), "nor after a crash");
    world.run();
    world.pass(60);
    assert!(world.agent.is_removable());
    assert_eq!(world.statuses(&job.id), ["processing", "error"]);
    assert_eq!(world.host.stored.last().map(|event| event.kind), Some(nip90::KIND_DELETION));
    world.crash();
    assert!(world.agent.is_removable(), "a host that crashed before it removed the database is told again");
}

#[test]
fn an_agent_goes_on_from_its_removal_record() {
    let mut world = World::new(&announced());
    let second = manifest(|json| (json["announce"], json["about"]) = (json!(true), json!("second")));
    world.agent.deploy(world.now, &second, &owner()).unwrap();
    world.run();
    world.agent.set_state(world.now, AgentState::Deleted).unwrap();
    world.run();
    let retracted_at = world.host.stored.last().unwrap().created_at;
    let deleted = world.agent.removal_record().unwrap();
    assert_eq!((deleted.pubkey(), deleted.owner()), (world.pubkey(), owner()));
    assert_eq!(deleted.last_version(), 2);

    let kept = RemovalRecord::from_json(&deleted.to_json()).unwrap();
    assert_eq!(kept, deleted);
    let sqlite = Sqlite::new();
    let mut agent = Agent::open(world.now, sqlite.clone(), context(7)).unwrap();
    agent.restore(&kept).unwrap();
    assert_eq!(
        (agent.state(), agent.owner(), agent.is_removable()),
        (Some(AgentState::Deleted), Some(owner()), true)
    );
    // It is durable.
    agent = Agent::open(world.now, sqlite, context(8)).unwrap();
    assert_eq!(agent.removal_record().as_ref(), Some(&kept));
    // The same clock as when it was retracted.
    assert_eq!(agent.deploy(world.now, &second, &owner()), Ok(3));
    agent.restore(&kept).unwrap();
    assert_eq!((agent.state(), agent.version(), agent.is_removable()), (Some(AgentState::Active), 3, false));
    let before = world.host.stored.len();
    world.host.run(world.now, &mut agent);
    let announcements = &world.host.stored[before..];
    assert!(announcements.len() >= 3, "{announcements:?}");
    assert!(announcements.iter().all(|event| event.created_at > retracted_at), "{announcements:?}");
}

#[test]
fn only_a_deleted_agents_record_is_a_removal_record() {
    let mut world = World::new(&announced());
    world.agent.set_state(world.now, AgentState::Deleted).unwrap();
    let json = String::from_utf8(world.agent.removal_record().unwrap().to_json()).unwrap();
    for wrong in
        [json.replace("\"deleted\"", "\"active\""), json.replace(&owner().to_string(), "x"), "{}".into()]
    {
        assert!(RemovalRecord::from_json(wrong.as_bytes()).is_err(), "{wrong}");
    }
}
