//! The object of the market without workerd: what it costs, what a failure at any statement does, its alarm, and the stream of each shard.

use std::cell::Cell;
use std::rc::Rc;

use futures_util::FutureExt;
use relay_edge::market::{Asked, MarketHost, MarketObject, consumer};
use relay_edge::settings::Settings;
use relay_engine::sql::StoreError;
use relay_engine::testing::Rng;
use relay_engine::testing::event_of_json;
use relay_engine::testing::signing::{Signed, event, key};
use relay_market::Registry;
use relay_market::http::{Request, answer};
use relay_market::testing::Sqlite;
use relay_site::{HttpResponse, MarketRoute};
use serde_json::{Value, json};

use super::world::{Hibernates, Runtime};

const NOW: u64 = 1_767_225_600;

#[derive(Clone)]
struct Host {
    db: Sqlite,
    now: Rc<Cell<u64>>,
    alarm: Rc<Cell<Option<u64>>>,
    alarms_set: Rc<Cell<u64>>,
    /// Alarms cannot be set.
    is_without_alarms: Rc<Cell<bool>>,
}

impl MarketHost for Host {
    type Conn = Sqlite;

    fn now(&self) -> u64 {
        self.now.get()
    }

    fn conn(&self) -> Result<Sqlite, StoreError> {
        Ok(self.db.clone())
    }

    async fn alarm(&self) -> Option<u64> {
        self.alarm.get()
    }

    fn set_alarm(&self, at: u64) -> bool {
        if self.is_without_alarms.get() {
            return false;
        }
        self.alarm.set(Some(at));
        self.alarms_set.set(self.alarms_set.get() + 1);
        true
    }

    fn error(&self, _: &str) {}
}

/// The object, which may lose its memory, and what does not.
struct World {
    object: MarketObject<Host>,
    host: Host,
    seq: u64,
}

impl World {
    fn new() -> Self {
        let host = Host {
            db: Sqlite::new(),
            now: Rc::new(Cell::new(NOW)),
            alarm: Rc::default(),
            alarms_set: Rc::default(),
            is_without_alarms: Rc::default(),
        };
        World { object: MarketObject::new(host.clone()), host, seq: 0 }
    }

    fn evict(&mut self) {
        self.object = MarketObject::new(self.host.clone());
    }

    fn batch(&mut self, events: &[Signed]) -> String {
        let line = |event: &Signed| {
            self.seq += 1;
            format!("{{\"seq\":{},\"event\":{}}}\n", self.seq, event.json())
        };
        events.iter().map(line).collect()
    }

    fn deliver(&mut self, batch: &str) -> Result<(), StoreError> {
        self.object.apply(batch.as_bytes(), None).now_or_never().expect("nothing is waited for")
    }

    fn apply(&mut self, events: &[Signed]) {
        let batch = self.batch(events);
        self.deliver(&batch).unwrap();
    }

    fn ask(&self, route: MarketRoute, npub: Option<&str>, query: &str) -> HttpResponse {
        self.object.answer(&Asked::new(route, npub, query, "relay", "wss://relay.example")).unwrap()
    }

    fn list(&self, query: &str) -> Value {
        let listed: Value = serde_json::from_slice(&self.ask(MarketRoute::List, None, query).body).unwrap();
        listed["providers"].clone()
    }

    /// Those of the only provider.
    fn figures(&self) -> Value {
        self.list("")[0]["figures"].clone()
    }

    fn fire(&mut self) -> Result<(), StoreError> {
        self.host.alarm.set(None);
        self.object.alarm().now_or_never().expect("nothing is waited for")
    }

    /// Time passes, and the alarm fires.
    fn pass(&mut self, seconds: u64) {
        let end = self.host.now.get() + seconds;
        while let Some(at) = self.host.alarm.get().filter(|at| *at <= end) {
            self.host.now.set(self.host.now.get().max(at));
            self.fire().unwrap();
        }
        self.host.now.set(end);
    }

    /// Rows that this writes, with those of alarms.
    fn written(&mut self, work: impl FnOnce(&mut Self)) -> u64 {
        let (db, alarms) = (self.host.db.rows_written(), self.host.alarms_set.get());
        work(self);
        self.host.db.rows_written() - db + self.host.alarms_set.get() - alarms
    }
}

fn announcement(provider: u64) -> Signed {
    let content = json!({ "name": format!("worker {provider}"), "amount": "free" }).to_string();
    event(&key(provider))
        .kind(31_990)
        .at(NOW - 100)
        .tag(["d", "x"])
        .tag(["k", "5050"])
        .content(&content)
        .sign()
}

