//! Tests of the store: openraft's own suite, and what a restart finds.

use std::fs;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use openraft::entry::RaftEntry as _;
use openraft::storage::{IOFlushed, RaftLogStorage as _};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt as _;
use openraft::{EntryPayload, RaftLogReader as _, StorageError};
use tempfile::TempDir;

use common::id::WorkspaceStub;
use pacemaker_core::command::{ClusterSettings, Command};

use super::log_store::{COMMITTED_EVERY, LogStore, OpenError, SegmentLengths};
use super::snapshot_files::SnapshotFiles;
use super::state_machine::StateMachine;
use super::types::{Entry, LeaderId, LogId, TypeConfig, Vote};
use super::{KEEP_BEHIND_SNAPSHOT, Proposer, SNAPSHOT_EVERY};
use crate::metrics::Metrics;
use crate::peer::{Credentials, Peers, Place};
use crate::replica::Replica;

#[derive(Clone, Copy)]
struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().unwrap();
        let log = open(&directory).unwrap();
        let files = SnapshotFiles::open(directory.path().join("snapshots")).unwrap();
        let machine = StateMachine::open(files, Arc::new(Replica::default())).unwrap();
        Ok((directory, log, machine))
    }
}

#[test]
fn store_passes_the_suite_of_openraft() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(Suite::test_all(Builder)).unwrap();
}

#[tokio::test]
async fn vote_and_entries_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory).unwrap();

    log.save_vote(&Vote::new(4, 1)).await.unwrap();
    append(&mut log, 0..10).await;
    log.truncate_after(Some(log_id(7))).await.unwrap();
    log.purge(log_id(2)).await.unwrap();
    append(&mut log, 8..9).await;
    drop(log);

    let mut log = open(&directory).unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(4, 1)));
    let entries = log.try_get_log_entries(..).await.unwrap();
    let indexes: Vec<u64> = entries.iter().map(|entry| entry.log_id.index()).collect();
    assert_eq!(indexes, [3, 4, 5, 6, 7, 8]);
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(2)));
    assert_eq!(state.last_log_id, Some(log_id(8)));
}

#[tokio::test]
async fn copy_made_while_writing_opens_without_the_unfinished_write() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory).unwrap();
    append(&mut log, 0..5).await;

    let copy = copy_of(&directory);

    let mut copied = open(&copy).unwrap();
    assert_eq!(copied.try_get_log_entries(..).await.unwrap().len(), 5);
}

#[tokio::test]
async fn damaged_log_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory).unwrap();
    append(&mut log, 0..200).await;
    drop(log);
    drop(open(&directory).unwrap());
    let segment = path(&directory).join("0000000001.log");
    let good = fs::read(&segment).unwrap();
    let used: Vec<usize> = (0..good.len()).filter(|&at| good[at] != 0).collect();

    let mut refused = 0;
    for step in 0..40 {
        let mut bad = good.clone();
        bad[used[step * used.len() / 40]] ^= 0x55;
        fs::write(&segment, &bad).unwrap();
        match open(&directory) {
            Err(OpenError::Damaged { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
            // Damage in the seal does no harm.
            Ok(mut log) => {
                assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 200);
            }
        }
    }
    assert!(refused >= 39, "{refused}");
    for bad in [&good[..good.len() / 2], b"not a log at all", b""] {
        fs::write(&segment, bad).unwrap();
        assert!(matches!(open(&directory), Err(OpenError::Damaged { .. })));
    }
    fs::write(
        path(&directory).join("format"),
        "2 0123456789abcdef 00000000\n",
    )
    .unwrap();
    assert!(matches!(open(&directory), Err(OpenError::Damaged { .. })));
}

#[tokio::test]
async fn end_of_a_log_that_is_torn_is_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory).unwrap();
    append(&mut log, 0..5).await;
    let segment = path(&directory).join("0000000001.log");
    let before = fs::read(&segment).unwrap();
    append(&mut log, 5..40).await;
    drop(log);
    drop(open(&directory).unwrap());
    let after = fs::read(&segment).unwrap();
    let sectors = after.chunks(512).zip(before.chunks(512));
    let changed: Vec<usize> = sectors
        .enumerate()
        .filter(|(_, (after, before))| after != before)
        .map(|(sector, _)| sector * 512)
        .collect();
    assert!(changed.len() > 3);

    for lost in changed {
        let mut torn = after.clone();
        torn[lost..lost + 512].copy_from_slice(&before[lost..lost + 512]);
        // The seal behind a frame that was never whole was not written.
        let last = after.iter().rposition(|byte| *byte != 0).unwrap();
        let seal = last / 8 * 8 - 16;
        torn[seal..seal + 24].fill(0);
        fs::write(&segment, &torn).unwrap();

        let mut log = open(&directory).unwrap();
        assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 5);
        append(&mut log, 5..7).await;
        drop(log);
        let mut log = open(&directory).unwrap();
        assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 7);
    }
}

