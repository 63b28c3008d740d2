//! Snapshots as files: complete and checked, or not there.
//!
//! ```text
//! "PMSNAP" | version byte | SHA-256 of the rest | zstd( named MessagePack of the image )
//! ```
//! A file is written under a temporary name, flushed, renamed, and its directory flushed. The two
//! newest are kept; the log behind the older one is kept too, so a damaged newest one costs time,
//! never data.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use common::id::Generation;
use common::time::Timestamp;
use pacemaker_core::State;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::files::sync_directory;
#[cfg(test)]
use crate::raft::simulation::shelf::Shelf;
use crate::raft::types::{
    SnapshotBytes, SnapshotMeta, StoredLogId, StoredMembers, StoredMembership, damaged,
};
use crate::replica::Held;

/// Begins every snapshot file.
const MAGIC: &[u8; 6] = b"PMSNAP";
/// The layout of the image that this release writes.
const FORMAT_VERSION: u8 = 1;
/// Before the compressed image: magic, version, SHA-256.
const HEADER_BYTES: usize = MAGIC.len() + 1 + 32;
/// The newest may turn out damaged; the one before it is the way back.
const KEPT: usize = 2;
/// zstd's fastest regular level: a snapshot is made while the machine does other things.
const COMPRESSION: i32 = 1;
const SUFFIX: &str = ".snapshot";
const TEMPORARY: &str = "writing.tmp";

/// What a snapshot holds.
#[derive(Debug)]
pub(crate) struct Image {
    /// Of which log, with which members.
    pub(crate) meta: SnapshotMeta,
    /// The state with its time.
    pub(crate) held: Held,
    /// Numbers that were in the group and are no longer.
    pub(crate) former: BTreeSet<u64>,
}

/// The image while it is written.
#[derive(Serialize)]
struct Writing<'a> {
    last: Option<StoredLogId>,
    members_at: Option<StoredLogId>,
    members: StoredMembers,
    now: Timestamp,
    state: &'a State,
    former: &'a BTreeSet<u64>,
}

/// The image while it is read.
#[derive(Deserialize)]
struct Reading {
    last: Option<StoredLogId>,
    members_at: Option<StoredLogId>,
    members: StoredMembers,
    now: Timestamp,
    state: State,
    #[serde(default)]
    former: BTreeSet<u64>,
}

impl Image {
    /// The bytes of the file.
    pub(crate) fn encode(&self) -> io::Result<SnapshotBytes> {
        let membership = &self.meta.last_membership;
        let mut bytes = vec![0; HEADER_BYTES];
        let mut compressor = zstd::Encoder::new(&mut bytes, COMPRESSION)?;
        Writing {
            last: self.meta.last_log_id.map(Into::into),
            members_at: membership.log_id().map(Into::into),
            members: membership.membership().into(),
            now: self.held.now,
            state: &self.held.state,
            former: &self.former,
        }
        .serialize(&mut rmp_serde::Serializer::new(&mut compressor).with_struct_map())
        .map_err(io::Error::other)?;
        compressor.finish()?;
        let check = Sha256::digest(&bytes[HEADER_BYTES..]);
        bytes[..MAGIC.len()].copy_from_slice(MAGIC);
        bytes[MAGIC.len()] = FORMAT_VERSION;
        bytes[MAGIC.len() + 1..HEADER_BYTES].copy_from_slice(&check);
        Ok(bytes.into())
    }

    /// The image of a file's bytes.
    pub(crate) fn decode(bytes: &[u8]) -> io::Result<Self> {
        let Some((header, body)) = bytes.split_at_checked(HEADER_BYTES) else {
            return Err(damaged("a snapshot that is cut off"));
        };
        let (magic, rest) = header.split_at(MAGIC.len());
        let (version, check) = rest.split_at(1);
        if magic != MAGIC {
            return Err(damaged("not a snapshot"));
        }
        if version != [FORMAT_VERSION] {
            return Err(damaged(format!(
                "a snapshot of format {}; this release reads format {FORMAT_VERSION}",
                version[0]
            )));
        }
        if Sha256::digest(body)[..] != *check {
            return Err(damaged("a snapshot whose check does not match its bytes"));
        }
        let reading: Reading =
            rmp_serde::from_read(io::BufReader::new(zstd::Decoder::new(body)?)).map_err(damaged)?;
        Ok(Self {
            meta: SnapshotMeta {
                last_log_id: reading.last.map(Into::into),
                last_membership: StoredMembership::new(
                    reading.members_at.map(Into::into),
                    reading.members.membership()?,
                ),
            },
            held: Held {
                state: reading.state,
                now: reading.now,
            },
            former: reading.former,
        })
    }
}

