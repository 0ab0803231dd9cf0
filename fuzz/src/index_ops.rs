//! Sequences of index operations, held against an oracle that compares every filter with every event.

use relay_engine::index::Index;
use relay_engine::testing::index_ops;

/// Runs `data` as a sequence of operations on an empty index.
///
/// # Panics
/// If the index and the oracle disagree, or memory stays taken at the end.
pub fn index_ops(data: &[u8]) {
    index_ops::run(&mut Index::new(), data);
}
