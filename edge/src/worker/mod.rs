//! The layer over workerd: everything that touches JavaScript, and as little else as possible.

mod entry;
mod js;
mod object;
mod shards;
mod sql;
mod variables;

use std::sync::Arc;

use relay_engine::verify::Verifier;

/// The verifier of signatures, with a cache of so many bytes for known authors. `bench/edge.md` compares the choices.
#[cfg(feature = "schnorr")]
fn verifier(author_cache_bytes: usize) -> Arc<dyn Verifier> {
    Arc::new(relay_engine::verify::Schnorr::new(author_cache_bytes))
}

#[cfg(not(feature = "schnorr"))]
fn verifier(_: usize) -> Arc<dyn Verifier> {
    Arc::new(relay_engine::verify::Libsecp256k1)
}
