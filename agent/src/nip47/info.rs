//! What a wallet service says about itself: its info event (kind 13194).

use relay_engine::types::Event;
use serde::{Deserialize, Serialize};

use crate::cipher::Cipher;
use crate::identity::Draft;

/// What a wallet can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalletInfo {
    /// The cipher of requests: NIP-44 if it can, else NIP-04.
    pub cipher: Cipher,
    /// Its methods.
    pub methods: Vec<String>,
    /// The time of the event, in Unix seconds.
    #[serde(default)]
    pub created_at: u64,
}

impl WalletInfo {
    /// Reads an info event. `None`: it names no cipher that is supported here.
    pub fn read(event: &Event) -> Option<Self> {
        let Draft { created_at, tags, content, .. } = Draft::of(event);
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let encryption = tags.iter().find(|tag| tag.first().is_some_and(|name| name == "encryption"));
        let cipher = match encryption.and_then(|tag| tag.get(1)) {
            // Wallets from before NIP-44 have no such tag.
            None => Cipher::Nip04,
            Some(ciphers) => {
                let ciphers = words(ciphers);
                let has = |name: &str| ciphers.iter().any(|cipher| cipher == name);
                match (has("nip44_v2"), has("nip04")) {
                    (true, _) => Cipher::Nip44,
                    (false, true) => Cipher::Nip04,
                    (false, false) => return None,
                }
            }
        };
        // Some separate them by commas.
        Some(WalletInfo { cipher, methods: words(&content.replace(',', " ")), created_at })
    }

    /// Whether it has a method.
    pub fn has(&self, method: &str) -> bool {
        self.methods.iter().any(|known| known == method)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Keys;

    #[test]
    fn the_cipher_is_the_best_that_both_know() {
        let keys = Keys::from_secret_bytes([7; 32]).unwrap();
        let read = |tags: &[[&str; 2]], content: &str| {
            let tags = tags.iter().map(|tag| tag.map(str::to_owned).to_vec()).collect();
            let draft =
                Draft { created_at: 1, kind: super::super::KIND_INFO, tags, content: content.to_owned() };
            WalletInfo::read(&keys.sign(&draft))
        };
        let info = read(&[["encryption", "nip44_v2 nip04"]], "pay_invoice make_invoice").unwrap();
        assert_eq!(info.cipher, Cipher::Nip44);
        assert_eq!(info.created_at, 1);
        assert!(info.has("make_invoice") && !info.has("lookup_invoice") && !info.has("make"));
        assert_eq!(read(&[["notifications", "payment_received"]], "").unwrap().cipher, Cipher::Nip04);
        assert_eq!(read(&[["encryption", "nip04"]], "").unwrap().cipher, Cipher::Nip04);
        assert_eq!(read(&[["encryption", "nip99"]], ""), None);
    }
}
