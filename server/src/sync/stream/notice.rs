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
    /// Something else; the message tells what.
    Notice,
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
            What::Notice => "notice",
            What::Disconnected => "disconnected",
            What::CutOff => "cut_off",
            What::Ended => "ended",
            What::Configuration => "configuration",
        }
    }
}

/// One line.
struct Line<'a> {
    /// The stream and the URL of the relay that it is about; empty if it is about everything.
    stream: &'a str,
    url: &'a str,
    what: What,
    message: &'a str,
    counts: Option<&'a StreamCounts>,
}

/// Where what has happened is told.
#[derive(Clone)]
pub(crate) struct Output(Arc<dyn Fn(&Line<'_>) + Send + Sync>);

impl Output {
    /// Lines for people.
    pub(crate) fn lines() -> Self {
        Output(Arc::new(|line| {
            let mut text = String::new();
            for about in [line.stream, line.url] {
                if !about.is_empty() {
                    text += about;
                    text += ": ";
                }
            }
            if line.what == What::Ended {
                text += "ended: ";
            }
            text += line.message;
            if let Some(counts) = line.counts {
                text += &counts.words();
            }
            let _ = writeln!(io::stderr(), "{text}");
        }))
    }

    /// A JSON object a line.
    pub(crate) fn json() -> Self {
        Output(Arc::new(|line| {
            let mut document = json!({ "at": unix_now(), "what": line.what.name() });
            for (name, value) in [("stream", line.stream), ("url", line.url), ("message", line.message)] {
                if !value.is_empty() {
                    document[name] = value.into();
                }
            }
            if let Some(counts) = line.counts {
                document["counts"] = json!(counts);
            }
            let _ = writeln!(io::stdout().lock(), "{document}");
        }))
    }

    /// A function is called with: what, and the message.
    #[cfg(test)]
    pub(super) fn of_test(tell: impl Fn(What, &str) + Send + Sync + 'static) -> Self {
        Output(Arc::new(move |line| tell(line.what, line.message)))
    }

    /// About one relay of a stream.
    pub(super) fn about(&self, stream: &str, url: &str) -> Teller {
        Teller { output: self.clone(), stream: stream.to_owned(), url: url.to_owned() }
    }

    /// About everything.
    pub(crate) fn tell(&self, what: What, message: &str) {
        (self.0)(&Line { stream: "", url: "", what, message, counts: None });
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
    pub(super) fn tell(&self, what: What, message: &str, counts: Option<&StreamCounts>) {
        (self.output.0)(&Line { stream: &self.stream, url: &self.url, what, message, counts });
    }
}
