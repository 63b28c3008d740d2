//! Follows the cluster's routing table and hands each newer one to every worker.
//!
//! ```text
//! disk ─┐
//!       ├─> install ─> ArcSwap ─> worker 0..n ─> applied ─> report
//! watch ┘      └─> disk
//! ```
//! A table is on disk before it is used, so that a router never acknowledges what its next start
//! does not know.
//! A table is taken only when its generation is newer. It is *applied* when every worker uses it
//! for new requests: each is woken, takes it and says so. The loop here never stops while the
//! router runs; while no pacemaker answers it waits longer each time, and the last table serves.
//!
//! Only one thing takes the table away: the cluster's word, for a while, that this node was removed.
//! Nobody tells such a router any more whose port is whose.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use common::id::{Generation, is_other_cluster};
use common::routing_table::RoutingTable;
use pacemaker_client::{Client, Error};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::random;
use crate::routes::{CompiledTable, Registry};
use crate::table_file::TableFile;

/// The first wait after a failed watch.
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// The longest wait between watches: a cluster that comes back is seen this soon.
const RETRY_MAX: Duration = Duration::from_secs(3);
/// How long pacemakers must say that this node was removed until it is believed: one answer alone
/// ends nothing that serves. As for hearts.
const REMOVAL_BELIEVED_AFTER: Duration = Duration::from_secs(3);
/// The wait between watches from then on.
const REMOVED_WAIT: Duration = Duration::from_secs(60);
/// Compiling so many routes takes a few milliseconds, too long for a thread that others share.
const ROUTES_COMPILED_INLINE: usize = 2_000;

/// The table in use, and who has taken it.
#[derive(Debug)]
pub(crate) struct Tables {
    /// The id of the cluster that the node was told to belong to; empty: that of its table.
    own_cluster: String,
    pub(crate) current: Arc<ArcSwap<CompiledTable>>,
    registry: Mutex<Registry>,
    workers: Box<[Signal]>,
    /// Wakes the reporter.
    pub(crate) changed: Arc<Notify>,
    started: Instant,
    /// How old the table on disk was then.
    age_at_start: Duration,
    /// When a pacemaker last answered a watch, milliseconds since `started` plus one; 0 is never.
    contact_ms: AtomicU64,
    /// True once the cluster has removed this node.
    is_removed: AtomicBool,
}

/// How a worker hears of a newer table, and says that it uses it.
#[derive(Debug, Default)]
struct Signal {
    newer: Notify,
    applied: AtomicU64,
}

impl Tables {
    pub(crate) fn new(workers: usize, own_cluster: String) -> Self {
        let changed = Arc::new(Notify::new());
        Self {
            own_cluster,
            current: Arc::new(ArcSwap::from_pointee(CompiledTable::default())),
            registry: Mutex::new(Registry::new(workers, Arc::clone(&changed))),
            workers: (0..workers).map(|_| Signal::default()).collect(),
            changed,
            started: Instant::now(),
            age_at_start: Duration::ZERO,
            contact_ms: AtomicU64::new(0),
            is_removed: AtomicBool::new(false),
        }
    }

