//! Why attempts fail: causes for metrics, messages for customers, details for owners.

use super::{ExecutorError, HttpError};

/// The causes of failures that executors report: labels of a metric.
pub const CAUSES: [&str; 11] = [
    cause::INPUT,
    cause::SECRET,
    cause::ADDRESS,
    cause::CONNECTION,
    cause::TIMEOUT,
    cause::RESPONSE_SIZE,
    cause::HTTP_STATUS,
    cause::RATE_LIMITED,
    cause::RESPONSE,
    cause::REFUSED,
    cause::OUTPUT_SIZE,
];

/// The values of [`ExecutorError::cause`].
pub mod cause {
    /// The inputs or parameters are of no use to the executor.
    pub const INPUT: &str = "input";
    /// A secret is missing, or the endpoint does not accept it.
    pub const SECRET: &str = "secret";
    /// The address of the endpoint is not allowed, or this host makes no such calls.
    pub const ADDRESS: &str = "address";
    /// No connection, or it broke.
    pub const CONNECTION: &str = "connection";
    /// The time was over.
    pub const TIMEOUT: &str = "timeout";
    /// The response is larger than allowed.
    pub const RESPONSE_SIZE: &str = "response_size";
    /// The endpoint answered with a status that is not 2xx.
    pub const HTTP_STATUS: &str = "http_status";
    /// The endpoint says that it is called too often.
    pub const RATE_LIMITED: &str = "rate_limited";
    /// The response is not what the protocol says.
    pub const RESPONSE: &str = "response";
    /// The endpoint understood and refused, or its tool failed.
    pub const REFUSED: &str = "refused";
    /// The result is larger than the agent's limit.
    pub const OUTPUT_SIZE: &str = "output_size";
}

impl ExecutorError {
    /// Another attempt would fail likewise.
    pub(super) fn fatal(cause: &'static str, message: impl Into<String>, detail: impl Into<String>) -> Self {
        ExecutorError {
            message: message.into(),
            detail: detail.into(),
            cause,
            is_retryable: false,
            retry_after: None,
        }
    }

    /// Another attempt may succeed.
    pub(super) fn retryable(
        cause: &'static str,
        message: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        ExecutorError { is_retryable: true, ..ExecutorError::fatal(cause, message, detail) }
    }

    /// The result has `bytes` bytes or more, which is over the agent's limit.
    pub(super) fn output_size(bytes: usize, max: usize) -> Self {
        ExecutorError::fatal(
            cause::OUTPUT_SIZE,
            format!("the result is larger than {max} bytes"),
            format!("the result has {bytes} bytes or more, limits.output_bytes is {max}"),
        )
    }

    /// A call to `endpoint` (for the owner's log) has failed.
    pub(super) fn of_http_error(error: HttpError, endpoint: &str) -> Self {
        let unreachable = "the agent's backend cannot be reached";
        match error {
            HttpError::Forbidden(why) => {
                ExecutorError::fatal(cause::ADDRESS, unreachable, format!("{endpoint}: not allowed: {why}"))
            }
            HttpError::Unsupported => ExecutorError::fatal(
                cause::ADDRESS,
                unreachable,
                format!("{endpoint}: this host cannot call it"),
            ),
            HttpError::Connection(why) => {
                ExecutorError::retryable(cause::CONNECTION, unreachable, format!("{endpoint}: {why}"))
            }
            HttpError::Timeout => ExecutorError::retryable(
                cause::TIMEOUT,
                "the agent's backend took too long",
                format!("{endpoint}: time-out"),
            ),
            HttpError::TooLarge => ExecutorError::fatal(
                cause::RESPONSE_SIZE,
                "the answer of the agent's backend is too large",
                format!("{endpoint}: the response is larger than allowed"),
            ),
        }
    }
}
