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

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use common::id::NodeId;
use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::connection::random_text;
use crate::credentials::write_private;
use crate::error::{CommandError, code};

/// The directory, locked for as long as this lives.
#[derive(Debug)]
pub(crate) struct DataDirectory {
    path: PathBuf,
    /// Closing it releases the lock, also when the process is killed.
    _lock: File,
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
        let wrap = |error: std::io::Error| CommandError::file(doing(path), &error);
        if !path.exists() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(wrap)?;
        }
        Self::lock_existing(path)
    }

    /// Locks a directory that an earlier process has left; never makes one.
    pub(crate) fn lock_existing(path: &Path) -> Result<Self, CommandError> {
        let doing = doing(path);
        let wrap = |error: std::io::Error| CommandError::file(doing.clone(), &error);
        let path = fs::canonicalize(path).map_err(wrap)?;
        let is_empty = || fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none());
        if !is_ours(&path) && !is_empty() {
            return Err(CommandError::new(
                code::FILE,
                doing,
                "there are files in it, and none that a cluster has made",
            )
            .next("give a directory that is empty or does not exist with --data-dir"));
        }
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(wrap)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            lock.read_to_string(&mut holder).map_err(wrap)?;
            return Err(in_use(doing, &path, holder.trim()));
        }
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(wrap)?;
        // Whoever ran before listens no longer.
        match fs::remove_file(path.join("addresses.json")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(wrap(error)),
            Ok(()) | Err(_) => Ok(Self { path, _lock: lock }),
        }
    }

    /// Its absolute path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of one role.
    pub(crate) fn role(&self, role: &str) -> PathBuf {
        self.path.join(role)
    }

    /// The secrets, made at the first start.
    pub(crate) fn secrets(&self) -> Result<Secrets, CommandError> {
        let path = self.path.join("secrets.json");
        if let Some(secrets) = read(&path)? {
            return Ok(secrets);
        }
        let secrets = Secrets {
            node_key: random_text()?,
            administrator_token: random_text()?,
            node_token: random_text()?,
        };
        write(&path, &secrets)?;
        Ok(secrets)
    }

    /// The node's number, when the cluster has given one.
    pub(crate) fn node(&self) -> Result<Option<NodeId>, CommandError> {
        let identity: Option<NodeIdentity> = read(&self.path.join("node.json"))?;
        Ok(identity.map(|identity| identity.node))
    }

    /// Keeps the node's number.
    pub(crate) fn keep_node(&self, node: NodeId) -> Result<(), CommandError> {
        write(&self.path.join("node.json"), &NodeIdentity { node })
    }

    /// Tells others where this process listens.
    pub(crate) fn keep_addresses(&self, addresses: &Addresses) -> Result<(), CommandError> {
        write(&self.path.join("addresses.json"), addresses)
    }
}

fn doing(path: &Path) -> String {
    format!("use the data directory {}", path.display())
}

/// True when a `pm dev`, or a heart alone, has used the directory before.
fn is_ours(path: &Path) -> bool {
    ["secrets.json", "lock", "heart/lock", "heart/instances"]
        .iter()
        .any(|name| path.join(name).exists())
}

fn in_use(doing: String, path: &Path, holder: &str) -> CommandError {
    let holder = if holder.is_empty() {
        "another process".to_owned()
    } else {
        format!("process {holder}")
    };
    CommandError::new(
        code::IN_USE,
        doing,
        format!("{holder} runs a cluster from {}", path.display()),
    )
    .next("use that one, end it, or give this one another --data-dir")
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, CommandError> {
    let doing = || format!("read {}", path.display());
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(CommandError::file(doing(), &error)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| CommandError::new(code::FILE, doing(), error.to_string()))
}

fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), CommandError> {
    let bytes = serde_json::to_vec_pretty(value).map_err(|error| {
        CommandError::new(
            code::FILE,
            format!("write {}", path.display()),
            error.to_string(),
        )
    })?;
    write_private(path, &bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_second_process_is_told_who_holds_the_directory() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let held = DataDirectory::lock(&path).unwrap();

        let refused = DataDirectory::lock(&path).unwrap_err();

        assert_eq!(refused.code, code::IN_USE);
        let holder = format!("process {}", std::process::id());
        assert!(refused.why.contains(&holder), "{}", refused.why);
        drop(held);
        assert!(DataDirectory::lock(&path).is_ok());
    }

    #[test]
    fn a_directory_of_others_is_refused_and_left_as_it_is() {
        let parent = tempfile::tempdir().unwrap();
        let others = parent.path().join("project");
        fs::create_dir(&others).unwrap();
        fs::set_permissions(&others, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(others.join("main.rs"), "").unwrap();

        let refused = DataDirectory::lock(&others).unwrap_err();

        assert!(refused.doing.contains("project"), "{}", refused.doing);
        let mode = fs::metadata(&others).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        assert!(!others.join("lock").exists());
    }

    #[test]
    fn a_new_directory_is_private_and_an_existing_one_keeps_its_mode() {
        let parent = tempfile::tempdir().unwrap();
        let new = parent.path().join("new");
        let empty = parent.path().join("empty");
        fs::create_dir(&empty).unwrap();
        fs::set_permissions(&empty, fs::Permissions::from_mode(0o750)).unwrap();

        for (path, mode) in [(&new, 0o700), (&empty, 0o750)] {
            drop(DataDirectory::lock(path).unwrap());
            let found = fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(found & 0o777, mode, "{}", path.display());
            assert!(DataDirectory::lock(path).is_ok());
        }
    }

    #[test]
    fn stopping_makes_no_directory() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("none");

        let refused = DataDirectory::lock_existing(&path).unwrap_err();

        assert!(refused.doing.contains("none"), "{}", refused.doing);
        assert!(!path.exists());
    }

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
