//! Signed requests that have been carried out (NIP-98), in the database of an object. Each isolate of the Worker has
//! its own memory, so only the object that carries a request out can recognise a repeated one, also after it has left memory.

use relay_engine::sql::{SqlConn, SqlValue, StoreError};
use relay_engine::types::EventId;
use relay_site::nip98::{AGE_SECONDS_MAX, Nip98Error, VerifiedRequest};
use serde::{Deserialize, Serialize};

const CREATE: &str = "CREATE TABLE IF NOT EXISTS used_events (created_at INTEGER NOT NULL, id BLOB NOT NULL, \
                      PRIMARY KEY (created_at, id)) WITHOUT ROWID";
const FORGET: &str = "DELETE FROM used_events WHERE created_at < ?";
const HAS: &str = "SELECT 1 FROM used_events WHERE created_at = ? AND id = ?";
const COUNT: &str = "SELECT count(*) FROM used_events";
const INSERT: &str = "INSERT INTO used_events (created_at, id) VALUES (?, ?)";

const TABLES: &str = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'used_events'";
const ALL: &str = "SELECT created_at, id FROM used_events WHERE created_at >= ?";

/// Most events that are remembered: of two minutes. Only keys that are permitted to do something get one remembered.
pub const USED_MAX: i64 = 1_024;

/// The event that has signed a request, on its way to the object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedBy {
    /// Its id in hexadecimal.
    pub id: String,
    /// Its time in Unix seconds.
    pub created_at: u64,
}

impl From<&VerifiedRequest> for SignedBy {
    fn from(signed: &VerifiedRequest) -> Self {
        SignedBy { id: signed.id().to_string(), created_at: signed.created_at() }
    }
}

impl SignedBy {
    /// Marks the event as used, at Unix seconds `now`. It is forgotten once it is too old to be accepted. Two rows, of which one is
    /// written when it is forgotten; reads those of two minutes.
    ///
    /// # Errors
    /// [`StoreError`]; and [`Nip98Error::Replayed`] if it was used before, [`Nip98Error::Busy`] if [`USED_MAX`] others are remembered.
    pub fn take(&self, conn: &impl SqlConn, now: u64) -> Result<Result<(), Nip98Error>, StoreError> {
        let id = EventId::from_hex(self.id.as_bytes())
            .map_err(|_| StoreError::Failed("not an event id".to_owned()))?;
        let entry = [at(self.created_at), SqlValue::Blob(&id.0)];
        let first = |sql: &str, params: &[SqlValue<'_>]| {
            let mut found = 0;
            conn.query(sql, params, &mut |row| {
                if let Some(SqlValue::Int(number)) = row.first() {
                    found = *number;
                }
                Ok(())
            })?;
            Ok::<i64, StoreError>(found)
        };
        let mut taken = Ok(());
        conn.transaction(&mut || {
            conn.exec(CREATE, &[])?;
            conn.exec(FORGET, &[at(now.saturating_sub(AGE_SECONDS_MAX))])?;
            if first(HAS, &entry)? > 0 {
                taken = Err(Nip98Error::Replayed);
            } else if first(COUNT, &[])? >= USED_MAX {
                taken = Err(Nip98Error::Busy);
            } else {
                conn.exec(INSERT, &entry)?;
            }
            Ok(())
        })?;
        Ok(taken)
    }
}

/// The events that are remembered at Unix seconds `now`, for an object that is to be emptied. Writes nothing.
///
/// # Errors
/// [`StoreError`].
pub fn remembered(conn: &impl SqlConn, now: u64) -> Result<Vec<(u64, EventId)>, StoreError> {
    let mut has_table = false;
    conn.query(TABLES, &[], &mut |row| {
        has_table = matches!(row, [SqlValue::Int(1)]);
        Ok(())
    })?;
    let mut found = Vec::new();
    if has_table {
        conn.query(ALL, &[at(now.saturating_sub(AGE_SECONDS_MAX))], &mut |row| {
            let [SqlValue::Int(created_at), SqlValue::Blob(id)] = row else {
                return Err(StoreError::Corrupt("a used event".to_owned()));
            };
            let id = <[u8; 32]>::try_from(*id).map_err(|_| StoreError::Corrupt("a used event".to_owned()))?;
            found.push((u64::try_from(*created_at).unwrap_or_default(), EventId(id)));
            Ok(())
        })?;
    }
    Ok(found)
}

/// Remembers events of an object that had been emptied, unless they are too old to be accepted.
///
/// # Errors
/// [`StoreError`].
pub fn remember(
    conn: &impl SqlConn,
    now: u64,
    events: impl Iterator<Item = (u64, EventId)>,
) -> Result<(), StoreError> {
    for (created_at, id) in events.filter(|(created_at, _)| created_at.saturating_add(AGE_SECONDS_MAX) >= now)
    {
        // One that is remembered already is.
        let _ = SignedBy { id: id.to_string(), created_at }.take(conn, now)?;
    }
    Ok(())
}

fn at(seconds: u64) -> SqlValue<'static> {
    SqlValue::Int(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// What became of it, as JSON.
pub fn encode_taken(taken: &Result<(), Nip98Error>) -> &'static [u8] {
    match taken {
        Ok(()) => b"\"new\"",
        Err(Nip98Error::Replayed) => b"\"replayed\"",
        Err(_) => b"\"busy\"",
    }
}

/// Reads what became of it; `None` if it is none.
pub fn decode_taken(body: &[u8]) -> Option<Result<(), Nip98Error>> {
    match body {
        b"\"new\"" => Some(Ok(())),
        b"\"replayed\"" => Some(Err(Nip98Error::Replayed)),
        b"\"busy\"" => Some(Err(Nip98Error::Busy)),
        _ => None,
    }
}
