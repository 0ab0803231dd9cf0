//! Live events: which subscriptions receive them, once, in order, without a gap after the stored ones (NIP-01).

use serde_json::{Value, json};

use super::conn::{event_text, id_of, req_text};
use super::oracle::matches;
use super::stage::Stage;
use super::{Case, Frame, case, case_with};
use crate::testing::signing::{Signed, event, key};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("live: many shapes agree with plain loops", many_shapes),
        case("live: once a subscription, for each subscription", once_each),
        case("live: a duplicate is delivered once", duplicates),
        case("live: ephemeral events are delivered and never stored", ephemeral),
        case("live: an ephemeral event is delivered each time it comes, however old it is", ephemeral_again),
        case_with(
            "live: ephemeral events have the age that all events have",
            |config| config.limits.created_at_age_seconds_max = Some(3_600),
            ephemeral_age,
        ),
        case("live: no gap and no repeat between stored and live", no_gap),
        case_with(
            "live: a subscription that begins later",
            |config| config.limits.created_at_ahead_seconds_max = 120,
            begins_later,
        ),
        case("live: after CLOSE nothing comes", after_close),
        case("live: a REQ of the same id replaces", replaced),
        case_with(
            "live: a REQ is replaced while it runs",
            |config| config.limits.step_cost_max = 10,
            replaced_running,
        ),
        case_with("live: CLOSE while a REQ runs", |config| config.limits.step_cost_max = 10, closed_running),
        case_with(
            "live: a disconnect while a REQ runs",
            |config| config.limits.step_cost_max = 10,
            dropped_running,
        ),
    ]
}

fn many_shapes(stage: &mut Stage<'_>) {
    let (a, b) = (key(1).hex().to_owned(), key(2).hex().to_owned());
    let t = stage.t;
    let shapes = [
        json!({}),
        json!({"kinds": [1]}),
        json!({"kinds": [7, 30_023]}),
        json!({"authors": [a]}),
        json!({"authors": [a, b], "kinds": [1]}),
        json!({"authors": [a], "#p": [b]}),
        json!({"#p": [a, b]}),
        json!({"#t": ["x"], "#p": [a]}),
        json!({"#t": ["x", "y"]}),
        json!({"#t": [""]}),
        json!({"#d": ["slug"], "kinds": [30_023]}),
        json!({"since": t}),
        json!({"until": t - 1}),
        json!({"since": t - 1, "until": t - 1, "kinds": [1, 7]}),
        json!({"since": t + 1_000}),
        json!({"ids": [a]}),
        json!({"ids": []}),
        json!({"kinds": [], "authors": [a]}),
        json!([{"kinds": [7]}, {"authors": [b]}, {"#t": ["y"]}]),
        json!([{"ids": []}, {"authors": [a], "kinds": [7]}]),
    ];
    let mut reader = stage.open();
    for (n, shape) in shapes.iter().enumerate() {
        stage.watch(&mut reader, &format!("sub {n}"), shape.clone());
    }
    let mut writer = stage.open();
    let mut events: Vec<Signed> = Vec::new();
    for n in 0..48u64 {
        let kind = [1, 7, 30_023, 20_001][(n % 4) as usize];
        let mut draft = event(&key(1 + n % 3)).at(t - n % 3).kind(kind).content(n.to_string());
        if kind == 30_023 {
            draft = draft.tag(["d", if n % 8 == 2 { "slug" } else { "other" }]).at(t - 50 + n);
        }
        if n % 5 < 2 {
            draft = draft.tag(["t", ["x", "y", ""][(n % 3) as usize], "z"]);
        }
        if n % 7 < 3 {
            draft = draft.tag(["p", key(1 + n % 2).hex()]);
        }
        events.push(draft.sign());
    }
    writer.accept_all(&events);
    for (n, shape) in shapes.iter().enumerate() {
        let seen = stage.settle(&mut writer, &mut reader, &format!("sub {n}"));
        let filters = super::conn::as_list(shape.clone());
        let wanted = events.iter().filter(|event| filters.iter().any(|filter| matches(filter, event)));
        let (mut wanted, mut seen) = (wanted.map(|event| event.id.clone()).collect::<Vec<_>>(), seen);
        // Stored and ephemeral events may overtake each other between shards.
        wanted.sort_unstable();
        seen.sort_unstable();
        assert_eq!(seen, wanted, "live events of {shape}");
    }
}

