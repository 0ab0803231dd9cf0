//! Remote signing (NIP-46): requests to a signer that keeps a private key, and its answers, both events of kind 24133 whose content is
//! encrypted. What is asked when is the machine's; how it travels is the host's.

mod bunker;

pub use bunker::Bunker;

use std::fmt;

use relay_engine::types::{Event, Kind, PubKey, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cipher::{self, Cipher, CipherError};
use crate::exchange::{Answers, Wanted};
use crate::identity::{self, Draft, Keys, is_authentic};
use crate::secrets::Secrets;

/// Requests to remote signers, and their answers.
pub const KIND_REMOTE_SIGNING: Kind = 24_133;

/// Largest parameters of a request, in bytes of JSON: what is encrypted has to fit into an event that relays take.
pub const PARAMS_BYTES_MAX: usize = 42_000;

/// What the agent wants to be allowed by the signer.
const PERMISSIONS: &str = "get_public_key,sign_event,nip44_encrypt,nip44_decrypt,nip04_encrypt,nip04_decrypt";

/// What is asked of a signer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// To take this client, by the secret of the URL.
    Connect,
    /// For whom it signs.
    PublicKey,
    /// To sign an event.
    Sign(Event),
    /// To encrypt a text for a key.
    Encrypt(Cipher, PubKey, String),
    /// To decrypt a payload from a key.
    Decrypt(Cipher, PubKey, String),
}

/// What a signer answers.
#[derive(Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The result; of [`Method::Sign`] the JSON of the signed event.
    Result(String),
    /// It refuses, with its message.
    Refused(String),
    /// Its user has to allow it at this URL; another answer may follow.
    AuthUrl(String),
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            // It may be a decrypted text.
            Outcome::Result(_) => "Result",
            Outcome::Refused(_) => "Refused",
            Outcome::AuthUrl(_) => "AuthUrl",
        })
    }
}

/// An agent as the client of a remote signer.
#[derive(Clone, Debug)]
pub struct Client {
    keys: Keys,
    bunker: Bunker,
}

impl Client {
    /// The client of the agent with this public key. `secret` is the name of the secret with the `bunker://` URL. Its keys are
    /// derived from the host's master secret, so that they are the same after a restart.
    ///
    /// # Errors
    /// A message that names the missing or malformed secret, not its value.
    pub fn of(secret: &str, agent: &PubKey, secrets: &dyn Secrets) -> Result<Self, String> {
        let bunker = Bunker::parse(&identity::secret(secret, secrets)?)
            .map_err(|why| format!("secret {secret} {why}"))?;
        let keys = identity::master(secrets)?
            .client_keys(agent, &bunker.signer)
            .map_err(|_| "no key can be derived for this signer".to_owned())?;
        Ok(Client { keys, bunker })
    }

    /// Relays on which the signer listens.
    pub fn relays(&self) -> &[String] {
        &self.bunker.relays
    }

    /// The public key by which the signer knows the agent.
    pub fn pubkey(&self) -> PubKey {
        self.keys.pubkey()
    }

    /// Identifies the signer, the client and the secret of the URL without revealing them. Other relays in the URL do not change it.
    pub fn digest(&self) -> String {
        use sha2::{Digest, Sha256};
        let secret = self.bunker.secret.as_deref().unwrap_or_default();
        let hash = Sha256::new()
            .chain_update(self.keys.pubkey().0)
            .chain_update(self.bunker.signer.0)
            .chain_update(secret)
            .finalize();
        hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Which events are the signer's answers.
    pub fn answers(&self) -> Answers {
        let client = self.keys.pubkey().to_string();
        let responses = Wanted { kinds: vec![KIND_REMOTE_SIGNING], tag: Some(('p', vec![client])) };
        Answers { author: self.bunker.signer, wanted: vec![responses], unasked_max: 0 }
    }

    /// A request, signed. `nonce` must be random and used once.
    ///
    /// # Errors
    /// [`CipherError::Length`] if it is larger than [`PARAMS_BYTES_MAX`].
    pub fn request(
        &self,
        id: &str,
        method: &Method,
        created_at: Timestamp,
        nonce: [u8; 32],
    ) -> Result<Event, CipherError> {
        let (method, params) = self.call(method);
        let params = json!(params);
        if params.to_string().len() > PARAMS_BYTES_MAX {
            return Err(CipherError::Length);
        }
        let text = json!({ "id": id, "method": method, "params": params }).to_string();
        let signer = &self.bunker.signer;
        let content = cipher::encrypt(Cipher::Nip44, &self.keys, signer, &text, nonce)?;
        let tags = vec![vec!["p".to_owned(), signer.to_string()]];
        Ok(self.keys.sign(&Draft { created_at, kind: KIND_REMOTE_SIGNING, tags, content }))
    }

    fn call(&self, method: &Method) -> (&'static str, Vec<String>) {
        let of = |nip44, nip04, cipher: &Cipher| if *cipher == Cipher::Nip44 { nip44 } else { nip04 };
        match method {
            Method::Connect => {
                let secret = self.bunker.secret.clone().unwrap_or_default();
                ("connect", vec![self.bunker.signer.to_string(), secret, PERMISSIONS.to_owned()])
            }
            Method::PublicKey => ("get_public_key", Vec::new()),
            Method::Sign(event) => ("sign_event", vec![unsigned_json(event)]),
            Method::Encrypt(cipher, peer, text) => {
                (of("nip44_encrypt", "nip04_encrypt", cipher), vec![peer.to_string(), text.clone()])
            }
            Method::Decrypt(cipher, peer, payload) => {
                (of("nip44_decrypt", "nip04_decrypt", cipher), vec![peer.to_string(), payload.clone()])
            }
        }
    }

    /// Reads an answer: the id of its request, and what it says. `None` for what is not the signer's, or cannot be read.
    pub fn read(&self, event: &Event) -> Option<(String, Outcome)> {
        let is_signers = event.kind == KIND_REMOTE_SIGNING && event.pubkey == self.bunker.signer;
        if !is_signers || !is_authentic(event) {
            return None;
        }
        let content = Draft::of(event).content;
        let (_, text) = cipher::decrypt(&self.keys, &self.bunker.signer, content.trim()).ok()?;
        let SignerResponse { id, result, error } = serde_json::from_str(&text).ok()?;
        let message = error.map(|error| match error {
            Value::String(message) => message,
            other => other.to_string(),
        });
        let message = message.filter(|message| !message.is_empty() && message != "null");
        let outcome = match (result, message) {
            (Some(Value::String(result)), Some(url)) if result == "auth_url" => Outcome::AuthUrl(url),
            (_, Some(message)) => Outcome::Refused(message),
            (Some(Value::String(result)), None) => Outcome::Result(result),
            // Some give an object where a string is due.
            (Some(result), None) if !result.is_null() => Outcome::Result(result.to_string()),
            _ => Outcome::Refused("no result".to_owned()),
        };
        Some((id, outcome))
    }
}

#[derive(Deserialize)]
struct SignerResponse {
    id: String,
    #[serde(default)]
    result: Option<Value>,
    #[serde(default)]
    error: Option<Value>,
}

/// An event without id and signature.
fn unsigned_json(event: &Event) -> String {
    let Draft { created_at, kind, tags, content } = Draft::of(event);
    let pubkey = event.pubkey.to_string();
    json!({ "kind": kind, "created_at": created_at, "pubkey": pubkey, "tags": tags, "content": content })
        .to_string()
}
