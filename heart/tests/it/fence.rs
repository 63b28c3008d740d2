//! What a heart refuses, and what ends without it (H7 and H8 of the fault list).

use std::fs;
use std::time::{Duration, Instant};

use common::assignment::{AssignedInstance, InstanceReport};
use common::instance::InstanceState;
use common::time::Span;
use heart::shim::{ExitRecord, ProcessRecord};
use rustix::process::{Pid, Signal};

use crate::node::{Node, eventually, lives};

/// A node whose heart is a process of its own and fences, with an exclusive instance 1 and an
/// ordinary one 2 that run.
async fn fenced(ttl: Span) -> (Node, InstanceReport, InstanceReport) {
    let mut node = Node::new().await;
    (node.fence_exclusive, node.node_ttl) = (true, ttl);
    node.start_process(None);
    node.pacemaker
        .assign_instances(vec![exclusive(&node, 1), node.server(2)]);
    let first = node.reaches(1, InstanceState::Running).await;
    let second = node.reaches(2, InstanceState::Running).await;
    (node, first, second)
}

fn exclusive(node: &Node, id: u64) -> AssignedInstance {
    let mut server = node.server(id);
    server.exclusive = true;
    server
}

async fn ends(running: &InstanceReport) {
    let pid = running.pid.unwrap();
    let ended = || (!lives(pid)).then_some(());
    eventually("its end", ended, || format!("{running:?}")).await;
}

