//! Slow readers: their events wait, none is lost, duplicated or reordered, and no other client waits.
//!
//! 24 MB are published, more than the buffers of a socket hold. A relay without sockets has no such buffers, so a tenth of that
//! fills its outbox.

use serde_json::json;

use super::conn::{Conn, event_text, id_of, req_text};
use super::stage::Stage;
use super::{Case, Frame, case_with};
use crate::relay::Config;
use crate::testing::signing::{Signed, event, key};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case_with("slow: live events wait in the store", small_outbox, live),
        case_with("slow: stored events wait, then live ones", small_outbox, stored),
        case_with("slow: ephemeral events that could not wait are reported", small_outbox, ephemeral),
        case_with("slow: what is deleted while it waits is not sent", small_outbox, deleted),
        case_with("slow: what expires while it waits is not sent", small_outbox, expired),
        case_with("slow: the read guard holds for what waited", small_outbox, guarded),
        case_with("slow: CLOSE and REQ while events wait", small_outbox, closed),
        case_with("slow: several subscriptions of one reader", small_outbox, several),
        case_with("slow: a reader that goes away", small_outbox, goes_away),
        case_with("slow: a reader that reads a little at a time", tiny_outbox, little_at_a_time),
    ]
}

fn small_outbox(config: &mut Config) {
    config.limits.outbox_pause_bytes = 64 << 10;
    config.limits.outbox_bytes_max = 256 << 10;
}

fn tiny_outbox(config: &mut Config) {
    config.limits.outbox_pause_bytes = 2 << 10;
    config.limits.outbox_bytes_max = 64 << 10;
    config.limits.step_cost_max = 7;
}

const BODY_BYTES: usize = 60_000;
/// The same where there are no sockets.
const BODY_BYTES_SMALL: usize = 6_000;
/// Events sent without waiting for answers.
const WINDOW: usize = 20;

fn big(stage: &Stage<'_>, author: u64, kind: u16, n: u64) -> Signed {
    let bytes = if stage.relay.holds_its_clock() { BODY_BYTES_SMALL } else { BODY_BYTES };
    let content = format!("{n} {}", "x".repeat(bytes));
    event(&key(author)).kind(kind).at(stage.t - n % 5).content(content).sign()
}

fn publish(stage: &Stage<'_>, writer: &mut Conn, author: u64, kind: u16, count: u64) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    for first in (0..count).step_by(WINDOW) {
        let events = (first..count.min(first + WINDOW as u64)).map(|n| big(stage, author, kind, n));
        let texts: (Vec<String>, Vec<String>) = events.map(|event| (event_text(&event), event.id)).unzip();
        writer.send_all(&texts.0);
        // All are answered, although another client does not read.
        for id in texts.1 {
            assert!(writer.ok(&id).0, "{id} was refused");
            ids.push(id);
        }
    }
    ids
}

/// Events of a subscription, in order, up to `last`.
fn read_to(reader: &mut Conn, sub: &str, last: &str) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.last().is_none_or(|id: &String| id != last) {
        seen.push(reader.next_event(sub));
    }
    seen
}

#[track_caller]
fn assert_same(seen: &[String], expected: &[String], what: &str) {
    // Compare positions: ids would not be readable.
    let positions: Vec<Option<usize>> =
        seen.iter().map(|id| expected.iter().position(|other| other == id)).collect();
    let wanted: Vec<Option<usize>> = (0..expected.len()).map(Some).collect();
    assert!(
        positions == wanted,
        "{what}: {} of {} came, in the order {positions:?}",
        seen.len(),
        expected.len()
    );
}

fn live(stage: &mut Stage<'_>) {
    let (mut writer, mut slow, mut quick) = (stage.open(), stage.open(), stage.open());
    slow.req("sub", json!({"kinds": [1]}));
    quick.req("sub", json!({"kinds": [1]}));
    let mut ids = publish(stage, &mut writer, 1, 1, 200);
    let last = ids.last().expect("200").clone();
    assert_same(&read_to(&mut quick, "sub", &last), &ids, "the quick reader");
    ids.extend(publish(stage, &mut writer, 2, 1, 200));
    let last = ids.last().expect("400").clone();
    assert_same(&read_to(&mut slow, "sub", &last), &ids, "the slow reader");
    assert_same(&read_to(&mut quick, "sub", &last), &ids[200..], "the quick reader, later");
    // It has caught up and is live as before.
    let note = event(&key(3)).at(stage.t).sign();
    writer.accept(&note);
    assert_eq!(slow.next_event("sub"), note.id);
    slow.expect_silence();
    quick.fence();
}

