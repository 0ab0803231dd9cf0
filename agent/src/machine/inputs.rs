//! Inputs that are not the text itself: events and results of other jobs are read from the relay, URLs from the web. Of each
//! job one at a time: the request itself if a remote signer has to decrypt it, then results of other jobs, which take longest, then events,
//! then URLs.

use std::collections::VecDeque;

use relay_engine::sql::SqlConn;
use relay_engine::types::{Event, EventId, Filter, Now, PubKey};

use super::intake::too_large;
use super::job_results::{NoResult, job_inputs, result_of, results_of};
use super::jobs::{Active, Stage};
use super::payments::Billed;
use super::{Agent, Awaited, Effect, EffectId};
use crate::executor::HttpEvent;
use crate::fetch::{self, UrlInput};
use crate::identity::Sign;
use crate::job::{InputKind, JobEvent, JobRequest};
use crate::nip90::{self, Feedback, RequestError};
use crate::store::{Decrypted, ROW_BYTES_MAX};

/// Jobs whose inputs are fetched at a time.
const RESOLVING_MAX: usize = 16;
/// Those of one customer.
const RESOLVING_OF_CUSTOMER_MAX: usize = 4;
/// Milliseconds until a result that is not there is asked for again: as long as it has been waited for, within these.
const POLL_MILLIS: u64 = 1_000;
const POLL_MILLIS_MAX: u64 = 30_000;

/// Bytes left in a job's row for what changes while it waits and runs.
const ROW_ROOM: usize = 4 << 10;

/// What is still to be fetched for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Need {
    /// The text of the encrypted request itself, from a remote signer.
    Decrypt,
    /// The request of the job that this input names. It says whose result counts.
    Request(usize),
    /// The result of that job, and its request if the relay has it.
    Result(usize, Option<Box<Event>>),
    /// The requests of these jobs, which may have jobs as inputs themselves; they are so many steps away.
    Chain(Vec<EventId>, u32),
    /// The events that these inputs name.
    Events(Vec<usize>),
    /// The text at this input's URL.
    Url(usize),
}

/// The inputs of one job while they are fetched.
#[derive(Debug)]
pub(super) struct Resolver {
    texts: Vec<Option<String>>,
    needs: VecDeque<Need>,
    in_flight: Option<(EffectId, Need)>,
    url_input: UrlInput,
    /// When the job has waited long enough, in milliseconds since 1970.
    deadline: u64,
}

impl Resolver {
    /// The request has to be decrypted first.
    fn decryption(deadline: u64) -> Self {
        let (texts, needs) = (Vec::new(), VecDeque::from([Need::Decrypt]));
        Resolver { texts, needs, in_flight: None, url_input: UrlInput::default(), deadline }
    }

    fn new(request: &JobRequest, deadline: u64) -> Self {
        let of_kind = |kind: InputKind| {
            let inputs = request.inputs.iter().enumerate();
            inputs.filter(move |(_, input)| input.kind == kind).map(|(at, _)| at).collect::<Vec<_>>()
        };
        let mut needs: VecDeque<Need> = of_kind(InputKind::Job).into_iter().map(Need::Request).collect();
        let events = of_kind(InputKind::Event);
        if !events.is_empty() {
            needs.push_back(Need::Events(events));
        }
        needs.extend(of_kind(InputKind::Url).into_iter().map(Need::Url));
        let text = |input: &crate::job::Input| (input.kind == InputKind::Text).then(|| input.data.clone());
        let texts = request.inputs.iter().map(text).collect();
        Resolver { texts, needs, in_flight: None, url_input: UrlInput::default(), deadline }
    }

    /// The effect in flight.
    pub(super) fn effect(&self) -> Option<EffectId> {
        self.in_flight.as_ref().map(|(id, _)| *id)
    }

    fn bytes(&self) -> usize {
        self.texts.iter().flatten().map(String::len).sum()
    }
}

impl<C: SqlConn> Agent<C> {
    /// How long a job waits for its inputs.
    pub(super) fn input_millis_max(&self) -> u64 {
        self.deployed.as_ref().map_or(0, |deployed| deployed.manifest.limits.timeout_s * 1000)
    }

    /// Until when a job that was received, or paid, at these times waits for its inputs; 0: it has not been paid.
    pub(super) fn input_deadline(&self, received_at: u64, paid_at: u64) -> u64 {
        received_at.max(paid_at) + self.input_millis_max()
    }

