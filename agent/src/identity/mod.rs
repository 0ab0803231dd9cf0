//! Keys of agents, and signing.
//!
//! An agent's key is derived from the host's master secret (NIP-06), or imported from a secret of its own, or kept by a remote
//! signer ([`crate::nip46`]). Keys are shown as NIP-19 says, and names as NIP-05 does.

mod event_signer;
mod keys;
mod nip05;
mod nip06;
mod nip19;

pub use event_signer::{
    Encryption, EventSigner, Missing, Sign, is_authentic, missing, signed, with_encrypted_content,
};
pub use keys::{Draft, InvalidKey, Keys};
pub use nip05::nip05_name;
pub use nip06::{Master, new_mnemonic};
pub use nip19::{npub, parse_pubkey};

use sha2::{Digest, Sha256};

use crate::manifest::{Identity, Manifest};
use crate::nip46;
use crate::secrets::Secrets;

/// The secret from which keys are derived: a BIP-39 mnemonic, or 64 or 128 hexadecimal digits of seed (BIP-32).
pub const MASTER_SECRET: &str = "AGENT_MASTER_SECRET";

/// Who signs the events of a manifest's agent. Of a remote signer the secrets are checked, and nothing is asked.
///
/// # Errors
/// As [`keys`].
pub fn event_signer(manifest: &Manifest, secrets: &dyn Secrets) -> Result<EventSigner, String> {
    let Identity::Bunker { secret } = &manifest.identity else {
        return keys(&manifest.identity, &manifest.name, secrets).map(EventSigner::Local);
    };
    let pubkey = manifest.pubkey.as_deref().and_then(parse_pubkey);
    let pubkey = pubkey.ok_or("the manifest has no `pubkey`, which a remote signer needs")?;
    nip46::Client::of(secret, &pubkey, secrets)?;
    Ok(EventSigner::Remote(pubkey))
}

/// The keys of an agent of this name.
///
/// Reading a mnemonic costs 2,048 rounds of HMAC-SHA512, some milliseconds. A host with many agents answers for
/// [`MASTER_SECRET`] with [`Master::seed_hex`], which costs none.
///
/// # Errors
/// A message that names the missing or malformed secret, not its value.
pub fn keys(identity: &Identity, name: &str, secrets: &dyn Secrets) -> Result<Keys, String> {
    match identity {
        Identity::Derived { account } => master(secrets)?
            .keys(account.unwrap_or_else(|| account_of(name)))
            .map_err(|_| "no key can be derived for this account; choose another".to_owned()),
        Identity::Imported { secret: name } => Keys::parse(&secret(name, secrets)?).map_err(|_| {
            format!("secret {name} is neither an nsec nor 64 hexadecimal digits of a private key")
        }),
        Identity::Bunker { .. } => Err("a remote signer has the agent's key".to_owned()),
    }
}

/// The host's master secret.
pub(crate) fn master(secrets: &dyn Secrets) -> Result<Master, String> {
    Master::parse(&secret(MASTER_SECRET, secrets)?).map_err(|_| {
        format!(
            "secret {MASTER_SECRET} is neither a BIP-39 mnemonic in English nor 64 or 128 hexadecimal digits"
        )
    })
}

pub(crate) fn secret(name: &str, secrets: &dyn Secrets) -> Result<String, String> {
    secrets.get(name).ok_or_else(|| format!("secret {name} is not set"))
}

/// The NIP-06 account of an agent without a number: the first 31 bits of the SHA-256 of its name.
///
/// Two names may have one account, and so one key: of 10,000 agents, with a probability of about 2 in 100. A host refuses
/// the second, which is then given a number.
pub fn account_of(name: &str) -> u32 {
    let digest = Sha256::digest(name.as_bytes());
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) >> 1
}
