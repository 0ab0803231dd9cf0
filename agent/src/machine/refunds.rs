//! Refunds: the agent's wallet pays a customer's credit to an invoice of the customer, at most once. Shares of recipients ([`super::splits`]) are paid out
//! the same way.
//!
//! ```text
//! awaiting approval -> wanted -> sent -> paid
//!   |                    |        |----> failed: it is credit again
//!   |--------------------|-------------> failed
//! ```
//!
//! A refund of more than `limits.approval_msat` waits for the owner's approval.
//!
//! `sent` is stored before the wallet is asked to pay. It is asked once for a payment hash; from then on the payment is only looked up, since it may
//! have been made although the answer was lost. An answer that there is no such payment counts only if the invoice has expired or the
//! wallet had refused to pay.

use std::collections::BTreeMap;

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{Now, PubKey};
use serde::Serialize;

use super::wallet::{Wallet, WalletRequest};
use super::{Agent, CommandError, Deployed};
use crate::bolt11;
use crate::manifest::{ManifestError, Refund};
use crate::nip47::{Method, Payout, Transaction, WalletError};
use crate::payment::fee_reserve;
use crate::store::{self, Account, Reason, RefundRow, RefundState};

/// Seconds for which a customer's invoice must be payable, at least and at most.
pub(super) const EXPIRY_SECONDS_MIN: u64 = 120;
pub(super) const EXPIRY_SECONDS_MAX: u64 = 7 * 86_400;
/// Seconds before the end of an invoice in which the wallet is not asked to pay it.
const SENDING_SECONDS: u64 = 30;
/// Seconds after an invoice has expired after which a wallet that knows no payment of it has not paid it.
const UNKNOWN_SECONDS: u64 = 600;
/// Milliseconds between look-ups of a payment, at first and at most.
const POLL_MILLIS: u64 = 5_000;
const POLL_MILLIS_MAX: u64 = 3_600_000;
/// Fees up to this many millisatoshis are believed whatever the amount; of larger ones no more than the amount and its reserve.
const FEES_MSAT_BELIEVED: u64 = 1_000_000;
/// Most refunds and payouts of shares that are under way.
pub(super) const OPEN_MAX: usize = 500;
/// Most requests about them in one exchange.
const REQUESTS_MAX: usize = 4;

/// A payment hash.
pub(super) type PaymentHash = [u8; 32];

/// A refund that is not over.
#[derive(Clone, Debug)]
pub(super) struct OpenRefund {
    pub(super) row: RefundRow,
    /// When its payment is looked up, in milliseconds since 1970.
    pub(super) poll_at: u64,
    /// Whether the wallet has refused to pay.
    is_refused: bool,
}

impl OpenRefund {
    pub(super) fn new(row: RefundRow) -> Self {
        let poll_at = row.changed_at + POLL_MILLIS;
        OpenRefund { row, poll_at, is_refused: false }
    }

    /// It is looked up later, at growing intervals.
    fn poll_later(&mut self, now: Now) {
        let waited = now.millis().saturating_sub(self.row.changed_at);
        self.poll_at = now.millis() + (waited / 2).clamp(POLL_MILLIS, POLL_MILLIS_MAX);
    }
}

/// What has become of a refund.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefundRecord {
    /// Of the customer's invoice, in hexadecimal.
    pub payment_hash: String,
    /// `awaiting_approval`, `pending`, `paid`, or `failed`, and then it is credit again.
    pub state: &'static str,
    /// What the invoice asks for, in millisatoshis.
    pub msat: u64,
    /// The routing fees that the customer has borne, in millisatoshis; while it is not paid, what is reserved for them.
    pub fees_msat: u64,
    /// When it was asked for, in milliseconds since 1970.
    pub made_at: u64,
}

impl From<&RefundRow> for RefundRecord {
    fn from(row: &RefundRow) -> Self {
        let (state, fees_msat) = match row.state {
            RefundState::AwaitingApproval => ("awaiting_approval", row.reserve),
            RefundState::Wanted | RefundState::Sent => ("pending", row.reserve),
            RefundState::Paid => ("paid", row.fees),
            RefundState::Failed => ("failed", 0),
        };
        let payment_hash = faster_hex::hex_string(&row.payment_hash);
        RefundRecord { payment_hash, state, msat: row.msat, fees_msat, made_at: row.made_at }
    }
}

