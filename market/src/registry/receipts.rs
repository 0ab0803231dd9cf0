//! Zap receipts: rows of their own, bounded apart from those of jobs, because most zaps of a relay are of no job. Whether one is cannot always be told
//! when it comes: its request may come later, or from another shard.
//!
//! Anybody can make receipts, so those that match no job that is known are forgotten first. Of what one customer has signed few are kept: copies of a zap request
//! under other signatures say nothing more.

use std::collections::BTreeSet;

use relay_engine::sql::column::{id, int, key};
use relay_engine::sql::{Param, SqlConn, SqlValue, StoreError, exec, query_all, query_one};
use relay_engine::types::{Event, EventId, PubKey, Timestamp};

use super::apply::Run;
use super::state::State;
use super::{KEPT_SECONDS, Registry, one};
use crate::evidence::{Evidence, Role};
use crate::figures::Jobs;
use crate::receipt::Receipt;

/// Rows that are read at a time to be forgotten.
const FORGOTTEN_AT_ONCE: u64 = 64;
/// Receipts of one event, payer, payee and amount: the first that have come.
const SAME_MAX: usize = 4;
/// Payees and amounts of one event and payer. Only the payer can sign more.
const SIGNED_MAX: usize = 8;

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
        const OF_PAYER: &str = "SELECT payee, msat FROM market_receipts WHERE zapped = ? AND payer = ?";
        let params: [Param; 2] = [receipt.zapped.into(), receipt.payer.into()];
        let others = query_all(self.conn, OF_PAYER, &params, |row| Ok((key(row, 0)?, int(row, 1)?)))?;
        let own = (receipt.payee, receipt.msat);
        let same = others.iter().filter(|other| **other == own).count();
        let signed: BTreeSet<&(PubKey, u64)> = others.iter().collect();
        if same >= SAME_MAX || same == 0 && signed.len() >= SIGNED_MAX {
            return Ok(());
        }
        let is_matched = self.is_of_job(&receipt)?;
        const INSERT: &str = "INSERT INTO market_receipts (id, author, payer, payee, zapped, msat, signed_at, at, matched) \
                              VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let params = [
            receipt.id.into(),
            receipt.author.into(),
            receipt.payer.into(),
            receipt.payee.into(),
            receipt.zapped.into(),
            receipt.msat.into(),
            receipt.signed_at.into(),
            receipt.at.into(),
            is_matched.into(),
        ];
        exec(self.conn, INSERT, &params)?;
        self.state.totals.receipts += 1;
        if is_matched {
            changed.push(receipt.payee);
        }
        Ok(())
    }

    /// Whether what was zapped is known, is about a request of the payer, and names the payee or is theirs.
    fn is_of_job(&self, receipt: &Receipt) -> Result<bool, StoreError> {
        const OF_JOB: &str = "SELECT 1 FROM market_evidence z JOIN market_evidence r ON r.id = z.request AND r.role = 0 \
             WHERE z.id = ? AND r.author = ? AND (z.role > 0 AND z.author = ? OR z.role = 0 AND EXISTS \
             (SELECT 1 FROM market_named n WHERE n.provider = ? AND n.at = z.at AND n.request = z.id))";
        let Receipt { zapped, payer, payee, .. } = *receipt;
        let params: [Param; 4] = [zapped.into(), payer.into(), payee.into(), payee.into()];
        Ok(query_one(self.conn, OF_JOB, &params, |_| Ok(()))?.is_some())
    }

    /// This evidence has come: receipts that waited for it match. Their payees are counted again for it anyway.
    pub(super) fn match_receipts(&self, evidence: &Evidence) -> Result<(), StoreError> {
        if self.state.totals.receipts == 0 {
            return Ok(());
        }
        let Evidence { role, id, author, request, .. } = *evidence;
        if role != Role::Request {
            const ANSWER: &str = "UPDATE market_receipts SET matched = 1 WHERE zapped = ? AND payee = ? AND matched = 0 \
                 AND payer = (SELECT author FROM market_evidence WHERE id = ? AND role = 0)";
            return exec(self.conn, ANSWER, &[id.into(), author.into(), request.into()]);
        }
        const NAMED: &str = "UPDATE market_receipts SET matched = 1 WHERE zapped = ? AND payer = ? AND matched = 0 \
             AND payee IN (SELECT provider FROM market_named WHERE request = ?)";
        exec(self.conn, NAMED, &[id.into(), author.into(), id.into()])?;
        const ANSWERED: &str = "UPDATE market_receipts SET matched = 1 WHERE payer = ? AND matched = 0 \
             AND zapped IN (SELECT id FROM market_evidence WHERE request = ? AND role > 0) \
             AND payee = (SELECT author FROM market_evidence a WHERE a.id = market_receipts.zapped)";
        exec(self.conn, ANSWERED, &[author.into(), id.into()])
    }

    /// This evidence is about to be forgotten.
    pub(super) fn unmatch_receipts(
        &self,
        evidence: &EventId,
        role: Role,
        author: PubKey,
    ) -> Result<(), StoreError> {
        const ANSWER: &str = "UPDATE market_receipts SET matched = 0 WHERE zapped = ? AND matched = 1";
        const REQUEST: &str = "UPDATE market_receipts SET matched = 0 WHERE payer = ? AND matched = 1 \
             AND zapped IN (SELECT id FROM market_evidence WHERE request = ?)";
        match role {
            _ if self.state.totals.receipts == 0 => Ok(()),
            Role::Request => exec(self.conn, REQUEST, &[author.into(), (*evidence).into()]),
            _ => exec(self.conn, ANSWER, &one(*evidence)),
        }
    }

    /// Forgets receipts until their bound is kept: first the oldest of those that match nothing, which count for nothing, then the oldest of all.
    pub(super) fn forget_oldest_receipts(&mut self, changed: &mut Vec<PubKey>) -> Result<(), StoreError> {
        const OLDEST: &str = "SELECT id, at FROM market_receipts WHERE matched = ? ORDER BY at, id LIMIT ?";
        let mut is_matched = false;
        while self.state.totals.receipts > self.bounds.receipts {
            let surplus = (self.state.totals.receipts - self.bounds.receipts).min(FORGOTTEN_AT_ONCE);
            let params: [Param; 2] = [is_matched.into(), surplus.into()];
            let oldest = query_all(self.conn, OLDEST, &params, |row| Ok((id(row, 0)?, int(row, 1)?)))?;
            if oldest.is_empty() {
                if is_matched {
                    return Ok(());
                }
                is_matched = true;
            }
            for (id, at) in oldest {
                self.forget_receipt(&id, changed)?;
                if is_matched {
                    self.state.receipts_horizon = self.state.receipts_horizon.max(at);
                }
            }
        }
        Ok(())
    }

    /// Removes the receipts that their window has left, so many of each sort at most. Returns how many that were of one.
    pub(super) fn sweep_receipts(
        &mut self,
        window: Timestamp,
        most: u64,
        changed: &mut Vec<PubKey>,
    ) -> Result<u64, StoreError> {
        const LEFT: &str =
            "SELECT id FROM market_receipts WHERE matched = ? AND at <= ? ORDER BY at, id LIMIT ?";
        let mut removed = 0;
        for is_matched in [false, true] {
            let params: [Param; 3] = [is_matched.into(), window.into(), most.into()];
            let gone = query_all(self.conn, LEFT, &params, |row| id(row, 0))?;
            gone.iter().try_for_each(|id| self.forget_receipt(id, changed))?;
            removed = removed.max(gone.len() as u64);
        }
        Ok(removed)
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
        const PAYEE: &str = "SELECT payee FROM market_receipts WHERE id = ? AND matched = 1";
        changed.extend(query_one(self.conn, PAYEE, &one(*receipt), |row| key(row, 0))?);
        exec(self.conn, "DELETE FROM market_receipts WHERE id = ?", &one(*receipt))?;
        self.state.totals.receipts = self.state.totals.receipts.saturating_sub(1);
        Ok(())
    }
}

impl<C: SqlConn> Registry<C> {
    /// The receipts that may pay these jobs of a provider, and the time after which all of known jobs are kept. Those that state a time up to it do not count. Looks for each event
    /// that the job's customer can have zapped: what others sign is not read.
    pub(super) fn receipts_of(
        &self,
        provider: &PubKey,
        jobs: &Jobs,
    ) -> Result<(Timestamp, Vec<Receipt>), StoreError> {
        const OF_JOB: &str = "SELECT id, author, payer, payee, zapped, msat, signed_at, at FROM market_receipts \
             WHERE zapped = ? AND payer = ? AND payee = ? AND at > ?";
        let state = State::read(&self.conn)?;
        let (since, mut found) = (state.receipts_horizon, Vec::new());
        if state.totals.receipts == 0 {
            return Ok((since, found));
        }
        for demanded in &jobs.demanded {
            for zapped in &demanded.zappable {
                let params: [Param; 4] =
                    [(*zapped).into(), demanded.customer.into(), (*provider).into(), since.into()];
                found.extend(query_all(&self.conn, OF_JOB, &params, read_receipt)?);
            }
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
        signed_at: int(row, 6)?,
        at: int(row, 7)?,
    })
}