fn request(customer: u64, provider: u64, at: u64) -> Signed {
    event(&key(customer)).kind(5_050).at(at).tag(["p", key(provider).hex()]).sign()
}

fn result(provider: u64, to: &Signed, at: u64) -> Signed {
    event(&key(provider)).kind(6_050).at(at).tag(["e", &to.id]).sign()
}

/// Feedback that asks for payment.
fn demand(provider: u64, to: &Signed) -> Signed {
    let status = event(&key(provider)).kind(7_000).at(NOW - 60).tag(["status", "payment-required"]);
    status.tag(["amount", "5000"]).tag(["e", &to.id]).sign()
}

/// A zap receipt of a service, of what a customer has signed.
fn receipt(customer: u64, provider: u64, zapped: &Signed, at: u64) -> Signed {
    let about = |event: relay_engine::testing::signing::Draft| {
        event.at(at).tag(["p", key(provider).hex()]).tag(["e", &zapped.id])
    };
    let request = about(event(&key(customer)).kind(9_734)).tag(["amount", "5000"]).sign().json();
    let bolt11 = relay_market::testing::invoice(Some(5_000), request.as_bytes(), [7; 32]);
    about(event(&key(90)).kind(9_735)).tag(["bolt11", &bolt11]).tag(["description", &request]).sign()
}

fn beat(provider: u64, at: u64) -> Signed {
    event(&key(provider)).kind(11_998).at(at).tag(["status", "online"]).sign()
}

/// Rows of a provider with results, each day: the state twice, figures and their indexes, the alarm.
const DAILY: u64 = 6;

/// `bench/edge.md` has what workerd bills; this is an upper bound of it.
#[test]
fn rows_of_jobs_and_heartbeats_are_few() {
    let mut world = World::new();
    world.apply(&[announcement(1), beat(1, NOW - 1)]);
    world.pass(60);
    let now = world.host.now.get();
    let asked = request(2, 1, now);
    // Of evidence its row, its id and three indexes; the key that it names, twice; the state; the alarm.
    let written = world.written(|world| world.apply(std::slice::from_ref(&asked)));
    assert_eq!(written, 5 + 2 + 1 + 1);
    let written = world.written(|world| world.apply(&[result(1, &asked, now + 1)]));
    assert_eq!(written, 5 + 1, "the alarm is set already");
    // Figures and their indexes, the state, the alarm that looks at the window.
    let written = world.written(|world| world.pass(3));
    assert_eq!(world.figures()["jobs_delivered"], 1);
    assert_eq!(written, 3 + 1 + 1);
    let written = world.written(|world| world.apply(&[beat(1, now + 2)]));
    assert_eq!(written, 2 + 1, "the heartbeat, its index and the state");
    let written = world.written(|world| world.apply(&[result(1, &asked, now + 1)]));
    assert_eq!(written, 1, "what comes again is only a new position");
    let written = world.written(|world| world.pass(86_400));
    assert_eq!(written, DAILY, "an answered job is a day older at midnight");
    let written = world.written(|world| world.pass(28 * 86_400));
    assert_eq!(written, 28 * DAILY, "and no more until it leaves the window");
    let written = world.written(|world| world.pass(3 * 86_400));
    assert_eq!(
        written,
        DAILY + 29,
        "it is a day older, its figures are counted again, it is forgotten, and they are counted twice more"
    );
    assert_eq!((world.host.db.count("market_evidence"), world.host.db.count("market_named")), (0, 0));
}

/// Zaps of a relay that are of no job cost this too.
#[test]
fn a_receipt_writes_few_rows() {
    let mut world = World::new();
    let asked = request(2, 1, NOW - 60);
    let done = event(&key(1)).kind(6_050).at(NOW - 50).tag(["e", &asked.id]).tag(["amount", "5000"]).sign();
    world.apply(&[announcement(1), asked.clone(), done]);
    world.pass(60);
    let paid = receipt(2, 1, &asked, NOW - 40);
    let written = world.written(|world| world.apply(std::slice::from_ref(&paid)));
    assert_eq!(written, 4 + 1 + 1, "its row, three indexes, the state, the alarm");
    let written = world.written(|world| world.pass(3));
    assert_eq!((&world.figures()["jobs_paid"], &world.figures()["paid_msat"]), (&json!(1), &json!(5_000)));
    assert!(written <= 5, "{written} rows for figures");
    let written = world.written(|world| world.apply(&[paid]));
    assert_eq!(written, 1, "what comes again is only a new position");
    let stranger = receipt(3, 4, &asked, NOW - 40);
    let written = world.written(|world| world.apply(&[stranger]));
    assert_eq!(written, 4 + 1, "and no figures");
    assert_eq!(world.host.db.count("market_receipts"), 2);
    world.pass(32 * 86_400);
    assert_eq!(world.host.db.count("market_receipts"), 0);
}

