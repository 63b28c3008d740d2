//! Reading a whole package, with its digest computed along.
//!
//! The last piece is held back until the digest fits, so that nobody is sent a damaged package in
//! full. Whoever begins in the middle has verified the beginning, and verifies the whole itself.

use std::io;

use bytes::{Bytes, BytesMut};
use common::digest::{Digest, Hasher};
use futures_util::{Stream, stream};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::{PackageStore, READ_BYTES};

struct Reading {
    store: PackageStore,
    digest: Digest,
    file: File,
    /// None when the beginning was skipped.
    hasher: Option<Hasher>,
    left: u64,
}

impl PackageStore {
    /// The bytes of a whole package of `size` bytes from `offset` on; none when it is not here.
    ///
    /// Damage ends the stream with an error, and takes the package away.
    pub(crate) async fn read(
        &self,
        digest: &Digest,
        size: u64,
        offset: u64,
    ) -> io::Result<Option<impl Stream<Item = io::Result<Bytes>> + Send + use<>>> {
        let mut file = match File::open(self.whole(digest)).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if file.metadata().await?.len() != size {
            self.damaged(digest).await?;
            return Ok(None);
        }
        file.seek(io::SeekFrom::Start(offset)).await?;
        let reading = Reading {
            store: self.clone(),
            digest: digest.clone(),
            file,
            hasher: (offset == 0).then(Hasher::default),
            left: size.saturating_sub(offset),
        };
        Ok(Some(Box::pin(stream::try_unfold(reading, Reading::next))))
    }

    /// Takes a damaged package away.
    pub(crate) async fn damaged(&self, digest: &Digest) -> io::Result<()> {
        let (store, digest) = (self.clone(), digest.clone());
        tokio::task::spawn_blocking(move || store.remove_damaged(&digest))
            .await
            .map_err(io::Error::other)?
    }
}

impl Reading {
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut piece = BytesMut::with_capacity(READ_BYTES);
        let limit = self.left.min(READ_BYTES as u64);
        if (&mut self.file).take(limit).read_buf(&mut piece).await? == 0 {
            return Err(self.damage().await);
        }
        self.left = self.left.saturating_sub(piece.len() as u64);
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&piece);
        }
        if self.left == 0
            && let Some(hasher) = self.hasher.take()
            && hasher.finish() != self.digest
        {
            return Err(self.damage().await);
        }
        Ok(Some((piece.freeze(), self)))
    }

    async fn damage(&self) -> io::Error {
        match self.store.damaged(&self.digest).await {
            Ok(()) => io::Error::new(io::ErrorKind::InvalidData, "the package is damaged"),
            Err(error) => error,
        }
    }
}
