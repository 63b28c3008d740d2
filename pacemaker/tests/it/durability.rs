//! What was acknowledged is kept.

use std::fs;

use common::api::CreateWorkspace;
use common::id::WorkspaceStub;
use pacemaker::OpenError;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::harness::{Pacemaker, config, eventually, fresh};
use crate::small_disk::SmallDisk;

/// Writers at once.
const WRITERS: usize = 200;
/// Room for a young log, and the reserve that it keeps, bytes.
const SMALL_DISK_BYTES: usize = 96 * 1024 * 1024;

#[tokio::test]
async fn everything_acknowledged_to_many_writers_survives_a_crash() {
    let (directory, pacemaker) = fresh().await;
    let client = pacemaker.administrator();
    let (told, mut acknowledged) = tokio::sync::mpsc::unbounded_channel();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (client, told) = (client.clone(), told.clone());
        writers.spawn(async move {
            for round in 0..5 {
                let stub = format!("w{writer}-{round}");
                if client
                    .create_workspace(&workspace(&stub), &stub)
                    .await
                    .is_ok()
                {
                    told.send(stub).unwrap();
                }
            }
        });
    }

    // In the middle of it: about half of the thousand has been acknowledged.
    let mut kept = Vec::new();
    while kept.len() < WRITERS * 5 / 2 {
        kept.push(acknowledged.recv().await.unwrap());
    }
    pacemaker.crash();
    writers.shutdown().await;
    drop(told);
    while let Some(stub) = acknowledged.recv().await {
        kept.push(stub);
    }

    let pacemaker = Pacemaker::start(directory.path()).await;
    let stubs: Vec<String> = pacemaker
        .administrator()
        .workspaces()
        .await
        .unwrap()
        .iter()
        .map(|workspace| workspace.stub.to_string())
        .collect();
    for stub in kept {
        assert!(stubs.contains(&stub), "{stub} was acknowledged and is lost");
    }
}

#[tokio::test]
async fn key_that_was_used_before_a_crash_still_has_one_effect() {
    let (directory, pacemaker) = fresh().await;
    let made = pacemaker
        .administrator()
        .create_workspace(&workspace("once"), "key")
        .await
        .unwrap();
    let cluster = pacemaker.administrator().cluster().await.unwrap();
    pacemaker.crash();

    let pacemaker = Pacemaker::start(directory.path()).await;
    let again = pacemaker
        .administrator()
        .create_workspace(&workspace("once"), "key")
        .await
        .unwrap();

    assert_eq!(made, again);
    let after = pacemaker.administrator().cluster().await.unwrap();
    assert_eq!(after.id, cluster.id);
    assert!(after.term >= cluster.term && after.applied >= cluster.applied);
}

#[tokio::test]
async fn damaged_data_directory_is_refused_with_what_to_do() {
    let (directory, pacemaker) = fresh().await;
    pacemaker.crash();
    // Waits until the crashed one has let go, and leaves a file that was closed in order.
    drop(Pacemaker::start(directory.path()).await);
    let log = directory.path().join("raft");

    let wait_for_the_lock = start(directory.path()).await;
    drop(wait_for_the_lock);
    fs::write(log.join("0000000001.log"), b"this is not a log").unwrap();
    let error = start(directory.path()).await.unwrap_err();
    assert!(error.to_string().contains("is damaged"), "{error}");

    fs::remove_dir_all(&log).unwrap();
    let error = start(directory.path()).await.unwrap_err();
    assert!(error.to_string().contains("its log is gone"), "{error}");

    fs::write(directory.path().join("identity.json"), r#"{"format": 9}"#).unwrap();
    let error = start(directory.path()).await.unwrap_err();
    assert!(error.to_string().contains("format 9"), "{error}");
}

#[tokio::test]
async fn second_pacemaker_on_a_data_directory_is_refused() {
    let (directory, _pacemaker) = fresh().await;

    let error = start(directory.path()).await.unwrap_err();

    assert!(matches!(error, pacemaker::Error::Open(OpenError::Log(_))));
    assert!(error.to_string().contains("in use"), "{error}");
}

#[tokio::test]
async fn disk_that_is_full_under_the_log_is_read_only_until_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(directory.path(), SMALL_DISK_BYTES) else {
        eprintln!("SKIPPED: a small tmpfs cannot be mounted here, so a full disk is not tested");
        return;
    };
    let pacemaker = Pacemaker::start(directory.path()).await;
    let client = pacemaker.administrator();
    let create = async |stub: &str| client.create_workspace(&workspace(stub), stub).await;
    create("before").await.unwrap();

    let filler = directory.path().join("filler");
    fs::write(&filler, vec![1; SMALL_DISK_BYTES - 40 * 1024 * 1024]).unwrap();
    let refused = eventually("writes are refused", async || {
        fs::write(directory.path().join("more"), vec![1; 8 * 1024 * 1024]).unwrap();
        create("meanwhile").await.err()
    })
    .await;
    assert_eq!(refused.status(), Some(507), "{refused}");
    let stubs = client.workspaces().await.unwrap();
    assert!(stubs.iter().any(|found| found.stub.to_string() == "before"));

    fs::remove_file(&filler).unwrap();
    eventually("writes are taken again", async || {
        create("after").await.ok()
    })
    .await;
}

async fn start(directory: &std::path::Path) -> Result<(), pacemaker::Error> {
    let shutdown = CancellationToken::new();
    let running = pacemaker::start(config(directory), shutdown.clone()).await?;
    shutdown.cancel();
    running.finished.await.unwrap()
}

fn workspace(stub: &str) -> CreateWorkspace {
    CreateWorkspace {
        name: stub.to_owned(),
        stub: WorkspaceStub::parse(stub).unwrap(),
        tags: std::collections::BTreeMap::new(),
    }
}
