//! What waits to be sent to one connection.
//!
//! An event's JSON is shared by all who are sent it; a queued delivery is two pointers and a few bytes.

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
    Text(Box<[u8]>),
    Event { head: Arc<[u8]>, body: Arc<[u8]> },
}

impl Queued {
    fn frame(&self) -> Frame<'_> {
        match self {
            Queued::Text(text) => Frame { head: text, body: None },
            Queued::Event { head, body } => Frame { head, body: Some(body) },
        }
    }
}

/// The queue, and how many bytes it would take on the wire.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: VecDeque<Queued>,
    bytes: usize,
}

impl Outbox {
    pub(super) fn push_text(&mut self, text: &[u8]) {
        self.bytes += text.len();
        self.queue.push_back(Queued::Text(text.into()));
    }

    pub(super) fn push_event(&mut self, head: Arc<[u8]>, body: Arc<[u8]>) {
        let queued = Queued::Event { head, body };
        self.bytes += queued.frame().len();
        self.queue.push_back(queued);
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
            let frame = queued.frame();
            sent += frame.len();
            write(frame);
        }
        self.bytes -= sent;
        if self.queue.is_empty() {
            // An idle connection holds no queue.
            self.queue = VecDeque::new();
        }
        sent
    }
}
