//! The agent's wallets (NIP-47): the current one, which makes invoices and pays, and the last former ones, which are only asked about what they have
//! made, hold or paid, and about zaps. Stored are only their info events, their backoffs and when they were replaced: what is to be asked follows from the database.
//!
//! Each wallet has one exchange at a time, as a remote signer has. An exchange ends when all requests are answered. While a customer may pay, it
//! stays open for notifications, for a minute at most. If there is something to ask meanwhile, a new exchange begins, and the old one stays open
//! until that is answered, so that no notification is lost between the two. After that minute invoices are looked up at growing intervals, each time
//! in an exchange of its own.

use std::collections::HashMap;

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{Event, EventId, Now};
use serde::{Deserialize, Serialize};

use super::admin::AgentRecord;
use super::holds::{self, HoldTerms};
use super::invoices::WatchedInvoice;
use super::refunds::PaymentHash;
use super::{Agent, Awaited, Effect, EffectId};
use crate::manifest::PaymentPolicy;
use crate::nip47::{Client, WalletInfo};
use crate::secrets::Secrets;
use crate::store;

/// Milliseconds for an exchange.
pub(super) const EXCHANGE_MILLIS: u64 = 15_000;
/// Milliseconds for which notifications are awaited after an invoice was made.
const LISTEN_MILLIS: u64 = 60_000;
/// Milliseconds until the wallet is asked again, at first and at most.
const RETRY_MILLIS: u64 = 2_000;
const RETRY_MILLIS_MAX: u64 = 120_000;

/// A wallet, current or former.
pub(super) struct Wallet {
    /// `Err`: its secret is missing or wrong.
    pub(super) client: Result<Client, String>,
    /// Whether it makes invoices and pays. Former wallets only look up invoices and payments, and end held ones.
    pub(super) is_current: bool,
    pub(super) memory: WalletMemory,
    pub(super) exchange: Option<Exchange>,
    /// The exchange before that: only its notifications are read, until the present one is answered.
    pub(super) former_exchange: Option<EffectId>,
    pub(super) error: Option<String>,
}

/// What is stored about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct WalletMemory {
    /// The [digest](Client::digest) of the connection that this is about.
    pub(super) connection: String,
    /// What it can do, once it is known.
    pub(super) info: Option<WalletInfo>,
    /// Of exchanges.
    pub(super) exchanges: Backoff,
    /// Of requests to make invoices, which it has answered with a temporary error.
    pub(super) making: Backoff,
    /// Of look-ups, which it has answered with `RATE_LIMITED`.
    pub(super) looking_up: Backoff,
    /// When another one became the present one, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) replaced_at: Option<u64>,
}

/// When something that has failed is tried again: the wait doubles with each failure in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Backoff {
    tries: u32,
    /// In milliseconds since 1970.
    pub(super) retry_at: u64,
}

impl Backoff {
    /// Something has failed. Failures during the wait count once.
    pub(super) fn failed(&mut self, now: Now) {
        if self.retry_at > now.millis() {
            return;
        }
        let wait = (RETRY_MILLIS << self.tries.min(16)).min(RETRY_MILLIS_MAX);
        self.tries = self.tries.saturating_add(1);
        self.retry_at = now.millis() + wait;
    }

    /// It has worked. Returns whether it had failed before.
    pub(super) fn reset(&mut self) -> bool {
        let before = std::mem::take(self);
        before.tries > 0
    }
}

/// See [`Wallet::backoffs`].
pub(super) struct Backoffs {
    pub(super) making: u64,
    pub(super) looking_up: u64,
}

/// An exchange with a wallet.
pub(super) struct Exchange {
    pub(super) id: EffectId,
    /// Until when answers, or notifications, are awaited; milliseconds since 1970.
    deadline: u64,
    /// Requests that are not answered yet, by the ids of their events. Empty if only the info event is read.
    pub(super) asks: HashMap<EventId, WalletRequest>,
    /// Whether it waits for the wallet's info event.
    pub(super) awaits_info: bool,
    /// The time of the newest info event that it has received, in Unix seconds.
    pub(super) info_at: u64,
    /// Whether anything was answered.
    pub(super) is_answered: bool,
    /// Whether there was an error.
    pub(super) has_error: bool,
    /// Why it has failed.
    pub(super) failure: Option<String>,
}

