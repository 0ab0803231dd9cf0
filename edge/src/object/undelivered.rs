//! Live events whose delivery takes several ticks, and what becomes of them when the platform replaces the instance in between.
//!
//! The object does not hibernate meanwhile, but attachments say of live subscriptions only that they are live. So while
//! stored events are being delivered a row says from where; an object that finds it when it wakes up lets all live
//! subscriptions read those events back from the store. Some are then sent an event again, none misses one.
//!
//! ```text
//! edge_undelivered  (id INTEGER primary key: 1, after INTEGER)    the last sequence number that was delivered to all
//! ```

use relay_engine::store::sql::{SqlConn, SqlValue};
use relay_engine::store::{Seq, StoreError};

use super::{Host, Object, RowCountingConn};

const CREATE: &str =
    "CREATE TABLE IF NOT EXISTS edge_undelivered (id INTEGER PRIMARY KEY, after INTEGER NOT NULL)";
const READ: &str = "SELECT after FROM edge_undelivered WHERE id = 1";
const WRITE: &str = "INSERT OR REPLACE INTO edge_undelivered (id, after) VALUES (1, ?)";
const DELETE: &str = "DELETE FROM edge_undelivered WHERE id = 1";

pub(super) fn create<C: SqlConn>(conn: &C) -> Result<(), StoreError> {
    conn.exec(CREATE, &[])
}

/// What the row says, if there is one.
pub(super) fn read<C: SqlConn>(conn: &C) -> Option<Seq> {
    let mut found = None;
    let read = conn.query(READ, &[], &mut |row| {
        if let [SqlValue::Int(after)] = row {
            found = Some(Seq(after.cast_unsigned()));
        }
        Ok(())
    });
    found.filter(|_| read.is_ok())
}

impl<C: RowCountingConn + 'static, H: Host> Object<C, H> {
    /// Writes or deletes the row if it is not right.
    pub(super) fn save_undelivered(&mut self) {
        let after = self.relay.delivered_up_to();
        if after == self.undelivered {
            return;
        }
        let conn = self.relay.store().conn();
        let before = conn.rows();
        let saved = match after {
            Some(after) => conn.exec(WRITE, &[SqlValue::Int(after.0.cast_signed())]),
            None => conn.exec(DELETE, &[]),
        };
        // If it fails, the next tick tries it again.
        if saved.is_ok() {
            self.undelivered = after;
        }
        self.counters.rows.maintenance.add(conn.rows().since(before));
    }
}
