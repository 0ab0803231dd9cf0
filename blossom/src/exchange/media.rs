//! `PUT /media` (BUD-05): a picture is stored without its metadata, and with a thumbnail beside it. The original is in memory as a
//! whole and is not kept.

use bytes::Bytes;
use relay_site::Operation;
use sha2::{Digest, Sha256 as Hasher};

use super::payment::{self, Price};
use super::request::{UploadHead, UploadHeaders, type_is_taken};
use super::response::Response;
use super::step::{Input, Processed, Step, StepError};
use super::storing::{Expected, Plan, Progress, Source, StoredBlob, Storing, problem, wanted};
use super::{Context, Head, State, Transition};
use crate::blob::{Media, Sha256};
use crate::index::{Command, Outcome};
use crate::mime;
use crate::token::{TokenError, Verb};

/// A picture under way.
#[derive(Clone, Debug)]
pub(super) struct MediaUpload {
    head: UploadHead,
    stage: Stage,
}

#[derive(Clone, Debug)]
enum Stage {
    /// Whether it would be accepted; nothing of the body is read before.
    Check,
    Read,
    /// [`Stage::Check`] again with the hash of the bytes, if neither the request nor the token named one hash.
    CheckHash {
        bytes: Bytes,
        original: Sha256,
        mime: String,
    },
    /// The proof of payment is checked.
    Pay {
        bytes: Bytes,
        original: Sha256,
        mime: String,
    },
    Process {
        original: Sha256,
    },
    Thumbnail {
        storing: Box<Storing>,
        picture: Picture,
    },
    Store {
        storing: Box<Storing>,
        /// The thumbnail, if it is new.
        thumbnail: Option<Sha256>,
        /// What is known of this upload.
        media: Media,
    },
    /// The picture is stored, and the proof of payment is spent.
    Spend {
        response: Response,
        /// See [`Stage::Clean`].
        unused: Option<Sha256>,
    },
    /// The thumbnail belongs to no picture and is being deleted.
    Clean(Response),
}

/// The stripped picture.
#[derive(Clone, Debug)]
struct Picture {
    bytes: Bytes,
    mime: String,
    media: Media,
}

/// Whether `/media` does anything here, and with this type.
///
/// # Errors
/// 422 where the host cannot process pictures; 415.
pub(super) fn may_be_processed(context: &Context<'_>, mime: Option<&str>) -> Result<(), Response> {
    if !context.processes_media {
        return Err(unsupported());
    }
    let Some(mime) = mime else { return Ok(()) };
    match mime::fits("image/*", mime) || mime::essence(mime) == mime::UNKNOWN {
        true => Ok(()),
        false => Err(Response::error(415, "/media takes pictures only; /upload stores files as they are")),
    }
}

/// This host has no means for it; the picture may well be good.
fn unsupported() -> Response {
    Response::error(422, "this server cannot process such pictures; /upload takes them as they are")
}

pub(super) fn begin(context: &Context<'_>, head: &Head) -> Transition {
    let by = UploadHeaders {
        length: "content-length",
        mime: "content-type",
        verb: Verb::Media,
        operation: Operation::Media,
        bytes_max: context.settings.media_bytes_max,
        path: None,
    };
    let upload = UploadHead::read(context, head, &by)?;
    may_be_processed(context, upload.mime.as_deref())?;
    let upload = Box::new(MediaUpload { head: upload, stage: Stage::Check });
    let command = upload.check(context, upload.head.known());
    Ok((State::Media(upload), Step::Ask(command)))
}

impl MediaUpload {
    pub(super) fn resume(mut self: Box<Self>, context: &Context<'_>, input: Input) -> Transition {
        match std::mem::replace(&mut self.stage, Stage::Read) {
            Stage::Check => match input {
                Input::Answered(Outcome::Accepted | Outcome::Exists(_)) => {
                    if let Some(price) = self.head.price.as_ref().filter(|price| !price.has_proof()) {
                        return Ok((State::Invoice, price.quote()));
                    }
                    let bytes_max = self.head.length;
                    self.at(Stage::Read, Step::Read { bytes_max })
                }
                other => Err(problem(other).into()),
            },
            Stage::Read => match input {
                Input::Body(bytes) => self.read(context, bytes),
                other => Err(problem(other).into()),
            },
            Stage::CheckHash { bytes, original, mime } => match input {
                Input::Answered(Outcome::Accepted | Outcome::Exists(_)) => {
                    self.process(original, bytes, mime)
                }
                other => Err(problem(other).into()),
            },
            Stage::Pay { bytes, original, mime } => {
                payment::paid(input)?;
                self.at(Stage::Process { original }, Step::Process { bytes, mime })
            }
            Stage::Process { original } => match input {
                Input::Processed(processed) => self.processed(context, original, processed),
                Input::Failed(StepError::Unsupported) => Err(unsupported()),
                other => Err(problem(other).into()),
            },
            Stage::Thumbnail { storing, mut picture } => match storing.resume(context, input) {
                Progress::Step(storing, step) => self.at(Stage::Thumbnail { storing, picture }, step),
                Progress::End(end) => {
                    // If the thumbnail cannot be stored, the picture is stored without one.
                    let (named, new) = match end {
                        Ok(StoredBlob::Created(blob)) => (Some(blob.sha256), Some(blob.sha256)),
                        Ok(StoredBlob::Existing(blob)) => (Some(blob.sha256), None),
                        Err(_) => (None, None),
                    };
                    picture.media.thumbnail = named;
                    self.store(context, picture, new)
                }
            },
            Stage::Store { storing, thumbnail, media } => match storing.resume(context, input) {
                Progress::Step(storing, step) => self.at(Stage::Store { storing, thumbnail, media }, step),
                Progress::End(end) => {
                    let named = match &end {
                        Ok(StoredBlob::Created(blob) | StoredBlob::Existing(blob)) => {
                            blob.media.as_ref().and_then(|media| media.thumbnail)
                        }
                        Err(_) => None,
                    };
                    let unused = thumbnail.filter(|thumbnail| named != Some(*thumbnail));
                    match (end, self.head.price.as_ref().map(Price::spend)) {
                        (Ok(kept), Some(step)) => {
                            let response = kept.of_original(&media).response(context);
                            self.at(Stage::Spend { response, unused }, step)
                        }
                        (Ok(kept), None) => self.clean(kept.of_original(&media).response(context), unused),
                        (Err(problem), _) => self.clean(problem.into(), unused),
                    }
                }
            },
            // The outcome does not matter: the picture is stored, and the proof is good for no other one.
            Stage::Spend { response, unused } => self.clean(response, unused),
            // If it has not worked, it stays: a blob of the uploader.
            Stage::Clean(response) => Err(response),
        }
    }

