//! REQ over stored events: order, limits, what matches (NIP-01).

use serde_json::json;

use super::conn::{Conn, as_list};
use super::oracle::{check, matches};
use super::stage::Stage;
use super::{Case, case};
use crate::testing::signing::{Signed, event, key};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("queries: an empty relay", an_empty_relay),
        case("queries: newest first over all filters, ties by lowest id", order),
        case("queries: many shapes agree with plain loops", many_shapes),
        case("queries: an event that several filters match is sent once", sent_once),
        case("queries: an empty list matches nothing", empty_lists),
        case("queries: tag names AND, values OR", tags),
        case("queries: since and until are inclusive", times),
        case("queries: only the first value of a single-letter tag is indexed", first_value),
        case("queries: tag values are any strings", any_values),
        case(
            "queries: an empty #d finds replaceable events, and addressable ones without a d tag",
            implicit_d,
        ),
        case("queries: 10,000 authors", many_authors),
        case("queries: thousands of ids and tag values", many_values),
        case("queries: the same id on two connections", two_connections),
    ]
}

fn an_empty_relay(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    for filters in [json!({}), json!([{"kinds": [1]}, {"limit": 3}]), json!({"limit": 0}), json!({"ids": []})]
    {
        check(&mut conn, filters, &[]);
    }
    assert_eq!(conn.count(json!({})), 0);
    conn.expect_silence();
}

/// Events with few timestamps, kinds, authors and tags, so that there are many ties and overlaps.
fn crowd(stage: &Stage<'_>, size: u64) -> Vec<Signed> {
    let kinds = [1, 7, 9_999, 1111];
    (0..size)
        .map(|n| {
            let mut draft = event(&key(1 + n % 5)).at(stage.t - n % 7).kind(kinds[(n / 3 % 4) as usize]);
            if n % 2 == 0 {
                draft = draft.tag(["t", if n % 4 == 0 { "even" } else { "odd" }]);
            }
            if n % 3 == 0 {
                draft = draft.tag(["p", key(1 + n % 4).hex()]).tag(["r", "https://example.com/"]);
            }
            draft.content(format!("event {n}")).sign()
        })
        .collect()
}

fn crowd_on(stage: &mut Stage<'_>, size: u64) -> (Conn, Vec<Signed>) {
    let mut conn = stage.open();
    let events = crowd(stage, size);
    conn.accept_all(&events);
    (conn, events)
}

fn order(stage: &mut Stage<'_>) {
    let (mut conn, events) = crowd_on(stage, 40);
    check(&mut conn, json!({}), &events);
    check(&mut conn, json!([{"kinds": [1]}, {"kinds": [7]}, {"kinds": [1111]}]), &events);
    check(&mut conn, json!([{"kinds": [7]}, {"authors": [key(1).hex()]}, {"since": stage.t}]), &events);
    // All of one second: only the ids decide the order, and a limit returns the lowest.
    let tied: Vec<Signed> =
        (0..12).map(|n| event(&key(7)).at(stage.t).kind(2).content(n.to_string()).sign()).collect();
    conn.accept_all(&tied);
    check(&mut conn, json!({"kinds": [2]}), &tied);
    for limit in [1, 2, 11] {
        check(&mut conn, json!({"kinds": [2], "limit": limit}), &tied);
    }
}

