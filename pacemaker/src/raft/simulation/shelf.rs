//! The snapshots of a simulated machine: files that are whole or not there.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// A directory in memory that outlives the process; clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shelf(Arc<Mutex<BTreeMap<PathBuf, Vec<u8>>>>);

impl Shelf {
    /// Complete at once: the file is written, flushed and renamed before anything else happens.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.files().insert(PathBuf::from(name), bytes.to_vec());
        Ok(())
    }

    /// The bytes of a file.
    pub(crate) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let files = self.files();
        let bytes = files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(bytes.clone())
    }

    /// A file less.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = self.files().remove(path);
        removed
            .map(drop)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// All files.
    pub(crate) fn list(&self) -> Vec<PathBuf> {
        self.files().keys().cloned().collect()
    }

    /// Flips one bit of the newest file, if there is one.
    pub(crate) fn damage(&self, position: u64) {
        let mut files = self.files();
        if let Some((_, bytes)) = files.iter_mut().next_back() {
            let length = bytes.len() as u64;
            let at = usize::try_from(position % length).expect("it is an index");
            bytes[at] ^= 1;
        }
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Vec<u8>>> {
        self.0.lock().expect("one thread runs the simulation")
    }
}