#[tokio::test]
async fn log_of_many_segments_is_read_and_what_is_purged_goes() {
    let directory = tempfile::tempdir().unwrap();
    let lengths = SegmentLengths {
        first: 4_096,
        others: 8_192,
    };
    let open = || LogStore::open_with(&path(&directory), lengths, &Metrics::new()).unwrap();
    let segments = || {
        let files = fs::read_dir(path(&directory)).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".log")).count()
    };
    let mut log = open();
    log.save_vote(&Vote::new(4, 1)).await.unwrap();
    for index in 0..300 {
        append(&mut log, index..index + 1).await;
    }
    // One that is longer than a segment.
    append(&mut log, 300..700).await;
    let many = segments();
    assert!(many >= 4, "{many}");

    let mut log = {
        drop(log);
        open()
    };
    assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 700);
    log.truncate_after(Some(log_id(649))).await.unwrap();
    log.purge(log_id(599)).await.unwrap();
    append(&mut log, 650..660).await;
    // Segments go when those are answered whose purge they go for.
    log.save_vote(&Vote::new(4, 1)).await.unwrap();
    assert!(segments() < many, "{} of {many}", segments());

    let mut log = {
        drop(log);
        open()
    };
    let entries = log.try_get_log_entries(..).await.unwrap();
    let indexes: Vec<u64> = entries.iter().map(|entry| entry.log_id.index()).collect();
    assert_eq!(indexes, (600..660).collect::<Vec<_>>());
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(4, 1)));
}

#[tokio::test]
async fn append_of_nothing_and_a_hole_do_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory).unwrap();
    append(&mut log, 0..5).await;
    append(&mut log, 5..5).await;
    append(&mut log, 5..10).await;
    drop(log);
    let mut log = open(&directory).unwrap();
    assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 10);

    let entries = [Entry::new(log_id(11), EntryPayload::Blank)];
    let (sent, flushed) = TypeConfig::oneshot::<Result<(), io::Error>>();
    log.append(entries, IOFlushed::signal(sent)).await.unwrap();
    let error = flushed.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("entry 11"), "{error}");
    drop(log);
    let mut log = open(&directory).unwrap();
    assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 10);
}

#[tokio::test]
async fn first_frame_that_is_longer_than_the_first_segment_may_be_lost() {
    let directory = tempfile::tempdir().unwrap();
    let lengths = SegmentLengths {
        first: 4_096,
        others: 8_192,
    };
    let open = || LogStore::open_with(&path(&directory), lengths, &Metrics::new()).unwrap();
    drop(open());
    // The power went when a second segment was made for it, and nothing written into that.
    fs::write(path(&directory).join("0000000002.log"), vec![0; 16_384]).unwrap();

    let mut log = open();
    assert!(log.try_get_log_entries(..).await.unwrap().is_empty());
    append(&mut log, 0..3).await;
    drop(log);
    let mut log = open();
    assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 3);
}

#[tokio::test]
async fn log_that_misses_a_segment_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let lengths = SegmentLengths {
        first: 4_096,
        others: 8_192,
    };
    let open = || LogStore::open_with(&path(&directory), lengths, &Metrics::new());
    let mut log = open().unwrap();
    for index in 0..300 {
        append(&mut log, index..index + 1).await;
    }
    drop(log);
    drop(open().unwrap());
    for missing in ["0000000001.log", "0000000002.log"] {
        let file = path(&directory).join(missing);
        let bytes = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        assert!(
            matches!(open(), Err(OpenError::Damaged { .. })),
            "{missing}"
        );
        fs::write(&file, bytes).unwrap();
    }
    drop(open().unwrap());
}

#[tokio::test]
async fn log_of_another_format_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(&directory).unwrap());
    let text = "99 0123456789abcdef";
    let check = crc32c::crc32c(text.as_bytes());
    let format = path(&directory).join("format");
    fs::write(format, format!("{text} {check:08x}\n")).unwrap();

    let error = open(&directory).unwrap_err();

    assert!(error.to_string().contains("format `99`"), "{error}");
    fs::remove_dir_all(path(&directory)).unwrap();
    fs::write(directory.path().join("raft.redb"), b"of an earlier release").unwrap();
    assert!(super::has_log(directory.path()));
    let error = super::open_log(directory.path(), &Metrics::new()).unwrap_err();
    assert!(error.to_string().contains("format `1`"), "{error}");
}

#[tokio::test]
async fn panic_while_applying_is_reported_within_a_second() {
    let directory = tempfile::tempdir().unwrap();
    let (proposer, replica) = start(&directory).await;
    proposer.propose(initialize()).await.unwrap().unwrap();

    replica.panics.store(true, Ordering::Relaxed);
    let failed = tokio::time::timeout(Duration::from_secs(1), async {
        tokio::join!(proposer.propose(workspace(1)), proposer.failed())
    });

    let (answer, reason) = failed.await.unwrap();
    assert!(
        matches!(answer, Err(super::ProposeError::Failed(_))),
        "{answer:?}"
    );
    assert!(matches!(reason, super::ProposeError::Failed(_)));
}

