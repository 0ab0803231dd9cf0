//! Addresses and networks, as settings name them: clients that have no limits by address, trusted proxies.

use std::net::IpAddr;

use ipnet::IpNet;

/// Default of `network.exempt_addresses`: only processes of this machine come from there.
pub const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];

/// Default of `network.connections_per_address_max`.
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 200;

/// A set of addresses: some, and those of networks such as `10.0.0.0/8`. An IPv4-mapped IPv6 address is the IPv4 address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// # Errors
    /// Names the first that is neither an address nor a network.
    pub fn new(texts: &[String]) -> Result<Self, String> {
        let read = |text: &String| {
            parse(text.trim())
                .ok_or_else(|| format!("`{text}` is neither an address nor a network such as 10.0.0.0/8"))
        };
        texts.iter().map(read).collect::<Result<_, _>>().map(Networks)
    }

    /// Whether none is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `address` is one of them. Cost: their number.
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

fn parse(text: &str) -> Option<IpNet> {
    match text.parse::<IpAddr>() {
        Ok(address) => Some(address.to_canonical().into()),
        Err(_) => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_its_networks() {
        let cases = [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("::ffff:127.0.0.1", "127.0.0.1", true),
            ("10.0.0.0/8", "10.255.1.2", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.1.2.3/31", "10.1.2.2", true),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "::1", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("::1", "::1", true),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fe80::1", false),
            ("::/0", "2001:db8::1", true),
        ];
        for (network, address, is_in) in cases {
            let networks = Networks::new(&[network.to_owned()]).unwrap();
            assert_eq!(networks.contain(address.parse().unwrap()), is_in, "{address} in {network}");
        }
        let two = Networks::new(&["10.0.0.1".into(), "10.0.0.2".into()]).unwrap();
        assert!(two.contain("10.0.0.2".parse().unwrap()) && !two.contain("10.0.0.3".parse().unwrap()));
        assert!(!Networks::default().contain("203.0.113.9".parse().unwrap()));
        for wrong in ["", "localhost", "10.0.0.0/33", "::1/129", "10.0.0.0/", "10.0.0/8", "1.2.3.4/-1"] {
            assert!(Networks::new(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
