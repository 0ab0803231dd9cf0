//! Agents in the real binary: deployed by the command line, asked by clients, through crashes and a full disk.

mod blobs;
mod command_line;
mod crashes;
mod hostile;
mod http_jobs;
mod jobs;
mod metrics;
mod webhook;

use std::process::{Command, Output};

use relay_engine::testing::signing::{Draft, Signed, event, key};
use serde_json::Value;

use super::harness::{RELAY, RawClient, RelayProcess, unix_now, without_relay_variables};

const ECHO: &str = "name = \"echo\"\n[[handlers]]\nkind = 5050\nexecutor = \"echo\"\n";
/// The key of the customer.
const CUSTOMER: u64 = 7;

/// `relay agent` for a running relay.
fn agent(relay: &RelayProcess, args: &[&str]) -> Output {
    let mut command = Command::new(RELAY);
    without_relay_variables(&mut command);
    command
        .arg("agent")
        .args(args)
        .args(["--url", &format!("http://{}", relay.host()), "--data"])
        .arg(relay.data())
        .current_dir(std::env::temp_dir());
    let output = command.output().unwrap();
    println!("relay agent {args:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    output
}

/// The JSON that `relay agent --json` prints, which must succeed.
fn agent_json(relay: &RelayProcess, args: &[&str]) -> Value {
    let output = agent(relay, &[args, &["--json"]].concat());
    assert!(output.status.success(), "{args:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Deploys a manifest in TOML; returns the agent's key.
fn deploy(relay: &RelayProcess, manifest: &str) -> String {
    let deployed = agent_json(relay, &["deploy", &written(relay, "manifest.toml", manifest)]);
    deployed["pubkey"].as_str().unwrap().to_owned()
}

/// The path of a file beside the relay's folder, with this text.
fn written(relay: &RelayProcess, name: &str, text: &str) -> String {
    let file = relay.data().with_file_name(name);
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

/// A job of a customer with this text, for an agent or for all.
fn job(customer: u64, text: &str, agent: Option<&str>) -> Draft {
    let draft = event(&key(customer)).kind(5_050).at(unix_now()).tag(["i", text, "text"]);
    match agent {
        Some(agent) => draft.tag(["p", agent]),
        None => draft,
    }
}

fn accepted(client: &mut RawClient, event: &Signed) {
    assert_eq!(client.publish(&event.json()), (true, String::new()));
}

/// Answers to a request, oldest first: of each the kind, the status and the content. Waits for a result or an error.
fn answers(client: &mut RawClient, request: &Signed) -> Vec<(u64, String, String)> {
    client.send(format!(r##"["REQ","a",{{"kinds":[6050,7000],"#e":["{}"]}}]"##, request.id));
    let mut seen: Vec<Value> = Vec::new();
    loop {
        let text = client.recv().expect("answers come");
        let Ok((kind, id, event)) = serde_json::from_str::<(String, String, Value)>(&text) else { continue };
        if id != "a" {
            continue;
        }
        assert_eq!(kind, "EVENT", "{text}");
        seen.push(event);
        if seen.iter().any(|event| event["kind"] == 6_050 || status(event) == "error") {
            client.send(r#"["CLOSE","a"]"#);
            seen.sort_by_key(|event| event["created_at"].as_u64());
            let tell = |event: &Value| {
                let content = event["content"].as_str().unwrap().to_owned();
                (event["kind"].as_u64().unwrap(), status(event), content)
            };
            return seen.iter().map(tell).collect();
        }
    }
}

fn status(event: &Value) -> String {
    let tags = event["tags"].as_array().unwrap();
    let status = tags.iter().find(|tag| tag[0] == "status");
    status.map_or(String::new(), |tag| tag[1].as_str().unwrap().to_owned())
}

/// The content of a request's result.
fn result(client: &mut RawClient, request: &Signed) -> String {
    let seen = answers(client, request);
    let (kind, _, content) = seen.last().unwrap();
    assert_eq!(*kind, 6_050, "{seen:?}");
    content.clone()
}

/// The words of the error that a request is answered with.
fn error(client: &mut RawClient, request: &Signed) -> String {
    let seen = answers(client, request);
    let (_, status, content) = seen.last().unwrap();
    assert_eq!(status, "error", "{seen:?}");
    content.clone()
}

/// How many answers of this kind a request has.
fn count(client: &mut RawClient, kind: u16, request: &str) -> usize {
    client.query(&format!(r##"{{"kinds":[{kind}],"#e":["{request}"]}}"##)).len()
}
