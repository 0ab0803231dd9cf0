//! What is kept of agents that are gone.

use super::*;
use crate::machine::RemovalRecord;

fn record(number: u64, version: u32) -> RemovalRecord {
    let stored = json!({"state": "deleted", "version": 0, "last_version": version, "pubkey": pubkey(number).to_string(),
        "owner": pubkey(99).to_string(), "deployed_at": NOW, "announcement": null, "announced_at": NOW});
    RemovalRecord::from_json(stored.to_string().as_bytes()).unwrap()
}

fn with_version(number: u64, version: u32, state: AgentState) -> AgentEntry {
    AgentEntry { version, state, ..entry(number, &[5050], json!({})) }
}

#[test]
fn a_removal_record_is_kept_until_the_agent_is_deployed_again() {
    let conn = Sqlite::new();
    let mut router =
        router_with(&conn, [with_version(1, 2, AgentState::Active), entry(2, &[5050], json!({}))]);
    router.put(at(1), with_version(1, 2, AgentState::Deleted)).unwrap();
    assert_eq!(router.removal_record(&pubkey(1)), Ok(None), "not before its host says so");
    for _ in 0..2 {
        assert_eq!(router.keep_removal_record(at(2), &record(1, 2)), Ok(true));
    }
    drop(router);
    let mut router = open(&conn);
    assert_eq!(router.removal_record(&pubkey(1)), Ok(Some(record(1, 2))));
    assert_eq!(router.removal_record(&pubkey(2)), Ok(None));
    router.put(at(3), with_version(1, 3, AgentState::Active)).unwrap();
    assert_eq!(router.removal_record(&pubkey(1)), Ok(None));
    assert_eq!(conn.count("agent_router_tombstone"), 0);
}

#[test]
fn a_removal_record_removes_an_entry_that_is_still_active() {
    let conn = Sqlite::new();
    let mut router =
        router_with(&conn, [with_version(1, 2, AgentState::Active), entry(2, &[5050], json!({}))]);
    // It waits for events, too.
    router.accept(at(1), vec![signed(request(50, 5050, 1).to(1))], Seq(1));
    let made = router.poll_delivery().unwrap();
    router.handle_delivered(at(1), made.id, false);
    assert_eq!(conn.count("agent_router_outbox"), 1);
    assert_eq!(router.keep_removal_record(at(2), &record(1, 2)), Ok(true));
    assert!(router.get(&pubkey(1)).is_none() && router.get(&pubkey(2)).is_some());
    assert_eq!(conn.count("agent_router_outbox"), 0);
    assert!(open(&conn).get(&pubkey(1)).is_none());
}

#[test]
fn a_stale_removal_record_is_ignored() {
    let conn = Sqlite::new();
    let mut router = router_with(&conn, [with_version(1, 3, AgentState::Active)]);
    assert_eq!(router.keep_removal_record(at(2), &record(1, 2)), Ok(false), "it has been deployed again");
    assert!(router.get(&pubkey(1)).is_some());
    assert_eq!(router.keep_removal_record(at(3), &record(1, 3)), Ok(true));
    assert_eq!(router.keep_removal_record(at(4), &record(1, 2)), Ok(false), "and deleted again");
    assert_eq!(router.removal_record(&pubkey(1)), Ok(Some(record(1, 3))));
    conn.fail_at(1);
    assert!(router.keep_removal_record(at(4), &record(2, 2)).is_err());
}
