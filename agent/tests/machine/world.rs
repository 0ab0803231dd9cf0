//! An agent with a host and a clock.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use relay_agent::machine::{Account, Agent, BlobServer, Context, EffectId, ExchangeEvent};
use relay_agent::manifest::Manifest;
use relay_agent::secrets::Secrets;
use relay_agent::testing::{BLOSSOM_URL, Customer, FakeHost, Request, Sqlite, calling_executor};
use relay_engine::types::{Event, EventId, Now, PubKey};
use serde_json::{Value, json};

use crate::wallet::{self, Wallet};

pub(crate) const START: u64 = 1_800_000_000;
pub(crate) const RELAY_URL: &str = "wss://relay.example";

pub(crate) struct World {
    pub(crate) sqlite: Sqlite,
    pub(crate) agent: Agent<Sqlite>,
    pub(crate) host: FakeHost,
    pub(crate) now: Now,
    is_calling: bool,
    openings: u8,
    /// Exchanges in which a wallet has said what it can do, and requests that one has answered.
    informed: HashSet<(PubKey, EffectId)>,
    answered: HashSet<EventId>,
}

/// Sums of the books, in millisatoshis; `received` is what came less what was paid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Books {
    pub(crate) received: i64,
    pub(crate) reserved: i64,
    pub(crate) income: i64,
    pub(crate) credit: i64,
    /// What is being paid out.
    pub(crate) refunds: i64,
    /// What is due to recipients of shares.
    pub(crate) shares: i64,
}

/// A manifest with a handler of kind 5050, changed by `change`.
pub(crate) fn manifest(change: impl FnOnce(&mut Value)) -> Manifest {
    let mut json = json!({
        "name": "Tester",
        "handlers": [{"kind": 5050, "executor": "echo", "config": {}}],
        "announce": false
    });
    change(&mut json);
    serde_json::from_value(json).expect("a manifest")
}

pub(crate) fn context(seed: u8) -> Context {
    let secrets = |name: &str| match name {
        "AGENT_MASTER_SECRET" => Some("5a".repeat(32)),
        "AGENT_WALLET" => Some(wallet::uri()),
        "AGENT_SECOND_WALLET" => Some(wallet::other_uri()),
        _ => None,
    };
    let secrets: Arc<dyn Secrets + Send + Sync> = Arc::new(secrets);
    Context { secrets, relay_url: Some(RELAY_URL.to_owned()), blossom: Some(blossom()), seed: [seed; 32] }
}

/// The host's Blossom server.
pub(crate) fn blossom() -> BlobServer {
    BlobServer { base_url: BLOSSOM_URL.to_owned(), blob_bytes_max: 400_000 }
}

pub(crate) fn owner() -> PubKey {
    Customer::new(1_000).pubkey()
}

impl World {
    /// With executors as the manifest says.
    pub(crate) fn new(manifest: &Manifest) -> Self {
        Self::on(Sqlite::new(), manifest, false)
    }

    /// With executors whose work is a call, which the test answers.
    pub(crate) fn calling(manifest: &Manifest) -> Self {
        Self::on(Sqlite::new(), manifest, true)
    }

    fn on(sqlite: Sqlite, manifest: &Manifest, is_calling: bool) -> Self {
        let now = Now::from_seconds(START);
        let agent = open(now, sqlite.clone(), is_calling, 0);
        let (host, informed, answered) = (FakeHost::default(), HashSet::new(), HashSet::new());
        let mut world = World { sqlite, agent, host, now, is_calling, openings: 0, informed, answered };
        world.agent.deploy(now, manifest, &owner()).expect("deployed");
        world.run();
        world
    }

    pub(crate) fn pubkey(&self) -> PubKey {
        self.agent.pubkey().expect("it is deployed")
    }

    /// A request to the agent, of kind 5050.
    pub(crate) fn request(&self) -> Request {
        Request::new(5050, self.now.seconds()).to(&self.pubkey())
    }

    pub(crate) fn run(&mut self) {
        self.host.run(self.now, &mut self.agent);
    }

    /// The relay stores an event and delivers it.
    pub(crate) fn deliver(&mut self, event: &Event) {
        self.host.store(event.clone());
        self.agent.deliver(self.now, std::slice::from_ref(event)).expect("stored");
        self.run();
    }

