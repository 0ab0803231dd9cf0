//! Set reconciliation (NIP-77), with the client's side of the crate `negentropy`: which events the relay's set has, who
//! may open a reconciliation, and what ends one.

use std::collections::BTreeSet;

use negentropy::{Id, Negentropy, NegentropyStorageVector};
use serde_json::{Value, json};

use super::conn::Conn;
use super::oracle::matches;
use super::stage::Stage;
use super::{Case, Frame, case, case_with};
use crate::relay::Config;
use crate::testing::signing::{Key, Signed, event, key, lower_hex};
use crate::types::EventId;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("reconciliation: sets have what filters find", sets),
        case("reconciliation: both sides learn what they lack, and then lack nothing", both_directions),
        case("reconciliation: what is gone is in no set, also in one that was kept", what_is_gone),
        case("reconciliation: what has expired is in no set", what_has_expired),
        case_with("reconciliation: a set does not change while it is reconciled", collected, snapshots),
        case("reconciliation: what is guarded is in the sets of its parties", guarded),
        case_with(
            "reconciliation: for authenticated clients only",
            |c| c.policy.auth_required = true,
            auth_required,
        ),
        case("reconciliation: ids are apart from those of subscriptions, and may be used again", ids),
        case("reconciliation: malformed messages get NEG-ERR with a reason", malformed_messages),
        case_with("reconciliation: too many on one connection", |c| c.limits.neg_sessions_max = 2, too_many),
        case_with("reconciliation: too many events", few_events, too_many_events),
        case_with("reconciliation: no memory", little_memory, no_memory),
        case_with("reconciliation: rates", |c| c.limits.requests_per_minute_max = 3, rates),
        case_with("reconciliation: messages as long as they may be", short_messages, long_messages),
    ]
}

/// Nothing is answered from sums, which hold no set.
fn collected(config: &mut Config) {
    config.limits.neg_summed_events_min = 1_000_000;
}

fn few_events(config: &mut Config) {
    collected(config);
    config.limits.neg_set_events_max = 5;
}

fn little_memory(config: &mut Config) {
    collected(config);
    config.limits.neg_sets_bytes_max = 1_000;
}

/// What a client has learned.
#[derive(Debug)]
struct Differences {
    /// Ids that only the client has.
    have: BTreeSet<String>,
    /// Ids that only the relay has.
    need: BTreeSet<String>,
}

fn storage<'a>(events: impl IntoIterator<Item = &'a Signed>) -> NegentropyStorageVector {
    let mut storage = NegentropyStorageVector::new();
    for event in events {
        let id = EventId::from_hex(event.id.as_bytes()).expect("an id");
        storage.insert(event.created_at, Id::from_byte_array(id.0)).expect("it is not sealed");
    }
    storage.seal().expect("it is not sealed");
    storage
}

fn open_text(query: &str, filter: &Value, message: &[u8]) -> String {
    json!(["NEG-OPEN", query, filter, lower_hex(message)]).to_string()
}

/// The answer to a NEG-OPEN or NEG-MSG: the relay's message, or why there is none.
fn answer(conn: &mut Conn, query: &str) -> Result<Vec<u8>, String> {
    conn.wait("a NEG-MSG or NEG-ERR", |frame| match frame {
        Frame::NegMsg { query: answered, message } if answered == query => {
            let mut bytes = vec![0; message.len() / 2];
            faster_hex::hex_decode(message.as_bytes(), &mut bytes).expect("hex");
            Some(Ok(bytes))
        }
        Frame::NegErr { query: answered, message, .. } if answered == query => Some(Err(message.clone())),
        _ => None,
    })
}

