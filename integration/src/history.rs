//! What clients wrote, what was acknowledged, and whether all of it can be read back.
//!
//! Each write makes a workspace with a name that nobody else uses. A writer sends it to one pacemaker
//! after the other, always with the same `Idempotency-Key`, until one acknowledges it. Whatever was
//! acknowledged must be there at the end, once; nothing may be there that nobody wrote; and a
//! pacemaker may say "later", but never "no".

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use common::api::CreateWorkspace;
use common::id::WorkspaceStub;
use pacemaker_client::Client;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::patience::eventually;

/// How long one pacemaker may take to answer, until the next one is asked.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// Time between two attempts of a write.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// A cluster keeps 1,000 workspaces; some room for those of the test.
const MOST: usize = 900;

/// How a history is written.
#[derive(Clone, Debug)]
pub struct Writing {
    /// Begins the names of what is written; no other history of the cluster has it.
    pub name: String,
    /// How many write at the same time.
    pub writers: usize,
    /// How long each of them waits between two writes.
    pub pause: Duration,
    /// How many writes there are at most; a cluster keeps 1,000 workspaces.
    pub most: usize,
}

impl Writing {
    /// A few writes at a time, for some forty seconds.
    #[must_use]
    pub fn steady(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            writers: 8,
            pause: Duration::from_millis(400),
            most: MOST,
        }
    }

    /// So many writes, fifty at a time, as fast as they are acknowledged.
    #[must_use]
    pub fn burst(name: &str, most: usize) -> Self {
        Self {
            name: name.to_owned(),
            writers: 50,
            pause: Duration::ZERO,
            most,
        }
    }

    fn stub(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }
}

/// Writers that go on until they are told to stop.
#[derive(Debug)]
pub struct History {
    shared: Arc<Shared>,
    writers: JoinSet<()>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    record: Mutex<Record>,
    writing: Writing,
    stop: CancellationToken,
}

/// What became of the writes.
#[derive(Clone, Debug)]
pub struct Record {
    writing: Writing,
    /// Writes that were begun.
    attempted: usize,
    /// When each acknowledged write began and ended, and its number.
    acknowledged: Vec<Acknowledged>,
    /// Answers that no pacemaker may give.
    contradictions: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    number: usize,
    began: Instant,
    ended: Instant,
}

impl History {
    /// Starts writers that begin with different ones of these pacemakers.
    #[must_use]
    pub fn start(clients: &[Client], writing: &Writing) -> Self {
        let stop = CancellationToken::new();
        let record = Record {
            writing: writing.clone(),
            attempted: 0,
            acknowledged: Vec::new(),
            contradictions: Vec::new(),
        };
        let shared = Arc::new(Shared {
            record: Mutex::new(record),
            writing: writing.clone(),
            stop: stop.clone(),
        });
        let mut tasks = JoinSet::new();
        for writer in 0..writing.writers {
            let mut clients = clients.to_vec();
            let count = clients.len().max(1);
            clients.rotate_left(writer % count);
            tasks.spawn(write_on(clients, shared.clone()));
        }
        Self {
            shared,
            writers: tasks,
            stop,
        }
    }

    /// How many writes have been acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.shared.record().acknowledged.len()
    }

    /// Waits until `more` further writes have been acknowledged that began from now on.
    ///
    /// # Errors
    /// When that does not happen within the patience, or there are no more writes.
    pub async fn wait_for(&self, more: usize) -> Result<()> {
        let from = Instant::now();
        eventually("writes are acknowledged", || async {
            let record = self.shared.record();
            let found = record
                .acknowledged
                .iter()
                .filter(|write| write.began >= from);
            if found.count() >= more {
                return Some(Ok(()));
            }
            let is_over = record.attempted >= record.writing.most
                && record.acknowledged.len() == record.attempted;
            is_over.then(|| Err(anyhow!("all {} writes are done", record.attempted)))
        })
        .await?
    }

    /// Waits until every write that there may be has been acknowledged.
    ///
    /// # Errors
    /// When that does not happen within the patience.
    pub async fn done(&self) -> Result<()> {
        let most = self.shared.writing.most;
        eventually("all writes are acknowledged", || async {
            (self.acknowledged() >= most).then_some(())
        })
        .await
        .with_context(|| format!("{} of {most} are", self.acknowledged()))
    }

    /// Ends the writers; a write that is under way is given up.
    pub async fn stop(mut self) -> Record {
        self.stop.cancel();
        while self.writers.join_next().await.is_some() {}
        self.shared.record().clone()
    }
}

impl Shared {
    fn record(&self) -> std::sync::MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the next write.
    fn begin(&self) -> Option<usize> {
        let mut record = self.record();
        let number = record.attempted;
        (number < self.writing.most).then(|| {
            record.attempted += 1;
            number
        })
    }
}

