//! Exit codes that scripts can trust.

use std::fmt;
use std::io;
use std::process::ExitCode;

use relay_engine::store::StoreError;

use crate::lmdb::OpenError;

/// Why a command did not do all it was asked.
///
/// | code | meaning |
/// |---|---|
/// | 0 | everything was done |
/// | 1 | some of the input was refused; the rest was done |
/// | 2 | the command line, the configuration or a filter is wrong; nothing was done |
/// | 3 | the database, a file or a socket failed |
/// | 130 | ended by a signal before everything was done |
#[derive(Debug)]
pub enum Failure {
    /// Some input was refused; it has been said which.
    Refused,
    /// Wrong usage, in words.
    Usage(String),
    /// Storage, files or sockets failed, in words.
    Storage(String),
    /// A signal came before everything was done; it has been said how far it got.
    Interrupted,
}

impl Failure {
    /// The exit code.
    pub fn code(&self) -> ExitCode {
        match self {
            Failure::Refused => ExitCode::from(1),
            Failure::Usage(_) => ExitCode::from(2),
            Failure::Storage(_) => ExitCode::from(3),
            Failure::Interrupted => ExitCode::from(130),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused => f.write_str("some of the input was refused"),
            Failure::Interrupted => f.write_str("ended by a signal"),
            Failure::Usage(words) | Failure::Storage(words) => f.write_str(words),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Failure::Storage(error.to_string())
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Failure::Storage(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Storage(error.to_string())
    }
}
