//! Shares of what the agent earns, for others (`payment.splits`). A share is entered into the books when a job is earned, and paid out when enough is
//! due: the service of the recipient's Lightning address is asked for an invoice (LUD-06), and the wallet pays it like a refund, once.
//!
//! ```text
//! due --(terms asked for)--> --(invoice asked for)--> refund under way --> paid, or due again
//! ```
//!
//! Calls to a service are not stored. An invoice that is lost in a crash is not paid, and expires.

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{EventId, Now};
use serde::{Deserialize, Serialize};

use super::lnurl_call::{LnurlCall, TOO_LONG};
use super::refunds::{self, OpenRefund};
use super::{Agent, Awaited, Effect, EffectId};
use crate::bolt11::Invoice;
use crate::executor::HttpEvent;
use crate::lnurl::{self, LightningAddress, PayTerms};
use crate::manifest::{Manifest, SPLITS_MIN_MSAT_LEAST, Split};
use crate::payment::{fee_reserve, payable};
use crate::store::{self, Account, Reason, RecipientKey, RefundRow, RefundState};

/// Milliseconds until a service is asked again that could not be paid to, at first and at most.
const RETRY_MILLIS: u64 = 60_000;
const RETRY_MILLIS_MAX: u64 = 6 * 3_600_000;
/// Milliseconds until a payout is tried again if it is not the recipient's fault.
const LATER_MILLIS: u64 = 600_000;
const DAY_MILLIS: u64 = 86_400_000;

/// What is in memory about shares.
#[derive(Debug, Default)]
pub(super) struct Splits {
    recipients: Vec<Recipient>,
    /// The daily limit of shares of the last manifest that had any, in millisatoshis. It also holds when a later manifest has none, since what is
    /// due is still paid.
    daily_max_msat: u64,
    call: Option<SplitCall>,
}

/// What is stored about shares.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct SplitsMemory {
    recipients: Vec<RecipientMemory>,
    daily_max_msat: u64,
}

/// Somebody who has, or had, a share.
#[derive(Debug)]
struct Recipient {
    memory: RecipientMemory,
    /// When it is next checked whether a payout is due, in milliseconds since 1970.
    check_at: Option<u64>,
    /// Why nothing can be paid.
    error: Option<String>,
}

/// What is stored about a recipient.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct RecipientMemory {
    address: String,
    /// How often in a row nothing could be paid.
    tries: u32,
    /// In milliseconds since 1970.
    retry_at: u64,
    /// When they were paid last, in milliseconds since 1970.
    paid_at: u64,
}

impl Recipient {
    fn new(memory: RecipientMemory) -> Self {
        // What is due is not known yet.
        Recipient { check_at: Some(memory.retry_at), memory, error: None }
    }

    fn key(&self) -> RecipientKey {
        RecipientKey::of(&self.memory.address)
    }

    fn check_from(&mut self, at: u64) {
        self.check_at = Some(at.max(self.memory.retry_at));
    }
}

/// A call to the service of a recipient.
#[derive(Debug)]
struct SplitCall {
    recipient: RecipientKey,
    call: LnurlCall,
    /// The amount of the invoice that the service is asked for, in millisatoshis. `None`: it is asked for its terms (LUD-06).
    msat: Option<u64>,
}

/// What is due to a recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShareRecord {
    /// Their Lightning address.
    pub address: String,
    /// Their share of what is earned now, in percent; 0 if they have none any more.
    pub percent: u32,
    /// What is due and not under way, in millisatoshis; below zero if more was paid out than is due.
    pub due_msat: i64,
    /// Why the last payout was not made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Splits {
    const NAME: &'static str = "splits";

    /// What the database has.
    pub(super) fn open(conn: &impl SqlConn) -> Result<Self, StoreError> {
        let memory: SplitsMemory = store::get_meta(conn, Self::NAME)?.unwrap_or_default();
        let recipients = memory.recipients.into_iter().map(Recipient::new).collect();
        Ok(Splits { recipients, daily_max_msat: memory.daily_max_msat, call: None })
    }

    /// Whether anybody has, or had, a share.
    pub(super) fn has_recipients(&self) -> bool {
        !self.recipients.is_empty()
    }

    fn recipient(&mut self, key: &RecipientKey) -> Option<&mut Recipient> {
        self.recipients.iter_mut().find(|recipient| recipient.key() == *key)
    }
}