fn stored(stage: &mut Stage<'_>) {
    let (mut writer, mut slow) = (stage.open(), stage.open());
    let mut ids = publish(stage, &mut writer, 1, 1, 200);
    slow.send(&req_text("sub", json!({"kinds": [1]})));
    slow.send(&req_text("small", json!({"ids": [ids[7]]})));
    slow.await_answer();
    let later = publish(stage, &mut writer, 2, 1, 200);
    let answer = slow.answer("sub");
    let mut found = answer.ids();
    assert!(answer.events.is_sorted_by_key(|event| std::cmp::Reverse(event["created_at"].as_u64())));
    found.sort_unstable();
    ids.sort_unstable();
    // Events published after the REQ are sent after its EOSE.
    assert_eq!(found.len(), ids.len(), "as many as were stored");
    assert!(found == ids, "those that were stored when it asked");
    assert_eq!(answer.hint.as_deref(), Some("finish"));
    let last = later.last().expect("200").clone();
    assert_same(&read_to(&mut slow, "sub", &last), &later, "what came while it waited");
    assert_eq!(slow.answer("small").ids().len(), 1);
    slow.expect_silence();
}

fn ephemeral(stage: &mut Stage<'_>) {
    let (mut writer, mut slow) = (stage.open(), stage.open());
    slow.req("sub", json!({"kinds": [20_000, 1]}));
    let ids = publish(stage, &mut writer, 1, 20_000, 400);
    let note = event(&key(3)).at(stage.t).sign();
    writer.accept(&note);
    let (mut seen, mut missed) = (Vec::new(), 0u64);
    let mut rounds = 0;
    loop {
        match slow.next() {
            Some(Frame::Event { event, .. }) => seen.push(id_of(&event)),
            Some(Frame::Notice(message)) => {
                let number = message.split(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty());
                missed += number.expect("how many were missed").parse::<u64>().expect("a number");
            }
            Some(other) => panic!("{other:?}"),
            None => {
                rounds += 1;
                assert!(rounds < 3, "{} seen and {missed} missed of {}", seen.len(), ids.len());
            }
        }
        let ephemeral = seen.iter().filter(|id| **id != note.id).count() as u64;
        if ephemeral + missed == ids.len() as u64 && seen.contains(&note.id) {
            break;
        }
    }
    assert!(missed > 0, "ten times what the outbox may hold was published");
    let mut positions: Vec<usize> =
        seen.iter().filter_map(|id| ids.iter().position(|other| other == id)).collect();
    assert!(positions.is_sorted(), "in order: {positions:?}");
    positions.dedup();
    assert_eq!(positions.len() + 1, seen.len(), "each once");
    slow.expect_silence();
}

fn deleted(stage: &mut Stage<'_>) {
    let (mut writer, mut slow) = (stage.open(), stage.open());
    slow.req("sub", json!({"kinds": [1]}));
    let ids = publish(stage, &mut writer, 1, 1, 400);
    let gone = &ids[350..390];
    let request = gone.iter().fold(event(&key(1)).kind(5).at(stage.t), |draft, id| draft.tag(["e", id]));
    writer.accept(&request.sign());
    let seen = read_to(&mut slow, "sub", &ids[399]);
    let left: Vec<String> = ids.iter().filter(|id| !gone.contains(id)).cloned().collect();
    assert_same(&seen, &left, "what was not deleted");
    slow.expect_silence();
}

fn expired(stage: &mut Stage<'_>) {
    let (mut writer, mut slow) = (stage.open(), stage.open());
    slow.req("sub", json!({"kinds": [1]}));
    let first = publish(stage, &mut writer, 1, 1, 400);
    let at = (stage.relay.now() + 3).to_string();
    let short = event(&key(2)).at(stage.t).tag(["expiration", &at]).sign();
    let long = event(&key(2)).at(stage.t).tag(["expiration", &(stage.t + 10_000).to_string()]).sign();
    writer.accept_all(&[short, long.clone()]);
    if !stage.advance(5) {
        return;
    }
    let seen = read_to(&mut slow, "sub", &long.id);
    assert_same(&seen, &[first, vec![long.id]].concat(), "what has not expired");
}

fn guarded(stage: &mut Stage<'_>) {
    let mut writer = stage.open();
    let (mut nobody, mut me) = (stage.open(), stage.open());
    stage.auth(&mut me, &key(9));
    for conn in [&mut nobody, &mut me] {
        conn.req("sub", json!({"since": stage.t - 100}));
    }
    let first = publish(stage, &mut writer, 1, 1, 400);
    let wrap = |n: u64, to: u64| event(&key(n)).kind(1059).at(stage.t).tag(["p", key(to).hex()]).sign();
    let (mine, others) = (wrap(50, 9), wrap(51, 8));
    let last = event(&key(3)).at(stage.t).sign();
    writer.accept_all(&[others, mine.clone(), last.clone()]);
    let seen = read_to(&mut nobody, "sub", &last.id);
    assert_same(&seen, &[&first[..], std::slice::from_ref(&last.id)].concat(), "nobody in particular");
    let seen = read_to(&mut me, "sub", &last.id);
    assert_same(&seen, &[&first[..], &[mine.id, last.id]].concat(), "the recipient of one wrap");
}

