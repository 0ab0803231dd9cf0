//! Payments for Blossom (BUD-07): for each purchase the relay's Blossom server asks the agent for an invoice, then whether it is paid, and then to
//! mark the payment as spent. A purchase is a job with `prepay`: invoices, wallet, books and recovery after a crash are those of jobs. Its request
//! is signed by a key that is made for it and forgotten, so its credit is of no use for anybody else.
//!
//! A proof is the preimage of an invoice. It alone proves nothing: the wallet must confirm the payment.

use std::collections::HashMap;

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{Event, EventId, Now};
use relay_site::{PaymentOutcome, PaymentRequest, Purchase};
use sha2::{Digest as _, Sha256};

use super::invoices::WatchedInvoice;
use super::jobs::Active;
use super::{Agent, Deployed};
use crate::bolt11;
use crate::identity::{Draft, Keys, Sign as _};
use crate::job::JobRequest;
use crate::manifest::{Handler, KIND_BLOB_PAYMENT};
use crate::nip90;
use crate::store::{self, InvoiceRow, InvoiceState, PurchaseRow, PurchaseState, Reason};

/// Least seconds for which an invoice that is shown again can still be paid.
const SHOWN_SECONDS_MIN: u64 = 60;
/// Milliseconds between two look-ups of an invoice whose preimage somebody has sent.
const ASK_MILLIS: u64 = 1_000;
/// Milliseconds for which the wallet's last answer is valid.
const ANSWER_MILLIS: u64 = 30_000;
/// Milliseconds for which a spent payment can be used for the same purchase again: a download may have broken off, an upload may have been cut off
/// before the blob was recorded, or the response may have been lost.
const REPEAT_MILLIS: u64 = 600_000;
/// Purchases and proofs that are remembered.
const KNOWN_MAX: usize = 2_000;

/// What clients are told if the wallet makes no invoice, or does not say whether one is paid.
const NO_WALLET: &str = "the wallet does not answer; try again later";
const NO_DATABASE: &str = "the database of the agent that is paid fails; try again later";

/// What is in memory of purchases.
#[derive(Default)]
pub(super) struct Purchases {
    /// The jobs of purchases whose invoice is being made.
    ordered: HashMap<String, EventId>,
    /// Look-ups of invoices whose preimage somebody has sent, by payment hash.
    asked: HashMap<[u8; 32], Asked>,
}

#[derive(Clone, Copy)]
struct Asked {
    /// When, in milliseconds since 1970.
    at: u64,
    /// Whether the wallet has answered that the invoice is not paid.
    is_unpaid: bool,
}

/// The answer to a [`PaymentRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaymentReply {
    /// The answer.
    pub outcome: PaymentOutcome,
    /// Whether this is the final answer. If not, hosts repeat the request every [`WAIT_INTERVAL`](relay_site::payment::WAIT_INTERVAL), for
    /// [`WAIT_MAX`](relay_site::payment::WAIT_MAX) at most, and then use the last answer.
    pub is_final: bool,
}

impl PaymentReply {
    fn last(outcome: PaymentOutcome) -> Self {
        PaymentReply { outcome, is_final: true }
    }

    fn refused(why: impl Into<String>) -> Self {
        Self::last(PaymentOutcome::Refused(why.into()))
    }

    fn unavailable(why: impl Into<String>) -> Self {
        Self::last(PaymentOutcome::Unavailable(why.into()))
    }

    fn waits() -> Self {
        PaymentReply { outcome: PaymentOutcome::Unavailable(NO_WALLET.to_owned()), is_final: false }
    }
}

/// What a job of this handler costs. A purchase costs what its request bids, but at least the handler's price.
pub(super) fn price_of(handler: &Handler, request: &JobRequest) -> u64 {
    let is_purchase = matches!(handler.executor, crate::manifest::ExecutorConfig::BlobPayment(_));
    let ordered = request.bid_msat.filter(|_| is_purchase).unwrap_or_default();
    handler.price.msat().max(ordered)
}

/// The payment hash of a preimage.
fn payment_hash(preimage: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    (preimage.len() == 64).then_some(())?;
    faster_hex::hex_decode(preimage.to_ascii_lowercase().as_bytes(), &mut bytes).ok()?;
    Some(Sha256::digest(bytes).into())
}

impl<C: SqlConn> Agent<C> {
    /// Answers a request of the relay's Blossom server. When it returns, what the answer depends on is durable.
    pub fn handle_payment_request(&mut self, now: Now, request: &PaymentRequest) -> PaymentReply {
        // What was decided before must be in the database, which the queries below read.
        let reply = self.settle(now).and_then(|()| match request {
            PaymentRequest::Quote { purchase, msat } => self.quote_purchase(now, purchase, *msat),
            PaymentRequest::Check { purchase, preimage, spends } => {
                self.check_purchase(now, purchase, preimage, *spends)
            }
        });
        let settled = self.settle(now);
        match (reply, settled) {
            (Ok(reply), Ok(())) => reply,
            (Err(_), _) | (_, Err(_)) => PaymentReply::unavailable(NO_DATABASE),
        }
    }

