//! Agents beside the relay: events go to them, and what they publish comes back.
//!
//! The [`Router`] reads a stream of the relay's and says which agent gets which events. Each delivery is a request to the
//! object of an agent, whose response has the events that it publishes. The router is told that a delivery was accepted when
//! these are stored: a delivery that is lost with this object's memory, before or after it was answered, is made again, and
//! its agent answers with the same events. What the relay has stored is confirmed to the agent with its next delivery, or a
//! moment later by an empty one; if that is lost, by the one after it.
//!
//! Without agents there is no stream, no alarm, and no row is read or written.

mod directory;
mod stream;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use relay_agent::machine::{EffectId, MetricsDelta, Published};
use relay_agent::router::Router;
use relay_agent::secrets::Secrets;
use relay_agent::totals::Tally;
use relay_engine::relay::{ClientViewer, PublishOutcome, StreamId, Ticket};
use relay_engine::sql::StoreError;
use relay_engine::store::{Backend, Reader, Scan, ScanLimits, ScanStep, SinkResult};
use relay_engine::types::{Event, Filter, Now, PubKey, Seq};

use super::{Host, NextTick, Object, RowCountingConn};
use crate::agent::message::{Confirmation, Delivery, InstanceId, Known, Reply};

/// Events and bytes of a batch; it ends with the event that passes either.
const BATCH_EVENTS_MAX: usize = 64;
const BATCH_BYTES_MAX: usize = 256 << 10;
/// Batches that are taken from the stream at a time; then clients are served.
const BATCHES_MAX: usize = 8;
/// Seconds after which an alarm checks for deliveries that were lost with the object's memory.
const CHECK_SECONDS: u64 = 30;
/// Milliseconds after which publications are confirmed if no delivery does it before, and the agent is not busy.
const CONFIRM_MS: u64 = 1_000;
/// Longer waits are left to the alarm: a timer keeps the object awake.
const TIMER_MS_MAX: u64 = 5_000;
/// Stored events that concern no agent before their sequence number is confirmed, which costs a row.
const UNCONFIRMED_MAX: u64 = 1_000;
/// Most events of a query's answer.
const QUERY_EVENTS_MAX: u32 = 16;
/// Most cost of a query, in units of about a microsecond.
const QUERY_COST_MAX: usize = 2_000;

/// A request to the object of an agent, until it is answered.
pub type CallId = u64;

/// Events that an agent publishes together.
pub type PublicationId = u64;

/// All agents of this relay.
pub(super) struct Agents<C> {
    pub(super) router: Router<C>,
    /// What agents have reported since this object woke up.
    pub(super) tally: Tally,
    stream: Stream,
    /// Up to where the stream has come, as the router has stored it.
    confirmed: Seq,
    calls: BTreeMap<CallId, Call>,
    publications: BTreeMap<PublicationId, Publication>,
    last_id: u64,
    /// Which publication an event belongs to, and its place there.
    tickets: HashMap<Ticket, (PublicationId, usize)>,
    /// What has not been confirmed to agents, and when it is to be.
    confirmations: BTreeMap<PubKey, (Now, Vec<Confirmation>)>,
    /// When the alarm comes that was set before the object lost its memory.
    old_alarm: Option<Now>,
    /// Outcomes of requests, until they are polled.
    answers: VecDeque<(PublicationId, Vec<Published>)>,
    /// Outcomes of events that no agent has published, until they are polled.
    others: VecDeque<(Ticket, PublishOutcome)>,
}

enum Stream {
    /// To be opened at that time; the store has failed this many times.
    Closed(Now, u32),
    /// With these filters.
    Open(StreamId, Vec<Filter>),
}

/// A request to an agent's object.
struct Call {
    agent: PubKey,
    /// The router's delivery; `None` if it only confirms.
    delivery: Option<u64>,
    /// Whether the router's entry of the agent is still the one that was sent with the call.
    is_current: bool,
    /// Publications of its answer that have no outcome yet.
    open: usize,
    /// Whether the relay has failed to store one of them: then the delivery is made again, so that the agent publishes it once
    /// more even if the confirmation is lost.
    has_failed: bool,
    /// When the outcomes are to be confirmed.
    confirm_at: Now,
}

struct Publication {
    origin: PublicationSource,
    outcomes: Vec<Option<Published>>,
}

