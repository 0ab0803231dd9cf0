//! A bucket of an S3-compatible store, from the settings.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::prefix::PrefixStore;

use crate::config::Blobs;

/// The bucket that the settings name. Nothing is asked of it yet.
///
/// # Errors
/// In words, if the settings are not enough.
pub(super) fn open(name: &str, blobs: &Blobs) -> Result<Arc<dyn ObjectStore>, String> {
    // The HTTP client of buckets uses the process's cryptography. If there is one already, it is used.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(name).with_allow_http(blobs.allow_http);
    if let Some(endpoint) = &blobs.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
    }
    if let Some(region) = &blobs.region {
        builder = builder.with_region(region);
    }
    if let (Some(id), Some(secret)) = (&blobs.access_key_id, &blobs.secret_access_key) {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
    }
    let store = builder.build().map_err(|error| error.to_string())?;
    Ok(match blobs.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
        Some(prefix) => Arc::new(PrefixStore::new(store, Path::from(prefix))),
        None => Arc::new(store),
    })
}

/// Where it is, for the log.
pub(super) fn name(name: &str, blobs: &Blobs) -> String {
    let at = blobs.endpoint.as_deref().map_or(String::new(), |endpoint| format!(" at {endpoint}"));
    let below = blobs.prefix.as_deref().map_or(String::new(), |prefix| format!(", below {prefix}/"));
    format!("the bucket {name}{at}{below}")
}
