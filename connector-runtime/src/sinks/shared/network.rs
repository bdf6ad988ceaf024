//! Networks a sink must not reach (`connectors.deny_networks`).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// An address with a prefix length, such as `169.254.0.0/16` or `fd00::/8`; an address alone is itself only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: Ipv6Addr,
    prefix: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a network: write an address and a prefix length, such as 10.0.0.0/8 or fd00::/8")]
pub struct InvalidNetwork(String);

/// An IPv4 network is kept as the IPv6 network of the same addresses, so that a mapped address cannot slip through.
const IPV4_MAPPED_PREFIX: u8 = 96;

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
        (wide(address).to_bits() ^ self.address.to_bits()) & mask == 0
    }
}

fn wide(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidNetwork(text.to_owned());
        let (address, prefix) = match text.trim().split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| invalid())?)),
            None => (text.trim(), None),
        };
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let (bits, offset) = if address.is_ipv4() { (32, IPV4_MAPPED_PREFIX) } else { (128, 0) };
        let prefix = prefix.unwrap_or(bits);
        if prefix > bits {
            return Err(invalid());
        }
        Ok(Self { address: wide(address), prefix: prefix + offset })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address.to_ipv4_mapped() {
            Some(address) if self.prefix >= IPV4_MAPPED_PREFIX => {
                write!(f, "{address}/{}", self.prefix - IPV4_MAPPED_PREFIX)
            }
            Some(_) | None => write!(f, "{}/{}", self.address, self.prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(network: &str, address: &str, expect: bool) {
        let network: Network = network.parse().expect("is a network");
        let address: IpAddr = address.parse().expect("is an address");
        assert_eq!(network.contains(address), expect, "{network} {address}");
    }

    #[test]
    fn contains_its_addresses_in_either_notation() {
        check("10.0.0.0/8", "10.255.0.1", true);
        check("10.0.0.0/8", "11.0.0.1", false);
        check("169.254.0.0/16", "::ffff:169.254.169.254", true);
        check("127.0.0.1", "127.0.0.1", true);
        check("127.0.0.1", "127.0.0.2", false);
        check("0.0.0.0/0", "8.8.8.8", true);
        check("0.0.0.0/0", "2001:db8::1", false);
        check("fd00::/8", "fdab::1", true);
        check("::/0", "10.0.0.1", true);
        check("::1", "::1", true);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "10.0.0.0/33", "fd00::/129", "example.com", "10.0.0/8", "10.0.0.0/-1", "10.0.0.0/8/8"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
