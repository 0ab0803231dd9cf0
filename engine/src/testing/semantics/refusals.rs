//! Refused REQs and COUNTs: CLOSED with the id and the right prefix, never an ignored condition.

use serde_json::{Value, json};

use super::conn::{Conn, req_text};
use super::stage::Stage;
use super::{Case, Frame, case};
use crate::testing::signing::{event, key};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("refusals: hex of the wrong form", hex),
        case("refusals: fields of the wrong type", types),
        case("refusals: fields that nobody here knows", unknown_fields),
        case("refusals: search, with a reason for people", search),
        case("refusals: reasons name no byte offset in a message", no_places),
        case("refusals: a filter given twice over", repeated_fields),
        case("refusals: a REQ that is refused still replaces", refused_replaces),
    ]
}

/// `filter` is JSON text, which may be invalid.
fn assert_refused(conn: &mut Conn, filter: &str, prefix: &str) {
    for verb in ["REQ", "COUNT"] {
        conn.send(&format!(r#"["{verb}","sub",{filter}]"#));
        conn.expect_closed("sub", prefix);
        // Also together with a valid filter.
        conn.send(&format!(r#"["{verb}","sub",{{"kinds":[1]}},{filter}]"#));
        conn.expect_closed("sub", prefix);
    }
    conn.expect_silence();
}

/// A relay with a stored event, which an ignored filter would return.
fn conn(stage: &mut Stage<'_>) -> Conn {
    let mut conn = stage.open();
    let note = event(&key(1)).at(stage.t).tag(["p", key(1).hex()]).tag(["e", key(2).hex()]).sign();
    conn.accept(&note);
    conn
}

fn hex(stage: &mut Stage<'_>) {
    let mut conn = conn(stage);
    let good = key(1).hex().to_owned();
    let longer = format!("{good}0");
    let wrong =
        [good.to_uppercase(), good[..63].into(), good[..62].into(), good[..8].into(), longer, good.repeat(2)];
    let wrong = wrong.into_iter().chain(["".into(), "g".repeat(64), "é".repeat(32), " ".repeat(64)]);
    for value in wrong {
        for name in ["ids", "authors", "#e", "#p"] {
            assert_refused(&mut conn, &json!({name: [value]}).to_string(), "invalid");
            assert_refused(&mut conn, &json!({name: [good, value]}).to_string(), "invalid");
        }
    }
}

fn types(stage: &mut Stage<'_>) {
    let mut conn = conn(stage);
    let hex = format!("\"{}\"", key(1).hex());
    let lists = ["ids", "authors", "#e", "#p", "#t", "kinds"];
    for name in lists {
        let values = ["null", "true", "1", "{}", "\"x\"", &hex, "[null]", "[[]]", "[{}]", "[true]"];
        for value in values {
            assert_refused(&mut conn, &format!("{{\"{name}\":{value}}}"), "invalid");
        }
    }
    for value in ["1", &format!("{hex},1"), "\"x\",null"] {
        assert_refused(&mut conn, &format!("{{\"#t\":[{value}]}}"), "invalid");
    }
    for kind in ["\"1\"", "1.0", "1.5", "1e0", "-1", "65536", "99999999999999999999999", "01"] {
        assert_refused(&mut conn, &format!("{{\"kinds\":[{kind}]}}"), "invalid");
    }
    for name in ["since", "until", "limit"] {
        for value in ["null", "\"1\"", "1.0", "1e3", "-1", "[1]", "{}", "true", "01"] {
            assert_refused(&mut conn, &format!("{{\"{name}\":{value}}}"), "invalid");
        }
    }
    for filter in ["null", "1", "\"x\"", "[]", "[{}]", "true"] {
        assert_refused(&mut conn, filter, "invalid");
    }
}

fn unknown_fields(stage: &mut Stage<'_>) {
    let mut conn = conn(stage);
    let names =
        ["foo", "id", "author", "kind", "Kinds", "#", "#ab", "#1", "#-", "#é", "&t", "e", "", " since"];
    for name in names {
        assert_refused(&mut conn, &json!({name: ["x"]}).to_string(), "unsupported");
        assert_refused(&mut conn, &json!({"kinds": [1], name: "x"}).to_string(), "unsupported");
    }
}

/// NIP-50. Clients show the message to users.
fn search(stage: &mut Stage<'_>) {
    let mut conn = conn(stage);
    for text in [
        r#"["REQ","sub",{"search":"cats"}]"#,
        r#"["REQ","sub",{"kinds":[1]},{"kinds":[1],"search":"cats","limit":5}]"#,
        r#"["COUNT","sub",{"search":7}]"#,
    ] {
        conn.send(text);
        let Frame::Closed { message, .. } = conn.next_of("sub") else { panic!("an answer to {text}") };
        assert_eq!(message, "unsupported: this relay has no search (NIP-50)");
    }
}

fn no_places(stage: &mut Stage<'_>) {
    let mut conn = conn(stage);
    let note = event(&key(2)).at(stage.t).sign();
    for text in [
        r#"["REQ","sub",{"kinds":["x"]}]"#.to_owned(),
        r#"["REQ","sub",{"foo":1}]"#.to_owned(),
        r#"["REQ","sub",{"ids":["x"]}"#.to_owned(),
        r#"["REQ","sub",{},"#.to_owned(),
        r#"["FOO","sub"]"#.to_owned(),
        "nonsense".to_owned(),
        "".to_owned(),
        format!(r#"["EVENT",{}]"#, note.fields().set("kind", "\"1\"").json()),
        format!(r#"["EVENT",{}"#, note.json()),
    ] {
        conn.send(&text);
        let message = match &conn.fence()[..] {
            [Frame::Closed { message, .. } | Frame::Ok { message, .. } | Frame::Notice(message)] => {
                message.clone()
            }
            other => panic!("{other:?} for {text}"),
        };
        assert!(message.contains(": ") && !message.contains("byte"), "{message:?} for {text}");
    }
}

fn repeated_fields(stage: &mut Stage<'_>) {
    let mut conn = conn(stage);
    for filter in [
        r#"{"kinds":[1],"kinds":[7]}"#,
        r#"{"kinds":[1],"kinds":[1]}"#,
        r##"{"#t":["a"],"#t":["b"]}"##,
        r#"{"limit":1,"limit":2}"#,
        r#"{"kinds":[1],"\u006binds":[7]}"#,
    ] {
        assert_refused(&mut conn, filter, "invalid");
    }
}

fn refused_replaces(stage: &mut Stage<'_>) {
    let mut writer = stage.open();
    let mut reader = stage.open();
    stage.watch(&mut reader, "other", json!({"kinds": [7], "limit": 0}));
    reader.req("sub", json!({"kinds": [1]}));
    reader.send(&req_text("sub", json!({"kinds": "x"})));
    reader.expect_closed("sub", "invalid");
    // COUNT ids are separate from subscription ids.
    reader.req("counted", json!({"kinds": [7], "limit": 0}));
    reader.count_body("counted", json!({"kinds": [1]}));
    writer.accept(&event(&key(1)).at(stage.t).content("to nobody").sign());
    let like = event(&key(1)).at(stage.t).kind(7).sign();
    writer.accept(&like);
    assert_eq!(stage.settle(&mut writer, &mut reader, "other"), [&*like.id]);
    assert_eq!(reader.next_event("counted"), like.id);
    let rest: Vec<Value> =
        reader.fence().iter().filter(|frame| frame.sub() == Some("sub")).map(|_| json!(1)).collect();
    assert!(rest.is_empty(), "a subscription that was closed by the relay got an event");
}
