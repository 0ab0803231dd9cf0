//! `PATCH /<sha256>` (BUD-14): a blob comes in parts, in any order, also at the same time, and again where a connection broke. The request
//! with the last part joins all of them, and its response is that of a `PUT`. The price is that of a `PUT`, by the size of the blob: the request
//! with the first part pays it, and the owner's other parts are free. The proof of payment is checked before the index is told of the part, and
//! the index keeps it for this upload alone. The request with the last part spends it before the blob is stored.

use relay_site::{Operation, PaymentOutcome, Purchase};

use super::payment::{self, Price};
use super::request::{blob, declared_type, fits, length, may_upload, number, token, type_is_taken};
use super::response::Response;
use super::step::{Input, Receive, Received, Step, StepError};
use super::storing::{
    StoredBlob, StoringError, bytes_are_taken, commit, missing_type, problem, receive, wanted,
};
use super::{Context, Head, State, Transition};
use crate::blob::{Blob, Sha256};
use crate::index::{Command, Commit, Key, Outcome, Part, PartHead, Refusal, Wanted};
use crate::mime;
use crate::token::Verb;

/// A part under way.
#[derive(Clone, Debug)]
pub(super) struct Patch {
    owner: String,
    sha256: Sha256,
    /// Bytes of the blob.
    total: u64,
    /// Its type.
    mime: String,
    part: PartHead,
    price: Option<Price>,
    stage: Stage,
}

#[derive(Clone, Debug)]
enum Stage {
    /// It costs something: the index is asked whether it is paid, or else whether the part would be accepted.
    Quote(Wanted),
    /// The proof of payment is checked.
    Pay(Wanted),
    Begin(Wanted),
    Receive {
        upload: u64,
        key: Key,
    },
    FinishPart {
        upload: u64,
        key: Key,
    },
    /// The index is asked whether others have completed the blob.
    Look,
    /// The blob is here, and its owner says of what type it is.
    SetObjectType(Blob),
    SetMime(Blob),
    /// `payment`: the proof that its upload is paid.
    Join {
        upload: u64,
        payment: Option<String>,
    },
    /// All bytes are there, and the proof of payment is spent.
    Spend(Commit),
    Finish {
        upload: u64,
    },
    /// The part or the joining is given up.
    Clean(StoringError),
}

/// All parts of a blob, to be joined.
struct Pieces {
    upload: u64,
    key: Key,
    parts: Vec<Part>,
    only_hash: bool,
    payment: Option<String>,
}

pub(super) fn begin(context: &Context<'_>, head: &Head) -> Transition {
    let (sha256, _) = blob(head.param.as_deref())?;
    let bytes_max = context.settings.blob_bytes_max;
    let of_part = length(head, "content-length", bytes_max)?;
    let required = |name: &str| {
        let value = head.header(name).and_then(number);
        value.ok_or_else(|| Response::error(400, &format!("{name} is required, a number of bytes")))
    };
    let (total, offset) = (required("upload-length")?, required("upload-offset")?);
    let content_type = declared_type(head, "content-type")?;
    if content_type.as_deref().map(mime::essence) != Some(mime::UNKNOWN) {
        return Err(Response::error(400, "content-type of a part must be application/octet-stream"));
    }
    let Some(mime) = declared_type(head, "upload-type")? else {
        return Err(Response::error(400, "upload-type is required, the type of the blob"));
    };
    fits(total, bytes_max)?;
    if offset.checked_add(of_part).is_none_or(|end| end > total) {
        return Err(Response::error(416, "the part does not lie within upload-length"));
    }
    if of_part == 0 && total > 0 {
        return Err(Response::error(400, "the part is empty"));
    }
    let token = token(context, head, Verb::Upload)?;
    token.names(&sha256)?;
    may_upload(context, &token.pubkey)?;
    type_is_taken(context, &mime)?;
    let price = Price::of_upload(context, head, Operation::Upload, total, Some(sha256), &token.pubkey)?;
    let mut wanted = wanted(context, token.pubkey.to_string(), Some(sha256), total, mime.clone());
    wanted.abandoned_at = context.now.saturating_add(context.settings.parts_seconds.into());
    let part = PartHead { offset, length: of_part };
    wanted.must_be_paid = price.is_some();
    let (stage, command) = match &price {
        None => (Stage::Begin(wanted.clone()), Command::BeginPart(wanted, part)),
        Some(_) => (Stage::Quote(wanted.clone()), Command::CheckPart(wanted)),
    };
    let owner = token.pubkey.to_string();
    let patch = Patch { owner, sha256, total, mime, part, price, stage };
    Ok((State::Part(Box::new(patch)), Step::Ask(command)))
}

