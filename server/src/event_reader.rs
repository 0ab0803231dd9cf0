//! Reading a few stored events without a connection.

use std::sync::{Arc, Mutex, PoisonError};

use relay_engine::store::{Backend, Reader as _, Scan, ScanLimits, Seq, SinkResult, StoreError, Viewer};
use relay_engine::types::{Event, Filter, Timestamp};

/// Most events in an answer.
const EVENTS_MAX: u32 = 16;
/// Units of cost (about a microsecond each) that an answer may take. A query that needs more returns what it has found by then.
const COST_MAX: usize = 4_000;

/// The store, whatever its backend is.
pub(crate) trait EventReader: Send + Sync {
    /// The newest events that match and that `viewer` may see, at most 16.
    fn query(&self, filter: Filter, now: Timestamp, viewer: &dyn Viewer) -> Result<Vec<Event>, StoreError>;

    /// The highest sequence number given to an event.
    fn last_seq(&self) -> Result<Seq, StoreError>;
}

/// Any backend.
pub(crate) struct Store<B>(Mutex<B>);

impl<B: Backend + Clone + Send> Store<B> {
    pub(crate) fn new(store: B) -> Self {
        Store(Mutex::new(store))
    }

    fn store(&self) -> B {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<B: Backend + Clone + Send> EventReader for Store<B> {
    fn query(
        &self,
        mut filter: Filter,
        now: Timestamp,
        viewer: &dyn Viewer,
    ) -> Result<Vec<Event>, StoreError> {
        filter.normalise();
        let store = self.store();
        let reader = store.reader()?;
        let limits = ScanLimits { limit_default: EVENTS_MAX, limit_max: EVENTS_MAX };
        let mut scan = Scan::new(Arc::new([filter]), limits, store.classes(), reader.last_seq()?);
        let (mut events, mut budget) = (Vec::new(), COST_MAX);
        scan.step(&reader, now, &mut budget, viewer, &mut |hit| {
            events.push(Event::from_canonical(hit.event.json().into()));
            SinkResult::Continue
        })?;
        // A filter may get more, so that a second is not split.
        events.truncate(EVENTS_MAX as usize);
        Ok(events)
    }

    fn last_seq(&self) -> Result<Seq, StoreError> {
        self.store().reader()?.last_seq()
    }
}
