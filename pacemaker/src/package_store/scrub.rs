//! Reads all packages slowly, to find damage before a package is needed.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use common::digest::{Digest, Hasher};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{PackageStore, READ_BYTES};

/// Time between two pieces of [`READ_BYTES`]: 6 MiB/s, which no disk notices, and half a terabyte a
/// day.
const PIECE_INTERVAL: Duration = Duration::from_millis(20);
/// From the beginning of one pass to that of the next: damage is found within a day.
const PASS_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// Goes over all packages again and again until `shutdown`.
pub(crate) async fn run(store: &PackageStore, shutdown: &CancellationToken) {
    while !shutdown.is_cancelled() {
        let next = Instant::now() + PASS_INTERVAL;
        tokio::select! {
            () = pass(store) => {}
            () = shutdown.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn pass(store: &PackageStore) {
    for digest in store.held_packages() {
        match store.check(&digest, Some(PIECE_INTERVAL)).await {
            Ok(true) => {}
            Ok(false) => {
                if let Err(error) = store.damaged(&digest).await {
                    tracing::warn!(%digest, %error, "a damaged package cannot be removed");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::error!(%digest, %error, "a package cannot be read"),
        }
    }
}

impl PackageStore {
    /// True when a package's bytes are what they should be. Damage is removed.
    pub(super) async fn is_sound(&self, digest: &Digest) -> bool {
        let is_sound = self.check(digest, None).await.unwrap_or(false);
        if !is_sound && let Err(error) = self.damaged(digest).await {
            tracing::warn!(%digest, %error, "a damaged package cannot be removed");
        }
        is_sound
    }

    /// Reads a package and compares its digest, with a pause before each piece when one is given.
    async fn check(&self, digest: &Digest, pause: Option<Duration>) -> io::Result<bool> {
        let mut file = File::open(self.whole(digest)).await?;
        let mut hasher = Hasher::default();
        let mut interval = pause.map(tokio::time::interval);
        if let Some(interval) = &mut interval {
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let mut piece = BytesMut::with_capacity(READ_BYTES);
        while file.read_buf(&mut piece).await? > 0 {
            hasher.update(&piece);
            piece.clear();
            if let Some(interval) = &mut interval {
                interval.tick().await;
            }
        }
        Ok(hasher.finish() == *digest)
    }
}
