//! Payments for Blossom (BUD-07): an agent of this process makes the invoices.

use relay_agent::machine::PaymentReply;
use relay_engine::types::PubKey;
use relay_site::payment::{WAIT_INTERVAL, WAIT_MAX};
use relay_site::{PaymentOutcome, PaymentRequest};
use tokio::time::{Instant, sleep};

use super::{Agents, with_or};

impl Agents {
    /// Has an agent answer a payment request, and waits for its wallet.
    pub(crate) async fn pay(&self, agent: PubKey, request: PaymentRequest) -> PaymentOutcome {
        let unavailable = |why: &str| PaymentOutcome::Unavailable(why.to_owned());
        let until = Instant::now() + WAIT_MAX;
        loop {
            let Some(runtime) = self.running_with(&agent) else {
                tracing::warn!(%agent, "blossom.payment.pubkey is no agent of this relay, so nobody can pay: deploy it");
                return unavailable("the agent that is paid is not deployed");
            };
            let asked = request.clone();
            let ask = move |now, agent: &mut relay_agent::machine::Agent<_>| {
                Some(agent.handle_payment_request(now, &asked))
            };
            match with_or(&runtime, agent, ask, || None).await {
                None => return unavailable("the agent that is paid cannot be opened"),
                Some(PaymentReply { outcome, is_final }) if is_final || Instant::now() >= until => {
                    return outcome;
                }
                Some(_) => sleep(WAIT_INTERVAL).await,
            }
        }
    }
}
