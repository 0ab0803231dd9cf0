//! Malformed messages: each is answered in the right frame, and the connection stays open.

use serde_json::json;

use super::conn::{Conn, count_text, event_text, req_text};
use super::stage::Stage;
use super::{Case, Frame, case, case_with};
use crate::testing::signing::{event, key};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("frames: what is not a message gets a NOTICE", no_message),
        case("frames: a bad REQ or COUNT gets a CLOSED", bad_requests),
        case("frames: deep nesting", deep),
        case("frames: binary", binary),
        case("frames: white space and escapes around a message", around),
        case("frames: subscription ids are any text", sub_ids),
        case("frames: subscription ids too long or empty come back as they were sent", bad_sub_ids),
        case("frames: a bad CLOSE closes", bad_close),
        case("frames: event ids that are none come back as they were sent", bad_event_ids),
        case("frames: a message of an unknown type is answered by its id", unknown_types),
        case_with(
            "frames: too many malformed messages in a row close the connection",
            |config| config.limits.malformed_messages_max = 5,
            abuse,
        ),
    ]
}

fn assert_notice(conn: &mut Conn, text: &str) {
    conn.send(text);
    match &conn.fence()[..] {
        [Frame::Notice(message)] => assert!(!message.is_empty(), "a NOTICE without a message for {text}"),
        other => panic!("{other:?} where a NOTICE should be, for {text}"),
    }
}

fn no_message(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let note = event(&key(1)).at(stage.t).sign();
    let two = format!("{}{}", event_text(&note), event_text(&note));
    for text in [
        "",
        " ",
        "x",
        "[",
        "]",
        "[]",
        "{}",
        "null",
        "1",
        "\"EVENT\"",
        "[1]",
        "[null]",
        "[[]]",
        "[\"\"]",
        "[\"FOO\"]",
        "[\"FOO\",1,\"x\"]",
        "[\"NEG-OPEN\"]",
        "[\"NEG-MSG\",7,\"61\"]",
        "[\"NEG-CLOSE\",7]",
        "[\"event\",{}]",
        "[\"EVENT\"]",
        "[\"EVENT\",]",
        "[\"EVENT\",1]",
        "[\"EVENT\",\"x\"]",
        "[\"EVENT\",[]]",
        "[\"EVENT\",null]",
        "[\"EVENT\",{}]",
        "[\"REQ\"]",
        "[\"REQ\",]",
        "[\"REQ\",1,{}]",
        "[\"REQ\",null,{}]",
        "[\"REQ\",{}]",
        "[\"COUNT\"]",
        "[\"COUNT\",[],{}]",
        "[\"CLOSE\"]",
        "[\"CLOSE\",1]",
        "[\"CLOSE\",null]",
        "[\"REQ\" \"x\" {}]",
        "['REQ','x',{}]",
        "[REQ,\"x\",{}]",
        "// [\"REQ\",\"x\",{}]",
        "[\"REQ\\ud800\",\"x\",{}]",
        "[\"REQ\",\"\\ud800\",{}]",
        "[\"REQ\",\"a\nb\",{}]",
        "\u{feff}[\"REQ\",\"x\",{}]",
    ] {
        assert_notice(&mut conn, text);
    }
    // Two messages in one frame are malformed.
    conn.send(&two);
    match &conn.fence()[..] {
        [Frame::Notice(_) | Frame::Ok { accepted: false, .. }] => {}
        other => panic!("{other:?} for two messages in a frame"),
    }
    assert_eq!(conn.count(json!({})), 0);
    conn.accept(&note);
}

