//! Rules of writing: NIP-01, 09, 40, 59 and 62 as a table.

use super::{ask, remove_all_pending, stored, sweep};
use crate::store::{
    Backend, Op, Outcome, Reader, Refusal, Removed, ScanLimits, Seq, Unrestricted, commit, remove,
    sweep_expired, sweep_older_than,
};
use crate::testing::{Draft, EventGenerator};
use crate::types::{Event, Filter, Timestamp};
use crate::verify::Verified;

/// The time, unless a case says otherwise.
const NOW: Timestamp = 1_000;

/// The expected outcome of an operation; the check supplies the sequence numbers of `Stored`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    Stored,
    Duplicate,
    Refused(Refusal),
}

use Is::{Duplicate, Refused, Stored};
use Refusal::{Deleted, Ephemeral, Expired, Superseded, Vanished};

/// Applies `ops` one by one and in one batch; then exactly the events of the operations at the indices `left` must be served.
fn check<B: Backend>(make: &impl Fn() -> B, name: &str, ops: &[(Op, Is)], left: &[usize]) {
    for batch in [1, ops.len()] {
        let backend = make();
        let mut outcomes = Vec::new();
        for chunk in ops.chunks(batch) {
            let chunk: Vec<Op> = chunk.iter().map(|(op, _)| op.clone()).collect();
            outcomes.extend(commit(&backend, NOW, &chunk).expect("commit"));
        }
        let mut last = 0;
        let expected: Vec<Outcome> = ops
            .iter()
            .map(|(_, is)| match is {
                Stored => {
                    last += 1;
                    Outcome::Stored(Seq(last))
                }
                Duplicate => Outcome::Duplicate,
                Refused(refusal) => Outcome::Refused(*refusal),
            })
            .collect();
        assert_eq!(outcomes, expected, "{name}, in batches of {batch}");
        let mut served: Vec<_> = serve(&backend, NOW).iter().map(|event| event.id).collect();
        let mut expected: Vec<_> = left.iter().map(|&index| ops[index].0.event().id).collect();
        served.sort_unstable();
        expected.sort_unstable();
        assert_eq!(served, expected, "{name}: what is left, in batches of {batch}");
        assert_eq!(stored(&backend).len(), left.len(), "{name}: what is stored");
        remove_all_pending(&backend);
        let mut served: Vec<_> = serve(&backend, NOW).iter().map(|event| event.id).collect();
        served.sort_unstable();
        assert_eq!(served, expected, "{name}: what is left when nothing is pending removal any more");
    }
}

fn serve<B: Backend>(backend: &B, now: Timestamp) -> Vec<crate::types::Event> {
    let limits = ScanLimits { limit_default: 1_000, limit_max: 1_000 };
    ask(backend, &[Filter::default()], limits, now, usize::MAX, &Unrestricted).0
}

fn delete(author: u8, at: Timestamp, tags: &[(&str, &str)]) -> Draft {
    tags.iter().fold(Draft::new(author, 5, at), |draft, (name, value)| draft.tag(&[name, value]))
}

fn wrap(by: u8, to: u8, at: Timestamp) -> Draft {
    Draft::new(by, 1059, at).tag(&["p", &EventGenerator::pubkey(to).to_string()])
}

pub(super) fn run<B: Backend>(make: &impl Fn() -> B) {
    versions(make);
    deletions(make);
    deletions_by_address(make);
    gift_wraps(make);
    vanishing(make);
    expiry(make);
    removal_requests_outlast_their_expiration(make);
    operators_deletions(make);
}

