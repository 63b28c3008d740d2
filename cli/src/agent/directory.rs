//! A directory that one process owns: its lock, and the small JSON files in it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::credentials::write_private;
use crate::error::{CommandError, code};

/// The largest file of ours that is read; they have a few kilobytes.
const FILE_MAX_BYTES: u64 = 1024 * 1024;

/// A directory, locked for as long as this lives.
#[derive(Debug)]
pub(crate) struct LockedDirectory {
    path: PathBuf,
    /// Closing it releases the lock, also when the process is killed.
    _lock: File,
}

impl LockedDirectory {
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
        Ok(Self { path, _lock: lock })
    }

    /// Its absolute path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of one role.
    pub(crate) fn role(&self, role: &str) -> PathBuf {
        self.path.join(role)
    }

    /// Reads one of its files; `None` when it is not there.
    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, CommandError> {
        let path = self.path.join(name);
        let doing = || format!("read {}", path.display());
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(FILE_MAX_BYTES).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CommandError::file(doing(), &error)),
        }
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| CommandError::new(code::FILE, doing(), error.to_string()))
    }

    /// Replaces one of its files; only its owner may read it.
    pub(crate) fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), CommandError> {
        let path = self.path.join(name);
        let bytes = serde_json::to_vec_pretty(value).map_err(|error| {
            CommandError::new(
                code::FILE,
                format!("write {}", path.display()),
                error.to_string(),
            )
        })?;
        write_private(&path, &bytes)
    }

    /// Removes one of its files, if it is there.
    pub(crate) fn remove(&self, name: &str) -> Result<(), CommandError> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(CommandError::file(
                format!("remove {}", path.display()),
                &error,
            )),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn doing(path: &Path) -> String {
    format!("use the data directory {}", path.display())
}

/// True when a `pm dev`, a `pm agent`, or a heart alone, has used the directory before.
fn is_ours(path: &Path) -> bool {
    [
        "secrets.json",
        "node.json",
        "lock",
        "heart/lock",
        "heart/instances",
    ]
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_second_process_is_told_who_holds_the_directory() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let held = LockedDirectory::lock(&path).unwrap();

        let refused = LockedDirectory::lock(&path).unwrap_err();

        assert_eq!(refused.code, code::IN_USE);
        let holder = format!("process {}", std::process::id());
        assert!(refused.why.contains(&holder), "{}", refused.why);
        drop(held);
        assert!(LockedDirectory::lock(&path).is_ok());
    }

    #[test]
    fn a_directory_of_others_is_refused_and_left_as_it_is() {
        let parent = tempfile::tempdir().unwrap();
        let others = parent.path().join("project");
        fs::create_dir(&others).unwrap();
        fs::set_permissions(&others, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(others.join("main.rs"), "").unwrap();

        let refused = LockedDirectory::lock(&others).unwrap_err();

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
            drop(LockedDirectory::lock(path).unwrap());
            let found = fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(found & 0o777, mode, "{}", path.display());
            assert!(LockedDirectory::lock(path).is_ok());
        }
    }

    #[test]
    fn stopping_makes_no_directory() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("none");

        let refused = LockedDirectory::lock_existing(&path).unwrap_err();

        assert!(refused.doing.contains("none"), "{}", refused.doing);
        assert!(!path.exists());
    }
}