fn bad_requests(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    for verb in ["REQ", "COUNT"] {
        for rest in [
            "",
            ",",
            ",1",
            ",null",
            ",[]",
            ",\"x\"",
            ",{}x",
            ",{",
            ",{},",
            ",{\"kinds\"}",
            ",{\"kinds\":}",
            ",{\"kinds\":[1}",
            ",{\"kinds\":[1,]}",
            ",{\"kinds\":[1]",
            ",{kinds:[1]}",
            ",{\"kinds\":[1] \"ids\":[]}",
            ",{\"since\":1,}",
        ] {
            let text = format!(r#"["{verb}","sub"{rest}]"#);
            conn.send(&text);
            match &conn.fence()[..] {
                [Frame::Closed { sub, message }] => {
                    assert_eq!(sub, "sub");
                    assert!(message.starts_with("invalid: "), "{message:?} for {text}");
                }
                other => panic!("{other:?} for {text}"),
            }
        }
    }
}

fn deep(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let note = event(&key(1)).at(stage.t).sign();
    for depth in [1_000, 100_000] {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        assert_notice(&mut conn, &open);
        assert_notice(&mut conn, &format!("{open}{close}"));
        let objects = "{\"a\":".repeat(depth);
        for text in [
            format!(r#"["EVENT",{}]"#, note.fields().push("\"extra\"", &format!("{open}{close}")).json()),
            format!(r#"["EVENT",{}]"#, note.fields().set("tags", format!("{open}{close}")).json()),
            format!(r#"["EVENT",{}"#, objects),
            format!(r#"["REQ","sub",{{"ids":{open}{close}}}]"#),
            format!(r#"["REQ","sub",{objects}"#),
            format!(r#"["COUNT","sub",{open}{close}]"#),
        ] {
            conn.send(&text);
            match &conn.fence()[..] {
                [Frame::Notice(_) | Frame::Ok { accepted: false, .. } | Frame::Closed { .. }] => {}
                other => panic!("{other:?} for {}", &text[..100]),
            }
        }
    }
    assert_eq!(conn.count(json!({})), 0);
    conn.accept(&note);
}

fn binary(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let note = event(&key(1)).at(stage.t).sign();
    for bytes in [&b""[..], b"\0\xff\xfe", event_text(&note).as_bytes()] {
        conn.send_binary(bytes);
        match &conn.fence()[..] {
            [Frame::Notice(_)] => {}
            other => panic!("{other:?} for a binary message"),
        }
    }
    assert_eq!(conn.count(json!({})), 0, "a binary message is none, whatever it holds");
}

fn around(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    for (n, text) in [
        " [ \"REQ\" , \"SUB\" , { } ] ",
        "\r\n\t[\"REQ\",\"SUB\",{}]\n",
        "[\"REQ\",\"SUB\",{\"kinds\" : [ 1 , 7 ] , \"limit\" :\n2 }]",
        "[\"\\u0052\\u0045Q\",\"SUB\",{\"\\u006binds\":[1]}]",
        "[\"REQ\",\"SUB\",{},{},{}]",
    ]
    .iter()
    .enumerate()
    {
        let sub = format!("sub {n}");
        conn.send(&text.replace("SUB", &sub));
        assert_eq!(conn.answer(&sub).ids().len(), 0, "{text}");
    }
    conn.expect_silence();
}

fn sub_ids(stage: &mut Stage<'_>) {
    let (mut conn, mut writer) = (stage.open(), stage.open());
    let note = event(&key(1)).at(stage.t).sign();
    writer.accept(&note);
    let long = ["x".repeat(64), "é".repeat(64), "💜".repeat(64), "\u{0}".repeat(64), "\"".repeat(64)];
    let odd = [
        "a",
        " ",
        "0",
        "\"",
        "\\",
        "\\\"",
        "a\"b\\c",
        "\n\r\t\u{8}\u{c}",
        "\u{0}",
        "\u{1f}\u{7f}",
        "é",
        "💜",
        "/",
        "\u{2028}",
        "\u{fffe}\u{ffff}",
        "\u{10ffff}",
        "'",
        "</script>",
        "]",
        "],[\"EOSE\"",
        "null",
        "\u{feff}",
        "e\u{301}",
        "ﷺ",
        "\\u0041",
        "%00",
    ];
    let ids: Vec<&str> = odd.into_iter().chain(long.iter().map(String::as_str)).collect();
    for id in &ids {
        assert_eq!(conn.req(id, json!({"ids": [note.id]})).ids(), [&*note.id], "{id:?}");
        conn.send(&count_text(id, json!({"ids": [note.id]})));
        let Frame::Count { body, .. } = conn.next_of(id) else { panic!("a COUNT of {id:?}") };
        assert_eq!(body["count"], 1);
    }
    // All of them are separate subscriptions, live at the same time.
    for id in &ids {
        conn.send(&req_text(id, json!({"kinds": [7], "limit": 0})));
        conn.answer(id);
    }
    let like = event(&key(1)).kind(7).at(stage.t).sign();
    writer.accept(&like);
    for id in &ids {
        assert_eq!(conn.next_event(id), like.id, "{id:?}");
        conn.close_sub(id);
    }
    conn.expect_silence();
    // Escaped, it is the same id.
    conn.send(r#"["REQ","\u0061\ud83d\udc9c\/",{"limit":0}]"#);
    assert_eq!(conn.answer("a💜/").ids().len(), 0);
    conn.req_closed("a💜/", json!({"foo": 1}), "unsupported");
    conn.expect_silence();
}

/// Regression: clients waited for ever when a NOTICE was the answer to their ids.
fn bad_sub_ids(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let ids = ["".into(), "x".repeat(65), "é\"\n".repeat(22), "💜".repeat(65), "x".repeat(100_000)];
    for id in &ids {
        for text in [req_text(id, json!({})), count_text(id, json!({})), json!(["CLOSE", id]).to_string()] {
            conn.send(&text);
            match &conn.fence()[..] {
                [Frame::Closed { sub, message }] => {
                    assert!(sub == id && message.starts_with("invalid: "), "{message:?}");
                }
                other => panic!("{other:?} for an id of {} characters", id.chars().count()),
            }
        }
    }
    // However it is escaped, the answer has the same id.
    let text = req_text(&ids[2], json!({})).replace('é', "\\u00e9").replace("\\n", "\\u000A");
    conn.send(&text);
    conn.expect_closed(&ids[2], "invalid");
    conn.expect_silence();
}

fn bad_close(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    conn.req("sub", json!({"kinds": [1]}));
    conn.send(r#"["CLOSE","sub",]"#);
    conn.expect_closed("sub", "invalid");
    conn.accept(&event(&key(1)).at(stage.t).sign());
    conn.expect_silence();
}

fn bad_event_ids(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let note = event(&key(1)).at(stage.t).sign();
    let upper = note.id.to_uppercase();
    for id in [&*upper, &note.id[1..], "", "x", "é\"\n", &note.id.repeat(1_000)] {
        let json = note.fields().set("id", json!(id).to_string()).json();
        for json in [&json, &json[..json.len() - 1]] {
            let (accepted, message) = conn.publish_as(id, json);
            assert!(!accepted && message.starts_with("invalid: "), "{message:?}");
            conn.send(&format!(r#"["AUTH",{json}]"#));
            assert!(!conn.ok(id).0);
        }
    }
    // At any position, and whatever else is wrong.
    let json = note.fields().set("kind", "-1").set("id", json!(upper).to_string()).reversed().json();
    assert!(!conn.publish_as(&upper, &json).0);
    conn.expect_silence();
    assert_eq!(conn.count(json!({})), 0);
}

fn unknown_types(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    for text in [
        r#"["FOO","x"]"#,
        r#"["Req","x",{}]"#,
        r#"["req","x",{}]"#,
        r#"["OK","x",true,""]"#,
        r#" [ "FOO" , "\u0078" , "#,
        r#"["FOO","x",{]"#,
    ] {
        conn.send(text);
        conn.expect_closed("x", "unsupported");
        conn.expect_silence();
    }
    let long = "x".repeat(1_000);
    conn.send(&json!(["FOO", long]).to_string());
    conn.expect_closed(&long, "unsupported");
    // A CLOSED would end the subscription of this id for its client.
    conn.req("x", json!({"kinds": [1]}));
    conn.send(r#"["FOO","x"]"#);
    assert!(conn.expect_notice().starts_with("unsupported: "));
    let note = event(&key(1)).at(stage.t).sign();
    conn.accept(&note);
    assert_eq!(conn.next_event("x"), note.id);
    conn.expect_silence();
}

fn abuse(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    // A valid message resets the count.
    for _ in 0..4 {
        for _ in 0..4 {
            conn.send("nonsense");
            conn.expect_notice();
        }
        conn.req("sub", json!({"limit": 0}));
    }
    assert_eq!(conn.closed(), None);
    // What is refused but well-formed does not count as bad.
    for _ in 0..10 {
        conn.send(r#"["NEG-MSG","n","61"]"#);
    }
    conn.req("sub", json!({"limit": 0}));
    for _ in 0..5 {
        conn.send("nonsense");
    }
    while conn.next().is_some() {}
    assert_eq!(conn.closed(), Some(1008), "closed for abuse");
    // Other connections are unaffected.
    stage.open().req("sub", json!({"limit": 0}));
}
