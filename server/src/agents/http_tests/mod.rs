//! Calls against servers on loopback that do as they like.

mod addresses;
mod bodies;
mod model;
mod server;
mod tls;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::body::Bytes;
use relay_agent::executor::{Access, HttpError, HttpEvent, HttpLimits, HttpRequest};
use relay_agent::fetch::{PrivateHosts, is_public};
use rustls::RootCertStore;

use super::{Addresses, Client, Lookup};

/// Longest silence of a body in these tests. Servers that do not hang answer at once.
const IDLE: Duration = Duration::from_millis(300);

/// A client that may call these hosts, and knows these names.
fn client(allowed: &[String], lookup: std::sync::Arc<Lookup>) -> Client {
    let roots = RootCertStore::empty();
    Client::with(PrivateHosts::parse(allowed).unwrap(), roots, lookup, is_public, IDLE, 8).unwrap()
}

/// Knows no name.
fn no_names(name: String) -> Addresses {
    Box::pin(async move { Err(std::io::Error::other(format!("{name} is not known"))) })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn get(url: &str) -> HttpRequest {
    HttpRequest {
        method: "GET",
        url: url.to_owned(),
        headers: vec![("authorization".to_owned(), "Bearer secret".to_owned())],
        body: Bytes::new(),
        access: Access::Configured,
        allow_domains: Vec::new(),
        limits: HttpLimits { response_bytes_max: 100_000, deadline: now() + 60, redirects_max: 3 },
    }
}

/// What came of a call.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    status: Option<u16>,
    body: Vec<u8>,
    error: Option<HttpError>,
}

/// Makes a call and checks the order of its events.
async fn call(client: &Client, request: HttpRequest) -> Outcome {
    let mut call = client.run(request);
    let mut outcome = Outcome { status: None, body: Vec::new(), error: None };
    let mut is_over = false;
    while let Some(event) = call.next().await {
        assert!(!is_over, "an event after the last: {event:?}");
        match event {
            HttpEvent::Head(status, _) => {
                assert_eq!(outcome.status.replace(status), None);
            }
            HttpEvent::Chunk(bytes) => {
                assert!(outcome.status.is_some() && !bytes.is_empty());
                outcome.body.extend_from_slice(&bytes);
            }
            HttpEvent::End => {
                assert!(outcome.status.is_some());
                is_over = true;
            }
            HttpEvent::Failed(error) => {
                outcome.error = Some(error);
                is_over = true;
            }
        }
    }
    assert!(is_over, "the events end without a last one: {outcome:?}");
    outcome
}
