//! Recomputes figures that events or the passing of time have changed, and removes what has left the window.

use std::collections::HashSet;

use relay_engine::sql::column::{id, int, key};
use relay_engine::sql::{SqlConn, StoreError, exec, query_all, query_one};
use relay_engine::types::{EventId, Kind, NO_EXPIRY, PubKey, Timestamp};

use super::apply::Run;
use super::sql::{daily_param, optional_param};
use super::state::State;
use super::{KEPT_SECONDS, Registry, apply, bounds, one};
use crate::evidence::{Evidence, Role};
use crate::figures::{ANSWER_SECONDS, DAY_SECONDS, Figures, WINDOW_SECONDS, figures, jobs};
use crate::receipt::Receipt;

/// Rows of evidence that one sweep removes at a time.
const REMOVED_MAX: u64 = 500;
/// Later than any time that matters: `refigure_at` of figures that time alone does not change.
const FAR: Timestamp = 1 << 53;
/// Providers that one refresh counts again.
const COUNTED_MAX: usize = 200;

const PUT_FIGURES: &str = "UPDATE market_providers SET seen = max(seen, ?), msat = ?, as_of = ?, refigure_at = ?, customers = ?, \
     delivered = ?, failed = ?, unpaid = ?, pending = ?, success = ?, bound = ?, latency = ?, capped = ?, answered_open = ?, daily = ?, \
     paid = ?, paying = ?, paid_msat = ?, paid_capped = ? WHERE pubkey = ?";

impl<C: SqlConn> Registry<C> {
    /// Counts figures again, of a bounded number of providers. True if there is more to do.
    ///
    /// # Errors
    /// If the database fails.
    pub fn refresh(&mut self, now: Timestamp) -> Result<bool, StoreError> {
        let due: Vec<PubKey> = self.changed.iter().take(COUNTED_MAX).copied().collect();
        let state = State { is_dirty: self.changed.len() > due.len(), ..self.state };
        self.conn.transaction(&mut || {
            due.iter().try_for_each(|provider| self.count(provider, now))?;
            if state != self.state { state.write(&self.conn) } else { Ok(()) }
        })?;
        self.state = state;
        for provider in due {
            self.changed.remove(&provider);
        }
        Ok(!self.changed.is_empty())
    }

    /// Removes what the window has left, and notes whose figures time has changed. True if there is more to do. To be called once
    /// a minute.
    ///
    /// # Errors
    /// If the database fails.
    pub fn sweep(&mut self, now: Timestamp) -> Result<bool, StoreError> {
        let mut changed = Vec::new();
        let (mut removed, mut state) = (0, self.state);
        self.conn.transaction(&mut || {
            changed.clear();
            let mut run = Run { conn: &self.conn, bounds: &self.bounds, state: self.state };
            let window = now.saturating_sub(KEPT_SECONDS);
            const LEFT: &str = "SELECT id FROM market_evidence WHERE at <= ? ORDER BY at, id LIMIT ?";
            let gone = query_all(&self.conn, LEFT, &[window.into(), REMOVED_MAX.into()], |row| id(row, 0))?;
            gone.iter().try_for_each(|id| run.forget(id, &mut changed))?;
            removed = gone.len() as u64;
            removed = removed.max(run.sweep_receipts(window, REMOVED_MAX, &mut changed)?);
            bounds::forget_horizons(&self.conn, window)?;
            const EXPIRED: &str =
                "SELECT DISTINCT provider FROM market_offers WHERE expires > 0 AND expires <= ?";
            let expired = query_all(&self.conn, EXPIRED, &one(now), |row| key(row, 0))?;
            exec(&self.conn, "DELETE FROM market_offers WHERE expires > 0 AND expires <= ?", &one(now))?;
            expired.iter().try_for_each(|provider| run.remove_if_silent(provider))?;
            const DUE: &str = "SELECT pubkey FROM market_providers WHERE refigure_at <= ?";
            changed.extend(expired);
            changed.extend(query_all(&self.conn, DUE, &one(now), |row| key(row, 0))?);
            state = run.state;
            state.is_dirty |= !changed.is_empty();
            if state != self.state { state.write(&self.conn) } else { Ok(()) }
        })?;
        self.changed.extend(changed);
        self.state = state;
        Ok(removed == REMOVED_MAX || !self.changed.is_empty())
    }

