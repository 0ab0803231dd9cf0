//! Whole commands against scripted relays on loopback, into a database in a folder.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use relay_agent::identity::Keys;
use relay_engine::testing::event_of_json;
use relay_engine::testing::signing::{Draft, event, key};
use relay_engine::types::Event;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use super::{Method, Options, Outcome, RelayUrl, Report, SyncClient};
use crate::cli::command_store::CommandStore;
use crate::cli::database;
use crate::config::Settings;
use crate::lmdb::{LmdbBackend, LmdbOptions};
use crate::signals::Interrupt;
use relay_sync::outcome_counts::OutcomeCounts;
use relay_sync::testing::{Events, FakeRelay, Lie, both, events};

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// It is closed before the handshake.
    Refused,
    /// The handshake is not answered.
    Deaf,
    /// It is cut after so many messages.
    Cut(usize),
    /// It is closed in order after so many messages.
    Closed(usize),
    /// Nothing comes after so many messages.
    Stalled(usize),
    /// Messages come one by one.
    Slow,
}

/// A scripted relay that listens.
struct Peer {
    relay: Arc<Mutex<FakeRelay>>,
    url: RelayUrl,
}

impl Peer {
    /// The faults are those of one connection after another; then there are none.
    async fn start(relay: FakeRelay, faults: &[Fault], information: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap()).parse().unwrap();
        let relay = Arc::new(Mutex::new(relay));
        let shared = Arc::clone(&relay);
        let mut faults: VecDeque<Fault> = faults.iter().copied().collect();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 2_048];
                let head = match stream.peek(&mut head).await {
                    Ok(len) => String::from_utf8_lossy(&head[..len]).to_lowercase(),
                    Err(_) => continue,
                };
                if head.contains("upgrade: websocket") {
                    let fault = faults.pop_front().unwrap_or(Fault::None);
                    tokio::spawn(talk(stream, Arc::clone(&shared), fault));
                } else {
                    // As soon as it has been read: else the answer would be lost with the connection.
                    let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 2_048]).await;
                    let body = information.unwrap_or("nothing");
                    let head = format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                        body.len()
                    );
                    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
                    let _ = stream.shutdown().await;
                }
            }
        });
        Peer { relay, url }
    }

    fn events(&self) -> Events {
        self.relay.lock().unwrap().events.clone()
    }
}

async fn talk(stream: TcpStream, relay: Arc<Mutex<FakeRelay>>, fault: Fault) {
    match fault {
        Fault::Refused => return,
        Fault::Deaf => return std::future::pending().await,
        _ => {}
    }
    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
    let mut answers = relay.lock().unwrap().connect();
    let mut sent = 0;
    loop {
        for answer in answers {
            match fault {
                Fault::Cut(after) if sent == after => return,
                Fault::Closed(after) if sent == after => {
                    let _ = socket.close(None).await;
                    return;
                }
                Fault::Stalled(after) if sent == after => return std::future::pending().await,
                Fault::Slow => tokio::time::sleep(Duration::from_millis(2)).await,
                _ => {}
            }
            if socket.send(Message::text(answer)).await.is_err() {
                return;
            }
            sent += 1;
        }
        let text = loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) => break text,
                Some(Ok(_)) => {}
                _ => return,
            }
        };
        answers = relay.lock().unwrap().handle(&text);
        if relay.lock().unwrap().has_hung_up {
            return;
        }
    }
}

/// A relay here.
pub(super) struct Home {
    _folder: TempDir,
    pub(super) store: LmdbBackend,
    pub(super) settings: Settings,
    interrupt: Interrupt,
}

impl Home {
    pub(super) fn with(events: &Events) -> Self {
        let folder = TempDir::new().unwrap();
        let settings = Settings { data: folder.path().join("data"), ..Settings::default() };
        let store = LmdbBackend::open(&settings.data, &LmdbOptions::default()).unwrap();
        let home = Home { _folder: folder, store, settings, interrupt: Interrupt::without_signals() };
        let local = super::local::Local::new(home.command_store(), &home.settings);
        let outcomes = local.store(events.values().cloned().collect()).unwrap();
        assert_eq!(outcomes.counts.stored as usize, events.len());
        home
    }

