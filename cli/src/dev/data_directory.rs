//! The directory that a `pm dev` owns: its lock, its secrets, what it knows of itself.
//!
//! ```text
//! .paasmaker/             0700
//!   lock                  held by the running process; its content is that process's id
//!   secrets.json          0600; made once: the node's key and the tokens
//!   node.json             the node's number, once the cluster has given it
//!   addresses.json        where API and router listen, written at each start; a stale one is removed
//!   pm.log                what the roles log
//!   pacemaker/ heart/ router/   one for each role, theirs alone
//! ```

use std::ops::Deref;
use std::path::Path;

use common::id::NodeId;
use serde::{Deserialize, Serialize};

use crate::agent::directory::LockedDirectory;
use crate::connection::random_text;
use crate::error::{CommandError, code};

/// The directory, locked for as long as this lives.
#[derive(Debug)]
pub(crate) struct DataDirectory(LockedDirectory);

impl Deref for DataDirectory {
    type Target = LockedDirectory;

    fn deref(&self) -> &LockedDirectory {
        &self.0
    }
}

/// Random texts that are made once.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Secrets {
    /// Names this node to the cluster.
    pub(crate) node_key: String,
    /// The bearer may do everything that a person may.
    pub(crate) administrator_token: String,
    /// The bearer may do what hearts and routers do.
    pub(crate) node_token: String,
}

/// What the cluster has told this node about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeIdentity {
    /// Its number.
    pub(crate) node: NodeId,
}

/// Where a `pm dev` listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Addresses {
    /// The API, as `http://host:port`.
    pub(crate) api: String,
    /// The router, as `http://host:port`.
    pub(crate) router: String,
    /// The process that listens.
    pub(crate) pid: u32,
}

impl DataDirectory {
    /// Makes the directory if needed, and locks it; refuses one that holds something else.
    pub(crate) fn lock(path: &Path) -> Result<Self, CommandError> {
        LockedDirectory::lock(path).and_then(Self::of)
    }

    /// Locks a directory that an earlier process has left; never makes one.
    pub(crate) fn lock_existing(path: &Path) -> Result<Self, CommandError> {
        LockedDirectory::lock_existing(path).and_then(Self::of)
    }

    fn of(locked: LockedDirectory) -> Result<Self, CommandError> {
        if locked.path().join("tls").exists() {
            return Err(CommandError::new(
                code::IN_USE,
                format!("use the data directory {}", locked.path().display()),
                "it is that of a node of a cluster",
            )
            .next("start that node with `pm agent`, or give another --data-dir"));
        }
        // Whoever ran before listens no longer.
        locked.remove("addresses.json")?;
        Ok(Self(locked))
    }

    /// The secrets, made at the first start.
    pub(crate) fn secrets(&self) -> Result<Secrets, CommandError> {
        if let Some(secrets) = self.read("secrets.json")? {
            return Ok(secrets);
        }
        let secrets = Secrets {
            node_key: random_text()?,
            administrator_token: random_text()?,
            node_token: random_text()?,
        };
        self.write("secrets.json", &secrets)?;
        Ok(secrets)
    }

    /// The node's number, when the cluster has given one.
    pub(crate) fn node(&self) -> Result<Option<NodeId>, CommandError> {
        let identity: Option<NodeIdentity> = self.read("node.json")?;
        Ok(identity.map(|identity| identity.node))
    }

    /// Keeps the node's number.
    pub(crate) fn keep_node(&self, node: NodeId) -> Result<(), CommandError> {
        self.write("node.json", &NodeIdentity { node })
    }

    /// Tells others where this process listens.
    pub(crate) fn keep_addresses(&self, addresses: &Addresses) -> Result<(), CommandError> {
        self.write("addresses.json", addresses)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn addresses_of_an_earlier_process_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        drop(DataDirectory::lock(&path).unwrap());
        fs::write(path.join("addresses.json"), "{}").unwrap();

        let _held = DataDirectory::lock(&path).unwrap();

        assert!(!path.join("addresses.json").exists());
    }

    #[test]
    fn secrets_are_made_once_and_private() {
        let parent = tempfile::tempdir().unwrap();
        let directory = DataDirectory::lock(&parent.path().join("data")).unwrap();

        let first = directory.secrets().unwrap();
        let second = directory.secrets().unwrap();

        assert_eq!(first.administrator_token, second.administrator_token);
        assert_ne!(first.administrator_token, first.node_token);
        let mode = fs::metadata(directory.path().join("secrets.json")).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    }
}
