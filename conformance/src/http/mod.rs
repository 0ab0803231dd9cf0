//! An HTTP/1.1 client on raw sockets. It sends whatever it is told to, lies included, and reads answers strictly.

mod connection;
mod response;

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use url::Url;

pub use connection::Connection;
pub use response::Response;

/// Where a server listens, and how to talk to it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The host as in the URL, without brackets or port.
    pub host: String,
    /// Host and port as in a `Host` header: the port only if it is not the scheme's.
    pub authority: String,
    /// `http` or `https`.
    pub scheme: &'static str,
    addresses: Vec<SocketAddr>,
    tls: Option<Arc<ClientConfig>>,
    /// Longest wait for a connection, a write or a read.
    pub timeout: Duration,
}

impl Endpoint {
    /// The server of an `http` or `https` URL; its path is ignored. Resolves the name once.
    ///
    /// # Errors
    /// For other schemes, for a URL without a host, and if the name has no address.
    pub fn new(url: &str, timeout: Duration) -> io::Result<Self> {
        let bad = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
        let parsed = Url::parse(url).map_err(|error| bad(format!("{url}: {error}")))?;
        let (scheme, tls) = match parsed.scheme() {
            "http" => ("http", None),
            "https" => ("https", Some(tls_config()?)),
            other => return Err(bad(format!("{url}: http or https, not {other}"))),
        };
        let host = parsed.host_str().ok_or_else(|| bad(format!("{url} has no host")))?.to_owned();
        let port = parsed.port_or_known_default().unwrap_or(80);
        let authority = parsed.port().map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let addresses: Vec<SocketAddr> = (bare.as_str(), port).to_socket_addrs()?.collect();
        if addresses.is_empty() {
            return Err(bad(format!("{host} has no address")));
        }
        Ok(Endpoint { host: bare, authority, scheme, addresses, tls, timeout })
    }

    /// The URL of a path on this server.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.authority)
    }

    /// Whether the server is on this machine, as far as its address says.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.addresses.iter().any(|address| address.ip().is_loopback())
    }

    /// Opens a connection, with TLS if the URL says so.
    ///
    /// # Errors
    /// If nothing listens, or the certificate is not valid.
    pub fn connect(&self) -> io::Result<Connection> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in &self.addresses {
            match TcpStream::connect_timeout(address, self.timeout) {
                Ok(socket) => return self.prepare(socket),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn prepare(&self, socket: TcpStream) -> io::Result<Connection> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(self.timeout))?;
        socket.set_write_timeout(Some(self.timeout))?;
        let Some(config) = &self.tls else {
            return Ok(Connection::plain(socket));
        };
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        let session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        Ok(Connection::tls(StreamOwned::new(session, socket)))
    }
}

/// TLS with the roots of Mozilla and of the system.
fn tls_config() -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
