//! Answers and notifications of wallets.

use relay_engine::sql::SqlConn;
use relay_engine::types::{EventId, Now};

use super::holds::HoldTerms;
use super::invoices::WatchedInvoice;
use super::remote_signing::cut;
use super::wallet::{Exchange, WalletRequest};
use super::{Agent, EffectId, ExchangeEvent};
use crate::nip47::{Claim, Held, Transaction, WalletError, WalletInfo, WalletMessage};

/// Least milliseconds until an invoice is looked up again if the wallet has not answered.
const SILENT_MILLIS: u64 = 10_000;

impl<C: SqlConn> Agent<C> {
    /// An exchange has received an event, or has failed.
    pub(super) fn wallet_event(&mut self, now: Now, id: EffectId, event: ExchangeEvent) {
        let mut wallets = self.payments.wallets.iter().enumerate();
        if let Some((index, wallet)) = wallets.find(|(_, wallet)| wallet.former_exchange == Some(id)) {
            let message = match (&event, &wallet.client) {
                (ExchangeEvent::Event(event), Ok(client)) => client.read(event),
                _ => None,
            };
            if matches!(event, ExchangeEvent::Failed(_)) {
                self.end_former_exchange(index);
            }
            return self.handle_unsolicited(now, message);
        }
        let mut wallets = self.payments.wallets.iter_mut().enumerate();
        let open = wallets.find_map(|(index, wallet)| {
            let exchange = wallet.exchange.as_mut().filter(|exchange| exchange.id == id)?;
            Some((index, &wallet.client, exchange))
        });
        let Some((index, client, exchange)) = open else { return };
        let event = match event {
            ExchangeEvent::Event(event) => event,
            ExchangeEvent::Failed(why) => {
                if !exchange.is_listening() {
                    exchange.failure = Some(format!("the wallet cannot be asked: {}", cut(&why)));
                }
                self.awaited.remove(&id);
                return self.end_wallet_exchange(now, index);
            }
        };
        let message = client.as_ref().ok().and_then(|client| client.read(&event));
        match message {
            Some(WalletMessage::Info(info)) => self.wallet_info(now, index, info),
            Some(WalletMessage::Response(request, outcome)) => {
                let Some(ask) = exchange.asks.remove(&request) else { return };
                exchange.is_answered = true;
                self.end_former_exchange(index);
                self.wallet_answered(now, index, ask, outcome);
                let wallet = self.payments.wallets.get(index);
                let exchange = wallet.and_then(|wallet| wallet.exchange.as_ref());
                if exchange.is_some_and(Exchange::is_listening) {
                    self.wallet_is_answered(now, index);
                }
            }
            other => self.handle_unsolicited(now, other),
        }
    }

    /// A message that answers no request: a notification.
    fn handle_unsolicited(&mut self, now: Now, message: Option<WalletMessage>) {
        match message {
            Some(WalletMessage::Received(transaction)) => self.handle_notification(now, &transaction),
            Some(WalletMessage::Accepted(mut transaction)) => {
                // Some wallets leave the state out, since the type of the notification tells it.
                transaction.state.get_or_insert_with(|| "accepted".to_owned());
                self.handle_notification(now, &transaction);
            }
            Some(WalletMessage::Info(_) | WalletMessage::Response(..)) | None => {}
        }
    }

    /// The wallet's info event. Its relays may have several versions, of which the newest counts.
    fn wallet_info(&mut self, now: Now, index: usize, info: WalletInfo) {
        let Some(wallet) = self.payments.wallets.get(index) else { return };
        let needed = self.needed_methods(wallet);
        let Some(wallet) = self.payments.wallets.get_mut(index) else { return };
        let Some(exchange) = wallet.exchange.as_mut().filter(|exchange| exchange.info_at <= info.created_at)
        else {
            return;
        };
        exchange.info_at = info.created_at;
        if wallet.memory.info.as_ref().is_some_and(|known| known.created_at >= info.created_at) {
            return;
        }
        let lacks = needed.iter().find(|method| !info.has(method)).filter(|_| exchange.awaits_info);
        if let Some(method) = lacks {
            // Another relay may have a newer version, or this one tomorrow.
            exchange.failure =
                Some(format!("the wallet has no method {method}: allow it for this connection"));
            return;
        }
        let awaits_info = std::mem::take(&mut exchange.awaits_info);
        if awaits_info {
            exchange.failure = None;
        }
        wallet.memory.info = Some(info);
        self.store_wallets();
        if awaits_info {
            self.end_wallet_exchange(now, index);
        }
    }

