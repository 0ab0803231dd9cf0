//! The command: exit codes, JSON, the list, and a server behind TLS.

#[allow(dead_code)]
mod model;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::Arc;

use model::{Bug, Fault, Model, Setup};
use relay_conformance::nostr::{Form, base64};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay-conformance"));
    command.args(["--body-pause-ms", "20", "--large-blob-bytes", "1000"]).args(args);
    command
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

#[test]
fn the_exit_code_says_whether_a_must_is_broken() {
    let correct = Model::start(Setup::default(), None);
    let output = command(&["--url", &correct.url, "--only", "delete-stranger"]).output().unwrap();
    assert_eq!(code(&output), 0);
    let faulty = Model::start(Setup::default(), Some(Fault::Bug(Bug::DeletesForStrangers)));
    let output = command(&["--url", &faulty.url, "--only", "delete-stranger"]).output().unwrap();
    assert_eq!(code(&output), 1);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("fail SAFETY   delete-stranger"), "{text}");
    assert!(text.contains("seen: DELETE /"), "{text}");
}

#[test]
fn a_weaker_rule_does_not_change_the_exit_code() {
    let fault = Fault::Response(|_, response| response.remove("x-reason"));
    let model = Model::start(Setup::default(), Some(fault));
    let output = command(&["--url", &model.url, "--only", "reason-", "--json"]).output().unwrap();
    assert_eq!(code(&output), 0);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["totals"]["PRACTICE"]["fail"], 3, "{report:#}");
    assert_eq!(report["results"][0]["result"], "fail");
}

#[test]
fn without_a_server_nothing_is_tested() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = command(&["--url", &format!("http://{free}")]).output().unwrap();
    assert_eq!(code(&output), 2);
    assert_eq!(code(&command(&["--url", "ftp://localhost"]).output().unwrap()), 2);
}

#[test]
fn the_list_needs_no_server() {
    let output = command(&["--list", "--only", "BUD-13"]).output().unwrap();
    assert_eq!(code(&output), 0);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("put-mismatch") && !text.contains("get-bytes"), "{text}");
}

#[test]
fn servers_are_tested_over_tls() {
    let model = Model::start(Setup::default(), None);
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = std::env::temp_dir().join(format!("conformance-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let roots = folder.join("roots.pem");
    std::fs::write(&roots, pem(made.cert.der())).unwrap();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let port = terminate_tls(Arc::new(config), model.url.clone());
    let url = format!("https://localhost:{port}");
    let trusted = |only: &str| {
        let mut command = command(&["--url", &url, "--only", only]);
        command.env("SSL_CERT_FILE", &roots).output().unwrap()
    };
    for only in ["get-bytes", "upload-new", "keep-nothing"] {
        let output = trusted(only);
        assert_eq!(code(&output), 0, "{}", String::from_utf8_lossy(&output.stdout));
        let passed = String::from_utf8(output.stdout).unwrap().matches("\n  pass MUST").count();
        assert_eq!(passed, usize::from(only != "keep-nothing"), "{only}");
    }
    let output = command(&["--url", &url, "--only", "get-bytes"]).output().unwrap();
    assert_eq!(code(&output), 1, "a certificate that nobody has signed is not trusted");
    std::fs::remove_dir_all(&folder).unwrap();
}

fn pem(certificate: &[u8]) -> String {
    let text = base64(certificate, Form::Standard);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// A TLS server that passes one request of each connection on to the model.
fn terminate_tls(config: Arc<ServerConfig>, url: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let session = ServerConnection::new(Arc::clone(&config)).unwrap();
            let address = url.trim_start_matches("http://").to_owned();
            std::thread::spawn(move || pass_on(StreamOwned::new(session, socket), &address));
        }
    });
    port
}

fn pass_on(mut client: StreamOwned<ServerConnection, TcpStream>, address: &str) -> Option<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        let count = client.read(&mut buffer).ok().filter(|count| *count > 0)?;
        request.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let length = text.split("Content-Length: ").nth(1).and_then(|rest| rest.split('\r').next());
        let body = length.map_or(0, |length| length.parse::<usize>().unwrap());
        if end + 4 + body <= request.len() {
            break;
        }
    }
    let mut server = TcpStream::connect(address).ok()?;
    server.write_all(&request).ok()?;
    let mut response = Vec::new();
    server.read_to_end(&mut response).ok()?;
    client.write_all(&response).ok()?;
    client.conn.send_close_notify();
    client.flush().ok()
}
