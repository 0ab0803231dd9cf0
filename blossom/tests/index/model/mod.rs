//! Hosts that upload, delete, ban, remove, die and restart, in random interleavings of single steps, over the real index and a
//! naive store of bytes; the database fails now and then.
//!
//! After each step: the index has answered as a naive model says; each live blob has its bytes, whole; no removal is under way of
//! bytes that are live or being uploaded; nothing banned is live; no quota is exceeded; lists are exact. At the end, when all
//! uploads have ended or are abandoned: there are no bytes but those of live blobs.
//!
//! A host may die at any step, with one condition that hosts keep: what has taken a removal is done with it within 15 minutes
//! or never. What has put bytes after its upload had ended may die before it says so: then the next list of the store finds them.

mod actors;

use std::collections::BTreeMap;

use actors::Actor;
use relay_blossom::index::{Key, RelayEvent};
use relay_blossom::testing::Sqlite;
use relay_blossom::testing::model::{HASHES, OWNERS, Oracle, key, sha};
use relay_blossom::{Command, Index, Outcome};
use relay_engine::testing::Rng;

use crate::world::{START, event};

const STEPS: u32 = 600;
const SEEDS: u64 = 120;

/// Bytes of a blob, or of a part of it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bytes {
    Blob(u32),
    Part { n: u32, offset: u64, length: u64 },
}

struct Simulation {
    rng: Rng,
    now: u64,
    sqlite: Sqlite,
    index: Index<Sqlite>,
    store: BTreeMap<Key, Bytes>,
    oracle: Oracle,
    actors: Vec<Actor>,
    /// Ids of descriptions that were published.
    described: Vec<String>,
    /// Uploads that have shown bytes of a blob that is here.
    hashed: u64,
    /// Most removals that one host has taken.
    taken_at_once: usize,
    /// Keys that lists of the store had and the index did not know.
    unknown: u64,
    /// Nothing fails any more.
    is_settling: bool,
    trace: Trace,
}

/// What has happened, which a failed test prints.
struct Trace(u64, Vec<String>);

