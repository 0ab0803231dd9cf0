//! TLS of all outgoing connections: of agents, of sync, and of the command line.

use std::io;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

/// Mozilla's roots, and the system's.
pub(crate) fn roots() -> RootCertStore {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    // A system without certificates, such as a small container, is not an error.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// TLS 1.2 and 1.3 with these roots.
///
/// # Errors
/// If the cryptography does not suit these versions.
pub(crate) fn config(roots: RootCertStore) -> io::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
