//! Frames of one connection take effect in order; the id does not cover the signature.

use serde_json::json;

use super::conn::{count_text, event_text, req_text};
use super::stage::Stage;
use super::{Case, Frame, case};
use crate::testing::signing::{Signed, event, key};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("order: EVENT then REQ, sent together", event_then_req),
        case("order: REQ then EVENT, sent together", req_then_event),
        case("order: messages of all types, sent together", mixed),
        case("order: events are answered one by one", each_answered),
        case("order: duplicates", duplicates),
        case("order: a forged copy first does not prevent the valid event", forged_first),
        case("order: a forged copy sent together with the event, from anybody", forged_meanwhile),
        case("order: a forged copy later", forged_later),
        case("order: another event under the id and signature of one in flight", rewritten_meanwhile),
        case("order: a full disk is reported, and passes", full_disk),
    ]
}

fn notes(stage: &Stage<'_>, count: u64) -> Vec<Signed> {
    (0..count).map(|n| event(&key(1 + n % 3)).at(stage.t - n).content(n.to_string()).sign()).collect()
}

fn event_then_req(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    for (n, note) in notes(stage, 5).iter().enumerate() {
        let sub = format!("sub {n}");
        conn.send_all(&[
            event_text(note),
            req_text(&sub, json!({"ids": [note.id]})),
            count_text("n", json!({})),
        ]);
        assert!(conn.ok(&note.id).0);
        assert_eq!(conn.answer(&sub).ids(), [&*note.id]);
        let Frame::Count { body, .. } = conn.next_of("n") else { panic!("a COUNT") };
        assert_eq!(body["count"], n + 1);
    }
    // Many events at the same time.
    let many: Vec<Signed> = (0..60).map(|n| event(&key(4)).at(stage.t - n).sign()).collect();
    let mut texts: Vec<String> = many.iter().map(event_text).collect();
    texts.push(req_text("many", json!({"authors": [key(4).hex()]})));
    conn.send_all(&texts);
    assert_eq!(conn.answer("many").ids().len(), 60);
    many.iter().for_each(|event| assert!(conn.ok(&event.id).0));
    conn.expect_silence();
}

