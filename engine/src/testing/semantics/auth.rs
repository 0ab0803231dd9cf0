//! Authentication (NIP-42), and a relay that requires it.

use serde_json::json;

use super::stage::Stage;
use super::{Case, Frame, case, case_with};
use crate::relay::Config;
use crate::testing::signing::{Signed, event, key};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("auth: no challenge before something needs it, and one then", challenge_when_needed),
        case_with(
            "auth: a challenge on connect where it is switched on",
            |config| config.policy.challenge_on_connect = true,
            challenge_on_connect,
        ),
        case_with(
            "auth: a challenge on connect where AUTH is required",
            |config| config.policy.auth_required = true,
            challenge_on_connect,
        ),
        case("auth: nobody can answer a challenge that was not sent", unsent_challenge),
        case("auth: a challenge of its own for each connection", challenges),
        case("auth: an AUTH event must be right in every part", every_part),
        case("auth: the relay tag names the relay, in any spelling", spellings),
        case_with("auth: a configured URL is what AUTH must name", with_url, configured_url),
        case_with(
            "auth: a configured Unicode URL and its punycode are one",
            |config| config.url = Some("wss://relay.exämple.com".into()),
            unicode_url,
        ),
        case("auth: several keys on one connection", several_keys),
        case_with(
            "auth: more keys than a connection may have",
            |config| config.limits.auth_keys_max = 2,
            too_many_keys,
        ),
        case("auth: kind 22242 is neither stored nor broadcast", never_broadcast),
        case("auth: takes effect in order", in_order),
        case_with("auth: required for everything", |config| config.policy.auth_required = true, required),
        case("auth: malformed", malformed),
    ]
}

fn with_url(config: &mut Config) {
    config.url = Some("wss://relay.example.com/".into());
}

/// An event that only key `number`, authenticated, may publish.
fn proof(stage: &Stage<'_>, number: u64, content: &str) -> Signed {
    event(&key(number)).at(stage.t).tag(["-"]).content(content).sign()
}

/// Welshman without a signer ignored every EOSE after an unsolicited challenge.
fn challenge_when_needed(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let note = event(&key(3)).at(stage.t).sign();
    conn.accept(&note);
    conn.refuse(&event(&key(4)).at(stage.t).sign().forged(), "invalid");
    conn.req("sub", json!({}));
    assert_eq!(conn.count(json!({})), 1);
    conn.req_closed("sub", json!({"foo": 1}), "unsupported");
    conn.send("nonsense");
    conn.expect_notice();
    conn.expect_silence();
    assert_eq!(conn.challenges, 0, "a challenge for nothing");
    // Before the refusal, so that a client has it when it reads the reason.
    conn.refuse(&proof(stage, 1, "x"), "auth-required");
    assert_eq!(conn.challenges, 1);
    let mut reader = stage.open();
    reader.req_closed("wraps", json!({"kinds": [1059]}), "auth-required");
    assert_eq!(reader.challenges, 1);
    // It is valid while the connection is open and is not sent again, because clients prompt their users each time.
    for conn in [&mut conn, &mut reader] {
        conn.req_closed("wraps", json!({"kinds": [1059]}), "auth-required");
        conn.count_closed("wraps", json!({"kinds": [1059]}), "auth-required");
        conn.refuse(&proof(stage, 1, "x"), "auth-required");
        stage.auth(conn, &key(1));
        conn.refuse(&proof(stage, 2, "x"), "restricted");
        conn.expect_silence();
        stage.auth(conn, &key(2));
        assert_eq!(conn.challenges, 1);
    }
}

fn challenge_on_connect(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    conn.send("nonsense");
    conn.expect_notice();
    assert_eq!(conn.challenges, 1, "on connect, ahead of everything");
    let challenge = conn.challenge.clone();
    conn.refuse(&proof(stage, 1, "x"), "auth-required");
    conn.req_closed("wraps", json!({"kinds": [1059]}), "auth-required");
    stage.auth(&mut conn, &key(1));
    conn.accept(&proof(stage, 1, "x"));
    assert_eq!((conn.challenges, conn.challenge), (1, challenge));
}

