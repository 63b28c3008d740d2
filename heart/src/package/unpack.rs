//! Takes a package from a stranger and lays it out, or refuses it and leaves nothing.
//!
//! `archive` reads entries one after the other, `layout` puts them on disk; this file ties them to
//! the limits. Everything doubtful is an error: an archive that two programs could read
//! differently is not run.

mod archive;
mod layout;
mod stream;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use archive::{Archive, Kind};
use layout::Layout;

use crate::removal::remove_if_present;

/// What unpacking may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Files, directories (also those that are only implied) and links together.
    pub entries: u64,
    /// Bytes of the whole uncompressed archive, and of all its files with each hard link counted as one.
    pub total_bytes: u64,
    /// Uncompressed bytes per compressed byte, beyond the first [`FREE_BYTES`].
    pub ratio: u64,
    /// Bytes of one path.
    pub path_bytes: usize,
    /// Components of one path.
    pub depth: usize,
}

/// Four times the largest node_modules trees that are seen in the wild.
const ENTRIES: u64 = 500_000;

/// Eight times the largest package that is taken in: more than any image of an application.
const TOTAL_BYTES: u64 = 8 << 30;

/// Source code reaches 10, logs of equal lines 100; a bomb 1,000 and more.
const RATIO: u64 = 250;

/// What a tiny archive may unpack to whatever its ratio: a preallocated database file, say.
pub const FREE_BYTES: u64 = 64 << 20;

/// The kernel's PATH_MAX is 4,096 with the terminating NUL, and the destination needs some of it.
const PATH_BYTES: usize = 3_000;

/// Deeper trees are attacks on recursive programs.
const DEPTH: usize = 128;

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: ENTRIES,
            total_bytes: TOTAL_BYTES,
            ratio: RATIO,
            path_bytes: PATH_BYTES,
            depth: DEPTH,
        }
    }
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Regular files, hard links included.
    pub files: u64,
    /// Directories, implied ones included.
    pub directories: u64,
    /// Symbolic links.
    pub links: u64,
    /// Bytes of all regular files, each hard link counted as a file of its own.
    pub bytes: u64,
}

/// A package could not be unpacked; nothing is left at the destination.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive is hostile or of a kind that is not taken.
    #[error("the package is refused: `{path}` {reason}")]
    Refused {
        /// The entry, lossy UTF-8, cut to a sensible length.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Unpacking would cost more than is allowed.
    #[error("the package is refused: it exceeds the limit of {limit} {what}")]
    LimitExceeded {
        /// What is limited.
        what: &'static str,
        /// How much of it is allowed.
        limit: u64,
    },
    /// The archive is cut short, altered, or followed by something else.
    #[error("the package is damaged: {reason}")]
    Damaged {
        /// What was found.
        reason: &'static str,
        /// The decompressor's or the reader's own words.
        #[source]
        source: Option<io::Error>,
    },
    /// The disk, its inodes or the quota are used up.
    #[error("no space is left to unpack {}", path.display())]
    StorageFull {
        /// What was being written.
        path: PathBuf,
    },
    /// Something could not be written for another reason.
    #[error("could not write {}", path.display())]
    Write {
        /// What was being written.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl UnpackError {
    fn refused(path: &[u8], reason: &'static str) -> Self {
        /// Enough to find the entry; a hostile name is not repeated in full.
        const EXCERPT_CHARACTERS: usize = 200;
        Self::Refused {
            path: String::from_utf8_lossy(path)
                .chars()
                .take(EXCERPT_CHARACTERS)
                .collect(),
            reason,
        }
    }

    fn write(path: PathBuf, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::StorageFull { path },
            _ => Self::Write { path, source },
        }
    }
}

/// Unpacks `package` (tar, compressed with zstd or gzip or not at all, told apart by the first
/// bytes) into the new directory `destination`.
///
/// Modes become 755 (directories, executable files) or 644; owners and times are not restored.
/// The files are not synced to disk: whoever relies on them after a power cut must see to that.
///
/// # Errors
/// Says what was refused or failed; `destination` is removed then, unless it existed before.
pub fn unpack(
    package: impl Read,
    destination: &Path,
    limits: &Limits,
) -> Result<Summary, UnpackError> {
    fs::create_dir(destination)
        .map_err(|source| UnpackError::write(destination.to_owned(), source))?;
    let result = unpack_into(package, destination, limits);
    if result.is_err() {
        // The first error is the one to tell; the directory has a temporary name in any case.
        drop(remove_if_present(destination));
    }
    result
}

fn unpack_into(
    package: impl Read,
    destination: &Path,
    limits: &Limits,
) -> Result<Summary, UnpackError> {
    let stream = stream::open(package, limits)?;
    let mut archive = Archive::new(stream, limits);
    let mut layout = Layout::new(destination, limits)?;
    while let Some(entry) = archive.next_entry()? {
        match &entry.kind {
            Kind::Directory => layout.add_directory(&entry.path)?,
            Kind::File { executable, size } => {
                let file = layout.add_file(&entry.path, *executable, *size)?;
                archive.copy_content(*size, file, &layout.on_disk(&entry.path))?;
            }
            Kind::SymbolicLink { target } => layout.add_symbolic_link(&entry.path, target)?,
            Kind::HardLink { target } => layout.add_hard_link(&entry.path, target)?,
        }
    }
    Ok(layout.summary())
}
