//! Whole routers against scripted relays on loopback, with a database in a folder.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use relay_engine::testing::event_of_json;
use relay_engine::testing::signing::{event, key};
use relay_engine::types::Event;

use super::super::super::testing::{Events, FakeRelay, Without, both, events, text_of};
use super::super::super::tests::{Home, runtime};
use super::super::notice::{Output, What};
use super::super::{Router, RouterConfig};
use super::scripted::{Live, Scripted, until};
use crate::cli::database::unix_now;
use crate::lmdb::LmdbBackend;

/// A router, and what it has told.
struct Running {
    router: Router<LmdbBackend>,
    told: Arc<Mutex<Vec<(What, String)>>>,
}

impl Running {
    /// With short waits.
    async fn start(home: &Home, streams: &str) -> Self {
        let told = Arc::new(Mutex::new(Vec::new()));
        let teller = Arc::clone(&told);
        let output =
            Output::of_test(move |what, words| teller.lock().unwrap().push((what, words.to_owned())));
        let config = config(streams);
        let router =
            Router::start(home.command_store(), &home.settings, &config, None, output).await.unwrap();
        Running { router, told }
    }

    fn count(&self, what: What) -> usize {
        self.told.lock().unwrap().iter().filter(|(told, _)| *told == what).count()
    }

    fn words(&self, what: What) -> Vec<String> {
        let told = self.told.lock().unwrap();
        told.iter().filter(|(told, _)| *told == what).map(|(_, words)| words.clone()).collect()
    }

    async fn synced(&self, times: usize) {
        until("a comparison", || self.count(What::Synced) >= times).await;
    }
}

fn config(streams: &str) -> RouterConfig {
    let times = "connect_timeout_seconds = 1\nbackoff_first_seconds = 0.02\nbackoff_max_seconds = 0.05\n";
    let silence = if streams.contains("silence_seconds") { "" } else { "silence_seconds = 20\n" };
    RouterConfig::parse(&format!("{silence}{times}{streams}")).unwrap()
}

fn stream(name: &str, dir: &str, url: &str) -> String {
    format!("[[stream]]\nname = '{name}'\ndir = '{dir}'\nurls = ['{url}']\n")
}

/// Events of the last minutes.
fn recent(name: &str, count: u64) -> Vec<Event> {
    let newest = unix_now() - 10;
    events(name, (0..count).map(|number| newest - number)).into_values().collect()
}

fn set(list: &[Event]) -> Events {
    list.iter().map(|event| (event.id, event.clone())).collect()
}

#[test]
fn events_go_both_ways_and_none_back() {
    runtime(async {
        let (ours, theirs, before) = (recent("here", 30), recent("there", 30), recent("before", 20));
        let peer = Scripted::start(FakeRelay::with(&set(&before)), &[]).await;
        let home = Home::with(&Events::new());
        let running = Running::start(&home, &stream("a", "both", &peer.url)).await;
        running.synced(1).await;
        assert_eq!(home.events(), set(&before), "what was published in the last hour is compared first");
        for (here, there) in ours.iter().zip(&theirs) {
            home.store(std::slice::from_ref(here));
            peer.publish(there);
        }
        let all = both(&both(&set(&ours), &set(&theirs)), &set(&before));
        until("both sides have all", || home.events() == all && peer.events() == all).await;
        assert_eq!(peer.count("EVENT"), ours.len(), "each once, and none that came from there");
        running.router.stop().await.unwrap();
        let ended = running.told.lock().unwrap().last().cloned();
        assert_eq!(ended.map(|(what, _)| what), Some(What::Ended));
    });
}

