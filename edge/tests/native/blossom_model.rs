//! Clients that upload, delete and are banned, in random interleavings of single steps of Workers, the object and the bucket; each of
//! them fails, and Workers and the object are lost, at any step. Each answer of the index is as a naive model says, and at each step
//! live blobs have their bytes. At the end there are no bytes but those of live blobs, and downloads name the time when a blob ends.

use std::cell::Cell;
use std::rc::Rc;

use relay_blossom::index::RelayEvent;
use relay_blossom::testing::Request;
use relay_blossom::testing::model::{self, HASHES, OWNERS, TYPES, body, key, sha};
use relay_blossom::{Command, Outcome, Sha256};
use relay_edge::blossom::decode_outcome;
use relay_site::blossom::BlossomSettings;

use super::blossom_worker::answer;
use super::blossom_world::{START, World};

const STEPS: u32 = 500;
const SEEDS: u64 = 40;

struct Simulation {
    world: World,
    settings: Rc<BlossomSettings>,
    described: Vec<String>,
    /// Answers with 201.
    created: Rc<Cell<u32>>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let settings = Rc::new(model::settings([300, 20_000]));
        Simulation { world: World::new(seed), settings, described: Vec::new(), created: Rc::default() }
    }

    fn below(&self, end: u64) -> u64 {
        self.world.shared.rng.borrow_mut().below(end)
    }

    /// A client sends a request.
    fn send(&mut self, request: Request) {
        let (shared, settings, created) =
            (Rc::clone(&self.world.shared), Rc::clone(&self.settings), Rc::clone(&self.created));
        self.world.spawn(async move {
            let what = format!("{} {}", request.method, request.target);
            let response = answer(Rc::clone(&shared), settings, request).await;
            created.set(created.get() + u32::from(response.status == 201));
            shared.note(format!("{what}: {}", response.status));
        });
    }

    fn command(&mut self, command: Command) {
        let shared = Rc::clone(&self.world.shared);
        self.world.spawn(async move { drop(shared.command(&command).await) });
    }

    /// What the index answers, if nothing fails.
    fn ask(&mut self, command: Command) -> Outcome {
        let (shared, answered) = (Rc::clone(&self.world.shared), Rc::new(Cell::new(None)));
        let own = Rc::clone(&answered);
        self.world.spawn(async move {
            own.set(Some(decode_outcome(&shared.command(&command).await.unwrap()).unwrap()));
        });
        self.world.run();
        answered.take().unwrap()
    }

    fn step(&mut self) {
        let seconds = match self.below(100) {
            0 => 1_000,
            1..4 => 61,
            n => u64::from(n % 4 == 0),
        };
        self.world.pass(seconds);
        let (n, owner) = (self.below(u64::from(HASHES)) as u32, 1 + self.below(u64::from(OWNERS)) as u8);
        match self.below(100) {
            0..12 if self.world.workers() < 10 => {
                let shared = Rc::clone(&self.world.shared);
                let upload = model::upload(&mut shared.rng.borrow_mut(), owner, n, shared.now.get());
                self.send(upload);
            }
            12..15 => {
                let request = model::delete(owner, n, self.world.shared.now.get());
                self.send(request);
            }
            15 if self.below(3) == 0 => self.command(Command::Ban { sha256: sha(n), reason: "why".into() }),
            15 if self.below(2) == 0 => self.command(Command::Delete { sha256: sha(n), owner: None }),
            16..18 => self.command(Command::Unban(sha(n))),
            18 => self.command(Command::Sweep),
            19..21 => self.publish(owner, n),
            21 => self.world.lose_worker(),
            22 if self.below(2) == 0 => self.world.evict(),
            _ => drop(self.world.step()),
        }
        self.world.check();
    }

    fn publish(&mut self, author: u8, n: u32) {
        let now = self.world.shared.now.get();
        let (kind, created_at, tag) = match self.below(8) {
            0 => (62, now - self.below(100), ["relay".to_owned(), "ALL_RELAYS".to_owned()]),
            1..4 if !self.described.is_empty() => {
                let id = self.described[self.below(self.described.len() as u64) as usize].clone();
                (5, now, ["e".to_owned(), id])
            }
            _ => {
                self.described.push(format!("{:064x}", self.described.len()));
                (1_063, now, ["x".to_owned(), sha(n).to_string()])
            }
        };
        let id = match kind {
            1_063 => self.described[self.described.len() - 1].clone(),
            _ => format!("{:064x}", 1_000_000 + self.below(1 << 40)),
        };
        let event = RelayEvent {
            id,
            pubkey: key(author).to_owned(),
            kind,
            created_at,
            tags: vec![tag.into()],
            content: String::new(),
        };
        self.command(Command::Apply(event, 1));
    }

    /// Nothing fails any more; whoever is at work ends, and what is left is swept.
    fn settle(&mut self) {
        self.world.shared.is_settling.set(true);
        self.world.run();
        for _ in 0..8 {
            self.world.pass(4_000);
            self.world.run();
            // As an administrator's `gc`, which also looks through the bucket.
            self.ask(Command::Sweep);
            for _ in 0..4 {
                self.world.pass(1);
                self.world.run();
            }
            self.world.check();
        }
        assert_eq!(self.world.workers(), 0);
        let shared = Rc::clone(&self.world.shared);
        let keys: Vec<String> = shared.bucket.borrow().objects.keys().cloned().collect();
        assert_eq!(keys, shared.oracle.borrow().keys(), "bytes are left or missing");
        for table in ["blossom_uploads", "blossom_parts", "blossom_removals"] {
            assert_eq!(shared.sqlite.count(table), 0, "{table}");
        }
        for owner in (1..=OWNERS).map(Some).chain([None]) {
            let command = Command::List {
                owner: owner.map(|n| key(n).to_owned()),
                cursor: None,
                limit: 100,
                since: None,
                until: None,
            };
            let Outcome::Blobs(list) = self.ask(command) else { panic!() };
            let list: Vec<Sha256> = list.iter().map(|blob| blob.sha256).collect();
            shared.oracle.borrow().check_list(owner, &list);
        }
    }

    /// Downloads, which the index does not see, end as the index says; what a failure has left is put right by the next upload.
    fn check_expiry(&mut self) {
        let shared = Rc::clone(&self.world.shared);
        let live: Vec<(u32, u8)> = {
            let oracle = shared.oracle.borrow();
            oracle.live.iter().map(|(n, live)| (*n, *live.owners.keys().next().unwrap())).collect()
        };
        for (n, owner) in live {
            let request = model::put(owner, n, TYPES[1], shared.now.get());
            self.send(request);
            self.world.run();
        }
        let (bucket, oracle) = (shared.bucket.borrow(), shared.oracle.borrow());
        for (n, live) in &oracle.live {
            assert_eq!(bucket.objects[&sha(*n).to_string()].expires_at, live.expires_at, "{n}");
        }
    }
}

