//! The steps of an exchange, which a host carries out, and their results.

use std::time::Duration;

use bytes::Bytes;
use relay_site::{PaymentOutcome, PaymentRequest, nip98};

use super::response::Response;
use crate::blob::{Media, Sha256};
use crate::index::{Command, Key, Outcome, PULL_SECONDS, Part, Refusal};
use crate::mime;

/// When a host asks the index the same again, because the answer is about to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    busy: u32,
    pulling: u32,
}

impl Default for Retries {
    fn default() -> Self {
        Retries { busy: 50, pulling: PULL_SECONDS as u32 * 4 }
    }
}

impl Retries {
    /// How long it waits before it asks once more; `None` if this is the answer. It waits for 5 seconds while bytes are being removed
    /// ([`Outcome::Busy`]), and for two minutes while another request fetches the blob ([`Outcome::Pulling`]).
    pub fn wait(&mut self, outcome: &Outcome) -> Option<Duration> {
        let (left, pause) = match outcome {
            Outcome::Busy => (&mut self.busy, Duration::from_millis(100)),
            Outcome::Pulling => (&mut self.pulling, Duration::from_millis(250)),
            _ => return None,
        };
        *left = left.checked_sub(1)?;
        Some(pause)
    }
}

/// What a host does next. After any step but the last it calls [`Exchange::resume`](super::Exchange::resume).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask the index: [`Input::Answered`] or [`Input::Failed`]. As long as [`Retries`] says so, the host waits and asks the same
    /// again; only then it gives [`Outcome::Busy`] or [`Outcome::Pulling`] to the exchange, which answers 503.
    Ask(Command),
    /// Mark the event that has signed this request as used ([`nip98::UsedEvents::take`]), in the set of all signed requests to
    /// this host: [`Input::EventUsed`]. The signer is an administrator: [`nip98::SignerTrust::Permitted`].
    MarkEventUsed(nip98::VerifiedRequest),
    /// Read the request's body into memory: [`Input::Body`] or [`Input::Failed`].
    Read {
        /// Most bytes.
        bytes_max: u64,
    },
    /// Store the request's body: [`Input::Received`] or [`Input::Failed`].
    Receive(Receive),
    /// Fetch a URL, following at most three redirects, and store what comes: [`Input::Received`] or [`Input::Failed`]. URLs are
    /// `https`, and `http` where `allow_private_addresses` is set.
    Fetch {
        /// The first of these that answers with success.
        urls: Vec<String>,
        /// How to store it.
        receive: Receive,
        /// What room there is for it.
        reservation: Reservation,
    },
    /// Store these bytes: [`Input::Received`] or [`Input::Failed`].
    Put {
        /// The bytes.
        bytes: Bytes,
        /// How to store them.
        receive: Receive,
    },
    /// Give staged bytes their final key: [`Input::Done`] or [`Input::Failed`]; [`Input::Received`] where the store says when it
    /// has them ([`Received::uploaded`]), or that bytes were there already ([`Received::kept_mime`]).
    Promote {
        /// Where they are.
        from: Key,
        /// Where they belong.
        to: Key,
        /// Their type.
        mime: String,
        /// When retention removes them, in Unix seconds, kept with the object where the store can.
        expires_at: Option<u64>,
    },
    /// Keep this type with the bytes of a blob, where the store has types, if they are there: [`Input::Done`] or [`Input::Failed`].
    /// Changes nothing else of them.
    SetObjectType {
        /// The blob.
        sha256: Sha256,
        /// The type.
        mime: String,
    },
    /// Join parts, check the hash and store the blob: [`Input::Received`] or [`Input::Failed`]. Parts are removed by the index.
    Join {
        /// In order.
        parts: Vec<Part>,
        /// How to store it.
        receive: Receive,
    },
    /// Strip a picture ([`Input::Processed`] or [`Input::Failed`]), away from threads that serve others.
    Process {
        /// The original.
        bytes: Bytes,
        /// Its type.
        mime: String,
    },
    /// Remove staged bytes, if they are there; nothing is expected but [`Input::Done`].
    Discard(Key),
    /// Fetch the list of servers (kind 10063) of these keys from the relay: [`Input::Servers`].
    FindServers {
        /// Public keys in hexadecimal.
        authors: Vec<String>,
    },
    /// Ask a URL for the length of its content (`HEAD`), following redirects as [`Step::Fetch`] does: [`Input::Measured`] or
    /// [`Input::Failed`].
    Measure {
        /// The URL.
        url: String,
        /// For whom.
        uploader: Uploader,
    },
    /// Have the agent of `blossom.payment` answer a request, which takes at most [`relay_site::payment::WAIT_MAX`]:
    /// [`Input::Paid`]. The host limits the invoices that one address may ask for.
    Pay(PaymentRequest),
    /// Respond; the exchange is over. The request's body may not have been read: if a good part of it is still to come, the host
    /// closes the connection afterwards.
    Respond(Response),
}