#[test]
fn answers_read_what_they_show_and_come_from_memory_for_a_moment() {
    let mut world = World::new();
    let many: Vec<Signed> = (1..52).map(announcement).collect();
    world.apply(&many);
    let asked = request(60, 1, NOW - 50);
    world.apply(&[asked.clone(), result(1, &asked, NOW - 40)]);
    world.pass(60);
    world.evict();
    let read = |world: &World, route, npub: Option<&str>| {
        let before = world.host.db.rows_returned();
        assert_eq!(world.ask(route, npub, "").status, 200);
        world.host.db.rows_returned() - before
    };
    let written = world.host.db.rows_written();
    for route in [MarketRoute::List, MarketRoute::ListPage] {
        let first = read(&world, route, None);
        assert!((51..=51 + 50 + 10).contains(&first), "{first} rows for a page of fifty providers");
        assert_eq!(read(&world, route, None), 0);
    }
    let proof = read(&world, MarketRoute::Proof, Some(key(1).hex()));
    assert!((3..=12).contains(&proof), "{proof} rows for the proof of one job");
    assert_eq!(read(&world, MarketRoute::Proof, Some(key(1).hex())), 0);
    world.host.now.set(world.host.now.get() + 1);
    assert_eq!(read(&world, MarketRoute::List, None), 0);
    world.host.now.set(world.host.now.get() + 1);
    assert!(read(&world, MarketRoute::List, None) > 50, "two seconds later");
    assert_eq!(world.host.db.rows_written(), written, "answers write nothing");
}

#[test]
fn a_failure_at_any_statement_loses_and_repeats_nothing() {
    let jobs: Vec<Signed> = (2..6).map(|customer| request(customer, 1, NOW - 7_200)).collect();
    let mut events = vec![announcement(1)];
    events.extend(jobs.iter().cloned());
    events.extend(jobs.iter().take(3).map(|job| result(1, job, NOW - 7_190)));
    events.extend([demand(1, &jobs[0]), receipt(2, 1, &jobs[0], NOW - 7_000)]);
    for failing in 1.. {
        let mut world = World::new();
        world.apply(&events[..2]);
        let batch = world.batch(&events[2..]);
        world.host.db.fail_at(failing);
        let delivered = world.deliver(&batch);
        if failing % 2 == 0 {
            world.evict();
        }
        if delivered.is_err() {
            // The relay delivers it again.
            world.deliver(&batch).unwrap();
        }
        // Or it is the alarm that fails, or an answer.
        world.pass(120);
        let is_over = world.host.db.is_armed();
        world.host.db.fail_with(None);
        world.pass(10);
        let figures = world.figures();
        assert_eq!(
            (&figures["jobs_delivered"], &figures["jobs_failed"], &figures["jobs_paid"]),
            (&json!(3), &json!(1), &json!(1)),
            "{failing}"
        );
        if is_over {
            assert!(failing > 40, "{failing} statements");
            break;
        }
    }
}

#[test]
fn what_cannot_be_done_now_is_done_later() {
    let mut world = World::new();
    let batch = world.batch(&[announcement(1), request(2, 1, NOW - 7_200)]);
    world.host.is_without_alarms.set(true);
    assert!(world.deliver(&batch).is_err(), "without an alarm nobody would count");
    world.host.is_without_alarms.set(false);
    world.deliver(&batch).unwrap();
    world.host.is_without_alarms.set(true);
    world.host.db.fail_at(1);
    assert!(world.fire().is_err(), "the platform calls it again");
    world.host.is_without_alarms.set(false);
    world.host.db.fail_with(Some(StoreError::Full("full".into())));
    world.fire().unwrap();
    assert_eq!(world.host.alarm.get(), Some(NOW + 5));
    assert!(world.object.answer(&Asked::new(MarketRoute::List, None, "q=y", "", "")).is_err());
    world.host.db.fail_with(None);
    world.pass(5);
    assert_eq!(world.figures()["jobs_failed"], 1);
    // What is no event is passed over: it would be none the next time either.
    world.deliver("{\"seq\":9,\"event\":{\"id\":1}}\nnonsense\n{\"seq\":null,\"event\":{}}\n").unwrap();
}

