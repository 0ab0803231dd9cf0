//! Events become jobs, or are refused. A refusal of a request that names the agent is answered, within limits; others are silent.

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{Event, EventId, Now, PubKey, unescape};

use super::jobs::{Active, Source, Stage};
use super::limits::RateLimitKind;
use super::payments::Billed;
use super::{Agent, Deployed};
use crate::cipher::Cipher;
use crate::identity::{EventSigner, Sign};
use crate::job::{InputKind, JobEvent, JobRequest, JobState};
use crate::manifest::{AccessRules, Handler, KIND_BLOB_PAYMENT, Manifest};
use crate::nip90::{self, Feedback, Incoming, ReplyTo, RequestError};
use crate::store::{self, JobRow, SOURCE_BYTES_MAX, SentEvent};

/// Requests older than this are of an archive that was imported. Seconds.
const AGE_MAX: u64 = 86_400;
/// Requests that are further ahead of the clock are not answered: they could come again when their jobs are forgotten. Seconds.
const AHEAD_MAX: u64 = 86_400;
/// Inputs that have to be fetched.
const FETCHED_INPUTS_MAX: usize = 16;

/// Jobs of one customer that wait for their inputs.
const WAITING_INPUT_MAX: usize = 8;
/// Jobs that wait for their inputs may take one part in this many of the queue: a quarter.
const WAITING_INPUT_PART: usize = 4;

/// Why a request is not accepted.
#[derive(Debug)]
struct Refusal {
    /// A fixed word, for metrics.
    cause: &'static str,
    /// For the customer.
    message: String,
}

fn refusal<T>(cause: &'static str, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { cause, message: message.into() })
}

impl<C: SqlConn> Agent<C> {
    /// One event of a delivery.
    pub(super) fn handle_event(&mut self, now: Now, event: &Event) -> Result<(), StoreError> {
        if self.deployed.is_none() {
            return Ok(());
        }
        match Incoming::of(event) {
            Incoming::Request => self.handle_request(now, event),
            Incoming::Cancellation => self.handle_cancellation(now, event),
            Incoming::Vanish => self.handle_vanish(now, event),
            Incoming::Ping => {
                self.handle_ping(now, event);
                Ok(())
            }
            Incoming::ZapReceipt => self.handle_zap_receipt(now, event),
            Incoming::Other => Ok(()),
        }
    }

    fn handle_ping(&mut self, now: Now, event: &Event) {
        let Some(author) = self.event_signer().cloned() else { return };
        let agent = author.pubkey();
        let is_for_us = nip90::named_keys(event).contains(&agent) && event.pubkey != agent;
        let is_for_us = is_for_us && !event.is_expired(now.seconds());
        if is_for_us && self.rates.count(now, &event.pubkey, RateLimitKind::Pong) {
            self.rates.store(&mut self.batch);
            let pong = nip90::pong(&author, event, self.context.relay_url.as_deref(), now.seconds());
            self.outbox.stage(now, &[], pong);
            self.metrics.count(|metrics| metrics.pongs += 1);
        }
    }

