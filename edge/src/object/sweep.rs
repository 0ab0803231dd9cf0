//! Alarms: events pending removal, expired ones (NIP-40) and those older than `retention_seconds` are removed from the store.
//!
//! Expired events are never sent, so that sweeping them may wait, and many share one alarm. Events pending removal, the rest of
//! large deletions, are removed as soon as clients have been served in between.
//!
//! ```text
//! edge_retention  (id INTEGER primary key: 1, hour INTEGER)    the last hour in which a retention sweep finished
//! ```

use relay_engine::store::sql::{SqlConn, SqlValue};
use relay_engine::store::{
    Backend, Reader, Removed, StoreError, remove_pending, sweep_expired, sweep_older_than,
};
use relay_engine::types::{CanonicalEvent, Now, Timestamp, parse_expiration};

use super::{Host, NextTick, Object, RowCountingConn};

/// Events swept in one transaction, which ends earlier with the keys that the store removes in one.
const SWEEP_EVENTS_MAX: usize = 256;
/// An alarm may come some milliseconds early.
const ALARM_EARLY_MS_MAX: u64 = 1_000;
/// Seconds between retention sweeps.
const RETENTION_SWEEP_SECONDS: u64 = 3_600;

const CREATE: &str =
    "CREATE TABLE IF NOT EXISTS edge_retention (id INTEGER PRIMARY KEY, hour INTEGER NOT NULL)";
const LAST_SWEEP: &str = "SELECT hour FROM edge_retention WHERE id = 1";
const WRITE_SWEEP: &str = "INSERT OR REPLACE INTO edge_retention (id, hour) VALUES (1, ?)";

pub(super) fn create<C: SqlConn>(conn: &C) -> Result<(), StoreError> {
    conn.exec(CREATE, &[])
}