/// The open refunds in the database.
pub(super) fn open_refunds(conn: &impl SqlConn) -> Result<BTreeMap<PaymentHash, OpenRefund>, StoreError> {
    let rows = store::open_refunds(conn)?.into_iter();
    Ok(rows.map(|row| (row.payment_hash, OpenRefund::new(row))).collect())
}

fn refused(message: impl Into<String>) -> CommandError {
    CommandError::Manifest(ManifestError { path: "invoice".to_owned(), message: message.into() })
}

impl<C: SqlConn> Agent<C> {
    /// Begins to pay out the amount of an invoice (BOLT 11) of a customer from their credit. When it returns, the refund is durable. If the
    /// same invoice is given again, nothing changes, and its present state is returned.
    ///
    /// # Errors
    /// [`CommandError::Manifest`] with what is wrong about `invoice`, or why it is not paid now; then nothing has changed.
    pub fn refund(
        &mut self,
        now: Now,
        customer: &PubKey,
        bolt11: &str,
    ) -> Result<RefundRecord, CommandError> {
        self.settle(now).map_err(CommandError::Store)?;
        let text = bolt11.trim();
        let text = match text.split_at_checked("lightning:".len()) {
            Some((scheme, invoice)) if scheme.eq_ignore_ascii_case("lightning:") => invoice,
            _ => text,
        };
        let invoice = bolt11::Invoice::parse(text).map_err(|error| refused(error.to_string()))?;
        let known = store::refund(&self.conn, &invoice.payment_hash).map_err(CommandError::Store)?;
        match known {
            Some(row) if row.payee == Account::Customer(*customer) => {
                let open = self.payments.refunds.get(&row.payment_hash);
                return Ok(open.map_or(&row, |open| &open.row).into());
            }
            Some(_) => return Err(refused("was used for another payout before; make a new one")),
            None => {}
        }
        let (msat, reserve) = self.admit_refund(now, customer, &invoice)?;
        let approval_msat =
            self.deployed.as_ref().and_then(|deployed| deployed.manifest.limits.approval_msat);
        let is_approved = approval_msat.is_none_or(|most| msat + reserve <= most);
        let (before, last_transfer) = (self.batch.clone(), self.payments.last_transfer);
        let row = RefundRow {
            payment_hash: invoice.payment_hash,
            payee: Account::Customer(*customer),
            state: if is_approved { RefundState::Wanted } else { RefundState::AwaitingApproval },
            msat,
            reserve,
            fees: 0,
            // As QR codes have it, it is in upper case.
            invoice: text.to_ascii_lowercase(),
            expires_at: invoice.expires_at,
            made_at: now.millis(),
            changed_at: now.millis(),
            wallet: String::new(),
        };
        self.put_payout(now, row.clone());
        let hash = faster_hex::hex_string(&row.payment_hash);
        self.log(
            now,
            None,
            match is_approved {
                true => format!("{msat} msat of the credit of {customer} will be paid out"),
                false => format!(
                    "{msat} msat of the credit of {customer} wait for the owner's approval: refund {hash}"
                ),
            },
        );
        if let Err(error) = self.store() {
            self.take_back(before);
            self.payments.last_transfer = last_transfer;
            return Err(CommandError::Store(error));
        }
        let record = RefundRecord::from(&row);
        self.payments.refunds.insert(row.payment_hash, OpenRefund::new(row));
        let _ = self.settle(now);
        Ok(record)
    }

