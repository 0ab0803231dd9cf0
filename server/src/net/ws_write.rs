//! What is sent, rendered into frames by us: unmasked, one frame a message, so that a body which many
//! connections share can later be compressed once for all of them.

use relay_engine::relay::Frame;

const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;

/// Longest payload of a control frame (RFC 6455, 5.5).
const CONTROL_BYTES_MAX: usize = 125;

/// Appends a text message.
pub(crate) fn text(out: &mut Vec<u8>, frame: Frame<'_>) {
    header(out, TEXT, frame.len());
    frame.write_to(out);
}

/// Appends a ping without payload.
pub(crate) fn ping(out: &mut Vec<u8>) {
    header(out, PING, 0);
}

/// Appends a close frame; `reason` is cut, at a character, where it is too long.
pub(crate) fn close(out: &mut Vec<u8>, code: u16, reason: &str) {
    let reason = &reason[..reason.floor_char_boundary(CONTROL_BYTES_MAX - 2)];
    header(out, CLOSE, 2 + reason.len());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

fn header(out: &mut Vec<u8>, first: u8, len: usize) {
    match len {
        0..=125 => out.extend_from_slice(&[first, len as u8]),
        126..=0xffff => {
            out.extend_from_slice(&[first, 126]);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.extend_from_slice(&[first, 127]);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::sync::Arc;

    use tungstenite::protocol::{Message, Role, WebSocket};

    use super::*;

    fn read_back(bytes: Vec<u8>) -> Message {
        let mut socket = WebSocket::from_raw_socket(Cursor::new(bytes), Role::Client, None);
        socket.read().expect("a message")
    }

    #[test]
    fn every_length_form_reads_back() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            let head = "x".repeat(len);
            let mut out = Vec::new();
            text(&mut out, Frame { head: head.as_bytes(), body: None });
            assert_eq!(read_back(out), Message::text(head), "{len}");
        }
        let body: Arc<[u8]> = b"{}"[..].into();
        let mut out = Vec::new();
        text(&mut out, Frame { head: br#"["EVENT","s","#, body: Some(&body) });
        assert_eq!(read_back(out), Message::text(r#"["EVENT","s",{}]"#));
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let mut out = Vec::new();
        close(&mut out, 1000, &"ä".repeat(100));
        let Message::Close(Some(frame)) = read_back(out) else { panic!("a close frame") };
        assert_eq!((u16::from(frame.code), frame.reason.len()), (1000, 122));
    }
}