    /// The invoice of a purchase: the same one as long as it can be paid, else a new one.
    fn quote_purchase(
        &mut self,
        now: Now,
        purchase: &Purchase,
        msat: u64,
    ) -> Result<PaymentReply, StoreError> {
        let text = purchase.to_string();
        let ordered = self.purchases.ordered.get(&text).copied();
        let open = store::open_purchase(&self.conn, &text, now.seconds())?;
        // A client that has waited for its invoice gets it, however soon it expires.
        let is_shown = |row: &PurchaseRow| {
            let has_time = row.expires_at > now.seconds() + SHOWN_SECONDS_MIN;
            row.msat == msat && self.is_awaiting(&row.job) && (has_time || ordered == Some(row.job))
        };
        if let Some(row) = open.filter(is_shown) {
            self.purchases.ordered.remove(&text);
            return Ok(PaymentReply::last(PaymentOutcome::Invoice(row.bolt11)));
        }
        if let Some(job) = ordered {
            let waits = self.payments.uninvoiced.values().any(|wanted| *wanted == job);
            if waits {
                return Ok(PaymentReply::waits());
            }
            self.purchases.ordered.remove(&text);
            // The wallet has made none.
            if !self.is_awaiting(&job) {
                return Ok(PaymentReply::unavailable(NO_WALLET));
            }
        }
        self.order_purchase(now, text, msat)
    }

    /// Makes a job for a purchase, whose invoice the wallet then makes.
    fn order_purchase(&mut self, now: Now, text: String, msat: u64) -> Result<PaymentReply, StoreError> {
        let (Some(Deployed { manifest, .. }), Some(record)) = (&self.deployed, &self.record) else {
            return Ok(PaymentReply::unavailable("the agent that is paid is deleted"));
        };
        if !record.state.takes_jobs() {
            let message = format!("the agent that is paid is {}", record.state.name());
            return Ok(PaymentReply::unavailable(message));
        }
        if !manifest.sells_blobs(KIND_BLOB_PAYMENT) {
            let message = "the agent that is paid has no handler with the executor blob_payment";
            return Ok(PaymentReply::unavailable(message));
        }
        let Some(agent) = self.event_signer().map(|author| author.pubkey()) else {
            return Ok(PaymentReply::unavailable("the agent that is paid has no key"));
        };
        let event = self.purchase_request(now, &agent.to_string(), &text, msat);
        let request = event.as_ref().and_then(|event| nip90::parse_with(event, &agent, || Err("")).ok());
        let (Some(event), Some(request)) = (event, request) else {
            return Ok(PaymentReply::unavailable("the invoice could not be ordered; try again"));
        };
        if let Err((_, message)) = self.admit_price(now, &request)? {
            return Ok(PaymentReply::last(PaymentOutcome::TooMany(message)));
        }
        let job = request.id;
        self.accept(now, &event, request, false)?;
        if self.purchases.ordered.len() >= KNOWN_MAX {
            let wanted = &self.payments.uninvoiced;
            self.purchases.ordered.retain(|_, job| wanted.values().any(|wanted| wanted == job));
        }
        self.purchases.ordered.insert(text, job);
        Ok(PaymentReply::waits())
    }

    /// The request, of a key that is made for it.
    fn purchase_request(&mut self, now: Now, agent: &str, text: &str, msat: u64) -> Option<Event> {
        let keys = Keys::from_secret_bytes(self.nonce()).ok()?;
        let msat = msat.to_string();
        let tags: [&[&str]; 3] = [&["i", text, "text"], &["bid", &msat], &["p", agent]];
        let tags = tags.map(|tag| tag.iter().map(|field| (*field).to_owned()).collect()).to_vec();
        let draft =
            Draft { created_at: now.seconds(), kind: KIND_BLOB_PAYMENT, tags, content: String::new() };
        Some(keys.sign(&draft))
    }

    /// Stores the invoice that the wallet has made for a job, if the job is a purchase.
    pub(super) fn record_purchase_invoice(
        &mut self,
        active: &Active,
        bolt11: &str,
        invoice: &bolt11::Invoice,
    ) {
        let is_purchase = active.request.kind == KIND_BLOB_PAYMENT;
        let (true, Some(input)) = (is_purchase, active.request.inputs.first()) else { return };
        let row = PurchaseRow {
            payment_hash: invoice.payment_hash,
            job: active.id(),
            purchase: input.data.clone(),
            msat: active.request.bid_msat.unwrap_or_default(),
            bolt11: bolt11.to_owned(),
            expires_at: invoice.expires_at,
        };
        store::put_purchase(&mut self.batch, &row);
    }

