//! Customers who pay too little, too much, late or never, a wallet that loses, doubles, delays and forges its answers, a relay and a disk that
//! fail, and a process that dies between any two effects, from one seed.
//!
//! The books in the database sum to zero after every step, entry by entry and account by account, and never say that more came than was
//! paid. No call is made for a job that is not paid. At the end everything works again, and then what each customer has paid is what was
//! delivered to them, what they have cancelled when its work had begun, and their credit.

use std::collections::{BTreeMap, HashMap};

use relay_agent::executor::{HttpError, HttpEvent, HttpRequest};
use relay_agent::job::JobState;
use relay_agent::machine::{Effect, EffectId, ExchangeEvent, Published};
use relay_agent::manifest::Manifest;
use relay_agent::testing::{Customer, Status, read_answer};
use relay_engine::sql::{SqlConn as _, SqlValue, StoreError};
use relay_engine::testing::Rng;
use relay_engine::types::{Event, EventId, PubKey};
use serde_json::json;

use crate::wallet::Wallet;
use crate::world::{World, manifest};

const PRICE: u64 = 10_500;
const CUSTOMERS: u64 = 6;
const STEPS: usize = 500;
const SEEDS: u64 = 40;

fn deployed() -> Manifest {
    manifest(|json| {
        json["handlers"][0]["price"] = json!({"model": "per_job", "msat": PRICE});
        json["payment"] = json!({"policy": "prepay", "wallet_ref": "AGENT_WALLET"});
        json["limits"] = json!({
            "concurrency": 3, "queue": 10_000, "per_customer": 10_000, "per_customer_per_min": 10_000,
            "timeout_s": 100, "attempts": 10
        });
    })
}

