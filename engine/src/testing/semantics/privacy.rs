//! The read guard: direct messages and gift wraps go to their parties only (NIPs 04, 17, 59).

use serde_json::json;

use super::conn::req_text;
use super::oracle::check;
use super::stage::Stage;
use super::{Case, case, case_with};
use crate::relay::Config;
use crate::testing::signing::{Key, Signed, event, key};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("privacy: gift wraps of the unauthenticated reader", unauthenticated),
        case("privacy: gift wraps of their parties", parties),
        case("privacy: gift wraps of others", others),
        case("privacy: live gift wraps", live),
        case("privacy: ephemeral gift wraps", ephemeral),
        case("privacy: AUTH counts for subscriptions that are open already", auth_later),
        case("privacy: who is a party", who_is_a_party),
        case("privacy: direct messages are open unless guarded", direct_messages_open),
        case_with("privacy: direct messages guarded", guard_4, direct_messages_guarded),
        case_with("privacy: no guard at all", |config| config.policy.guarded_kinds.clear(), unguarded),
    ]
}

fn guard_4(config: &mut Config) {
    config.policy.guarded_kinds = vec![4, 1059, 21059];
}

fn wrap(stage: &Stage<'_>, by: u64, to: &Key) -> Signed {
    event(&key(by)).kind(1059).at(stage.t - by % 10).tag(["p", to.hex()]).sign()
}

/// A relay with wraps for keys 1 and 2, and an open note beside them.
fn filled(stage: &mut Stage<'_>) -> (Signed, Signed, Signed) {
    let mut writer = stage.open();
    let (mine, others) = (wrap(stage, 50, &key(1)), wrap(stage, 51, &key(2)));
    let note = event(&key(3)).at(stage.t - 5).tag(["p", key(1).hex()]).sign();
    writer.accept_all(&[mine.clone(), others.clone(), note.clone()]);
    (mine, others, note)
}

fn unauthenticated(stage: &mut Stage<'_>) {
    let (mine, others, note) = filled(stage);
    let mut conn = stage.open();
    for filters in [
        json!({"kinds": [1059]}),
        json!({"kinds": [1059], "#p": [key(1).hex()]}),
        json!({"kinds": [1059], "limit": 0}),
        json!({"kinds": [1059], "authors": [mine.pubkey]}),
        json!([{"kinds": [1]}, {"kinds": [1059]}]),
        json!({"kinds": [1, 1059]}),
        json!({"kinds": [4, 1059], "#p": [key(1).hex()]}),
        json!({"kinds": [1059, 30_000], "authors": []}),
        // Also if the ids name guarded events only.
        json!({"ids": [mine.id]}),
        json!({"ids": [mine.id, others.id, "0".repeat(64)]}),
        json!([{"ids": [mine.id]}, {"ids": [others.id], "#p": [key(2).hex()]}]),
    ] {
        conn.req_closed("sub", filters.clone(), "auth-required");
        conn.count_closed("count", filters, "auth-required");
    }
    // Wider filters are answered without them and without `finish`, whether or not anything was withheld.
    for filters in [
        json!({}),
        json!({"limit": 1}),
        json!({"ids": [mine.id, note.id]}),
        json!({"#p": [key(1).hex()]}),
        json!({"authors": [key(3).hex()]}),
        json!({"since": stage.t - 20}),
        json!({"#p": [key(1).hex()], "since": stage.t - 5}),
    ] {
        check(&mut conn, filters.clone(), std::slice::from_ref(&note));
        assert_eq!(conn.ask(filters.clone()).hint, None, "{filters}");
        let body = conn.count_body("count", filters.clone());
        assert_eq!(body, json!({"count": 1, "approximate": true}), "{filters}");
    }
    for filters in [json!({"authors": [mine.pubkey]}), json!({"authors": [key(8).hex()]})] {
        check(&mut conn, filters.clone(), &[]);
        assert_eq!(conn.count(filters), 0);
    }
    // An answer from which nothing can be withheld is complete.
    for filters in [
        json!({"kinds": [1, 7]}),
        json!({"ids": [note.id]}),
        json!([{"kinds": [1], "since": stage.t - 9}, {"kinds": [1], "#p": [key(1).hex()]}]),
    ] {
        let answer = conn.ask(filters.clone());
        assert_eq!(
            (answer.ids(), answer.hint.as_deref()),
            (vec![note.id.clone()], Some("finish")),
            "{filters}"
        );
        assert_eq!(conn.count_body("count", filters.clone()), json!({"count": 1}), "{filters}");
    }
    check(&mut conn, json!({"ids": ["0".repeat(64)]}), &[]);
    assert_eq!(conn.count(json!({"ids": ["0".repeat(64)]})), 0);
    conn.expect_silence();
}

