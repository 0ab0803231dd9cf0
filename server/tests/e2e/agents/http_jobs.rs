//! Jobs that are ordered over HTTP.

use super::blobs::http;
use super::*;

/// Orders a job; the status, the head and the document.
fn order(relay: &RelayProcess, agent: &str, headers: &str, body: &str) -> (u16, String, Value) {
    let length = body.len();
    let head = format!("POST /agent/{agent}/jobs?wait=20 HTTP/1.1\r\n{headers}Content-Length: {length}\r\n");
    let (status, head, body) = http(relay, &head, body.as_bytes());
    (status, head, serde_json::from_slice(&body).unwrap_or_default())
}

#[test]
fn an_order_is_answered_with_the_result_and_is_a_job_like_any_other() {
    let relay = RelayProcess::start();
    let echo = deploy(&relay, ECHO);
    let (status, head, told) = order(&relay, &echo, "", r#"{"kind":5050,"input":"hello"}"#);
    assert_eq!(
        (status, &told["status"], &told["result"]),
        (200, &"success".into(), &"hello".into()),
        "{head}"
    );
    assert!(head.contains("cache-control: no-store"), "{head}");
    // Its request and its result are events of this relay.
    let mut client = relay.connect();
    let request = told["request"].as_str().unwrap();
    let found = client.query(&format!(r#"{{"ids":["{request}"]}}"#));
    let request_event: Value = serde_json::from_str(&found[0]).unwrap();
    assert_eq!((&request_event["kind"], &request_event["tags"][0][1]), (&5_050.into(), &"hello".into()));
    assert_eq!(count(&mut client, 6_050, request), 1);
    assert_eq!(told["event"]["pubkey"], echo);
    // Another order is another customer's.
    let (_, _, other) = order(&relay, &echo, "", r#"{"kind":5050,"input":"hello"}"#);
    assert_ne!(other["request"], told["request"]);
    // A buyer with a Nostr key signs the request, and may send it again.
    let signed = job(CUSTOMER, "signed", Some(&echo)).sign();
    for _ in 0..2 {
        let (status, _, told) = order(&relay, &echo, "", &signed.json());
        assert_eq!((status, &told["result"]), (200, &"signed".into()), "{told}");
        assert_eq!(told["request"], signed.id);
    }
    assert_eq!(count(&mut client, 6_050, &signed.id), 1);
}

#[test]
fn a_job_that_lasts_is_asked_for_again_also_after_a_restart() {
    let mut relay = RelayProcess::start();
    let echo = deploy(&relay, ECHO);
    let body = r#"{"kind":5050,"input":"later"}"#;
    let head = format!("POST /agent/{echo}/jobs?wait=0 HTTP/1.1\r\nContent-Length: {}\r\n", body.len());
    let (status, head, told) = http(&relay, &head, body.as_bytes());
    let told: Value = serde_json::from_slice(&told).unwrap();
    assert_eq!((status, &told["status"]), (202, &"waiting".into()), "{told}");
    assert!(head.contains("retry-after: 1"), "{head}");
    relay.kill();
    relay.restart();
    let authorization = format!("Authorization: L402 {}:\r\n", told["token"].as_str().unwrap());
    let (status, _, answered) = order(&relay, &echo, &authorization, "");
    assert_eq!((status, &answered["result"]), (200, &"later".into()), "{answered}");
    assert_eq!(answered["request"], told["request"]);
}

#[test]
fn server_sent_events_end_with_the_result() {
    let relay = RelayProcess::start();
    let echo = deploy(&relay, ECHO);
    let body = r#"{"kind":5050,"input":"hello"}"#;
    let head = format!(
        "POST /agent/{echo}/jobs HTTP/1.1\r\nAccept: text/event-stream\r\nContent-Length: {}\r\n",
        body.len()
    );
    let (status, head, stream) = http(&relay, &head, body.as_bytes());
    let text = String::from_utf8_lossy(&stream).into_owned();
    assert!(status == 200, "{head}\n{text}");
    if head.contains("content-type: text/event-stream") {
        assert!(text.contains("event: processing\n"), "{text}");
        assert!(text.contains("event: result\n") && text.contains(r#""result":"hello""#), "{text}");
    } else {
        // The result was there before anything else was known.
        assert!(text.contains(r#""result":"hello""#), "{text}");
    }
}

#[test]
fn what_is_wrong_with_an_order_is_named() {
    let relay = RelayProcess::start_with("[agents]\nhttp_jobs_per_minute_max = 4\n");
    let echo = deploy(&relay, ECHO);
    let nobody = key(99).hex().to_owned();
    let forged = job(CUSTOMER, "forged", Some(&echo)).sign().forged().json();
    let unaddressed = job(CUSTOMER, "for all", None).sign().json();
    let good = r#"{"kind":5050,"input":"x"}"#;
    for (agent, headers, body, want, words) in [
        (&echo, "", "{", 400, "EOF"),
        (&echo, "", r#"{"kind":1}"#, 400, "5000 to 5999"),
        (&echo, "", unaddressed.as_str(), 400, "must name the agent"),
        (&echo, "Authorization: L402 x:y\r\n", good, 401, "no such token"),
        (&echo, "Authorization: Bearer x\r\n", good, 401, "must be L402"),
        (&nobody, "", good, 404, "no agent with this key"),
        // The relay's own checks; each of these counts.
        (&echo, "", forged.as_str(), 400, "invalid: "),
        (&echo, "", r#"{"kind":5999,"input":"x"}"#, 502, "5999"),
    ] {
        let (status, head, told) = order(&relay, agent, headers, body);
        assert_eq!(status, want, "{body}: {head}\n{told}");
        assert!(told["error"].as_str().is_some_and(|error| error.contains(words)), "{body}: {told}");
    }
    for _ in 0..2 {
        assert_eq!(order(&relay, &echo, "", good).0, 200);
    }
    let (status, head, told) = order(&relay, &echo, "", good);
    // Unless the minute has just ended.
    if status != 200 {
        assert_eq!(status, 429, "{told}");
        assert!(head.contains("retry-after: "), "{head}");
    }
    let off = RelayProcess::start_with("[agents]\nhttp_jobs_per_minute_max = 0\n");
    let echo = deploy(&off, ECHO);
    assert_eq!(order(&off, &echo, "", good).0, 404);
}