    /// The wallet has answered a request.
    fn wallet_answered(
        &mut self,
        now: Now,
        index: usize,
        ask: WalletRequest,
        outcome: Result<Transaction, WalletError>,
    ) {
        if let Err(error) = &outcome
            && error.code == "UNSUPPORTED_ENCRYPTION"
            && let Some(wallet) = self.payments.wallets.get_mut(index)
        {
            wallet.memory.info = None;
        }
        self.note_wallet_backoff(now, index, ask, &outcome);
        match (ask, outcome) {
            (WalletRequest::Make(job), Ok(made)) => self.wallet_makes(now, index, &job, None, &made),
            (WalletRequest::MakeHold(job, terms), Ok(made)) => {
                self.wallet_makes(now, index, &job, Some(terms), &made);
            }
            (WalletRequest::Make(job) | WalletRequest::MakeHold(job, _), Err(error)) => {
                let why = format!("the wallet makes no invoice: {}", error_text(&error));
                self.wallet_error(now, index, &why);
                if !is_temporary(&error) {
                    self.invoice_refused(now, &job, &why);
                }
            }
            (WalletRequest::Settle(job), Ok(_)) => self.hold_settled(now, &job),
            (WalletRequest::Cancel(job), Ok(_)) => self.hold_cancelled(&job),
            (ask @ (WalletRequest::Settle(job) | WalletRequest::Cancel(job)), Err(error)) => {
                let does = if ask == WalletRequest::Settle(job) { "settle" } else { "cancel" };
                // Some wallets refuse to cancel an invoice that is not paid: no error.
                if self.payments.invoices.get(&job).is_some_and(WatchedInvoice::was_held) {
                    let why = format!("the wallet does not {does} a hold invoice: {}", error_text(&error));
                    self.wallet_error(now, index, &why);
                }
                self.hold_request_failed(now, &job, true);
            }
            (WalletRequest::Lookup(job), Ok(told)) => {
                // If the store fails it is asked again.
                let _ = self.handle_invoice_state(now, &job, &told);
            }
            (WalletRequest::Lookup(job), Err(error)) if error.code == "NOT_FOUND" => {
                let _ = self.handle_invoice_state(now, &job, &Transaction::default());
            }
            (WalletRequest::Pay(hash), outcome) => {
                if let Err(error) = &outcome {
                    self.wallet_error(now, index, &format!("the wallet does not pay: {}", error_text(error)));
                }
                self.handle_payout_response(now, &hash, outcome);
            }
            (WalletRequest::LookupPayment(hash), outcome) => self.handle_payout_lookup(now, &hash, outcome),
            (WalletRequest::LookupZap(hash), outcome) => {
                if let Err(error) = &outcome
                    && error.code != "NOT_FOUND"
                {
                    let why = format!("the wallet does not tell of a zap: {}", error_text(error));
                    self.wallet_error(now, index, &why);
                }
                self.handle_zap_lookup(now, index, &hash, outcome);
            }
            (WalletRequest::Lookup(job), Err(error)) => {
                self.wallet_error(
                    now,
                    index,
                    &format!("the wallet does not look up an invoice: {}", error_text(&error)),
                );
                self.poll_invoice_later(now, &job);
            }
        }
    }

    /// The wallet has made an invoice.
    fn wallet_makes(
        &mut self,
        now: Now,
        index: usize,
        job: &EventId,
        terms: Option<HoldTerms>,
        made: &Transaction,
    ) {
        match self.invoice_made(now, index, job, terms, made) {
            Ok(Ok(())) => {}
            Ok(Err(why)) => {
                self.wallet_error(now, index, &why);
                self.invoice_refused(now, job, &why);
            }
            // It is asked for another one, after a while.
            Err(_) => {
                if let Some(wallet) = self.payments.wallets.get_mut(index) {
                    wallet.memory.making.failed(now);
                }
                self.store_wallets();
            }
        }
    }

    /// Notes whether the wallet makes invoices, or looks them up, now. The two are separate, so that look-ups go on while it makes none.
    fn note_wallet_backoff(
        &mut self,
        now: Now,
        index: usize,
        ask: WalletRequest,
        outcome: &Result<Transaction, WalletError>,
    ) {
        let Some(wallet) = self.payments.wallets.get_mut(index) else { return };
        let memory = &mut wallet.memory;
        let (backoff, has_failed) = match (ask, outcome) {
            (WalletRequest::Make(_) | WalletRequest::MakeHold(..), Err(error)) => {
                (&mut memory.making, is_temporary(error))
            }
            (WalletRequest::Make(_) | WalletRequest::MakeHold(..), Ok(_)) => (&mut memory.making, false),
            (WalletRequest::Pay(_), _) => return,
            // What is wrong with one invoice need not be wrong with others.
            (_, Err(error)) => (&mut memory.looking_up, error.code == "RATE_LIMITED"),
            (_, Ok(_)) => (&mut memory.looking_up, false),
        };
        let before = *backoff;
        if has_failed {
            backoff.failed(now);
        } else {
            backoff.reset();
        }
        if *backoff != before {
            self.store_wallets();
        }
    }

    /// The wallet has not answered about an invoice: it is looked up later.
    pub(super) fn poll_invoice_later(&mut self, now: Now, job: &EventId) {
        if let Some(watched) = self.payments.invoices.get_mut(job) {
            match watched.must_settle_or_cancel() {
                true => watched.try_later(now),
                false => {
                    let next = watched.times().next_poll(now.millis());
                    watched.poll_at = next.max(now.millis() + SILENT_MILLIS);
                }
            }
        }
    }

    /// A notification of a payment. If it has the preimage, or says that the payment is held, it counts; else the invoice is looked up now.
    fn handle_notification(&mut self, now: Now, transaction: &Transaction) {
        let Some(payment_hash) = transaction.payment_hash else { return };
        let mut invoices = self.payments.invoices.iter();
        let invoice =
            invoices.find(|(_, watched)| watched.is_open() && watched.row.payment_hash == payment_hash);
        let Some(job) = invoice.map(|(job, _)| *job) else { return };
        let is_held = transaction.held(&payment_hash) == Held::Accepted;
        if is_held || transaction.claim(&payment_hash) == Claim::Proven {
            let _ = self.handle_invoice_state(now, &job, transaction);
        } else if let Some(watched) = self.payments.invoices.get_mut(&job) {
            watched.poll_at = watched.poll_at.min(now.millis());
        }
    }
}

/// Whether an error is temporary: the wallet is asked again.
fn is_temporary(error: &WalletError) -> bool {
    matches!(error.code.as_str(), "RATE_LIMITED" | "INTERNAL" | "UNSUPPORTED_ENCRYPTION")
}

/// An error of a wallet in one line.
fn error_text(error: &WalletError) -> String {
    format!("{} {}", cut(&error.code), cut(&error.message))
}
