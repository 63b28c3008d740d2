//! Work that nobody waits for: writing directories to disk, removing packages that nothing needs.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use common::digest::Digest;
use common::id::InstanceId;

use super::Executor;
use crate::fetch::Packages;
use crate::local::Event;

impl Executor {
    /// Evicts packages but the `needed` ones, then makes sure that the directories of `instances` are
    /// on disk.
    pub(crate) fn keep_house(&self, instances: Vec<InstanceId>, needed: BTreeSet<Digest>) {
        let executor = self.clone();
        self.spawn(async move {
            let packages = Arc::clone(&executor.packages);
            let is_due = !instances.is_empty();
            let done =
                tokio::task::spawn_blocking(move || keep_packages(&packages, &needed, is_due));
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

/// Evicts, then syncs if that `is_due`: a package that cannot be removed keeps nothing off the disk.
fn keep_packages(packages: &Packages, needed: &BTreeSet<Digest>, is_due: bool) -> io::Result<()> {
    if let Err(error) = packages.evict(needed) {
        tracing::warn!(%error, "removing packages that nothing needs");
    }
    if is_due { packages.sync() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    use pacemaker_client::Client;
    use tokio_util::sync::CancellationToken;

    use crate::crash_point::Crash;
    use crate::directories::Directories;
    use crate::fetch::About;
    use crate::package::Summary;
    use crate::samples;

    #[test]
    fn packages_are_synced_although_none_can_be_evicted() {
        let place = tempfile::tempdir().unwrap();
        let directories = Directories::new(place.path().to_owned());
        let digest = samples::package("content").digest;
        let directory = directories.package(&digest);
        std::fs::create_dir_all(&directory).unwrap();
        let about = About::new(&Summary::default(), "boot".to_owned());
        about.write(&directory).unwrap();
        let packages = Packages::new(
            directories.clone(),
            Client::new(&["http://127.0.0.1:1".to_owned()], "token").unwrap(),
            Crash(None),
            "boot".to_owned(),
            CancellationToken::new(),
        );
        // Without it, nothing can be evicted.
        assert!(!directories.partial_packages().exists());
        assert!(packages.evict(&BTreeSet::new()).is_err());

        keep_packages(&packages, &BTreeSet::new(), true).unwrap();

        assert!(About::read(&directory).unwrap().is_synced);
    }
}
