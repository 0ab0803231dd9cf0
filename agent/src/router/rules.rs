//! Which agents an event concerns.

use relay_engine::types::{Event, EventId, PubKey};

use super::AgentEntry;
use super::table::Table;
use crate::machine::AgentState;
use crate::nip90;

/// Agents that one event is given to because it names them: the first of this host. An event has room for thousands, and each
/// would cost a delivery and an answer.
pub(super) const NAMED_AGENTS_MAX: usize = 16;
/// Agents that are given an open job.
pub(super) const OPEN_AGENTS_MAX: usize = 5;

/// The agents that a job request goes to: those of this host that it names, or if it names nobody, some of those that take
/// open jobs of its kind.
pub(super) fn request(table: &Table, event: &Event) -> Vec<PubKey> {
    let mut agents = match named(table, event) {
        Some(named) => named,
        None => some_of(table.open_to(event.kind), &event.id),
    };
    agents.retain(|agent| *agent != event.pubkey && may_ask(table, &event.pubkey, agent));
    agents
}

/// The agents that a ping goes to.
pub(super) fn ping(table: &Table, event: &Event) -> Vec<PubKey> {
    let mut agents = named(table, event).unwrap_or_default();
    agents.retain(|agent| table.get(agent).is_some_and(|entry| entry.state == AgentState::Active));
    agents
}

/// The agents that a zap receipt goes to, whether they take jobs or not.
pub(super) fn zap_receipt(table: &Table, event: &Event) -> Vec<PubKey> {
    let mut agents = named(table, event).unwrap_or_default();
    agents.retain(|agent| table.get(agent).is_some_and(AgentEntry::takes_zaps));
    agents
}

/// The first agents of this host that `p` tags name. `None`: there is no such tag.
fn named(table: &Table, event: &Event) -> Option<Vec<PubKey>> {
    event.tags().named(b"p").next()?;
    let mut named = nip90::named_keys(event);
    named.retain(|agent| table.get(agent).is_some());
    named.truncate(NAMED_AGENTS_MAX);
    Some(named)
}

/// At most [`OPEN_AGENTS_MAX`] neighbours. The request's id decides where they begin, so jobs spread evenly.
fn some_of(agents: &[PubKey], request: &EventId) -> Vec<PubKey> {
    if agents.is_empty() {
        return Vec::new();
    }
    let first = (request.prefix() % agents.len() as u64) as usize;
    agents.iter().cycle().skip(first).take(agents.len().min(OPEN_AGENTS_MAX)).copied().collect()
}

/// Agents do not ask each other unless the one that is asked allows it, so two of them cannot keep each other busy.
fn may_ask(table: &Table, author: &PubKey, agent: &PubKey) -> bool {
    table.get(author).is_none() || table.get(agent).is_some_and(|entry| entry.manifest.access.agent_callers)
}
