//! Address ranges in CIDR form, for the list of trusted clients.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses such as `10.0.0.0/8` or `fd00::/8`; a single address is a range too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// IPv4 is kept in its mapped form, so that one comparison serves both.
    prefix: u128,
    /// Of the 128 bits.
    length: u32,
}

/// A text that is no address range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no address range; write `10.0.0.0/8`, `fd00::/8` or a single address")]
pub struct NetworkError {
    /// What was written.
    pub found: String,
}

impl Network {
    /// True when `address` lies in the range; an IPv4-mapped IPv6 address counts as its IPv4 one.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let mask = mask(self.length);
        bits(address) & mask == self.prefix & mask
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let refused = || NetworkError {
            found: text.to_owned(),
        };
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| refused())?;
        let (width, offset) = match address {
            IpAddr::V4(_) => (32, 96),
            IpAddr::V6(_) => (128, 0),
        };
        let length = match length {
            Some(digits) => digits.parse::<u32>().map_err(|_| refused())?,
            None => width,
        };
        if length > width {
            return Err(refused());
        }
        Ok(Self {
            prefix: bits(address),
            length: length + offset,
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = Ipv6Addr::from(self.prefix & mask(self.length)).to_canonical();
        match address {
            IpAddr::V4(_) => write!(f, "{address}/{}", self.length.saturating_sub(96)),
            IpAddr::V6(_) => write!(f, "{address}/{}", self.length),
        }
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_ipv6_mapped()),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn mask(length: u32) -> u128 {
    u128::MAX.checked_shl(128 - length).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_contain_their_addresses_alone() {
        let network: Network = "10.1.0.0/16".parse().unwrap();
        assert!(network.contains("10.1.255.3".parse().unwrap()));
        assert!(network.contains("::ffff:10.1.0.1".parse().unwrap()));
        assert!(!network.contains("10.2.0.0".parse().unwrap()));
        assert!(!network.contains("fd00::1".parse().unwrap()));
        assert_eq!(network.to_string(), "10.1.0.0/16");

        let single: Network = "fd00::7".parse().unwrap();
        assert!(single.contains("fd00::7".parse().unwrap()));
        assert!(!single.contains("fd00::8".parse().unwrap()));

        let everything: Network = "::/0".parse().unwrap();
        assert!(everything.contains("192.0.2.1".parse().unwrap()));
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "a", "1.2.3.4/-1"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }
}
