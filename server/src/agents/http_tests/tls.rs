//! Certificates are checked: by whom they are signed, and for which name.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use relay_agent::executor::HttpError;
use relay_agent::fetch::{PrivateHosts, is_public};
use rustls::pki_types::PrivateKeyDer;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{Addresses, Client, IDLE, call, get};

/// A certificate authority.
fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Serves `ok` with a certificate for `name`; returns the port.
async fn serve(authority: &CertifiedIssuer<'static, KeyPair>, name: &str) -> u16 {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut socket) = acceptor.accept(socket).await else { continue };
            let _ = socket.read(&mut [0; 4096]).await;
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            let _ = socket.shutdown().await;
        }
    });
    port
}

#[tokio::test]
async fn a_certificate_must_be_for_the_name_and_by_a_known_authority() {
    let (known, unknown) = (authority("known"), authority("unknown"));
    for (issuer, name, want) in [
        (&known, "tls.example", None),
        (&known, "other.example", Some("not valid for name")),
        (&unknown, "tls.example", Some("UnknownIssuer")),
    ] {
        let port = serve(issuer, name).await;
        let mut roots = RootCertStore::empty();
        roots.add(known.der().clone()).unwrap();
        let hosts = PrivateHosts::parse(&[format!("tls.example:{port}")]).unwrap();
        let lookup = |_| -> Addresses { Box::pin(async { Ok(vec![SocketAddr::from(([127, 0, 0, 1], 0))]) }) };
        let client = Client::with(hosts, roots, Arc::new(lookup), is_public, IDLE, 8).unwrap();
        let outcome = call(&client, get(&format!("https://tls.example:{port}/"))).await;
        match want {
            None => assert_eq!((&outcome.body[..], outcome.error), (&b"ok"[..], None)),
            Some(words) => match outcome.error {
                Some(HttpError::Connection(why)) => assert!(why.contains(words), "{why}"),
                error => panic!("{error:?}"),
            },
        }
    }
}

#[test]
fn the_real_client_can_be_made() {
    Client::new(PrivateHosts::default()).unwrap();
}
