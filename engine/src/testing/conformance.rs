//! What every backend must pass.

use crate::store::Backend;

/// Runs the whole suite on stores made by `make`.
pub fn conformance<B: Backend>(make: impl Fn() -> B) {
    super::differential(make, 1, 600);
}