    fn handle_request(&mut self, now: Now, event: &Event) -> Result<(), StoreError> {
        let Some(author) = self.event_signer().cloned() else { return Ok(()) };
        let named = nip90::named_keys(event);
        let is_addressed = named.contains(&author.pubkey());
        if event.pubkey == author.pubkey() || !(is_addressed || named.is_empty()) {
            return Ok(());
        }
        if self.is_known(&event.id)? {
            self.metrics.count(|metrics| metrics.duplicates += 1);
            return Ok(());
        }
        let is_old = event.created_at.saturating_add(AGE_MAX) < now.seconds();
        let is_ahead = event.created_at > now.seconds().saturating_add(AHEAD_MAX);
        if is_old || is_ahead || event.is_expired(now.seconds()) {
            self.metrics.count(|metrics| metrics.silent += 1);
            return Ok(());
        }
        let is_cancelled = store::is_cancelled(&self.conn, &event.id, &event.pubkey)?
            || self.batch.is_cancelled(&event.id, &event.pubkey);
        // Before anything is decrypted.
        if let Err(refusal) = self.admit_author(now, event, is_addressed) {
            self.refuse(now, event, None, is_addressed, &refusal);
            return Ok(());
        }
        let parsed = match &author {
            EventSigner::Local(keys) => nip90::parse(event, keys),
            EventSigner::Remote(_) if nip90::is_encrypted(event) => {
                return self.accept_encrypted(now, event, is_addressed, is_cancelled);
            }
            EventSigner::Remote(agent) => nip90::parse_with(event, agent, || Err("it is not encrypted")),
        };
        let request = match parsed {
            Ok(request) => request,
            Err(RequestError::NotForUs) => return Ok(()),
            Err(RequestError::Malformed { message, is_addressed, cipher }) => {
                let refusal = Refusal { cause: "malformed", message };
                self.refuse(now, event, cipher, is_addressed, &refusal);
                return Ok(());
            }
        };
        if is_cancelled {
            let row = self.new_row(now, event, JobState::Received);
            self.end_row(now, row, JobEvent::Cancel, None);
            return Ok(());
        }
        if let Some(message) = self.admit_quota(now, &request.customer)? {
            self.refuse(now, event, request.cipher, is_addressed, &Refusal { cause: "quota", message });
            return Ok(());
        }
        match self.admit(now, &request)? {
            Ok(needs_fetching) => self.accept(now, event, request, needs_fetching),
            Err(refusal) => {
                self.refuse(now, event, request.cipher, is_addressed, &refusal);
                Ok(())
            }
        }
    }

    /// An encrypted request that a remote signer has to decrypt: until then it waits as for an input.
    fn accept_encrypted(
        &mut self,
        now: Now,
        event: &Event,
        is_addressed: bool,
        is_cancelled: bool,
    ) -> Result<(), StoreError> {
        let (Some(Deployed { manifest, .. }), Some(author)) = (&self.deployed, self.event_signer()) else {
            return Ok(());
        };
        let agent = author.pubkey();
        if is_cancelled {
            let row = self.new_row(now, event, JobState::Received);
            self.end_row(now, row, JobEvent::Cancel, None);
            return Ok(());
        }
        let admitted = match (manifest.encryption, self.admit_quota(now, &event.pubkey)?) {
            (false, _) => refusal("encryption", "this agent takes no encrypted requests"),
            (true, Some(message)) => refusal("quota", message),
            (true, None) => self.admit_queued(&event.pubkey, true),
        };
        if let Err(refusal) = admitted {
            self.refuse(now, event, None, is_addressed, &refusal);
            return Ok(());
        }
        let Ok(request) = nip90::parse_undecrypted(event, &agent) else { return Ok(()) };
        let row = self.new_row(now, event, JobState::Received);
        let source = Source::Event(event.clone());
        let active = Active { row, request, source, last_created_at: 0, stage: Stage::Waiting };
        self.begin(now, active, true)
    }

    /// Whether a request that has been decrypted by a remote signer is accepted; the cause and a message if not.
    pub(super) fn admit_decrypted(
        &self,
        now: Now,
        request: &JobRequest,
    ) -> Result<Result<(), (&'static str, String)>, StoreError> {
        let Some(Deployed { manifest, .. }) = &self.deployed else { return Ok(Ok(())) };
        if let Err(Refusal { cause, message }) = admit_content(manifest, request) {
            return Ok(Err((cause, message)));
        }
        if let Err(message) = self.admit_membership(manifest, request)? {
            return Ok(Err(("inputs", message)));
        }
        // Others may have been decrypted meanwhile.
        if let Some(message) = self.admit_quota(now, &request.customer)? {
            return Ok(Err(("quota", message)));
        }
        self.admit_price(now, request)
    }

    /// Whether a request has been delivered before.
    fn is_known(&self, id: &EventId) -> Result<bool, StoreError> {
        if self.jobs.get(id).is_some() || self.batch.job_by_id(id).is_some() {
            return Ok(true);
        }
        store::has_job(&self.conn, id)
    }

