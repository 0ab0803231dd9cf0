//! Jobs that are paid after the work: their results are withheld until they are paid, and dropped if they are not.
//!
//! ```text
//! running -> withheld (payment-required) -> responding, when it is paid
//!               |-------------------------> unpaid, when its invoice has expired
//! ```
//!
//! A result is signed when it is paid, in the transaction that puts it into the outbox. So its `created_at` is later than that of all feedback, and
//! after a crash the same event is published. Until then it is in a table that nothing publishes and no request reads.
//!
//! Unpaid work is limited: a customer with [`Payment::unpaid_limit`](crate::manifest::Payment::unpaid_limit) unpaid results, which includes
//! those of jobs that have begun, pays before the work as with `prepay`. Each paid result makes up for one that was not paid.

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
fn withholds_result(row: &JobRow) -> bool {
    row.trace
        .payment
        .is_some_and(|payment| (payment.is_postpaid || payment.is_hold) && payment.paid < payment.price)
}

impl Active {
    /// Whether its result, and any part of it, has to be paid before it is published.
    pub(super) fn withholds_result(&self) -> bool {
        withholds_result(&self.row)
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

    /// Counts a job that begins and is paid afterwards.
    pub(super) fn unpaid_work_begins(&mut self, now: Now, customer: &PubKey) {
        let more = UnpaidResults { open: 1, lapsed: 0 };
        store::add_unpaid_results(&mut self.batch, customer, more, now.millis());
    }

    /// Counts a job with a price that has ended (`row.state`): as unpaid, or as making up for an unpaid one.
    pub(super) fn unpaid_work_ends(&mut self, now: Now, row: &JobRow) {
        let Some(payment) = row.trace.payment else { return };
        let lapsed = match row.state {
            JobState::Unpaid => 1,
            // Who cancels instead of paying has had the work done, too.
            JobState::Cancelled if payment.is_postpaid && row.attempts > 0 => 1,
            JobState::Responding if self.unpaid_limit() > 0 => -1,
            _ => 0,
        };
        let more = UnpaidResults { open: -i64::from(payment.is_postpaid), lapsed };
        if more != UnpaidResults::default() {
            store::add_unpaid_results(&mut self.batch, &row.customer, more, now.millis());
        }
    }

    /// Withholds a result until it is paid. Credit that has come meanwhile is spent first.
    pub(super) fn withhold(&mut self, now: Now, mut active: Active, output: Output) {
        let Some(payment) = active.row.trace.payment else { return };
        let is_held = self.is_held(&active.id());
        if !is_held {
            let rest = payment.price.saturating_sub(payment.paid);
            // If the credit cannot be read it is not used, and the whole rest is asked for.
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
            false => self.queue_invoice(now, active),
        }
    }

    /// The result that a job withholds.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) fn withheld(&self, row: &JobRow) -> Result<Option<Withheld>, StoreError> {
        store::withheld(&self.conn, &self.batch, row.seq)
    }

    /// The sample of a withheld result, with policy `sample`; empty otherwise, or if it cannot be read.
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

    /// Publishes a withheld result that is paid.
    pub(super) fn release(&mut self, now: Now, active: Active, withheld: Option<Withheld>) {
        let Some(Withheld { content, said }) = withheld else {
            let message = "the result has been lost";
            return self.fail(now, active, JobEvent::Fail, "internal", message);
        };
        // If the manifest cannot be read, the session does not get the result, but the customer does.
        let manifest = self.manifest_of(&active.row).ok().flatten();
        let memory = manifest.map(|(manifest, _)| manifest.memory);
        self.respond(now, active, JobEvent::Release, &content, |agent, active| {
            if let Some(memory) = memory {
                agent.remember(now, active, memory, &said, &content);
            }
        });
    }
}
