//! For tests of this crate and of others: an SQLite database in memory, a host that plays the relay, executors that do what
//! the test says, and customers, who read answers.

mod answer;
mod customer;
mod executors;
mod host;

pub use answer::{JobAnswer, JobAnswerError, Status, read_answer};
pub use customer::{Customer, Request};
pub use executors::{EXECUTOR_URL, calling_executor};
pub use host::{BLOSSOM_URL, FakeHost, StoredBlob, answers};
pub use relay_engine::testing::Sqlite;
