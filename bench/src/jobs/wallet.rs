//! The wallet service (NIP-47) of the agents under test: it makes signed invoices, and marks them as settled when a customer pays. No bitcoin
//! moves. Does no I/O.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use nostr::hashes::{Hash, sha256};
use nostr::nips::nip44;
use nostr::secp256k1::{SECP256K1, SecretKey};
use nostr::{Event, EventBuilder, JsonUtil, Keys, Kind, Tag};
use rustc_hash::FxHashMap;
use serde::Deserialize;
use serde_json::{Value, json};

/// Kinds of info events, requests, responses and notifications.
const INFO: Kind = Kind::Custom(13_194);
const REQUEST: Kind = Kind::Custom(23_194);
const RESPONSE: Kind = Kind::Custom(23_195);
const NOTIFICATION: Kind = Kind::Custom(23_197);

/// Keys of the service, of its client, and of the node that signs invoices. They guard nothing.
const SERVICE_KEY: [u8; 32] = [0x57; 32];
const CLIENT_KEY: [u8; 32] = [0x58; 32];
const NODE_KEY: [u8; 32] = [0x59; 32];

/// See the module.
pub(super) struct Wallet {
    keys: Keys,
    client: Keys,
    invoices: FxHashMap<String, Invoice>,
    /// Payment hashes, by invoice (BOLT 11).
    hashes: FxHashMap<String, String>,
    /// Requests that it has answered.
    pub(super) requests: usize,
}

struct Invoice {
    bolt11: String,
    preimage: [u8; 32],
    msat: u64,
    created_at: u64,
    expires_at: u64,
    settled_at: Option<u64>,
}

#[derive(Deserialize)]
struct Call {
    method: String,
    params: Value,
}

fn keys_of(secret: [u8; 32]) -> Keys {
    Keys::new(nostr::SecretKey::from_slice(&secret).expect("a private key"))
}

/// The connection string that agents under test are to be given, for a wallet that is reached by the relay at `url`.
pub fn connection_string(url: &str) -> String {
    let secret = keys_of(CLIENT_KEY).secret_key().to_secret_hex();
    format!("nostr+walletconnect://{}?relay={url}&secret={secret}", keys_of(SERVICE_KEY).public_key())
}

impl Wallet {
    pub(super) fn new() -> Self {
        let (keys, client) = (keys_of(SERVICE_KEY), keys_of(CLIENT_KEY));
        Wallet { keys, client, invoices: FxHashMap::default(), hashes: FxHashMap::default(), requests: 0 }
    }

    /// The filter of requests to it.
    pub(super) fn filter(&self) -> Value {
        json!({ "kinds": [REQUEST.as_u16()], "#p": [self.keys.public_key()], "limit": 0 })
    }

    /// Its info event, as a frame.
    pub(super) fn info(&self) -> Result<String> {
        let tags = [["encryption", "nip44_v2"], ["notifications", "payment_received"]];
        let event = EventBuilder::new(INFO, "make_invoice lookup_invoice").tags(tags.map(tag));
        Ok(frame(&event.sign_with_keys(&self.keys)?))
    }

    /// The answer to the request of an `EVENT` frame, as a frame; `None` if it is not its client's.
    pub(super) fn answer(&mut self, text: &str, now: u64) -> Result<Option<String>> {
        let (from, to) = text.find('{').zip(text.rfind('}')).context("not an event")?;
        let event = Event::from_json(&text[from..=to])?;
        if event.pubkey != self.client.public_key() {
            return Ok(None);
        }
        let call = nip44::decrypt(self.keys.secret_key(), &event.pubkey, &event.content)?;
        let Call { method, params } = serde_json::from_str(&call)?;
        self.requests += 1;
        let (result, error) = match method.as_str() {
            "make_invoice" => (self.make(&params, now)?, Value::Null),
            "lookup_invoice" => match params["payment_hash"].as_str().and_then(|hash| self.transaction(hash))
            {
                Some(found) => (found, Value::Null),
                None => (Value::Null, json!({ "code": "NOT_FOUND", "message": "no such invoice" })),
            },
            _ => (Value::Null, json!({ "code": "NOT_IMPLEMENTED", "message": method })),
        };
        let message = json!({ "result_type": method, "result": result, "error": error });
        self.send(RESPONSE, Some(tag(["e", &event.id.to_hex()])), &message).map(Some)
    }

    fn make(&mut self, params: &Value, now: u64) -> Result<Value> {
        let msat = params["amount"].as_u64().context("make_invoice without an amount")?;
        let expiry = params["expiry"].as_u64().unwrap_or(600);
        let mut preimage = [0; 32];
        preimage[..8].copy_from_slice(&(self.invoices.len() as u64).to_be_bytes());
        // Not those of another run.
        preimage[8..16].copy_from_slice(&now.to_be_bytes());
        let payment_hash = sha256::Hash::hash(&preimage);
        let node = SecretKey::from_slice(&NODE_KEY)?;
        let invoice = InvoiceBuilder::new(Currency::Regtest)
            .description(params["description"].as_str().unwrap_or_default().to_owned())
            .payment_hash(payment_hash)
            .payment_secret(PaymentSecret([3; 32]))
            .duration_since_epoch(Duration::from_secs(now))
            .min_final_cltv_expiry_delta(144)
            .expiry_time(Duration::from_secs(expiry))
            .amount_milli_satoshis(msat)
            .build_signed(|hash| SECP256K1.sign_ecdsa_recoverable(hash, &node))
            .map_err(|error| anyhow!("an invoice: {error}"))?;
        let (hash, bolt11) = (payment_hash.to_string(), invoice.to_string());
        self.hashes.insert(bolt11.clone(), hash.clone());
        let (created_at, expires_at) = (now, now + expiry);
        self.invoices.insert(
            hash.clone(),
            Invoice { bolt11, preimage, msat, created_at, expires_at, settled_at: None },
        );
        self.transaction(&hash).context("it has just been made")
    }

