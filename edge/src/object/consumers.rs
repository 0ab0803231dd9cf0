//! Consumers of streams: other objects that are handed what matches their filters, at least once and in commit order.
//!
//! ```text
//! edge_consumer  (name BLOB primary key, confirmed INTEGER)    the last sequence number a consumer has dealt with
//! ```
//!
//! A batch is handed out at a time. Once the consumer has taken it, its number is confirmed by one row written; if the
//! consumer fails, or this object loses its memory first, everything behind the confirmed number is handed out again.
//! While something is not confirmed an alarm is set, so that a consumer is fed also if nobody talks to the relay.

use relay_engine::relay::StreamId;
use relay_engine::store::sql::{SqlConn, SqlValue};
use relay_engine::store::{Backend, Reader, Seq, StoreError};
use relay_engine::types::{Event, Filter, Now};

use super::{CountingConn, Host, Next, Object};
use crate::settings::ConsumerSettings;

/// Events and bytes of a batch; it ends with the event that passes either.
const BATCH_EVENTS_MAX: usize = 64;
const BATCH_BYTES_MAX: usize = 256 << 10;
/// Seconds after which an alarm looks whether a batch has been taken.
const LOOK_SECONDS: u64 = 30;
/// Milliseconds until a consumer that failed is tried again; they double with each failure.
const RETRY_MS_MIN: u64 = 1_000;
const RETRY_MS_MAX: u64 = 300_000;
/// Longer waits are left to the alarm: a timer keeps the object awake.
const TIMER_MS_MAX: u64 = 5_000;
/// Stored events that match nothing and that a consumer may have to be shown again, before a row is spent on them.
const UNCONFIRMED_MAX: u64 = 1_000;

const CREATE: &str = "CREATE TABLE IF NOT EXISTS edge_consumer (name BLOB PRIMARY KEY, confirmed INTEGER NOT NULL) \
                      WITHOUT ROWID";
const READ: &str = "SELECT confirmed FROM edge_consumer WHERE name = ?";
const WRITE: &str = "INSERT OR REPLACE INTO edge_consumer (name, confirmed) VALUES (?, ?)";

pub(super) fn create<C: SqlConn>(conn: &C) -> Result<(), StoreError> {
    conn.exec(CREATE, &[])
}

fn read<C: SqlConn>(conn: &C, name: &str) -> Result<Option<Seq>, StoreError> {
    let mut found = None;
    conn.query(READ, &[SqlValue::Blob(name.as_bytes())], &mut |row| match row {
        [SqlValue::Int(confirmed)] => {
            found = Some(Seq(confirmed.cast_unsigned()));
            Ok(())
        }
        _ => Err(StoreError::Corrupt("a consumer's number is none".into())),
    })?;
    Ok(found)
}

fn write<C: SqlConn>(conn: &C, name: &str, confirmed: Seq) -> Result<(), StoreError> {
    conn.exec(WRITE, &[SqlValue::Blob(name.as_bytes()), SqlValue::Int(confirmed.0.cast_signed())])
}

/// All consumers.
#[derive(Debug, Default)]
pub(super) struct Consumers(Vec<Consumer>);

#[derive(Debug)]
struct Consumer {
    name: String,
    filters: Vec<Filter>,
    confirmed: Seq,
    state: State,
    /// Failures in a row, its own and the store's.
    failures: u32,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Its stream is opened then.
    Waits(Now),
    /// It can be handed a batch.
    Fed(StreamId),
    /// It has been handed a batch; everything up to this number is dealt with when it has taken it.
    Handed(StreamId, Seq),
}

impl Consumer {
    /// It or the store has failed: it is fed again in a while, longer with each failure.
    fn fail(&mut self, now: Now) {
        let wait = RETRY_MS_MIN.saturating_mul(1 << self.failures.min(20)).min(RETRY_MS_MAX);
        self.failures += 1;
        self.state = State::Waits(now.plus_millis(wait));
    }
}

