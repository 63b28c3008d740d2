//! The harness of the end-to-end tests: applications, a whole `pm dev`, load, patience.
//!
//! A test tells a story a user could tell: it writes an application ([`TestApp`]), starts a cluster
//! ([`DevProcess`]), types `pm` commands, sends requests, and waits for levels ([`eventually`]).
//! Everything listens on ports that were free, everything is in temporary directories, and a test
//! that fails leaves its directories behind and says where.

mod application;
mod cluster;
mod dev_process;
mod history;
mod http;
mod load;
mod namespace_cluster;
mod network;
mod patience;
mod pm;
mod port_range;
mod receiver;
mod slot;
mod views;

pub use application::TestApp;
pub use cluster::Cluster;
pub use dev_process::{DevOptions, DevProcess};
pub use history::{History, Record, Writing};
pub use http::{Answer, Connection};
pub use load::{Load, Tally};
pub use namespace_cluster::{ALL_ROLES, NamespaceCluster};
pub use network::{Disk, Network, ProcessHandle, Stall, network_or_skip};
pub use patience::{PATIENCE_VARIABLE, eventually, patience};
pub use pm::{PmOutput, pm_program};
pub use port_range::PortRange;
pub use receiver::{CREDENTIALS, Call, Receiver};
pub use slot::Slot;
