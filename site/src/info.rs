//! What only the operator knows about a relay.

use serde::{Deserialize, Serialize};

/// NIP-11 fields that only the operator knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Info {
    /// Name, best below 30 characters.
    pub name: String,
    /// Plain text of any length.
    pub description: String,
    /// The administrator's public key, 64 lowercase hex digits.
    pub pubkey: Option<String>,
    /// The relay's own public key, 64 lowercase hex digits.
    #[serde(rename = "self")]
    pub own_pubkey: Option<String>,
    /// Another contact, a URI such as `mailto:`.
    pub contact: Option<String>,
    /// URL of a square picture; our own, `/icon.svg`, if none is given and the public URL is known.
    pub icon: Option<String>,
    /// URL of a wide picture.
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
