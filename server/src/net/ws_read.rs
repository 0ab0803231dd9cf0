//! What a client sends, from bytes to messages: first the oversize filter, then tungstenite's protocol.
//!
//! No socket and no machine in here: bytes come in as slices, messages go to a sink, and what the protocol
//! answers by itself (pongs, the close reply) is appended to a buffer.

use std::io::{self, Read, Write};

use relay_engine::wire::ReplyTarget;
use tungstenite::error::{CapacityError, Error};
use tungstenite::protocol::frame::Utf8Bytes;
use tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};

use super::oversize_filter::{OversizeFilter, Verdict};

/// The library's buffer for the frame at hand; a longer frame makes it grow until it has been read.
const READ_BUFFER_BYTES: usize = 4096;
/// After a message longer than this the large buffer is freed.
const KEPT_BUFFER_BYTES_MAX: usize = 64 << 10;

/// Something a client sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A text message.
    Text(Utf8Bytes),
    /// A binary message.
    Binary,
    /// A message over the limit, of this many bytes, that was skipped; an `IdScanner` found what the reply must name.
    Oversized(u64, ReplyTarget),
    /// A ping or a pong.
    Control,
    /// The client has sent a close frame; the reply is in the output.
    Closed,
    /// The stream breaks the protocol and should be closed with this error.
    Broken(StreamError),
}

/// Why no more can be read from a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamError {
    /// Text that is not UTF-8.
    Utf8,
    /// A message is too long even to skip; this much is known of its size.
    TooLong(u64),
    /// The bytes break RFC 6455.
    Protocol,
}

impl StreamError {
    /// The close code and reason of RFC 6455.
    pub(crate) fn close(self) -> (u16, &'static str) {
        match self {
            StreamError::Utf8 => (1007, "text must be UTF-8"),
            StreamError::TooLong(_) => (1009, "message too long"),
            StreamError::Protocol => (1002, "not the WebSocket protocol"),
        }
    }
}

/// Whether the receiver wants more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// It does.
    Go,
    /// Not now: what is left is kept for [`Reader::resume`].
    Pause,
}

/// The receiving side of one connection.
pub(crate) struct Reader {
    protocol: WebSocketContext,
    config: WebSocketConfig,
    filter: OversizeFilter,
    /// Bytes that came and could not be used yet: an incomplete header, or all that came during a pause.
    pending: Vec<u8>,
    largest: usize,
    over: bool,
}

