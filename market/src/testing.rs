//! For tests of this crate and of others: an SQLite database in memory.

pub use relay_engine::testing::Sqlite;
