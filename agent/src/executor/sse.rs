//! Server-sent events, as they come in pieces (WHATWG HTML, "event stream interpretation").
//!
//! Of the crates for it, those in wide use are adapters of asynchronous streams, and those without I/O are new. Each byte is
//! looked at once; memory is that of one event, so the limit of the response bounds it.

use memchr::memchr2;

/// An event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SseEvent {
    /// The `event` field; empty for plain messages.
    pub(super) name: String,
    /// The `data` fields, joined by line feeds. Invalid UTF-8 is replaced.
    pub(super) data: String,
}

/// Finds events in pieces of a stream, wherever the pieces begin and end.
#[derive(Clone, Debug, Default)]
pub(super) struct Sse {
    line: Vec<u8>,
    name: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The last byte was a CR, so a LF ends no line.
    after_cr: bool,
    /// A byte order mark can only precede the first line.
    has_begun: bool,
}

impl Sse {
    /// The events that these bytes complete.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Vec<SseEvent> {
        let mut events = Vec::new();
        if self.after_cr && !bytes.is_empty() {
            self.after_cr = false;
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(at) = memchr2(b'\r', b'\n', bytes) {
            self.line.extend_from_slice(&bytes[..at]);
            let is_cr = bytes[at] == b'\r';
            bytes = &bytes[at + 1..];
            if is_cr {
                match bytes {
                    [] => self.after_cr = true,
                    [b'\n', rest @ ..] => bytes = rest,
                    _ => {}
                }
            }
            events.extend(self.end_line());
        }
        self.line.extend_from_slice(bytes);
        events
    }

    /// The stream has ended. The standard drops an event that no blank line follows; here it counts, because some servers
    /// leave out the last line.
    pub(super) fn finish(&mut self) -> Option<SseEvent> {
        if !self.line.is_empty() {
            self.end_line();
        }
        self.dispatch()
    }

    fn end_line(&mut self) -> Option<SseEvent> {
        let mut line = std::mem::take(&mut self.line);
        if !std::mem::replace(&mut self.has_begun, true) && line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        if line.is_empty() {
            return self.dispatch();
        }
        // A comment begins with a colon: its field has no name.
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
            }
            b"event" => self.name = value.to_vec(),
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<SseEvent> {
        let name = std::mem::take(&mut self.name);
        let data = std::mem::take(&mut self.data);
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes)
                .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
        };
        std::mem::take(&mut self.has_data).then(|| SseEvent { name: text(name), data: text(data) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(pieces: &[&[u8]]) -> Vec<SseEvent> {
        let mut sse = Sse::default();
        let mut found: Vec<_> = pieces.iter().flat_map(|piece| sse.push(piece)).collect();
        found.extend(sse.finish());
        found
    }

    fn check(stream: &str, want: &[(&str, &str)]) {
        let want: Vec<_> = want
            .iter()
            .map(|(name, data)| SseEvent { name: (*name).to_owned(), data: (*data).to_owned() })
            .collect();
        assert_eq!(events(&[stream.as_bytes()]), want, "{stream:?}");
        for at in 0..=stream.len() {
            let (left, right) = stream.as_bytes().split_at(at);
            assert_eq!(events(&[left, right]), want, "{stream:?} cut at {at}");
        }
        let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
        assert_eq!(events(&bytes), want, "{stream:?} byte by byte");
    }

    #[test]
    fn events_are_found_wherever_pieces_end() {
        check("", &[]);
        check("data: a\n\n", &[("", "a")]);
        check("data:a\n\ndata:  b\n\n", &[("", "a"), ("", " b")]);
        check("data: a\r\n\r\ndata: b\r\r", &[("", "a"), ("", "b")]);
        check("data: a\ndata: b\rdata\r\ndata:\n\n", &[("", "a\nb\n\n")]);
        check("\u{feff}data: a\n\n\u{feff}data: b\n\n", &[("", "a")]);
        check(": ping\n\n:\n\ndata: a\n: in between\ndata: b\n\n\n\n", &[("", "a\nb")]);
        check("event: x\ndata: a\nid: 7\nretry: 10\nother: z\n\ndata: b\n\n", &[("x", "a"), ("", "b")]);
        check("event: x\n\ndata: b\n\n", &[("", "b")]);
        check("data\n\n", &[("", "")]);
        check("data: häß 👨‍👩‍👧\n\n", &[("", "häß 👨‍👩‍👧")]);
        check("data: a\n\ndata: [DONE]", &[("", "a"), ("", "[DONE]")]);
        check("data: a:b\n\ndatum: c\n\n Data: d\n\n", &[("", "a:b")]);
    }

    #[test]
    fn invalid_utf8_is_replaced() {
        assert_eq!(
            events(&[b"data: \xff\xc3", b"\n\n"]),
            [SseEvent { name: String::new(), data: "\u{fffd}\u{fffd}".to_owned() }]
        );
    }

    const SYNTAX: &[&[u8]] = &[
        b"data",
        b":",
        b" ",
        b"\n",
        b"\r",
        b"\r\n",
        b"event",
        b"x",
        b"\xc3\xa4",
        b"\xf0\x9f",
        b"\xef\xbb\xbf",
    ];

    proptest! {
        /// The same events however the stream is cut. The alphabet is that of the syntax, so that every rule is met.
        #[test]
        fn cuts_change_nothing(
            stream in proptest::collection::vec(
                proptest::sample::select(SYNTAX),
                0..60,
            ),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let stream = stream.concat();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]).collect();
            prop_assert_eq!(events(&pieces), events(&[&stream]));
        }
    }
}