impl Patch {
    pub(super) fn resume(mut self: Box<Self>, context: &Context<'_>, input: Input) -> Transition {
        match std::mem::replace(&mut self.stage, Stage::Look) {
            Stage::Quote(wanted) => match input {
                Input::Answered(Outcome::Accepted) => self.pay(wanted),
                Input::Answered(Outcome::Done | Outcome::Exists(_)) => self.begin(wanted),
                other => Err(problem(other).into()),
            },
            Stage::Pay(wanted) => {
                payment::paid(input)?;
                let proof = self.price.as_ref().and_then(Price::proof).map(str::to_owned);
                self.begin(Wanted { proof, ..wanted })
            }
            Stage::Begin(wanted) => match input {
                Input::Answered(Outcome::Refused(Refusal::Unpaid)) => match &wanted.proof {
                    // When it was checked it was paid for or here, and is not any more.
                    None => self.pay(wanted),
                    Some(_) => Err(Response::error(
                        400,
                        "this payment is in use for another upload in parts; ask for a new invoice by a request without X-Lightning",
                    )),
                },
                Input::Answered(Outcome::Begun { upload, key }) => self.receive(context, upload, key),
                Input::Answered(Outcome::Exists(blob)) => match missing_type(&blob, &self.mime) {
                    Some(mime) => {
                        let step = Step::SetObjectType { sha256: self.sha256, mime };
                        self.at(Stage::SetObjectType(blob), step)
                    }
                    None => Err(StoredBlob::Existing(blob).response(context)),
                },
                // Its bytes are here already.
                Input::Answered(Outcome::Accepted) => Err(Response::empty(204)),
                Input::Answered(Outcome::Complete { upload, key, parts, blob_exists, payment }) => {
                    let pieces = Pieces { upload, key, parts, only_hash: blob_exists, payment };
                    self.join(context, pieces)
                }
                other => Err(problem(other).into()),
            },
            Stage::SetObjectType(blob) => match input {
                Input::Done => {
                    let (sha256, owner, mime) = (self.sha256, self.owner.clone(), self.mime.clone());
                    self.at(Stage::SetMime(blob), Step::Ask(Command::SetMime { sha256, owner, mime }))
                }
                _ => Err(StoredBlob::Existing(blob).response(context)),
            },
            Stage::SetMime(old) => {
                let blob = match input {
                    Input::Answered(Outcome::Exists(blob)) => blob,
                    _ => old,
                };
                Err(StoredBlob::Existing(blob).response(context))
            }
            Stage::Receive { upload, key } => match input {
                Input::Received(Received { size, .. }) if size == self.part.length => {
                    let command = Command::FinishPart { upload, key: key.clone() };
                    self.at(Stage::FinishPart { upload, key }, Step::Ask(command))
                }
                other => self.give_up(Command::AbortPart { upload, key }, problem(other)),
            },
            Stage::FinishPart { upload, key } => match input {
                Input::Answered(Outcome::Accepted) => Err(Response::empty(204)),
                Input::Answered(Outcome::Complete { upload, key, parts, blob_exists, payment }) => {
                    let pieces = Pieces { upload, key, parts, only_hash: blob_exists, payment };
                    self.join(context, pieces)
                }
                Input::Answered(Outcome::Exists(blob)) => Err(StoredBlob::Existing(blob).response(context)),
                // The upload has ended: perhaps because others have completed the blob.
                Input::Answered(Outcome::Refused(Refusal::Gone)) => {
                    let command = Command::Get(self.sha256);
                    self.at(Stage::Look, Step::Ask(command))
                }
                Input::Answered(Outcome::Refused(refusal)) => Err(refusal.into()),
                other => self.give_up(Command::AbortPart { upload, key }, problem(other)),
            },
            Stage::Look => match input {
                Input::Answered(Outcome::Blob(blob)) => Err(StoredBlob::Existing(blob).response(context)),
                Input::Answered(Outcome::Missing) => Err(Refusal::Gone.into()),
                other => Err(problem(other).into()),
            },
            Stage::Join { upload, payment } => match input {
                Input::Received(received) if received.sha256 == self.sha256 => {
                    let Received { first, kept_mime, .. } = &received;
                    let mime = kept_mime.clone();
                    let mime = mime.unwrap_or_else(|| mime::declared_or_sniffed(&self.mime, first));
                    if let Err(response) = bytes_are_taken(context, &mime, first) {
                        return self.give_up(Command::AbortParts { upload }, StoringError::Type(response));
                    }
                    let is_unpaid = self.price.is_some() && payment.is_none();
                    let commit = Commit { is_unpaid, ..commit(context, upload, &received, mime, None) };
                    match payment {
                        Some(proof) => {
                            let (operation, sha256) = (Operation::Upload, self.sha256.to_string());
                            let purchase = Purchase { operation, sha256, size: self.total };
                            self.at(Stage::Spend(commit), payment::spend(purchase, proof))
                        }
                        None => self.finish(commit),
                    }
                }
                // Nobody knows which part is wrong.
                Input::Failed(StepError::WrongHash) => {
                    self.give_up(Command::AbortParts { upload }, StoringError::Failed(StepError::WrongHash))
                }
                other => self.give_up(Command::Abort { upload }, problem(other)),
            },
            Stage::Spend(commit) => {
                let upload = commit.upload;
                // If the payment was spent elsewhere, the parts are removed. Without an answer they stay, and can be joined later.
                let is_refused = matches!(input, Input::Paid(PaymentOutcome::Refused(_)));
                match (payment::paid(input), is_refused) {
                    (Ok(()), _) => self.finish(commit),
                    (Err(unpaid), true) => {
                        self.give_up(Command::AbortParts { upload }, StoringError::Unpaid(unpaid))
                    }
                    (Err(unpaid), false) => {
                        self.give_up(Command::LeaveParts { upload }, StoringError::Unpaid(unpaid))
                    }
                }
            }
            Stage::Finish { upload } => match input {
                Input::Answered(Outcome::Stored(blob)) => Err(StoredBlob::Created(blob).response(context)),
                Input::Answered(Outcome::Exists(blob)) => Err(StoredBlob::Existing(blob).response(context)),
                Input::Answered(Outcome::Refused(refusal)) => Err(refusal.into()),
                other => self.give_up(Command::Abort { upload }, problem(other)),
            },
            Stage::Clean(problem) => Err(problem.into()),
        }
    }