impl<C: SqlConn> Agent<C> {
    /// Takes the shares of the manifest into use. Those of before are paid out as far as they are due.
    pub(super) fn set_splits(&mut self, now: Now, is_deployed_now: bool) {
        if let Some(SplitCall { call, .. }) = self.payments.splits.call.take() {
            self.cancel_effect(call.id);
        }
        let Some(deployed) = &self.deployed else { return };
        let splits = &mut self.payments.splits;
        let daily_max_msat = deployed.manifest.shares_daily_max_msat();
        let mut has_new = false;
        if !deployed.manifest.payment.splits.is_empty() && splits.daily_max_msat != daily_max_msat {
            (splits.daily_max_msat, has_new) = (daily_max_msat, true);
        }
        for Split { address, .. } in &deployed.manifest.payment.splits {
            if splits.recipient(&RecipientKey::of(address)).is_none() {
                let memory = RecipientMemory { address: address.clone(), ..RecipientMemory::default() };
                splits.recipients.push(Recipient::new(memory));
                has_new = true;
            }
        }
        if is_deployed_now {
            // What was wrong may be right now.
            for recipient in &mut splits.recipients {
                (recipient.memory.tries, recipient.memory.retry_at) = (0, 0);
                recipient.check_from(now.millis());
            }
        }
        if has_new || is_deployed_now && self.payments.splits.has_recipients() {
            self.store_splits();
        }
    }

    /// Stores who has, or had, a share.
    pub(super) fn store_splits(&mut self) {
        let splits = &self.payments.splits;
        let recipients = splits.recipients.iter().map(|recipient| recipient.memory.clone()).collect();
        let memory = SplitsMemory { recipients, daily_max_msat: splits.daily_max_msat };
        store::put_meta(&mut self.batch, Splits::NAME, &memory);
    }

    /// Enters the shares of what a job has earned. What is less than a millisatoshi is the agent's.
    pub(super) fn share_income(&mut self, now: Now, msat: u64, job: &EventId) {
        let Some(deployed) = &self.deployed else { return };
        let manifest = deployed.manifest.clone();
        for Split { address, percent } in &manifest.payment.splits {
            let key = RecipientKey::of(address);
            let share = (u128::from(msat) * u128::from(*percent) / 100) as u64;
            let accounts = (Account::Income, Account::Recipient(key));
            self.transfer(now, accounts, share, Reason::Share, Some(*job));
            if let Some(recipient) = self.payments.splits.recipient(&key) {
                recipient.check_from(now.millis());
            }
        }
    }

    /// What is due to those who have, or had, a share.
    ///
    /// # Errors
    /// If the store fails.
    pub fn shares(&self) -> Result<Vec<ShareRecord>, StoreError> {
        let splits = self.deployed.as_ref().map_or(&[][..], |deployed| &deployed.manifest.payment.splits);
        let mut records = Vec::new();
        for recipient in &self.payments.splits.recipients {
            let Recipient { memory: RecipientMemory { address, .. }, error, .. } = recipient;
            let percent = splits.iter().find(|split| split.address == *address);
            let percent = percent.map_or(0, |split| split.percent);
            let due_msat = -self.balance(&Account::Recipient(recipient.key()))?;
            if percent > 0 || due_msat != 0 {
                let (address, error) = (address.clone(), error.clone());
                records.push(ShareRecord { address, percent, due_msat, error });
            }
        }
        Ok(records)
    }

    /// What is due that comes from another host; below zero if more was paid out than was due.
    pub(super) fn import_share(&mut self, now: Now, address: &str, msat: i64) {
        let key = RecipientKey::of(address);
        if self.payments.splits.recipient(&key).is_none() {
            let memory = RecipientMemory { address: address.to_owned(), ..RecipientMemory::default() };
            self.payments.splits.recipients.push(Recipient::new(memory));
        }
        // Also if it is known: the store may have failed before.
        self.store_splits();
        if let Some(recipient) = self.payments.splits.recipient(&key) {
            recipient.check_from(now.millis());
        }
        let (debit, credit) = match msat < 0 {
            true => (Account::Recipient(key), Account::Wallet),
            false => (Account::Wallet, Account::Recipient(key)),
        };
        self.transfer(now, (debit, credit), msat.unsigned_abs(), Reason::Import, None);
    }