    /// Checks whether a refund may be paid: its amount, and what is reserved for fees, in millisatoshis.
    fn admit_refund(
        &self,
        now: Now,
        customer: &PubKey,
        invoice: &bolt11::Invoice,
    ) -> Result<(u64, u64), CommandError> {
        let manifest = match &self.deployed {
            Some(Deployed { manifest, .. }) if manifest.payment.refund == Refund::Invoice => manifest,
            _ => {
                return Err(refused(
                    "cannot be paid: this agent does not pay credit out; it is spent on your next jobs",
                ));
            }
        };
        if !self.has_paying_wallet() {
            return Err(refused(
                "cannot be paid: this agent's wallet cannot pay now; ask the owner of the agent to check its connection (pay_invoice)",
            ));
        }
        let msat = invoice.msat.filter(|msat| *msat > 0).ok_or_else(|| refused("must have an amount"))?;
        if invoice.expires_at < now.seconds() + EXPIRY_SECONDS_MIN {
            let message =
                format!("expires too soon; make one that can be paid for {EXPIRY_SECONDS_MIN} seconds");
            return Err(refused(message));
        }
        if invoice.expires_at > now.seconds() + EXPIRY_SECONDS_MAX {
            return Err(refused("can be paid for longer than a week; make one that expires earlier"));
        }
        let is_own = self.own_invoice_reason(&invoice.payment_hash).map_err(CommandError::Store)?;
        if let Some(why) = is_own {
            return Err(refused(format!("{why}; make a new one with your wallet")));
        }
        let mut open = self.payments.refunds.values();
        if open.any(|open| open.row.payee == Account::Customer(*customer)) {
            return Err(refused("has to wait: another refund of yours is under way"));
        }
        if self.payments.refunds.len() >= OPEN_MAX {
            return Err(refused("cannot be paid now: too many refunds are under way; try again later"));
        }
        let reserve = fee_reserve(msat);
        let total = msat.saturating_add(reserve);
        let credit = self.credit_of(customer).map_err(CommandError::Store)?;
        if total > credit {
            let message = format!(
                "asks for more than your credit: {msat} msat, and {reserve} msat are reserved for fees; you have {credit} msat"
            );
            return Err(refused(message));
        }
        let left = self.left_to_spend(now, manifest.limits.daily_spend_msat).map_err(CommandError::Store)?;
        if total > left {
            return Err(refused(
                "cannot be paid today: this agent has reached its daily limit; try again after midnight UTC",
            ));
        }
        Ok((msat, reserve))
    }

    /// Whether there is a wallet that can pay.
    pub(super) fn has_paying_wallet(&self) -> bool {
        self.payments.wallets.iter().any(|wallet| {
            let can = wallet.memory.info.as_ref().is_none_or(|info| info.has("pay_invoice"));
            wallet.is_current && wallet.client.is_ok() && can
        })
    }

