//! From the start of an upload to its end, wherever the bytes come from: the part that uploads, mirrors, `/media` and
//! pull-through have in common. What is begun here ends with Finish or Abort, and staged bytes are promoted or discarded.

mod plan;

use super::Context;
use super::payment::{self, Price};
use super::response::{Response, busy, pulling};
use super::step::{Input, Received, Reservation, Step, StepError};
use crate::blob::{Blob, Media};
use crate::index::{Command, Commit, Key, Outcome, Refusal, Wanted};

pub(super) use plan::{Expected, Plan, Source, bytes_are_taken, commit, missing_type, receive, wanted};

/// An upload under way.
#[derive(Clone, Debug)]
pub(super) struct Storing {
    plan: Plan,
    /// Whether the proof of payment is good.
    is_paid: bool,
    /// Whether it must be paid although the blob is here, since only the relay owns it.
    is_sold: bool,
    stage: Stage,
}

#[derive(Clone, Debug)]
enum Stage {
    /// It costs something and the request has no proof: the index is asked whether the upload would be accepted.
    Quote(Wanted),
    /// It would be accepted, and an invoice is made.
    Invoice,
    Begin,
    /// The proof of payment is checked.
    Pay {
        upload: u64,
        key: Key,
        only_hash: bool,
    },
    Receive {
        upload: u64,
        key: Key,
    },
    SetHash {
        upload: u64,
        staged: Key,
        commit: Commit,
    },
    Promote {
        staged: Key,
        commit: Commit,
    },
    Finish {
        upload: u64,
    },
    /// The blob is stored, and the proof of payment is spent.
    Spend(StoredBlob),
    /// The blob is here, and its owner says of what type it is: the store keeps that, and then the index.
    SetObjectType {
        blob: Blob,
        mime: String,
    },
    SetMime(Blob),
    /// Bytes of another upload came first, and this one is ended. If the uploader owns that blob already it is a success.
    Raced,
    Own,
    /// The upload is ended; staged bytes are still to be discarded.
    Clean {
        staged: Option<Key>,
        end: End,
    },
}

/// How an upload ends.
pub(super) type End = Result<StoredBlob, StoringError>;

/// A stored blob, and whether this upload has created it.
#[derive(Clone, Debug)]
pub(super) enum StoredBlob {
    Created(Blob),
    Existing(Blob),
}

impl StoredBlob {
    /// For the response of `/media`: with this upload's original, since another original may have been stripped to the same bytes
    /// before.
    pub(super) fn of_original(self, media: &Media) -> Self {
        let StoredBlob::Existing(blob) = self else { return self };
        let thumbnail = blob.media.as_ref().and_then(|media| media.thumbnail);
        StoredBlob::Existing(Blob { media: Some(Media { thumbnail, ..media.clone() }), ..blob })
    }
}

/// Why nothing is stored.
#[derive(Clone, Debug)]
pub(super) enum StoringError {
    Busy,
    /// Another request fetches it.
    Pulling,
    Refused(Refusal),
    Failed(StepError),
    /// The hash is none of those that the token names.
    NotNamed,
    /// Blobs of this type are not taken.
    Type(Response),
    /// It is not paid.
    Unpaid(Response),
    /// The host has given an input that does not follow from the step.
    Internal,
}

impl From<StoringError> for Response {
    fn from(problem: StoringError) -> Self {
        match problem {
            StoringError::Busy => busy(),
            StoringError::Pulling => pulling(),
            StoringError::Refused(refusal) => refusal.into(),
            StoringError::Failed(failure) => failure.into(),
            StoringError::NotNamed => crate::token::TokenError::OtherHash.into(),
            StoringError::Type(response) | StoringError::Unpaid(response) => response,
            StoringError::Internal => Response::internal(),
        }
    }
}

/// What follows an input.
#[derive(Clone, Debug)]
pub(super) enum Progress {
    /// A step.
    Step(Box<Storing>, Step),
    /// The end.
    End(End),
}

