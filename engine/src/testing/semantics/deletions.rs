//! Deletion requests (NIP-09), and of gift wraps by their recipients (NIP-59).

use serde_json::json;

use super::conn::{Conn, event_text};
use super::stage::Stage;
use super::{Case, case};
use crate::testing::signing::{Draft, Key, Signed, event, key};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("deletions: by id, one's own", own_events),
        case("deletions: by id, not another's", anothers),
        case("deletions: what is deleted does not come back", no_return),
        case("deletions: the request may come first", request_first),
        case("deletions: by address, up to the request's second", by_address),
        case("deletions: by address, only one's own and only of that address", by_address_only),
        case("deletions: of deletions have no effect", of_deletions),
        case("deletions: requests are kept and served", requests_are_kept),
        case("deletions: what a request deleted stays away when it has expired", expired_request),
        case("deletions: many targets, and targets that are none", odd_targets),
        case("deletions: a deleted version of a replaceable event", replaceable_by_id),
        case("deletions: everything sent together", sent_together),
        case("deletions: a gift wrap by its recipient", gift_wraps),
    ]
}

fn request(by: &Key, at: u64) -> Draft {
    event(by).kind(5).at(at)
}

fn is_there(conn: &mut Conn, event: &Signed) -> bool {
    let found = conn.ask(json!({"ids": [event.id]})).ids().len();
    let listed = conn.ask(json!({"authors": [event.pubkey], "kinds": [event.kind]}));
    assert_eq!(found == 1, listed.ids().contains(&event.id), "one answer by id and another by author");
    assert_eq!(conn.count(json!({"ids": [event.id]})), found as u64);
    found == 1
}

#[track_caller]
fn assert_gone(conn: &mut Conn, event: &Signed) {
    assert!(!is_there(conn, event), "still served: {}", event.json());
}

#[track_caller]
fn assert_stays(conn: &mut Conn, event: &Signed) {
    assert!(is_there(conn, event), "no longer served: {}", event.json());
}

fn own_events(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let note = event(&key(1)).at(stage.t - 5).tag(["t", "x"]).sign();
    let other = event(&key(1)).at(stage.t - 5).content("other").sign();
    let article = event(&key(1)).kind(30_023).at(stage.t - 5).tag(["d", "x"]).sign();
    conn.accept_all(&[note.clone(), other.clone(), article.clone()]);
    conn.accept(
        &request(&key(1), stage.t).tag(["e", &note.id]).tag(["e", &article.id]).tag(["k", "1"]).sign(),
    );
    assert_gone(&mut conn, &note);
    assert_gone(&mut conn, &article);
    assert_stays(&mut conn, &other);
    assert_eq!(conn.ask(json!({"#t": ["x"]})).ids().len(), 0);
    // Of the same second.
    let same = event(&key(1)).at(stage.t).content("same second").sign();
    conn.accept(&same);
    conn.accept(&request(&key(1), stage.t).tag(["e", &same.id]).sign());
    assert_gone(&mut conn, &same);
}

fn anothers(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let note = event(&key(1)).at(stage.t - 5).sign();
    conn.accept(&note);
    let foreign = request(&key(2), stage.t).tag(["e", &note.id]).tag(["p", key(1).hex()]).sign();
    conn.accept(&foreign);
    assert_stays(&mut conn, &note);
    assert_stays(&mut conn, &foreign);
    // A request that was stored first does not refuse events of other authors either.
    let later = event(&key(1)).at(stage.t - 4).content("later").sign();
    conn.accept(&request(&key(2), stage.t).tag(["e", &later.id]).sign());
    conn.accept(&later);
    assert_stays(&mut conn, &later);
    // The author's own request still has an effect after it.
    conn.accept(&request(&key(1), stage.t).tag(["e", &later.id]).tag(["e", &note.id]).sign());
    assert_gone(&mut conn, &later);
    assert_gone(&mut conn, &note);
}

fn no_return(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let mut reader = stage.open();
    let note = event(&key(1)).at(stage.t - 5).sign();
    conn.accept(&note);
    conn.accept(&request(&key(1), stage.t).tag(["e", &note.id]).sign());
    stage.watch(&mut reader, "sub", json!({"kinds": [1]}));
    conn.refuse(&note, "");
    stage.open().refuse(&note, "");
    assert_gone(&mut conn, &note);
    assert!(stage.settle(&mut conn, &mut reader, "sub").is_empty(), "delivered live after its deletion");
}

