//! What is to be stored, and what is known of it before its bytes have come.

use bytes::Bytes;
use relay_engine::types::PubKey;

use crate::blob::{Blob, Media, Sha256};
use crate::exchange::Context;
use crate::exchange::list::SECONDS_MAX;
use crate::exchange::payment::{self, Price};
use crate::exchange::request;
use crate::exchange::response::Response;
use crate::exchange::step::{Receive, Received};
use crate::index::{Commit, Key, Wanted};
use crate::mime;

/// Where the bytes come from.
#[derive(Clone, Debug)]
pub(in crate::exchange) enum Source {
    /// The request's body.
    Body,
    /// The first of these URLs that answers.
    Fetch(Vec<String>),
    /// Here they are.
    Bytes(Bytes),
}

/// What their hash must be.
#[derive(Clone, Debug)]
pub(in crate::exchange) enum Expected {
    /// This.
    Is(Sha256),
    /// One of these.
    OneOf(Vec<Sha256>),
}

impl Expected {
    /// The hash if it is known, and otherwise those that a token names.
    pub(in crate::exchange) fn new(known: Option<Sha256>, named: Vec<Sha256>) -> Self {
        known.map_or(Expected::OneOf(named), Expected::Is)
    }

    pub(in crate::exchange) fn known(&self) -> Option<Sha256> {
        match self {
            Expected::Is(sha256) => Some(*sha256),
            Expected::OneOf(_) => None,
        }
    }

    pub(super) fn has(&self, sha256: &Sha256) -> bool {
        match self {
            Expected::Is(own) => own == sha256,
            Expected::OneOf(named) => named.contains(sha256),
        }
    }
}

/// A blob that is to be stored.
#[derive(Clone, Debug)]
pub(in crate::exchange) struct Plan {
    /// Whose it will be: a public key in hexadecimal.
    pub(in crate::exchange) owner: String,
    pub(in crate::exchange) source: Source,
    pub(in crate::exchange) expected: Expected,
    /// Bytes, if that is known.
    pub(in crate::exchange) length: Option<u64>,
    pub(in crate::exchange) bytes_max: u64,
    pub(in crate::exchange) key_bytes_max: Option<u64>,
    /// The type that the uploader declares.
    pub(in crate::exchange) mime: Option<String>,
    /// The extension in the path or URL, from which the type is told if nothing else tells it.
    pub(in crate::exchange) extension: Option<String>,
    pub(in crate::exchange) media: Option<Media>,
    /// The relay wants it, from these URLs.
    pub(in crate::exchange) pull: Option<Vec<String>>,
    /// What it costs if it is not here already.
    pub(in crate::exchange) price: Option<Price>,
    /// It was here, so that nobody has asked what it costs: it is taken only if it still is.
    pub(in crate::exchange) must_be_here: bool,
}

impl Plan {
    /// The type before the bytes are seen.
    pub(super) fn first_mime(&self) -> String {
        self.mime.clone().or_else(|| self.mime_of_extension()).unwrap_or_else(|| mime::UNKNOWN.to_owned())
    }

    /// [`Plan::first_mime`], or unknown if the settings refuse that type: one guessed from the extension has not been checked before.
    pub(super) fn taken_mime(&self, context: &Context<'_>) -> String {
        let mime = Some(self.first_mime()).filter(|mime| mime::is_taken(context.settings, mime));
        mime.unwrap_or_else(|| mime::UNKNOWN.to_owned())
    }

    /// What the index is asked.
    pub(super) fn wanted(&self, context: &Context<'_>) -> Wanted {
        let (known, size) = (self.expected.known(), self.length.unwrap_or(0));
        let wanted = wanted(context, self.owner.clone(), known, size, self.taken_mime(context));
        Wanted { key_bytes_max: self.key_bytes_max, must_be_paid: self.must_be_paid(), ..wanted }
    }

    /// Whether it costs something if it is not here.
    pub(super) fn must_be_paid(&self) -> bool {
        self.price.is_some() || self.must_be_here
    }

    pub(super) fn mime_of_extension(&self) -> Option<String> {
        self.extension.as_deref().and_then(mime::of_extension).map(str::to_owned)
    }

    /// The type of received bytes: the declared one or their origin's, unless their first bytes show a more precise
    /// one; else what the first bytes show; else by the extension. Bytes that were stored already keep their type.
    pub(super) fn mime_of(&self, received: &Received) -> String {
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
pub(in crate::exchange) fn wanted(
    context: &Context<'_>,
    owner: String,
    sha256: Option<Sha256>,
    size: u64,
    mime: String,
) -> Wanted {
    let settings = context.settings;
    let Lifetime { expires_at, unused_seconds } = lifetime(context, &mime, size);
    let pays = |owner: PubKey| !payment::is_free(context, &owner);
    let owner_pays = settings.payment.sells_uploads() && owner.parse().is_ok_and(pays);
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
        must_be_paid: false,
        owner_pays,
        proof: None,
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
pub(in crate::exchange) fn receive(
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
pub(in crate::exchange) fn commit(
    context: &Context<'_>,
    upload: u64,
    received: &Received,
    mime: String,
    media: Option<Media>,
) -> Commit {
    let Received { sha256, size, uploaded, .. } = *received;
    let Lifetime { expires_at, unused_seconds } = lifetime(context, &mime, size);
    let retention = context.settings.retention.clone();
    Commit {
        upload,
        sha256,
        size,
        mime,
        uploaded,
        expires_at,
        unused_seconds,
        retention,
        media,
        is_unpaid: false,
    }
}

/// The type that an owner of a blob declares, if nobody knew it.
pub(in crate::exchange) fn missing_type(blob: &Blob, declared: &str) -> Option<String> {
    let is_missing = mime::essence(&blob.mime) == mime::UNKNOWN && mime::essence(declared) != mime::UNKNOWN;
    is_missing.then(|| declared.to_owned())
}

/// Whether bytes of this type are taken. A list of refused types holds for what their beginning tells, too, whatever their uploader
/// says.
///
/// # Errors
/// 415.
pub(in crate::exchange) fn bytes_are_taken(
    context: &Context<'_>,
    mime: &str,
    first: &[u8],
) -> Result<(), Response> {
    request::type_is_taken(context, mime)?;
    let sniffed = mime::sniff(first)
        .filter(|sniffed| context.settings.deny_types.iter().any(|denied| mime::fits(denied, sniffed)));
    sniffed.map_or(Ok(()), |sniffed| request::type_is_taken(context, sniffed))
}