fn once_each(stage: &mut Stage<'_>) {
    let mut writer = stage.open();
    let (mut a, mut b) = (stage.open(), stage.open());
    let note = event(&key(1)).at(stage.t).tag(["t", "x"]).tag(["t", "y"]).tag(["t", "x"]).sign();
    let all =
        json!([{}, {"kinds": [1]}, {"authors": [key(1).hex()]}, {"#t": ["x", "y"]}, {"ids": [note.id]}]);
    stage.watch(&mut a, "one", all.clone());
    stage.watch(&mut a, "two", all.clone());
    stage.watch(&mut b, "one", all);
    writer.accept(&note);
    assert_eq!(stage.settle(&mut writer, &mut a, "one"), [&*note.id]);
    assert_eq!(stage.settle(&mut writer, &mut a, "two"), [&*note.id]);
    assert_eq!(stage.settle(&mut writer, &mut b, "one"), [&*note.id]);
    // The publisher's own subscriptions receive it too.
    stage.watch(&mut a, "own", json!({"kinds": [7]}));
    let like = event(&key(1)).at(stage.t).kind(7).sign();
    a.accept(&like);
    assert_eq!(stage.settle(&mut writer, &mut a, "own"), [&*like.id]);
}

fn duplicates(stage: &mut Stage<'_>) {
    let (mut writer, mut other) = (stage.open(), stage.open());
    let mut reader = stage.open();
    stage.watch(&mut reader, "sub", json!({"kinds": [1]}));
    let note = event(&key(1)).at(stage.t).sign();
    writer.accept(&note);
    for conn in [&mut writer, &mut other] {
        let (accepted, message) = conn.publish(&note);
        assert!(accepted && message.starts_with("duplicate: "), "a second copy: {accepted} {message:?}");
    }
    assert_eq!(stage.settle(&mut writer, &mut reader, "sub"), [&*note.id]);
}

fn ephemeral(stage: &mut Stage<'_>) {
    let (mut writer, mut reader) = (stage.open(), stage.open());
    stage.watch(&mut reader, "sub", json!({"kinds": [20_000, 25_000, 29_999], "#x": ["y"]}));
    let events: Vec<Signed> = [20_000, 25_000, 29_999]
        .map(|kind| event(&key(1)).kind(kind).at(stage.t).tag(["x", "y"]).sign())
        .into();
    writer.accept_all(&events);
    let mut seen = stage.settle(&mut writer, &mut reader, "sub");
    seen.sort_unstable();
    let mut ids: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!(seen, ids);
    for filter in [json!({"kinds": [20_000, 25_000, 29_999]}), json!({"ids": ids}), json!({"#x": ["y"]})] {
        assert_eq!(writer.ask(filter.clone()).ids().len(), 0, "stored: {filter}");
        assert_eq!(writer.count(filter), 0);
    }
}

/// NIP-01 sets no age for ephemeral events, and a relay that does not store them cannot recognise a repeated one.
fn ephemeral_again(stage: &mut Stage<'_>) {
    let (mut writer, mut other, mut reader) = (stage.open(), stage.open(), stage.open());
    stage.watch(&mut reader, "sub", json!({"kinds": [20_000]}));
    let event = event(&key(1)).kind(20_000).at(stage.t - 86_400).sign();
    for conn in [&mut writer, &mut other] {
        assert_eq!(conn.publish(&event), (true, String::new()));
        assert_eq!(stage.settle(conn, &mut reader, "sub"), [&*event.id]);
    }
}

fn ephemeral_age(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    conn.refuse(&event(&key(1)).kind(20_000).at(stage.t - 86_400).sign(), "invalid");
    conn.accept(&event(&key(1)).kind(20_000).at(stage.t - 60).sign());
}

