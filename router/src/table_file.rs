//! The last routing table on disk: what a router serves when it starts and no pacemaker answers.
//!
//! The file is replaced as a whole (written beside, synced, renamed), so it is the old table or the
//! new one. A file that cannot be read as a table is the same as none, with a warning.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

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

/// The file that holds the last table.
#[derive(Clone, Debug)]
pub(crate) struct TableFile {
    path: PathBuf,
}

impl TableFile {
    pub(crate) fn in_directory(directory: &Path) -> Self {
        Self {
            path: directory.join("routes.json"),
        }
    }

    /// Reads the table; `None` when there is none, or none that can be read.
    pub(crate) fn load(&self) -> Option<RoutingTable> {
        let mut bytes = Vec::new();
        let read = File::open(&self.path)
            .and_then(|file| file.take(FILE_MAX_BYTES).read_to_end(&mut bytes));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "cannot read the kept routing table; starting without");
                return None;
            }
        }
        match serde_json::from_slice::<Found>(&bytes) {
            Ok(found) if found.format == FORMAT => Some(found.table),
            Ok(found) => {
                tracing::warn!(path = %self.path.display(), format = found.format, "the kept routing table has another format; starting without");
                None
            }
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "the kept routing table is damaged; starting without");
                None
            }
        }
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
        let bytes = serde_json::to_vec(&Written {
            format: FORMAT,
            table,
        })?;
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

#[cfg(test)]
mod tests {
    use common::id::Generation;

    use super::*;

    #[test]
    fn the_last_table_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = TableFile::in_directory(directory.path());
        assert_eq!(file.load(), None);

        for generation in 1..3 {
            let table = RoutingTable {
                generation: Generation(generation),
                ..RoutingTable::default()
            };
            file.save(&table).unwrap();
            assert_eq!(file.load(), Some(table));
        }
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
            assert_eq!(file.load(), None);
        }
    }
}
