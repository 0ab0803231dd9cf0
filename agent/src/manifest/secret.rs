//! Secrets are referred to by name. What looks like one in a manifest is refused, and not repeated.

use serde_json::Value;

use super::{ExecutorConfig, Identity, Manifest, ManifestError, json};
use crate::identity::MASTER_SECRET;

/// The secret that may hold an imported private key under a name that is not an agent's.
const PRIVATE_KEY: &str = "NOSTR_PRIVATE_KEY";
const NAME_CHARS_MAX: usize = 64;

/// Names of fields that hold secrets in other formats.
const SECRET_FIELDS: [&str; 9] =
    ["nwc", "nwc_uri", "nwc_url", "nsec", "private_key", "secret_key", "mnemonic", "password", "seed_phrase"];
/// How texts with a secret in them begin.
const SECRET_SCHEMES: [&str; 3] = ["nostr+walletconnect:", "nostrwalletconnect:", "bunker:"];

const INLINE: &str =
    "is or contains a secret; a manifest gives the name of a secret, whose value the host keeps";

impl Manifest {
    /// The names of the secrets that it uses.
    pub fn secret_names(&self) -> impl Iterator<Item = &str> {
        let key = match &self.identity {
            Identity::Imported { secret } | Identity::Bunker { secret } => Some(secret.as_str()),
            Identity::Derived { .. } => None,
        };
        let wallet = self.payment.wallet_ref.as_deref();
        key.into_iter().chain(wallet).chain(self.handlers.iter().filter_map(handler_secret))
    }
}

/// The name of the secret that a handler uses.
fn handler_secret(handler: &super::Handler) -> Option<&str> {
    match &handler.executor {
        ExecutorConfig::OpenaiHttp(config) => config.api_key.as_deref(),
        ExecutorConfig::Mcp(config) => config.token.as_deref(),
        ExecutorConfig::Echo(_)
        | ExecutorConfig::Text(_)
        | ExecutorConfig::Membership(_)
        | ExecutorConfig::BlobPayment(_)
        | ExecutorConfig::WorkersAi(_)
        | ExecutorConfig::Webhook(_) => None,
    }
}

/// Refuses a manifest that contains a secret, with its path.
pub(super) fn refuse_inline(manifest: &Value) -> Result<(), ManifestError> {
    refuse_in(manifest, "")
}

fn refuse_in(value: &Value, path: &str) -> Result<(), ManifestError> {
    match value {
        Value::Object(fields) => fields.iter().try_for_each(|(name, value)| {
            if is_secret(name) {
                return Err(ManifestError::new(if path.is_empty() { "." } else { path }, INLINE));
            }
            let path = json::join(path, name);
            let is_named_so = SECRET_FIELDS.contains(&&*name.to_ascii_lowercase());
            if is_named_so && value.as_str().is_some_and(|text| !text.is_empty()) {
                return Err(ManifestError::new(path, INLINE));
            }
            refuse_in(value, &path)
        }),
        Value::Array(items) => {
            items.iter().enumerate().try_for_each(|(at, item)| refuse_in(item, &format!("{path}[{at}]")))
        }
        Value::String(text) if is_secret(text) => Err(ManifestError::new(path, INLINE)),
        _ => Ok(()),
    }
}

/// Whether a text contains an nsec, a wallet or signer connection, or a key as model providers give them.
fn is_secret(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
    words.any(|word| {
        (word.starts_with("nsec1") && word.len() == 63) || (word.starts_with("sk-") && word.len() >= 20)
    }) || SECRET_SCHEMES.iter().any(|scheme| text.contains(scheme))
}

/// Checks the name of a secret that is sent to others: `AGENT_` and upper case letters, digits, `_`.
pub(super) fn check_token_name(path: &str, name: &str) -> Result<(), ManifestError> {
    if name.starts_with("AGENT_") && is_name(name) {
        return Ok(());
    }
    Err(ManifestError::new(
        path,
        "must be the name of a secret, AGENT_ and upper case letters, digits or _, and not the master secret",
    ))
}

/// Checks the name of a secret with a private key, which may also be `NOSTR_PRIVATE_KEY`.
pub(super) fn check_key_name(path: &str, name: &str) -> Result<(), ManifestError> {
    if name == PRIVATE_KEY || (name.starts_with("AGENT_") && is_name(name)) {
        return Ok(());
    }
    Err(ManifestError::new(
        path,
        "must be the name of a secret, NOSTR_PRIVATE_KEY or AGENT_ and upper case letters, digits or _, and not the \
         master secret",
    ))
}

fn is_name(name: &str) -> bool {
    name != MASTER_SECRET
        && ("AGENT_".len() + 1..=NAME_CHARS_MAX).contains(&name.len())
        && name.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'))
}
