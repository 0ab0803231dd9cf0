//! `DELETE /<sha256>` (BUD-12): removes an owner of a blob. A blob is deleted with its last owner.

use super::request::{blob, token};
use super::response::Response;
use super::step::{Input, Step};
use super::storing::problem;
use super::{Context, Head, State, Transition};
use crate::index::{Command, Outcome};
use crate::token::Verb;

/// A deletion.
#[derive(Clone, Debug)]
pub(super) struct Delete;

pub(super) fn begin(context: &Context<'_>, head: &Head) -> Transition {
    let (sha256, _) = blob(head.param.as_deref())?;
    let token = token(context, head, Verb::Delete)?;
    // The path says which blob; further `x` tags are no request to delete others.
    token.names(&sha256)?;
    let command = Command::Delete { sha256, owner: Some(token.pubkey.to_string()) };
    Ok((State::Delete(Delete), Step::Ask(command)))
}

impl Delete {
    pub(super) fn resume(self, input: Input) -> Transition {
        Err(match input {
            Input::Answered(Outcome::Deleted) => Response::empty(204),
            Input::Answered(Outcome::Missing) => Response::error(404, "not found"),
            other => problem(other).into(),
        })
    }
}
