//! From the machine's outboxes to sockets, and how slow readers are known.
//!
//! Frames leave the machine at once, because what a socket holds outlives the object's memory and an outbox
//! does not. A socket that holds much is reported to the machine as backlog, so its reader's scans and
//! live events wait in the store.

use relay_engine::relay::ConnId;
use relay_engine::types::Now;

use super::{CountingConn, Host, Object};

/// All sockets may hold so small a part of what may wait before they are looked at.
const LITTLE_SHARE: usize = 8;

/// What a slow reader has not taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backlog {
    pub(super) bytes: usize,
    /// When it took something last.
    moved: Now,
}

impl<C: CountingConn + 'static, H: Host> Object<C, H> {
    /// Hands all output to the sockets, and closes what is to be closed.
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
            self.note_backlog(now, id);
        }
        while let Some((id, close)) = self.relay.poll_close() {
            self.close(id, close.code, &close.reason);
        }
        while let Some(id) = self.relay.poll_input_resumed() {
            self.resumed.extend(self.conns.get(&id).map(|conn| conn.key));
        }
    }

    /// Tells the machine how much a socket holds. Little is nobody's slowness, and is not looked at again; of all sockets
    /// together it is no more than an eighth of what may wait.
    pub(super) fn note_backlog(&mut self, now: Now, id: ConnId) {
        let Some(conn) = self.conns.get(&id) else { return };
        let bytes = self.host.buffered_bytes(&conn.socket);
        let little = self.output_bytes_max / LITTLE_SHARE / self.conns.len();
        let little = little.min(self.relay.outbox_bytes_pause() / 2);
        let bytes = if bytes > little { bytes } else { 0 };
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let known = conn.backlog.map_or(0, |backlog| backlog.bytes);
        if bytes == 0 {
            conn.backlog = None;
            self.slow.remove(&id);
        } else {
            let moved = conn.backlog.filter(|backlog| bytes >= backlog.bytes).map_or(now, |old| old.moved);
            conn.backlog = Some(Backlog { bytes, moved });
            self.slow.insert(id);
        }
        if bytes != known {
            self.relay.handle_backlog(id, bytes);
        }
    }

    /// Looks at the readers that were slow, and closes those that have taken nothing for too long.
    pub(super) fn look_at_slow(&mut self, now: Now) {
        let stall_ms_max = self.settings.write_stall_seconds.saturating_mul(1000);
        for id in self.slow.clone() {
            self.note_backlog(now, id);
            let Some(conn) = self.conns.get(&id) else { continue };
            if conn.backlog.is_some_and(|backlog| now.millis_since(backlog.moved) >= stall_ms_max) {
                self.numbers.closed_stalled += 1;
                self.close(id, 1008, "answers are not being read");
            }
        }
    }
}
