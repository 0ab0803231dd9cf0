//! Counts of unpaid results by customer: of jobs that have begun and are not paid yet, and of results that were never paid.

use relay_engine::sql::column::signed;
use relay_engine::sql::{Param, SqlConn, SqlValue, StoreError};
use relay_engine::types::PubKey;

use super::Batch;

const GET: &str = "SELECT open, lapsed FROM agent_unpaid WHERE customer = ?";
const ADD: &str = "INSERT INTO agent_unpaid (customer, open, lapsed, at) VALUES (?, max(0, ?), max(0, ?), ?) \
    ON CONFLICT (customer) DO UPDATE SET open = max(0, open + ?), lapsed = max(0, lapsed + ?), at = excluded.at";
const PRUNE: &str = "DELETE FROM agent_unpaid WHERE at < ?";
/// Milliseconds for which a customer's unpaid results are known after the last change.
const KEPT_MILLIS: u64 = 30 * 86_400_000;

/// The results of a customer that are not paid; or how many more there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnpaidResults {
    /// Of jobs that are begun, and not paid yet.
    pub(crate) open: i64,
    /// Of jobs that have ended unpaid.
    pub(crate) lapsed: i64,
}

impl UnpaidResults {
    /// So many more.
    pub(super) fn plus(self, more: Self) -> Self {
        UnpaidResults { open: (self.open + more.open).max(0), lapsed: (self.lapsed + more.lapsed).max(0) }
    }

    /// All of them.
    pub(crate) fn all(self) -> u64 {
        self.open.max(0).unsigned_abs() + self.lapsed.max(0).unsigned_abs()
    }
}

/// The results of a customer that are not paid, with what is not written yet.
pub(crate) fn unpaid_results(
    conn: &impl SqlConn,
    batch: &Batch,
    customer: &PubKey,
) -> Result<UnpaidResults, StoreError> {
    let mut found = UnpaidResults::default();
    conn.query(GET, &[SqlValue::Blob(&customer.0)], &mut |row| {
        found = UnpaidResults { open: signed(row, 0)?, lapsed: signed(row, 1)? };
        Ok(())
    })?;
    Ok(batch.unpaid_results(customer).iter().fold(found, |found, more| found.plus(*more)))
}

/// Notes that so many more results of a customer are not paid, or fewer, at this time in milliseconds since 1970.
pub(crate) fn add_unpaid_results(batch: &mut Batch, customer: &PubKey, more: UnpaidResults, now: u64) {
    batch.note_unpaid_results(*customer, more);
    let (open, lapsed) = (Param::Int(more.open), Param::Int(more.lapsed));
    let params = vec![customer.0[..].into(), open.clone(), lapsed.clone(), now.into(), open, lapsed];
    batch.push(ADD, params);
}

/// Forgets what is old at this time, in milliseconds since 1970.
pub(crate) fn prune_unpaid_results(batch: &mut Batch, now: u64) {
    batch.push(PRUNE, vec![now.saturating_sub(KEPT_MILLIS).into()]);
}
