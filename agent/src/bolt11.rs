//! Lightning invoices (BOLT 11), as far as whoever sells needs them: amount, payment hash, times. The signature is not checked: an invoice
//! comes from the agent's own wallet, over a channel that is authenticated.

use std::fmt;

use bech32::primitives::checksum::Checksum;
use bech32::primitives::decode::UncheckedHrpstring;
use bech32::{Bech32, Fe32};

/// Longest invoice, in characters.
const CHARS_MAX: usize = 7_089;
/// Groups of five bits: of the time, of a field's length, of the signature.
const TIME_GROUPS: usize = 7;
const SIGNATURE_GROUPS: usize = 104;
const HASH_GROUPS: usize = 52;
/// Types of fields.
const PAYMENT_HASH: Fe32 = Fe32::P;
const EXPIRY: Fe32 = Fe32::X;
const MIN_FINAL_CLTV_EXPIRY: Fe32 = Fe32::C;
const DESCRIPTION_HASH: Fe32 = Fe32::H;
/// Seconds for which an invoice can be paid if it does not say.
const EXPIRY_SECONDS: u64 = 3_600;
/// Blocks for which a payment can be held if it does not say.
const MIN_FINAL_CLTV_EXPIRY_BLOCKS: u64 = 18;
/// Millisatoshis of a bitcoin.
const BITCOIN_MSAT: u64 = 100_000_000_000;

/// An invoice, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invoice {
    /// Millisatoshis; `None` leaves the amount to the payer.
    pub msat: Option<u64>,
    /// The payment hash.
    pub payment_hash: [u8; 32],
    /// When it was made, in Unix seconds.
    pub created_at: u64,
    /// Until when it can be paid, in Unix seconds.
    pub expires_at: u64,
    /// Blocks for which a payment can be held at least (`min_final_cltv_expiry_delta`).
    pub min_final_cltv_expiry: u64,
    /// SHA-256 of what is paid for, if it says that instead of a description.
    pub description_hash: Option<[u8; 32]>,
}

/// Why a text is no invoice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidInvoice(pub &'static str);

impl fmt::Display for InvalidInvoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for InvalidInvoice {}

/// Bech32 without its limit of length, as BOLT 11 has it.
enum LongBech32 {}

impl Checksum for LongBech32 {
    type MidstateRepr = <Bech32 as Checksum>::MidstateRepr;
    type CorrectionField = <Bech32 as Checksum>::CorrectionField;
    const ROOT_GENERATOR: Self::CorrectionField = Bech32::ROOT_GENERATOR;
    const ROOT_EXPONENTS: core::ops::RangeInclusive<usize> = Bech32::ROOT_EXPONENTS;
    const CODE_LENGTH: usize = CHARS_MAX;
    const CHECKSUM_LENGTH: usize = Bech32::CHECKSUM_LENGTH;
    const GENERATOR_SH: [u32; 5] = Bech32::GENERATOR_SH;
    const TARGET_RESIDUE: u32 = Bech32::TARGET_RESIDUE;
}

impl Invoice {
    /// Reads an invoice.
    ///
    /// # Errors
    /// [`InvalidInvoice`].
    pub fn parse(text: &str) -> Result<Self, InvalidInvoice> {
        let not = |why| InvalidInvoice(why);
        if text.len() > CHARS_MAX {
            return Err(not("the invoice is too long"));
        }
        let parsed = UncheckedHrpstring::new(text).map_err(|_| not("the invoice is not bech32"))?;
        let checked = parsed
            .validate_and_remove_checksum::<LongBech32>()
            .map_err(|_| not("the checksum of the invoice is wrong"))?;
        let msat = amount(&checked.hrp().to_lowercase())?;
        let groups: Vec<Fe32> = checked.fe32_iter().collect();
        let signed = groups.len().checked_sub(SIGNATURE_GROUPS).and_then(|end| groups.get(..end));
        let signed = signed.ok_or(not("the invoice is too short"))?;
        let (time, mut fields) =
            signed.split_at_checked(TIME_GROUPS).ok_or(not("the invoice is too short"))?;
        let created_at = number(time).unwrap_or_default();
        let (mut payment_hash, mut expiry, mut cltv, mut description_hash) = (None, None, None, None);
        while let [kind, high, low, rest @ ..] = fields {
            let length = usize::from(high.to_u8()) * 32 + usize::from(low.to_u8());
            let (field, rest) =
                rest.split_at_checked(length).ok_or(not("a field of the invoice is cut off"))?;
            fields = rest;
            match *kind {
                // Of another length they are to be skipped; the first one counts.
                PAYMENT_HASH if length == HASH_GROUPS && payment_hash.is_none() => payment_hash = hash(field),
                DESCRIPTION_HASH if length == HASH_GROUPS && description_hash.is_none() => {
                    description_hash = hash(field);
                }
                EXPIRY if expiry.is_none() => expiry = number(field),
                MIN_FINAL_CLTV_EXPIRY if cltv.is_none() => cltv = number(field),
                _ => {}
            }
        }
        if !fields.is_empty() {
            return Err(not("a field of the invoice is cut off"));
        }
        Ok(Invoice {
            msat,
            payment_hash: payment_hash.ok_or(not("the invoice has no payment hash"))?,
            created_at,
            expires_at: created_at.saturating_add(expiry.unwrap_or(EXPIRY_SECONDS)),
            min_final_cltv_expiry: cltv.unwrap_or(MIN_FINAL_CLTV_EXPIRY_BLOCKS),
            description_hash,
        })
    }
}

/// The amount in the prefix: `ln`, letters of the network, a number and a multiplier.
fn amount(prefix: &str) -> Result<Option<u64>, InvalidInvoice> {
    let rest = prefix.strip_prefix("ln").ok_or(InvalidInvoice("it is not an invoice"))?;
    let digits = rest.trim_start_matches(|letter: char| letter.is_ascii_lowercase());
    if digits.len() == rest.len() {
        return Err(InvalidInvoice("it is not an invoice"));
    }
    if digits.is_empty() {
        return Ok(None);
    }
    let wrong = InvalidInvoice("the amount of the invoice is wrong");
    let (number, unit) = match digits.as_bytes().last() {
        Some(b'm') => (digits.trim_end_matches('m'), BITCOIN_MSAT / 1_000),
        Some(b'u') => (digits.trim_end_matches('u'), BITCOIN_MSAT / 1_000_000),
        Some(b'n') => (digits.trim_end_matches('n'), BITCOIN_MSAT / 1_000_000_000),
        // A tenth of a millisatoshi.
        Some(b'p') => {
            let number: u64 = digits.trim_end_matches('p').parse().map_err(|_| wrong)?;
            return if number.is_multiple_of(10) { Ok(Some(number / 10)) } else { Err(wrong) };
        }
        _ => (digits, BITCOIN_MSAT),
    };
    let number: u64 = number.parse().map_err(|_| wrong)?;
    number.checked_mul(unit).map(Some).ok_or(wrong)
}

/// A number, the highest group first; `None` if it is too large.
fn number(groups: &[Fe32]) -> Option<u64> {
    groups.iter().try_fold(0u64, |number, group| Some(number.checked_mul(32)? | u64::from(group.to_u8())))
}

/// The first 256 bits.
fn hash(groups: &[Fe32]) -> Option<[u8; 32]> {
    let (mut bytes, mut bits, mut count) = (Vec::with_capacity(33), 0u32, 0);
    for group in groups {
        bits = (bits << 5 | u32::from(group.to_u8())) & 0xfff;
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes.truncate(32);
    bytes.try_into().ok()
}
