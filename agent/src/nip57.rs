//! Zap receipts (NIP-57), read and checked. The caller checks which key has signed the receipt, and that a payment hash counts once.

use relay_engine::types::{Event, EventId, Kind, PubKey, Timestamp};
use relay_engine::wire::parse_event;
use sha2::{Digest, Sha256};

use crate::bolt11::Invoice;
use crate::identity::is_authentic;
use crate::lnurl::LightningAddress;

/// A zap request, which is in the receipt.
pub const KIND_ZAP_REQUEST: Kind = 9_734;
/// A zap receipt.
pub const KIND_ZAP_RECEIPT: Kind = 9_735;

/// Largest amount of a zap, in millisatoshis: a hundred bitcoins.
const MSAT_MAX: u64 = 100 * crate::manifest::PRICE_MSAT_MAX;

/// What a receipt says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zap {
    /// The receipt.
    pub receipt: EventId,
    /// Who has signed the receipt.
    pub signer: PubKey,
    /// Who has signed the zap request; the zap is their credit.
    pub payer: PubKey,
    /// Who is zapped.
    pub payee: PubKey,
    /// The event that is zapped (`e`); `None` if the zap request names none.
    pub event: Option<EventId>,
    /// What was paid, in millisatoshis.
    pub msat: u64,
    /// The payment hash.
    pub payment_hash: [u8; 32],
    /// When the receipt says it was paid, in Unix seconds.
    pub paid_at: Timestamp,
}

impl Zap {
    /// Reads a receipt of a zap to `payee`, whose Lightning address is `address`, by the rules of NIP-57: appendix F, and those of D and E by which
    /// receipt, request and invoice belong together. The relay has checked the signature of the receipt itself.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn read(receipt: &Event, payee: &PubKey, address: &LightningAddress) -> Result<Self, &'static str> {
        if only(receipt, b"p")?.and_then(|key| key.parse().ok()) != Some(*payee) {
            return Err("it must have one p tag, with the key of the agent");
        }
        let (zap, request) = Self::parts(receipt)?;
        if only(&request, b"lnurl")?.is_some_and(|lnurl| !address.matches_lnurl(&lnurl)) {
            return Err("its zap request is to another Lightning address (lnurl)");
        }
        // Last, since it takes longest.
        if !is_authentic(&request) {
            return Err("its zap request is not signed by whom it names");
        }
        Ok(zap)
    }

    /// What a receipt of a zap to anybody says, by the same rules, and the zap request in it. The caller must check whether that is signed
    /// ([`is_authentic`]), and to which Lightning address it is.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn parts(receipt: &Event) -> Result<(Self, Event), &'static str> {
        if receipt.kind != KIND_ZAP_RECEIPT {
            return Err("it is no zap receipt");
        }
        let payee = only(receipt, b"p")?.and_then(|key| key.parse().ok());
        let payee: PubKey = payee.ok_or("it must have one p tag, with a key")?;
        let description = only(receipt, b"description")?.ok_or("it has no zap request (description)")?;
        let bolt11 = only(receipt, b"bolt11")?.ok_or("it has no invoice (bolt11)")?;
        let invoice = Invoice::parse(&bolt11).map_err(|error| error.0)?;
        if invoice.description_hash != Some(Sha256::digest(&description).into()) {
            return Err("its invoice is not for its zap request (description hash)");
        }
        let msat = invoice.msat.filter(|msat| (1..=MSAT_MAX).contains(msat));
        let msat = msat.ok_or("its invoice has no amount, or one of more than 100 bitcoins")?;
        let request = parse_event(description.as_bytes()).map_err(|_| "its zap request is not an event")?;
        let request = request.to_event();
        if request.kind != KIND_ZAP_REQUEST {
            return Err("its zap request is of another kind");
        }
        if only(&request, b"p")?.and_then(|key| key.parse().ok()) != Some(payee) {
            return Err("its zap request must have one p tag, with the key of the receipt's");
        }
        let is_payer = |key: String| key.parse() == Ok(request.pubkey);
        if only(receipt, b"P")?.is_some_and(|key| !is_payer(key)) {
            return Err("it names another payer than its zap request (P)");
        }
        if only(&request, b"P")?.is_some_and(|key| key.parse() != Ok(receipt.pubkey)) {
            return Err("its zap request asks for a receipt by another key (P)");
        }
        if only(&request, b"amount")?.is_some_and(|amount| amount.parse() != Ok(msat)) {
            return Err("its invoice is for another amount than its zap request");
        }
        let event = match only(&request, b"e")? {
            Some(id) => Some(id.parse().map_err(|_| "its zap request names no event (e)")?),
            None => None,
        };
        let zap = Zap {
            receipt: receipt.id,
            signer: receipt.pubkey,
            payer: request.pubkey,
            payee,
            event,
            msat,
            payment_hash: invoice.payment_hash,
            paid_at: receipt.created_at,
        };
        Ok((zap, request))
    }
}

/// The value of the only tag of this name; `None` without one.
fn only(event: &Event, name: &[u8]) -> Result<Option<String>, &'static str> {
    let mut tags = event.tags().named(name);
    let first = tags.next();
    if tags.next().is_some() {
        return Err("a tag is there twice");
    }
    let Some(tag) = first else { return Ok(None) };
    let value = tag.value().ok_or("a tag has no value")?;
    String::from_utf8(value.into_owned()).map(Some).map_err(|_| "a tag is not UTF-8")
}
