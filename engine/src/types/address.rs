//! Where a client comes from, as far as limits go by it.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The network address that a client's limits and turns are counted by: an IPv4 address, or the /64 of an IPv6
/// address, since one subscriber has at least that many addresses. An IPv4-mapped address is the IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClientAddress {
    /// An IPv4 address.
    V4([u8; 4]),
    /// The first eight bytes of an IPv6 address.
    V6([u8; 8]),
}

impl From<IpAddr> for ClientAddress {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => ClientAddress::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                ClientAddress::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

impl fmt::Display for ClientAddress {
    /// `192.0.2.7`, or `2001:db8::/64`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ClientAddress::V4(octets) => Ipv4Addr::from(octets).fmt(f),
            ClientAddress::V6([a, b, c, d, e, g, h, i]) => {
                let prefix = Ipv6Addr::from([a, b, c, d, e, g, h, i, 0, 0, 0, 0, 0, 0, 0, 0]);
                write!(f, "{prefix}/64")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_subscriber_is_one_address() {
        let shown = |text: &str| ClientAddress::from(text.parse::<IpAddr>().unwrap()).to_string();
        assert_eq!(shown("192.0.2.7"), "192.0.2.7");
        assert_eq!(shown("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(shown("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_eq!(shown("2001:db8:1:2:ffff::1"), "2001:db8:1:2::/64");
        assert_ne!(shown("2001:db8:1:3::1"), shown("2001:db8:1:2::1"));
    }
}
