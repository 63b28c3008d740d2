//! Reads the entries of a tar archive, strictly.
//!
//! The `tar` crate decodes the header's fields; what follows what is decided here, because a
//! reader that skips or guesses reads another archive than the one that was checked.

use std::fs::File;
use std::io::{Read, Write as _};
use std::path::Path;

use tar::{EntryType, Header};

use super::stream::Stream;
use super::{Limits, UnpackError};

/// The unit of the format.
const BLOCK_BYTES: usize = 512;

/// Extended headers hold a path, a link's target and some numbers.
const EXTENSION_MAX_BYTES: u64 = 64 << 10;

/// Content is moved in pieces of this size.
const COPY_BUFFER_BYTES: usize = 64 << 10;

/// setuid, setgid and sticky.
const SPECIAL_MODE_BITS: u32 = 0o7000;

/// One entry.
#[derive(Debug)]
pub(super) struct Entry {
    /// As written, without NUL.
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
}

/// What an entry is.
#[derive(Debug)]
pub(super) enum Kind {
    Directory,
    /// `size` bytes follow and must be taken with [`Archive::copy_content`].
    File {
        executable: bool,
        size: u64,
    },
    SymbolicLink {
        target: Vec<u8>,
    },
    HardLink {
        target: Vec<u8>,
    },
}

/// What extension entries say about the entry that follows them.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
}

/// An archive that is being read.
pub(super) struct Archive<Package: Read> {
    stream: Stream<Package>,
    path_bytes: usize,
    buffer: Vec<u8>,
}

impl<Package: Read> Archive<Package> {
    pub(super) fn new(stream: Stream<Package>, limits: &Limits) -> Self {
        Self {
            stream,
            path_bytes: limits.path_bytes,
            buffer: vec![0; COPY_BUFFER_BYTES],
        }
    }

    /// The next entry; `None` behind the end mark, when nothing but padding followed it.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>, UnpackError> {
        let mut extension = Extension::default();
        let mut is_extended = false;
        loop {
            let mut header = Header::new_old();
            self.stream.read_exact(header.as_mut_bytes())?;
            if header.as_bytes().iter().all(|byte| *byte == 0) {
                if is_extended {
                    return Err(damaged("an extended header is followed by no entry"));
                }
                self.expect_only_padding()?;
                return Ok(None);
            }
            check_sum(&header)?;
            let size = header
                .entry_size()
                .map_err(|_| damaged("an entry's size is not a number"))?;
            match header.entry_type() {
                EntryType::GNULongName => {
                    let name = self.read_long_name(size)?;
                    set_once(&mut extension.path, name)?;
                }
                EntryType::GNULongLink => {
                    let name = self.read_long_name(size)?;
                    set_once(&mut extension.target, name)?;
                }
                EntryType::XHeader => self.read_extended(size, &mut extension)?,
                EntryType::XGlobalHeader => self.read_global(size)?,
                _ => return self.entry(&header, size, extension).map(Some),
            }
            is_extended = true;
        }
    }

    /// Writes the content of the file entry that was just read to `file`.
    pub(super) fn copy_content(
        &mut self,
        size: u64,
        mut file: File,
        path: &Path,
    ) -> Result<(), UnpackError> {
        let mut left = size;
        while left > 0 {
            let wanted = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(COPY_BUFFER_BYTES);
            self.stream.read_exact(&mut self.buffer[..wanted])?;
            file.write_all(&self.buffer[..wanted])
                .map_err(|source| UnpackError::write(path.to_owned(), source))?;
            left -= wanted as u64;
        }
        self.skip_padding(size)
    }

    fn entry(
        &mut self,
        header: &Header,
        size: u64,
        extension: Extension,
    ) -> Result<Entry, UnpackError> {
        let path = extension
            .path
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let refused = |reason| UnpackError::refused(&path, reason);
        if extension.size.is_some_and(|extended| extended != size) {
            return Err(refused("has two different sizes"));
        }
        let target = || {
            extension
                .target
                .clone()
                .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
                .ok_or_else(|| refused("is a link without a target"))
        };
        let kind = match header.entry_type() {
            EntryType::Directory => Kind::Directory,
            // Archives of the seventies write a directory as an empty file with a slash.
            EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => {
                self.stream.check(size)?;
                let executable = mode(header, &path)? & 0o111 != 0;
                Kind::File { executable, size }
            }
            EntryType::Symlink => Kind::SymbolicLink { target: target()? },
            EntryType::Link => Kind::HardLink { target: target()? },
            EntryType::Char | EntryType::Block => return Err(refused("is a device")),
            EntryType::Fifo => return Err(refused("is a named pipe")),
            EntryType::GNUSparse => return Err(refused("is a sparse file, which is not taken")),
            _ => return Err(refused("is of an unknown kind")),
        };
        match &kind {
            Kind::File { .. } => {}
            Kind::Directory => {
                mode(header, &path)?;
                if size > 0 {
                    return Err(refused("is a directory with content"));
                }
            }
            Kind::SymbolicLink { .. } | Kind::HardLink { .. } if size > 0 => {
                return Err(refused("is a link with content"));
            }
            Kind::SymbolicLink { .. } | Kind::HardLink { .. } => {}
        }
        Ok(Entry { path, kind })
    }

    fn read_long_name(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        // One more for the NUL that ends it.
        if size > self.path_bytes as u64 + 1 {
            return Err(UnpackError::LimitExceeded {
                what: "bytes of a path",
                limit: self.path_bytes as u64,
            });
        }
        let mut name = self.read_extension(size)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        let length = match usize::try_from(size) {
            Ok(length) if size <= EXTENSION_MAX_BYTES => length,
            _ => {
                return Err(UnpackError::LimitExceeded {
                    what: "bytes of an extended header",
                    limit: EXTENSION_MAX_BYTES,
                });
            }
        };
        let mut content = vec![0; length];
        self.stream.read_exact(&mut content)?;
        self.skip_padding(size)?;
        Ok(content)
    }

    fn read_extended(&mut self, size: u64, extension: &mut Extension) -> Result<(), UnpackError> {
        let content = self.read_extension(size)?;
        for (key, value) in records(&content)? {
            match key {
                b"path" => set_once(&mut extension.path, value.to_vec())?,
                b"linkpath" => set_once(&mut extension.target, value.to_vec())?,
                b"size" => {
                    let size = std::str::from_utf8(value)
                        .ok()
                        .and_then(|text| text.parse().ok())
                        .ok_or_else(|| damaged("an extended size is not a number"))?;
                    set_once(&mut extension.size, size)?;
                }
                _ => refuse_sparse(key)?,
            }
        }
        Ok(())
    }

    /// Records for all entries that follow: git writes a comment; nothing that matters is taken.
    fn read_global(&mut self, size: u64) -> Result<(), UnpackError> {
        let content = self.read_extension(size)?;
        for (key, _) in records(&content)? {
            if matches!(key, b"path" | b"linkpath" | b"size") {
                return Err(UnpackError::refused(key, "is set for all entries"));
            }
            refuse_sparse(key)?;
        }
        Ok(())
    }

    fn skip_padding(&mut self, size: u64) -> Result<(), UnpackError> {
        let unit = BLOCK_BYTES as u64;
        let padding = usize::try_from((unit - size % unit) % unit).unwrap_or(0);
        self.stream.read_exact(&mut self.buffer[..padding])
    }

    /// Behind the end mark only zeros may follow (tar fills its last record with them).
    fn expect_only_padding(&mut self) -> Result<(), UnpackError> {
        loop {
            let read = self.stream.read(&mut self.buffer)?;
            if read == 0 {
                return Ok(());
            }
            if self.buffer[..read].iter().any(|byte| *byte != 0) {
                return Err(damaged("something follows its end mark"));
            }
        }
    }
}

