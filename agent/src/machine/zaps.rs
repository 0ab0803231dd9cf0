//! Payment by zaps (NIP-57): zap receipts on this relay, for zaps to the agent's Lightning address.
//!
//! ```text
//! receipt --(waits until the key that signs receipts is known: zap_key)--> counted
//!                                                                   |----> claimed, until the wallet confirms the payment --> counted
//!                                                                                                            |----> refused
//! ```
//!
//! A zap that counts is credit of the author of its zap request. If the zapped event is the request of a job that waits for its payment, or
//! feedback about it, the job is paid with that credit as soon as it suffices. A zap of any other event is only credit. The job's invoice can still
//! be paid afterwards; that payment is credit, too.
//!
//! A payment hash counts once. It is stored in the transaction that enters the zap into the books, and one that has counted is never forgotten.

use std::collections::BTreeMap;

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{Event, EventId, Now, PubKey};

use super::Agent;
use super::jobs::Active;
use super::lnurl_call::LnurlCall;
use super::refunds::PaymentHash;
use super::wallet::{Wallet, WalletRequest};
use super::zap_key::{SignerStatus, ZapMemory, zap_memory};
use crate::job::JobState;
use crate::manifest::ZapCheck;
use crate::nip47::{Claim, Method, Transaction, WalletError};
use crate::nip57::Zap;
use crate::payment::{self, Quote};
use crate::store::{self, Account, Reason, RefundState, ZapRow, ZapState};

/// Receipts that wait until the service's key is known: those by its last known key, and those by other keys, which anybody can make.
const WAITING_MAX: usize = 1_000;
const WAITING_FOREIGN_MAX: usize = 256;
/// Those by one other key: whoever wants to crowd out the receipts of the service needs many keys.
const WAITING_OF_KEY_MAX: usize = 32;
/// Zaps that wait for the wallet's confirmation.
const CLAIMED_MAX: usize = 1_000;
/// Requests about zaps in one exchange.
const REQUESTS_MAX: usize = 2;
/// Milliseconds until the wallet is asked again, at first and at most.
const POLL_MILLIS: u64 = 2_000;
const POLL_MILLIS_MAX: u64 = 3_600_000;
/// Milliseconds after which an answer that there is no such payment is final; and after which the wallet is not asked any more.
const LATE_MILLIS: u64 = 86_400_000;
const GIVEN_UP_MILLIS: u64 = 30 * 86_400_000;
/// Milliseconds after a wallet was replaced in which receipts of zaps to it still come.
const REPLACED_MILLIS: u64 = 3_600_000;
/// Seconds after which a receipt does not count any more.
const RECEIPT_SECONDS_MAX: u64 = 60 * 86_400;
/// Seconds that a receipt of an unknown key may be ahead of the clock.
const AHEAD_SECONDS_MAX: u64 = 60;
/// Milliseconds until receipts are judged again if the store has failed.
const RETRY_MILLIS: u64 = 1_000;

/// What is in memory about zaps.
#[derive(Debug)]
pub(super) struct Zaps {
    pub(super) memory: ZapMemory,
    /// Whether the service of the Lightning address is to be asked for its key.
    pub(super) is_key_wanted: bool,
    /// Why the service has not told its key.
    pub(super) error: Option<String>,
    pub(super) key_request: Option<LnurlCall>,
    /// Receipts that wait until the service's key is known.
    pub(super) waiting: BTreeMap<EventId, Event>,
    /// When they are judged again, in milliseconds since 1970, if the store has failed.
    retry_at: Option<u64>,
    /// Zaps that wait for the wallet's confirmation.
    claimed: BTreeMap<PaymentHash, ClaimedZap>,
}

/// A zap that waits for the wallet's confirmation.
#[derive(Debug)]
struct ClaimedZap {
    row: ZapRow,
    /// What is asked of each wallet, by its connection: an address may lead to one that the agent had before.
    questions: BTreeMap<String, ZapQuestion>,
}

/// Whether a wallet has the payment of a zap.
#[derive(Clone, Copy, Debug, Default)]
struct ZapQuestion {
    /// When it is asked, in milliseconds since 1970.
    poll_at: u64,
    /// When it has first confirmed the payment without a preimage.
    unproven_at: Option<u64>,
    /// Whether it has said that it has no such payment.
    is_denied: bool,
}