/// Reconciles what the client has.
fn try_reconcile(conn: &mut Conn, filter: &Value, events: &[&Signed]) -> Result<Differences, String> {
    let storage = storage(events.iter().copied());
    let mut client = Negentropy::borrowed(&storage, 60_000).expect("a valid limit");
    let mut message = client.initiate().expect("the first message");
    let (mut have, mut need) = (Vec::new(), Vec::new());
    conn.send(&open_text("sync", filter, &message));
    loop {
        let answered = match answer(conn, "sync") {
            Err(why) if why.starts_with("closed: ") => {
                // A host may lose its memory: the next message opens the reconciliation as well.
                conn.send(&open_text("sync", filter, &message));
                continue;
            }
            answered => answered?,
        };
        match client.reconcile_with_ids(&answered, &mut have, &mut need).expect("a message of the protocol") {
            Some(next) => message = next,
            None => break,
        }
        conn.send(&json!(["NEG-MSG", "sync", lower_hex(&message)]).to_string());
    }
    conn.send(r#"["NEG-CLOSE","sync"]"#);
    let hex = |ids: Vec<Id>| ids.iter().map(|id| lower_hex(id.as_bytes())).collect();
    Ok(Differences { have: hex(have), need: hex(need) })
}

fn reconcile(conn: &mut Conn, filter: &Value, events: &[&Signed]) -> Differences {
    try_reconcile(conn, filter, events).unwrap_or_else(|why| panic!("{why} for {filter}"))
}

/// What the relay's set has, for a client that has nothing.
fn set(conn: &mut Conn, filter: &Value) -> BTreeSet<String> {
    reconcile(conn, filter, &[]).need
}

/// A NEG-OPEN that must be refused with this prefix.
#[track_caller]
fn refused(conn: &mut Conn, filter: &Value, prefix: &str) {
    conn.send(&open_text("refused", filter, &[0x61]));
    let answered = answer(conn, "refused");
    assert!(
        matches!(&answered, Err(why) if why.starts_with(&format!("{prefix}: "))),
        "{answered:?} where {prefix:?} should be, for {filter}"
    );
}

fn ids_of<'a>(events: impl IntoIterator<Item = &'a Signed>) -> BTreeSet<String> {
    events.into_iter().map(|event| event.id.clone()).collect()
}

/// Notes of several authors, kinds, tags and seconds.
fn notes(stage: &Stage<'_>, count: u64) -> Vec<Signed> {
    let one = |n: u64| {
        let draft = event(&key(1 + n % 4)).at(stage.t - n % 7).kind([1, 7][(n % 2) as usize]);
        draft.tag(["t", ["x", "y", "z"][(n % 3) as usize]]).content(n.to_string()).sign()
    };
    (0..count).map(one).collect()
}

fn sets(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let events = notes(stage, 70);
    conn.accept_all(&events);
    for filter in [
        json!({}),
        json!({"kinds": [1]}),
        json!({"kinds": [1, 7], "authors": [key(1).hex()]}),
        json!({"#t": ["x", "y"]}),
        json!({"#t": ["x"], "authors": [key(2).hex()]}),
        json!({"since": stage.t - 2}),
        json!({"since": stage.t - 3, "until": stage.t - 2, "kinds": [7]}),
        json!({"ids": [events[0].id, events[1].id, key(1).hex()]}),
        json!({"kinds": [9]}),
        json!({"ids": []}),
    ] {
        let expected = ids_of(events.iter().filter(|event| matches(&filter, event)));
        assert_eq!(set(&mut conn, &filter), expected, "{filter}");
        // A client that has it all learns nothing.
        let all: Vec<&Signed> = events.iter().filter(|event| matches(&filter, event)).collect();
        let nothing = reconcile(&mut conn, &filter, &all);
        assert!(nothing.have.is_empty() && nothing.need.is_empty(), "{nothing:?} for {filter}");
    }
    // `limit` takes the newest, as in a REQ.
    for filter in [
        json!({"limit": 0}),
        json!({"limit": 13}),
        json!({"limit": 40, "kinds": [7]}),
        json!({"limit": 5_000}),
    ] {
        let expected: BTreeSet<String> = conn.ask(filter.clone()).ids().into_iter().collect();
        assert_eq!(set(&mut conn, &filter), expected, "{filter}");
    }
    conn.expect_silence();
}

