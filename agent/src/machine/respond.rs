//! What a customer is sent: feedback, partial results, the result, or an error. Within a job, times rise strictly and the result is last.

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{Event, EventId, Limits, Now, Timestamp};

use super::Agent;
use super::intake::first_created_at;
use super::jobs::{Active, Source, Stage};
use crate::identity::{Draft, Missing, Sign, missing};
use crate::job::{JobEvent, JobState};
use crate::manifest::Schedule;
use crate::nip90::{self, Feedback, ReplyTo};
use crate::store::{self, Decrypted, JobRow, SentEvent, Transfer};

/// See [`Agent::read_unpublished`].
pub(super) struct Unpublished {
    /// `None` if it is not known any more.
    row: Option<JobRow>,
    /// Its entries in the books, if they are needed to give back what it has cost.
    transfers: Vec<Transfer>,
    has_made_member: bool,
}

/// Seconds for which partial results may be dated ahead of what is stored, so that not each of them is a write.
const AHEAD_SECONDS: Timestamp = 30;
/// Longest partial result, in bytes: it must fit into an event, with a remote signer into an event within a request.
pub(super) const PARTIAL_BYTES_MAX: usize = 16 << 10;
pub(super) const REMOTE_PARTIAL_BYTES_MAX: usize = 2 << 10;
/// Longest text of an event that is kept in the history, in bytes of JSON.
const SENT_EVENT_BYTES_MAX: usize = 64 << 10;

impl SentEvent {
    /// What is kept of an event.
    pub(crate) fn of(event: &Event, status: &str, text: &str) -> Self {
        SentEvent {
            id: match missing(event) {
                Some(Missing::Encryption(_)) => String::new(),
                Some(Missing::Signature) | None => event.id.to_string(),
            },
            kind: event.kind,
            created_at: event.created_at,
            status: status.to_owned(),
            text: beginning(text, SENT_EVENT_BYTES_MAX).to_owned(),
        }
    }
}

/// As much of a text as is at most `max` bytes of JSON.
pub(super) fn beginning(text: &str, max: usize) -> &str {
    let mut bytes = 0;
    let end = text.char_indices().find(|(_, character)| {
        bytes += match character {
            '"' | '\\' => 2,
            character if character.is_ascii_control() => 6,
            character => character.len_utf8(),
        };
        bytes > max
    });
    end.map_or(text, |(at, _)| &text[..at])
}

impl Active {
    /// The time of the next event about it.
    fn next_created_at(&mut self, now: Now) -> Timestamp {
        let first = first_created_at(now, self.request.created_at);
        self.last_created_at = first.max(self.last_created_at + 1);
        self.last_created_at
    }

    /// Its state after an event, which must be possible.
    pub(super) fn advance(&mut self, event: JobEvent) {
        self.row.advance(event);
    }
}

impl JobRow {
    fn advance(&mut self, event: JobEvent) {
        let next = self.state.after(event);
        debug_assert!(next.is_some(), "{event:?} in {:?}", self.state);
        self.state = next.unwrap_or(self.state);
    }
}

impl<C: SqlConn> Agent<C> {
    /// Notes the present state of a job for the database.
    pub(super) fn save(&mut self, active: &Active) {
        self.batch.put_job(active.row.clone());
    }

    /// Sends feedback that is not a partial result.
    pub(super) fn send_feedback(&mut self, now: Now, active: &mut Active, feedback: Feedback<'_>) {
        let Source::Event(_) = active.source else { return };
        let created_at = active.next_created_at(now);
        let Some(event) = self.sign_feedback(active, feedback, created_at) else { return };
        active.row.created_at_max = active.row.created_at_max.max(created_at);
        active.row.trace.sent.push(SentEvent::of(&event, feedback.status(), feedback.text()));
        self.outbox.stage(now, &active.request.relays, event);
    }

    /// Most bytes of the next partial result. `None`: not now; a remote signer signs partial results only while it is
    /// idle, so that they delay nothing else.
    pub(super) fn partial_bytes_max(&self) -> Option<usize> {
        if self.keys().is_some() {
            return Some(PARTIAL_BYTES_MAX);
        }
        let is_idle = self.signer.as_ref().is_some_and(|signer| signer.is_idle());
        (is_idle && self.outbox.is_empty()).then_some(REMOTE_PARTIAL_BYTES_MAX)
    }

