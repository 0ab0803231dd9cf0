//! Replaceable and addressable events (NIP-01): one version is kept, whatever the order of arrival.

use serde_json::json;

use super::conn::Conn;
use super::oracle::sorted;
use super::stage::Stage;
use super::{Case, case};
use crate::testing::signing::{Draft, Signed, event, key};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("replacing: the winner does not depend on the order of arrival", all_orders),
        case("replacing: an old version is refused and served by no filter", old_is_gone),
        case("replacing: the d tag counts wherever it stands, none is an empty one", d_tags),
        case("replacing: neighbours are left alone", neighbours),
        case("replacing: classes of kinds at their edges", classes),
        case("replacing: versions sent together", sent_together),
        case("replacing: live, only what was newest when it came", live),
    ]
}

/// All permutations of `n` items.
fn orders(n: usize) -> Vec<Vec<usize>> {
    match n {
        0 => vec![vec![]],
        _ => orders(n - 1)
            .into_iter()
            .flat_map(|order| {
                (0..n).map(move |index| {
                    let mut order = order.clone();
                    order.insert(index, n - 1);
                    order
                })
            })
            .collect(),
    }
}

/// Publishes one after the other; each must be accepted if it is the newest so far, and refused if not.
fn publish_in_turn(conn: &mut Conn, versions: &[&Signed], filter: &serde_json::Value) {
    for so_far in 1..=versions.len() {
        let best = sorted(versions[..so_far].to_vec())[0];
        let new = versions[so_far - 1];
        let (accepted, message) = conn.publish(new);
        assert_eq!(accepted, best == new, "{} was answered {message:?}", new.json());
        // Clients treat `duplicate:` as success, but this version is not stored.
        assert!(accepted || message.starts_with("invalid: "), "{message:?}");
        assert_eq!(conn.ask(filter.clone()).ids(), [&*best.id], "the winner of {so_far} for {filter}");
    }
}

fn all_orders(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    for (index, kind) in [0u16, 3, 10_002, 30_023].into_iter().enumerate() {
        for (n, order) in (0..).zip(orders(4)) {
            // An author for each order, so that they do not interfere.
            let author = key(1 + n + 100 * index as u64);
            let version = |ago: u64, content: &str| {
                let draft = event(&author).kind(kind).at(stage.t - ago).content(content);
                if kind == 30_023 { draft.tag(["d", "slug"]).sign() } else { draft.sign() }
            };
            let versions = [version(2, "oldest"), version(1, "middle"), version(0, "one"), version(0, "two")];
            let in_turn: Vec<&Signed> = order.iter().map(|index| &versions[*index]).collect();
            publish_in_turn(&mut conn, &in_turn, &json!({"authors": [author.hex()], "kinds": [kind]}));
        }
    }
}

fn old_is_gone(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    for (n, kind) in [0u16, 10_000, 30_000].into_iter().enumerate() {
        let author = key(1 + n as u64);
        let version = |ago: u64| {
            let draft = event(&author).kind(kind).at(stage.t - ago).tag(["t", "x"]).tag(["p", key(9).hex()]);
            draft.tag(["d", "slug"]).content(ago.to_string()).sign()
        };
        let (old, new) = (version(5), version(3));
        conn.accept(&old);
        conn.accept(&new);
        for filter in [
            json!({"ids": [old.id]}),
            json!({"kinds": [kind], "until": stage.t - 4}),
            json!({"authors": [author.hex()], "until": stage.t - 4}),
            json!({"#d": ["slug"], "authors": [author.hex()], "until": stage.t - 4}),
            json!({"#p": [key(9).hex()], "#t": ["x"], "until": stage.t - 4}),
            json!({"until": stage.t - 4}),
        ] {
            assert_eq!(conn.ask(filter.clone()).ids().len(), 0, "{filter}");
            assert_eq!(conn.count(filter.clone()), 0, "{filter}");
        }
        // It cannot be stored again, nor can another old version.
        conn.refuse(&old, "");
        conn.refuse(&version(4), "");
        let answer = conn.publish(&new);
        assert!(answer.0 && answer.1.starts_with("duplicate: "), "{answer:?}");
        assert_eq!(conn.ask(json!({"authors": [author.hex()]})).ids(), [&*new.id]);
    }
}