fn no_gap(stage: &mut Stage<'_>) {
    let (mut writer, mut reader) = (stage.open(), stage.open());
    let events: Vec<Signed> =
        (0..60).map(|n| event(&key(1)).at(stage.t - n % 5).content(n.to_string()).sign()).collect();
    let texts: Vec<String> = events.iter().map(event_text).collect();
    // Subscriptions begin while events are in flight: before, between and after their commits.
    for (round, chunk) in texts.chunks(10).enumerate() {
        writer.send_all(chunk);
        reader.send(&req_text(&format!("sub {round}"), json!({"kinds": [1]})));
    }
    for event in &events {
        assert!(writer.ok(&event.id).0);
    }
    let last = event(&key(2)).at(stage.t).content("last").sign();
    writer.accept(&last);
    for round in 0..6 {
        let sub = format!("sub {round}");
        let mut seen = Vec::new();
        let mut ended = 0;
        while seen.last() != Some(&last.id) {
            match reader.next_of(&sub) {
                Frame::Event { event, .. } => seen.push(super::conn::id_of(&event)),
                Frame::Eose { .. } => ended += 1,
                other => panic!("{other:?} for {sub}"),
            }
        }
        assert!(ended <= 1, "{sub} ended {ended} times");
        seen.pop();
        seen.sort_unstable();
        let mut ids: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
        ids.sort_unstable();
        assert_eq!(seen, ids, "stored and live events of {sub}, each once");
    }
}

fn after_close(stage: &mut Stage<'_>) {
    let (mut writer, mut reader) = (stage.open(), stage.open());
    stage.watch(&mut reader, "kept", json!({"kinds": [1]}));
    reader.req("closed", json!({"kinds": [1]}));
    reader.close_sub("closed");
    reader.close_sub("closed");
    reader.close_sub("never opened");
    reader.expect_silence();
    let note = event(&key(1)).at(stage.t).sign();
    writer.accept(&note);
    assert_eq!(stage.settle(&mut writer, &mut reader, "kept"), [&*note.id]);
    reader.expect_silence();
    // The id can be used again.
    assert_eq!(reader.req("closed", json!({"ids": [note.id]})).ids(), [&*note.id]);
}

fn replaced(stage: &mut Stage<'_>) {
    let (mut writer, mut reader) = (stage.open(), stage.open());
    reader.req("sub", json!({"kinds": [1]}));
    stage.watch(&mut reader, "sub", json!({"kinds": [7]}));
    writer.accept(&event(&key(1)).at(stage.t).sign());
    let like = event(&key(1)).at(stage.t).kind(7).sign();
    writer.accept(&like);
    assert_eq!(stage.settle(&mut writer, &mut reader, "sub"), [&*like.id]);
    // The same REQ again is answered again.
    assert_eq!(reader.req("again", json!({"kinds": [7]})).ids(), [&*like.id]);
    assert_eq!(reader.req("again", json!({"kinds": [7]})).ids(), [&*like.id]);
    reader.expect_silence();
}

const STORED: u64 = 200;

fn fill(stage: &mut Stage<'_>) -> (super::conn::Conn, Signed) {
    let mut writer = stage.open();
    let notes: Vec<Signed> =
        (0..STORED).map(|n| event(&key(1)).at(stage.t - n).content(n.to_string()).sign()).collect();
    writer.send_all(&notes.iter().map(event_text).collect::<Vec<_>>());
    notes.iter().for_each(|note| assert!(writer.ok(&note.id).0));
    let like = event(&key(1)).at(stage.t - 3).kind(7).sign();
    writer.accept(&like);
    (writer, like)
}

/// Filters with a future `since` match from that time on.
fn begins_later(stage: &mut Stage<'_>) {
    let (mut writer, mut reader) = (stage.open(), stage.open());
    let t = stage.t;
    let notes = json!([{"since": t + 20 * 60, "kinds": [1]}, {"since": t + 30 * 60}, {"kinds": [7]}]);
    reader.req("notes", notes);
    reader.req("soon", json!({"since": t + 60}));
    reader.req("ended", json!({"since": t + 20 * 60}));
    let early = [event(&key(1)).at(t).sign(), event(&key(1)).at(t + 60).sign()];
    writer.accept_all(&early);
    assert_eq!(reader.next_event("soon"), early[1].id);
    reader.close_sub("ended");
    let like = event(&key(2)).kind(7).at(t).sign();
    writer.accept(&like);
    assert_eq!(reader.next_event("notes"), like.id, "its other filters are live");
    reader.expect_silence();
    if !stage.advance(20 * 60 - 60) {
        return;
    }
    let dated = |at: u64, kind: u16| event(&key(3)).at(at).kind(kind).sign();
    writer.accept(&dated(t + 20 * 60 - 1, 1));
    let [stored, ephemeral] = [dated(t + 20 * 60, 1), dated(t + 30 * 60, 20_000)];
    writer.accept(&stored);
    let mut came = vec![reader.next_of("notes"), reader.next_of("soon"), reader.next_of("soon")];
    assert!(stage.advance(10 * 60));
    writer.accept(&ephemeral);
    came.extend([reader.next_of("notes"), reader.next_of("soon")]);
    reader.expect_silence();
    let ids = |wanted: &str| -> Vec<String> {
        let matching = came.iter().filter_map(|frame| match frame {
            Frame::Event { sub, event } if sub == wanted => Some(id_of(event)),
            _ => None,
        });
        matching.collect()
    };
    assert_eq!(ids("notes"), [stored.id.clone(), ephemeral.id.clone()], "each once");
    assert_eq!(ids("soon").len(), 3);
}

