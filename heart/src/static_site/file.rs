//! Opens files below the root and nowhere else, and knows their tags.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::time::SystemTime;

use common::digest::Hasher;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

/// Tags that are remembered; a site with more files computes some of them again.
const TAGS: usize = 4096;

/// Larger files get a weak tag from time and size: hashing them would delay everybody else.
const HASHED_MAX_BYTES: u64 = 4 << 20;

/// Files are hashed in pieces of this size.
const HASH_BUFFER_BYTES: usize = 64 << 10;

/// How much of a digest makes a tag: 64 bits, and nobody gains by a collision in his own site.
const TAG_CHARACTERS: usize = 16;

/// The directory that is served.
#[derive(Debug)]
pub(super) struct Root {
    directory: OwnedFd,
    tags: HashMap<Version, String>,
}

/// One content of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Version {
    inode: u64,
    modified: (i64, i64),
    size: u64,
}

/// A regular file, open.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) file: File,
    pub(super) size: u64,
    pub(super) modified: SystemTime,
    /// With its quotation marks.
    pub(super) tag: String,
}

/// What a path names.
#[derive(Debug)]
pub(super) enum Found {
    File(OpenFile),
    Directory,
    Nothing,
}

impl Root {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let directory = openat(
            CWD,
            root,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Self {
            directory,
            tags: HashMap::new(),
        })
    }

    /// Opens `relative`; a link that leads out of the root, a pipe, a device is nothing.
    pub(super) fn find(&mut self, relative: &str) -> Found {
        // Without blocking, lest the open of a pipe waits for its other end.
        let opened = openat2(
            &self.directory,
            relative,
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        );
        let Ok(file) = opened.map(File::from) else {
            return Found::Nothing;
        };
        let Ok(metadata) = file.metadata() else {
            return Found::Nothing;
        };
        if metadata.is_dir() {
            return Found::Directory;
        }
        if !metadata.is_file() {
            return Found::Nothing;
        }
        let version = Version {
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            size: metadata.len(),
        };
        match self.tag(&file, version) {
            Ok(tag) => Found::File(OpenFile {
                size: metadata.len(),
                modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                file,
                tag,
            }),
            Err(_) => Found::Nothing,
        }
    }

    /// The tag is made of the content, so that all instances of a version say the same: each has
    /// its own copy of the files, with its own times.
    fn tag(&mut self, file: &File, version: Version) -> io::Result<String> {
        if let Some(known) = self.tags.get(&version) {
            return Ok(known.clone());
        }
        let tag = if version.size > HASHED_MAX_BYTES {
            let (seconds, nanoseconds) = version.modified;
            format!("W/\"{seconds:x}-{nanoseconds:x}-{:x}\"", version.size)
        } else {
            let digest = hash(file)?;
            format!("\"{}\"", &digest[..TAG_CHARACTERS])
        };
        if self.tags.len() >= TAGS {
            self.tags.clear();
        }
        self.tags.insert(version, tag.clone());
        Ok(tag)
    }
}

fn hash(file: &File) -> io::Result<String> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; HASH_BUFFER_BYTES];
    let mut offset = 0;
    loop {
        match file.read_at(&mut buffer, offset)? {
            0 => return Ok(hasher.finish().as_str().to_owned()),
            read => {
                hasher.update(&buffer[..read]);
                offset += read as u64;
            }
        }
    }
}
