//! `relay stream` and `relay router` as an operator runs them: between relays of the same binary.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relay_engine::testing::signing::{Signed, event, key};
use serde_json::Value;
use tempfile::TempDir;

use super::harness::{
    ENGINES, PATIENCE, RELAY, RelayProcess, metric, relay, unix_now, until, without_relay_variables,
};

/// A command that runs until a signal, and what it has printed as JSON lines.
struct Running {
    child: Child,
    lines: Arc<Mutex<Vec<Value>>>,
}

impl Running {
    fn start(args: &[&str], data: &Path) -> Self {
        let mut command = Command::new(RELAY);
        without_relay_variables(&mut command);
        command.args(args).arg("--json").arg("--data").arg(data).current_dir(std::env::temp_dir());
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let lines: Arc<Mutex<Vec<Value>>> = Arc::default();
        let (reader, sink) = (BufReader::new(child.stdout.take().unwrap()), Arc::clone(&lines));
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                println!("stream: {line}");
                sink.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        Running { child, lines }
    }

    fn stream(url: &str, dir: &str, data: &Path, more: &[&str]) -> Self {
        Running::start(&[&["stream", url, "--dir", dir], more].concat(), data)
    }

    fn count(&self, what: &str) -> usize {
        self.lines.lock().unwrap().iter().filter(|line| line["what"] == what).count()
    }

    fn messages(&self, what: &str) -> String {
        let lines = self.lines.lock().unwrap();
        let messages =
            lines.iter().filter(|line| line["what"] == what).map(|line| line["message"].to_string());
        messages.collect::<Vec<_>>().join("\n")
    }

