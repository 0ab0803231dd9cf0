//! An event whose delivery takes several ticks, and the instance is replaced in between.

use std::collections::BTreeMap;
use std::rc::Rc;

use relay_edge::object::{Key, NextTick};
use relay_edge::settings::Settings;
use relay_engine::testing::signing::{event, key};

use super::world::{Hibernates, Runtime, Socket};

const SUBS: usize = 20;

/// How often each subscription was sent an event; the output is read.
fn received(sockets: &[Rc<Socket>]) -> BTreeMap<(Key, String), usize> {
    let mut counts = BTreeMap::new();
    for socket in sockets {
        for frame in socket.output.borrow_mut().drain(..) {
            if let Some(frame) = frame.strip_prefix(r#"["EVENT",""#) {
                let sub = frame.split('"').next().unwrap().to_owned();
                *counts.entry((socket.key, sub)).or_default() += 1;
            }
        }
    }
    counts
}

fn publish(runtime: &mut Runtime, writer: &Socket, content: &str) {
    let note = event(&key(1)).at(runtime.now.seconds()).content(content).sign();
    runtime.text(writer.key, &format!(r#"["EVENT",{}]"#, note.json()));
}

#[test]
fn what_an_instance_had_not_delivered_is_read_from_the_store_by_the_next() {
    let settings = Settings::load(&|_| None).expect("the defaults are valid");
    let mut runtime = Runtime::new(settings, Hibernates::Never);
    let writer = runtime.connect().unwrap();
    let sockets: Vec<_> = (0..20).map(|_| runtime.connect().unwrap()).collect();
    for socket in &sockets {
        for sub in 0..SUBS {
            runtime.text(socket.key, &format!(r#"["REQ","{sub}",{{"kinds":[1]}}]"#));
            runtime.drive();
        }
    }
    assert!(received(&sockets).is_empty());
    let all = sockets.len() * SUBS;

    publish(&mut runtime, &writer, "cut short");
    let now = runtime.now;
    runtime.next = runtime.object().tick(now);
    assert_eq!(runtime.next, NextTick::Soon, "it must not hibernate");
    assert_eq!(runtime.store.count("edge_undelivered"), 1);
    let before = received(&sockets);
    assert!((1..all).contains(&before.len()), "{} of {all} in the first tick", before.len());
    runtime.evict();
    runtime.drive();
    let after = received(&sockets);
    let mut together = before;
    after.into_iter().for_each(|(sub, count)| *together.entry(sub).or_default() += count);
    assert_eq!(together.len(), all, "everyone has it");
    assert!(together.values().all(|count| (1..=2).contains(count)), "once before and once after");
    assert_eq!(runtime.store.count("edge_undelivered"), 0);

    // What is delivered in peace leaves no row, and no instance delivers it again.
    publish(&mut runtime, &writer, "in peace");
    runtime.drive();
    assert_eq!(runtime.store.count("edge_undelivered"), 0);
    let received_once = received(&sockets);
    assert!(received_once.len() == all && received_once.values().all(|count| *count == 1));
    runtime.evict();
    runtime.drive();
    assert!(received(&sockets).is_empty());
}