fn damaged(reason: &'static str) -> UnpackError {
    UnpackError::Damaged {
        reason,
        source: None,
    }
}

fn check_sum(header: &Header) -> Result<(), UnpackError> {
    let mut computed = header.clone();
    computed.set_cksum();
    match (header.cksum(), computed.cksum()) {
        (Ok(found), Ok(right)) if found == right => Ok(()),
        _ => Err(damaged("an entry's check sum is wrong")),
    }
}

fn mode(header: &Header, path: &[u8]) -> Result<u32, UnpackError> {
    let mode = header
        .mode()
        .map_err(|_| UnpackError::refused(path, "has a mode that is not a number"))?;
    if mode & SPECIAL_MODE_BITS != 0 {
        return Err(UnpackError::refused(
            path,
            "has the setuid, setgid or sticky bit",
        ));
    }
    Ok(mode)
}

fn set_once<Value>(field: &mut Option<Value>, value: Value) -> Result<(), UnpackError> {
    if field.replace(value).is_some() {
        return Err(damaged("an entry's name, target or size is given twice"));
    }
    Ok(())
}

fn refuse_sparse(key: &[u8]) -> Result<(), UnpackError> {
    if key.starts_with(b"GNU.sparse") {
        return Err(UnpackError::refused(
            key,
            "announces a sparse file, which is not taken",
        ));
    }
    Ok(())
}

/// A key and its value.
type Record<'a> = (&'a [u8], &'a [u8]);

/// The records of an extended header: `LENGTH KEY=VALUE\n`, the length counting all of it.
fn records(content: &[u8]) -> Result<Vec<Record<'_>>, UnpackError> {
    let wrong = || damaged("an extended header is not in its format");
    let mut found = Vec::new();
    let mut rest = content;
    while !rest.is_empty() {
        let space = rest
            .iter()
            .position(|byte| *byte == b' ')
            .ok_or_else(wrong)?;
        let length: usize = std::str::from_utf8(&rest[..space])
            .ok()
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(wrong)?;
        let record = rest.get(space + 1..length).ok_or_else(wrong)?;
        let (last, record) = record.split_last().ok_or_else(wrong)?;
        let equals = record
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or_else(wrong)?;
        if *last != b'\n' {
            return Err(wrong());
        }
        found.push((&record[..equals], &record[equals + 1..]));
        rest = &rest[length..];
    }
    Ok(found)
}