/// The directory of snapshots.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFiles {
    place: Place,
}

impl SnapshotFiles {
    /// Makes the directory if there is none.
    pub(crate) fn open(directory: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&directory)?;
        Ok(Self {
            place: Place::Directory(directory),
        })
    }

    /// The snapshots on the disk of a simulated machine.
    #[cfg(test)]
    pub(crate) fn simulated(shelf: Shelf) -> Self {
        Self {
            place: Place::Shelf(shelf),
        }
    }

    /// Writes a snapshot up to `last` and removes those that are no longer needed. Blocks.
    pub(crate) fn write(&self, last: Generation, bytes: &[u8]) -> io::Result<()> {
        let name = format!("{:020}{SUFFIX}", last.0);
        self.place.write(&name, bytes)?;
        for path in self.newest_first()?.into_iter().skip(KEPT) {
            self.place.remove(&path)?;
        }
        Ok(())
    }

    /// The newest snapshot that is valid. Blocks.
    pub(crate) fn newest(&self) -> io::Result<Option<(SnapshotBytes, Image)>> {
        let mut unreadable = None;
        for path in self.newest_first()? {
            let read = self.place.read(&path).inspect_err(|error| {
                unreadable = Some(io::Error::new(error.kind(), error.to_string()));
            });
            match read.and_then(|bytes| Ok((Image::decode(&bytes)?, bytes))) {
                Ok((image, bytes)) => return Ok(Some((bytes.into(), image))),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "skipping a damaged snapshot");
                }
            }
        }
        // What could not be read may be whole: nothing is decided without it.
        unreadable.map_or(Ok(None), Err)
    }

    fn newest_first(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths = self.place.list()?;
        paths.retain(|path| path.to_string_lossy().ends_with(SUFFIX));
        paths.sort_unstable();
        paths.reverse();
        Ok(paths)
    }
}

/// Where the files are.
#[derive(Clone, Debug)]
enum Place {
    Directory(PathBuf),
    #[cfg(test)]
    Shelf(Shelf),
}

impl Place {
    /// Complete and on disk, or not there under this name.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Directory(directory) => {
                let temporary = directory.join(TEMPORARY);
                let mut file = File::create(&temporary)?;
                file.write_all(bytes)?;
                file.sync_all()?;
                fs::rename(&temporary, directory.join(name))?;
                sync_directory(directory)
            }
            #[cfg(test)]
            Self::Shelf(shelf) => shelf.write(name, bytes),
        }
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match self {
            Self::Directory(_) => fs::read(path),
            #[cfg(test)]
            Self::Shelf(shelf) => shelf.read(path),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match self {
            Self::Directory(_) => fs::remove_file(path),
            #[cfg(test)]
            Self::Shelf(shelf) => shelf.remove(path),
        }
    }

    fn list(&self) -> io::Result<Vec<PathBuf>> {
        match self {
            Self::Directory(directory) => fs::read_dir(directory)?
                .map(|item| Ok(item?.path()))
                .collect(),
            #[cfg(test)]
            Self::Shelf(shelf) => Ok(shelf.list()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_snapshot_gives_way_to_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let files = SnapshotFiles::open(directory.path().to_owned()).unwrap();
        let image = |now| Image {
            meta: SnapshotMeta::default(),
            held: Held {
                state: State::default(),
                now: Timestamp(now),
            },
            former: BTreeSet::from([7]),
        };

        for index in 1..=3 {
            let bytes = image(index).encode().unwrap();
            files.write(Generation(index), &bytes).unwrap();
        }
        assert_eq!(files.newest_first().unwrap().len(), KEPT);
        let (_, newest) = files.newest().unwrap().unwrap();
        assert_eq!(newest.held.now, Timestamp(3));

        let path = &files.newest_first().unwrap()[0];
        let mut bytes = fs::read(path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(path, bytes).unwrap();
        let (_, before) = files.newest().unwrap().unwrap();
        assert_eq!(before.held.now, Timestamp(2));

        // A directory in its place cannot be read at all, as a sector that is gone cannot.
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
        let (_, before) = files.newest().unwrap().unwrap();
        assert_eq!(before.held.now, Timestamp(2));
        fs::remove_file(&files.newest_first().unwrap()[1]).unwrap();
        assert!(files.newest().is_err(), "it may have been whole");
    }
}