impl Consumers {
    /// Those that are configured; what has been checked before has no filters that are wrong.
    pub(super) fn new(configured: &[ConsumerSettings]) -> Self {
        let consumer = |settings: &ConsumerSettings| Consumer {
            name: settings.name(),
            filters: settings.filters().unwrap_or_default(),
            confirmed: Seq(0),
            state: State::Waits(Now::default()),
            failures: 0,
        };
        Consumers(configured.iter().map(consumer).collect())
    }

    /// When a consumer is to be tried again.
    fn retry_at(&self) -> Option<Now> {
        let waits = |consumer: &Consumer| match consumer.state {
            State::Waits(until) => Some(until),
            State::Fed(_) | State::Handed(..) => None,
        };
        self.0.iter().filter_map(waits).min()
    }

    fn has_unconfirmed(&self) -> bool {
        self.0.iter().any(|consumer| !matches!(consumer.state, State::Fed(_)))
    }
}

impl<C: CountingConn + 'static, H: Host> Object<C, H> {
    /// What became of the batch that [`Host::deliver`] was given last for this consumer. `took`: it has dealt with all
    /// of it, durably.
    pub fn delivered(&mut self, now: Now, name: &str, took: bool) -> Next {
        let before = self.rows();
        let store = self.relay.store().conn();
        let consumer = self.consumers.0.iter_mut().find(|consumer| consumer.name == name);
        if let Some(consumer) = consumer
            && let State::Handed(stream, through) = consumer.state
        {
            // A number that cannot be written is only handed out again.
            if took && write(store, name, through).is_ok() {
                (consumer.confirmed, consumer.failures) = (through, 0);
                consumer.state = State::Fed(stream);
            } else {
                consumer.fail(now);
                self.relay.close_stream(stream);
                self.numbers.deliveries_failed += 1;
            }
        }
        self.numbers.rows.upkeep.add(self.rows().since(before));
        self.settle(now)
    }

    /// Hands out what there is, to whoever can take it.
    pub(super) fn feed_consumers(&mut self, now: Now) {
        let before = self.rows();
        // Taken out for the while, so that each can use the rest of the object.
        let mut consumers = std::mem::take(&mut self.consumers);
        for consumer in &mut consumers.0 {
            if matches!(consumer.state, State::Waits(until) if until <= now)
                && self.open_for(consumer).is_err()
            {
                consumer.fail(now);
            }
            let State::Fed(stream) = consumer.state else { continue };
            let mut batch: Vec<(Option<Seq>, Event)> = Vec::new();
            let mut bytes = 0;
            while batch.len() < BATCH_EVENTS_MAX && bytes < BATCH_BYTES_MAX {
                let Some(next) = self.relay.poll_stream(stream) else { break };
                bytes += next.1.json().len();
                batch.push(next);
            }
            let Some(position) = self.relay.stream_position(stream) else { continue };
            if !batch.is_empty() {
                consumer.state = State::Handed(stream, position);
                self.host.deliver(&consumer.name, batch);
            } else if position.0 >= consumer.confirmed.0 + UNCONFIRMED_MAX
                && write(self.relay.store().conn(), &consumer.name, position).is_ok()
            {
                consumer.confirmed = position;
            }
        }
        self.consumers = consumers;
        self.numbers.rows.upkeep.add(self.rows().since(before));
        if self.consumers.has_unconfirmed() {
            self.want_alarm(now, now.seconds() + LOOK_SECONDS);
        }
    }

    /// Opens a consumer's stream behind what it has confirmed; one that has never been here begins now.
    fn open_for(&mut self, consumer: &mut Consumer) -> Result<(), StoreError> {
        let store = self.relay.store();
        consumer.confirmed = match read(store.conn(), &consumer.name)? {
            Some(confirmed) => confirmed,
            None => {
                let last = store.reader()?.last_seq()?;
                write(store.conn(), &consumer.name, last)?;
                last
            }
        };
        let stream = self.relay.open_stream(&consumer.filters, Some(consumer.confirmed))?;
        consumer.state = State::Fed(stream);
        Ok(())
    }

    /// Milliseconds until a consumer is to be tried again, if no alarm is to be waited for.
    pub(super) fn consumer_retry_ms(&self, now: Now) -> Option<u64> {
        self.consumers.retry_at().map(|at| at.millis_since(now)).filter(|ms| *ms <= TIMER_MS_MAX)
    }
}
