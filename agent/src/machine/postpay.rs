//! Jobs that are paid after the work: their results are withheld until they are paid, and dropped if they are not.
//!
//! ```text
//! running -> withheld (payment-required) -> responding, when it is paid
//!               |-------------------------> unpaid, when its invoice has expired
//! ```
//!
//! A result is signed when it is paid, in the transaction that makes it the outbox's: its time is then later than that of all feedback, and
//! whatever happens after that publishes the same event. Until then it is where nothing publishes it and nobody reads it.
//!
//! Work that nobody pays is for nothing. So there are limits: a customer who has as many unpaid results as
//! [`Payment::unpaid_limit`](crate::manifest::Payment::unpaid_limit), those of the jobs that are begun among them, pays before the work
//! like others with `prepay`. Each paid result makes up for one that was not paid.

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{Now, PubKey};

use super::Agent;
use super::jobs::{Active, Stage};
use super::respond::{PARTIAL_BYTES_MAX, REMOTE_PARTIAL_BYTES_MAX, beginning};
use crate::executor::Output;
use crate::job::{JobEvent, JobState};
use crate::payment::{self, Quote};
use crate::store::{self, JobRow, UnpaidResults, Withheld};

/// Longest texts of inputs that are kept for the session with a result that waits for its payment, in bytes: both are in one row.
const SAID_BYTES_MAX: usize = 1 << 20;

/// Whether a job's result has to be paid before it is published.
fn is_owed(row: &JobRow) -> bool {
    row.trace
        .payment
        .is_some_and(|payment| (payment.is_postpaid || payment.is_hold) && payment.paid < payment.price)
}

impl Active {
    /// Whether its result, and any part of it, has to be paid before it is published.
    pub(super) fn is_owed(&self) -> bool {
        is_owed(&self.row)
    }
}

impl<C: SqlConn> Agent<C> {
    /// See [`Payment::unpaid_limit`](crate::manifest::Payment::unpaid_limit).
    pub(super) fn unpaid_limit(&self) -> u32 {
        self.deployed.as_ref().map_or(0, |deployed| deployed.manifest.payment.unpaid_limit())
    }

    /// Whether a customer's next job may be paid after its work.
    pub(super) fn may_pay_later(&self, customer: &PubKey) -> Result<bool, StoreError> {
        let limit = self.unpaid_limit();
        if limit == 0 {
            return Ok(false);
        }
        let unpaid = store::unpaid_results(&self.conn, &self.batch, customer)?;
        Ok(unpaid.all() < u64::from(limit))
    }

    /// A job that is paid after its work begins.
    pub(super) fn unpaid_work_begins(&mut self, now: Now, customer: &PubKey) {
        let more = UnpaidResults { open: 1, lapsed: 0 };
        store::add_unpaid_results(&mut self.batch, customer, more, now.millis());
    }

    /// A job with a price has ended in the state of its row: whether it is unpaid, or makes up for another that is.
    pub(super) fn unpaid_work_ends(&mut self, now: Now, row: &JobRow) {
        let Some(payment) = row.trace.payment else { return };
        let lapsed = match row.state {
            JobState::Unpaid => 1,
            // Whoever takes it back instead of paying it has had the work done, too.
            JobState::Cancelled if payment.is_postpaid && row.attempts > 0 => 1,
            JobState::Responding if self.unpaid_limit() > 0 => -1,
            _ => 0,
        };
        let more = UnpaidResults { open: -i64::from(payment.is_postpaid), lapsed };
        if more != UnpaidResults::default() {
            store::add_unpaid_results(&mut self.batch, &row.customer, more, now.millis());
        }
    }

    /// The result is there, and waits for its payment. Credit that has come meanwhile is spent first.
    pub(super) fn withhold(&mut self, now: Now, mut active: Active, output: Output) {
        let Some(payment) = active.row.trace.payment else { return };
        let is_held = self.is_held(&active.id());
        if !is_held {
            let rest = payment.price.saturating_sub(payment.paid);
            // What cannot be read stays credit, and all is asked for.
            let credit = self.credit_of(&active.row.customer).unwrap_or_default();
            let Quote::Invoice(invoiced) = payment::quote(rest, credit) else {
                self.charge(now, &mut active.row, rest);
                return self.complete(now, active, &output.content, &output.content, output.tokens);
            };
            self.charge(now, &mut active.row, credit);
            if let Some(payment) = &mut active.row.trace.payment {
                payment.invoiced = invoiced;
            }
        }
        self.count_tokens(&mut active, output.tokens);
        let said = match std::mem::replace(&mut active.stage, Stage::Waiting) {
            Stage::Running(attempt) => {
                attempt.call.into_iter().for_each(|call| self.cancel_effect(call));
                let is_kept = attempt.manifest.memory.sessions && attempt.said.len() <= SAID_BYTES_MAX;
                if is_kept { attempt.said } else { String::new() }
            }
            Stage::Waiting | Stage::Resolving(_) => String::new(),
        };
        self.batch.put_withheld(active.row.seq, Some(Withheld { content: output.content, said }));
        active.row.inputs = None;
        active.advance(JobEvent::Withhold);
        match is_held {
            true => self.settle_hold(now, active),
            false => self.want_invoice(now, active),
        }
    }

    /// The result that a job withholds.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) fn withheld(&self, row: &JobRow) -> Result<Option<Withheld>, StoreError> {
        store::withheld(&self.conn, &self.batch, row.seq)
    }

    /// What a customer is shown of the result that a job withholds, if its manifest wants that. It is left out if it cannot be read.
    pub(super) fn sample_of(&self, row: &JobRow) -> String {
        if row.state != JobState::Withheld {
            return String::new();
        }
        let manifest = self.manifest_of(row).ok().flatten();
        let limits = manifest.and_then(|(manifest, _)| manifest.payment.sample_limits());
        let (Some((chars, percent)), Ok(Some(withheld))) = (limits, self.withheld(row)) else {
            return String::new();
        };
        let sample = payment::sample(&withheld.content, chars, percent);
        let bytes_max = if self.keys().is_some() { PARTIAL_BYTES_MAX } else { REMOTE_PARTIAL_BYTES_MAX };
        beginning(sample, bytes_max).to_owned()
    }

    /// A result that was withheld is paid, and is published.
    pub(super) fn release(&mut self, now: Now, active: Active, withheld: Option<Withheld>) {
        let Some(Withheld { content, said }) = withheld else {
            let message = "the result has been lost";
            return self.fail(now, active, JobEvent::Fail, "internal", message);
        };
        // What cannot be read is not remembered: a result is not held back for it.
        let manifest = self.manifest_of(&active.row).ok().flatten();
        let memory = manifest.map(|(manifest, _)| manifest.memory);
        self.respond(now, active, JobEvent::Release, &content, |agent, active| {
            if let Some(memory) = memory {
                agent.remember(now, active, memory, &said, &content);
            }
        });
    }
}
