//! Reconciliations (NIP-77) that the machine answers from the sums of a store on files, with the client's side of the crate `negentropy`.

use std::collections::BTreeSet;

use negentropy::{Id, Negentropy, NegentropyStorageVector};
use relay_engine::relay::{ClientInfo, Config, ConnId, Relay};
use relay_engine::store::{Op, OpenedSet, SumBudget, SummedSet, commit, remove, remove_pending};
use relay_engine::testing::signing::{Signed, event, key, lower_hex as hex};
use relay_engine::testing::{Rng, drained};
use relay_engine::types::{EventId, Filter, Limits, Now, PubKey};
use relay_engine::verify::{Batch, Libsecp256k1, Verdict};
use relay_engine::wire;

use super::crash_disk::CrashDisk;
use super::*;

const NOW: Now = Now::from_seconds(1_700_000_000);
type Machine = Relay<LogBackend<CrashDisk>>;

fn start(store: &LogBackend<CrashDisk>, change: impl FnOnce(&mut Limits)) -> Machine {
    let mut config = Config::default();
    config.limits.neg_summed_events_min = 1;
    change(&mut config.limits);
    Relay::new(config.into(), store.clone(), std::sync::Arc::new(Libsecp256k1), [1; 32])
}

fn connect(relay: &mut Machine) -> ConnId {
    relay.connect(NOW, ClientInfo::default()).expect("a connection is free")
}

fn id_of(event: &Signed) -> EventId {
    EventId::from_hex(event.id.as_bytes()).expect("an id")
}

fn store_all(store: &LogBackend<CrashDisk>, events: &[Signed]) {
    for events in events.chunks(50) {
        let mut batch = Batch::default();
        for event in events {
            let json = event.json();
            batch.push(wire::parse_event(json.as_bytes()).expect("an event").to_event(), ());
        }
        let verified = batch.verify(&Libsecp256k1).into_iter().map(|(verdict, ())| match verdict {
            Verdict::Valid(verified) => Op::Put(verified),
            _ => panic!("it is signed"),
        });
        commit(store, NOW.seconds(), &verified.collect::<Vec<Op>>()).expect("commits");
    }
}

/// What a reconciliation has come to.
#[derive(Debug, Default)]
struct Reconciled {
    have: BTreeSet<EventId>,
    need: BTreeSet<EventId>,
    rounds: usize,
}

