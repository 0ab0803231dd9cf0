//! What a manifest may say about payment.

use std::ops::RangeInclusive;

use relay_engine::types::KIND_MEMBERSHIP_REQUEST;

use super::secret::check_token_name;
use super::validate::{Checked, in_range};
use super::{ExecutorConfig, Handler, Manifest, ManifestError, Payment, PaymentPolicy, Price, Refund};
use crate::job::InputKind;
use crate::lnurl::{InvalidAddress, LightningAddress};

/// Ten bitcoins.
const SPEND_MSAT_MAX: u64 = 1_000_000_000_000;
/// Results that a customer may leave unpaid, and how much is shown of one: characters that feedback has room for, and percent.
const UNPAID_MAX: u64 = 1_000;
const SAMPLE_CHARS_MAX: u64 = 2_000;
const SAMPLE_PERCENT_MAX: u64 = 50;
/// Recipients of shares; and the least that is paid to one, in millisatoshis: less would go to fees.
const SPLITS_MAX: usize = 8;
pub(crate) const SPLITS_MIN_MSAT_LEAST: u64 = 100_000;
/// Seconds for which a payment may be held for the work.
const HOLD_SECONDS: RangeInclusive<u64> = 60..=21_600;

impl Manifest {
    /// Prices need a policy, and a policy needs prices and a wallet.
    pub(super) fn check_payment(&self) -> Checked {
        let Payment { policy, wallet_ref, free_quota, refund, .. } = &self.payment;
        let priced = self.handlers.iter().position(|handler| handler.price != Price::Free);
        in_range("payment.free_quota", u64::from(*free_quota), 0..=1_000_000)?;
        let spend = self.limits.daily_spend_msat;
        let has_splits = !self.payment.splits.is_empty();
        match refund {
            Refund::Credit if has_splits => in_range("limits.daily_spend_msat", spend, 1..=SPEND_MSAT_MAX)?,
            Refund::Credit if spend > 0 => {
                let words = "is of no use without payment.refund invoice or payment.splits";
                return Err(ManifestError::new("limits.daily_spend_msat", words));
            }
            Refund::Invoice if *policy == PaymentPolicy::Free => {
                return Err(ManifestError::new("payment.refund", "is of no use with policy free"));
            }
            Refund::Invoice => in_range("limits.daily_spend_msat", spend, 1..=SPEND_MSAT_MAX)?,
            Refund::Credit => {}
        }
        match self.limits.approval_msat {
            Some(_) if *refund == Refund::Credit => {
                let words = "is of no use without payment.refund invoice";
                return Err(ManifestError::new("limits.approval_msat", words));
            }
            Some(msat) => in_range("limits.approval_msat", msat, 0..=SPEND_MSAT_MAX)?,
            None => {}
        }
        self.check_postpay()?;
        self.check_hold()?;
        self.check_zap()?;
        self.check_splits()?;
        match policy {
            PaymentPolicy::Free => match (priced, wallet_ref) {
                (Some(at), _) => Err(ManifestError::new(
                    format!("handlers[{at}].price"),
                    "needs payment.policy prepay, postpay, sample or hold, and a wallet (payment.wallet_ref)",
                )),
                (None, Some(_)) => {
                    Err(ManifestError::new("payment.wallet_ref", "is of no use with policy free"))
                }
                (None, None) => Ok(()),
            },
            PaymentPolicy::Prepay | PaymentPolicy::Postpay | PaymentPolicy::Sample | PaymentPolicy::Hold => {
                let Some(secret) = wallet_ref else {
                    let words = "is required with this policy: the name of the secret with the wallet's connection string";
                    return Err(ManifestError::new("payment.wallet_ref", words));
                };
                check_token_name("payment.wallet_ref", secret)?;
                match priced {
                    Some(_) => Ok(()),
                    None => Err(ManifestError::new("payment.policy", "needs a handler with a price")),
                }
            }
        }
    }

    /// What is said only of jobs that are paid after the work.
    fn check_postpay(&self) -> Checked {
        let Payment { policy, unpaid_max, sample_chars, sample_percent, .. } = &self.payment;
        let is_sample = *policy == PaymentPolicy::Sample;
        let is_postpaid = is_sample || *policy == PaymentPolicy::Postpay;
        for (path, value, max, is_used, needs) in [
            ("payment.unpaid_max", unpaid_max, UNPAID_MAX, is_postpaid, "postpay or sample"),
            ("payment.sample_chars", sample_chars, SAMPLE_CHARS_MAX, is_sample, "sample"),
            ("payment.sample_percent", sample_percent, SAMPLE_PERCENT_MAX, is_sample, "sample"),
        ] {
            match value {
                Some(_) if !is_used => {
                    let message = format!("is of no use without payment.policy {needs}");
                    return Err(ManifestError::new(path, message));
                }
                Some(value) => in_range(path, u64::from(*value), 1..=max)?,
                None => {}
            }
        }
        Ok(())
    }

