//! A transaction as a wallet reports it, and when it counts as received or paid.

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// A transaction of a wallet. What is missing or of another type is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// `incoming` or `outgoing`.
    pub direction: Option<String>,
    /// `pending`, `settled`, `accepted`, `expired` or `failed`; older wallets do not say.
    pub state: Option<String>,
    /// The invoice (BOLT 11).
    pub invoice: Option<String>,
    /// The preimage.
    pub preimage: Option<[u8; 32]>,
    /// Whether a preimage is given, readable or not.
    pub has_preimage: bool,
    /// The payment hash.
    pub payment_hash: Option<[u8; 32]>,
    /// Millisatoshis.
    pub msat: Option<u64>,
    /// When it was settled, in Unix seconds.
    pub settled_at: Option<u64>,
    /// Routing fees, in millisatoshis.
    pub fees_msat: Option<u64>,
}

/// The state of a payment that a wallet was asked to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payout {
    /// It is paid.
    Paid,
    /// It may still be paid.
    Pending,
    /// It is not paid, and will not be.
    Failed,
    /// The transaction is another one.
    Other,
}

/// Whether a wallet says that an invoice is paid, and whether it proves that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is not paid.
    Unpaid,
    /// It is paid according to the wallet, which gives no preimage as a proof.
    Unproven,
    /// It is paid, and the preimage hashes to the payment hash.
    Proven,
    /// The preimage is wrong, or the transaction is another one: it does not count.
    False,
}

/// What a wallet says about the payment of a hold invoice that is not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// No payment is held, or the transaction is another one.
    No,
    /// It is held.
    Accepted,
    /// It was given back.
    Released,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default, rename = "type")]
    direction: Value,
    #[serde(default)]
    state: Value,
    #[serde(default)]
    invoice: Value,
    #[serde(default)]
    preimage: Value,
    #[serde(default)]
    payment_hash: Value,
    #[serde(default)]
    amount: Value,
    #[serde(default)]
    settled_at: Value,
    #[serde(default)]
    fees_paid: Value,
}

impl Transaction {
    /// Reads the result of a request, or a notification.
    pub(super) fn read(value: &Value) -> Option<Self> {
        let raw = Raw::deserialize(value).ok()?;
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
        Some(Transaction {
            direction: text(&raw.direction),
            state: text(&raw.state).map(|state| state.to_ascii_lowercase()),
            invoice: text(&raw.invoice),
            preimage: hash(&raw.preimage),
            has_preimage: text(&raw.preimage).is_some(),
            payment_hash: hash(&raw.payment_hash),
            msat: number(&raw.amount),
            settled_at: number(&raw.settled_at).filter(|at| *at > 0),
            fees_msat: number(&raw.fees_paid),
        })
    }

    fn has_preimage_of(&self, payment_hash: &[u8; 32]) -> bool {
        self.preimage.is_some_and(|preimage| Sha256::digest(preimage)[..] == payment_hash[..])
    }

    /// The state of the outgoing payment with this hash. A preimage proves that it was made.
    pub fn payout(&self, payment_hash: &[u8; 32]) -> Payout {
        let is_other = self.payment_hash.is_some_and(|hash| hash != *payment_hash);
        if is_other || self.direction.as_deref() == Some("incoming") {
            return Payout::Other;
        }
        if self.has_preimage_of(payment_hash) {
            return Payout::Paid;
        }
        match self.state.as_deref() {
            Some("failed") => Payout::Failed,
            Some("settled") if !self.has_preimage => Payout::Paid,
            _ => Payout::Pending,
        }
    }

    /// What it says about the invoice with this payment hash.
    pub fn claim(&self, payment_hash: &[u8; 32]) -> Claim {
        let is_other = self.payment_hash.is_some_and(|hash| hash != *payment_hash);
        if is_other || self.direction.as_deref() == Some("outgoing") {
            return Claim::False;
        }
        let is_settled = match self.state.as_deref() {
            Some(state) => state == "settled",
            None => self.settled_at.is_some(),
        };
        match self.preimage {
            _ if !is_settled => Claim::Unpaid,
            Some(_) if self.has_preimage_of(payment_hash) => Claim::Proven,
            None if !self.has_preimage => Claim::Unproven,
            Some(_) | None => Claim::False,
        }
    }

