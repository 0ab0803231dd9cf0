//! Limits: each is accepted at its value and refused beyond it, and the connection stays open (NIP-11).

use serde_json::{Value, json};

use super::conn::{Conn, count_text, event_text, req_text};
use super::stage::Stage;
use super::{Case, Frame, case, case_with};
use crate::relay::Config;
use crate::testing::signing::{event, key};
use crate::types::PubKey;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("limits: the default ones hold together", defaults),
        case_with("limits: message bytes", small_messages, message_bytes),
        case_with("limits: tags of an event", |config| config.limits.event_tags_max = 5, event_tags),
        case_with(
            "limits: tags of a list",
            |config| {
                config.limits.event_tags_max = 5;
                config.limits.list_tags_max = 9;
            },
            list_tags,
        ),
        case_with(
            "limits: characters of content",
            |config| config.limits.content_chars_max = 100,
            content_chars,
        ),
        case_with("limits: bytes of an event", |config| config.limits.event_bytes_max = 1_000, event_bytes),
        case_with(
            "limits: created_at ahead",
            |config| config.limits.created_at_ahead_seconds_max = 60,
            ahead,
        ),
        case_with(
            "limits: created_at behind",
            |config| config.limits.created_at_age_seconds_max = Some(1_000),
            behind,
        ),
        case_with(
            "limits: subscriptions of a connection",
            |config| config.limits.subscriptions_max = 3,
            subscriptions,
        ),
        case_with("limits: filters of a request", |config| config.limits.filters_max = 3, filters),
        case_with(
            "limits: values of a request",
            |config| config.limits.filter_values_max = 10,
            filter_values,
        ),
        case_with(
            "limits: values of a connection",
            |config| config.limits.connection_values_max = 12,
            connection_values,
        ),
        case_with("limits: events per minute", |config| config.limits.events_per_minute_max = 5, event_rate),
        case_with(
            "limits: requests per minute",
            |config| config.limits.requests_per_minute_max = 5,
            request_rate,
        ),
        case_with(
            "limits: kinds taken",
            |config| config.policy.allow_kinds = Some(vec![1, 7]),
            allowed_kinds,
        ),
        case_with("limits: kinds refused", |config| config.policy.deny_kinds = vec![7, 20_000], denied_kinds),
        case_with(
            "limits: authors refused",
            |config| config.policy.deny_pubkeys = vec![PubKey(key(2).bytes())],
            denied_authors,
        ),
        case_with(
            "limits: lists of authors and kinds and proof of work do not apply to administrators",
            |config| {
                config.policy.admin_pubkeys = vec![PubKey(key(3).bytes())];
                config.policy.allow_pubkeys = Some(vec![PubKey(key(1).bytes())]);
                config.policy.deny_kinds = vec![7];
                config.limits.pow_bits_min = 200;
                config.limits.event_tags_max = 5;
            },
            administrators,
        ),
    ]
}

/// Limits of content and tags that fit into the message.
fn small_messages(config: &mut Config) {
    config.limits.message_bytes_max = MESSAGE_BYTES_MAX;
    config.limits.content_chars_max = 600;
    config.limits.event_tags_max = 70;
}

const MESSAGE_BYTES_MAX: usize = 8_000;

/// An event within the limits of NIP-11 fits into a message. 262,144 characters that JSON escapes were advertised once, and did
/// not fit.
fn defaults(stage: &mut Stage<'_>) {
    let limits = crate::types::Limits::default();
    let mut conn = stage.open();
    // With relay URLs, as in real follow lists.
    let follow = |draft: crate::testing::signing::Draft, n: usize| {
        draft.tag(["p", &format!("{n:064x}"), "wss://relay.example.com"])
    };
    let follows = (0..limits.list_tags_max).fold(event(&key(1)).kind(3).at(stage.t), follow).sign();
    conn.accept(&follows);
    let mut all = vec![follows.id];
    for (ago, character) in [(1, "語"), (2, "\u{1}"), (3, "💜")] {
        let long =
            event(&key(1)).at(stage.t - ago).content(character.repeat(limits.content_chars_max)).sign();
        // Twelve bytes a character: two escapes for each.
        let content = crate::testing::signing::escaped_throughout(&long.content);
        let json = long.fields().set("content", content).json();
        assert_eq!(conn.publish_as(&long.id, &json), (true, String::new()), "{character:?}");
        all.push(long.id);
    }
    assert_eq!(conn.ask(json!({"authors": [key(1).hex()]})).ids(), all);
    let ids: Vec<String> = (0..17_000).map(|n| format!("{n:064x}")).chain([all[0].clone()]).collect();
    assert_eq!(conn.ask(json!({"ids": ids})).ids(), all[..1]);
}