#[test]
fn the_alarm_does_what_time_does() {
    let mut world = World::new();
    world.apply(&[announcement(1), request(2, 1, NOW)]);
    assert_eq!(world.host.alarm.get(), Some(NOW + 3));
    world.pass(3);
    assert_eq!(world.figures()["jobs_pending"], 1);
    // Nobody comes for an hour.
    world.evict();
    assert_eq!(world.host.alarm.get(), Some(NOW + 3_600));
    world.pass(3_600);
    let figures = world.figures();
    assert_eq!((&figures["jobs_pending"], &figures["jobs_failed"]), (&json!(0), &json!(1)));
    world.evict();
    world.pass(32 * 86_400);
    assert_eq!(world.figures()["jobs_failed"], 0);
    assert_eq!(world.host.db.count("market_evidence"), 0);
    assert_eq!(world.host.alarm.get(), None, "nothing is left to do");
    // An alarm that fires earlier stays, also if the object has forgotten it.
    world.host.alarm.set(Some(world.host.now.get() + 1));
    world.evict();
    world.apply(&[request(3, 1, world.host.now.get())]);
    assert_eq!(world.host.alarm.get(), Some(world.host.now.get() + 1));
}

#[test]
fn a_flood_is_counted_once_in_some_seconds() {
    let mut world = World::new();
    world.apply(&[announcement(1)]);
    world.pass(10);
    let written = world.written(|world| {
        for customer in 2..52 {
            world.apply(&[request(customer, 1, NOW)]);
        }
        world.pass(3);
    });
    assert_eq!(world.figures()["jobs_pending"], 50);
    assert!(written <= 50 * 8 + 10, "{written} rows");
}

#[test]
fn a_provider_is_offline_when_its_heartbeat_is_old() {
    let mut world = World::new();
    world.apply(&[announcement(1), announcement(2), beat(1, NOW)]);
    let online = |world: &World| {
        let named = |query| world.list(query).as_array().unwrap().len();
        (world.list("sort=seen")[0]["online"].clone(), named("online=true"), named("online=false"))
    };
    assert_eq!(online(&world), (json!(true), 1, 1));
    world.pass(420);
    assert_eq!(online(&world), (json!(true), 1, 1));
    world.pass(2);
    world.evict();
    assert_eq!(online(&world), (json!(false), 0, 2));
    let now = world.host.now.get();
    world.apply(&[beat(1, now)]);
    world.pass(2);
    assert_eq!(online(&world), (json!(true), 1, 1));
    assert_eq!(world.list("sort=seen")[0]["last_seen"], now);
}

#[test]
fn guarded_kinds_are_not_read() {
    let filters = consumer(&[5_300, 7_000, 11_998], NOW).filters().unwrap();
    assert!(filters[0].kinds.as_ref().unwrap().contains(&9_735), "receipts of the window");
    let kinds: Vec<u16> = filters.iter().flat_map(|filter| filter.kinds.clone().unwrap()).collect();
    assert_eq!(kinds.len(), 2_003);
    assert!([5_300, 7_000, 11_998].iter().all(|kind| !kinds.contains(kind)) && kinds.contains(&6_300));
    assert_eq!(
        filters.iter().map(|filter| filter.since).collect::<Vec<_>>(),
        [Some(NOW - 30 * 86_400), None]
    );
}

/// Relays with events of some authors each, and a registry that follows all of them.
struct Shards {
    relays: Vec<Runtime>,
    market: World,
}

