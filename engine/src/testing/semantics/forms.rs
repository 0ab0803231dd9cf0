//! JSON forms of events: every valid form is the same event, everything else is refused.

use serde_json::{Value, json};

use super::conn::Conn;
use super::oracle::check;
use super::stage::Stage;
use super::{Case, Frame, case};
use crate::testing::signing::{Signed, escaped_throughout, event, key};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("forms: the id is over the canonical form, however it was escaped", escapes),
        case("forms: every character that text may hold", characters),
        case("forms: strings that JSON or UTF-8 forbid", bad_strings),
        case("forms: fields in any order, with any white space", order_and_space),
        case("forms: extra fields are dropped", extra_fields),
        case("forms: a field named twice is refused", repeated_fields),
        case("forms: integers only", integers),
        case("forms: tags are arrays of strings", tags),
        case("forms: no field may be missing", missing),
        case("forms: hex is lowercase and of its length", hex),
        case("forms: the id must be the hash, the signature the author's", wrong_id_and_signature),
    ]
}

/// The event must be accepted in this form, and served as it was signed.
fn assert_taken(conn: &mut Conn, event: &Signed, json: &str) {
    let (accepted, message) = conn.publish_as(&event.id, json);
    assert!(accepted && message.is_empty(), "{accepted} {message:?} for {json}");
    let answer = conn.ask(json!({"ids": [event.id]}));
    assert_eq!(answer.events, [event.value()], "served for {json}");
}