    /// What is decided by the author, the id and the state of the agent.
    fn admit_author(&mut self, now: Now, event: &Event, is_addressed: bool) -> Result<(), Refusal> {
        let (Some(deployed), Some(record)) = (&self.deployed, &self.record) else {
            return refusal("state", "this agent takes no jobs");
        };
        if !record.state.takes_jobs() {
            return refusal("state", format!("this agent is {} and takes no new jobs", record.state.name()));
        }
        deployed.admit_access(event, is_addressed)?;
        if event.json().len() > SOURCE_BYTES_MAX {
            return refusal("request_bytes", format!("the request is larger than {SOURCE_BYTES_MAX} bytes"));
        }
        let max = deployed.manifest.limits.per_customer_per_min;
        if !self.rates.count_job(now, &event.pubkey, max) {
            return refusal(
                "rate",
                format!("this agent takes {max} jobs of a customer a minute; try again later"),
            );
        }
        Ok(())
    }

    /// What is decided by the content. Returns whether inputs have to be fetched.
    fn admit(&self, now: Now, request: &JobRequest) -> Result<Result<bool, Refusal>, StoreError> {
        let Some(Deployed { manifest, .. }) = &self.deployed else {
            return Ok(refusal("state", "this agent takes no jobs"));
        };
        let needs_fetching = match admit_content(manifest, request) {
            Ok(needs_fetching) => needs_fetching,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Err(message) = self.admit_membership(manifest, request)? {
            return Ok(refusal("inputs", message));
        }
        if let Err((cause, message)) = self.admit_price(now, request)? {
            return Ok(refusal(cause, message));
        }
        Ok(self.admit_queued(&request.customer, needs_fetching).map(|()| needs_fetching))
    }

    /// What is decided by the unfinished jobs. Those that wait for their payment do not count: they have limits of their own.
    fn admit_queued(&self, customer: &PubKey, needs_fetching: bool) -> Result<(), Refusal> {
        let Some(Deployed { manifest, .. }) = &self.deployed else { return Ok(()) };
        let limits = &manifest.limits;
        let awaiting = self.jobs.iter().filter(|open| open.state.awaits_payment());
        let (awaiting, own) = awaiting
            .fold((0, 0), |(all, own), open| (all + 1, own + usize::from(open.customer == *customer)));
        if self.jobs.of_customer(customer) - own >= limits.per_customer {
            let message =
                format!("{} of your jobs are not finished yet; try again later", limits.per_customer);
            return refusal("per_customer", message);
        }
        if needs_fetching {
            self.admit_waiting(customer, limits.queue)?;
        }
        let running = self.active.values().filter(|active| active.is_running()).count();
        // One that can start at once does not wait.
        let waiting = self.jobs.len() - awaiting - running;
        if waiting >= limits.queue && (running >= limits.concurrency || waiting > 0) {
            return refusal("queue_full", "this agent's queue is full; try again later");
        }
        Ok(())
    }

    /// Jobs whose inputs never come are cheap to make: they leave most of the queue to others.
    fn admit_waiting(&self, customer: &PubKey, queue: usize) -> Result<(), Refusal> {
        let waiting = self.jobs.iter().filter(|open| open.state == JobState::WaitingInput);
        let (all, own) =
            waiting.fold((0, 0), |(all, own), open| (all + 1, own + usize::from(open.customer == *customer)));
        if own >= WAITING_INPUT_MAX {
            let message = format!("{WAITING_INPUT_MAX} of your jobs wait for their inputs; try again later");
            return refusal("per_customer", message);
        }
        if all >= (queue / WAITING_INPUT_PART).max(1) {
            return refusal("queue_full", "too many jobs wait for their inputs; try again later");
        }
        Ok(())
    }

    fn new_row(&mut self, now: Now, event: &Event, state: JobState) -> JobRow {
        let (seq, source) = (self.jobs.next_seq(), event.json().to_vec());
        JobRow::new(seq, event.id, event.pubkey, event.kind, state, now.millis(), source)
    }

    fn refuse(
        &mut self,
        now: Now,
        event: &Event,
        cipher: Option<Cipher>,
        is_addressed: bool,
        Refusal { cause, message }: &Refusal,
    ) {
        if !is_addressed || !self.rates.count(now, &event.pubkey, RateLimitKind::Error) {
            self.metrics.count(|metrics| metrics.silent += 1);
            self.metrics.failed(cause);
            return;
        }
        let mut row = self.new_row(now, event, JobState::Received);
        // The request of a refused job is not stored: only accepted jobs may take space.
        row.source = Vec::new();
        let created_at = first_created_at(now, event.created_at);
        let nonce = self.nonce();
        if let Some(author) = self.event_signer() {
            let to = ReplyTo::event(event, cipher, self.context.relay_url.as_deref());
            if let Ok(error) = nip90::feedback(author, &to, Feedback::Error(message), created_at, nonce) {
                row.trace.sent.push(SentEvent::of(&error, "error", message));
                self.outbox.stage(now, &[], error);
            }
        }
        row.created_at_max = created_at;
        self.end_row(now, row, JobEvent::Reject, Some(cause));
    }

    /// A request is accepted: it begins, or waits for its payment.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) fn accept(
        &mut self,
        now: Now,
        event: &Event,
        request: JobRequest,
        needs_fetching: bool,
    ) -> Result<(), StoreError> {
        let row = self.new_row(now, event, JobState::Received);
        let source = Source::of(event.clone());
        let active = Active { row, request, source, last_created_at: 0, stage: Stage::Waiting };
        let Billed::Begins(mut active) = self.bill(now, active)? else { return Ok(()) };
        self.send_feedback(now, &mut active, Feedback::Processing(""));
        self.begin(now, *active, needs_fetching)
    }