impl Exchange {
    /// Whether only notifications are awaited.
    pub(super) fn is_listening(&self) -> bool {
        self.asks.is_empty() && !self.awaits_info
    }
}

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WalletRequest {
    /// To make an invoice for a job.
    Make(EventId),
    /// To make a hold invoice for a job.
    MakeHold(EventId, HoldTerms),
    /// To look up the invoice of a job.
    Lookup(EventId),
    /// To settle the hold invoice of a job: to take its payment.
    Settle(EventId),
    /// To cancel it: to give its payment back.
    Cancel(EventId),
    /// To pay an invoice: the refund of a customer, or the share of a recipient.
    Pay(PaymentHash),
    /// To look up that payment.
    LookupPayment(PaymentHash),
    /// To look up the payment of a zap.
    LookupZap(PaymentHash),
}

impl WalletMemory {
    const NAME: &'static str = "wallets";
}

impl Wallet {
    fn new(client: Result<Client, String>, is_current: bool, memories: &[WalletMemory]) -> Self {
        let connection = client.as_ref().map(Client::digest).unwrap_or_default();
        let known = memories.iter().find(|memory| memory.connection == connection).cloned();
        let memory = known.unwrap_or_else(|| WalletMemory { connection, ..WalletMemory::default() });
        let error = client.as_ref().err().cloned();
        Wallet { client, is_current, memory, exchange: None, former_exchange: None, error }
    }

    /// The wallets of an agent, the present one first.
    pub(super) fn open_all(
        conn: &impl SqlConn,
        record: &AgentRecord,
        secrets: &dyn Secrets,
    ) -> Result<Vec<Self>, StoreError> {
        let memories: Vec<WalletMemory> = store::get_meta(conn, WalletMemory::NAME)?.unwrap_or_default();
        let current = record.wallet.as_ref().map(|secret| Client::of(secret, secrets));
        let mut wallets: Vec<Wallet> =
            current.into_iter().map(|client| Wallet::new(client, true, &memories)).collect();
        for client in record.former_wallets.iter().filter_map(|secret| Client::of(secret, secrets).ok()) {
            if wallets.iter().all(|known| known.memory.connection != client.digest()) {
                wallets.push(Wallet::new(Ok(client), false, &memories));
            }
        }
        Ok(wallets)
    }

    /// When it may be asked again to make invoices, and to look them up, in milliseconds since 1970.
    pub(super) fn backoffs(&self) -> Backoffs {
        let WalletMemory { exchanges, making, looking_up, .. } = &self.memory;
        Backoffs {
            making: making.retry_at.max(exchanges.retry_at),
            looking_up: looking_up.retry_at.max(exchanges.retry_at),
        }
    }

    /// Whether it has made this invoice.
    pub(super) fn has_made(&self, watched: &WatchedInvoice) -> bool {
        self.client.is_ok() && watched.row.wallet == self.memory.connection
    }
}

impl<C: SqlConn> Agent<C> {
    /// Replaces the wallets after a deployment, or when secrets may have changed. Their backoffs begin anew.
    pub(super) fn replace_wallets(&mut self, now: Now, mut wallets: Vec<Wallet>) {
        let open = |wallet: &mut Wallet| {
            [wallet.exchange.take().map(|exchange| exchange.id), wallet.former_exchange.take()]
        };
        let before: Vec<_> = self.payments.wallets.iter_mut().flat_map(open).flatten().collect();
        before.into_iter().for_each(|id| self.cancel_effect(id));
        for wallet in &mut wallets {
            let memory = &mut wallet.memory;
            memory.exchanges.reset();
            memory.making.reset();
            memory.looking_up.reset();
            match wallet.is_current {
                true => memory.replaced_at = None,
                false => drop(memory.replaced_at.get_or_insert(now.millis())),
            }
        }
        let is_any_replaced = wallets.iter().any(|wallet| !wallet.is_current);
        self.set_wallets(now, wallets);
        if is_any_replaced {
            self.store_wallets();
        }
    }

