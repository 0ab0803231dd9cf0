//! Attempts: an executor is started, its calls are made, and it has until a deadline. Transient failures are tried again.

use std::sync::Arc;

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{Event, EventId, Now, PubKey, Timestamp};

use super::jobs::{Active, Attempt, Stage};
use super::{Agent, Awaited, Deployed, Effect, EffectId};
use crate::executor::{ExecutorContext, ExecutorError, HttpEvent, ResolvedInput, Step, Task};
use crate::identity::{Draft, EventSigner, Sign};
use crate::job::{JobEvent, JobRequest, JobState};
use crate::manifest::{Handler, Manifest};
use crate::nip90;
use crate::secrets::Secrets;
use crate::store::{self, JobRow, UnfinishedRow};

/// Jobs started in one call of the machine; the host goes on with the next call.
const STARTS_MAX: usize = 64;
/// Milliseconds that a job may wait for its turn.
pub(super) const QUEUED_MILLIS_MAX: u64 = 3_600_000;
/// Longest wait between two attempts, in seconds.
const BACKOFF_SECONDS_MAX: u64 = 600;
/// Partial results that are sent, and milliseconds between two of them.
const PARTIALS_MAX: u32 = 64;
const PARTIAL_MILLIS: u64 = 1_000;

/// What an executor is given of its agent.
struct JobContext<'a> {
    secrets: &'a (dyn Secrets + Send + Sync),
    event_signer: &'a EventSigner,
    now: Timestamp,
}

impl ExecutorContext for JobContext<'_> {
    fn secret(&self, name: &str) -> Option<String> {
        self.secrets.get(name)
    }

    fn sign(&self, draft: &Draft) -> Event {
        self.event_signer.sign(draft)
    }

    fn now(&self) -> Timestamp {
        self.now
    }
}

impl<C: SqlConn> Agent<C> {
    /// Starts jobs while there is room.
    pub(super) fn start_ready(&mut self, now: Now) -> Result<(), StoreError> {
        self.has_more_to_start = false;
        let mut started = 0;
        while self.has_room_to_start() {
            let Some(open) = self.jobs.first_ready() else { break };
            if started == STARTS_MAX {
                self.has_more_to_start = true;
                break;
            }
            started += 1;
            let Some(row) = self.read_or_end(now, &open)? else { continue };
            match self.load(row.clone()) {
                Ok(active) => self.start(now, active)?,
                Err(message) => self.unreadable(now, row, &message),
            }
        }
        Ok(())
    }

    fn has_room_to_start(&self) -> bool {
        let starts = self.record.as_ref().is_some_and(|record| record.state.starts_jobs());
        let Some(deployed) =
            self.deployed.as_ref().filter(|deployed| starts && deployed.event_signer.is_ok())
        else {
            return false;
        };
        let running = self.active.values().filter(|active| active.is_running()).count();
        running < deployed.manifest.limits.concurrency
    }

    /// Starts a queued job if it is the next one; it waits otherwise, also after an error.
    pub(super) fn start_or_wait(&mut self, now: Now, active: Active) -> Result<(), StoreError> {
        self.wait_for_turn(now, active.unfinished_row());
        let is_next = self.jobs.first_ready().is_some_and(|open| open.id == active.id());
        if is_next && self.has_room_to_start() {
            return self.start(now, active);
        }
        Ok(())
    }

    /// It waits for its turn, its next attempt, or its timeout.
    pub(super) fn wait_for_turn(&mut self, now: Now, open: UnfinishedRow) {
        self.jobs.put(open);
        let expiry = open.received_at + QUEUED_MILLIS_MAX;
        if open.wake_at <= now.millis() {
            self.jobs.set_ready(&open.id);
            self.jobs.set_timer(open.id, Some(expiry));
        } else {
            self.jobs.set_timer(open.id, Some(expiry.min(open.wake_at)));
        }
    }

    /// The manifest that a job follows: that of its first attempt.
    pub(super) fn manifest_of(&self, row: &JobRow) -> Result<Option<(Arc<Manifest>, u32)>, StoreError> {
        let (Some(Deployed { manifest, .. }), Some(record)) = (&self.deployed, &self.record) else {
            return Ok(None);
        };
        if row.version == 0 || row.version == record.version {
            return Ok(Some((Arc::clone(manifest), record.version)));
        }
        Ok(store::version(&self.conn, row.version)?.map(|manifest| (Arc::new(manifest), row.version)))
    }