/// The form must be refused in the right frame, and no event stored.
fn assert_refused(conn: &mut Conn, event: &Signed, json: &str) {
    conn.send(&format!(r#"["EVENT",{json}]"#));
    let read = serde_json::from_str::<Value>(json).ok();
    let sent = read.and_then(|value| value["id"].as_str().map(str::to_owned));
    match &conn.fence()[..] {
        [Frame::Ok { id, accepted: false, message }] => {
            // Of two ids, the answer may name either.
            let was_sent = json.contains(&json!(id).to_string());
            assert!(*id == event.id || was_sent, "the OK of {json} names {id}");
            assert!(message.starts_with("invalid: "), "{message:?} for {json}");
        }
        // Without a readable id there is no OK.
        [Frame::Notice(message)] => {
            assert!(!message.is_empty() && sent.is_none(), "a NOTICE where an OK should be, for {json}");
        }
        other => panic!("{other:?} for {json}"),
    }
    assert_eq!(conn.count(json!({"ids": [event.id]})), 0, "stored: {json}");
}

fn escapes(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let mut n = 0;
    let mut draft = |content: &str| {
        n += 1;
        event(&key(1)).at(stage.t - n).tag(["t", content]).tag(["alt", content]).content(content).sign()
    };
    // The content, and other JSON forms of it.
    let cases: [(&str, &[&str]); 12] = [
        ("é", &[r"\u00e9", r"\u00E9", "é"]),
        ("a/b", &[r"a\/b", r"a\u002fb", "a/b"]),
        ("💜", &[r"\ud83d\udc9c", r"\uD83D\uDC9C", "💜"]),
        ("\"", &[r#"\""#, r"\u0022"]),
        ("\\", &[r"\\", r"\u005c"]),
        ("\n\r\t\u{8}\u{c}", &[r"\n\r\t\b\f", r"\u000a\u000d\u0009\u0008\u000c", r"\u000A\u000D\t\b\u000C"]),
        ("\u{0}\u{1}\u{1f}", &[r"\u0000\u0001\u001f", r"\u0000\u0001\u001F"]),
        ("\u{7f}\u{80}\u{9f}", &[r"\u007f\u0080\u009f", "\u{7f}\u{80}\u{9f}"]),
        ("\u{2028}\u{2029}", &[r"\u2028\u2029", "\u{2028}\u{2029}"]),
        ("abc", &[r"\u0061\u0062\u0063", r"a\u0062c"]),
        ("\\u00e9", &[r"\\u00e9", r"\u005cu00e9"]),
        ("", &[""]),
    ];
    for (content, forms) in cases {
        for form in forms {
            let event = draft(content);
            assert_taken(&mut conn, &event, &event.fields().set("content", format!("\"{form}\"")).json());
            let event = draft(content);
            let tags = format!(r#"[["t","{form}"],["\u0061lt","{form}"]]"#);
            assert_taken(&mut conn, &event, &event.fields().set("tags", tags).json());
            assert!(conn.ask(json!({"#t": [content]})).ids().contains(&event.id), "#t {content:?}");
        }
    }
    // Names of fields and hex may be escaped too: it is the same JSON.
    let event = draft("names");
    let names = ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"];
    let mut fields = event.fields();
    for ((name, value), plain) in fields.0.iter_mut().zip(names) {
        *name = escaped_throughout(plain);
        if let Ok(text) = serde_json::from_str::<String>(value) {
            *value = escaped_throughout(&text);
        }
    }
    conn.send(&format!(r#"["\u0045VENT",{}]"#, fields.json()));
    assert_eq!(conn.ok(&event.id), (true, String::new()), "escaped throughout");
}

fn characters(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    // Characters of all planes, every character below 0x100, and the ends of all ranges.
    let low = (0..0x100).chain((0x100..0x11_0000).step_by(211));
    let edges = [
        0x7ff, 0x800, 0xd7ff, 0xe000, 0xfdd0, 0xfdef, 0xfeff, 0xfffd, 0xfffe, 0xffff, 0x1_0000, 0x1_fffe,
        0x1_ffff, 0xf_fffe, 0x10_fffe, 0x10_ffff,
    ];
    let all: Vec<char> = low.chain(edges).filter_map(char::from_u32).collect();
    let mut events = Vec::new();
    for (n, chunk) in (0..).zip(all.chunks(300)) {
        let text: String = chunk.iter().collect();
        let event = event(&key(1)).at(stage.t - n).tag(["x", &text]).content(text.as_str()).sign();
        let json = match n % 2 {
            0 => event.json(),
            _ => event.fields().set("content", escaped_throughout(&text)).json(),
        };
        assert_taken(&mut conn, &event, &json);
        events.push(event);
    }
    check(&mut conn, json!({"kinds": [1]}), &events);
}

fn bad_strings(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let event = event(&key(1)).at(stage.t).tag(["t", "x"]).content("x").sign();
    let bad = [
        r"\ud800",
        r"\udfff",
        r"\ud800x",
        r"\ud800\n",
        r"\ud800\u0041",
        r"\ud83d\ud83d\udc9c",
        r"\udc9c\ud83d",
        r"x\ud83d",
        "\n",
        "\t",
        "\u{0}",
        "\u{1f}",
        r"\x41",
        r"\u12",
        r"\u12g4",
        r"\u+041",
        r"\'",
        r"\U0041",
    ];
    for text in bad {
        for json in [
            event.fields().set("content", format!("\"{text}\"")).json(),
            event.fields().set("tags", format!(r#"[["t","{text}"]]"#)).json(),
            event.fields().set("tags", format!(r#"[["{text}","x"]]"#)).json(),
            event.fields().push("\"extra\"", &format!("\"{text}\"")).json(),
        ] {
            assert_refused(&mut conn, &event, &json);
        }
    }
    assert_taken(&mut conn, &event, &event.json());
}

fn order_and_space(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let mut n = 0;
    let mut next = || {
        n += 1;
        event(&key(1))
            .at(stage.t - n)
            .tag(["t", "a b"])
            .tag(["p", key(2).hex(), ""])
            .content("{ \"x\" : 1 }")
            .sign()
    };
    for by in 0..7 {
        let event = next();
        assert_taken(&mut conn, &event, &event.fields().rotated(by).json());
        let event = next();
        assert_taken(&mut conn, &event, &event.fields().reversed().rotated(by).json_with(" "));
    }
    for space in [" ", "\n", "\t", "\r", "\r\n \t"] {
        let event = next();
        assert_taken(&mut conn, &event, &event.fields().json_with(space));
        let event = next();
        let tags = json!(event.tags)
            .to_string()
            .replace('[', &format!("[{space}"))
            .replace("\",", &format!("\"{space},{space}"));
        conn.send(&format!(
            "{space}[{space}\"EVENT\"{space},{space}{}{space}]{space}",
            event.fields().set("tags", tags).json_with(space)
        ));
        assert_eq!(conn.ok(&event.id), (true, String::new()));
    }
    // Other white space is not allowed in JSON.
    for space in ["\u{a0}", "\u{b}", "\u{feff}", "\u{2028}"] {
        let event = next();
        assert_refused(&mut conn, &event, &event.fields().json_with(space));
    }
}

fn extra_fields(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let extras = [
        (r#""extra""#, "1"),
        (r#""ots""#, r#""proof""#),
        (r#""deep""#, r#"{"a":[1,-2.5e7,{"id":"x"},null,true,[[]]],"b":{}}"#),
        (r#""""#, "false"),
        (r#""ID""#, r#""x""#),
        (r#""kind ""#, "7"),
        (r#""\ud83d\udc9c""#, r#""\u0000""#),
    ];
    for (n, (name, value)) in (0..).zip(extras) {
        let event = event(&key(1)).at(stage.t - n).content(name).sign();
        let fields = event.fields().push(name, value);
        assert_taken(&mut conn, &event, &fields.rotated(n as usize).json());
    }
    let all = event(&key(2)).at(stage.t).sign();
    let json =
        extras.iter().fold(all.fields(), |fields, (name, value)| fields.push(name, value)).reversed().json();
    assert_taken(&mut conn, &all, &json);
    // They are dropped in live events too.
    let mut reader = stage.open();
    stage.watch(&mut reader, "sub", json!({"kinds": [1], "limit": 0}));
    let event = event(&key(3)).at(stage.t).sign();
    conn.publish_as(&event.id, &event.fields().push("\"extra\"", "1").json());
    let Frame::Event { event: seen, .. } = reader.next_of("sub") else { panic!("a live event") };
    assert_eq!(seen, event.value());
}

fn repeated_fields(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let event = event(&key(1)).at(stage.t).content("x").sign();
    for (name, value) in event.fields().0 {
        for second in [value.clone(), "1".into(), "\"y\"".into()] {
            assert_refused(&mut conn, &event, &event.fields().push(&name, &second).json());
            assert_refused(&mut conn, &event, &event.fields().push(&name, &second).reversed().json());
        }
    }
    let escaped = event.fields().push(r#""\u006bind""#, "1").json();
    assert_refused(&mut conn, &event, &escaped);
    let unknown = event.fields().push("\"extra\"", "1").push("\"extra\"", "1").json();
    assert_refused(&mut conn, &event, &unknown);
    assert_taken(&mut conn, &event, &event.json());
}

fn integers(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let t = stage.t;
    let event = event(&key(1)).at(t).content("x").sign();
    let times = [
        format!("{t}.0"),
        format!("{t}e0"),
        "1e3".into(),
        format!("\"{t}\""),
        format!("-{t}"),
        format!("0{t}"),
        format!("+{t}"),
        format!("{t}.5"),
        "null".into(),
        "true".into(),
        format!("[{t}]"),
        "".into(),
        "0x10".into(),
        "18446744073709551616".into(),
        "99999999999999999999999999".into(),
        "NaN".into(),
    ];
    for time in times {
        assert_refused(&mut conn, &event, &event.fields().set("created_at", time).json());
    }
    let kinds =
        ["1.0", "1e0", "1E0", "\"1\"", "-1", "01", "65536", "65537", "4294967297", "null", "[1]", "1.5"];
    for kind in kinds {
        assert_refused(&mut conn, &event, &event.fields().set("kind", kind).json());
    }
    assert_taken(&mut conn, &event, &event.json());
    for kind in [0, 65_535, 44, 1] {
        let event = crate::testing::signing::event(&key(2)).kind(kind).at(t).sign();
        assert_taken(&mut conn, &event, &event.json());
    }
    for time in [0, 1, t] {
        let event = crate::testing::signing::event(&key(3)).at(time).sign();
        assert_taken(&mut conn, &event, &event.json());
    }
}

fn tags(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let event = event(&key(1)).at(stage.t).content("x").sign();
    let bad = [
        "null",
        "{}",
        "\"x\"",
        "1",
        "[null]",
        "[1]",
        "[\"t\"]",
        "[{}]",
        "[[1]]",
        "[[null]]",
        "[[\"t\",1]]",
        "[[\"t\",null]]",
        "[[\"t\",[\"x\"]]]",
        "[[\"t\",{}]]",
        "[[\"t\"],]",
        "[[\"t\",]]",
        "[,]",
        "[[\"t\" \"x\"]]",
    ];
    for tags in bad {
        assert_refused(&mut conn, &event, &event.fields().set("tags", tags).json());
    }
    // NIP-01: «Each tag is an array of one or more strings». The strings may be empty.
    let draft = || crate::testing::signing::event(&key(1)).at(stage.t);
    for event in [draft().tag([]).sign(), draft().tag(["t", "x"]).tag([]).sign()] {
        conn.refuse(&event, "invalid");
    }
    conn.accept(&draft().tag([""]).tag(["t", ""]).sign());
    for content in ["null", "1", "{}", "[]", "true"] {
        assert_refused(&mut conn, &event, &event.fields().set("content", content).json());
    }
    let many = (0..500).fold(crate::testing::signing::event(&key(1)).at(stage.t), |draft, n| {
        draft.tag(["t", &n.to_string(), "a", "b", "c", ""])
    });
    let many = many.sign();
    assert_taken(&mut conn, &many, &many.json());
    assert_eq!(conn.ask(json!({"#t": ["499"]})).ids(), [&*many.id]);
}

fn missing(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let event = event(&key(1)).at(stage.t).content("x").sign();
    for name in ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"] {
        let json = event.fields().without(name).json();
        assert_refused(&mut conn, &event, &json);
    }
    assert_refused(&mut conn, &event, "{}");
}

fn hex(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let event = event(&key(1)).at(stage.t).content("x").sign();
    for name in ["id", "pubkey", "sig"] {
        let right = event.value()[name].as_str().unwrap().to_owned();
        let wrong = [
            right.to_uppercase(),
            right[..right.len() - 1].into(),
            right[..right.len() - 2].into(),
            format!("{right}0"),
            format!("{right}00"),
            format!("0x{}", &right[2..]),
            format!("g{}", &right[1..]),
            String::new(),
        ];
        let wrong = wrong.iter().map(|text| json!(text)).chain([json!(null), json!(7), json!([right])]);
        for value in wrong {
            if value == json!(right) {
                continue;
            }
            let json = event.fields().set(name, value.to_string()).json();
            assert_refused(&mut conn, &event, &json);
        }
    }
    assert_taken(&mut conn, &event, &event.json());
}

fn wrong_id_and_signature(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let mut reader = stage.open();
    stage.watch(&mut reader, "sub", json!({"kinds": [1, 20_000]}));
    for kind in [1, 20_000] {
        let event = event(&key(1)).kind(kind).at(stage.t).tag(["t", "x"]).content("x").sign();
        let other = crate::testing::signing::event(&key(1)).kind(kind).at(stage.t).content("other").sign();
        let zeros = "0".repeat(128);
        let (time, key_2) = ((stage.t - 1).to_string(), json!(key(2).hex()).to_string());
        let tampered: [(&str, String); 8] = [
            ("content", json!("y").to_string()),
            ("created_at", time),
            ("kind", json!(kind + 1).to_string()),
            ("tags", json!([["t", "y"]]).to_string()),
            ("pubkey", key_2),
            ("sig", json!(zeros).to_string()),
            ("sig", json!(other.sig).to_string()),
            ("sig", json!(event.forged().sig).to_string()),
        ];
        for (name, value) in tampered {
            assert_refused(&mut conn, &event, &event.fields().set(name, value).json());
        }
        let (accepted, _) =
            conn.publish_as(&other.id, &event.fields().set("id", json!(other.id).to_string()).json());
        assert!(!accepted, "another event's id");
        // A key that is not a point of the curve has no valid signature.
        let no_point = Value::from("f".repeat(64)).to_string();
        assert_refused(&mut conn, &event, &event.fields().set("pubkey", no_point).json());
    }
    assert!(stage.settle(&mut conn, &mut reader, "sub").is_empty(), "nothing unverified is delivered");
}