fn versions<B: Backend>(make: &impl Fn() -> B) {
    let note = Draft::new(1, 1, 10).put();
    check(make, "the same again", &[(note.clone(), Stored), (note, Duplicate)], &[0]);
    let live = Draft::new(1, 20_000, 10).put();
    check(make, "ephemeral", &[(live, Refused(Ephemeral))], &[]);

    for kind in [0, 3, 10_000, 19_999, 30_000, 39_999] {
        let name = format!("kind {kind}");
        let (old, new) = (Draft::new(1, kind, 10).put(), Draft::new(1, kind, 11).put());
        check(make, &name, &[(old.clone(), Stored), (new.clone(), Stored)], &[1]);
        check(make, &name, &[(new.clone(), Stored), (old.clone(), Refused(Superseded))], &[0]);
        let again = [(old.clone(), Stored), (new, Stored), (old, Refused(Superseded))];
        check(make, &name, &again, &[1]);

        let mut tied: Vec<Op> =
            ["a", "b", "c"].iter().map(|text| Draft::new(1, kind, 10).content(text).put()).collect();
        tied.sort_by_key(|op| op.event().id);
        let [low, mid, high] = &tied[..] else { unreachable!("three events") };
        for forged in [false, true] {
            // Ids may also be equal in the bytes that postings keep of them.
            let op = |op: &Op, last: u8| match forged {
                false => op.clone(),
                true => Draft::new(1, kind, 10).content(&last.to_string()).with_id_prefix(9).put(),
            };
            let mut ops = [op(low, 1), op(mid, 2), op(high, 3)];
            ops.sort_by_key(|op| op.event().id);
            let [low, mid, high] = ops;
            let rising = [(low.clone(), Stored), (mid.clone(), Refused(Superseded))];
            check(make, &name, &rising, &[0]);
            let falling = [(high.clone(), Stored), (mid.clone(), Stored), (low.clone(), Stored)];
            check(make, &name, &falling, &[2]);
            let mixed = [(mid, Stored), (low, Stored), (high, Refused(Superseded))];
            check(make, &name, &mixed, &[1]);
        }
        let others = [(Draft::new(1, kind, 10).put(), Stored), (Draft::new(2, kind, 11).put(), Stored)];
        check(make, &format!("{name} of two authors"), &others, &[0, 1]);
    }
    for kind in [1, 2, 4, 44, 999, 9_999, 40_000, 65_535] {
        let ops = [(Draft::new(1, kind, 10).put(), Stored), (Draft::new(1, kind, 11).put(), Stored)];
        check(make, &format!("regular kind {kind}"), &ops, &[0, 1]);
    }

    let article = |at: Timestamp| Draft::new(1, 30_023, at);
    let apart = [
        (article(10).tag(&["d", "a"]).put(), Stored),
        (article(9).tag(&["d", "b"]).put(), Stored),
        (article(8).tag(&["d", "A"]).put(), Stored),
        (article(7).put(), Stored),
        (Draft::new(1, 30_024, 6).tag(&["d", "a"]).put(), Stored),
    ];
    check(make, "addressable events of other addresses", &apart, &[0, 1, 2, 3, 4]);
    let no_d = [
        (article(10).put(), Stored),
        (article(11).tag(&["d", ""]).put(), Stored),
        (article(12).tag(&["d"]).put(), Stored),
        (article(9).tag(&["t", "x"]).tag(&["d", ""]).put(), Refused(Superseded)),
    ];
    check(make, "no d tag, an empty one and one without value are the same", &no_d, &[2]);
    let late_d = [
        (article(10).tag(&["d", "a"]).put(), Stored),
        (article(11).tag(&["t", "d"]).tag(&["d", "a"]).tag(&["d", "b"]).put(), Stored),
        (article(9).tag(&["d", "b"]).put(), Stored),
    ];
    check(make, "the first d tag counts wherever it stands", &late_d, &[1, 2]);
}

fn deletions<B: Backend>(make: &impl Fn() -> B) {
    let note = Draft::new(1, 1, 10).put();
    let other = Draft::new(1, 1, 11).put();
    let (id, other_id) = (note.event().id.to_string(), other.event().id.to_string());
    let request = delete(1, 20, &[("e", &id)]).put();
    let ops = [
        (note.clone(), Stored),
        (other.clone(), Stored),
        (request.clone(), Stored),
        (note.clone(), Refused(Deleted)),
        (request.clone(), Duplicate),
    ];
    check(make, "deletion by id", &ops, &[1, 2]);
    check(make, "deletion first", &[(request.clone(), Stored), (note.clone(), Refused(Deleted))], &[0]);
    let before = delete(1, 5, &[("e", &id)]).put();
    let ops = [(note.clone(), Stored), (before, Stored), (note.clone(), Refused(Deleted))];
    check(make, "deletion dated before the event", &ops, &[1]);
    let both = delete(1, 20, &[("e", &id), ("e", "junk"), ("k", "1"), ("e", &other_id)]).put();
    check(make, "two ids and junk", &[(note.clone(), Stored), (other, Stored), (both, Stored)], &[2]);

    let foreign = delete(2, 20, &[("e", &id)]).put();
    let ops = [(note.clone(), Stored), (foreign.clone(), Stored), (note.clone(), Duplicate)];
    check(make, "someone else's deletion", &ops, &[0, 1]);
    check(make, "someone else's deletion first", &[(foreign, Stored), (note, Stored)], &[0, 1]);

    let request_id = request.event().id.to_string();
    let undo = delete(1, 30, &[("e", &request_id)]).put();
    let ops = [(request.clone(), Stored), (undo.clone(), Stored), (request.clone(), Duplicate)];
    check(make, "a deletion of a deletion", &ops, &[0, 1]);
    let ops = [(undo, Stored), (request, Stored)];
    check(make, "a deletion of a deletion that comes first", &ops, &[0, 1]);

    let profile = Draft::new(1, 0, 10).put();
    let profile_id = profile.event().id.to_string();
    let ops = [
        (profile.clone(), Stored),
        (delete(1, 20, &[("e", &profile_id)]).put(), Stored),
        (profile, Refused(Deleted)),
        (Draft::new(1, 0, 9).put(), Stored),
    ];
    check(make, "a deletion by id of one version", &ops, &[1, 3]);
}

