//! `GET /list/<pubkey>` (BUD-12).

use relay_engine::types::PubKey;
use url::form_urlencoded;

use super::request::{number, token};
use super::response::Response;
use super::step::{Input, Step};
use super::storing::problem;
use super::{Context, Head, State, Transition};
use crate::descriptor::Descriptor;
use crate::index::{Command, Outcome};
use crate::token::Verb;

/// Most blobs in a list, and how many there are without `limit`: clients that know nothing of pages get all that fits in one.
pub(super) const LIMIT_MAX: u32 = 1_000;

/// The latest time that the index knows; JavaScript's numbers are exact up to here.
pub(super) const SECONDS_MAX: u64 = (1 << 53) - 1;

/// A list.
#[derive(Clone, Debug)]
pub(super) struct List;

pub(super) fn begin(context: &Context<'_>, head: &Head) -> Transition {
    let pubkey = pubkey(head.param.as_deref().unwrap_or_default(), "the path")?;
    let command = command(head, Some(pubkey.to_string()))?;
    if !context.settings.list_public {
        let token = token(context, head, Verb::List)?;
        if token.pubkey != pubkey && !context.keys.admins.contains(&token.pubkey) {
            return Err(Response::error(403, "only the key itself may list its blobs here"));
        }
    }
    Ok((State::List(List), Step::Ask(command)))
}

impl List {
    pub(super) fn resume(self, context: &Context<'_>, input: Input) -> Transition {
        Err(match input {
            Input::Answered(Outcome::Blobs(blobs)) => {
                let described = |blob| Descriptor::new(context.base_url, blob);
                Response::json(200, &blobs.iter().map(described).collect::<Vec<_>>())
            }
            Input::Answered(Outcome::Missing) => no_such_cursor(),
            other => problem(other).into(),
        })
    }
}

/// The cursor is not, or not any more, a blob of the list.
pub(super) fn no_such_cursor() -> Response {
    Response::error(400, "cursor: this blob is not in the list, so begin again without a cursor")
}

/// A public key in hexadecimal.
///
/// # Errors
/// 400.
pub(super) fn pubkey(text: &str, place: &str) -> Result<PubKey, Response> {
    PubKey::from_hex(text.as_bytes()).map_err(|_| {
        Response::error(400, &format!("{place}: a public key is 64 lowercase hexadecimal digits"))
    })
}

/// The part of a list that the query asks for. Unknown parameters are ignored.
///
/// # Errors
/// 400 for malformed values.
pub(super) fn command(head: &Head, owner: Option<String>) -> Result<Command, Response> {
    let (mut cursor, mut limit, mut since, mut until) = (None, LIMIT_MAX, None, None);
    for (name, value) in form_urlencoded::parse(head.query().as_bytes()) {
        let time = || {
            number(&value)
                .ok_or_else(|| Response::error(400, &format!("{name} must be a time in Unix seconds")))
        };
        match &*name {
            "cursor" => {
                let hash = value.parse().map_err(|error| Response::error(400, &format!("cursor {error}")))?;
                cursor = Some(hash);
            }
            "limit" => limit = read_limit(&value)?,
            "since" => since = Some(time()?),
            "until" => until = Some(time()?),
            _ => {}
        }
    }
    Ok(Command::List { owner, cursor, limit, since, until })
}

/// A limit; more than [`LIMIT_MAX`] is lowered to that.
///
/// # Errors
/// 400.
pub(super) fn read_limit(value: &str) -> Result<u32, Response> {
    match number(value) {
        Some(limit) if limit > 0 => Ok(limit.min(u64::from(LIMIT_MAX)) as u32),
        _ => Err(Response::error(400, "limit must be a number of blobs, at least 1")),
    }
}
