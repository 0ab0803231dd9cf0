//! A wallet service (NIP-47) of the tests: it makes signed invoices, and the test pays them.

use std::collections::{BTreeMap, BTreeSet};

use nostr::hashes::{Hash, sha256};
use relay_agent::bolt11;
use relay_agent::cipher::{self, Cipher};
use relay_agent::identity::{Draft, Keys};
use relay_agent::nip47::{KIND_INFO, KIND_NOTIFICATION, KIND_NOTIFICATION_NIP04, KIND_RESPONSE};
use relay_engine::types::{Event, EventId, PubKey};
use serde_json::{Value, json};

use crate::{invoices, recipients};

/// The private key of the agent as the wallet's client.
const CLIENT: [u8; 32] = [0x31; 32];
const WALLET: [u8; 32] = [0x32; 32];
const OTHER_WALLET: [u8; 32] = [0x33; 32];
/// Where it listens.
pub(crate) const WALLET_RELAY: &str = "wss://wallet.example";

/// The connection string of the wallet.
pub(crate) fn uri() -> String {
    uri_of(WALLET)
}

/// That of [`Wallet::other`].
pub(crate) fn other_uri() -> String {
    uri_of(OTHER_WALLET)
}

fn uri_of(wallet: [u8; 32]) -> String {
    let wallet = Keys::from_secret_bytes(wallet).unwrap().pubkey();
    let secret: String = CLIENT.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("nostr+walletconnect://{wallet}?relay={WALLET_RELAY}&secret={secret}")
}

/// Where the payment of a hold invoice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holding {
    Nothing,
    /// So much.
    Held(u64),
    Settled,
    Cancelled,
}

/// An invoice of the wallet.
#[derive(Clone, Debug)]
pub(crate) struct Invoice {
    pub(crate) preimage: [u8; 32],
    pub(crate) bolt11: String,
    pub(crate) msat: u64,
    pub(crate) expires_at: u64,
    /// What was paid.
    pub(crate) paid: Option<u64>,
    pub(crate) description: String,
    /// Of a hold invoice, whose preimage it does not know before it is settled.
    pub(crate) hold: Option<Holding>,
}

/// What it does when it is asked to pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paying {
    /// It pays, for this fee.
    Pays(u64),
    /// It answers this error, and has not paid.
    Refuses(&'static str),
    /// It tries, answers PAYMENT_FAILED, and knows that it has failed.
    Fails,
    /// It answers PAYMENT_FAILED, and the payment is still on its way.
    TakesLong,
}

/// A payment that it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) state: &'static str,
    pub(crate) msat: u64,
    pub(crate) fee: u64,
    /// How often it was paid.
    pub(crate) times: u32,
}

/// See the module.
pub(crate) struct Wallet {
    keys: Keys,
    client: Keys,
    pub(crate) cipher: Cipher,
    /// By payment hash.
    pub(crate) invoices: BTreeMap<String, Invoice>,
    nonce: u64,
    pub(crate) methods: &'static str,
    /// Seconds for which its invoices can be paid, whatever it is asked for.
    pub(crate) expiry_s: Option<u64>,
    pub(crate) paying: Paying,
    /// By payment hash.
    pub(crate) outgoing: BTreeMap<String, Outgoing>,
    asked_to_pay: BTreeSet<EventId>,
    /// The code of the error with which it answers requests for invoices.
    pub(crate) makes_none: Option<&'static str>,
    /// Whether it answers no questions about payments.
    pub(crate) tells_nothing: bool,
    /// Whether it cancels also hold invoices that are not paid: LND does, Alby Hub does not.
    pub(crate) cancels_unpaid: bool,
    /// Whether it gives preimages.
    pub(crate) shows_preimages: bool,
    /// Whether it says which way payments went.
    pub(crate) shows_types: bool,
    /// Blocks for which it holds payments, whatever it is asked for.
    pub(crate) blocks: Option<u64>,
    /// The time of its info event.
    pub(crate) info_at: u64,
    /// The methods of the requests that it has answered.
    pub(crate) asked: Vec<String>,
}

impl Wallet {
    pub(crate) fn new() -> Self {
        Self::of(WALLET)
    }

