//! What a router is told when it starts.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use common::id::NodeId;
use pacemaker_client::Client;

use crate::Error;
use crate::network::Network;

/// The public port unless told otherwise (design.md, section 6).
pub const DEFAULT_PORT: u16 = 4253;

/// More threads than this serve nobody: no machine in sight has more cores.
pub const WORKERS_MAX: usize = 256;

/// Open client connections of the whole router unless told otherwise.
///
/// A proxied connection needs two descriptors, and 20,000 is the usual hard limit of a process.
/// Where fewer may be open, [`start()`](crate::start()) lowers it.
pub const DEFAULT_CONNECTIONS_MAX: usize = 9_000;

/// What a router is told when it starts; checked by [`start()`](crate::start()) before it binds.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node that this router is; reports carry it.
    pub node: NodeId,
    /// The id of the cluster that the node belongs to: a table of another one is refused. Empty:
    /// the cluster of the first table is kept to.
    pub cluster: String,
    /// Where the last routing table and the access log are kept; made when it is missing.
    pub data_dir: PathBuf,
    /// The public address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Threads that serve; 0 is one for each core.
    pub workers: usize,
    /// How the cluster is reached. It may be away: the last table is served meanwhile.
    pub client: Client,
    /// SHA-256 in hexadecimal of each bearer token that may use the router's own API. Empty: nobody
    /// may.
    pub token_hashes: Vec<String>,
    /// Writes `access.log` in the data directory, one JSON object for each request.
    pub access_log: bool,
    /// Clients whose own `X-Forwarded-*`, `Forwarded` and `X-Request-Id` are believed; none by default.
    pub trusted_clients: Vec<Network>,
    /// Client connections at one time, over all workers. Beyond it idle ones are closed, and when
    /// all are busy new ones wait in the kernel's backlog. As many requests may be at backends at
    /// one time. Lowered at the start when the process may not open as many files.
    pub connections_max: usize,
    /// How long requests in flight may go on after shutdown began.
    pub drain_limit: Duration,
    /// How long a request waits for a backend when its route says `hold`.
    pub hold_limit: Duration,
    /// How long a connection to a backend may take.
    pub connect_limit: Duration,
    /// How long a backend may take from the whole request head to the whole response head.
    pub response_limit: Duration,
    /// How long a client may take over a request's head, from its first byte; whole seconds.
    pub head_limit: Duration,
    /// How long a client may take nothing of a response that waits for it; whole seconds.
    pub write_limit: Duration,
    /// How long a client's connection may be idle between requests; whole seconds. Longer than the
    /// minute after which common load balancers close theirs, so that it is them who close.
    pub idle_limit: Duration,
}

impl Config {
    /// A configuration with every other field at its default.
    #[must_use]
    pub fn new(node: NodeId, data_dir: PathBuf, client: Client) -> Self {
        Self {
            node,
            cluster: String::new(),
            data_dir,
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT)),
            workers: 0,
            client,
            token_hashes: Vec::new(),
            access_log: false,
            trusted_clients: Vec::new(),
            connections_max: DEFAULT_CONNECTIONS_MAX,
            drain_limit: Duration::from_secs(10),
            hold_limit: Duration::from_secs(30),
            connect_limit: Duration::from_secs(2),
            response_limit: Duration::from_secs(60),
            head_limit: Duration::from_secs(15),
            write_limit: Duration::from_secs(60),
            idle_limit: Duration::from_secs(75),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        let refused = |reason| Err(Error::Config { reason });
        if self.workers > WORKERS_MAX {
            return refused("`workers` is above 256");
        }
        if self.connections_max == 0 {
            return refused("`connections_max` is 0, so nobody could connect");
        }
        if self.connect_limit.is_zero() || self.response_limit.is_zero() {
            return refused("a limit of time is 0, so every request would fail");
        }
        Ok(())
    }

    /// The number of threads that this configuration means on this machine.
    pub(crate) fn worker_count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        }
        .min(WORKERS_MAX)
    }
}