/// Waits until the heart has been given so many more assignments, all of which it has judged by
/// then but the last.
async fn asks_again(node: &Node, times: usize) {
    let before = node.pacemaker.memory().assignments;
    let asked = || (node.pacemaker.memory().assignments >= before + times).then_some(());
    eventually("the heart asks again", asked, String::new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_term_is_refused_by_the_next_heart_too() {
    let mut node = Node::new().await;
    node.start_process(None);
    let server = node.server(1);
    node.pacemaker.assign(|assignment| {
        assignment.term = 5;
        assignment.instances = vec![server.clone()];
    });
    let running = node.reaches(1, InstanceState::Running).await;
    // A new leader that changes nothing has been heard too.
    node.pacemaker.assign(|assignment| {
        assignment.term = 7;
        assignment.generation.0 -= 1;
    });
    node.kill();
    node.start_process(None);
    let heard = || {
        let stored = fs::read_to_string(node.data().join("assignment.json")).unwrap();
        stored.contains("\"term\":7").then_some(())
    };
    eventually("the term is on disk", heard, String::new).await;
    node.kill();

    node.pacemaker.assign(|assignment| {
        assignment.term = 6;
        assignment.instances = Vec::new();
    });
    node.start_process(None);
    asks_again(&node, 3).await;
    assert_eq!(node.reaches(1, InstanceState::Running).await, running);

    node.pacemaker.assign(|assignment| assignment.term = 7);
    node.is_rid_of(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_clusters_assignment_is_refused_whatever_its_generation() {
    let node = Node::started().await;
    let server = node.server(1);
    node.pacemaker.assign(|assignment| {
        assignment.cluster = "ours".to_owned();
        assignment.instances = vec![server.clone()];
    });
    let running = node.reaches(1, InstanceState::Running).await;
    let told = || (node.pacemaker.memory().cluster == "ours").then_some(());
    eventually("the report says whose the node is", told, String::new).await;

    node.pacemaker.assign(|assignment| {
        assignment.cluster = "theirs".to_owned();
        assignment.instances = Vec::new();
    });
    asks_again(&node, 3).await;
    assert_eq!(node.reaches(1, InstanceState::Running).await, running);

    node.pacemaker
        .assign(|assignment| assignment.cluster = "ours".to_owned());
    node.is_rid_of(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exclusive_instance_ends_by_itself_when_its_heart_is_dead() {
    let (mut node, first, second) = fenced(Span::seconds(1)).await;

    node.kill();
    ends(&first).await;

    let run = node.instance_directory(1).join("run");
    let record = || ExitRecord::read(&run).unwrap();
    let record = eventually("the record", record, String::new).await;
    assert!(record.cut_off && record.stop_requested, "{record:?}");
    assert!(lives(second.pid.unwrap()), "only the exclusive one ends");

    node.start_process(None);
    let again = || {
        let found = node.pacemaker.instance(first.id)?;
        (found.state == InstanceState::Running && found.pid != first.pid).then_some(found)
    };
    let again = eventually("it runs again", again, String::new).await;
    assert_eq!(again.restarts, 0, "it did not crash");
    assert_eq!(node.reaches(2, InstanceState::Running).await, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exclusive_instance_ends_by_itself_when_its_heart_is_stopped() {
    let (node, first, second) = fenced(Span::seconds(1)).await;

    node.signal(Signal::STOP);
    ends(&first).await;
    assert!(lives(second.pid.unwrap()));
    node.signal(Signal::CONT);

    let again = || {
        let found = node.pacemaker.instance(first.id)?;
        (found.state == InstanceState::Running && found.pid != first.pid).then_some(found)
    };
    let again = eventually("it runs again", again, String::new).await;
    assert_eq!(again.restarts, 0, "it did not crash");
    let history = node.pacemaker.history(first.id);
    assert!(
        history
            .iter()
            .all(|seen| seen.state != InstanceState::Failed),
        "{history:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exclusive_instance_that_ignores_the_stop_is_killed_long_before_its_grace_is_over() {
    let mut node = Node::new().await;
    node.fence_exclusive = true;
    node.start_process(None);
    let mut stubborn = node.worker(1, "trap '' TERM; while :; do sleep 1; done");
    stubborn.exclusive = true;
    stubborn.stop.grace = Span::seconds(600);
    node.pacemaker.assign_instances(vec![stubborn]);
    let running = node.reaches(1, InstanceState::Running).await;

    let begun = Instant::now();
    node.kill();
    ends(&running).await;

    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exclusive_instance_of_a_machine_that_was_paused_is_killed_at_once_when_it_goes_on() {
    let mut node = Node::new().await;
    node.fence_exclusive = true;
    node.start_process(None);
    let mut stubborn = node.worker(1, "trap '' TERM; while :; do echo alive; sleep 0.05; done");
    stubborn.exclusive = true;
    stubborn.stop.grace = Span::seconds(600);
    node.pacemaker.assign_instances(vec![stubborn]);
    let running = node.reaches(1, InstanceState::Running).await;
    let run = node.instance_directory(1).join("run");
    let shim = ProcessRecord::read(&run).unwrap().unwrap().shim.pid;

    // Heart, shim and application stand still until lease and grace are long over.
    for pid in [shim, running.pid.unwrap()] {
        signal(pid, Signal::STOP);
    }
    node.signal(Signal::STOP);
    let mut pause = tokio::time::interval(Duration::from_millis(3000));
    pause.tick().await;
    pause.tick().await;
    let log = node.instance_directory(1).join("log");
    let before = heart::shim::log::length(&log).unwrap();
    for pid in [shim, running.pid.unwrap()] {
        signal(pid, Signal::CONT);
    }
    ends(&running).await;

    // In the second of grace that it would have otherwise, it would write twenty lines.
    let words = heart::shim::log::length(&log).unwrap() - before;
    assert!(words <= 8 * 6, "{words} bytes");
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pacemaker_that_has_no_leader_keeps_no_exclusive_instance_running() {
    let (node, first, second) = fenced(Span::seconds(1)).await;

    // Its watches are answered all the time.
    node.pacemaker.memory().is_leaderless = true;
    ends(&first).await;
    let before = node.pacemaker.memory().assignments;
    let worker = node.worker(3, "exec sleep 1000");
    node.pacemaker
        .assign(|assignment| assignment.instances.push(worker));
    let given = || (node.pacemaker.memory().assignments > before).then_some(());
    eventually("an assignment is given", given, String::new).await;
    let directory = node.instance_directory(3).join("run/process.json");
    let runs = || directory.exists().then_some(());
    eventually("what is not exclusive runs", runs, String::new).await;
    let run = node.instance_directory(1).join("run");
    assert!(ExitRecord::read(&run).unwrap().is_some(), "it stays ended");

    node.pacemaker.memory().is_leaderless = false;
    let again = || {
        let found = node.pacemaker.instance(first.id)?;
        (found.state == InstanceState::Running && found.pid != first.pid).then_some(found)
    };
    eventually("it runs again", again, String::new).await;
    assert_eq!(node.reaches(2, InstanceState::Running).await, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ttl_is_what_the_cluster_says() {
    // By what it was told, this heart would let exclusive instances run for ten minutes.
    let (mut node, first, second) = fenced(Span::seconds(600)).await;
    let generation = node
        .pacemaker
        .assign(|assignment| assignment.node_ttl = Span::seconds(1));
    let obeyed = || (node.pacemaker.memory().report.assignment == generation).then_some(());
    eventually("it is obeyed", obeyed, String::new).await;
    node.kill();
    // An earlier lease is as long as it was; the next heart keeps no longer one than it is told of.
    fs::remove_file(node.data().join("lease")).unwrap();
    node.start_process(None);
    node.pacemaker.memory().reports = 0;
    let reported = || (node.pacemaker.memory().reports > 2).then_some(());
    eventually("reports", reported, String::new).await;
    assert_eq!(node.reaches(2, InstanceState::Running).await, second);

    node.pacemaker.go_away();
    ends(&first).await;

    assert!(lives(second.pid.unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_shorter_than_the_ttl_harms_nothing() {
    let (node, first, second) = fenced(Span::seconds(20)).await;
    let reports = || node.pacemaker.memory().reports;

    for _ in 0..3 {
        let before = reports();
        node.signal(Signal::STOP);
        let mut pause = tokio::time::interval(Duration::from_millis(700));
        pause.tick().await;
        pause.tick().await;
        node.signal(Signal::CONT);
        let reported = || (reports() > before + 1).then_some(());
        eventually("reports", reported, String::new).await;
    }

    assert_eq!(node.reaches(1, InstanceState::Running).await, first);
    assert_eq!(node.reaches(2, InstanceState::Running).await, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exclusive_instance_of_the_only_node_outlives_its_heart() {
    let mut node = Node::new().await;
    node.start_process(None);
    node.pacemaker.assign_instances(vec![exclusive(&node, 1)]);
    let running = node.reaches(1, InstanceState::Running).await;

    node.kill();
    let mut pause = tokio::time::interval(Duration::from_millis(2500));
    pause.tick().await;
    pause.tick().await;

    assert!(lives(running.pid.unwrap()));
    assert!(!node.data().join("lease").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_costs_a_shim_no_memory_worth_mentioning() {
    let (node, first, second) = fenced(Span::seconds(1)).await;
    // Several leases long: the shim has woken up and looked.
    let before = node.pacemaker.memory().reports;
    let reported = || (node.pacemaker.memory().reports > before + 10).then_some(());
    eventually("reports", reported, String::new).await;

    let own = |running: &InstanceReport| {
        let run = node.instance_directory(running.id.0).join("run");
        let shim = ProcessRecord::read(&run).unwrap().unwrap().shim.pid;
        private_kibibytes(shim)
    };
    let (with, without) = (own(&first), own(&second));

    assert!(
        with <= without + 64,
        "{with} KiB with a lease, {without} KiB without"
    );
}

/// The memory that a process shares with nobody.
fn private_kibibytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    text.lines()
        .filter(|line| line.starts_with("Private_"))
        .filter_map(|line| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_removed_stops_what_it_runs_and_never_starts_it_again() {
    let mut node = Node::new().await;
    node.start_process(None);
    node.pacemaker
        .assign_instances(vec![node.server(1), node.server(2)]);
    let first = node.reaches(1, InstanceState::Running).await;
    let second = node.reaches(2, InstanceState::Running).await;

    node.pacemaker.remove_node(true);

    ends(&first).await;
    ends(&second).await;
    for id in [1, 2] {
        let directory = node.instance_directory(id);
        let is_gone = || (!directory.exists()).then_some(());
        eventually("nothing of it is left", is_gone, String::new).await;
    }
    let stored = fs::read_to_string(node.data().join("assignment.json")).unwrap();
    assert!(stored.contains("\"instances\":[]"), "{stored}");
    // Neither does the next heart begin with it.
    node.kill();
    let before = node.pacemaker.memory().removals_said;
    node.start_process(None);
    let is_up = || (node.pacemaker.memory().removals_said > before).then_some(());
    eventually("the next heart asks", is_up, String::new).await;
    node.is_rid_of(1).await;
    node.is_rid_of(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_answer_that_the_node_was_removed_ends_nothing() {
    let mut node = Node::new().await;
    node.start_process(None);
    node.pacemaker.assign_instances(vec![node.server(1)]);
    let running = node.reaches(1, InstanceState::Running).await;

    node.pacemaker.remove_node(true);
    let said = || (node.pacemaker.memory().removals_said >= 2).then_some(());
    eventually("it is said", said, String::new).await;
    node.pacemaker.remove_node(false);
    asks_again(&node, 1).await;

    // Longer than a removal that is said again and again is doubted.
    let since = Instant::now();
    let is_over = || (since.elapsed() > Duration::from_secs(4)).then_some(());
    eventually("some time has passed", is_over, String::new).await;
    assert_eq!(node.reaches(1, InstanceState::Running).await, running);
}
