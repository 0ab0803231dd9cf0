//! Payments (BUD-07): an agent of this relay makes the invoices, and says whether they are paid.

use std::sync::{MutexGuard, PoisonError};

use relay_agent::quotes::Quotes;
use relay_site::{PaymentOutcome, PaymentRequest};

use super::{Blossom, RequestOrigin};
use crate::host::now;

impl Blossom {
    /// Asks the agent, if the client's address may ask for another invoice.
    pub(super) async fn pay(&self, request: PaymentRequest, seen: &RequestOrigin) -> PaymentOutcome {
        let settings = &self.settings.blossom.payment;
        let asked =
            self.quotes().admit(seen.client, &request, settings.quotes_per_minute_max, now().seconds());
        if let Err(outcome) = asked {
            return outcome;
        }
        let outcome = match (self.agents.get(), settings.pubkey) {
            (Some(agents), Some(pubkey)) => agents.pay(pubkey, request.clone()).await,
            _ => PaymentOutcome::Unavailable("the agent that is paid has not been started".to_owned()),
        };
        self.quotes().record(seen.client, &request, &outcome);
        outcome
    }

    fn quotes(&self) -> MutexGuard<'_, Quotes> {
        self.quotes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