impl Reader {
    pub(crate) fn new(message_bytes_max: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(message_bytes_max))
            .max_frame_size(Some(message_bytes_max));
        Reader {
            protocol: WebSocketContext::new(Role::Server, Some(config)),
            config,
            filter: OversizeFilter::new(message_bytes_max),
            pending: Vec::new(),
            largest: 0,
            over: false,
        }
    }

    /// Takes bytes from the socket and hands messages to `sink`. Answers of the protocol are appended to
    /// `output`.
    pub(crate) fn feed(
        &mut self,
        bytes: &[u8],
        output: &mut Vec<u8>,
        sink: &mut dyn FnMut(Received) -> Flow,
    ) -> Flow {
        if self.pending.is_empty() {
            let (used, flow) = self.run(bytes, output, sink);
            self.pending.extend_from_slice(&bytes[used..]);
            return flow;
        }
        self.pending.extend_from_slice(bytes);
        self.resume(output, sink)
    }

    /// Continues after a pause with the bytes that are buffered.
    pub(crate) fn resume(&mut self, output: &mut Vec<u8>, sink: &mut dyn FnMut(Received) -> Flow) -> Flow {
        let mut pending = std::mem::take(&mut self.pending);
        let (used, flow) = self.run(&pending, output, sink);
        if used < pending.len() {
            pending.drain(..used);
            self.pending = pending;
        }
        flow
    }

    /// Whether bytes are buffered. They may be no more than the start of a header.
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// How many bytes were used, and whether the sink wants more.
    fn run(
        &mut self,
        bytes: &[u8],
        output: &mut Vec<u8>,
        sink: &mut dyn FnMut(Received) -> Flow,
    ) -> (usize, Flow) {
        let mut at = 0;
        loop {
            if self.over {
                return (bytes.len(), Flow::Go);
            }
            let rest = &bytes[at..];
            let received = match self.filter.judge(rest) {
                Verdict::Incomplete | Verdict::Pass(0) | Verdict::Skip(0) => {
                    self.give_back_buffer();
                    return (at, Flow::Go);
                }
                Verdict::Skip(count) => {
                    self.filter.advance(&rest[..count]);
                    at += count;
                    None
                }
                Verdict::Skipped(bytes, reply_to) => Some(Received::Oversized(bytes, reply_to)),
                Verdict::Drop => {
                    self.protocol = WebSocketContext::new(Role::Server, Some(self.config));
                    None
                }
                Verdict::TooLong(bytes) => self.broken(StreamError::TooLong(bytes)),
                Verdict::Pass(count) => {
                    // One frame at most, so that the library never holds a message back.
                    let mut input = &rest[..count];
                    let received = self.read(&mut input, output);
                    let used = count - input.len();
                    self.filter.advance(&rest[..used]);
                    at += used;
                    received
                }
            };
            if let Some(received) = received
                && sink(received) == Flow::Pause
            {
                return (at, Flow::Pause);
            }
        }
    }

    /// Lets the library read from `input` until it has a message or wants more.
    fn read(&mut self, input: &mut &[u8], output: &mut Vec<u8>) -> Option<Received> {
        let mut feed = Feed { input, output };
        match self.protocol.read(&mut feed) {
            Ok(Message::Text(text)) => {
                self.largest = self.largest.max(text.len());
                Some(Received::Text(text))
            }
            Ok(Message::Binary(bytes)) => {
                self.largest = self.largest.max(bytes.len());
                Some(Received::Binary)
            }
            Ok(Message::Close(_)) => {
                let _ = self.protocol.flush(&mut feed);
                self.over = true;
                Some(Received::Closed)
            }
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {
                // A pong waits inside the library; writing to memory cannot fail.
                let _ = self.protocol.flush(&mut feed);
                Some(Received::Control)
            }
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(Error::Capacity(CapacityError::MessageTooLong { size, .. })) => {
                self.broken(StreamError::TooLong(size as u64))
            }
            Err(Error::Utf8(_)) => self.broken(StreamError::Utf8),
            Err(_) => self.broken(StreamError::Protocol),
        }
    }

    fn broken(&mut self, fault: StreamError) -> Option<Received> {
        self.over = true;
        Some(Received::Broken(fault))
    }

    /// Between messages the library holds nothing but an empty buffer, as large as the largest message.
    fn give_back_buffer(&mut self) {
        if self.largest > KEPT_BUFFER_BYTES_MAX && self.filter.is_between_messages() {
            self.protocol = WebSocketContext::new(Role::Server, Some(self.config));
            self.largest = 0;
        }
    }
}

/// A stream of the bytes at hand.
struct Feed<'a, 'b> {
    input: &'a mut &'b [u8],
    output: &'a mut Vec<u8>,
}

impl Read for Feed<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.input.read(buffer)
    }
}