    /// Begins an attempt.
    fn start(&mut self, now: Now, mut active: Active) -> Result<(), StoreError> {
        let Some((manifest, version)) = self.manifest_of(&active.row)? else { return Ok(()) };
        let kind = active.request.kind;
        let Some(handler) = manifest.handlers.iter().find(|handler| handler.kind == kind) else {
            let message = format!("kind {kind} is no longer supported");
            self.fail(now, active, JobEvent::Fail, "kind", &message);
            return Ok(());
        };
        let limits = manifest.limits;
        if active.row.attempts >= limits.attempts.max(1) {
            let message = format!("the work was interrupted {} times", active.row.attempts);
            self.fail(now, active, JobEvent::Fail, "interrupted", &message);
            return Ok(());
        }
        let history = if manifest.memory.sessions { self.history_of(now, &active)? } else { Vec::new() };
        self.jobs.turn_taken(&active.request.customer);
        active.advance(JobEvent::Start);
        active.row.attempts += 1;
        active.row.version = version;
        active.row.trace.started_at = Some(now.millis());
        let deadline = now.millis() + limits.timeout_s * 1000;
        let texts = active.row.inputs.clone();
        let Some(author) = self.event_signer() else { return Ok(()) };
        let task = Task {
            job: active.id(),
            agent: author.pubkey(),
            customer: active.request.customer,
            kind: active.request.kind,
            inputs: resolved(&active.request, texts),
            params: params(handler, &active.request),
            output: active.request.output.clone(),
            history,
            output_bytes_max: limits.output_bytes,
            deadline: call_deadline(deadline),
            attempt: active.row.attempts,
        };
        let mut executor = (self.executors)(handler);
        let mut steps = Vec::new();
        executor.start(&task, &self.job_context(author, now), &mut steps);
        let said = task.inputs.iter().map(|input| input.text.as_str()).collect::<Vec<_>>().join("\n");
        active.stage = Stage::Running(Attempt {
            manifest: Arc::clone(&manifest),
            executor,
            call: None,
            deadline,
            said,
            partial: String::new(),
            partial_at: 0,
            partials: 0,
            stored: None,
        });
        self.metrics.attempted();
        self.jobs.put(active.unfinished_row());
        // An attempt that ends within this call is never stored as running.
        if let Some(active) = self.carry_out(now, active, steps) {
            self.save(&active);
            self.keep_running(active);
        }
        Ok(())
    }

    fn job_context<'a>(&'a self, author: &'a EventSigner, now: Now) -> JobContext<'a> {
        JobContext { secrets: &*self.context.secrets, event_signer: author, now: now.seconds() }
    }

    /// It goes on; it is looked at again at its deadline, or when a partial result may be sent.
    fn keep_running(&mut self, active: Active) {
        let Stage::Running(attempt) = &active.stage else { return };
        let has_partial = !attempt.partial.is_empty() && attempt.partials < PARTIALS_MAX;
        let wake = if has_partial { attempt.deadline.min(attempt.partial_at) } else { attempt.deadline };
        self.jobs.set_timer(active.id(), Some(wake));
        self.active.insert(active.id(), active);
    }

    /// Carries out what an executor wants. `None` if the attempt has ended.
    fn carry_out(&mut self, now: Now, mut active: Active, steps: Vec<Step>) -> Option<Active> {
        for step in steps {
            match step {
                Step::Call(mut request) => self.call(&mut active, |id, deadline| {
                    request.limits.deadline = request.limits.deadline.min(deadline);
                    Effect::Http { id, request }
                }),
                Step::Ai { model, input } => self.call(&mut active, |id, _| Effect::Ai { id, model, input }),
                // What is not paid is not shown.
                Step::Partial(_) if active.withholds_result() => {}
                Step::Partial(partial) => {
                    if let Stage::Running(attempt) = &mut active.stage {
                        let max = attempt.manifest.limits.output_bytes;
                        if attempt.partial.len() + partial.len() <= max {
                            attempt.partial.push_str(&partial);
                        }
                    }
                }
                Step::Done(output) => {
                    let max = match &active.stage {
                        Stage::Running(attempt) => attempt.manifest.limits.output_bytes,
                        Stage::Waiting | Stage::Resolving(_) => 0,
                    };
                    if output.content.len() > max {
                        let message = format!("the result is larger than {max} bytes");
                        self.fail(now, active, JobEvent::Fail, "output_size", &message);
                        return None;
                    }
                    return self.handle_output(now, active, output);
                }
                Step::Failed(failure) => {
                    self.attempt_failed(now, active, &failure);
                    return None;
                }
            }
        }
        let Stage::Running(Attempt { call: Some(_), .. }) = active.stage else {
            let failure = ExecutorError {
                message: "the work ended without a result".to_owned(),
                detail: "the executor neither waits for a call nor has a result".to_owned(),
                cause: "no_result",
                is_retryable: false,
                retry_after: None,
            };
            self.attempt_failed(now, active, &failure);
            return None;
        };
        self.send_partials(now, &mut active);
        Some(active)
    }

