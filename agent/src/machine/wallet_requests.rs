//! Requests to wallets: to make invoices, to look them up, and what refunds and zaps need.

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{EventId, Now};

use super::Agent;
use super::wallet::{Wallet, WalletRequest};
use crate::nip47::Method;
use crate::payment::INVOICE_SECONDS;

/// Requests of one exchange.
const REQUESTS_MAX: usize = 16;
/// Requests of an exchange that are reserved for look-ups, if so many are due: customers who only ask for invoices must not delay those who have
/// paid.
const LOOKUPS_MIN: usize = REQUESTS_MAX / 2;

impl<C: SqlConn> Agent<C> {
    /// What a wallet is asked now.
    pub(super) fn wallet_requests(
        &mut self,
        now: Now,
        index: usize,
    ) -> Result<Vec<(WalletRequest, Method)>, StoreError> {
        let mut asks = self.refund_requests(now, index);
        asks.extend(self.zap_requests(now, index));
        let mut lookups = self.due_lookups(now, index);
        let room = REQUESTS_MAX - asks.len() - lookups.len().min(LOOKUPS_MIN);
        asks.extend(self.invoice_requests(now, index, room)?);
        lookups.truncate(REQUESTS_MAX - asks.len());
        asks.extend(lookups);
        Ok(asks)
    }

    /// Requests to make at most `max` invoices, oldest jobs first.
    fn invoice_requests(
        &mut self,
        now: Now,
        index: usize,
        max: usize,
    ) -> Result<Vec<(WalletRequest, Method)>, StoreError> {
        let mut asks = Vec::new();
        let makes = |wallet: &Wallet| wallet.is_current && wallet.backoffs().making <= now.millis();
        let wallet = self.payments.wallets.get(index).filter(|wallet| makes(wallet));
        let Some(Ok(client)) = wallet.map(|wallet| wallet.client.clone()) else { return Ok(asks) };
        let wanted: Vec<(u64, EventId)> =
            self.payments.uninvoiced.iter().take(max).map(|(seq, job)| (*seq, *job)).collect();
        for (seq, job) in wanted {
            match self.invoice_terms(now, &job)? {
                Some((msat, description, true)) => {
                    asks.push(self.hold_invoice_request(&client, &job, msat, description));
                }
                Some((msat, description, false)) => {
                    let method = Method::MakeInvoice { msat, description, expiry_s: INVOICE_SECONDS };
                    asks.push((WalletRequest::Make(job), method));
                }
                // It has been cancelled, or has expired.
                None => drop(self.payments.uninvoiced.remove(&seq)),
            }
        }
        Ok(asks)
    }

    /// The requests about a wallet's invoices that are due. First come those whose jobs wait, and held payments that must end; but one of the
    /// others is among the first, so that they are never left out.
    fn due_lookups(&self, now: Now, index: usize) -> Vec<(WalletRequest, Method)> {
        let Some(wallet) = self.payments.wallets.get(index) else { return Vec::new() };
        if wallet.backoffs().looking_up > now.millis() {
            return Vec::new();
        }
        let due = self.payments.invoices.iter().filter(|(_, watched)| {
            wallet.has_made(watched) && watched.next_poll_at().is_some_and(|at| at <= now.millis())
        });
        let (mut waiting, mut others): (Vec<_>, Vec<_>) = due
            .map(|(job, watched)| (watched.poll_at, *job, watched))
            .partition(|(_, job, watched)| self.is_awaiting(job) || watched.must_settle_or_cancel());
        waiting.sort_unstable_by_key(|(at, job, _)| (*at, *job));
        others.sort_unstable_by_key(|(at, job, _)| (*at, *job));
        let first = others.len().min(1);
        waiting.truncate(REQUESTS_MAX);
        let place = waiting.len().min(LOOKUPS_MIN - 1);
        waiting.splice(place..place, others.drain(..first));
        waiting.extend(others);
        waiting.truncate(REQUESTS_MAX);
        waiting.into_iter().map(|(_, job, watched)| Self::due_request(wallet, &job, watched)).collect()
    }
}