    /// Checks the proof of payment, or asks for an invoice.
    fn pay(self: Box<Self>, wanted: Wanted) -> Transition {
        let Some(price) = &self.price else { return Err(Response::internal()) };
        if !price.has_proof() {
            return Ok((State::Invoice, price.quote()));
        }
        let step = price.check();
        self.at(Stage::Pay(wanted), step)
    }

    fn begin(self: Box<Self>, wanted: Wanted) -> Transition {
        let command = Command::BeginPart(wanted.clone(), self.part);
        self.at(Stage::Begin(wanted), Step::Ask(command))
    }

    fn finish(self: Box<Self>, commit: Commit) -> Transition {
        self.at(Stage::Finish { upload: commit.upload }, Step::Ask(Command::Finish(commit)))
    }

    fn receive(self: Box<Self>, context: &Context<'_>, upload: u64, key: Key) -> Transition {
        let (length, mime) = (self.part.length, mime::UNKNOWN.to_owned());
        let receive = receive(context, &self.owner, key.clone(), None, Some(length), length, mime);
        self.at(Stage::Receive { upload, key }, Step::Receive(receive))
    }

    fn join(self: Box<Self>, context: &Context<'_>, pieces: Pieces) -> Transition {
        let Pieces { upload, key, parts, only_hash, payment } = pieces;
        // The blob was here when the parts came, so nothing was paid, and it is gone.
        if self.price.is_some() && payment.is_none() && !only_hash {
            return self.give_up(Command::LeaveParts { upload }, StoringError::Refused(Refusal::Unpaid));
        }
        let (hash, length) = (Some(self.sha256), Some(self.total));
        let receive = receive(context, &self.owner, key, hash, length, self.total, self.mime.clone());
        let receive = Receive { only_hash, ..receive };
        self.at(Stage::Join { upload, payment }, Step::Join { parts, receive })
    }

    fn at(mut self: Box<Self>, stage: Stage, step: Step) -> Transition {
        self.stage = stage;
        Ok((State::Part(self), step))
    }

    fn give_up(self: Box<Self>, command: Command, problem: StoringError) -> Transition {
        self.at(Stage::Clean(problem), Step::Ask(command))
    }
}
