//! The agent's wallet (NIP-47) is asked: to make invoices, and whether they are paid. Nothing of this is stored but what the wallet can do
//! and how long it has failed: what is to be asked follows from the jobs and invoices in the database.
//!
//! One exchange at a time, as with a remote signer. It ends when all is answered; but while a customer is about to pay it stays open for
//! notifications, for a minute at most. Then invoices are asked for at growing intervals, each time in an exchange of its own.

use std::collections::HashMap;

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{Event, EventId, Now};
use serde::{Deserialize, Serialize};

use super::admin::AgentRecord;
use super::remote_signing::cut;
use super::{Agent, Awaited, Effect, EffectId, ExchangeEvent};
use crate::nip47::{Client, Method, Transaction, WalletError, WalletInfo, WalletMessage};
use crate::payment::INVOICE_SECONDS;
use crate::secrets::Secrets;
use crate::store;

/// Milliseconds for an exchange.
const EXCHANGE_MILLIS: u64 = 15_000;
/// Milliseconds for which notifications are awaited after an invoice was made.
const LISTEN_MILLIS: u64 = 60_000;
/// Milliseconds until the wallet is asked again, at first and at most.
const RETRY_MILLIS: u64 = 2_000;
const RETRY_MILLIS_MAX: u64 = 120_000;
/// Milliseconds until it is asked again for an invoice of which it has told nothing.
const SILENT_MILLIS: u64 = 10_000;
/// Requests of one exchange.
const REQUESTS_MAX: usize = 16;

/// See the module.
pub(super) struct Wallet {
    /// `Err`: its secret is missing or wrong.
    client: Result<Client, String>,
    memory: WalletMemory,
    exchange: Option<Exchange>,
    error: Option<String>,
}

/// What is stored about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct WalletMemory {
    /// The [digest](Client::digest) of the connection that this is about.
    connection: String,
    /// What it can do, once it is known.
    info: Option<WalletInfo>,
    /// Exchanges that have failed one after the other.
    tries: u32,
    /// When the next one may begin, in milliseconds since 1970.
    retry_at: u64,
}

/// What is under way.
struct Exchange {
    id: EffectId,
    /// Until when answers, or notifications, are awaited; milliseconds since 1970.
    deadline: u64,
    /// What it asks, if it asks more than what the wallet can do.
    asks: HashMap<EventId, WalletRequest>,
    /// Whether it waits for what the wallet can do.
    awaits_info: bool,
    /// Whether anything was answered.
    is_answered: bool,
    /// Whether there was an error.
    has_error: bool,
    /// Why it has failed.
    failure: Option<String>,
}

impl Exchange {
    /// Whether only notifications are awaited.
    fn is_listening(&self) -> bool {
        self.asks.is_empty() && !self.awaits_info
    }
}

/// About a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WalletRequest {
    Make(EventId),
    Lookup(EventId),
}

impl WalletMemory {
    const NAME: &'static str = "wallet";
}

impl Wallet {
    /// The wallet of an agent, if it has one.
    pub(super) fn open(
        conn: &impl SqlConn,
        record: &AgentRecord,
        secrets: &dyn Secrets,
    ) -> Result<Option<Self>, StoreError> {
        let Some(secret) = &record.wallet else { return Ok(None) };
        let client = Client::of(secret, secrets);
        let connection = client.as_ref().map(Client::digest).unwrap_or_default();
        let memory: Option<WalletMemory> = store::get_meta(conn, WalletMemory::NAME)?;
        let memory = memory
            .filter(|memory| memory.connection == connection)
            .unwrap_or_else(|| WalletMemory { connection, ..WalletMemory::default() });
        let error = client.as_ref().err().cloned();
        Ok(Some(Wallet { client, memory, exchange: None, error }))
    }

    /// What is wrong with it.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }
}

impl<C: SqlConn> Agent<C> {
    /// Another wallet, or none, or the same one whose secret may be another. It is asked at once.
    pub(super) fn replace_wallet(&mut self, mut wallet: Option<Wallet>) {
        let before = self.payments.wallet.as_mut().and_then(|wallet| wallet.exchange.take());
        before.into_iter().for_each(|exchange| self.cancel_effect(exchange.id));
        if let Some(wallet) = &mut wallet {
            (wallet.memory.tries, wallet.memory.retry_at) = (0, 0);
        }
        self.payments.wallet = wallet;
    }

    /// Whether its customers can be answered; a deleted agent only writes down what comes.
    fn may_ask_wallet(&self) -> bool {
        self.deployed.is_none() || self.event_signer().is_some()
    }