impl ClaimedZap {
    fn new(row: ZapRow) -> Self {
        ClaimedZap { row, questions: BTreeMap::new() }
    }

    /// When a wallet is asked, in milliseconds since 1970. A replaced wallet is asked only about zaps from before, and for a day: it may be gone,
    /// and what it confirms later is not the agent's.
    fn poll_at(&self, wallet: &Wallet) -> Option<u64> {
        let at = self.questions.get(&wallet.memory.connection).map_or(0, |question| question.poll_at);
        let is_from_before =
            wallet.memory.replaced_at.is_some_and(|replaced_at| self.row.at <= replaced_at + REPLACED_MILLIS);
        (wallet.is_current || is_from_before && at < self.row.at + LATE_MILLIS).then_some(at)
    }

    /// A wallet is asked later, at growing intervals.
    fn ask_later(&mut self, now: Now, connection: &str) -> &mut ZapQuestion {
        let waited = now.millis().saturating_sub(self.row.at);
        let question = self.questions.entry(connection.to_owned()).or_default();
        question.poll_at = now.millis() + (waited / 2).clamp(POLL_MILLIS, POLL_MILLIS_MAX);
        question
    }

    /// Whether the present one of these wallets has said that it has no such payment.
    fn is_denied_by(&self, wallets: &[Wallet]) -> bool {
        let current = wallets.iter().find(|wallet| wallet.is_current);
        let question = current.and_then(|wallet| self.questions.get(&wallet.memory.connection));
        question.is_some_and(|question| question.is_denied)
    }
}

impl Zaps {
    /// What the database has.
    pub(super) fn open(conn: &impl SqlConn) -> Result<Self, StoreError> {
        let waiting = store::waiting_receipts(conn)?.into_iter();
        let waiting: BTreeMap<_, _> = waiting.map(|receipt| (receipt.id, receipt)).collect();
        let claimed = store::claimed_zaps(conn)?.into_iter();
        Ok(Zaps {
            memory: zap_memory(conn)?,
            is_key_wanted: !waiting.is_empty(),
            error: None,
            key_request: None,
            waiting,
            retry_at: None,
            claimed: claimed.map(|row| (row.payment_hash, ClaimedZap::new(row))).collect(),
        })
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.claimed.is_empty()
    }

    /// When something is to be done about them whether the wallet answers or not, in milliseconds since 1970.
    pub(super) fn due_at(&self) -> Option<u64> {
        let claimed = self.claimed.values().map(|claimed| claimed.row.at + GIVEN_UP_MILLIS);
        let waiting = self.waiting.values().map(gives_up_at);
        self.retry_at.into_iter().chain(claimed).chain(waiting).min()
    }
}

/// When a receipt no longer waits for the service's key, in milliseconds since 1970.
fn gives_up_at(receipt: &Event) -> u64 {
    receipt.created_at.saturating_mul(1_000).saturating_add(GIVEN_UP_MILLIS)
}

impl<C: SqlConn> Agent<C> {
    /// A zap receipt.
    ///
    /// # Errors
    /// If the store fails; then it has to be delivered again.
    pub(super) fn handle_zap_receipt(&mut self, now: Now, receipt: &Event) -> Result<(), StoreError> {
        if self.deployed.is_none() {
            return Ok(());
        }
        if receipt.created_at < now.seconds().saturating_sub(RECEIPT_SECONDS_MAX) {
            // Whether it was refused before is not known any more.
            self.metrics.payment("zap_refused");
            return Ok(());
        }
        if let Some((zap, check)) = self.zap_of_former_address(now, receipt) {
            return self.judge_zap(now, zap, check);
        }
        let zaps = &self.payments.zaps;
        let is_old = receipt.created_at < zaps.memory.since;
        if zaps.memory.address.is_none() || is_old || zaps.waiting.contains_key(&receipt.id) {
            return Ok(());
        }
        match zaps.memory.signer_status(now, &receipt.pubkey, receipt.created_at) {
            SignerStatus::Own => self.judge_receipt(now, receipt),
            SignerStatus::Foreign => {
                self.metrics.payment("zap_refused");
                Ok(())
            }
            SignerStatus::Unknown => {
                self.keep_receipt(now, receipt);
                Ok(())
            }
        }
    }

