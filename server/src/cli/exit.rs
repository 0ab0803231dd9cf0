//! Exit codes of the commands.

use std::fmt;
use std::io;
use std::process::ExitCode;

use relay_engine::store::StoreError;

use crate::lmdb::OpenError;
use crate::log_store::LogOpenError;

/// Why a command failed, or did only a part of its work.
///
/// | code | meaning |
/// |---|---|
/// | 0 | everything was done |
/// | 1 | some of the input was refused or broken, the rest was done; or a relay refused what it was asked or sent |
/// | 2 | the command line, the configuration or a filter is wrong; nothing was done |
/// | 3 | the database, a file or a socket failed, or another relay |
/// | 130 | ended by a signal before everything was done |
#[derive(Debug)]
pub enum Failure {
    /// Something was refused; the reason has been printed already.
    Refused,
    /// Wrong usage, with a message.
    Usage(String),
    /// Storage, a file or the network failed, with a message.
    External(String),
    /// A signal ended the command; how far it came has been printed.
    Interrupted,
}

impl Failure {
    /// The exit code.
    pub fn code(&self) -> ExitCode {
        match self {
            Failure::Refused => ExitCode::from(1),
            Failure::Usage(_) => ExitCode::from(2),
            Failure::External(_) => ExitCode::from(3),
            Failure::Interrupted => ExitCode::from(130),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused => f.write_str("some of the input was refused"),
            Failure::Interrupted => f.write_str("ended by a signal"),
            Failure::Usage(message) | Failure::External(message) => f.write_str(message),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Failure::External(error.to_string())
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Failure::External(error.to_string())
    }
}

impl From<LogOpenError> for Failure {
    fn from(error: LogOpenError) -> Self {
        Failure::External(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::External(error.to_string())
    }
}
