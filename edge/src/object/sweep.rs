//! Alarms: expired events (NIP-40) and those older than is kept are taken out of the store.
//!
//! Nobody is sent an expired event, so sweeping may wait and many share one alarm.
//!
//! ```text
//! edge_retention  (id INTEGER primary key: 1, hour INTEGER)    the last hour in which a retention sweep was finished
//! ```

use relay_engine::store::sql::{SqlConn, SqlValue};
use relay_engine::store::{Backend, Reader, StoreError, sweep_aged, sweep_expired};
use relay_engine::types::{CanonicalEvent, Class, Now, Timestamp, parse_expiration};

use super::{CountingConn, Host, Object};

/// Events taken out in one transaction.
const SWEEP_EVENTS_MAX: usize = 256;
/// Transactions of one alarm; then others get their turn.
const SWEEPS_MAX: usize = 8;
/// Seconds between retention sweeps.
const RETENTION_SWEEP_SECONDS: u64 = 3_600;

const CREATE: &str =
    "CREATE TABLE IF NOT EXISTS edge_retention (id INTEGER PRIMARY KEY, hour INTEGER NOT NULL)";
const LAST_SWEEP: &str = "SELECT hour FROM edge_retention WHERE id = 1";
const NOTE_SWEEP: &str = "INSERT OR REPLACE INTO edge_retention (id, hour) VALUES (1, ?)";

pub(super) fn create<C: SqlConn>(conn: &C) -> Result<(), StoreError> {
    conn.exec(CREATE, &[])
}

impl<C: CountingConn + 'static, H: Host> Object<C, H> {
    /// The moment that was asked for has come.
    pub fn alarm(&mut self, now: Now) {
        self.numbers.alarms += 1;
        self.alarm = None;
        self.knows_alarm = true;
        let before = self.rows();
        let more = self.sweep(now.seconds()).and_then(|more| {
            if !more {
                self.note_retention_sweep(now)?;
            }
            Ok(more)
        });
        self.numbers.rows.upkeep.add(self.rows().since(before));
        match more {
            Ok(true) => self.set_alarm(now.plus_millis(1)),
            Ok(false) => self.want_alarms(now),
            // Full or failing storage is looked at again.
            Err(_) => self.set_alarm(now.plus_millis(self.settings.sweep_seconds.saturating_mul(1000))),
        }
        self.feed_consumers(now);
    }

    /// Sets the alarm for whatever is to be swept next. For an object that has just woken up and does not know.
    pub fn want_alarms(&mut self, now: Now) {
        self.knows_alarm = true;
        if let Some(soonest) = self.soonest_sweep(now) {
            self.want_alarm(now, soonest);
        }
    }

    /// Whether anything here ever needs an alarm that no commit asks for.
    pub fn keeps_alarms(&self) -> bool {
        self.settings.retention_seconds > 0
    }

    /// True if there is more to sweep.
    fn sweep(&mut self, now: Timestamp) -> Result<bool, StoreError> {
        let store = self.relay.store();
        for _ in 0..SWEEPS_MAX {
            let expired = sweep_expired(store, now, SWEEP_EVENTS_MAX)?;
            self.numbers.events_expired += expired as u64;
            let retired = match self.settings.retention_seconds {
                0 => 0,
                seconds => {
                    let spared = &self.settings.retention_kinds_spared;
                    let is_swept = |kind| Class::of(kind) == Class::Regular && !spared.contains(&kind);
                    sweep_aged(store, now.saturating_sub(seconds), &is_swept, SWEEP_EVENTS_MAX)?
                }
            };
            self.numbers.events_retired += retired as u64;
            if expired < SWEEP_EVENTS_MAX && retired < SWEEP_EVENTS_MAX {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn soonest_expiry(&self) -> Result<Option<Timestamp>, StoreError> {
        let reader = self.relay.store().reader()?;
        let mut found = Vec::new();
        reader.expiring(Timestamp::MAX - 1, 1, &mut found)?;
        let Some(seq) = found.first() else { return Ok(None) };
        let json = reader.event(*seq)?;
        Ok(json.and_then(|json| parse_expiration(CanonicalEvent::trusted(&json).tags())))
    }

    /// When there is something to sweep next.
    fn soonest_sweep(&self, now: Now) -> Option<Timestamp> {
        // Storage that fails is looked at again.
        let expiry = self.soonest_expiry().unwrap_or(Some(now.seconds()));
        let aged = (self.settings.retention_seconds > 0).then(|| self.next_retention_sweep(now));
        expiry.into_iter().chain(aged).min()
    }

    /// The next retention sweep: on the hour after the one in which the last was finished, which the
    /// store knows. An object that is woken up more often than it sweeps does not put it off, nor does one that lost its
    /// memory during a sweep.
    fn next_retention_sweep(&self, now: Now) -> Timestamp {
        self.last_retention_sweep().map_or(now.seconds(), |hour| hour.saturating_add(RETENTION_SWEEP_SECONDS))
    }

    /// The hour of the last retention sweep that was finished.
    fn last_retention_sweep(&self) -> Option<Timestamp> {
        let mut found = None;
        let looked = self.relay.store().conn().query(LAST_SWEEP, &[], &mut |row| {
            if let [SqlValue::Int(hour)] = row {
                found = Timestamp::try_from(*hour).ok();
            }
            Ok(())
        });
        looked.ok().and(found)
    }

    fn note_retention_sweep(&self, now: Now) -> Result<(), StoreError> {
        let hour = now.seconds() - now.seconds() % RETENTION_SWEEP_SECONDS;
        if !self.keeps_alarms() || self.last_retention_sweep() == Some(hour) {
            return Ok(());
        }
        self.relay.store().conn().exec(NOTE_SWEEP, &[SqlValue::Int(hour.cast_signed())])
    }

    /// The second of the alarm that serves second `at`; others are likely to want it too.
    fn alarm_for(&self, at: Timestamp) -> Timestamp {
        at.saturating_add(1).checked_next_multiple_of(self.settings.sweep_seconds).unwrap_or(at)
    }

    /// An alarm at second `at` or soon after.
    pub(super) fn want_alarm(&mut self, now: Now, at: Timestamp) {
        let mut at = at;
        if !std::mem::replace(&mut self.knows_alarm, true) {
            // The platform keeps one alarm, and one may be set from before the object slept. What that one was
            // for is found in the store, at a row or two read and none written.
            at = self.soonest_sweep(now).map_or(at, |soonest| at.min(soonest));
        }
        let at = Now::from_millis(self.alarm_for(at.max(now.seconds())).saturating_mul(1000));
        if self.alarm.is_none_or(|set| at < set) {
            self.set_alarm(at);
        }
    }

    fn set_alarm(&mut self, at: Now) {
        self.alarm = Some(at);
        self.host.set_alarm(at);
    }
}
