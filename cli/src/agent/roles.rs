//! The roles that run in this process.
//!
//! Owns the rule that a role which ends ends the process. Knows nothing of what the roles do.

use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// How long roles may take to end in order; a supervisor kills after ten seconds.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(8);
/// How long the other roles get when one has failed: the process must be gone within a second.
const FAILURE_LIMIT: Duration = Duration::from_millis(500);

/// The roles that run, each until the shutdown or its failure.
#[derive(Debug)]
pub(crate) struct Roles {
    tasks: JoinSet<Ended>,
    shutdown: CancellationToken,
}

/// How a role ended.
#[derive(Debug)]
struct Ended {
    role: &'static str,
    result: anyhow::Result<()>,
}

impl Roles {
    /// No role yet; all of them end when `shutdown` is cancelled.
    pub(crate) fn new(shutdown: CancellationToken) -> Self {
        Self {
            tasks: JoinSet::new(),
            shutdown,
        }
    }

    /// What ends all of them.
    pub(crate) fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Watches a role that has been started.
    pub(crate) fn watch<E>(
        &mut self,
        role: &'static str,
        finished: impl Future<Output = Result<Result<(), E>, JoinError>> + Send + 'static,
    ) where
        E: std::error::Error + Send + Sync + 'static,
    {
        self.tasks.spawn(async move {
            let result = match finished.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(anyhow::Error::new(error)),
                Err(error) => Err(anyhow::Error::new(error)),
            };
            Ended { role, result }
        });
    }

    /// Waits until a role ends though nobody asked it to; never ends otherwise.
    pub(crate) async fn failure(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(ended)) => ended.into_error(),
            Some(Err(error)) => anyhow::Error::new(error).context("watching a role"),
            None => std::future::pending().await,
        }
    }

    /// Ends all roles in order and says which of them failed to.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.end_within(SHUTDOWN_LIMIT).await
    }

    /// Ends what is left after a failure.
    pub(crate) async fn abandon(self) {
        if let Err(error) = self.end_within(FAILURE_LIMIT).await {
            tracing::error!(error = format!("{error:#}"), "roles were abandoned");
        }
    }

    async fn end_within(mut self, limit: Duration) -> anyhow::Result<()> {
        self.shutdown.cancel();
        let all = async {
            let mut first = Ok(());
            while let Some(ended) = self.tasks.join_next().await {
                let result = match ended {
                    Ok(Ended { role, result }) => {
                        result.map_err(|error| error.context(format!("ending the {role}")))
                    }
                    Err(error) => Err(anyhow::Error::new(error)),
                };
                if first.is_ok() {
                    first = result;
                }
            }
            first
        };
        match tokio::time::timeout(limit, all).await {
            Ok(result) => result,
            Err(_) => anyhow::bail!("roles did not end within {} ms", limit.as_millis()),
        }
    }
}

impl Ended {
    fn into_error(self) -> anyhow::Error {
        match self.result {
            Ok(()) => anyhow::anyhow!("the {} ended though nobody asked it to", self.role),
            Err(error) => error.context(format!("the {} failed", self.role)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_role_that_ends_by_itself_is_a_failure() {
        let mut roles = Roles::new(CancellationToken::new());
        let task = tokio::spawn(async { Err(std::io::Error::other("the disk is gone")) });
        roles.watch("heart", task);

        let failure = roles.failure().await;

        assert_eq!(format!("{failure:#}"), "the heart failed: the disk is gone");
    }

    #[tokio::test]
    async fn roles_end_when_told_to() {
        let shutdown = CancellationToken::new();
        let mut roles = Roles::new(shutdown.clone());
        let task = tokio::spawn(async move {
            shutdown.cancelled().await;
            Ok::<(), std::io::Error>(())
        });
        roles.watch("router", task);

        assert!(roles.stop().await.is_ok());
    }
}
