//! A directory as a package: equal content gives equal bytes.

use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use common::assignment::PackageReference;
use common::digest::Hasher;
use tar::{Builder, EntryType, Header};

use super::links::target_stays_inside;
use super::unpack::Limits;

/// Names that a package never needs, at any depth: version control and the command line's own notes.
pub const EXCLUDED_NAMES: &[&str] = &[".git", ".hg", ".svn", ".paasmaker"];

/// zstd's default level: 230 MB/s on one core, and higher levels gain a few per cent of size only.
const COMPRESSION_LEVEL: i32 = 3;

/// What every entry takes in the archive beside its content.
const ENTRY_BYTES: u64 = 512;

/// A directory could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Something in the directory could not be read.
    #[error("could not read {}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The package's file could not be written.
    #[error("could not write the package {}", path.display())]
    Write {
        /// The package's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A symbolic link points out of the directory.
    #[error(
        "the symbolic link {} points to {}, which is outside the packed directory",
        path.display(), target.display()
    )]
    LinkOutside {
        /// The link.
        path: PathBuf,
        /// Where it points.
        target: PathBuf,
    },
    /// Only files, directories and symbolic links can be packed.
    #[error("{} is a socket, pipe or device, which cannot be packed", path.display())]
    Special {
        /// What cannot be packed.
        path: PathBuf,
    },
    /// A file became shorter while it was packed.
    #[error("{} changed while it was being packed", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Directories in one another deeper than any package is unpacked.
    #[error("{} lies deeper than {limit} directories in one another", path.display())]
    TooDeep {
        /// The first entry that is too deep.
        path: PathBuf,
        /// How deep an entry may lie.
        limit: usize,
    },
    /// More bytes than any package is unpacked with.
    #[error("with {} the package would have more than {limit} bytes uncompressed", path.display())]
    TooLarge {
        /// The entry that is too much.
        path: PathBuf,
        /// How many bytes all entries may have.
        limit: u64,
    },
}

/// Packs what is in `directory` into the file `out`, leaving out every entry named in `exclude`.
///
/// Entries are sorted; times and owners are zero; modes are 755 for directories and for files that
/// their owner may execute, 644 otherwise. `out` may lie in the directory and is then left out of
/// itself; it is not synced, because it is read at once and what is read is proven by the digest.
/// Nothing is left at `out` after an error.
///
/// # Errors
/// Names the entry that could not be packed and says why.
pub fn pack(directory: &Path, out: &Path, exclude: &[&str]) -> Result<PackageReference, PackError> {
    let result = write_package(directory, out, exclude);
    if result.is_err() {
        // The first error is the one to tell.
        drop(fs::remove_file(out));
    }
    result
}

fn write_package(
    directory: &Path,
    out: &Path,
    exclude: &[&str],
) -> Result<PackageReference, PackError> {
    let write_error = |source| PackError::Write {
        path: out.to_owned(),
        source,
    };
    let file = File::create(out).map_err(write_error)?;
    let own = file.metadata().map_err(write_error)?;
    let counted = CountedFile {
        file,
        hasher: Hasher::default(),
        size: 0,
    };
    let encoder = zstd::Encoder::new(counted, COMPRESSION_LEVEL).map_err(write_error)?;
    let mut packing = Packing {
        out,
        own: (own.dev(), own.ino()),
        exclude,
        limits: Limits::default(),
        bytes: 0,
        builder: Builder::new(encoder),
    };
    packing.add_directory(directory, Path::new(""))?;
    let counted = packing
        .builder
        .into_inner()
        .and_then(zstd::Encoder::finish)
        .map_err(write_error)?;
    Ok(PackageReference {
        digest: counted.hasher.finish(),
        size: counted.size,
    })
}

/// The package's file, which learns its digest while it is written.
struct CountedFile {
    file: File,
    hasher: Hasher,
    size: u64,
}

impl Write for CountedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

struct Packing<'a, Output: Write> {
    out: &'a Path,
    /// Device and inode of the package itself.
    own: (u64, u64),
    exclude: &'a [&'a str],
    limits: Limits,
    /// What the archive has taken in so far, uncompressed.
    bytes: u64,
    builder: Builder<Output>,
}

