//! `PUT /mirror` (BUD-04): a blob is fetched from another server. The token for the upload there is the token here. Where it costs
//! something, the origin is asked how long the blob is, before anything is asked for it; it may not be longer then.

use bytes::Bytes;
use relay_engine::types::PubKey;
use relay_site::Operation;
use serde::Deserialize;
use url::Url;

use super::payment::{Price, is_free, unknown_hash};
use super::request::{fits, may_upload, token, uploader};
use super::response::Response;
use super::step::{Input, Step, StepError};
use super::storing::{Expected, Plan, Progress, Source, Storing, StoringError, problem, wanted};
use super::{Context, Head, State, Transition};
use crate::blob::Sha256;
use crate::index::{Command, Outcome, Wanted};
use crate::mime;
use crate::token::{Token, TokenError, Verb};

/// Longest body, in bytes.
const BODY_BYTES_MAX: u64 = 16 << 10;

/// A mirroring.
#[derive(Clone, Debug)]
pub(super) enum Mirror {
    Read(Token),
    /// It may cost something: whether the blob is here.
    Check {
        plan: Box<Plan>,
        url: String,
        pubkey: PubKey,
    },
    /// How much it costs.
    Measure {
        plan: Box<Plan>,
        pubkey: PubKey,
    },
    Store(Box<Storing>),
}

#[derive(Deserialize)]
struct Body {
    url: String,
}

pub(super) fn begin(context: &Context<'_>, head: &Head) -> Transition {
    if !context.settings.mirror {
        return Err(Response::error(403, "this server does not fetch blobs from others"));
    }
    let token = token(context, head, Verb::Upload)?;
    if token.hashes.is_empty() {
        return Err(TokenError::NoHash.into());
    }
    may_upload(context, &token.pubkey)?;
    Ok((State::Mirror(Mirror::Read(token)), Step::Read { bytes_max: BODY_BYTES_MAX }))
}

impl Mirror {
    pub(super) fn resume(self, context: &Context<'_>, head: &Head, input: Input) -> Transition {
        match self {
            Mirror::Read(token) => match input {
                Input::Body(body) => fetch(context, token, &body),
                other => Err(problem(other).into()),
            },
            Mirror::Check { plan, url, pubkey } => match input {
                Input::Answered(Outcome::Accepted) => {
                    let uploader = uploader(context, &plan.owner);
                    Ok((State::Mirror(Mirror::Measure { plan, pubkey }), Step::Measure { url, uploader }))
                }
                Input::Answered(Outcome::Exists(_)) => {
                    Ok(store(context, Plan { must_be_here: true, ..*plan }))
                }
                other => Err(problem(other).into()),
            },
            Mirror::Measure { mut plan, pubkey } => match input {
                Input::Measured(size) => {
                    fits(size, plan.bytes_max)?;
                    let known = plan.expected.known();
                    plan.price = Price::of_upload(context, head, Operation::Upload, size, known, &pubkey)?;
                    // Also of what is free: the origin may send more than it has said.
                    (plan.length, plan.bytes_max) = (Some(size), size);
                    Ok(store(context, *plan))
                }
                other => Err(problem(other).into()),
            },
            Mirror::Store(storing) => match storing.resume(context, input) {
                Progress::Step(storing, step) => Ok((State::Mirror(Mirror::Store(storing)), step)),
                Progress::End(end) => Err(match end {
                    Ok(kept) => kept.response(context),
                    Err(StoringError::NotNamed | StoringError::Failed(StepError::WrongHash)) => {
                        Response::error(409, "the SHA-256 of the mirrored blob is not in the token's x tags")
                    }
                    Err(StoringError::Failed(StepError::Incomplete | StepError::Stalled)) => {
                        Response::error(502, "the origin's response ended early")
                    }
                    Err(problem) => problem.into(),
                }),
            },
        }
    }
}

fn fetch(context: &Context<'_>, token: Token, body: &Bytes) -> Transition {
    let Ok(Body { url }) = serde_json::from_slice(body) else {
        return Err(Response::error(400, "the body must be JSON: {\"url\": \"https://...\"}"));
    };
    let url = Url::parse(&url).map_err(|_| Response::error(400, "url is not a URL"))?;
    let is_right = match url.scheme() {
        "https" => true,
        "http" => context.settings.allow_private_addresses,
        _ => false,
    };
    if !is_right || url.host().is_none() {
        return Err(Response::error(400, "url must be an https URL"));
    }
    let name = url.path_segments().and_then(Iterator::last).unwrap_or_default().to_owned();
    let (stem, extension) = match name.split_once('.') {
        Some((stem, extension)) => (stem, Some(extension.to_owned())),
        None => (name.as_str(), None),
    };
    // If the token names several hashes, the one in the URL counts, if it is among them.
    let in_url = stem.parse::<Sha256>().ok().filter(|hash| token.hashes.contains(hash));
    let known = token.only_hash().or(in_url);
    let plan = Plan {
        owner: token.pubkey.to_string(),
        source: Source::Fetch(vec![url.clone().into()]),
        expected: Expected::new(known, token.hashes),
        length: None,
        bytes_max: context.settings.blob_bytes_max,
        key_bytes_max: context.settings.key_bytes_max,
        mime: None,
        extension,
        media: None,
        pull: None,
        price: None,
        must_be_here: false,
    };
    if !context.settings.payment.sells_uploads() || is_free(context, &token.pubkey) {
        return Ok(store(context, plan));
    }
    if known.is_none() {
        return Err(unknown_hash());
    }
    let wanted = wanted(context, plan.owner.clone(), known, 0, mime::UNKNOWN.to_owned());
    let wanted = Wanted { must_be_paid: true, ..wanted };
    let (plan, url, pubkey) = (Box::new(plan), url.into(), token.pubkey);
    Ok((State::Mirror(Mirror::Check { plan, url, pubkey }), Step::Ask(Command::Check(wanted))))
}

fn store(context: &Context<'_>, plan: Plan) -> (State, Step) {
    let (storing, step) = Storing::begin(context, plan);
    (State::Mirror(Mirror::Store(storing)), step)
}