/// Reconciles what a client has.
fn reconcile(
    relay: &mut Machine,
    conn: ConnId,
    filter: &str,
    events: &[&Signed],
    between: &mut dyn FnMut(&mut Machine, usize),
) -> Result<Reconciled, String> {
    let mut storage = NegentropyStorageVector::new();
    for event in events {
        storage.insert(event.created_at, Id::from_byte_array(id_of(event).0)).expect("it is not sealed");
    }
    storage.seal().expect("it is not sealed");
    let mut client = Negentropy::borrowed(&storage, 60_000).expect("a valid limit");
    let message = client.initiate().expect("the first message");
    let mut text = format!(r#"["NEG-OPEN","n",{filter},"{}"]"#, hex(&message));
    let mut found = Reconciled::default();
    loop {
        relay.handle_text(NOW, conn, text.as_bytes());
        while relay.work(NOW) {}
        let frames = drained(relay, conn).concat();
        let answer = frames.strip_prefix(r#"["NEG-MSG","n",""#).and_then(|rest| rest.strip_suffix(r#""]"#));
        let answer = answer.ok_or_else(|| frames.clone())?;
        let mut bytes = vec![0; answer.len() / 2];
        faster_hex::hex_decode(answer.as_bytes(), &mut bytes).expect("hex");
        found.rounds += 1;
        let (mut have, mut need) = (Vec::new(), Vec::new());
        let next = client.reconcile_with_ids(&bytes, &mut have, &mut need).expect("of the protocol");
        found.have.extend(have.iter().map(|id| EventId(*id.as_bytes())));
        found.need.extend(need.iter().map(|id| EventId(*id.as_bytes())));
        let Some(next) = next else { break };
        between(relay, found.rounds);
        text = format!(r#"["NEG-MSG","n","{}"]"#, hex(&next));
    }
    relay.handle_text(NOW, conn, br#"["NEG-CLOSE","n"]"#);
    Ok(found)
}

fn options() -> LogOptions {
    LogOptions { memtable_keys: 400, slot_bytes: 4_096, removed_keys_max: 4_096, ..tiny() }
}

/// Notes of several kinds and seconds, some of them of a guarded kind.
fn notes(count: u64) -> Vec<Signed> {
    let one = |n: u64| {
        let kind = [1, 7, 1, 1_059][(n % 4) as usize];
        let draft = event(&key(1 + n % 3)).kind(kind).at(NOW.seconds() - 1 - n * 7 % 400);
        draft.tag(["p", key(1 + n % 2).hex()]).content(n.to_string()).sign()
    };
    (0..count).map(one).collect()
}

fn ids<'a>(events: impl IntoIterator<Item = &'a Signed>) -> BTreeSet<EventId> {
    events.into_iter().map(id_of).collect()
}

/// Whoever may not see the events of a guarded kind learns of none, and nothing is held.
#[test]
fn both_sides_learn_what_they_lack_from_sums() {
    let store = in_memory(options());
    let events = notes(2_000);
    store_all(&store, &events);
    let gone: Vec<EventId> = events.iter().step_by(13).map(id_of).collect();
    remove(&store, &gone).expect("removes");
    remove_pending(&store).expect("removes");
    let mut relay = start(&store, |_| {});
    let conn = connect(&mut relay);
    let (mut rng, gone) = (Rng::new(7), gone.into_iter().collect::<BTreeSet<_>>());
    let seen = |event: &&Signed| event.kind != 1_059 && !gone.contains(&id_of(event));
    for round in 0..6u64 {
        let since = NOW.seconds() - 300 + 40 * round;
        let filters = [
            ("{}".to_owned(), Box::new(|_: &Signed| true) as Box<dyn Fn(&Signed) -> bool>),
            (r#"{"kinds":[1]}"#.into(), Box::new(|event: &Signed| event.kind == 1)),
            (r#"{"kinds":[1,7]}"#.into(), Box::new(|event: &Signed| event.kind != 1_059)),
            (format!(r#"{{"since":{since}}}"#), Box::new(move |event: &Signed| event.created_at >= since)),
            (
                format!(r#"{{"authors":["{}"]}}"#, key(2).hex()),
                Box::new(|event: &Signed| event.pubkey == key(2).hex()),
            ),
        ];
        for (filter, matches) in filters {
            let of_relay: Vec<&Signed> = events.iter().filter(seen).filter(|event| matches(event)).collect();
            // From the same set to another one.
            let of_client: Vec<&Signed> =
                events.iter().filter(|event| matches(event) && event.kind != 1_059).collect();
            let of_client: Vec<&Signed> = match round {
                0 => of_relay.clone(),
                _ => of_client.into_iter().filter(|_| !rng.one_in(1 << (7 - round))).collect(),
            };
            let found = reconcile(&mut relay, conn, &filter, &of_client, &mut |_, _| {}).expect("an answer");
            let (relays, clients) = (ids(of_relay.iter().copied()), ids(of_client.iter().copied()));
            assert_eq!(found.need, relays.difference(&clients).copied().collect(), "{filter}");
            assert_eq!(found.have, clients.difference(&relays).copied().collect(), "{filter}");
            assert!(round > 0 || found.rounds == 1, "{filter}");
        }
    }
    assert_eq!(relay.metrics().reconciliation_bytes, 0, "no set was collected");
}

/// More events than a set may have are reconciled too, if it takes more rounds; what comes and goes meanwhile is missed, or not.
#[test]
fn more_events_than_a_set_may_have_are_reconciled_from_sums() {
    let store = in_memory(options());
    let events: Vec<Signed> = notes(3_000).into_iter().filter(|event| event.kind != 1_059).collect();
    store_all(&store, &events);
    let mut relay = start(&store, |limits| limits.neg_set_events_max = 100);
    let conn = connect(&mut relay);
    let of_client: Vec<&Signed> =
        events.iter().enumerate().filter(|(n, _)| n % 5 > 0).map(|(_, event)| event).collect();
    let late: Vec<Signed> = (0..20u64)
        .map(|n| event(&key(4)).at(NOW.seconds() - 5 - n * 9).content(n.to_string()).sign())
        .collect();
    let mut publish = |relay: &mut Machine, round: usize| {
        if let Some(event) = late.get(round) {
            store_all(&store, std::slice::from_ref(event));
            relay.work(NOW);
        }
    };
    let found = reconcile(&mut relay, conn, "{}", &of_client, &mut publish).expect("an answer");
    let missing = ids(events.iter().step_by(5));
    assert!(found.need.is_superset(&missing), "{} rounds", found.rounds);
    assert!(found.need.is_subset(&missing.union(&ids(&late)).copied().collect()));
    assert!(found.have.is_empty());
    assert_eq!(relay.metrics().reconciliation_bytes, 0, "no set was collected");
}

/// Identical sets are compared without reading more than the blocks into which the bounds of the client's ranges fall.
#[test]
fn identical_sets_take_few_reads_however_many_events_there_are() {
    let mut reads = Vec::new();
    for count in [2_000, 8_000] {
        let sizes =
            LogOptions { memtable_keys: 2_000, slot_bytes: 4_096, file_slots: 64, ..LogOptions::default() };
        let store = in_memory(LogOptions { has_thread: false, memtable_bytes: 1 << 30, ..sizes });
        let classes = store.classes();
        for first in (1..count).step_by(200) {
            let work = |writer: &mut <LogBackend<CrashDisk> as Backend>::Writer<'_>| {
                (first..first + 200).try_for_each(|n: u64| {
                    let event = note(n, n);
                    writer.insert(Seq(n), &event, &terms_of(event.view(), classes))
                })
            };
            store.write(work).expect("writes");
        }
        store.maintain();
        let reader = store.reader().expect("reader");
        let open = |budget: &mut SumBudget| {
            SummedSet::open(&reader, &Filter::default(), classes, &[], NOW.seconds(), 0, budget)
                .expect("reads")
        };
        let mut budgets = 0;
        let set = loop {
            budgets += 1;
            match open(&mut SumBudget::new(100)) {
                OpenedSet::Set(set) => break set,
                OpenedSet::OutOfBudget => {}
                OpenedSet::Unsupported | OpenedSet::NotNow | OpenedSet::Few => panic!("it has sums"),
            }
        };
        assert!(budgets > 2, "it is learned in steps");
        drop(set);
        let mut budget = SumBudget::new(usize::MAX);
        let OpenedSet::Set(set) = open(&mut budget) else { panic!("it is known") };
        let opened = budget.spent;
        let part = set.len() / 16;
        let mut sum = relay_engine::types::IdSum::default();
        for n in 0..16 {
            let mut at = None;
            let mut take = |created_at, id| {
                at = Some((created_at, id));
                false
            };
            set.list(n * part..n * part + 1, &mut take).expect("reads");
            let (created_at, id) = at.expect("an event");
            assert_eq!(set.position(created_at, &id).expect("reads"), n * part);
            let end = if n == 15 { set.len() } else { (n + 1) * part };
            sum.add(set.sum(n * part..end).expect("reads"));
        }
        assert_eq!(sum, set.sum(0..set.len()).expect("reads"));
        reads.push((set.len(), opened, set.blocks(), set.reads()));
    }
    let [(few, _, _, (few_blocks, few_ids)), (many, opened, blocks, (read, looked_up))] = reads[..] else {
        panic!()
    };
    assert!(many > 3 * few && opened < many / 4, "{reads:?}");
    assert!(read < blocks / 2 && read < 2 * few_blocks + 100 && looked_up < 2 * few_ids + 100, "{reads:?}");
}

/// However many terms a filter has, a step learns what its budget allows and one page more.
#[test]
fn a_step_learns_as_much_as_its_budget_allows() {
    let store = in_memory(LogOptions { memtable_keys: 2_000, ..options() });
    let authors: Vec<_> = (1..=24).map(key).collect();
    let events: Vec<Signed> = (0..4_800u64)
        .map(|n| {
            let draft = event(&authors[(n % 24) as usize]).at(NOW.seconds() - 1 - n % 500);
            draft.content(n.to_string()).sign()
        })
        .collect();
    store_all(&store, &events);
    store.maintain();
    let reader = store.reader().expect("reader");
    let mut filter = Filter {
        authors: Some(
            authors.iter().map(|key| PubKey::from_hex(key.hex().as_bytes()).expect("a key")).collect(),
        ),
        ..Filter::default()
    };
    filter.normalise();
    let (mut steps, mut dearest) = (0, 0);
    let set = loop {
        let mut budget = SumBudget::new(50);
        let opened = SummedSet::open(&reader, &filter, store.classes(), &[], NOW.seconds(), 0, &mut budget);
        steps += 1;
        match opened.expect("reads") {
            OpenedSet::Set(set) => break set,
            OpenedSet::OutOfBudget => {}
            OpenedSet::Unsupported | OpenedSet::NotNow | OpenedSet::Few => panic!("it has sums"),
        }
        assert!(budget.learned > 0, "each step learns something");
        dearest = dearest.max(budget.learned);
    };
    assert_eq!(set.len(), events.len());
    assert!(steps > 4 && dearest <= 4, "{steps} steps, {dearest} pages in one");
}

/// Regression: 65 deletion requests that expire, or 257 events that expire in a second, turned sums off.
#[test]
fn many_that_expire_do_not_turn_sums_off() {
    let (store, fresh) = (in_memory(options()), in_memory(options()));
    let at = |n: u64| NOW.seconds() - 1 - n * 7 % 400;
    let lasting = (0..1_000).map(|n| event(&key(1)).at(at(n)).content(n.to_string()).sign());
    let expiring = (0..600).map(|n| {
        let expires_at = (NOW.seconds() + 5).to_string();
        // Deletion requests of events that are not there, and notes.
        let draft = event(&key(2)).kind(if n % 2 == 0 { 5 } else { 1 }).at(at(n));
        draft.tag(["e", &format!("{n:064x}")]).tag(["expiration", &expires_at]).sign()
    });
    let (lasting, expiring): (Vec<Signed>, Vec<Signed>) = (lasting.collect(), expiring.collect());
    for (lasting, expiring) in lasting.chunks(100).zip(expiring.chunks(60)) {
        store_all(&store, &[lasting, expiring].concat());
        store_all(&fresh, &[lasting, expiring].concat());
    }
    store.maintain();
    fresh.maintain();
    let all: Vec<&Signed> = lasting.iter().chain(&expiring).collect();
    // Of one store sums are learned before they expire, and some again after that; of the other one, only then.
    for (store, seconds) in [(&store, 0), (&store, 6), (&fresh, 6)] {
        let has_expired = seconds > 5;
        let now = Now::from_seconds(NOW.seconds() + seconds);
        let reader = store.reader().expect("reader");
        for hidden in [&[][..], &[5], &[1]] {
            let mut budget = SumBudget::new(usize::MAX);
            let classes = store.classes();
            let opened =
                SummedSet::open(&reader, &Filter::default(), classes, hidden, now.seconds(), 0, &mut budget);
            let OpenedSet::Set(set) = opened.expect("reads") else { panic!("it has sums") };
            let mut found = BTreeSet::new();
            set.list(0..set.len(), &mut |_, id| found.insert(id)).expect("reads");
            let is_left = |event: &&&Signed| {
                let is_gone = has_expired && event.json().contains("expiration");
                !is_gone && !hidden.contains(&event.kind)
            };
            let expected = ids(all.iter().filter(is_left).copied());
            assert_eq!((set.len(), &found), (expected.len(), &expected), "{seconds} without {hidden:?}");
            let mut sum = relay_engine::types::IdSum::default();
            expected.iter().for_each(|id| sum.add(relay_engine::types::IdSum::of(id)));
            assert_eq!(set.sum(0..set.len()).expect("reads"), sum, "{seconds} without {hidden:?}");
        }
    }
    // At a time when they are there.
    let mut relay = start(&store, |_| {});
    let conn = connect(&mut relay);
    let found = reconcile(&mut relay, conn, "{}", &all, &mut |_, _| {}).expect("an answer");
    assert!(found.need.is_empty() && found.have.is_empty() && found.rounds == 1);
    assert_eq!(relay.metrics().reconciliation_bytes, 0, "no set was collected");
}

/// Regression: with some thousand deletion requests that expire and wait to be flushed, there were no sums; each was read again for each message.
#[test]
fn requests_that_expire_are_read_once_before_they_are_flushed() {
    let store = in_memory(LogOptions { memtable_keys: 1 << 20, memtable_bytes: 1 << 30, ..options() });
    let expires_at = (NOW.seconds() + 5).to_string();
    let request = |n: u64| {
        let draft = event(&key(2)).kind(5).at(NOW.seconds() - 1 - n % 300);
        draft.tag(["e", &format!("{n:064x}")]).tag(["expiration", &expires_at]).sign()
    };
    let events: Vec<Signed> = (0..5_000).map(request).collect();
    store_all(&store, &events);
    let reader = store.reader().expect("reader");
    let open = |seconds: u64, budget: &mut SumBudget| {
        let (classes, now) = (store.classes(), NOW.seconds() + seconds);
        SummedSet::open(&reader, &Filter::default(), classes, &[], now, 0, budget).expect("reads")
    };
    let mut steps = 0;
    loop {
        steps += 1;
        let mut budget = SumBudget::new(2_000);
        match open(0, &mut budget) {
            OpenedSet::Set(set) => break assert_eq!(set.len(), events.len()),
            OpenedSet::OutOfBudget => assert!(budget.spent < 3_000, "{budget:?}"),
            _ => panic!("it has sums"),
        }
    }
    assert!(steps > 10, "{steps}");
    for (seconds, expected) in [(4, events.len()), (6, 0), (4, events.len())] {
        let mut budget = SumBudget::new(1);
        let OpenedSet::Set(set) = open(seconds, &mut budget) else { panic!("it is known") };
        assert_eq!((set.len(), budget.learned), (expected, 0), "after {seconds} seconds");
    }
}

/// Fewer events than sums are used for cost no look-ups of ids.
#[test]
fn few_events_are_told_without_their_ids() {
    let store = in_memory(options());
    let events = notes(400);
    store_all(&store, &events);
    let reader = store.reader().expect("reader");
    let mut budget = SumBudget::new(usize::MAX);
    let classes = store.classes();
    let opened = SummedSet::open(&reader, &Filter::default(), classes, &[], NOW.seconds(), 401, &mut budget);
    assert!(matches!(opened, Ok(OpenedSet::Few)));
    let opened = SummedSet::open(&reader, &Filter::default(), classes, &[], NOW.seconds(), 400, &mut budget);
    assert!(matches!(opened, Ok(OpenedSet::Set(_))));
}

/// While more events expire than are looked at, a reconciliation waits for the sweep; if that does not come, its set is collected.
#[test]
fn what_is_being_removed_is_waited_for() {
    let store = in_memory(options());
    let expires_at = (NOW.seconds() + 5).to_string();
    let note = |n: u64| {
        let draft = event(&key(2)).at(NOW.seconds() - 1 - n % 300).content(n.to_string());
        if n < 1_500 { draft.tag(["expiration", &expires_at]).sign() } else { draft.sign() }
    };
    let events: Vec<Signed> = (0..2_000).map(note).collect();
    store_all(&store, &events);
    let at = |millis: u64| Now::from_seconds(NOW.seconds() + 6).plus_millis(millis);
    for is_swept in [true, false] {
        let mut relay = start(&store, |_| {});
        let conn = relay.connect(at(0), ClientInfo::default()).expect("a connection is free");
        let mut storage = NegentropyStorageVector::new();
        storage.seal().expect("it is not sealed");
        let message = Negentropy::borrowed(&storage, 0).expect("a limit").initiate().expect("a message");
        let open = format!(r#"["NEG-OPEN","n",{{}},"{}"]"#, hex(&message));
        relay.handle_text(at(0), conn, open.as_bytes());
        while relay.work(at(0)) {}
        assert!(drained(&mut relay, conn).is_empty(), "it waits, and nothing goes round");
        assert!(relay.poll_timeout().is_some_and(|timeout| timeout <= at(100)));
        if is_swept {
            while relay_engine::store::sweep_expired(&store, at(0).seconds(), 512).expect("sweeps").more {}
            remove_pending(&store).expect("removes");
        }
        for millis in (0..1_100).step_by(20) {
            relay.handle_timeout(at(millis));
            while relay.work(at(millis)) {}
        }
        let frames = drained(&mut relay, conn).concat();
        assert!(frames.starts_with(r#"["NEG-MSG","n","#), "{frames}");
        assert_eq!(relay.metrics().reconciliation_bytes > 0, !is_swept, "from sums, or collected");
        if is_swept {
            // Again with as many that have expired.
            let again: Vec<Signed> = (10_000..11_500)
                .map(|n: u64| {
                    let draft = event(&key(2)).at(NOW.seconds() - 1 - n % 300).content(n.to_string());
                    draft.tag(["expiration", &expires_at]).sign()
                })
                .collect();
            store_all(&store, &again);
        }
    }
}