    /// Another one.
    pub(crate) fn other() -> Self {
        // Its invoices have other preimages.
        Wallet { nonce: 1 << 32, ..Self::of(OTHER_WALLET) }
    }

    fn of(keys: [u8; 32]) -> Self {
        Wallet {
            keys: Keys::from_secret_bytes(keys).unwrap(),
            client: Keys::from_secret_bytes(CLIENT).unwrap(),
            cipher: Cipher::Nip44,
            invoices: BTreeMap::new(),
            nonce: 0,
            methods: "pay_invoice make_invoice lookup_invoice get_info notifications make_hold_invoice settle_hold_invoice \
                      cancel_hold_invoice",
            expiry_s: None,
            paying: Paying::Pays(0),
            outgoing: BTreeMap::new(),
            asked_to_pay: BTreeSet::new(),
            makes_none: None,
            tells_nothing: false,
            cancels_unpaid: true,
            shows_preimages: true,
            shows_types: true,
            blocks: None,
            info_at: 1,
            asked: Vec::new(),
        }
    }

    fn nonce(&mut self) -> [u8; 32] {
        self.nonce += 1;
        sha256::Hash::hash(&self.nonce.to_be_bytes()).to_byte_array()
    }

    /// What it can do.
    pub(crate) fn info(&self) -> Event {
        let tags = match self.cipher {
            Cipher::Nip44 => vec![vec!["encryption".to_owned(), "nip44_v2 nip04".to_owned()]],
            // A wallet of before NIP-44.
            Cipher::Nip04 => Vec::new(),
        };
        let content = self.methods.to_owned();
        self.keys.sign(&Draft { created_at: self.info_at, kind: KIND_INFO, tags, content })
    }

    pub(crate) fn pubkey(&self) -> PubKey {
        self.keys.pubkey()
    }

    /// Whether a request is to this wallet.
    pub(crate) fn is_asked(&self, request: &Event) -> bool {
        request.tags().find(b"p").is_some_and(|key| *key == *self.pubkey().to_string().as_bytes())
    }

    /// What a request asks: the method and its parameters.
    pub(crate) fn read(&self, request: &Event) -> (String, Value) {
        let content = Draft::of(request).content;
        let (used, text) =
            cipher::decrypt(&self.keys, &request.pubkey, &content).expect("a request to this wallet");
        assert_eq!(used, self.cipher, "the cipher that it says");
        let request: Value = serde_json::from_str(&text).unwrap();
        (request["method"].as_str().unwrap().to_owned(), request["params"].clone())
    }

    /// The answer to a request, as an honest wallet gives it.
    pub(crate) fn answer(&mut self, now: u64, request: &Event) -> Event {
        let (method, params) = self.read(request);
        self.asked.push(method.clone());
        let refusal = self.makes_none.filter(|_| method.starts_with("make_"));
        let (result, error) = match method.as_str() {
            _ if refusal.is_some() => (Value::Null, json!({"code": refusal, "message": "not now"})),
            "make_invoice" | "make_hold_invoice" => (self.make(now, &params), Value::Null),
            "settle_hold_invoice" => self.settle(params["preimage"].as_str().unwrap()),
            "cancel_hold_invoice" => self.cancel(params["payment_hash"].as_str().unwrap()),
            // The same event again is no new request.
            "pay_invoice" => {
                let is_new = self.asked_to_pay.insert(request.id);
                self.pay_out(params["invoice"].as_str().unwrap(), is_new)
            }
            "lookup_invoice" if self.tells_nothing => {
                (Value::Null, json!({"code": "RESTRICTED", "message": "no"}))
            }
            "lookup_invoice" => {
                let hash = params["payment_hash"].as_str().unwrap();
                match self.transaction(now, hash).or_else(|| self.outgoing(hash)) {
                    Some(transaction) => (transaction, Value::Null),
                    None => (Value::Null, json!({"code": "NOT_FOUND", "message": "no such invoice"})),
                }
            }
            _ => (Value::Null, json!({"code": "NOT_IMPLEMENTED", "message": method})),
        };
        self.respond(request, &json!({ "result_type": method, "result": result, "error": error }))
    }