fn many_shapes(stage: &mut Stage<'_>) {
    let (mut conn, events) = crowd_on(stage, 60);
    let (a, b) = (key(1).hex().to_owned(), key(2).hex().to_owned());
    let t = stage.t;
    let ids: Vec<&str> = events.iter().step_by(7).map(|event| event.id.as_str()).collect();
    let nobody = key(77).hex().to_owned();
    let shapes = [
        json!({"limit": 1}),
        json!({"limit": 7}),
        json!({"ids": ids}),
        json!({"ids": ids, "limit": 3}),
        json!({"ids": ids, "kinds": [7]}),
        json!({"ids": [nobody]}),
        json!({"authors": [a]}),
        json!({"authors": [a, b, nobody], "limit": 5}),
        json!({"authors": [a, b], "kinds": [1, 7]}),
        json!({"authors": [a, a, a], "kinds": [7, 7]}),
        json!({"kinds": [1, 7], "limit": 4}),
        json!({"kinds": [1, 65_535]}),
        json!({"#t": ["even"]}),
        json!({"#t": ["even", "odd"], "limit": 6}),
        json!({"#t": ["even"], "#p": [a, b]}),
        json!({"#t": ["even"], "#p": [a, b], "#r": ["https://example.com/"]}),
        json!({"#p": [b], "authors": [a, b], "kinds": [1, 7, 1111]}),
        json!({"since": t - 2}),
        json!({"until": t - 2}),
        json!({"since": t - 4, "until": t - 2, "kinds": [1]}),
        json!({"since": t - 3, "until": t - 3, "limit": 2}),
        json!({"authors": [a], "until": t - 1, "limit": 2}),
        json!([{"kinds": [1], "limit": 2}, {"kinds": [7], "limit": 3}, {"#t": ["odd"], "limit": 1}]),
        json!([{"authors": [a], "limit": 1}, {"authors": [b], "limit": 1}, {"limit": 1}]),
        json!([{"limit": 0}, {"kinds": [1], "limit": 2}]),
        json!([{"ids": []}, {"kinds": [7], "limit": 2}]),
        json!([{"limit": 2}, {"limit": 5}, {"until": t - 3, "limit": 4}]),
        json!([{"kinds": [7]}, {"kinds": [7], "limit": 1}, {"kinds": [7]}]),
    ];
    for shape in shapes {
        check(&mut conn, shape, &events);
    }
}

fn sent_once(stage: &mut Stage<'_>) {
    let (mut conn, events) = crowd_on(stage, 12);
    let id = events[0].id.as_str();
    let author = events[0].pubkey.as_str();
    check(&mut conn, json!([{"ids": [id]}, {"ids": [id, id]}, {"authors": [author]}, {}, {}]), &events);
}

fn empty_lists(stage: &mut Stage<'_>) {
    let (mut conn, events) = crowd_on(stage, 10);
    for name in ["ids", "authors", "kinds", "#e", "#t", "#X"] {
        check(&mut conn, json!({name: []}), &events);
        check(&mut conn, json!({name: [], "limit": 5}), &events);
        check(&mut conn, json!([{name: []}, {"kinds": [1]}]), &events);
        assert_eq!(conn.count(json!({name: []})), 0, "{name}");
    }
    check(&mut conn, json!({"kinds": [1], "#t": []}), &events);
}

fn tags(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let with = |n: u64, tags: &[[&str; 2]]| {
        let draft = event(&key(1)).at(stage.t - n);
        tags.iter().fold(draft, |draft, tag| draft.tag(*tag)).sign()
    };
    let events = [
        with(0, &[["t", "a"]]),
        with(1, &[["t", "b"]]),
        with(2, &[["t", "a"], ["t", "b"]]),
        with(3, &[["t", "a"], ["r", "x"]]),
        with(4, &[["r", "x"], ["T", "a"]]),
        with(5, &[["T", "b"], ["t", "c"], ["r", "y"]]),
        with(6, &[]),
    ];
    conn.accept_all(&events);
    for filters in [
        json!({"#t": ["a"]}),
        json!({"#t": ["a", "b"]}),
        json!({"#t": ["a"], "#r": ["x"]}),
        json!({"#t": ["a"], "#r": ["y"]}),
        json!({"#t": ["a", "c"], "#r": ["x", "y"]}),
        json!({"#T": ["a"]}),
        json!({"#T": ["a", "b"], "#t": ["c"], "#r": ["y"]}),
        json!({"#r": ["x"], "kinds": [7]}),
        json!({"#z": ["a"]}),
    ] {
        check(&mut conn, filters, &events);
    }
}

