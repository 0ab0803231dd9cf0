//! Payments (BUD-07): an agent of this relay makes the invoices, and says whether they are paid.

use std::sync::PoisonError;

use relay_site::{PaymentOutcome, PaymentRequest};

use super::{Blossom, RequestOrigin};
use crate::host::now;

impl Blossom {
    /// Has the agent answer. Of invoices an address may ask for so many in a minute.
    pub(super) async fn pay(&self, request: PaymentRequest, seen: &RequestOrigin) -> PaymentOutcome {
        let settings = &self.settings.blossom.payment;
        if matches!(request, PaymentRequest::Quote { .. }) {
            let mut quotes = self.quotes.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = quotes.take(seen.client, settings.quotes_per_minute_max, now().seconds());
            if taken.is_err() {
                let message = "too many invoices were asked for from this address; try again in a minute";
                return PaymentOutcome::TooMany(message.to_owned());
            }
        }
        match (self.agents.get(), settings.pubkey) {
            (Some(agents), Some(pubkey)) => agents.pay(pubkey, request).await,
            _ => PaymentOutcome::Unavailable("the agent that is paid has not been started".to_owned()),
        }
    }
}