    /// The first step of an accepted job.
    pub(super) fn begin(
        &mut self,
        now: Now,
        mut active: Active,
        needs_fetching: bool,
    ) -> Result<(), StoreError> {
        if needs_fetching {
            active.advance(JobEvent::AwaitInputs);
            self.save(&active);
            self.fetch_inputs(now, active);
            return Ok(());
        }
        active.advance(JobEvent::Enqueue);
        self.save(&active);
        self.start_or_wait(now, active)
    }
}

impl Deployed {
    fn admit_access(&self, event: &Event, is_addressed: bool) -> Result<(), Refusal> {
        let AccessRules { min_pow, open_jobs, .. } = self.manifest.access;
        if !is_addressed && !open_jobs {
            return refusal("open_job", "this agent takes only jobs that name it");
        }
        let is_allowed = self.allow.is_empty() || self.allow.contains(&event.pubkey);
        if !is_allowed || self.deny.contains(&event.pubkey) {
            return refusal("access", "this agent does not work for your key");
        }
        admit_work(event, min_pow.into())
    }

    /// Its lists of keys, read.
    pub(super) fn lists(access: &AccessRules) -> (Vec<PubKey>, Vec<PubKey>) {
        let read =
            |list: &[String]| list.iter().filter_map(|key| crate::identity::parse_pubkey(key)).collect();
        (read(&access.allow), read(&access.deny))
    }
}

/// NIP-13: the id's zeros, and the target that its author commits to, if there is one.
fn admit_work(event: &Event, min: u32) -> Result<(), Refusal> {
    let target = event.tags().named(b"nonce").next().and_then(|tag| tag.fields().nth(2)).and_then(|field| {
        let text = unescape(field);
        std::str::from_utf8(&text).ok()?.parse::<u32>().ok()
    });
    if event.id.leading_zero_bits() < min || target.is_some_and(|target| target < min) {
        return refusal("pow", format!("{min} bits of proof of work (NIP-13) are required"));
    }
    Ok(())
}

