//! Who this pacemaker is in its Raft group, kept in `identity.json`.
//!
//! The file is written at each start, after the log has been made. A directory with an identity and
//! without a log has lost its memory: it must not vote again, so it is refused.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::sync_directory;

/// The layout of the data directory that this release reads and writes.
const FORMAT_VERSION: u32 = 1;
const FILE: &str = "identity.json";
const TEMPORARY: &str = "identity.json.tmp";

/// Who this pacemaker is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    format: u32,
    /// Its number in the Raft group; never given to another.
    pub(crate) member: u64,
    /// The key of the node that it was made on.
    pub(crate) node_key: String,
    /// Made with the log: a log that is made anew has another, so that a member whose disk was
    /// lost is not taken for the one that it was.
    #[serde(default)]
    pub(crate) incarnation: String,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Another release wrote it.
    #[error("the data directory {} has format {found} and this release reads format {FORMAT_VERSION}; start the release that wrote it", path.display())]
    Format {
        /// The directory.
        path: PathBuf,
        /// What it says.
        found: u64,
    },
    /// It cannot be understood.
    #[error("{} is damaged; restore it from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// It was made for another member.
    #[error("the data directory {} belongs to member {found}, and this is member {expected}; start that one on it, or give this one a directory of its own", path.display())]
    OtherMember {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: u64,
        /// Who this is.
        expected: u64,
    },
    /// There are no random numbers.
    #[error("making a random number")]
    Random(#[source] getrandom::Error),
    /// It has been a member before, and its log is gone.
    #[error("{} says that this pacemaker has voted before, but its log is gone; restore the data directory from a backup, or take this node out of the cluster and let it join anew with an empty directory", path.display())]
    LogMissing {
        /// The file.
        path: PathBuf,
    },
    /// The disk refused.
    #[error("using the data directory {}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Identity {
    /// Reads who this is, or decides it; nothing is written yet. Blocks.
    pub(crate) fn load(
        directory: &Path,
        member: u64,
        node_key: &str,
        has_log: bool,
    ) -> Result<Self, IdentityError> {
        let path = directory.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self {
                    format: FORMAT_VERSION,
                    member,
                    node_key: node_key.to_owned(),
                    incarnation: incarnation()?,
                });
            }
            Err(source) => return Err(IdentityError::Io { path, source }),
        };
        let damaged = |source| IdentityError::Damaged {
            path: path.clone(),
            source,
        };
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(damaged)?;
        if let Some(found) = value.get("format").and_then(serde_json::Value::as_u64)
            && found != u64::from(FORMAT_VERSION)
        {
            return Err(IdentityError::Format {
                path: directory.to_owned(),
                found,
            });
        }
        let mut identity: Self = serde_json::from_value(value).map_err(damaged)?;
        if identity.member != member {
            return Err(IdentityError::OtherMember {
                path: directory.to_owned(),
                found: identity.member,
                expected: member,
            });
        }
        if !has_log {
            return Err(IdentityError::LogMissing { path });
        }
        if identity.incarnation.is_empty() {
            identity.incarnation = incarnation()?;
        }
        Ok(identity)
    }

    /// Puts it on disk, once the log is there, and makes every name in the directory durable. Blocks.
    pub(crate) fn keep(&self, directory: &Path) -> Result<(), IdentityError> {
        let write = || -> io::Result<()> {
            let temporary = directory.join(TEMPORARY);
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            fs::rename(&temporary, directory.join(FILE))?;
            sync_directory(directory)
        };
        write().map_err(|source| IdentityError::Io {
            path: directory.to_owned(),
            source,
        })
    }
}

/// 64 random bits as hexadecimal.
fn incarnation() -> Result<String, IdentityError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(IdentityError::Random)?;
    Ok(format!("{:016x}", u64::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_kept_and_a_lost_log_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();

        let made = Identity::load(path, 3, "key", false).unwrap();
        made.keep(path).unwrap();

        assert_eq!(Identity::load(path, 3, "other", true).unwrap(), made);
        let other = Identity::load(path, 4, "key", true).unwrap_err();
        assert!(matches!(other, IdentityError::OtherMember { found: 3, .. }));
        let lost = Identity::load(path, 3, "key", false).unwrap_err();
        assert!(matches!(lost, IdentityError::LogMissing { .. }));
    }

    #[test]
    fn directory_of_another_format_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::write(path.join(FILE), r#"{"format": 7, "something": "else"}"#).unwrap();

        let error = Identity::load(path, 1, "key", true).unwrap_err();

        assert!(error.to_string().contains("format 7"), "{error}");
    }
}