fn request_first(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let note = event(&key(1)).at(stage.t - 5).sign();
    let article = |ago: u64| event(&key(1)).kind(30_023).at(stage.t - ago).tag(["d", "x"]).sign();
    let profile = |ago: u64| event(&key(1)).kind(0).at(stage.t - ago).sign();
    let addresses = [format!("30023:{}:x", key(1).hex()), format!("0:{}:", key(1).hex())];
    let both = request(&key(1), stage.t - 3).tag(["e", &note.id]);
    conn.accept(&both.tag(["a", &addresses[0]]).tag(["a", &addresses[1]]).sign());
    conn.refuse(&note, "");
    for old in [article(9), article(3), profile(9), profile(3)] {
        conn.refuse(&old, "");
        assert_gone(&mut conn, &old);
    }
    for new in [article(2), profile(2)] {
        conn.accept(&new);
        assert_stays(&mut conn, &new);
    }
}

fn by_address(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    for (n, at) in (0..).zip([-1i64, 0, 1]) {
        let author = key(1 + n);
        let version =
            event(&author).kind(30_023).at((stage.t as i64 - 10 + at) as u64).tag(["d", "a:b"]).sign();
        let list = event(&author).kind(10_002).at((stage.t as i64 - 10 + at) as u64).sign();
        conn.accept_all(&[version.clone(), list.clone()]);
        let request = request(&author, stage.t - 10)
            .tag(["a", &format!("30023:{}:a:b", author.hex()), "wss://relay.example.com"])
            .tag(["a", &format!("10002:{}:", author.hex())])
            .sign();
        conn.accept(&request);
        for event in [&version, &list] {
            if at <= 0 {
                assert_gone(&mut conn, event);
                conn.refuse(event, "");
            } else {
                assert_stays(&mut conn, event);
            }
        }
        // Newer versions of the address are accepted.
        let newer = event(&author).kind(30_023).at(stage.t - 5).tag(["d", "a:b"]).sign();
        conn.accept(&newer);
        assert_stays(&mut conn, &newer);
    }
}

fn by_address_only(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let (me, other) = (key(1), key(2));
    let stays = [
        event(&other).kind(30_023).at(stage.t - 9).tag(["d", "x"]).sign(),
        event(&me).kind(30_023).at(stage.t - 9).tag(["d", "y"]).sign(),
        event(&me).kind(30_023).at(stage.t - 9).sign(),
        event(&me).kind(30_024).at(stage.t - 9).tag(["d", "x"]).sign(),
        event(&me).kind(10_002).at(stage.t - 9).sign(),
        event(&me).kind(1).at(stage.t - 9).tag(["d", "x"]).sign(),
    ];
    let goes = event(&me).kind(30_023).at(stage.t - 9).tag(["d", "x"]).sign();
    conn.accept_all(&stays);
    conn.accept(&goes);
    let (mine, others) = (me.hex().to_owned(), other.hex().to_owned());
    conn.accept(
        &request(&me, stage.t)
            .tag(["a", &format!("30023:{mine}:x")])
            .tag(["a", &format!("30023:{others}:x")])
            .tag(["a", &format!("1:{mine}:x")])
            .tag(["a", &format!("1:{mine}:")])
            .tag(["a", "30023::y"])
            .tag(["a", "nonsense"])
            .tag(["a", &mine])
            .tag(["a"])
            .sign(),
    );
    assert_gone(&mut conn, &goes);
    for event in &stays {
        assert_stays(&mut conn, event);
    }
}

fn of_deletions(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let note = event(&key(1)).at(stage.t - 9).sign();
    conn.accept(&note);
    let first = request(&key(1), stage.t - 5).tag(["e", &note.id]).sign();
    conn.accept(&first);
    conn.accept(&request(&key(1), stage.t).tag(["e", &first.id]).tag(["k", "5"]).sign());
    assert_stays(&mut conn, &first);
    conn.refuse(&note, "");
    assert_gone(&mut conn, &note);
    // Also if the deletion of the deletion was stored first.
    let note = event(&key(2)).at(stage.t - 9).sign();
    let first = request(&key(2), stage.t - 5).tag(["e", &note.id]).sign();
    conn.accept(&request(&key(2), stage.t).tag(["e", &first.id]).sign());
    conn.accept(&note);
    conn.accept(&first);
    assert_stays(&mut conn, &first);
    assert_gone(&mut conn, &note);
}

