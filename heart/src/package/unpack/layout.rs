//! Puts entries on disk, below one directory and nowhere else.
//!
//! Two walls. The tree of what has been laid out is kept in memory, so an entry below a link or a
//! file, or a second one of the same name, is refused before anything is opened. And every open is
//! `openat2` relative to the destination, beneath it and without following any link, so that
//! somebody who swaps a directory for a link meanwhile gains nothing.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, ResolveFlags, fchmod, fstat, linkat, mkdirat, openat, openat2,
    symlinkat,
};
use rustix::path::Arg;

use super::{Limits, Summary, UnpackError};
use crate::package::links::target_stays_inside;

/// Longer names are refused by every file system of Linux.
const NAME_MAX_BYTES: usize = 255;

/// Anybody may look, the owner may write.
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);

/// A directory's number; names below it are found by it.
type DirectoryNumber = u32;

const ROOT: DirectoryNumber = 0;

#[derive(Clone, Copy)]
enum Node {
    Directory {
        number: DirectoryNumber,
        /// Named by an entry of its own, not only as the parent of others.
        is_explicit: bool,
    },
    File {
        size: u64,
    },
    SymbolicLink,
}

/// What has been laid out.
pub(super) struct Layout {
    destination: PathBuf,
    root: OwnedFd,
    /// True when this process's umask lets directories have their mode.
    is_mode_kept: bool,
    limits: Limits,
    nodes: BTreeMap<(DirectoryNumber, Box<[u8]>), Node>,
    directories: DirectoryNumber,
    summary: Summary,
    /// The directory that the last entry was put in: entries come directory by directory.
    last_parent: Option<(DirectoryNumber, OwnedFd)>,
}

/// A path that has been taken apart and checked, its parents laid out.
struct Place<'a> {
    parent: DirectoryNumber,
    name: &'a [u8],
    depth: usize,
}

impl Layout {
    pub(super) fn new(destination: &Path, limits: &Limits) -> Result<Self, UnpackError> {
        let root = open_directory(CWD, destination).and_then(|root| {
            let created = fstat(&root)?.st_mode;
            fchmod(&root, DIRECTORY_MODE)?;
            Ok((
                root,
                created & DIRECTORY_MODE.bits() == DIRECTORY_MODE.bits(),
            ))
        });
        let (root, is_mode_kept) =
            root.map_err(|errno| UnpackError::write(destination.to_owned(), errno.into()))?;
        Ok(Self {
            destination: destination.to_owned(),
            root,
            is_mode_kept,
            limits: *limits,
            nodes: BTreeMap::new(),
            directories: ROOT,
            summary: Summary::default(),
            last_parent: None,
        })
    }

    pub(super) fn summary(&self) -> Summary {
        self.summary
    }

    /// Where an entry lies, for messages.
    pub(super) fn on_disk(&self, path: &[u8]) -> PathBuf {
        self.destination.join(OsStr::from_bytes(path))
    }

    pub(super) fn add_directory(&mut self, path: &[u8]) -> Result<(), UnpackError> {
        let components = self.components(path)?;
        let Some(place) = self.place(path, &components)? else {
            // The root itself, which exists.
            return Ok(());
        };
        let key = (place.parent, place.name.into());
        match self.nodes.get_mut(&key) {
            None => self.make_directory(path, &place, true).map(drop),
            Some(Node::Directory { is_explicit, .. }) if !*is_explicit => {
                *is_explicit = true;
                Ok(())
            }
            Some(_) => Err(UnpackError::refused(path, "is there twice")),
        }
    }

    /// Creates an empty file to be filled by the caller.
    pub(super) fn add_file(
        &mut self,
        path: &[u8],
        executable: bool,
        size: u64,
    ) -> Result<File, UnpackError> {
        let components = self.components(path)?;
        let place = self.new_place(path, &components)?;
        self.count_entry()?;
        let bytes = self.count_bytes(size)?;
        let mode = Mode::from_raw_mode(if executable { 0o755 } else { 0o644 });
        let parent = self.parent(path, place.parent, &components)?;
        let file = openat(
            parent,
            place.name,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            mode,
        )
        .and_then(|file| fchmod(&file, mode).map(|()| file))
        .map_err(|errno| UnpackError::write(self.on_disk(path), errno.into()))?;
        self.nodes
            .insert((place.parent, place.name.into()), Node::File { size });
        self.summary.files += 1;
        self.summary.bytes = bytes;
        Ok(file.into())
    }