/// What a manifest says about a request. Returns whether inputs have to be fetched.
fn admit_content(manifest: &Manifest, request: &JobRequest) -> Result<bool, Refusal> {
    let Some(handler) = manifest.handlers.iter().find(|handler| handler.kind == request.kind) else {
        let kinds: Vec<String> = manifest.handlers.iter().map(|handler| handler.kind.to_string()).collect();
        let message = format!("kind {} is not supported; supported: {}", request.kind, kinds.join(", "));
        return refusal("kind", message);
    };
    if request.kind == KIND_BLOB_PAYMENT {
        return refusal(
            "kind",
            "purchases of blobs are ordered by requests to this relay's Blossom server (BUD-07)",
        );
    }
    if request.cipher.is_some() && !manifest.encryption {
        return refusal("encryption", "this agent takes no encrypted requests");
    }
    let inputs = &request.inputs;
    if inputs.len() < handler.inputs_min {
        let message =
            format!("at least {} inputs are needed, and there are {}", handler.inputs_min, inputs.len());
        return refusal("inputs", message);
    }
    let is_taken = |kind: &InputKind| handler.inputs.is_empty() || handler.inputs.contains(kind);
    if let Some(input) = inputs.iter().find(|input| !is_taken(&input.kind)) {
        let takes: Vec<&str> = handler.inputs.iter().map(|kind| kind.name()).collect();
        let message = format!(
            "inputs of type {} are not supported; supported: {}",
            input.kind.name(),
            takes.join(", ")
        );
        return refusal("inputs", message);
    }
    let bytes: usize =
        inputs.iter().filter(|input| input.kind == InputKind::Text).map(|input| input.data.len()).sum();
    if bytes > manifest.limits.input_bytes {
        return refusal("input_bytes", too_large(manifest.limits.input_bytes));
    }
    let fetched = inputs.iter().filter(|input| input.kind != InputKind::Text).count();
    if fetched > FETCHED_INPUTS_MAX {
        return refusal("inputs", format!("at most {FETCHED_INPUTS_MAX} inputs may be events, jobs or URLs"));
    }
    if manifest.limits.chain_depth == 0 && inputs.iter().any(|input| input.kind == InputKind::Job) {
        return refusal("chain", "this agent does not wait for other jobs");
    }
    admit_params(handler, request)?;
    let output = request.output.as_ref().filter(|output| !handler.outputs.is_empty() && !output.is_empty());
    if let Some(output) = output.filter(|output| !handler.outputs.contains(output)) {
        let message =
            format!("output {} is not supported; supported: {}", cut(output), handler.outputs.join(", "));
        return refusal("output", message);
    }
    Ok(fetched > 0)
}

pub(super) fn too_large(bytes: usize) -> String {
    format!("the inputs are larger than {bytes} bytes")
}

fn admit_params(handler: &Handler, request: &JobRequest) -> Result<(), Refusal> {
    for (name, param) in &handler.params {
        let given = request.params.iter().filter(|(key, _)| nip90::is_same_param(key, name));
        let mut values = given.flat_map(|(_, values)| values).peekable();
        if param.required && param.default.is_none() && values.peek().is_none() {
            return refusal("params", format!("parameter {name} is missing"));
        }
        let is_offered = |value: &String| param.values.is_empty() || param.values.contains(value);
        if let Some(value) = values.find(|value| !is_offered(value)) {
            let message =
                format!("parameter {name} cannot be {}; allowed: {}", cut(value), param.values.join(", "));
            return refusal("params", message);
        }
    }
    Ok(())
}

/// The beginning of a customer's own word.
fn cut(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(40).collect()
}

/// The time of the first event about a request: not before the request, so that whoever asks for what is newer finds it, unless
/// the customer's clock is far ahead.
pub(super) fn first_created_at(now: Now, requested_at: u64) -> u64 {
    now.seconds().max(requested_at.min(now.seconds() + 600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_not_older_than_their_request() {
        let now = Now::from_seconds(1_000);
        for (requested_at, expected) in [(0, 1_000), (1_000, 1_000), (1_005, 1_005), (9_000, 1_600)] {
            assert_eq!(first_created_at(now, requested_at), expected, "{requested_at}");
        }
    }
}