    /// A payout is over. Whether it was that of a share.
    pub(super) fn payout_ended(&mut self, now: Now, payee: &Account, is_paid: bool) -> bool {
        let Account::Recipient(key) = payee else { return false };
        match is_paid {
            false => self.share_not_paid(now, key, "the payment has failed; the agent's log says why"),
            true => {
                if let Some(recipient) = self.payments.splits.recipient(key) {
                    (recipient.memory.tries, recipient.memory.retry_at, recipient.error) = (0, 0, None);
                    recipient.memory.paid_at = now.millis();
                    recipient.check_from(now.millis());
                    self.store_splits();
                }
            }
        }
        true
    }

    /// Whom a payout is for, for people.
    pub(super) fn payee_name(&self, payee: &Account) -> String {
        match payee {
            Account::Customer(customer) => customer.to_string(),
            Account::Recipient(key) => {
                let mut recipients = self.payments.splits.recipients.iter();
                let recipient = recipients.find(|recipient| recipient.key() == *key);
                recipient.map_or_else(String::new, |recipient| recipient.memory.address.clone())
            }
            _ => String::new(),
        }
    }

    /// When the next check for a due payout is, or the deadline of the call that is under way; in milliseconds since 1970.
    pub(super) fn splits_due_at(&self) -> Option<u64> {
        let splits = &self.payments.splits;
        match &splits.call {
            Some(call) => Some(call.call.deadline),
            None if !self.pays_shares() => None,
            None => splits.recipients.iter().filter_map(|recipient| recipient.check_at).min(),
        }
    }

    /// Whether shares are paid out. A paused agent pays none, nor does one that is drained, since it may be moved to another host.
    fn pays_shares(&self) -> bool {
        self.deployed.is_some() && self.record.as_ref().is_some_and(|record| record.state.takes_jobs())
    }

