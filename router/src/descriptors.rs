//! How many file descriptors the process may have open, and what the router makes of it.
//!
//! A client's connection and the backend's connection of its request are a descriptor each. What
//! the process may open is asked for once, at the start; raising it is the agent's work.

use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// Descriptors that are not for clients and their requests: the process's other roles, listeners,
/// runtimes, logs, and idle connections to backends.
const RESERVED: u64 = 512;

/// Of `wanted` client connections, those for which the process has descriptors.
pub(crate) fn affordable(wanted: usize) -> usize {
    let soft = getrlimit(Resource::Nofile).current;
    let affordable = affordable_within(wanted, soft);
    if affordable < wanted {
        tracing::warn!(
            wanted,
            connections_max = affordable,
            open_files_limit = soft,
            "fewer connections than configured: the limit of open files is too low"
        );
    }
    affordable
}

/// A limit of `None` is no limit; at least one connection is always left.
fn affordable_within(wanted: usize, soft: Option<u64>) -> usize {
    let Some(soft) = soft else {
        return wanted;
    };
    let pairs = soft.saturating_sub(RESERVED) / 2;
    wanted
        .min(usize::try_from(pairs).unwrap_or(usize::MAX))
        .max(1)
}

/// True when a descriptor was not to be had, in this process or in the whole system.
pub(crate) fn ran_out(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_and_its_request_have_a_descriptor_each() {
        assert_eq!(affordable_within(9_000, None), 9_000);
        assert_eq!(affordable_within(9_000, Some(20_000)), 9_000);
        assert_eq!(affordable_within(9_000, Some(1_024)), 256);
        assert_eq!(affordable_within(9_000, Some(100)), 1);
        assert_eq!(affordable_within(2, Some(1_024)), 2);
    }

    #[test]
    fn only_a_lack_of_descriptors_counts_as_one() {
        for (errno, expected) in [
            (Errno::MFILE, true),
            (Errno::NFILE, true),
            (Errno::CONNABORTED, false),
        ] {
            assert_eq!(ran_out(&io::Error::from(errno)), expected, "{errno}");
        }
    }
}