    pub(super) fn add_symbolic_link(
        &mut self,
        path: &[u8],
        target: &[u8],
    ) -> Result<(), UnpackError> {
        let components = self.components(path)?;
        let place = self.new_place(path, &components)?;
        if target.len() > self.limits.path_bytes || !target_stays_inside(target, place.depth) {
            return Err(UnpackError::refused(
                path,
                "is a link that leads out of the package",
            ));
        }
        self.count_entry()?;
        let parent = self.parent(path, place.parent, &components)?;
        symlinkat(target, parent, place.name)
            .map_err(|errno| UnpackError::write(self.on_disk(path), errno.into()))?;
        self.nodes
            .insert((place.parent, place.name.into()), Node::SymbolicLink);
        self.summary.links += 1;
        Ok(())
    }

    /// Links to a regular file that came earlier; counts its bytes again, because an instance's copy
    /// of the tree has a file of its own for each link.
    pub(super) fn add_hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), UnpackError> {
        const NOT_EARLIER: &str = "is a hard link to something that is not an earlier file";
        let target_components = self.components(target)?;
        let mut parent = ROOT;
        let mut node = None;
        for component in &target_components {
            if let Some(Node::Directory { number, .. }) = node {
                parent = number;
            } else if node.is_some() {
                return Err(UnpackError::refused(path, NOT_EARLIER));
            }
            node = self.nodes.get(&(parent, (*component).into())).copied();
            if node.is_none() {
                return Err(UnpackError::refused(path, NOT_EARLIER));
            }
        }
        let (Some(Node::File { size }), Some((target_name, _))) =
            (node, target_components.split_last())
        else {
            return Err(UnpackError::refused(path, NOT_EARLIER));
        };
        let components = self.components(path)?;
        let place = self.new_place(path, &components)?;
        self.count_entry()?;
        let bytes = self.count_bytes(size)?;
        let from = self.open_directory(path, &target_components)?;
        let to = self.parent(path, place.parent, &components)?;
        linkat(from, *target_name, to, place.name, AtFlags::empty())
            .map_err(|errno| UnpackError::write(self.on_disk(path), errno.into()))?;
        self.nodes
            .insert((place.parent, place.name.into()), Node::File { size });
        self.summary.files += 1;
        self.summary.bytes = bytes;
        Ok(())
    }

    /// Takes a path apart: no `..`, nothing absolute, nothing too long; `.` and `//` mean nothing.
    fn components<'a>(&self, path: &'a [u8]) -> Result<Vec<&'a [u8]>, UnpackError> {
        if path.len() > self.limits.path_bytes {
            return Err(UnpackError::LimitExceeded {
                what: "bytes of a path",
                limit: self.limits.path_bytes as u64,
            });
        }
        if path.is_empty() || path.starts_with(b"/") || path.contains(&0) {
            return Err(UnpackError::refused(path, "is not a relative path"));
        }
        let components: Vec<&[u8]> = path
            .split(|byte| *byte == b'/')
            .filter(|component| !matches!(*component, b"" | b"."))
            .collect();
        if components.contains(&&b".."[..]) {
            return Err(UnpackError::refused(path, "leads out of the package"));
        }
        if components.len() > self.limits.depth {
            return Err(UnpackError::LimitExceeded {
                what: "directories in one another",
                limit: self.limits.depth as u64,
            });
        }
        if components
            .iter()
            .any(|component| component.len() > NAME_MAX_BYTES)
        {
            return Err(UnpackError::LimitExceeded {
                what: "bytes of a file's name",
                limit: NAME_MAX_BYTES as u64,
            });
        }
        Ok(components)
    }

    /// A place for something that must not exist.
    fn new_place<'a>(
        &mut self,
        path: &[u8],
        components: &[&'a [u8]],
    ) -> Result<Place<'a>, UnpackError> {
        let place = self
            .place(path, components)?
            .filter(|_| !path.ends_with(b"/"))
            .ok_or_else(|| UnpackError::refused(path, "is a directory's name"))?;
        if self.nodes.contains_key(&(place.parent, place.name.into())) {
            return Err(UnpackError::refused(path, "is there twice"));
        }
        Ok(place)
    }

    /// Walks to the parent, laying out directories that no entry named; `None` for the root.
    fn place<'a>(
        &mut self,
        path: &[u8],
        components: &[&'a [u8]],
    ) -> Result<Option<Place<'a>>, UnpackError> {
        let Some((name, parents)) = components.split_last() else {
            return Ok(None);
        };
        let mut parent = ROOT;
        for (depth, component) in parents.iter().enumerate() {
            parent = match self.nodes.get(&(parent, (*component).into())) {
                Some(Node::Directory { number, .. }) => *number,
                Some(Node::SymbolicLink) => {
                    return Err(UnpackError::refused(path, "lies behind a symbolic link"));
                }
                Some(Node::File { .. }) => {
                    return Err(UnpackError::refused(path, "lies below a file"));
                }
                None => {
                    let place = Place {
                        parent,
                        name: component,
                        depth,
                    };
                    self.make_directory(&components[..=depth].join(&b'/'), &place, false)?
                }
            };
        }
        Ok(Some(Place {
            parent,
            name,
            depth: parents.len(),
        }))
    }

    fn make_directory(
        &mut self,
        path: &[u8],
        place: &Place<'_>,
        is_explicit: bool,
    ) -> Result<DirectoryNumber, UnpackError> {
        self.count_entry()?;
        let components = self.components(path)?;
        let is_mode_kept = self.is_mode_kept;
        let parent = self.parent(path, place.parent, &components)?;
        mkdirat(parent, place.name, DIRECTORY_MODE)
            .and_then(|()| match is_mode_kept {
                true => Ok(()),
                false => fchmod(open_directory(parent, place.name)?, DIRECTORY_MODE),
            })
            .map_err(|errno| UnpackError::write(self.on_disk(path), errno.into()))?;
        self.directories += 1;
        let number = self.directories;
        self.nodes.insert(
            (place.parent, place.name.into()),
            Node::Directory {
                number,
                is_explicit,
            },
        );
        self.summary.directories += 1;
        Ok(number)
    }

    /// The open directory that the last of `components` lies in.
    fn parent(
        &mut self,
        path: &[u8],
        number: DirectoryNumber,
        components: &[&[u8]],
    ) -> Result<&OwnedFd, UnpackError> {
        let is_open = self
            .last_parent
            .as_ref()
            .is_some_and(|(open, _)| *open == number);
        if !is_open {
            let opened = self.open_directory(path, components)?;
            self.last_parent = Some((number, opened));
        }
        Ok(self
            .last_parent
            .as_ref()
            .map_or(&self.root, |(_, descriptor)| descriptor))
    }

    fn open_directory(&self, path: &[u8], components: &[&[u8]]) -> Result<OwnedFd, UnpackError> {
        let parents = components
            .split_last()
            .map_or(&[][..], |(_, parents)| parents);
        let relative = if parents.is_empty() {
            b".".to_vec()
        } else {
            parents.join(&b'/')
        };
        openat2(
            &self.root,
            relative,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS,
        )
        .map_err(|errno| UnpackError::write(self.on_disk(path), errno.into()))
    }

    /// Counts what is about to be created; its sum is what bounds the memory of the tree.
    fn count_entry(&mut self) -> Result<(), UnpackError> {
        let entries = self.summary.files + self.summary.directories + self.summary.links;
        if entries >= self.limits.entries {
            return Err(UnpackError::LimitExceeded {
                what: "files and directories",
                limit: self.limits.entries,
            });
        }
        Ok(())
    }

    /// The bytes of all files with one more of `size`.
    fn count_bytes(&self, size: u64) -> Result<u64, UnpackError> {
        let bytes = self.summary.bytes.saturating_add(size);
        if bytes > self.limits.total_bytes {
            return Err(UnpackError::LimitExceeded {
                what: "bytes of all files, each hard link counted as one",
                limit: self.limits.total_bytes,
            });
        }
        Ok(bytes)
    }
}

fn open_directory(parent: impl AsFd, name: impl Arg) -> rustix::io::Result<OwnedFd> {
    openat(
        parent,
        name,
        OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}
