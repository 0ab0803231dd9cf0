//! What waits to be sent to one connection.
//!
//! An event's JSON is shared by all connections that are sent it; a queued delivery is two pointers and a few bytes.

use std::collections::VecDeque;
use std::sync::Arc;

/// One WebSocket text message: `head`, or `head body ]`.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// A whole frame, or `["EVENT","sub",`.
    pub head: &'a [u8],
    /// An event's canonical JSON, shared.
    pub body: Option<&'a Arc<[u8]>>,
}

impl Frame<'_> {
    /// Bytes of the message.
    pub fn len(&self) -> usize {
        self.head.len() + self.body.map_or(0, |body| body.len() + 1)
    }

    /// Whether there is nothing in it; there always is something.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends the message.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.head);
        if let Some(body) = self.body {
            out.extend_from_slice(body);
            out.push(b']');
        }
    }
}

#[derive(Debug)]
enum Queued {
    /// The next `len` bytes of the texts.
    Text {
        len: usize,
    },
    Event {
        head: Arc<[u8]>,
        body: Arc<[u8]>,
    },
}

/// The queue, and how many bytes it would take on the wire.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: VecDeque<Queued>,
    /// Frames other than events, one after the other, so that an OK costs no allocation of its own.
    texts: Vec<u8>,
    texts_drained: usize,
    bytes: usize,
}

/// Drained texts are moved out of the way past this many bytes, and no more are kept when idle.
const TEXTS_KEPT_BYTES: usize = 4096;

impl Outbox {
    /// Queues the one frame that `write` appends.
    pub(super) fn push_text(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.texts.len();
        write(&mut self.texts);
        let len = self.texts.len() - start;
        self.bytes += len;
        self.queue.push_back(Queued::Text { len });
    }

    pub(super) fn push_event(&mut self, head: Arc<[u8]>, body: Arc<[u8]>) {
        self.bytes += Frame { head: &head, body: Some(&body) }.len();
        self.queue.push_back(Queued::Event { head, body });
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Hands out frames until `bytes_max` bytes are passed. Returns the bytes handed out.
    pub(super) fn drain(&mut self, bytes_max: usize, write: &mut dyn FnMut(Frame<'_>)) -> usize {
        let mut sent = 0;
        while sent < bytes_max {
            let Some(queued) = self.queue.pop_front() else { break };
            let frame = match &queued {
                Queued::Text { len } => {
                    let start = self.texts_drained;
                    self.texts_drained += len;
                    Frame { head: &self.texts[start..start + len], body: None }
                }
                Queued::Event { head, body } => Frame { head, body: Some(body) },
            };
            sent += frame.len();
            write(frame);
        }
        self.bytes -= sent;
        self.tidy();
        sent
    }

    /// An idle connection keeps buffers of a few kilobytes at most, and a busy one no texts that have been sent.
    fn tidy(&mut self) {
        if self.queue.is_empty() {
            debug_assert_eq!(self.texts_drained, self.texts.len(), "no text without its place");
            self.texts.clear();
            self.texts_drained = 0;
            self.texts.shrink_to(TEXTS_KEPT_BYTES);
            self.queue.shrink_to(QUEUE_KEPT);
        } else if self.texts_drained > TEXTS_KEPT_BYTES {
            self.texts.drain(..self.texts_drained);
            self.texts_drained = 0;
        }
    }
}

/// Places of the queue kept when idle.
const QUEUE_KEPT: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_leave_in_order_and_bytes_add_up() {
        let mut outbox = Outbox::default();
        let mut expected = Vec::new();
        let mut seen: Vec<String> = Vec::new();
        for round in 0..2_000 {
            let text = format!("text {round}");
            outbox.push_text(|out| out.extend_from_slice(text.as_bytes()));
            expected.push(text);
            if round % 3 == 0 {
                outbox.push_event(b"head "[..].into(), b"body"[..].into());
                expected.push("head body]".into());
            }
            if round % 5 == 0 {
                outbox.drain(20, &mut |frame| {
                    let mut bytes = Vec::new();
                    frame.write_to(&mut bytes);
                    assert_eq!(bytes.len(), frame.len());
                    seen.push(String::from_utf8(bytes).unwrap());
                });
            }
        }
        let left: usize = expected[seen.len()..].iter().map(String::len).sum();
        assert_eq!(outbox.bytes(), left);
        while !outbox.is_empty() {
            outbox.drain(1, &mut |frame| {
                let mut bytes = Vec::new();
                frame.write_to(&mut bytes);
                seen.push(String::from_utf8(bytes).unwrap());
            });
        }
        assert_eq!(seen, expected);
        assert_eq!(outbox.bytes(), 0);
        assert!(outbox.texts.capacity() <= TEXTS_KEPT_BYTES);
    }
}
