//! An event before it is signed, and its canonical form.

use sha2::{Digest, Sha256};

use super::author::Author;
use crate::hex;

/// An event without id and signature.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draft {
    /// Rank of the author.
    pub(crate) author: usize,
    /// Seconds since the Unix epoch.
    pub(crate) created_at: u64,
    /// Event kind.
    pub(crate) kind: u16,
    /// Tags.
    pub(crate) tags: Vec<Vec<String>>,
    /// Content.
    pub(crate) content: String,
}

/// An event with its id, not yet signed.
#[derive(Clone, Debug)]
pub(crate) struct Unsigned {
    /// SHA-256 of the NIP-01 serialisation.
    pub(crate) id: [u8; 32],
    /// Rank of the author.
    pub(super) author: usize,
    /// Canonical JSON from `"pubkey"` up to the closing quote of the content.
    body: String,
}

impl Draft {
    /// Hashes the draft.
    pub(crate) fn finish(self, authors: &[Author]) -> Unsigned {
        let pubkey = &authors[self.author].pubkey;
        let mut tags = String::with_capacity(256);
        write_tags(&self.tags, &mut tags);
        let mut content = String::with_capacity(self.content.len() + 18);
        write_string(&self.content, &mut content);
        let (created_at, kind) = (self.created_at, self.kind);
        let hashed = format!(r#"[0,"{pubkey}",{created_at},{kind},{tags},{content}]"#);
        Unsigned {
            id: Sha256::digest(hashed).into(),
            author: self.author,
            body: format!(
                r#""pubkey":"{pubkey}","created_at":{created_at},"kind":{kind},"tags":{tags},"content":{content}"#
            ),
        }
    }
}

impl Unsigned {
    /// The first eight bytes of the id.
    pub(super) fn prefix(&self) -> u64 {
        u64::from_be_bytes(self.id[..8].try_into().expect("eight bytes"))
    }

    /// Signs, and returns the whole event as canonical JSON.
    pub(crate) fn sign(&self, authors: &[Author]) -> String {
        let sig = authors[self.author].sign(&self.id);
        format!(r#"{{"id":"{}",{},"sig":"{sig}"}}"#, hex::encode(&self.id), self.body)
    }
}

fn write_tags(tags: &[Vec<String>], json: &mut String) {
    json.push('[');
    for (at, tag) in tags.iter().enumerate() {
        json.push_str(if at == 0 { "[" } else { ",[" });
        for (at, field) in tag.iter().enumerate() {
            if at > 0 {
                json.push(',');
            }
            write_string(field, json);
        }
        json.push(']');
    }
    json.push(']');
}

/// Writes a string with the seven escapes of NIP-01. The generator makes no other control characters.
pub(super) fn write_string(text: &str, json: &mut String) {
    json.push('"');
    for character in text.chars() {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '\u{8}' => json.push_str("\\b"),
            '\u{c}' => json.push_str("\\f"),
            other => json.push(other),
        }
    }
    json.push('"');
}
