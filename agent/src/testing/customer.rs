//! Customers, who write job requests.

use relay_engine::types::{Event, EventId, PubKey};

use crate::cipher::{self, Cipher};
use crate::identity::{Draft, Keys};

/// Somebody with a key.
#[derive(Clone, Debug)]
pub struct Customer {
    /// The key.
    pub keys: Keys,
}

/// A request that is being written.
#[derive(Clone, Debug)]
pub struct Request {
    draft: Draft,
    cipher: Option<(Cipher, PubKey)>,
}

impl Customer {
    /// The customer whose private key is this number, which is not 0.
    ///
    /// # Panics
    /// If it is 0.
    pub fn new(number: u64) -> Self {
        let mut secret = [0; 32];
        secret[24..].copy_from_slice(&number.to_be_bytes());
        Customer { keys: Keys::from_secret_bytes(secret).expect("a private key") }
    }

    /// The public key.
    pub fn pubkey(&self) -> PubKey {
        self.keys.pubkey()
    }

    /// Signs a request.
    ///
    /// # Panics
    /// If it cannot be encrypted.
    pub fn sign(&self, request: &Request) -> Event {
        let mut draft = request.draft.clone();
        if let Some((used, agent)) = request.cipher {
            let is_clear =
                |tag: &Vec<String>| tag.first().is_some_and(|name| name == "p" || name == "encrypted");
            let (clear, hidden): (Vec<_>, Vec<_>) = draft.tags.drain(..).partition(is_clear);
            draft.tags = clear;
            let json = serde_json::to_string(&hidden).expect("tags are JSON");
            draft.content = cipher::encrypt(used, &self.keys, &agent, &json, [7; 32])
                .expect("a text that can be encrypted");
        }
        self.keys.sign(&draft)
    }

    /// Takes requests back.
    pub fn cancel(&self, requests: &[EventId], at: u64) -> Event {
        let tags = requests.iter().map(|id| vec!["e".to_owned(), id.to_string()]).collect();
        self.keys.sign(&Draft { created_at: at, kind: 5, tags, content: String::new() })
    }

    /// Reads what an agent wrote to this customer: the content, decrypted if it is encrypted.
    ///
    /// # Panics
    /// If it cannot be decrypted.
    pub fn read(&self, event: &Event) -> String {
        super::read_answer(event, &self.keys).expect("an answer to this customer").content
    }
}

impl Request {
    /// A request for work of this kind, made at this second, with nothing else in it.
    pub fn new(kind: u16, at: u64) -> Self {
        Request {
            draft: Draft { created_at: at, kind, tags: Vec::new(), content: String::new() },
            cipher: None,
        }
    }

    /// Adds a tag.
    #[must_use]
    pub fn tag(mut self, fields: &[&str]) -> Self {
        self.draft.tags.push(fields.iter().map(|field| (*field).to_owned()).collect());
        self
    }

    /// Adds a text input.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.tag(&["i", text, "text"])
    }

    /// Names an agent.
    #[must_use]
    pub fn to(self, agent: &PubKey) -> Self {
        self.tag(&["p", &agent.to_string()])
    }

    /// Encrypts all but `p` for an agent.
    #[must_use]
    pub fn encrypted(mut self, cipher: Cipher, agent: &PubKey) -> Self {
        self.cipher = Some((cipher, *agent));
        self.tag(&["encrypted"])
    }
}
