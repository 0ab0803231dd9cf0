//! Results of requests that name no relays are also sent to those where their customers read (NIP-65), once the host's relay
//! has them. Best effort: it is not repeated after a crash.

use std::collections::HashMap;

use relay_engine::sql::SqlConn;
use relay_engine::types::{Event, Filter, PubKey};

use super::{Agent, Awaited, Effect, EffectId};
use crate::nip90;

/// Customers whose relays are remembered. With more, all are asked for again.
const KNOWN_MAX: usize = 1_000;
/// Results that wait for the list of their customer's relays.
const WAITING_MAX: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ReadRelays {
    known: HashMap<PubKey, Vec<String>>,
    waiting: HashMap<PubKey, Vec<Event>>,
}

impl<C: SqlConn> Agent<C> {
    /// The host's relay has a result whose request names no relays.
    pub(super) fn send_to_read_relays(&mut self, result: Event) {
        let Some(customer) = nip90::named_keys(&result).first().copied() else { return };
        if let Some(relays) = self.read_relays.known.get(&customer).cloned() {
            return self.send_to(relays, vec![result]);
        }
        let waiting: usize = self.read_relays.waiting.values().map(Vec::len).sum();
        if waiting >= WAITING_MAX {
            return;
        }
        let is_asked = self.read_relays.waiting.contains_key(&customer);
        self.read_relays.waiting.entry(customer).or_default().push(result);
        if !is_asked {
            let filter = Filter {
                authors: Some(Box::new([customer])),
                kinds: Some(Box::new([nip90::KIND_RELAYS])),
                limit: Some(1),
                ..Filter::default()
            };
            let id = self.new_effect(Awaited::RelayList(customer));
            self.held.push(Effect::Query { id, filter });
        }
    }

    /// The relay has said where a customer reads.
    pub(super) fn relay_list(&mut self, customer: PubKey, events: Result<Vec<Event>, String>) {
        let waiting = self.read_relays.waiting.remove(&customer).unwrap_or_default();
        let Ok(events) = events else { return };
        let newest =
            events.iter().filter(|event| event.pubkey == customer).max_by_key(|event| event.created_at);
        let own = self.context.relay_url.as_deref().and_then(nip90::public_relay);
        let mut relays = newest.map(nip90::read_relays).unwrap_or_default();
        relays.retain(|relay| own.as_ref() != Some(relay));
        if self.read_relays.known.len() >= KNOWN_MAX {
            self.read_relays.known.clear();
        }
        self.read_relays.known.insert(customer, relays.clone());
        self.send_to(relays, waiting);
    }

    fn send_to(&mut self, relays: Vec<String>, events: Vec<Event>) {
        if !relays.is_empty() && !events.is_empty() {
            self.last_effect += 1;
            self.held.push(Effect::Send { id: EffectId(self.last_effect), events, relays });
        }
    }
}