fn both_directions(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let events = notes(stage, 120);
    let (mut relays, mut clients) = (Vec::new(), Vec::new());
    for (n, event) in events.iter().enumerate() {
        if n % 9 != 0 {
            relays.push(event);
        }
        if n % 7 != 0 {
            clients.push(event);
        }
    }
    relays.iter().for_each(|event| conn.accept(event));
    for filter in [json!({}), json!({"kinds": [1]})] {
        let of = |events: &[&Signed]| ids_of(events.iter().copied().filter(|event| matches(&filter, event)));
        let matching: Vec<&Signed> =
            clients.iter().copied().filter(|event| matches(&filter, event)).collect();
        let learned = reconcile(&mut conn, &filter, &matching);
        assert_eq!(learned.have, of(&clients).difference(&of(&relays)).cloned().collect(), "{filter}");
        assert_eq!(learned.need, of(&relays).difference(&of(&clients)).cloned().collect(), "{filter}");
    }
    let learned = reconcile(&mut conn, &json!({}), &clients);
    let needed = conn.ask(json!({"ids": learned.need})).ids();
    assert_eq!(needed.into_iter().collect::<BTreeSet<_>>(), learned.need, "what is named can be had");
    events.iter().filter(|event| learned.have.contains(&event.id)).for_each(|event| conn.accept(event));
    let all: Vec<&Signed> =
        events.iter().enumerate().filter(|(n, _)| n % 63 != 0).map(|(_, event)| event).collect();
    let nothing = reconcile(&mut conn, &json!({}), &all);
    assert!(nothing.have.is_empty() && nothing.need.is_empty(), "{nothing:?}");
}

fn what_is_gone(stage: &mut Stage<'_>) {
    let (mut conn, mut other) = (stage.open(), stage.open());
    let (me, at) = (key(1), stage.t - 9);
    let profile = event(&me).kind(0).at(at).content("old").sign();
    let article = event(&me).kind(30_023).at(at).tag(["d", "x"]).sign();
    let note = event(&me).at(at).content("deleted by its id").sign();
    let by_address = event(&me).kind(30_023).at(at).tag(["d", "y"]).sign();
    let of_another = event(&key(2)).at(at).sign();
    conn.accept_all(&[profile, article, note.clone(), by_address, of_another.clone()]);
    let filters = [
        json!({}),
        json!({"authors": [me.hex()]}),
        json!({"kinds": [0, 1, 30_023]}),
        json!({"limit": 3}),
        json!({"kinds": [1], "limit": 2}),
    ];
    let address = format!("30023:{}:y", me.hex());
    let vanish = event(&me).kind(62).at(stage.t).tag(["relay", "ALL_RELAYS"]).sign();
    let changes = [
        event(&me).kind(0).at(at + 1).content("new").sign(),
        event(&me).kind(30_023).at(at + 1).tag(["d", "x"]).content("new").sign(),
        event(&me).kind(5).at(at + 2).tag(["e", &note.id]).sign(),
        event(&me).kind(5).at(at + 2).tag(["a", &address]).sign(),
        event(&key(3)).at(at + 3).content("one more").sign(),
        vanish,
    ];
    let check = |conn: &mut Conn, after: &str| {
        for filter in &filters {
            let expected: BTreeSet<String> = conn.ask(filter.clone()).ids().into_iter().collect();
            assert_eq!(set(conn, filter), expected, "{filter} after {after}");
        }
    };
    check(&mut conn, "nothing");
    for change in &changes {
        other.accept(change);
        check(&mut conn, &change.json());
        check(&mut other, &change.json());
    }
    assert_eq!(set(&mut conn, &json!({"kinds": [0, 1, 30_023]})).len(), 2, "what others published stays");
}

fn what_has_expired(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let expiring = |seconds: u64| {
        let at = (stage.t + seconds).to_string();
        event(&key(1)).at(stage.t).tag(["expiration", &at]).content(at).sign()
    };
    let (short, long) = (expiring(100), expiring(100_000));
    conn.accept_all(&[short.clone(), long.clone()]);
    assert_eq!(set(&mut conn, &json!({})), ids_of([&short, &long]));
    if !stage.advance(200) {
        return;
    }
    let plain = event(&key(1)).at(stage.t).sign();
    conn.accept(&plain);
    assert_eq!(set(&mut conn, &json!({})), ids_of([&long, &plain]));
}

