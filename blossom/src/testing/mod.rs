//! For tests of this crate and of others: an SQLite database and a host in memory.

mod host;

pub use host::{Host, Object, Origins, Processor, Reply, Request};
pub use relay_engine::testing::Sqlite;