    /// What it says about the hold invoice with this payment hash, if it is not settled.
    pub fn held(&self, payment_hash: &[u8; 32]) -> Held {
        // Without a hash it may be any invoice's.
        let is_this = self.payment_hash.is_some_and(|hash| hash == *payment_hash);
        if !is_this || self.direction.as_deref() == Some("outgoing") {
            return Held::No;
        }
        match self.state.as_deref() {
            Some("accepted") => Held::Accepted,
            Some("failed" | "cancelled" | "canceled") => Held::Released,
            _ => Held::No,
        }
    }
}

/// 64 hexadecimal digits.
fn hash(value: &Value) -> Option<[u8; 32]> {
    let text = value.as_str()?;
    let mut bytes = [0; 32];
    (text.len() == 64 && faster_hex::hex_decode(text.as_bytes(), &mut bytes).is_ok()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_counts_as_paid() {
        let preimage = [7; 32];
        let payment_hash: [u8; 32] = Sha256::digest(preimage).into();
        let (right, other) = (faster_hex::hex_string(&preimage), "08".repeat(32));
        let hex = faster_hex::hex_string(&payment_hash);
        for (transaction, want) in [
            (json!({"state": "settled", "preimage": right, "payment_hash": hex}), Claim::Proven),
            (json!({"settled_at": 5, "preimage": right}), Claim::Proven),
            (
                json!({"type": "incoming", "state": "SETTLED", "preimage": right.to_uppercase()}),
                Claim::Proven,
            ),
            (json!({"state": "settled", "payment_hash": hex}), Claim::Unproven),
            (json!({"state": "settled", "preimage": ""}), Claim::Unproven),
            (json!({"state": "settled", "preimage": null}), Claim::Unproven),
            // The receiver's wallet knows the preimage before it is paid.
            (json!({"state": "pending", "preimage": right}), Claim::Unpaid),
            (json!({"preimage": right, "settled_at": null}), Claim::Unpaid),
            (json!({"state": "accepted", "settled_at": 5, "preimage": right}), Claim::Unpaid),
            (json!({"state": "expired"}), Claim::Unpaid),
            (json!({}), Claim::Unpaid),
            (json!({"state": "settled", "preimage": other}), Claim::False),
            (json!({"state": "settled", "preimage": "x"}), Claim::False),
            (json!({"state": "settled", "preimage": other, "payment_hash": other}), Claim::False),
            (json!({"type": "outgoing", "state": "settled", "preimage": right}), Claim::False),
        ] {
            let read = Transaction::read(&transaction).unwrap();
            assert_eq!(read.claim(&payment_hash), want, "{transaction}");
        }
        for (transaction, want) in [
            (json!({"state": "accepted", "payment_hash": hex}), Held::Accepted),
            (json!({"state": "ACCEPTED", "type": "incoming", "payment_hash": hex}), Held::Accepted),
            (json!({"state": "failed", "payment_hash": hex}), Held::Released),
            (json!({"state": "cancelled", "payment_hash": hex}), Held::Released),
            (json!({"state": "accepted", "payment_hash": other}), Held::No),
            (json!({"state": "accepted"}), Held::No),
            (json!({"state": "accepted", "type": "outgoing", "payment_hash": hex}), Held::No),
            (json!({"state": "failed", "payment_hash": other}), Held::No),
            (json!({"state": "pending", "payment_hash": hex}), Held::No),
            (json!({"state": "expired", "payment_hash": hex}), Held::No),
            (json!({"payment_hash": hex}), Held::No),
        ] {
            let read = Transaction::read(&transaction).unwrap();
            assert_eq!(read.held(&payment_hash), want, "{transaction}");
        }
        assert_eq!(Transaction::read(&json!({"amount": "21000"})).unwrap().msat, Some(21_000));
        assert_eq!(Transaction::read(&json!({"amount": -1})).unwrap().msat, None);
        assert_eq!(Transaction::read(&json!("x")), None);
    }
}