    /// Whether the inputs of another job of this customer may be fetched now.
    pub(super) fn has_room_to_fetch(&self, customer: &PubKey) -> bool {
        let resolving = self.active.values().filter(|active| !active.is_running());
        let (all, own) = resolving.fold((0, 0), |(all, own), other| {
            (all + 1, own + usize::from(other.request.customer == *customer))
        });
        all < RESOLVING_MAX && own < RESOLVING_OF_CUSTOMER_MAX
    }

    /// Looks again in a while whether there is room. Nothing of the job is read until then.
    pub(super) fn fetch_later(&mut self, now: Now, id: EventId) {
        self.jobs.set_timer(id, Some(now.millis() + POLL_MILLIS));
    }

    /// Begins to fetch the inputs of a job, or puts it off while many others do.
    pub(super) fn fetch_inputs(&mut self, now: Now, mut active: Active) {
        self.jobs.put(active.unfinished_row());
        if !self.has_room_to_fetch(&active.request.customer) {
            return self.fetch_later(now, active.id());
        }
        let deadline = self.input_deadline(active.row.received_at, active.row.wake_at);
        active.stage = Stage::Resolving(match self.needs_decryption(&active) {
            true => Resolver::decryption(deadline),
            false => Resolver::new(&active.request, deadline),
        });
        self.next_need(now, active);
    }

    /// Asks for the next thing, or goes on with the job.
    fn next_need(&mut self, now: Now, mut active: Active) {
        let id = active.id();
        let Stage::Resolving(resolver) = &mut active.stage else { return };
        let deadline = resolver.deadline;
        let max = self.deployed.as_ref().map_or(0, |deployed| deployed.manifest.limits.input_bytes);
        if resolver.bytes() > max {
            return self.fail(now, active, JobEvent::Fail, "input_bytes", &too_large(max));
        }
        let Some(need) = resolver.needs.pop_front() else {
            return self.inputs_complete(now, active);
        };
        let filter = match &need {
            Need::Decrypt => {
                let Some(effect) = self.ask_to_decrypt(now, id) else { return self.poll_later(now, active) };
                resolver.in_flight = Some((effect, need));
                self.jobs.set_timer(id, Some(deadline));
                self.active.insert(id, active);
                return;
            }
            Need::Request(at) => of_ids(active.request.inputs[*at].data.parse().ok().into_iter()),
            Need::Result(at, asked) => results_of(&active.request.inputs[*at].data, asked.as_deref()),
            Need::Chain(ids, _) => of_ids(ids.iter().copied()),
            Need::Events(all) => {
                of_ids(all.iter().filter_map(|at| active.request.inputs[*at].data.parse().ok()))
            }
            Need::Url(at) => return self.fetch_url(now, active, *at),
        };
        let effect = self.new_effect(Awaited::Input(id));
        resolver.in_flight = Some((effect, need));
        self.held.push(Effect::Query { id: effect, filter });
        self.jobs.set_timer(id, Some(deadline));
        self.active.insert(id, active);
    }

    fn fetch_url(&mut self, now: Now, mut active: Active, at: usize) {
        let id = active.id();
        let Some(deployed) = &self.deployed else { return };
        let Stage::Resolving(resolver) = &mut active.stage else { return };
        let url = &active.request.inputs[at].data;
        let network = &deployed.manifest.network;
        let room = deployed.manifest.limits.input_bytes.saturating_sub(resolver.bytes()).max(1);
        let bytes_max = network.max_fetch_bytes.min(room);
        let server = self.context.blossom.as_ref();
        if let Some(sha256) =
            server.and_then(|server| fetch::own_blob(url, &server.base_url, &network.allow_domains))
        {
            let effect = self.new_effect(Awaited::Input(id));
            return self.read_url(active, at, effect, Effect::ReadBlob { id: effect, sha256, bytes_max });
        }
        match fetch::get(url, network, now.seconds(), resolver.deadline / 1000) {
            Ok(mut request) => {
                request.limits.response_bytes_max = bytes_max;
                let effect = self.new_effect(Awaited::Input(id));
                self.read_url(active, at, effect, Effect::Http { id: effect, request });
            }
            Err(forbidden) => {
                let message = format!("the URL is not read: {}", forbidden.0);
                self.fail(now, active, JobEvent::Fail, "input_url", &message);
            }
        }
    }

    fn read_url(&mut self, mut active: Active, at: usize, id: EffectId, effect: Effect) {
        let Stage::Resolving(resolver) = &mut active.stage else { return };
        resolver.in_flight = Some((id, Need::Url(at)));
        resolver.url_input = UrlInput::default();
        let deadline = resolver.deadline;
        self.held.push(effect);
        self.jobs.set_timer(active.id(), Some(deadline));
        self.active.insert(active.id(), active);
    }

