//! The PROXY protocol, versions 1 and 2: a TCP proxy first sends a header with the address of its client.
//!
//! Read byte for byte up to its end and no further, since what follows is the client's. A header is not guessed at: with
//! `network.proxy_protocol` every trusted proxy must send one, or its clients could.

use std::io;
use std::net::IpAddr;

use ppp::{HeaderResult, v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Longest header of version 1, as the specification has it.
const V1_BYTES_MAX: usize = 107;
/// Longest header of version 2 that is taken: addresses, and space for the fields of load balancers. It could have 64 KB.
const V2_BYTES_MAX: usize = 4_096;
/// The fixed part of a header of version 2; its last two bytes are the length of the rest.
const V2_HEAD_BYTES: usize = 16;
/// What is read first: the signature of version 2, and less than the shortest header of version 1.
const FIRST_BYTES: usize = v2::PROTOCOL_PREFIX.len();

/// Why the header cannot be read.
#[derive(Debug)]
pub(super) enum HeaderError {
    /// What came is none, or a longer one than is taken.
    Malformed,
    /// The socket ended or failed.
    Io(io::Error),
}

impl From<io::Error> for HeaderError {
    fn from(error: io::Error) -> Self {
        HeaderError::Io(error)
    }
}

/// Reads a header. `None`: the proxy connects on its own behalf (LOCAL), as for a health check, or does not know the
/// client (UNKNOWN).
///
/// # Errors
/// What came instead of a header.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<IpAddr>, HeaderError> {
    let mut header = vec![0; FIRST_BYTES];
    stream.read_exact(&mut header).await?;
    if header == v2::PROTOCOL_PREFIX {
        read_more(stream, &mut header, V2_HEAD_BYTES - FIRST_BYTES).await?;
        let len = u16::from_be_bytes([header[14], header[15]]);
        if V2_HEAD_BYTES + usize::from(len) > V2_BYTES_MAX {
            return Err(HeaderError::Malformed);
        }
        read_more(stream, &mut header, len.into()).await?;
    } else if header.starts_with(v1::PROTOCOL_PREFIX.as_bytes()) {
        while !header.ends_with(v1::PROTOCOL_SUFFIX.as_bytes()) {
            // The line ends with two bytes, of which the first may be there.
            let count = if header.ends_with(b"\r") { 1 } else { 2 };
            if header.len() + count > V1_BYTES_MAX {
                return Err(HeaderError::Malformed);
            }
            read_more(stream, &mut header, count).await?;
        }
    } else {
        return Err(HeaderError::Malformed);
    }
    source(&header)
}

async fn read_more(
    stream: &mut (impl AsyncRead + Unpin),
    header: &mut Vec<u8>,
    count: usize,
) -> io::Result<()> {
    let before = header.len();
    header.resize(before + count, 0);
    stream.read_exact(&mut header[before..]).await.map(drop)
}

