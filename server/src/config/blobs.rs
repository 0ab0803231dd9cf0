//! Where the bytes of blobs are kept.

use serde::{Deserialize, Serialize};

/// An S3-compatible bucket for the bytes of blobs. Without `bucket` they are in the data folder. What is not set here is taken
/// from the variables that AWS's own tools read: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`,
/// `AWS_ENDPOINT_URL`, `AWS_WEB_IDENTITY_TOKEN_FILE` and so on; without any credentials the instance's own are asked for.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Blobs {
    /// The bucket's name.
    pub bucket: Option<String>,
    /// `https://host`, for any store but AWS's.
    pub endpoint: Option<String>,
    /// The region; `us-east-1` if nothing says another one. R2 takes `auto`.
    pub region: Option<String>,
    /// Put before all keys: `relay/blobs`.
    pub prefix: Option<String>,
    /// The access key's id.
    pub access_key_id: Option<String>,
    /// Its secret.
    pub secret_access_key: Option<String>,
    /// Whether `endpoint` may be `http://`: for tests and private networks.
    pub allow_http: bool,
}

impl std::fmt::Debug for Blobs {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blobs")
            .field("bucket", &self.bucket)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("prefix", &self.prefix)
            .field("access_key_id", &self.access_key_id)
            .field("allow_http", &self.allow_http)
            .finish_non_exhaustive()
    }
}

impl Blobs {
    /// The settings in which every key has a value.
    pub(super) fn example() -> Self {
        let some = || Some(String::new());
        Blobs {
            bucket: some(),
            endpoint: some(),
            region: some(),
            prefix: some(),
            access_key_id: some(),
            secret_access_key: some(),
            allow_http: false,
        }
    }

    /// Checks what types cannot.
    ///
    /// # Errors
    /// The key, and what is wrong.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let ensure = |holds: bool, key, why: &str| if holds { Ok(()) } else { Err((key, why.to_owned())) };
        ensure(self.bucket.as_deref() != Some(""), "blobs.bucket", "is empty")?;
        let has_bucket = self.bucket.is_some();
        for (key, value) in [
            ("blobs.endpoint", &self.endpoint),
            ("blobs.region", &self.region),
            ("blobs.prefix", &self.prefix),
            ("blobs.access_key_id", &self.access_key_id),
            ("blobs.secret_access_key", &self.secret_access_key),
        ] {
            ensure(has_bucket || value.is_none(), key, "has no effect without blobs.bucket")?;
        }
        ensure(
            self.access_key_id.is_some() == self.secret_access_key.is_some(),
            "blobs.access_key_id",
            "and blobs.secret_access_key must be set together",
        )?;
        match self.endpoint.as_deref() {
            Some(endpoint) if endpoint.starts_with("http://") => {
                ensure(self.allow_http, "blobs.endpoint", "is http://; blobs.allow_http = true allows that")
            }
            Some(endpoint) => {
                ensure(endpoint.starts_with("https://"), "blobs.endpoint", "must be an https:// URL")
            }
            None => Ok(()),
        }
    }
}
