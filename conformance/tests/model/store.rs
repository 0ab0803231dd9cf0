//! What the model stores.

use std::collections::HashMap;

use relay_conformance::nostr::now;
use serde_json::{Value, json};

use super::{Bug, Model};

#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) mime: String,
    pub(crate) uploaded: u64,
    /// Keys, each with the time and order of its upload.
    pub(crate) owners: HashMap<String, (u64, u64)>,
    /// Which blob this one was made from by `/media`.
    pub(crate) original: Option<String>,
}

/// An upload in parts.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) bytes: Vec<u8>,
    pub(crate) covered: Vec<bool>,
    pub(crate) sum: usize,
    pub(crate) mime: String,
    pub(crate) count: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) blobs: HashMap<String, Stored>,
    /// The bytes by hash: with a blob, unless a fault keeps them apart.
    pub(crate) bytes: HashMap<String, Vec<u8>>,
    pub(crate) parts: HashMap<(String, String), Parts>,
    /// Hashes that were deleted, for faults.
    pub(crate) deleted: HashMap<String, Stored>,
    pub(crate) former: Vec<(String, String)>,
    /// Hashes whose upload has begun, for faults.
    pub(crate) begun: Vec<String>,
    pub(crate) refused_once: bool,
    pub(crate) running: usize,
    order: u64,
}

impl Store {
    /// Adds bytes and an owner; whether the blob is new.
    pub(crate) fn add(&mut self, sha256: &str, bytes: &[u8], mime: &str, owner: Option<&str>) -> bool {
        let new = !self.blobs.contains_key(sha256);
        self.order += 1;
        let order = (now(), self.order);
        self.bytes.insert(sha256.to_owned(), bytes.to_vec());
        let blob = self.blobs.entry(sha256.to_owned()).or_insert_with(|| Stored {
            mime: mime.to_owned(),
            uploaded: now(),
            owners: HashMap::new(),
            original: None,
        });
        if let Some(owner) = owner {
            blob.owners.entry(owner.to_owned()).or_insert(order);
        }
        new
    }
}

impl Model {
    pub(crate) fn descriptor(&self, store: &Store, sha256: &str) -> Value {
        let Some(blob) = store.blobs.get(sha256).or_else(|| store.deleted.get(sha256)) else {
            return json!({});
        };
        let extension = match blob.mime.as_str() {
            "image/png" => "png",
            "image/jpeg" => "jpg",
            _ => "bin",
        };
        let url = format!("{}/{sha256}.{extension}", self.url);
        let size = store.bytes.get(sha256).map_or(0, Vec::len);
        let uploaded = if self.has(Bug::UploadedChanges) { now() } else { blob.uploaded };
        let mut tags = vec![
            json!(["url", url]),
            json!(["m", blob.mime]),
            json!(["x", sha256]),
            json!(["size", size.to_string()]),
        ];
        if let Some(original) = &blob.original
            && !self.has(Bug::NoOx)
        {
            tags.push(json!(["ox", original]));
        }
        json!({
            "url": url, "sha256": sha256, "size": size, "type": blob.mime, "uploaded": uploaded, "nip94": tags,
        })
    }
}