    /// Assigns open invoices of databases that did not store the wallet to the current one.
    pub(super) fn adopt_invoices(&mut self, wallets: &[Wallet]) {
        let Some(wallet) = wallets.first().filter(|wallet| wallet.is_current && wallet.client.is_ok()) else {
            return;
        };
        for watched in self.payments.invoices.values_mut().filter(|watched| watched.row.wallet.is_empty()) {
            watched.row.wallet.clone_from(&wallet.memory.connection);
            self.batch.put_invoice(watched.row.clone());
        }
    }

    /// Uses these wallets from now on. If open invoices or refunds belong to none of them, that is an error of the agent.
    pub(super) fn set_wallets(&mut self, now: Now, wallets: Vec<Wallet>) {
        let open = self.payments.invoices.values().filter(|watched| watched.is_open());
        let unknown = open.filter(|watched| !wallets.iter().any(|wallet| wallet.has_made(watched))).count();
        let is_known = |connection: &String| wallets.iter().any(|one| one.memory.connection == *connection);
        let refunds = self.payments.refunds.values().map(|open| &open.row.wallet);
        let unknown = unknown + refunds.filter(|wallet| !wallet.is_empty() && !is_known(wallet)).count();
        self.payments.wallets = wallets;
        self.payments.wallet_error = (unknown > 0).then(|| {
            format!(
                "{unknown} open invoices and refunds belong to a wallet whose connection string is not known any more: set it \
                 again, as the secret that payment.wallet_ref or that of an earlier version names, so that they are looked up"
            )
        });
        if let Some(error) = self.payments.wallet_error.clone() {
            self.log(now, None, error);
        }
    }

    /// What is wrong with the wallets.
    pub(super) fn wallet_trouble(&self) -> Option<&str> {
        let error = self.payments.wallets.iter().find_map(|wallet| wallet.error.as_deref());
        error.or(self.payments.wallet_error.as_deref())
    }

    /// Whether wallets may be asked: an agent without its key could not answer customers; a deleted one only keeps its books.
    fn may_ask_wallet(&self) -> bool {
        self.deployed.is_none() || self.event_signer().is_some()
    }

    /// When a wallet is next to be asked something, in milliseconds since 1970.
    fn next_request_at(&self, wallet: &Wallet) -> Option<u64> {
        if wallet.client.is_err() || !self.may_ask_wallet() {
            return None;
        }
        let Backoffs { making, looking_up } = wallet.backoffs();
        let make_at = (wallet.is_current && !self.payments.uninvoiced.is_empty()).then_some(making);
        let open = self.payments.invoices.values().filter(|watched| watched.is_open());
        let polls = open.filter(|watched| wallet.has_made(watched)).filter_map(WatchedInvoice::next_poll_at);
        let look_up_at = polls.min().map(|at| at.max(looking_up));
        let refund_at = self.next_refund_request_at(wallet).map(|at| at.max(looking_up));
        let zap_at = self.next_zap_request_at(wallet).map(|at| at.max(looking_up));
        make_at.into_iter().chain(look_up_at).chain(refund_at).chain(zap_at).min()
    }

    /// When something is to be done about wallets, in milliseconds since 1970.
    pub(super) fn wallets_due_at(&self) -> Option<u64> {
        let due_at = |wallet: &Wallet| {
            let request_at = self.next_request_at(wallet);
            match &wallet.exchange {
                Some(exchange) if exchange.is_listening() => {
                    Some(request_at.map_or(exchange.deadline, |at| at.min(exchange.deadline)))
                }
                Some(exchange) => Some(exchange.deadline),
                None => request_at,
            }
        };
        self.payments.wallets.iter().filter_map(due_at).min()
    }

