//! Responses that follow the log of an agent.

use std::rc::Rc;

use futures_channel::mpsc;
use futures_util::StreamExt;
use relay_agent::api::{FOLLOWERS_MAX, Follower, too_many_followers};
use relay_site::HttpResponse;
use worker::{Error, Headers, Response, Result};

use super::super::entry::response;
use super::super::sql::DurableSql;
use super::{Runtime, Shared, now};
use crate::agent::AgentObject;

/// Pieces of a log that wait for a reader.
const PIECES_WAITING: usize = 4;

/// A response with a log, which goes on while its client reads.
pub(super) struct LogStream {
    lines: mpsc::Sender<Vec<u8>>,
    follower: Follower,
}

impl Shared {
    /// Answers with the log, and what is added to it. `first` is the answer to a request that does not follow.
    pub(super) fn follow(self: &Rc<Self>, first: &HttpResponse, follower: Follower) -> Result<Response> {
        let (lines, received) = mpsc::channel(PIECES_WAITING);
        {
            let mut followers = self
                .followers
                .try_borrow_mut()
                .map_err(|_| Error::RustError("internal error: the followers are busy; try again".into()))?;
            followers.retain(|following| !following.lines.is_closed());
            if followers.len() >= FOLLOWERS_MAX {
                return response(too_many_followers());
            }
            followers.push(LogStream { lines, follower });
        }
        self.report(|_| ());
        let response = Response::from_stream(received.map(Ok::<Vec<u8>, Error>))?;
        let headers = Headers::new();
        for (name, value) in &first.headers {
            headers.append(name, value)?;
        }
        Ok(response.with_headers(headers))
    }

    /// Sends the new lines of the log to those who follow it.
    pub(super) fn tell_followers(&self, agent: &AgentObject<DurableSql, Runtime>) {
        let Ok(mut followers) = self.followers.try_borrow_mut() else { return };
        let now = now();
        followers.retain_mut(|LogStream { lines, follower }| {
            let Some(piece) = follower.read(now, agent.agent()) else { return false };
            if piece.text.is_empty() {
                return !lines.is_closed();
            }
            match lines.try_send(piece.text.clone().into_bytes()) {
                Ok(()) => follower.sent(now, &piece),
                // It reads slowly, and is sent these lines later.
                Err(error) if error.is_full() => {}
                Err(_) => return false,
            }
            true
        });
    }
}
