//! Sessions that do not fit beside their sockets.

use std::rc::Rc;

use relay_edge::settings::Settings;
use relay_engine::testing::signing::{event, key};

use super::world::{Hibernates, Runtime, Socket};

fn authors(from: u64, count: u64) -> String {
    let keys: Vec<String> = (from..from + count).map(|n| format!("\"{n:064x}\"")).collect();
    keys.join(",")
}

fn ask(runtime: &mut Runtime, socket: &Rc<Socket>, text: &str) -> Vec<String> {
    runtime.text(socket.key, text);
    runtime.drive();
    socket.output.borrow_mut().drain(..).collect()
}

#[test]
fn large_filters_go_to_the_store_and_are_deleted_with_their_subscription() {
    let mut runtime = Runtime::new(Settings::default(), Hibernates::Always);
    let socket = runtime.connect().unwrap();
    ask(&mut runtime, &socket, "");
    let small = r#"["REQ","small",{"kinds":[1]}]"#;
    assert_eq!(ask(&mut runtime, &socket, small), [r#"["EOSE","small"]"#]);
    assert_eq!(runtime.store.count("edge_part"), 0);
    // Near 290 KB, then three times as much.
    let large = |sub: &str, from| format!(r#"["REQ","{sub}",{{"authors":[{}]}}]"#, authors(from, 9_000));
    for sub in ["a", "b", "a"] {
        ask(&mut runtime, &socket, &large(sub, 0));
    }
    assert_eq!(runtime.store.count("edge_part"), 1, "the same filters are the same overflow");
    ask(&mut runtime, &socket, &large("b", 9_000));
    assert_eq!(runtime.store.count("edge_part"), 2);
    ask(&mut runtime, &socket, r#"["CLOSE","a"]"#);
    assert_eq!(runtime.store.count("edge_part"), 1);
    let other = runtime.connect().unwrap();
    ask(&mut runtime, &other, &large("c", 3));
    assert_eq!(runtime.store.count("edge_part"), 2);
    let now = runtime.now;
    runtime.object().disconnect(now, other.key);
    assert_eq!(runtime.store.count("edge_part"), 1);
    // The overflows of a socket that closes during hibernation are deleted when the object wakes up.
    runtime.hibernate();
    runtime.sockets.clear();
    runtime.object();
    assert_eq!(runtime.store.count("edge_part"), 0);
}

#[test]
fn many_subscriptions_with_long_ids_survive() {
    let mut runtime = Runtime::new(Settings::default(), Hibernates::Always);
    let socket = runtime.connect().unwrap();
    for n in 0..300 {
        let asked = format!(r#"["REQ","{n:064}",{{"authors":[{}]}}]"#, authors(n, 5));
        assert!(ask(&mut runtime, &socket, &asked).last().unwrap().starts_with(r#"["EOSE""#));
    }
    assert!(runtime.store.count("edge_part") > 0);
    let one_more = ask(&mut runtime, &socket, r#"["REQ","x",{}]"#);
    assert!(one_more[0].contains("300 are open"), "{one_more:?}");
}

#[test]
fn a_session_that_cannot_be_restored_is_closed() {
    let mut runtime = Runtime::new(Settings::default(), Hibernates::Never);
    let (good, bad) = (runtime.connect().unwrap(), runtime.connect().unwrap());
    runtime.drive();
    bad.attachment.borrow_mut().truncate(40);
    runtime.hibernate();
    runtime.object();
    assert_eq!((good.closed.get(), bad.closed.get()), (None, Some(1012)));
    assert!(bad.attachment.borrow().is_empty());
}

#[test]
fn a_store_that_fails_costs_no_session() {
    let mut runtime = Runtime::new(Settings::default(), Hibernates::Never);
    let socket = runtime.connect().unwrap();
    let note = event(&key(1)).at(runtime.now.seconds()).content("one").sign();
    runtime.text(socket.key, &format!(r#"["EVENT",{}]"#, note.json()));
    runtime.drive();
    runtime.store.is_broken.set(true);
    let frames =
        ask(&mut runtime, &socket, &format!(r#"["REQ","a",{{"authors":[{}]}}]"#, authors(0, 10_000)));
    assert!(frames.iter().any(|frame| frame.starts_with(r#"["CLOSED","a","error:"#)), "{frames:?}");
    runtime.store.is_broken.set(false);
    assert_eq!(ask(&mut runtime, &socket, r#"["REQ","a",{"kinds":[7]}]"#), [r#"["EOSE","a"]"#]);
    runtime.hibernate();
    let frames = ask(&mut runtime, &socket, r#"["REQ","b",{"kinds":[1]}]"#);
    assert_eq!(frames.len(), 2, "{frames:?}");
    assert_eq!(frames[1], r#"["EOSE","b"]"#);
}

#[test]
fn many_unanswered_bytes_tick_at_once() {
    let mut runtime = Runtime::new(Settings::default(), Hibernates::Never);
    let socket = runtime.connect().unwrap();
    let t = runtime.now.seconds();
    for n in 0..100u64 {
        let note = event(&key(1)).at(t - n).content("x".repeat(100_000)).sign();
        runtime.text(socket.key, &format!(r#"["EVENT",{}]"#, note.json()));
    }
    // Ten megabytes arrived at once, and most of them were stored before the scheduled tick.
    assert!((82..100).contains(&runtime.store.events()), "{}", runtime.store.events());
    runtime.drive();
    assert_eq!(runtime.store.events(), 100);
}
