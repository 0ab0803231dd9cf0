//! Preimages of hold invoices. Whoever knows one can take the payment, so it is revealed only when the invoice is to be settled. It is not stored, but
//! derived again when it is needed.

use hmac::{Hmac, KeyInit as _, Mac as _};
use relay_engine::types::EventId;
use sha2::{Digest as _, Sha256};

use super::Client;

/// A preimage. It is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Preimage(pub [u8; 32]);

impl std::fmt::Debug for Preimage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Preimage(..)")
    }
}

impl Preimage {
    /// The payment hash.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }
}

impl Client {
    /// The preimage of a job's hold invoice. It is derived from the secret of the connection, which is not in the database, and from `salt`, which
    /// must be random and used once. The wallet may have made that secret, but does not know the salt.
    pub fn hold_preimage(&self, job: &EventId, salt: &[u8; 32]) -> Preimage {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.uri.keys.pair().to_secret_bytes()).expect("any length");
        mac.update(b"hold invoice");
        mac.update(&job.0);
        mac.update(salt);
        Preimage(mac.finalize().into_bytes().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preimage_is_of_one_connection_job_and_salt_and_is_not_printed() {
        let client = |secret: u8| {
            let key = crate::identity::Keys::from_secret_bytes([9; 32]).unwrap().pubkey();
            let uri = format!(
                "nostr+walletconnect://{key}?relay=wss://a.example&secret={}",
                format!("{secret:02x}").repeat(32)
            );
            Client::of("AGENT_WALLET", &|_: &str| Some(uri.clone())).unwrap()
        };
        let preimage = |secret, job, salt| client(secret).hold_preimage(&EventId([job; 32]), &[salt; 32]);
        let one = preimage(1, 1, 1);
        assert_eq!(one, preimage(1, 1, 1));
        for other in [preimage(2, 1, 1), preimage(1, 2, 1), preimage(1, 1, 2)] {
            assert!(one != other && one.hash() != other.hash());
        }
        assert_eq!(format!("{one:?}"), "Preimage(..)");
        assert_eq!(one.hash(), <[u8; 32]>::from(Sha256::digest(one.0)));
    }
}
