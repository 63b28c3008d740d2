//! The directory that a node of a cluster owns.
//!
//! ```text
//! /var/lib/paasmaker/     0700
//!   lock                  held by the running process; its content is that process's id
//!   node.json             the node's key, its number, and what was given when it was made
//!   pacemakers.json       where pacemakers answered last
//!   founding.json         on the first node until its pacemaker has begun the cluster
//!   addresses.json        where API and router listen, written at each start; a stale one is removed
//!   tls/                  node.pem, node.key, ca.pem; on pacemakers ca.key
//!   pm.log                what the roles log
//!   pacemaker/ heart/ router/   one for each role, theirs alone
//! ```
//! A node is a node of its cluster from the moment that `tls/node.pem` exists; everything that it
//! needs besides is written before.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use common::id::NodeId;
use pacemaker::{ClusterSettings, JoinTokenRecord};
use pacemaker_client::tls::NodeIdentity;
use serde::{Deserialize, Serialize};

use crate::agent::directory::LockedDirectory;
use crate::args::agent::NodeSettings;
use crate::connection::random_text;
use crate::credentials::write_private;
use crate::error::{CommandError, chain, code};

const NODE_FILE: &str = "node.json";
const PACEMAKERS_FILE: &str = "pacemakers.json";
const FOUNDING_FILE: &str = "founding.json";
const ADDRESSES_FILE: &str = "addresses.json";
/// The key of the authority, among the files of `tls/`.
const AUTHORITY_KEY_FILE: &str = "ca.key";
/// More than the largest group of pacemakers, for clusters that move.
const PACEMAKERS_MAX: usize = 16;

/// The directory, locked for as long as this lives.
#[derive(Debug)]
pub(crate) struct NodeDirectory(LockedDirectory);

impl Deref for NodeDirectory {
    type Target = LockedDirectory;

    fn deref(&self) -> &LockedDirectory {
        &self.0
    }
}

/// What a node keeps of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    /// Random, made once: the same key is the same node.
    pub(crate) key: String,
    /// Its number, when it has joined.
    #[serde(default)]
    pub(crate) node: Option<NodeId>,
    /// What was given as flags when it was made; the configuration of today counts more.
    #[serde(default)]
    pub(crate) given: NodeSettings,
}

/// What a cluster begins with; said by `pm cluster init`, done by the first start of its pacemaker.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Founding {
    /// Appended to every generated hostname.
    pub(crate) hostname: String,
    /// May do everything.
    pub(crate) administrator_token: String,
    /// Times that the cluster keeps to.
    pub(crate) settings: ClusterSettings,
    /// Handed out before anything ran.
    pub(crate) join_tokens: Vec<JoinTokenRecord>,
}

impl Founding {
    /// What stands in its place where no cluster begins.
    pub(crate) fn nothing() -> Result<Self, CommandError> {
        Ok(Self {
            hostname: "localhost".to_owned(),
            administrator_token: random_text()?,
            settings: ClusterSettings::default(),
            join_tokens: Vec::new(),
        })
    }
}

/// Where a node listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeAddresses {
    /// Its number.
    pub(crate) node: NodeId,
    /// The API, as `https://host:port`.
    pub(crate) api: String,
    /// The router, as `http://host:port`, when it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) router: Option<String>,
    /// The process that listens.
    pub(crate) pid: u32,
}

impl NodeDirectory {
    /// Makes the directory if needed, and locks it; refuses one that holds something else.
    pub(crate) fn lock(path: &Path) -> Result<Self, CommandError> {
        LockedDirectory::lock(path).and_then(Self::of)
    }

    /// Locks a directory that an earlier process has left; never makes one.
    pub(crate) fn lock_existing(path: &Path) -> Result<Self, CommandError> {
        LockedDirectory::lock_existing(path).and_then(Self::of)
    }

    fn of(locked: LockedDirectory) -> Result<Self, CommandError> {
        if locked.path().join("secrets.json").exists() {
            return Err(CommandError::new(
                code::IN_USE,
                format!("use the data directory {}", locked.path().display()),
                "it is that of a `pm dev`",
            )
            .next("give another one with --data-dir"));
        }
        // Whoever ran before listens no longer.
        locked.remove(ADDRESSES_FILE)?;
        Ok(Self(locked))
    }