    fn transaction(&self, hash: &str) -> Option<Value> {
        let Invoice { bolt11, preimage, msat, created_at, expires_at, settled_at } =
            self.invoices.get(hash)?;
        let mut transaction = json!({
            "type": "incoming", "state": "pending", "invoice": bolt11, "payment_hash": hash, "amount": msat, "fees_paid": 0,
            "created_at": created_at, "expires_at": expires_at
        });
        if let Some(at) = settled_at {
            transaction["state"] = json!("settled");
            transaction["settled_at"] = json!(at);
            transaction["preimage"] = json!(crate::hex::encode(preimage));
        }
        Some(transaction)
    }

    /// A customer pays: the notification of it, as a frame.
    ///
    /// # Errors
    /// If it has made no such invoice.
    pub(super) fn pay(&mut self, bolt11: &str, now: u64) -> Result<String> {
        let hash = self.hashes.get(bolt11).context("an invoice of another wallet")?.clone();
        self.invoices.get_mut(&hash).context("no such invoice")?.settled_at = Some(now);
        let transaction = self.transaction(&hash);
        let message = json!({ "notification_type": "payment_received", "notification": transaction });
        self.send(NOTIFICATION, None, &message)
    }

    fn send(&self, kind: Kind, about: Option<Tag>, message: &Value) -> Result<String> {
        let to = self.client.public_key();
        let content = nip44::encrypt(self.keys.secret_key(), &to, message.to_string(), nip44::Version::V2)?;
        let tags = [Some(tag(["p", &to.to_hex()])), about].into_iter().flatten();
        Ok(frame(&EventBuilder::new(kind, content).tags(tags).sign_with_keys(&self.keys)?))
    }
}

fn tag(fields: [&str; 2]) -> Tag {
    Tag::parse(fields).expect("a tag of two fields")
}

fn frame(event: &Event) -> String {
    format!(r#"["EVENT",{}]"#, event.as_json())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the client reads in a frame of the wallet.
    fn read(wallet: &Wallet, frame: &str) -> Value {
        let event = Event::from_json(&frame[r#"["EVENT","#.len()..frame.len() - 1]).unwrap();
        event.verify().unwrap();
        let content = nip44::decrypt(wallet.client.secret_key(), &event.pubkey, &event.content).unwrap();
        serde_json::from_str(&content).unwrap()
    }

    fn ask(wallet: &mut Wallet, keys: &Keys, method: &str, params: Value) -> Option<Value> {
        let call = json!({ "method": method, "params": params }).to_string();
        let service = wallet.keys.public_key();
        let content = nip44::encrypt(keys.secret_key(), &service, call, nip44::Version::V2).unwrap();
        let event = EventBuilder::new(REQUEST, content).sign_with_keys(keys).unwrap();
        let answer = wallet.answer(&format!(r#"["EVENT","w",{}]"#, event.as_json()), 1_000).unwrap()?;
        Some(read(wallet, &answer))
    }

    #[test]
    fn an_invoice_is_settled_when_it_is_paid() {
        let mut wallet = Wallet::new();
        let client = wallet.client.clone();
        let made =
            ask(&mut wallet, &client, "make_invoice", json!({ "amount": 21_000, "description": "a job" }));
        let made = made.unwrap()["result"].clone();
        let (bolt11, hash) = (made["invoice"].as_str().unwrap(), made["payment_hash"].clone());
        let signed: lightning_invoice::Bolt11Invoice = bolt11.parse().unwrap();
        assert_eq!(signed.amount_milli_satoshis(), Some(21_000));
        assert_eq!(json!(signed.payment_hash().to_string()), hash);
        let params = json!({ "payment_hash": hash });
        let before = ask(&mut wallet, &client, "lookup_invoice", params.clone()).unwrap();
        assert_eq!(
            (&before["result"]["state"], &before["result"]["preimage"]),
            (&json!("pending"), &Value::Null)
        );
        let told = wallet.pay(bolt11, 1_001).unwrap();
        let told = read(&wallet, &told);
        let after = ask(&mut wallet, &client, "lookup_invoice", params).unwrap();
        assert_eq!(told["notification"], after["result"]);
        let preimage =
            crate::hex::decode32(after["result"]["preimage"].as_str().unwrap().as_bytes()).unwrap();
        assert_eq!(json!(sha256::Hash::hash(&preimage).to_string()), hash);
        assert!(wallet.pay("lnbcrt1", 1_002).is_err());
        assert_eq!(wallet.requests, 3);
        let stranger = keys_of([1; 32]);
        assert_eq!(ask(&mut wallet, &stranger, "make_invoice", json!({ "amount": 1 })), None);
    }
}
