//! The price of a request (BUD-07), and the proof that it is paid: the preimage of an invoice that the agent of `blossom.payment` has
//! made for this blob and operation.

use relay_engine::types::PubKey;
use relay_site::{Operation, PaymentOutcome, PaymentRequest, Purchase};

use super::request::is_listed;
use super::response::{Response, unavailable};
use super::step::{Input, Step};
use super::{Context, Head};
use crate::blob::{Blob, Sha256};

/// The header of an invoice, and of a proof.
const LIGHTNING: &str = "x-lightning";

/// What a request costs.
#[derive(Clone, Debug)]
pub(super) struct Price {
    purchase: Purchase,
    msat: u64,
    /// The preimage in `X-Lightning`; `None` for HEAD, which needs no proof (BUD-07).
    proof: Option<String>,
}

impl Price {
    /// The price of an upload; `None` if it is free.
    ///
    /// # Errors
    /// 400 if it costs something and the hash is not known.
    pub(super) fn of_upload(
        context: &Context<'_>,
        head: &Head,
        operation: Operation,
        size: u64,
        sha256: Option<Sha256>,
        pubkey: &PubKey,
    ) -> Result<Option<Self>, Response> {
        let Some(msat) = context.settings.payment.upload_msat(size).filter(|_| !is_free(context, pubkey))
        else {
            return Ok(None);
        };
        let Some(sha256) = sha256 else { return Err(unknown_hash()) };
        let purchase = Purchase { operation, sha256: sha256.to_string(), size };
        Ok(Some(Price { purchase, msat, proof: proof(head) }))
    }

    /// The price of a download of a blob, the same for a range of it; `None` if it is free.
    pub(super) fn of_download(context: &Context<'_>, head: &Head, blob: &Blob) -> Option<Self> {
        let msat = context.settings.payment.download_msat(blob.size)?;
        let (operation, size) = (Operation::Download, blob.size);
        let purchase = Purchase { operation, sha256: blob.sha256.to_string(), size };
        Some(Price { purchase, msat, proof: proof(head) })
    }

    /// Whether the request has a proof.
    pub(super) fn has_proof(&self) -> bool {
        self.proof.is_some()
    }

    /// The proof.
    pub(super) fn proof(&self) -> Option<&str> {
        self.proof.as_deref()
    }

    /// Asks for an invoice. [`invoiced`] reads the outcome.
    pub(super) fn quote(&self) -> Step {
        Step::Pay(PaymentRequest::Quote { purchase: self.purchase.clone(), msat: self.msat })
    }

    /// Checks the proof. [`paid`] reads the outcome.
    pub(super) fn check(&self) -> Step {
        self.check_or_spend(self.proof.as_deref(), false)
    }

    /// Checks and spends the proof. [`paid`] reads the outcome.
    pub(super) fn spend(&self) -> Step {
        self.check_or_spend(self.proof.as_deref(), true)
    }

    fn check_or_spend(&self, proof: Option<&str>, spends: bool) -> Step {
        let preimage = proof.unwrap_or_default().to_owned();
        Step::Pay(PaymentRequest::Check { purchase: self.purchase.clone(), preimage, spends })
    }
}

/// Spends a proof that came with an earlier request.
pub(super) fn spend(purchase: Purchase, preimage: String) -> Step {
    Step::Pay(PaymentRequest::Check { purchase, preimage, spends: true })
}

/// Whether this key uploads for free.
pub(super) fn is_free(context: &Context<'_>, pubkey: &PubKey) -> bool {
    context.settings.payment.listed_free && is_listed(context, pubkey)
}

/// The response to an upload that costs something without naming its hash.
pub(super) fn unknown_hash() -> Response {
    Response::error(
        400,
        "this upload costs something, so its hash must be known: send X-SHA-256, or a token with one x tag",
    )
}

fn proof(head: &Head) -> Option<String> {
    if head.is_head() {
        return None;
    }
    head.header(LIGHTNING).map(|value| value.trim().to_owned())
}

/// The response to an unpaid request, after [`Price::quote`]: 402 with the invoice, or why there is none.
pub(super) fn invoiced(input: Input) -> Response {
    match input {
        Input::Paid(PaymentOutcome::Invoice(invoice)) => {
            Response::error(402, "payment required: pay the invoice and send its preimage in X-Lightning")
                .with(LIGHTNING, invoice)
        }
        other => refused(other),
    }
}

/// Whether the proof was taken, after [`Price::check`] or [`Price::spend`].
///
/// # Errors
/// 400 for a proof that is refused, 503 if the agent does not answer.
pub(super) fn paid(input: Input) -> Result<(), Response> {
    match input {
        Input::Paid(PaymentOutcome::Paid) => Ok(()),
        other => Err(refused(other)),
    }
}

fn refused(input: Input) -> Response {
    match input {
        Input::Paid(PaymentOutcome::Refused(why)) => Response::error(400, &why),
        Input::Paid(PaymentOutcome::TooMany(why)) => Response::error(429, &why).with("retry-after", "60"),
        Input::Paid(PaymentOutcome::Unavailable(why)) => unavailable(&why),
        Input::Failed(failure) => failure.into(),
        _ => Response::internal(),
    }
}