/// The text, padded with white space to `bytes`.
fn padded(text: &str, bytes: usize) -> String {
    format!("{text}{}", " ".repeat(bytes - text.len()))
}

/// A message that is too long is answered by its id, or by a NOTICE if it has none.
fn assert_too_long(conn: &mut Conn, text: &str, id: Option<&str>) {
    conn.send(text);
    match (&conn.fence()[..], id) {
        ([Frame::Ok { id: answered, accepted: false, message }], Some(id)) if answered == id => {
            assert!(text.starts_with(r#"["EVENT""#) || text.starts_with(r#"["AUTH""#));
            assert!(message.starts_with("invalid: "), "{message:?}");
        }
        ([Frame::Closed { sub, message }], Some(id)) if sub == id => {
            assert!(message.starts_with("invalid: "), "{message:?}");
        }
        ([Frame::Notice(_)], None) => {}
        (other, _) => panic!("{other:?} for {} bytes that name {id:?}", text.len()),
    }
}

/// Regression: clients waited for ever if the only answer was a NOTICE. Most write the id of an event after its content.
fn message_bytes(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let note = event(&key(1)).at(stage.t).content("é".repeat(300)).sign();
    let text = event_text(&note);
    let ids = json!({"ids": vec![&*note.id; 17_000]});
    for bytes in [MESSAGE_BYTES_MAX + 1, 2 * MESSAGE_BYTES_MAX + 1, 300_000] {
        assert_too_long(&mut conn, &padded(&text, bytes), Some(&note.id));
        assert_too_long(&mut conn, &padded(&req_text("sub", json!({})), bytes), Some("sub"));
        assert_too_long(&mut conn, &" ".repeat(bytes), None);
        assert_too_long(&mut conn, &"x".repeat(bytes), None);
        let long = event(&key(1)).at(stage.t).content("\u{1}\"\\id".repeat(bytes)).tag(["id", "x"]).sign();
        for fields in [long.fields(), long.fields().reversed()] {
            assert_too_long(&mut conn, &format!(r#"["EVENT",{}]"#, fields.json()), Some(&long.id));
            let upper = long.id.to_uppercase();
            let json = fields.set("id", json!(upper).to_string()).json();
            assert_too_long(&mut conn, &format!(r#"["AUTH",{json}]"#), Some(&upper));
        }
        assert_too_long(
            &mut conn,
            &req_text(&"s".repeat(bytes.min(100_000)), json!({})),
            Some(&"s".repeat(bytes.min(100_000))),
        );
    }
    let contacts = (0..9_000).fold(event(&key(1)).kind(3).at(stage.t), |draft, n| {
        draft.tag(["p", &format!("{n:064x}"), "wss://relay.example.com"])
    });
    let contacts = contacts.sign();
    assert_too_long(&mut conn, &event_text(&contacts), Some(&contacts.id));
    assert_too_long(&mut conn, &req_text("é\n", ids.clone()), Some("é\n"));
    assert_too_long(&mut conn, &count_text("count", ids.clone()), Some("count"));
    assert_too_long(&mut conn, &json!(["CLOSE", "sub", ids]).to_string(), Some("sub"));
    assert_eq!(conn.count(json!({})), 0);
    // In order with earlier messages; the refused REQ would have replaced the one before it.
    conn.send_all(&[
        req_text("a", json!({"kinds": [1]})),
        padded(&req_text("a", json!({})), MESSAGE_BYTES_MAX + 1),
        text.clone(),
    ]);
    assert_eq!(conn.answer("a").ids().len(), 0);
    conn.expect_closed("a", "invalid");
    assert_eq!(conn.ok(&note.id), (true, String::new()));
    conn.expect_silence();
    conn.send(&padded(&text, MESSAGE_BYTES_MAX));
    assert!(conn.ok(&note.id).0, "exactly at the limit");
    conn.send(&padded(&req_text("sub", json!({})), MESSAGE_BYTES_MAX));
    assert_eq!(conn.answer("sub").ids(), [&*note.id]);
    conn.expect_silence();
}

fn event_tags(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let with = |tags: usize| {
        (0..tags).fold(event(&key(1)).at(stage.t), |draft, _| draft.tag(["t", "x", "y"])).sign()
    };
    conn.refuse(&with(6), "invalid");
    conn.refuse(&with(100), "invalid");
    conn.accept(&with(5));
    conn.accept(&with(0));
}

/// Follow lists, bookmarks and sets are as long as somebody's interests; a note is not.
fn list_tags(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let t = stage.t;
    let with = |kind: u16, at: u64, tags: usize| {
        (0..tags).fold(event(&key(1)).kind(kind).at(at), |draft, _| draft.tag(["t", "x"])).sign()
    };
    for kind in [1, 5, 7, 1059, 20_001, 30_023] {
        conn.refuse(&with(kind, t, 6), "invalid");
    }
    for kind in [3, 10_002, 30_000] {
        conn.refuse(&with(kind, t, 10), "invalid");
        conn.accept(&with(kind, t, 9));
    }
    conn.accept(&with(1, t, 5));
}

fn content_chars(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    for character in ["x", "é", "💜", "\"", "\n", "\u{1}"] {
        let with = |chars: usize| event(&key(1)).at(stage.t).content(character.repeat(chars)).sign();
        conn.refuse(&with(101), "invalid");
        conn.accept(&with(100));
        // Characters count, not their escapes.
        let event = event(&key(2)).at(stage.t).content(character.repeat(100)).sign();
        let escaped = crate::testing::signing::escaped_throughout(&event.content);
        let answer = conn.publish_as(&event.id, &event.fields().set("content", escaped).json());
        assert_eq!(answer, (true, String::new()), "{character:?} escaped");
    }
}

fn event_bytes(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let with = |bytes: usize| event(&key(1)).at(stage.t).content("x".repeat(bytes)).sign();
    let bare = with(0).json().len();
    conn.refuse(&with(1_001 - bare), "invalid");
    let exact = with(1_000 - bare);
    assert_eq!(exact.json().len(), 1_000);
    conn.accept(&exact);
    // The size is that of the canonical event, not of the message.
    let event = event(&key(2)).at(stage.t).content("x".repeat(1_000 - bare)).sign();
    let answer = conn.publish_as(&event.id, &event.fields().json_with("  "));
    assert_eq!(answer, (true, String::new()));
}

fn ahead(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let now = stage.relay.now();
    for at in [now + 600, now + 1_000_000, u64::from(u32::MAX) * 2, i64::MAX as u64 - 1] {
        conn.refuse(&event(&key(1)).at(at).sign(), "invalid");
    }
    conn.accept(&event(&key(1)).at(now + 50).sign());
    conn.accept(&event(&key(1)).at(0).sign());
    if stage.relay.holds_its_clock() {
        conn.refuse(&event(&key(1)).at(now + 61).sign(), "invalid");
        conn.accept(&event(&key(1)).at(now + 60).sign());
        stage.advance(1);
        conn.accept(&event(&key(1)).at(now + 61).sign());
    }
}

fn behind(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let now = stage.relay.now();
    for at in [now - 2_000, 0] {
        conn.refuse(&event(&key(1)).at(at).sign(), "invalid");
    }
    conn.accept(&event(&key(1)).at(now - 900).sign());
    if stage.relay.holds_its_clock() {
        conn.refuse(&event(&key(1)).at(now - 1_001).sign(), "invalid");
        conn.accept(&event(&key(1)).at(now - 1_000).sign());
    }
}

fn subscriptions(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    for sub in ["a", "b", "c"] {
        conn.req(sub, json!({}));
    }
    conn.send(&req_text("d", json!({})));
    conn.expect_closed("d", "");
    // Replacing a subscription does not count twice, and CLOSE frees one.
    conn.req("b", json!({"kinds": [1]}));
    conn.close_sub("a");
    conn.req("d", json!({}));
    conn.send(&req_text("a", json!({})));
    conn.expect_closed("a", "");
    // A COUNT is not a subscription.
    assert_eq!(conn.count(json!({})), 0);
    // Another connection has a limit of its own.
    stage.open().req("a", json!({}));
    // The remaining subscriptions are live.
    let note = event(&key(1)).at(stage.t).sign();
    conn.accept(&note);
    for sub in ["b", "c", "d"] {
        assert_eq!(conn.next_event(sub), note.id);
    }
}

fn filters(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let many = |count: usize| Value::Array(vec![json!({"kinds": [1]}); count]);
    conn.req("sub", many(3));
    conn.req_closed("sub", many(4), "");
    conn.count_closed("sub", many(4), "");
    assert_eq!(conn.count(many(3)), 0);
}

fn filter_values(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let kinds = |count: usize| (0..count).collect::<Vec<_>>();
    conn.req("sub", json!({"kinds": kinds(10)}));
    conn.req("sub", json!([{"kinds": kinds(5)}, {"#t": ["a", "b"], "kinds": kinds(3)}]));
    for filters in [
        json!({"kinds": kinds(11)}),
        json!([{"kinds": kinds(6)}, {"kinds": kinds(5)}]),
        json!({"kinds": kinds(9), "#t": ["a", "b"]}),
    ] {
        conn.req_closed("sub", filters.clone(), "");
        conn.count_closed("sub", filters, "");
    }
}

fn connection_values(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let kinds = |count: usize| json!({"kinds": (0..count).collect::<Vec<_>>()});
    conn.req("a", kinds(6));
    conn.req("b", kinds(4));
    conn.req_closed("c", kinds(1), "blocked");
    // Replacing and CLOSE free values; a COUNT frees its values at its end. A filter itself counts as a value.
    conn.req("a", kinds(4));
    conn.req("c", kinds(1));
    conn.count(kinds(9));
    conn.close_sub("b");
    conn.req("d", kinds(4));
    conn.req_closed("e", kinds(1), "blocked");
    stage.open().req("a", kinds(11));
}

fn event_rate(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let t = stage.t;
    let note = |n: u64| event(&key(1)).at(t).content(n.to_string()).sign();
    for n in 0..5 {
        conn.accept(&note(n));
    }
    conn.refuse(&note(5), "rate-limited");
    // Other connections have a rate of their own, and REQs do not count.
    let mut other = stage.open();
    other.accept(&note(6));
    assert_eq!(conn.count(json!({})), 6);
    if stage.relay.holds_its_clock() {
        stage.advance(12);
        conn.accept(&note(7));
        conn.refuse(&note(8), "rate-limited");
        stage.advance(3_600);
        for n in 10..15 {
            conn.accept(&note(n));
        }
        conn.refuse(&note(15), "rate-limited");
    }
}

fn request_rate(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    for n in 0..3 {
        conn.req(&format!("sub {n}"), json!({}));
    }
    for _ in 0..2 {
        assert_eq!(conn.count(json!({})), 0);
    }
    conn.req_closed("sub", json!({}), "rate-limited");
    conn.count_closed("sub", json!({}), "rate-limited");
    // Open subscriptions stay open, and EVENTs do not count.
    let note = event(&key(1)).at(stage.t).sign();
    conn.accept(&note);
    for n in 0..3 {
        assert_eq!(conn.next_event(&format!("sub {n}")), note.id);
    }
    if stage.relay.holds_its_clock() {
        stage.advance(12);
        conn.req("sub", json!({}));
        conn.req_closed("sub", json!({}), "rate-limited");
    }
}

fn allowed_kinds(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    for (kind, taken) in [(1, true), (7, true), (0, false), (20_000, false)] {
        let event = event(&key(1)).kind(kind).at(stage.t).sign();
        if taken { conn.accept(&event) } else { conn.refuse(&event, "blocked") }
    }
}

fn denied_kinds(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    for (kind, taken) in [(1, true), (7, false), (20_000, false), (20_001, true)] {
        let event = event(&key(1)).kind(kind).at(stage.t).sign();
        if taken { conn.accept(&event) } else { conn.refuse(&event, "blocked") }
    }
}

fn denied_authors(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    conn.accept(&event(&key(1)).at(stage.t).tag(["p", key(2).hex()]).sign());
    conn.refuse(&event(&key(2)).at(stage.t).sign(), "blocked");
    conn.refuse(&event(&key(2)).kind(20_000).at(stage.t).sign(), "blocked");
}

fn administrators(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    conn.accept(&event(&key(3)).at(stage.t).sign());
    conn.accept(&event(&key(3)).kind(7).at(stage.t).sign());
    // The limits that protect the relay itself still hold.
    let tags = (0..6).fold(event(&key(3)).at(stage.t), |draft, _| draft.tag(["t", "x"]));
    conn.refuse(&tags.sign(), "invalid");
    conn.refuse(&event(&key(1)).at(stage.t).sign(), "pow");
    conn.refuse(&event(&key(1)).kind(7).at(stage.t).sign(), "blocked");
    conn.refuse(&event(&key(2)).at(stage.t).sign(), "restricted");
}
