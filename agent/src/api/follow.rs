//! Following a log (`?follow=1`): what the streamed response contains next, and when it ends. Hosts only transmit it.

use relay_engine::sql::SqlConn;
use relay_engine::types::Now;
use relay_site::{AgentRoute, HttpResponse};

use super::access::{self, Caller};
use super::agent::{entry, logs_after};
use super::{FOLLOWERS_MAX, Request};
use crate::machine::Agent;

/// Milliseconds after which the response ends; the client asks again, from its last line.
const MILLIS_MAX: u64 = 86_400_000;
/// Milliseconds of silence after which an empty line shows whether the client is still there.
const SILENT_MILLIS: u64 = 15_000;
/// Lines of a piece.
const LINES_MAX: u64 = 500;

/// One reader of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follower {
    caller: Caller,
    /// The last line that it was sent.
    last: u64,
    sent_at: Now,
    ends_at: Now,
}

/// What a [`Follower`] is sent next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// JSON lines, or an empty one. Without text there is nothing to send now.
    pub text: String,
    last: u64,
}

impl Follower {
    /// The reader of a log, if the request asks to follow one (`?follow=1`) after a line (`&after=`). [`agent`](super::agent) must
    /// have let it in.
    pub fn of(request: &Request<'_>, now: Now) -> Option<Self> {
        let is_one =
            request.route == AgentRoute::Logs && request.query_value("follow").as_deref() == Some("1");
        is_one.then(|| Follower {
            caller: request.caller,
            last: request.query_number("after").ok().flatten().unwrap_or_default(),
            sent_at: now,
            ends_at: now.plus_millis(MILLIS_MAX),
        })
    }

    /// What is sent next. `None`: the response ends, because the agent has been deleted, its log is not this reader's any more,
    /// or the time is over.
    pub fn read<C: SqlConn>(&self, now: Now, agent: &Agent<C>) -> Option<Piece> {
        let entry = entry(agent)?;
        access::check(AgentRoute::Logs, None, self.caller, &entry).ok()?;
        if now >= self.ends_at {
            return None;
        }
        // What cannot be read now is read later.
        let (mut text, last) =
            logs_after(agent, self.last, LINES_MAX).unwrap_or_else(|_| (String::new(), self.last));
        if text.is_empty() && now.millis_since(self.sent_at) >= SILENT_MILLIS {
            text.push('\n');
        }
        Some(Piece { text, last })
    }

    /// A piece is on its way.
    pub fn sent(&mut self, now: Now, piece: &Piece) {
        (self.last, self.sent_at) = (piece.last, now);
    }
}

/// The response to one reader too many.
pub fn too_many_followers() -> HttpResponse {
    HttpResponse::error(429, &format!("this log is followed {FOLLOWERS_MAX} times already"))
}
