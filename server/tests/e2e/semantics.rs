//! The semantics suite, the same as for the machine, over real sockets.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use relay_engine::relay::Config;
use relay_engine::testing::semantics::{Client, RelayUnderTest, cases};
use relay_engine::types::{Limits, Timestamp};
use relay_server::config::{Settings, StoreEngine};

use super::harness::{RawClient, RelayProcess, unix_now};

/// A case that needs a longer sleep than this many seconds is skipped.
const SLEEP_SECONDS_MAX: u64 = 3;

struct ServerWorld {
    relay: RelayProcess,
}

/// Changes the limits of a case.
type Change = fn(&mut Config);

impl ServerWorld {
    fn new(config: &Config, engine: StoreEngine) -> Self {
        let mut settings = Settings {
            limits: config.limits.clone(),
            policy: config.policy.clone(),
            url: config.url.clone(),
            shards: 2,
            ..Settings::default()
        };
        settings.store.engine = engine;
        ServerWorld { relay: RelayProcess::start_with(&toml::to_string(&settings).unwrap()) }
    }
}

impl RelayUnderTest for ServerWorld {
    fn connect(&mut self) -> Box<dyn Client> {
        Box::new(Socket { client: self.relay.connect(), waiting: VecDeque::new() })
    }

    fn connect_from(&mut self, address: IpAddr) -> Option<Box<dyn Client>> {
        let client = self.relay.connect_for(address)?;
        Some(Box::new(Socket { client, waiting: VecDeque::new() }))
    }

    fn now(&self) -> Timestamp {
        unix_now()
    }

    fn advance(&mut self, seconds: u64) -> bool {
        if seconds > SLEEP_SECONDS_MAX {
            return false;
        }
        std::thread::sleep(Duration::from_secs(seconds) + Duration::from_millis(50));
        true
    }

    fn host(&self) -> String {
        self.relay.host().to_owned()
    }
}

struct Socket {
    client: RawClient,
    /// Messages received while the case checked whether the connection was closed.
    waiting: VecDeque<String>,
}

impl Client for Socket {
    fn send(&mut self, text: &str) {
        self.client.send(text);
    }

    fn send_all(&mut self, texts: &[String]) {
        for text in texts {
            self.client.socket.write(tungstenite::Message::text(text)).unwrap();
        }
        self.client.socket.flush().unwrap();
    }

    fn send_binary(&mut self, bytes: &[u8]) {
        self.client.socket.send(tungstenite::Message::binary(bytes.to_vec())).unwrap();
    }

    fn recv(&mut self) -> Option<String> {
        self.waiting.pop_front().or_else(|| self.client.recv())
    }

    fn closed(&mut self) -> Option<u16> {
        // A pong may be sent before the shard's turn that sends a close frame. If a second ping, sent after the first pong, is
        // answered too, the connection is not being closed.
        for _ in 0..2 {
            if !self.client.answers_ping(|text| self.waiting.push_back(text)) {
                break;
            }
        }
        self.client.closed
    }
}

/// All cases, eight worlds at a time. A failed case prints its last messages.
#[test]
fn the_server_passes_the_semantics_suite() {
    let only = std::env::var("RELAY_CASE").unwrap_or_default();
    run(&only, StoreEngine::Log, |_| {});
}

#[test]
fn the_server_passes_the_semantics_suite_with_lmdb() {
    let only = std::env::var("RELAY_CASE").unwrap_or_default();
    run(&only, StoreEngine::Lmdb, |_| {});
}

/// However few events there are on files, they are reconciled from the sums of the store where a case does not say otherwise.
#[test]
fn the_server_reconciles_from_sums() {
    let from_sums = |config: &mut Config| {
        let default = Limits::default().neg_summed_events_min;
        let limits = &mut config.limits;
        if limits.neg_summed_events_min == default {
            limits.neg_summed_events_min = 1;
        }
    };
    run("reconciliation: ", StoreEngine::Log, from_sums);
}

fn run(only: &str, engine: StoreEngine, change: Change) {
    let cases: Vec<_> = cases().into_iter().filter(|case| case.name.contains(only)).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let failed = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    if let Err(message) = case.run(&mut |config| {
                        let mut config = config.clone();
                        change(&mut config);
                        Box::new(ServerWorld::new(&config, engine))
                    }) {
                        failed.lock().unwrap().push(message);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(!cases.is_empty(), "no case is called {only:?}");
    assert!(failed.is_empty(), "{} of {} cases failed\n\n{}", failed.len(), cases.len(), failed.join("\n\n"));
}
