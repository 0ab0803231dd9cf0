//! How many connections each client address has, over all shards.
//!
//! A direct connection is counted from accept on, so that silent sockets count too. Behind a trusted proxy a
//! client is known by its request, and is counted from its handshake on; what idles before it idles at the proxy.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::header::HeaderMap;
use relay_engine::policy::AddressConnections;
use relay_engine::types::ClientAddress;
use relay_site::{HttpResponse, Networks};

use super::forwarded;
use crate::config::Network;

/// The connections of all addresses, and their limit.
pub(crate) struct Addresses {
    trusted: Networks,
    exempt: Networks,
    max: usize,
    counts: Mutex<AddressConnections>,
    refused: AtomicU64,
}

/// One of the connections that an address may have, until it is dropped.
pub(crate) struct AddressPermit {
    addresses: Arc<Addresses>,
    address: ClientAddress,
}

/// A client whose handshake may continue.
pub(super) struct Client {
    /// The address that its limits are counted by; `None`: it is exempt.
    pub(super) address: Option<ClientAddress>,
    /// Its permit, unless its socket already holds one.
    pub(super) permit: Option<AddressPermit>,
}

/// This address has as many connections as it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany(pub(crate) ClientAddress);

impl TooMany {
    pub(super) fn answer() -> HttpResponse {
        HttpResponse::too_many_from_address()
    }
}

impl Addresses {
    /// # Errors
    /// Names the first entry of a list that is neither an address nor a network.
    pub(crate) fn new(network: &Network) -> Result<Self, String> {
        Ok(Addresses {
            trusted: network.trusted()?,
            exempt: network.exempt()?,
            max: network.connections_per_address_max,
            counts: Mutex::default(),
            refused: AtomicU64::new(0),
        })
    }

    /// A socket has come from `peer`. Counts it, unless `peer` is a proxy or has no limits.
    pub(super) fn admit_socket(self: &Arc<Self>, peer: IpAddr) -> Result<Option<AddressPermit>, TooMany> {
        if self.trusted.contain(peer) {
            return Ok(None);
        }
        self.limited(peer).map(|address| self.count(address)).transpose()
    }

    /// Over a socket from `peer`, a client begins a handshake with these headers.
    pub(super) fn admit_client(
        self: &Arc<Self>,
        peer: IpAddr,
        headers: &HeaderMap,
    ) -> Result<Client, TooMany> {
        let address = self.limited(forwarded::client(peer, headers, &self.trusted));
        let permit = match address {
            Some(address) if self.trusted.contain(peer) => Some(self.count(address)?),
            _ => None,
        };
        Ok(Client { address, permit })
    }

    /// Whether the client addresses that `peer` names are trusted.
    pub(super) fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted.contain(peer)
    }

    /// Connections that were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Connections of the address that has the most. Cost: the number of addresses.
    pub(crate) fn most(&self) -> usize {
        self.counts().most()
    }

    fn limited(&self, address: IpAddr) -> Option<ClientAddress> {
        (!self.exempt.contain(address)).then(|| address.into())
    }

    fn count(self: &Arc<Self>, address: ClientAddress) -> Result<AddressPermit, TooMany> {
        if !self.counts().open(address, self.max) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(TooMany(address));
        }
        Ok(AddressPermit { addresses: Arc::clone(self), address })
    }

    fn counts(&self) -> MutexGuard<'_, AddressConnections> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        self.addresses.counts().close(self.address);
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn addresses() -> Arc<Addresses> {
        let network = Network { connections_per_address_max: 2, ..Network::default() };
        Arc::new(Addresses::new(&network).unwrap())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn through_proxy(addresses: &Arc<Addresses>, client: &'static str) -> Result<Client, TooMany> {
        let mut headers = HeaderMap::new();
        headers.insert(forwarded::FORWARDED_FOR, HeaderValue::from_static(client));
        addresses.admit_client(ip("127.0.0.1"), &headers)
    }

    #[test]
    fn connections_of_an_address_are_limited_and_leave_nothing_behind() {
        let addresses = addresses();
        let first = addresses.admit_socket(ip("2001:db8::1")).unwrap().unwrap();
        // One subscriber's /64 is one address, and so is an address written as IPv6.
        let second = addresses.admit_socket(ip("2001:db8::2")).unwrap().unwrap();
        let refused = addresses.admit_socket(ip("2001:db8::3")).err().unwrap();
        assert_eq!((refused.0.to_string(), addresses.refused()), ("2001:db8::/64".to_owned(), 1));
        let other = addresses.admit_socket(ip("::ffff:192.0.2.1")).unwrap().unwrap();
        assert_eq!((addresses.most(), addresses.counts().len()), (2, 2));
        drop(first);
        let third = addresses.admit_socket(ip("2001:db8::3")).unwrap().unwrap();
        drop((second, third, other));
        assert_eq!((addresses.most(), addresses.counts().len()), (0, 0));
    }

    #[test]
    fn a_socket_and_its_handshake_are_one_connection() {
        let addresses = addresses();
        let _socket = addresses.admit_socket(ip("192.0.2.1")).unwrap().unwrap();
        let client = addresses.admit_client(ip("192.0.2.1"), &HeaderMap::new()).unwrap();
        assert_eq!(client.address, Some(ip("192.0.2.1").into()));
        assert!(client.permit.is_none());
        assert_eq!(addresses.most(), 1);
    }

    #[test]
    fn behind_a_trusted_proxy_the_handshake_is_counted() {
        let addresses = addresses();
        assert!(addresses.admit_socket(ip("127.0.0.1")).unwrap().is_none());
        let _clients = [(); 2].map(|()| through_proxy(&addresses, "192.0.2.1").unwrap());
        assert_eq!(through_proxy(&addresses, "192.0.2.1").err(), Some(TooMany(ip("192.0.2.1").into())));
        assert!(through_proxy(&addresses, "192.0.2.2").is_ok());
        // The same client without the proxy.
        assert!(addresses.admit_socket(ip("192.0.2.1")).is_err());
    }

    #[test]
    fn exempt_clients_have_no_address() {
        let addresses = addresses();
        for _ in 0..9 {
            let client = addresses.admit_client(ip("127.0.0.1"), &HeaderMap::new()).unwrap();
            assert!(client.address.is_none() && client.permit.is_none());
        }
        assert_eq!(addresses.most(), 0);
    }
}