fn times(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let t = stage.t - 100;
    let events: Vec<Signed> = (0..6).map(|n| event(&key(1)).at(t + n).sign()).collect();
    let ancient = event(&key(1)).at(0).content("the epoch").sign();
    let events = [events, vec![ancient]].concat();
    conn.accept_all(&events);
    for filters in [
        json!({"since": t + 3}),
        json!({"until": t + 3}),
        json!({"since": t + 3, "until": t + 3}),
        json!({"since": t + 4, "until": t + 3}),
        json!({"since": t + 6}),
        json!({"since": 0}),
        json!({"until": 0}),
        json!({"since": 0, "until": 0}),
        json!({"until": t - 1}),
        json!({"since": i64::MAX}),
        json!({"until": i64::MAX}),
        json!({"authors": [key(1).hex()], "kinds": [1], "since": t + 1, "until": t + 4}),
    ] {
        check(&mut conn, filters, &events);
    }
}

fn first_value(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let events = [
        event(&key(1)).at(stage.t).tag(["t", "first", "second"]).sign(),
        event(&key(1)).at(stage.t - 1).tag(["tt", "first"]).tag(["1", "first"]).tag(["-x", "first"]).sign(),
        event(&key(1)).at(stage.t - 2).tag(["t"]).tag(["t", "second"]).sign(),
        event(&key(1)).at(stage.t - 3).tag(["é", "first"]).sign(),
    ];
    conn.accept_all(&events);
    for value in ["first", "second", "t"] {
        check(&mut conn, json!({"#t": [value]}), &events);
    }
}

fn any_values(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let long = "x".repeat(3_000);
    let longer = format!("{long}x");
    let hex = key(5).hex().to_owned();
    let values = [
        "",
        " ",
        "a",
        "A",
        "é",
        "e\u{301}",
        "💜",
        "\"",
        "\\",
        "\n",
        "\u{0}",
        "\u{7f}",
        "a\",\"b",
        "[",
        "]",
        "\u{feff}",
        "\u{ffff}",
        "\u{10ffff}",
        &long,
        &longer,
        &hex,
        &hex[1..],
        &hex.to_uppercase(),
    ]
    .map(str::to_owned);
    let events: Vec<Signed> = (0..)
        .zip(&values)
        .map(|(n, value)| event(&key(1)).at(stage.t - n).tag(["x", value]).tag(["E", value]).sign())
        .collect();
    conn.accept_all(&events);
    for value in &values {
        check(&mut conn, json!({"#x": [value]}), &events);
        check(&mut conn, json!({"#E": [value], "#x": [value, "no such"]}), &events);
    }
    check(&mut conn, json!({"#x": values}), &events);
    check(&mut conn, json!({"#x": ["no such"]}), &events);
}

/// noStrudel queries a user's profile and lists with `"#d":[""]`, the `d` of the address of a replaceable event.
fn implicit_d(stage: &mut Stage<'_>) {
    let (mut conn, mut reader) = (stage.open(), stage.open());
    let t = stage.t;
    let (me, other) = (key(1), key(2));
    let make = |seconds: u64| {
        let draft = |author, kind: u16| event(author).kind(kind).at(t - seconds);
        vec![
            draft(&me, 0).content("{}").sign(),
            draft(&me, 3).tag(["p", other.hex()]).sign(),
            draft(&me, 10_002).tag(["d", "x"]).sign(),
            draft(&other, 17_375).sign(),
            draft(&me, 30_023).content("no d").sign(),
            draft(&me, 30_078).tag(["d", "named"]).sign(),
            draft(&other, 30_078).tag(["d", ""]).sign(),
            draft(&other, 30_023).tag(["d"]).content("d without a value").sign(),
            draft(&me, 1).content("a note").sign(),
            draft(&me, 1).tag(["d", ""]).content("a note that has it").sign(),
        ]
    };
    let filters = [
        json!({"kinds": [17375, 10002, 10030, 3, 10000, 0], "authors": [me.hex()], "#d": [""]}),
        json!({"#d": [""]}),
        json!({"#d": ["", "named"]}),
        json!({"#d": ["x"]}),
        json!({"#d": ["named"], "authors": [me.hex()]}),
        json!({"kinds": [30_023, 30_078], "#d": [""]}),
        json!({"kinds": [0], "#d": ["", "x"], "limit": 1}),
        json!({"kinds": [1], "#d": [""]}),
        json!({"#d": [""], "#p": [other.hex()]}),
        json!({"authors": [me.hex(), other.hex()], "#d": [""]}),
        json!([{"kinds": [3], "#d": [""]}, {"kinds": [1]}, {"#d": ["named"]}]),
    ];
    let old = make(100);
    conn.accept_all(&old);
    for filter in &filters {
        check(&mut conn, filter.clone(), &old);
        let found = old.iter().filter(|event| as_list(filter.clone()).iter().any(|one| matches(one, event)));
        assert_eq!(conn.count(filter.clone()), found.count() as u64, "{filter}");
    }
    assert_eq!(conn.ask(filters[0].clone()).ids().len(), 3, "profile, contacts and relays");
    for (n, filter) in filters.iter().enumerate() {
        stage.watch(&mut reader, &n.to_string(), filter.clone());
    }
    let new = make(50);
    conn.accept_all(&new);
    for (n, filter) in filters.iter().enumerate() {
        let wants = |event: &&Signed| as_list(filter.clone()).iter().any(|one| matches(one, event));
        let expected: Vec<&str> = new.iter().filter(wants).map(|event| &*event.id).collect();
        let seen = stage.settle(&mut conn, &mut reader, &n.to_string());
        let mut seen: Vec<&str> = seen.iter().map(|id| &**id).collect();
        seen.retain(|id| new.iter().any(|event| event.id == *id));
        assert_eq!(seen, expected, "live, {filter}");
    }
}

