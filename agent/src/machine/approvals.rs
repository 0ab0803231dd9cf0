//! Refunds of more than `limits.approval_msat`: they wait until the owner approves or declines them, and fail when their invoice expires.

use relay_engine::sql::SqlConn;
use relay_engine::types::Now;
use serde::Serialize;

use super::refunds::{OpenRefund, PaymentHash};
use super::{Agent, CommandError, RefundRecord};
use crate::store::{self, RefundState};

/// A refund that waits for its owner's approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefundToApprove {
    /// Whose credit it is, in hexadecimal.
    pub customer: String,
    /// Until when it can be paid, in Unix seconds.
    pub expires_at: u64,
    /// What is wanted.
    #[serde(flatten)]
    pub refund: RefundRecord,
}

impl<C: SqlConn> Agent<C> {
    /// The refunds that wait for approval, oldest first.
    pub fn refunds_to_approve(&self) -> Vec<RefundToApprove> {
        let is_waiting = |open: &&OpenRefund| open.row.state == RefundState::AwaitingApproval;
        let mut open: Vec<_> = self.payments.refunds.values().filter(is_waiting).collect();
        open.sort_unstable_by_key(|open| open.row.made_at);
        let record = |open: &OpenRefund| RefundToApprove {
            customer: self.payee_name(&open.row.payee),
            expires_at: open.row.expires_at,
            refund: (&open.row).into(),
        };
        open.into_iter().map(record).collect()
    }

    /// Approves or declines a refund that waits for the owner; one that is declined is credit again. When it returns, that is durable. A refund that
    /// was decided before does not change.
    ///
    /// # Errors
    /// [`CommandError::NotFound`] if there is no such refund; [`CommandError::Store`], then nothing has changed.
    pub fn decide_refund(
        &mut self,
        now: Now,
        hash: &PaymentHash,
        is_approved: bool,
    ) -> Result<RefundRecord, CommandError> {
        self.settle(now).map_err(CommandError::Store)?;
        let Some(open) = self.payments.refunds.get_mut(hash) else {
            let over = store::refund(&self.conn, hash).map_err(CommandError::Store)?;
            return over.map(|row| (&row).into()).ok_or(CommandError::NotFound);
        };
        let before = open.clone();
        if before.row.state != RefundState::AwaitingApproval {
            return Ok((&before.row).into());
        }
        let (batch, last_transfer) = (self.batch.clone(), self.payments.last_transfer);
        if is_approved {
            (open.row.state, open.row.changed_at) = (RefundState::Wanted, now.millis());
            let row = open.row.clone();
            self.log(now, None, format!("the owner approves that {} msat are paid out", row.msat));
            self.batch.put_refund(row);
        } else {
            self.refund_failed(now, hash, "the owner has declined it");
        }
        let record = self.payments.refunds.get(hash).map_or(&before, |open| open);
        let record = RefundRecord::from(&record.row);
        if let Err(error) = self.store() {
            self.take_back(batch);
            self.payments.last_transfer = last_transfer;
            self.payments.refunds.insert(*hash, before);
            return Err(CommandError::Store(error));
        }
        let _ = self.settle(now);
        Ok(record)
    }
}