#[test]
fn whatever_happens_to_connections_nothing_is_missed() {
    for has_nip in [true, false] {
        runtime(async {
            let script = [
                Live::Refused,
                Live::Deaf,
                Live::Stalled,
                Live::CutAfter(3),
                Live::ClosedAfter(5),
                Live::CutAfter(0),
                Live::Honest,
            ];
            let mut relay = FakeRelay::default();
            relay.without = (!has_nip).then_some(Without::Notice("unknown message"));
            let peer = Scripted::start(relay, &script).await;
            let home = Home::with(&Events::new());
            let toml = format!("silence_seconds = 2\n{}", stream("a", "both", &peer.url));
            let running = Running::start(&home, &toml).await;
            let (ours, theirs) = (recent("here", 40), recent("there", 40));
            for (here, there) in ours.iter().zip(&theirs) {
                home.store(std::slice::from_ref(here));
                peer.publish(there);
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            let all = both(&set(&ours), &set(&theirs));
            let mut more = Vec::new();
            // Until all of the script has happened.
            until("the end of the script", || {
                let is_over = running.count(What::Disconnected) >= script.len() - 1;
                if !is_over {
                    let event = recent(&format!("more {}", more.len()), 1).remove(0);
                    peer.publish(&event);
                    more.push(event);
                }
                is_over
            })
            .await;
            let all = both(&all, &set(&more));
            until("both sides have all", || home.events() == all && peer.events() == all).await;
            running.router.stop().await.unwrap();
        });
    }
}

#[test]
fn where_a_relay_was_followed_last_is_known_after_a_restart() {
    runtime(async {
        let peer = Scripted::start(FakeRelay::default(), &[]).await;
        let home = Home::with(&Events::new());
        let toml = stream("a", "both", &peer.url);
        let running = Running::start(&home, &toml).await;
        running.synced(1).await;
        running.router.stop().await.unwrap();
        // Meanwhile: old events on both sides; only the log knows of those here.
        let old = events("old", 1_000..1_020).into_values().collect::<Vec<_>>();
        home.store(&old);
        let theirs = recent("there", 20);
        theirs.iter().for_each(|event| peer.publish(event));
        let running = Running::start(&home, &toml).await;
        let all = both(&set(&old), &set(&theirs));
        until("both sides have all", || home.events() == all && peer.events() == all).await;
        assert_eq!(peer.count("EVENT"), 20);
        // What comes after the answers has come, so they have been handled: what is not answered would be sent again.
        let last = recent("last", 1).remove(0);
        peer.publish(&last);
        until("the last one", || home.events().contains_key(&last.id)).await;
        running.router.stop().await.unwrap();
        // Another time nothing is sent.
        let running = Running::start(&home, &toml).await;
        running.synced(1).await;
        running.router.stop().await.unwrap();
        assert_eq!(peer.count("EVENT"), 20);
    });
}

#[test]
fn a_relay_that_lies_floods_or_refuses_is_cut_off_for_longer() {
    let forged = {
        let event = &recent("forged", 1)[0];
        let mut value: serde_json::Value = serde_json::from_str(&text_of(event)).unwrap();
        value["sig"] = "0".repeat(128).into();
        value
    };
    let frame = |sub: &str, event: &str| format!(r#"["EVENT","{sub}",{event}]"#);
    let mismatched = text_of(&events("old", [5]).into_values().next().unwrap());
    for (script, why) in [
        (Live::Says(frame("live", &forged.to_string()), 150), "invalid"),
        (Live::Says(frame("live", &mismatched), 150), "not of the filter"),
        (Live::Says(frame("x", &text_of(&recent("x", 1)[0])), 150), "not asked for"),
        (Live::Says("{}".to_owned(), 150), "malformed messages"),
        (Live::Says(format!(r#"["NOTICE","{}"]"#, "x".repeat(1 << 20)), 20), "floods"),
        (Live::Closes("restricted: members only"), "members only"),
        (Live::Closes("auth-required: who are you?"), "--key"),
    ] {
        runtime(async {
            let peer = Scripted::start(FakeRelay::default(), std::slice::from_ref(&script)).await;
            let home = Home::with(&Events::new());
            let filter = "filter = { since = 10 }\n";
            let toml = format!("cut_off_seconds = 3600\n{}{filter}", stream("a", "down", &peer.url));
            let running = Running::start(&home, &toml).await;
            until("it is cut off", || running.count(What::CutOff) == 1).await;
            let words = running.words(What::CutOff).remove(0);
            assert!(words.contains(why) && words.contains("cut off: "), "{words}");
            assert!(words.contains("again in 2") || words.contains("again in 3"), "an hour: {words}");
            assert!(home.events().is_empty());
            running.router.stop().await.unwrap();
        });
    }
}

/// They are in no store: streams pass them on themselves.
#[test]
fn ephemeral_events_go_from_stream_to_stream_and_guarded_ones_do_not() {
    runtime(async {
        let (from, to) = (
            Scripted::start(FakeRelay::default(), &[]).await,
            Scripted::start(FakeRelay::default(), &[]).await,
        );
        let home = Home::with(&Events::new());
        let toml = format!("{}{}", stream("from", "both", &from.url), stream("to", "both", &to.url));
        let running = Running::start(&home, &toml).await;
        running.synced(2).await;
        let ephemeral = |kind, content: &str| {
            let signed = event(&key(1)).kind(kind).at(unix_now()).content(content).sign();
            event_of_json(&signed.json()).unwrap()
        };
        let sent = [ephemeral(21_059, "guarded"), ephemeral(20_001, "a"), ephemeral(20_001, "b")];
        sent.iter().for_each(|event| from.publish(event));
        until("they have come", || to.count("EVENT") == 2).await;
        // One more, which comes last: nothing goes round meanwhile.
        to.publish(&ephemeral(20_001, "back"));
        until("it has come", || from.count("EVENT") == 1).await;
        assert_eq!((to.count("EVENT"), from.count("EVENT")), (2, 1));
        assert!(!to.events().contains_key(&sent[0].id) && home.events().is_empty());
        running.router.stop().await.unwrap();
    });
}

#[test]
fn a_changed_configuration_begins_and_ends_streams_and_the_others_keep_their_connections() {
    runtime(async {
        let (kept, ended, begun) = (
            Scripted::start(FakeRelay::default(), &[]).await,
            Scripted::start(FakeRelay::default(), &[]).await,
            Scripted::start(FakeRelay::default(), &[]).await,
        );
        let home = Home::with(&Events::new());
        let first = stream("kept", "down", &kept.url);
        let mut running =
            Running::start(&home, &format!("{first}{}", stream("ended", "down", &ended.url))).await;
        running.synced(2).await;
        let toml = format!("overlap_seconds = 100\n{first}{}", stream("begun", "down", &begun.url));
        running.router.apply(&config(&toml), None).await.unwrap();
        running.synced(3).await;
        assert_eq!(running.count(What::Ended), 1);
        let words = running.words(What::Configuration);
        assert!(words[1].contains("following 2 relays: 1 begun, 1 ended, 1 kept"), "{words:?}");
        let sent = recent("x", 3);
        [&kept, &ended, &begun].iter().zip(&sent).for_each(|(peer, event)| peer.publish(event));
        let want = both(&set(&sent[..1]), &set(&sent[2..]));
        until("both have come", || home.events() == want).await;
        assert_eq!(kept.count("REQ"), 1, "it was never asked again");
        // Another direction is another stream.
        running.router.apply(&config(&stream("kept", "both", &kept.url)), None).await.unwrap();
        running.synced(4).await;
        assert!(kept.count("REQ") >= 2);
        assert_eq!(running.count(What::Ended), 3);
        running.router.stop().await.unwrap();
    });
}