struct Simulation {
    world: World,
    wallet: Wallet,
    rng: Rng,
    seed: u64,
    undelivered: Vec<Event>,
    requests: Vec<(Customer, Event)>,
    jobs: HashMap<String, EventId>,
    effects: Vec<Effect>,
    calls: Vec<(EffectId, HttpRequest)>,
    exchanges: Vec<(EffectId, Vec<Event>)>,
    /// Answers of the wallet that are on their way.
    answers: Vec<(EffectId, Event)>,
    /// Payment hashes of invoices about which the wallet has claimed without a preimage that they are paid.
    claimed: Vec<String>,
    /// Whether the disk is full.
    is_full: bool,
    /// What customers have paid.
    paid: BTreeMap<PubKey, u64>,
    /// Whose invoices are which.
    invoices: BTreeMap<String, PubKey>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        Simulation {
            world: World::calling(&deployed()),
            wallet: Wallet::new(),
            rng: Rng::new(seed),
            seed,
            undelivered: Vec::new(),
            requests: Vec::new(),
            jobs: HashMap::new(),
            effects: Vec::new(),
            calls: Vec::new(),
            exchanges: Vec::new(),
            answers: Vec::new(),
            claimed: Vec::new(),
            is_full: false,
            paid: BTreeMap::new(),
            invoices: BTreeMap::new(),
        }
    }

    fn order(&mut self) {
        let customer = Customer::new(1 + self.rng.below(CUSTOMERS));
        let text = format!("job {} of seed {}", self.requests.len(), self.seed);
        let request = customer.sign(&self.world.request().text(&text));
        self.jobs.insert(text, request.id);
        self.undelivered.push(request.clone());
        self.requests.push((customer, request));
    }

    fn cancel(&mut self) {
        if !self.requests.is_empty() {
            let (customer, request) = self.rng.pick(&self.requests).clone();
            self.undelivered.push(customer.cancel(&[request.id], self.world.now.seconds()));
        }
    }

    fn deliver(&mut self) {
        let count = self.undelivered.len().min(1 + self.rng.below(3) as usize);
        let events = self.undelivered[..count].to_vec();
        for event in &events {
            if !self.world.host.stored.iter().any(|known| known.id == event.id) {
                self.world.host.store(event.clone());
            }
        }
        if self.world.agent.deliver(self.world.now, &events).is_ok() {
            self.undelivered.drain(..count);
        }
        self.poll();
    }

    /// Takes over the agent's effects, and checks them.
    fn poll(&mut self) {
        while let Some(effect) = self.world.agent.poll_effect() {
            if let Effect::Http { request, .. } = &effect {
                let text = String::from_utf8_lossy(&request.body).into_owned();
                let job = self.jobs[text.lines().next().unwrap()];
                self.repair();
                let job = self.world.agent.job(&job).unwrap().expect("stored");
                let seen = (job.state, job.cost_msat);
                assert_eq!(seen, (JobState::Running, PRICE), "seed {}: a call for {text}", self.seed);
            }
            self.effects.push(effect);
        }
        // A disk that fails cannot be read.
        if !self.is_full && !self.world.sqlite.is_armed() {
            self.check_database();
        }
    }

    fn repair(&mut self) {
        self.is_full = false;
        self.world.sqlite.fail_with(None);
    }

    /// What is stored, whatever the agent has in memory.
    fn check_database(&self) -> BTreeMap<Vec<u8>, i64> {
        let (mut accounts, mut entries) = (BTreeMap::new(), BTreeMap::<Vec<u8>, i64>::new());
        let int =
            |value: &SqlValue<'_>| if let SqlValue::Int(int) = value { *int } else { panic!("{value:?}") };
        let bytes = |value: &SqlValue<'_>| {
            if let SqlValue::Blob(blob) = value { blob.to_vec() } else { panic!("{value:?}") }
        };
        let sqlite = &self.world.sqlite;
        sqlite
            .query("SELECT account, msat FROM agent_account", &[], &mut |row| {
                accounts.insert(bytes(&row[0]), int(&row[1]));
                Ok(())
            })
            .unwrap();
        sqlite
            .query("SELECT debit, credit, msat FROM agent_ledger", &[], &mut |row| {
                *entries.entry(bytes(&row[0])).or_default() += int(&row[2]);
                *entries.entry(bytes(&row[1])).or_default() -= int(&row[2]);
                Ok(())
            })
            .unwrap();
        assert_eq!(accounts, entries, "seed {}", self.seed);
        assert_eq!(accounts.values().sum::<i64>(), 0, "seed {}", self.seed);
        let came = accounts.get(&b"wallet"[..]).copied().unwrap_or_default();
        let paid = self.paid.values().sum::<u64>() as i64;
        assert!(came <= paid, "seed {}: {came} came of {paid}", self.seed);
        for (account, balance) in &accounts {
            assert!(*account == b"wallet" || *balance <= 0, "seed {}: {account:?} {balance}", self.seed);
        }
        accounts
    }

    /// Carries out one effect; the process may die before the agent hears of it.
    fn carry_out(&mut self) {
        if self.effects.is_empty() {
            return;
        }
        let at = self.rng.below(self.effects.len() as u64) as usize;
        match self.effects.remove(at) {
            Effect::Http { id, request } => self.calls.push((id, request)),
            Effect::Exchange { id, requests, .. } => self.exchanges.push((id, requests)),
            Effect::Cancel { id } => {
                self.calls.retain(|(open, _)| *open != id);
                self.exchanges.retain(|(open, _)| *open != id);
            }
            Effect::Publish { id, events, relays } => {
                self.world.host.outcomes.clear();
                for event in &events {
                    let is_known = self.world.host.stored.iter().any(|known| known.id == event.id);
                    let outcome = match self.rng.below(30) {
                        0..=2 => Published::Failed("busy".to_owned()),
                        // Not what it has taken already.
                        3 if !is_known => Published::Refused("blocked: no".to_owned()),
                        _ => Published::Accepted,
                    };
                    self.world.host.outcomes.push_back(outcome);
                }
                let outcomes = self.world.host.publish(&events, &relays);
                if self.rng.one_in(12) {
                    return self.crash();
                }
                self.world.agent.handle_published(self.world.now, id, &outcomes);
            }
            effect => self.world.host.carry_out(self.world.now, &mut self.world.agent, effect),
        }
        self.poll();
    }

    /// The wallet answers a request: truly, falsely or not at all, once or twice.
    fn wallet(&mut self) {
        if self.exchanges.is_empty() {
            return;
        }
        let at = self.rng.below(self.exchanges.len() as u64) as usize;
        let id = self.exchanges[at].0;
        if self.exchanges[at].1.is_empty() || self.rng.one_in(10) {
            let info = self.wallet.info();
            return self.answers.push((id, info));
        }
        let request = self.exchanges[at].1.pop().unwrap();
        let (method, params) = self.wallet.read(&request);
        let (now, roll) = (self.world.now.seconds(), self.rng.below(20));
        let hash = params["payment_hash"].as_str().unwrap_or_default().to_owned();
        let error = |code: &str| json!({"result": null, "error": {"code": code, "message": "x"}});
        let answer = match (method.as_str(), roll) {
            (_, 0 | 1) => return,
            (_, 2) => self.wallet.respond(&request, &error("INTERNAL")),
            ("make_invoice", 3) => self.wallet.respond(&request, &error("RESTRICTED")),
            ("make_invoice", 4) if !self.wallet.invoices.is_empty() => {
                // One that it has made before.
                let hash = self.wallet.invoices.keys().next().unwrap().clone();
                let before = self.wallet.transaction(now, &hash);
                self.wallet.respond(&request, &json!({ "result": before }))
            }
            ("lookup_invoice", 3..=8) if self.wallet.invoices[&hash].paid.is_none() => {
                let mut lie = self.wallet.transaction(now, &hash).unwrap();
                lie["state"] = json!("settled");
                match roll {
                    3 if !self.claimed.contains(&hash) => self.claimed.push(hash),
                    3 | 4 => lie["preimage"] = json!("07".repeat(32)),
                    5 => lie["payment_hash"] = json!("07".repeat(32)),
                    6 => {
                        // Another invoice, which is paid.
                        let paid = self.wallet.invoices.iter().find(|(_, invoice)| invoice.paid.is_some());
                        let Some((other, _)) = paid else { return };
                        lie = self.wallet.transaction(now, &other.clone()).unwrap();
                    }
                    7 => lie["amount"] = json!(0),
                    _ => {
                        lie["state"] = json!("pending");
                        let preimage = self.wallet.invoices[&hash].preimage;
                        lie["preimage"] = json!(faster_hex::hex_string(&preimage));
                    }
                }
                self.wallet.respond(&request, &json!({ "result": lie }))
            }
            _ => self.wallet.answer(now, &request),
        };
        self.answers.push((id, answer.clone()));
        if self.rng.one_in(5) {
            self.answers.push((id, answer));
        }
    }

    /// An answer arrives, in whatever order.
    fn arrive(&mut self) {
        if self.answers.is_empty() {
            return;
        }
        let at = self.rng.below(self.answers.len() as u64) as usize;
        let (id, answer) = self.answers.swap_remove(at);
        self.world.agent.handle_exchange(self.world.now, id, ExchangeEvent::Event(answer));
        self.poll();
    }

    /// A customer pays an invoice that was published, whatever has become of the job.
    fn pay(&mut self) {
        self.read_invoices();
        let now = self.world.now.seconds();
        let open = self.invoices.iter().filter(|(bolt11, _)| {
            self.wallet.invoices.values().any(|invoice| {
                invoice.bolt11 == **bolt11 && invoice.paid.is_none() && now < invoice.expires_at + 7_200
            })
        });
        let open: Vec<(String, PubKey)> =
            open.map(|(bolt11, customer)| (bolt11.clone(), *customer)).collect();
        if open.is_empty() {
            return;
        }
        let (bolt11, customer) = self.rng.pick(&open).clone();
        let asked = self.wallet.invoices.values().find(|invoice| invoice.bolt11 == bolt11).unwrap().msat;
        let msat = match self.rng.below(8) {
            0 => 1 + self.rng.below(asked),
            1 => asked + self.rng.below(asked),
            _ => asked,
        };
        let hash = self.wallet.pay(&bolt11, Some(msat));
        *self.paid.entry(customer).or_default() += msat;
        if self.rng.one_in(2) {
            let transaction = self.wallet.transaction(now, &hash).unwrap();
            let event = self.wallet.notification(&transaction);
            self.answers.extend(self.exchanges.iter().map(|(id, _)| (*id, event.clone())));
        }
    }

    /// The invoices that customers have been shown.
    fn read_invoices(&mut self) {
        for (customer, request) in &self.requests {
            for (_, event) in self.world.host.answers_to(&request.id) {
                let answer = read_answer(&event, &customer.keys).unwrap();
                if answer.status == Status::PaymentRequired {
                    self.invoices.insert(answer.bolt11.expect("an invoice"), customer.pubkey());
                }
            }
        }
    }

    fn call(&mut self) {
        if self.calls.is_empty() {
            return;
        }
        let at = self.rng.below(self.calls.len() as u64) as usize;
        let (id, _) = self.calls.remove(at);
        let (agent, now) = (&mut self.world.agent, self.world.now);
        match self.rng.below(6) {
            0 => agent.handle_http(now, id, HttpEvent::Failed(HttpError::Connection("reset".to_owned()))),
            1 => {
                agent.handle_http(now, id, HttpEvent::Head(*self.rng.pick(&[400, 503]), Vec::new()));
                agent.handle_http(now, id, HttpEvent::End);
            }
            _ => {
                agent.handle_http(now, id, HttpEvent::Head(200, Vec::new()));
                agent.handle_http(now, id, HttpEvent::Chunk("done".into()));
                agent.handle_http(now, id, HttpEvent::End);
            }
        }
        self.poll();
    }

    fn pass(&mut self, millis: u64) {
        self.world.now = self.world.now.plus_millis(self.rng.below(millis));
        if self.world.agent.poll_timeout().is_some_and(|at| at <= self.world.now) {
            self.world.agent.handle_timeout(self.world.now);
        }
        self.poll();
    }

    fn crash(&mut self) {
        self.effects.clear();
        self.calls.clear();
        self.exchanges.clear();
        self.repair();
        self.world.crash();
        self.poll();
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..=5 => self.order(),
            6 => self.cancel(),
            7..=16 => self.deliver(),
            17..=40 => self.carry_out(),
            41..=54 => self.wallet(),
            55..=70 => self.arrive(),
            71..=79 => self.pay(),
            80..=85 => self.call(),
            86..=93 => self.pass(8_000),
            94 => self.pass(400_000),
            95 | 96 => self.repair(),
            97 => self.crash(),
            98 => self.world.sqlite.fail_at(1 + self.rng.below(40)),
            _ => {
                self.is_full = true;
                self.world.sqlite.fail_with(Some(StoreError::Full("the disk".to_owned())));
            }
        }
    }

    /// Everything works again, and the wallet tells the truth.
    fn finish(&mut self) {
        self.repair();
        self.world.host.outcomes.clear();
        self.world.agent.handle_timeout(self.world.now.plus_millis(60_000));
        self.poll();
        while !self.undelivered.is_empty() {
            self.deliver();
        }
        self.world.host.exchanges.append(&mut self.exchanges);
        self.world.host.calls.append(&mut self.calls);
        for _ in 0..20_000 {
            for effect in std::mem::take(&mut self.effects) {
                self.world.host.carry_out(self.world.now, &mut self.world.agent, effect);
            }
            self.world.hand_to_wallet(&mut self.wallet);
            for (id, _) in std::mem::take(&mut self.world.host.calls) {
                self.world.agent.handle_http(now, id, HttpEvent::Head(200, Vec::new()));
                self.world.agent.handle_http(now, id, HttpEvent::End);
            }
            self.poll();
            if !self.effects.is_empty() {
                continue;
            }
            match self.world.agent.poll_timeout() {
                Some(at) => {
                    self.world.now = self.world.now.max(at);
                    self.world.agent.handle_timeout(self.world.now);
                    self.poll();
                }
                None => return,
            }
        }
        panic!("seed {}: it does not come to rest", self.seed);
    }

    /// What was paid is what was delivered and what is credit, for each customer. How many jobs were delivered.
    fn check(&mut self) -> u64 {
        let seed = self.seed;
        assert!(self.world.agent.is_idle(), "seed {seed}");
        let accounts = self.check_database();
        let of = |name: &[u8]| accounts.get(name).copied().unwrap_or_default();
        let (mut earned, mut delivered) = (BTreeMap::<PubKey, u64>::new(), 0);
        for (customer, request) in &self.requests {
            let job = self.world.agent.job(&request.id).unwrap().expect("a job");
            assert!(job.state.is_final(), "seed {seed}: {:?}", job.state);
            let answers = self.world.host.answers_to(&request.id);
            assert!(answers.is_sorted_by(|(_, a), (_, b)| a.created_at < b.created_at), "seed {seed}");
            let count = |wanted: &str| answers.iter().filter(|(status, _)| status == wanted).count();
            match job.state {
                JobState::Done => {
                    assert_eq!(
                        (count("result"), count("error"), job.cost_msat),
                        (1, 0, PRICE),
                        "seed {seed}"
                    );
                    assert_eq!(answers.last().unwrap().0, "result", "seed {seed}");
                    *earned.entry(customer.pubkey()).or_default() += 1;
                    delivered += 1;
                }
                // Its work had begun.
                JobState::Cancelled if job.attempts > 0 => {
                    assert_eq!((count("result"), job.cost_msat), (0, PRICE), "seed {seed}");
                    *earned.entry(customer.pubkey()).or_default() += 1;
                }
                _ => assert_eq!((count("result"), job.cost_msat), (0, 0), "seed {seed}: {:?}", job.state),
            }
        }
        for number in 1..=CUSTOMERS {
            let customer = Customer::new(number).pubkey();
            let paid = self.paid.get(&customer).copied().unwrap_or_default();
            let done = earned.get(&customer).copied().unwrap_or_default();
            let credit = self.world.agent.credit_of(&customer).unwrap();
            assert_eq!(paid, done * PRICE + credit, "seed {seed}: customer {number}");
        }
        let done: u64 = earned.values().sum();
        assert_eq!((of(b"held"), of(b"income")), (0, -((done * PRICE) as i64)), "seed {seed}");
        delivered
    }
}

