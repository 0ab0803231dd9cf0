//! A relay whose members may write (NIP-43): its own key says who they are.

use serde_json::json;

use super::conn::Conn;
use super::stage::Stage;
use super::{Case, Frame, case_with};
use crate::policy::Admission;
use crate::relay::Config;
use crate::testing::signing::{Draft, Key, event, key};
use crate::types::PubKey;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case_with("members: only their events are taken", members_only, only_theirs),
        case_with("members: those who were added before the first event", members_only, added_before),
        case_with("members: removed, added again, expired", members_only, removed),
        case_with("members: a deleted addition is none", members_only, deleted),
        case_with("members: what others sign for a member is taken", members_only, for_members),
        case_with("members: lists of authors and kinds hold beside", with_lists, beside_lists),
    ]
}

fn members_only(config: &mut Config) {
    config.policy.admission = Some(Admission {
        pubkey: PubKey(key(1).bytes()),
        msat: 1_000,
        payments_url: Some("https://relay.example/join".to_owned()),
    });
}

/// An event by which the relay's key adds a key, or removes it.
fn says(kind: u16, at: u64, member: &Key) -> Draft {
    event(&key(1)).kind(kind).at(at).tag(["p", member.hex()])
}

/// A connection that is sent what the relay's key says. Once it has been, its shard knows.
fn open_watching(stage: &mut Stage<'_>) -> Conn {
    let mut conn = stage.open();
    stage.watch(&mut conn, "members", json!({"kinds": [8_000, 8_001, 5]}));
    conn
}

/// Publishes what the relay's key says, until the shard of `conn` knows.
fn tell(conn: &mut Conn, draft: Draft) {
    let said = draft.sign();
    conn.accept(&said);
    conn.wait("its delivery", |frame| match frame {
        Frame::Event { event, .. } if event["id"] == said.id => Some(()),
        _ => None,
    });
}

fn only_theirs(stage: &mut Stage<'_>) {
    let mut conn = open_watching(stage);
    let note = |author: u64, at: u64| event(&key(author)).at(at).sign();
    let (accepted, message) = conn.publish(&note(2, stage.t));
    assert!(!accepted && message.starts_with("restricted: "), "{message}");
    assert!(message.contains("https://relay.example/join"), "{message}");
    conn.refuse(&event(&key(2)).kind(20_000).at(stage.t).sign(), "restricted");
    // Somebody else's word counts for nothing.
    conn.refuse(&event(&key(3)).kind(8_000).at(stage.t).tag(["p", key(3).hex()]).sign(), "restricted");
    tell(&mut conn, says(8_000, stage.t, &key(2)));
    conn.accept(&note(2, stage.t + 1));
    conn.accept(&event(&key(2)).kind(20_000).at(stage.t).sign());
    // A member makes no members.
    conn.accept(&event(&key(2)).kind(8_000).at(stage.t).tag(["p", key(3).hex()]).sign());
    conn.refuse(&note(3, stage.t), "restricted");
    // Anybody may read.
    let mut other = stage.open();
    assert_eq!(other.ask(json!({"kinds": [1]})).ids().len(), 1);
    // Whoever is refused may vanish all the same (NIP-62), and may ask the relay for a membership (NIP-90).
    other.accept(&event(&key(4)).kind(62).at(stage.t).tag(["relay", "ALL_RELAYS"]).sign());
    other.accept(&event(&key(5)).kind(5_943).at(stage.t).tag(["p", key(1).hex()]).sign());
    other.refuse(&event(&key(5)).kind(5_050).at(stage.t).tag(["p", key(1).hex()]).sign(), "restricted");
    other.refuse(&event(&key(5)).kind(5_943).at(stage.t).tag(["p", key(2).hex()]).sign(), "restricted");
}

fn added_before(stage: &mut Stage<'_>) {
    let mut conn = open_watching(stage);
    for member in 2..6 {
        tell(&mut conn, says(8_000, stage.t, &key(member)));
    }
    conn.accept(&event(&key(5)).at(stage.t).sign());
    conn.refuse(&event(&key(6)).at(stage.t).sign(), "restricted");
}

fn removed(stage: &mut Stage<'_>) {
    let mut conn = open_watching(stage);
    let note = |at: u64| event(&key(2)).at(at).sign();
    tell(&mut conn, says(8_000, stage.t - 10, &key(2)));
    conn.accept(&note(stage.t));
    tell(&mut conn, says(8_001, stage.t - 8, &key(2)));
    conn.refuse(&note(stage.t + 1), "restricted");
    // Older than what is known.
    tell(&mut conn, says(8_000, stage.t - 9, &key(2)));
    conn.refuse(&note(stage.t + 1), "restricted");
    tell(&mut conn, says(8_000, stage.t - 7, &key(2)).tag(["expiration", &(stage.t + 2).to_string()]));
    conn.accept(&note(stage.t + 1));
    if stage.advance(3) {
        conn.refuse(&note(stage.t + 2), "restricted");
    }
}

fn deleted(stage: &mut Stage<'_>) {
    let mut conn = open_watching(stage);
    let addition = says(8_000, stage.t - 10, &key(2));
    let id = addition.clone().sign().id;
    tell(&mut conn, addition);
    tell(&mut conn, says(8_000, stage.t - 10, &key(3)));
    conn.accept(&event(&key(2)).at(stage.t).sign());
    tell(&mut conn, event(&key(1)).kind(5).at(stage.t - 5).tag(["e", &id]));
    conn.refuse(&event(&key(2)).at(stage.t + 1).sign(), "restricted");
    conn.accept(&event(&key(3)).at(stage.t + 1).sign());
}

fn for_members(stage: &mut Stage<'_>) {
    let mut conn = open_watching(stage);
    tell(&mut conn, says(8_000, stage.t, &key(2)));
    for (kind, to, is_taken) in
        [(1_059, 2, true), (9_735, 2, true), (1_059, 3, false), (9_735, 3, false), (4, 2, false)]
    {
        let sent = event(&key(9)).kind(kind).at(stage.t).tag(["p", key(to).hex()]).sign();
        match is_taken {
            true => conn.accept(&sent),
            false => conn.refuse(&sent, "restricted"),
        }
    }
}

fn with_lists(config: &mut Config) {
    members_only(config);
    config.policy.admin_pubkeys = vec![PubKey(key(3).bytes())];
    config.policy.allow_pubkeys = Some(vec![PubKey(key(4).bytes())]);
    config.policy.deny_pubkeys = vec![PubKey(key(5).bytes())];
    config.policy.deny_kinds = vec![7];
}

fn beside_lists(stage: &mut Stage<'_>) {
    let mut conn = open_watching(stage);
    for member in [2, 5] {
        tell(&mut conn, says(8_000, stage.t, &key(member)));
    }
    for author in [2, 3, 4] {
        conn.accept(&event(&key(author)).at(stage.t).sign());
    }
    conn.refuse(&event(&key(5)).at(stage.t).sign(), "blocked");
    conn.refuse(&event(&key(6)).at(stage.t).sign(), "restricted");
    conn.refuse(&event(&key(2)).kind(7).at(stage.t).sign(), "blocked");
}
