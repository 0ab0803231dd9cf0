//! Neither a mirror nor a pull-through reaches a private address by a literal, a name, a redirect or rebinding: a listener there sees no
//! connection. One loopback network stands for the public ones here, so that a redirect has somewhere to come from.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use relay_agent::fetch::is_public;
use relay_blossom::testing::Request;
use relay_blossom::testing::model::{body, sha};
use relay_engine::types::PubKey;
use relay_site::PaymentSettings;
use relay_site::blossom::BlossomSettings;
use rustls::pki_types::PrivateKeyDer;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::super::Blossom;
use super::super::index::IndexHandle;
use super::{Asked, blossom, relay};
use crate::agents::http::{Addresses, Client};

/// A port that strangers' URLs may name.
const PORT: u16 = 8_443;

/// What counts as public here.
fn is_public_here(address: IpAddr) -> bool {
    is_public(address) || matches!(address, IpAddr::V4(own) if own.octets()[..2] == [127, 77])
}

/// A listener at some address of 127.`network`.
async fn listen(network: u8) -> (TcpListener, IpAddr) {
    let start = std::process::id() as u16;
    for number in start..start.saturating_add(200) {
        let [high, low] = number.to_be_bytes();
        let address = IpAddr::V4(Ipv4Addr::new(127, network, high, low.clamp(1, 254)));
        if let Ok(listener) = TcpListener::bind((address, PORT)).await {
            return (listener, address);
        }
    }
    panic!("no address is free");
}

/// Counts connections.
fn trap(listener: TcpListener) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let own = Arc::clone(&count);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            own.fetch_add(1, Ordering::SeqCst);
        }
    });
    count
}

/// A server by TLS for these names. `/to?URL` leads there; anything else is a blob. Returns the root certificate.
fn serve(listener: TcpListener, names: &[&str]) -> rustls::pki_types::CertificateDer<'static> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![cert.der().clone()],
            PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut socket) = acceptor.accept(socket).await else { continue };
            let mut head = [0; 4_096];
            let read = socket.read(&mut head).await.unwrap_or(0);
            let path = String::from_utf8_lossy(&head[..read]).split(' ').nth(1).unwrap_or("/").to_owned();
            let response = match path.split_once("/to?") {
                Some((_, url)) => format!(
                    "HTTP/1.1 302 Found\r\nlocation: {url}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                )
                .into_bytes(),
                None => {
                    let bytes = body(3);
                    let head = format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                        bytes.len()
                    );
                    [head.into_bytes(), bytes].concat()
                }
            };
            let _ = socket.write_all(&response).await;
            let _ = socket.shutdown().await;
        }
    });
    cert.der().clone()
}

async fn send(blossom: &Blossom, request: Request) -> (u16, String) {
    let response = Asked::new(request).answer(blossom, async || false).await;
    let reason = response.headers.iter().find(|(name, _)| *name == "x-reason");
    (response.status, reason.map(|(_, reason)| reason.to_string()).unwrap_or_default())
}

/// A mirror of the blob at a URL.
async fn mirror(blossom: &Blossom, url: &str) -> (u16, String) {
    let now = crate::host::now().seconds();
    let put = relay_blossom::testing::model::put(1, 3, "text/html", now);
    let token = put.headers.into_iter().find(|(name, _)| name == "authorization").unwrap().1;
    let body = serde_json::json!({ "url": url }).to_string();
    send(blossom, Request::new("PUT", "/mirror").with("authorization", &token).body(body)).await
}

/// A download of the blob, which may be at a server.
async fn pull(blossom: &Blossom, server: &str) -> (u16, String) {
    send(blossom, Request::new("GET", &format!("/{}?xs={server}", sha(3)))).await
}

