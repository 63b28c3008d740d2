//! Who listens on a port: a process of this instance, a stranger, or nobody.
//!
//! The kernel says which sockets are in LISTEN ([`socket_diag`], and where that is missing the tables
//! in `/proc/net`); the descriptors of the instance's processes say whether one is theirs. Nothing
//! is connected to, so the application sees no stray connection.

mod socket_diag;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use crate::shim::ProcessIdentity;

/// The state `TCP_LISTEN` as the kernel writes it.
const LISTEN: &str = "0A";

/// The first looks follow each other quickly, because most applications listen at once…
pub(crate) const FIRST_LOOKS_EVERY: Duration = Duration::from_millis(1);
/// … for so long …
pub(crate) const FIRST_LOOKS_FOR: Duration = Duration::from_millis(200);
/// … and then not so quickly, because the others take seconds.
pub(crate) const LATER_LOOKS_EVERY: Duration = Duration::from_millis(20);

/// Who listens on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listener {
    /// Nobody.
    Nobody,
    /// A process of the instance.
    Instance,
    /// Somebody else.
    Stranger,
}

/// Says who listens on `port`, seen from the processes below `shim`.
pub(crate) fn listener(port: u16, shim: &ProcessIdentity) -> io::Result<Listener> {
    let sockets = listening_sockets(port)?;
    if sockets.is_empty() {
        return Ok(Listener::Nobody);
    }
    let is_own = shim.is_alive()
        && processes_below(shim.pid)
            .into_iter()
            .any(|pid| has_socket(pid, &sockets));
    if is_own {
        return Ok(Listener::Instance);
    }
    // A process of the instance may have ended after the table was read; a stranger is still there.
    let is_still_there = !listening_sockets(port)?.is_disjoint(&sockets);
    Ok(if is_still_there {
        Listener::Stranger
    } else {
        Listener::Nobody
    })
}

/// The inodes of the sockets in LISTEN on `port`, on any address of both families.
fn listening_sockets(port: u16) -> io::Result<BTreeSet<u64>> {
    // A kernel can be built without it, and a sandbox can forbid it.
    socket_diag::listening_sockets(port).or_else(|_| listening_sockets_in_proc(port))
}

fn listening_sockets_in_proc(port: u16) -> io::Result<BTreeSet<u64>> {
    let mut inodes = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let file = match fs::File::open(table) {
            // A machine without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        collect_listening(BufReader::new(file), port, &mut inodes)?;
    }
    Ok(inodes)
}

/// Reads the table up to the first socket that is not in LISTEN: the kernel lists those that are
/// before all others, and a busy machine has many thousand others.
fn collect_listening(
    table: impl io::BufRead,
    port: u16,
    inodes: &mut BTreeSet<u64>,
) -> io::Result<()> {
    for line in table.lines().skip(1) {
        let line = line?;
        let mut fields = line.split_ascii_whitespace();
        let local = fields.nth(1);
        let state = fields.nth(1);
        if state != Some(LISTEN) {
            break;
        }
        let is_port = local
            .and_then(|local| local.rsplit_once(':'))
            .and_then(|(_, text)| u16::from_str_radix(text, 16).ok())
            == Some(port);
        if is_port {
            // After the state: queues, timer, retransmits, uid, timeout, and then the inode.
            inodes.extend(fields.nth(5).and_then(|inode| inode.parse::<u64>().ok()));
        }
    }
    Ok(())
}

/// Every process that descends from `root`; the shim is the sub-reaper, so nothing of an instance
/// escapes from below it.
fn processes_below(root: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(parent) = open.pop() {
        for child in children(parent) {
            found.push(child);
            open.push(child);
        }
    }
    found
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    threads
        .filter_map(Result::ok)
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|text| {
            let pids: Vec<u32> = text
                .split_ascii_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect();
            pids
        })
        .collect()
}

fn has_socket(pid: u32, inodes: &BTreeSet<u64>) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors
        .filter_map(Result::ok)
        .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
        .any(|target| {
            let inode = target
                .as_os_str()
                .as_bytes()
                .strip_prefix(b"socket:[")
                .and_then(|rest| rest.strip_suffix(b"]"))
                .and_then(|text| std::str::from_utf8(text).ok())
                .and_then(|text| text.parse().ok());
            inode.is_some_and(|inode| inodes.contains(&inode))
        })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:4E20 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 00000000:4E21 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0
   2: 0100007F:4E20 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0
";

    fn check(port: u16, expected: &[u64]) {
        let mut inodes = BTreeSet::new();
        collect_listening(TABLE.as_bytes(), port, &mut inodes).unwrap();
        assert_eq!(inodes.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn only_sockets_in_listen_on_the_port_count() {
        check(20_000, &[4711]);
        check(20_001, &[4712]);
        check(20_002, &[]);
    }

    #[test]
    fn a_listener_of_another_process_is_a_stranger() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shim = ProcessIdentity::current().unwrap();

        // This process listens itself; only what is below it would be the instance's.
        assert_eq!(super::listener(port, &shim).unwrap(), Listener::Stranger);
        drop(listener);
        assert_eq!(super::listener(port, &shim).unwrap(), Listener::Nobody);
    }

    #[test]
    fn own_sockets_are_found_among_the_descriptors() {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();

        let sockets = listening_sockets(port).unwrap();

        assert_eq!(sockets.len(), 1);
        assert_eq!(sockets, listening_sockets_in_proc(port).unwrap());
        assert!(has_socket(std::process::id(), &sockets));
        assert!(!has_socket(1, &BTreeSet::from([0])));
    }
}