    /// Runs `work` on the registry; never called by a request.
    pub(crate) fn with_registry<T>(&self, work: impl FnOnce(&mut Registry) -> T) -> T {
        work(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The id of the cluster that this router belongs to; empty while it does not know.
    pub(crate) fn cluster(&self) -> String {
        if self.own_cluster.is_empty() {
            self.current.load().cluster.to_string()
        } else {
            self.own_cluster.clone()
        }
    }

    /// True for a table of another cluster: its instances are strangers, whatever its generation.
    pub(crate) fn is_foreign(&self, table: &RoutingTable) -> bool {
        is_other_cluster(&self.cluster(), &table.cluster)
    }

    /// Swaps to `table` when it is newer than the one in use, and wakes every worker.
    pub(crate) fn install(&self, table: &RoutingTable) -> bool {
        let is_newer = self.with_registry(|registry| {
            if table.generation <= self.current.load().generation {
                return false;
            }
            self.current.store(Arc::new(registry.compile(table)));
            true
        });
        if is_newer {
            self.is_removed.store(false, Ordering::SeqCst);
            self.wake_workers();
        }
        is_newer
    }

    /// Takes the table away, because the cluster has removed this node; the cluster's id stays.
    fn withdraw(&self) {
        let nothing = RoutingTable {
            cluster: self.cluster(),
            ..RoutingTable::default()
        };
        self.is_removed.store(true, Ordering::SeqCst);
        self.with_registry(|registry| {
            self.current.store(Arc::new(registry.compile(&nothing)));
        });
        self.wake_workers();
    }

    /// True once the cluster has removed this node.
    pub(crate) fn is_removed(&self) -> bool {
        self.is_removed.load(Ordering::Relaxed)
    }

    fn wake_workers(&self) {
        for worker in &self.workers {
            worker.newer.notify_one();
        }
    }

    /// Resolves when a worker should look at the table again.
    pub(crate) async fn newer(&self, worker: usize) {
        self.workers[worker].newer.notified().await;
    }

    /// Says that `worker` uses `generation` for every request from here on.
    pub(crate) fn acknowledge(&self, worker: usize, generation: Generation) {
        let before = self.workers[worker]
            .applied
            .swap(generation.0, Ordering::SeqCst);
        // The last worker to take it tells the reporter, so that one report says so.
        if before != generation.0 && self.applied() >= generation {
            self.changed.notify_one();
        }
    }

    /// The table that each worker uses.
    pub(crate) fn applied_by_worker(&self) -> Vec<Generation> {
        self.workers
            .iter()
            .map(|worker| Generation(worker.applied.load(Ordering::SeqCst)))
            .collect()
    }

    /// The table that every worker uses, or a newer one.
    pub(crate) fn applied(&self) -> Generation {
        self.applied_by_worker()
            .into_iter()
            .min()
            .unwrap_or_default()
    }

    /// The same, with a table on disk that was so old at the start.
    pub(crate) fn with_age(self, age_at_start: Duration) -> Self {
        Self {
            age_at_start,
            ..self
        }
    }

    /// Time since a pacemaker last answered a watch of this router or, when none has, of the one
    /// before it in the same directory.
    pub(crate) fn staleness(&self) -> Duration {
        let elapsed = self.started.elapsed();
        match self.contact_ms.load(Ordering::Relaxed) {
            0 => self.age_at_start.saturating_add(elapsed),
            contact => elapsed.saturating_sub(Duration::from_millis(contact)),
        }
    }

    /// True once a pacemaker has answered.
    pub(crate) fn has_had_contact(&self) -> bool {
        self.contact_ms.load(Ordering::Relaxed) > 0
    }

    fn note_contact(&self) {
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.contact_ms
            .store(ms.saturating_add(1), Ordering::Relaxed);
    }
}

/// Watches the cluster's routes until `shutdown`.
pub(crate) async fn follow(
    tables: Arc<Tables>,
    client: Client,
    file: TableFile,
    shutdown: CancellationToken,
) {
    let (keep, kept) = watch::channel(None);
    let keeper = tokio::spawn(keep_on_disk(file.clone(), kept));
    let following = Following {
        tables,
        file,
        keep,
        is_confirmed: false,
        is_reachable: true,
        removed: None,
    };
    following.run(&client, &shutdown).await;
    if let Err(error) = keeper.await {
        tracing::error!(%error, "the task that keeps the routing table failed");
    }
}

/// What is known of the pacemakers that are watched.
struct Following {
    tables: Arc<Tables>,
    file: TableFile,
    keep: watch::Sender<Option<Arc<RoutingTable>>>,
    /// The first question is answered at once: it shows whose cluster this is.
    is_confirmed: bool,
    is_reachable: bool,
    /// Since when every answer has been that this node was removed.
    removed: Option<Instant>,
}

impl Following {
    async fn run(mut self, client: &Client, shutdown: &CancellationToken) {
        let mut wait = Backoff::default();
        loop {
            let held = self.tables.current.load().generation;
            let after = if self.is_confirmed {
                held
            } else {
                Generation(0)
            };
            let begun = Instant::now();
            let answer = tokio::select! {
                answer = client.watch_routes(after) => answer,
                () = shutdown.cancelled() => return,
            };
            if self.is_removed_by(&answer) {
                let pause = tokio::time::timeout(REMOVED_WAIT, shutdown.cancelled());
                if pause.await.is_ok() {
                    return;
                }
                continue;
            }
            if self.take_answer(answer, begun).await {
                self.is_reachable = true;
                wait = Backoff::default();
            } else if wait.pause(shutdown).await.is_break() {
                return;
            }
        }
    }

    /// True once this node is known to be removed; then nothing is routed here any more.
    fn is_removed_by(&mut self, answer: &Result<Option<RoutingTable>, Error>) -> bool {
        self.removed = match answer {
            Err(error) if error.is_removal() => self.removed.or_else(|| Some(Instant::now())),
            // Who is not reached says nothing.
            Err(error) if error.is_unreachable() => self.removed,
            Ok(_) | Err(_) => None,
        };
        let since = self.removed.map(|since| since.elapsed());
        if since.is_none_or(|since| since < REMOVAL_BELIEVED_AFTER) {
            return false;
        }
        if !self.tables.is_removed() {
            tracing::error!("this node was removed from its cluster: it routes nothing any more");
            self.keep.send_replace(None);
            self.file.discard();
            self.tables.withdraw();
            self.is_confirmed = false;
        }
        true
    }

    /// True when the answer to a question that was asked at `begun` was progress.
    async fn take_answer(
        &mut self,
        answer: Result<Option<RoutingTable>, Error>,
        begun: Instant,
    ) -> bool {
        let was_reachable = self.is_reachable;
        match answer {
            Ok(Some(table)) if self.tables.is_foreign(&table) => {
                if was_reachable {
                    tracing::error!(
                        own = self.tables.cluster(),
                        found = table.cluster,
                        "refused the routing table of another cluster; join this node anew, or point it at its own pacemakers"
                    );
                }
                self.is_reachable = false;
                false
            }
            Ok(table) => {
                self.tables.note_contact();
                self.is_confirmed = true;
                let made_progress = match table {
                    Some(table) => take(&self.tables, table, &self.file, &self.keep).await,
                    None => begun.elapsed() > RETRY_MAX,
                };
                self.file.note_contact();
                made_progress
            }
            Err(error) => {
                if was_reachable {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "cannot watch the routes; serving the last table"
                    );
                }
                self.is_reachable = false;
                false
            }
        }
    }
}

/// Takes a table of our own cluster: true when that was progress.
async fn take(
    tables: &Arc<Tables>,
    table: RoutingTable,
    file: &TableFile,
    keep: &watch::Sender<Option<Arc<RoutingTable>>>,
) -> bool {
    let held = tables.current.load().generation;
    let table = Arc::new(table);
    if install(tables, &table, file).await {
        tracing::debug!(
            generation = table.generation.0,
            routes = table.routes.len(),
            "took a newer routing table"
        );
        keep.send_replace(Some(table));
        return true;
    }
    if table.generation < held {
        tracing::warn!(
            found = table.generation.0,
            held = held.0,
            "the pacemaker's routing table is older than ours; keeping ours"
        );
    }
    table.generation == held
}

async fn install(tables: &Arc<Tables>, table: &Arc<RoutingTable>, file: &TableFile) -> bool {
    if table.routes.len() <= ROUTES_COMPILED_INLINE {
        return keep_and_install(tables, table, file);
    }
    let (tables, table, file) = (Arc::clone(tables), Arc::clone(table), file.clone());
    tokio::task::spawn_blocking(move || keep_and_install(&tables, &table, &file))
        .await
        .unwrap_or_default()
}

fn keep_and_install(tables: &Tables, table: &RoutingTable, file: &TableFile) -> bool {
    if table.generation > tables.current.load().generation
        && let Err(error) = file.save_early(table)
    {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "a restart would serve an older table"
        );
    }
    tables.install(table)
}

