//! File descriptors: how many sockets fit, and what is done when there are none left.

use std::fs::File;
use std::io;

use rustix::io::Errno;

/// Sockets beyond `connections_max` that plain HTTP is served on.
const HTTP_SOCKETS_MAX: usize = 256;

/// Clients that have been refused and are read from for a moment.
pub(crate) const LINGERING_MAX: usize = 32;

/// Descriptors of the process and its store, readers of a metrics listener included.
const PROCESS_FILES: usize = 96;

/// Descriptors of a shard's runtime.
const SHARD_FILES: usize = 8;

/// How many sockets are served at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SocketLimits {
    /// WebSockets.
    pub(crate) connections: usize,
    /// All sockets.
    pub(crate) sockets: usize,
}

impl SocketLimits {
    /// As many as are asked for, if they fit into `files` descriptors beside those of the process and its shards;
    /// `None`: there is no limit.
    pub(crate) fn new(connections_max: usize, shards: usize, files: Option<u64>) -> Self {
        let wanted = connections_max.saturating_add(HTTP_SOCKETS_MAX);
        let Some(files) = files.and_then(|files| usize::try_from(files).ok()) else {
            return SocketLimits { connections: connections_max, sockets: wanted };
        };
        // A limit that small leaves half of it to sockets, so that some are served.
        let reserve =
            shards.saturating_mul(SHARD_FILES).saturating_add(PROCESS_FILES + LINGERING_MAX).min(files / 2);
        let sockets = wanted.min(files - reserve);
        let http = HTTP_SOCKETS_MAX.min(sockets / 4);
        SocketLimits { connections: connections_max.min(sockets - http).max(1), sockets: sockets.max(1) }
    }
}

/// The soft limit on descriptors of this process.
pub(crate) fn limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// Whether a socket could not be accepted because the process, or the system, has no descriptor left.
pub(super) fn ran_out(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Whether only the one connection that would have been accepted is lost.
pub(super) fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// A spare descriptor: with it a client can be answered 503 when there is no other.
pub(super) struct SpareDescriptor(Option<File>);

impl SpareDescriptor {
    pub(super) fn new() -> Self {
        let mut spare = SpareDescriptor(None);
        spare.reacquire();
        spare
    }

    /// Releases it for what is done next. False: there was none.
    pub(super) fn release(&mut self) -> bool {
        self.0.take().is_some()
    }

    /// Takes one again, if there is one.
    pub(super) fn reacquire(&mut self) {
        if self.0.is_none() {
            self.0 = File::open("/dev/null").ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_stay_below_the_limit_on_descriptors() {
        let limits = |connections, sockets| SocketLimits { connections, sockets };
        for (connections_max, shards, files, expected) in [
            (10_000, 2, Some(65_536), limits(10_000, 10_256)),
            (10_000, 2, None, limits(10_000, 10_256)),
            (10_000, 2, Some(10_400), limits(10_000, 10_256)),
            (10_000, 2, Some(10_399), limits(9_999, 10_255)),
            (10_000, 4, Some(1024), limits(648, 864)),
            (10_000, 1, Some(256), limits(96, 128)),
            (10, 1, Some(1024), limits(10, 266)),
            (10_000, 1, Some(64), limits(24, 32)),
            (10_000, 1024, Some(1024), limits(384, 512)),
            (usize::MAX, usize::MAX, Some(1), limits(1, 1)),
        ] {
            assert_eq!(SocketLimits::new(connections_max, shards, files), expected, "{files:?}");
        }
    }
}
