//! A group of pacemakers loses some of them and nothing else.

use std::sync::atomic::{AtomicU64, Ordering};

use common::assignment::{Report, RouterReport};
use common::id::NodeId;
use pacemaker_client::Client;
use tokio_util::sync::CancellationToken;

use crate::group::{Group, workspace};
use crate::harness::{NODE, eventually};

#[tokio::test]
async fn any_pacemaker_takes_writes_and_all_have_them() {
    let group = Group::of(3).await;

    for (member, pacemaker) in &group.running {
        let stub = format!("by-{member}");
        let client = pacemaker.administrator();
        client
            .create_workspace(&workspace(&stub), &stub)
            .await
            .unwrap();
        assert!(
            group.stubs(*member).await.contains(&stub),
            "who wrote through {member} reads it there"
        );
    }

    for member in 1..=3 {
        eventually("everyone has everything", async || {
            let stubs = group.stubs(member).await;
            let has_all = (1..=3).all(|writer| stubs.contains(&format!("by-{writer}")));
            has_all.then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn writes_go_on_when_the_leader_dies_and_it_catches_up_when_it_returns() {
    let mut group = Group::of(3).await;
    let client = group.client();
    client
        .create_workspace(&workspace("before"), "before")
        .await
        .unwrap();

    let leader = group.leader().await;
    group.crash(leader);
    let client = group.client();
    eventually("a write is accepted", async || {
        client
            .create_workspace(&workspace("meanwhile"), "meanwhile")
            .await
            .ok()
    })
    .await;
    group.start(leader).await;
    group.running[&leader].ready().await;

    let stubs = group.stubs(leader).await;
    assert!(stubs.contains(&"before".to_owned()), "{stubs:?}");
    assert!(stubs.contains(&"meanwhile".to_owned()), "{stubs:?}");
}

#[tokio::test]
async fn a_leader_that_hears_no_majority_acknowledges_no_report() {
    let mut group = Group::of(3).await;
    let leader = group.leader().await;
    let node = Client::new(&[group.running[&leader].url.clone()], NODE).unwrap();
    let sequence = AtomicU64::new(0);
    let report = async || {
        let report = Report {
            cluster: String::new(),
            node: NodeId(1),
            heart: None,
            router: Some(RouterReport {
                incarnation: 1,
                sequence: sequence.fetch_add(1, Ordering::Relaxed),
                ..RouterReport::default()
            }),
        };
        node.report(&report).await
    };
    eventually("a report is acknowledged", async || report().await.ok()).await;

    for member in (1..=3).filter(|member| *member != leader) {
        group.crash(member);
    }

    eventually("no report is acknowledged", async || {
        report()
            .await
            .err()
            .filter(|error| error.status() == Some(503))
    })
    .await;
}

#[tokio::test]
async fn member_whose_log_is_damaged_does_not_vote_and_the_others_go_on() {
    let mut group = Group::of(3).await;
    let leader = group.leader().await;
    let damaged = *group
        .running
        .keys()
        .find(|member| **member != leader)
        .unwrap();
    group.write("before").await;
    let stopped = group.running.remove(&damaged).unwrap();
    stopped.stop().await.unwrap();
    let log = group.data(damaged).join("raft/0000000001.log");
    let mut bytes = std::fs::read(&log).unwrap();
    for byte in bytes.iter_mut().skip(512).step_by(64) {
        *byte ^= 0x40;
    }
    std::fs::write(&log, bytes).unwrap();

    let refused = pacemaker::start(group.config(damaged), CancellationToken::new()).await;

    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("is damaged"), "{refused}");
    group.write("afterwards").await;
}
