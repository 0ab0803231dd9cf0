//! What is counted of blobs, for `/metrics`.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};

use relay_blossom::index::Totals;
use relay_site::BlossomRoute;

/// Operations that are counted apart.
pub(crate) const OPERATIONS: [&str; 12] = [
    "get", "head", "upload", "put", "patch", "check", "mirror", "media", "delete", "list", "report", "admin",
];
/// Classes of status codes.
pub(crate) const STATUSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// Counted since the start.
#[derive(Debug)]
pub(super) struct Counters {
    requests: [[AtomicU64; STATUSES.len()]; OPERATIONS.len()],
    /// Bytes of bodies that came, and of those that were sent.
    received: AtomicU64,
    sent: AtomicU64,
    /// Uploads that wait until others are done.
    waiting: AtomicU64,
}

/// A snapshot for `/metrics`.
#[derive(Clone, Debug)]
pub(crate) struct BlossomSnapshot {
    /// In the order of [`OPERATIONS`] and [`STATUSES`].
    pub(crate) requests: [[u64; STATUSES.len()]; OPERATIONS.len()],
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
    /// Uploads whose bytes are being taken.
    pub(crate) uploads: u64,
    pub(crate) uploads_waiting: u64,
    /// `None` if the index fails.
    pub(crate) totals: Option<Totals>,
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            requests: array::from_fn(|_| array::from_fn(|_| AtomicU64::new(0))),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
        }
    }
}

impl Counters {
    /// A request has been answered.
    pub(super) fn answered(&self, route: BlossomRoute, method: &str, status: u16) {
        // The page is no operation on blobs.
        let Some(operation) = operation(route, method) else { return };
        let class = usize::from(status / 100).clamp(2, 5) - 2;
        self.requests[operation][class].fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes of a body have come.
    pub(super) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of a blob are sent.
    pub(super) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// An upload waits until this is dropped.
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(self)
    }

    pub(super) fn snapshot(&self, uploads: u64, totals: Option<Totals>) -> BlossomSnapshot {
        let read = |value: &AtomicU64| value.load(Ordering::Relaxed);
        BlossomSnapshot {
            requests: array::from_fn(|operation| {
                array::from_fn(|class| read(&self.requests[operation][class]))
            }),
            bytes_received: read(&self.received),
            bytes_sent: read(&self.sent),
            uploads,
            uploads_waiting: read(&self.waiting),
            totals,
        }
    }
}

pub(super) struct Waiting<'a>(&'a Counters);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

fn operation(route: BlossomRoute, method: &str) -> Option<usize> {
    use BlossomRoute as R;
    let name = match route {
        R::Page => return None,
        R::Blob if method == "HEAD" => "head",
        R::Blob => "get",
        R::Upload => "upload",
        R::PutBlob => "put",
        R::PatchBlob => "patch",
        R::CheckUpload | R::CheckMedia => "check",
        R::Mirror => "mirror",
        R::Media => "media",
        R::Delete => "delete",
        R::List => "list",
        R::Report => "report",
        R::Blobs | R::Stat | R::Remove | R::Bans | R::Ban | R::Unban | R::Reports | R::Gc => "admin",
    };
    OPERATIONS.iter().position(|own| *own == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_operation_and_class() {
        let counters = Counters::default();
        counters.answered(BlossomRoute::Blob, "GET", 206);
        counters.answered(BlossomRoute::Blob, "HEAD", 304);
        counters.answered(BlossomRoute::Upload, "PUT", 507);
        counters.answered(BlossomRoute::Gc, "POST", 401);
        counters.answered(BlossomRoute::Page, "GET", 200);
        let found = counters.snapshot(0, None);
        let mut counted = Vec::new();
        for (name, by_status) in OPERATIONS.iter().zip(found.requests) {
            for (class, count) in STATUSES.iter().zip(by_status).filter(|(_, count)| *count > 0) {
                counted.push((*name, *class, count));
            }
        }
        let want = [("get", "2xx", 1), ("head", "3xx", 1), ("upload", "5xx", 1), ("admin", "4xx", 1)];
        assert_eq!(counted, want);
    }
}
