//! What a heart is told before it starts.
//!
//! Everything is checked by [`Config::check`] before anything is bound, opened or spawned.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use common::id::NodeId;
use common::time::Span;
use pacemaker_client::Client;
use serde_json::Value;

use crate::crash_point::CrashPoint;

/// The ports of instances unless told otherwise: below Linux's ephemeral range, where an outgoing
/// connection can take a port first.
pub const DEFAULT_PORTS: RangeInclusive<u16> = 20_000..=23_999;

/// The node's TTL unless told otherwise; the pacemaker calls a node down after the same time.
pub const DEFAULT_NODE_TTL: Span = Span::seconds(3);

/// The longest path of the data directory, bytes: paths of an instance add up to 100 to it, and a
/// path has at most 4096.
pub const DATA_DIRECTORY_MAX_BYTES: usize = 3072;

/// What a heart is told before it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node that this heart belongs to.
    pub node: NodeId,
    /// The id of the cluster that the node belongs to: an assignment of another one is refused.
    /// Empty: the cluster of the assignment on disk is kept to.
    pub cluster: String,
    /// Where everything is kept that must survive the heart: packages, instances, the journal.
    pub data_dir: PathBuf,
    /// Seen by applications in `PM_METADATA`.
    pub node_tags: BTreeMap<String, Value>,
    /// Given to instances, least recently used first.
    pub ports: RangeInclusive<u16>,
    /// A `pm` binary: run as `<shim_program> shim …` and `<shim_program> static …`.
    pub shim_program: PathBuf,
    /// How the pacemakers are reached.
    pub client: Client,
    /// SHA-256 in hexadecimal of each bearer token that may use the heart's own API (instance
    /// logs). Empty: nobody may.
    pub token_hashes: Vec<String>,
    /// True: exclusive instances are stopped when no pacemaker has acknowledged a report for
    /// longer than `node_ttl`, so that they may be started elsewhere. A cluster of one node passes
    /// false: nobody else can start them, and applications go on while the pacemaker restarts.
    pub fence_exclusive: bool,
    /// See `fence_exclusive`; only until an assignment says what the cluster's is.
    pub node_ttl: Span,
    /// In tests only: where the process kills itself.
    pub crash_at: Option<CrashPoint>,
}

/// A configuration that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An absolute path is needed, because instances run in other directories.
    #[error("the data directory `{}` is not absolute or is longer than {DATA_DIRECTORY_MAX_BYTES} bytes", .0.display())]
    DataDirectory(PathBuf),
    /// An absolute path is needed, because instances run in other directories.
    #[error("the shim program `{}` is not an absolute path", .0.display())]
    ShimProgram(PathBuf),
    /// No port at all, or privileged ones.
    #[error("the port range {first}-{last} is empty or begins below 1024")]
    Ports {
        /// The first port.
        first: u16,
        /// The last port.
        last: u16,
    },
    /// The TTL is so short that a single late report would stop applications.
    #[error("the node's TTL of {0} is below one second")]
    NodeTtl(Span),
}

impl Config {
    /// A configuration with the defaults: ports 20000–23999, no tags, nobody may read logs, fenced.
    #[must_use]
    pub const fn new(
        node: NodeId,
        data_dir: PathBuf,
        shim_program: PathBuf,
        client: Client,
    ) -> Self {
        Self {
            node,
            cluster: String::new(),
            data_dir,
            node_tags: BTreeMap::new(),
            ports: DEFAULT_PORTS,
            shim_program,
            client,
            token_hashes: Vec::new(),
            fence_exclusive: true,
            node_ttl: DEFAULT_NODE_TTL,
            crash_at: None,
        }
    }

    /// Checks what can be checked without touching anything.
    ///
    /// # Errors
    /// Names the first field that cannot work.
    pub fn check(&self) -> Result<(), Error> {
        let path_length = self.data_dir.as_os_str().len();
        if !self.data_dir.is_absolute() || path_length > DATA_DIRECTORY_MAX_BYTES {
            return Err(Error::DataDirectory(self.data_dir.clone()));
        }
        if !self.shim_program.is_absolute() {
            return Err(Error::ShimProgram(self.shim_program.clone()));
        }
        let (first, last) = (*self.ports.start(), *self.ports.end());
        if first > last || first < 1024 {
            return Err(Error::Ports { first, last });
        }
        if self.node_ttl < Span::seconds(1) {
            return Err(Error::NodeTtl(self.node_ttl));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Config), expected: Option<&Error>) {
        let client = Client::new(&["http://127.0.0.1:1".to_owned()], "token").unwrap();
        let mut config = Config::new(NodeId(1), "/data".into(), "/bin/pm".into(), client);
        change(&mut config);
        assert_eq!(config.check().err().as_ref(), expected);
    }

    #[test]
    fn what_cannot_work_is_refused_before_anything_begins() {
        check(|_| {}, None);
        check(
            |config| config.data_dir = "data".into(),
            Some(&Error::DataDirectory("data".into())),
        );
        check(
            |config| config.shim_program = "pm".into(),
            Some(&Error::ShimProgram("pm".into())),
        );
        check(
            |config| config.ports = 80..=90,
            Some(&Error::Ports {
                first: 80,
                last: 90,
            }),
        );
        check(
            |config| config.ports = RangeInclusive::new(3000, 2000),
            Some(&Error::Ports {
                first: 3000,
                last: 2000,
            }),
        );
        check(
            |config| config.node_ttl = Span(10),
            Some(&Error::NodeTtl(Span(10))),
        );
    }
}
