//! The HTTP front door: forwards requests to the instances that a hostname belongs to.
//!
//! ```text
//!              pacemaker ──watch──> table ──┬─> worker 0 ─┐
//!              pacemaker <─report── report <┼── worker 1  ├─> instances
//!  clients ──SO_REUSEPORT──────────────────>└── worker n ─┘
//! ```
//! Each worker is a thread with its own runtime, listener and connections; a request stays on the
//! thread that accepted it and takes no lock. The routing table is compiled beside them and swapped
//! as a whole; the last one is on disk, so a router serves when no pacemaker answers, also after a
//! restart.
//!
//! | task | where | input | output |
//! |---|---|---|---|
//! | workers | own threads | clients, tables | requests to instances, acknowledgements |
//! | table | caller's runtime | the routes watch | newer tables, the table file |
//! | report | caller's runtime | acknowledgements, counts in flight | reports to the leader |
//! | supervisor | caller's runtime | shutdown, ended workers | [`Running::finished`] |
//! | access log | own thread | facts of requests | `access.log` |
//!
//! **Limit:** a router that no pacemaker has answered for longer than the node's TTL no longer counts
//! as live, so nobody waits for it any more: an instance may be stopped, and in the end its port
//! given to another, while this router still names it. Until then a port goes to nobody else before
//! every live router has acknowledged a table without it. A heart gives out the port that has been
//! free for longest, of four thousand, and a pooled connection is never used for another instance;
//! but a connection that is opened by an old table says nothing of who answers it. The age of the
//! table is a metric, and a load balancer in front can be told by it to pass such a router over.
//!
//! It never decides what runs where, never changes a body, and never buffers one.

mod access_log;
mod activity;
mod answer;
mod api;
mod backend;
mod body;
mod client;
mod config;
mod descriptors;
mod exchange;
mod gather;
mod headers;
mod host;
mod lent;
mod listen;
mod metrics;
mod network;
mod pool;
mod proxy;
mod random;
mod record;
mod report;
mod routes;
mod select;
mod start;
mod statistics;
mod table;
mod table_file;
mod target;
mod worker;

pub use crate::config::{Config, DEFAULT_CONNECTIONS_MAX, DEFAULT_PORT, WORKERS_MAX};
pub use crate::network::{Network, NetworkError};
pub use crate::start::{Error, Running, run, start};
