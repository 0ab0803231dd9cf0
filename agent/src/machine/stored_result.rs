//! A result that is too large for an event: it is stored on the host's Blossom server, and the event has its URL instead.

use bytes::Bytes;
use relay_engine::sql::SqlConn;
use relay_engine::types::{EventId, Limits, Now};

use super::jobs::{Active, PendingBlob, Source, Stage};
use super::{Agent, Awaited, BlobServer, Effect, EffectId};
use crate::executor::Output;
use crate::identity::Sign;
use crate::job::JobEvent;
use crate::nip90::{self, ReplyTo};

/// Milliseconds that storing has at least, however late in its attempt the result came.
const STORE_MILLIS: u64 = 30_000;

/// Types that a blob may have if the request asks for them: no browser runs them.
const TYPES: [&str; 4] = ["text/plain", "text/markdown", "text/csv", "application/json"];

/// The MIME type of a stored result.
fn mime(wanted: Option<&str>) -> &'static str {
    let essence = wanted.and_then(|wanted| wanted.split(';').next()).unwrap_or_default().trim();
    let known = TYPES.into_iter().find(|known| known.eq_ignore_ascii_case(essence));
    match known.unwrap_or("text/plain") {
        "text/markdown" => "text/markdown; charset=utf-8",
        "text/csv" => "text/csv; charset=utf-8",
        "application/json" => "application/json",
        _ => "text/plain; charset=utf-8",
    }
}

impl<C: SqlConn> Agent<C> {
    /// Completes a job with its result. One that is too large for an event is stored as a blob first; `Some`: the job goes on until it
    /// is stored.
    pub(super) fn handle_output(&mut self, now: Now, active: Active, output: Output) -> Option<Active> {
        let large = match active.source {
            Source::Event(_) => self.fits(&active, &output.content).err(),
            Source::Schedule(_) | Source::Purchase(_) => None,
        };
        if active.withholds_result() {
            match large {
                None => self.withhold(now, active, output),
                // Whoever knows where it is could read it.
                Some(message) => {
                    let message =
                        format!("{message}; one that is paid after the work is not stored elsewhere");
                    self.fail(now, active, JobEvent::Fail, "output_size", &message);
                }
            }
            return None;
        }
        let Some(message) = large else {
            if let Err(message) = self.add_member(now, &active) {
                self.fail(now, active, JobEvent::Fail, "inputs", &message);
                return None;
            }
            self.complete(now, active, &output.content, &output.content, output.tokens);
            return None;
        };
        match self.may_be_stored(&active, &output) {
            Ok(()) => self.store_result(now, active, output),
            Err(why) => {
                self.fail(now, active, JobEvent::Fail, "output_size", &format!("{message}; {why}"));
                None
            }
        }
    }

    /// Whether a result of this content can be published.
    ///
    /// # Errors
    /// With a message for the customer.
    pub(super) fn fits(&self, active: &Active, content: &str) -> Result<(), String> {
        let to = ReplyTo::job(&active.request, self.context.relay_url.as_deref());
        let mut limits = Limits::default();
        if let Some(author) = self.event_signer() {
            limits.event_bytes_max = limits.event_bytes_max.min(author.event_bytes_max());
        }
        nip90::fits(&to, content, &limits)
    }

    fn may_be_stored(&self, active: &Active, output: &Output) -> Result<(), String> {
        if active.request.cipher.is_some() {
            return Err("an encrypted result is not stored where anybody could read it".to_owned());
        }
        match &self.context.blossom {
            None => {
                Err("larger results have to be stored on a Blossom server, and this agent has none"
                    .to_owned())
            }
            Some(BlobServer { blob_bytes_max, .. }) if output.content.len() as u64 > *blob_bytes_max => {
                Err(format!("a blob has {blob_bytes_max} bytes at most here"))
            }
            Some(_) => Ok(()),
        }
    }

    fn store_result(&mut self, now: Now, mut active: Active, output: Output) -> Option<Active> {
        let owner = self.event_signer().map(Sign::pubkey)?;
        let id = self.new_effect(Awaited::StoreBlob(active.id()));
        let mime = mime(active.request.output.as_deref());
        let bytes = Bytes::from(output.content);
        let Stage::Running(attempt) = &mut active.stage else { return None };
        let call = attempt.call.replace(id);
        attempt.deadline = attempt.deadline.max(now.millis() + STORE_MILLIS);
        attempt.partial.clear();
        attempt.stored = Some(PendingBlob { bytes: bytes.clone(), tokens: output.tokens });
        call.into_iter().for_each(|call| self.cancel_effect(call));
        self.outbox.drop_partials(&active.id());
        self.held.push(Effect::StoreBlob { id, owner, bytes, mime });
        Some(active)
    }

    /// A result is stored at this URL, or why it is not.
    pub(super) fn result_stored(
        &mut self,
        now: Now,
        job: EventId,
        id: EffectId,
        outcome: Result<String, String>,
    ) {
        let Some(mut active) = self.active.remove(&job) else { return };
        let stored = match &mut active.stage {
            Stage::Running(attempt) if attempt.call == Some(id) => attempt.stored.take(),
            Stage::Running(_) | Stage::Waiting | Stage::Resolving(_) => None,
        };
        let Some(PendingBlob { bytes, tokens }) = stored else {
            self.active.insert(job, active);
            return;
        };
        if let Stage::Running(attempt) = &mut active.stage {
            attempt.call = None;
        }
        match outcome {
            Ok(url) => self.complete(now, active, &url, &String::from_utf8_lossy(&bytes), tokens),
            Err(why) => {
                let message = format!("the result cannot be stored: {why}");
                self.fail(now, active, JobEvent::Fail, "output_store", &message);
            }
        }
    }
}