impl Storing {
    /// Begins an upload.
    pub(super) fn begin(context: &Context<'_>, plan: Plan) -> (Box<Self>, Step) {
        let wanted = plan.wanted(context);
        let (stage, command) = match &plan.price {
            Some(price) if !price.has_proof() => (Stage::Quote(wanted.clone()), Command::Check(wanted)),
            _ => (
                Stage::Begin,
                match &plan.pull {
                    Some(urls) => Command::BeginPull(wanted, urls.clone()),
                    None => Command::Begin(wanted),
                },
            ),
        };
        (Box::new(Storing { plan, is_paid: false, is_sold: false, stage }), Step::Ask(command))
    }

    /// Goes on with what came of the last step.
    pub(super) fn resume(mut self: Box<Self>, context: &Context<'_>, input: Input) -> Progress {
        match std::mem::replace(&mut self.stage, Stage::Begin) {
            Stage::Quote(wanted) => match (input, self.plan.price.as_ref().map(Price::quote)) {
                (Input::Answered(Outcome::Accepted), Some(step)) => self.at(Stage::Invoice, step),
                (Input::Answered(Outcome::Exists(_)), _) => {
                    self.at(Stage::Begin, Step::Ask(Command::Begin(wanted)))
                }
                (other, _) => end(Err(problem(other))),
            },
            Stage::Invoice => end(Err(StoringError::Unpaid(payment::invoiced(input)))),
            Stage::Pay { upload, key, only_hash } => match payment::paid(input) {
                Ok(()) => {
                    self.is_paid = true;
                    self.receive(context, upload, key, only_hash)
                }
                Err(response) => self.abort(upload, None, StoringError::Unpaid(response)),
            },
            Stage::Begin => self.begun(context, input),
            Stage::SetObjectType { blob, mime } => match input {
                Input::Done => {
                    let (sha256, owner) = (blob.sha256, self.plan.owner.clone());
                    self.at(Stage::SetMime(blob), Step::Ask(Command::SetMime { sha256, owner, mime }))
                }
                // It stays as it was, also in the index.
                _ => end(Ok(StoredBlob::Existing(blob))),
            },
            Stage::SetMime(old) => end(Ok(StoredBlob::Existing(match input {
                Input::Answered(Outcome::Exists(blob)) => blob,
                _ => old,
            }))),
            Stage::Raced => {
                let command = Command::Begin(self.plan.wanted(context));
                self.at(Stage::Own, Step::Ask(command))
            }
            Stage::Own => match input {
                Input::Answered(Outcome::Exists(blob)) => end(Ok(StoredBlob::Existing(blob))),
                Input::Answered(Outcome::OwnedByOthers { upload, .. } | Outcome::Begun { upload, .. }) => {
                    self.abort(upload, None, StoringError::Failed(StepError::Raced))
                }
                other => end(Err(problem(other))),
            },
            Stage::Receive { upload, key } => match input {
                Input::Received(received) => self.received(context, upload, key, received),
                Input::Failed(StepError::Raced) => {
                    self.at(Stage::Raced, Step::Ask(Command::Abort { upload }))
                }
                other => self.abort(upload, None, problem(other)),
            },
            Stage::SetHash { upload, staged, commit } => match input {
                Input::Answered(Outcome::Begun { upload, key }) => {
                    let (mime, expires_at) = (commit.mime.clone(), commit.expires_at);
                    let commit = Commit { upload, ..commit };
                    let step = Step::Promote { from: staged.clone(), to: key, mime, expires_at };
                    self.at(Stage::Promote { staged, commit }, step)
                }
                // The index has ended the upload.
                Input::Answered(Outcome::Exists(blob)) => {
                    self.discard(staged, Ok(StoredBlob::Existing(blob)))
                }
                Input::Answered(Outcome::Refused(refusal)) => {
                    self.discard(staged, Err(StoringError::Refused(refusal)))
                }
                other => self.abort(upload, Some(staged), problem(other)),
            },
            Stage::Promote { staged, commit } => match input {
                Input::Done => self.finish(commit),
                Input::Received(Received { kept_mime, uploaded, .. }) => {
                    let mime = kept_mime.unwrap_or_else(|| commit.mime.clone());
                    self.finish(Commit { mime, uploaded, ..commit })
                }
                other => self.abort(commit.upload, Some(staged), problem(other)),
            },
            Stage::Finish { upload } => match input {
                Input::Answered(Outcome::Stored(blob)) => match self.plan.price.as_ref().map(Price::spend) {
                    Some(step) => self.at(Stage::Spend(StoredBlob::Created(blob)), step),
                    None => end(Ok(StoredBlob::Created(blob))),
                },
                Input::Answered(Outcome::Exists(blob)) => {
                    match self.plan.price.as_ref().filter(|_| self.is_sold).map(Price::spend) {
                        Some(step) => self.at(Stage::Spend(StoredBlob::Existing(blob)), step),
                        None => end(Ok(StoredBlob::Existing(blob))),
                    }
                }
                // The index has ended the upload.
                Input::Answered(Outcome::Refused(refusal)) => end(Err(StoringError::Refused(refusal))),
                other => self.abort(upload, None, problem(other)),
            },
            // Also if the proof could not be spent: the blob is stored, and the proof pays for no other one.
            Stage::Spend(stored) => end(Ok(stored)),
            // Whatever came of cleaning up: what is left is swept later.
            Stage::Clean { staged: Some(staged), end } => self.discard(staged, end),
            Stage::Clean { staged: None, end: ended } => end(ended),
        }
    }