fn deletions_by_address<B: Backend>(make: &impl Fn() -> B) {
    let key = EventGenerator::pubkey(1);
    let article = |at: Timestamp, d: &str| Draft::new(1, 30_023, at).tag(&["d", d]).put();
    let address = format!("30023:{key}:a");
    let request = delete(1, 20, &[("a", &address)]).put();
    let ops = [
        (article(20, "a"), Stored),
        (article(10, "b"), Stored),
        (request.clone(), Stored),
        (article(20, "a"), Refused(Deleted)),
        (article(5, "a"), Refused(Deleted)),
        (article(21, "a"), Stored),
        (article(20, "a"), Refused(Deleted)),
    ];
    check(make, "deletion by address, up to its second", &ops, &[1, 2, 5]);
    let ops = [(article(21, "a"), Stored), (request, Stored), (article(21, "a"), Duplicate)];
    check(make, "a newer version stays", &ops, &[0, 1]);

    let profile = Draft::new(1, 0, 10).put();
    let cases = [
        (format!("0:{key}:"), true),
        (format!("0:{key}"), false),
        (format!("0:{key}:x"), false),
        (format!("00:{key}:"), false),
        (format!("3:{key}:"), false),
        (format!("0:{}:", EventGenerator::pubkey(2)), false),
    ];
    for (address, deletes) in cases {
        let request = delete(1, 20, &[("a", &address)]).put();
        let name = format!("deletion of {address}");
        match deletes {
            true => check(make, &name, &[(profile.clone(), Stored), (request, Stored)], &[1]),
            false => check(make, &name, &[(profile.clone(), Stored), (request, Stored)], &[0, 1]),
        }
    }
    let foreign = delete(2, 20, &[("a", &address)]).put();
    let ops = [(article(10, "a"), Stored), (foreign, Stored), (article(11, "a"), Stored)];
    check(make, "someone else's deletion by address", &ops, &[1, 2]);
    let long = "x".repeat(300);
    let request = delete(1, 20, &[("a", &format!("30023:{key}:{long}"))]).put();
    let ops = [(article(10, &long), Stored), (request, Stored), (article(11, &long), Refused(Deleted))];
    check(make, "a long d tag", &ops, &[1]);
    let request = delete(1, 20, &[("a", &format!("5:{key}:")), ("a", &format!("1:{key}:"))]).put();
    let ops = [(delete(1, 10, &[]).put(), Stored), (Draft::new(1, 1, 10).put(), Stored), (request, Stored)];
    check(make, "kinds without addresses", &ops, &[0, 1, 2]);
}

fn gift_wraps<B: Backend>(make: &impl Fn() -> B) {
    let wrapped = wrap(8, 1, 10).put();
    let id = wrapped.event().id.to_string();
    let request = delete(1, 5, &[("e", &id)]).put();
    let ops = [(wrapped.clone(), Stored), (request.clone(), Stored), (wrapped.clone(), Refused(Deleted))];
    check(make, "the recipient deletes a gift wrap", &ops, &[1]);
    check(make, "and before it comes", &[(request, Stored), (wrapped.clone(), Refused(Deleted))], &[0]);
    let foreign = delete(2, 20, &[("e", &id)]).put();
    check(make, "another key does not", &[(wrapped, Stored), (foreign, Stored)], &[0, 1]);
    let note = Draft::new(8, 1, 10).tag(&["p", &EventGenerator::pubkey(1).to_string()]).put();
    let request = delete(1, 20, &[("e", &note.event().id.to_string())]).put();
    check(make, "a mention is not a gift wrap", &[(note, Stored), (request, Stored)], &[0, 1]);
}

