//! Several pacemakers, of which some die, hang, or are all away for a while (H7, D1).

use std::time::{Duration, Instant};

use common::assignment::InstanceReport;
use common::instance::InstanceState;
use common::time::Span;

use crate::node::{Node, eventually, lives};

/// The node's TTL unless told otherwise.
const TTL: Span = Span::seconds(3);

/// Three pacemakers and a heart with an exclusive instance 1 and an ordinary one 2 that run.
async fn three() -> (Node, [InstanceReport; 2]) {
    let mut node = Node::new().await;
    (node.fence_exclusive, node.node_ttl) = (true, TTL);
    for _ in 0..2 {
        let another = node.pacemaker.another().await;
        node.others.push(another);
    }
    node.start().await;
    let mut exclusive = node.server(1);
    exclusive.exclusive = true;
    node.pacemaker
        .assign_instances(vec![exclusive, node.server(2)]);
    let first = node.reaches(1, InstanceState::Running).await;
    let second = node.reaches(2, InstanceState::Running).await;
    (node, [first, second])
}

/// Waits for so many more reports.
async fn reports_go_on(node: &Node, times: usize) {
    let before = node.pacemaker.memory().reports;
    let reported = || (node.pacemaker.memory().reports >= before + times).then_some(());
    eventually("reports go on", reported, String::new).await;
}

/// What runs, ran on; a change gets through; nobody would have called the node down.
async fn nothing_was_harmed(node: &Node, running: &[InstanceReport], fresh: u64) {
    let begun = Instant::now();
    let server = node.server(fresh);
    node.pacemaker
        .assign(|assignment| assignment.instances.push(server));
    node.reaches(fresh, InstanceState::Running).await;
    // A watch waits for half a minute, and longer for one that hangs.
    assert!(begun.elapsed() < Duration::from_secs(15));
    for running in running {
        assert_eq!(
            node.reaches(running.id.0, InstanceState::Running).await,
            *running
        );
    }
    let gap = node.pacemaker.memory().longest_gap;
    assert!(gap < TTL.duration(), "silent for {gap:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pacemaker_that_dies_is_passed_over() {
    let (node, running) = three().await;

    node.pacemaker.go_away();
    reports_go_on(&node, 4).await;
    nothing_was_harmed(&node, &running, 3).await;

    node.pacemaker.come_back().await;
    node.others[0].go_away();
    reports_go_on(&node, 4).await;
    nothing_was_harmed(&node, &running, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pacemaker_that_hangs_costs_no_more_than_a_second() {
    let (node, running) = three().await;

    node.pacemaker.hang();
    reports_go_on(&node, 4).await;
    nothing_was_harmed(&node, &running, 3).await;

    node.pacemaker.go_on();
    node.others[0].hang();
    reports_go_on(&node, 4).await;
    nothing_was_harmed(&node, &running, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_gets_to_the_last_pacemaker_when_all_others_hang() {
    let (node, [_, ordinary]) = three().await;

    node.pacemaker.hang();
    node.others[0].hang();
    reports_go_on(&node, 4).await;

    assert_eq!(node.reaches(2, InstanceState::Running).await, ordinary);
    assert!(node.pacemaker.memory().longest_gap < 2 * TTL.duration());
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_pacemakers_return_nothing_moves() {
    let mut node = Node::new().await;
    node.start_process(None);
    let mut instances: Vec<_> = (1..=3).map(|id| node.server(id)).collect();
    instances.push(node.worker(4, "exec sleep 1000"));
    node.pacemaker.assign_instances(instances);
    let mut running = Vec::new();
    for id in 1..=4 {
        running.push(node.reaches(id, InstanceState::Running).await);
    }

    // Away, and the heart is killed and begins again, twice.
    node.pacemaker.go_away();
    for _ in 0..2 {
        node.kill();
        node.start_process(None);
        let adopted = || node.data().join("assignment.json").exists().then_some(());
        eventually("the assignment is kept", adopted, String::new).await;
    }
    node.pacemaker.memory().history.clear();
    node.pacemaker.come_back().await;
    reports_go_on(&node, 4).await;

    for running in &running {
        assert!(lives(running.pid.unwrap()));
        assert_eq!(
            node.pacemaker.history(running.id),
            std::slice::from_ref(running),
            "not for a moment did it look otherwise"
        );
    }
}
