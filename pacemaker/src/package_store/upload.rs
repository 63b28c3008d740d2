//! One part of one upload, on a thread of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;

use bytes::Bytes;
use common::digest::{Digest, Hasher};
use tokio::sync::mpsc;

use super::places::Place;
use super::{READ_BYTES, ReceiveError, Received};
use crate::files::{is_full, sync_directory};

/// What is to be written where.
pub(super) struct Upload {
    pub(super) digest: Digest,
    pub(super) partial: PathBuf,
    pub(super) whole: PathBuf,
    pub(super) offset: u64,
    pub(super) total: u64,
}

impl Upload {
    /// Writes pieces until there are no more; verifies and publishes the package when it is whole.
    ///
    /// Says at `place` how far it is, for those who read along.
    pub(super) fn run(
        &self,
        mut pieces: mpsc::Receiver<Bytes>,
        place: &Place,
    ) -> Result<Received, ReceiveError> {
        let result = self.write(&mut pieces, place);
        let is_useless = match &result {
            Err(ReceiveError::Full | ReceiveError::Mismatch { .. } | ReceiveError::TooLong(_)) => {
                true
            }
            Err(ReceiveError::Offset(_) | ReceiveError::BrokenOff { .. } | ReceiveError::Io(_))
            | Ok(_) => false,
        };
        if is_useless && let Err(error) = fs::remove_file(&self.partial) {
            tracing::warn!(path = %self.partial.display(), %error, "a useless upload stays");
        }
        result
    }

    fn write(
        &self,
        pieces: &mut mpsc::Receiver<Bytes>,
        place: &Place,
    ) -> Result<Received, ReceiveError> {
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(&self.partial)
            .map_err(failed)?;
        let mut length = file.metadata().map_err(failed)?.len();
        if length != self.offset {
            return Err(ReceiveError::Offset(length));
        }
        place.begin(length);
        let mut hasher = hash_of(&mut file, length).map_err(failed)?;
        while let Some(piece) = pieces.blocking_recv() {
            length += piece.len() as u64;
            if length > self.total {
                return Err(ReceiveError::TooLong(self.total));
            }
            file.write_all(&piece).map_err(failed)?;
            hasher.update(&piece);
            place.grow(length);
        }
        if length < self.total {
            return Ok(Received::Part(length));
        }
        let found = hasher.finish();
        if found != self.digest {
            return Err(ReceiveError::Mismatch { found });
        }
        self.publish(&file).map_err(failed)?;
        Ok(Received::Whole)
    }

    /// Flushes the bytes, then the name: a package that can be seen survives a power cut.
    fn publish(&self, file: &File) -> io::Result<()> {
        file.sync_all()?;
        let shard = self
            .whole
            .parent()
            .expect("a package lies in its shard's directory");
        if !shard.try_exists()? {
            fs::create_dir_all(shard)?;
            if let Some(directory) = shard.parent() {
                sync_directory(directory)?;
            }
        }
        fs::rename(&self.partial, &self.whole)?;
        sync_directory(shard)
    }
}

/// The state of the digest after the bytes that arrived earlier.
fn hash_of(file: &mut File, length: u64) -> io::Result<Hasher> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; READ_BYTES];
    let mut left = length;
    while left > 0 {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hasher.update(&buffer[..count]);
        left = left.saturating_sub(count as u64);
    }
    Ok(hasher)
}

fn failed(error: io::Error) -> ReceiveError {
    if is_full(&error) {
        ReceiveError::Full
    } else {
        ReceiveError::Io(error)
    }
}