    /// Everything is there: the job waits for its turn.
    fn inputs_complete(&mut self, now: Now, mut active: Active) {
        let Stage::Resolving(resolver) = &mut active.stage else { return };
        let texts = std::mem::take(&mut resolver.texts).into_iter().map(Option::unwrap_or_default);
        active.row.inputs = Some(texts.collect());
        if active.row.bytes() + ROW_ROOM > ROW_BYTES_MAX {
            active.row.inputs = None;
            return self.fail(
                now,
                active,
                JobEvent::Fail,
                "input_bytes",
                "the inputs are too large to be stored",
            );
        }
        active.stage = Stage::Waiting;
        active.advance(JobEvent::Enqueue);
        self.save(&active);
        self.wait_for_turn(now, active.unfinished_row());
    }

    /// Whether a remote signer has first to decrypt a job's request.
    fn needs_decryption(&self, active: &Active) -> bool {
        let has_local_key = self.event_signer().is_none_or(|author| author.keys().is_some());
        !has_local_key
            && active.row.trace.decrypted.is_none()
            && active.event().is_some_and(nip90::is_encrypted)
    }

    /// A remote signer has decrypted a job's request, which can be read only now.
    pub(super) fn decrypted(&mut self, now: Now, job: EventId, effect: EffectId, text: String) {
        let Some((mut active, _)) = self.take_resolving(job, effect) else { return };
        let (Some(event), Some(agent)) = (active.event(), self.event_signer().map(Sign::pubkey)) else {
            return;
        };
        let cipher = nip90::payload(event).0;
        let parsed = nip90::parse_with(event, &agent, || Ok((cipher, text.clone())));
        active.row.trace.decrypted = Some(Decrypted { cipher, text });
        active.request.cipher = Some(cipher);
        let (cause, message) = match parsed {
            Ok(request) => match self.admit_decrypted(now, &request) {
                // It is decrypted again.
                Err(_) => return self.fetch_later(now, job),
                Ok(Ok(())) => {
                    let is_large = active.row.bytes() + ROW_ROOM > ROW_BYTES_MAX;
                    active.request = request;
                    if !is_large {
                        return match self.bill(now, active) {
                            Ok(Billed::Begins(active)) => self.continue_job(now, *active),
                            Ok(Billed::Waits) => {}
                            // It is decrypted again.
                            Err(_) => self.fetch_later(now, job),
                        };
                    }
                    ("request_bytes", "the request is too large to be stored".to_owned())
                }
                Ok(Err((cause, message))) => (cause, message),
            },
            Err(RequestError::Malformed { message, .. }) => ("malformed", message),
            Err(RequestError::NotForUs) => ("malformed", "it is not for this agent".to_owned()),
        };
        self.fail(now, active, JobEvent::Fail, cause, &message);
    }

    /// A decrypted request is accepted.
    fn continue_job(&mut self, now: Now, mut active: Active) {
        let deadline = active.row.received_at + self.input_millis_max();
        active.stage = Stage::Resolving(Resolver::new(&active.request, deadline));
        self.send_feedback(now, &mut active, Feedback::Processing(""));
        self.save(&active);
        self.next_need(now, active);
    }

    /// A remote signer does not decrypt a job's request.
    pub(super) fn decryption_failed(&mut self, now: Now, job: EventId, effect: EffectId, message: &str) {
        let Some((active, _)) = self.take_resolving(job, effect) else { return };
        self.log(now, Some(job), message);
        let message = "the request cannot be decrypted by this agent's signer";
        self.fail(now, active, JobEvent::Fail, "signer", message);
    }

    /// A job's request is decrypted later.
    pub(super) fn decrypt_later(&mut self, now: Now, job: EventId, effect: EffectId) {
        if let Some((active, _)) = self.take_resolving(job, effect) {
            self.poll_later(now, active);
        }
    }

    /// Takes a job whose effect `id` has an outcome, with what it was for.
    fn take_resolving(&mut self, job: EventId, id: EffectId) -> Option<(Active, Need)> {
        let mut active = self.active.remove(&job)?;
        if let Stage::Resolving(resolver) = &mut active.stage
            && let Some((_, need)) = resolver.in_flight.take_if(|(open, _)| *open == id)
        {
            return Some((active, need));
        }
        self.active.insert(job, active);
        None
    }

