//! What an agent wants of the runtime, kept until it can be begun.

use bytes::Bytes;
use relay_agent::exchange::Answers;
use relay_agent::executor::HttpRequest;
use relay_agent::machine::{EffectId, RemovalRecord};
use relay_engine::types::{Event, Filter, Now, PubKey};

use super::super::js::{self, Storage};
use super::super::memory;
use super::{Calls, PendingEffects};
use crate::agent::AgentHost;

/// What the agent wants, until it is begun.
pub(super) enum PendingEffect {
    Publish(EffectId, Vec<Event>),
    PublishToRemoteRelays(Vec<Event>, Vec<String>),
    Call(EffectId, HttpRequest),
    CallModel(EffectId, String, Bytes),
    Exchange(EffectId, Vec<String>, Answers, Vec<Event>),
    Query(EffectId, Filter),
    StoreBlob(EffectId, PubKey, Bytes, &'static str),
    ReadBlob(EffectId, String, usize),
    Remove(RemovalRecord),
}

/// The runtime, as the agent uses it.
pub(super) struct Runtime {
    pub(super) storage: Storage,
    pub(super) pending_effects: PendingEffects,
    pub(super) calls: Calls,
}

impl Runtime {
    fn push_effect(&self, effect: PendingEffect) {
        if let Ok(mut pending_effects) = self.pending_effects.try_borrow_mut() {
            pending_effects.push_back(effect);
        }
    }
}

impl AgentHost for Runtime {
    fn publish(&self, id: EffectId, events: &[Event]) {
        self.push_effect(PendingEffect::Publish(id, events.to_vec()));
    }

    fn publish_to_remote_relays(&self, events: &[Event], relays: &[String]) {
        self.push_effect(PendingEffect::PublishToRemoteRelays(events.to_vec(), relays.to_vec()));
    }

    fn call(&self, id: EffectId, request: HttpRequest) {
        self.push_effect(PendingEffect::Call(id, request));
    }

    fn call_model(&self, id: EffectId, model: &str, input: Bytes) {
        self.push_effect(PendingEffect::CallModel(id, model.to_owned(), input));
    }

    fn exchange(&self, id: EffectId, relays: &[String], answers: Answers, requests: &[Event]) {
        self.push_effect(PendingEffect::Exchange(id, relays.to_vec(), answers, requests.to_vec()));
    }

    fn cancel(&self, id: EffectId) {
        if let Ok(mut pending_effects) = self.pending_effects.try_borrow_mut() {
            pending_effects.retain(|pending_effect| match pending_effect {
                PendingEffect::Call(own, _)
                | PendingEffect::CallModel(own, ..)
                | PendingEffect::Exchange(own, ..)
                | PendingEffect::ReadBlob(own, ..) => *own != id,
                PendingEffect::Publish(..)
                | PendingEffect::PublishToRemoteRelays(..)
                | PendingEffect::Query(..)
                | PendingEffect::StoreBlob(..)
                | PendingEffect::Remove(_) => true,
            });
        }
        let open = self.calls.try_borrow_mut().ok().and_then(|mut calls| calls.remove(&id));
        if let Some(call) = open {
            call.abort();
        }
    }

    fn query(&self, id: EffectId, filter: &Filter) {
        self.push_effect(PendingEffect::Query(id, filter.clone()));
    }

    fn store_blob(&self, id: EffectId, owner: PubKey, bytes: Bytes, mime: &'static str) {
        self.push_effect(PendingEffect::StoreBlob(id, owner, bytes, mime));
    }

    fn read_blob(&self, id: EffectId, sha256: &str, bytes_max: usize) {
        self.push_effect(PendingEffect::ReadBlob(id, sha256.to_owned(), bytes_max));
    }

    fn remove(&self, deleted: &RemovalRecord) {
        self.push_effect(PendingEffect::Remove(deleted.clone()));
    }

    fn set_alarm(&self, at: Now) {
        if let Err(error) = self.storage.set_alarm(at.millis() as f64) {
            worker::console_error!("setting an alarm: {}", js::error_message(&error));
        }
    }

    fn memory_used_bytes(&self) -> u64 {
        memory::used_bytes()
    }
}