/// Counts how often a task is woken.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn writes_wake_nobody_who_waits_for_another_leader_or_group() {
    let directory = tempfile::tempdir().unwrap();
    let (proposer, _replica) = start(&directory).await;
    proposer.propose(initialize()).await.unwrap().unwrap();
    let (status, group) = (proposer.status(), proposer.group());
    let mut waiting = pin!(futures_util::future::join3(
        proposer.leadership_changed(status),
        proposer.group_changed(&group),
        proposer.failed(),
    ));
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let polled = waiting.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());

    for number in 0..10 {
        proposer.propose(workspace(number)).await.unwrap().unwrap();
    }

    assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_is_committed_goes_to_the_disk_with_a_later_write_or_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let metrics = Metrics::new();
    let flushes = || {
        let text = metrics.text();
        let count = "pm_pacemaker_raft_flush_seconds_count ";
        let line = text.lines().find_map(|line| line.strip_prefix(count));
        line.unwrap().parse::<u64>().unwrap()
    };
    let mut log = LogStore::open(&path(&directory), &metrics).unwrap();
    append(&mut log, 0..5).await;
    assert_eq!(flushes(), 1);

    log.save_committed(Some(log_id(3))).await.unwrap();
    let later = u64::from(COMMITTED_EVERY);
    for index in 5..5 + later {
        append(&mut log, index..index + 1).await;
    }
    assert_eq!(flushes(), 1 + later, "it is no write of its own");
    let copy = copy_of(&directory);
    let mut copied = open(&copy).unwrap();
    assert_eq!(copied.read_committed().await.unwrap(), Some(log_id(3)));

    log.save_committed(Some(log_id(4))).await.unwrap();
    drop(log);
    let mut log = open(&directory).unwrap();
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(4)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_is_the_same_after_snapshots_a_purge_and_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (proposer, replica) = start(&directory).await;
    proposer.propose(initialize()).await.unwrap().unwrap();
    let rounds = (KEEP_BEHIND_SNAPSHOT + 2 * SNAPSHOT_EVERY) / 100;
    for round in 0..rounds {
        // Refused, but in the log nevertheless.
        let refused = (0..99).map(|_| proposer.propose(initialize()));
        futures_util::future::join_all(refused).await;
        proposer.propose(workspace(round)).await.unwrap().unwrap();
    }
    let before = replica.copy();
    let snapshots = || {
        fs::read_dir(directory.path().join("snapshots"))
            .unwrap()
            .count()
    };
    while snapshots() < 2 || proposer.first_index() == 0 {
        tokio::task::yield_now().await;
    }
    proposer.stop().await;
    drop((proposer, replica));

    let (proposer, replica) = start(&directory).await;
    proposer.barrier().await.unwrap();

    assert_eq!(replica.copy().state, before.state);
    assert_eq!(replica.copy().now, before.now);
    proposer.propose(workspace(rounds)).await.unwrap().unwrap();
}

async fn start(directory: &TempDir) -> (Proposer, Arc<Replica>) {
    let replica = Arc::new(Replica::default());
    let (peers, _) = Peers::new(Credentials {
        member: 1,
        incarnation: "first".to_owned(),
        cluster: None,
        tls: None,
        node_token: "token".to_owned(),
        replica: Arc::clone(&replica),
    });
    let founder = Some(Place::new("one:1"));
    let metrics = Metrics::new();
    let proposer = super::start(
        directory.path(),
        founder,
        peers,
        Arc::clone(&replica),
        metrics,
    )
    .await
    .unwrap();
    (proposer, replica)
}

fn initialize() -> Command {
    Command::InitializeCluster {
        id: "cluster".to_owned(),
        hostname: "localhost".to_owned(),
        tokens: std::collections::BTreeMap::new(),
        settings: ClusterSettings::default(),
        join_tokens: Vec::new(),
        founder: None,
    }
}

fn workspace(number: u64) -> Command {
    Command::CreateWorkspace {
        name: number.to_string(),
        stub: WorkspaceStub::parse(&format!("w{number}")).unwrap(),
        tags: std::collections::BTreeMap::new(),
    }
}

fn open(directory: &TempDir) -> Result<LogStore, OpenError> {
    LogStore::open(&path(directory), &Metrics::new())
}

fn path(directory: &TempDir) -> std::path::PathBuf {
    directory.path().join("raft")
}

fn copy_of(directory: &TempDir) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir(path(&copy)).unwrap();
    for file in fs::read_dir(path(directory)).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), path(&copy).join(file.file_name())).unwrap();
    }
    copy
}

fn log_id(index: u64) -> LogId {
    LogId::new(LeaderId { term: 1 }, index)
}

async fn append(log: &mut LogStore, indexes: std::ops::Range<u64>) {
    let entries = indexes.map(|index| Entry::new(log_id(index), EntryPayload::Blank));
    let (sent, flushed) = TypeConfig::oneshot::<Result<(), io::Error>>();
    log.append(entries, IOFlushed::signal(sent)).await.unwrap();
    flushed.await.unwrap().unwrap();
}
