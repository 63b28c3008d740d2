//! Two things that every durable file needs.

use std::fs::File;
use std::io;
use std::path::Path;

/// Makes the names in a directory durable: creation, rename and removal.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// True when the disk, or the quota, has no room left.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
