//! The three byte strings of Nostr: event ids, x-only public keys and Schnorr signatures.
//!
//! NIP-01 writes them in lowercase hex; uppercase is refused everywhere.

use std::fmt;

/// Why a text is not the lowercase hex of a fixed number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HexError {
    /// The text has another length.
    Length {
        /// Its bytes.
        got: usize,
        /// Hexadecimal digits that are needed.
        expected: usize,
    },
    /// A character outside `0-9a-f`.
    Character,
}

impl fmt::Display for HexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HexError::Length { got, expected } => {
                write!(f, "{got} characters instead of {expected} lowercase hex digits")
            }
            HexError::Character => f.write_str("a character outside 0-9a-f"),
        }
    }
}

impl std::error::Error for HexError {}

fn decode<const N: usize>(text: &[u8]) -> Result<[u8; N], HexError> {
    if text.len() != 2 * N {
        return Err(HexError::Length { got: text.len(), expected: 2 * N });
    }
    let mut bytes = [0; N];
    faster_hex::hex_decode_with_case(text, &mut bytes, faster_hex::CheckCase::Lower)
        .map_err(|_| HexError::Character)?;
    Ok(bytes)
}

macro_rules! byte_string {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length of the lowercase hex form in characters.
            pub const HEX_LEN: usize = 2 * $len;

            /// Reads lowercase hex.
            ///
            /// # Errors
            /// [`HexError`] for another length or any character outside `0-9a-f`.
            pub fn from_hex(text: &[u8]) -> Result<Self, HexError> {
                decode(text).map($name)
            }

            /// The lowercase hex form, on the stack.
            pub fn to_hex(&self) -> [u8; 2 * $len] {
                let mut text = [0; 2 * $len];
                faster_hex::hex_encode(&self.0, &mut text).expect("the buffer is twice as long");
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text = self.to_hex();
                f.write_str(std::str::from_utf8(&text).expect("hex is ASCII"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = HexError;
            fn from_str(text: &str) -> Result<Self, HexError> {
                Self::from_hex(text.as_bytes())
            }
        }
    };
}

byte_string! {
    /// SHA-256 of an event's NIP-01 serialisation.
    EventId, 32
}
byte_string! {
    /// An author's x-only secp256k1 public key (BIP340).
    PubKey, 32
}
byte_string! {
    /// A Schnorr signature over an [`EventId`] (BIP340).
    Sig, 64
}

impl EventId {
    /// The first eight bytes, big-endian: enough to order ids but for deliberate collisions.
    pub fn prefix(&self) -> u64 {
        u64::from_be_bytes(self.0[..8].try_into().expect("eight bytes"))
    }

    /// NIP-13 difficulty: leading zero bits.
    pub fn leading_zero_bits(&self) -> u32 {
        let mut bits = 0;
        for byte in self.0 {
            bits += byte.leading_zeros();
            if byte != 0 {
                break;
            }
        }
        bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lowercase_of_the_right_length_reads() {
        let good = "00ff10".to_owned() + &"a".repeat(58);
        assert_eq!(EventId::from_hex(good.as_bytes()).unwrap().to_string(), good);
        assert_eq!(EventId::from_hex(b"00"), Err(HexError::Length { got: 2, expected: 64 }));
        assert_eq!(EventId::from_hex("A".repeat(64).as_bytes()), Err(HexError::Character));
        assert_eq!(EventId::from_hex("g".repeat(64).as_bytes()), Err(HexError::Character));
        assert_eq!(EventId::from_hex("é".repeat(32).as_bytes()), Err(HexError::Character));
    }

    #[test]
    fn difficulty_counts_bits_as_nip_13_does() {
        let id = |text: &str| EventId::from_hex(text.as_bytes()).unwrap();
        assert_eq!(
            id("000000000e9d97a1ab09fc381030b346cdd7a142ad57e6df0b46dc9bef6c7e2d").leading_zero_bits(),
            36
        );
        assert_eq!(EventId([0; 32]).leading_zero_bits(), 256);
        assert_eq!(EventId([255; 32]).leading_zero_bits(), 0);
    }
}
