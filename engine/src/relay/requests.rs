//! REQ, COUNT and CLOSE as they come: what is admitted, and the subscriptions and queries that they start and end.
//!
//! A subscription enters the index first, noting the last committed sequence number; its scan answers up to that one and no
//! further. So nothing is missed and nothing is sent twice.

use std::sync::Arc;

use super::ids::ConnId;
use super::queries::{CountQuery, Query, ScanQuery};
use super::query_memory::Reservation;
use super::query_steps::ClientViewer;
use super::snapshot::{Progress, SubSnapshot};
use super::subscriptions::{Owner, State, SubKey};
use super::values::{FilterUsage, Purpose, TooMany};
use super::{Relay, messages};
use crate::policy::{Access, access};
use crate::store::{Backend, Count, Scan, ScanLimits, Seq, cursor_bytes_max};
use crate::types::{Filter, Now, SubId};

/// COUNTs one connection may have under way.
const COUNTS_MAX: usize = 16;

impl<B: Backend> Relay<B> {
    pub(super) fn handle_req(&mut self, now: Now, conn: ConnId, sub: SubId, filters: Vec<Filter>) {
        self.metrics.messages_req += 1;
        self.advance_subscriptions(now);
        // A REQ of a known id replaces it, also when it is refused.
        let before = self.values.all();
        self.end_subscription(conn, &sub);
        let ended = before - self.values.all();
        if let Err(message) = self.admit_req(now, conn, &filters, ended) {
            return self.send_closed(conn, &sub, &message);
        }
        let filters: Arc<[Filter]> = filters.into();
        let horizon = match self.last_seq() {
            Ok(horizon) => horizon,
            Err(error) => {
                let message = self.record_store_error(&error);
                return self.send_closed(conn, &sub, message);
            }
        };
        let Some(key) = self.subscribe(conn, sub, &filters, State::scanning(), horizon) else { return };
        let reservation = self.reservation_for(&filters);
        let scan = self.scan(filters, horizon);
        let query =
            ScanQuery { key, conn, scan, asked_at: now, sent_before: None, has_started: false, reservation };
        self.start(Query::Scan(Box::new(query)));
    }

    fn admit_req(
        &mut self,
        now: Now,
        conn: ConnId,
        filters: &[Filter],
        ended: FilterUsage,
    ) -> Result<(), String> {
        self.admit_request(now, conn, filters)?;
        let limits = &self.config.limits;
        let open = self.sessions.get(conn).map_or(0, |session| session.subs.len());
        if open >= limits.subscriptions_max {
            return Err(messages::too_many_subscriptions(open));
        }
        self.admit_values(conn, Purpose::Subscription, filters, ended)
    }

    pub(super) fn handle_count(&mut self, now: Now, conn: ConnId, id: SubId, filters: Vec<Filter>) {
        self.metrics.messages_count += 1;
        match self.admit_count(now, conn, &filters) {
            Ok(()) => self.count(conn, id, filters.into()),
            Err(message) => self.send_closed(conn, &id, &message),
        }
    }

    fn admit_count(&mut self, now: Now, conn: ConnId, filters: &[Filter]) -> Result<(), String> {
        self.admit_request(now, conn, filters)?;
        if self.sessions.get(conn).is_some_and(|session| session.counts >= COUNTS_MAX) {
            return Err(messages::TOO_MANY_COUNTS.into());
        }
        self.admit_values(conn, Purpose::OneTime, filters, FilterUsage::default())
    }

    /// Starts a COUNT that has been admitted.
    pub(super) fn count(&mut self, conn: ConnId, id: SubId, filters: Arc<[Filter]>) {
        let horizon = match self.last_seq() {
            Ok(horizon) => horizon,
            Err(error) => {
                let message = self.record_store_error(&error);
                return self.send_closed(conn, &id, message);
            }
        };
        let Some(session) = self.sessions.get_mut(conn) else { return };
        session.counts += 1;
        self.values.add(conn, Purpose::OneTime, &filters, &self.config.limits);
        self.update_gauges();
        self.mark_changed(conn);
        let cost_max = self.config.limits.count_cost_max;
        let reservation = self.reservation_for(&filters);
        let count = Count::new(filters, self.store.classes(), horizon, cost_max);
        self.start(Query::Count(Box::new(CountQuery { conn, id, count, has_started: false, reservation })));
    }

    /// A COUNT has been answered, or has failed.
    pub(super) fn end_count(&mut self, query: &CountQuery) {
        let Some(session) = self.sessions.get_mut(query.conn) else { return };
        session.counts -= 1;
        self.values.remove(query.conn, Purpose::OneTime, query.count.filters(), &self.config.limits);
        self.update_gauges();
        self.mark_changed(query.conn);
    }

    pub(super) fn handle_close(&mut self, conn: ConnId, sub: &SubId) {
        self.metrics.messages_close += 1;
        self.end_subscription(conn, sub);
    }