async fn forget(blossom: &Blossom) {
    let delete = relay_blossom::Command::Delete { sha256: sha(3), owner: None };
    blossom.index.run(delete).await.unwrap();
    while let Ok(relay_blossom::Outcome::Removal(Some(key))) =
        blossom.index.run(relay_blossom::Command::TakeRemoval).await
    {
        blossom.bodies.remove(&key).await.unwrap();
        blossom.index.run(relay_blossom::Command::Removed(key)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_mirror_and_no_pull_through_reaches_a_private_address() {
    let data = tempfile::tempdir().unwrap();
    let relay = tokio::task::block_in_place(|| relay(data.path()));
    let (hidden, private) = listen(88).await;
    let seen = trap(hidden);
    let (origin, public) = listen(77).await;
    let names = ["origin.example", "rebind.example"];
    let mut roots = RootCertStore::empty();
    roots.add(serve(origin, &names)).unwrap();

    // The second time it is asked for, `rebind.example` is elsewhere.
    let asked = Arc::new(AtomicUsize::new(0));
    let own = Arc::clone(&asked);
    let lookup = move |name: String| -> Addresses {
        let found = match name.as_str() {
            "origin.example" => vec![public],
            "rebind.example" if own.fetch_add(1, Ordering::SeqCst) == 0 => vec![public],
            "both.example" => vec![public, private],
            _ => vec![private],
        };
        Box::pin(async move { Ok(found.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect()) })
    };
    let client = Client::for_names(roots, Arc::new(lookup), is_public_here).unwrap();
    let index = IndexHandle::open(&data.path().join("blobs.sqlite"), true).unwrap();
    let settings = BlossomSettings { pull_through: true, ..BlossomSettings::default() };
    let blossom = blossom(&relay, data.path(), settings, index, client);

    // The way is open: the same server gives the blob, also through a redirect.
    let at = |name: &str| format!("https://{name}:{PORT}");
    for path in ["/blob".to_owned(), format!("/to?{}/blob", at("origin.example"))] {
        assert_eq!(mirror(&blossom, &format!("{}{path}", at("origin.example"))).await.0, 201, "{path}");
        forget(&blossom).await;
    }
    assert_eq!(pull(&blossom, &at("origin.example")).await.0, 200);
    forget(&blossom).await;
    assert_eq!(mirror(&blossom, &format!("{}/blob", at("rebind.example"))).await.0, 201);
    forget(&blossom).await;

    let literals = [
        private.to_string(),
        "127.0.0.1".into(),
        "127.1".into(),
        "2130706433".into(),
        "0x7f000001".into(),
        "[::1]".into(),
        "[::ffff:127.0.0.1]".into(),
        "[64:ff9b::7f00:1]".into(),
        "localhost".into(),
        "a.localhost".into(),
    ];
    // The last has been public a moment ago.
    let named = ["evil.example", "both.example", "rebind.example"].map(str::to_owned);
    for host in literals.iter().chain(&named) {
        let direct = format!("{}/blob", at(host));
        let (status, reason) = mirror(&blossom, &direct).await;
        assert!(matches!(status, 400 | 403), "{direct}: {status} {reason}");
        for to in [direct.clone(), format!("//{host}:{PORT}/blob"), format!("http://{host}:{PORT}/blob")] {
            let redirected = format!("{}/to?{to}", at("origin.example"));
            let (status, reason) = mirror(&blossom, &redirected).await;
            assert_eq!(status, 403, "{redirected}: {reason}");
        }
        assert_eq!(pull(&blossom, &at(host)).await.0, 404, "{host}");
    }
    assert!(asked.load(Ordering::SeqCst) >= 3, "it was looked up again");
    assert_eq!(seen.load(Ordering::SeqCst), 0, "nobody has come");

    // Where a mirror costs something its origin is asked first, by the same rules.
    let payment = PaymentSettings {
        pubkey: Some(PubKey([7; 32])),
        upload_msat_per_mib: 1,
        ..PaymentSettings::default()
    };
    let selling = BlossomSettings { payment, ..BlossomSettings::default() };
    let blossom = Blossom {
        settings: crate::config::Settings { blossom: selling, ..blossom.settings.clone() },
        ..blossom
    };
    let (status, reason) = mirror(&blossom, &format!("{}/blob", at("origin.example"))).await;
    assert_eq!((status, reason.as_str()), (503, "the agent that is paid has not been started"));
    for host in literals.iter().chain(&named[..2]) {
        let direct = format!("{}/blob", at(host));
        let (status, reason) = mirror(&blossom, &direct).await;
        assert!(matches!(status, 400 | 403), "{direct}: {status} {reason}");
        let redirected = format!("{}/to?{direct}", at("origin.example"));
        assert_eq!(mirror(&blossom, &redirected).await.0, 403, "{redirected}");
    }
    assert_eq!(seen.load(Ordering::SeqCst), 0, "nobody has come");

    // The operator may open it: then the listener is reached.
    let open = BlossomSettings { allow_private_addresses: true, ..BlossomSettings::default() };
    let blossom = Blossom {
        settings: crate::config::Settings { blossom: open, ..blossom.settings.clone() },
        ..blossom
    };
    let url = format!("{}/blob", at("evil.example"));
    let reached = mirror(&blossom, &url);
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), reached).await;
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    tokio::task::block_in_place(|| relay.stop()).unwrap();
}
