//! Saving sessions: in the attachment of their socket, and what does not fit there in SQLite, as *overflows*. An
//! overflow is a list of filters or a whole list of subscriptions, named by its hash.
//!
//! ```text
//! edge_part  (conn BLOB:8, name BLOB:16, chunk INTEGER) primary key, bytes BLOB   without rowid
//! ```
//!
//! `conn` is the key of the connection, `name` that of the overflow; an overflow of more than a mebibyte has several rows. The table keeps its old name.

use std::collections::BTreeSet;

use relay_engine::relay::ConnId;
use relay_engine::store::StoreError;
use relay_engine::store::sql::{SqlConn, SqlValue};

use super::attachment::{ATTACHMENT_BYTES_MAX, Key, OverflowName};
use super::{Host, Object, RowCountingConn};

const CREATE: &str = "CREATE TABLE IF NOT EXISTS edge_part (conn BLOB NOT NULL, name BLOB NOT NULL, \
                      chunk INTEGER NOT NULL, bytes BLOB NOT NULL, PRIMARY KEY (conn, name, chunk)) \
                      WITHOUT ROWID";
const INSERT: &str = "INSERT OR REPLACE INTO edge_part (conn, name, chunk, bytes) VALUES (?, ?, ?, ?)";
const READ: &str = "SELECT bytes FROM edge_part WHERE conn = ? AND name = ? ORDER BY chunk";
const DELETE: &str = "DELETE FROM edge_part WHERE conn = ? AND name = ?";
const CONNS: &str = "SELECT conn FROM edge_part GROUP BY conn";
const DELETE_CONN: &str = "DELETE FROM edge_part WHERE conn = ?";

/// A row has at most 2 MB.
const CHUNK_BYTES: usize = 1 << 20;

pub(super) fn create<C: SqlConn>(conn: &C) -> Result<(), StoreError> {
    conn.exec(CREATE, &[])
}

pub(super) fn read<C: SqlConn>(
    conn: &C,
    key: Key,
    name: OverflowName,
) -> Result<Option<Vec<u8>>, StoreError> {
    let mut found: Option<Vec<u8>> = None;
    conn.query(READ, &[SqlValue::Blob(&key.to_be_bytes()), SqlValue::Blob(&name)], &mut |row| match row {
        [SqlValue::Blob(bytes)] => {
            found.get_or_insert_default().extend_from_slice(bytes);
            Ok(())
        }
        _ => Err(StoreError::Corrupt("a session's overflow has another type".into())),
    })?;
    Ok(found)
}

fn write<C: SqlConn>(conn: &C, key: Key, name: OverflowName, bytes: &[u8]) -> Result<(), StoreError> {
    conn.transaction(&mut || {
        bytes.chunks(CHUNK_BYTES).zip(0..).try_for_each(|(chunk, index)| {
            let key = key.to_be_bytes();
            let row =
                [SqlValue::Blob(&key), SqlValue::Blob(&name), SqlValue::Int(index), SqlValue::Blob(chunk)];
            conn.exec(INSERT, &row)
        })
    })
}

pub(super) fn delete<'a, C: SqlConn>(
    conn: &C,
    key: Key,
    mut names: impl Iterator<Item = &'a OverflowName>,
) -> Result<(), StoreError> {
    let key = key.to_be_bytes();
    names.try_for_each(|name| conn.exec(DELETE, &[SqlValue::Blob(&key), SqlValue::Blob(name)]))
}

/// Deletes the overflows of connections that no longer exist.
pub(super) fn sweep<C: SqlConn>(conn: &C, exists: impl Fn(Key) -> bool) {
    let mut gone = Vec::new();
    let read = conn.query(CONNS, &[], &mut |row| {
        if let [SqlValue::Blob(bytes)] = row
            && !<[u8; 8]>::try_from(*bytes).is_ok_and(|key| exists(Key::from_be_bytes(key)))
        {
            gone.push(bytes.to_vec());
        }
        Ok(())
    });
    if read.is_ok() {
        for key in gone {
            // If it fails, the next sweep deletes it.
            let _ = conn.exec(DELETE_CONN, &[SqlValue::Blob(&key)]);
        }
    }
}

impl<C: RowCountingConn + 'static, H: Host> Object<C, H> {
    /// Saves the sessions that have changed since they were last saved.
    pub(super) fn save_changed(&mut self) {
        while let Some(id) = self.relay.poll_changed() {
            self.save(id);
        }
        while let Some(id) = self.unanswered.poll_changed() {
            // It may have been saved since, or have been added and removed in between.
            if self
                .conns
                .get(&id)
                .is_some_and(|conn| conn.is_marked_unanswered != self.unanswered.contains(id))
            {
                self.save(id);
            }
        }
    }

    fn save(&mut self, id: ConnId) {
        let Some(session) = self.relay.snapshot(id) else { return };
        let has_unanswered = self.unanswered.contains(id);
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let saved = conn.encoder.save(conn.key, has_unanswered, &session, ATTACHMENT_BYTES_MAX);
        let names: BTreeSet<OverflowName> = saved.overflows.keys().copied().collect();
        let store = self.relay.store().conn();
        let before = store.rows();
        // First new overflows, then the attachment, then deletions: the overflows that an attachment names are always there.
        let mut written = Ok(());
        for (name, bytes) in &saved.overflows {
            if !conn.overflows.contains(name) {
                written = written.and_then(|()| write(store, conn.key, *name, bytes));
                self.counters.overflows_saved += 1;
            }
        }
        if written.is_err() {
            // The session continues in memory and is saved with its next change; the old attachment and its overflows
            // are still there.
            self.counters.overflows_failed += 1;
            return;
        }
        self.host.attach(&conn.socket, &saved.attachment);
        conn.is_marked_unanswered = has_unanswered;
        self.counters.attachments_saved += 1;
        self.counters.attachment_bytes += saved.attachment.len() as u64;
        // Overflows that cannot be deleted now are swept when the object wakes up without this connection.
        let _ = delete(store, conn.key, conn.overflows.difference(&names));
        conn.overflows = names;
        self.counters.rows.maintenance.add(store.rows().since(before));
    }
}