fn run(seeds: std::ops::RangeInclusive<u64>) -> (u64, u64) {
    let (mut delivered, mut paid) = (0, 0);
    for seed in seeds {
        let mut simulation = Simulation::new(seed);
        for _ in 0..STEPS {
            simulation.step();
        }
        simulation.finish();
        delivered += simulation.check();
        paid += simulation.paid.values().sum::<u64>();
    }
    (delivered, paid)
}

#[test]
fn whatever_fails_what_was_paid_is_delivered_or_credit() {
    let (delivered, paid) = run(1..=SEEDS);
    assert!(delivered > SEEDS, "{delivered} of {paid}");
    assert!(paid > delivered * PRICE, "{paid}");
}

#[test]
#[ignore = "takes long"]
fn whatever_fails_from_ten_thousand_seeds() {
    let (delivered, paid) = run(1_001..=11_000);
    assert!(delivered > 10_000, "{delivered} of {paid}");
    assert!(paid > delivered * PRICE, "{paid}");
}

/// A crash before and after each effect: one payment, one result.
#[test]
fn a_crash_at_each_effect_loses_and_repeats_nothing() {
    let scenario = |crash_at: Option<(usize, bool)>| {
        let mut world = World::calling(&deployed());
        let (mut wallet, customer) = (Wallet::new(), Customer::new(1));
        let request = customer.sign(&world.request().text("hello"));
        world.host.store(request.clone());
        world.agent.deliver(world.now, std::slice::from_ref(&request)).unwrap();
        let (mut effects, mut paid) = (0, 0);
        for _ in 0..300 {
            while let Some(effect) = world.agent.poll_effect() {
                effects += 1;
                let dies = crash_at.filter(|(at, _)| *at == effects);
                if dies == Some((effects, false)) {
                    world.crash();
                    continue;
                }
                if dies.is_some() {
                    // It is carried out, and nobody hears of it.
                    match effect {
                        Effect::Publish { events, relays, .. } => drop(world.host.publish(&events, &relays)),
                        Effect::Exchange { requests, .. } => {
                            requests.iter().for_each(|asked| drop(wallet.answer(world.now.seconds(), asked)));
                        }
                        _ => {}
                    }
                    world.crash();
                    continue;
                }
                world.host.carry_out(world.now, &mut world.agent, effect);
            }
            if paid == 0
                && let Some((_, event)) = world
                    .host
                    .answers_to(&request.id)
                    .into_iter()
                    .find(|(status, _)| status == "payment-required")
            {
                wallet.pay(&read_answer(&event, &customer.keys).unwrap().bolt11.unwrap(), None);
                paid += 1;
            }
            world.hand_to_wallet(&mut wallet);
            if !world.host.calls.is_empty() {
                let (id, _) = world.host.calls.remove(0);
                world.agent.handle_http(world.now, id, HttpEvent::Head(200, Vec::new()));
                world.agent.handle_http(world.now, id, HttpEvent::Chunk("done".into()));
                world.agent.handle_http(world.now, id, HttpEvent::End);
            }
            world.now = world.now.plus_millis(1_000);
            world.agent.handle_timeout(world.now);
        }
        let statuses = world.statuses(&request.id);
        assert_eq!(statuses, ["payment-required", "processing", "result"], "{crash_at:?}");
        let books = world.check_books();
        assert_eq!(
            (books.received, books.income),
            (PRICE.div_ceil(1_000) as i64 * 1_000, PRICE as i64),
            "{crash_at:?}"
        );
        assert_eq!(books.reserved, 0, "{crash_at:?}");
        effects
    };
    let effects = scenario(None);
    assert!(effects >= 8, "{effects}");
    for at in 1..=effects {
        scenario(Some((at, false)));
        scenario(Some((at, true)));
    }
}
