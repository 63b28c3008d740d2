//! Which packages stay on the node although nothing needs them, and which go.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::PoisonError;
use std::time::SystemTime;

use common::digest::Digest;
use serde::{Deserialize, Serialize};

use super::Packages;
use crate::package::Summary;
use crate::removal::remove_if_present;

/// Packages that are kept for a rollback or the next instance although nothing needs them.
const KEPT_UNUSED: usize = 16;

/// What these packages may take of the disk, unpacked.
const KEPT_UNUSED_BYTES: u64 = 2 << 30;

/// The file beside a tree.
const ABOUT: &str = "about.json";

/// What is known of an unpacked package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    /// Bytes of all its files.
    pub(crate) bytes: u64,
    /// The boot in which it was unpacked.
    pub(crate) boot_id: String,
    /// True when it is known to be on disk, so that it may be used in another boot.
    pub(crate) is_synced: bool,
}

impl About {
    pub(crate) fn new(summary: &Summary, boot_id: String) -> Self {
        Self {
            bytes: summary.bytes,
            boot_id,
            is_synced: false,
        }
    }

    /// Writes it into a package's directory.
    pub(crate) fn write(&self, directory: &Path) -> io::Result<()> {
        let temporary = directory.join("about.json.partial");
        fs::write(&temporary, serde_json::to_vec(self)?)?;
        fs::rename(temporary, directory.join(ABOUT))
    }

    /// Reads it from a package's directory.
    pub(crate) fn read(directory: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(directory.join(ABOUT))?)?)
    }
}

/// A package that nothing needs.
struct Unused {
    digest: Digest,
    bytes: u64,
    used: SystemTime,
}

impl Packages {
    /// Removes packages that are not in `needed`, beyond those that are worth keeping.
    ///
    /// Blocks on the disk.
    pub(crate) fn evict(&self, needed: &BTreeSet<Digest>) -> io::Result<()> {
        let mut unused = self.unused(needed)?;
        unused.sort_by_key(|package| std::cmp::Reverse(package.used));
        let mut bytes = 0;
        for (index, package) in unused.iter().enumerate() {
            bytes += package.bytes;
            if index >= KEPT_UNUSED || bytes > KEPT_UNUSED_BYTES {
                self.remove(&package.digest)?;
            }
        }
        Ok(())
    }

    /// Notes that the packages unpacked before this call are on disk; blocks until they are.
    ///
    /// Returns after the whole file system has been written: the trees that were copied from them too.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let fresh: Vec<_> = self
            .complete()?
            .into_iter()
            .map(|digest| self.directories.package(&digest))
            .filter_map(|directory| Some((About::read(&directory).ok()?, directory)))
            .filter(|(about, _)| !about.is_synced)
            .collect();
        rustix::fs::syncfs(fs::File::open(self.directories.root())?)?;
        for (mut about, directory) in fresh {
            about.is_synced = true;
            match about.write(&directory) {
                // Evicted meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                written => written?,
            }
        }
        Ok(())
    }

    /// Removes what cannot be relied on: trees half made, and trees of an earlier boot that may not
    /// have reached the disk. For a heart that has not begun to work.
    pub(crate) fn clean_up(&self) -> io::Result<()> {
        fs::create_dir_all(self.directories.partial_packages())?;
        for digest in self.complete()? {
            let is_reliable = About::read(&self.directories.package(&digest))
                .is_ok_and(|about| about.is_synced || about.boot_id == self.boot_id);
            if is_reliable {
                continue;
            }
            if let Err(error) = self.remove(&digest) {
                if self.directories.package(&digest).exists() {
                    // It would be taken for whole.
                    return Err(error);
                }
                tracing::error!(%digest, %error, "removing a package that may not be whole");
            }
        }
        for entry in fs::read_dir(self.directories.partial_packages())? {
            let entry = entry?;
            let is_of_use = partial_digest(&entry.file_name())
                .is_some_and(|digest| !self.directories.package(&digest).exists());
            let path = entry.path();
            if !is_of_use && let Err(error) = remove_if_present(&path) {
                tracing::error!(path = %path.display(), %error, "removing a broken-off download; it stays");
            }
        }
        Ok(())
    }

    /// Notes that a package has just been used.
    pub(super) fn touch(&self, digest: &Digest) {
        let touched = fs::File::open(self.directories.package(digest))
            .and_then(|directory| directory.set_modified(SystemTime::now()));
        if let Err(error) = touched {
            tracing::debug!(%digest, %error, "noting the use of a package");
        }
    }

    /// Renames first, so that a killed heart leaves no half of a tree under its final name.
    fn remove(&self, digest: &Digest) -> io::Result<()> {
        let leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        if leases.contains_key(digest) {
            return Ok(());
        }
        let doomed = self
            .directories
            .partial_packages()
            .join(format!("{digest}.removed"));
        remove_if_present(&doomed)?;
        fs::rename(self.directories.package(digest), &doomed)?;
        drop(leases);
        remove_if_present(&doomed)
    }

    fn unused(&self, needed: &BTreeSet<Digest>) -> io::Result<Vec<Unused>> {
        let mut unused = Vec::new();
        for digest in self.complete()? {
            if needed.contains(&digest) {
                continue;
            }
            let directory = self.directories.package(&digest);
            unused.push(Unused {
                bytes: About::read(&directory).map_or(0, |about| about.bytes),
                used: fs::metadata(&directory)?.modified()?,
                digest,
            });
        }
        for entry in fs::read_dir(self.directories.partial_packages())? {
            let entry = entry?;
            let is_needed = partial_digest(&entry.file_name()).is_none_or(|digest| {
                needed.contains(&digest)
                    || self
                        .leases
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .contains_key(&digest)
            });
            if !is_needed {
                remove_if_present(&entry.path())?;
            }
        }
        Ok(unused)
    }

    /// The digests of all trees under their final names.
    fn complete(&self) -> io::Result<Vec<Digest>> {
        let mut digests = Vec::new();
        for entry in fs::read_dir(self.directories.packages())? {
            let name = entry?.file_name();
            digests.extend(name.to_str().and_then(|name| name.parse().ok()));
        }
        Ok(digests)
    }
}

/// The package that a file in the directory of partial packages is a download of.
fn partial_digest(name: &OsStr) -> Option<Digest> {
    name.to_str()?.strip_suffix(".package")?.parse().ok()
}
