//! Bad input and bad times.

use std::fs;
use std::io::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest as _, Sha256};

use super::blobs::http;
use super::*;

#[test]
fn ten_thousand_jobs_of_one_key_get_a_bounded_number_of_answers() {
    let relay = RelayProcess::start();
    let mut client = relay.connect();
    let echo = deploy(&relay, ECHO);
    for chunk in 0..20 {
        for serial in 0..500 {
            let request = job(CUSTOMER, &format!("{chunk} {serial}"), Some(&echo)).sign();
            client.send(format!(r#"["EVENT",{}]"#, request.json()));
        }
        for _ in 0..500 {
            let ok: (String, String, bool, String) =
                serde_json::from_str(&client.recv_starting(r#"["OK","#)).unwrap();
            assert!(ok.2, "{}", ok.3);
        }
    }
    // Another customer's job, behind all of them, is answered.
    let request = job(CUSTOMER + 1, "patient", Some(&echo)).sign();
    accepted(&mut client, &request);
    assert_eq!(result(&mut client, &request), "patient");
    let customer = key(CUSTOMER).hex().to_owned();
    let all = |client: &mut RawClient, kind| {
        client.query(&format!(r##"{{"kinds":[{kind}],"#p":["{customer}"],"limit":5000}}"##)).len()
    };
    // 60 jobs and 10 errors a minute; another minute may have begun, or two.
    let (results, feedback) = (all(&mut client, 6_050), all(&mut client, 7_000));
    assert!((60..=180).contains(&results), "{results} results");
    assert!((70..=210).contains(&feedback), "{feedback} feedbacks");
}

#[test]
fn a_megabyte_of_parameters_is_refused_in_words() {
    let relay = RelayProcess::start_with(
        "[limits]\nmessage_bytes_max = 4194304\nevent_bytes_max = 4000000\ndeferred_bytes_max = 16777216\n\
         in_flight_bytes_max = 16777216\n",
    );
    let mut client = relay.connect();
    let echo = deploy(&relay, ECHO);
    let request = job(CUSTOMER, "text", Some(&echo)).tag(["param", "a", &"x".repeat(1 << 20)]).sign();
    accepted(&mut client, &request);
    assert!(error(&mut client, &request).contains("param"));
    let input = job(CUSTOMER, &"x".repeat(1 << 20), Some(&echo)).sign();
    accepted(&mut client, &input);
    assert!(error(&mut client, &input).contains("input"));
}

#[test]
fn jobs_wait_while_the_agents_disk_is_full() {
    // The agents have a small disk of their own, so that the relay goes on.
    let Some(relay) = RelayProcess::start_on_tmpfs("agents", 16, "") else { return };
    let mut client = relay.connect();
    let echo = deploy(&relay, ECHO);
    // The disk as the relay sees it.
    let fill = format!("/proc/{}/root{}/agents/fill", relay.pid(), relay.data().display());
    let mut file = fs::File::create(&fill).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    let ask = |serial: u64| job(CUSTOMER, &format!("{serial} {}", "x".repeat(20_000)), Some(&echo)).sign();
    let requests: Vec<Signed> = (0..30).map(ask).collect();
    for request in &requests {
        accepted(&mut client, request);
    }
    assert!(count(&mut client, 6_050, &requests[29].id) == 0, "there is no space for so many");
    drop(file);
    fs::remove_file(&fill).unwrap();
    for request in &requests {
        assert_eq!(result(&mut client, request).len(), request.tags[0][1].len());
    }
    for request in &requests {
        assert_eq!(count(&mut client, 6_050, &request.id), 1);
    }
}

/// Whoever has read a signed request may send it again as long as it is accepted.
#[test]
fn a_signed_request_is_not_carried_out_again_when_its_agent_has_been_deleted() {
    let admin = key(1);
    let relay = RelayProcess::start_with(&format!("[policy]\nadmin_pubkeys = [\"{}\"]\n", admin.hex()));
    let manifest = br#"{"name":"replayed","handlers":[{"kind":5050,"executor":"echo"}]}"#;
    let signed = |method: &str, path: &str, body: &[u8], serial: u64| {
        let url = format!("http://{}{path}", relay.host());
        let hash: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
        let draft = event(&admin).kind(27_235).at(unix_now()).tag(["u", &url]).tag(["method", method]);
        let event = draft.tag(["serial", &serial.to_string()]).tag(["payload", &hash]).sign();
        let (token, length) = (BASE64_STANDARD.encode(event.json()), body.len());
        let head = format!(
            "{method} {path} HTTP/1.1\r\nAuthorization: Nostr {token}\r\nContent-Length: {length}\r\n"
        );
        (head, body.to_vec())
    };
    let sent = |(head, body): &(String, Vec<u8>)| {
        let (status, head, body) = http(&relay, head, body);
        println!("{status}: {}", String::from_utf8_lossy(&body));
        (status, head.contains("has been used"))
    };
    let deploying = signed("POST", "/agents", manifest, 1);
    assert_eq!(sent(&deploying), (201, false));
    let listed = agent_json(&relay, &["list"]);
    let agents = listed["agents"].as_array().unwrap();
    let npub = agents.iter().find(|agent| agent["name"] == "replayed").unwrap()["npub"].as_str().unwrap();
    let path = format!("/agents/{npub}");
    let deleting = signed("DELETE", &path, b"", 2);
    assert_eq!(sent(&deleting).0, 200);
    assert_eq!(sent(&deploying), (401, true), "it stays deleted");
    assert_eq!(sent(&signed("POST", "/agents", manifest, 3)).0, 201);
    for replayed in [&deleting, &deploying] {
        assert_eq!(sent(replayed), (401, true), "it stays deployed");
    }
    assert_eq!(agent_json(&relay, &["list"])["agents"][0]["version"], 2);
}