    /// What the node keeps of itself; made at the first call.
    pub(crate) fn record(&self) -> Result<NodeRecord, CommandError> {
        if let Some(record) = self.read(NODE_FILE)? {
            return Ok(record);
        }
        let record = NodeRecord {
            key: random_text()?,
            node: None,
            given: NodeSettings::default(),
        };
        self.keep_record(&record)?;
        Ok(record)
    }

    /// Replaces what the node keeps of itself.
    pub(crate) fn keep_record(&self, record: &NodeRecord) -> Result<(), CommandError> {
        self.write(NODE_FILE, record)
    }

    /// Who the node is in its cluster; nobody yet when it has not joined.
    pub(crate) fn identity(&self) -> Result<Option<NodeIdentity>, CommandError> {
        let path = self.tls();
        NodeIdentity::load(&path).map_err(|error| {
            CommandError::new(
                code::FILE,
                format!("read the node's identity in {}", path.display()),
                chain(&error),
            )
            .next("restore the directory from a backup, or remove the node from the cluster and join anew with another --data-dir")
        })
    }

    /// Keeps who the node is; on a pacemaker with the key of the authority.
    pub(crate) fn keep_identity(
        &self,
        identity: &NodeIdentity,
        authority_key: Option<&str>,
    ) -> Result<(), CommandError> {
        let path = self.tls();
        if let Some(key) = authority_key {
            write_private(&path.join(AUTHORITY_KEY_FILE), key.as_bytes())?;
        }
        identity.store(&path).map_err(|error| {
            CommandError::new(
                code::FILE,
                format!("keep the node's identity in {}", path.display()),
                chain(&error),
            )
        })
    }

    /// Where certificates and keys are.
    pub(crate) fn tls(&self) -> PathBuf {
        self.path().join("tls")
    }

    /// Where pacemakers answered last, as `https://host:port`.
    pub(crate) fn pacemakers(&self) -> Result<Vec<String>, CommandError> {
        Ok(self.read(PACEMAKERS_FILE)?.unwrap_or_default())
    }

    /// Keeps where pacemakers answer.
    pub(crate) fn keep_pacemakers(&self, pacemakers: &[String]) -> Result<(), CommandError> {
        let kept = &pacemakers[..pacemakers.len().min(PACEMAKERS_MAX)];
        self.write(PACEMAKERS_FILE, &kept)
    }

    /// What the cluster begins with, on its first node before it has begun.
    pub(crate) fn founding(&self) -> Result<Option<Founding>, CommandError> {
        self.read(FOUNDING_FILE)
    }

    /// Keeps what the cluster begins with.
    pub(crate) fn keep_founding(&self, founding: &Founding) -> Result<(), CommandError> {
        self.write(FOUNDING_FILE, founding)
    }

    /// The cluster has begun: the administrator's token is needed here no longer.
    pub(crate) fn forget_founding(&self) -> Result<(), CommandError> {
        self.remove(FOUNDING_FILE)
    }

    /// Tells others where this process listens.
    pub(crate) fn keep_addresses(&self, addresses: &NodeAddresses) -> Result<(), CommandError> {
        self.write(ADDRESSES_FILE, addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_key_and_what_it_was_given() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let directory = NodeDirectory::lock(&path).unwrap();
        let mut record = directory.record().unwrap();
        record.node = Some(NodeId(3));
        record.given.zone = Some("a".to_owned());
        directory.keep_record(&record).unwrap();
        drop(directory);

        let kept = NodeDirectory::lock(&path).unwrap().record().unwrap();

        assert_eq!(kept.key, record.key);
        assert_eq!(kept.given.zone.as_deref(), Some("a"));
        assert_eq!(kept.node, Some(NodeId(3)));
    }

    #[test]
    fn the_directory_of_a_development_cluster_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("secrets.json"), "{}").unwrap();

        let refused = NodeDirectory::lock(&path).unwrap_err();

        assert_eq!(refused.code, code::IN_USE);
    }
}
