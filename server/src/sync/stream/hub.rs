//! Ephemeral events between the streams of a process and the relay that serves the folder. They are in no store.

use std::sync::{Arc, Mutex, PoisonError};

use relay_engine::types::Event;
use tokio::sync::{broadcast, mpsc};

use super::memory::Recent;

/// Events that wait for a stream that does not take them.
const STREAM_EVENTS: usize = 1_024;

/// Where ephemeral events go.
pub(super) struct Hub {
    to_streams: broadcast::Sender<Arc<Event>>,
    /// `None`: no relay serves the folder.
    to_relay: Option<mpsc::Sender<Arc<Event>>>,
    seen: Mutex<Recent>,
}

impl Hub {
    pub(super) fn new(to_relay: Option<mpsc::Sender<Arc<Event>>>) -> Self {
        let (to_streams, _) = broadcast::channel(STREAM_EVENTS);
        Hub { to_streams, to_relay, seen: Mutex::default() }
    }

    /// All that come from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.to_streams.subscribe()
    }

    /// A verified one has come from another relay. False if the relay here cannot be given it.
    pub(super) fn came(&self, event: Event) -> bool {
        if !self.is_new(&event) {
            return true;
        }
        let event = Arc::new(event);
        let is_taken = self.to_relay.as_ref().is_some_and(|relay| relay.try_send(Arc::clone(&event)).is_ok());
        // Nobody may be listening.
        let _ = self.to_streams.send(event);
        is_taken
    }

    /// One was published here.
    pub(super) fn published(&self, event: Event) {
        if self.is_new(&event) {
            let _ = self.to_streams.send(Arc::new(event));
        }
    }

    fn is_new(&self, event: &Event) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).add(event.id)
    }
}
