//! Removes what an application left, however deep it is.
//!
//! A tree made by a stranger may have more levels than a thread has stack and a process has
//! descriptors. So nothing here recurses: a directory found inside a directory is moved up to the
//! top of the doomed tree, which is therefore never deeper than two. Everything is done relative to open
//! directories, and none is opened through a symbolic link, so nothing outside is ever touched.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;
use rustix::path::Arg;

/// Removes a file or a tree that may be absent.
///
/// # Errors
/// When something cannot be removed; what was removed so far is gone.
pub(crate) fn remove_if_present(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.is_dir() {
        return fs::remove_file(path);
    }
    let mut doomed = Doomed {
        top: open_directory(CWD, path)?,
        moved: 0,
    };
    while doomed.remove_level()? {}
    fs::remove_dir(path)
}

/// A tree that is being removed.
struct Doomed {
    top: OwnedFd,
    /// How many names have been given to directories that were moved up.
    moved: u64,
}

impl Doomed {
    /// Empties and removes every directory of the top, and its files; false when there was nothing.
    fn remove_level(&mut self) -> io::Result<bool> {
        let mut was_empty = true;
        for entry in Dir::read_from(&self.top)? {
            let entry = entry?;
            let name = entry.file_name();
            if is_self_or_parent(name.to_bytes()) {
                continue;
            }
            was_empty = false;
            if !unlink(self.top.as_fd(), name)? {
                self.empty(name)?;
                match unlinkat(&self.top, name, AtFlags::REMOVEDIR) {
                    // Something was overlooked while the directory changed: the next round finds it.
                    Ok(()) | Err(Errno::NOTEMPTY | Errno::NOENT) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        Ok(!was_empty)
    }

    /// Removes the files of a directory of the top and moves its directories up.
    fn empty(&mut self, name: &std::ffi::CStr) -> io::Result<()> {
        let directory = match open_directory(&self.top, name) {
            Err(Errno::NOENT) => return Ok(()),
            directory => directory?,
        };
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if is_self_or_parent(name.to_bytes()) || unlink(directory.as_fd(), name)? {
                continue;
            }
            match unlinkat(&directory, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY) => self.move_up(directory.as_fd(), name)?,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn move_up(&mut self, directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<()> {
        loop {
            self.moved += 1;
            let target = format!(".removed-{}", self.moved);
            match renameat(directory, name, &self.top, target) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                // The application has something of this name: there are fewer of them than numbers.
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Removes whatever is not a directory; false when it is one.
fn unlink(directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<bool> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn open_directory(parent: impl AsFd, name: impl Arg) -> Result<OwnedFd, Errno> {
    openat(
        parent,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

fn is_self_or_parent(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    use rustix::fs::mkdirat;

    /// Makes directories in one another, deeper than any path can name.
    fn nest(top: &Path, levels: usize) {
        let mut deepest = open_directory(CWD, top).unwrap();
        for _ in 0..levels {
            mkdirat(&deepest, "d", Mode::RWXU).unwrap();
            deepest = open_directory(&deepest, "d").unwrap();
        }
        openat(
            &deepest,
            "file",
            OFlags::CREATE | OFlags::WRONLY,
            Mode::RWXU,
        )
        .unwrap();
    }

    #[test]
    fn a_tree_of_fifteen_thousand_levels_is_removed() {
        // In memory where there is such a place: on a disk this takes a minute.
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() {
            tempfile::tempdir_in(memory).unwrap()
        } else {
            tempfile::tempdir().unwrap()
        };
        let doomed = place.path().join("doomed");
        fs::create_dir(&doomed).unwrap();
        nest(&doomed, 15_000);

        // Less stack than any thread of the heart has.
        let path = doomed.clone();
        let removing = std::thread::Builder::new()
            .stack_size(128 << 10)
            .spawn(move || remove_if_present(&path));

        removing.unwrap().join().unwrap().unwrap();
        assert!(!doomed.exists());
    }

    #[test]
    fn what_a_symbolic_link_leads_to_stays() {
        let place = tempfile::tempdir().unwrap();
        let [outside, doomed] = ["outside", "doomed"].map(|name| place.path().join(name));
        fs::create_dir_all(outside.join("kept/deep")).unwrap();
        fs::write(outside.join("file"), "kept").unwrap();
        fs::create_dir_all(doomed.join("a/b/c")).unwrap();
        for link in ["link", "a/link", "a/b/link", "a/b/c/link"] {
            symlink(&outside, doomed.join(link)).unwrap();
        }
        symlink(outside.join("file"), doomed.join("a/file")).unwrap();
        let link = place.path().join("to-outside");
        symlink(&outside, &link).unwrap();

        remove_if_present(&doomed).unwrap();
        remove_if_present(&link).unwrap();

        assert!(!doomed.exists() && link.symlink_metadata().is_err());
        assert!(outside.join("kept/deep").is_dir());
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "kept");
    }

    #[test]
    fn names_that_the_removal_uses_itself_are_no_hindrance() {
        let place = tempfile::tempdir().unwrap();
        let doomed = place.path().join("doomed");
        for directory in [".removed-1/x/y", "a/b/c", "a/.removed-2/z", ".removed-4"] {
            fs::create_dir_all(doomed.join(directory)).unwrap();
        }
        fs::write(doomed.join(".removed-3"), "").unwrap();

        remove_if_present(&doomed).unwrap();
        remove_if_present(&doomed).unwrap();

        assert!(!doomed.exists());
    }
}
