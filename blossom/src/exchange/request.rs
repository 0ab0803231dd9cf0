//! What heads say: names of blobs, lengths, types, tokens; and what follows: permission.

use relay_engine::types::PubKey;
use relay_site::nip98::ServerUrl;
use relay_site::{Operation, authorization};

use super::payment::Price;
use super::response::Response;
use super::step::Uploader;
use super::{Context, Head};
use crate::blob::Sha256;
use crate::mime;
use crate::token::{Token, Verb};

/// The hash and the extension in `{blob}`.
///
/// # Errors
/// 404 if it is no hash, 400 if it was meant to be one.
pub(super) fn blob(param: Option<&str>) -> Result<(Sha256, Option<&str>), Response> {
    let param = param.unwrap_or_default();
    let (stem, extension) = match param.split_once('.') {
        Some((stem, extension)) => (stem, Some(extension)),
        None => (param, None),
    };
    let Ok(sha256) = stem.parse() else {
        let is_hex = stem.len() >= 32 && stem.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_long = stem.len() == 64 && stem.bytes().all(|byte| byte.is_ascii_alphanumeric());
        return Err(match is_hex || is_long {
            true => Response::error(400, "a blob's name is its SHA-256 as 64 lowercase hexadecimal digits"),
            false => Response::error(404, "not found"),
        });
    };
    let is_plain = |text: &str| {
        (1..=32).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte))
    };
    match extension {
        Some(extension) if !is_plain(extension) => Err(Response::error(400, "the extension is malformed")),
        _ => Ok((sha256, extension)),
    }
}

/// A number of bytes in a header.
///
/// # Errors
/// 411 without it, 400 if it is no number, 413 if it is more than `bytes_max`.
pub(super) fn length(head: &Head, name: &str, bytes_max: u64) -> Result<u64, Response> {
    let Some(value) = head.header(name) else {
        return Err(Response::error(411, &format!("{name} is required")));
    };
    let length =
        number(value).ok_or_else(|| Response::error(400, &format!("{name} is not a number of bytes")))?;
    fits(length, bytes_max)?;
    Ok(length)
}

/// Whether a blob may have that many bytes.
///
/// # Errors
/// 413.
pub(super) fn fits(length: u64, bytes_max: u64) -> Result<(), Response> {
    if length > bytes_max {
        let message = format!("the blob has {length} bytes, and the most here is {bytes_max}");
        return Err(Response::error(413, &message));
    }
    Ok(())
}

/// A number in decimal digits; one beyond `u64` counts as the largest.
pub(super) fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

/// The type that a header declares.
///
/// # Errors
/// 400 if it is none.
pub(super) fn declared_type(head: &Head, name: &str) -> Result<Option<String>, Response> {
    let value = head.header(name).filter(|value| !value.trim().is_empty());
    value
        .map(mime::parse)
        .transpose()
        .map_err(|_| Response::error(400, &format!("{name} is not a MIME type")))
}

/// Whether blobs of this type are taken.
///
/// # Errors
/// 415.
pub(super) fn type_is_taken(context: &Context<'_>, mime: &str) -> Result<(), Response> {
    match mime::is_taken(context.settings, mime) {
        true => Ok(()),
        false => Err(Response::error(415, &format!("blobs of type {} are not taken", mime::essence(mime)))),
    }
}

/// The token of a request.
///
/// # Errors
/// 401.
pub(super) fn token(context: &Context<'_>, head: &Head, verb: Verb) -> Result<Token, Response> {
    let header = head.header("authorization");
    Ok(Token::check(header, verb, server_url(context), context.now, context.verifier)?)
}

/// The URL that `server` tags of tokens name, if this server knows its own.
pub(crate) fn server_url<'a>(context: &Context<'a>) -> Option<&'a str> {
    match context.origin {
        // A loopback host can be believed: no other server can be meant by it.
        ServerUrl::Host(host) if !authorization::is_loopback(host) => None,
        ServerUrl::Host(_) | ServerUrl::Url(_) => Some(context.base_url),
    }
}

/// Whether a key may upload.
///
/// # Errors
/// 403.
pub(super) fn may_upload(context: &Context<'_>, pubkey: &PubKey) -> Result<(), Response> {
    let keys = &context.keys;
    if keys.denied.contains(pubkey) {
        return Err(Response::error(403, "this key may not upload here"));
    }
    if is_listed(context, pubkey) || is_open(context) {
        return Ok(());
    }
    Err(Response::error(403, "only keys that the operator has listed may upload here"))
}

