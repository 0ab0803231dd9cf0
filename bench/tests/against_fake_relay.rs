//! Tests the load generator with a simple relay: right answers pass, and each kind of wrong answer is detected.

mod common;

use std::time::Duration;

use common::Fault;
use relay_bench::client::Endpoint;
use relay_bench::corpus::Corpus;
use relay_bench::generate::Options;
use relay_bench::process::Process;
use relay_bench::shapes::Shape;
use relay_bench::{abuse, fanout, load, publish, query, reconcile};

fn endpoint(fault: Fault) -> Endpoint {
    Endpoint::new(&common::start(fault), false).unwrap()
}

fn corpus() -> Corpus {
    Corpus::new(Options { count: 500, authors: 60, days: 1, ..Options::default() }.events(2)).unwrap()
}

fn load() -> load::Options {
    load::Options { connections: 4, window: 16, rate: None, threads: 2, time_max: Duration::from_secs(60) }
}

fn published(fault: Fault, load: &load::Options) -> publish::Report {
    publish::run(&endpoint(fault), Some(Process::new(0)), &corpus(), load, 2_000).unwrap()
}

#[test]
fn a_correct_relay_passes_publish() {
    let report = published(Fault::None, &load());
    assert!(report.is_correct(), "{report:?}");
    assert_eq!(report.accepted + report.superseded, 500);
    assert_eq!(report.read_back, corpus().current.len());
    assert!(report.cpu_us_per_event.unwrap() > 0.0);
}

#[test]
fn a_lost_refused_or_unanswered_event_is_detected() {
    let forgets = published(Fault::Forgets, &load());
    assert!(!forgets.is_correct() && forgets.lost > 0 && forgets.unanswered == 0, "{forgets:?}");
    let refuses = published(Fault::Refuses, &load());
    assert!(!refuses.is_correct() && refuses.refused.contains_key("error: full"), "{refuses:?}");
    let silent = published(Fault::Silent, &load::Options { time_max: Duration::from_secs(3), ..load() });
    assert!(!silent.is_correct() && silent.unanswered > 0, "{silent:?}");
    let twice = published(Fault::AnswersTwice, &load());
    assert!(!twice.is_correct() && twice.unexpected_answers > 0, "{twice:?}");
}

#[test]
fn a_rate_is_kept() {
    let load = load::Options { rate: Some(2_000.0), ..load() };
    let report = published(Fault::None, &load);
    assert!(report.is_correct(), "{report:?}");
    // Never faster; how much slower depends on the machine.
    assert!(report.seconds >= 499.0 / 2_000.0, "{}", report.seconds);
}

fn queried(fault: Fault, lenient: bool) -> query::Report {
    let (endpoint, corpus) = (endpoint(fault), corpus());
    let one = load::Options { connections: 1, ..load() };
    publish::run(&endpoint, None, &corpus, &one, 0).unwrap();
    let options = query::Options { repeat: 20, seed: 1, lenient };
    query::run(&endpoint, Some(Process::new(0)), &corpus, &Shape::ALL, &options).unwrap()
}

#[test]
fn right_answers_pass_and_every_shape_finds_events() {
    let report = queried(Fault::None, false);
    assert!(report.is_correct(), "{report:?}");
    assert_eq!(report.shapes.len(), 7);
    for shape in &report.shapes {
        assert!(shape.events > 0 && shape.queries == 20, "{shape:?}");
    }
}

#[test]
fn wrong_answers_are_detected_and_lenient_accepts_any_order_of_ties() {
    assert!(!queried(Fault::SkipsNewest, false).is_correct());
    assert!(!queried(Fault::SkipsNewest, true).is_correct());
    assert!(!queried(Fault::KeepsAll, true).is_correct());
    assert!(!queried(Fault::Forgets, true).is_correct());
    assert!(!queried(Fault::OtherOrder, false).is_correct());
    assert!(queried(Fault::OtherOrder, true).is_correct());
}

fn fanned_out(fault: Fault) -> fanout::Report {
    let options = fanout::Options {
        subscriptions: 120,
        connections: 12,
        threads: 2,
        events: 300,
        seed: 1,
        sequence: 7,
        publish: load::Options { connections: 2, ..load() },
    };
    fanout::run(&endpoint(fault), Some(Process::new(0)), &options).unwrap()
}

