//! Rules, their strengths, and running them.

use std::fmt;
use std::io;
use std::time::Duration;

use serde::Serialize;

use crate::context::Context;
use crate::nostr::Key;

/// How strong a rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Strength {
    /// A MUST or MUST NOT of a BUD. A failure makes the exit code 1.
    Must,
    /// What keeps users, blobs and the server from harm, in no BUD or RFC. A failure makes the exit code 1.
    Safety,
    /// A SHOULD of a BUD: its status codes, among others.
    Should,
    /// A rule of HTTP: RFC 9110 or 9112.
    Http,
    /// What users and their clients need.
    Practice,
}

impl Strength {
    /// Every strength, the strongest first.
    pub const ALL: [Strength; 5] =
        [Strength::Must, Strength::Safety, Strength::Should, Strength::Http, Strength::Practice];
}

impl fmt::Display for Strength {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Strength::Must => "MUST",
            Strength::Safety => "SAFETY",
            Strength::Should => "SHOULD",
            Strength::Http => "HTTP",
            Strength::Practice => "PRACTICE",
        })
    }
}

/// Why a rule was not kept, or could not be tested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TestError {
    /// The rule is broken; what was sent and seen.
    Fail(String),
    /// The server does not offer this, or the suite lacks something; which.
    Skip(String),
}

impl From<io::Error> for TestError {
    fn from(error: io::Error) -> Self {
        TestError::Fail(error.to_string())
    }
}

/// The result of testing one rule.
pub type Check = Result<(), TestError>;

/// A failure, as a value to return.
pub(crate) fn fail<T>(text: impl Into<String>) -> Result<T, TestError> {
    Err(TestError::Fail(text.into()))
}

/// A skip, as a value to return.
pub(crate) fn skip<T>(text: impl Into<String>) -> Result<T, TestError> {
    Err(TestError::Skip(text.into()))
}

/// Fails with `text` unless `holds`.
pub(crate) fn ensure(holds: bool, text: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { fail(text()) }
}

/// One rule and its test.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Unique, for `--only` and for reports.
    pub id: &'static str,
    /// Where it is written (`BUD-11 Validation 3`, `RFC 9110 14.2`); of rules that are in no document, the BUD of the endpoint and a
    /// topic of ours (`BUD-02 integrity`).
    pub section: &'static str,
    /// How strong it is.
    pub strength: Strength,
    /// What is true of a server that keeps it.
    pub says: &'static str,
    pub(crate) test: fn(&Context) -> Check,
}

pub(crate) const fn rule(
    id: &'static str,
    section: &'static str,
    strength: Strength,
    says: &'static str,
    test: fn(&Context) -> Check,
) -> Rule {
    Rule { id, section, strength, says, test }
}

impl Rule {
    /// The document that the rule is in: `BUD-11`, `RFC 9110`.
    #[must_use]
    pub fn document(&self) -> &'static str {
        let words = if self.section.starts_with("RFC") { 2 } else { 1 };
        let end = self.section.match_indices(' ').nth(words - 1).map_or(self.section.len(), |(at, _)| at);
        &self.section[..end]
    }
}

/// Every rule, in the order in which they are tested.
#[must_use]
pub fn rules() -> Vec<Rule> {
    crate::rules::all()
}

/// How to run the suite.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server's base URL.
    pub url: String,
    /// A key that may upload; a random one if there is none.
    pub key: Option<Key>,
    /// A second key that may upload, for blobs of two owners.
    pub second_key: Option<Key>,
    /// Where to listen for mirror requests: `host:port`, with port 0 for a free one.
    pub callback: String,
    /// Another Blossom server, for mirroring from.
    pub mirror_origin: Option<String>,
    /// The server is set up to fetch from private addresses.
    pub private_allowed: bool,
    /// Size of the large blob in bytes.
    pub large_blob_bytes: usize,
    /// Only rules whose id, section or text contains this.
    pub only: Option<String>,
    /// Only the rules with these ids; all if it is empty.
    pub ids: Vec<String>,
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// The pause between the pieces of a slow body.
    pub body_pause: Duration,
}

impl Options {
    /// The defaults of the command line.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Options {
            url: url.to_owned(),
            key: None,
            second_key: None,
            callback: "127.0.0.1:0".to_owned(),
            mirror_origin: None,
            private_allowed: false,
            large_blob_bytes: 8 << 20,
            only: None,
            ids: Vec::new(),
            timeout: Duration::from_secs(10),
            body_pause: Duration::from_millis(400),
        }
    }

    /// Whether a rule is to be tested.
    #[must_use]
    pub fn choose(&self, rule: &Rule) -> bool {
        let contains = |text: &str| {
            let holds = |part: &&str| part.to_ascii_lowercase().contains(&text.to_ascii_lowercase());
            [rule.id, rule.section, rule.says].iter().any(holds)
        };
        (self.ids.is_empty() || self.ids.iter().any(|id| id == rule.id))
            && self.only.as_deref().is_none_or(contains)
    }
}

/// What came of one rule.
#[derive(Clone, Debug)]
pub struct Tested {
    /// The rule.
    pub rule: Rule,
    /// Kept, broken or not tested.
    pub result: Check,
}

/// Tests the chosen rules one after the other and removes the blobs that it has uploaded.
///
/// `each` is told of every rule when it has been tested.
///
/// # Errors
/// If the server cannot be reached, or the callback address cannot be listened on.
pub fn run(options: &Options, mut each: impl FnMut(&Tested)) -> io::Result<Vec<Tested>> {
    let context = Context::new(options.clone())?;
    let mut tested = Vec::new();
    for rule in rules().into_iter().filter(|rule| options.choose(rule)) {
        let one = Tested { rule, result: (rule.test)(&context) };
        each(&one);
        tested.push(one);
    }
    context.clean_up();
    Ok(tested)
}