    fn until(&self, what: &str, times: usize) {
        until(&format!("{times} times {what}"), || self.count(what) >= times);
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Ctrl-C. The exit code, and the counts of what was followed.
    fn stop(mut self) -> (Option<i32>, Vec<Value>) {
        self.signal("INT");
        let code = self.child.wait().unwrap().code();
        until("the end of the output", || Arc::strong_count(&self.lines) == 1);
        let lines = self.lines.lock().unwrap();
        let ended = lines.iter().filter(|line| line["what"] == "ended").map(|line| line["counts"].clone());
        (code, ended.collect())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn notes(name: &str, count: u64) -> Vec<Signed> {
    let note = |n| event(&key(1 + n % 3)).at(unix_now() - 10).content(format!("{name} {n}")).sign();
    (0..count).map(note).collect()
}

fn publish(relay: &RelayProcess, notes: &[Signed]) {
    let mut client = relay.connect();
    for note in notes {
        assert_eq!(client.publish(&note.json()), (true, String::new()));
    }
}

/// The ids of what a relay has.
fn ids(relay: &RelayProcess) -> BTreeSet<String> {
    let found = relay.connect().query(r#"{"limit":1000}"#);
    found
        .iter()
        .map(|json| serde_json::from_str::<Value>(json).unwrap()["id"].as_str().unwrap().to_owned())
        .collect()
}

fn set<'a>(lists: impl IntoIterator<Item = &'a [Signed]>) -> BTreeSet<String> {
    lists.into_iter().flatten().map(|note| note.id.to_string()).collect()
}

fn sent_to(relay: &RelayProcess) -> f64 {
    metric(relay, r#"nostr_client_messages_total{verb="EVENT"}"#)
}

fn sent_by(relay: &RelayProcess) -> f64 {
    metric(relay, r#"nostr_relay_messages_total{verb="EVENT"}"#)
}

/// Events go through the relay in the middle, which hears of them only because its stream has stored them: its live
/// subscriptions must be told.
#[test]
fn three_relays_in_a_chain_converge() {
    ENGINES.iter().for_each(|engine| three_relays_converge_on(engine));
}

fn three_relays_converge_on(engine: &str) {
    let relays = [1, 2, 3].map(|_| RelayProcess::start_on(engine));
    let [a, b, c] = &relays;
    // b follows a, c follows b, both of them both ways.
    let first = Running::stream(&a.url, "both", &b.data(), &[]);
    let second = Running::stream(&b.url, "both", &c.data(), &[]);
    first.until("synced", 1);
    second.until("synced", 1);
    let mut live = c.connect();
    live.send(r#"["REQ","live",{"limit":0}]"#);
    live.recv_starting(r#"["EOSE""#);
    let lists: Vec<Vec<Signed>> = ["a", "b", "c"].iter().map(|name| notes(name, 20)).collect();
    for (relay, notes) in relays.iter().zip(&lists) {
        publish(relay, notes);
    }
    let all = set(lists.iter().map(Vec::as_slice));
    for relay in &relays {
        until("all have all", || ids(relay) == all);
    }
    // A client of the last one has been sent all of it, without asking again.
    let mut heard = BTreeSet::new();
    while heard.len() < all.len() {
        let text = live.recv_starting(r#"["EVENT","live""#);
        heard.insert(serde_json::from_str::<Value>(&text).unwrap()[2]["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(heard, all);
    let (code, counts) = first.stop();
    assert_eq!((code, counts.len()), (Some(0), 1));
    // It has stored a's, and sent b's and c's.
    assert_eq!((&counts[0]["stored"], &counts[0]["accepted"]), (&20.into(), &40.into()), "{counts:?}");
    let (code, counts) = second.stop();
    assert_eq!((code, &counts[0]["stored"], &counts[0]["accepted"]), (Some(0), &40.into(), &20.into()));
}

#[test]
fn an_event_crosses_a_link_once_and_routers_do_not_loop() {
    let (a, b) = (RelayProcess::start(), RelayProcess::start());
    let (ours, theirs) = (notes("a", 30), notes("b", 30));
    let all = set([&ours[..], &theirs]);
    let one = Running::stream(&b.url, "both", &a.data(), &[]);
    one.until("synced", 1);
    publish(&a, &ours);
    publish(&b, &theirs);
    until("both have all", || ids(&a) == all && ids(&b) == all);
    // 30 of a client and 30 of a, none of its own; nothing was sent to a but by the client.
    let queried = |relay: &RelayProcess| sent_by(relay);
    assert_eq!((sent_to(&a), sent_to(&b)), (30.0, 60.0));
    // Another one the other way round: now there are two links.
    let two = Running::stream(&a.url, "both", &b.data(), &[]);
    two.until("synced", 1);
    let before = [sent_to(&a), sent_to(&b), queried(&a), queried(&b)];
    let more = [notes("more of a", 30), notes("more of b", 30)];
    publish(&a, &more[0]);
    publish(&b, &more[1]);
    let all: BTreeSet<String> = all.union(&set([&more[0][..], &more[1]])).cloned().collect();
    until("both have all", || ids(&a) == all && ids(&b) == all);
    // Long enough for what would go round.
    std::thread::sleep(Duration::from_secs(1));
    // Each of the 60 at most once on each of two links in each direction; 30 come from clients.
    for (relay, before) in [(&a, before[0]), (&b, before[1])] {
        let came = sent_to(relay) - before - 30.0;
        assert!(came <= 60.0, "{came} events were sent to it");
    }
    let still = [sent_to(&a), sent_to(&b)];
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!([sent_to(&a), sent_to(&b)], still, "nothing moves any more");
    assert_eq!((one.stop().0, two.stop().0), (Some(0), Some(0)));
}

#[test]
fn a_cut_link_heals_without_a_gap() {
    ENGINES.iter().for_each(|engine| a_cut_link_heals_on(engine));
}

fn a_cut_link_heals_on(engine: &str) {
    let (mut a, mut b) = (RelayProcess::start_on(engine), RelayProcess::start_on(engine));
    let address = {
        // A port that stays the same when b starts again: a proxy in front of it.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    };
    let target = Arc::new(Mutex::new(b.host().to_owned()));
    let links: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    forward(address.0, Arc::clone(&target), Arc::clone(&links));
    let url = format!("ws://{}", address.1);
    let stream = Running::stream(&url, "both", &a.data(), &[]);
    stream.until("synced", 1);
    let mut lists = Vec::new();
    for round in 0..4 {
        let (ours, theirs) = (notes(&format!("a {round}"), 10), notes(&format!("b {round}"), 10));
        publish(&a, &ours[..5]);
        publish(&b, &theirs[..5]);
        match round {
            // The network fails.
            0 => {
                links.lock().unwrap().drain(..).for_each(|link| drop(link.shutdown(std::net::Shutdown::Both)))
            }
            // The other relay starts again, elsewhere.
            1 => {
                b.kill();
                b.restart();
                *target.lock().unwrap() = b.host().to_owned();
                links
                    .lock()
                    .unwrap()
                    .drain(..)
                    .for_each(|link| drop(link.shutdown(std::net::Shutdown::Both)));
            }
            // The relay here starts again.
            2 => {
                a.kill();
                a.restart();
            }
            _ => {}
        }
        publish(&a, &ours[5..]);
        publish(&b, &theirs[5..]);
        lists.extend([ours, theirs]);
        let all = set(lists.iter().map(Vec::as_slice));
        until("both have all", || ids(&a) == all && ids(&b) == all);
    }
    assert!(stream.count("disconnected") >= 2, "{}", stream.messages("disconnected"));
    assert_eq!(stream.stop().0, Some(0));
}

/// Passes connections on, and keeps their sockets.
fn forward(listener: TcpListener, target: Arc<Mutex<String>>, links: Arc<Mutex<Vec<TcpStream>>>) {
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(&*target.lock().unwrap()) else { continue };
            links.lock().unwrap().extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
            let pairs = [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)];
            for (mut from, mut to) in pairs {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
}

#[test]
fn a_router_follows_its_file() {
    ENGINES.iter().for_each(|engine| a_router_follows_its_file_on(engine));
}

fn a_router_follows_its_file_on(engine: &str) {
    let (home, a, b) = (RelayProcess::start_on(engine), RelayProcess::start(), RelayProcess::start());
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("router.toml");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let of = |name: &str, relay: &RelayProcess| {
        format!("[[stream]]\nname = '{name}'\ndir = 'down'\nurls = ['{}']\n", relay.url)
    };
    let head = format!("metrics = '{free}'\nrelay = '{}'\n", home.url);
    let write = |text: &str| {
        let new = folder.path().join("new");
        std::fs::write(&new, format!("{head}{text}")).unwrap();
        std::fs::rename(&new, &file).unwrap();
    };
    write(&of("first", &a));
    let router = Running::start(&["router", file.to_str().unwrap()], &home.data());
    router.until("synced", 1);
    write(&format!("{}{}", of("first", &a), of("second", &b)));
    router.until("synced", 2);
    let (from_a, from_b) = (notes("a", 5), notes("b", 5));
    publish(&a, &from_a);
    publish(&b, &from_b);
    until("both have come", || ids(&home) == set([&from_a[..], &from_b]));
    // A file with a mistake changes nothing and is named.
    write(&format!("{}urlz = []\n", of("first", &a)));
    router.until("configuration", 3);
    let words = router.messages("configuration");
    assert!(
        words.contains("stream[0].urlz") && words.contains("what was configured before goes on"),
        "{words}"
    );
    let text = metrics(free.to_string());
    for (stream, relay) in [("first", &a), ("second", &b)] {
        let labels = format!(r#"{{stream="{stream}",url="{}"}}"#, relay.url);
        for line in [
            format!("relay_stream_connected{labels} 1"),
            format!("relay_stream_events_received_total{labels} 5"),
            format!("relay_stream_events_stored_total{labels} 5"),
            format!("relay_stream_reconnects_total{labels} 0"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
        }
    }
    // Without the first one.
    write(&of("second", &b));
    router.until("ended", 1);
    publish(&a, &notes("more of a", 1));
    let more = notes("more of b", 1);
    publish(&b, &more);
    until("it has come", || ids(&home) == set([&from_a[..], &from_b, &more]));
    assert_eq!(router.count("connected"), 2, "no connection was opened anew");
    let (code, counts) = router.stop();
    assert_eq!((code, counts.len()), (Some(0), 2));
}

fn metrics(address: String) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    text
}

/// Ephemeral events are in no store: they go from relay to relay, and not round.
#[test]
fn ephemeral_events_are_streamed_between_serving_relays() {
    let (a, b) = (RelayProcess::start(), RelayProcess::start());
    let one = Running::stream(&b.url, "both", &a.data(), &["--relay", &a.url]);
    let two = Running::stream(&a.url, "both", &b.data(), &["--relay", &b.url]);
    one.until("synced", 1);
    two.until("synced", 1);
    let mut listening = [a.connect(), b.connect()];
    for client in &mut listening {
        client.send(r#"["REQ","live",{"kinds":[20001],"limit":0}]"#);
        client.recv_starting(r#"["EOSE""#);
    }
    let mut publisher = a.connect();
    // The relay here may not be connected to yet: it says nothing of that.
    let mut heard = None;
    until("an ephemeral event on the other side", || {
        let signed = event(&key(1)).kind(20_001).at(unix_now()).content(format!("{}", sent_to(&a))).sign();
        assert!(publisher.publish(&signed.json()).0);
        std::thread::sleep(Duration::from_millis(100));
        // A ping that is answered comes after what was sent before.
        listening[1].answers_ping(|text| heard = heard.take().or(Some(text)));
        heard.is_some()
    });
    assert!(heard.is_some_and(|text| text.starts_with(r#"["EVENT","live""#)));
    std::thread::sleep(Duration::from_secs(1));
    let still = [sent_to(&a), sent_to(&b)];
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!([sent_to(&a), sent_to(&b)], still, "nothing goes round");
    assert!(ids(&a).is_empty() && ids(&b).is_empty());
    assert_eq!((one.stop().0, two.stop().0), (Some(0), Some(0)));
}

#[test]
fn protected_events_are_sent_by_their_author_alone() {
    let (a, b) = (RelayProcess::start(), RelayProcess::start());
    let data = a.data().display().to_string();
    // One second for all, or an event that is made twice may be two events.
    let at = unix_now() - 10;
    let protected = |number| event(&key(number)).at(at).tag(["-"]).sign();
    let public = event(&key(2)).at(at).sign();
    let folder = TempDir::new().unwrap();
    let secret = folder.path().join("key");
    std::fs::write(&secret, format!("{:064x}", 1)).unwrap();
    let stream = Running::stream(&b.url, "up", &a.data(), &["--key", secret.to_str().unwrap()]);
    stream.until("synced", 1);
    let lines: String =
        [protected(1), protected(2), public.clone()].iter().map(|event| event.json() + "\n").collect();
    assert!(relay(&["import", "--data", &data], lines.as_bytes()).status.success());
    let want = BTreeSet::from([protected(1).id.to_string(), public.id.to_string()]);
    until("both have come", || ids(&b) == want);
    let (_, counts) = stream.stop();
    assert_eq!((&counts[0]["accepted"], &counts[0]["withheld"]), (&2.into(), &1.into()), "{counts:?}");
}

#[test]
fn a_relay_that_wants_authentication_is_followed_with_a_key() {
    let (a, b) = (RelayProcess::start(), RelayProcess::start_with("[policy]\nauth_required = true\n"));
    let folder = TempDir::new().unwrap();
    let secret = folder.path().join("key");
    std::fs::write(&secret, format!("{:064x}", 1)).unwrap();
    let without = Running::stream(&b.url, "both", &a.data(), &[]);
    without.until("cut_off", 1);
    assert!(without.messages("cut_off").contains("--key"), "{}", without.messages("cut_off"));
    assert_eq!(without.stop().0, Some(0));
    let before = notes("before", 5);
    let data = b.data().display().to_string();
    let lines = |notes: &[Signed]| notes.iter().map(|note| note.json() + "\n").collect::<String>();
    assert!(relay(&["import", "--data", &data], lines(&before).as_bytes()).status.success());
    let with = Running::stream(&b.url, "both", &a.data(), &["--key", secret.to_str().unwrap()]);
    with.until("synced", 1);
    let (ours, theirs) = (notes("a", 5), notes("b", 5));
    publish(&a, &ours);
    assert!(relay(&["import", "--data", &data], lines(&theirs).as_bytes()).status.success());
    until("all has come", || ids(&a) == set([&before[..], &ours, &theirs]));
    let exported = || String::from_utf8(relay(&["export", "--data", &data], b"").stdout).unwrap();
    until("all has gone", || exported().lines().count() == 15);
    assert_eq!(with.stop().0, Some(0));
}

#[test]
fn what_is_wrong_is_said_and_has_an_exit_code() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("router.toml");
    let name = file.to_str().unwrap();
    let data = folder.path().join("data").display().to_string();
    let good = "[[stream]]\nname = 'a'\ndir = 'up'\nurls = ['wss://a.example']\n";
    for (text, args, why) in [
        (Some(format!("{good}filtr = {{}}\n")), &["router", name][..], "stream[0].filtr"),
        (Some(format!("{good}{good}")), &["router", name], "`stream[1].name`"),
        (Some(format!("key = '/nowhere'\n{good}")), &["router", name], "`key`: cannot read /nowhere"),
        (None, &["router", name], "cannot read"),
        (None, &["router"], "FILE"),
        (None, &["stream"], "URL"),
        (None, &["stream", "relay.example"], "expected ws://"),
        (None, &["stream", "wss://a.example", "wss://a.example"], "twice"),
        (None, &["stream", "wss://a.example", "--filter", "{"], "--filter"),
        (None, &["stream", "wss://a.example", "--since", "yore"], "--since"),
        (None, &["stream", "wss://a.example", "--timeout", "0"], "seconds"),
        (None, &["stream", "wss://a.example", "--dir", "sideways"], "--dir"),
    ] {
        match &text {
            Some(text) => std::fs::write(&file, text).unwrap(),
            None => drop(std::fs::remove_file(&file)),
        }
        let output = relay(&[args, &["--data", &data]].concat(), b"");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?} {text:?}: {stderr}");
        assert!(stderr.contains(why), "{args:?} {text:?}: {stderr}");
    }
    std::fs::write(&file, good).unwrap();
    let output = relay(&["router", name, "--check", "--data", &data], b"");
    assert_eq!(output.status.code(), Some(0));
    assert!(!folder.path().join("data").exists(), "nothing was done");
}
