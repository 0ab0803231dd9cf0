//! Wallets over Nostr (NIP-47, Nostr Wallet Connect): requests to a wallet service, its answers and its notifications. The machine decides what is
//! asked when; the host carries it.

mod hold;
mod info;
mod transaction;
mod uri;

pub use hold::Preimage;
pub use info::WalletInfo;
pub use transaction::{Claim, Held, Payout, Transaction};
pub use uri::WalletUri;

use relay_engine::types::{Event, EventId, Kind, PubKey, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cipher::{self, Cipher, CipherError};
use crate::exchange::{Answers, Wanted};
use crate::identity::{self, Draft, is_authentic};
use crate::secrets::Secrets;

/// Info events of wallet services.
pub const KIND_INFO: Kind = 13_194;
/// Requests to wallet services.
pub const KIND_REQUEST: Kind = 23_194;
/// Answers.
pub const KIND_RESPONSE: Kind = 23_195;
/// Notifications in NIP-04, for clients of before NIP-44.
pub const KIND_NOTIFICATION_NIP04: Kind = 23_196;
/// Notifications in NIP-44.
pub const KIND_NOTIFICATION: Kind = 23_197;

/// Most notifications in an exchange: the wallet may receive other payments, too.
const NOTIFICATIONS_MAX: usize = 500;

/// A request to a wallet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// To make an invoice.
    MakeInvoice {
        /// Millisatoshis.
        msat: u64,
        /// What the payer sees.
        description: String,
        /// Seconds for which it can be paid.
        expiry_s: u64,
    },
    /// To make an invoice whose payment is held until it is settled or cancelled.
    MakeHoldInvoice {
        /// Millisatoshis.
        msat: u64,
        /// What the payer sees.
        description: String,
        /// Seconds for which it can be paid. How long a payment can be held is another matter.
        expiry_s: u64,
        /// The hash of its preimage.
        payment_hash: [u8; 32],
        /// Blocks for which a payment can be held at least.
        min_cltv_expiry_delta: u64,
    },
    /// To settle a hold invoice: to take its payment.
    SettleHoldInvoice {
        /// Its preimage.
        preimage: Preimage,
    },
    /// To cancel a hold invoice: to give its payment back.
    CancelHoldInvoice {
        /// The payment hash.
        payment_hash: [u8; 32],
    },
    /// To pay an invoice.
    PayInvoice {
        /// The invoice (BOLT 11), which says how much.
        invoice: String,
    },
    /// To look up the invoice, or the payment, with this payment hash.
    LookupInvoice {
        /// The payment hash.
        payment_hash: [u8; 32],
    },
}

impl Method {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Method::MakeInvoice { .. } => "make_invoice",
            Method::MakeHoldInvoice { .. } => "make_hold_invoice",
            Method::SettleHoldInvoice { .. } => "settle_hold_invoice",
            Method::CancelHoldInvoice { .. } => "cancel_hold_invoice",
            Method::PayInvoice { .. } => "pay_invoice",
            Method::LookupInvoice { .. } => "lookup_invoice",
        }
    }

    fn params(&self) -> Value {
        match self {
            Method::MakeInvoice { msat, description, expiry_s } => {
                json!({ "amount": msat, "description": description, "expiry": expiry_s })
            }
            Method::MakeHoldInvoice { msat, description, expiry_s, payment_hash, min_cltv_expiry_delta } => {
                json!({
                    "amount": msat, "description": description, "expiry": expiry_s,
                    "payment_hash": faster_hex::hex_string(payment_hash), "min_cltv_expiry_delta": min_cltv_expiry_delta
                })
            }
            Method::SettleHoldInvoice { preimage } => {
                json!({ "preimage": faster_hex::hex_string(&preimage.0) })
            }
            Method::PayInvoice { invoice } => json!({ "invoice": invoice }),
            Method::CancelHoldInvoice { payment_hash } | Method::LookupInvoice { payment_hash } => {
                json!({ "payment_hash": faster_hex::hex_string(payment_hash) })
            }
        }
    }
}

/// An error of a wallet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalletError {
    /// An error code of NIP-47, such as `NOT_FOUND`.
    pub code: String,
    /// The wallet's message.
    pub message: String,
}

/// What a wallet says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalletMessage {
    /// What it can do.
    Info(WalletInfo),
    /// An answer to a request.
    Response(EventId, Result<Transaction, WalletError>),
    /// A payment was received.
    Received(Transaction),
    /// The payment of a hold invoice is held.
    Accepted(Transaction),
}

/// An agent as the client of its wallet.
#[derive(Clone, Debug)]
pub struct Client {
    uri: WalletUri,
}