    /// Makes a call for an executor. It has one at a time.
    fn call(&mut self, active: &mut Active, effect: impl FnOnce(EffectId, Timestamp) -> Effect) {
        let id = self.new_effect(Awaited::Call(active.id()));
        let Stage::Running(attempt) = &mut active.stage else { return };
        let before = attempt.call.replace(id);
        let deadline = call_deadline(attempt.deadline);
        if let Some(before) = before {
            self.cancel_effect(before);
        }
        self.held.push(effect(id, deadline));
    }

    /// Sends the partial result that waits, if it may be sent.
    fn send_partials(&mut self, now: Now, active: &mut Active) {
        let bytes_max = self.partial_bytes_max();
        let Stage::Running(attempt) = &mut active.stage else { return };
        let may = attempt.partials < PARTIALS_MAX && now.millis() >= attempt.partial_at;
        if !may || attempt.partial.is_empty() {
            return;
        }
        attempt.partial_at = now.millis() + PARTIAL_MILLIS;
        let Some(bytes_max) = bytes_max else { return };
        let partial = take_partial(&mut attempt.partial, attempt.manifest.limits.output_bytes.min(bytes_max));
        attempt.partials += 1;
        self.send_partial(now, active, &partial);
    }

    /// Something has come of an executor's call.
    pub(super) fn call_event(&mut self, now: Now, job: EventId, id: EffectId, event: HttpEvent) {
        let Some(mut active) = self.active.remove(&job) else { return };
        let mut steps = Vec::new();
        let is_last = matches!(event, HttpEvent::End | HttpEvent::Failed(_));
        match (
            &mut active.stage,
            self.deployed.as_ref().and_then(|deployed| deployed.event_signer.as_ref().ok()),
        ) {
            (Stage::Running(attempt), Some(author)) if attempt.call == Some(id) => {
                if is_last {
                    attempt.call = None;
                }
                let context =
                    JobContext { secrets: &*self.context.secrets, event_signer: author, now: now.seconds() };
                attempt.executor.handle(&context, event, &mut steps);
            }
            _ => {
                self.active.insert(job, active);
                return;
            }
        }
        if let Some(active) = self.carry_out(now, active, steps) {
            self.keep_running(active);
        }
    }

    /// An attempt has failed: another one follows, or the job has failed.
    pub(super) fn attempt_failed(&mut self, now: Now, mut active: Active, failure: &ExecutorError) {
        let Stage::Running(attempt) = &active.stage else { return };
        let call = attempt.call;
        let attempts_max = attempt.manifest.limits.attempts;
        if !failure.detail.is_empty() {
            self.log(now, Some(active.id()), format!("{}: {}", failure.cause, failure.detail));
        }
        let backoff = (1u64 << active.row.attempts.min(16)).max(failure.retry_after.unwrap_or(0));
        let wake_at = now.millis() + backoff.min(BACKOFF_SECONDS_MAX) * 1000;
        let is_in_time = wake_at < active.row.received_at + QUEUED_MILLIS_MAX;
        if failure.is_retryable && now.millis() >= attempt.deadline {
            return self.took_too_long(now, active);
        }
        if !failure.is_retryable || active.row.attempts >= attempts_max || !is_in_time {
            return self.fail(now, active, JobEvent::Fail, failure.cause, &failure.message);
        }
        call.into_iter().for_each(|call| self.cancel_effect(call));
        self.outbox.drop_partials(&active.id());
        active.advance(JobEvent::Retry);
        active.row.wake_at = wake_at;
        active.row.created_at_max = active.last_created_at;
        self.save(&active);
        self.wait_for_turn(now, active.unfinished_row());
    }

    /// Handles the jobs whose timers are due.
    pub(super) fn handle_due_jobs(&mut self, now: Now) {
        while let Some(id) = self.jobs.pop_due(now.millis()) {
            if let Some(active) = self.active.remove(&id) {
                self.wake_active(now, active);
                continue;
            }
            let Some(open) = self.jobs.get(&id).copied() else { continue };
            if self.wake_waiting(now, open).is_err() {
                // Retry later: the store failed.
                self.jobs.set_timer(id, Some(now.millis() + 1_000));
                return;
            }
        }
    }

