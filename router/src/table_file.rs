//! The last routing table on disk: what a router serves when it starts and no pacemaker answers.
//!
//! There are two files, and the newer table of both counts. `routes.new.json` is written before a
//! table is used, so that what a router has acknowledged survives the router; it is not synced, so
//! that a change does not wait for the disk. `routes.json` follows and survives a power cut: it is
//! replaced as a whole (written beside, synced, renamed). A file that cannot be read as a table is
//! the same as none, with a warning.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::id::is_other_cluster;
use common::routing_table::RoutingTable;
use serde::{Deserialize, Serialize};

/// The form of the file; another number is not read.
const FORMAT: u32 = 1;

/// A million hostnames in JSON; a larger file is not ours.
const FILE_MAX_BYTES: u64 = 1024 * 1024 * 1024;

/// A failure to keep the table.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep the routing table in {path}")]
pub(crate) struct SaveError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

#[derive(Serialize)]
struct Written<'table> {
    format: u32,
    table: &'table RoutingTable,
}

#[derive(Deserialize)]
struct Found {
    format: u32,
    table: RoutingTable,
}

/// The files that hold the last table.
#[derive(Clone, Debug)]
pub(crate) struct TableFile {
    path: PathBuf,
    /// Written first, not synced.
    early: PathBuf,
}

impl TableFile {
    pub(crate) fn in_directory(directory: &Path) -> Self {
        Self {
            path: directory.join("routes.json"),
            early: directory.join("routes.new.json"),
        }
    }

    /// Reads the newest table of `cluster` (empty: any); `None` when there is none, or none that can
    /// be read.
    pub(crate) fn load(&self, cluster: &str) -> Option<RoutingTable> {
        let tables = [&self.path, &self.early].map(|path| load(path));
        tables
            .into_iter()
            .flatten()
            .filter(|table| {
                let is_foreign = is_other_cluster(cluster, &table.cluster);
                if is_foreign {
                    tracing::error!(
                        own = cluster,
                        found = table.cluster,
                        "a kept routing table is of another cluster; starting without it"
                    );
                }
                !is_foreign
            })
            .max_by_key(|table| table.generation)
    }

    /// Notes that a pacemaker has answered: the next start knows how old its table is.
    pub(crate) fn note_contact(&self) {
        let noted = File::options()
            .write(true)
            .open(&self.early)
            .and_then(|file| file.set_modified(SystemTime::now()));
        match noted {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::debug!(%error, "noting when a pacemaker answered");
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// How long ago a pacemaker answered, by the wall clock; zero when that is not known.
    pub(crate) fn age(&self) -> Duration {
        [&self.path, &self.early]
            .into_iter()
            .filter_map(|path| std::fs::metadata(path).ok()?.modified().ok())
            .max()
            .and_then(|noted| noted.elapsed().ok())
            .unwrap_or_default()
    }

    /// Forgets the table, so that no later start serves it.
    pub(crate) fn discard(&self) {
        for path in [&self.path, &self.early] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::error!(path = %path.display(), %error, "a restart would serve an old table");
                }
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// Keeps the table where a restart of the router finds it; a power cut may lose it.
    pub(crate) fn save_early(&self, table: &RoutingTable) -> Result<(), SaveError> {
        let beside = self.early.with_extension("json.tmp");
        encode(table)
            .and_then(|bytes| std::fs::write(&beside, bytes))
            .and_then(|()| std::fs::rename(&beside, &self.early))
            .map_err(|source| SaveError {
                path: self.early.clone(),
                source,
            })
    }

    /// Replaces the table; it is on the disk when this returns.
    pub(crate) fn save(&self, table: &RoutingTable) -> Result<(), SaveError> {
        self.replace(table).map_err(|source| SaveError {
            path: self.path.clone(),
            source,
        })
    }

    fn replace(&self, table: &RoutingTable) -> std::io::Result<()> {
        let beside = self.path.with_extension("json.tmp");
        let bytes = encode(table)?;
        let mut file = File::create(&beside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, &self.path)?;
        if let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    }
}

/// Reads one of the files.
fn load(path: &Path) -> Option<RoutingTable> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_MAX_BYTES).read_to_end(&mut bytes));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot read the kept routing table; starting without");
            return None;
        }
    }
    match serde_json::from_slice::<Found>(&bytes) {
        Ok(found) if found.format == FORMAT => Some(found.table),
        Ok(found) => {
            tracing::warn!(path = %path.display(), format = found.format, "the kept routing table has another format; starting without");
            None
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the kept routing table is damaged; starting without");
            None
        }
    }
}

fn encode(table: &RoutingTable) -> std::io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(&Written {
        format: FORMAT,
        table,
    })?)
}

#[cfg(test)]
mod tests {
    use common::id::Generation;

    use super::*;

    #[test]
    fn the_last_table_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = TableFile::in_directory(directory.path());
        assert_eq!(file.load(""), None);

        for generation in 1..3 {
            let table = RoutingTable {
                generation: Generation(generation),
                ..RoutingTable::default()
            };
            file.save(&table).unwrap();
            assert_eq!(file.load(""), Some(table));
        }
    }

    #[test]
    fn the_newer_of_both_files_counts() {
        let directory = tempfile::tempdir().unwrap();
        let file = TableFile::in_directory(directory.path());
        let table = |generation| RoutingTable {
            generation: Generation(generation),
            ..RoutingTable::default()
        };
        file.save(&table(1)).unwrap();
        file.save_early(&table(2)).unwrap();
        assert_eq!(file.load(""), Some(table(2)));

        file.save(&table(3)).unwrap();
        assert_eq!(file.load(""), Some(table(3)));
        std::fs::write(&file.early, "{").unwrap();
        assert_eq!(file.load(""), Some(table(3)));
    }

    #[test]
    fn a_damaged_file_is_no_table() {
        let directory = tempfile::tempdir().unwrap();
        let file = TableFile::in_directory(directory.path());
        for damaged in [
            &b""[..],
            b"{\"format\":1,\"table\":{\"gener",
            b"{\"format\":2,\"table\":{\"generation\":1,\"routes\":{}}}",
            b"\xff\x00",
        ] {
            std::fs::write(&file.path, damaged).unwrap();
            assert_eq!(file.load(""), None);
        }
    }
}
