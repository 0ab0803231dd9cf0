//! Which blobs there are, whose they are, and which bytes may be removed: every race is decided here. A [`Command`] is one transaction.
//!
//! - Live blobs have their bytes: a blob becomes live when its bytes are stored ([`Command::Finish`]), and bytes are removed
//!   only while they are neither live nor being uploaded.
//! - Bytes that are neither are removed in the end: whatever ends (a blob, an upload, a part) queues the removal of its bytes.
//! - No upload of bytes begins while a host is removing them.
//! - An upload that is aborted because its blob is banned or deleted may still store bytes. It is remembered until its
//!   host reports its end, or until it counts as abandoned; then the bytes are removed once more, unless they are live or uploaded
//!   by others.
//!
//! `schema.rs` has the tables and what an upload costs.

mod admin;
mod blobs;
mod command;
mod events;
mod list;
mod owners;
mod parts;
mod pulls;
mod removals;
mod schema;
mod sql;
mod state;
mod sweep;
mod thumbnails;
mod uploads;

pub use command::{
    BlobInfo, Command, Commit, Key, Outcome, Part, PartHead, Refusal, RelayEvent, ReportRow, Totals, Wanted,
};
pub use events::EVENT_KINDS;
pub(crate) use pulls::PULL_SECONDS;

use relay_engine::sql::{SqlConn, StoreError};

use state::State;

/// The index over an SQLite database, which nothing else may write.
#[derive(Debug)]
pub struct Index<C> {
    conn: C,
    /// `None` after a failure: what is in memory may be ahead of the tables.
    state: Option<State>,
}

/// A command that is being carried out.
struct Run<'a, C> {
    conn: &'a C,
    state: &'a mut State,
    /// Unix seconds.
    now: u64,
}

impl<C: SqlConn> Index<C> {
    /// Opens the tables, or makes them.
    ///
    /// # Errors
    /// If the database fails or has another layout.
    pub fn open(conn: C) -> Result<Self, StoreError> {
        schema::open(&conn)?;
        let state = State::load(&conn)?;
        Ok(Index { conn, state: Some(state) })
    }

    /// The database, for its settings.
    pub fn conn(&self) -> &C {
        &self.conn
    }

    /// Carries out a command at a time in Unix seconds.
    ///
    /// # Errors
    /// If the database fails, or a public key or an event id is not hexadecimal. Then nothing has changed.
    pub fn run(&mut self, now: u64, command: Command) -> Result<Outcome, StoreError> {
        let mut state = match self.state.take() {
            Some(state) => state,
            None => State::load(&self.conn)?,
        };
        let conn = &self.conn;
        let mut run = Run { conn, state: &mut state, now };
        let outcome = if reads(&command) {
            run.carry_out(command)?
        } else {
            let mut command = Some(command);
            let mut outcome = Outcome::Done;
            conn.transaction(&mut || {
                if let Some(command) = command.take() {
                    outcome = run.carry_out(command)?;
                    run.write_totals()?;
                }
                Ok(())
            })?;
            outcome
        };
        self.state = Some(state);
        Ok(outcome)
    }

    /// When [`Command::Sweep`] or [`Command::TakeRemoval`] has something to do next, in Unix seconds; 0 if that is now or after a
    /// failure. It may be too early, never too late. From memory: a host sets its timer by it after every command that writes.
    pub fn next_due(&self) -> Option<u64> {
        self.state.as_ref().map_or(Some(0), State::next_due)
    }
}

/// Whether a command writes nothing.
fn reads(command: &Command) -> bool {
    matches!(
        command,
        Command::Get(_)
            | Command::IsOwner { .. }
            | Command::Check(_)
            | Command::CheckPart(_)
            | Command::List { .. }
            | Command::Position
            | Command::IsKnown(_)
            | Command::Stat(_)
            | Command::Bans { .. }
            | Command::Reports { .. }
            | Command::Totals
    )
}

impl<C: SqlConn> Run<'_, C> {
    fn carry_out(&mut self, command: Command) -> Result<Outcome, StoreError> {
        match command {
            Command::Get(sha256) => {
                Ok(self.blob(&sha256)?.map_or(Outcome::Missing, |row| Outcome::Blob(row.blob)))
            }
            Command::IsOwner { sha256, owner } => self.owns(&sha256, &owner),
            Command::RecordDownloads(blobs) => self.record_downloads(&blobs),
            Command::Check(wanted) => self.check(&wanted),
            Command::CheckPart(wanted) => self.check_part(&wanted),
            Command::SetMime { sha256, owner, mime } => self.set_mime(&sha256, &owner, &mime),
            Command::Begin(wanted) => self.begin(&wanted),
            Command::BeginPull(wanted, urls) => self.begin_pull(&wanted, &urls),
            Command::AbortPull { upload, urls } => self.abort_pull(upload, &urls),
            Command::Reserve { upload, size } => self.reserve(upload, size),
            Command::SetHash { upload, sha256, size } => self.set_hash(upload, sha256, size),
            Command::Finish(commit) => self.finish(commit),
            Command::Abort { upload } => self.abort(upload),
            Command::BeginPart(wanted, part) => self.begin_part(&wanted, part),
            Command::FinishPart { upload, key } => self.finish_part(upload, &key),
            Command::AbortPart { upload, key } => self.abort_part(upload, &key),
            Command::LeaveParts { upload } => Ok(self.leave_parts(upload)),
            Command::AbortParts { upload } => self.give_up(upload).map(|()| Outcome::Done),
            Command::Delete { sha256, owner } => self.delete(&sha256, owner.as_deref()),
            Command::List { owner, cursor, limit, since, until } => {
                self.list(owner.as_deref(), cursor, limit, since, until)
            }
            Command::Report(event) => self.report(&event),
            Command::Apply(event, seq) => self.apply(&event, seq),
            Command::Position => self.position(),
            Command::SetPosition(seq) => self.set_position(seq),
            Command::TakeRemoval => Ok(Outcome::Removal(self.take_removals(1)?.pop())),
            Command::TakeRemovals(limit) => Ok(Outcome::Removals(self.take_removals(limit as usize)?)),
            Command::TakeRemovalOf(key) => self.take_removal_of(key),
            Command::Removed(key) => self.removed(&key),
            Command::RemovalFailed(key) => self.removal_failed(&key),
            Command::Sweep => self.sweep(),
            Command::Restart => self.restart(),
            Command::IsKnown(key) => {
                Ok(if self.is_known(&key)? { Outcome::Accepted } else { Outcome::Missing })
            }
            Command::RemoveUnknown { keys, is_asked } => self.remove_unknown(keys, is_asked),
            Command::Stat(sha256) => self.stat(&sha256),
            Command::Ban { sha256, reason } => self.ban(&sha256, &reason),
            Command::Unban(sha256) => self.unban(&sha256),
            Command::Bans { limit } => self.bans(limit),
            Command::Reports { limit } => self.reports(limit),
            Command::Totals => self.totals(),
        }
    }
}