fn d_tags(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    type Tags = fn(Draft) -> Draft;
    let forms: [(&str, [Tags; 3]); 2] = [
        (
            "slug",
            [
                |draft| draft.tag(["d", "slug"]),
                |draft| draft.tag(["t", "x"]).tag(["p", "y"]).tag(["d", "slug", "more"]),
                |draft| draft.tag(["D", "other"]).tag(["d", "slug"]).tag(["d", "second"]),
            ],
        ),
        (
            "",
            [
                |draft| draft,
                |draft| draft.tag(["d", ""]).tag(["t", "x"]),
                |draft| draft.tag(["t", "x"]).tag(["d"]),
            ],
        ),
    ];
    for (n, (d, forms)) in forms.into_iter().enumerate() {
        let author = key(1 + n as u64);
        let draft = |ago: u64| event(&author).kind(30_023).at(stage.t - ago);
        // Others that must stay: another `d`, and the same value in another tag.
        let others = [
            draft(9).tag(["d", "another"]).sign(),
            draft(9).tag(["d", "Slug"]).sign(),
            draft(9).tag(["d", "é \""]).sign(),
        ];
        conn.accept_all(&others);
        let mut last = None;
        for round in 0..2 {
            for (index, form) in forms.iter().enumerate() {
                let version = form(draft(8 - 3 * round - index as u64)).sign();
                conn.accept(&version);
                let answer = conn.ask(json!({"authors": [author.hex()]}));
                assert_eq!(answer.ids().len(), 4, "one version of {d:?} and three others");
                assert!(answer.ids().contains(&version.id), "{}", version.json());
                last = Some(version);
            }
        }
        let last = last.expect("six were published");
        let addresses = conn.ask(json!({"kinds": [30_023], "authors": [author.hex()], "limit": 1}));
        assert_eq!(addresses.ids(), [&*last.id]);
    }
}

fn neighbours(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let t = stage.t;
    let events = [
        event(&key(1)).kind(0).at(t - 2).sign(),
        event(&key(2)).kind(0).at(t - 1).sign(),
        event(&key(1)).kind(3).at(t).sign(),
        event(&key(1)).kind(10_000).at(t - 2).sign(),
        event(&key(1)).kind(10_001).at(t - 1).tag(["d", "x"]).sign(),
        event(&key(1)).kind(30_000).at(t - 2).tag(["d", "x"]).sign(),
        event(&key(1)).kind(30_001).at(t - 1).tag(["d", "x"]).sign(),
        event(&key(1)).kind(30_000).at(t).tag(["d", "y"]).sign(),
        event(&key(2)).kind(30_000).at(t).tag(["d", "x"]).sign(),
        event(&key(1)).kind(1).at(t).tag(["d", "x"]).sign(),
        event(&key(1)).kind(1).at(t - 1).tag(["d", "x"]).sign(),
    ];
    conn.accept_all(&events);
    super::oracle::check(&mut conn, json!({}), &events);
    // A `d` tag has no meaning for a replaceable kind.
    let newer = event(&key(1)).kind(10_001).at(t).tag(["d", "y"]).sign();
    conn.accept(&newer);
    assert_eq!(conn.ask(json!({"kinds": [10_001]})).ids(), [&*newer.id]);
}

fn classes(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let regular = [1u16, 2, 4, 6, 7, 44, 45, 999, 1_000, 9_999, 40_000, 50_000, 65_535];
    let replaceable = [0u16, 3, 10_000, 15_000, 19_999, 30_000, 35_000, 39_999];
    for (kinds, kept) in [(&regular[..], 2), (&replaceable[..], 1)] {
        for &kind in kinds {
            let versions = [1, 0].map(|ago| event(&key(1)).kind(kind).at(stage.t - ago).sign());
            conn.accept_all(&versions);
            let answer = conn.ask(json!({"kinds": [kind]}));
            assert_eq!(answer.ids().len(), kept, "versions of kind {kind}");
            assert_eq!(answer.ids()[0], versions[1].id, "kind {kind}");
        }
    }
}

fn sent_together(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    for (n, order) in (0..).zip(orders(3)) {
        let author = key(1 + n);
        let versions: Vec<Signed> =
            (0..3).map(|ago| event(&author).kind(0).at(stage.t - ago).content("x").sign()).collect();
        conn.send_all(
            &order.iter().map(|index| super::conn::event_text(&versions[*index])).collect::<Vec<_>>(),
        );
        for (so_far, &index) in order.iter().enumerate() {
            let (accepted, message) = conn.ok(&versions[index].id);
            let newest = order[..=so_far].iter().all(|other| *other >= index);
            assert_eq!(accepted, newest, "version {index} of {order:?}: {message:?}");
        }
        assert_eq!(conn.ask(json!({"authors": [author.hex()]})).ids(), [&*versions[0].id], "{order:?}");
    }
}

fn live(stage: &mut Stage<'_>) {
    let (mut writer, mut reader) = (stage.open(), stage.open());
    stage.watch(&mut reader, "sub", json!({"kinds": [0]}));
    let t = stage.t;
    let version = |ago: u64| event(&key(1)).kind(0).at(t - ago).sign();
    writer.accept(&version(5));
    writer.refuse(&version(6), "");
    writer.accept(&version(3));
    writer.refuse(&version(4), "");
    assert_eq!(stage.settle(&mut writer, &mut reader, "sub"), [version(5).id, version(3).id]);
}