/// Who waits for the outcomes.
enum PublicationSource {
    /// An agent, which has published this in the answer to a call.
    AgentReply(CallId, InstanceId, EffectId),
    /// An agent, by a request.
    Request,
    /// Nobody: the router's heartbeats.
    Nobody,
}

impl<C: RowCountingConn> Agents<C> {
    /// Opens the router's tables in `conn`.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) fn open(conn: C, secrets: Arc<dyn Secrets + Send + Sync>) -> Result<Self, StoreError> {
        let router = Router::open(conn, secrets)?;
        Ok(Agents {
            old_alarm: router.poll_timeout(),
            router,
            tally: Tally::default(),
            stream: Stream::Closed(Now::default(), 0),
            confirmed: Seq(0),
            calls: BTreeMap::new(),
            publications: BTreeMap::new(),
            last_id: 0,
            tickets: HashMap::new(),
            confirmations: BTreeMap::new(),
            answers: VecDeque::new(),
            others: VecDeque::new(),
        })
    }

    /// Whether there are no agents, and nothing is in progress for removed ones.
    fn is_idle(&self) -> bool {
        self.router.is_empty()
            && self.router.is_ready()
            && matches!(self.stream, Stream::Closed(..))
            && self.calls.is_empty()
            && self.confirmations.is_empty()
            && self.router.poll_timeout().is_none()
    }

    /// The next time at which there is something to do, if so late that the alarm is used and not a timer.
    pub(super) fn alarm_at(&self, now: Now) -> Option<Now> {
        self.router.poll_timeout().filter(|at| at.millis_since(now) > TIMER_MS_MAX)
    }

    /// Whether the alarm that was set before the object lost its memory comes by then.
    pub(super) fn has_old_alarm_by(&self, now: Now, at: Now) -> bool {
        self.old_alarm.is_some_and(|old| now < old && old <= at)
    }

    /// Milliseconds until there is something to do, if so soon that a timer is used and not the alarm.
    pub(super) fn timer_ms(&self, now: Now) -> Option<u64> {
        let confirmations = self.confirmations.values().map(|(at, _)| *at);
        let reopening = match self.stream {
            Stream::Closed(at, _) if !self.router.is_empty() => Some(at),
            _ => None,
        };
        let soonest = confirmations.chain(reopening).chain(self.router.poll_timeout()).min();
        soonest.map(|at| at.millis_since(now)).filter(|ms| *ms <= TIMER_MS_MAX)
    }

    /// Whether something is on its way that would be lost with the object's memory, and has to be done again then.
    fn has_undelivered(&self, now: Now) -> bool {
        let is_closed = matches!(self.stream, Stream::Closed(..)) && !self.router.is_empty();
        is_closed
            || !self.router.is_ready()
            || self.calls.values().any(|call| call.delivery.is_some())
            || self.router.poll_timeout().is_some_and(|at| at.millis_since(now) <= TIMER_MS_MAX)
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The relay has decided about an event.
    fn decide(&mut self, now: Now, ticket: Ticket, outcome: PublishOutcome) {
        let Some((id, place)) = self.tickets.remove(&ticket) else {
            self.others.push_back((ticket, outcome));
            return;
        };
        let Some(publication) = self.publications.get_mut(&id) else { return };
        if let Some(own) = publication.outcomes.get_mut(place) {
            *own = Some(published(outcome));
        }
        if publication.outcomes.iter().all(Option::is_some)
            && let Some(Publication { origin, outcomes }) = self.publications.remove(&id)
        {
            let outcomes = outcomes.into_iter().flatten().collect();
            match origin {
                PublicationSource::AgentReply(call, instance, id) => {
                    self.confirm(now, call, Confirmation { instance, id, outcomes });
                }
                PublicationSource::Request => self.answers.push_back((id, outcomes)),
                PublicationSource::Nobody => {}
            }
        }
    }

    /// A publication of a call's answer has its outcomes.
    fn confirm(&mut self, now: Now, id: CallId, confirmation: Confirmation) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.open = call.open.saturating_sub(1);
        call.has_failed |=
            confirmation.outcomes.iter().any(|outcome| matches!(outcome, Published::Failed(_)));
        let (is_over, is_accepted) = (call.open == 0, !call.has_failed);
        let (at, waiting) = self.confirmations.entry(call.agent).or_insert((call.confirm_at, Vec::new()));
        *at = call.confirm_at.min(*at);
        waiting.push(confirmation);
        if is_over {
            self.end_call(now, id, is_accepted);
        }
    }

    fn end_call(&mut self, now: Now, id: CallId, is_accepted: bool) {
        if let Some(Call { delivery: Some(delivery), .. }) = self.calls.remove(&id) {
            self.router.handle_delivered(now, delivery, is_accepted);
        }
    }

    /// A call with these events and all that is to be confirmed.
    fn call(&mut self, agent: PubKey, delivery: Option<u64>, events: Vec<Event>) -> (CallId, Delivery) {
        let id = self.next_id();
        let confirmed = self.confirmations.remove(&agent).map(|(_, confirmed)| confirmed).unwrap_or_default();
        let known = self.router.get(&agent).map(Known::of);
        self.calls.insert(
            id,
            Call {
                agent,
                delivery,
                is_current: true,
                open: 0,
                has_failed: false,
                confirm_at: Now::default(),
            },
        );
        (id, Delivery { known, confirmed, events })
    }

    /// An agent whose confirmations wait no longer for a delivery.
    fn poll_unconfirmed(&self, now: Now) -> Option<PubKey> {
        self.confirmations.iter().find(|(_, (at, _))| *at <= now).map(|(agent, _)| *agent)
    }
}

