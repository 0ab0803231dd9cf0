//! Connection strings of wallets: where a wallet service is, and the key by which it knows its client.

use std::fmt;

use relay_engine::types::PubKey;

use crate::exchange::Address;
use crate::identity::Keys;

const SCHEME: &str = "nostr+walletconnect:";

/// A `nostr+walletconnect://` URI, read. It is never printed: whoever has it may use the wallet.
#[derive(Clone)]
pub struct WalletUri {
    /// The public key of the wallet service, for this connection.
    pub wallet: PubKey,
    /// Relays on which it listens, at most four.
    pub relays: Vec<String>,
    /// The client's keys.
    pub keys: Keys,
}

impl fmt::Debug for WalletUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WalletUri").field(&self.wallet).finish()
    }
}

impl WalletUri {
    /// Reads a connection string.
    ///
    /// # Errors
    /// What is wrong with it, without its text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let rest = text.trim().strip_prefix(SCHEME).ok_or("is not a nostr+walletconnect:// URI")?;
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let Address { pubkey, relays, secret } =
            Address::parse(rest, "does not begin with the public key of the wallet service")?;
        let secret = secret.ok_or("has no secret")?;
        let keys = Keys::parse(&secret).map_err(|_| "has a secret that is no private key")?;
        Ok(WalletUri { wallet: pubkey, relays, keys })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_strings_are_read() {
        let wallet = "b889ff5b1513b641e2a139f661a661364979c5beee91842f8f0ef42ab558e9d4";
        let secret = "71a8c14c1407c113601079c4302dab36460f0ccd0ad506f1f2dc73b5100e4f3c";
        let parse = |uri: &str| WalletUri::parse(&uri.replace("WALLET", wallet).replace("SECRET", secret));
        // The example of NIP-47.
        let uri = "nostr+walletconnect://WALLET?relay=wss%3A%2F%2Frelay.damus.io&secret=SECRET";
        let read = parse(uri).unwrap();
        assert_eq!(read.wallet.to_string(), wallet);
        assert_eq!(read.relays, ["wss://relay.damus.io"]);
        assert_eq!(read.keys.pubkey(), Keys::parse(secret).unwrap().pubkey());
        assert!(!format!("{read:?}").contains(&secret[..8]), "its secret is not printed");
        let two = parse(
            " nostr+walletconnect:WALLET?secret=SECRET&relay=ws://a.example:7777&relay=wss://b.example&lud16=x\n",
        );
        assert_eq!(two.unwrap().relays, ["ws://a.example:7777", "wss://b.example"]);
        for (uri, why) in [
            ("", "is not a nostr+walletconnect:// URI"),
            ("bunker://WALLET?relay=wss://a.example&secret=SECRET", "is not a nostr+walletconnect:// URI"),
            (
                "nostr+walletconnect://?relay=wss://a.example&secret=SECRET",
                "does not begin with the public key of the wallet service",
            ),
            ("nostr+walletconnect://WALLET?secret=SECRET", "names no relay"),
            (
                "nostr+walletconnect://WALLET?relay=https://a.example&secret=SECRET",
                "names a relay that is not a wss:// URL",
            ),
            ("nostr+walletconnect://WALLET?relay=wss://a.example", "has no secret"),
            (
                "nostr+walletconnect://WALLET?relay=wss://a.example&secret=00",
                "has a secret that is no private key",
            ),
        ] {
            assert_eq!(parse(uri).unwrap_err(), why, "{uri}");
        }
    }
}