    /// Whether this purchase is paid, by the payment with this preimage, which is then spent if `spends`.
    fn check_purchase(
        &mut self,
        now: Now,
        purchase: &Purchase,
        preimage: &str,
        spends: bool,
    ) -> Result<PaymentReply, StoreError> {
        let Some(hash) = payment_hash(preimage) else {
            return Ok(PaymentReply::refused("X-Lightning must be a preimage, 64 hexadecimal digits"));
        };
        let Some((job, text, state)) = store::purchase(&self.conn, &hash)? else {
            return Ok(PaymentReply::refused("no invoice of this server has this preimage"));
        };
        if text != purchase.to_string() {
            return Ok(PaymentReply::refused(format!("this payment was for something else: {text}")));
        }
        match state {
            PurchaseState::Spent(at) if now.millis() < at + REPEAT_MILLIS => {
                Ok(PaymentReply::last(PaymentOutcome::Paid))
            }
            PurchaseState::Spent(_) => Ok(PaymentReply::refused(
                "this payment is spent; ask for a new invoice by a request without X-Lightning",
            )),
            PurchaseState::Unpaid => self.reopen_invoice(now, &hash),
            PurchaseState::Partly(msat) => {
                let message = format!(
                    "only {msat} msat came; ask for an invoice for the rest by a request without X-Lightning"
                );
                Ok(PaymentReply::refused(message))
            }
            PurchaseState::Open => Ok(self.look_up_purchase(now, &job, &hash)),
            PurchaseState::Paid => {
                self.purchases.asked.remove(&hash);
                if spends {
                    self.book_late_payment(now, &job)?;
                    store::spend_purchase(&mut self.batch, &hash, now.millis());
                }
                Ok(PaymentReply::last(PaymentOutcome::Paid))
            }
        }
    }

    /// Somebody has sent the preimage of an invoice that was given up. It may have been paid after the last look-up, so it is looked up again.
    fn reopen_invoice(&mut self, now: Now, hash: &[u8; 32]) -> Result<PaymentReply, StoreError> {
        let asked = self.purchases.asked.get(hash);
        let is_asked = asked.is_some_and(|asked| now.millis() < asked.at + ANSWER_MILLIS);
        let row = if is_asked { None } else { store::invoice(&self.conn, hash)? };
        let Some(row) = row else {
            return Ok(PaymentReply::refused(
                "this invoice was not paid in time; ask for a new one by a request without X-Lightning",
            ));
        };
        let row = InvoiceRow { state: InvoiceState::Open, ..row };
        let job = row.job;
        self.batch.put_invoice(row.clone());
        self.make_room_for_invoice(now);
        self.payments.invoices.insert(job, WatchedInvoice::open(now, row));
        Ok(self.look_up_purchase(now, &job, hash))
    }

    /// Somebody has sent the preimage of an invoice that is not known to be paid: the wallet is asked at once.
    fn look_up_purchase(&mut self, now: Now, job: &EventId, hash: &[u8; 32]) -> PaymentReply {
        let at = now.millis();
        let is_well = self.wallet_trouble().is_none();
        let Some(watched) = self.payments.invoices.get_mut(job) else { return PaymentReply::waits() };
        let before = self.purchases.asked.get(hash).copied().filter(|asked| at < asked.at + ANSWER_MILLIS);
        // The next poll was put off, so the wallet has answered, and has not confirmed the payment.
        let is_unpaid =
            before.is_some_and(|asked| asked.is_unpaid || (is_well && watched.poll_at > asked.at));
        let is_due = before.is_none_or(|asked| at >= asked.at + ASK_MILLIS);
        if is_due {
            watched.poll_at = watched.poll_at.min(at);
            if self.purchases.asked.len() >= KNOWN_MAX {
                // The older half is forgotten. Were all forgotten, a flood of proofs could have the wallet asked about all of them again.
                let mut times: Vec<u64> = self.purchases.asked.values().map(|asked| asked.at).collect();
                let (_, middle, _) = times.select_nth_unstable(KNOWN_MAX / 2);
                let middle = *middle;
                self.purchases.asked.retain(|_, asked| asked.at > middle);
            }
        }
        let asked_at = if is_due { at } else { before.map_or(at, |asked| asked.at) };
        self.purchases.asked.insert(*hash, Asked { at: asked_at, is_unpaid });
        match is_unpaid {
            true => PaymentReply {
                outcome: PaymentOutcome::Refused("the wallet has not received this payment".to_owned()),
                is_final: false,
            },
            false => PaymentReply::waits(),
        }
    }

    /// Books a payment that came after its job had ended as income, since the purchase is delivered all the same.
    fn book_late_payment(&mut self, now: Now, job: &EventId) -> Result<(), StoreError> {
        if self.jobs.get(job).is_some() {
            return Ok(());
        }
        let Some(mut row) = store::job_by_id(&self.conn, job)? else { return Ok(()) };
        let Some(payment) = row.trace.payment.filter(|payment| payment.paid == 0) else { return Ok(()) };
        if self.credit_of(&row.customer)? < payment.price {
            return Ok(());
        }
        self.charge(now, &mut row, payment.price);
        self.earn(now, payment.price, Reason::Delivery, job);
        self.batch.put_job(row);
        Ok(())
    }
}
