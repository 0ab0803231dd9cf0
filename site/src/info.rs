//! NIP-11 fields that the operator writes.

use serde::{Deserialize, Serialize};

/// NIP-11 fields that the operator writes; the others follow from the settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Info {
    /// Name; NIP-11 recommends fewer than 30 characters.
    pub name: String,
    /// Plain text of any length.
    pub description: String,
    /// The administrator's public key, 64 lowercase hex digits.
    pub pubkey: Option<String>,
    /// The relay's own public key, 64 lowercase hex digits.
    #[serde(rename = "self")]
    pub own_pubkey: Option<String>,
    /// An alternative contact, a URI such as `mailto:`.
    pub contact: Option<String>,
    /// URL of a square image. If it is not set and the public URL is, NIP-11 names the built-in `/icon.svg`.
    pub icon: Option<String>,
    /// URL of a wide image.
    pub banner: Option<String>,
    /// URL of the terms of service.
    pub terms_of_service: Option<String>,
}

impl Default for Info {
    fn default() -> Self {
        Info {
            name: "openagents-relay".into(),
            description: "A Nostr relay.".into(),
            pubkey: None,
            own_pubkey: None,
            contact: None,
            icon: None,
            banner: None,
            terms_of_service: None,
        }
    }
}
