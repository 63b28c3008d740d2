//! Where everything is on disk.
//!
//! ```text
//! <data>/journal.redb, assignment.json, lease, lock
//! <data>/packages/<digest>/{tree,about.json}   <data>/packages/partial/…
//! <data>/instances/<id>/{code,run,startup,log,tmp}
//! <data>/builds/<job>/{code,run,log,tmp}
//! ```
//! Names are made of numbers and digests only, so nothing that a user wrote becomes a path. What
//! is being made has a name that ends in `.partial` until it is complete.

use std::path::{Path, PathBuf};

use common::digest::Digest;
use common::id::{InstanceId, JobId};

/// The heart's data directory.
#[derive(Clone, Debug)]
pub(crate) struct Directories {
    root: PathBuf,
}

/// The directory of one instance or one build.
#[derive(Clone, Debug)]
pub(crate) struct WorkDirectory {
    root: PathBuf,
}

impl Directories {
    pub(crate) const fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Held locked while a heart uses the directory.
    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.root.join("journal.redb")
    }

    pub(crate) fn assignment(&self) -> PathBuf {
        self.root.join("assignment.json")
    }

    /// Until when exclusive instances may run; see `shim::lease`.
    pub(crate) fn lease(&self) -> PathBuf {
        self.root.join("lease")
    }

    pub(crate) fn packages(&self) -> PathBuf {
        self.root.join("packages")
    }

    /// Downloads and unpacked trees that are not complete.
    pub(crate) fn partial_packages(&self) -> PathBuf {
        self.packages().join("partial")
    }

    pub(crate) fn package(&self, digest: &Digest) -> PathBuf {
        self.packages().join(digest.as_str())
    }

    pub(crate) fn instances(&self) -> PathBuf {
        self.root.join("instances")
    }

    pub(crate) fn instance(&self, id: InstanceId) -> WorkDirectory {
        WorkDirectory {
            root: self.instances().join(id.to_string()),
        }
    }

    pub(crate) fn builds(&self) -> PathBuf {
        self.root.join("builds")
    }

    pub(crate) fn build(&self, job: JobId) -> WorkDirectory {
        WorkDirectory {
            root: self.builds().join(job.to_string()),
        }
    }
}

/// The run directories of all instances and builds in a heart's data directory, in order.
///
/// Only the platform writes there: records anywhere else are an application's own files. What
/// cannot be read is left out.
#[must_use]
pub fn run_directories(data_dir: &Path) -> Vec<PathBuf> {
    let directories = Directories::new(data_dir.to_owned());
    let mut found: Vec<PathBuf> = [directories.instances(), directories.builds()]
        .iter()
        .filter_map(|parent| std::fs::read_dir(parent).ok())
        .flat_map(|entries| entries.filter_map(Result::ok))
        .map(|entry| WorkDirectory::at(entry.path()))
        .flat_map(|directory| [directory.run(), directory.startup()])
        .filter(|run| run.is_dir())
        .collect();
    found.sort();
    found
}

impl WorkDirectory {
    /// A directory that was found.
    pub(crate) const fn at(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The code: working directory and home of the process.
    pub(crate) fn code(&self) -> PathBuf {
        self.root.join("code")
    }

    pub(crate) fn partial_code(&self) -> PathBuf {
        self.root.join("code.partial")
    }

    /// The run directory of the process.
    pub(crate) fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// The run directory of the startup commands.
    pub(crate) fn startup(&self) -> PathBuf {
        self.root.join("startup")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    pub(crate) fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_platforms_own_directories_are_run_directories() {
        let data = tempfile::tempdir().unwrap();
        for path in [
            "instances/1/run",
            "instances/1/startup",
            "instances/1/code/run",
            "instances/1/tmp/run",
            "builds/2/run",
            "builds/2/code/run",
        ] {
            std::fs::create_dir_all(data.path().join(path)).unwrap();
        }

        let expected = ["builds/2/run", "instances/1/run", "instances/1/startup"]
            .map(|path| data.path().join(path));
        assert_eq!(run_directories(data.path()), expected);
    }
}