    /// What holds for every request: its rate, NIP-42, and the read guard.
    pub(super) fn admit_request(&mut self, now: Now, conn: ConnId, filters: &[Filter]) -> Result<(), String> {
        let config = &*self.config;
        let Some(session) = self.sessions.get_mut(conn) else { return Ok(()) };
        if !session.request_rate.take(config.limits.requests_per_minute_max, now) {
            return Err(messages::TOO_MANY_REQUESTS.into());
        }
        if !self.address_rates.take_request(session.address, &config.limits, now) {
            return Err(messages::TOO_MANY_REQUESTS_OF_ADDRESS.into());
        }
        let keys = session.auth.keys();
        let message = if config.policy.auth_required && keys.is_empty() {
            messages::AUTHENTICATED_ONLY
        } else {
            match access(filters, &config.policy.guarded_kinds, keys) {
                Access::Open => return Ok(()),
                Access::NeedsAuth => messages::PARTIES_ONLY,
                Access::Restricted => return Err(messages::NOT_A_PARTY.into()),
            }
        };
        self.send_challenge(conn);
        Err(message.into())
    }

    pub(super) fn admit_values(
        &self,
        conn: ConnId,
        purpose: Purpose,
        filters: &[Filter],
        replaced: FilterUsage,
    ) -> Result<(), String> {
        let limits = &self.config.limits;
        self.values.admit(conn, purpose, filters, replaced, limits).map_err(|too_many| match too_many {
            TooMany::ForConnection => messages::too_many_values(limits.connection_values_max),
            TooMany::ForShard { free } => messages::too_busy(free),
        })
    }

    fn scan(&self, filters: Arc<[Filter]>, horizon: Seq) -> Scan {
        let limits = ScanLimits {
            limit_default: self.config.limits.limit_default,
            limit_max: self.config.limits.limit_max,
        };
        Scan::new(filters, limits, self.store.classes(), horizon).with_hit_cost(self.config.frame_cost)
    }

    /// The memory that answering `filters` may take at most.
    fn reservation_for(&self, filters: &[Filter]) -> Reservation {
        Reservation::of(cursor_bytes_max(filters, self.store.classes()))
    }

    /// Adds a client's subscription. `None` if its connection is gone.
    fn subscribe(
        &mut self,
        conn: ConnId,
        sub: SubId,
        filters: &Arc<[Filter]>,
        state: State,
        covered: Seq,
    ) -> Option<SubKey> {
        let session = self.sessions.get_mut(conn)?;
        let owner = Owner::Client { conn, sub: sub.clone() };
        let key = self.subscriptions.insert(owner, Arc::clone(filters), state, covered);
        session.subs.insert(sub, key);
        self.values.add(conn, Purpose::Subscription, filters, &self.config.limits);
        self.update_gauges();
        self.mark_changed(conn);
        Some(key)
    }

    /// Restores a subscription of a session snapshot and continues where it stood.
    pub(super) fn resume(&mut self, now: Now, conn: ConnId, sub: SubId, resumed: &SubSnapshot) {
        let filters = &resumed.filters;
        match resumed.progress {
            Progress::Live => {
                self.subscribe(conn, sub, filters, State::Live, Seq(0));
            }
            Progress::Lagging { after } => {
                if let Some(key) = self.subscribe(conn, sub, filters, State::Lagging, after) {
                    self.catch_up(conn, key);
                }
            }
            // Newer matches may have been recorded before: asking the store costs little if not.
            Progress::Scanning { horizon, last } => {
                let state = State::Scanning { missed: true, pending_ephemeral: Vec::new(), last };
                let Some(key) = self.subscribe(conn, sub, filters, state, horizon) else { return };
                let mut scan = self.scan(Arc::clone(filters), horizon);
                if last.is_some() {
                    // What it skipped before is not looked at again, whichever key has authenticated since.
                    scan.begin_for(&ClientViewer {
                        guarded_kinds: &self.config.policy.guarded_kinds,
                        keys: &[],
                    });
                }
                let reservation = self.reservation_for(filters);
                let query = ScanQuery {
                    key,
                    conn,
                    scan,
                    asked_at: now,
                    sent_before: last,
                    has_started: false,
                    reservation,
                };
                self.start(Query::Scan(Box::new(query)));
            }
        }
    }

    /// Ends a subscription if there is one of this id.
    pub(super) fn end_subscription(&mut self, conn: ConnId, sub: &SubId) {
        let Some(session) = self.sessions.get_mut(conn) else { return };
        let Some(key) = session.subs.remove(sub) else { return };
        if let Some(ended) = self.subscriptions.remove(key) {
            session.pending_ephemeral_bytes -= ended.pending_ephemeral_bytes();
            session.update_queued_total(&mut self.queued_output);
            // They hold its filters, and cursors for them.
            session.paused.retain(|query| !query.is_for(key));
            session.lagging.retain(|other| *other != key);
            self.values.remove(conn, Purpose::Subscription, &ended.filters, &self.config.limits);
        }
        self.update_gauges();
        self.mark_changed(conn);
    }

    /// Updates the gauges among the metrics.
    pub(super) fn update_gauges(&mut self) {
        self.metrics.connections = self.sessions.len() as u64;
        self.metrics.subscriptions = self.subscriptions.client_subscriptions() as u64;
        let filters = self.values.all();
        self.metrics.filter_values = filters.values as u64;
        self.metrics.filter_bytes = filters.bytes as u64;
        self.metrics.index_bytes = self.subscriptions.index_bytes() as u64;
        self.metrics.outbox_bytes = self.queued_output.bytes() as u64;
        self.metrics.reconciliation_bytes = self.neg_sets.bytes() as u64;
    }
}
