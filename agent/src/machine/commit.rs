//! The end of each call: its writes in one transaction, then the effects that they allow.

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::Now;

use super::{Agent, Metrics};
use crate::store;

/// Milliseconds until a failed transaction is tried again, at first and at most.
const RETRY_MILLIS: u64 = 1_000;
const RETRY_MILLIS_MAX: u64 = 30_000;

impl<C: SqlConn> Agent<C> {
    /// Stores what is to be stored, starts what can be started, and publishes what can be published. An error leaves
    /// everything to the next call, which [`Agent::poll_timeout`] asks for.
    pub(super) fn settle(&mut self, now: Now) -> Result<(), StoreError> {
        let result = self.try_settle(now);
        match &result {
            Ok(()) => self.store_retry = None,
            Err(_) => {
                let tries = self.store_retry.map_or(0, |(_, tries)| tries);
                let wait = (RETRY_MILLIS << tries.min(6)).min(RETRY_MILLIS_MAX);
                self.store_retry = Some((now.millis() + wait, tries + 1));
            }
        }
        result
    }

    fn try_settle(&mut self, now: Now) -> Result<(), StoreError> {
        self.store()?;
        self.start_ready(now)?;
        self.store()?;
        self.publish(now)?;
        self.ask_signer(now);
        self.ask_for_zap_key(now);
        self.pay_shares(now)?;
        self.ask_wallets(now)?;
        // What they cannot be asked for has ended.
        self.store()
    }

    /// Stores what is to be stored, and releases the effects that were held for it.
    pub(super) fn store(&mut self) -> Result<(), StoreError> {
        if self.metrics.take_changed() {
            store::put_meta(&mut self.batch, Metrics::NAME, &self.metrics);
        }
        self.outbox.add_to_batch(&mut self.batch);
        self.batch.commit(&self.conn)?;
        for active in self.active.values_mut() {
            active.row.is_stored = true;
        }
        self.payments.stored();
        self.outbox.release();
        self.effects.extend(self.held.drain(..));
        Ok(())
    }
}
