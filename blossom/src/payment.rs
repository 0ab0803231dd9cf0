//! The payment interface (BUD-07) between Blossom and a wallet. Without a wallet everything is free.

use std::fmt;

use relay_engine::types::PubKey;

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purchase<'a> {
    /// The operation.
    pub operation: Operation,
    /// The bytes that are uploaded or downloaded.
    pub size: u64,
    /// The hash of the blob in hexadecimal, if it is known.
    pub sha256: Option<&'a str>,
    /// Who asks, if a token says so.
    pub pubkey: Option<PubKey>,
}

/// An operation that may cost something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `GET` and `HEAD` of a blob.
    Download,
    /// `PUT` and `HEAD` of `/upload`, `PUT` of a hash.
    Upload,
    /// `PATCH`: a blob in parts. Its size is the blob's, and it is paid once: before the first part comes.
    UploadPart,
    /// `PUT /mirror`. The size is not known, 0.
    Mirror,
    /// `PUT` and `HEAD` of `/media`.
    Media,
}

/// A way to pay: its header, and the invoice or token request in it, or the proof that it was paid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    /// The header.
    pub method: Method,
    /// Its value.
    pub value: String,
}

/// A payment method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `X-Cashu` (NUT-24).
    Cashu,
    /// `X-Lightning` (BOLT-11; the proof is the preimage in hexadecimal).
    Lightning,
}

impl Method {
    /// All methods.
    pub const ALL: [Method; 2] = [Method::Cashu, Method::Lightning];

    /// The header in lowercase.
    pub fn header(self) -> &'static str {
        match self {
            Method::Cashu => "x-cashu",
            Method::Lightning => "x-lightning",
        }
    }
}

/// A wallet, as far as Blossom sees it.
pub trait Payments: fmt::Debug + Send + Sync {
    /// The ways to pay for this, at least one; empty if it is free.
    fn quote(&self, purchase: &Purchase<'_>) -> Vec<Payment>;

    /// Checks a proof of payment. It is called at most once for a request, when nothing else is in the way of it: the index has
    /// accepted an upload, a blob is there for a download. Nothing is asked for an upload of a blob that is here.
    ///
    /// # Errors
    /// Why it is not taken, for the client.
    fn check(&self, purchase: &Purchase<'_>, proof: &Payment) -> Result<(), String>;
}
