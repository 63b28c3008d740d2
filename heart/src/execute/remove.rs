//! Deletes an instance's directory.

use std::io;

use common::id::InstanceId;

use super::{Executor, Shared};
use crate::crash_point::CrashPoint;
use crate::fetch::remove_if_present;
use crate::local::Event;

impl Executor {
    /// Deletes the directory of an instance that has no process.
    pub(crate) fn remove(&self, instance: InstanceId) {
        let executor = self.clone();
        self.spawn(async move {
            let outcome = executor.delete(instance).await;
            if let Err(error) = &outcome {
                tracing::error!(%instance, %error, "removing an instance's directory");
            }
            executor
                .tell(Event::Removed {
                    instance,
                    is_gone: outcome.is_ok(),
                })
                .await;
        });
    }
}

impl Shared {
    async fn delete(&self, instance: InstanceId) -> io::Result<()> {
        let permit = self.removals.acquire().await;
        let _permit = permit.expect("the semaphore is never closed");
        let directory = self.directories.instance(instance);
        let crash = self.crash;
        tokio::task::spawn_blocking(move || {
            remove_if_present(directory.root())?;
            crash.at(CrashPoint::AfterRemove);
            Ok(())
        })
        .await
        .map_err(io::Error::other)?
    }
}
