//! Zap receipts (NIP-57, kind 9735) as evidence that a customer has paid.
//!
//! A receipt has a zap request in it, which the customer has signed: it names the provider and what of a job is paid. Who has signed the
//! receipt itself is checked only if the zap request names that key (`P`). Otherwise no signed event says whose key it must be: that of a
//! provider's Lightning service is known from that service alone. So a receipt shows that the customer has signed that it wants to pay, and that somebody says
//! it has. It does not show that any money went anywhere.
//!
//! Invoices are not checked to be anybody's, so an amount counts only as far as the customer has signed it (`amount`), and when they wanted to pay is the time that
//! their zap request states. The `created_at` of the receipt is chosen by whoever has made it: it decides from when it counts and when it is forgotten, and
//! nothing else.

use relay_agent::identity::is_authentic;
use relay_agent::nip57::{KIND_ZAP_RECEIPT, Zap};
use relay_agent::nip90::{KIND_FEEDBACK, is_request, is_result};
use relay_engine::types::{Event, EventId, Kind, NO_EXPIRY, PubKey, Timestamp};

/// A time may be stated so much earlier than what it comes after: clocks differ.
pub const EARLY_SECONDS: u64 = 86_400;

/// A receipt as evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its id.
    pub id: EventId,
    /// Who has signed it: anybody.
    pub author: PubKey,
    /// Who has signed the zap request in it.
    pub payer: PubKey,
    /// Whom it names.
    pub payee: PubKey,
    /// The event that the zap request is about: a request or an answer.
    pub zapped: EventId,
    /// The millisatoshis that the zap request names (`amount`), which are those of the invoice; 0 if it names none.
    pub msat: u64,
    /// `created_at` of the zap request.
    pub signed_at: Timestamp,
    /// Its `created_at`.
    pub at: Timestamp,
}

impl Receipt {
    /// Reads an event; `None` if it proves nothing. A receipt that expires (NIP-40) could not be shown later; one whose zap request says that it is
    /// about an event of another kind (`k`) is of no job; nobody pays themselves; and one that states to be a day older than its zap request is forged. Checks one
    /// signature, that of the zap request.
    pub fn of(event: &Event) -> Option<Receipt> {
        if event.kind != KIND_ZAP_RECEIPT || event.expires_at != NO_EXPIRY {
            return None;
        }
        let (zap, request) = Zap::parts(event).ok()?;
        let zapped = zap.event?;
        let is_of_job = |kind: Kind| is_request(kind) || is_result(kind) || kind == KIND_FEEDBACK;
        let kind = request.tags().find(b"k");
        let kind = kind.map(|kind| std::str::from_utf8(&kind).ok().and_then(|kind| kind.parse().ok()));
        if kind.is_some_and(|kind| !kind.is_some_and(is_of_job)) || zap.payer == zap.payee {
            return None;
        }
        if zap.paid_at.saturating_add(EARLY_SECONDS) <= request.created_at {
            return None;
        }
        is_authentic(&request).then_some(Receipt {
            id: zap.receipt,
            author: zap.signer,
            payer: zap.payer,
            payee: zap.payee,
            zapped,
            msat: if request.tags().find(b"amount").is_some() { zap.msat } else { 0 },
            signed_at: request.created_at,
            at: zap.paid_at,
        })
    }
}