    /// An answer of these words.
    pub(crate) fn respond(&mut self, request: &Event, words: &Value) -> Event {
        let tags = vec![vec!["e".to_owned(), request.id.to_string()]];
        self.event(KIND_RESPONSE, tags, words)
    }

    fn event(&mut self, kind: u16, tags: Vec<Vec<String>>, words: &Value) -> Event {
        let (nonce, client) = (self.nonce(), self.client.pubkey());
        let content = cipher::encrypt(self.cipher, &self.keys, &client, &words.to_string(), nonce).unwrap();
        self.keys.sign(&Draft { created_at: self.nonce, kind, tags, content })
    }

    fn make(&mut self, now: u64, params: &Value) -> Value {
        let msat = params["amount"].as_u64().unwrap();
        let expiry_s = self.expiry_s.or(params["expiry"].as_u64()).unwrap();
        let description = params["description"].as_str().unwrap().to_owned();
        let given = params["payment_hash"].as_str();
        let preimage = if given.is_some() { [0; 32] } else { self.nonce() };
        let draft = invoices::Draft {
            msat: Some(msat),
            description: &description,
            preimage,
            created_at: now,
            expiry_s,
        };
        let payment_hash = given.map_or(sha256::Hash::hash(&preimage), |hash| hash.parse().unwrap());
        let blocks = self.blocks.or(params["min_cltv_expiry_delta"].as_u64());
        let bolt11 = draft.sign_with(payment_hash, blocks.unwrap_or(144));
        let hash = payment_hash.to_string();
        assert!(!self.invoices.contains_key(&hash), "a payment hash is used once");
        let hold = given.map(|_| Holding::Nothing);
        let expires_at = now + expiry_s;
        let invoice = Invoice { preimage, bolt11, msat, expires_at, paid: None, description, hold };
        self.invoices.insert(hash.clone(), invoice);
        self.transaction(now, &hash).unwrap()
    }

    /// It takes a payment that it holds.
    fn settle(&mut self, preimage: &str) -> (Value, Value) {
        let mut bytes = [0; 32];
        faster_hex::hex_decode(preimage.as_bytes(), &mut bytes).unwrap();
        let invoice = self.invoices.get_mut(&sha256::Hash::hash(&bytes).to_string()).expect("its invoice");
        let Some(Holding::Held(msat)) = invoice.hold else { return nothing_is_held() };
        (invoice.preimage, invoice.paid, invoice.hold) = (bytes, Some(msat), Some(Holding::Settled));
        (json!({}), Value::Null)
    }

    /// It gives a payment back, and takes none any more.
    pub(crate) fn cancel(&mut self, hash: &str) -> (Value, Value) {
        let cancels_unpaid = self.cancels_unpaid;
        match self.invoices.get_mut(hash).and_then(|invoice| invoice.hold.as_mut()) {
            Some(hold @ Holding::Nothing) if cancels_unpaid => *hold = Holding::Cancelled,
            Some(hold @ Holding::Held(_)) => *hold = Holding::Cancelled,
            _ => return nothing_is_held(),
        }
        (json!({}), Value::Null)
    }

    fn pay_out(&mut self, bolt11: &str, is_new: bool) -> (Value, Value) {
        let invoice = bolt11::Invoice::parse(bolt11).unwrap();
        let hash = faster_hex::hex_string(&invoice.payment_hash);
        let error = |code: &str| (Value::Null, json!({"code": code, "message": "no"}));
        let state = match self.paying {
            Paying::Refuses(code) => return error(code),
            Paying::Pays(_) => "settled",
            Paying::Fails => "failed",
            Paying::TakesLong => "pending",
        };
        let fee = if let Paying::Pays(fee) = self.paying { fee } else { 0 };
        let new = Outgoing { state, msat: invoice.msat.unwrap(), fee, times: 0 };
        let payment = self.outgoing.entry(hash.clone()).or_insert(new);
        if state != "failed" && is_new {
            payment.times += 1;
        }
        match self.paying {
            Paying::Pays(fee) => (json!({"preimage": preimage_of(&hash), "fees_paid": fee}), Value::Null),
            _ => error("PAYMENT_FAILED"),
        }
    }

