//! Which agents there are: entries of the router as the agents' objects report them.

use relay_agent::api;
use relay_agent::machine::{AgentState, RemovalRecord};
use relay_agent::router::{AgentEntry, Router};
use relay_engine::sql::StoreError;
use relay_engine::types::{Now, PubKey};
use relay_site::HttpResponse;
use relay_site::nip98::SignerTrust;

use super::super::{Host, NextTick, Object, RowCountingConn};
use super::{Agents, Call, CallId, Stream};

impl<C: RowCountingConn + 'static, H: Host> Object<C, H> {
    /// Adds an agent or replaces its entry. Durable when it returns.
    ///
    /// # Errors
    /// If the store fails, or agents are disabled.
    pub fn put_agent(&mut self, now: Now, entry: AgentEntry) -> (Result<(), String>, NextTick) {
        let Some(mut agents) = self.agents.take() else {
            return (Err("agents are disabled".into()), NextTick::None);
        };
        let outcome = self.put_entry(&mut agents, now, entry);
        self.agents = Some(agents);
        (outcome.map_err(|error| error.to_string()), self.flush(now))
    }

    /// Keeps the removal record of a deleted agent. Durable when it returns `true`; `false`: it has been deployed again.
    ///
    /// # Errors
    /// If the store fails, or agents are disabled.
    pub fn remove_agent(&mut self, now: Now, deleted: &RemovalRecord) -> (Result<bool, String>, NextTick) {
        let Some(mut agents) = self.agents.take() else {
            return (Err("agents are disabled".into()), NextTick::None);
        };
        let before = self.rows();
        let outcome = agents.router.keep_removal_record(now, deleted);
        if outcome == Ok(true) {
            agents.tally.deleted(&deleted.pubkey());
        }
        self.close_outdated_stream(&mut agents, now);
        self.counters.rows.agents.add(self.rows().since(before));
        self.agents = Some(agents);
        (outcome.map_err(|error| error.to_string()), self.flush(now))
    }

    /// The removal record of a deleted agent.
    ///
    /// # Errors
    /// If the store fails.
    pub fn removal_record_of(&self, agent: &PubKey) -> Result<Option<RemovalRecord>, String> {
        self.router()
            .map_or(Ok(None), |router| router.removal_record(agent))
            .map_err(|error| error.to_string())
    }

    /// The agent that has answered a call says what the router should know. If that has changed since the call, the answer may
    /// be older. If the store fails, the next answer says it again.
    pub(super) fn correct_entry(
        &mut self,
        agents: &mut Agents<C>,
        now: Now,
        call: CallId,
        is_deleted: bool,
        entry: Option<AgentEntry>,
    ) {
        let Some(Call { agent, is_current: true, .. }) = agents.calls.get(&call) else { return };
        let Some(own) = agents.router.get(agent) else { return };
        let deleted = is_deleted.then(|| AgentEntry { state: AgentState::Deleted, ..own.clone() });
        if let Some(entry) = deleted.or(entry.filter(|entry| entry.pubkey == *agent)) {
            let _ = self.put_entry(agents, now, entry);
        }
    }

    pub(super) fn put_entry(
        &mut self,
        agents: &mut Agents<C>,
        now: Now,
        entry: AgentEntry,
    ) -> Result<(), StoreError> {
        let before = self.rows();
        let agent = entry.pubkey;
        for call in agents.calls.values_mut().filter(|call| call.agent == agent) {
            call.is_current = false;
        }
        let outcome = self.begin_stream(agents, now).and_then(|()| agents.router.put(now, entry));
        if agents.router.get(&agent).is_none() {
            agents.tally.deleted(&agent);
        }
        self.close_outdated_stream(agents, now);
        self.counters.rows.agents.add(self.rows().since(before));
        outcome
    }

    /// Closes the stream if agents want other filters than it has.
    pub(super) fn close_outdated_stream(&mut self, agents: &mut Agents<C>, now: Now) {
        if let Stream::Open(stream, filters) = &agents.stream
            && agents.router.filters().as_ref() != Some(filters)
        {
            self.relay.close_stream(*stream);
            agents.stream = Stream::Closed(now, 0);
        }
    }

    /// The router, to be read. `None` if agents are disabled.
    pub fn router(&self) -> Option<&Router<C>> {
        self.agents.as_ref().map(|agents| &agents.router)
    }

    /// Whether a request to an agent may be made, as far as its entry says.
    ///
    /// # Errors
    /// The response.
    pub fn admit_agent_request(
        &self,
        agent: &PubKey,
        request: &api::Request<'_>,
    ) -> Result<SignerTrust, HttpResponse> {
        let entry = self.router().and_then(|router| router.get(agent));
        api::admit(request.route, request.id, request.caller, false, entry)
    }

    /// Whether this agent may be deployed: it is there, or there are fewer than `agents.agents_max`.
    pub fn has_room_for_agent(&self, agent: &PubKey) -> bool {
        self.router()
            .is_some_and(|router| router.get(agent).is_some() || router.agents().count() < self.agents_max)
    }
}