    /// Sends a partial result. It is lost if the process ends now; a second attempt begins anew anyway.
    pub(super) fn send_partial(&mut self, now: Now, active: &mut Active, partial: &str) {
        let Source::Event(_) = active.source else { return };
        let created_at = active.next_created_at(now);
        let Some(event) = self.sign_feedback(active, Feedback::Partial(partial), created_at) else { return };
        active.row.trace.partials += 1;
        if created_at > active.row.created_at_max {
            // What follows after a crash must be later than this partial result.
            active.row.created_at_max = created_at + AHEAD_SECONDS;
            self.save(active);
        }
        self.outbox.stage_partial(&active.request.relays, event);
    }

    fn sign_feedback(
        &mut self,
        active: &Active,
        feedback: Feedback<'_>,
        created_at: Timestamp,
    ) -> Option<Event> {
        let nonce = self.nonce();
        let to = ReplyTo::job(&active.request, self.context.relay_url.as_deref());
        nip90::feedback(self.event_signer()?, &to, feedback, created_at, nonce).ok()
    }

    /// The result is there: signs it and ends the job. `content` is that of the event, and `text` what the agent has said.
    pub(super) fn complete(
        &mut self,
        now: Now,
        mut active: Active,
        content: &str,
        text: &str,
        tokens: Option<(u64, u64)>,
    ) {
        self.count_tokens(&mut active, tokens);
        self.respond(now, active, JobEvent::Complete, content, |agent, active| {
            if let Stage::Running(attempt) = &active.stage {
                agent.remember(now, active, attempt.manifest.memory, &attempt.said, text);
            }
        });
    }

    /// Notes the tokens that an executor has read and written for a job.
    pub(super) fn count_tokens(&mut self, active: &mut Active, tokens: Option<(u64, u64)>) {
        active.row.trace.tokens = tokens;
        if let Some((read, written)) = tokens {
            self.metrics.count(|metrics| {
                metrics.tokens.0 = metrics.tokens.0.saturating_add(read);
                metrics.tokens.1 = metrics.tokens.1.saturating_add(written);
            });
        }
    }

    /// Signs the result, and ends the job by an event after which nothing is left but to publish it.
    pub(super) fn respond(
        &mut self,
        now: Now,
        mut active: Active,
        event: JobEvent,
        content: &str,
        remember: impl FnOnce(&mut Self, &Active),
    ) {
        let signed = match &active.source {
            Source::Event(event) => {
                let event = event.clone();
                self.sign_result(now, &mut active, &event, content)
            }
            Source::Schedule(schedule) => {
                let schedule = schedule.clone();
                self.sign_scheduled(now, &mut active, &schedule, content)
            }
            Source::Purchase(_) => {
                self.metrics.answered(now.millis().saturating_sub(active.row.received_at));
                return self.end(now, active, event, None);
            }
        };
        let result = match signed {
            Ok(result) => result,
            Err(message) => return self.fail(now, active, JobEvent::Fail, "output_size", &message),
        };
        self.outbox.drop_partials(&active.id());
        let row = &mut active.row;
        row.created_at_max = result.created_at;
        row.trace.sent.push(SentEvent::of(&result, "success", content));
        row.result_outbox_row = self.outbox.stage(now, &active.request.relays, result);
        self.metrics.answered(now.millis().saturating_sub(active.row.received_at));
        remember(self, &active);
        self.end(now, active, event, None);
    }

    fn sign_result(
        &mut self,
        now: Now,
        active: &mut Active,
        event: &Event,
        content: &str,
    ) -> Result<Event, String> {
        let created_at = active.next_created_at(now);
        let nonce = self.nonce();
        let to = ReplyTo::job(&active.request, self.context.relay_url.as_deref());
        let author = self.event_signer().ok_or("this agent has no key")?;
        self.fits(active, content)?;
        nip90::result(author, &to, event, content, created_at, nonce)
            .map_err(|_| "the result cannot be encrypted".to_owned())
    }

    fn sign_scheduled(
        &mut self,
        now: Now,
        active: &mut Active,
        schedule: &Schedule,
        content: &str,
    ) -> Result<Event, String> {
        let created_at = active.next_created_at(now);
        let limits = Limits::default();
        if content.chars().count() > limits.content_chars_max {
            return Err(format!("the result has more than {} characters", limits.content_chars_max));
        }
        let content = content.to_owned();
        let draft = Draft { created_at, kind: schedule.publish_kind, tags: Vec::new(), content };
        let author = self.event_signer().ok_or("this agent has no key")?;
        let event = author.sign(&draft);
        match event.json().len() > author.event_bytes_max() {
            true => Err(format!("the result's event is larger than {} bytes", author.event_bytes_max())),
            false => Ok(event),
        }
    }

