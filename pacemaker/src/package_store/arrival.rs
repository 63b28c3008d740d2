//! Reading a package while it arrives.
//!
//! The last byte is held back until the package is whole and verified, so that nobody takes a
//! package for complete that is not.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use common::assignment::PackageReference;
use futures_util::{Stream, stream};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::watch;

use super::fetch::Outcome;
use super::places::{Arrived, Place};
use super::{PackageStore, READ_BYTES};

struct Arrival {
    store: PackageStore,
    package: PackageReference,
    /// Held, so that what it tells goes on from writer to writer.
    _place: Arc<Place>,
    arrived: watch::Receiver<Arrived>,
    outcome: watch::Receiver<Outcome>,
    /// The file, and which beginning it belongs to.
    file: Option<(File, u64)>,
    position: u64,
}

impl PackageStore {
    /// The bytes of a package from `offset` on, as they arrive by the fetch with this outcome.
    pub(super) fn read_along(
        &self,
        package: &PackageReference,
        offset: u64,
        outcome: watch::Receiver<Outcome>,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let place = self.inner.places.at(&package.digest);
        let arrival = Arrival {
            store: self.clone(),
            package: package.clone(),
            arrived: place.arrived(),
            _place: place,
            outcome,
            file: None,
            position: offset,
        };
        Box::pin(stream::try_unfold(arrival, Arrival::next))
    }
}

impl Arrival {
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        while self.position < self.package.size {
            // Asked first: once it is whole, it is whole whatever the counters say.
            let is_whole = self.store.holds(&self.package.digest);
            let arrived = *self.arrived.borrow_and_update();
            let limit = if is_whole {
                self.package.size
            } else {
                arrived.length.min(self.package.size.saturating_sub(1))
            };
            if self.position < limit
                && let Some(piece) = self.read(limit, is_whole, arrived.beginnings).await?
            {
                return Ok(Some((piece, self)));
            }
            if !is_whole {
                self.wait().await?;
            }
        }
        Ok(None)
    }

    /// Some bytes before `limit`; none when the file is not where it was looked for any more.
    async fn read(
        &mut self,
        limit: u64,
        is_whole: bool,
        beginnings: u64,
    ) -> io::Result<Option<Bytes>> {
        if let Some((_, begun)) = &self.file
            && *begun != beginnings
        {
            return Err(begun_anew());
        }
        if self.file.is_none() {
            let path = if is_whole {
                self.store.whole(&self.package.digest)
            } else {
                self.store.partial(&self.package.digest)
            };
            let mut file = match File::open(path).await {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound && !is_whole => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            file.seek(io::SeekFrom::Start(self.position)).await?;
            self.file = Some((file, beginnings));
        }
        let Some((file, _)) = &mut self.file else {
            return Ok(None);
        };
        let mut piece = BytesMut::with_capacity(READ_BYTES);
        let limit = (limit - self.position).min(READ_BYTES as u64);
        if file.take(limit).read_buf(&mut piece).await? == 0 {
            return Err(begun_anew());
        }
        self.position += piece.len() as u64;
        Ok(Some(piece.freeze()))
    }

    /// Waits until more has arrived; an error when the fetch has failed.
    async fn wait(&mut self) -> io::Result<()> {
        let ended = {
            let outcome = self.outcome.wait_for(Option::is_some);
            tokio::select! {
                changed = self.arrived.changed() => {
                    if changed.is_ok() {
                        return Ok(());
                    }
                    None
                }
                outcome = outcome => outcome.ok().and_then(|outcome| *outcome),
            }
        };
        match ended {
            Some(Ok(())) if self.store.holds(&self.package.digest) => Ok(()),
            Some(Err(error)) => Err(io::Error::other(error)),
            Some(Ok(())) | None => Err(begun_anew()),
        }
    }
}

fn begun_anew() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the package's transfer was broken off",
    )
}
