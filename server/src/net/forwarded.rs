//! `X-Forwarded-For`, as proxies add to it: each appends the address of its own client.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{HeaderMap, HeaderName};
use relay_site::Networks;

/// The header's name.
pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client behind `peer`: from the right, the first entry that is not a trusted proxy. Everything to the left of it was
/// sent by that client and proves nothing. If the list ends, or an entry is not an address, it is the last trusted proxy.
///
/// Several header lines are one list. Cost: the header's length, by the number of networks.
pub(super) fn client(peer: IpAddr, headers: &HeaderMap, trusted: &Networks) -> IpAddr {
    let mut hop = peer;
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    // Not read as one text: what a client sent first may be any bytes.
    let entries = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    for entry in entries.map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty()) {
        if !trusted.contain(hop) {
            break;
        }
        match address(entry) {
            Some(before) => hop = before,
            None => break,
        }
    }
    hop.to_canonical()
}

/// An address, which some proxies write with brackets or a port.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    text.parse().ok().or_else(with_port).or_else(bracketed)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;
    use crate::config::Network;

    #[test]
    fn the_rightmost_that_is_no_trusted_proxy_is_the_client() {
        let local = "127.0.0.1";
        let cases: [(&str, &[&[u8]], &str); 21] = [
            (local, &[], local),
            (local, &[b"203.0.113.9"], "203.0.113.9"),
            // What the client itself sent stands to the left.
            (local, &[b"198.51.100.1, 203.0.113.9"], "203.0.113.9"),
            (local, &[b"127.0.0.1, 203.0.113.9"], "203.0.113.9"),
            (local, &[b"\xff\xfe, 203.0.113.9"], "203.0.113.9"),
            (local, &[b"unknown,203.0.113.9"], "203.0.113.9"),
            // Through two proxies, and through three.
            (local, &[b"203.0.113.9, 10.1.2.3"], "203.0.113.9"),
            (local, &[b"198.51.100.1, 203.0.113.9, 10.0.0.1, 10.1.2.3"], "203.0.113.9"),
            // Several lines are one list.
            (local, &[b"198.51.100.1", b"203.0.113.9"], "203.0.113.9"),
            (local, &[b"198.51.100.1, 203.0.113.9", b"10.0.0.1"], "203.0.113.9"),
            // From within: the first of all.
            (local, &[b"10.0.0.1, 10.0.0.2"], "10.0.0.1"),
            // No address: the client of the last trusted proxy is not known.
            (local, &[b"203.0.113.9, unknown"], local),
            (local, &[b"203.0.113.9, _hidden, 10.0.0.1"], "10.0.0.1"),
            (local, &[b"203.0.113.9, \xff"], local),
            (local, &[b" , 203.0.113.9 ,, "], "203.0.113.9"),
            (local, &[b"203.0.113.9:4711"], "203.0.113.9"),
            (local, &[b"[2001:db8::9]:4711"], "2001:db8::9"),
            (local, &[b"[2001:db8::9]"], "2001:db8::9"),
            ("::ffff:127.0.0.1", &[b"::ffff:203.0.113.9"], "203.0.113.9"),
            ("::1", &[b"2001:db8::9"], "2001:db8::9"),
            // A peer that is not trusted is the client.
            ("192.0.2.1", &[b"203.0.113.9"], "192.0.2.1"),
        ];
        let setting = ["127.0.0.0/8", "::1", "10.0.0.0/8"].map(str::to_owned).to_vec();
        let trusted = Network { trusted_proxies: setting, ..Network::default() }.trusted().unwrap();
        for (peer, lines, expected) in cases {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FORWARDED_FOR, HeaderValue::from_bytes(line).unwrap());
            }
            let found = client(peer.parse().unwrap(), &headers, &trusted);
            assert_eq!(found.to_string(), expected, "{peer} {headers:?}");
        }
    }
}