fn vanishing<B: Backend>(make: &impl Fn() -> B) {
    let note = |at: Timestamp| Draft::new(1, 1, at).put();
    let request = Draft::new(1, 62, 20).tag(&["relay", "ALL_RELAYS"]);
    let ops = [
        (note(10), Stored),
        (delete(1, 11, &[]).put(), Stored),
        (Draft::new(1, 0, 12).put(), Stored),
        (note(20), Stored),
        (note(21), Stored),
        (Draft::new(2, 1, 10).tag(&["p", &EventGenerator::pubkey(1).to_string()]).put(), Stored),
        (wrap(8, 1, 20).put(), Stored),
        (wrap(8, 1, 21).put(), Stored),
        (wrap(8, 2, 10).put(), Stored),
        (wrap(1, 2, 10).put(), Stored),
        (request.vanish(), Stored),
        (request.vanish(), Duplicate),
        (note(10), Refused(Vanished)),
        (note(19), Refused(Vanished)),
        (Draft::new(1, 0, 12).put(), Refused(Vanished)),
        (delete(1, 11, &[]).put(), Refused(Vanished)),
        (wrap(8, 1, 19).put(), Refused(Vanished)),
        (wrap(8, 1, 22).put(), Stored),
        (note(22), Stored),
    ];
    check(make, "vanishing", &ops, &[4, 5, 7, 8, 10, 17, 18]);
    let earlier = Draft::new(1, 62, 15).vanish();
    let later = Draft::new(1, 62, 25).vanish();
    let ops = [
        (request.vanish(), Stored),
        (earlier, Refused(Vanished)),
        (note(23), Stored),
        (later, Stored),
        (note(23), Refused(Vanished)),
    ];
    check(make, "vanishing again", &ops, &[3]);
    let elsewhere = [(note(10), Stored), (request.put(), Stored), (note(11), Stored)];
    check(make, "vanishing from another relay", &elsewhere, &[0, 1, 2]);
    let both = [(note(10), Stored), (request.put(), Stored), (request.vanish(), Duplicate)];
    check(make, "a stored request that turns out to be for this relay", &both, &[1]);
    let id = request.event().id.to_string();
    let undo = delete(1, 30, &[("e", &id)]).put();
    let ops = [(request.vanish(), Stored), (undo.clone(), Stored), (note(10), Refused(Vanished))];
    check(make, "a deletion of a request to vanish", &ops, &[0, 1]);
    let ops = [(undo, Stored), (request.vanish(), Stored), (note(10), Refused(Vanished))];
    check(make, "a deletion of a request to vanish that comes first", &ops, &[0, 1]);
    let ops = [(wrap(1, 1, 10).put(), Stored), (request.vanish(), Stored)];
    check(make, "a gift wrap to oneself", &ops, &[1]);
}

fn expiry<B: Backend>(make: &impl Fn() -> B) {
    let note = |at: Timestamp, expires: &str| Draft::new(1, 1, at).tag(&["expiration", expires]).put();
    let ops = [
        (note(10, "999"), Refused(Expired)),
        (note(10, "1000"), Refused(Expired)),
        (note(10, "1001"), Stored),
        (note(10, "never"), Stored),
        (note(10, ""), Stored),
    ];
    check(make, "expired on arrival", &ops, &[2, 3, 4]);

    let backend = make();
    let ops = [note(1, "1010"), note(2, "1020"), note(3, "1020"), note(4, "never")];
    commit(&backend, NOW, &ops).expect("commit");
    assert_eq!(
        (serve(&backend, 1_009).len(), serve(&backend, 1_010).len()),
        (4, 3),
        "not served from then on"
    );
    assert_eq!(sweep(&backend, 1_009), 0);
    assert_eq!(sweep_expired(&backend, 1_030, 0).map(|swept| (swept.events, swept.more)), Ok((0, true)));
    assert_eq!(sweep_expired(&backend, 1_030, 1).map(|swept| (swept.events, swept.more)), Ok((1, true)));
    assert_eq!(sweep(&backend, 1_030), 2);
    assert_eq!(sweep(&backend, u64::MAX - 1), 0);
    assert_eq!(serve(&backend, 0).len(), 1);

    for is_swept in [false, true] {
        let backend = make();
        let newer = Draft::new(1, 0, 20).tag(&["expiration", "1010"]).put();
        let older = Draft::new(1, 0, 10).put();
        commit(&backend, NOW, &[newer]).expect("commit");
        let refused = commit(&backend, 1_009, std::slice::from_ref(&older));
        assert_eq!(refused, Ok(vec![Outcome::Refused(Superseded)]));
        if is_swept {
            assert_eq!(sweep(&backend, 1_010), 1);
        }
        let taken = commit(&backend, 1_010, &[older]);
        assert_eq!(taken, Ok(vec![Outcome::Stored(Seq(2))]), "an expired version does not supersede");
        assert_eq!(serve(&backend, 0).len(), 1, "and is removed");
    }
}