    /// A payment as NIP-47 has it.
    fn outgoing(&self, hash: &str) -> Option<Value> {
        let payment = self.outgoing.get(hash)?;
        let is_paid = payment.state == "settled";
        Some(json!({
            "type": "outgoing", "state": payment.state, "payment_hash": hash, "amount": payment.msat,
            "fees_paid": payment.fee, "preimage": is_paid.then(|| preimage_of(hash)),
        }))
    }

    /// An invoice as NIP-47 has it.
    pub(crate) fn transaction(&self, now: u64, hash: &str) -> Option<Value> {
        let invoice = self.invoices.get(hash)?;
        let (state, amount) = match (invoice.paid, invoice.hold) {
            (_, Some(Holding::Held(msat))) => ("accepted", msat),
            (_, Some(Holding::Cancelled)) => ("failed", invoice.msat),
            (paid, _) => (self.state(now, invoice), paid.unwrap_or(invoice.msat)),
        };
        Some(json!({
            "type": self.shows_types.then_some("incoming"),
            "state": state,
            "invoice": invoice.bolt11,
            "preimage": invoice.paid.filter(|_| self.shows_preimages).map(|_| faster_hex::hex_string(&invoice.preimage)),
            "payment_hash": hash,
            "amount": amount,
            "fees_paid": 0,
            "created_at": invoice.expires_at - 600,
            "expires_at": invoice.expires_at,
            "settled_at": invoice.paid.map(|_| now),
        }))
    }

    fn state(&self, now: u64, invoice: &Invoice) -> &'static str {
        match invoice.paid {
            Some(_) => "settled",
            None if now >= invoice.expires_at => "expired",
            None => "pending",
        }
    }

    /// Somebody pays an invoice; the payment of a hold invoice is held. Its payment hash.
    pub(crate) fn pay(&mut self, bolt11: &str, msat: Option<u64>) -> String {
        let (hash, invoice) =
            self.invoices.iter_mut().find(|(_, invoice)| invoice.bolt11 == bolt11).expect("its invoice");
        let msat = msat.unwrap_or(invoice.msat);
        match &mut invoice.hold {
            Some(hold) => *hold = Holding::Held(msat),
            None => invoice.paid = Some(msat),
        }
        hash.clone()
    }

    /// Somebody has paid an invoice that the service of the wallet's Lightning address has made.
    pub(crate) fn receive(&mut self, bolt11: &str, preimage: [u8; 32]) {
        let parsed = bolt11::Invoice::parse(bolt11).unwrap();
        let (msat, expires_at) = (parsed.msat.unwrap(), parsed.expires_at);
        let (bolt11, description) = (bolt11.to_owned(), String::new());
        let invoice =
            Invoice { preimage, bolt11, msat, expires_at, paid: Some(msat), description, hold: None };
        self.invoices.insert(faster_hex::hex_string(&parsed.payment_hash), invoice);
    }

    /// A notification that a payment was received.
    pub(crate) fn notification(&mut self, transaction: &Value) -> Event {
        self.notification_of("payment_received", transaction)
    }

    /// A notification of this type.
    pub(crate) fn notification_of(&mut self, kind_of: &str, transaction: &Value) -> Event {
        let tags = vec![vec!["p".to_owned(), self.client.pubkey().to_string()]];
        let kind = match self.cipher {
            Cipher::Nip44 => KIND_NOTIFICATION,
            Cipher::Nip04 => KIND_NOTIFICATION_NIP04,
        };
        self.event(kind, tags, &json!({"notification_type": kind_of, "notification": transaction}))
    }
}

/// The words of Alby Hub.
fn nothing_is_held() -> (Value, Value) {
    (Value::Null, json!({"code": "INTERNAL", "message": "failed to find accepted hold invoice"}))
}

/// Customers' preimages are of one repeated byte, and recipients' are numbered.
fn preimage_of(hash: &str) -> String {
    let mut preimages = (0..=u8::MAX).map(|byte| [byte; 32]).chain((1..10_000).map(recipients::preimage));
    let found = preimages.find(|preimage| sha256::Hash::hash(preimage).to_string() == hash);
    faster_hex::hex_string(&found.expect("a preimage of the tests"))
}