    /// The zap of a receipt that is valid for a former address of the agent, and not for the present one.
    fn zap_of_former_address(&self, now: Now, receipt: &Event) -> Option<(Zap, ZapCheck)> {
        let (agent, memory) = (self.pubkey()?, &self.payments.zaps.memory);
        let is_present = memory.key() == Some(receipt.pubkey)
            && receipt.created_at >= memory.since
            && memory.address().is_some_and(|address| Zap::read(receipt, &agent, &address).is_ok());
        if is_present {
            return None;
        }
        let mut former = memory.former_of(now, receipt).into_iter();
        former.find_map(|(address, check)| Some((Zap::read(receipt, &agent, &address).ok()?, check)))
    }

    /// Stores a receipt until the service's key is known. What can be checked without that key is checked now.
    fn keep_receipt(&mut self, now: Now, receipt: &Event) {
        let (Some(agent), Some(address)) = (self.pubkey(), self.payments.zaps.memory.address()) else {
            return;
        };
        let is_early = receipt.created_at > now.seconds().saturating_add(AHEAD_SECONDS_MAX);
        if is_early || Zap::read(receipt, &agent, &address).is_err() {
            return self.metrics.payment("zap_refused");
        }
        let zaps = &mut self.payments.zaps;
        let was_own = zaps.memory.key() == Some(receipt.pubkey);
        let key = zaps.memory.key();
        let of_same = zaps.waiting.values().filter(|one| (Some(one.pubkey) == key) == was_own);
        let of_key = zaps.waiting.values().filter(|one| one.pubkey == receipt.pubkey).count();
        let is_full = match was_own {
            true => of_same.count() >= WAITING_MAX,
            false => of_same.count() >= WAITING_FOREIGN_MAX || of_key >= WAITING_OF_KEY_MAX,
        };
        if is_full {
            return self.metrics.payment("zap_refused");
        }
        zaps.waiting.insert(receipt.id, receipt.clone());
        zaps.is_key_wanted = true;
        self.batch.put_receipt(receipt.id, Some(receipt.shared_json()));
    }

    /// The service's key is known: the receipts that wait are judged.
    pub(super) fn judge_waiting_receipts(&mut self, now: Now) {
        self.payments.zaps.retry_at = None;
        let waiting: Vec<Event> = self.payments.zaps.waiting.values().cloned().collect();
        let mut foreign = 0;
        for receipt in waiting {
            let status = self.payments.zaps.memory.signer_status(now, &receipt.pubkey, receipt.created_at);
            let former = self.zap_of_former_address(now, &receipt);
            let judged = match (former, status) {
                (Some((zap, check)), _) => self.judge_zap(now, zap, check),
                (None, SignerStatus::Own) => self.judge_receipt(now, &receipt),
                (None, SignerStatus::Foreign) => {
                    foreign += 1;
                    self.metrics.payment("zap_refused");
                    Ok(())
                }
                // The key was asked for too long ago (the store had failed meanwhile), or before the receipt was made.
                (None, SignerStatus::Unknown) => {
                    self.payments.zaps.is_key_wanted = true;
                    continue;
                }
            };
            if judged.is_err() {
                self.payments.zaps.retry_at = Some(now.millis() + RETRY_MILLIS);
                continue;
            }
            self.payments.zaps.waiting.remove(&receipt.id);
            self.batch.put_receipt(receipt.id, None);
        }
        if foreign > 0 {
            let words = "zap receipts do not count: they are not signed by the key of the Lightning address";
            self.log(now, None, format!("{foreign} {words}"));
        }
    }