    fn at(mut self: Box<Self>, stage: Stage, step: Step) -> Transition {
        self.stage = stage;
        Ok((State::Media(self), step))
    }

    /// The response, once a thumbnail that belongs to no picture is deleted.
    fn clean(self: Box<Self>, response: Response, unused: Option<Sha256>) -> Transition {
        let Some(sha256) = unused else { return Err(response) };
        let owner = Some(self.head.token.pubkey.to_string());
        self.at(Stage::Clean(response), Step::Ask(Command::Delete { sha256, owner }))
    }

    fn check(&self, context: &Context<'_>, sha256: Option<Sha256>) -> Command {
        let mime = self.head.mime.clone().unwrap_or_else(|| mime::UNKNOWN.to_owned());
        let owner = self.head.token.pubkey.to_string();
        Command::Check(wanted(context, owner, sha256, self.head.length, mime))
    }

    fn read(self: Box<Self>, context: &Context<'_>, bytes: Bytes) -> Transition {
        let original = hash(&bytes);
        match self.head.sha256 {
            Some(declared) if declared != original => return Err(StepError::WrongHash.into()),
            _ => self.head.token.names(&original).map_err(|_| Response::from(TokenError::OtherHash))?,
        }
        let declared = self.head.mime.as_deref().filter(|mime| mime::essence(mime) != mime::UNKNOWN);
        let mime = declared.or_else(|| mime::sniff(&bytes)).unwrap_or(mime::UNKNOWN).to_owned();
        type_is_taken(context, &mime)?;
        if self.head.known().is_some() {
            return self.process(original, bytes, mime);
        }
        let command = self.check(context, Some(original));
        self.at(Stage::CheckHash { bytes, original, mime }, Step::Ask(command))
    }

    fn process(self: Box<Self>, original: Sha256, bytes: Bytes, mime: String) -> Transition {
        if let Some(step) = self.head.price.as_ref().map(Price::check) {
            return self.at(Stage::Pay { bytes, original, mime }, step);
        }
        self.at(Stage::Process { original }, Step::Process { bytes, mime })
    }

    fn processed(
        self: Box<Self>,
        context: &Context<'_>,
        original: Sha256,
        processed: Processed,
    ) -> Transition {
        let Processed { bytes, mime, media, thumbnail } = processed;
        // The bytes may tell another type than was declared.
        type_is_taken(context, &mime)?;
        let picture = Picture { bytes, mime, media: Media { original, thumbnail: None, ..media } };
        match thumbnail {
            Some((bytes, mime)) => {
                let plan = self.plan(context, bytes, mime, None);
                let (storing, step) = Storing::begin(context, plan);
                self.at(Stage::Thumbnail { storing, picture }, step)
            }
            None => self.store(context, picture, None),
        }
    }

    fn store(
        self: Box<Self>,
        context: &Context<'_>,
        picture: Picture,
        thumbnail: Option<Sha256>,
    ) -> Transition {
        let Picture { bytes, mime, media } = picture;
        let plan = self.plan(context, bytes, mime, Some(media.clone()));
        let (storing, step) = Storing::begin(context, plan);
        self.at(Stage::Store { storing, thumbnail, media }, step)
    }

    fn plan(&self, context: &Context<'_>, bytes: Bytes, mime: String, media: Option<Media>) -> Plan {
        let length = bytes.len() as u64;
        Plan {
            owner: self.head.token.pubkey.to_string(),
            expected: Expected::Is(hash(&bytes)),
            source: Source::Bytes(bytes),
            length: Some(length),
            bytes_max: length,
            key_bytes_max: context.settings.key_bytes_max,
            mime: Some(mime),
            extension: None,
            media,
            pull: None,
            price: None,
            must_be_here: false,
        }
    }
}

fn hash(bytes: &[u8]) -> Sha256 {
    Sha256(Hasher::digest(bytes).into())
}
