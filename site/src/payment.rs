//! Payments for Blossom (BUD-07): settings, prices, and the requests to the agent that is paid.
//!
//! A [`Purchase`] is what one payment is for. The agent makes an invoice for it as for any paid job, says whether it is paid, and notes when
//! it is spent. The machine of Blossom emits a [`PaymentRequest`], the machine of the agent answers with a [`PaymentOutcome`],
//! and the hosts carry both.

use std::fmt;
use std::time::Duration;

use relay_engine::types::PubKey;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::admission::sats;
use crate::page::grouped;

/// Millisatoshis of a satoshi. Invoices are of whole satoshis.
const SATOSHI_MSAT: u64 = 1_000;
const MIB: u64 = 1 << 20;
/// Largest price of a MiB, in millisatoshis: a bitcoin.
const PRICE_MSAT_MAX: u64 = 100_000_000_000;

/// How long a host waits for a final answer of the agent.
pub const WAIT_MAX: Duration = Duration::from_secs(10);
/// The interval at which it repeats the request meanwhile.
pub const WAIT_INTERVAL: Duration = Duration::from_millis(200);

/// The setting `blossom.payment`. Without `pubkey` everything is free.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PaymentSettings {
    /// The agent that is paid: one of this relay, with the executor `blob_payment`.
    #[serde(with = "crate::settings::some_pubkey", skip_serializing_if = "Option::is_none")]
    pub pubkey: Option<PubKey>,
    /// The price of storing a MiB, in millisatoshis; 0: free. For `/media` the size of the original counts.
    pub upload_msat_per_mib: u64,
    /// The price of downloading a MiB, in millisatoshis; 0: free.
    pub download_msat_per_mib: u64,
    /// Blobs of at most so many bytes are free, to upload and to download.
    pub free_bytes: u64,
    /// Whether listed keys upload for free: administrators, `blossom.upload_pubkeys` and `policy.allow_pubkeys`.
    pub listed_free: bool,
    /// Invoices that an address may ask for in a minute.
    pub quotes_per_minute_max: u32,
}

impl Default for PaymentSettings {
    fn default() -> Self {
        PaymentSettings {
            pubkey: None,
            upload_msat_per_mib: 0,
            download_msat_per_mib: 0,
            free_bytes: 0,
            listed_free: true,
            quotes_per_minute_max: 60,
        }
    }
}

impl PaymentSettings {
    /// What storing so many bytes costs somebody who is not listed, in millisatoshis.
    pub fn upload_msat(&self, bytes: u64) -> Option<u64> {
        self.msat(self.upload_msat_per_mib, bytes)
    }

    /// What a download of a blob of so many bytes costs, in millisatoshis.
    pub fn download_msat(&self, bytes: u64) -> Option<u64> {
        self.msat(self.download_msat_per_mib, bytes)
    }

    /// Whether uploads cost something.
    pub fn sells_uploads(&self) -> bool {
        self.pubkey.is_some() && self.upload_msat_per_mib > 0
    }

    /// Whether downloads cost something.
    pub fn sells_downloads(&self) -> bool {
        self.pubkey.is_some() && self.download_msat_per_mib > 0
    }

    /// The prices in words, as a sentence without its full stop.
    pub fn price_text(&self) -> Option<String> {
        let upload =
            self.sells_uploads().then(|| format!("storing costs {} a MiB", sats(self.upload_msat_per_mib)));
        let download = self
            .sells_downloads()
            .then(|| format!("a download costs {} a MiB", sats(self.download_msat_per_mib)));
        let free =
            (self.free_bytes > 0).then(|| format!("files up to {} bytes are free", grouped(self.free_bytes)));
        let prices: Vec<String> = upload.into_iter().chain(download).collect();
        (!prices.is_empty()).then(|| prices.into_iter().chain(free).collect::<Vec<_>>().join(", "))
    }

    /// The prices as `fees` of NIP-11, by name.
    pub(crate) fn fees(&self) -> impl Iterator<Item = (&'static str, Value)> {
        let upload = self.sells_uploads().then_some(("upload", self.upload_msat_per_mib));
        let download = self.sells_downloads().then_some(("download", self.download_msat_per_mib));
        upload
            .into_iter()
            .chain(download)
            .map(|(name, msat)| (name, json!([{ "amount": msat, "unit": "msats", "per_bytes": MIB }])))
    }

    /// The price of so many bytes, in whole satoshis and at least one; `None` if it is free.
    fn msat(&self, per_mib: u64, bytes: u64) -> Option<u64> {
        if self.pubkey.is_none() || per_mib == 0 || bytes <= self.free_bytes {
            return None;
        }
        let msat = (u128::from(bytes) * u128::from(per_mib)).div_ceil(MIB.into());
        let satoshis = msat.div_ceil(SATOSHI_MSAT.into()).max(1);
        Some(u64::try_from(satoshis).unwrap_or(u64::MAX).saturating_mul(SATOSHI_MSAT))
    }