fn snapshots(stage: &mut Stage<'_>) {
    let (mut conn, mut writer) = (stage.open(), stage.open());
    let events = notes(stage, 20);
    conn.accept_all(&events);
    let filter = json!({"kinds": [1, 7]});
    conn.send(&open_text("n", &filter, &[0x61]));
    assert_eq!(answer(&mut conn, "n"), Ok(vec![0x61]));
    writer.accept(&event(&key(5)).at(stage.t - 1).content("new").sign());
    let deletion = event(&key(1)).kind(5).at(stage.t).tag(["e", &events[0].id]).sign();
    writer.accept(&deletion);
    // A list of nothing: what the relay has comes as one list, which so few events fit into.
    conn.send(r#"["NEG-MSG","n","6100000200"]"#);
    let listed = match answer(&mut conn, "n") {
        Ok(message) => message,
        Err(why) => return assert!(why.starts_with("closed: "), "a host has lost its memory: {why}"),
    };
    assert_eq!(listed[..5], [0x61, 0, 0, 2, 20]);
    let ids = listed[5..].chunks(32).map(lower_hex).collect::<BTreeSet<_>>();
    assert_eq!(ids, ids_of(&events));
    assert_eq!(set(&mut conn, &filter).len(), 20, "one more and one less");
}

fn guarded(stage: &mut Stage<'_>) {
    let mut writer = stage.open();
    let at = stage.t;
    let wrap = |by: u64, to: &Key| event(&key(by)).kind(1059).at(at - by % 10).tag(["p", to.hex()]).sign();
    let (mine, others) = (wrap(50, &key(1)), wrap(51, &key(2)));
    let note = event(&key(3)).at(stage.t - 5).tag(["p", key(1).hex()]).sign();
    writer.accept_all(&[mine.clone(), others.clone(), note.clone()]);

    let mut anyone = stage.open();
    assert_eq!(set(&mut anyone, &json!({})), ids_of([&note]));
    assert_eq!(set(&mut anyone, &json!({"#p": [key(1).hex()]})), ids_of([&note]));
    for filter in [json!({"kinds": [1059]}), json!({"kinds": [1, 1059]}), json!({"ids": [mine.id]})] {
        refused(&mut anyone, &filter, "auth-required");
    }
    for number in [1, 2] {
        let mut party = stage.open();
        stage.auth(&mut party, &key(number));
        let own = if number == 1 { &mine } else { &others };
        assert_eq!(set(&mut party, &json!({})), ids_of([&note, own]));
        assert_eq!(set(&mut party, &json!({"kinds": [1059]})), ids_of([own]));
        assert_eq!(set(&mut party, &json!({"kinds": [1059], "#p": [key(number).hex()]})), ids_of([own]));
        refused(&mut party, &json!({"kinds": [1059], "#p": [key(3 - number).hex()]}), "restricted");
        let other = if number == 1 { &others } else { &mine };
        refused(&mut party, &json!({"ids": [other.id]}), "restricted");
        // One that comes later.
        let later = wrap(60 + number, &key(number));
        writer.accept(&later);
        assert_eq!(set(&mut party, &json!({"kinds": [1059]})), ids_of([own, &later]));
    }
    assert_eq!(set(&mut anyone, &json!({})), ids_of([&note]), "sets of others are not shared");
}

fn auth_required(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    refused(&mut conn, &json!({}), "auth-required");
    stage.auth(&mut conn, &key(1));
    let note = event(&key(1)).at(stage.t).sign();
    conn.accept(&note);
    assert_eq!(set(&mut conn, &json!({})), ids_of([&note]));
}

fn ids(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    conn.req("n", json!({"kinds": [1]}));
    // Closing what is not open is no mistake, and closes no subscription.
    conn.send(r#"["NEG-CLOSE","n"]"#);
    let note = event(&key(1)).at(stage.t).sign();
    for query in ["n", "\"q\\\n💜", "n", "n"] {
        conn.send(&open_text(query, &json!({"kinds": [7]}), &[0x61, 0, 0, 2, 0]));
        assert_eq!(
            answer(&mut conn, query),
            Ok(vec![0x61, 0, 0, 2, 0]),
            "an empty set, in the form of the protocol"
        );
    }
    conn.send(r#"["NEG-CLOSE","n"]"#);
    conn.send(r#"["CLOSE","other"]"#);
    conn.accept(&note);
    assert_eq!(conn.next_event("n"), note.id, "the subscription is still open");
    conn.send(r#"["NEG-MSG","n","61"]"#);
    assert!(answer(&mut conn, "n").unwrap_err().starts_with("closed: "));
    // The other protocol version is answered with the one that is spoken.
    conn.send(&open_text("version", &json!({}), &[0x62, 1, 2, 3]));
    assert_eq!(answer(&mut conn, "version"), Ok(vec![0x61]));
    conn.expect_silence();
}

fn malformed_messages(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let long = "n".repeat(500);
    let hex = |bytes: &[u8]| lower_hex(bytes);
    for (text, query, prefix) in [
        (r#"["NEG-OPEN","n",{},"6"]"#.into(), "n", "invalid"),
        (r#"["NEG-OPEN","n",{},"xy"]"#.into(), "n", "invalid"),
        (r#"["NEG-OPEN","n",{},61]"#.into(), "n", "invalid"),
        (r#"["NEG-OPEN","n",{}]"#.into(), "n", "invalid"),
        (r#"["NEG-OPEN","n",{},"#.into(), "n", "invalid"),
        (r#"["NEG-OPEN","n",[{}],"61"]"#.into(), "n", "invalid"),
        // As it was before NIP-77.
        (r#"["NEG-OPEN","n",{},16,"61"]"#.into(), "n", "invalid"),
        (r#"["NEG-OPEN","n",{"foo":"whatever"},"61"]"#.into(), "n", "unsupported"),
        (r#"["NEG-OPEN","n",{"search":"x"},"61"]"#.into(), "n", "unsupported"),
        (r#"["NEG-OPEN","n",{"kinds":["1"]},"61"]"#.into(), "n", "invalid"),
        (json!(["NEG-OPEN", long, {}, "61"]).to_string(), &*long, "invalid"),
        (json!(["NEG-OPEN", "", {}, "61"]).to_string(), "", "invalid"),
        (r#"["NEG-MSG","é\n","61"]"#.into(), "é\n", "closed"),
        (r#"["NEG-MSG","n","6"]"#.into(), "n", "invalid"),
        (r#"["NEG-MSG","n"]"#.into(), "n", "invalid"),
        (open_text("n", &json!({}), &[]), "n", "invalid"),
        (open_text("n", &json!({}), &[0x00]), "n", "invalid"),
        (open_text("n", &json!({}), &[0x61, 0, 0, 9]), "n", "invalid"),
        (open_text("n", &json!({}), &[0x61, 0, 0, 1, 7]), "n", "invalid"),
        (open_text("n", &json!({}), &[0x61, 0, 0, 2, 0xff, 0xff, 0xff, 0x7f]), "n", "invalid"),
        (open_text("n", &json!({}), &[0x61, 0, 33]), "n", "invalid"),
        (json!(["NEG-OPEN", "n", {"kinds": vec![1; 20_001]}, hex(&[0x61])]).to_string(), "n", "invalid"),
    ] {
        conn.send(&text);
        match &conn.fence()[..] {
            [Frame::NegErr { query: answered, message, events_max: None }] => {
                assert!(
                    answered == query && message.starts_with(&format!("{prefix}: ")),
                    "{message:?} for {text}"
                );
            }
            other => panic!("{other:?} for {text}"),
        }
        // Whatever it was, the reconciliation is not open.
        if (1..=64).contains(&query.chars().count()) {
            conn.send(&json!(["NEG-MSG", query, "61"]).to_string());
            assert!(answer(&mut conn, query).unwrap_err().starts_with("closed: "), "{text}");
        }
    }
    // These need no answer, or have no id to name.
    conn.send(r#"["NEG-CLOSE","n"]"#);
    conn.expect_silence();
    conn.send(r#"["NEG-CLOSE",7]"#);
    assert!(conn.expect_notice().starts_with("invalid: "));
    // Many authors, none of whom has written.
    let authors: Vec<String> = (0..10_000).map(|n| format!("{n:064x}")).collect();
    assert_eq!(set(&mut conn, &json!({"authors": authors})), BTreeSet::new());
    conn.expect_silence();
}

fn too_many(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let mut open = |query: &str| {
        conn.send(&open_text(query, &json!({}), &[0x61]));
        answer(&mut conn, query)
    };
    let first = open("a");
    assert_eq!((first, open("b")), (Ok(vec![0x61]), Ok(vec![0x61])));
    match open("c") {
        Err(why) => assert!(why.starts_with("blocked: ")),
        // A host that loses its memory forgets those that are idle.
        Ok(_) => return,
    }
    assert_eq!(open("b"), Ok(vec![0x61]), "in place of itself");
    conn.send(r#"["NEG-CLOSE","a"]"#);
    conn.send(&open_text("c", &json!({}), &[0x61]));
    assert_eq!(answer(&mut conn, "c"), Ok(vec![0x61]));
    // Another connection has its own.
    let mut other = stage.open();
    other.send(&open_text("a", &json!({}), &[0x61]));
    assert_eq!(answer(&mut other, "a"), Ok(vec![0x61]));
}

fn too_many_events(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let events: Vec<Signed> =
        (0..6).map(|n| event(&key(1)).at(stage.t - n).content(n.to_string()).sign()).collect();
    conn.accept_all(&events[..5]);
    assert_eq!(set(&mut conn, &json!({})), ids_of(&events[..5]));
    conn.accept(&events[5]);
    for filter in [json!({}), json!({}), json!({"limit": 6}), json!({"limit": 5_000})] {
        conn.send(&open_text("n", &filter, &[0x61]));
        let refusal =
            conn.wait("a NEG-ERR", |frame| matches!(frame, Frame::NegErr { .. }).then(|| frame.clone()));
        let Frame::NegErr { message, events_max, .. } = refusal else { unreachable!() };
        assert_eq!(
            (&*message, events_max),
            ("blocked: this query matches more than 5 events", Some(5)),
            "{filter}"
        );
    }
    // Halves, as a client may ask for them, and the newest.
    assert_eq!(set(&mut conn, &json!({"since": stage.t - 2})), ids_of(&events[..3]));
    assert_eq!(set(&mut conn, &json!({"until": stage.t - 3})), ids_of(&events[3..]));
    assert_eq!(set(&mut conn, &json!({"limit": 5})), ids_of(&events[..5]));
}

fn no_memory(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    conn.accept_all(&notes(stage, 60));
    refused(&mut conn, &json!({}), "blocked");
    assert_eq!(set(&mut conn, &json!({"kinds": [9]})), BTreeSet::new(), "a small one fits");
    conn.send(&open_text("long", &json!({"kinds": [9]}), &[0x61; 1_001]));
    assert!(answer(&mut conn, "long").unwrap_err().starts_with("blocked: "), "so many bytes cannot wait");
}

fn rates(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    for _ in 0..3 {
        conn.send(&open_text("n", &json!({}), &[0x61]));
        assert_eq!(answer(&mut conn, "n"), Ok(vec![0x61]));
    }
    refused(&mut conn, &json!({}), "rate-limited");
}

const MESSAGE_BYTES_MAX: usize = 20_000;

fn short_messages(config: &mut Config) {
    config.limits.message_bytes_max = MESSAGE_BYTES_MAX;
    config.limits.content_chars_max = 1_000;
    config.limits.event_tags_max = 100;
}

fn long_messages(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    for (bytes, is_taken) in [(MESSAGE_BYTES_MAX, true), (MESSAGE_BYTES_MAX + 1, false)] {
        let text = open_text("n", &json!({}), &[0x61]);
        // White space is part of the message.
        conn.send(&format!("{text}{}", " ".repeat(bytes - text.len())));
        let answered = answer(&mut conn, "n");
        assert_eq!(answered.is_ok(), is_taken, "{answered:?} to {bytes} bytes");
        assert!(is_taken || answered.unwrap_err().starts_with("invalid: "));
    }
    // A list of ids up to that length, which is the client's first message.
    let ids = 300;
    let list = [&[0x61, 0, 0, 2, 0x82, 0x2c][..], &[7; 32].repeat(ids)].concat();
    conn.send(&open_text("n", &json!({}), &list));
    assert_eq!(answer(&mut conn, "n"), Ok(vec![0x61, 0, 0, 2, 0]));
}
