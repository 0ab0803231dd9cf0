//! Connections by client address: who may have another.
//!
//! The address of a connection is in its session, and so in the attachment of its socket; when an object wakes up, the open
//! sockets are counted again. A socket that is closing keeps its place until it has closed.

use std::net::IpAddr;

use relay_engine::policy::AddressConnections;
use relay_engine::types::ClientAddress;
use relay_site::{HttpResponse, Networks};

use crate::settings::NetworkSettings;

/// Why a client may not connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The object has as many connections as it may have, or no memory for another.
    Full,
    /// The client's address has `network.connections_per_address_max`.
    AddressFull,
}

impl ConnectError {
    /// The response to the handshake.
    pub fn answer(self) -> HttpResponse {
        match self {
            ConnectError::Full => HttpResponse::too_many_connections(),
            ConnectError::AddressFull => HttpResponse::too_many_from_address(),
        }
    }
}

/// The connections of all addresses, and their limit. Clients without an address have none.
pub(super) struct Addresses {
    exempt: Networks,
    max: usize,
    connections: AddressConnections,
    refused: u64,
}

impl Addresses {
    /// None, with settings that have been checked.
    pub(super) fn new(settings: &NetworkSettings) -> Self {
        Addresses {
            exempt: settings.exempt().unwrap_or_default(),
            max: settings.connections_per_address_max,
            connections: AddressConnections::default(),
            refused: 0,
        }
    }

    /// The address that a client's limits are counted by; `None`: it is exempt.
    pub(super) fn limited(&self, from: Option<IpAddr>) -> Option<ClientAddress> {
        from.filter(|address| !self.exempt.contain(*address)).map(Into::into)
    }

    /// Whether an address may have another connection; if not, that is counted.
    pub(super) fn admits(&mut self, address: Option<ClientAddress>) -> bool {
        let has_room = address.is_none_or(|address| self.connections.of(address) < self.max);
        self.refused += u64::from(!has_room);
        has_room
    }

    /// Counts a connection that is open, whatever the limit is now.
    pub(super) fn restore(&mut self, address: Option<ClientAddress>) {
        address.into_iter().for_each(|address| self.connections.restore(address));
    }

    /// A connection that was counted has closed.
    pub(super) fn close(&mut self, address: Option<ClientAddress>) {
        address.into_iter().for_each(|address| self.connections.close(address));
    }

    /// Connections that were refused.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Connections of the address that has the most. Cost: the number of addresses.
    pub(super) fn most(&self) -> usize {
        self.connections.most()
    }
}
