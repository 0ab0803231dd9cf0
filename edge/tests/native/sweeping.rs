//! Alarms: expired and aged events leave the store, with few alarms for many events.

use relay_edge::settings::{Settings, StoreSettings};
use relay_engine::testing::signing::{event, key};

use super::world::{Hibernates, Runtime};

fn settings(store: StoreSettings) -> Settings {
    Settings { store, ..Settings::default() }
}

#[test]
fn expired_events_go_with_one_alarm_a_minute() {
    let mut runtime = Runtime::new(settings(StoreSettings::default()), Hibernates::Always);
    let socket = runtime.connect().unwrap();
    let t = runtime.now.seconds();
    for n in 0..20 {
        let at = (t + 30 + n).to_string();
        let note = event(&key(1)).at(t - n).tag(["expiration", &at]).sign();
        runtime.text(socket.key, &format!(r#"["EVENT",{}]"#, note.json()));
        runtime.drive();
    }
    assert_eq!(runtime.store.events(), 20);
    assert!(runtime.host.alarm.get().is_some());
    runtime.advance(59);
    assert_eq!(runtime.store.events(), 20);
    runtime.advance(2);
    assert_eq!(runtime.store.events(), 0);
    assert_eq!(runtime.host.alarm.get(), None, "nothing is left to sweep");
}

#[test]
fn events_older_than_the_retention_are_removed() {
    let store = StoreSettings {
        retention_seconds: 1_000,
        retention_kinds_spared: vec![7],
        ..StoreSettings::default()
    };
    let mut runtime = Runtime::new(settings(store), Hibernates::Never);
    let socket = runtime.connect().unwrap();
    let t = runtime.now.seconds();
    for (kind, age) in
        [(1, 2_000), (1, 900), (7, 2_000), (0, 2_000), (30_023, 2_000), (9735, 1_001), (5, 2_000)]
    {
        let draft = event(&key(1)).kind(kind).at(t - age).tag(["d", "x"]);
        runtime.text(socket.key, &format!(r#"["EVENT",{}]"#, draft.sign().json()));
    }
    runtime.drive();
    assert_eq!(runtime.store.events(), 7);
    assert!(runtime.object().needs_alarms());
    runtime.advance(3_700);
    // The zap and both old notes are gone; the reaction is spared, replaceable ones and deletion requests stay.
    assert_eq!(runtime.store.events(), 4);
    assert!(runtime.host.alarm.get().is_some(), "the next sweep is scheduled");
}

#[test]
fn a_later_expiry_does_not_postpone_an_earlier_one() {
    let mut runtime = Runtime::new(settings(StoreSettings::default()), Hibernates::Always);
    let socket = runtime.connect().unwrap();
    let t = runtime.now.seconds();
    for (n, at) in [30, 31_536_000, 40, 31_000_000].into_iter().enumerate() {
        let at = (t + at).to_string();
        let note = event(&key(1)).at(t - n as u64).tag(["expiration", &at]).sign();
        runtime.text(socket.key, &format!(r#"["EVENT",{}]"#, note.json()));
        runtime.drive();
    }
    assert_eq!(runtime.host.alarm.get().map(|at| at.seconds()), Some(t + 60));
    runtime.advance(61);
    assert_eq!(runtime.store.events(), 2);
    let year = (t + 31_000_000 + 1).next_multiple_of(60);
    assert_eq!(runtime.host.alarm.get().map(|at| at.seconds()), Some(year));
}

#[test]
fn a_missed_sweep_runs_soon_after_waking_up() {
    let store = StoreSettings { retention_seconds: 1_000, ..StoreSettings::default() };
    let mut runtime = Runtime::new(settings(store), Hibernates::Always);
    let socket = runtime.connect().unwrap();
    let note = event(&key(1)).at(runtime.now.seconds()).sign();
    runtime.text(socket.key, &format!(r#"["EVENT",{}]"#, note.json()));
    runtime.drive();
    runtime.advance(61);
    let swept = runtime.now.seconds();
    assert!(
        runtime.host.alarm.get().is_some_and(|at| at.seconds() > swept + 1_000),
        "an hour after the first"
    );
    // The alarm is late, and the object is woken up by something else every few seconds.
    runtime.now = runtime.now.plus_millis(2 * 3_600_000);
    for _ in 0..5 {
        runtime.now = runtime.now.plus_millis(7_000);
        runtime.text(socket.key, r#"["CLOSE","none"]"#);
        let (now, alarm) = (runtime.now.seconds(), runtime.host.alarm.get());
        assert!(alarm.is_some_and(|at| at.seconds() <= now + 60), "{now} {alarm:?}");
        runtime.evict();
    }
    runtime.advance(61);
    assert_eq!(runtime.store.events(), 0);
}

#[test]
fn frequent_wake_ups_do_not_postpone_retention_sweeps() {
    for sweep_seconds in [1, 60, 7_000] {
        let store = StoreSettings { retention_seconds: 1_000, sweep_seconds, ..StoreSettings::default() };
        let mut runtime = Runtime::new(settings(store), Hibernates::Always);
        let socket = runtime.connect().unwrap();
        let t = runtime.now.seconds();
        let mut retired_at = None;
        for n in 0..900 {
            // A note without expiry, an expiring one now and then, and a reader now and then.
            let mut note = event(&key(1)).at(t + n * 17);
            if n % 5 == 4 {
                note = note.tag(["expiration", &(t + 31_536_000).to_string()]);
            }
            runtime.text(socket.key, &format!(r#"["EVENT",{}]"#, note.sign().json()));
            runtime.advance(17);
            runtime.hibernate();
            if runtime.store.events() <= n {
                retired_at = Some(runtime.now.seconds() - t);
                break;
            }
        }
        assert!(
            retired_at.is_some_and(|at| at <= 3_600 + 2 * sweep_seconds + 17),
            "{sweep_seconds}: {retired_at:?}"
        );
    }
}

/// What a large deletion leaves to be removed is removed by alarms, however often the object hibernates in between.
#[test]
fn the_rest_of_a_large_deletion_is_removed_by_alarms() {
    for hibernates in [Hibernates::Always, Hibernates::Never] {
        let mut runtime = Runtime::new(settings(StoreSettings::default()), hibernates);
        let socket = runtime.connect().unwrap();
        let t = runtime.now.seconds();
        let mut request = event(&key(1)).kind(5).at(t);
        for n in 0..300 {
            let mut note = event(&key(1)).at(t - n);
            for tag in 0..20 {
                note = note.tag(["t", &format!("{tag} of {n}")]);
            }
            let note = note.sign();
            runtime.text(socket.key, &format!(r#"["EVENT",{}]"#, note.json()));
            request = request.tag(["e", &note.id]);
        }
        runtime.drive();
        assert_eq!((runtime.store.events(), runtime.host.alarm.get()), (300, None));
        runtime.text(socket.key, &format!(r#"["EVENT",{}]"#, request.sign().json()));
        runtime.drive();
        assert_eq!(runtime.object().stats().unwrap().events, 1, "only the request is served");
        let left = runtime.store.events();
        assert!(left > 200, "{left} wait to be removed");
        // An alarm is lost, and the object wakes up for something else.
        runtime.host.alarm.set(None);
        runtime.evict();
        runtime.text(socket.key, r#"["CLOSE","none"]"#);
        runtime.drive();
        assert!(runtime.host.alarm.get().is_some(), "it asks for another");
        let mut alarms = 0;
        while let Some(at) = runtime.host.alarm.take() {
            let before = runtime.store.events();
            runtime.now = runtime.now.max(at);
            let now = runtime.now;
            runtime.object().alarm(now);
            assert!(before - runtime.store.events() <= 2 * 4_096 / 24, "each removes some");
            runtime.evict();
            alarms += 1;
        }
        assert!(alarms >= 1);
        assert_eq!(runtime.store.events(), 1, "nothing is left, and nothing to wait for");
    }
}

#[test]
fn what_is_removed_by_age_is_in_no_reconciliation_that_is_opened_afterwards() {
    let store = StoreSettings {
        retention_seconds: 1_000,
        retention_kinds_spared: vec![7],
        ..StoreSettings::default()
    };
    let mut runtime = Runtime::new(settings(store), Hibernates::Never);
    let socket = runtime.connect().unwrap();
    let t = runtime.now.seconds();
    let [old, spared] = [1, 7].map(|kind| event(&key(1)).kind(kind).at(t - 900).sign());
    for event in [&old, &spared] {
        runtime.text(socket.key, &format!(r#"["EVENT",{}]"#, event.json()));
    }
    // Sweeps are hourly.
    runtime.advance(3_300);
    // The ids of all events, to a client that has none; the set is kept.
    let mut listed = || {
        socket.output.borrow_mut().clear();
        runtime.text(socket.key, r#"["NEG-OPEN","n",{},"6100000200"]"#);
        runtime.drive();
        let answer: String = socket.output.borrow().iter().map(String::as_str).collect();
        let found = [answer.contains(&old.id), answer.contains(&spared.id)];
        // The sweep comes before the set is too old.
        runtime.advance(400);
        found
    };
    assert_eq!(listed(), [true, true]);
    assert_eq!(listed(), [false, true]);
}
