//! One request, from its head to its response. [`Exchange::begin`] gives the first [`Step`]; the host carries it out and gives
//! what came of it to [`Exchange::resume`], until [`Step::Respond`].

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use relay_engine::types::{PubKey, Timestamp};
use relay_engine::verify::Verifier;
use relay_site::{BlossomRoute, BlossomSettings};

use crate::blob::{Blob, Media, Sha256};
use crate::index::{Command, Key, Outcome, Part};

/// What a request is judged by.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The settings of Blossom.
    pub settings: &'a BlossomSettings,
    /// The relay's lists of keys.
    pub keys: Keys<'a>,
    /// Where this server is reached, without a slash at the end: `https://cdn.example.com`. If no URL is configured, the host
    /// that the request names.
    pub base_url: &'a str,
    /// Whether only this machine can reach the server.
    pub is_local: bool,
    /// Unix seconds.
    pub now: Timestamp,
    /// For tokens.
    pub verifier: &'a dyn Verifier,
}

/// The relay's lists of keys, from its policy.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a> {
    /// Administrators: `policy.admin_pubkeys`, and on the server the owner's key in the data folder.
    pub admins: &'a [PubKey],
    /// Keys that may publish, if not all may: `policy.allow_pubkeys`.
    pub allowed: Option<&'a [PubKey]>,
    /// Keys that may not: `policy.deny_pubkeys`.
    pub denied: &'a [PubKey],
}

/// The head of a request.
#[derive(Clone, Debug)]
pub struct Head {
    /// What is asked for.
    pub route: BlossomRoute,
    /// In uppercase.
    pub method: String,
    /// From the first slash on, with the query, as it was sent.
    pub path_and_query: String,
    /// The variable part of the path: `{blob}`, `{pubkey}` or `{sha256}`.
    pub param: Option<String>,
    /// Names in lowercase, and values; one line for each.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The value of a header, if there is exactly one line of it or the first of several.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// The query, without the question mark.
    pub fn query(&self) -> &str {
        self.path_and_query.split_once('?').map_or("", |(_, query)| query)
    }
}

/// What a host does next. After any step but the last it calls [`Exchange::resume`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask the index: [`Input::Answered`].
    Ask(Command),
    /// Read the request's body, which is short: [`Input::Body`] or [`Input::Failed`].
    Read {
        /// Most bytes.
        bytes_max: u64,
    },
    /// Store the request's body: [`Input::Received`] or [`Input::Failed`].
    Receive(Receive),
    /// Fetch a URL, following at most three redirects, and store what comes: [`Input::Received`] or [`Input::Failed`].
    Fetch {
        /// The first of these that answers with success.
        urls: Vec<String>,
        /// How to store it.
        receive: Receive,
    },
    /// Store these bytes: [`Input::Received`] or [`Input::Failed`].
    Put {
        /// The bytes.
        bytes: Bytes,
        /// How to store them.
        receive: Receive,
    },
    /// Give staged bytes their final key: [`Input::Done`] or [`Input::Failed`].
    Promote {
        /// Where they are.
        from: Key,
        /// Where they belong.
        to: Key,
        /// Their type.
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
    /// Remove staged bytes; nothing is expected but [`Input::Done`].
    Discard(Key),
    /// Fetch the list of servers (kind 10063) of these keys from the relay: [`Input::Servers`].
    FindServers {
        /// Public keys in hexadecimal.
        authors: Vec<String>,
    },
    /// Respond; the exchange is over.
    Respond(Response),
}

/// How bytes are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receive {
    /// Under which key; they are visible there only when all of them have come and the hash is right.
    pub key: Key,
    /// The hash that they must have.
    pub sha256: Option<Sha256>,
    /// How many they must be, if that is known.
    pub length: Option<u64>,
    /// Most bytes.
    pub bytes_max: u64,
    /// Their type as declared, kept with the object where the store can.
    pub mime: String,
    /// When retention removes them, in Unix seconds, kept likewise.
    pub expires_at: Option<u64>,
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The index has answered.
    Answered(Outcome),
    /// A short body, complete.
    Body(Bytes),
    /// Bytes are stored.
    Received(Received),
    /// A picture is stripped.
    Processed(Processed),
    /// It is done.
    Done,
    /// URLs of servers (kind 10063).
    Servers(Vec<String>),
    /// It has failed, and nothing is stored.
    Failed(Failure),
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
    /// The type that the origin of a mirrored blob declares.
    pub mime: Option<String>,
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
    /// A smaller picture (bytes and type).
    pub thumbnail: Option<(Bytes, String)>,
}

/// Why a step has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The body is longer than allowed.
    TooLong,
    /// The body ended before its length, or its client left.
    Incomplete,
    /// No data for too long.
    Stalled,
    /// The hash is not the expected one.
    WrongHash,
    /// The disk is full.
    Full,
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

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lowercase, and values. `content-length` is among them where the body is not empty or the response is to HEAD.
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
    /// The body. Never sent to HEAD.
    pub body: Body,
}

/// The body of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// In memory.
    Bytes(Bytes),
    /// A stored blob, or a range of it.
    Blob {
        /// The blob.
        blob: Box<Blob>,
        /// Bytes of it, not empty; all without it.
        range: Option<Range<u64>>,
    },
}

/// A request under way.
#[derive(Debug)]
pub struct Exchange {
    head: Head,
}

impl Exchange {
    /// Reads the head of a request.
    pub fn begin(context: &Context<'_>, head: Head) -> (Self, Step) {
        let _ = context.now;
        let answer = relay_site::Answer::error(501, "not implemented");
        let response =
            Response { status: answer.status, headers: answer.headers, body: Body::Bytes(answer.body) };
        (Exchange { head }, Step::Respond(response))
    }

    /// Goes on with what came of the last step.
    pub fn resume(&mut self, context: &Context<'_>, input: Input) -> Step {
        let (_, _, _) = (&self.head, context.now, input);
        let answer = relay_site::Answer::error(500, "internal error");
        Step::Respond(Response {
            status: answer.status,
            headers: answer.headers,
            body: Body::Bytes(answer.body),
        })
    }
}
