//! No private address is reached by a literal, a name, a redirect or a changing answer of the name service. A listener on
//! loopback counts connections; the same client reaches it where the operator allows it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use relay_agent::executor::{Access, HttpError, HttpRequest};

use super::server::{Server, respond};
use super::{Addresses, Lookup, call, client, get, no_names};

/// Answers every name with these addresses.
fn names(addresses: &[&str]) -> Arc<Lookup> {
    let addresses: Vec<SocketAddr> =
        addresses.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0)).collect();
    Arc::new(move |_| -> Addresses {
        let addresses = addresses.clone();
        Box::pin(async move { Ok(addresses) })
    })
}

async fn check_refused(client: &super::Client, request: HttpRequest) {
    let url = request.url.clone();
    let outcome = call(client, request).await;
    assert!(matches!(outcome.error, Some(HttpError::Forbidden(_))), "{url}: {outcome:?}");
}

#[tokio::test]
async fn no_literal_leads_to_loopback() {
    let trap = Server::trap().await;
    let port = trap.port();
    let client = client(&[], names(&["127.0.0.1"]));
    for host in [
        "127.0.0.1",
        "127.1",
        "0x7f000001",
        "0177.0.0.1",
        "2130706433",
        "127.0.0.1.",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "localhost",
        "a.localhost",
        "loop",
    ] {
        for scheme in ["http", "https"] {
            for access in [Access::Public, Access::Configured] {
                check_refused(&client, HttpRequest { access, ..get(&format!("{scheme}://{host}:{port}/")) })
                    .await;
            }
        }
    }
    assert_eq!(trap.connections(), 0);
}

#[tokio::test]
async fn no_name_leads_to_a_private_address() {
    let trap = Server::trap().await;
    let url = format!("https://evil.example:{}/", trap.port());
    for addresses in [
        &["127.0.0.1"][..],
        &["::1"],
        &["::ffff:127.0.0.1"],
        &["0.0.0.0"],
        &["169.254.169.254"],
        &["10.0.0.1"],
        // One private address is enough.
        &["1.1.1.1", "127.0.0.1"],
        &["127.0.0.1", "2606:4700::1111"],
    ] {
        let client = client(&[], names(addresses));
        check_refused(&client, get(&url)).await;
        check_refused(&client, HttpRequest { access: Access::Public, ..get("https://evil.example/") }).await;
    }
    assert_eq!(trap.connections(), 0);
}

/// The name is asked for once for each connection, and that answer is checked and used: an answer that changes later
/// cannot be used.
#[tokio::test]
async fn dns_rebinding_reaches_no_private_address() {
    let trap = Server::trap().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let lookup: Arc<Lookup> = Arc::new(move |name| -> Addresses {
        match count.fetch_add(1, Ordering::SeqCst) {
            0 => no_names(name),
            _ => Box::pin(async { Ok(vec![SocketAddr::from(([127, 0, 0, 1], 0))]) }),
        }
    });
    let client = client(&[], lookup);
    let url = format!("https://rebind.example:{}/", trap.port());
    let outcome = call(&client, get(&url)).await;
    assert!(matches!(outcome.error, Some(HttpError::Connection(_))), "{outcome:?}");
    check_refused(&client, get(&url)).await;
    check_refused(&client, get(&url)).await;
    assert_eq!((asked.load(Ordering::SeqCst), trap.connections()), (3, 0));
}

#[tokio::test]
async fn no_redirect_leads_to_a_private_address() {
    let trap = Server::trap().await;
    let port = trap.port();
    for (to, is_forbidden) in [
        (format!("http://127.0.0.1:{port}/"), true),
        (format!("https://127.0.0.1:{port}/"), true),
        (format!("//127.0.0.1:{port}/"), true),
        (format!("https://evil.example:{port}/"), true),
        (format!("http://user@127.0.0.1:{port}/"), true),
        ("file:///etc/passwd".to_owned(), true),
        // No URL: the redirect is the answer.
        ("http://".to_owned(), false),
    ] {
        for status in ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"] {
            let response = respond(status, &format!("location: {to}\r\n"), "");
            let server = Server::start(vec![vec![response]]).await;
            let client = client(&[server.host()], names(&["127.0.0.1"]));
            let outcome = call(&client, get(&server.url("/"))).await;
            if is_forbidden {
                assert!(matches!(outcome.error, Some(HttpError::Forbidden(_))), "{to}: {outcome:?}");
                assert_eq!(outcome.status, None);
            } else {
                assert_eq!(
                    (outcome.status.map(|status| status / 100), outcome.error),
                    (Some(3), None),
                    "{to}"
                );
            }
        }
    }
    assert_eq!(trap.connections(), 0);
}

#[tokio::test]
async fn redirects_to_allowed_hosts_are_followed_without_secrets() {
    let last = Server::start(vec![vec![respond("200 OK", "", "here")]]).await;
    let location = format!("location: {}\r\n", last.url("/end"));
    let first = Server::start(vec![
        vec![respond("302 Found", "location: /next\r\nconnection: close\r\n", "")],
        vec![respond("307 Temporary Redirect", &location, "")],
    ])
    .await;
    let client = client(&[first.host(), last.host()], Arc::new(no_names));
    assert_eq!(call(&client, get(&first.url("/start"))).await.body, b"here");
    let (first, last) = (first.requests(), last.requests());
    assert!(first[0].starts_with("GET /start ") && first[1].starts_with("GET /next "), "{first:?}");
    assert!(first.iter().all(|request| request.contains("authorization: Bearer secret\r\n")), "{first:?}");
    assert!(last[0].starts_with("GET /end ") && !last[0].contains("secret"), "{last:?}");
}

#[tokio::test]
async fn redirects_are_counted() {
    let server =
        Server::start(vec![vec![respond("302 Found", "location: /\r\nconnection: close\r\n", "")]]).await;
    let client = client(&[server.host()], Arc::new(no_names));
    let outcome = call(&client, get(&server.url("/"))).await;
    assert_eq!((outcome.status, outcome.error), (Some(302), None));
    assert_eq!(server.requests().len(), 4);
}

#[tokio::test]
async fn the_operator_may_allow_a_private_host_by_address_or_name() {
    let server = Server::start(vec![vec![respond("200 OK", "connection: close\r\n", "ok")]]).await;
    let name = format!("models.internal:{}", server.port());
    let client = client(&[server.host(), name.clone()], names(&["127.0.0.1"]));
    for url in
        [server.url("/"), format!("http://{name}/"), format!("http://MODELS.internal.:{}/", server.port())]
    {
        let outcome = call(&client, get(&url)).await;
        assert_eq!((&outcome.body[..], outcome.error), (&b"ok"[..], None), "{url}");
    }
    assert_eq!(server.connections(), 3);
    // Neither for other keys, nor under another name or port.
    for url in [server.url("/"), format!("https://{name}/")] {
        check_refused(&client, HttpRequest { access: Access::Public, ..get(&url) }).await;
    }
    check_refused(&client, get(&format!("https://other.example:{}/", server.port()))).await;
    check_refused(&client, get("http://127.0.0.1:1/")).await;
    assert_eq!(server.connections(), 3);
}
