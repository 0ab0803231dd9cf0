//! What wallets are asked: to make invoices for jobs that wait, and whether invoices are paid.

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{EventId, Now};

use super::Agent;
use super::wallet::WalletRequest;
use crate::nip47::Method;
use crate::payment::INVOICE_SECONDS;

/// Requests of one exchange.
const REQUESTS_MAX: usize = 16;

impl<C: SqlConn> Agent<C> {
    /// What a wallet is asked now.
    pub(super) fn wallet_requests(
        &mut self,
        now: Now,
        at: usize,
    ) -> Result<Vec<(WalletRequest, Method)>, StoreError> {
        let is_current = self.payments.wallets.get(at).is_some_and(|wallet| wallet.is_current);
        let mut asks = Vec::new();
        let wanted = self.payments.wanted.iter().filter(|_| is_current).take(REQUESTS_MAX);
        let wanted: Vec<(u64, EventId)> = wanted.map(|(seq, job)| (*seq, *job)).collect();
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
        let given_up = self.payments.invoices.iter().filter(|(_, watched)| {
            watched.is_open() && now.millis() >= watched.times().given_up_at()
        });
        for job in given_up.map(|(job, _)| *job).collect::<Vec<_>>() {
            self.give_up_invoice(&job);
        }
        let Some(wallet) = self.payments.wallets.get(at) else { return Ok(asks) };
        let due = self.payments.invoices.iter().filter(|(_, watched)| {
            watched.is_open() && wallet.has_made(watched) && watched.poll_at <= now.millis()
        });
        let mut due: Vec<_> =
            due.map(|(job, watched)| (watched.poll_at, *job, watched.row.payment_hash)).collect();
        due.sort_unstable();
        let room = REQUESTS_MAX - asks.len();
        asks.extend(due.into_iter().take(room).map(|(_, job, payment_hash)| {
            (WalletRequest::Lookup(job), Method::LookupInvoice { payment_hash })
        }));
        Ok(asks)
    }
}