fn unsent_challenge(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let url = format!("ws://{}/", stage.relay.host());
    let draft = || stage.auth_draft(&key(1)).tag(["relay", &url]);
    for event in [
        draft().sign(),
        draft().tag(["challenge"]).sign(),
        draft().tag(["challenge", ""]).sign(),
        draft().tag(["challenge", "0"]).sign(),
    ] {
        let (accepted, message) = conn.auth(&event);
        assert!(!accepted && message.starts_with("invalid: "), "{message:?}");
    }
    assert_eq!(conn.challenges, 0);
    conn.refuse(&proof(stage, 1, "x"), "auth-required");
}

fn challenges(stage: &mut Stage<'_>) {
    let mut conns: Vec<_> = (0..5).map(|_| stage.open()).collect();
    let mut challenges: Vec<String> = conns.iter_mut().map(|conn| stage.challenge(conn)).collect();
    challenges.sort_unstable();
    challenges.dedup();
    assert_eq!(challenges.len(), 5, "challenges differ");
    // AUTH on one connection does not count on another.
    let event = stage.auth_event(&mut conns[0], &key(1));
    assert!(!conns[1].auth(&event).0, "another connection's challenge");
    conns[1].refuse(&proof(stage, 1, "x"), "auth-required");
    assert!(conns[0].auth(&event).0);
    conns[0].accept(&proof(stage, 1, "x"));
    conns[2].refuse(&proof(stage, 1, "y"), "auth-required");
}