fn requests_are_kept(stage: &mut Stage<'_>) {
    let (mut conn, mut reader) = (stage.open(), stage.open());
    stage.watch(&mut reader, "sub", json!({"kinds": [5]}));
    let note = event(&key(1)).at(stage.t - 5).sign();
    conn.accept(&note);
    let request = request(&key(1), stage.t).tag(["e", &note.id]).content("by accident").sign();
    conn.accept(&request);
    assert_eq!(stage.settle(&mut conn, &mut reader, "sub"), [&*request.id], "delivered live");
    for filter in [json!({"kinds": [5]}), json!({"#e": [note.id]}), json!({"ids": [request.id]})] {
        assert_eq!(conn.ask(filter).events, [request.value()]);
    }
    let answer = conn.publish(&request);
    assert!(answer.0 && answer.1.starts_with("duplicate: "), "{answer:?}");
}

fn expired_request(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let note = event(&key(1)).at(stage.t - 5).sign();
    let end = (stage.t + 3).to_string();
    let request = request(&key(1), stage.t).tag(["e", &note.id]).tag(["expiration", &end]).sign();
    conn.accept(&note);
    conn.accept(&request);
    if !stage.advance(5) {
        return;
    }
    assert_gone(&mut conn, &request);
    conn.refuse(&request, "invalid");
    conn.refuse(&note, "blocked");
    assert_gone(&mut conn, &note);
}

fn odd_targets(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let notes: Vec<Signed> =
        (0..50).map(|n| event(&key(1)).at(stage.t - 5).content(n.to_string()).sign()).collect();
    conn.accept_all(&notes);
    let mut draft = request(&key(1), stage.t)
        .tag(["e"])
        .tag(["e", ""])
        .tag(["e", "xyz"])
        .tag(["e", &notes[0].id.to_uppercase()])
        .tag(["E", &notes[1].id])
        .tag(["q", &notes[2].id])
        .tag(["x", "y", &notes[3].id])
        .tag(["e", key(7).hex(), &notes[4].id]);
    for note in &notes[10..] {
        draft = draft.tag(["e", &note.id, "wss://relay.example.com"]).tag(["e", &note.id]);
    }
    conn.accept(&draft.sign());
    for (n, note) in notes.iter().enumerate() {
        assert_eq!(is_there(&mut conn, note), n < 10, "note {n}");
    }
    // A request without targets is stored like any event.
    let nothing = request(&key(1), stage.t).content("nothing").sign();
    conn.accept(&nothing);
    assert_stays(&mut conn, &nothing);
}

fn replaceable_by_id(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let version = |ago: u64| event(&key(1)).kind(0).at(stage.t - ago).sign();
    conn.accept(&version(5));
    conn.accept(&request(&key(1), stage.t).tag(["e", &version(5).id]).sign());
    assert_gone(&mut conn, &version(5));
    conn.refuse(&version(5), "");
    conn.accept(&version(3));
    assert_stays(&mut conn, &version(3));
}

fn sent_together(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    for (n, deletion_first) in (0..).zip([false, true]) {
        let author = key(1 + n);
        let note = event(&author).at(stage.t - 5).sign();
        let article = event(&author).kind(30_023).at(stage.t - 5).tag(["d", "x"]).sign();
        let request = request(&author, stage.t - 4)
            .tag(["e", &note.id])
            .tag(["a", &format!("30023:{}:x", author.hex())])
            .sign();
        let mut events = [&note, &article, &request];
        if deletion_first {
            events.rotate_right(1);
        }
        conn.send_all(&events.map(event_text));
        for event in events {
            let expected = !deletion_first || event == &request;
            assert_eq!(conn.ok(&event.id).0, expected, "{}", event.json());
        }
        assert_gone(&mut conn, &note);
        assert_gone(&mut conn, &article);
        assert_stays(&mut conn, &request);
    }
}

fn gift_wraps(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let (me, other) = (key(1), key(2));
    stage.auth(&mut conn, &me);
    stage.auth(&mut conn, &other);
    let wrap = |n: u64, to: &Key| event(&key(n)).kind(1059).at(stage.t - 5).tag(["p", to.hex()]).sign();
    let (mine, others) = (wrap(50, &me), wrap(51, &other));
    conn.accept_all(&[mine.clone(), others.clone()]);
    assert_stays(&mut conn, &mine);
    conn.accept(&request(&me, stage.t).tag(["e", &mine.id]).tag(["e", &others.id]).sign());
    assert_gone(&mut conn, &mine);
    assert_stays(&mut conn, &others);
    conn.refuse(&mine, "");
    // A key in a `p` tag of another kind may not delete the event.
    let note = event(&key(60)).at(stage.t - 5).tag(["p", me.hex()]).sign();
    conn.accept(&note);
    conn.accept(&request(&me, stage.t).tag(["e", &note.id]).sign());
    assert_stays(&mut conn, &note);
}