fn req_then_event(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let note = event(&key(1)).at(stage.t).sign();
    conn.send_all(&[req_text("sub", json!({"kinds": [1]})), event_text(&note)]);
    let (mut events, mut ends) = (0, 0);
    while events == 0 || ends == 0 {
        match conn.next_of("sub") {
            Frame::Event { event, .. } if event["id"] == note.id => events += 1,
            Frame::Eose { .. } => {
                assert_eq!(events, 0, "what came after the REQ comes after its EOSE");
                ends += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(conn.ok(&note.id).0);
    conn.expect_silence();
}

fn mixed(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let notes = notes(stage, 3);
    let request = event(&key(1)).kind(5).at(stage.t).tag(["e", &notes[0].id]).sign();
    conn.send_all(&[
        event_text(&notes[0]),
        req_text("one", json!({"kinds": [1]})),
        "nonsense".into(),
        event_text(&notes[1]),
        event_text(&notes[1]),
        r#"["CLOSE","one"]"#.into(),
        event_text(&request),
        count_text("two", json!({"kinds": [1]})),
        event_text(&notes[2]),
        event_text(&notes[0]),
        req_text("three", json!({"kinds": [1]})),
        event_text(&notes[2].forged()),
    ]);
    assert_eq!(conn.answer("one").ids(), [&*notes[0].id]);
    let Frame::Count { body, .. } = conn.next_of("two") else { panic!("a COUNT") };
    assert_eq!(body["count"], 1, "after the deletion");
    assert_eq!(conn.answer("three").ids(), [&*notes[1].id, &*notes[2].id]);
    assert!(conn.ok(&notes[0].id).0);
    assert!(conn.ok(&notes[1].id).0);
    assert!(conn.ok(&notes[1].id).1.starts_with("duplicate: "));
    assert!(conn.ok(&request.id).0);
    assert!(conn.ok(&notes[2].id).0);
    assert!(!conn.ok(&notes[0].id).0, "it was deleted");
    // The id is already stored and the signature need not be checked: either answer is right, but there must be one.
    conn.ok(&notes[2].id);
    conn.expect_notice();
    // Events published just before the CLOSE may have been sent, nothing else.
    for frame in conn.fence() {
        let may_come = frame.sub() != Some("one")
            || matches!(&frame, Frame::Event { event, .. } if event["id"] == notes[1].id);
        assert!(may_come && frame.sub().is_some(), "{frame:?}");
    }
}

fn each_answered(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let events: Vec<Signed> = (0..300u64)
        .map(|n| {
            let event = event(&key(1)).at(stage.t - n).content(n.to_string()).sign();
            if n % 7 == 3 { event.forged() } else { event }
        })
        .collect();
    conn.send_all(&events.iter().map(event_text).collect::<Vec<_>>());
    for (n, event) in events.iter().enumerate() {
        let (accepted, message) = conn.ok(&event.id);
        assert_eq!(accepted, n % 7 != 3, "event {n}: {message:?}");
    }
    assert_eq!(conn.count(json!({})), events.len() as u64 - 43, "those that are not forged");
    conn.expect_silence();
}

fn duplicates(stage: &mut Stage<'_>) {
    let (mut conn, mut other) = (stage.open(), stage.open());
    let note = event(&key(1)).at(stage.t).sign();
    conn.send_all(&[event_text(&note), event_text(&note)]);
    other.send(&event_text(&note));
    let answers = [conn.ok(&note.id), conn.ok(&note.id), other.ok(&note.id)];
    assert!(answers.iter().all(|(accepted, _)| *accepted), "{answers:?}");
    let news = answers.iter().filter(|(_, message)| message.is_empty()).count();
    let repeats = answers.iter().filter(|(_, message)| message.starts_with("duplicate: ")).count();
    assert_eq!((news, repeats), (1, 2), "{answers:?}");
    let later = stage.open().publish(&note);
    assert!(later.0 && later.1.starts_with("duplicate: "), "{later:?}");
    assert_eq!(conn.ask(json!({})).ids(), [&*note.id]);
    // A copy in another form is the same event.
    let (accepted, message) = conn.publish_as(&note.id, &note.fields().reversed().json_with(" "));
    assert!(accepted && message.starts_with("duplicate: "), "{accepted} {message:?}");
}

fn forged_first(stage: &mut Stage<'_>) {
    let (mut conn, mut other) = (stage.open(), stage.open());
    let note = event(&key(1)).at(stage.t).sign();
    conn.refuse(&note.forged(), "invalid");
    assert_eq!(conn.ask(json!({})).ids().len(), 0);
    other.refuse(&note.forged(), "invalid");
    conn.accept(&note);
    assert_eq!(conn.ask(json!({"ids": [note.id]})).events, [note.value()]);
}

fn forged_meanwhile(stage: &mut Stage<'_>) {
    for (n, order) in (0..).zip([[true, false], [false, true]]) {
        let (mut conn, mut other, mut reader) = (stage.open(), stage.open(), stage.open());
        stage.watch(&mut reader, "sub", json!({"kinds": [1], "limit": 0}));
        for one_connection in [true, false] {
            let content = format!("{n} {one_connection}");
            let note = event(&key(1)).at(stage.t).content(content).sign();
            let texts = order.map(|forged| event_text(&if forged { note.forged() } else { note.clone() }));
            let answers = if one_connection {
                conn.send_all(&texts);
                [conn.ok(&note.id), conn.ok(&note.id)]
            } else {
                conn.send(&texts[0]);
                other.send(&texts[1]);
                [conn.ok(&note.id), other.ok(&note.id)]
            };
            // The order of the answers is unspecified: they have the same id. Once the valid one is stored, others with its id
            // are duplicates, whose signatures are not checked.
            let real = answers.iter().filter(|answer| **answer == (true, String::new())).count();
            let other =
                answers.iter().filter(|(ok, message)| !ok || message.starts_with("duplicate: ")).count();
            assert_eq!((real, other), (1, 1), "{answers:?}");
            let served = conn.ask(json!({"ids": [note.id]})).events;
            assert_eq!(served, [note.value()], "with its author's signature");
            assert_eq!(stage.settle(&mut conn, &mut reader, "sub"), [&*note.id], "live, once");
        }
    }
}

fn rewritten_meanwhile(stage: &mut Stage<'_>) {
    for rewritten_first in [true, false] {
        let (mut conn, mut reader) = (stage.open(), stage.open());
        stage.watch(&mut reader, "sub", json!({"kinds": [1], "limit": 0}));
        let note = event(&key(1)).at(stage.t).content(rewritten_first.to_string()).sign();
        let other = note.fields().set("content", r#""not what was signed""#).json();
        let mut texts = [format!(r#"["EVENT",{other}]"#), event_text(&note), format!(r#"["EVENT",{other}]"#)];
        if !rewritten_first {
            texts.swap(0, 1);
        }
        conn.send_all(&texts);
        let answers = [conn.ok(&note.id), conn.ok(&note.id), conn.ok(&note.id)];
        let real = answers.iter().filter(|answer| **answer == (true, String::new())).count();
        assert_eq!(real, 1, "{answers:?}");
        // The others are invalid, or duplicates of the accepted one.
        let follows_the_first = |answer: &&(bool, String)| {
            answer.1.starts_with(if answer.0 { "duplicate: " } else { "invalid: " })
        };
        assert_eq!(answers.iter().filter(follows_the_first).count(), 2, "{answers:?}");
        assert!(!rewritten_first || answers.iter().any(|answer| !answer.0), "{answers:?}");
        let served = conn.ask(json!({"ids": [note.id]})).events;
        assert_eq!(served, [note.value()], "what its author signed");
        assert_eq!(stage.settle(&mut conn, &mut reader, "sub"), [&*note.id], "live, once");
    }
}

fn forged_later(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let note = event(&key(1)).at(stage.t).sign();
    conn.accept(&note);
    // An id that is stored is answered before its signature is checked; the stored event is the valid one.
    let (accepted, message) = conn.publish(&note.forged());
    assert!(!accepted || message.starts_with("duplicate: "), "{accepted} {message:?}");
    assert_eq!(conn.ask(json!({})).events, [note.value()]);
}

fn full_disk(stage: &mut Stage<'_>) {
    let (mut conn, mut reader) = (stage.open(), stage.open());
    let notes = notes(stage, 4);
    conn.accept(&notes[0]);
    stage.watch(&mut reader, "sub", json!({"kinds": [1], "limit": 0}));
    if !stage.relay.fill_disk(true) {
        return;
    }
    conn.refuse(&notes[1], "error");
    conn.send_all(&[event_text(&notes[1]), event_text(&notes[2]), event_text(&notes[1])]);
    for id in [&notes[1].id, &notes[2].id, &notes[1].id] {
        let (accepted, message) = conn.ok(id);
        assert!(!accepted && message.starts_with("error: "), "{accepted} {message:?}");
    }
    // Reading works, and so do ephemeral events.
    assert_eq!(conn.ask(json!({})).ids(), [&*notes[0].id]);
    assert_eq!(conn.count(json!({})), 1);
    let ephemeral = event(&key(1)).kind(20_000).at(stage.t).sign();
    conn.accept(&ephemeral);
    assert!(conn.publish(&notes[0]).1.starts_with("duplicate: "));
    // The reserve has room for a deletion request, whatever else is in the batch.
    let gone = event(&key(1)).kind(1).at(stage.t).content("gone").sign();
    assert!(stage.relay.fill_disk(false), "what was filled can be emptied");
    conn.accept(&gone);
    stage.relay.fill_disk(true);
    let deletion = event(&key(1)).kind(5).at(stage.t).tag(["e", &gone.id]).sign();
    conn.send_all(&[event_text(&notes[2]), event_text(&deletion), event_text(&notes[3])]);
    for (id, is_removal) in [(&notes[2].id, false), (&deletion.id, true), (&notes[3].id, false)] {
        let (accepted, message) = conn.ok(id);
        assert_eq!(accepted, is_removal, "{message:?}");
        assert!(accepted || message.starts_with("error: "), "{message:?}");
    }
    assert_eq!(conn.ask(json!({"kinds": [1]})).ids(), [&*notes[0].id]);
    assert!(stage.relay.fill_disk(false), "what was filled can be emptied");
    conn.accept(&notes[1]);
    conn.accept(&notes[3]);
    let settled = stage.settle(&mut conn, &mut reader, "sub");
    assert_eq!(settled, [&*gone.id, &*notes[1].id, &*notes[3].id], "each once");
}