fn every_part(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let me = key(1);
    let url = format!("ws://{}/", stage.relay.host());
    let challenge = stage.challenge(&mut conn);
    let good = || stage.auth_draft(&me).tag(["relay", &url]).tag(["challenge", &challenge]);
    let now = stage.relay.now();
    let longer = format!("{challenge}0");
    let bad: Vec<(&str, Signed)> = vec![
        ("another kind", good().kind(22241).sign()),
        ("kind 1", good().kind(1).sign()),
        ("no tags", stage.auth_draft(&me).sign()),
        ("no challenge", stage.auth_draft(&me).tag(["relay", &url]).sign()),
        ("no relay", stage.auth_draft(&me).tag(["challenge", &challenge]).sign()),
        ("an empty challenge", stage.auth_draft(&me).tag(["relay", &url]).tag(["challenge", ""]).sign()),
        ("a challenge without value", stage.auth_draft(&me).tag(["relay", &url]).tag(["challenge"]).sign()),
        (
            "a challenge cut short",
            stage.auth_draft(&me).tag(["relay", &url]).tag(["challenge", &challenge[1..]]).sign(),
        ),
        (
            "a challenge too long",
            stage.auth_draft(&me).tag(["relay", &url]).tag(["challenge", &longer]).sign(),
        ),
        (
            "another relay",
            stage
                .auth_draft(&me)
                .tag(["relay", "wss://evil.example.com/"])
                .tag(["challenge", &challenge])
                .sign(),
        ),
        ("an empty relay", stage.auth_draft(&me).tag(["relay", ""]).tag(["challenge", &challenge]).sign()),
        (
            "a relay that only mentions us",
            stage
                .auth_draft(&me)
                .tag(["relay", &format!("wss://evil.example.com/{}", stage.relay.host())])
                .tag(["challenge", &challenge])
                .sign(),
        ),
        (
            // A browser parses it as evil.example.com and a path.
            "a host behind a backslash",
            stage
                .auth_draft(&me)
                .tag(["relay", &format!("ws://evil.example.com\\@{}/", stage.relay.host())])
                .tag(["challenge", &challenge])
                .sign(),
        ),
        ("too old", good().at(now - 1_000).sign()),
        ("too new", good().at(now + 1_000).sign()),
        ("the epoch", good().at(0).sign()),
        ("a forged signature", good().sign().forged()),
    ];
    for (what, event) in bad {
        let (accepted, message) = conn.auth(&event);
        assert!(!accepted, "AUTH with {what} was accepted");
        assert!(
            message.starts_with("invalid: ") || message.starts_with("restricted: "),
            "{what}: {message:?}"
        );
        conn.refuse(&proof(stage, 1, what), "auth-required");
    }
    // An id that is not the hash is refused even if its signature is valid.
    let event = good().content("x").sign();
    conn.send(&format!(r#"["AUTH",{}]"#, event.fields().set("content", "\"y\"").json()));
    assert!(!conn.ok(&event.id).0, "AUTH with a wrong id was accepted");
    conn.refuse(&proof(stage, 1, "wrong id"), "auth-required");
    for (what, draft) in
        [("now", good()), ("a while ago", good().at(now - 580)), ("soon", good().at(now + 580))]
    {
        let (accepted, message) = conn.auth(&draft.content(what).sign());
        assert!(accepted, "AUTH of {what}: {message}");
    }
    conn.accept(&proof(stage, 1, "at last"));
}

fn spellings(stage: &mut Stage<'_>) {
    let host = stage.relay.host();
    for url in [
        format!("ws://{host}"),
        format!("ws://{host}/"),
        format!("wss://{host}/"),
        format!("WS://{}", host.to_uppercase()),
        format!("ws://{host}//nostr?a=b#c"),
        host.clone(),
    ] {
        let mut conn = stage.open();
        let challenge = stage.challenge(&mut conn);
        let event = stage.auth_draft(&key(1)).tag(["challenge", &challenge]).tag(["relay", &url]);
        let (accepted, message) = conn.auth(&event.sign());
        assert!(accepted, "{url}: {message}");
        conn.accept(&proof(stage, 1, &url));
    }
}

fn configured_url(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let challenge = stage.challenge(&mut conn);
    let draft = |stage: &Stage<'_>, url: &str| {
        stage.auth_draft(&key(1)).tag(["relay", url]).tag(["challenge", &challenge]).sign()
    };
    let by_host = draft(stage, &format!("ws://{}/", stage.relay.host()));
    assert!(!conn.auth(&by_host).0, "the Host header counts only where no URL is configured");
    conn.refuse(&proof(stage, 1, "x"), "auth-required");
    for url in
        ["wss://evil.example.com\\@relay.example.com/", "wss://relay.example.com:444", "wss://example.com"]
    {
        assert!(!conn.auth(&draft(stage, url)).0, "{url} is accepted");
    }
    conn.refuse(&proof(stage, 1, "x"), "auth-required");
    for url in [
        "wss://relay.example.com",
        "wss://RELAY.example.com/",
        "ws://relay.example.com:80",
        "wss://relay.example.com:0443/",
        "wss://relay.example.com./",
    ] {
        let (accepted, message) = conn.auth(&draft(stage, url));
        assert!(accepted, "{url}: {message}");
    }
    conn.accept(&proof(stage, 1, "x"));
}

/// Clients send punycode, because their URL parsers convert what users type.
fn unicode_url(stage: &mut Stage<'_>) {
    for url in ["wss://relay.xn--exmple-cua.com/", "wss://RELAY.EXÄMPLE.com"] {
        let mut conn = stage.open();
        let challenge = stage.challenge(&mut conn);
        let event = stage.auth_draft(&key(1)).tag(["challenge", &challenge]).tag(["relay", url]);
        let (accepted, message) = conn.auth(&event.sign());
        assert!(accepted, "{url}: {message}");
        conn.accept(&proof(stage, 1, url));
    }
}

fn several_keys(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    for number in 1..=5 {
        stage.auth(&mut conn, &key(number));
        // The same key may authenticate again.
        stage.auth(&mut conn, &key(number));
    }
    for number in 1..=5 {
        conn.accept(&proof(stage, number, "x"));
    }
    conn.refuse(&proof(stage, 6, "x"), "restricted");
    // A refused AUTH leaves earlier keys authenticated.
    assert!(!conn.auth(&stage.auth_draft(&key(6)).sign()).0);
    conn.accept(&proof(stage, 3, "y"));
}

fn too_many_keys(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    stage.auth(&mut conn, &key(1));
    stage.auth(&mut conn, &key(2));
    let (accepted, message) = {
        let event = stage.auth_event(&mut conn, &key(3));
        conn.auth(&event)
    };
    assert!(!accepted && message.starts_with("restricted: "), "{accepted} {message:?}");
    stage.auth(&mut conn, &key(2));
    conn.accept(&proof(stage, 1, "x"));
}

fn never_broadcast(stage: &mut Stage<'_>) {
    let (mut conn, mut reader, mut writer) = (stage.open(), stage.open(), stage.open());
    for conn in [&mut conn, &mut reader] {
        stage.watch(conn, "sub", json!([{"kinds": [22242]}, {"authors": [key(1).hex()]}, {"limit": 0}]));
    }
    let event = stage.auth_event(&mut conn, &key(1));
    conn.refuse(&event, "invalid");
    assert!(conn.auth(&event).0);
    conn.refuse(&event, "invalid");
    let again = stage.auth_event(&mut conn, &key(2));
    reader.refuse(&again, "invalid");
    conn.refuse(&crate::testing::signing::event(&key(1)).kind(22242).at(stage.t).sign(), "invalid");
    for watcher in [&mut conn, &mut reader] {
        assert!(stage.settle(&mut writer, watcher, "sub").is_empty());
        assert_eq!(watcher.ask(json!({"kinds": [22242]})).ids().len(), 0);
        assert_eq!(watcher.count(json!({"kinds": [22242]})), 0);
    }
}

fn in_order(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let event = stage.auth_event(&mut conn, &key(1));
    let (before, after) = (proof(stage, 1, "before"), proof(stage, 1, "after"));
    let wrap =
        crate::testing::signing::event(&key(50)).kind(1059).at(stage.t).tag(["p", key(1).hex()]).sign();
    conn.send_all(&[
        super::conn::event_text(&wrap),
        super::conn::event_text(&before),
        format!(r#"["AUTH",{}]"#, event.json()),
        super::conn::event_text(&after),
        super::conn::req_text("sub", json!({"kinds": [1059]})),
    ]);
    let (accepted, message) = conn.ok(&before.id);
    assert!(!accepted && message.starts_with("auth-required: "), "{message:?}");
    assert!(conn.ok(&event.id).0);
    assert!(conn.ok(&after.id).0);
    assert_eq!(conn.answer("sub").ids(), [&*wrap.id]);
}

fn required(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let note = event(&key(3)).at(stage.t).sign();
    conn.refuse(&note, "auth-required");
    conn.refuse(&event(&key(3)).kind(20_000).at(stage.t).sign(), "auth-required");
    for filters in [json!({}), json!({"limit": 0}), json!({"ids": []}), json!({"ids": [note.id]})] {
        conn.req_closed("sub", filters.clone(), "auth-required");
        conn.count_closed("sub", filters, "auth-required");
    }
    conn.close_sub("sub");
    stage.auth(&mut conn, &key(1));
    // Any authenticated key may publish events of any author.
    conn.accept(&note);
    assert_eq!(conn.req("sub", json!({})).ids(), [&*note.id]);
    assert_eq!(conn.count(json!({})), 1);
    let mut other = stage.open();
    other.req_closed("sub", json!({}), "auth-required");
    // Not even a stored event is acknowledged.
    other.refuse(&note, "auth-required");
}

fn malformed(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let event = stage.auth_event(&mut conn, &key(1));
    let forms = [
        r#"["AUTH"]"#.to_owned(),
        r#"["AUTH",null]"#.into(),
        format!(r#"["AUTH","{}"]"#, conn.challenge),
        r#"["AUTH",{}]"#.into(),
        format!(r#"["AUTH",{}]"#, event.fields().without("sig").json()),
        format!(r#"["AUTH",{}]"#, event.fields().set("kind", "\"22242\"").json()),
        format!(r#"["AUTH",{}"#, event.json()),
    ];
    for form in forms {
        conn.send(&form);
        match &conn.fence()[..] {
            [Frame::Notice(_) | Frame::Ok { accepted: false, .. }] => {}
            other => panic!("{other:?} for {form}"),
        }
    }
    conn.refuse(&proof(stage, 1, "x"), "auth-required");
    assert!(conn.auth(&event).0);
}