    /// A job ends without a result: its customer is told why.
    pub(super) fn fail(
        &mut self,
        now: Now,
        mut active: Active,
        event: JobEvent,
        cause: &'static str,
        message: &str,
    ) {
        self.outbox.drop_partials(&active.id());
        let credit = active.row.trace.payment.map_or(0, |payment| payment.paid);
        let mut text = match credit {
            0 => message.to_owned(),
            credit => format!("{message}; {credit} msat are credit for your next job"),
        };
        if self.is_held(&active.id()) {
            text.push_str("; your payment is given back");
        }
        self.send_feedback(now, &mut active, Feedback::Error(&text));
        self.log(now, Some(active.id()), format!("{cause}: {message}"));
        self.end(now, active, event, Some(cause));
    }

    /// A job has ended; calls that are still open are ended, too.
    pub(super) fn end(&mut self, now: Now, active: Active, event: JobEvent, cause: Option<&str>) {
        match &active.stage {
            Stage::Running(attempt) => attempt.call.into_iter().for_each(|call| self.cancel_effect(call)),
            Stage::Resolving(resolver) => resolver.effect().into_iter().for_each(|id| self.cancel_effect(id)),
            Stage::Waiting => {}
        }
        self.end_row(now, active.row, event, cause);
    }

    /// Stores the end of a job.
    pub(super) fn end_row(&mut self, now: Now, mut row: JobRow, event: JobEvent, cause: Option<&str>) {
        if row.state == JobState::Withheld {
            self.batch.put_withheld(row.seq, None);
        }
        row.advance(event);
        self.close_account(now, &mut row);
        self.cancel_hold(now, &row.id);
        row.finished_at = now.millis();
        row.inputs = None;
        row.trace.decrypted.iter_mut().for_each(Decrypted::forget);
        row.cause = cause.unwrap_or_default().to_owned();
        self.jobs.remove(&row.id);
        // «Responding» ends when the outbox no longer has its result.
        let ended_as = row.state.after(JobEvent::Publish).unwrap_or(row.state);
        self.metrics.ended(ended_as, cause);
        self.sweep.ended_bytes += row.bytes();
        self.batch.put_job(row);
    }

    /// What the database has of a job whose result cannot be published. It is read before anything is changed, because that may fail.
    ///
    /// # Errors
    /// If the store fails. What is corrupt is as if it were not there.
    pub(super) fn read_unpublished(&self, job: &EventId) -> Result<Unpublished, StoreError> {
        let row = match self.batch.job_by_id(job) {
            Some(row) => Some(row.clone()),
            None => store::unless_corrupt(store::job_by_id(&self.conn, job))?.flatten(),
        };
        // The entries are read only if they are needed: there is no index of them.
        let needs_books = match row.as_ref().map(|row| (row.trace.payment, row.source.is_empty())) {
            Some((Some(payment), _)) => payment.paid > 0 && self.payments.splits.has_recipients(),
            Some((None, is_forgotten)) => is_forgotten,
            None => true,
        };
        let transfers = match needs_books {
            true => store::transfers_of_job(&self.conn, &self.batch, job),
            false => Ok(Vec::new()),
        };
        let transfers = store::unless_corrupt(transfers)?.unwrap_or_default();
        let has_made_member = store::has_made_member(&self.conn, &self.batch, job)?;
        Ok(Unpublished { row, transfers, has_made_member })
    }

    /// A result cannot be published, and never will be: the job has failed, and its customer is told why.
    pub(super) fn result_refused(
        &mut self,
        now: Now,
        job: &EventId,
        Unpublished { row, transfers, has_made_member }: Unpublished,
        cause: &'static str,
        message: &str,
    ) {
        let Some(mut row) = row else {
            // The agent has been deleted, or this was long ago.
            return self.give_back_by_books(now, job, &transfers);
        };
        if row.state.after(JobEvent::Fail).is_none() {
            return;
        }
        row.result_outbox_row = 0;
        row.cause = cause.to_owned();
        // What has made a member was of use all the same.
        if !has_made_member {
            self.give_back(now, &mut row, &transfers);
        }
        self.metrics.failed(cause);
        match self.load(row.clone()) {
            Ok(mut active) => {
                self.send_feedback(now, &mut active, Feedback::Error(message));
                row = active.row;
            }
            Err(why) => self.log(now, Some(*job), format!("its customer is not told: {why}")),
        }
        row.advance(JobEvent::Fail);
        self.batch.put_job(row);
    }
}
