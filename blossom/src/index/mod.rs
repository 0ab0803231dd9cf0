//! Which blobs there are, whose they are, and which bytes may go: the judge of all races. A [`Command`] is one transaction.

mod command;

pub use command::{
    BlobInfo, Command, Commit, Key, Outcome, Part, PartHead, Refusal, ReportRow, SignedEvent, Totals, Wanted,
};

use relay_engine::sql::{SqlConn, StoreError};

/// The index over an SQLite database.
#[derive(Debug)]
pub struct Index<C> {
    conn: C,
}

impl<C: SqlConn> Index<C> {
    /// Opens the tables, or makes them.
    ///
    /// # Errors
    /// If the database fails or has another layout.
    pub fn open(conn: C) -> Result<Self, StoreError> {
        Ok(Index { conn })
    }

    /// Carries out a command at a time in Unix seconds.
    ///
    /// # Errors
    /// If the database fails. Then nothing has changed.
    pub fn run(&mut self, now: u64, command: Command) -> Result<Outcome, StoreError> {
        let (_, _, _) = (&self.conn, now, command);
        Err(StoreError::Failed("not written yet".to_owned()))
    }
}
