//! Tests `relay-bench jobs` with a simple agent on a simple relay: a right one passes, and each fault is detected.

// The relay's own faults are those of other tests.
#[allow(dead_code)]
mod common;

use std::time::Duration;

use relay_bench::client::{Connection, Endpoint};
use relay_bench::generate::Author;
use relay_bench::hex;
use relay_bench::jobs::{self, Options, Report};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What is wrong with the agent, once in twenty requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// The others are as right, but the result has the same `created_at` as the feedback.
    SameSecond,
    NoAnswer,
    TwoResults,
    TwiceTheSame,
    OtherContent,
    OtherKind,
    OtherAuthor,
    OtherCustomer,
    NoRequestNamed,
    Error,
    PaymentRequired,
    LateFeedback,
    BadSignature,
    BadId,
}

/// An agent that echoes.
struct FakeAgent {
    key: Author,
    flaw: Flaw,
    relay: Connection,
    requests: usize,
}

impl FakeAgent {
    /// Starts one on the relay at `url`; it ends with the test. Gives its public key.
    fn start(url: &str, flaw: Flaw, number: u64) -> [u8; 32] {
        let key = Author::derive(99, number);
        let pubkey = hex::decode32(key.pubkey.as_bytes()).unwrap();
        let mut relay = Endpoint::new(url, false).unwrap().connect(4096).unwrap();
        relay.send(json!(["REQ", "m", { "kinds": [5050], "#p": [key.pubkey] }]).to_string()).unwrap();
        relay.read(|text| Ok(!text.starts_with(r#"["EOSE""#))).unwrap();
        let mut agent = FakeAgent { key, flaw, relay, requests: 0 };
        std::thread::spawn(move || {
            loop {
                let mut request = Value::Null;
                let read = agent.relay.read(|text| {
                    let frame: Value = serde_json::from_str(text).unwrap();
                    if frame[0] == "EVENT" {
                        request = frame[2].clone();
                    }
                    Ok(request.is_null())
                });
                if read.is_err() {
                    return;
                }
                agent.work(&request);
            }
        });
        pubkey
    }

    fn work(&mut self, request: &Value) {
        self.requests += 1;
        let flaw = if self.requests.is_multiple_of(20) { self.flaw } else { Flaw::None };
        let at = request["created_at"].as_u64().unwrap();
        let customer = request["pubkey"].as_str().unwrap();
        let mut about = vec![json!(["e", request["id"]]), json!(["p", customer])];
        match flaw {
            // To the customer by its second tag only, so that he gets it.
            Flaw::OtherCustomer => about.insert(1, json!(["p", self.key.pubkey])),
            Flaw::NoRequestNamed => about[0] = json!(["e", "0".repeat(64)]),
            _ => {}
        }
        let input = request["tags"][0][1].as_str().unwrap();
        let content = if flaw == Flaw::OtherContent { "other" } else { input };
        let kind = if flaw == Flaw::OtherKind { 6051 } else { 6050 };
        let feedback = |status: &[&str]| {
            let mut tags = about.clone();
            tags.push(json!([&["status"], status].concat()));
            (7000, tags, "")
        };
        let processing = (at, feedback(&["processing"]));
        let result_at = if flaw == Flaw::SameSecond { at } else { at + 1 };
        let result = (result_at, (kind, about.clone(), content));
        let answers = match flaw {
            Flaw::NoAnswer => vec![processing],
            Flaw::TwoResults => vec![processing, result.clone(), (at + 2, result.1)],
            Flaw::TwiceTheSame => vec![processing, result.clone(), result],
            Flaw::Error => vec![processing, (at + 1, feedback(&["error", "no model"]))],
            Flaw::PaymentRequired => vec![(at, feedback(&["payment-required"]))],
            Flaw::LateFeedback => vec![result, processing],
            _ => vec![processing, result],
        };
        for (created_at, (kind, tags, content)) in answers {
            let event = self.signed(flaw, created_at, kind, &tags, content);
            self.relay.send(json!(["EVENT", event]).to_string()).unwrap();
        }
    }

    fn signed(&self, flaw: Flaw, created_at: u64, kind: u16, tags: &[Value], content: &str) -> Value {
        let other = Author::derive(98, 0);
        let key = if flaw == Flaw::OtherAuthor { &other } else { &self.key };
        let hashed = json!([0, key.pubkey, created_at, kind, tags, content]).to_string();
        let id: [u8; 32] = Sha256::digest(hashed).into();
        let sig = match flaw {
            // What some agents in the wild really sign.
            Flaw::BadSignature => key.sign(&Sha256::digest(id).into()),
            _ => key.sign(&id),
        };
        let content = if flaw == Flaw::BadId { format!("{content} ") } else { content.to_owned() };
        json!({ "id": hex::encode(&id), "pubkey": key.pubkey, "created_at": created_at, "kind": kind, "tags": tags,
                "content": content, "sig": sig })
    }
}

fn options(agents: Vec<[u8; 32]>) -> Options {
    Options {
        agents,
        kind: 5050,
        count: 60,
        window: 4,
        customers: 3,
        input_bytes: 80,
        echo: true,
        is_paid: false,
        timeout: Duration::from_secs(2),
        seed: 5,
    }
}

fn ordered(flaw: Flaw) -> Report {
    let url = common::start(common::Fault::None);
    let options = options(vec![FakeAgent::start(&url, flaw, 0)]);
    jobs::run(&Endpoint::new(&url, false).unwrap(), None, &options).unwrap()
}

#[test]
fn a_right_agent_passes() {
    let report = ordered(Flaw::None);
    assert!(report.is_correct(), "{report:?}");
    assert_eq!((report.jobs, report.results, report.customers, report.verified), (60, 60, 3, 120));
    assert_eq!(report.same_second, 0);
    let times = [&report.request_to_ok, &report.request_to_feedback, &report.request_to_result];
    assert!(times.iter().all(|time| time.p50_ms > 0.0 && time.p50_ms <= time.p99_ms), "{report:?}");
    assert!(report.request_to_feedback.max_ms <= report.request_to_result.max_ms);
}

#[test]
fn many_agents_share_the_requests() {
    let url = common::start(common::Fault::None);
    let agents = (0..7).map(|number| FakeAgent::start(&url, Flaw::None, number)).collect();
    let report = jobs::run(&Endpoint::new(&url, false).unwrap(), None, &options(agents)).unwrap();
    assert!(report.is_correct(), "{report:?}");
    assert_eq!((report.agents, report.results), (7, 60));
}

/// How many of one kind of fault a report has.
type Faults = fn(&Report) -> usize;

/// Three of sixty requests meet the flaw; `faults` are those of the report.
fn check(flaw: Flaw, faults: Faults) {
    let report = ordered(flaw);
    assert!(!report.is_correct(), "{flaw:?} {report:?}");
    assert_eq!(faults(&report), 3, "{flaw:?} {report:?}");
}

#[test]
fn each_flaw_is_detected() {
    let cases: [(Flaw, Faults); 13] = [
        (Flaw::NoAnswer, |report| report.unanswered),
        (Flaw::TwoResults, |report| report.duplicate),
        (Flaw::TwiceTheSame, |report| report.duplicate),
        (Flaw::OtherContent, |report| report.wrong),
        (Flaw::OtherKind, |report| report.unanswered),
        // Of each, feedback and result.
        (Flaw::OtherAuthor, |report| report.wrong / 2),
        (Flaw::OtherCustomer, |report| report.wrong / 2),
        (Flaw::NoRequestNamed, |report| report.unexpected / 2),
        (Flaw::Error, |report| report.failed["error: no model"]),
        (Flaw::PaymentRequired, |report| report.failed["payment-required: "]),
        (Flaw::LateFeedback, |report| report.late_feedback),
        (Flaw::BadSignature, |report| report.forged / 2),
        (Flaw::BadId, |report| report.forged / 2),
    ];
    std::thread::scope(|scope| {
        for (flaw, faults) in cases {
            scope.spawn(move || check(flaw, faults));
        }
    });
}

#[test]
fn a_result_that_nobody_has_paid_is_wrong() {
    let url = common::start(common::Fault::None);
    let options = Options { is_paid: true, ..options(vec![FakeAgent::start(&url, Flaw::None, 0)]) };
    let report = jobs::run(&Endpoint::new(&url, false).unwrap(), None, &options).unwrap();
    assert_eq!(
        (report.results, report.wrong, report.wallet_requests_per_job),
        (60, 60, Some(0.0)),
        "{report:?}"
    );
}

#[test]
fn results_as_old_as_their_feedback_are_counted_and_no_fault() {
    let report = ordered(Flaw::SameSecond);
    assert!(report.is_correct(), "{report:?}");
    assert_eq!(report.same_second, 3);
}

#[test]
fn a_request_that_the_relay_refuses_is_no_lost_job() {
    let url = common::start(common::Fault::Refuses);
    // Nobody works for this key, so that requests are the only events and the 50th is the one refused.
    let options = Options { window: 60, ..options(vec![[7; 32]]) };
    let report = jobs::run(&Endpoint::new(&url, false).unwrap(), None, &options).unwrap();
    assert!(!report.is_correct());
    assert_eq!((report.refused["error: full"], report.unanswered), (1, 59), "{report:?}");
}
