//! The layer over workerd: everything that touches JavaScript, and as little else as possible.

#[cfg(feature = "libsecp256k1")]
mod agent;
#[cfg(feature = "libsecp256k1")]
mod agents_api;
mod blossom;
mod blossom_object;
#[cfg(feature = "libsecp256k1")]
mod calls;
mod entry;
#[cfg(feature = "libsecp256k1")]
mod http_jobs;
mod js;
#[cfg(feature = "libsecp256k1")]
mod market;
mod memory;
mod object;
mod shards;
mod sockets;
mod sql;
mod variables;

use std::sync::Arc;

use relay_engine::verify::Verifier;
use wasm_bindgen::JsValue;

/// The verifier of signatures, with a cache of this many bytes for known authors. `bench/edge.md` compares the choices.
///
/// # Errors
/// If the runtime gives no random bytes, which seed the verifier's tables: `std` has no entropy on wasm32.
#[cfg(feature = "schnorr")]
fn verifier(author_cache_bytes: usize) -> Result<Arc<dyn Verifier>, JsValue> {
    let seed = js::random()?;
    Ok(Arc::new(relay_engine::verify::Schnorr::with_hash_seed(author_cache_bytes, seed)))
}

#[cfg(not(feature = "schnorr"))]
fn verifier(_: usize) -> Result<Arc<dyn Verifier>, JsValue> {
    Ok(Arc::new(relay_engine::verify::Libsecp256k1))
}
