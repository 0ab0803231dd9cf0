//! The state of the registry: a row, written in each transaction that changes it.

use relay_engine::sql::column::{int, signed};
use relay_engine::sql::{SqlConn, StoreError, exec, query_one};
use relay_engine::types::Timestamp;

use super::bounds::Totals;
use super::sql::optional_param;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// The last sequence number of the relay that has been applied.
    pub(super) position: Option<u64>,
    /// Evidence of anybody that states a time up to this may have been forgotten.
    pub(super) horizon: Timestamp,
    /// Likewise receipts of known jobs, which have a horizon of their own: many zaps push out no jobs.
    pub(super) receipts_horizon: Timestamp,
    pub(super) totals: Totals,
    /// Some figures are to be recomputed; whose is in memory only.
    pub(super) is_dirty: bool,
}

const READ: &str = "SELECT position, horizon, receipts_horizon, events, kept_bytes, receipts, dirty FROM market_state WHERE id = 1";
const WRITE: &str = "INSERT OR REPLACE INTO market_state (id, position, horizon, receipts_horizon, events, kept_bytes, receipts, dirty) \
                     VALUES (1, ?, ?, ?, ?, ?, ?, ?)";

impl State {
    pub(super) fn read(conn: &impl SqlConn) -> Result<State, StoreError> {
        let found = query_one(conn, READ, &[], |row| {
            Ok(State {
                position: signed(row, 0)?.try_into().ok(),
                horizon: int(row, 1)?,
                receipts_horizon: int(row, 2)?,
                totals: Totals { events: int(row, 3)?, kept_bytes: int(row, 4)?, receipts: int(row, 5)? },
                is_dirty: int(row, 6)? == 1,
            })
        })?;
        Ok(found.unwrap_or_default())
    }

    /// One row.
    pub(super) fn write(&self, conn: &impl SqlConn) -> Result<(), StoreError> {
        let State { position, horizon, receipts_horizon, totals, is_dirty } = *self;
        let params = [
            optional_param(position),
            horizon.into(),
            receipts_horizon.into(),
            totals.events.into(),
            totals.kept_bytes.into(),
            totals.receipts.into(),
            is_dirty.into(),
        ];
        exec(conn, WRITE, &params)
    }
}