/// Whether a request may download a blob: any request if blobs are public, else one with a token (BUD-11) of a key that may upload without
/// paying. Where uploads cost something, other keys may download what they own; then the key is returned, and the caller checks that.
///
/// # Errors
/// 401, 403.
pub(super) fn may_download(
    context: &Context<'_>,
    head: &Head,
    sha256: &Sha256,
) -> Result<Option<PubKey>, Response> {
    let settings = context.settings;
    if settings.get_public {
        return Ok(None);
    }
    let token = token(context, head, Verb::Get)?;
    // `x` tags are optional here, and hold if there are any.
    if !token.hashes.is_empty() {
        token.names(sha256)?;
    }
    let key = token.pubkey;
    match context.keys.denied.contains(&key) {
        true => Err(not_for_this_key()),
        false if is_listed(context, &key) || settings.open.unwrap_or(context.is_local) => Ok(None),
        false if settings.payment.sells_uploads() => Ok(Some(key)),
        false => Err(not_for_this_key()),
    }
}

/// 403 of a download.
pub(super) fn not_for_this_key() -> Response {
    Response::error(403, "this key may not download here")
}

/// Whether the operator has listed a key that may upload.
pub(super) fn is_listed(context: &Context<'_>, pubkey: &PubKey) -> bool {
    let keys = &context.keys;
    keys.admins.contains(pubkey)
        || context.settings.upload_pubkeys.contains(pubkey)
        || keys.allowed.is_some_and(|allowed| allowed.contains(pubkey))
}

/// Who brings bytes for this key.
pub(super) fn uploader(context: &Context<'_>, owner: &str) -> Uploader {
    let is_listed = PubKey::from_hex(owner.as_bytes()).is_ok_and(|pubkey| is_listed(context, &pubkey));
    Uploader { pubkey: owner.to_owned(), is_listed }
}

/// Whether anybody may upload, perhaps for money.
pub(crate) fn is_open(context: &Context<'_>) -> bool {
    let settings = context.settings;
    settings.open.unwrap_or(context.is_local || settings.payment.sells_uploads())
}

/// What the head of an upload says.
#[derive(Clone, Debug)]
pub(super) struct UploadHead {
    /// Whose it is.
    pub(super) token: Token,
    /// The hash in `X-SHA-256` or the path.
    pub(super) sha256: Option<Sha256>,
    /// Bytes.
    pub(super) length: u64,
    /// The declared type.
    pub(super) mime: Option<String>,
    /// What it costs, if it does.
    pub(super) price: Option<Price>,
}

/// Which headers describe an upload, and what it is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct UploadHeaders {
    pub(super) length: &'static str,
    pub(super) mime: &'static str,
    pub(super) verb: Verb,
    pub(super) operation: Operation,
    pub(super) bytes_max: u64,
    /// The hash in the path.
    pub(super) path: Option<Sha256>,
}

impl UploadHead {
    /// Checks all that the head tells of an upload, cheap things first.
    ///
    /// # Errors
    /// The response.
    pub(super) fn read(context: &Context<'_>, head: &Head, by: &UploadHeaders) -> Result<Self, Response> {
        let header = head.header("x-sha-256").map(|value| value.trim().parse::<Sha256>()).transpose();
        let header = header.map_err(|error| Response::error(400, &format!("X-SHA-256 {error}")))?;
        if let (Some(path), Some(header)) = (by.path, header)
            && path != header
        {
            return Err(Response::error(409, "X-SHA-256 is not the hash in the path"));
        }
        let sha256 = by.path.or(header);
        let length = length(head, by.length, by.bytes_max)?;
        let mime = declared_type(head, by.mime)?;
        let token = token(context, head, by.verb)?;
        match &sha256 {
            Some(sha256) => token.names(sha256)?,
            None if token.hashes.is_empty() => return Err(crate::token::TokenError::NoHash.into()),
            None => {}
        }
        may_upload(context, &token.pubkey)?;
        if let Some(mime) = &mime {
            type_is_taken(context, mime)?;
        }
        let known = sha256.or_else(|| token.only_hash());
        let price = Price::of_upload(context, head, by.operation, length, known, &token.pubkey)?;
        Ok(UploadHead { token, sha256, length, mime, price })
    }

    /// The hash, if it is known before the bytes.
    pub(super) fn known(&self) -> Option<Sha256> {
        self.sha256.or_else(|| self.token.only_hash())
    }
}