    /// The address is another one, or none: receipts that wait are judged by the last key of the one before. Without an address no other key will be known.
    pub(super) fn judge_receipts_of_former_address(&mut self, now: Now) {
        let waiting: Vec<Event> = self.payments.zaps.waiting.values().cloned().collect();
        for receipt in waiting {
            match self.zap_of_former_address(now, &receipt) {
                Some((zap, check)) => {
                    if self.judge_zap(now, zap, check).is_err() {
                        self.payments.zaps.retry_at = Some(now.millis() + RETRY_MILLIS);
                        continue;
                    }
                }
                None if self.payments.zaps.memory.address.is_none() => {
                    self.receipt_refused(now, &receipt.id, "it is to an address that is not the agent's");
                }
                _ => continue,
            }
            self.payments.zaps.waiting.remove(&receipt.id);
            self.batch.put_receipt(receipt.id, None);
        }
    }

    fn receipt_refused(&mut self, now: Now, receipt: &EventId, why: &str) {
        self.metrics.payment("zap_refused");
        self.log(now, None, format!("zap receipt {receipt} does not count: {why}"));
    }

    /// Checks a receipt that the service has signed, and counts it or asks the wallet about it.
    fn judge_receipt(&mut self, now: Now, receipt: &Event) -> Result<(), StoreError> {
        let (Some(agent), Some(address)) = (self.pubkey(), self.payments.zaps.memory.address()) else {
            return Ok(());
        };
        let zap = match Zap::read(receipt, &agent, &address) {
            Ok(zap) => zap,
            Err(why) => {
                self.receipt_refused(now, &receipt.id, why);
                return Ok(());
            }
        };
        let check = self.payments.zaps.memory.check;
        self.judge_zap(now, zap, check)
    }

    /// A zap whose receipt is signed by the right key: counts it, asks the wallet about it, or refuses it.
    fn judge_zap(&mut self, now: Now, zap: Zap, check: ZapCheck) -> Result<(), StoreError> {
        match store::receipt_of_zap(&self.conn, &self.batch, &zap.payment_hash)? {
            // It was delivered again.
            Some(before) if before == zap.receipt => return Ok(()),
            Some(_) => {
                self.receipt_refused(now, &zap.receipt, "its payment hash was in an earlier receipt");
                return Ok(());
            }
            None => {}
        }
        if store::has_invoice(&self.conn, &self.batch, &zap.payment_hash)? {
            let why = "its invoice is that of a job, whose payment the wallet reports";
            self.receipt_refused(now, &zap.receipt, why);
            return Ok(());
        }
        let refund = store::refund(&self.conn, &zap.payment_hash)?;
        if refund.is_some_and(|row| row.state != RefundState::Failed) {
            self.receipt_refused(now, &zap.receipt, "its invoice is one that this agent has paid itself");
            return Ok(());
        }
        let Zap { payment_hash, receipt, payer, event, msat, .. } = zap;
        let state = ZapState::Claimed;
        let row = ZapRow { payment_hash, receipt, payer, event, msat, state, at: now.millis() };
        match check {
            ZapCheck::Receipt => self.zap_counts(now, row),
            ZapCheck::Wallet if !self.make_room_for_zap(now, &payer) => {
                self.receipt_refused(now, &row.receipt, "too many zaps wait for the wallet");
                Ok(())
            }
            ZapCheck::Wallet => {
                self.batch.put_zap(row);
                self.payments.zaps.claimed.insert(payment_hash, ClaimedZap::new(row));
                Ok(())
            }
        }
    }

    /// Makes room for another zap of this payer that waits for the wallet's confirmation. Returns whether there is room. If too many wait, the oldest one whose
    /// payment the wallet does not know is refused, else the oldest one of the payer with most: whoever has an address of the same service can get receipts
    /// without paying the agent.
    fn make_room_for_zap(&mut self, now: Now, payer: &PubKey) -> bool {
        let claimed = &self.payments.zaps.claimed;
        if claimed.len() < CLAIMED_MAX {
            return true;
        }
        let wallets = &self.payments.wallets;
        let denied = claimed.values().filter(|claimed| claimed.is_denied_by(wallets));
        let mut oldest = denied.min_by_key(|claimed| claimed.row.at).map(|claimed| claimed.row.payment_hash);
        if oldest.is_none() {
            let mut of_payers = BTreeMap::<PubKey, usize>::new();
            for claimed in claimed.values() {
                *of_payers.entry(claimed.row.payer).or_default() += 1;
            }
            let own = of_payers.get(payer).copied().unwrap_or_default();
            let most = of_payers.into_iter().max_by_key(|(_, count)| *count);
            let of_most = most.filter(|(_, count)| *count > own + 1).map(|(payer, _)| payer);
            let of_most = claimed.values().filter(|claimed| Some(claimed.row.payer) == of_most);
            oldest = of_most.min_by_key(|claimed| claimed.row.at).map(|claimed| claimed.row.payment_hash);
        }
        oldest.iter().for_each(|hash| self.zap_refused(now, hash));
        oldest.is_some()
    }

