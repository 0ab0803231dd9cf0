//! The task of the router: it reads the relay's stream, has events delivered, publishes heartbeats, and opens agents whose time
//! has come.

use std::sync::Arc;
use std::time::Duration;

use relay_engine::store::Seq;
use relay_engine::types::{Event, Filter, PubKey};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::agent_task::send_all;
use super::registry::{Message, Receipt};
use super::runtime::AgentRuntime;
use crate::handle::{Item, ReadError, Stream};
use crate::host::now;

/// Events of a batch, at most.
const BATCH_EVENTS_MAX: usize = 1_024;
/// Deliveries that are made before others are answered.
const DELIVERIES_MAX: usize = 1_024;
/// Until a stream that could not be opened is tried again.
const REOPEN: Duration = Duration::from_secs(1);

/// Runs until the relay stops.
pub(super) async fn run(runtime: Arc<AgentRuntime>) {
    for agent in runtime.agents_with_orphaned_files() {
        runtime.reopen_times().postpone(&agent, now());
    }
    let (receipts, received) = unbounded_channel();
    let mut supervisor = Supervisor { runtime, receipts, received, stream: None };
    supervisor.run().await;
}

struct Supervisor {
    runtime: Arc<AgentRuntime>,
    /// What became of deliveries.
    receipts: UnboundedSender<(u64, bool)>,
    received: UnboundedReceiver<(u64, bool)>,
    stream: Option<(Stream, Vec<Filter>)>,
}

impl Supervisor {
    async fn run(&mut self) {
        while !self.runtime.registry.is_stopping() {
            let is_open = match self.follow().await {
                Ok(()) => true,
                Err(ReadError::Stopped) => return,
                Err(ReadError::Store(error)) => {
                    tracing::error!(%error, "agents cannot read the relay's events; trying again");
                    false
                }
            };
            self.handle_time().await;
            self.deliver();
            self.tell_dropped();
            let now = now();
            let (is_ready, timeout) = {
                let router = self.runtime.router();
                (router.is_ready(), router.poll_timeout())
            };
            let reopen_at = self.runtime.reopen_times().next();
            let wait = timeout
                .into_iter()
                .chain(reopen_at)
                .min()
                .map(|at| Duration::from_millis(at.millis_since(now) + 1));
            let wait = wait.into_iter().chain((!is_open).then_some(REOPEN)).min();
            tokio::select! {
                item = next(&mut self.stream), if is_ready && self.stream.is_some() => match item {
                    Some(item) => self.accept(item),
                    None => return,
                },
                Some((id, is_accepted)) = self.received.recv() => self.handle_receipts(id, is_accepted),
                () = self.runtime.changed.notified() => {}
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            }
        }
    }

    /// Opens the stream that the router wants, if it is not open.
    async fn follow(&mut self) -> Result<(), ReadError> {
        let wanted = self.runtime.router().filters();
        if wanted.as_ref() == self.stream.as_ref().map(|(_, filters)| filters) {
            return Ok(());
        }
        self.stream = None;
        let Some(filters) = wanted else { return Ok(()) };
        let last = self.runtime.handle.last_seq()?;
        let position = self.runtime.router().position().map_err(ReadError::Store)?;
        // Another database than before has other numbers.
        let after = position.filter(|position| *position <= last).unwrap_or(last);
        let stream = self.runtime.handle.open_stream(filters.clone(), Some(after)).await?;
        self.stream = Some((stream, filters));
        Ok(())
    }

    /// Passes what has come to the router, as one batch.
    fn accept(&mut self, first: Item) {
        let mut batch = Batch::default();
        batch.add(first);
        while batch.events.len() < BATCH_EVENTS_MAX
            && let Some((stream, _)) = &mut self.stream
            && let Some(item) = stream.try_next()
        {
            batch.add(item);
        }
        if let Some(position) = batch.position {
            self.runtime.router().accept(now(), batch.events, position);
        }
    }

    /// Sends the router's deliveries to agents.
    fn deliver(&mut self) {
        let mut deliveries = Vec::new();
        {
            let mut router = self.runtime.router();
            while deliveries.len() < DELIVERIES_MAX
                && let Some(delivery) = router.poll_delivery()
            {
                deliveries.push(delivery);
            }
        }
        // One commit for all. Those that cannot be marked are not opened, and their deliveries fail.
        let agents: Vec<PubKey> = deliveries.iter().map(|delivery| delivery.agent).collect();
        if !agents.is_empty()
            && let Err(error) = self.runtime.reopen_times().mark_open(&agents)
        {
            tracing::warn!(%error, "agents cannot be opened; trying again");
        }
        let is_full = deliveries.len() == DELIVERIES_MAX;
        for delivery in deliveries {
            let receipt = Receipt::new(delivery.id, self.receipts.clone());
            self.runtime.send(delivery.agent, Message::Deliver(delivery.events, receipt));
        }
        if is_full {
            self.runtime.changed.notify_one();
        }
    }

    fn tell_dropped(&self) {
        let dropped = self.runtime.router().take_dropped();
        for (agent, events) in dropped {
            tracing::warn!(%agent, events, "the queue of an agent is full: its events were dropped");
            self.runtime.tally().dropped(events);
        }
    }

    fn handle_receipts(&mut self, id: u64, is_accepted: bool) {
        let mut router = self.runtime.router();
        let now = now();
        let mut next = Some((id, is_accepted));
        while let Some((id, is_accepted)) = next {
            router.handle_delivered(now, id, is_accepted);
            if !is_accepted {
                self.runtime.tally().delivery_failed();
            }
            next = self.received.try_recv().ok();
        }
    }

    /// Does what is due.
    async fn handle_time(&mut self) {
        let now = now();
        let heartbeats = {
            let mut router = self.runtime.router();
            if router.poll_timeout().is_some_and(|at| at <= now) {
                router.handle_timeout(now);
                router.poll_heartbeats(now)
            } else {
                Vec::new()
            }
        };
        self.publish(heartbeats).await;
        for agent in self.runtime.reopen_times().take_due(now) {
            self.runtime.send(agent, Message::Open);
        }
    }

    /// Publishes heartbeats. Waits for them, so that they do not come faster than they are stored.
    async fn publish(&self, heartbeats: Vec<Event>) {
        for outcome in send_all(&self.runtime.handle, heartbeats) {
            match outcome.await {
                Ok(outcome) if outcome.is_accepted() => {}
                outcome => tracing::debug!(?outcome, "a heartbeat was not published"),
            }
        }
    }
}

async fn next(stream: &mut Option<(Stream, Vec<Filter>)>) -> Option<Item> {
    match stream {
        Some((stream, _)) => stream.next().await,
        None => None,
    }
}

/// What has come from the stream.
#[derive(Default)]
struct Batch {
    events: Vec<Event>,
    position: Option<Seq>,
}

impl Batch {
    fn add(&mut self, item: Item) {
        match item {
            Item::Event(Some(seq), event) => {
                self.events.push(event);
                self.position = Some(seq);
            }
            Item::Position(seq) => self.position = Some(seq),
            // No kind that agents read is ephemeral.
            Item::Event(None, _) | Item::Missed(_) => {}
        }
    }
}
