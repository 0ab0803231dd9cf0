//! Events of authors by number.

pub(crate) mod zaps;

use relay_agent::identity::{self, Keys};
use relay_engine::types::{Event, Kind, PubKey, Timestamp};

/// An event to sign.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) author: u8,
    pub(crate) kind: Kind,
    pub(crate) created_at: Timestamp,
    pub(crate) tags: Vec<Vec<String>>,
    pub(crate) content: String,
}

fn keys(author: u8) -> Keys {
    let mut secret = [7; 32];
    secret[31] = author;
    Keys::from_secret_bytes(secret).unwrap()
}

/// The public key of an author.
pub(crate) fn pubkey(author: u8) -> PubKey {
    keys(author).pubkey()
}

impl Draft {
    pub(crate) fn new(author: u8, kind: Kind, created_at: Timestamp) -> Self {
        Draft { author, kind, created_at, tags: Vec::new(), content: String::new() }
    }

    pub(crate) fn tag(mut self, fields: &[&str]) -> Self {
        self.tags.push(fields.iter().map(|field| (*field).to_owned()).collect());
        self
    }

    pub(crate) fn content(mut self, content: &str) -> Self {
        content.clone_into(&mut self.content);
        self
    }

    pub(crate) fn event(&self) -> Event {
        let Draft { author, kind, created_at, tags, content } = self.clone();
        keys(author).sign(&identity::Draft { created_at, kind, tags, content })
    }
}