fn many_authors(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let events: Vec<Signed> =
        (1..=20).map(|n| event(&key(n)).at(stage.t - n % 3).content(n.to_string()).sign()).collect();
    conn.accept_all(&events);
    // Unknown authors; some sort before, some after the known ones.
    let strangers = (0u64..10_000).map(|n| format!("{:064x}", u128::from(n) << (n % 64)));
    let friends = (1..=20).step_by(2).map(|n| key(n).hex().to_owned());
    let mut authors: Vec<String> = strangers.chain(friends).collect();
    authors.sort_by_key(|author| author.as_bytes()[60..].to_vec());
    check(&mut conn, json!({"authors": authors, "kinds": [1]}), &events);
    check(&mut conn, json!({"authors": authors, "limit": 3}), &events);
    let mut reader = stage.open();
    stage.watch(&mut reader, "feed", json!({"authors": authors, "limit": 0}));
    let new = [3, 4, 5].map(|n| event(&key(n)).at(stage.t).content(format!("live {n}")).sign());
    conn.accept_all(&new);
    let seen = stage.settle(&mut conn, &mut reader, "feed");
    assert_eq!(seen, [&*new[0].id, &*new[2].id], "live events of the odd keys");
}

fn many_values(stage: &mut Stage<'_>) {
    let (mut conn, events) = crowd_on(stage, 30);
    let padding = (0u64..4_000).map(|n| format!("{n:064x}"));
    let ids: Vec<String> =
        padding.clone().chain(events.iter().step_by(3).map(|event| event.id.clone())).collect();
    check(&mut conn, json!({"ids": ids}), &events);
    let people: Vec<String> = padding.chain([key(1).hex().to_owned()]).collect();
    check(&mut conn, json!({"#p": people}), &events);
    check(&mut conn, json!({"#p": people, "#t": ["even"]}), &events);
}

fn two_connections(stage: &mut Stage<'_>) {
    let mut writer = stage.open();
    let (mut a, mut b) = (stage.open(), stage.open());
    stage.watch(&mut a, "sub", json!({"kinds": [1]}));
    stage.watch(&mut b, "sub", json!({"kinds": [7]}));
    let note = event(&key(1)).at(stage.t).sign();
    let like = event(&key(1)).at(stage.t).kind(7).sign();
    writer.accept(&note);
    writer.accept(&like);
    assert_eq!(stage.settle(&mut writer, &mut a, "sub"), [&*note.id]);
    assert_eq!(stage.settle(&mut writer, &mut b, "sub"), [&*like.id]);
    a.close_sub("sub");
    a.fence();
    let later = event(&key(1)).at(stage.t).kind(7).content("later").sign();
    writer.accept(&later);
    let seen = stage.settle(&mut writer, &mut b, "sub");
    assert_eq!(seen, [&*later.id], "CLOSE on one connection ends nothing on another");
    a.expect_silence();
}
