//! Feedback that has expired before the relay took it, or before a remote signer signed it, is of no use as it is: relays refuse it.
//!
//! The last event about a request, an error, is signed again with the present time, so that its customer gets it when
//! the relay is back. Feedback before the last one (`processing`, partial results), and pongs, are dropped. The
//! times of a job go on rising: what takes the place of the last event is later than it was.

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{Event, Now};

use super::Agent;
use super::outbox::job_of;
use crate::identity::{Draft, Encryption, EventSigner, Missing, Sign, missing};
use crate::nip90;
use crate::store::{self, JobRow, SentEvent};

impl<C: SqlConn> Agent<C> {
    /// Drops or replaces expired feedback of the outbox. Whether there was any; then the batch has to be stored.
    ///
    /// # Errors
    /// If the store fails; it is tried again, and nothing is published before. A job whose row is corrupt is as none.
    pub(super) fn replace_expired(&mut self, now: Now) -> Result<bool, StoreError> {
        let expired = self.outbox.expired(now);
        let Some(author) = self.last_event_signer().filter(|_| !expired.is_empty()) else { return Ok(false) };
        for (event, is_followed) in expired {
            let row = match job_of(&event).map(|job| (job, self.batch.job_by_id(&job))) {
                Some((_, Some(row))) => Some(row.clone()),
                Some((job, None)) => store::unless_corrupt(store::job_by_id(&self.conn, &job))?.flatten(),
                None => None,
            };
            let created_at = now.seconds().max(event.created_at + 1);
            let again = match !is_followed && is_last_word(&event, row.as_ref()) {
                true => {
                    let nonce = self.nonce();
                    signed_again(&author, &event, nip90::dated(&event, created_at), nonce)
                }
                false => None,
            };
            match &again {
                Some(again) => {
                    if let Some(mut row) = row {
                        row.created_at_max = row.created_at_max.max(created_at);
                        if let Some(last) = row.trace.sent.last_mut() {
                            *last = SentEvent::of(again, &last.status, &last.text);
                        }
                        self.batch.put_job(row);
                    }
                }
                None => self.log(now, job_of(&event), "feedback has expired before it was published"),
            }
            // In the same row: its number is a time, by which the signer counts for how long an event has waited.
            self.outbox.replace_waiting(&mut self.batch, &event.id, again);
        }
        Ok(true)
    }

    /// Who signs; also the last events of a deleted agent, if its signer is known.
    fn last_event_signer(&self) -> Option<EventSigner> {
        let signer = self.signer.as_ref().map(|signer| EventSigner::Remote(signer.pubkey()));
        self.event_signer().cloned().or(signer)
    }
}

/// Whether nothing more is said about a job: it is over, and this was the last event about it. Of a request that was refused there
/// is no row.
fn is_last_word(event: &Event, row: Option<&JobRow>) -> bool {
    match row {
        Some(row) => {
            let last = row.trace.sent.last();
            let is_last =
                last.is_some_and(|last| last.status == "error" && last.created_at == event.created_at);
            !row.state.is_unfinished() && is_last
        }
        None => match event.tags().find(b"status") {
            Some(status) => *status == *b"error",
            // Encrypted: refusals are the only feedback about what is no job.
            None => true,
        },
    }
}

fn signed_again(author: &EventSigner, event: &Event, draft: Draft, nonce: [u8; 32]) -> Option<Event> {
    match missing(event) {
        Some(Missing::Encryption(cipher)) => {
            let peer = nip90::named_keys(event).first().copied()?;
            author.sign_encrypted(draft, &Encryption { cipher, peer, nonce }).ok()
        }
        Some(Missing::Signature) | None => Some(author.sign(&draft)),
    }
}