    /// A payment is held for longer than the work takes.
    fn check_hold(&self) -> Checked {
        let Some(seconds) = self.payment.hold_seconds() else {
            let words = "is of no use without payment.policy hold";
            return self.payment.hold_s.map_or(Ok(()), |_| Err(ManifestError::new("payment.hold_s", words)));
        };
        in_range("payment.hold_s", seconds, HOLD_SECONDS)?;
        match self.limits.timeout_s >= seconds {
            true => {
                let message =
                    format!("must be more than limits.timeout_s, which is {}", self.limits.timeout_s);
                Err(ManifestError::new("payment.hold_s", message))
            }
            false => Ok(()),
        }
    }

    /// Zaps go to a Lightning address. They cannot be held, so they do not pay for jobs with `hold`.
    fn check_zap(&self) -> Checked {
        let Payment { policy, zap, zap_check, .. } = &self.payment;
        let Some(address) = zap else {
            let words = "is of no use without payment.zap";
            return zap_check.map_or(Ok(()), |_| Err(ManifestError::new("payment.zap_check", words)));
        };
        match policy {
            PaymentPolicy::Free => Err(ManifestError::new("payment.zap", "is of no use with policy free")),
            PaymentPolicy::Hold => {
                Err(ManifestError::new("payment.zap", "is of no use with policy hold: zaps are not held"))
            }
            PaymentPolicy::Prepay | PaymentPolicy::Postpay | PaymentPolicy::Sample => {
                LightningAddress::parse(address)
                    .map(|_| ())
                    .map_err(|InvalidAddress(why)| ManifestError::new("payment.zap", why))
            }
        }
    }

    /// Shares are parts of one whole, for different recipients, and can be paid.
    fn check_splits(&self) -> Checked {
        let Payment { policy, splits, splits_min_msat, zap, .. } = &self.payment;
        if splits.is_empty() {
            let words = "is of no use without payment.splits";
            return splits_min_msat
                .map_or(Ok(()), |_| Err(ManifestError::new("payment.splits_min_msat", words)));
        }
        if *policy == PaymentPolicy::Free {
            return Err(ManifestError::new("payment.splits", "is of no use with policy free"));
        }
        if splits.len() > SPLITS_MAX {
            return Err(ManifestError::new(
                "payment.splits",
                format!("has more than {SPLITS_MAX} recipients"),
            ));
        }
        let mut percent = 0;
        for (at, split) in splits.iter().enumerate() {
            let path = |field: &str| format!("payment.splits[{at}].{field}");
            let invalid = |why: &str| Err(ManifestError::new(path("address"), why));
            if let Err(InvalidAddress(why)) = LightningAddress::parse(&split.address) {
                return invalid(why);
            }
            if zap.as_ref() == Some(&split.address) {
                return invalid("is the agent's own (payment.zap)");
            }
            if splits[..at].iter().any(|other| other.address == split.address) {
                return invalid("is there twice");
            }
            in_range(&path("percent"), u64::from(split.percent), 1..=100)?;
            percent += split.percent;
        }
        if percent > 100 {
            return Err(ManifestError::new("payment.splits", "are more than 100 percent together"));
        }
        // The least that is due must be payable in a day.
        let most = self.shares_daily_max_msat();
        match self.payment.splits_min_msat() {
            least if least > most => {
                let words = "must be at least payment.splits_min_msat, or twice as much with payment.refund invoice, or shares would never be paid";
                Err(ManifestError::new("limits.daily_spend_msat", words))
            }
            least => in_range("payment.splits_min_msat", least, SPLITS_MIN_MSAT_LEAST..=SPEND_MSAT_MAX),
        }
    }

    /// What may be paid out to recipients in a day (UTC): if customers may have their credit paid out, half of the limit is left to them. Millisatoshis.
    pub(crate) fn shares_daily_max_msat(&self) -> u64 {
        match self.payment.refund {
            Refund::Invoice => self.limits.daily_spend_msat / 2,
            Refund::Credit => self.limits.daily_spend_msat,
        }
    }

    /// A membership is asked for by requests of its own kind, and is for nobody who may still owe its price.
    pub(super) fn check_membership(&self, path: &str, handler: &Handler) -> Checked {
        if !matches!(handler.executor, ExecutorConfig::Membership(_)) {
            return Ok(());
        }
        if handler.kind != KIND_MEMBERSHIP_REQUEST {
            let message = format!("must be {KIND_MEMBERSHIP_REQUEST} with the executor membership");
            return Err(ManifestError::new(format!("{path}.kind"), message));
        }
        if handler.inputs != [InputKind::Text] {
            return Err(ManifestError::new(
                format!("{path}.inputs"),
                "must be text alone with the executor membership",
            ));
        }
        if self.payment.free_quota > 0 && handler.price != Price::Free {
            let words =
                "must be 0 with the executor membership: whoever orders over HTTP has another key each time";
            return Err(ManifestError::new("payment.free_quota", words));
        }
        match self.payment.policy {
            PaymentPolicy::Free | PaymentPolicy::Prepay => Ok(()),
            _ => Err(ManifestError::new(
                "payment.policy",
                "must be prepay, or free, with the executor membership",
            )),
        }
    }
}
