//! The relay that serves a folder carries out what commands in other processes (`relay import`, `delete`, `sync`, `stream`, `router`) want to
//! change, where one process writes the folder (the store on files). They ask it through a socket in the folder.
//!
//! Whoever may open the socket may write the files too: the user of the relay, and root. So the relay takes their word that events are
//! verified, as it does if they write the database themselves (LMDB). What has another form than a request is refused.
//!
//! | module | role |
//! |---|---|
//! | `protocol` | requests and answers as bytes |
//! | `path` | the socket in a folder of any name |
//! | `listener` | the relay's side: requests go to the writer |
//! | `client` | the commands' side |

mod client;
mod listener;
mod path;
mod protocol;

use relay_engine::store::{self, Backend, Outcome, Reader, Seq, StoreError};
use relay_engine::types::Timestamp;
use tokio::sync::oneshot;

pub(crate) use client::Client;
pub(crate) use listener::{CommandSocket, listen};
pub(crate) use protocol::{Answer, Request};

/// What became of an event, and its number if it is stored now.
pub(crate) type Numbered = (Outcome, Option<Seq>);

/// A request that waits for the writer.
pub(crate) struct Waiting {
    pub(crate) request: Request,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// Carries out a request. What it may cost is bounded by what a request may have.
///
/// # Errors
/// The store's.
pub(crate) fn execute<B: Backend>(
    store: &B,
    now: Timestamp,
    request: &Request,
) -> Result<Answer, StoreError> {
    Ok(match request {
        Request::Commit(ops) => Answer::Committed(numbered(store, ops, store::commit(store, now, ops)?)?),
        Request::Remove(ids) => Answer::Removed(store::remove(store, ids)? as u64),
        Request::RemovePending => Answer::RemovedPending { more: store::remove_pending(store)?.more },
    })
}

/// Adds the numbers of the events that are stored.
///
/// # Errors
/// The store's.
pub(crate) fn numbered<B: Backend>(
    store: &B,
    ops: &[store::Op],
    outcomes: Vec<Outcome>,
) -> Result<Vec<Numbered>, StoreError> {
    let reader = outcomes.contains(&Outcome::Duplicate).then(|| store.reader()).transpose()?;
    let number = |(op, outcome): (&store::Op, Outcome)| {
        let seq = match (outcome, &reader) {
            (Outcome::Stored(seq), _) => Some(seq),
            (Outcome::Duplicate, Some(reader)) => reader.seq_of(&op.event().id)?,
            _ => None,
        };
        Ok((outcome, seq))
    };
    ops.iter().zip(outcomes).map(number).collect()
}
