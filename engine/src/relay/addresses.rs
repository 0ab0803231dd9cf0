//! Rate limits by client address: a table of the shard's own, or one that all shards of the host share.

use std::sync::{Arc, Mutex, PoisonError};

use super::Relay;
use crate::policy::AddressRates;
use crate::store::Backend;
use crate::types::{ClientAddress, Limits, Now};

/// What an event with a wrong signature counts against `address_events_per_minute_max`. Honest programs send none, and whoever
/// makes one up pays nothing for what costs the relay a verification.
const INVALID_EVENT_COST: u64 = 20;

/// Rates that shards can share: an address has connections to several of them.
#[derive(Clone, Default)]
pub(super) struct SharedRates(Arc<Mutex<AddressRates>>);

impl SharedRates {
    /// Takes a token for an EVENT or AUTH message. Clients without an address are not limited.
    pub(super) fn take_event(&self, address: Option<ClientAddress>, limits: &Limits, now: Now) -> bool {
        limits.address_events_per_minute_max == 0
            || address.is_none_or(|address| self.with(|rates| rates.take_event(address, limits, now)))
    }

    /// An event of this address had a wrong signature.
    pub(super) fn spend_invalid_event(&self, address: Option<ClientAddress>, limits: &Limits, now: Now) {
        if let Some(address) = address
            && limits.address_events_per_minute_max > 0
        {
            self.with(|rates| rates.spend_events(address, INVALID_EVENT_COST - 1, limits, now));
        }
    }

    /// Whether another event of this address may be delivered.
    pub(super) fn has_fanout_budget(
        &self,
        address: Option<ClientAddress>,
        limits: &Limits,
        now: Now,
    ) -> bool {
        limits.address_fanout_cost_per_minute_max == 0
            || address.is_none_or(|address| self.with(|rates| rates.has_fanout_budget(address, limits, now)))
    }

    /// The delivery of an event of this address has this cost.
    pub(super) fn spend_fanout(&self, address: Option<ClientAddress>, cost: u64, limits: &Limits, now: Now) {
        if let Some(address) = address
            && limits.address_fanout_cost_per_minute_max > 0
        {
            self.with(|rates| rates.spend_fanout(address, cost, limits, now));
        }
    }

    /// Takes a token for a REQ or COUNT message.
    pub(super) fn take_request(&self, address: Option<ClientAddress>, limits: &Limits, now: Now) -> bool {
        limits.address_requests_per_minute_max == 0
            || address.is_none_or(|address| self.with(|rates| rates.take_request(address, limits, now)))
    }

    fn with<T>(&self, ask: impl FnOnce(&mut AddressRates) -> T) -> T {
        ask(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<B: Backend> Relay<B> {
    /// Counts messages by address in this table, which all shards of a host share; alone, a shard has one of its own.
    pub fn share_address_rates(&mut self, rates: Arc<Mutex<AddressRates>>) {
        self.address_rates = SharedRates(rates);
    }
}
