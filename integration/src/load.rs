//! Constant load through the router, in which every request that fails is kept.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::http::Connection;
use crate::patience::eventually;

/// How long an answer may take until the request counts as failed.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Failures that are kept word for word.
const FAILURES_KEPT: usize = 20;

/// Requests that go on until they are told to stop.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    connections: JoinSet<()>,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Shared {
    answered: AtomicU64,
    tally: Mutex<Tally>,
}

/// What became of the requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests that were answered with 200.
    pub answered: u64,
    /// Requests that were not.
    pub failed: u64,
    /// The first failures, word for word.
    pub failures: Vec<String>,
    /// How often each body was seen.
    pub bodies: BTreeMap<String, u64>,
}

impl Load {
    /// Sends GET `/` for `host` over so many connections, each as fast as it is answered.
    #[must_use]
    pub fn start(router: SocketAddr, host: &str, connections: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            tasks.spawn(one(router, host.to_owned(), shared.clone(), stop.clone()));
        }
        Self {
            shared,
            connections: tasks,
            stop,
        }
    }

    /// How many requests have been answered so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Waits until at least `more` further requests have been answered.
    ///
    /// # Errors
    /// When that does not happen within the patience.
    pub async fn wait_for(&self, more: u64) -> Result<()> {
        let target = self.answered() + more;
        eventually("the load is answered", || async {
            (self.answered() >= target).then_some(())
        })
        .await
    }

    /// Ends the load after the requests under way, and says what became of all of them.
    pub async fn stop(mut self) -> Tally {
        self.stop.cancel();
        while self.connections.join_next().await.is_some() {}
        let mut tally = self
            .shared
            .tally
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        tally.answered = self.answered();
        std::mem::take(&mut *tally)
    }
}

impl Tally {
    /// Fails when a single request failed.
    ///
    /// # Errors
    /// Shows the first failures.
    pub fn all_answered(&self) -> Result<()> {
        ensure!(
            self.failed == 0,
            "{} of {} requests failed; the first: {:#?}",
            self.failed,
            self.failed + self.answered,
            self.failures
        );
        Ok(())
    }
}

async fn one(router: SocketAddr, host: String, shared: Arc<Shared>, stop: CancellationToken) {
    let mut connection: Option<Connection> = None;
    while !stop.is_cancelled() {
        let request = async {
            let mut open = match connection.take() {
                Some(open) => open,
                None => Connection::open(router).await?,
            };
            let answer = open.get(&host, "/").await?;
            anyhow::Ok((open, answer))
        };
        let failure = match tokio::time::timeout(ANSWER_LIMIT, request).await {
            Ok(Ok((open, answer))) if answer.status == 200 => {
                shared.answered.fetch_add(1, Ordering::Relaxed);
                if answer.header("connection") != Some("close") {
                    connection = Some(open);
                }
                let mut tally = shared.tally.lock().unwrap_or_else(PoisonError::into_inner);
                *tally.bodies.entry(answer.text()).or_default() += 1;
                continue;
            }
            Ok(Ok((_, answer))) => format!(
                "status {} ({}): {}",
                answer.status,
                answer.header("x-pm-router-error").unwrap_or("no code"),
                answer.text()
            ),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("no answer within {} s", ANSWER_LIMIT.as_secs()),
        };
        let mut tally = shared.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.failed += 1;
        if tally.failures.len() < FAILURES_KEPT {
            tally.failures.push(failure);
        }
    }
}