/// What was deleted stays deleted in a store that receives all stored events, because the signed requests are kept.
fn removal_requests_outlast_their_expiration<B: Backend>(make: &impl Fn() -> B) {
    let note = Draft::new(1, 1, 10).put();
    let article = Draft::new(1, 30_023, 10).tag(&["d", "x"]).put();
    let traces = [Draft::new(2, 1, 10).put(), wrap(3, 2, 10).put()];
    let until = ["expiration", "1010"];
    let id = note.event().id.to_string();
    let address = format!("30023:{}:x", EventGenerator::pubkey(1));
    let deletion = delete(1, 20, &[("e", &id), ("a", &address)]).tag(&until).put();
    let vanish = Draft::new(2, 62, 20).tag(&["relay", "ALL_RELAYS"]).tag(&until).vanish();
    let gone = [note, article, traces[0].clone(), traces[1].clone()];
    let refused = vec![
        Outcome::Refused(Deleted),
        Outcome::Refused(Deleted),
        Outcome::Refused(Vanished),
        Outcome::Refused(Vanished),
    ];

    let backend = make();
    commit(&backend, NOW, &gone).expect("commit");
    commit(&backend, NOW, &[deletion.clone(), vanish.clone()]).expect("commit");
    assert_eq!(serve(&backend, 1_009).len(), 2, "the requests are served until they expire");
    assert_eq!(sweep(&backend, 1_030), 0);
    assert_eq!(
        sweep_older_than(&backend, 1_030, &|_| true, 9),
        Ok(Removed::default()),
        "the retention does not remove them"
    );
    assert_eq!(serve(&backend, 1_030).len(), 0, "expired events are not served");
    let kept: Vec<Seq> = stored(&backend);
    assert_eq!(kept.len(), 2, "but kept");
    assert_eq!(commit(&backend, 1_030, &gone), Ok(refused.clone()));
    assert_eq!(commit(&backend, 1_030, &[deletion.clone(), vanish.clone()]), Ok(vec![Outcome::Duplicate; 2]));

    // In another store: the requests are stored when they have expired, before or after the events they delete.
    let reader = backend.reader().expect("reader");
    let export: Vec<Op> = kept
        .iter()
        .map(|&seq| {
            let json = reader.event(seq).expect("read").expect("stored");
            let event = Event::from_canonical(json.as_ref().into());
            let vanishes = event.kind == 62;
            let verified = Verified::assume_verified(event);
            if vanishes { Op::Vanish(verified) } else { Op::Put(verified) }
        })
        .collect();
    drop(reader);
    for gone_first in [false, true] {
        let elsewhere = make();
        if gone_first {
            commit(&elsewhere, 1_030, &gone).expect("commit");
        }
        assert!(
            commit(&elsewhere, 1_030, &export)
                .expect("commit")
                .iter()
                .all(|is| matches!(is, Outcome::Stored(_)))
        );
        assert!(serve(&elsewhere, 0).iter().all(|event| matches!(event.kind, 5 | 62)));
        assert_eq!(commit(&elsewhere, 1_030, &gone), Ok(refused.clone()), "gone first: {gone_first}");
        assert_eq!(stored(&elsewhere).len(), 2);
    }
    assert_eq!(
        remove(&backend, &[deletion.event().id, vanish.event().id]),
        Ok(2),
        "an operator takes them out"
    );
    assert!(stored(&backend).is_empty());
}

fn operators_deletions<B: Backend>(make: &impl Fn() -> B) {
    let backend = make();
    let (one, two) = (Draft::new(1, 1, 10).put(), Draft::new(1, 1, 11).put());
    let ids = [one.event().id, two.event().id];
    commit(&backend, NOW, &[one.clone(), two]).expect("commit");
    assert_eq!(remove(&backend, &ids[..1]), Ok(1));
    assert_eq!(remove(&backend, &[ids[0], ids[1], ids[1]]), Ok(1));
    assert_eq!(remove(&backend, &[]), Ok(0));
    assert!(serve(&backend, NOW).is_empty());
    assert_eq!(commit(&backend, NOW, &[one]), Ok(vec![Outcome::Stored(Seq(3))]), "no tombstone is left");
    assert_eq!(commit(&backend, NOW, &[]), Ok(vec![]));
}
