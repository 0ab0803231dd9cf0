//! Blobs and their hashes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The SHA-256 of a blob. As text it is 64 lowercase hexadecimal digits, everywhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; 32]);

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&faster_hex::hex_string(&self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({self})")
    }
}

/// A text is not 64 lowercase hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotASha256;

impl fmt::Display for NotASha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be a SHA-256 as 64 lowercase hexadecimal digits")
    }
}

impl std::error::Error for NotASha256 {}

impl FromStr for Sha256 {
    type Err = NotASha256;

    fn from_str(text: &str) -> Result<Self, NotASha256> {
        let mut bytes = [0; 32];
        if text.len() != 64 {
            return Err(NotASha256);
        }
        faster_hex::hex_decode_with_case(text.as_bytes(), &mut bytes, faster_hex::CheckCase::Lower)
            .map_err(|_| NotASha256)?;
        Ok(Sha256(bytes))
    }
}

impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A blob that is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// Its hash, which is its name.
    pub sha256: Sha256,
    /// Its length in bytes.
    pub size: u64,
    /// Its MIME type, `application/octet-stream` if it is not known.
    #[serde(rename = "type")]
    pub mime: String,
    /// When it was uploaded first, in Unix seconds.
    pub uploaded: u64,
    /// When retention removes it, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// What `/media` has found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<Media>,
}

/// What is known of a blob that `/media` has made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Media {
    /// The hash of the original (`ox` of NIP-94).
    pub original: Sha256,
    /// Width and height in pixels as shown, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dim: Option<(u32, u32)>,
    /// The blurhash of a picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blurhash: Option<String>,
    /// The thumbnail, which is a blob too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thumbnail: Option<Sha256>,
}