    fn wake_active(&mut self, now: Now, mut active: Active) {
        match &active.stage {
            Stage::Running(attempt) if now.millis() >= attempt.deadline && attempt.stored.is_some() => {
                let message = "the result could not be stored in time";
                self.fail(now, active, JobEvent::Fail, "output_store", message);
            }
            Stage::Running(attempt) if now.millis() >= attempt.deadline => self.took_too_long(now, active),
            Stage::Running(_) => {
                self.send_partials(now, &mut active);
                self.keep_running(active);
            }
            Stage::Resolving(_) | Stage::Waiting => {
                self.fail(now, active, JobEvent::Expire, "input_timeout", "the inputs did not come in time");
            }
        }
    }

    /// The time of the attempt is over, whoever has noticed it first. Another one would take as long.
    fn took_too_long(&mut self, now: Now, active: Active) {
        let Stage::Running(attempt) = &active.stage else { return };
        let message = format!("the work took longer than {} s", attempt.manifest.limits.timeout_s);
        self.fail(now, active, JobEvent::Fail, "timeout", &message);
    }

    fn wake_waiting(&mut self, now: Now, open: UnfinishedRow) -> Result<(), StoreError> {
        let deadline = match open.state {
            state if state.awaits_payment() => return self.payment_timeout(now, open),
            JobState::WaitingInput => self.input_deadline(open.received_at, open.wake_at),
            _ => open.received_at + QUEUED_MILLIS_MAX,
        };
        if now.millis() >= deadline {
            return self.expire(now, open);
        }
        if open.state == JobState::WaitingInput {
            if !self.has_room_to_fetch(&open.customer) {
                self.fetch_later(now, open.id);
                return Ok(());
            }
            let Some(row) = self.read_or_end(now, &open)? else { return Ok(()) };
            match self.load(row.clone()) {
                Ok(active) => self.fetch_inputs(now, active),
                Err(message) => self.unreadable(now, row, &message),
            }
            return Ok(());
        }
        self.wait_for_turn(now, open);
        Ok(())
    }

    fn expire(&mut self, now: Now, open: UnfinishedRow) -> Result<(), StoreError> {
        let Some(row) = self.read_or_end(now, &open)? else { return Ok(()) };
        let (cause, message) = match open.state {
            JobState::WaitingInput => ("input_timeout", "the inputs did not come in time"),
            _ => ("queue_timeout", "the job waited too long for its turn"),
        };
        match self.load(row.clone()) {
            Ok(active) => self.fail(now, active, JobEvent::Expire, cause, message),
            Err(_) => self.end_row(now, row, JobEvent::Expire, Some(cause)),
        }
        Ok(())
    }

    /// The unfinished jobs of a customer.
    pub(super) fn unfinished_jobs_of(&self, customer: &PubKey) -> Vec<EventId> {
        self.jobs.iter().filter(|open| open.customer == *customer).map(|open| open.id).collect()
    }
}

/// The end of a call in seconds, for an attempt that ends at `millis`: later, so that it is the attempt that ends the call.
fn call_deadline(millis: u64) -> Timestamp {
    millis / 1000 + 1
}

/// At most `max` bytes of a text that waits.
fn take_partial(text: &mut String, max: usize) -> String {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let rest = text.split_off(end);
    std::mem::replace(text, rest)
}

/// The inputs with their texts; without fetched ones, a text input is its own text.
fn resolved(request: &JobRequest, texts: Option<Vec<String>>) -> Vec<ResolvedInput> {
    let texts = texts.unwrap_or_else(|| request.inputs.iter().map(|input| input.data.clone()).collect());
    let inputs = request.inputs.iter().cloned().zip(texts);
    inputs.map(|(input, text)| ResolvedInput { input, text }).collect()
}

/// The parameters, spelled as the handler does, with its defaults.
fn params(handler: &Handler, request: &JobRequest) -> Vec<(String, Vec<String>)> {
    let known = |key: &str| handler.params.keys().find(|name| nip90::is_same_param(name, key));
    let mut params: Vec<(String, Vec<String>)> = request
        .params
        .iter()
        .map(|(key, values)| (known(key).cloned().unwrap_or_else(|| key.clone()), values.clone()))
        .collect();
    for (name, param) in &handler.params {
        if let Some(value) = param.default.as_ref().filter(|_| !params.iter().any(|(key, _)| key == name)) {
            params.push((name.clone(), vec![value.clone()]));
        }
    }
    params
}