    /// Begins to pay a share out, if one is due: to who was paid longest ago.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) fn pay_shares(&mut self, now: Now) -> Result<(), StoreError> {
        let Some(manifest) = self.deployed.as_ref().map(|deployed| deployed.manifest.clone()) else {
            return Ok(());
        };
        let can_pay = self.has_paying_wallet();
        while self.payments.splits.call.is_none() && self.pays_shares() {
            let recipients = self.payments.splits.recipients.iter();
            let is_due = |recipient: &&Recipient| recipient.check_at.is_some_and(|at| at <= now.millis());
            let first = recipients.filter(is_due).min_by_key(|recipient| recipient.memory.paid_at);
            let Some(key) = first.map(Recipient::key) else { break };
            let payout = self.due_payout(now, &manifest, &key)?;
            let Some(recipient) = self.payments.splits.recipient(&key) else { break };
            recipient.check_at = None;
            match payout {
                Payout::Nothing => {}
                Payout::Later(at) => recipient.check_from(at),
                Payout::Due(_) if !can_pay => {
                    self.share_not_paid(now, &key, "this agent's wallet cannot pay: its secret (payment.wallet_ref) is missing or wrong, or does not allow pay_invoice");
                }
                Payout::Due(_) => match LightningAddress::parse(&recipient.memory.address) {
                    Ok(address) => self.call_service(now, key, address.url(), address.is_loopback(), None),
                    Err(error) => self.share_not_paid(now, &key, error.0),
                },
            }
        }
        Ok(())
    }

    /// What can be paid out to a recipient now.
    fn due_payout(&self, now: Now, manifest: &Manifest, key: &RecipientKey) -> Result<Payout, StoreError> {
        let due = self.balance(&Account::Recipient(*key))?.min(0).unsigned_abs();
        let least = self.least_payout(manifest, key);
        let mut open = self.payments.refunds.values();
        // A wallet that is not known any more can not tell how a payment ended; what it was for is not due any more.
        let is_known = |row: &RefundRow| {
            row.state.is_unsent()
                || self.payments.wallets.iter().any(|wallet| wallet.memory.connection == row.wallet)
        };
        let is_own = |open: &OpenRefund| {
            open.row.state.is_open() && open.row.payee == Account::Recipient(*key) && is_known(&open.row)
        };
        // When that payout is over there is another check.
        if due < least || open.any(is_own) {
            return Ok(Payout::Nothing);
        }
        let limit = self.payments.splits.daily_max_msat;
        let left = self.left_to_spend_on_shares(now, limit)?;
        Ok(match payable(due.min(left)) {
            msat if msat == 0 || left < least => Payout::Later((now.millis() / DAY_MILLIS + 1) * DAY_MILLIS),
            msat => Payout::Due(msat),
        })
    }

    /// A recipient is paid when at least this is due, in millisatoshis. It is less for one who has no share any more, so that the rest is paid, too.
    fn least_payout(&self, manifest: &Manifest, key: &RecipientKey) -> u64 {
        let mut splits = manifest.payment.splits.iter();
        match splits.any(|split| RecipientKey::of(&split.address) == *key) {
            true => manifest.payment.splits_min_msat(),
            false => SPLITS_MIN_MSAT_LEAST.min(manifest.payment.splits_min_msat()),
        }
    }

    fn call_service(
        &mut self,
        now: Now,
        recipient: RecipientKey,
        url: &str,
        is_loopback: bool,
        msat: Option<u64>,
    ) {
        let id = self.new_effect(Awaited::Split);
        self.payments.splits.call = Some(SplitCall { recipient, call: LnurlCall::new(now, id), msat });
        self.effects.push_back(Effect::Http { id, request: LnurlCall::request(now, url, is_loopback) });
    }

    /// The time for an answer may be over.
    pub(super) fn splits_timeout(&mut self, now: Now) {
        let call = &mut self.payments.splits.call;
        if let Some(SplitCall { recipient, call, .. }) =
            call.take_if(|call| call.call.deadline <= now.millis())
        {
            self.cancel_effect(call.id);
            self.share_not_paid(now, &recipient, TOO_LONG);
        }
    }

    /// Something has come of a call.
    pub(super) fn split_event(&mut self, now: Now, id: EffectId, event: HttpEvent) {
        let call = self.payments.splits.call.as_mut().filter(|call| call.call.id == id);
        let Some(SplitCall { recipient, call, msat }) = call else { return };
        let Some(answer) = call.answer(event) else { return };
        let (key, asked) = (*recipient, *msat);
        self.payments.splits.call = None;
        self.cancel_effect(id);
        let done = match (answer, asked) {
            (Err(why), _) => Err(why),
            (Ok(body), None) => self.terms_told(now, &key, &body),
            (Ok(body), Some(msat)) => self.share_invoiced(now, &key, msat, &body),
        };
        if let Err(why) = done {
            self.share_not_paid(now, &key, &why);
        }
    }

    /// The service of a recipient has said what it takes: it is asked for an invoice.
    fn terms_told(&mut self, now: Now, key: &RecipientKey, body: &[u8]) -> Result<(), String> {
        let Some((address, Some(msat))) = self.payable_to(now, key)? else { return Ok(()) };
        let terms = PayTerms::read(body, &address)?;
        let Some(manifest) = self.deployed.as_ref().map(|deployed| &deployed.manifest) else { return Ok(()) };
        // Otherwise a service could have everything paid in small parts, each with its fees.
        let least = payable(self.least_payout(manifest, key)).min(msat);
        if *terms.msat.end() < least {
            return Err(format!(
                "it takes no more than {} msat at a time, less than payment.splits_min_msat",
                terms.msat.end()
            ));
        }
        let msat = whole_satoshis(msat.min(*terms.msat.end()));
        if !terms.msat.contains(&msat) || msat == 0 {
            return Err(format!(
                "it takes no less than {} msat, and {msat} msat, in whole satoshis, could be paid now",
                terms.msat.start()
            ));
        }
        self.call_service(now, *key, &terms.invoice_url(msat), address.is_loopback(), Some(msat));
        Ok(())
    }

    /// The address of a recipient, and what can be paid out now; `None` if there is nothing to do any more.
    fn payable_to(
        &mut self,
        now: Now,
        key: &RecipientKey,
    ) -> Result<Option<(LightningAddress, Option<u64>)>, String> {
        let Some(manifest) = self.deployed.as_ref().map(|deployed| deployed.manifest.clone()) else {
            return Ok(None);
        };
        let payout =
            self.due_payout(now, &manifest, key).map_err(|_| "the database cannot be read".to_owned())?;
        let Some(recipient) = self.payments.splits.recipient(key) else { return Ok(None) };
        let address = LightningAddress::parse(&recipient.memory.address).map_err(|error| error.0)?;
        Ok(Some(match payout {
            Payout::Due(msat) => (address, Some(msat)),
            Payout::Nothing => (address, None),
            Payout::Later(at) => {
                recipient.check_from(at);
                (address, None)
            }
        }))
    }

    /// The service of a recipient has made an invoice: it is paid if its amount is the one that was asked for.
    fn share_invoiced(&mut self, now: Now, key: &RecipientKey, msat: u64, body: &[u8]) -> Result<(), String> {
        let Some((_, Some(most))) = self.payable_to(now, key)? else { return Ok(()) };
        let bolt11 = lnurl::invoice(body)?;
        let invoice = Invoice::parse(&bolt11).map_err(|error| format!("its invoice {error}"))?;
        if invoice.msat != Some(msat) {
            return Err("its invoice is for another amount".to_owned());
        }
        let seconds = refunds::EXPIRY_SECONDS_MIN..=refunds::EXPIRY_SECONDS_MAX;
        if !seconds.contains(&invoice.expires_at.saturating_sub(now.seconds())) {
            return Err("its invoice expires in less than two minutes, or in more than a week".to_owned());
        }
        let unreadable = |_| "the database cannot be read".to_owned();
        let is_known = self.payments.refunds.contains_key(&invoice.payment_hash)
            || store::refund(&self.conn, &invoice.payment_hash).map_err(unreadable)?.is_some();
        if is_known {
            return Err("its invoice was paid before, or is that of another payout".to_owned());
        }
        if let Some(why) = self.own_invoice_reason(&invoice.payment_hash).map_err(unreadable)? {
            return Err(format!("its invoice {why}"));
        }
        if msat > most {
            // Meanwhile less is due; another one is asked for.
            if let Some(recipient) = self.payments.splits.recipient(key) {
                recipient.check_from(now.millis() + LATER_MILLIS);
            }
            return Ok(());
        }
        let row = RefundRow {
            payment_hash: invoice.payment_hash,
            payee: Account::Recipient(*key),
            state: RefundState::Wanted,
            msat,
            reserve: fee_reserve(msat),
            fees: 0,
            invoice: bolt11,
            expires_at: invoice.expires_at,
            made_at: now.millis(),
            changed_at: now.millis(),
            wallet: String::new(),
        };
        let name = self.payee_name(&row.payee);
        self.log(now, None, format!("{msat} msat, a share of what was earned, are to be paid to {name}"));
        self.put_payout(now, row.clone());
        self.payments.refunds.insert(row.payment_hash, OpenRefund::new(row));
        Ok(())
    }

    /// Nothing could be paid to a recipient: it is tried again later and later.
    fn share_not_paid(&mut self, now: Now, key: &RecipientKey, why: &str) {
        let Some(recipient) = self.payments.splits.recipient(key) else { return };
        let memory = &mut recipient.memory;
        let wait = (RETRY_MILLIS << memory.tries.min(16)).min(RETRY_MILLIS_MAX);
        (memory.tries, memory.retry_at) = (memory.tries.saturating_add(1), now.millis() + wait);
        let error = format!("payment.splits: nothing can be paid to {}: {why}", memory.address);
        recipient.check_from(now.millis());
        let is_new = recipient.error.as_ref() != Some(&error);
        recipient.error = Some(error.clone());
        self.store_splits();
        if is_new {
            self.log(now, None, error);
        }
    }
}

/// See [`Agent::due_payout`].
enum Payout {
    /// Nothing is due, or it is under way.
    Nothing,
    /// Not now; the next check is at this time, in milliseconds since 1970.
    Later(u64),
    /// So much can be paid, in millisatoshis.
    Due(u64),
}

/// Whole satoshis of an amount, in millisatoshis.
fn whole_satoshis(msat: u64) -> u64 {
    msat / 1_000 * 1_000
}
