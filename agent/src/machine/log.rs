//! The agent's log: what its owner should know. Jobs that go well are in the history and not in it.

use relay_engine::sql::SqlConn;
use relay_engine::types::{EventId, Now};

use super::Agent;
use crate::store;

/// Longest line, in characters.
const LINE_CHARS_MAX: usize = 1_000;

impl<C: SqlConn> Agent<C> {
    /// Adds a line.
    pub(super) fn log(&mut self, now: Now, job: Option<EventId>, message: impl AsRef<str>) {
        self.last_line += 1;
        let message: String = message.as_ref().chars().take(LINE_CHARS_MAX).collect();
        store::put_line(&mut self.batch, self.last_line, now.millis(), job, &message);
    }
}
