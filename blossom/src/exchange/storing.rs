//! From the start of an upload to its end, wherever the bytes come from: the part that uploads, mirrors, `/media` and
//! pull-through have in common. What is begun here ends with Finish or Abort, and staged bytes are promoted or discarded.

use bytes::Bytes;

use super::Context;
use super::list::SECONDS_MAX;
use super::request::{self, PaymentCheck};
use super::response::{Response, busy, pulling};
use super::step::{Input, Receive, Received, Reservation, Step, StepError};
use crate::blob::{Blob, Media, Sha256};
use crate::index::{Command, Commit, Key, Outcome, Refusal, Wanted};
use crate::mime;

/// Where the bytes come from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// The request's body.
    Body,
    /// The first of these URLs that answers.
    Fetch(Vec<String>),
    /// Here they are.
    Bytes(Bytes),
}

/// What their hash must be.
#[derive(Clone, Debug)]
pub(super) enum Expected {
    /// This.
    Is(Sha256),
    /// One of these.
    OneOf(Vec<Sha256>),
}

impl Expected {
    /// The hash if it is known, and otherwise those that a token names.
    pub(super) fn new(known: Option<Sha256>, named: Vec<Sha256>) -> Self {
        known.map_or(Expected::OneOf(named), Expected::Is)
    }

    fn known(&self) -> Option<Sha256> {
        match self {
            Expected::Is(sha256) => Some(*sha256),
            Expected::OneOf(_) => None,
        }
    }

    fn has(&self, sha256: &Sha256) -> bool {
        match self {
            Expected::Is(own) => own == sha256,
            Expected::OneOf(named) => named.contains(sha256),
        }
    }
}

/// A blob that is to be stored.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Whose it will be: a public key in hexadecimal.
    pub(super) owner: String,
    pub(super) source: Source,
    pub(super) expected: Expected,
    /// Bytes, if that is known.
    pub(super) length: Option<u64>,
    pub(super) bytes_max: u64,
    pub(super) key_bytes_max: Option<u64>,
    /// The type that the uploader declares.
    pub(super) mime: Option<String>,
    /// The extension in the path or URL, from which the type is told if nothing else tells it.
    pub(super) extension: Option<String>,
    pub(super) media: Option<Media>,
    /// The relay wants it, from these URLs.
    pub(super) pull: Option<Vec<String>>,
    /// What it costs if it is not here already.
    pub(super) price: Option<PaymentCheck>,
}

impl Plan {
    /// The type before the bytes are seen.
    fn first_mime(&self) -> String {
        self.mime.clone().or_else(|| self.mime_of_extension()).unwrap_or_else(|| mime::UNKNOWN.to_owned())
    }

    /// [`Plan::first_mime`], or unknown if the settings refuse that type: one guessed from the extension has not been checked before.
    fn taken_mime(&self, context: &Context<'_>) -> String {
        let mime = Some(self.first_mime()).filter(|mime| mime::is_taken(context.settings, mime));
        mime.unwrap_or_else(|| mime::UNKNOWN.to_owned())
    }

    /// What the index is asked.
    fn wanted(&self, context: &Context<'_>) -> Wanted {
        let (known, size) = (self.expected.known(), self.length.unwrap_or(0));
        let wanted = wanted(context, self.owner.clone(), known, size, self.taken_mime(context));
        Wanted { key_bytes_max: self.key_bytes_max, ..wanted }
    }

    fn mime_of_extension(&self) -> Option<String> {
        self.extension.as_deref().and_then(mime::of_extension).map(str::to_owned)
    }

    /// The type of received bytes: the declared one or their origin's, unless their first bytes show a more precise
    /// one; else what the first bytes show; else by the extension. Bytes that were stored already keep their type.
    fn mime_of(&self, received: &Received) -> String {
        if let Some(kept) = &received.kept_mime {
            return kept.clone();
        }
        let declared = self.mime.clone().or_else(|| mime::of_origin(received.mime.as_deref()));
        if let Some(declared) = declared {
            return mime::declared_or_sniffed(&declared, &received.first);
        }
        let sniffed = mime::sniff(&received.first).map(str::to_owned);
        sniffed.or_else(|| self.mime_of_extension()).unwrap_or_else(|| mime::UNKNOWN.to_owned())
    }
}

/// What the index is asked about an upload.
pub(super) fn wanted(
    context: &Context<'_>,
    owner: String,
    sha256: Option<Sha256>,
    size: u64,
    mime: String,
) -> Wanted {
    let settings = context.settings;
    let Lifetime { expires_at, unused_seconds } = lifetime(context, &mime, size);
    Wanted {
        owner,
        sha256,
        size,
        mime,
        expires_at,
        unused_seconds,
        retention: settings.retention.clone(),
        key_bytes_max: settings.key_bytes_max,
        total_bytes_max: settings.total_bytes_max,
        abandoned_at: context.now.saturating_add(context.upload_seconds_max),
    }
}

/// How long a blob is kept.
#[derive(Clone, Copy, Debug, Default)]
struct Lifetime {
    expires_at: Option<u64>,
    unused_seconds: Option<u64>,
}

fn lifetime(context: &Context<'_>, mime: &str, size: u64) -> Lifetime {
    mime::retention(&context.settings.retention, mime, size).map_or_else(Lifetime::default, |rule| Lifetime {
        expires_at: rule.age_seconds.map(|age| context.now.saturating_add(age).min(SECONDS_MAX)),
        unused_seconds: rule.unused_seconds,
    })
}

/// How the bytes are received; `expires_at` and type as far as they are known before.
pub(super) fn receive(
    context: &Context<'_>,
    owner: &str,
    key: Key,
    sha256: Option<Sha256>,
    length: Option<u64>,
    bytes_max: u64,
    mime: String,
) -> Receive {
    let expires_at = lifetime(context, &mime, length.unwrap_or(0)).expires_at;
    let uploader = request::uploader(context, owner);
    Receive { key, only_hash: false, uploader, sha256, length, bytes_max, mime, expires_at, media: None }
}

