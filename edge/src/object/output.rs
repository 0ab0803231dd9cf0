//! Output: from the machine's outboxes to sockets, and detecting slow readers.
//!
//! Frames go to the socket at once, because what is queued there survives hibernation and an outbox does not. The bytes
//! queued in a slow reader's socket are reported to the machine as backlog, so that its scans pause and its live
//! events are read from the store later.

use relay_engine::relay::ConnId;
use relay_engine::types::Now;

use super::{Host, Object, RowCountingConn};

/// Output queued in sockets is not reported while all of it is less than this part of what may wait.
const UNREPORTED_SHARE: usize = 8;

/// What is queued for a slow reader.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backlog {
    pub(super) bytes: usize,
    /// When the reader last read anything.
    last_read: Now,
}

impl<C: RowCountingConn + 'static, H: Host> Object<C, H> {
    /// Sends all output and closes the sockets that the machine wants closed.
    pub(super) fn send_all(&mut self, now: Now) {
        let mut text = Vec::new();
        while let Some(id) = self.relay.poll_ready() {
            let Some(conn) = self.conns.get(&id) else { continue };
            let host = &self.host;
            self.relay.drain(id, usize::MAX, &mut |frame| {
                text.clear();
                frame.write_to(&mut text);
                match std::str::from_utf8(&text) {
                    Ok(text) => host.send(&conn.socket, text),
                    Err(_) => host.send(&conn.socket, &String::from_utf8_lossy(&text)),
                }
            });
            self.update_backlog(now, id);
        }
        while let Some((id, close)) = self.relay.poll_close() {
            self.close(id, close.code, &close.reason);
        }
        while let Some(id) = self.relay.poll_input_resumed() {
            self.resumed.extend(self.conns.get(&id).map(|conn| conn.key));
        }
    }

    /// Reports to the machine how many bytes are queued in a socket. Little counts as none, because that reader is not slow:
    /// of all sockets together it is at most an eighth of what may wait.
    pub(super) fn update_backlog(&mut self, now: Now, id: ConnId) {
        let Some(conn) = self.conns.get(&id) else { return };
        let bytes = self.host.buffered_bytes(&conn.socket);
        let little = self.output_bytes_max / UNREPORTED_SHARE / self.conns.len();
        let little = little.min(self.relay.outbox_pause_bytes() / 2);
        let bytes = if bytes > little { bytes } else { 0 };
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let known = conn.backlog.map_or(0, |backlog| backlog.bytes);
        if bytes == 0 {
            conn.backlog = None;
            self.slow.remove(&id);
        } else {
            let unread = conn.backlog.filter(|backlog| bytes >= backlog.bytes);
            let last_read = unread.map_or(now, |old| old.last_read);
            conn.backlog = Some(Backlog { bytes, last_read });
            self.slow.insert(id);
        }
        if bytes != known {
            self.relay.handle_backlog(id, bytes);
        }
    }

    /// Updates the backlogs of slow readers, and closes those that have read nothing for `write_stall_seconds`.
    pub(super) fn check_slow_readers(&mut self, now: Now) {
        let stall_ms_max = self.write_stall_seconds.saturating_mul(1000);
        for id in self.slow.clone() {
            self.update_backlog(now, id);
            let Some(conn) = self.conns.get(&id) else { continue };
            if conn.backlog.is_some_and(|backlog| now.millis_since(backlog.last_read) >= stall_ms_max) {
                self.counters.closed_stalled += 1;
                self.close(id, 1008, "the client is not reading");
            }
        }
    }
}