fn kind_of(frame: &Frame) -> Option<Value> {
    match frame {
        Frame::Event { event, .. } => Some(event["kind"].clone()),
        _ => None,
    }
}

fn replaced_running(stage: &mut Stage<'_>) {
    let (mut writer, like) = fill(stage);
    let mut reader = stage.open();
    reader.send_all(&[req_text("sub", json!({"kinds": [1]})), req_text("sub", json!({"kinds": [7]}))]);
    let mut frames = vec![reader.next_of("sub")];
    while !(matches!(frames[..], [.., _, Frame::Eose { .. }])
        && frames.iter().any(|frame| kind_of(frame) == Some(json!(7))))
    {
        frames.push(reader.next_of("sub"));
    }
    reader.expect_silence();
    let second = frames.iter().position(|frame| kind_of(frame) == Some(json!(7))).expect("the second answer");
    let (first, second) = frames.split_at(second);
    let ends = |frames: &[Frame]| frames.iter().filter(|frame| matches!(frame, Frame::Eose { .. })).count();
    assert!(ends(first) <= 1 && first.len() <= STORED as usize + 1, "{} frames of the first", first.len());
    assert!(
        first.iter().all(|frame| !matches!(frame, Frame::Closed { .. })),
        "a replaced REQ is not refused"
    );
    assert_eq!(second.len(), 2, "one event and EOSE, and nothing of the first: {second:?}");
    assert_eq!(ends(second), 1, "{second:?}");
    writer.accept(&event(&key(1)).at(stage.t).content("for nobody").sign());
    let live = event(&key(2)).at(stage.t).kind(7).sign();
    writer.accept(&live);
    assert_eq!(reader.next_event("sub"), live.id);
    assert_eq!(reader.ask(json!({"ids": [like.id]})).ids(), [&*like.id]);
    reader.expect_silence();
}

fn closed_running(stage: &mut Stage<'_>) {
    let (mut writer, _) = fill(stage);
    let mut reader = stage.open();
    stage.watch(&mut reader, "kept", json!({"kinds": [9]}));
    reader.send_all(&[req_text("sub", json!({"kinds": [1]})), r#"["CLOSE","sub"]"#.into()]);
    let frames = reader.fence();
    assert!(frames.len() <= STORED as usize + 1, "{} frames", frames.len());
    assert!(frames.iter().all(|frame| !matches!(frame, Frame::Closed { .. })), "CLOSE is not answered");
    writer.accept(&event(&key(1)).at(stage.t).content("for nobody").sign());
    assert!(stage.settle(&mut writer, &mut reader, "kept").is_empty());
    reader.expect_silence();
}

fn dropped_running(stage: &mut Stage<'_>) {
    let (mut writer, like) = fill(stage);
    for _ in 0..5 {
        let mut reader = stage.open();
        reader.send_all(&[req_text("sub", json!({"kinds": [1]})), req_text("other", json!({}))]);
        drop(reader);
    }
    let mut reader = stage.open();
    assert_eq!(reader.req("sub", json!({"kinds": [7]})).ids(), [&*like.id]);
    writer.accept(&event(&key(3)).at(stage.t).sign());
    assert_eq!(reader.req("sub", json!({"kinds": [1]})).ids().len(), STORED as usize + 1);
}