    /// Checks the values.
    ///
    /// # Errors
    /// The setting, and what is wrong with it.
    pub fn check(&self, has_agents: bool) -> Result<(), (&'static str, String)> {
        let wrong = |key, message: &str| Err((key, message.to_owned()));
        let prices = [
            ("blossom.payment.upload_msat_per_mib", self.upload_msat_per_mib),
            ("blossom.payment.download_msat_per_mib", self.download_msat_per_mib),
        ];
        for (key, msat) in prices {
            if msat > PRICE_MSAT_MAX {
                return wrong(key, &format!("must be at most {PRICE_MSAT_MAX}"));
            }
            if msat > 0 && self.pubkey.is_none() {
                return wrong(key, "needs blossom.payment.pubkey, the public key of the agent that is paid");
            }
        }
        if self.pubkey.is_none() {
            return Ok(());
        }
        if prices.iter().all(|(_, msat)| *msat == 0) {
            return wrong(
                "blossom.payment.pubkey",
                "is of no use without blossom.payment.upload_msat_per_mib or download_msat_per_mib",
            );
        }
        if !has_agents {
            return wrong(
                "blossom.payment.pubkey",
                "names an agent of this relay, and agents.enabled is off",
            );
        }
        if self.quotes_per_minute_max == 0 {
            return wrong("blossom.payment.quotes_per_minute_max", "must be at least 1");
        }
        Ok(())
    }
}

/// An operation that may cost something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// `GET` of a blob, or of a range of it.
    Download,
    /// Storing a blob: `PUT /upload`, `PUT` and `PATCH` of its hash, `PUT /mirror`.
    Upload,
    /// `PUT /media`.
    Media,
}

/// What one payment is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub struct Purchase {
    /// The operation.
    pub operation: Operation,
    /// The hash of the blob in hexadecimal; for `/media` that of the original.
    pub sha256: String,
    /// The size of the blob in bytes, also for a range of it.
    pub size: u64,
}

impl fmt::Display for Purchase {
    /// `upload <hash> <bytes>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation = match self.operation {
            Operation::Download => "download",
            Operation::Upload => "upload",
            Operation::Media => "media",
        };
        write!(f, "{operation} {} {}", self.sha256, self.size)
    }
}

/// A request to the agent that is paid.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentRequest {
    /// To make an invoice: [`PaymentOutcome::Invoice`]. The same one as long as that can be paid.
    Quote {
        /// For what.
        purchase: Purchase,
        /// For how much, in millisatoshis.
        msat: u64,
    },
    /// Whether the invoice with this preimage was for this purchase, is paid and is not spent: [`PaymentOutcome::Paid`].
    Check {
        /// What the invoice must have been for.
        purchase: Purchase,
        /// The proof: its preimage in hexadecimal.
        preimage: String,
        /// Whether the payment is spent by this request.
        spends: bool,
    },
}

/// The agent's answer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentOutcome {
    /// An invoice (BOLT 11) that is to be paid.
    Invoice(String),
    /// It is paid.
    Paid,
    /// The proof is refused, for this reason.
    Refused(String),
    /// Too many invoices were asked for.
    TooMany(String),
    /// There is no answer now, for this reason.
    Unavailable(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selling() -> PaymentSettings {
        PaymentSettings {
            pubkey: Some(PubKey([1; 32])),
            upload_msat_per_mib: 21_000,
            free_bytes: 100,
            ..PaymentSettings::default()
        }
    }

    #[test]
    fn prices_are_of_whole_satoshis_and_one_at_least() {
        for (bytes, per_mib, msat) in [
            (0, 21_000, None),
            (100, 21_000, None),
            (101, 21_000, Some(1_000)),
            (MIB, 21_000, Some(21_000)),
            (MIB + 1, 21_000, Some(22_000)),
            (MIB, 1, Some(1_000)),
            (10 * MIB, 21_500, Some(215_000)),
            (MIB, 0, None),
            (u64::MAX, PRICE_MSAT_MAX, Some(u64::MAX)),
        ] {
            let settings = PaymentSettings { upload_msat_per_mib: per_mib, ..selling() };
            assert_eq!(settings.upload_msat(bytes), msat, "{bytes} {per_mib}");
        }
        assert_eq!(selling().download_msat(MIB), None);
        assert_eq!(PaymentSettings { pubkey: None, ..selling() }.upload_msat(MIB), None);
    }

    #[test]
    fn prices_are_told() {
        assert_eq!(PaymentSettings::default().price_text(), None);
        let words = "storing costs 21 sats a MiB, files up to 100 bytes are free";
        assert_eq!(selling().price_text().as_deref(), Some(words));
        let both = PaymentSettings { download_msat_per_mib: 500, free_bytes: 0, ..selling() };
        let words = "storing costs 21 sats a MiB, a download costs 0.500 sats a MiB";
        assert_eq!(both.price_text().as_deref(), Some(words));
        let fees: Vec<_> = both.fees().map(|(name, fee)| (name, fee[0]["amount"].clone())).collect();
        assert_eq!(fees, [("upload", json!(21_000)), ("download", json!(500))]);
    }

    #[test]
    fn what_cannot_be_paid_is_refused() {
        let changed = |change: fn(&mut PaymentSettings)| {
            let mut settings = selling();
            change(&mut settings);
            settings.check(true).map_err(|(key, _)| key)
        };
        assert_eq!(PaymentSettings::default().check(false), Ok(()));
        assert_eq!(changed(|_| ()), Ok(()));
        let (upload, pubkey) = ("blossom.payment.upload_msat_per_mib", "blossom.payment.pubkey");
        assert_eq!(changed(|all| all.pubkey = None), Err(upload));
        assert_eq!(changed(|all| all.upload_msat_per_mib = PRICE_MSAT_MAX + 1), Err(upload));
        assert_eq!(changed(|all| all.upload_msat_per_mib = 0), Err(pubkey));
        assert_eq!(
            changed(|all| all.quotes_per_minute_max = 0),
            Err("blossom.payment.quotes_per_minute_max")
        );
        assert_eq!(selling().check(false).unwrap_err().0, pubkey);
        let only_download = |all: &mut PaymentSettings| {
            (all.upload_msat_per_mib, all.download_msat_per_mib) = (0, 5);
        };
        assert_eq!(changed(only_download), Ok(()));
    }
}