    /// Something has come of a URL.
    pub(super) fn fetch_event(&mut self, now: Now, job: EventId, id: EffectId, event: HttpEvent) {
        let Some((mut active, need)) = self.take_resolving(job, id) else { return };
        let Stage::Resolving(resolver) = &mut active.stage else { return };
        let Need::Url(at) = need else { return };
        match resolver.url_input.handle(event) {
            None => {
                resolver.in_flight = Some((id, need));
                self.active.insert(job, active);
            }
            Some(Ok(text)) => {
                resolver.texts[at] = Some(text);
                self.cancel_effect(id);
                self.next_need(now, active);
            }
            Some(Err(message)) => {
                self.cancel_effect(id);
                self.fail(now, active, JobEvent::Fail, "input_url", &message);
            }
        }
    }

    /// The relay has answered.
    pub(super) fn query_answer(
        &mut self,
        now: Now,
        job: EventId,
        id: EffectId,
        events: Result<Vec<Event>, String>,
    ) {
        let Some((mut active, need)) = self.take_resolving(job, id) else { return };
        let Stage::Resolving(resolver) = &mut active.stage else { return };
        let Ok(events) = events else {
            return self.poll_later(now, active);
        };
        match need {
            Need::Request(at) => {
                let asked =
                    events.into_iter().find(|event| event.id.to_string() == active.request.inputs[at].data);
                resolver.needs.push_front(Need::Result(at, asked.map(Box::new)));
                self.next_need(now, active);
            }
            Need::Result(at, asked) => {
                let named = active.request.inputs[at].data.parse().ok();
                let (Some(named), Some(author)) = (named, self.event_signer()) else { return };
                match result_of(&events, &named, asked.as_deref(), &active.request, author) {
                    Ok((text, chained)) => {
                        resolver.texts[at] = Some(text);
                        resolver.needs.push_front(Need::Chain(chained, 2));
                        self.follow_chain(now, active);
                    }
                    Err(NoResult::Missing) => self.poll_later(now, active),
                    Err(NoResult::Never(message)) => {
                        self.fail(now, active, JobEvent::Fail, "input_job", &message);
                    }
                }
            }
            Need::Chain(_, depth) => {
                let mut ids: Vec<EventId> = events.iter().flat_map(job_inputs).collect();
                ids.sort_unstable();
                ids.dedup();
                resolver.needs.push_front(Need::Chain(ids, depth + 1));
                self.follow_chain(now, active);
            }
            Need::Events(all) => {
                for at in all {
                    let input = &active.request.inputs[at];
                    let found = events.iter().find(|event| event.id.to_string() == input.data);
                    let Some(event) = found else {
                        let message = format!("event {} is not on this relay", input.data);
                        return self.fail(now, active, JobEvent::Fail, "input_event", &message);
                    };
                    resolver.texts[at] = Some(nip90::text_of(event));
                }
                self.next_need(now, active);
            }
            Need::Url(_) | Need::Decrypt => self.next_need(now, active),
        }
    }

    /// The next need is a chain: nothing is left of it, it is too long, or it is followed.
    fn follow_chain(&mut self, now: Now, mut active: Active) {
        let Stage::Resolving(resolver) = &mut active.stage else { return };
        let max = self.deployed.as_ref().map_or(0, |deployed| deployed.manifest.limits.chain_depth);
        match resolver.needs.front_mut() {
            Some(Need::Chain(ids, _)) if ids.is_empty() => drop(resolver.needs.pop_front()),
            Some(Need::Chain(_, depth)) if *depth > max => {
                let message = format!("the chain of jobs is longer than {max}");
                return self.fail(now, active, JobEvent::Fail, "chain", &message);
            }
            Some(Need::Chain(ids, _)) => ids.truncate(16),
            _ => {}
        }
        self.next_need(now, active);
    }

    /// What it waits for is not there yet. Until it is asked for again, the job is in the database only.
    fn poll_later(&mut self, now: Now, active: Active) {
        let waited = now.millis().saturating_sub(active.row.received_at);
        let wait = waited.clamp(POLL_MILLIS, POLL_MILLIS_MAX);
        let deadline = active.row.received_at + self.input_millis_max();
        let open = active.unfinished_row();
        self.jobs.put(open);
        self.jobs.set_timer(open.id, Some((now.millis() + wait).min(deadline.max(now.millis() + 1))));
    }
}

fn of_ids(ids: impl Iterator<Item = EventId>) -> Filter {
    let mut filter = Filter { ids: Some(ids.collect()), ..Filter::default() };
    filter.normalise();
    filter
}
