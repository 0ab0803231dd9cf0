//! Consumers of streams: other Durable Objects that receive the events that match their filters, at least once and in
//! commit order.
//!
//! ```text
//! edge_consumer  (name BLOB primary key, confirmed INTEGER)    the last sequence number a consumer has confirmed
//! ```
//!
//! Each consumer has at most one batch in flight. When the consumer accepts it, the sequence number of its last event is
//! confirmed, which writes one row. If the consumer fails, or this object loses its memory first, everything after the
//! confirmed sequence number is delivered again. While something is unconfirmed an alarm is set, so that delivery goes on
//! also while no client is active.

use relay_engine::relay::StreamId;
use relay_engine::store::sql::{SqlConn, SqlValue};
use relay_engine::store::{Backend, Reader, Seq, StoreError};
use relay_engine::types::{Event, Filter, Now};

use super::{Host, NextTick, Object, RowCountingConn};
use crate::settings::ConsumerSettings;

/// Events and bytes of a batch; it ends with the event that passes either.
const BATCH_EVENTS_MAX: usize = 64;
const BATCH_BYTES_MAX: usize = 256 << 10;
/// Seconds after which an alarm checks for unconfirmed batches.
const CHECK_SECONDS: u64 = 30;
/// Milliseconds until delivery to a consumer that failed is retried; they double with each failure.
const RETRY_MS_MIN: u64 = 1_000;
const RETRY_MS_MAX: u64 = 300_000;
/// Longer waits are left to the alarm: a timer keeps the object awake.
const TIMER_MS_MAX: u64 = 5_000;
/// Stored events that match no filter of a consumer before their sequence number is confirmed, which costs a row. After
/// memory is lost they are matched again.
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
        _ => Err(StoreError::Corrupt("a consumer's sequence number has another type".into())),
    })?;
    Ok(found)
}

fn write<C: SqlConn>(conn: &C, name: &str, confirmed: Seq) -> Result<(), StoreError> {
    conn.exec(WRITE, &[SqlValue::Blob(name.as_bytes()), SqlValue::Int(confirmed.0.cast_signed())])
}

/// Milliseconds to wait after a failure, if `failures` came before it.
pub(super) fn retry_ms(failures: u32) -> u64 {
    RETRY_MS_MIN.saturating_mul(1 << failures.min(20)).min(RETRY_MS_MAX)
}

/// All consumers.
#[derive(Debug, Default)]
pub(super) struct Consumers(Vec<Consumer>);

#[derive(Debug)]
struct Consumer {
    name: String,
    /// Its name in the table.
    stored_name: String,
    /// Whether it receives what was stored before it was configured.
    has_all: bool,
    filters: Vec<Filter>,
    confirmed: Seq,
    state: State,
    /// Consecutive failures, of the consumer or the store.
    failures: u32,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Waits until then to open its stream.
    Backoff(Now),
    /// Has an open stream and no batch in flight.
    Ready(StreamId),
    /// Has a batch in flight; accepting it confirms everything up to this sequence number.
    InFlight(StreamId, Seq),
}

impl Consumer {
    /// It or the store has failed: retry with exponential backoff.
    fn fail(&mut self, now: Now) {
        self.state = State::Backoff(now.plus_millis(retry_ms(self.failures)));
        self.failures += 1;
    }
}

impl Consumers {
    /// The configured consumers, whose filters have been validated.
    pub(super) fn new(configured: &[ConsumerSettings]) -> Self {
        let consumer = |settings: &ConsumerSettings| Consumer {
            name: settings.name(),
            stored_name: settings.stored_name(),
            has_all: settings.replay.is_some(),
            filters: settings.filters().unwrap_or_default(),
            confirmed: Seq(0),
            state: State::Backoff(Now::default()),
            failures: 0,
        };
        Consumers(configured.iter().map(consumer).collect())
    }

    /// When the next consumer is retried.
    fn retry_at(&self) -> Option<Now> {
        let until = |consumer: &Consumer| match consumer.state {
            State::Backoff(until) => Some(until),
            State::Ready(_) | State::InFlight(..) => None,
        };
        self.0.iter().filter_map(until).min()
    }

