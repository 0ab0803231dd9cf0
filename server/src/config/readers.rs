//! Addresses and networks, as `metrics.allow` names who may read.

use std::net::IpAddr;

/// Who may read, by address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readers(Vec<Network>);

/// The addresses that have the first `bits` bits of `address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u32,
}

impl Readers {
    /// Addresses or networks such as `10.0.0.0/8`; none of them: everybody.
    ///
    /// # Errors
    /// The first that is neither, in words.
    pub(super) fn new(texts: &[String]) -> Result<Self, String> {
        let read = |text: &String| {
            Network::parse(text)
                .ok_or_else(|| format!("`{text}` is no address and no network such as 10.0.0.0/8"))
        };
        texts.iter().map(read).collect::<Result<_, _>>().map(Readers)
    }

    /// Whether `address` may read.
    pub(crate) fn include(&self, address: IpAddr) -> bool {
        self.0.is_empty() || self.0.iter().any(|network| network.contains(address.to_canonical()))
    }
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.trim().split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().ok()?)),
            None => (text.trim(), None),
        };
        let address: IpAddr = address.parse().ok()?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(bits_max);
        (bits <= bits_max).then_some(Network { address, bits })
    }

    fn contains(&self, other: IpAddr) -> bool {
        // The bits that count are those above the others.
        match (self.address, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differs = u32::from(own) ^ u32::from(other);
                differs.checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differs = u128::from(own) ^ u128::from(other);
                differs.checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
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
            let readers = Readers::new(&[network.to_owned()]).unwrap();
            assert_eq!(readers.include(address.parse().unwrap()), is_in, "{address} in {network}");
        }
        let two = Readers::new(&["10.0.0.1".into(), "10.0.0.2".into()]).unwrap();
        assert!(two.include("10.0.0.2".parse().unwrap()) && !two.include("10.0.0.3".parse().unwrap()));
        assert!(Readers::default().include("203.0.113.9".parse().unwrap()), "no list leaves nobody out");
        for wrong in ["", "localhost", "10.0.0.0/33", "::1/129", "10.0.0.0/", "10.0.0/8", "1.2.3.4/-1"] {
            assert!(Readers::new(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