    /// When an invoice is to be made, or asked for, in milliseconds since 1970.
    fn next_question_at(&self) -> Option<u64> {
        let polls = self.payments.invoices.values().filter(|watched| watched.is_open());
        let poll_at = polls.map(|watched| watched.poll_at).min();
        if self.payments.wanted.is_empty() { poll_at } else { Some(0) }
    }

    /// When something is to be done about it, in milliseconds since 1970.
    pub(super) fn wallet_due_at(&self) -> Option<u64> {
        let wallet = self.payments.wallet.as_ref().filter(|_| self.may_ask_wallet())?;
        wallet.client.as_ref().ok()?;
        let question_at = self.next_question_at();
        match &wallet.exchange {
            Some(exchange) if exchange.is_listening() => {
                Some(question_at.map_or(exchange.deadline, |at| at.min(exchange.deadline)))
            }
            Some(exchange) => Some(exchange.deadline),
            None => question_at.map(|at| at.max(wallet.memory.retry_at)),
        }
    }

    /// Its time may be over.
    pub(super) fn wallet_timeout(&mut self, now: Now) {
        let Some(Wallet { exchange: Some(exchange), .. }) = &mut self.payments.wallet else { return };
        if now.millis() >= exchange.deadline {
            if exchange.awaits_info {
                let words = "no relay of the wallet has its info event (kind 13194)";
                exchange.failure.get_or_insert_with(|| words.to_owned());
            } else if !exchange.is_listening() && !exchange.is_answered {
                exchange.failure.get_or_insert_with(|| "the wallet does not answer".to_owned());
            }
            self.end_wallet_exchange(now);
        }
    }