/// What is committed of bytes that are stored.
pub(super) fn commit(
    context: &Context<'_>,
    upload: u64,
    received: &Received,
    mime: String,
    media: Option<Media>,
) -> Commit {
    let Received { sha256, size, uploaded, .. } = *received;
    let Lifetime { expires_at, unused_seconds } = lifetime(context, &mime, size);
    let retention = context.settings.retention.clone();
    Commit { upload, sha256, size, mime, uploaded, expires_at, unused_seconds, retention, media }
}

/// The type that an owner of a blob declares, if nobody knew it.
pub(super) fn missing_type(blob: &Blob, declared: &str) -> Option<String> {
    let is_missing = mime::essence(&blob.mime) == mime::UNKNOWN && mime::essence(declared) != mime::UNKNOWN;
    is_missing.then(|| declared.to_owned())
}

/// Whether bytes of this type are taken. A list of refused types holds for what their beginning tells, too, whatever their uploader
/// says.
///
/// # Errors
/// 415.
pub(super) fn bytes_are_taken(context: &Context<'_>, mime: &str, first: &[u8]) -> Result<(), Response> {
    request::type_is_taken(context, mime)?;
    let sniffed = mime::sniff(first)
        .filter(|sniffed| context.settings.deny_types.iter().any(|denied| mime::fits(denied, sniffed)));
    sniffed.map_or(Ok(()), |sniffed| request::type_is_taken(context, sniffed))
}

/// An upload under way.
#[derive(Clone, Debug)]
pub(super) struct Storing {
    plan: Plan,
    stage: Stage,
}

#[derive(Clone, Debug)]
enum Stage {
    /// It is to be paid, and nothing is offered: whether it would be accepted.
    Quote {
        wanted: Wanted,
        unpaid: Response,
    },
    Begin,
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
    /// The blob is here, and its owner says of what type it is: the store keeps that, and then the index.
    SetType {
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
        let (stage, command) = match plan.price.as_ref().map(|price| price.require_payment_proof(context)) {
            Some(Err(unpaid)) => (Stage::Quote { wanted: wanted.clone(), unpaid }, Command::Check(wanted)),
            _ => (
                Stage::Begin,
                match &plan.pull {
                    Some(urls) => Command::BeginPull(wanted, urls.clone()),
                    None => Command::Begin(wanted),
                },
            ),
        };
        (Box::new(Storing { plan, stage }), Step::Ask(command))
    }

    /// Goes on with what came of the last step.
    pub(super) fn resume(mut self: Box<Self>, context: &Context<'_>, input: Input) -> Progress {
        match std::mem::replace(&mut self.stage, Stage::Begin) {
            Stage::Quote { wanted, unpaid } => match input {
                Input::Answered(Outcome::Accepted) => end(Err(StoringError::Unpaid(unpaid))),
                Input::Answered(Outcome::Exists(_)) => {
                    self.at(Stage::Begin, Step::Ask(Command::Begin(wanted)))
                }
                other => end(Err(problem(other))),
            },
            Stage::Begin => self.begun(context, input),
            Stage::SetType { blob, mime } => match input {
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
                Input::Answered(Outcome::OwnedByOthers { upload } | Outcome::Begun { upload, .. }) => {
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
                Input::Answered(Outcome::Stored(blob)) => end(Ok(StoredBlob::Created(blob))),
                Input::Answered(Outcome::Exists(blob)) => end(Ok(StoredBlob::Existing(blob))),
                // The index has ended the upload.
                Input::Answered(Outcome::Refused(refusal)) => end(Err(StoringError::Refused(refusal))),
                other => self.abort(upload, None, problem(other)),
            },
            // Whatever came of cleaning up: what is left is swept later.
            Stage::Clean { staged: Some(staged), end } => self.discard(staged, end),
            Stage::Clean { staged: None, end: ended } => end(ended),
        }
    }

    fn begun(mut self: Box<Self>, context: &Context<'_>, input: Input) -> Progress {
        let plan = &mut self.plan;
        let (upload, key, only_hash) = match (input, plan.expected.known()) {
            (Input::Answered(Outcome::Begun { upload, key }), _) => (upload, key, false),
            // Others own it: the uploader has to prove possession, so the bytes are hashed and not stored.
            (Input::Answered(Outcome::OwnedByOthers { upload }), Some(sha256)) => {
                (upload, sha256.to_string(), true)
            }
            (Input::Answered(Outcome::OwnedByOthers { upload }), None) => {
                return self.abort(upload, None, StoringError::Internal);
            }
            (Input::Answered(Outcome::Exists(blob)), _) => {
                let Some(mime) = missing_type(&blob, &plan.taken_mime(context)) else {
                    return end(Ok(StoredBlob::Existing(blob)));
                };
                let step = Step::SetType { sha256: blob.sha256, mime: mime.clone() };
                return self.at(Stage::SetType { blob, mime }, step);
            }
            (Input::Answered(Outcome::Missing), _) if plan.pull.is_some() => {
                return end(Err(StoringError::Failed(StepError::Origin(
                    "these servers failed to return it less than five minutes ago; try again later"
                        .to_owned(),
                ))));
            }
            (other, _) => return end(Err(problem(other))),
        };
        let price = plan.price.as_ref().filter(|_| !only_hash);
        if let Some(Err(unpaid)) = price.map(|price| price.pay(context)) {
            return self.abort(upload, None, StoringError::Unpaid(unpaid));
        }
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
        let commit = commit(context, upload, &received, mime, plan.media.clone());
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
