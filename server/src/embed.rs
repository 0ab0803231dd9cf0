//! The server embedded in another program.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use relay_engine::types::Filter;
//! use relay_server::config::Settings;
//! use relay_server::embed::{Item, Server};
//!
//! let server = Server::start(Settings { data: "relay-data".into(), ..Settings::default() })?;
//! let mut jobs = server.handle().open_stream(vec![Filter::default()], None).await?;
//! while let Some(Item::Event(seq, event)) = jobs.next().await {
//!     println!("{seq:?} {}", event.id);
//! }
//! # Ok(())
//! # }
//! ```

use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use tokio::sync::Notify;

use crate::cli::serve_here;
use crate::config::Settings;
pub use crate::handle::{Item, ReadError, RelayHandle, Stopped, Stream};
use crate::serve::Embedded;

/// A relay that serves on threads of its own. Dropping it stops it, without waiting.
pub struct Server {
    address: SocketAddr,
    handle: RelayHandle,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl Server {
    /// Opens the store that the settings name, and serves. Signals are left to the process; nothing is logged unless
    /// it has set up `tracing`.
    ///
    /// # Errors
    /// With a message, if the store cannot be opened or an address not be bound.
    pub fn start(settings: Settings) -> Result<Self, String> {
        let stop = Arc::new(Notify::new());
        let (started, has_started) = mpsc::channel();
        let embedded = Embedded { stop: Arc::clone(&stop), started };
        let thread = thread::Builder::new()
            .name("relay".to_owned())
            .spawn(move || serve_here(settings, Some(embedded)).map_err(|failure| failure.to_string()))
            .map_err(|error| error.to_string())?;
        match has_started.recv() {
            Ok((address, handle)) => Ok(Server { address, handle, stop, thread: Some(thread) }),
            // It ended before it had begun.
            Err(_) => match thread.join() {
                Ok(Err(message)) => Err(message),
                Ok(Ok(())) | Err(_) => Err("the relay exited during start".to_owned()),
            },
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A handle to publish events and open streams without a socket.
    pub fn handle(&self) -> &RelayHandle {
        &self.handle
    }

    /// Finishes what is in flight, closes its connections (1001) and ends; what was acknowledged is stored.
    ///
    /// # Errors
    /// With a message, if the store failed.
    pub fn stop(mut self) -> Result<(), String> {
        self.stop.notify_one();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(ended)) => ended,
            Some(Err(_)) => Err("a thread of the relay panicked".to_owned()),
            None => Ok(()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.notify_one();
    }
}