    /// Begins an exchange if there is something to ask.
    pub(super) fn ask_wallet(&mut self, now: Now) {
        let question_at = self.next_question_at();
        let may_ask = self.may_ask_wallet();
        let Some(wallet) = self.payments.wallet.as_ref().filter(|_| may_ask) else { return };
        let Ok(client) = wallet.client.clone() else { return };
        let is_due = question_at.is_some_and(|at| at <= now.millis());
        let is_free = wallet.exchange.as_ref().is_none_or(Exchange::is_listening);
        if !is_due || !is_free || now.millis() < wallet.memory.retry_at {
            return;
        }
        let Some(info) = wallet.memory.info.clone() else {
            return self.begin_wallet_exchange(now, &client, Vec::new());
        };
        let Ok(asks) = self.wallet_requests(now) else {
            if let Some(wallet) = &mut self.payments.wallet {
                wallet.memory.retry_at = now.millis() + RETRY_MILLIS;
            }
            return;
        };
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
            self.begin_wallet_exchange(now, &client, requests);
        }
    }

    /// What the wallet is asked now.
    fn wallet_requests(&mut self, now: Now) -> Result<Vec<(WalletRequest, Method)>, StoreError> {
        let mut asks = Vec::new();
        let wanted: Vec<(u64, EventId)> =
            self.payments.wanted.iter().take(REQUESTS_MAX).map(|(seq, job)| (*seq, *job)).collect();
        for (seq, job) in wanted {
            match self.invoice_wanted(&job)? {
                Some((msat, description)) => {
                    let method = Method::MakeInvoice { msat, description, expiry_s: INVOICE_SECONDS };
                    asks.push((WalletRequest::Make(job), method));
                }
                // It has been cancelled, or has expired.
                None => drop(self.payments.wanted.remove(&seq)),
            }
        }
        let is_given_up = |watched: &super::invoices::Watched| {
            watched.is_open() && now.millis() >= watched.times().given_up_at()
        };
        let given_up = self.payments.invoices.iter().filter(|(_, watched)| is_given_up(watched));
        for job in given_up.map(|(job, _)| *job).collect::<Vec<_>>() {
            self.give_up_invoice(&job);
        }
        let due = self.payments.invoices.iter();
        let due = due.filter(|(_, watched)| watched.is_open() && watched.poll_at <= now.millis());
        let mut due: Vec<_> =
            due.map(|(job, watched)| (watched.poll_at, *job, watched.row.payment_hash)).collect();
        due.sort_unstable();
        let room = REQUESTS_MAX - asks.len();
        asks.extend(due.into_iter().take(room).map(|(_, job, payment_hash)| {
            (WalletRequest::Lookup(job), Method::LookupInvoice { payment_hash })
        }));
        Ok(asks)
    }

    fn begin_wallet_exchange(&mut self, now: Now, client: &Client, asked: Vec<(WalletRequest, Event)>) {
        let before = self.payments.wallet.as_mut().and_then(|wallet| wallet.exchange.take());
        if let Some(Exchange { id, .. }) = before
            && self.awaited.remove(&id).is_some()
        {
            // Nothing has to be stored first.
            self.effects.push_back(Effect::Cancel { id });
        }
        let id = self.new_effect(Awaited::Wallet);
        let Some(wallet) = &mut self.payments.wallet else { return };
        let cipher = wallet.memory.info.as_ref().map(|info| info.cipher);
        let (asks, requests): (Vec<_>, Vec<_>) =
            asked.into_iter().map(|(ask, request)| ((request.id, ask), request)).unzip();
        wallet.exchange = Some(Exchange {
            id,
            deadline: now.millis() + EXCHANGE_MILLIS,
            awaits_info: asks.is_empty(),
            asks: asks.into_iter().collect(),
            is_answered: false,
            has_error: false,
            failure: None,
        });
        let (relays, answers) = (client.relays().to_vec(), client.answers(&requests, cipher));
        self.effects.push_back(Effect::Exchange { id, relays, answers, requests });
    }

    /// Something has come of the exchange.
    pub(super) fn wallet_event(&mut self, now: Now, id: EffectId, event: ExchangeEvent) {
        let Some(wallet) = &mut self.payments.wallet else { return };
        let Some(exchange) = wallet.exchange.as_mut().filter(|exchange| exchange.id == id) else { return };
        let event = match event {
            ExchangeEvent::Event(event) => event,
            ExchangeEvent::Failed(why) => {
                if !exchange.is_listening() {
                    exchange.failure = Some(format!("the wallet cannot be asked: {}", cut(&why)));
                }
                self.awaited.remove(&id);
                return self.end_wallet_exchange(now);
            }
        };
        let message = wallet.client.as_ref().ok().and_then(|client| client.read(&event));
        match message {
            Some(WalletMessage::Info(info)) => self.wallet_info(now, info),
            Some(WalletMessage::Response(request, outcome)) => {
                let Some(ask) = exchange.asks.remove(&request) else { return };
                exchange.is_answered = true;
                self.wallet_answered(now, ask, outcome);
                let exchange = self.payments.wallet.as_ref().and_then(|wallet| wallet.exchange.as_ref());
                if exchange.is_some_and(Exchange::is_listening) {
                    self.wallet_is_answered(now);
                }
            }
            Some(WalletMessage::Received(transaction)) => self.wallet_notifies(now, &transaction),
            None => {}
        }
    }

    /// What the wallet can do.
    fn wallet_info(&mut self, now: Now, info: WalletInfo) {
        let Some(wallet) = &mut self.payments.wallet else { return };
        let is_known = wallet.memory.info.as_ref() == Some(&info);
        let lacks = ["make_invoice", "lookup_invoice"].into_iter().find(|method| !info.has(method));
        if !is_known {
            wallet.memory.info = Some(info);
            store::put_meta(&mut self.batch, WalletMemory::NAME, &wallet.memory);
        }
        let Some(exchange) = wallet.exchange.as_mut().filter(|exchange| exchange.awaits_info) else { return };
        exchange.awaits_info = false;
        if let Some(method) = lacks {
            // It may be another one tomorrow.
            wallet.memory.info = None;
            exchange.failure = Some(format!("the wallet has no method {method}"));
        }
        self.end_wallet_exchange(now);
    }

    /// The wallet has answered a request.
    fn wallet_answered(&mut self, now: Now, ask: WalletRequest, outcome: Result<Transaction, WalletError>) {
        if let Err(error) = &outcome
            && error.code == "UNSUPPORTED_ENCRYPTION"
            && let Some(wallet) = &mut self.payments.wallet
        {
            wallet.memory.info = None;
        }
        match (ask, outcome) {
            (WalletRequest::Make(job), Ok(made)) => {
                if let Err(why) = self.invoice_made(now, &job, &made) {
                    self.wallet_error(now, &why);
                    self.invoice_refused(now, &job, &why);
                }
            }
            (WalletRequest::Make(job), Err(error)) => {
                let why = format!("the wallet makes no invoice: {}", words(&error));
                self.wallet_error(now, &why);
                // These may pass.
                match error.code.as_str() {
                    "RATE_LIMITED" | "INTERNAL" | "UNSUPPORTED_ENCRYPTION" => {
                        self.wallet_failed(&why);
                    }
                    _ => self.invoice_refused(now, &job, &why),
                }
            }
            (WalletRequest::Lookup(job), Ok(told)) => {
                // If the store fails it is asked again.
                let _ = self.invoice_told(now, &job, &told);
            }
            (WalletRequest::Lookup(job), Err(error)) if error.code == "NOT_FOUND" => {
                let _ = self.invoice_told(now, &job, &Transaction::default());
            }
            (WalletRequest::Lookup(job), Err(error)) => {
                self.wallet_error(now, &format!("the wallet does not tell of an invoice: {}", words(&error)));
                self.ask_later(now, &job);
            }
        }
    }

    fn ask_later(&mut self, now: Now, job: &EventId) {
        if let Some(watched) = self.payments.invoices.get_mut(job) {
            watched.poll_at = watched.poll_at.max(now.millis() + SILENT_MILLIS);
        }
    }

    /// The wallet tells of a payment by itself: of one that it shows at once it is not asked any more, and of another one it is asked now.
    fn wallet_notifies(&mut self, now: Now, transaction: &Transaction) {
        let Some(payment_hash) = transaction.payment_hash else { return };
        let mut invoices = self.payments.invoices.iter();
        let invoice =
            invoices.find(|(_, watched)| watched.is_open() && watched.row.payment_hash == payment_hash);
        let Some(job) = invoice.map(|(job, _)| *job) else { return };
        if transaction.claim(&payment_hash) == crate::nip47::Claim::Proven {
            let _ = self.invoice_told(now, &job, transaction);
        } else if let Some(watched) = self.payments.invoices.get_mut(&job) {
            watched.poll_at = watched.poll_at.min(now.millis());
        }
    }

    /// All is answered: notifications are awaited while a customer is about to pay.
    fn wallet_is_answered(&mut self, now: Now) {
        let open = self.payments.invoices.values().filter(|watched| watched.is_open());
        let until = open.map(|watched| watched.row.made_at + LISTEN_MILLIS).max().unwrap_or_default();
        let Some(wallet) = &mut self.payments.wallet else { return };
        let Some(exchange) = &mut wallet.exchange else { return };
        if exchange.failure.is_some() || until <= now.millis() {
            return self.end_wallet_exchange(now);
        }
        exchange.deadline = until;
        let has_error = exchange.has_error;
        self.wallet_is_well(now, has_error);
    }

    /// Nothing more is expected of the exchange. What was not answered is asked again later.
    fn end_wallet_exchange(&mut self, now: Now) {
        let Some(wallet) = &mut self.payments.wallet else { return };
        let Some(Exchange { id, asks, failure, has_error, .. }) = wallet.exchange.take() else { return };
        self.cancel_effect(id);
        for ask in asks.into_values() {
            if let WalletRequest::Lookup(job) = ask {
                self.ask_later(now, &job);
            }
        }
        match failure {
            Some(failure) => {
                self.wallet_error(now, &failure);
                let Some(wallet) = &mut self.payments.wallet else { return };
                let wait = (RETRY_MILLIS << wallet.memory.tries.min(16)).min(RETRY_MILLIS_MAX);
                wallet.memory.tries = wallet.memory.tries.saturating_add(1);
                wallet.memory.retry_at = now.millis() + wait;
                store::put_meta(&mut self.batch, WalletMemory::NAME, &wallet.memory);
            }
            None => self.wallet_is_well(now, has_error),
        }
    }

    /// The exchange has failed, though there was an answer.
    fn wallet_failed(&mut self, why: &str) {
        if let Some(Wallet { exchange: Some(exchange), .. }) = &mut self.payments.wallet {
            exchange.failure = Some(why.to_owned());
        }
    }

    fn wallet_is_well(&mut self, now: Now, has_error: bool) {
        let Some(wallet) = &mut self.payments.wallet else { return };
        if wallet.memory.tries > 0 {
            (wallet.memory.tries, wallet.memory.retry_at) = (0, 0);
            store::put_meta(&mut self.batch, WalletMemory::NAME, &wallet.memory);
        }
        if !has_error && wallet.error.take().is_some() {
            self.log(now, None, "the wallet answers again");
        }
    }

    fn wallet_error(&mut self, now: Now, error: &str) {
        let Some(wallet) = &mut self.payments.wallet else { return };
        if let Some(exchange) = &mut wallet.exchange {
            exchange.has_error = true;
        }
        if wallet.error.as_deref() != Some(error) {
            wallet.error = Some(error.to_owned());
            self.log(now, None, error);
        }
    }
}

/// An error of a wallet in a line.
fn words(error: &WalletError) -> String {
    format!("{} {}", cut(&error.code), cut(&error.message))
}