    pub(super) fn command_store(&self) -> CommandStore<LmdbBackend> {
        CommandStore::own(self.store.clone())
    }

    /// Stores events, as another process does.
    pub(super) fn store(&self, events: &[Event]) {
        let local = super::local::Local::new(self.command_store(), &self.settings);
        local.store(events.to_vec()).unwrap();
    }

    pub(super) fn events(&self) -> Events {
        let mut found = Events::new();
        let mut scan = database::OfflineScan::new(&self.store, [Default::default()].into()).unwrap();
        while scan
            .step(&self.store, &mut |hit| {
                let event = relay_engine::types::Event::from_canonical(hit.event.json().into());
                found.insert(event.id, event);
                relay_engine::store::SinkResult::Continue
            })
            .unwrap()
        {}
        found
    }

    /// Syncs as the command does, with short waits.
    async fn sync(&self, peer: &Peer, change: impl FnOnce(&mut Options<'_>)) -> Report {
        let mut options = Options {
            filter: "{}",
            since: None,
            until: None,
            down: true,
            up: true,
            dry_run: false,
            timeout: Duration::from_secs(20),
            tries: 5,
            keys: None,
        };
        change(&mut options);
        let mut task = options.task().unwrap();
        task.backoff = task.backoff.with_first(Duration::from_millis(2));
        let client =
            SyncClient::new(task, self.command_store(), &self.settings, self.interrupt.clone()).unwrap();
        let report = client.run(&peer.url, &mut |_| {}).await.unwrap();
        client.finish().unwrap();
        report
    }
}

pub(super) fn runtime(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
    // A stalled connection is not waited for.
    runtime.shutdown_background();
}

#[test]
fn whatever_happens_to_connections_both_sides_have_all_in_the_end() {
    let mine = events("here", (0..300).map(|n| 1_000 + n));
    let others = events("there", (0..400).map(|n| 900 + n));
    let all = both(&mine, &others);
    for (has_nip, faults) in [
        (true, &[][..]),
        (true, &[Fault::Refused, Fault::Refused, Fault::None]),
        (true, &[Fault::Deaf]),
        (true, &[Fault::Cut(1), Fault::Cut(20), Fault::Closed(150), Fault::Cut(300)]),
        (true, &[Fault::Stalled(60), Fault::None]),
        (true, &[Fault::Slow]),
        (false, &[Fault::Cut(30), Fault::Closed(200), Fault::Stalled(100)]),
    ] {
        runtime(async {
            let information =
                if has_nip { r#"{"supported_nips":[77]}"# } else { r#"{"supported_nips":[1]}"# };
            let mut relay = FakeRelay::with(&others);
            relay.limit_max = Some(100);
            let peer = Peer::start(relay, faults, Some(information)).await;
            let home = Home::with(&mine);
            let is_stalled = faults.iter().any(|fault| matches!(fault, Fault::Deaf | Fault::Stalled(_)));
            let timeout = Duration::from_secs(if is_stalled { 2 } else { 20 });
            let report = home.sync(&peer, |options| options.timeout = timeout).await;
            let case = format!("NIP-77 {has_nip}, {faults:?}: {report:?}");
            assert_eq!(report.result, Outcome::Done, "{case}");
            assert!(home.events() == all && peer.events() == all, "{case}");
            assert_eq!(report.method, if has_nip { Method::Negentropy } else { Method::Pages }, "{case}");
            let stored = report.counts.outcomes.stored;
            assert_eq!(stored, 400, "{case}");
            // Another time there is nothing to do.
            let Report { counts, .. } = home.sync(&peer, |_| {}).await;
            assert_eq!((counts.outcomes.stored, counts.sent, counts.outcomes.duplicate), (0, 0, 0), "{case}");
        });
    }
}

#[test]
fn a_relay_that_does_not_answer_is_given_up_in_words() {
    for (faults, why) in [
        (&[Fault::Refused; 9][..], "cannot connect"),
        (&[Fault::Deaf; 9], "no answer"),
        (&[Fault::Stalled(0); 9], "no answer for 0.7 s"),
        (&[Fault::Cut(0); 9], "cut"),
    ] {
        runtime(async {
            let peer =
                Peer::start(FakeRelay::with(&events("x", 1_000..1_010)), faults, Some(r#"{"negentropy":1}"#))
                    .await;
            let home = Home::with(&Events::new());
            let report = home
                .sync(&peer, |options| (options.timeout, options.tries) = (Duration::from_millis(700), 3))
                .await;
            assert_eq!(report.connections, 3, "{faults:?}");
            let Outcome::GivenUp(error) = report.result else { panic!("{faults:?}") };
            assert!(
                error.contains(why) || why == "cut" && error.contains("closes the connection"),
                "{faults:?}: {error}"
            );
        });
    }
}

#[test]
fn a_relay_without_nip_77_is_not_asked_for_it() {
    runtime(async {
        let others = events("there", (0..130).map(|n| 1_000 + n / 3));
        let mut relay = FakeRelay::with(&others);
        relay.limit_max = Some(25);
        let information = r#"{"supported_nips":[1,11],"limitation":{"max_limit":25}}"#;
        let peer = Peer::start(relay, &[], Some(information)).await;
        let home = Home::with(&Events::new());
        let report = home.sync(&peer, |_| {}).await;
        assert_eq!((report.result, report.method), (Outcome::Done, Method::Pages));
        assert_eq!(home.events(), others);
        assert_eq!(peer.relay.lock().unwrap().count("NEG-OPEN"), 0);
    });
}

#[test]
fn forged_events_are_not_stored() {
    for has_nip in [r#"{"negentropy":1}"#, r#"{"supported_nips":[]}"#] {
        runtime(async {
            let mut relay = FakeRelay::with(&events("there", 1_000..1_060));
            relay.lie = Lie::Forged;
            let peer = Peer::start(relay, &[], Some(has_nip)).await;
            let home = Home::with(&Events::new());
            let report = home.sync(&peer, |_| {}).await;
            assert_eq!((report.counts.invalid, report.counts.outcomes.stored), (60, 0), "{report:?}");
            assert!(home.events().is_empty() && report.counts.has_refused());
            // More of them end the session, also if they are checked only when all have come.
            for newest in [1_150, 3_500] {
                let mut relay = FakeRelay::with(&events("there", 1_000..newest));
                relay.lie = Lie::Forged;
                let peer = Peer::start(relay, &[], Some(has_nip)).await;
                let report = home.sync(&peer, |_| {}).await;
                assert!(
                    matches!(&report.result, Outcome::Failed(why) if why.contains("invalid")),
                    "{report:?}"
                );
                assert!(home.events().is_empty());
            }
        });
    }
}

fn signed(draft: Draft) -> Events {
    let event = event_of_json(&draft.sign().json()).unwrap();
    [(event.id, event)].into()
}

/// The rules of the store hold for what comes: what was deleted or replaced does not come back.
#[test]
fn what_was_deleted_or_replaced_here_does_not_come_back() {
    runtime(async {
        let author = key(1);
        let gone = signed(event(&author).at(1_000).content("gone"));
        let id = gone.keys().next().unwrap().to_string();
        let deletion = signed(event(&author).kind(5).at(1_001).tag(["e", &id]));
        let old = signed(event(&author).kind(0).at(1_000).content("old"));
        let new = signed(event(&author).kind(0).at(1_002).content("new"));
        let home = Home::with(&both(&deletion, &new));
        let peer = Peer::start(FakeRelay::with(&both(&gone, &old)), &[], Some(r#"{"negentropy":1}"#)).await;
        let report = home.sync(&peer, |_| {}).await;
        let (OutcomeCounts { stored, deleted, superseded, .. }, sent) =
            (report.counts.outcomes, report.counts.sent);
        assert_eq!((report.result, stored, deleted, superseded, sent), (Outcome::Done, 0, 1, 1, 2));
        assert_eq!(home.events(), both(&deletion, &new));
        assert!(!report.counts.has_refused(), "nobody is at fault");
        // The other way: a deletion that comes takes effect.
        let peer = Peer::start(FakeRelay::with(&home.events()), &[], None).await;
        let home = Home::with(&both(&gone, &old));
        let report = home.sync(&peer, |options| options.up = false).await;
        assert_eq!((report.result, report.counts.outcomes.stored), (Outcome::Done, 2));
        assert_eq!(home.events(), both(&deletion, &new));
    });
}

#[test]
fn guarded_and_protected_events_are_not_sent_unless_named() {
    runtime(async {
        let author = key(1);
        let wrap = signed(event(&author).kind(1_059).at(1_000).tag(["p", author.hex()]));
        let protected = signed(event(&author).at(1_001).tag(["-"]));
        let public = signed(event(&author).at(1_002));
        let home = Home::with(&both(&both(&wrap, &protected), &public));
        for information in [r#"{"negentropy":1}"#, r#"{"supported_nips":[]}"#] {
            let peer = Peer::start(FakeRelay::default(), &[], Some(information)).await;
            let dry = home.sync(&peer, |options| options.dry_run = true).await;
            assert_eq!((dry.counts.have, dry.counts.withheld), (1, 2));
            let report = home.sync(&peer, |_| {}).await;
            assert_eq!((report.result, report.counts.sent, report.counts.withheld), (Outcome::Done, 1, 2));
            assert_eq!(peer.events(), public);
            let named = home.sync(&peer, |options| options.filter = r#"{"kinds":[1059]}"#).await;
            assert_eq!((named.counts.sent, named.counts.withheld), (1, 0));
            assert_eq!(peer.events(), both(&public, &wrap));
        }
    });
}

/// Regression: reconciliations told the other relay the ids of guarded events.
#[test]
fn ids_of_guarded_events_do_not_reach_the_other_relay() {
    runtime(async {
        let author = key(1);
        let wrap = signed(event(&author).kind(1_059).at(1_000).tag(["p", author.hex()]));
        let public = signed(event(&author).at(1_002));
        let home = Home::with(&both(&wrap, &public));
        let told = |peer: &Peer, events: &Events| {
            let relay = peer.relay.lock().unwrap();
            let told = events.values().any(|event| relay.was_told_of(event));
            (told, relay.asked_ids)
        };
        for information in [r#"{"negentropy":1}"#, r#"{"supported_nips":[]}"#] {
            let peer = Peer::start(FakeRelay::default(), &[], Some(information)).await;
            home.sync(&peer, |_| {}).await;
            home.sync(&peer, |options| {
                (options.up, options.filter) = (false, r#"{"kinds":[1059]}"#);
            })
            .await;
            assert_eq!(told(&peer, &wrap), (false, 0));
            assert_eq!(peer.events(), public);
            // One that has them tells so, and is not asked for what is here.
            let peer = Peer::start(FakeRelay::with(&home.events()), &[], Some(information)).await;
            let report = home.sync(&peer, |_| {}).await;
            assert_eq!((report.result, report.counts.outcomes), (Outcome::Done, OutcomeCounts::default()));
            assert_eq!(told(&peer, &wrap), (false, 0));
        }
    });
}

#[test]
fn a_relay_that_asks_for_authentication_gets_the_key() {
    runtime(async {
        let others = events("there", 1_000..1_010);
        let mut relay = FakeRelay::with(&others);
        relay.wants_auth = true;
        let home = Home::with(&Events::new());
        let peer = Peer::start(relay, &[], None).await;
        let report = home.sync(&peer, |_| {}).await;
        assert!(matches!(report.result, Outcome::Failed(why) if why.contains("--key")));
        let keys = Keys::from_secret_bytes([1; 32]).unwrap();
        let report = home.sync(&peer, |options| options.keys = Some(keys)).await;
        assert_eq!((report.result, home.events()), (Outcome::Done, others));
    });
}

#[test]
fn a_signal_ends_it_and_what_has_come_is_kept() {
    runtime(async {
        let others = events("there", 1_000..1_300);
        let peer =
            Peer::start(FakeRelay::with(&others), &[Fault::Stalled(100)], Some(r#"{"negentropy":1}"#)).await;
        let home = Home::with(&Events::new());
        let waiting = async {
            // All that comes has come.
            while peer.relay.lock().unwrap().count("REQ") == 0 || home.events().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            home.interrupt.come();
        };
        let syncing = home.sync(&peer, |options| options.timeout = Duration::from_secs(600));
        let (report, ()) = tokio::join!(syncing, waiting);
        assert_eq!(report.result, Outcome::Interrupted);
        let stored = home.events().len();
        assert!(stored > 0 && stored < 300 && report.counts.outcomes.stored as usize == stored, "{stored}");
    });
}
