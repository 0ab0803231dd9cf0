//! Signals: which ones stop the process, and which are ignored.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal that comes this soon after the first counts as the same: `timeout` and shells signal a process, and then once
/// more its group.
const REPEAT_WINDOW: Duration = Duration::from_secs(1);

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// SIGINT or SIGTERM.
    Stop,
    /// SIGHUP: a terminal was closed, or a reload of the configuration is asked for.
    HangUp,
}

/// Signals from now on, instead of what they do by default.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    first_at: Option<Instant>,
}

impl Signals {
    /// Within a runtime.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            first_at: None,
        })
    }

    /// Waits for the next signal. After the first that asks to stop, another one counts only after [`REPEAT_WINDOW`].
    pub(crate) async fn next(&mut self) -> Asked {
        loop {
            let asked = tokio::select! {
                _ = self.interrupt.recv() => Asked::Stop,
                _ = self.terminate.recv() => Asked::Stop,
                _ = self.hangup.recv() => Asked::HangUp,
            };
            if asked == Asked::HangUp {
                return asked;
            }
            let now = Instant::now();
            let first_at = *self.first_at.get_or_insert(now);
            if first_at == now || now.saturating_duration_since(first_at) >= REPEAT_WINDOW {
                return asked;
            }
        }
    }

    /// Waits for the next signal that asks to stop; logs the others.
    pub(crate) async fn stop(&mut self) {
        while self.next().await == Asked::HangUp {
            tracing::info!("SIGHUP: nothing to do, the configuration is read at the start only");
        }
    }
}

/// A stop asked for while a command works.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on SIGINT, SIGTERM and SIGHUP ask the command to end; a second one, a second or more later, ends the process at
    /// once with code 130.
    pub(crate) fn watch() -> io::Result<Self> {
        let interrupt = Interrupt(Arc::default());
        let has_come = Arc::clone(&interrupt.0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let mut signals = {
            let _guard = runtime.enter();
            Signals::new()?
        };
        thread::Builder::new().name("relay-signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                signals.next().await;
                has_come.store(true, Ordering::Relaxed);
                while signals.next().await == Asked::HangUp {}
                std::process::exit(130);
            });
        })?;
        Ok(interrupt)
    }

    /// One that only [`Interrupt::come`] brings.
    pub(crate) fn without_signals() -> Self {
        Interrupt(Arc::default())
    }

    /// As if a signal had come.
    pub(crate) fn come(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether one has come.
    pub(crate) fn has_come(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