    /// A zap counts: it is credit, and pays the job that was zapped if the credit suffices.
    ///
    /// # Errors
    /// If the store fails; then nothing has changed.
    fn zap_counts(&mut self, now: Now, row: ZapRow) -> Result<(), StoreError> {
        let ZapRow { payer, event, msat, .. } = row;
        // What may fail comes first.
        let zapped = match event {
            Some(event) => self.zapped_job(now, &payer, &event)?,
            None => None,
        };
        let withheld = match &zapped {
            Some(active) if active.row.state == JobState::Withheld => Some(self.withheld(&active.row)?),
            _ => None,
        };
        let credit = self.credit_of(&payer)? + msat;
        self.batch.put_zap(ZapRow { state: ZapState::Counted, ..row });
        let job = zapped.as_ref().map(Active::id);
        self.transfer(now, (Account::Wallet, Account::Customer(payer)), msat, Reason::Zap, job);
        self.metrics.received(msat);
        self.metrics.payment("zapped");
        let Some(active) = zapped else {
            self.log(now, None, format!("{msat} msat were received by a zap of {payer}: they are credit"));
            return Ok(());
        };
        let rest = active.row.trace.payment.map_or(0, |payment| payment.price - payment.paid);
        if let Quote::Invoice(missing) = payment::quote(rest, credit) {
            let words = format!(
                "{msat} msat were received by a zap: they are credit, and the job needs {missing} msat more"
            );
            self.log(now, job, words);
            return Ok(());
        }
        self.log(now, job, format!("{msat} msat were received by a zap"));
        self.payments.uninvoiced.remove(&active.row.seq);
        if let Some(watched) = self.payments.invoices.get_mut(&active.id()) {
            watched.is_superseded = true;
        }
        self.job_paid(now, active, rest, withheld);
        Ok(())
    }

    /// The job of this customer that waits for its payment and whose request or feedback this event is. `None` if it is paid by a hold invoice.
    fn zapped_job(
        &mut self,
        now: Now,
        customer: &PubKey,
        event: &EventId,
    ) -> Result<Option<Active>, StoreError> {
        let own = self.jobs.iter().filter(|open| open.customer == *customer && open.state.awaits_payment());
        let mut own: Vec<(bool, EventId)> = own.map(|open| (open.id != *event, open.id)).collect();
        own.sort_unstable();
        let hex = event.to_string();
        for (is_another, job) in own {
            let Some(active) = self.awaiting(now, &job)? else { continue };
            if is_another && active.row.trace.sent.iter().all(|sent| sent.id != hex) {
                continue;
            }
            let is_held = active.row.trace.payment.is_some_and(|payment| payment.is_hold);
            return Ok((!is_held).then_some(active));
        }
        Ok(None)
    }

    /// When a wallet is to be asked about zaps, in milliseconds since 1970.
    pub(super) fn next_zap_request_at(&self, wallet: &Wallet) -> Option<u64> {
        self.payments.zaps.claimed.values().filter_map(|claimed| claimed.poll_at(wallet)).min()
    }

    /// What a wallet is asked about zaps now.
    pub(super) fn zap_requests(&self, now: Now, index: usize) -> Vec<(WalletRequest, Method)> {
        let may_ask = |wallet: &&Wallet| wallet.backoffs().looking_up <= now.millis();
        let Some(wallet) = self.payments.wallets.get(index).filter(may_ask) else { return Vec::new() };
        let claimed = self.payments.zaps.claimed.values();
        let mut due: Vec<&ClaimedZap> =
            claimed.filter(|claimed| claimed.poll_at(wallet).is_some_and(|at| at <= now.millis())).collect();
        due.sort_unstable_by_key(|claimed| (claimed.poll_at(wallet), claimed.row.at));
        let request = |claimed: &ClaimedZap| {
            let payment_hash = claimed.row.payment_hash;
            (WalletRequest::LookupZap(payment_hash), Method::LookupInvoice { payment_hash })
        };
        due.into_iter().map(request).take(REQUESTS_MAX).collect()
    }