impl<Output: Write> Packing<'_, Output> {
    fn add_directory(&mut self, directory: &Path, inside: &Path) -> Result<(), PackError> {
        let read_error = |source| PackError::Read {
            path: directory.to_owned(),
            source,
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(directory).map_err(read_error)? {
            let name = entry.map_err(read_error)?.file_name();
            if !self.exclude.iter().any(|excluded| name == **excluded) {
                names.push(name);
            }
        }
        names.sort_unstable();
        for name in names {
            self.add(&directory.join(&name), &inside.join(&name))?;
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, inside: &Path) -> Result<(), PackError> {
        let read_error = |source| PackError::Read {
            path: path.to_owned(),
            source,
        };
        let metadata = fs::symlink_metadata(path).map_err(read_error)?;
        if (metadata.dev(), metadata.ino()) == self.own {
            return Ok(());
        }
        // Bounds the recursion as well.
        if inside.components().count() > self.limits.depth {
            return Err(PackError::TooDeep {
                path: path.to_owned(),
                limit: self.limits.depth,
            });
        }
        let kind = metadata.file_type();
        if kind.is_dir() {
            self.count(path, 0)?;
            let mut header = header(EntryType::Directory, 0o755, 0);
            self.append(&mut header, inside, io::empty())?;
            self.add_directory(path, inside)
        } else if kind.is_symlink() {
            let target = fs::read_link(path).map_err(read_error)?;
            self.add_link(path, inside, &target)
        } else if kind.is_file() {
            self.add_file(path, inside)
        } else {
            Err(PackError::Special {
                path: path.to_owned(),
            })
        }
    }

    fn add_link(&mut self, path: &Path, inside: &Path, target: &Path) -> Result<(), PackError> {
        use std::os::unix::ffi::OsStrExt as _;
        let depth = inside.components().count() - 1;
        if !target_stays_inside(target.as_os_str().as_bytes(), depth) {
            return Err(PackError::LinkOutside {
                path: path.to_owned(),
                target: target.to_owned(),
            });
        }
        self.count(path, 0)?;
        let mut header = header(EntryType::Symlink, 0o777, 0);
        self.builder
            .append_link(&mut header, inside, target)
            .map_err(|source| self.write_error(source))
    }

    fn add_file(&mut self, path: &Path, inside: &Path) -> Result<(), PackError> {
        let read_error = |source| PackError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(read_error)?;
        let metadata = file.metadata().map_err(read_error)?;
        self.count(path, metadata.len())?;
        let is_executable = metadata.permissions().mode() & 0o100 != 0;
        let mode = if is_executable { 0o755 } else { 0o644 };
        let mut header = header(EntryType::Regular, mode, metadata.len());
        let mut content = Content {
            file: file.take(metadata.len()),
            failure: None,
        };
        let appended = self.builder.append_data(&mut header, inside, &mut content);
        if let Some(source) = content.failure {
            return Err(read_error(source));
        }
        if content.file.limit() > 0 && appended.is_ok() {
            return Err(PackError::Changed {
                path: path.to_owned(),
            });
        }
        appended.map_err(|source| self.write_error(source))
    }

    /// Counts an entry before any of its bytes is read: a sparse file costs nothing on disk.
    fn count(&mut self, path: &Path, content: u64) -> Result<(), PackError> {
        self.bytes = self
            .bytes
            .saturating_add(ENTRY_BYTES)
            .saturating_add(content);
        if self.bytes > self.limits.total_bytes {
            return Err(PackError::TooLarge {
                path: path.to_owned(),
                limit: self.limits.total_bytes,
            });
        }
        Ok(())
    }

    fn append(
        &mut self,
        header: &mut Header,
        inside: &Path,
        content: impl io::Read,
    ) -> Result<(), PackError> {
        self.builder
            .append_data(header, inside, content)
            .map_err(|source| self.write_error(source))
    }

    fn write_error(&self, source: io::Error) -> PackError {
        PackError::Write {
            path: self.out.to_owned(),
            source,
        }
    }
}

/// A file's bytes; keeps a read error apart from the write errors of the archive around it.
struct Content {
    file: io::Take<File>,
    failure: Option<io::Error>,
}

impl io::Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.file.read(buffer) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                self.failure = Some(error);
                Ok(0)
            }
            result => result,
        }
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
