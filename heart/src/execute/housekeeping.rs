//! Work that nobody waits for: writing directories to disk, removing packages that nothing needs.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use common::digest::Digest;
use common::id::InstanceId;

use super::Executor;
use crate::local::Event;

impl Executor {
    /// Evicts packages but the `needed` ones, then makes sure that the directories of `instances` are
    /// on disk.
    pub(crate) fn keep_house(&self, instances: Vec<InstanceId>, needed: BTreeSet<Digest>) {
        let executor = self.clone();
        self.spawn(async move {
            let packages = Arc::clone(&executor.packages);
            let is_due = !instances.is_empty();
            let done = tokio::task::spawn_blocking(move || {
                packages.evict(&needed)?;
                if is_due {
                    packages.sync()?;
                }
                Ok(())
            });
            let outcome = done
                .await
                .unwrap_or_else(|error| Err(io::Error::other(error)));
            let synced = match outcome {
                Ok(()) => instances,
                Err(error) => {
                    tracing::warn!(%error, "keeping house");
                    Vec::new()
                }
            };
            executor.tell(Event::Synced { instances: synced }).await;
        });
    }
}