    fn has_unconfirmed(&self) -> bool {
        self.0.iter().any(|consumer| !matches!(consumer.state, State::Ready(_)))
    }
}

impl<C: RowCountingConn + 'static, H: Host> Object<C, H> {
    /// The consumer has answered the batch that [`Host::deliver`] was last given for it, or failed to. `accepted`: it
    /// has processed all of it, durably.
    pub fn acknowledge(&mut self, now: Now, name: &str, accepted: bool) -> NextTick {
        let before = self.rows();
        let store = self.relay.store().conn();
        let consumer = self.consumers.0.iter_mut().find(|consumer| consumer.name == name);
        if let Some(consumer) = consumer
            && let State::InFlight(stream, through) = consumer.state
        {
            // If the confirmation cannot be written, the batch is delivered again.
            if accepted && write(store, &consumer.stored_name, through).is_ok() {
                (consumer.confirmed, consumer.failures) = (through, 0);
                consumer.state = State::Ready(stream);
            } else {
                consumer.fail(now);
                self.relay.close_stream(stream);
                self.counters.deliveries_failed += 1;
            }
        }
        self.counters.rows.maintenance.add(self.rows().since(before));
        self.flush(now)
    }

    /// Delivers the next batch to each consumer that has none in flight.
    pub(super) fn deliver_batches(&mut self, now: Now) {
        let before = self.rows();
        // Moved out for this loop, which also borrows the rest of the object.
        let mut consumers = std::mem::take(&mut self.consumers);
        for consumer in &mut consumers.0 {
            if matches!(consumer.state, State::Backoff(until) if until <= now)
                && self.open_stream_for(consumer).is_err()
            {
                consumer.fail(now);
            }
            let State::Ready(stream) = consumer.state else { continue };
            let mut batch: Vec<(Option<Seq>, Event)> = Vec::new();
            let mut bytes = 0;
            while batch.len() < BATCH_EVENTS_MAX && bytes < BATCH_BYTES_MAX {
                let Some(next) = self.relay.poll_stream(stream) else { break };
                bytes += next.1.json().len();
                batch.push(next);
            }
            let Some(position) = self.relay.stream_position(stream) else { continue };
            if !batch.is_empty() {
                consumer.state = State::InFlight(stream, position);
                self.host.deliver(&consumer.name, batch);
            } else if position.0 >= consumer.confirmed.0 + UNCONFIRMED_MAX
                && write(self.relay.store().conn(), &consumer.stored_name, position).is_ok()
            {
                consumer.confirmed = position;
            }
        }
        self.consumers = consumers;
        self.counters.rows.maintenance.add(self.rows().since(before));
        if self.consumers.has_unconfirmed() {
            self.schedule_alarm(now, now.seconds() + CHECK_SECONDS);
        }
    }

    /// Opens a consumer's stream after its confirmed sequence number; a new consumer starts after the last stored event, unless it is to
    /// have all.
    fn open_stream_for(&mut self, consumer: &mut Consumer) -> Result<(), StoreError> {
        let store = self.relay.store();
        // The table exists, unless the storage was full when the object woke up.
        create(store.conn())?;
        consumer.confirmed = match read(store.conn(), &consumer.stored_name)? {
            Some(confirmed) => confirmed,
            None if consumer.has_all => Seq(0),
            None => {
                let last = store.reader()?.last_seq()?;
                write(store.conn(), &consumer.stored_name, last)?;
                last
            }
        };
        let stream = self.relay.open_stream(&consumer.filters, Some(consumer.confirmed))?;
        consumer.state = State::Ready(stream);
        Ok(())
    }

    /// Milliseconds until a consumer is retried, if so soon that a timer is used and not the alarm.
    pub(super) fn consumer_retry_ms(&self, now: Now) -> Option<u64> {
        self.consumers.retry_at().map(|at| at.millis_since(now)).filter(|ms| *ms <= TIMER_MS_MAX)
    }
}
