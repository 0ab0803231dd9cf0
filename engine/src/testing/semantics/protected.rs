//! Protected events and reposts of them (NIP-70).

use serde_json::json;

use super::stage::Stage;
use super::{Case, case};
use crate::testing::signing::{escaped_throughout, event, key};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("protected: only from the authenticated author", only_from_author),
        case("protected: reposts do not carry them", reposts),
        case("protected: tags that only look like it", look_alikes),
    ]
}

fn only_from_author(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let event_1 = event(&key(1)).at(stage.t).tag(["t", "x"]).tag(["-"]).sign();
    let event_2 = event(&key(2)).at(stage.t).tag(["-"]).sign();
    conn.refuse(&event_1, "auth-required");
    let challenge = conn.challenge.clone();
    assert!(!challenge.is_empty(), "a client needs a challenge to act on");
    stage.auth(&mut conn, &key(1));
    conn.refuse(&event_2, "restricted");
    conn.accept(&event_1);
    // Any of several keys of a connection may be the author.
    stage.auth(&mut conn, &key(2));
    conn.accept(&event_2);
    // All clients may read them; another connection may not publish them.
    let mut other = stage.open();
    assert_eq!(other.ask(json!({"kinds": [1]})).ids().len(), 2);
    let event_3 = event(&key(1)).at(stage.t - 1).tag(["-"]).sign();
    other.refuse(&event_3, "auth-required");
    // Ephemeral ones too.
    other.refuse(&event(&key(1)).kind(20_000).at(stage.t).tag(["-"]).sign(), "auth-required");
    // Escaped, it is the same tag.
    let json = event_3.fields().set("tags", r#"[["\u002d"]]"#).json();
    let (accepted, message) = other.publish_as(&event_3.id, &json);
    assert!(!accepted && message.starts_with("auth-required: "), "{message:?}");
    conn.accept(&event_3);
}

fn reposts(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    stage.auth(&mut conn, &key(1));
    let protected = event(&key(1)).at(stage.t - 5).tag(["t", "a-b"]).tag(["-"]).content("mine - only").sign();
    let bare = event(&key(1)).at(stage.t - 5).tag(["-"]).content("mine").sign();
    let open = event(&key(1)).at(stage.t - 5).tag(["t", "-"]).tag(["x", "-"]).content("[\"-\"]").sign();
    conn.accept(&protected);
    conn.accept(&open);
    let embeddings = [
        protected.json(),
        protected.fields().reversed().json_with(" \n"),
        protected
            .fields()
            .set("tags", r#"[["t","a-b"],["\u002d"]]"#)
            .set("content", r#""mine \u002d only""#)
            .json(),
        protected
            .fields()
            .set("tags", json!([["t", "a-b"], ["-"]]).to_string().replace("\"-\"", &escaped_throughout("-")))
            .json(),
        protected.fields().push("\"extra\"", "[1]").json(),
        // The hyphen is escaped in the JSON.
        bare.fields().set("tags", r#"[["\u002d"]]"#).json(),
        bare.fields().set("tags", r#"[["\u002D"]]"#).json(),
    ];
    for kind in [6, 16] {
        for (n, embedded) in (0..).zip(&embeddings) {
            for by in [1, 2] {
                let repost = event(&key(by)).kind(kind).at(stage.t - n).tag(["e", &protected.id]);
                conn.refuse(&repost.content(embedded.as_str()).sign(), "");
            }
        }
        for content in ["", "not JSON", "{}", "[\"-\"]", &open.json(), "{\"tags\":[[\"-\"", "-"] {
            let repost = event(&key(2)).kind(kind).at(stage.t).tag(["e", &open.id]).content(content).sign();
            conn.accept(&repost);
        }
    }
    // Referring to it without including it is allowed, and other kinds may include it.
    conn.accept(&event(&key(2)).kind(6).at(stage.t).tag(["e", &protected.id]).sign());
    conn.accept(&event(&key(2)).kind(1).at(stage.t).content(protected.json()).sign());
}

fn look_alikes(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let draft = event(&key(1)).at(stage.t);
    for event in [
        draft.clone().tag(["t", "-"]).sign(),
        draft.clone().tag(["--"]).sign(),
        draft.clone().tag(["", "-"]).sign(),
        draft.clone().content("[\"-\"]").sign(),
        draft.tag(["−"]).sign(),
    ] {
        conn.accept(&event);
    }
}
