//! Tracks frame boundaries in front of the WebSocket library, to skip messages that are too long.
//!
//! It decides which bytes the library sees. A frame that makes its message longer than the limit never reaches it,
//! nor does the rest of that message: their bytes are skipped as they come, what the library has of it is dropped,
//! and the connection stays open. Everything else, faults included, is passed on for the library to check. It buffers
//! nothing; of a message that is skipped, or may yet be, an [`IdScanner`] keeps the id that its answer has to name.

use std::io::Cursor;

use relay_engine::wire::{IdScanner, ReplyTarget};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Data, OpCode};

/// A message declared this many times longer than the limit, and longer than this many bytes, is abuse:
/// skipping it is not worth the traffic.
const SKIP_TIMES_MAX: u64 = 64;
pub(super) const SKIP_BYTES_MAX: u64 = 64 << 20;

/// What may be done with the bytes at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This many of the first bytes are for the library.
    Pass(usize),
    /// This many of the first bytes belong to a message that is skipped.
    Skip(usize),
    /// All of a message of this many bytes has been skipped; this is what it was about.
    Skipped(u64, ReplyTarget),
    /// What the library has of the message under way is to be dropped: the rest will be skipped.
    Drop,
    /// A message of this many bytes is so long that the connection should end.
    TooLong(u64),
    /// The bytes end inside a header.
    Incomplete,
}

#[derive(Clone, Copy, Debug)]
enum FrameState {
    /// Between frames.
    Boundary,
    Pass {
        left: u64,
    },
    Skip {
        left: u64,
        /// The length of the message that ends with these bytes.
        of: Option<u64>,
    },
    /// The library has been handed something it will refuse.
    PassAll,
}

/// The filter of one connection.
#[derive(Debug)]
pub(super) struct OversizeFilter {
    message_bytes_max: u64,
    state: FrameState,
    /// A fragmented message is under way.
    in_message: bool,
    /// Bytes of its frames so far, the last one's declared.
    message_bytes: u64,
    /// It is longer than the limit.
    skips_message: bool,
    scan: PayloadScan,
}

/// Feeds the payloads of one message to an [`IdScanner`].
#[derive(Debug, Default)]
struct PayloadScan {
    scanner: IdScanner,
    /// The message is text. A binary one is none, whatever it holds.
    is_text: bool,
    /// Bytes of the frame's header that are still to come.
    header_left: usize,
    /// The frame's mask, turned to the next byte of the payload. `None`: the frame is not scanned.
    mask: Option<[u8; 4]>,
}

/// Bytes unmasked at a time.
const UNMASKED_BYTES: usize = 1024;

impl PayloadScan {
    fn begin_frame(&mut self, header_len: usize, mask: Option<[u8; 4]>) {
        (self.header_left, self.mask) = (header_len, mask);
    }

    /// The next bytes of the frame.
    fn take(&mut self, bytes: &[u8]) {
        let Some(mask) = &mut self.mask else { return };
        let header = self.header_left.min(bytes.len());
        self.header_left -= header;
        let mut payload = &bytes[header..];
        let mut plain = [0; UNMASKED_BYTES];
        while !payload.is_empty() && !self.scanner.is_done() {
            let (piece, rest) = payload.split_at(payload.len().min(UNMASKED_BYTES));
            for (at, (to, byte)) in plain.iter_mut().zip(piece).enumerate() {
                *to = byte ^ mask[at % 4];
            }
            mask.rotate_left(piece.len() % 4);
            self.scanner.feed(&plain[..piece.len()]);
            payload = rest;
        }
    }
}

impl OversizeFilter {
    pub(super) fn new(message_bytes_max: usize) -> Self {
        OversizeFilter {
            message_bytes_max: message_bytes_max as u64,
            state: FrameState::Boundary,
            in_message: false,
            message_bytes: 0,
            skips_message: false,
            scan: PayloadScan::default(),
        }
    }

    /// Whether everything so far has been whole messages.
    pub(super) fn is_between_messages(&self) -> bool {
        matches!(self.state, FrameState::Boundary) && !self.in_message
    }

    /// Judges the start of `input` without consuming it; [`OversizeFilter::advance`] does.
    pub(super) fn judge(&mut self, input: &[u8]) -> Verdict {
        let clip = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        match self.state {
            FrameState::Pass { left } => Verdict::Pass(clip(left)),
            FrameState::PassAll => Verdict::Pass(input.len()),
            FrameState::Skip { left: 0, of } => {
                self.state = FrameState::Boundary;
                match of {
                    Some(bytes) => Verdict::Skipped(bytes, self.scan.scanner.reply_to().clone()),
                    None => self.judge(input),
                }
            }
            FrameState::Skip { left, .. } => Verdict::Skip(clip(left)),
            FrameState::Boundary => self.read_header(input),
        }
    }

    /// These of the bytes that were judged have been passed or skipped.
    pub(super) fn advance(&mut self, bytes: &[u8]) {
        let count = bytes.len();
        self.scan.take(bytes);
        match &mut self.state {
            FrameState::Pass { left } => {
                *left -= count as u64;
                if *left == 0 {
                    self.state = FrameState::Boundary;
                }
            }
            FrameState::Skip { left, .. } => *left -= count as u64,
            FrameState::Boundary | FrameState::PassAll => {}
        }
    }

    fn skip_bytes_max(&self) -> u64 {
        self.message_bytes_max.saturating_mul(SKIP_TIMES_MAX).max(SKIP_BYTES_MAX)
    }

    fn read_header(&mut self, input: &[u8]) -> Verdict {
        let mut cursor = Cursor::new(input);
        let (header, payload_len) = match FrameHeader::parse(&mut cursor) {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return Verdict::Incomplete,
            Err(_) => {
                self.state = FrameState::PassAll;
                return Verdict::Pass(input.len());
            }
        };
        let header_len = cursor.position();
        self.scan.begin_frame(0, None);
        let is_sound = header.mask.is_some() && !header.rsv1 && !header.rsv2 && !header.rsv3;
        let continues = match header.opcode {
            OpCode::Data(Data::Text | Data::Binary) => Some(false),
            OpCode::Data(Data::Continue) => Some(true),
            _ => None,
        };
        if let Some(continues) = continues {
            if is_sound && continues == self.in_message {
                let before = if continues { self.message_bytes } else { 0 };
                self.message_bytes = before.saturating_add(payload_len);
                if self.message_bytes > self.skip_bytes_max() {
                    return Verdict::TooLong(self.message_bytes);
                }
                let drops = continues && !self.skips_message;
                self.skips_message = self.message_bytes > self.message_bytes_max;
                self.in_message = !header.is_final;
                if !continues {
                    let is_text = header.opcode == OpCode::Data(Data::Text);
                    self.scan = PayloadScan { is_text, ..PayloadScan::default() };
                }
                // A message that is whole and not too long is the library's alone.
                if self.scan.is_text && (self.skips_message || continues || !header.is_final) {
                    self.scan.begin_frame(header_len as usize, header.mask);
                }
                if self.skips_message {
                    let of = header.is_final.then_some(self.message_bytes);
                    self.state = FrameState::Skip { left: header_len + payload_len, of };
                    return if drops { Verdict::Drop } else { self.judge(input) };
                }
            } else if self.skips_message && self.in_message {
                // The library has dropped the message that this one interrupts, and would take it.
                return Verdict::TooLong(self.message_bytes);
            } else {
                self.in_message = !header.is_final;
            }
        }
        // A declared length near 2^64 is the library's to refuse.
        self.state = FrameState::Pass { left: header_len.saturating_add(payload_len) };
        self.judge(input)
    }
}