    fn begun(mut self: Box<Self>, context: &Context<'_>, input: Input) -> Progress {
        let plan = &self.plan;
        let (upload, key, only_hash) = match (input, plan.expected.known()) {
            (Input::Answered(Outcome::Begun { upload, key }), _) => (upload, key, false),
            // Others own it: the uploader has to prove possession, so the bytes are hashed and not stored.
            (Input::Answered(Outcome::OwnedByOthers { upload, is_sold }), Some(sha256)) => {
                self.is_sold = is_sold;
                (upload, sha256.to_string(), true)
            }
            (Input::Answered(Outcome::OwnedByOthers { upload, .. }), None) => {
                return self.abort(upload, None, StoringError::Internal);
            }
            (Input::Answered(Outcome::Exists(blob)), _) => {
                let Some(mime) = missing_type(&blob, &plan.taken_mime(context)) else {
                    return end(Ok(StoredBlob::Existing(blob)));
                };
                let step = Step::SetObjectType { sha256: blob.sha256, mime: mime.clone() };
                return self.at(Stage::SetObjectType { blob, mime }, step);
            }
            (Input::Answered(Outcome::Missing), _) if plan.pull.is_some() => {
                return end(Err(StoringError::Failed(StepError::Origin(
                    "these servers failed to return it less than five minutes ago; try again later"
                        .to_owned(),
                ))));
            }
            (other, _) => return end(Err(problem(other))),
        };
        if !self.plan.must_be_paid() || (only_hash && !self.is_sold) {
            return self.receive(context, upload, key, only_hash);
        }
        match self.plan.price.as_ref().filter(|price| price.has_proof()).map(Price::check) {
            Some(step) => self.at(Stage::Pay { upload, key, only_hash }, step),
            // It was here when the price was asked for, and is gone.
            None => self.abort(upload, None, StoringError::Refused(Refusal::Gone)),
        }
    }