async fn write_on(clients: Vec<Client>, shared: Arc<Shared>) {
    let writing = async {
        let mut interval =
            tokio::time::interval(shared.writing.pause.max(Duration::from_millis(1)));
        while let Some(number) = shared.begin() {
            let began = Instant::now();
            if let Err(contradiction) = write(&clients, shared.writing.stub(number)).await {
                let mut record = shared.record();
                record.contradictions.push(format!("{contradiction:#}"));
                continue;
            }
            shared.record().acknowledged.push(Acknowledged {
                number,
                began,
                ended: Instant::now(),
            });
            interval.tick().await;
        }
    };
    shared.stop.run_until_cancelled(writing).await;
}

/// Writes until it is acknowledged.
async fn write(clients: &[Client], name: String) -> Result<()> {
    let body = CreateWorkspace {
        stub: WorkspaceStub::parse(&name).context("naming a workspace")?,
        name: name.clone(),
        tags: [].into(),
    };
    let mut interval = tokio::time::interval(RETRY_INTERVAL);
    for client in clients.iter().cycle() {
        let answer = client.create_workspace(&body, &name);
        match tokio::time::timeout(ANSWER_LIMIT, answer).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) if error.is_unreachable() => {}
            Ok(Err(error)) => return Err(error).with_context(|| format!("writing {name}")),
            Err(_) => {}
        }
        interval.tick().await;
    }
    bail!("there is no pacemaker to write {name} to")
}

impl Record {
    /// How many writes were acknowledged.
    #[must_use]
    pub fn count(&self) -> usize {
        self.acknowledged.len()
    }

    /// The time from `from` to the first acknowledgement of a write that began after it.
    #[must_use]
    pub fn first_after(&self, from: Instant) -> Option<Duration> {
        self.acknowledged
            .iter()
            .filter(|write| write.began >= from)
            .map(|write| write.ended.duration_since(from))
            .min()
    }

    /// How long the slowest of the writes took that began between the two.
    #[must_use]
    pub fn slowest(&self, from: Instant, to: Instant) -> Option<Duration> {
        self.acknowledged
            .iter()
            .filter(|write| (from..to).contains(&write.began))
            .map(|write| write.ended.duration_since(write.began))
            .max()
    }

    /// The middle of how long the writes took that began between the two.
    #[must_use]
    pub fn median(&self, from: Instant, to: Instant) -> Option<Duration> {
        self.quantile(from, to, 50)
    }

    /// Of the writes that began between the two, so many of a hundred took less than this.
    #[must_use]
    pub fn quantile(&self, from: Instant, to: Instant, of_hundred: usize) -> Option<Duration> {
        let mut taken: Vec<Duration> = self
            .acknowledged
            .iter()
            .filter(|write| (from..to).contains(&write.began))
            .map(|write| write.ended.duration_since(write.began))
            .collect();
        taken.sort_unstable();
        taken.get(taken.len() * of_hundred / 100).copied()
    }

    /// Reads everything back through each of these pacemakers.
    ///
    /// # Errors
    /// When something acknowledged is missing or there twice, when something is there that nobody
    /// wrote, or when a pacemaker said "no" to a write.
    pub async fn check(&self, pacemakers: &[Client]) -> Result<()> {
        ensure!(
            self.contradictions.is_empty(),
            "writes were refused: {:#?}",
            self.contradictions
        );
        for pacemaker in pacemakers {
            let found = eventually("the workspaces are read", || async {
                pacemaker.workspaces().await.ok()
            })
            .await?;
            let found: Vec<String> = found
                .iter()
                .map(|workspace| workspace.stub.to_string())
                .filter(|stub| stub.starts_with(&format!("{}-", self.writing.name)))
                .collect();
            let once: BTreeSet<&str> = found.iter().map(String::as_str).collect();
            ensure!(
                once.len() == found.len(),
                "a write is there twice: {found:?}"
            );
            let lost: Vec<String> = self
                .acknowledged
                .iter()
                .map(|write| self.writing.stub(write.number))
                .filter(|name| !once.contains(name.as_str()))
                .collect();
            ensure!(
                lost.is_empty(),
                "{} of {} acknowledged writes are lost: {lost:?}",
                lost.len(),
                self.count()
            );
            let written: BTreeSet<String> = (0..self.attempted)
                .map(|number| self.writing.stub(number))
                .collect();
            let invented: Vec<&&str> = once
                .iter()
                .filter(|name| !written.contains(**name))
                .collect();
            ensure!(invented.is_empty(), "nobody wrote {invented:?}");
        }
        Ok(())
    }
}