    /// Whether figures are to be counted again ([`Registry::refresh`]).
    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// When [`Registry::sweep`] next has something to do, for hosts that sleep meanwhile. Reads five rows at most.
    ///
    /// # Errors
    /// If the database fails.
    pub fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        const OLDEST: &str = "SELECT at FROM market_evidence ORDER BY at LIMIT 1";
        const RECEIPT: &str = "SELECT at FROM market_receipts WHERE matched = 0 ORDER BY at LIMIT 1";
        const MATCHED: &str = "SELECT at FROM market_receipts WHERE matched = 1 ORDER BY at LIMIT 1";
        const CHANGES: &str = "SELECT refigure_at FROM market_providers ORDER BY refigure_at LIMIT 1";
        const EXPIRES: &str = "SELECT expires FROM market_offers WHERE expires > 0 ORDER BY expires LIMIT 1";
        let first = |sql| query_one(&self.conn, sql, &[], |row| int(row, 0));
        let leaves = |at: Timestamp| at.saturating_add(KEPT_SECONDS);
        let mut times = vec![first(CHANGES)?, first(EXPIRES)?];
        for oldest in [OLDEST, RECEIPT, MATCHED] {
            times.push(first(oldest)?.map(leaves));
        }
        Ok(times.into_iter().flatten().min().filter(|at| *at < FAR))
    }

    fn count(&self, provider: &PubKey, now: Timestamp) -> Result<(), StoreError> {
        let is_known = "SELECT 1 FROM market_providers WHERE pubkey = ?";
        if query_one(&self.conn, is_known, &one(*provider), |_| Ok(()))?.is_none() {
            return Ok(());
        }
        let since = bounds::since(&self.conn, provider)?;
        let evidence = self.evidence_of(provider, now, since)?;
        let mut jobs = jobs(provider, now, since, &evidence);
        let (receipts_since, receipts) = self.receipts_of(provider, &jobs)?;
        jobs.settle(provider, now, receipts_since, &receipts);
        let found = figures(&jobs, now);
        let offers = apply::offers(&self.conn, provider, now)?;
        let msat = offers.iter().filter_map(|offer| offer.price.msat()).min();
        let heartbeat = query_one(
            &self.conn,
            "SELECT at FROM market_beats WHERE provider = ?",
            &one(*provider),
            |row| int(row, 0),
        )?;
        let answers = evidence.iter().filter(|one| one.author == *provider).map(|one| one.at);
        let seen = answers
            .chain(heartbeat)
            .chain(offers.iter().map(|offer| offer.updated_at))
            .map(|at| at.min(now))
            .max();
        let params = [
            seen.unwrap_or(0).into(),
            optional_param(msat),
            now.into(),
            changes_at(&evidence, &receipts, &found, now).into(),
            found.customers.into(),
            found.delivered.into(),
            found.failed.into(),
            found.unpaid.into(),
            found.pending.into(),
            optional_param(found.success),
            found.success_bound.into(),
            optional_param(found.latency),
            found.is_capped.into(),
            found.open.into(),
            daily_param(&found.latency_by_day),
            found.paid.into(),
            found.paying.into(),
            found.paid_msat.into(),
            found.are_payments_capped.into(),
            (*provider).into(),
        ];
        exec(&self.conn, PUT_FIGURES, &params)
    }
}

/// The next time after `now` at which figures may change without an event.
fn changes_at(evidence: &[Evidence], receipts: &[Receipt], found: &Figures, now: Timestamp) -> Timestamp {
    let has_days = found.latency_by_day.iter().any(Option::is_some);
    let midnight = if has_days { (now / DAY_SECONDS + 1) * DAY_SECONDS } else { NO_EXPIRY };
    let is_delivered = |one: &&Evidence| one.role == Role::Result && one.at <= now;
    let delivered: HashSet<(EventId, Kind)> =
        evidence.iter().filter(is_delivered).map(|one| (one.request, one.kind)).collect();
    let times = evidence.iter().flat_map(|one| {
        let is_request = one.role == Role::Request;
        let is_open = is_request && !delivered.contains(&(one.id, one.kind + 1_000));
        let fails = if is_open { one.at.saturating_add(ANSWER_SECONDS) } else { NO_EXPIRY };
        let leaves = if is_request { one.at.saturating_add(WINDOW_SECONDS) } else { NO_EXPIRY };
        let expires = if one.is_kept { NO_EXPIRY } else { one.expires };
        [one.at, fails, leaves, expires]
    });
    let times = times.chain(receipts.iter().map(|receipt| receipt.at));
    times.filter(|at| *at > now).min().unwrap_or(NO_EXPIRY).min(midnight)
}
