//! Zap receipts: rows of their own, bounded apart from those of jobs, because most zaps of a relay are of no job. Whether one is cannot be told
//! when it comes: its request may come later, or from another shard.

use relay_engine::sql::column::{id, int, key};
use relay_engine::sql::{Param, SqlConn, SqlValue, StoreError, exec, query_all, query_one};
use relay_engine::types::{Event, EventId, PubKey, Timestamp};

use super::apply::Run;
use super::state::State;
use super::{KEPT_SECONDS, Registry, one};
use crate::receipt::Receipt;

/// Rows that are read at a time to be forgotten.
const FORGOTTEN_AT_ONCE: u64 = 64;

impl<C: SqlConn> Run<'_, C> {
    /// Keeps a receipt.
    pub(super) fn receive(
        &mut self,
        event: &Event,
        now: Timestamp,
        changed: &mut Vec<PubKey>,
    ) -> Result<(), StoreError> {
        let is_of_window = event.created_at.saturating_add(KEPT_SECONDS) > now;
        const IS_KNOWN: &str = "SELECT 1 FROM market_receipts WHERE id = ?";
        if !is_of_window || query_one(self.conn, IS_KNOWN, &one(event.id), |_| Ok(()))?.is_some() {
            return Ok(());
        }
        let Some(receipt) = Receipt::of(event) else { return Ok(()) };
        const INSERT: &str = "INSERT INTO market_receipts (id, author, payer, payee, zapped, msat, at) \
                              VALUES (?, ?, ?, ?, ?, ?, ?)";
        let params = [
            receipt.id.into(),
            receipt.author.into(),
            receipt.payer.into(),
            receipt.payee.into(),
            receipt.zapped.into(),
            receipt.msat.into(),
            receipt.at.into(),
        ];
        exec(self.conn, INSERT, &params)?;
        self.state.totals.receipts += 1;
        changed.push(receipt.payee);
        Ok(())
    }

    /// Forgets the oldest receipts until their bound is kept.
    pub(super) fn forget_oldest_receipts(&mut self, changed: &mut Vec<PubKey>) -> Result<(), StoreError> {
        while self.state.totals.receipts > self.bounds.receipts {
            let surplus = (self.state.totals.receipts - self.bounds.receipts).min(FORGOTTEN_AT_ONCE);
            const OLDEST: &str = "SELECT id, at FROM market_receipts ORDER BY at, id LIMIT ?";
            let oldest = query_all(self.conn, OLDEST, &one(surplus), |row| Ok((id(row, 0)?, int(row, 1)?)))?;
            if oldest.is_empty() {
                return Ok(());
            }
            for (id, at) in oldest {
                self.forget_receipt(&id, changed)?;
                self.state.receipts_horizon = self.state.receipts_horizon.max(at);
            }
        }
        Ok(())
    }

    /// Removes the receipts that their window has left, so many at most. Returns how many that were.
    pub(super) fn sweep_receipts(
        &mut self,
        window: Timestamp,
        most: u64,
        changed: &mut Vec<PubKey>,
    ) -> Result<u64, StoreError> {
        const LEFT: &str = "SELECT id FROM market_receipts WHERE at <= ? ORDER BY at, id LIMIT ?";
        let gone = query_all(self.conn, LEFT, &[window.into(), most.into()], |row| id(row, 0))?;
        gone.iter().try_for_each(|id| self.forget_receipt(id, changed))?;
        Ok(gone.len() as u64)
    }

    /// Removes a receipt of this author, if it is one.
    pub(super) fn delete_receipt(
        &mut self,
        receipt: EventId,
        author: PubKey,
        changed: &mut Vec<PubKey>,
    ) -> Result<(), StoreError> {
        const OWN: &str = "SELECT 1 FROM market_receipts WHERE id = ? AND author = ?";
        match query_one(self.conn, OWN, &[receipt.into(), author.into()], |_| Ok(()))? {
            Some(()) => self.forget_receipt(&receipt, changed),
            None => Ok(()),
        }
    }

    /// Removes the receipts that an author has signed until then.
    pub(super) fn vanish_receipts(
        &mut self,
        author: PubKey,
        until: Timestamp,
        changed: &mut Vec<PubKey>,
    ) -> Result<(), StoreError> {
        const OWN: &str = "SELECT id FROM market_receipts WHERE author = ? AND at <= ?";
        for own in query_all(self.conn, OWN, &[author.into(), until.into()], |row| id(row, 0))? {
            self.forget_receipt(&own, changed)?;
        }
        Ok(())
    }

    fn forget_receipt(&mut self, receipt: &EventId, changed: &mut Vec<PubKey>) -> Result<(), StoreError> {
        const PAYEE: &str = "SELECT payee FROM market_receipts WHERE id = ?";
        changed.extend(query_one(self.conn, PAYEE, &one(*receipt), |row| key(row, 0))?);
        exec(self.conn, "DELETE FROM market_receipts WHERE id = ?", &one(*receipt))?;
        self.state.totals.receipts = self.state.totals.receipts.saturating_sub(1);
        Ok(())
    }
}

impl<C: SqlConn> Registry<C> {
    /// The receipts that name a provider, and the time after which all are known. Receipts that state a time up to it do not count.
    pub(super) fn receipts_of(&self, provider: &PubKey) -> Result<(Timestamp, Vec<Receipt>), StoreError> {
        const OF_PAYEE: &str = "SELECT id, author, payer, payee, zapped, msat, at FROM market_receipts \
             WHERE payee = ? AND at > ? ORDER BY at DESC, id LIMIT ?";
        let mut since = State::read(&self.conn)?.receipts_horizon;
        let most = self.bounds.payee_receipts;
        let params: [Param; 3] = [(*provider).into(), since.into(), (most + 1).into()];
        let mut found = query_all(&self.conn, OF_PAYEE, &params, read_receipt)?;
        if let Some(first_over) = found.get(most as usize) {
            since = first_over.at;
            found.retain(|receipt| receipt.at > since);
        }
        Ok((since, found))
    }
}

fn read_receipt(row: &[SqlValue<'_>]) -> Result<Receipt, StoreError> {
    Ok(Receipt {
        id: id(row, 0)?,
        author: key(row, 1)?,
        payer: key(row, 2)?,
        payee: key(row, 3)?,
        zapped: id(row, 4)?,
        msat: int(row, 5)?,
        at: int(row, 6)?,
    })
}