/// The client that a whole header names.
fn source(header: &[u8]) -> Result<Option<IpAddr>, HeaderError> {
    match HeaderResult::parse(header) {
        HeaderResult::V1(Ok(header)) => Ok(match header.addresses {
            v1::Addresses::Tcp4(addresses) => Some(addresses.source_address.into()),
            v1::Addresses::Tcp6(addresses) => Some(addresses.source_address.into()),
            v1::Addresses::Unknown => None,
        }),
        HeaderResult::V2(Ok(header)) => Ok(match (header.command, header.addresses) {
            (v2::Command::Proxy, v2::Addresses::IPv4(addresses)) => Some(addresses.source_address.into()),
            (v2::Command::Proxy, v2::Addresses::IPv6(addresses)) => Some(addresses.source_address.into()),
            _ => None,
        }),
        _ => Err(HeaderError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of version 2.
    fn v2_header(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = v2::PROTOCOL_PREFIX.to_vec();
        header.extend([command, family]);
        header.extend((payload.len() as u16).to_be_bytes());
        header.extend(payload);
        header
    }

    /// From 203.0.113.9 or 2001:db8::9 to another address, and `more`.
    fn addresses(is_v6: bool, more: usize) -> Vec<u8> {
        let mut payload = match is_v6 {
            false => [&[203, 0, 113, 9][..], &[10, 0, 0, 1]].concat(),
            true => [[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9], [1; 16]].concat(),
        };
        payload.extend([0xc0, 0x00, 0x1e, 0x61]);
        if more > 0 {
            payload.push(0x04);
            payload.extend(((more - 3) as u16).to_be_bytes());
            payload.extend(vec![0; more - 3]);
        }
        payload
    }

    /// What is read of a socket that brings these bytes, and what is left.
    async fn read_of(bytes: &[u8]) -> (Result<Option<String>, ()>, Vec<u8>) {
        let mut stream = tokio_test_stream(bytes);
        let found = read(&mut stream).await.map(|found| found.map(|ip| ip.to_string())).map_err(drop);
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        (found, rest)
    }

    /// A socket that brings a byte at a time.
    fn tokio_test_stream(bytes: &[u8]) -> impl AsyncRead + Unpin {
        let (mut sender, receiver) = tokio::io::duplex(1);
        let bytes = bytes.to_vec();
        tokio::spawn(async move {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut sender, &bytes).await;
        });
        receiver
    }

    #[tokio::test]
    async fn a_header_names_the_client_and_what_follows_is_left() {
        let client = Some("203.0.113.9".to_owned());
        let client6 = Some("2001:db8::9".to_owned());
        let longest = "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
                       65535 65535\r\n";
        let cases: [(Vec<u8>, Option<String>); 11] = [
            (b"PROXY TCP4 203.0.113.9 10.0.0.1 49152 7777\r\n".to_vec(), client.clone()),
            (b"PROXY TCP6 2001:db8::9 2001:db8::1 49152 7777\r\n".to_vec(), client6.clone()),
            (longest.into(), Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".to_owned())),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN 203.0.113.9 10.0.0.1 49152 7777\r\n".to_vec(), None),
            (v2_header(0x21, 0x11, &addresses(false, 0)), client.clone()),
            (v2_header(0x21, 0x11, &addresses(false, 4_000)), client),
            (v2_header(0x21, 0x21, &addresses(true, 0)), client6),
            // The proxy itself, whatever addresses it names; and a local socket.
            (v2_header(0x20, 0x11, &addresses(false, 0)), None),
            (v2_header(0x20, 0x00, &[]), None),
            (v2_header(0x21, 0x31, &[7; 216]), None),
        ];
        for (header, expected) in cases {
            let shown = String::from_utf8_lossy(&header).into_owned();
            for rest in ["", "GET / HTTP/1.1\r\n\r\n", "\r\n"] {
                let (found, left) = read_of(&[&header, rest.as_bytes()].concat()).await;
                assert_eq!((found, &*left), (Ok(expected.clone()), rest.as_bytes()), "{shown}");
            }
            // Cut off anywhere it names no client.
            for len in 0..header.len() {
                assert_eq!(read_of(&header[..len]).await.0, Err(()), "{len} bytes of {shown}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_an_error() {
        let endless = format!("PROXY TCP4 {}", "1".repeat(1_000));
        let cases: [Vec<u8>; 9] = [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.999 10.0.0.1 49152 7777\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::9 2001:db8::1 49152 7777\r\n".to_vec(),
            b"proxy tcp4 203.0.113.9 10.0.0.1 49152 7777\r\n".to_vec(),
            endless.into(),
            v2_header(0x21, 0x11, &addresses(false, 4_090)),
            v2_header(0x11, 0x11, &addresses(false, 0)),
            v2_header(0x21, 0x11, &[203, 0, 113]),
        ];
        for bytes in cases {
            assert_eq!(read_of(&bytes).await.0, Err(()), "{}", String::from_utf8_lossy(&bytes));
        }
    }
}