#[test]
fn workers_the_object_and_the_bucket_keep_blobs_and_bytes_together_whatever_fails() {
    let seeds = std::env::var("RELAY_BLOSSOM_SEEDS").map_or(SEEDS, |seeds| seeds.parse().unwrap());
    let (mut stored, mut created, mut expiring) = (0, 0, 0);
    for seed in 0..seeds {
        let mut simulation = Simulation::new(seed);
        // Some blobs outlive the end of the run.
        simulation.settings = Rc::new(model::settings([300, 200_000]));
        for _ in 0..STEPS {
            simulation.step();
        }
        simulation.settle();
        simulation.check_expiry();
        let oracle = simulation.world.shared.oracle.borrow();
        expiring += oracle.live.values().filter(|live| live.expires_at.is_some()).count() as u64;
        stored += oracle.stored;
        created += u64::from(simulation.created.get());
    }
    assert!(stored > 4 * seeds, "{stored}: the clients get nothing done");
    assert!(created > 3 * seeds, "{created}: the clients hear of nothing");
    assert!(expiring > seeds / 8, "{expiring}: nothing expires");
}

/// Retention goes on from the last upload, and so does what downloads name.
#[test]
fn an_upload_that_prolongs_retention_is_told_to_the_bucket() {
    let mut simulation = Simulation::new(1);
    simulation.world.shared.is_settling.set(true);
    let expires_at = |simulation: &Simulation| {
        simulation.world.shared.bucket.borrow().objects[&sha(3).to_string()].expires_at
    };
    let put = |simulation: &mut Simulation, owner| {
        let request = model::put(owner, 3, TYPES[1], simulation.world.shared.now.get());
        simulation.send(request);
        simulation.world.run();
    };
    put(&mut simulation, 1);
    assert_eq!(expires_at(&simulation), Some(START + 20_000));
    // A little is not counted.
    simulation.world.pass(1_999);
    put(&mut simulation, 1);
    assert_eq!(expires_at(&simulation), Some(START + 20_000));
    simulation.world.pass(1);
    put(&mut simulation, 1);
    assert_eq!(expires_at(&simulation), Some(START + 22_000));
    // By another owner, who shows the bytes.
    simulation.world.pass(5_000);
    put(&mut simulation, 2);
    assert_eq!(expires_at(&simulation), Some(START + 27_000));
    let bytes = simulation.world.shared.bucket.borrow().objects[&sha(3).to_string()].clone();
    assert_eq!((&*bytes.bytes, bytes.uploaded), (&*body(3), Some(START)), "nothing else has changed");
    // Without rules it is kept for ever.
    simulation.settings = Rc::new(BlossomSettings::default());
    put(&mut simulation, 1);
    assert_eq!(expires_at(&simulation), None);
}

/// A bucket that fails is told again by the next upload; the index keeps the blob meanwhile.
#[test]
fn a_bucket_that_cannot_be_told_names_the_earlier_time() {
    let mut simulation = Simulation::new(1);
    let shared = Rc::clone(&simulation.world.shared);
    shared.is_settling.set(true);
    let request = model::put(1, 3, TYPES[1], shared.now.get());
    simulation.send(request.clone());
    simulation.world.run();
    simulation.world.pass(10_000);
    simulation.send(request.clone());
    // The object looks at what the bucket has: that fails.
    while shared.bucket.borrow().waiting.is_empty() {
        assert!(simulation.world.step());
    }
    let waiting = shared.bucket.borrow_mut().waiting.pop_front().unwrap();
    waiting.outcome.set(Err("the bucket fails".to_owned()));
    simulation.world.pass(0);
    simulation.world.run();
    let expires_at = || shared.bucket.borrow().objects[&sha(3).to_string()].expires_at;
    assert_eq!(expires_at(), Some(START + 20_000));
    assert_eq!(shared.oracle.borrow().live[&3].expires_at, Some(START + 30_000));
    assert!(shared.errors.borrow()[0].contains("the bucket fails"), "{:?}", shared.errors.borrow());
    simulation.send(request);
    simulation.world.run();
    assert_eq!(expires_at(), Some(START + 30_000));
}