    /// The time of exchanges may be over.
    pub(super) fn wallets_timeout(&mut self, now: Now) {
        for index in 0..self.payments.wallets.len() {
            let wallet = self.payments.wallets.get_mut(index);
            let Some(exchange) = wallet.and_then(|wallet| wallet.exchange.as_mut()) else { continue };
            if now.millis() < exchange.deadline {
                continue;
            }
            if exchange.awaits_info {
                let words = "no relay of the wallet has its info event (kind 13194)";
                exchange.failure.get_or_insert_with(|| words.to_owned());
            } else if !exchange.is_listening() && !exchange.is_answered {
                exchange.failure.get_or_insert_with(|| "the wallet does not answer".to_owned());
            }
            self.end_wallet_exchange(now, index);
        }
    }

    /// Begins exchanges if there is something to ask.
    ///
    /// # Errors
    /// If the store fails, and a wallet must not be asked to pay therefore.
    pub(super) fn ask_wallets(&mut self, now: Now) -> Result<(), StoreError> {
        self.end_unsent_refunds(now);
        (0..self.payments.wallets.len()).try_for_each(|index| self.ask_wallet(now, index))
    }

    fn ask_wallet(&mut self, now: Now, index: usize) -> Result<(), StoreError> {
        let Some(wallet) = self.payments.wallets.get(index) else { return Ok(()) };
        let Ok(client) = wallet.client.clone() else { return Ok(()) };
        let is_due = self.next_request_at(wallet).is_some_and(|at| at <= now.millis());
        let is_free = wallet.exchange.as_ref().is_none_or(Exchange::is_listening);
        if !is_due || !is_free {
            return Ok(());
        }
        // Its info event may have been checked for other methods before.
        let needed = self.needed_methods(wallet);
        let can = |info: &WalletInfo| needed.iter().all(|method| info.has(method));
        let Some(info) = wallet.memory.info.clone().filter(can) else {
            if let Some(wallet) = self.payments.wallets.get_mut(index) {
                wallet.memory.info = None;
            }
            self.begin_wallet_exchange(now, index, &client, Vec::new());
            return Ok(());
        };
        let Ok(asks) = self.wallet_requests(now, index) else {
            if let Some(wallet) = self.payments.wallets.get_mut(index) {
                wallet.memory.exchanges.retry_at = now.millis() + RETRY_MILLIS;
            }
            return Ok(());
        };
        self.store_sent(now, index, &asks)?;
        let expires_at = (now.millis() + EXCHANGE_MILLIS).div_ceil(1_000);
        let mut requests = Vec::new();
        for (ask, method) in asks {
            let nonce = self.nonce();
            // The key of the wallet is on the curve: its connection string was checked.
            if let Ok(request) = client.request(&method, info.cipher, now.seconds(), expires_at, nonce) {
                requests.push((ask, request));
            }
        }
        if !requests.is_empty() {
            self.begin_wallet_exchange(now, index, &client, requests);
        }
        Ok(())
    }