fn published(outcome: PublishOutcome) -> Published {
    match outcome {
        PublishOutcome::Forged(words) | PublishOutcome::Refused(words) => Published::Refused(words),
        PublishOutcome::Failed(words) => Published::Failed(words),
        PublishOutcome::Stored(_)
        | PublishOutcome::Delivered
        | PublishOutcome::Duplicate
        | PublishOutcome::Superseded => Published::Accepted,
    }
}

impl<C: RowCountingConn + 'static, H: Host> Object<C, H> {
    /// An agent's object has answered [`Host::call_agent`], or failed to.
    pub fn agent_answered(&mut self, now: Now, id: CallId, reply: Option<Reply>) -> NextTick {
        if let Some(mut agents) = self.agents.take() {
            match reply {
                Some(Reply { instance, is_busy, publish, is_deleted, entry, counted })
                    if agents.calls.contains_key(&id) =>
                {
                    self.correct_entry(&mut agents, now, id, is_deleted, entry);
                    let publish: Vec<_> = publish.into_iter().filter(|own| !own.events.is_empty()).collect();
                    if let Some(call) = agents.calls.get_mut(&id) {
                        call.open = publish.len();
                        call.confirm_at = if is_busy { now } else { now.plus_millis(CONFIRM_MS) };
                        let agent = call.agent;
                        counted.iter().for_each(|counted| agents.count(&agent, counted));
                    }
                    if publish.is_empty() {
                        agents.end_call(now, id, true);
                    }
                    for publication in publish {
                        let origin = PublicationSource::AgentReply(id, instance, publication.id);
                        self.publish_all(&mut agents, now, origin, &publication.events);
                    }
                }
                _ => {
                    self.counters.deliveries_failed += u64::from(agents.calls.contains_key(&id));
                    if agents.calls.get(&id).is_some_and(|call| call.delivery.is_some()) {
                        agents.tally.delivery_failed();
                    }
                    agents.end_call(now, id, false);
                }
            }
            self.agents = Some(agents);
        }
        self.flush(now)
    }

    /// Publishes events of an agent, which reports what it has counted with them. Their outcomes come from [`Object::poll_agent_published`]; there are none for events that
    /// are lost with the object's memory. `None` if agents are disabled.
    pub fn publish_for_agent(
        &mut self,
        now: Now,
        events: &[Event],
        counted: Option<&MetricsDelta>,
    ) -> (Option<PublicationId>, NextTick) {
        let id = self.agents.take().map(|mut agents| {
            if let (Some(event), Some(counted)) = (events.first(), counted) {
                agents.count(&event.pubkey, counted);
            }
            let id = self.publish_all(&mut agents, now, PublicationSource::Request, events);
            if events.is_empty() {
                agents.publications.remove(&id);
                agents.answers.push_back((id, Vec::new()));
            }
            self.agents = Some(agents);
            id
        });
        (id, self.flush(now))
    }

    /// The outcomes of [`Object::publish_for_agent`].
    pub fn poll_agent_published(&mut self) -> Option<(PublicationId, Vec<Published>)> {
        self.agents.as_mut()?.answers.pop_front()
    }

    /// The outcome of an event that no agent has published.
    pub(super) fn poll_published_by_others(&mut self) -> Option<(Ticket, PublishOutcome)> {
        self.agents.as_mut()?.others.pop_front()
    }

    /// Stored events that match a filter of an agent and that everybody may see, newest first, 16 at most: what an agent reads
    /// may be in an answer that everybody reads.
    ///
    /// # Errors
    /// The error message of a store that fails.
    pub fn find_for_agent(&mut self, now: Now, mut filter: Filter) -> Result<Vec<Event>, String> {
        filter.limit = Some(filter.limit.unwrap_or(QUERY_EVENTS_MAX).min(QUERY_EVENTS_MAX));
        filter.normalise();
        let before = self.rows();
        let store = self.relay.store();
        let anybody = ClientViewer { guarded_kinds: &self.relay.config().policy.guarded_kinds, keys: &[] };
        let limits = ScanLimits { limit_default: QUERY_EVENTS_MAX, limit_max: QUERY_EVENTS_MAX };
        let mut found = Vec::new();
        let read = || {
            let reader = store.reader()?;
            let mut scan = Scan::new([filter].into(), limits, store.classes(), reader.last_seq()?);
            let mut budget = QUERY_COST_MAX;
            while budget > 0 {
                let step = scan.step(&reader, now.seconds(), &mut budget, &anybody, &mut |hit| {
                    found.push(Event::from_canonical(hit.event.json().into()));
                    SinkResult::Continue
                })?;
                if matches!(step, ScanStep::Done(_)) {
                    break;
                }
            }
            Ok::<(), StoreError>(())
        };
        let outcome = read().map_err(|error| error.to_string());
        self.counters.rows.agents.add(self.rows().since(before));
        outcome.map(|()| found)
    }

    /// Takes events from the stream, makes deliveries and confirmations, publishes heartbeats.
    pub(super) fn run_agents(&mut self, now: Now) {
        let Some(mut agents) = self.agents.take() else { return };
        let before = self.rows();
        while let Some((ticket, outcome)) = self.relay.poll_published() {
            agents.decide(now, ticket, outcome);
        }
        if agents.is_idle() {
            self.agents = Some(agents);
            return;
        }
        if agents.router.poll_timeout().is_some_and(|at| at <= now) {
            agents.router.handle_timeout(now);
            for heartbeat in agents.router.poll_heartbeats(now) {
                self.publish_all(&mut agents, now, PublicationSource::Nobody, &[heartbeat]);
            }
        }
        for _ in 0..BATCHES_MAX {
            if !self.take_batch(&mut agents, now) {
                break;
            }
        }
        while let Some(delivery) = agents.router.poll_delivery() {
            let (id, message) = agents.call(delivery.agent, Some(delivery.id), delivery.events);
            self.host.call_agent(id, &delivery.agent, message);
        }
        while let Some(agent) = agents.poll_unconfirmed(now) {
            let (id, message) = agents.call(agent, None, Vec::new());
            self.host.call_agent(id, &agent, message);
        }
        for (agent, events) in agents.router.take_dropped() {
            self.host.log(&format!("the queue of agent {agent} is full: {events} events were dropped"));
            agents.tally.dropped(events);
        }
        let has_undelivered = agents.has_undelivered(now);
        self.agents = Some(agents);
        self.counters.rows.agents.add(self.rows().since(before));
        if has_undelivered {
            self.schedule_alarm(now, now.seconds() + CHECK_SECONDS);
        }
        self.schedule_agents(now);
    }

    fn publish_all(
        &mut self,
        agents: &mut Agents<C>,
        now: Now,
        origin: PublicationSource,
        events: &[Event],
    ) -> PublicationId {
        let id = agents.next_id();
        agents.publications.insert(id, Publication { origin, outcomes: vec![None; events.len()] });
        for (place, event) in events.iter().enumerate() {
            let ticket = self.relay.publish(now, event);
            agents.tickets.insert(ticket, (id, place));
        }
        id
    }
}