    /// The bytes are wanted.
    fn receive(
        mut self: Box<Self>,
        context: &Context<'_>,
        upload: u64,
        key: Key,
        only_hash: bool,
    ) -> Progress {
        let plan = &mut self.plan;
        let mut receive = receive(
            context,
            &plan.owner,
            key.clone(),
            plan.expected.known(),
            plan.length,
            plan.bytes_max,
            plan.first_mime(),
        );
        receive.only_hash = only_hash;
        receive.media.clone_from(&plan.media);
        let step = match &mut plan.source {
            Source::Body => Step::Receive(receive),
            Source::Fetch(urls) => {
                // What is not stored needs no room.
                let reserved = if only_hash { u64::MAX } else { plan.length.unwrap_or(0) };
                let reservation = Reservation::new(upload, reserved);
                Step::Fetch { urls: std::mem::take(urls), receive, reservation }
            }
            Source::Bytes(bytes) => Step::Put { bytes: std::mem::take(bytes), receive },
        };
        self.at(Stage::Receive { upload, key }, step)
    }

    fn received(
        self: Box<Self>,
        context: &Context<'_>,
        upload: u64,
        key: Key,
        received: Received,
    ) -> Progress {
        let plan = &self.plan;
        let is_staged = plan.expected.known().is_none();
        let staged = is_staged.then(|| key.clone());
        if !plan.expected.has(&received.sha256) {
            let problem =
                if is_staged { StoringError::NotNamed } else { StoringError::Failed(StepError::WrongHash) };
            return self.abort(upload, staged, problem);
        }
        let mime = plan.mime_of(&received);
        if let Err(response) = bytes_are_taken(context, &mime, &received.first) {
            return self.abort(upload, staged, StoringError::Type(response));
        }
        let Received { sha256, size, .. } = received;
        let is_unpaid = plan.must_be_paid() && !self.is_paid;
        let commit = Commit { is_unpaid, ..commit(context, upload, &received, mime, plan.media.clone()) };
        match staged {
            Some(staged) => {
                let step = Step::Ask(Command::SetHash { upload, sha256, size });
                self.at(Stage::SetHash { upload, staged, commit }, step)
            }
            None => self.finish(commit),
        }
    }

    fn finish(self: Box<Self>, commit: Commit) -> Progress {
        let stage = Stage::Finish { upload: commit.upload };
        self.at(stage, Step::Ask(Command::Finish(commit)))
    }

    fn abort(self: Box<Self>, upload: u64, staged: Option<Key>, problem: StoringError) -> Progress {
        let command = match &self.plan.pull {
            Some(urls) if is_miss(&problem) => Command::AbortPull { upload, urls: urls.clone() },
            _ => Command::Abort { upload },
        };
        self.at(Stage::Clean { staged, end: Err(problem) }, Step::Ask(command))
    }

    fn discard(self: Box<Self>, staged: Key, end: End) -> Progress {
        self.at(Stage::Clean { staged: None, end }, Step::Discard(staged))
    }

    fn at(mut self: Box<Self>, stage: Stage, step: Step) -> Progress {
        self.stage = stage;
        Progress::Step(self, step)
    }
}

fn end(end: End) -> Progress {
    Progress::End(end)
}

/// Whether other servers are the reason.
fn is_miss(problem: &StoringError) -> bool {
    use StepError as F;
    match problem {
        StoringError::Type(_) => true,
        StoringError::Failed(failure) => {
            let is_ours =
                matches!(failure, F::Full | F::Store(_) | F::Refused(_) | F::Raced | F::Unsupported);
            !is_ours
        }
        _ => false,
    }
}

/// Why this input is not what was hoped for.
pub(super) fn problem(input: Input) -> StoringError {
    match input {
        Input::Answered(Outcome::Busy) => StoringError::Busy,
        Input::Answered(Outcome::Pulling) => StoringError::Pulling,
        Input::Answered(Outcome::Refused(refusal)) => StoringError::Refused(refusal),
        Input::Failed(StepError::Refused(refusal)) => StoringError::Refused(refusal),
        Input::Failed(failure) => StoringError::Failed(failure),
        _ => StoringError::Internal,
    }
}