fn parties(stage: &mut Stage<'_>) {
    let (mine, others, note) = filled(stage);
    // The recipient, the (random) author, and both keys on one connection.
    for (keys, seen) in [(&[1][..], vec![&mine]), (&[50], vec![&mine]), (&[1, 2], vec![&mine, &others])] {
        let mut conn = stage.open();
        for &number in keys {
            stage.auth(&mut conn, &key(number));
        }
        let wraps: Vec<Signed> = seen.into_iter().cloned().collect();
        let all = [&wraps[..], std::slice::from_ref(&note)].concat();
        for filters in [
            json!({"kinds": [1059]}),
            json!({"kinds": [1059], "limit": 5}),
            json!({"ids": [mine.id, others.id]}),
        ] {
            check(&mut conn, filters.clone(), &wraps);
            assert_eq!(conn.count(filters), wraps.len() as u64);
        }
        for filters in [json!({}), json!({"kinds": [1, 1059]}), json!({"ids": [mine.id, others.id, note.id]})]
        {
            check(&mut conn, filters.clone(), &all);
            assert_eq!(conn.count(filters), all.len() as u64);
        }
        if keys[0] == 1 {
            let mine = json!({"kinds": [1059], "#p": [key(1).hex()]});
            let answer = conn.ask(mine.clone());
            assert_eq!((answer.ids(), answer.hint.as_deref()), (vec![wraps[0].id.clone()], Some("finish")));
            assert_eq!(conn.count_body("count", mine), json!({"count": 1}), "all of one's own, exactly");
        }
    }
}

fn others(stage: &mut Stage<'_>) {
    let (mine, _, note) = filled(stage);
    let mut conn = stage.open();
    stage.auth(&mut conn, &key(9));
    check(&mut conn, json!({}), std::slice::from_ref(&note));
    check(&mut conn, json!({"ids": [mine.id, note.id]}), std::slice::from_ref(&note));
    check(&mut conn, json!({"kinds": [1059]}), &[]);
    check(&mut conn, json!({"kinds": [1059], "#p": [key(9).hex(), key(1).hex()]}), &[]);
    assert_eq!(conn.ask(json!({"kinds": [1059]})).hint, None, "others' are withheld");
    assert_eq!(conn.count(json!({"kinds": [1059, 1]})), 1);
    // A key without events of its own gets an empty answer.
    let found = conn.ask(json!({"kinds": [1059], "#p": [key(9).hex()]}));
    assert_eq!((found.ids().len(), found.hint.as_deref()), (0, Some("finish")));
    // A filter for events of other keys only is restricted.
    for filters in [
        json!({"kinds": [1059], "#p": [key(1).hex()]}),
        json!({"kinds": [4, 1059], "#p": [key(1).hex()]}),
        json!([{"kinds": [1]}, {"kinds": [1059], "#p": [key(1).hex()], "authors": [mine.pubkey]}]),
        json!({"ids": [mine.id]}),
    ] {
        conn.req_closed("sub", filters.clone(), "restricted");
        conn.count_closed("sub", filters, "restricted");
    }
    conn.expect_silence();
}

fn live(stage: &mut Stage<'_>) {
    let mut writer = stage.open();
    let (mut nobody, mut me, mut other) = (stage.open(), stage.open(), stage.open());
    stage.auth(&mut me, &key(1));
    stage.auth(&mut other, &key(2));
    for conn in [&mut nobody, &mut me, &mut other] {
        stage.watch(conn, "all", json!({"since": stage.t - 100}));
        stage.watch(conn, "p", json!({"#p": [key(1).hex()]}));
    }
    let wrap = wrap(stage, 50, &key(1));
    let like = event(&key(3)).kind(7).at(stage.t).tag(["p", key(1).hex()]).sign();
    writer.accept(&wrap);
    writer.accept(&like);
    for (conn, seen) in [(&mut nobody, vec![&like]), (&mut me, vec![&wrap, &like]), (&mut other, vec![&like])]
    {
        let seen: Vec<&str> = seen.iter().map(|event| event.id.as_str()).collect();
        for sub in ["all", "p"] {
            assert_eq!(stage.settle(&mut writer, conn, sub), seen, "{sub}");
        }
    }
}

fn ephemeral(stage: &mut Stage<'_>) {
    let mut writer = stage.open();
    let (mut nobody, mut me) = (stage.open(), stage.open());
    nobody.req_closed("sub", json!({"kinds": [21059], "#p": [key(1).hex()]}), "auth-required");
    stage.auth(&mut me, &key(1));
    for conn in [&mut nobody, &mut me] {
        stage.watch(conn, "sub", json!({"#p": [key(1).hex()]}));
    }
    let wrap = event(&key(50)).kind(21059).at(stage.t).tag(["p", key(1).hex()]).sign();
    writer.accept(&wrap);
    assert_eq!(stage.settle(&mut writer, &mut me, "sub"), [&*wrap.id]);
    assert!(stage.settle(&mut writer, &mut nobody, "sub").is_empty());
    assert_eq!(me.count(json!({"ids": [wrap.id]})), 0, "it is not stored");
}

