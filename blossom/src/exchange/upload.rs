//! `PUT /upload` (BUD-02), `PUT /<sha256>` (BUD-13), `HEAD /upload` (BUD-06) and `HEAD /media` (BUD-05).
//!
//! A token names the hashes of what may be uploaded, so that the hash is known before the bytes unless it names several and
//! there is no `X-SHA-256`. If a blob of a known hash is here and the uploader owns it, its descriptor is the response and the body
//! is not read. If only others own it, the body is read and hashed, and not stored; then the uploader is an owner too.

use relay_site::{BlossomRoute, Operation};

use super::payment::Price;
use super::request::{UploadHead, UploadHeaders, blob};
use super::response::Response;
use super::step::{Input, Step, StepError};
use super::storing::{Expected, Plan, Progress, Source, StoredBlob, Storing, StoringError, problem, wanted};
use super::{Context, Head, State, Transition};
use crate::index::{Command, Outcome, Wanted};
use crate::mime;
use crate::token::{TokenError, Verb};

/// An upload.
#[derive(Clone, Debug)]
pub(super) struct Upload {
    storing: Box<Storing>,
    /// Whether the request says what the hash is, and not only the token.
    is_declared: bool,
}

pub(super) fn begin(context: &Context<'_>, head: &Head) -> Transition {
    let (path, extension) = match head.route {
        BlossomRoute::PutBlob => {
            let (sha256, extension) = blob(head.param.as_deref())?;
            (Some(sha256), extension)
        }
        _ => (None, None),
    };
    let bytes_max = context.settings.blob_bytes_max;
    let upload = UploadHead::read(
        context,
        head,
        &UploadHeaders {
            length: "content-length",
            mime: "content-type",
            verb: Verb::Upload,
            operation: Operation::Upload,
            bytes_max,
            path,
        },
    )?;
    let known = upload.known();
    let is_declared = upload.sha256.is_some();
    let plan = Plan {
        owner: upload.token.pubkey.to_string(),
        source: Source::Body,
        expected: Expected::new(known, upload.token.hashes),
        length: Some(upload.length),
        bytes_max,
        key_bytes_max: context.settings.key_bytes_max,
        mime: upload.mime,
        extension: extension.map(str::to_owned),
        media: None,
        pull: None,
        price: upload.price,
        must_be_here: false,
    };
    let (storing, step) = Storing::begin(context, plan);
    Ok((State::Upload(Upload { storing, is_declared }), step))
}

impl Upload {
    pub(super) fn resume(self, context: &Context<'_>, input: Input) -> Transition {
        let is_declared = self.is_declared;
        match self.storing.resume(context, input) {
            Progress::Step(storing, step) => Ok((State::Upload(Upload { storing, is_declared }), step)),
            Progress::End(end) => Err(match end {
                Ok(kept) => kept.response(context),
                // The token does not fit the bytes; whoever signs another one may upload them.
                Err(StoringError::Failed(StepError::WrongHash)) if !is_declared => {
                    TokenError::OtherHash.into()
                }
                Err(problem) => problem.into(),
            }),
        }
    }
}

impl StoredBlob {
    /// 201 or 200, with the descriptor.
    pub(super) fn response(&self, context: &Context<'_>) -> Response {
        match self {
            StoredBlob::Created(blob) => Response::descriptor(201, context.base_url, blob),
            StoredBlob::Existing(blob) => Response::descriptor(200, context.base_url, blob),
        }
    }
}

/// `HEAD /upload` and `HEAD /media`: whether an upload would be accepted, and what it costs.
#[derive(Clone, Debug)]
pub(super) struct Check {
    price: Option<Price>,
    /// Whether an upload of a blob that is here costs nothing.
    is_free_if_here: bool,
}

pub(super) fn check(context: &Context<'_>, head: &Head) -> Transition {
    let settings = context.settings;
    let (verb, operation, bytes_max) = match head.route {
        BlossomRoute::CheckMedia => (Verb::Media, Operation::Media, settings.media_bytes_max),
        _ => (Verb::Upload, Operation::Upload, settings.blob_bytes_max),
    };
    let upload = UploadHead::read(
        context,
        head,
        &UploadHeaders {
            length: "x-content-length",
            mime: "x-content-type",
            verb,
            operation,
            bytes_max,
            path: None,
        },
    )?;
    if verb == Verb::Media {
        super::media::may_be_processed(context, upload.mime.as_deref())?;
    }
    let known = upload.known();
    let owner = upload.token.pubkey.to_string();
    let mime = upload.mime.unwrap_or_else(|| mime::UNKNOWN.to_owned());
    let wanted = wanted(context, owner, known, upload.length, mime);
    let wanted = Wanted { must_be_paid: upload.price.is_some(), ..wanted };
    let check = Check { price: upload.price, is_free_if_here: verb == Verb::Upload };
    Ok((State::Check(check), Step::Ask(Command::Check(wanted))))
}

impl Check {
    pub(super) fn resume(self, input: Input) -> Transition {
        Err(match input {
            Input::Answered(Outcome::Exists(_)) if self.is_free_if_here => Response::empty(200),
            Input::Answered(Outcome::Accepted | Outcome::Exists(_)) => match &self.price {
                Some(price) => return Ok((State::Invoice, price.quote())),
                None => Response::empty(200),
            },
            other => problem(other).into(),
        })
    }
}