fn closed(stage: &mut Stage<'_>) {
    let (mut writer, mut slow) = (stage.open(), stage.open());
    for sub in ["closed", "replaced"] {
        slow.req(sub, json!({"kinds": [1]}));
    }
    let first = publish(stage, &mut writer, 1, 1, 200);
    slow.send_all(&[
        r#"["CLOSE","closed"]"#.into(),
        req_text("replaced", json!({"kinds": [7]})),
        req_text("other", json!({"ids": [first[0]]})),
    ]);
    let like = event(&key(2)).kind(7).at(stage.t).sign();
    // The relay does not read from a client that does not read, so these may be sent before it handles the CLOSE.
    let all = [&first[..], &publish(stage, &mut writer, 2, 1, 200)].concat();
    writer.accept(&like);
    let seen = |frames: &[Frame], sub: &str| -> Vec<String> {
        let events = frames.iter().filter(|frame| frame.sub() == Some(sub)).filter_map(|frame| match frame {
            Frame::Event { event, .. } => Some(id_of(event)),
            _ => None,
        });
        events.collect()
    };
    // The reader sends a last request after everything else, and receives a reaction at the end, stored or live.
    let mut frames = Vec::new();
    let ends = |frames: &[Frame]| frames.iter().filter(|frame| matches!(frame, Frame::Eose { .. })).count();
    while !seen(&frames, "replaced").contains(&like.id) || ends(&frames) < 2 {
        frames.push(slow.next().expect("a like, and the answer to what was asked last"));
    }
    frames.extend(slow.fence());
    assert_eq!(seen(&frames, "other"), [&*first[0]]);
    let replaced = seen(&frames, "replaced");
    let (likes, notes): (Vec<String>, Vec<String>) = replaced.into_iter().partition(|id| *id == like.id);
    assert_eq!(likes.len(), 1, "the like, once");
    assert_same(&notes, &all[..notes.len().min(400)], "before it was replaced");
    let closed = seen(&frames, "closed");
    assert_same(&closed, &all[..closed.len().min(400)], "before it was closed");
    slow.expect_silence();
}

fn several(stage: &mut Stage<'_>) {
    let (mut writer, mut slow) = (stage.open(), stage.open());
    for sub in ["a", "b"] {
        slow.req(sub, json!({"kinds": [1]}));
    }
    slow.req("c", json!({"kinds": [1], "authors": [key(2).hex()]}));
    let mut ids = publish(stage, &mut writer, 1, 1, 200);
    ids.extend(publish(stage, &mut writer, 2, 1, 200));
    let last = ids.last().expect("400").clone();
    for (sub, expected) in [("a", &ids[..]), ("b", &ids), ("c", &ids[200..])] {
        assert_same(&read_to(&mut slow, sub, &last), expected, sub);
    }
    slow.expect_silence();
}

fn goes_away(stage: &mut Stage<'_>) {
    let mut writer = stage.open();
    for round in 0..3 {
        let mut slow = stage.open();
        slow.req("live", json!({"kinds": [1]}));
        slow.send(&req_text("stored", json!({"kinds": [1]})));
        publish(stage, &mut writer, 1 + round, 1, 100);
        drop(slow);
    }
    assert_eq!(writer.count(json!({})), 300);
}

fn little_at_a_time(stage: &mut Stage<'_>) {
    let (mut writer, mut slow) = (stage.open(), stage.open());
    let note = |author: u64, n: u64| {
        event(&key(author)).at(stage.t - n % 7).content(format!("{n} {}", "x".repeat(300))).sign()
    };
    let stored: Vec<Signed> = (0..50).map(|n| note(1, n)).collect();
    writer.accept_all(&stored);
    slow.send(&req_text("sub", json!({"kinds": [1]})));
    slow.await_answer();
    let (mut live, mut seen, mut ended) = (Vec::new(), Vec::new(), None);
    // Two events are published for each that is read: the reader falls behind, and catches up at the end.
    for n in 0..100 {
        for half in 0..2 {
            let note = note(2, 2 * n + half);
            writer.accept(&note);
            live.push(note.id);
        }
        match slow.next_of("sub") {
            Frame::Event { event, .. } => seen.push(id_of(&event)),
            Frame::Eose { .. } => ended = Some(seen.len()),
            other => panic!("{other:?}"),
        }
    }
    let last = live.last().expect("200").clone();
    while seen.last() != Some(&last) {
        match slow.next_of("sub") {
            Frame::Event { event, .. } => seen.push(id_of(&event)),
            Frame::Eose { .. } => ended = Some(seen.len()),
            other => panic!("{other:?}"),
        }
    }
    let ended = ended.expect("an EOSE between stored and live");
    let mut first = seen[..ended].to_vec();
    let mut expected: Vec<String> = stored.iter().map(|event| event.id.clone()).collect();
    first.sort_unstable();
    expected.sort_unstable();
    assert!(first == expected, "{ended} stored events of {}", stored.len());
    assert_same(&seen[ended..], &live, "live events");
    slow.expect_silence();
}