fn auth_later(stage: &mut Stage<'_>) {
    let (mine, others, note) = filled(stage);
    let mut writer = stage.open();
    let mut conn = stage.open();
    let me = json!({"#p": [key(1).hex()]});
    stage.watch(&mut conn, "sub", me.clone());
    conn.req_closed("wraps", json!({"kinds": [1059], "#p": [key(1).hex()]}), "auth-required");
    assert!(!conn.challenge.is_empty(), "a client that must authenticate has the challenge to do it");
    stage.auth(&mut conn, &key(1));
    // Open subscriptions receive later events; stored ones need another REQ.
    let new = wrap(stage, 60, &key(1));
    writer.accept(&new);
    assert_eq!(stage.settle(&mut writer, &mut conn, "sub"), [&*new.id]);
    conn.expect_silence();
    let mut all = vec![mine, note, new];
    check(&mut conn, json!({"ids": all.iter().map(|event| &event.id).collect::<Vec<_>>()}), &all);
    conn.req("sub", me.clone());
    check(&mut conn, me, &all);
    // AUTH during an answer must not make it `finish`: the first half may lack events.
    let mut hasty = stage.open();
    let auth = stage.auth_event(&mut hasty, &key(1));
    hasty.send_all(&[req_text("hasty", json!({"limit": 400})), format!(r#"["AUTH",{}]"#, auth.json())]);
    assert_eq!(hasty.answer("hasty").hint, None);
    assert!(hasty.ok(&auth.id).0);
    stage.auth(&mut conn, &key(2));
    all.push(others);
    check(&mut conn, json!({"kinds": [1059]}), &[all[0].clone(), all[2].clone(), all[3].clone()]);
}

fn who_is_a_party(stage: &mut Stage<'_>) {
    let mut writer = stage.open();
    let (me, other) = (key(1), key(2));
    let draft = |n: u64| event(&key(50 + n)).kind(1059).at(stage.t - n);
    let seen = [
        draft(0).tag(["p", me.hex()]).sign(),
        draft(1).tag(["p", other.hex()]).tag(["p", me.hex()]).sign(),
        draft(2).tag(["x", "y"]).tag(["p", me.hex(), "wss://relay.example.com"]).sign(),
        event(&me).kind(1059).at(stage.t - 3).sign(),
    ];
    let withheld = [
        draft(4).sign(),
        draft(5).tag(["P", me.hex()]).sign(),
        draft(6).tag(["p", other.hex(), me.hex()]).sign(),
        draft(7).tag(["p", &me.hex().to_uppercase()]).sign(),
        draft(8).tag(["p"]).sign(),
        draft(9).tag(["pp", me.hex()]).content(me.hex()).sign(),
    ];
    writer.accept_all(&seen);
    writer.accept_all(&withheld);
    let mut conn = stage.open();
    stage.auth(&mut conn, &me);
    check(&mut conn, json!({"kinds": [1059]}), &seen);
    assert_eq!(conn.count(json!({"kinds": [1059]})), seen.len() as u64);
}

fn message(stage: &Stage<'_>) -> Signed {
    event(&key(1)).kind(4).at(stage.t).tag(["p", key(2).hex()]).content("?iv=").sign()
}

fn direct_messages_open(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let message = message(stage);
    conn.accept(&message);
    check(&mut conn, json!({"kinds": [4]}), std::slice::from_ref(&message));
    assert_eq!(conn.count(json!({"kinds": [4]})), 1);
}

fn direct_messages_guarded(stage: &mut Stage<'_>) {
    let mut writer = stage.open();
    let message = message(stage);
    let mut watchers: Vec<_> = [None, Some(1), Some(2), Some(3)].map(|number| (number, stage.open())).into();
    for (number, conn) in &mut watchers {
        if let Some(number) = number {
            stage.auth(conn, &key(*number));
        }
        stage.watch(conn, "sub", json!({"authors": [key(1).hex()]}));
    }
    writer.accept(&message);
    for (number, conn) in &mut watchers {
        let is_party = matches!(number, Some(1 | 2));
        let expected: &[Signed] = if is_party { std::slice::from_ref(&message) } else { &[] };
        check(conn, json!({}), expected);
        match (is_party, *number) {
            (true, _) => assert_eq!(conn.count(json!({"ids": [message.id]})), 1, "{number:?}"),
            (false, None) => conn.count_closed("dm", json!({"ids": [message.id]}), "auth-required"),
            (false, Some(_)) => conn.count_closed("dm", json!({"ids": [message.id]}), "restricted"),
        }
        if number.is_none() {
            conn.req_closed("dm", json!({"kinds": [4]}), "auth-required");
            conn.req_closed("dm", json!({"kinds": [4, 1059]}), "auth-required");
        }
    }
    for (number, conn) in &mut watchers {
        let seen = stage.settle(&mut writer, conn, "sub");
        let expected: &[String] =
            if matches!(number, Some(1 | 2)) { std::slice::from_ref(&message.id) } else { &[] };
        assert_eq!(seen, expected, "live, key {number:?}");
    }
}

fn unguarded(stage: &mut Stage<'_>) {
    let (mine, others, note) = filled(stage);
    let mut conn = stage.open();
    let all: [Signed; 3] = [mine, others, note];
    check(&mut conn, json!({}), &all);
    check(&mut conn, json!({"kinds": [1059]}), &all[..2]);
    assert_eq!(conn.count(json!({"kinds": [1059]})), 2);
}