    /// Time passes, up to each of the agent's times.
    pub(crate) fn pass(&mut self, seconds: u64) {
        let end = self.now.plus_millis(seconds * 1000);
        while let Some(at) = self.agent.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.agent.handle_timeout(self.now);
            self.run();
        }
        self.now = end;
        self.run();
    }

    /// The process dies, and the agent is opened again.
    pub(crate) fn crash(&mut self) {
        self.openings += 1;
        self.host.calls.clear();
        self.host.exchanges.clear();
        // The ids of effects begin anew.
        self.informed.clear();
        self.agent = open(self.now, self.sqlite.clone(), self.is_calling, self.openings);
    }

    /// Whether a request to a wallet has not been answered; from now on it is.
    pub(crate) fn takes_up(&mut self, request: &EventId) -> bool {
        self.answered.insert(*request)
    }

    /// The wallet answers what it has not answered yet: exchanges stay open, and a request is answered once, since a real wallet knows its
    /// event again. Whether there was anything. Other wallets do not answer.
    pub(crate) fn hand_to_wallet(&mut self, wallet: &mut Wallet) -> bool {
        let mut is_new = false;
        for (id, requests) in self.host.exchanges.clone() {
            if self.informed.insert((wallet.pubkey(), id)) {
                is_new = true;
                self.agent.handle_exchange(self.now, id, ExchangeEvent::Event(wallet.info()));
            }
            for request in &requests {
                if wallet.is_asked(request) && self.answered.insert(request.id) {
                    is_new = true;
                    let answer = wallet.answer(self.now.seconds(), request);
                    self.agent.handle_exchange(self.now, id, ExchangeEvent::Event(answer));
                }
            }
        }
        is_new
    }

    /// The wallet answers all that it is asked, until it is asked nothing more.
    pub(crate) fn ask_wallet(&mut self, wallet: &mut Wallet) {
        while self.hand_to_wallet(wallet) {
            self.run();
        }
    }

    /// Time passes, while the wallet answers.
    pub(crate) fn pass_with(&mut self, wallet: &mut Wallet, seconds: u64) {
        let end = self.now.plus_millis(seconds * 1000);
        self.ask_wallet(wallet);
        while let Some(at) = self.agent.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.agent.handle_timeout(self.now);
            self.run();
            self.ask_wallet(wallet);
        }
        self.now = end;
        self.run();
        self.ask_wallet(wallet);
    }

    /// The books sum to zero, entry by entry and account by account; what customers own, what is reserved or being paid out, and what is earned is
    /// what came.
    pub(crate) fn check_books(&self) -> Books {
        let all = self.agent.transfers(0, 1_000_000).unwrap();
        let mut balances: HashMap<Account, i64> = HashMap::new();
        for transfer in &all {
            *balances.entry(transfer.debit).or_default() += transfer.msat as i64;
            *balances.entry(transfer.credit).or_default() -= transfer.msat as i64;
        }
        assert_eq!(balances.values().sum::<i64>(), 0);
        for (account, balance) in &balances {
            assert_eq!(self.agent.balance(account).unwrap(), *balance, "{account:?}");
        }
        let of = |account: &Account| balances.get(account).copied().unwrap_or_default();
        let credits = self.agent.credits().unwrap();
        let books = Books {
            received: of(&Account::Wallet),
            reserved: -of(&Account::Reserved),
            income: -of(&Account::Income),
            credit: credits.iter().map(|(_, msat)| *msat as i64).sum(),
            refunds: -of(&Account::Refunds),
            shares: balances
                .iter()
                .filter_map(|(account, balance)| matches!(account, Account::Recipient(_)).then_some(-balance))
                .sum(),
        };
        assert!(books.reserved >= 0 && books.refunds >= 0, "{books:?}");
        let all = books.reserved + books.income + books.credit + books.refunds + books.shares;
        assert_eq!(books.received, all, "{books:?}");
        books
    }

    pub(crate) fn answer(&mut self, status: u16, body: &str) {
        self.host.answer(self.now, &mut self.agent, status, body);
    }

    /// What was published about a request, each by its status.
    pub(crate) fn statuses(&self, request: &EventId) -> Vec<String> {
        self.host.answers_to(request).into_iter().map(|(status, _)| status).collect()
    }

    /// The last thing that was published about a request, in its customer's eyes.
    pub(crate) fn last(&self, customer: &Customer, request: &EventId) -> (String, String) {
        let (status, event) = self.host.answers_to(request).pop().expect("an answer");
        (status, customer.read(&event))
    }
}

fn open(now: Now, sqlite: Sqlite, is_calling: bool, seed: u8) -> Agent<Sqlite> {
    match is_calling {
        true => Agent::open_with_executors(now, sqlite, context(seed), calling_executor),
        false => Agent::open(now, sqlite, context(seed)),
    }
    .expect("it opens")
}