impl Write for Feed<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tungstenite::protocol::frame::coding::{Data, OpCode};
    use tungstenite::protocol::frame::{Frame, FrameHeader};

    use super::*;

    const LIMIT: usize = 200;

    fn frame(opcode: Data, is_final: bool, payload: &[u8]) -> Vec<u8> {
        let mut header = FrameHeader { is_final, opcode: OpCode::Data(opcode), ..FrameHeader::default() };
        header.mask = Some([1, 2, 3, 4]);
        let mut bytes = Vec::new();
        Frame::from_payload(header, payload.to_vec().into()).format(&mut bytes).expect("memory");
        bytes
    }

    fn control(frame: Frame) -> Vec<u8> {
        let mut frame = frame;
        frame.header_mut().mask = Some([9, 9, 9, 9]);
        let mut bytes = Vec::new();
        frame.format(&mut bytes).expect("memory");
        bytes
    }

    fn text(payload: &str) -> Vec<u8> {
        frame(Data::Text, true, payload.as_bytes())
    }

    fn got(text: &str) -> Received {
        Received::Text(text.into())
    }

    /// Feeds `bytes` in pieces of every size, pausing after every message or not, and expects the same.
    fn check(bytes: &[u8], want: &[Received]) -> Vec<u8> {
        let mut outputs = Vec::new();
        for piece in [1, 2, 3, 7, 13, 14, 15, 100, bytes.len().max(1)] {
            for pauses in [false, true] {
                let mut reader = Reader::new(LIMIT);
                let (mut output, mut seen) = (Vec::new(), Vec::new());
                for chunk in bytes.chunks(piece) {
                    let mut sink = |received| {
                        seen.push(received);
                        if pauses { Flow::Pause } else { Flow::Go }
                    };
                    let mut flow = reader.feed(chunk, &mut output, &mut sink);
                    while flow == Flow::Pause {
                        flow = reader.resume(&mut output, &mut sink);
                    }
                }
                assert_eq!(seen, want, "in pieces of {piece}, pausing: {pauses}");
                outputs.push(output);
            }
        }
        assert!(outputs.iter().all(|output| *output == outputs[0]), "the pieces change no answer");
        outputs.remove(0)
    }

    #[test]
    fn the_limit_is_exact() {
        let fits = "x".repeat(LIMIT);
        check(&text(&fits), &[got(&fits)]);
        let over = text(&"x".repeat(LIMIT + 1));
        let oversized = || Received::Oversized(LIMIT as u64 + 1, ReplyTarget::Notice);
        check(&[over, text("next")].concat(), &[oversized(), got("next")]);
        let binary = frame(Data::Binary, true, &[0; LIMIT + 1]);
        check(&[binary, text("next")].concat(), &[oversized(), got("next")]);
    }

    #[test]
    fn pieces_add_up_to_the_limit_and_no_further() {
        let half = "y".repeat(LIMIT / 2);
        let whole = half.repeat(2);
        let fragmented = [
            frame(Data::Text, false, half.as_bytes()),
            control(Frame::ping("between".as_bytes().to_vec())),
            frame(Data::Continue, true, half.as_bytes()),
            text("next"),
        ]
        .concat();
        let output = check(&fragmented, &[Received::Control, got(&whole), got("next")]);
        assert_eq!(output, [&[0x8a, 7][..], b"between"].concat(), "the pong");
        let over = |bytes: usize| Received::Oversized(bytes as u64, ReplyTarget::Notice);
        let too_long = [
            frame(Data::Text, false, whole.as_bytes()),
            frame(Data::Continue, true, b"z"),
            text("next"),
            frame(Data::Text, false, b"a"),
            frame(Data::Continue, true, b"b"),
        ]
        .concat();
        check(&too_long, &[over(LIMIT + 1), got("next"), got("ab")]);
        // The rest is skipped whatever its length; what comes between is answered.
        let first_too_long = [
            frame(Data::Text, false, &[b'x'; LIMIT + 1]),
            control(Frame::ping("between".as_bytes().to_vec())),
            frame(Data::Continue, false, b"y"),
            frame(Data::Continue, false, &[b'z'; LIMIT + 5]),
            frame(Data::Continue, true, b""),
            text("next"),
        ]
        .concat();
        let output = check(&first_too_long, &[Received::Control, over(2 * LIMIT + 7), got("next")]);
        assert_eq!(output, [&[0x8a, 7][..], b"between"].concat(), "the pong");
        // A new message in the middle of another is a fault, also when that is skipped.
        let interrupted = [frame(Data::Text, false, &[b'x'; LIMIT + 1]), text("inside")].concat();
        check(&interrupted, &[Received::Broken(StreamError::TooLong(LIMIT as u64 + 1))]);
    }

    /// Clients write the id of an event before its content or after it; either way it is found in what is skipped, in
    /// one frame and in fragments of which the library has seen some.
    #[test]
    fn what_is_skipped_is_known_by_its_id() {
        let long = "x".repeat(LIMIT);
        let event = |fields: &str| format!(r#"["EVENT",{{{fields}}}]"#);
        let cases = [
            (event(&format!(r#""id":"ab","content":"{long}""#)), ReplyTarget::Event(Some("ab".into()))),
            (
                event(&format!(r#""content":"{long}\"id\":","id":"cd","sig":"""#)),
                ReplyTarget::Event(Some("cd".into())),
            ),
            (event(&format!(r#""content":"{long}""#)), ReplyTarget::Event(None)),
            (format!(r#"["REQ","sub",{{"search":"{long}"}}]"#), ReplyTarget::Req("sub".into())),
            (format!(r#"["REQ","{long}",{{}}]"#), ReplyTarget::Req(long.as_str().into())),
            (format!(r##"["COUNT","é\n",{{"#t":["{long}"]}}]"##), ReplyTarget::Count("é\n".into())),
        ];
        for (message, reply_to) in cases {
            let want = [Received::Oversized(message.len() as u64, reply_to), got("next")];
            check(&[text(&message), text("next")].concat(), &want);
            for each in [1, 7, LIMIT / 3, LIMIT] {
                let pieces: Vec<&[u8]> = message.as_bytes().chunks(each).collect();
                let mut bytes = Vec::new();
                for (at, piece) in pieces.iter().enumerate() {
                    let kind = if at == 0 { Data::Text } else { Data::Continue };
                    bytes.extend(frame(kind, at + 1 == pieces.len(), piece));
                    bytes.extend(control(Frame::pong(Vec::new())));
                }
                bytes.extend(text("next"));
                let mut reader = Reader::new(LIMIT);
                let mut seen = Vec::new();
                reader.feed(&bytes, &mut Vec::new(), &mut |received| {
                    if received != Received::Control {
                        seen.push(received);
                    }
                    Flow::Go
                });
                assert_eq!(seen, want, "in frames of {each}");
            }
        }
    }

    #[test]
    fn a_message_in_pieces_that_never_ends_is_too_long_at_last() {
        let piece = frame(Data::Continue, false, &[b'x'; LIMIT]);
        let mut bytes = frame(Data::Text, false, &[b'x'; LIMIT]);
        (0..super::super::oversize_filter::SKIP_BYTES_MAX as usize / LIMIT)
            .for_each(|_| bytes.extend_from_slice(&piece));
        let mut reader = Reader::new(LIMIT);
        let mut received = Vec::new();
        reader.feed(&bytes, &mut Vec::new(), &mut |message| {
            received.push(message);
            Flow::Go
        });
        assert!(matches!(received.as_slice(), [Received::Broken(StreamError::TooLong(_))]), "{received:?}");
    }

    #[test]
    fn an_absurd_length_ends_the_connection_at_its_header() {
        let mut header = vec![0x81, 0x80 | 127];
        header.extend_from_slice(&(1u64 << 40).to_be_bytes());
        header.extend_from_slice(&[0; 4]);
        check(&header, &[Received::Broken(StreamError::TooLong(1 << 40))]);
    }

    #[test]
    fn faults_are_told_apart() {
        let unmasked = [0x81, 1, b'x'];
        let reserved_bit = [0xc1, 0x80, 0, 0, 0, 0];
        let bad_opcode = [0x83, 0x80, 0, 0, 0, 0];
        let stray_continuation = frame(Data::Continue, true, b"x");
        let long_ping = [&[0x89, 0x80 | 126, 0, 126][..], &[0; 4 + 126]].concat();
        for bytes in [&unmasked[..], &reserved_bit, &bad_opcode, &stray_continuation, &long_ping] {
            check(bytes, &[Received::Broken(StreamError::Protocol)]);
        }
        check(&frame(Data::Text, true, b"\xff"), &[Received::Broken(StreamError::Utf8)]);
        let split = [frame(Data::Text, false, b"\xe2\x82"), frame(Data::Continue, true, b"\xac")].concat();
        check(&split, &[got("\u{20ac}")]);
    }

    #[test]
    fn a_close_frame_is_answered_and_nothing_is_read_after_it() {
        let close = control(Frame::close(None));
        let output = check(&[text("a"), close, text("b")].concat(), &[got("a"), Received::Closed]);
        assert_eq!(output, [0x88, 0]);
    }

    #[test]
    fn masked_garbage_never_panics() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..20_000 {
            let mut bytes = Vec::new();
            for _ in 0..8 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                bytes.extend_from_slice(&state.to_be_bytes());
            }
            let mut reader = Reader::new(LIMIT);
            reader.feed(&bytes, &mut Vec::new(), &mut |_| Flow::Go);
            reader.feed(&bytes, &mut Vec::new(), &mut |_| Flow::Go);
            assert!(reader.pending.len() < 16, "only a header may wait");
        }
    }

    #[test]
    fn a_large_message_leaves_no_large_buffer() {
        let mut reader = Reader::new(1 << 20);
        let large = "x".repeat(1 << 20);
        let mut seen = 0;
        reader.feed(&text(&large), &mut Vec::new(), &mut |received| {
            assert_eq!(received, got(&large));
            seen += 1;
            Flow::Go
        });
        assert_eq!((seen, reader.largest, reader.pending.capacity()), (1, 0, 0));
    }
}
