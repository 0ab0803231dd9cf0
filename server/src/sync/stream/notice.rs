//! What operators are told: lines for people on standard error, or JSON lines on standard output.

use std::io::{self, Write as _};
use std::sync::Arc;

use serde_json::json;

use super::counts::StreamCounts;
use crate::cli::database::unix_now;

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A connection is open.
    Connected,
    /// What was missed has been copied.
    Synced,
    /// Something else, in words.
    Said,
    /// A connection has ended, or could not be opened.
    Disconnected,
    /// The relay is left alone for longer, because of what it does.
    CutOff,
    /// The relay is not followed any more.
    Ended,
    /// The configuration was read again, or is wrong.
    Configuration,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            What::Connected => "connected",
            What::Synced => "synced",
            What::Said => "said",
            What::Disconnected => "disconnected",
            What::CutOff => "cut_off",
            What::Ended => "ended",
            What::Configuration => "configuration",
        }
    }
}

/// Where what has happened is told.
#[derive(Clone)]
pub(crate) struct Output(Arc<dyn Fn(&str, &str, What, &str, Option<&StreamCounts>) + Send + Sync>);

impl Output {
    /// Lines for people.
    pub(crate) fn lines() -> Self {
        Output(Arc::new(|stream, url, what, words, counts| {
            let about = [stream, url]
                .iter()
                .filter(|word| !word.is_empty())
                .fold(String::new(), |all, word| format!("{all}{word}: "));
            let ended = if what == What::Ended { "ended: " } else { "" };
            let counts = counts.map(|counts| format!("{}", counts.words())).unwrap_or_default();
            let separator = if words.is_empty() || counts.is_empty() { "" } else { "; " };
            let _ = writeln!(io::stderr(), "{about}{ended}{words}{separator}{counts}");
        }))
    }

    /// A JSON object a line.
    pub(crate) fn json() -> Self {
        Output(Arc::new(|stream, url, what, words, counts| {
            let mut line = json!({ "at": unix_now(), "what": what.name() });
            for (name, value) in [("stream", stream), ("url", url), ("words", words)] {
                if !value.is_empty() {
                    line[name] = value.into();
                }
            }
            if let Some(counts) = counts {
                line["counts"] = json!(counts);
            }
            let _ = writeln!(io::stdout().lock(), "{line}");
        }))
    }

    /// A function is called with: what, and the words.
    #[cfg(test)]
    pub(super) fn of_test(tell: impl Fn(What, &str) + Send + Sync + 'static) -> Self {
        Output(Arc::new(move |_, _, what, words, _| tell(what, words)))
    }

    /// About one relay of a stream.
    pub(super) fn about(&self, stream: &str, url: &str) -> Teller {
        Teller { output: self.clone(), stream: stream.to_owned(), url: url.to_owned() }
    }

    /// About everything.
    pub(crate) fn tell(&self, what: What, words: &str) {
        (self.0)("", "", what, words, None);
    }
}

/// Tells about one relay of a stream.
#[derive(Clone)]
pub(super) struct Teller {
    output: Output,
    stream: String,
    url: String,
}

impl Teller {
    pub(super) fn tell(&self, what: What, words: &str, counts: Option<&StreamCounts>) {
        (self.output.0)(&self.stream, &self.url, what, words, counts);
    }
}