impl<C: RowCountingConn + 'static, H: Host> Object<C, H> {
    /// The alarm that was set has fired.
    pub fn alarm(&mut self, now: Now) -> NextTick {
        self.counters.alarms += 1;
        // A later one may have been set since the object woke up for this one.
        self.alarm = self.alarm.filter(|at| at.millis_since(now) > ALARM_EARLY_MS_MAX);
        self.alarm_is_known = true;
        let before = self.rows();
        let more = self.sweep(now.seconds()).and_then(|more| {
            if !more {
                self.record_retention_sweep(now)?;
            }
            Ok(more)
        });
        self.counters.rows.maintenance.add(self.rows().since(before));
        // What they waited for until now is done before the next alarm is set.
        #[cfg(feature = "libsecp256k1")]
        self.run_agents(now);
        match more {
            Ok(true) => self.set_alarm(now.plus_millis(1)),
            Ok(false) => self.schedule_alarms(now),
            // Full or failing storage: try again later.
            Err(_) => {
                self.set_alarm_by(now.plus_millis(self.store_settings.sweep_seconds.saturating_mul(1000)))
            }
        }
        self.flush(now)
    }

    /// Sets the alarm for the next sweep, as the store says, and for what agents wait for. For an object that has just woken
    /// up.
    pub fn schedule_alarms(&mut self, now: Now) {
        self.schedule_removal(now);
        self.alarm_is_known = true;
        if let Some(soonest) = self.soonest_sweep(now) {
            self.schedule_alarm(now, soonest);
        }
        if let Some(at) = self.pulls.alarm_at(now) {
            self.set_alarm_by(at);
        }
        #[cfg(feature = "libsecp256k1")]
        self.schedule_agents(now);
    }

    /// Whether there is something to remove for which no future commit sets an alarm: events past their retention, and
    /// events pending removal. Or something to copy from another relay.
    pub fn needs_alarms(&self) -> bool {
        self.store_settings.retention_seconds > 0
            || self.pulls.is_unscheduled()
            || self.has_pending_removals()
    }

    /// Makes sure that an alarm is set for what agents wait for.
    #[cfg(feature = "libsecp256k1")]
    pub(super) fn schedule_agents(&mut self, now: Now) {
        let Some(agents) = &self.agents else { return };
        let Some(at) = agents.alarm_at(now) else { return };
        if self.alarm_is_known {
            self.set_alarm_by(at);
        } else if !agents.has_old_alarm_by(now, at) {
            self.schedule_alarms(now);
        }
    }

    /// Sets an immediate alarm if events are pending removal.
    pub(super) fn schedule_removal(&mut self, now: Now) {
        let at = now.plus_millis(1);
        if self.has_pending_removals() && self.alarm.is_none_or(|set| at < set) {
            // What the replaced alarm was for is scheduled again after this one.
            self.set_alarm(at);
        }
    }

    fn has_pending_removals(&self) -> bool {
        let mut found = Vec::new();
        let read = self.relay.store().reader().and_then(|reader| reader.pending_removal(1, &mut found));
        // Failing storage: try again later.
        read.is_err() || !found.is_empty()
    }

    /// One bounded transaction for each kind of sweep. Returns whether there is more to remove, for which another alarm
    /// is set, so that clients are served in between.
    fn sweep(&mut self, now: Timestamp) -> Result<bool, StoreError> {
        let store = self.relay.store();
        let pending_removal = remove_pending(store)?;
        let expired = sweep_expired(store, now, SWEEP_EVENTS_MAX)?;
        self.counters.events_expired += expired.events as u64;
        let old = match self.store_settings.retention_seconds {
            0 => Removed::default(),
            // It may read every old event: only once the rest is removed.
            _ if pending_removal.more || expired.more => Removed::default(),
            seconds => {
                let is_removable = |kind| self.store_settings.is_removed_by_age(kind);
                sweep_older_than(store, now.saturating_sub(seconds), &is_removable, SWEEP_EVENTS_MAX)?
            }
        };
        self.counters.events_removed_by_retention += old.events as u64;
        Ok(pending_removal.more || expired.more || old.more)
    }

    fn soonest_expiry(&self) -> Result<Option<Timestamp>, StoreError> {
        let reader = self.relay.store().reader()?;
        let mut found = Vec::new();
        reader.expiring(Timestamp::MAX - 1, 1, &mut found)?;
        let Some(seq) = found.first() else { return Ok(None) };
        let json = reader.event_or_pending_removal(*seq)?;
        Ok(json.and_then(|json| parse_expiration(CanonicalEvent::trusted(&json).tags())))
    }

    /// When there is next something to sweep.
    fn soonest_sweep(&self, now: Now) -> Option<Timestamp> {
        // If storage fails, now: the alarm tries again.
        let expiry = self.soonest_expiry().unwrap_or(Some(now.seconds()));
        let aged = (self.store_settings.retention_seconds > 0).then(|| self.next_retention_sweep(now));
        expiry.into_iter().chain(aged).min()
    }

    /// The next retention sweep: an hour after the last that finished. That time is in the store, so that neither frequent
    /// wake-ups nor losing memory during a sweep postpone it.
    fn next_retention_sweep(&self, now: Now) -> Timestamp {
        self.last_retention_sweep().map_or(now.seconds(), |hour| hour.saturating_add(RETENTION_SWEEP_SECONDS))
    }

    /// The hour of the last retention sweep that finished.
    fn last_retention_sweep(&self) -> Option<Timestamp> {
        let mut found = None;
        let read = self.relay.store().conn().query(LAST_SWEEP, &[], &mut |row| {
            if let [SqlValue::Int(hour)] = row {
                found = Timestamp::try_from(*hour).ok();
            }
            Ok(())
        });
        read.ok().and(found)
    }

    fn record_retention_sweep(&self, now: Now) -> Result<(), StoreError> {
        let hour = now.seconds() - now.seconds() % RETENTION_SWEEP_SECONDS;
        let needs = self.store_settings.retention_seconds > 0 || self.has_pending_removals();
        if !needs || self.last_retention_sweep() == Some(hour) {
            return Ok(());
        }
        self.relay.store().conn().exec(WRITE_SWEEP, &[SqlValue::Int(hour.cast_signed())])
    }

    /// The second after `at` at which an alarm is set: a multiple of `sweep_seconds`, so that many events share it.
    fn alarm_for(&self, at: Timestamp) -> Timestamp {
        at.saturating_add(1).checked_next_multiple_of(self.store_settings.sweep_seconds).unwrap_or(at)
    }

    /// Makes sure that an alarm is set for second `at` or soon after.
    pub(super) fn schedule_alarm(&mut self, now: Now, at: Timestamp) {
        if std::mem::replace(&mut self.alarm_is_known, true) {
            return self.set_alarm_by(self.alarm_at(now, at));
        }
        // An object has one alarm, and it may still be set from before hibernation. What that one was for is
        // found in the store and by the agents; this reads a row or two and writes none.
        let soonest = self.soonest_sweep(now).map_or(at, |soonest| at.min(soonest));
        let at = self.alarm_at(now, soonest);
        let at = self.pulls.alarm_at(now).map_or(at, |own| own.min(at));
        #[cfg(feature = "libsecp256k1")]
        let at = self.agents.as_ref().and_then(|agents| agents.alarm_at(now)).map_or(at, |own| own.min(at));
        self.set_alarm_by(at);
    }

    fn alarm_at(&self, now: Now, at: Timestamp) -> Now {
        Now::from_millis(self.alarm_for(at.max(now.seconds())).saturating_mul(1000))
    }

    /// Makes sure that an alarm is set for `at` or sooner.
    pub(super) fn set_alarm_for(&mut self, now: Now, at: Now) {
        if !self.alarm_is_known {
            self.schedule_alarms(now);
        }
        self.set_alarm_by(at);
    }

    /// Sets an alarm unless one is set for `at` or sooner.
    fn set_alarm_by(&mut self, at: Now) {
        if self.alarm.is_none_or(|set| at < set) {
            self.set_alarm(at);
        }
    }

    fn set_alarm(&mut self, at: Now) {
        self.alarm = Some(at);
        self.host.set_alarm(at);
    }
}