    /// The wallet has answered the look-up of a zap's payment.
    pub(super) fn handle_zap_lookup(
        &mut self,
        now: Now,
        index: usize,
        hash: &PaymentHash,
        outcome: Result<Transaction, WalletError>,
    ) {
        let Some(wallet) = self.payments.wallets.get(index) else { return };
        let Some(claimed) = self.payments.zaps.claimed.get_mut(hash) else { return };
        let row = claimed.row;
        let question = claimed.ask_later(now, &wallet.memory.connection);
        let told = match outcome {
            Ok(told) => told,
            Err(error) if error.code == "NOT_FOUND" => Transaction::default(),
            Err(_) => return,
        };
        let claim = match told.msat {
            // Nothing came.
            Some(0) => Claim::False,
            // The payer chooses the invoice of a zap, so it may be an outgoing payment of this wallet.
            _ if told.direction.as_deref() != Some("incoming") => Claim::False,
            _ => told.claim(hash),
        };
        match (claim, question.unproven_at) {
            (Claim::Unproven, None) => {
                question.unproven_at = Some(now.millis());
                question.poll_at = now.millis() + POLL_MILLIS;
            }
            (Claim::Unproven, Some(before)) if now.millis() < before + POLL_MILLIS => {
                question.poll_at = before + POLL_MILLIS;
            }
            (Claim::Proven | Claim::Unproven, _) => {
                // If the store fails it is asked again.
                let msat = payment::received(row.msat, told.msat);
                if self.zap_counts(now, ZapRow { msat, ..row }).is_ok() {
                    self.payments.zaps.claimed.remove(hash);
                }
            }
            (Claim::Unpaid | Claim::False, _) => {
                (question.unproven_at, question.is_denied) = (None, true);
                if now.millis() >= row.at + LATE_MILLIS && claimed.is_denied_by(&self.payments.wallets) {
                    self.zap_refused(now, hash);
                }
            }
        }
    }

    /// The wallet has not answered.
    pub(super) fn zap_lookup_failed(&mut self, now: Now, index: usize, hash: &PaymentHash) {
        let Some(wallet) = self.payments.wallets.get(index) else { return };
        if let Some(claimed) = self.payments.zaps.claimed.get_mut(hash) {
            claimed.ask_later(now, &wallet.memory.connection);
        }
    }

    fn zap_refused(&mut self, now: Now, hash: &PaymentHash) {
        let Some(ClaimedZap { row, .. }) = self.payments.zaps.claimed.remove(hash) else { return };
        self.batch.put_zap(ZapRow { state: ZapState::Refused, ..row });
        let ZapRow { receipt, payer, msat, .. } = row;
        let why = format!("the wallet has not confirmed the {msat} msat of {payer} (payment.zap_check)");
        self.receipt_refused(now, &receipt, &why);
    }

    /// Time has passed.
    pub(super) fn zaps_timeout(&mut self, now: Now) {
        if self.payments.zaps.retry_at.is_some_and(|at| at <= now.millis()) {
            self.judge_waiting_receipts(now);
        }
        let claimed = self.payments.zaps.claimed.values().map(|claimed| claimed.row);
        let over: Vec<ZapRow> = claimed.filter(|row| row.at + GIVEN_UP_MILLIS <= now.millis()).collect();
        over.iter().for_each(|row| self.zap_refused(now, &row.payment_hash));
        let waiting = self.payments.zaps.waiting.values();
        let over = waiting.filter(|receipt| gives_up_at(receipt) <= now.millis()).map(|receipt| receipt.id);
        for id in over.collect::<Vec<_>>() {
            self.payments.zaps.waiting.remove(&id);
            self.batch.put_receipt(id, None);
            self.receipt_refused(
                now,
                &id,
                "the service of the Lightning address has not told its key in time",
            );
        }
    }
}
