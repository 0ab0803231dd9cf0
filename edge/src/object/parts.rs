//! Parts of sessions that do not fit beside their sockets, in SQLite, and saving what has changed.
//!
//! ```text
//! edge_part  (conn BLOB:8, name BLOB:16, chunk INTEGER) primary key, bytes BLOB   without rowid
//! ```

use std::collections::BTreeSet;

use relay_engine::relay::ConnId;
use relay_engine::store::StoreError;
use relay_engine::store::sql::{SqlConn, SqlValue};

use super::attachment::{ATTACHMENT_BYTES_MAX, Key, PartName};
use super::{CountingConn, Host, Object};

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

pub(super) fn read<C: SqlConn>(conn: &C, key: Key, name: PartName) -> Result<Option<Vec<u8>>, StoreError> {
    let mut found: Option<Vec<u8>> = None;
    conn.query(READ, &[SqlValue::Blob(&key.to_be_bytes()), SqlValue::Blob(&name)], &mut |row| match row {
        [SqlValue::Blob(bytes)] => {
            found.get_or_insert_default().extend_from_slice(bytes);
            Ok(())
        }
        _ => Err(StoreError::Corrupt("a part is no BLOB".into())),
    })?;
    Ok(found)
}

fn write<C: SqlConn>(conn: &C, key: Key, name: PartName, bytes: &[u8]) -> Result<(), StoreError> {
    conn.transaction(&mut || {
        bytes.chunks(CHUNK_BYTES).zip(0..).try_for_each(|(chunk, number)| {
            let key = key.to_be_bytes();
            let row =
                [SqlValue::Blob(&key), SqlValue::Blob(&name), SqlValue::Int(number), SqlValue::Blob(chunk)];
            conn.exec(INSERT, &row)
        })
    })
}

pub(super) fn delete<'a, C: SqlConn>(
    conn: &C,
    key: Key,
    mut names: impl Iterator<Item = &'a PartName>,
) -> Result<(), StoreError> {
    let key = key.to_be_bytes();
    names.try_for_each(|name| conn.exec(DELETE, &[SqlValue::Blob(&key), SqlValue::Blob(name)]))
}

/// Deletes the parts of connections that are gone.
pub(super) fn sweep<C: SqlConn>(conn: &C, lives: impl Fn(Key) -> bool) {
    let mut gone = Vec::new();
    let looked = conn.query(CONNS, &[], &mut |row| {
        if let [SqlValue::Blob(bytes)] = row
            && !<[u8; 8]>::try_from(*bytes).is_ok_and(|key| lives(Key::from_be_bytes(key)))
        {
            gone.push(bytes.to_vec());
        }
        Ok(())
    });
    if looked.is_ok() {
        for key in gone {
            // What cannot be deleted now can be the next time.
            let _ = conn.exec(DELETE_CONN, &[SqlValue::Blob(&key)]);
        }
    }
}

impl<C: CountingConn + 'static, H: Host> Object<C, H> {
    /// Writes the sessions that are not what they were beside their sockets.
    pub(super) fn save_changed(&mut self) {
        while let Some(id) = self.relay.poll_changed() {
            self.save(id);
        }
        while let Some(id) = self.held.poll_changed() {
            // It may have been written since, or be held no longer before anybody knew.
            if self.conns.get(&id).is_some_and(|conn| conn.is_marked != self.held.holds(id)) {
                self.save(id);
            }
        }
    }

    fn save(&mut self, id: ConnId) {
        let Some(session) = self.relay.snapshot(id) else { return };
        let is_held = self.held.holds(id);
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let saved = conn.coder.save(conn.key, is_held, &session, ATTACHMENT_BYTES_MAX);
        let names: BTreeSet<PartName> = saved.parts.keys().copied().collect();
        let store = self.relay.store().conn();
        let before = store.rows();
        // First what is needed, then the attachment, then what is not needed any more: at every moment
        // the attachment has its parts.
        let mut wrote = Ok(());
        for (name, bytes) in &saved.parts {
            if !conn.parts.contains(name) {
                wrote = wrote.and_then(|()| write(store, conn.key, *name, bytes));
                self.numbers.parts_saved += 1;
            }
        }
        if wrote.is_err() {
            // The session lives on in memory and is tried again with its next change; the old attachment
            // and its parts are still there.
            self.numbers.parts_failed += 1;
            return;
        }
        self.host.attach(&conn.socket, &saved.attachment);
        conn.is_marked = is_held;
        self.numbers.attachments_saved += 1;
        self.numbers.attachment_bytes += saved.attachment.len() as u64;
        // What cannot be deleted is swept when the object wakes up without this connection.
        let _ = delete(store, conn.key, conn.parts.difference(&names));
        conn.parts = names;
        self.numbers.rows.upkeep.add(store.rows().since(before));
    }
}