impl Client {
    /// The client of the wallet whose connection string is the secret of this name.
    ///
    /// # Errors
    /// A message that names the missing or malformed secret, not its value.
    pub fn of(secret: &str, secrets: &dyn Secrets) -> Result<Self, String> {
        let text = identity::secret(secret, secrets)?;
        let uri = WalletUri::parse(&text).map_err(|why| format!("secret {secret} {why}"))?;
        Ok(Client { uri })
    }

    /// Relays on which the wallet listens.
    pub fn relays(&self) -> &[String] {
        &self.uri.relays
    }

    /// The wallet's public key, of this connection.
    pub fn wallet(&self) -> PubKey {
        self.uri.wallet
    }

    /// A digest that identifies the connection and does not reveal its secret.
    pub fn digest(&self) -> String {
        use sha2::{Digest, Sha256};
        let hash =
            Sha256::new().chain_update(self.uri.keys.pubkey().0).chain_update(self.uri.wallet.0).finalize();
        hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The events to subscribe to: the wallet's info event, its answers to these requests, and its notifications in `cipher`.
    /// Answers are asked for by their `e`, since some have no `p`.
    pub fn answers(&self, requests: &[Event], cipher: Option<Cipher>) -> Answers {
        let mut wanted = vec![Wanted { kinds: vec![KIND_INFO], tag: None }];
        if !requests.is_empty() {
            let ids = requests.iter().map(|request| request.id.to_string()).collect();
            wanted.push(Wanted { kinds: vec![KIND_RESPONSE], tag: Some(('e', ids)) });
        }
        if let Some(cipher) = cipher {
            let kind = match cipher {
                Cipher::Nip44 => KIND_NOTIFICATION,
                Cipher::Nip04 => KIND_NOTIFICATION_NIP04,
            };
            let client = self.uri.keys.pubkey().to_string();
            wanted.push(Wanted { kinds: vec![kind], tag: Some(('p', vec![client])) });
        }
        Answers { author: self.uri.wallet, wanted, unasked_max: NOTIFICATIONS_MAX }
    }

    /// A request, signed, which the wallet ignores after `expires_at`. `nonce` must be random and used once.
    ///
    /// # Errors
    /// [`CipherError`] if the wallet's key is not on the curve.
    pub fn request(
        &self,
        method: &Method,
        cipher: Cipher,
        created_at: Timestamp,
        expires_at: Timestamp,
        nonce: [u8; 32],
    ) -> Result<Event, CipherError> {
        let text = json!({ "method": method.name(), "params": method.params() }).to_string();
        let content = cipher::encrypt(cipher, &self.uri.keys, &self.uri.wallet, &text, nonce)?;
        let tag = |name: &str, value: String| vec![name.to_owned(), value];
        let mut tags = vec![tag("p", self.uri.wallet.to_string()), tag("expiration", expires_at.to_string())];
        // Its absence means NIP-04, and is all that old wallets know.
        if cipher == Cipher::Nip44 {
            tags.push(tag("encryption", "nip44_v2".to_owned()));
        }
        Ok(self.uri.keys.sign(&Draft { created_at, kind: KIND_REQUEST, tags, content }))
    }

    /// Reads an event. `None` for what is not the wallet's, or cannot be read.
    pub fn read(&self, event: &Event) -> Option<WalletMessage> {
        if event.pubkey != self.uri.wallet || !is_authentic(event) {
            return None;
        }
        match event.kind {
            KIND_INFO => WalletInfo::read(event).map(WalletMessage::Info),
            KIND_RESPONSE => {
                let request = EventId::from_hex(&event.tags().find(b"e")?).ok()?;
                let Response { result, error } = self.decrypt(event)?;
                let outcome = match (error, result) {
                    (Some(error), _) => Err(WalletError { code: error.code, message: error.message }),
                    (None, Some(result)) => Ok(Transaction::read(&result)?),
                    (None, None) => return None,
                };
                Some(WalletMessage::Response(request, outcome))
            }
            KIND_NOTIFICATION | KIND_NOTIFICATION_NIP04 => {
                let Notification { notification_type, notification } = self.decrypt(event)?;
                let message = match notification_type.as_str() {
                    "payment_received" => WalletMessage::Received,
                    "hold_invoice_accepted" => WalletMessage::Accepted,
                    _ => return None,
                };
                Transaction::read(&notification).map(message)
            }
            _ => None,
        }
    }

    fn decrypt<T: for<'de> Deserialize<'de>>(&self, event: &Event) -> Option<T> {
        let content = Draft::of(event).content;
        let (_, text) = cipher::decrypt(&self.uri.keys, &self.uri.wallet, content.trim()).ok()?;
        serde_json::from_str(&text).ok()
    }
}

#[derive(Deserialize)]
struct Response {
    #[serde(default)]
    result: Option<Value>,
    #[serde(default)]
    error: Option<RawError>,
}

#[derive(Deserialize)]
struct RawError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct Notification {
    notification_type: String,
    #[serde(default)]
    notification: Value,
}