/// Writes the newest table it is sent; one that is overtaken while another is written is skipped.
async fn keep_on_disk(file: TableFile, mut kept: watch::Receiver<Option<Arc<RoutingTable>>>) {
    while kept.changed().await.is_ok() {
        let Some(table) = kept.borrow_and_update().clone() else {
            continue;
        };
        let file = file.clone();
        match tokio::task::spawn_blocking(move || file.save(&table)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a restart would serve an older table"
                );
            }
            Err(error) => tracing::error!(%error, "writing the routing table panicked"),
        }
    }
}

/// Waits that double, each cut by chance so that routers do not come back together.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: RETRY_FIRST }
    }
}

impl Backoff {
    /// Waits between half of the next step and all of it; breaks at shutdown.
    pub(crate) async fn pause(
        &mut self,
        shutdown: &CancellationToken,
    ) -> std::ops::ControlFlow<()> {
        let share =
            f64::from(u32::try_from(random::seed() >> 33).unwrap_or(0)) / f64::from(1_u32 << 31);
        let wait = self.next.mul_f64(0.5 + share / 2.0);
        self.next = (self.next * 2).min(RETRY_MAX);
        match tokio::time::timeout(wait, shutdown.cancelled()).await {
            Ok(()) => std::ops::ControlFlow::Break(()),
            Err(_elapsed) => std::ops::ControlFlow::Continue(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(generation: u64) -> RoutingTable {
        RoutingTable {
            generation: Generation(generation),
            ..RoutingTable::default()
        }
    }

    #[test]
    fn only_a_newer_table_is_taken() {
        let tables = Tables::new(1, String::new());
        assert!(tables.install(&table(5)));
        assert!(!tables.install(&table(5)));
        assert!(!tables.install(&table(4)));
        assert_eq!(tables.current.load().generation, Generation(5));
        assert!(tables.install(&table(6)));
    }

    #[test]
    fn a_table_is_applied_when_every_worker_has_it() {
        let tables = Tables::new(2, String::new());
        assert!(tables.install(&table(5)));
        tables.acknowledge(0, Generation(5));
        assert_eq!(tables.applied(), Generation(0));
        tables.acknowledge(1, Generation(5));
        assert_eq!(tables.applied(), Generation(5));
    }
}