#[test]
fn a_correct_relay_passes_fanout() {
    let report = fanned_out(Fault::None);
    assert!(report.is_correct(), "{report:?}");
    assert!(report.delivered == report.expected && report.expected > 300, "{report:?}");
    assert!(report.delivery.p50_ms > 0.0 && report.delivery.p50_ms <= report.delivery.p99_ms);
}

#[test]
fn lost_and_duplicate_deliveries_are_detected() {
    let loses = fanned_out(Fault::LosesDeliveries);
    assert!(!loses.is_correct() && loses.delivered < loses.expected, "{loses:?}");
    let doubles = fanned_out(Fault::DeliversTwice);
    assert!(!doubles.is_correct() && doubles.delivered > doubles.expected, "{doubles:?}");
}

#[test]
fn events_that_the_oracle_does_not_model_are_refused() {
    let mut lines = Options { count: 1, ..Options::default() }.events(1);
    let good = lines[0].clone();
    lines.push(good.clone());
    assert!(Corpus::new(lines).unwrap_err().to_string().contains("twice"));
    let kind = good.split_once(r#""kind":"#).unwrap().1.split_once(',').unwrap().0.to_owned();
    let deletion = good.replace(&format!(r#""kind":{kind},"#), r#""kind":5,"#);
    assert!(Corpus::new(vec![deletion]).is_err());
    assert!(Corpus::new(vec!["{}".to_owned()]).is_err());
}

fn attacked(fault: Fault) -> abuse::Report {
    let options = abuse::Options { seconds: 1, rest_seconds: 0, addresses: 3, tags: 200 };
    let cases = [abuse::Case::Tags];
    abuse::run(&endpoint(fault), Some(Process::new(0)), &cases, &options).unwrap().pop().unwrap()
}

#[test]
fn an_honest_client_is_measured_during_an_attack() {
    let report = attacked(Fault::None);
    assert_eq!(report.honest_failed, 0, "{report:?}");
    assert!(
        report.attacker_answers > 0 && report.attacker_bytes.iter().all(|bytes| *bytes > 10_000),
        "{report:?}"
    );
    assert!(report.ok.iter().chain(&report.eose).all(|latency| latency.p50_ms > 0.0), "{report:?}");
}

#[test]
fn an_honest_event_that_is_not_found_is_detected() {
    assert!(attacked(Fault::SkipsNewest).honest_failed > 0);
}

fn reconciled(fault: Fault) -> reconcile::Report {
    let (endpoint, corpus) = (endpoint(fault), corpus());
    publish::run(&endpoint, None, &corpus, &load(), 0).unwrap();
    let options = reconcile::Options {
        repeat: 3,
        missing_permille: 100,
        authors: 5,
        message_bytes_max: 4_096,
        sessions: 12,
        seconds: 1,
        seed: 1,
    };
    reconcile::run(&endpoint, Some(Process::new(0)), &corpus, &options).unwrap()
}

#[test]
fn the_differences_of_a_correct_relay_are_found() {
    let report = reconciled(Fault::None);
    assert!(report.is_correct(), "{report:?}");
    let [identical, missing, authors] = &report.cases[..] else { panic!("{report:?}") };
    assert_eq!(identical.events, corpus().current.len());
    assert_eq!((identical.rounds, identical.only_here, identical.only_there), (1, 0, 0));
    assert!(missing.only_here > 20 && missing.only_there > 20 && missing.rounds > 1, "{missing:?}");
    assert!(authors.events > 0 && authors.events < identical.events, "{authors:?}");
    assert_eq!(report.sessions.as_ref().unwrap().open, 12);
    assert!(report.others.as_ref().unwrap().reconciliations > 0);
}

#[test]
fn an_event_that_is_missing_in_a_reconciliation_is_detected() {
    for fault in [Fault::SkipsNewest, Fault::KeepsAll] {
        let report = reconciled(fault);
        assert!(!report.is_correct(), "{fault:?}: {report:?}");
        assert!(report.cases[..2].iter().all(|case| case.wrong == 4), "{fault:?}: {report:?}");
    }
}
