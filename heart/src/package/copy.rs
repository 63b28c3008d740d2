//! An own writable copy of a tree.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Copies the tree `from` to `to`, which must not exist, with modes and symbolic links.
///
/// Files share their blocks with the original where the file system can (reflink) and are copied
/// inside the kernel where it cannot; either way the copy is written without touching the original.
///
/// # Errors
/// When something cannot be read or written, or is neither file, directory nor symbolic link;
/// what was copied so far stays, for the caller to remove.
pub fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path())?, &target)?;
        } else if kind.is_file() {
            copy_file(&entry.path(), &target)?;
        } else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{} is neither file, directory nor link",
                    entry.path().display()
                ),
            ));
        }
    }
    // Last, so that a directory without write permission can be filled first.
    fs::set_permissions(to, fs::metadata(from)?.permissions())
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mode = source.metadata()?.permissions().mode();
    let mut target = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(to)?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_err() {
        // Uses copy_file_range, and plain reads where the kernel has it not.
        io::copy(&mut source, &mut target)?;
    }
    // The creation mode above went through the umask.
    target.set_permissions(fs::Permissions::from_mode(mode))
}
