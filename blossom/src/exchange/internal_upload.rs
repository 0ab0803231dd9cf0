//! An upload by the relay itself, for an agent: by the same rules as other uploads, but without a request. There is no
//! token, and the owner need not be one who may upload.

use bytes::Bytes;
use relay_engine::types::PubKey;
use sha2::{Digest as _, Sha256 as Hasher};

use super::Context;
use super::request::{fits, type_is_taken};
use super::response::Response;
use super::step::{Input, Step};
use super::storing::{Expected, Plan, Progress, Source, StoredBlob, Storing, StoringError};
use crate::blob::Sha256;
use crate::descriptor::Descriptor;
use crate::index::Refusal;
use crate::mime;

/// A blob on its way into the store.
#[derive(Clone, Debug)]
pub struct InternalUpload(Box<Storing>);

/// What a host does next.
#[derive(Clone, Debug)]
pub enum InternalUploadStep {
    /// Carry this out, which is never [`Step::Respond`], and go on with [`InternalUpload::resume`].
    Go(InternalUpload, Box<Step>),
    /// The blob is stored at this URL; or why it is not, in plain words.
    Done(Result<String, String>),
}

impl InternalUpload {
    /// Begins. Quotas, sizes, types, bans and `policy.deny_pubkeys` hold as for uploads.
    pub fn begin(context: &Context<'_>, owner: &PubKey, bytes: Bytes, declared: &str) -> InternalUploadStep {
        let sha256 = Sha256(Hasher::digest(&bytes).into());
        let length = bytes.len() as u64;
        let mime = mime::parse(declared).unwrap_or_else(|_| mime::UNKNOWN.to_owned());
        let checked = match context.keys.denied.contains(owner) {
            true => Err(Response::error(403, "this key may not store blobs here")),
            false => {
                fits(length, context.settings.blob_bytes_max).and_then(|()| type_is_taken(context, &mime))
            }
        };
        if let Err(response) = checked {
            return InternalUploadStep::Done(Err(reason(&response)));
        }
        let plan = Plan {
            owner: owner.to_string(),
            source: Source::Bytes(bytes),
            expected: Expected::Is(sha256),
            length: Some(length),
            bytes_max: context.settings.blob_bytes_max,
            key_bytes_max: context.settings.key_bytes_max,
            mime: Some(mime),
            extension: None,
            media: None,
            pull: None,
            price: None,
            must_be_here: false,
        };
        let (storing, step) = Storing::begin(context, plan);
        InternalUploadStep::Go(InternalUpload(storing), Box::new(step))
    }

    /// Goes on with what came of the last step.
    pub fn resume(self, context: &Context<'_>, input: Input) -> InternalUploadStep {
        match self.0.resume(context, input) {
            Progress::Step(storing, step) => InternalUploadStep::Go(InternalUpload(storing), Box::new(step)),
            Progress::End(Ok(StoredBlob::Created(blob) | StoredBlob::Existing(blob))) => {
                InternalUploadStep::Done(Ok(Descriptor::new(context.base_url, &blob).url))
            }
            Progress::End(Err(StoringError::Refused(Refusal::KeyQuota))) => {
                InternalUploadStep::Done(Err("storage quota exceeded".to_owned()))
            }
            Progress::End(Err(problem)) => InternalUploadStep::Done(Err(reason(&problem.into()))),
        }
    }
}

/// The message of an error.
fn reason(response: &Response) -> String {
    let reason = response.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-reason"));
    reason.map_or_else(|| format!("status {}", response.status), |(_, reason)| reason.to_string())
}
