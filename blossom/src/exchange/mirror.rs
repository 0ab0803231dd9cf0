//! `PUT /mirror` (BUD-04): a blob is fetched from another server. The token for the upload there is the token here.

use bytes::Bytes;
use serde::Deserialize;
use url::Url;

use super::request::{PaymentCheck, may_upload, token};
use super::response::Response;
use super::step::{Input, Step, StepError};
use super::storing::{Expected, Plan, Progress, Source, Storing, StoringError, problem};
use super::{Context, Head, State, Transition};
use crate::blob::Sha256;
use crate::payment::Operation;
use crate::token::{Token, TokenError, Verb};

/// Longest body, in bytes.
const BODY_BYTES_MAX: u64 = 16 << 10;

/// A mirroring.
#[derive(Clone, Debug)]
pub(super) enum Mirror {
    Read(Token, PaymentCheck),
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
    let price = PaymentCheck::new(head, Operation::Mirror, 0, token.only_hash(), Some(token.pubkey));
    Ok((State::Mirror(Mirror::Read(token, price)), Step::Read { bytes_max: BODY_BYTES_MAX }))
}

impl Mirror {
    pub(super) fn resume(self, context: &Context<'_>, input: Input) -> Transition {
        match self {
            Mirror::Read(token, price) => match input {
                Input::Body(body) => fetch(context, token, price, &body),
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

fn fetch(context: &Context<'_>, token: Token, price: PaymentCheck, body: &Bytes) -> Transition {
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
    // Of several hashes in the token it is the one in the URL, if it is there.
    let in_url = stem.parse::<Sha256>().ok().filter(|hash| token.hashes.contains(hash));
    let known = token.only_hash().or(in_url);
    let plan = Plan {
        owner: token.pubkey.to_string(),
        source: Source::Fetch(vec![url.into()]),
        expected: Expected::new(known, token.hashes),
        length: None,
        bytes_max: context.settings.blob_bytes_max,
        key_bytes_max: context.settings.key_bytes_max,
        mime: None,
        extension,
        media: None,
        pull: None,
        price: Some(price),
    };
    let (storing, step) = Storing::begin(context, plan);
    Ok((State::Mirror(Mirror::Store(storing)), step))
}
