//! The batch under way: events on their way to their agents.

use std::collections::{BTreeMap, VecDeque};

use relay_engine::types::{Event, Now, PubKey, Seq};

/// A batch. It is confirmed when every part has been delivered or stored for later.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) position: Seq,
    /// Events whose agents are not known yet.
    pub(super) unrouted: Vec<Event>,
    /// To be delivered.
    pub(super) parts: VecDeque<Part>,
    /// Under way, by delivery.
    pub(super) in_flight: BTreeMap<u64, Part>,
    /// To be stored for later, each with the delivery that is still under way, if any.
    pub(super) late: Vec<(Part, Option<u64>)>,
    /// Deliveries that take longer are waited for no more, nor are those for which there has been no room.
    pub(super) slow_at: Now,
    /// The store has failed; tried again then.
    pub(super) retry_at: Option<Now>,
}

/// The events of one agent, in order.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) agent: PubKey,
    pub(super) events: Vec<Event>,
}

impl Batch {
    pub(super) fn new(events: Vec<Event>, position: Seq, slow_at: Now) -> Self {
        Batch {
            position,
            unrouted: events,
            parts: VecDeque::new(),
            in_flight: BTreeMap::new(),
            late: Vec::new(),
            slow_at,
            retry_at: None,
        }
    }

    /// Whether nothing has to be waited for any more.
    pub(super) fn is_done(&self) -> bool {
        self.unrouted.is_empty() && !self.is_under_way()
    }

    /// Whether there are deliveries that have not been made, or not answered.
    pub(super) fn is_under_way(&self) -> bool {
        !self.parts.is_empty() || !self.in_flight.is_empty()
    }

    /// Every delivery under way, or not made yet, becomes one that is stored for later.
    pub(super) fn give_up_waiting(&mut self) {
        self.late.extend(std::mem::take(&mut self.parts).into_iter().map(|part| (part, None)));
        self.late.extend(std::mem::take(&mut self.in_flight).into_iter().map(|(id, part)| (part, Some(id))));
    }

    /// Removes the parts of an agent that is deleted.
    pub(super) fn forget(&mut self, agent: &PubKey) {
        self.parts.retain(|part| part.agent != *agent);
        self.in_flight.retain(|_, part| part.agent != *agent);
        self.late.retain(|(part, _)| part.agent != *agent);
    }
}

/// Events by agent, in the order in which agents appear.
#[derive(Debug, Default)]
pub(super) struct Parts {
    parts: Vec<Part>,
    by_agent: BTreeMap<PubKey, usize>,
}

impl Parts {
    pub(super) fn push(&mut self, agent: PubKey, event: &Event) {
        let index = *self.by_agent.entry(agent).or_insert_with(|| {
            self.parts.push(Part { agent, events: Vec::new() });
            self.parts.len() - 1
        });
        self.parts[index].events.push(event.clone());
    }

    pub(super) fn into_vec(self) -> Vec<Part> {
        self.parts
    }
}
