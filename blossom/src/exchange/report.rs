//! `PUT /report` (BUD-09): the body is a signed event of kind 1984 (NIP-56) with the hashes of blobs in `x` tags.

use bytes::Bytes;
use relay_engine::types::{Event, unescape};
use relay_site::authorization::AuthEvent;

use super::response::Response;
use super::step::{Input, Step};
use super::storing::problem;
use super::{Context, State, Transition};
use crate::blob::Sha256;
use crate::index::{Command, Outcome, RelayEvent};

/// Longest body, in bytes.
const BODY_BYTES_MAX: u64 = 128 << 10;

/// Most seconds between a report and its event, so that nobody sends all reports of the past again.
const AGE_MAX: u64 = 86_400;

/// The kind of reports.
const KIND: u16 = 1_984;

/// A report.
#[derive(Clone, Debug)]
pub(super) enum Report {
    Read,
    Ask,
}

pub(super) fn begin() -> Transition {
    Ok((State::Report(Report::Read), Step::Read { bytes_max: BODY_BYTES_MAX }))
}

impl Report {
    pub(super) fn resume(self, context: &Context<'_>, input: Input) -> Transition {
        match (self, input) {
            (Report::Read, Input::Body(body)) => {
                let event = read(context, &body)?;
                Ok((State::Report(Report::Ask), Step::Ask(Command::Report(event))))
            }
            (Report::Ask, Input::Answered(Outcome::Done)) => Err(Response::empty(204)),
            (Report::Ask, Input::Answered(Outcome::Missing)) => {
                Err(Response::error(404, "none of these blobs is here"))
            }
            (_, other) => Err(problem(other).into()),
        }
    }
}

fn read(context: &Context<'_>, body: &Bytes) -> Result<RelayEvent, Response> {
    let bad = |message| Response::error(400, message);
    let signed = AuthEvent::parse(body).map_err(|_| bad("the body is not an event"))?;
    let event = &signed.event;
    if event.kind != KIND {
        return Err(bad("a report is an event of kind 1984"));
    }
    if event.created_at.abs_diff(context.now) > AGE_MAX {
        return Err(bad("created_at of a report must be within a day"));
    }
    let mut hashes = event.tags().named(b"x").map(|tag| tag.value()).peekable();
    if hashes.peek().is_none() {
        return Err(bad("a report has x tags with the hashes of blobs"));
    }
    let is_hash = |text: &[u8]| std::str::from_utf8(text).is_ok_and(|text| text.parse::<Sha256>().is_ok());
    if !hashes.all(|hash| hash.is_some_and(|hash| is_hash(&hash))) {
        return Err(bad("an x tag is not a SHA-256 as 64 lowercase hexadecimal digits"));
    }
    if !signed.is_authentic(context.verifier) {
        return Err(bad("the event's id or signature is wrong"));
    }
    if context.keys.denied.contains(&event.pubkey) {
        return Err(Response::error(403, "this key may not report here"));
    }
    Ok(RelayEvent::from(event))
}

impl From<&Event> for RelayEvent {
    fn from(event: &Event) -> Self {
        let text = |raw: &[u8]| String::from_utf8_lossy(&unescape(raw)).into_owned();
        RelayEvent {
            id: event.id.to_string(),
            pubkey: event.pubkey.to_string(),
            kind: event.kind,
            created_at: event.created_at,
            tags: event.tags().map(|tag| tag.fields().map(text).collect()).collect(),
            content: text(event.view().raw_content()),
        }
    }
}