impl Drop for Trace {
    #[allow(clippy::print_stdout)]
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("seed {}:\n{}", self.0, self.1[self.1.len().saturating_sub(60)..].join("\n"));
        }
    }
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let sqlite = Sqlite::new();
        Simulation {
            rng: Rng::new(seed),
            now: START,
            index: Index::open(sqlite.clone()).unwrap(),
            sqlite,
            store: BTreeMap::new(),
            oracle: Oracle::default(),
            actors: Vec::new(),
            described: Vec::new(),
            hashed: 0,
            taken_at_once: 0,
            unknown: 0,
            is_settling: false,
            trace: Trace(seed, Vec::new()),
        }
    }

    /// The answer of the index, which is as the model says; `None` if the database has failed.
    fn ask(&mut self, command: Command) -> Option<Outcome> {
        if !self.is_settling && self.rng.one_in(60) {
            self.reopen();
        }
        self.ask_now(command)
    }

    /// The same of the index as it is.
    fn ask_now(&mut self, command: Command) -> Option<Outcome> {
        if !self.is_settling && self.rng.one_in(20) {
            self.sqlite.fail_at(1 + self.rng.below(10));
        }
        let outcome = self.index.run(self.now, command.clone());
        self.sqlite.fail_with(None);
        self.trace.1.push(format!("{} {command:?}\n    {outcome:?}", self.now - START));
        match outcome {
            Ok(outcome) => {
                self.oracle.check(self.now, &command, &outcome);
                Some(outcome)
            }
            Err(_) => {
                self.oracle.reload();
                None
            }
        }
    }

    /// As [`Simulation::ask`], again until the database works.
    fn insist(&mut self, command: Command) -> Outcome {
        loop {
            if let Some(outcome) = self.ask(command.clone()) {
                return outcome;
            }
        }
    }

    /// One of the keys that the store has or may have.
    fn some_key(&mut self) -> Key {
        let n = self.rng.below(u64::from(HASHES)) as u32;
        let mut keys: Vec<Key> = self.store.keys().cloned().collect();
        keys.push(sha(n).to_string());
        self.rng.pick(&keys).clone()
    }

    /// A list of the store reaches the index. Keys are counted as the index knows each of them by itself.
    fn remove_unknown(&mut self, keys: Vec<Key>, is_asked: bool) -> Option<Outcome> {
        let is_ours = |key: &&Key| !["a.txt", "staged/x", "other/7"].contains(&key.as_str());
        let (mut known, mut hashes, mut others) = (0, 0, 0);
        for key in keys.iter().filter(is_ours) {
            let is_known = self.insist(Command::IsKnown(key.clone())) == Outcome::Accepted;
            match (is_known, key.contains('/')) {
                (true, false) => known += 1,
                (true, true) => {}
                (false, false) => hashes += 1,
                (false, true) => others += 1,
            }
        }
        let left = if is_asked || hashes <= known { 0 } else { hashes };
        let outcome = self.ask_now(Command::RemoveUnknown { keys, is_asked })?;
        assert_eq!(outcome, Outcome::Unknown { removed: hashes - left + others, left });
        self.unknown += hashes + others;
        Some(outcome)
    }

    fn put(&mut self, key: &Key, bytes: Bytes) {
        self.trace.1.push(format!("{} put {key} {bytes:?}", self.now - START));
        self.store.insert(key.clone(), bytes);
    }

    fn remove(&mut self, key: &Key) {
        self.trace.1.push(format!("{} remove {key}", self.now - START));
        self.store.remove(key);
    }

    /// The Durable Object of the index is gone, its hosts are not.
    fn reopen(&mut self) {
        self.trace.1.push("reopen".to_owned());
        self.index = Index::open(self.sqlite.clone()).unwrap();
        self.oracle.reload();
    }

    /// The process is gone, with all that it was doing.
    fn restart(&mut self) {
        self.actors.clear();
        self.reopen();
        self.insist(Command::Restart);
        for key in self.store.keys().cloned().collect::<Vec<_>>() {
            if self.insist(Command::IsKnown(key.clone())) == Outcome::Missing {
                self.remove(&key);
            }
        }
    }

    fn step(&mut self) {
        self.now += match self.rng.below(100) {
            0 => 1_000,
            1..4 => 61,
            // Many things happen in the same second.
            n => u64::from(n % 4 == 0),
        };
        let n = self.rng.below(u64::from(HASHES)) as u32;
        let owner = 1 + self.rng.below(u64::from(OWNERS)) as u8;
        match self.rng.below(100) {
            0..22 if self.actors.len() < 12 => {
                let actor = Actor::new(&mut self.rng, self.now);
                self.actors.push(actor);
            }
            0..78 if !self.actors.is_empty() => {
                let at = self.rng.below(self.actors.len() as u64) as usize;
                if self.actors[at].is_slow() && !self.rng.one_in(8) {
                    return;
                }
                let actor = self.actors.swap_remove(at);
                let left = actor.step(self);
                self.actors.extend(left);
            }
            78..87 => drop(self.ask(Command::Delete { sha256: sha(n), owner: Some(key(owner).to_owned()) })),
            87 if self.rng.one_in(2) => drop(self.ask(Command::Delete { sha256: sha(n), owner: None })),
            87 => drop(self.ask(Command::Ban { sha256: sha(n), reason: "why".to_owned() })),
            88..91 => drop(self.ask(Command::Unban(sha(n)))),
            91..93 => drop(self.ask(Command::Sweep)),
            93 => self.clean(),
            94..98 => self.publish(owner, n),
            98 if self.rng.one_in(4) => self.restart(),
            _ => drop(self.ask(Command::Get(sha(n)))),
        }
        self.check();
        if self.rng.one_in(25) {
            self.check_lists();
        }
    }

    /// A sweep, and all removals that wait.
    fn clean(&mut self) {
        self.insist(Command::Sweep);
        while let Outcome::Removal(Some(key)) = self.insist(Command::TakeRemoval) {
            self.remove(&key);
            self.insist(Command::Removed(key));
        }
    }

    fn publish(&mut self, author: u8, n: u32) {
        let event = match self.rng.below(8) {
            0 => event(author, 62, self.now - self.rng.below(100), &[]),
            1..4 if !self.described.is_empty() => {
                let id = self.rng.pick(&self.described).clone();
                event(author, 5, self.now, &[&["e", &id]])
            }
            _ => {
                let id = format!("{:064x}", self.described.len());
                self.described.push(id.clone());
                RelayEvent { id, ..event(author, 1063, self.now, &[&["x", &sha(n).to_string()]]) }
            }
        };
        let event = RelayEvent { pubkey: key(author).to_owned(), ..event };
        self.ask(Command::Apply(event, 1));
    }

    fn check(&self) {
        self.oracle.check_bytes(|n| self.store.get(&sha(n).to_string()) == Some(&Bytes::Blob(n)));
    }

    fn check_lists(&mut self) {
        for owner in (1..=OWNERS).map(Some).chain([None]) {
            let (mut found, mut cursor) = (Vec::new(), None);
            loop {
                let page = Command::List {
                    owner: owner.map(|n| key(n).to_owned()),
                    cursor,
                    limit: 2,
                    since: None,
                    until: None,
                };
                let Outcome::Blobs(page) = self.insist(page) else { panic!() };
                found.extend(page.iter().map(|blob| blob.sha256));
                cursor = page.last().map(|blob| blob.sha256);
                if cursor.is_none() {
                    break;
                }
            }
            self.oracle.check_list(owner, &found);
        }
        let Outcome::Totals(totals) = self.insist(Command::Totals) else { panic!() };
        let owners =
            (1..=OWNERS).filter(|owner| self.oracle.live.values().any(|l| l.owners.contains_key(owner)));
        assert_eq!(totals.owners, owners.count() as u64);
        assert_eq!((totals.blobs, totals.bytes), (self.oracle.live.len() as u64, self.oracle.total()));
        assert_eq!(totals.uploads, self.oracle.under_way() as u64);
        assert_eq!(totals.bans, self.oracle.banned.len() as u64);
    }

    /// All hosts finish or are gone, and what they have left is swept.
    fn settle(&mut self) {
        self.is_settling = true;
        while let Some(actor) = self.actors.pop() {
            self.now += 1;
            let left = actor.step(self);
            self.actors.extend(left);
            self.check();
        }
        for _ in 0..4 {
            self.now += 3_000;
            self.clean();
            self.check();
        }
        // Of hosts that put bytes and died after their uploads had ended.
        self.remove_unknown(self.store.keys().cloned().collect(), true);
        self.clean();
        self.check();
        self.check_lists();
        assert_eq!(
            self.store.keys().cloned().collect::<Vec<_>>(),
            self.oracle.keys(),
            "bytes are left or missing"
        );
        for table in ["blossom_uploads", "blossom_parts", "blossom_removals"] {
            assert_eq!(self.sqlite.count(table), 0, "{table}");
        }
    }
}

#[test]
fn hosts_that_race_die_and_fail_keep_blobs_and_bytes_together() {
    let (mut stored, mut hashed, mut pictures, mut unknown, mut taken_at_once) = (0, 0, 0, 0, 0);
    for seed in 0..SEEDS {
        let mut simulation = Simulation::new(seed);
        for _ in 0..STEPS {
            simulation.step();
        }
        simulation.settle();
        stored += simulation.oracle.stored;
        hashed += simulation.hashed;
        pictures += simulation.oracle.pictures;
        unknown += simulation.unknown;
        taken_at_once = taken_at_once.max(simulation.taken_at_once);
    }
    assert!(pictures > SEEDS / 2, "{pictures}: nobody has pictures");
    assert!(unknown > SEEDS / 2, "{unknown}: no list finds anything");
    assert!(taken_at_once > 1, "removals are taken one by one");
    assert!(hashed > SEEDS, "{hashed}: nobody uploads what others own");
    assert!(stored > 7 * SEEDS, "{stored}: the hosts get nothing done");
}