    /// The methods that a wallet must have for what it is asked about invoices now. `pay_invoice` is checked by [`Agent::has_paying_wallet`].
    pub(super) fn needed_methods(&self, wallet: &Wallet) -> &'static [&'static str] {
        let policy = self.deployed.as_ref().map(|deployed| deployed.manifest.payment.policy);
        match policy {
            _ if !wallet.is_current || self.payments.uninvoiced.is_empty() => &["lookup_invoice"],
            Some(PaymentPolicy::Hold) => &holds::METHODS,
            _ => &["make_invoice", "lookup_invoice"],
        }
    }

    fn begin_wallet_exchange(
        &mut self,
        now: Now,
        index: usize,
        client: &Client,
        asked: Vec<(WalletRequest, Event)>,
    ) {
        self.end_former_exchange(index);
        let before = self.payments.wallets.get_mut(index).and_then(|wallet| wallet.exchange.take());
        let id = self.new_effect(Awaited::Wallet);
        let Some(wallet) = self.payments.wallets.get_mut(index) else { return };
        wallet.former_exchange = before.map(|exchange| exchange.id);
        let cipher = wallet.memory.info.as_ref().map(|info| info.cipher);
        let (asks, requests): (Vec<_>, Vec<_>) =
            asked.into_iter().map(|(ask, request)| ((request.id, ask), request)).unzip();
        wallet.exchange = Some(Exchange {
            id,
            deadline: now.millis() + EXCHANGE_MILLIS,
            awaits_info: asks.is_empty(),
            info_at: 0,
            asks: asks.into_iter().collect(),
            is_answered: false,
            has_error: false,
            failure: None,
        });
        let (relays, answers) = (client.relays().to_vec(), client.answers(&requests, cipher));
        self.effects.push_back(Effect::Exchange { id, relays, answers, requests });
    }

    /// The exchange before the present one is no longer needed.
    pub(super) fn end_former_exchange(&mut self, index: usize) {
        let wallet = self.payments.wallets.get_mut(index);
        if let Some(id) = wallet.and_then(|wallet| wallet.former_exchange.take())
            && self.awaited.remove(&id).is_some()
        {
            // Nothing has to be stored first.
            self.effects.push_back(Effect::Cancel { id });
        }
    }

    /// All is answered: notifications are awaited while a customer is about to pay.
    pub(super) fn wallet_is_answered(&mut self, now: Now, index: usize) {
        let Some(wallet) = self.payments.wallets.get_mut(index) else { return };
        let open = self.payments.invoices.values().filter(|watched| watched.is_open());
        let made = open.filter(|watched| wallet.has_made(watched) && watched.next_poll_at().is_some());
        let until = made.map(|watched| watched.row.made_at + LISTEN_MILLIS).max().unwrap_or_default();
        let Some(exchange) = &mut wallet.exchange else { return };
        if exchange.failure.is_some() || until <= now.millis() {
            return self.end_wallet_exchange(now, index);
        }
        exchange.deadline = until;
        let has_error = exchange.has_error;
        self.wallet_is_well(now, index, has_error);
    }

    /// Ends an exchange. What was not answered is asked again later.
    pub(super) fn end_wallet_exchange(&mut self, now: Now, index: usize) {
        let Some(wallet) = self.payments.wallets.get_mut(index) else { return };
        let Some(Exchange { id, asks, failure, has_error, .. }) = wallet.exchange.take() else { return };
        self.cancel_effect(id);
        self.end_former_exchange(index);
        for ask in asks.into_values() {
            match ask {
                WalletRequest::Make(_) | WalletRequest::MakeHold(..) => {}
                WalletRequest::Lookup(job) => self.poll_invoice_later(now, &job),
                WalletRequest::Settle(job) | WalletRequest::Cancel(job) => {
                    self.hold_request_failed(now, &job, false);
                }
                WalletRequest::Pay(hash) | WalletRequest::LookupPayment(hash) => {
                    self.payout_lookup_failed(now, &hash);
                }
                WalletRequest::LookupZap(hash) => self.zap_lookup_failed(now, index, &hash),
            }
        }
        match failure {
            Some(failure) => {
                self.wallet_error(now, index, &failure);
                let Some(wallet) = self.payments.wallets.get_mut(index) else { return };
                wallet.memory.exchanges.failed(now);
                self.store_wallets();
            }
            None => self.wallet_is_well(now, index, has_error),
        }
    }

    fn wallet_is_well(&mut self, now: Now, index: usize, has_error: bool) {
        let Some(wallet) = self.payments.wallets.get_mut(index) else { return };
        let is_over = !has_error && wallet.error.take().is_some();
        if wallet.memory.exchanges.reset() {
            self.store_wallets();
        }
        if is_over {
            self.log(now, None, "the wallet answers again");
        }
    }

    pub(super) fn wallet_error(&mut self, now: Now, index: usize, error: &str) {
        let Some(wallet) = self.payments.wallets.get_mut(index) else { return };
        if let Some(exchange) = &mut wallet.exchange {
            exchange.has_error = true;
        }
        if wallet.error.as_deref() != Some(error) {
            wallet.error = Some(error.to_owned());
            self.log(now, None, error);
        }
    }

    /// Stores what is remembered about wallets.
    pub(super) fn store_wallets(&mut self) {
        let memories: Vec<&WalletMemory> =
            self.payments.wallets.iter().map(|wallet| &wallet.memory).collect();
        store::put_meta(&mut self.batch, WalletMemory::NAME, &memories);
    }
}
