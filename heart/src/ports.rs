//! Which instance has which port of this node.
//!
//! A port belongs to its instance from the first start until the instance is removed, so it can
//! never be given to another while the old process or a router may still use it. Free ports are
//! given out least recently used first. The choice is pure; [`is_free`] proves it by binding.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;

use socket2::{Domain, Protocol, Socket, Type};

/// The free ports of a range, the least recently used one first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    free: VecDeque<u16>,
    first: u16,
    last: u16,
}

/// Every port of the range belongs to an instance or is held by a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no port is free from {first} to {last}")]
pub struct NoPort {
    /// The first port of the range.
    pub first: u16,
    /// The last port of the range.
    pub last: u16,
}

impl Ports {
    /// All ports of `range` are free, but those in `taken`.
    ///
    /// The order of use is not kept across restarts of the heart, but the port after the highest
    /// taken one comes first, which in a range that fills slowly is the one used longest ago.
    #[must_use]
    pub fn new(range: &RangeInclusive<u16>, taken: &[u16]) -> Self {
        let (first, last) = (*range.start(), *range.end());
        let start = taken
            .iter()
            .copied()
            .filter(|port| range.contains(port))
            .max()
            .map_or(first, |port| port.saturating_add(1));
        let free = (start..=last)
            .chain(first..start)
            .filter(|port| range.contains(port) && !taken.contains(port))
            .collect();
        Self { free, first, last }
    }

    /// Takes the least recently used port that is free, or else one that is silent.
    ///
    /// # Errors
    /// When a stranger listens on every port that nobody has.
    pub fn take_proven(&mut self, proof: Proof) -> Result<u16, NoPort> {
        self.take(proof.is_free)
            .or_else(|_| self.take(proof.is_silent))
    }

    /// Takes the least recently used port that `is_free` accepts.
    ///
    /// A port that is refused goes to the end: somebody uses it.
    ///
    /// # Errors
    /// When every free port has been refused.
    pub fn take(&mut self, is_free: impl Fn(u16) -> bool) -> Result<u16, NoPort> {
        for _ in 0..self.free.len() {
            let Some(port) = self.free.pop_front() else {
                break;
            };
            if is_free(port) {
                return Ok(port);
            }
            self.free.push_back(port);
        }
        Err(NoPort {
            first: self.first,
            last: self.last,
        })
    }

    /// How many ports nobody has.
    #[must_use]
    pub fn free_count(&self) -> usize {
        self.free.len()
    }

    /// Gives a port back; it is now the most recently used one.
    pub fn release(&mut self, port: u16) {
        if (self.first..=self.last).contains(&port) && !self.free.contains(&port) {
            self.free.push_back(port);
        }
    }
}

/// How a port is proven to be free.
#[derive(Clone, Copy, Debug)]
pub struct Proof {
    /// Nobody has anything to do with it.
    pub is_free: fn(u16) -> bool,
    /// Nobody listens on it: good enough when no port is free.
    pub is_silent: fn(u16) -> bool,
}

/// The proof by the kernel.
pub const BY_BINDING: Proof = Proof { is_free, is_silent };

/// True when nobody listens on `port`, though connections of an earlier listener may linger: most
/// servers can listen in spite of those.
#[must_use]
pub fn is_silent(port: u16) -> bool {
    bind_both_families(port, true).is_ok()
}

/// True when `port` can be bound on every address of both families, without `SO_REUSEADDR`: nobody
/// listens on it or has bound it, and no connection of an earlier listener lingers.
#[must_use]
pub fn is_free(port: u16) -> bool {
    match bind_both_families(port, false) {
        Ok(()) => true,
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => false,
        // A machine without IPv6.
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok(),
    }
}

fn bind_both_families(port: u16, is_reused: bool) -> std::io::Result<()> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(is_reused)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ports_are_given_out_least_recently_used_first() {
        let mut ports = Ports::new(&(100..=102), &[]);

        assert_eq!(ports.take(|_| true), Ok(100));
        ports.release(100);

        assert_eq!(ports.take(|_| true), Ok(101));
        assert_eq!(ports.take(|_| true), Ok(102));
        assert_eq!(ports.take(|_| true), Ok(100));
        assert_eq!(
            ports.take(|_| true),
            Err(NoPort {
                first: 100,
                last: 102
            })
        );
    }

    #[test]
    fn a_port_that_a_stranger_holds_is_passed_over() {
        let mut ports = Ports::new(&(100..=102), &[]);

        assert_eq!(ports.take(|port| port != 100), Ok(101));
        assert_eq!(ports.take(|_| true), Ok(102));
        assert_eq!(ports.take(|_| true), Ok(100));
    }

    #[test]
    fn a_silent_port_will_do_when_none_is_free() {
        let mut ports = Ports::new(&(100..=102), &[]);
        let proof = Proof {
            is_free: |port| port == 102,
            is_silent: |port| port == 101,
        };

        assert_eq!(ports.take_proven(proof), Ok(102));
        assert_eq!(ports.take_proven(proof), Ok(101));
        assert!(ports.take_proven(proof).is_err());
    }

    #[test]
    fn ports_that_survived_a_restart_are_not_given_out_again() {
        let mut ports = Ports::new(&(100..=103), &[101, 7]);

        let given: Vec<_> = std::iter::from_fn(|| ports.take(|_| true).ok()).collect();

        assert_eq!(given, [102, 103, 100]);
    }

    #[test]
    fn a_listening_port_is_not_free_whatever_its_address() {
        // Below the ephemeral range, so that no connection of this machine takes it in between.
        let mut ports = Ports::new(&(32_000..=32_500), &[]);
        for address in ["127.0.0.1", "0.0.0.0", "::1", "::"] {
            let port = ports.take(is_free).unwrap();
            let Ok(listener) = TcpListener::bind((address, port)) else {
                continue;
            };

            assert!(!is_free(port), "{address}");
            assert!(!is_silent(port), "{address}");
            drop(listener);
            assert!(is_free(port), "{address}");
        }
    }

    proptest! {
        #[test]
        fn no_port_is_ever_given_to_two(steps in prop::collection::vec(any::<Option<u8>>(), 0..200)) {
            let mut ports = Ports::new(&(100..=110), &[]);
            let mut held = Vec::new();
            for step in steps {
                match step {
                    None => if let Ok(port) = ports.take(|_| true) {
                        prop_assert!(!held.contains(&port));
                        held.push(port);
                    },
                    Some(choice) if !held.is_empty() => {
                        let port = held.remove(usize::from(choice) % held.len());
                        ports.release(port);
                        ports.release(port);
                    }
                    Some(_) => {}
                }
                prop_assert_eq!(held.len() + ports.free.len(), 11);
            }
        }
    }
}