    /// Why the agent must not pay an invoice, if it is one of its own: the money would come back to it.
    pub(super) fn own_invoice_reason(&self, hash: &PaymentHash) -> Result<Option<&'static str>, StoreError> {
        if store::has_invoice(&self.conn, &self.batch, hash)? {
            return Ok(Some("was made by this agent's own wallet"));
        }
        let is_zap = store::receipt_of_zap(&self.conn, &self.batch, hash)?.is_some();
        Ok(is_zap.then_some("was paid by a zap before"))
    }

    /// What may still be paid out today (UTC), in millisatoshis, if `limit` may in a day.
    pub(super) fn left_to_spend(&self, now: Now, limit: u64) -> Result<u64, StoreError> {
        let today = now.seconds() / 86_400 * 86_400_000;
        Ok(limit.saturating_sub(store::refunded_since(&self.conn, today)?))
    }

    /// What may still be paid out in shares today (UTC), in millisatoshis, if `limit` may in a day.
    pub(super) fn left_to_spend_on_shares(&self, now: Now, limit: u64) -> Result<u64, StoreError> {
        let today = now.seconds() / 86_400 * 86_400_000;
        let of_shares = limit.saturating_sub(store::shared_since(&self.conn, today)?);
        // Shares and refunds together have the limit of the present manifest, if it has one.
        let daily = self.deployed.as_ref().map_or(0, |deployed| deployed.manifest.limits.daily_spend_msat);
        Ok(match daily {
            0 => of_shares,
            daily => of_shares.min(self.left_to_spend(now, daily)?),
        })
    }

    /// Stores a payout: its amount and its fee reserve leave the payee's account.
    pub(super) fn put_payout(&mut self, now: Now, row: RefundRow) {
        self.transfer(now, (row.payee, Account::Refunds), row.msat + row.reserve, Reason::Refund, None);
        self.batch.put_refund(row);
    }

    /// The newest refunds of a customer, at most `limit`.
    ///
    /// # Errors
    /// If the store fails.
    pub fn refunds_of(&self, customer: &PubKey, limit: usize) -> Result<Vec<RefundRecord>, StoreError> {
        Ok(store::refunds_of(&self.conn, customer, limit)?.iter().map(RefundRecord::from).collect())
    }

    /// When a wallet is to be asked about refunds, in milliseconds since 1970.
    pub(super) fn next_refund_request_at(&self, wallet: &Wallet) -> Option<u64> {
        let due_at = |open: &OpenRefund| match open.row.state {
            RefundState::Wanted => wallet.is_current.then_some(0),
            RefundState::Sent => (open.row.wallet == wallet.memory.connection).then_some(open.poll_at),
            RefundState::AwaitingApproval | RefundState::Paid | RefundState::Failed => None,
        };
        self.payments.refunds.values().filter_map(due_at).min()
    }

    /// What a wallet is asked about refunds now: to pay, and to look up payments.
    pub(super) fn refund_requests(&self, now: Now, index: usize) -> Vec<(WalletRequest, Method)> {
        let may_ask = |wallet: &&Wallet| wallet.backoffs().looking_up <= now.millis();
        let Some(wallet) = self.payments.wallets.get(index).filter(may_ask) else { return Vec::new() };
        let request = |open: &OpenRefund| {
            let RefundRow { payment_hash, invoice, state, .. } = &open.row;
            match state {
                RefundState::Wanted if wallet.is_current => {
                    let method = Method::PayInvoice { invoice: invoice.clone() };
                    Some((WalletRequest::Pay(*payment_hash), method))
                }
                RefundState::Sent
                    if open.row.wallet == wallet.memory.connection && open.poll_at <= now.millis() =>
                {
                    let method = Method::LookupInvoice { payment_hash: *payment_hash };
                    Some((WalletRequest::LookupPayment(*payment_hash), method))
                }
                _ => None,
            }
        };
        let mut open: Vec<&OpenRefund> = self.payments.refunds.values().collect();
        open.sort_unstable_by_key(|open| (open.row.state == RefundState::Wanted, open.poll_at));
        open.into_iter().filter_map(request).take(REQUESTS_MAX).collect()
    }

    /// Stores the refunds among these requests as sent, before the wallet is asked. If that fails it must not be asked.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) fn store_sent(
        &mut self,
        now: Now,
        index: usize,
        asks: &[(WalletRequest, Method)],
    ) -> Result<(), StoreError> {
        let wallet = self.payments.wallets.get(index);
        let connection = wallet.map(|wallet| wallet.memory.connection.clone()).unwrap_or_default();
        let mut wanted = Vec::new();
        for (ask, _) in asks {
            let WalletRequest::Pay(hash) = ask else { continue };
            let Some(open) = self.payments.refunds.get_mut(hash) else { continue };
            wanted.push(open.clone());
            open.row.state = RefundState::Sent;
            open.row.changed_at = now.millis();
            open.row.wallet.clone_from(&connection);
            open.poll_at = now.millis() + super::wallet::EXCHANGE_MILLIS;
            self.batch.put_refund(open.row.clone());
        }
        if wanted.is_empty() {
            return Ok(());
        }
        self.store().inspect_err(|_| {
            for open in wanted {
                self.batch.put_refund(open.row.clone());
                self.payments.refunds.insert(open.row.payment_hash, open);
            }
        })
    }

    /// Fails refunds that were not sent and can no longer be: the wallet cannot pay, or the invoice expires.
    pub(super) fn end_unsent_refunds(&mut self, now: Now) {
        let can_pay =
            |wallet: &Wallet| wallet.memory.info.as_ref().is_none_or(|info| info.has("pay_invoice"));
        let can_pay = self.payments.wallets.iter().filter(|wallet| wallet.is_current).all(can_pay);
        let unsent = self.payments.refunds.values().filter(|open| open.row.state.is_unsent());
        let is_late = |open: &&OpenRefund| open.row.expires_at <= now.seconds() + SENDING_SECONDS;
        let over = unsent.filter(|open| !can_pay || is_late(open));
        let over = over.map(|open| (open.row.payment_hash, open.row.state));
        for (hash, state) in over.collect::<Vec<_>>() {
            let why = match state {
                RefundState::AwaitingApproval if can_pay => "nobody has approved it in time",
                _ => "the wallet could not be asked to pay",
            };
            self.refund_failed(now, &hash, why);
        }
    }

    /// When the first unsent refund can no longer be sent, in milliseconds since 1970.
    pub(super) fn unsent_refunds_end_at(&self) -> Option<u64> {
        let unsent = self.payments.refunds.values().filter(|open| open.row.state.is_unsent());
        unsent.map(|open| open.row.expires_at.saturating_sub(SENDING_SECONDS) * 1_000).min()
    }

    /// The wallet has answered `pay_invoice`.
    pub(super) fn handle_payout_response(
        &mut self,
        now: Now,
        hash: &PaymentHash,
        outcome: Result<Transaction, WalletError>,
    ) {
        let Some(open) = self.payments.refunds.get_mut(hash) else { return };
        match outcome {
            Ok(told) if told.preimage.is_some() && told.payout(hash) == Payout::Paid => {
                self.refund_paid(now, hash, told.fees_msat);
            }
            Ok(_) => open.poll_at = now.millis() + POLL_MILLIS,
            // It may have paid nevertheless, so the payment is looked up.
            Err(error) => {
                open.is_refused = !matches!(error.code.as_str(), "PAYMENT_FAILED" | "INTERNAL" | "OTHER");
                open.poll_at = now.millis();
            }
        }
    }

    /// The wallet has answered the look-up of a refund's payment.
    pub(super) fn handle_payout_lookup(
        &mut self,
        now: Now,
        hash: &PaymentHash,
        outcome: Result<Transaction, WalletError>,
    ) {
        let Some(open) = self.payments.refunds.get_mut(hash) else { return };
        let is_expired = now.seconds() > open.row.expires_at + UNKNOWN_SECONDS;
        match outcome {
            Ok(told) => match told.payout(hash) {
                Payout::Paid => self.refund_paid(now, hash, told.fees_msat),
                Payout::Failed => self.refund_failed(now, hash, "the payment has failed"),
                Payout::Pending | Payout::Other => open.poll_later(now),
            },
            Err(error) if error.code == "NOT_FOUND" && (open.is_refused || is_expired) => {
                self.refund_failed(now, hash, "the wallet knows no such payment");
            }
            Err(_) => open.poll_later(now),
        }
    }

    /// The wallet has not answered a request about a refund's payment.
    pub(super) fn payout_lookup_failed(&mut self, now: Now, hash: &PaymentHash) {
        if let Some(open) = self.payments.refunds.get_mut(hash) {
            open.poll_later(now);
        }
    }

    /// A refund is paid: the payee bears the fees, up to the reserve and what else is theirs, and the agent the rest.
    fn refund_paid(&mut self, now: Now, hash: &PaymentHash, fees: Option<u64>) {
        let open = self.payments.refunds.get(hash).filter(|open| open.row.state.is_open());
        let Some(RefundRow { payee, msat, reserve, .. }) = open.map(|open| open.row.clone()) else { return };
        let theirs = match payee {
            // A share that is overpaid is made up by the next ones.
            Account::Recipient(_) => u64::MAX,
            _ => self.balance(&payee).unwrap_or_default().min(0).unsigned_abs(),
        };
        let Some(open) = self.payments.refunds.get_mut(hash) else { return };
        // Impossible fees are not entered into the books.
        let fees = fees.unwrap_or_default().min(msat.saturating_add(reserve).max(FEES_MSAT_BELIEVED));
        let more = fees.saturating_sub(reserve);
        let (kept, more) = (fees - more, more.min(theirs));
        (open.row.state, open.row.fees, open.row.changed_at) = (RefundState::Paid, kept + more, now.millis());
        // What has left the wallet counts for the limit of the day.
        open.row.reserve = fees;
        self.batch.put_refund(open.row.clone());
        self.transfer(now, (Account::Refunds, Account::Wallet), msat, Reason::Payout, None);
        self.transfer(now, (Account::Refunds, Account::Wallet), kept, Reason::Fees, None);
        self.transfer(now, (payee, Account::Wallet), more, Reason::Fees, None);
        self.transfer(now, (Account::Income, Account::Wallet), fees - kept - more, Reason::Fees, None);
        self.transfer(now, (Account::Refunds, payee), reserve - kept, Reason::Return, None);
        let is_share = self.payout_ended(now, &payee, true);
        self.metrics.payment(if is_share { "shared" } else { "refunded" });
        let payee = self.payee_name(&payee);
        self.log(now, None, format!("{msat} msat were paid out to {payee}, and {fees} msat for fees"));
    }

    /// A refund has failed: it is credit again.
    pub(super) fn refund_failed(&mut self, now: Now, hash: &PaymentHash, why: &str) {
        let open = self.payments.refunds.get_mut(hash).filter(|open| open.row.state.is_open());
        let Some(open) = open else { return };
        let RefundRow { payee, msat, reserve, .. } = open.row;
        (open.row.state, open.row.changed_at) = (RefundState::Failed, now.millis());
        self.batch.put_refund(open.row.clone());
        self.transfer(now, (Account::Refunds, payee), msat + reserve, Reason::Return, None);
        self.payout_ended(now, &payee, false);
        let payee = self.payee_name(&payee);
        self.log(now, None, format!("{msat} msat are not paid out to {payee}: {why}"));
    }
}
