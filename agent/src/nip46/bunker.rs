//! `bunker://` URLs: where a remote signer is, and the secret by which it knows its client at first.

use std::fmt;

use relay_engine::types::PubKey;

use crate::exchange::Address;

/// A `bunker://` URL, read. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Bunker {
    /// The public key of the signer itself; requests are encrypted for it.
    pub signer: PubKey,
    /// Relays on which it listens, at most four.
    pub relays: Vec<String>,
    /// By which it knows whoever connects first.
    pub secret: Option<String>,
}

impl fmt::Debug for Bunker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bunker").field(&self.signer).finish()
    }
}

impl Bunker {
    /// Reads a URL.
    ///
    /// # Errors
    /// What is wrong with it, without its text.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        let rest = url.trim().strip_prefix("bunker://").ok_or("is not a bunker:// URL")?;
        let Address { pubkey, relays, secret } =
            Address::parse(rest, "does not begin with the signer's public key")?;
        Ok(Bunker { signer: pubkey, relays, secret: secret.filter(|secret| !secret.is_empty()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let key = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
        let bunker = |url: &str| Bunker::parse(&url.replace("KEY", key));
        let full =
            bunker(" bunker://KEY?relay=wss%3A%2F%2Fa.example&relay=ws://b.example:7777/x&secret=a%26b\n");
        let full = full.unwrap();
        assert_eq!((full.signer.to_string().as_str(), full.secret.as_deref()), (key, Some("a&b")));
        assert_eq!(full.relays, ["wss://a.example", "ws://b.example:7777/x"]);
        assert_eq!(bunker("bunker://KEY/?relay=wss://a.example&secret=&perms=x").unwrap().secret, None);
        let many = (0..9).map(|at| format!("&relay=wss://{at}.example")).collect::<String>();
        assert_eq!(bunker(&format!("bunker://KEY?{many}")).unwrap().relays.len(), 4);
        for (url, why) in [
            ("", "is not a bunker:// URL"),
            ("nostrconnect://KEY?relay=wss://a.example", "is not a bunker:// URL"),
            ("bunker://?relay=wss://a.example", "does not begin with the signer's public key"),
            ("bunker://KEYf?relay=wss://a.example", "does not begin with the signer's public key"),
            ("bunker://KEY", "names no relay"),
            ("bunker://KEY?secret=x", "names no relay"),
            ("bunker://KEY?relay=https://a.example", "names a relay that is not a wss:// URL"),
            ("bunker://KEY?relay=a.example", "names a relay that is not a wss:// URL"),
        ] {
            assert_eq!(bunker(url).unwrap_err(), why, "{url}");
        }
        assert!(!format!("{full:?}").contains("a&b"), "its secret is not printed");
    }
}