/// How bytes are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receive {
    /// Under which key; they are visible there only when all of them have come and the hash is right.
    pub key: Key,
    /// The blob is there already: the bytes are read and hashed as all others, and nothing is stored.
    pub only_hash: bool,
    /// Who brings them.
    pub uploader: Uploader,
    /// The hash that they must have.
    pub sha256: Option<Sha256>,
    /// How many they must be, if that is known.
    pub length: Option<u64>,
    /// Most bytes.
    pub bytes_max: u64,
    /// Their type as far as it is known, kept with the object where the store can. Of what is fetched the origin's type goes
    /// first: [`Receive::mime_from`].
    pub mime: String,
    /// When retention removes them, in Unix seconds, kept likewise.
    pub expires_at: Option<u64>,
    /// What `/media` has found out, kept likewise.
    pub media: Option<Media>,
}

/// The room that the index has reserved for bytes that are fetched. If the origin announces a length, it is reserved before any byte is
/// stored; otherwise what has come is reserved again at every 64 MiB. A host sends each command to the index and goes on at
/// [`Outcome::Accepted`]; a refusal is [`StepError::Refused`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    upload: u64,
    bytes: u64,
}

impl Reservation {
    const GRANULARITY: u64 = 64 << 20;

    /// Of an upload for which so many bytes are reserved.
    pub(super) fn new(upload: u64, bytes: u64) -> Self {
        Reservation { upload, bytes }
    }

    /// An origin announces so many bytes.
    pub fn announced(&mut self, size: u64) -> Option<Command> {
        (size > self.bytes).then(|| self.reserve(size))
    }

    /// So many bytes have been received.
    pub fn received(&mut self, size: u64) -> Option<Command> {
        (size >= self.bytes.saturating_add(Self::GRANULARITY)).then(|| self.reserve(size))
    }

    fn reserve(&mut self, size: u64) -> Command {
        self.bytes = size;
        Command::Reserve { upload: self.upload, size }
    }
}

/// Who brings bytes. Hosts divide their capacity fairly: a share for each listed key, and for everybody else one for each client
/// address, because new keys cost nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uploader {
    /// The public key in hexadecimal.
    pub pubkey: String,
    /// Whether it is listed.
    pub is_listed: bool,
}

impl Receive {
    /// The type that is kept with the object if the origin's `Content-Type` is this: the origin's, unless it has none or says that it
    /// does not know.
    pub fn mime_from(&self, content_type: Option<&str>) -> String {
        mime::of_origin(content_type).unwrap_or_else(|| self.mime.clone())
    }
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The index has answered.
    Answered(Outcome),
    /// Whether the event had not been used before.
    EventUsed(Result<(), nip98::Nip98Error>),
    /// A body, complete.
    Body(Bytes),
    /// Bytes are stored.
    Received(Received),
    /// A picture is stripped.
    Processed(Processed),
    /// What the agent that is paid answers.
    Paid(PaymentOutcome),
    /// So many bytes are at a URL.
    Measured(u64),
    /// It is done.
    Done,
    /// URLs of servers (kind 10063).
    Servers(Vec<String>),
    /// It has failed, and nothing is stored.
    Failed(StepError),
}

/// Bytes that were stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Their hash.
    pub sha256: Sha256,
    /// How many.
    pub size: u64,
    /// The first of them, up to 4,096, from which the type is told; empty where the host has not seen them.
    pub first: Bytes,
    /// The type that the origin of a fetched blob declares, as it is in its header.
    pub mime: Option<String>,
    /// The type that is kept with the bytes, if they were there already under this hash and the store has left them as they were:
    /// then it is the blob's type, whatever is declared.
    pub kept_mime: Option<String>,
    /// When the store says that it has got the bytes, in Unix seconds, if it answers downloads without the index: then it is when the
    /// blob was uploaded.
    pub uploaded: Option<u64>,
}

/// A stripped picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processed {
    /// The picture without metadata.
    pub bytes: Bytes,
    /// Its type.
    pub mime: String,
    /// What was found out. `original` is the hash of the original.
    pub media: Media,
    /// A thumbnail (bytes and type).
    pub thumbnail: Option<(Bytes, String)>,
}

/// Why a step has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepError {
    /// The body is longer than allowed.
    TooLong,
    /// The body ended before its length, or its client left.
    Incomplete,
    /// No data for too long.
    Stalled,
    /// The hash is not the expected one.
    WrongHash,
    /// Somebody else's bytes were stored under the hash while these came, and the store may not have looked at these.
    Raced,
    /// The disk is full.
    Full,
    /// The index refuses to make room for it.
    Refused(Refusal),
    /// The store has failed; the message is logged, not shown.
    Store(String),
    /// The address may not be fetched.
    Forbidden(String),
    /// The origin cannot be reached, or answers with an error.
    Origin(String),
    /// The picture cannot be processed: why.
    Unprocessable(String),
    /// This host does not do that.
    Unsupported,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_waits_for_removals_and_pulls_and_for_nothing_else() {
        let waited = |outcome: &Outcome| {
            let mut retries = Retries::default();
            std::iter::from_fn(|| retries.wait(outcome)).sum::<Duration>()
        };
        assert_eq!(waited(&Outcome::Busy), Duration::from_secs(5));
        assert_eq!(waited(&Outcome::Pulling), Duration::from_secs(PULL_SECONDS));
        assert_eq!(waited(&Outcome::Missing), Duration::ZERO);
    }
}