impl Shards {
    fn publish(&mut self, author: u64, event: &Signed) {
        let relay = &mut self.relays[author as usize % 2];
        let socket = match relay.sockets.keys().next() {
            Some(key) => *key,
            None => relay.connect().unwrap().key,
        };
        relay.text(socket, &format!(r#"["EVENT",{}]"#, event.json()));
        relay.drive();
    }

    /// One relay delivers its next batch, if it has one. True if it had.
    fn deliver(&mut self, shard: usize) -> bool {
        let relay = &mut self.relays[shard];
        let Some((name, events)) = relay.host.deliveries.borrow_mut().pop_front() else { return false };
        let line = |(seq, event): &(Option<relay_engine::store::Seq>, relay_engine::types::Event)| {
            let json = String::from_utf8(event.json().to_vec()).unwrap();
            format!("{{\"seq\":{},\"event\":{json}}}\n", seq.unwrap().0)
        };
        let batch: String = events.iter().map(line).collect();
        let is_applied = self.market.deliver(&batch).is_ok();
        let now = relay.now;
        relay.object().acknowledge(now, &name, is_applied);
        relay.drive();
        true
    }
}

#[test]
fn all_shards_are_followed_whatever_fails_on_the_way() {
    let mut paid = 0;
    for seed in 0..12 {
        let mut rng = Rng::new(seed);
        let settings = Settings { consumers: vec![consumer(&[], NOW)], ..Settings::default() };
        let relays = (0..2).map(|_| Runtime::new(settings.clone(), Hibernates::Never)).collect();
        let mut shards = Shards { relays, market: World::new() };
        let mut published: Vec<Signed> = Vec::new();
        let providers = [1, 2, 3];
        for step in 0..60_u64 {
            let provider = *rng.pick(&providers);
            let customer = 10 + rng.below(8);
            let jobs: Vec<&Signed> = published.iter().filter(|event| event.kind == 5_050).collect();
            let (author, event) = match rng.below(7) {
                0 => (provider, announcement(provider)),
                1 if !jobs.is_empty() => {
                    let job: &Signed = rng.pick::<&Signed>(&jobs);
                    (provider, result(provider, job, NOW - 10))
                }
                2 if !jobs.is_empty() && rng.one_in(4) => {
                    let (job, n) = (*rng.pick(&jobs), 10 + rng.below(8));
                    (n, event(&key(n)).kind(5).at(NOW - 1).tag(["e", &job.id]).sign())
                }
                5 if !jobs.is_empty() => {
                    let job: &Signed = rng.pick::<&Signed>(&jobs);
                    (provider, demand(provider, job))
                }
                6 if !jobs.is_empty() => {
                    let job: &Signed = rng.pick::<&Signed>(&jobs);
                    let payer = (10..18).find(|n| key(*n).hex() == job.pubkey).unwrap_or(customer);
                    (90, receipt(payer, provider, job, NOW - 30))
                }
                _ => (customer, request(customer, provider, NOW - 7_000 + step)),
            };
            shards.publish(author, &event);
            published.push(event);
            // Failures on the way.
            for shard in 0..2 {
                match rng.below(8) {
                    0 => shards.market.host.db.fail_at(1 + rng.below(40)),
                    1 => shards.market.evict(),
                    2 => {
                        // A batch in flight is lost with the relay's memory.
                        let relay = &mut shards.relays[shard];
                        relay.host.deliveries.borrow_mut().clear();
                        relay.evict();
                        relay.drive();
                    }
                    3 => {
                        let _ = shards.market.fire();
                    }
                    _ => {
                        shards.deliver(shard);
                    }
                }
            }
        }
        shards.market.host.db.fail_with(None);
        for relay in &mut shards.relays {
            relay.advance(600);
        }
        while [0, 1].map(|shard| shards.deliver(shard)) != [false, false] {
            shards.relays.iter_mut().for_each(|relay| relay.advance(600));
        }
        shards.market.pass(600);
        // A registry that was told everything once, as each relay has stored it.
        let db = Sqlite::new();
        let mut registry = Registry::open(db).unwrap();
        let lines: Vec<Vec<u8>> = shards.relays.iter().flat_map(|relay| relay.store.lines()).collect();
        let items: Vec<_> = (1..)
            .zip(lines)
            .map(|(seq, line)| (seq, Some(event_of_json(std::str::from_utf8(&line).unwrap()).unwrap())))
            .collect();
        let now = shards.market.host.now.get();
        registry.apply(&items, now, &|_| true).unwrap();
        while registry.refresh(now).unwrap() {}
        let relay = relay_agent::api::Relay { name: "relay", url: "wss://relay.example", version: "0" };
        for provider in providers {
            let npub = key(provider).hex().to_owned();
            let request = Request { route: MarketRoute::Proof, npub: Some(&npub), query: "", relay };
            let want = answer(&registry, &request, now).unwrap();
            let found = shards.market.ask(MarketRoute::Proof, Some(&npub), "");
            assert_eq!(
                String::from_utf8_lossy(&found.body),
                String::from_utf8_lossy(&want.body),
                "seed {seed}"
            );
        }
        let without_times = |mut listed: Value| {
            for provider in listed.as_array_mut().unwrap() {
                provider["figures"]["as_of"] = json!(0);
            }
            listed
        };
        let request = Request { route: MarketRoute::List, npub: None, query: "", relay };
        let want: Value = serde_json::from_slice(&answer(&registry, &request, now).unwrap().body).unwrap();
        assert!(!want["providers"].as_array().unwrap().is_empty(), "seed {seed}");
        assert_eq!(
            without_times(shards.market.list("")),
            without_times(want["providers"].clone()),
            "seed {seed}"
        );
        let listed = want["providers"].as_array().unwrap().iter();
        paid += listed.map(|one| one["figures"]["jobs_paid"].as_u64().unwrap()).sum::<u64>();
    }
    assert!(paid > 0, "receipts of another shard than their jobs");
}
