//! For tests of this crate and of others: an SQLite database, a host in memory, and a model of the index.

mod host;
pub mod model;
mod seller;

pub use host::{Host, Object, Origins, Processor, Reply, Request};
pub use relay_engine::testing::Sqlite;
pub use seller::Seller;
