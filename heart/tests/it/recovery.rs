//! A heart that was killed comes back: it adopts what lives and cleans up what does not.

use std::fs;

use common::assignment::{AssignedInstance, HeartReport};
use common::id::{Generation, InstanceId};
use common::instance::{InstanceGoal, InstanceState};
use common::time::Span;
use heart::CrashPoint;
use heart::crash_point;
use heart::shim::{ExitRecord, ProcessRecord};
use rustix::process::{Pid, Signal};

use crate::node::{Node, ask, eventually, lives, script};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_heart_finds_its_processes_again() {
    let mut node = Node::new().await;
    node.start_process(None);
    let instances: Vec<AssignedInstance> = (1..=3)
        .map(|id| node.server(id))
        .chain([node.worker(4, "exec sleep 1000")])
        .collect();
    node.pacemaker.assign_instances(instances);
    let mut before = Vec::new();
    for id in 1..=4 {
        before.push(node.reaches(id, InstanceState::Running).await);
    }

    node.kill();
    for running in &before {
        assert!(lives(running.pid.unwrap()));
    }
    assert!(ask(before[0].port.unwrap()).is_some());
    node.pacemaker.memory().history.clear();
    node.pacemaker.memory().report = HeartReport::default();
    node.start_process(None);

    let generation = Generation(2);
    let adopted = || (node.pacemaker.memory().report.incarnation != 0).then_some(());
    eventually("a report", adopted, String::new).await;
    for running in &before {
        let again = node.reaches(running.id.0, InstanceState::Running).await;
        assert_eq!(again, *running);
        // Not for a moment did it look otherwise, or routers would have been told.
        assert_eq!(node.pacemaker.history(running.id), [again]);
    }
    assert_eq!(node.pacemaker.memory().report.assignment, generation);

    node.pacemaker.assign_instances(Vec::new());
    for running in &before {
        node.is_rid_of(running.id.0).await;
        assert!(!lives(running.pid.unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heart_without_any_pacemaker_goes_on_with_what_it_knows() {
    let mut node = Node::new().await;
    node.start_process(None);
    node.pacemaker
        .assign_instances(vec![node.server(1), node.server(2)]);
    let first = node.reaches(1, InstanceState::Running).await;
    let second = node.reaches(2, InstanceState::Running).await;

    node.pacemaker.go_away();
    node.kill();
    kill(first.pid.unwrap());
    eventually(
        "its end",
        || (!lives(first.pid.unwrap())).then_some(()),
        String::new,
    )
    .await;
    node.start_process(None);

    let port = first.port.unwrap();
    let answer = eventually("it serves again", || ask(port), String::new).await;
    assert_ne!(answer, first.pid.unwrap().to_string());
    assert!(lives(second.pid.unwrap()));

    // It is restarted in place too, again and again.
    kill(answer.parse().unwrap());
    eventually(
        "another process",
        || ask(port).filter(|other| *other != answer),
        String::new,
    )
    .await;

    node.pacemaker.come_back().await;
    let counted = || {
        let found = node.pacemaker.instance(InstanceId(1))?;
        (found.state == InstanceState::Running && found.restarts >= 1).then_some(())
    };
    eventually("the report", counted, String::new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_while_no_heart_watched_is_told_and_started_again() {
    let mut node = Node::new().await;
    node.start_process(None);
    let worker = node.worker(
        1,
        "echo alive; while [ ! -e ../end ]; do sleep 0.01; done; exit 3",
    );
    node.pacemaker.assign_instances(vec![worker]);
    let running = node.reaches(1, InstanceState::Running).await;

    node.kill();
    fs::write(node.instance_directory(1).join("end"), "").unwrap();
    let run = node.instance_directory(1).join("run");
    let ended = || ExitRecord::read(&run).unwrap();
    eventually("its end", ended, String::new).await;
    fs::remove_file(node.instance_directory(1).join("end")).unwrap();
    node.start_process(None);

    let again = || {
        let found = node.pacemaker.instance(InstanceId(1))?;
        (found.state == InstanceState::Running && found.restarts == 1).then_some(found)
    };
    let again = eventually("a restart", again, String::new).await;
    assert_ne!(again.pid, running.pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_with_the_pid_is_neither_adopted_nor_signalled() {
    let mut node = Node::new().await;
    node.start_process(None);
    node.pacemaker
        .assign_instances(vec![node.worker(1, "exec sleep 1000")]);
    let running = node.reaches(1, InstanceState::Running).await;
    node.kill();
    let run = node.instance_directory(1).join("run");
    let record = ProcessRecord::read(&run).unwrap().unwrap();
    kill(record.shim.pid);
    eventually(
        "its end",
        || (!lives(running.pid.unwrap())).then_some(()),
        String::new,
    )
    .await;

    // Somebody else has both numbers today.
    let mut stranger = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let mut reused = record;
    reused.shim.pid = stranger.id();
    reused.application.pid = stranger.id();
    let text = serde_json::to_vec(&reused).unwrap();
    fs::write(run.join("process.json"), text).unwrap();
    node.start_process(None);

    let again = || {
        let found = node.pacemaker.instance(InstanceId(1))?;
        (found.state == InstanceState::Running && found.restarts == 1).then_some(found)
    };
    let again = eventually("a process of its own", again, String::new).await;
    assert_ne!(again.pid, Some(stranger.id()));
    assert!(stranger.try_wait().unwrap().is_none());
    node.pacemaker.assign_instances(Vec::new());
    node.is_rid_of(1).await;
    assert!(stranger.try_wait().unwrap().is_none());

    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heart_that_dies_at_any_step_ends_with_exactly_one_process() {
    for point in crash_point::ALL {
        let is_of_the_end = matches!(point, CrashPoint::AfterStop | CrashPoint::AfterRemove);
        let mut node = Node::new().await;
        let mut server = node.server(1);
        server.startup = vec![script(&["echo startup"])];
        if is_of_the_end {
            node.start_process(None);
            node.pacemaker.assign_instances(vec![server.clone()]);
            node.reaches(1, InstanceState::Running).await;
            node.kill();
            node.pacemaker.assign_instances(Vec::new());
        } else {
            node.pacemaker.assign_instances(vec![server.clone()]);
        }

        node.start_process(Some(point));
        let name = format!("the crash at {point:?}");
        while !node.has_died() {
            tokio::task::yield_now().await;
        }
        node.pacemaker.memory().report = HeartReport::default();
        node.start_process(None);

        if is_of_the_end {
            let rid = || {
                let has_reported = node.pacemaker.memory().report.incarnation != 0;
                let is_gone = !node.instance_directory(1).exists();
                (has_reported && is_gone).then_some(())
            };
            eventually(&name, rid, String::new).await;
            node.is_rid_of(1).await;
        } else {
            let running = node.reaches(1, InstanceState::Running).await;
            assert_eq!(
                processes_in(&node.instance_directory(1).join("code")),
                [running.pid.unwrap()],
                "{name}"
            );
            assert_eq!(
                ask(running.port.unwrap()),
                Some(running.pid.unwrap().to_string())
            );
            assert!(!node.instance_directory(1).join("code.partial").exists());
        }
        let partial = fs::read_dir(node.data().join("packages/partial")).unwrap();
        assert_eq!(partial.count(), 0, "{name}");
        node.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heart_without_assignment_keeps_its_processes_until_it_hears_one() {
    let mut node = Node::started().await;
    let command = "exec sleep 1000";
    let workers = [node.worker(1, command), node.worker(2, command)];
    node.pacemaker.assign_instances(workers.to_vec());
    let first = node.reaches(1, InstanceState::Running).await;
    let second = node.reaches(2, InstanceState::Running).await;
    node.stop().await;
    node.pacemaker.go_away();
    fs::write(node.data().join("assignment.json"), "broken").unwrap();
    // The second has not passed its start check, as far as the disk says.
    fs::remove_file(node.instance_directory(2).join("run/passed")).unwrap();
    node.pacemaker.memory().report = HeartReport::default();

    node.start().await;
    for running in [&first, &second] {
        assert!(lives(running.pid.unwrap()));
    }
    node.pacemaker.come_back().await;

    assert_eq!(node.reaches(1, InstanceState::Running).await, first);
    assert_eq!(node.reaches(2, InstanceState::Running).await, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assignment_that_the_disk_did_not_take_is_stored_later() {
    let node = Node::started().await;
    let obstacle = node.data().join("assignment.partial");
    // The name is taken for a moment while the first assignment is stored.
    let placed = || fs::create_dir(&obstacle).ok();
    eventually("the obstacle is in place", placed, String::new).await;
    node.pacemaker
        .assign_instances(vec![node.worker(1, "exec sleep 1000")]);
    node.reaches(1, InstanceState::Running).await;

    fs::remove_dir(&obstacle).unwrap();

    let stored = || {
        let text = fs::read_to_string(node.data().join("assignment.json")).ok()?;
        text.contains("\"instances\":[{").then_some(())
    };
    eventually("it is on disk", stored, String::new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn debris_is_removed() {
    let mut node = Node::new().await;
    let data = node.data();
    for path in [
        "instances/77/code",
        "instances/odd",
        "builds/5/code",
        "packages/partial/x.tree",
    ] {
        fs::create_dir_all(data.join(path)).unwrap();
    }

    node.start().await;

    for path in [
        "instances/77",
        "instances/odd",
        "builds/5",
        "packages/partial/x.tree",
    ] {
        assert!(!data.join(path).exists(), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_the_journal_does_not_know_is_ended() {
    let mut node = Node::started().await;
    node.pacemaker
        .assign_instances(vec![node.worker(1, "exec sleep 1000")]);
    let running = node.reaches(1, InstanceState::Running).await;
    node.stop().await;
    assert!(lives(running.pid.unwrap()));
    fs::remove_file(node.data().join("journal.redb")).unwrap();
    node.pacemaker.assign_instances(Vec::new());

    node.start().await;

    assert!(!lives(running.pid.unwrap()));
    node.is_rid_of(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_assignment_is_not_obeyed() {
    let node = Node::started().await;
    node.pacemaker.assign_instances(vec![node.server(1)]);
    let running = node.reaches(1, InstanceState::Running).await;

    // A leader that was replaced long ago speaks up with a high generation.
    node.pacemaker.assign(|assignment| {
        assignment.term = 0;
        assignment.instances.clear();
    });
    let generation = node.pacemaker.assign(|assignment| {
        assignment.term = 1;
        assignment.instances = vec![node.server(1), node.server(2)];
    });
    node.reaches(2, InstanceState::Running).await;

    assert_eq!(node.pacemaker.memory().report.assignment, generation);
    assert_eq!(node.reaches(1, InstanceState::Running).await, running);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_heart_on_the_same_directory_is_refused() {
    let node = Node::started().await;

    let second = heart::start(node.config(), tokio_util::sync::CancellationToken::new()).await;

    assert!(matches!(second, Err(heart::Error::InUse(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exclusive_instance_is_stopped_when_the_node_is_cut_off() {
    let mut node = Node::new().await;
    node.fence_exclusive = true;
    node.start().await;
    let mut exclusive = node.worker(1, "exec sleep 1000");
    exclusive.exclusive = true;
    exclusive.stop.grace = Span::seconds(30);
    node.pacemaker
        .assign_instances(vec![exclusive, node.worker(2, "exec sleep 1000")]);
    let exclusive = node.reaches(1, InstanceState::Running).await;
    let other = node.reaches(2, InstanceState::Running).await;

    node.pacemaker.go_away();
    let pid = exclusive.pid.unwrap();
    eventually("its end", || (!lives(pid)).then_some(()), String::new).await;
    assert!(lives(other.pid.unwrap()));

    node.pacemaker.come_back().await;
    let again = || {
        let found = node.pacemaker.instance(InstanceId(1))?;
        (found.state == InstanceState::Running && found.pid != exclusive.pid).then_some(found)
    };
    let again = eventually("it runs again", again, String::new).await;
    assert_eq!(again.restarts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_node_never_stops_its_exclusive_instances() {
    let mut node = Node::new().await;
    node.fence_exclusive = false;
    node.start().await;
    let mut exclusive = node.worker(1, "exec sleep 1000");
    exclusive.exclusive = true;
    node.pacemaker.assign_instances(vec![exclusive]);
    let running = node.reaches(1, InstanceState::Running).await;

    node.pacemaker.go_away();
    // Three times the TTL of one second.
    let begin = std::time::Instant::now();
    eventually(
        "time",
        || (begin.elapsed().as_secs() >= 3).then_some(()),
        String::new,
    )
    .await;

    assert!(lives(running.pid.unwrap()));
    node.pacemaker.come_back().await;
    assert_eq!(node.reaches(1, InstanceState::Running).await, running);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_was_being_stopped_stays_stopped() {
    let mut node = Node::new().await;
    node.start_process(None);
    let script = "trap '' TERM; while :; do sleep 0.01; done";
    let mut worker = node.worker(1, script);
    worker.stop.grace = Span(500);
    node.pacemaker.assign_instances(vec![worker.clone()]);
    node.reaches(1, InstanceState::Running).await;
    worker.goal = InstanceGoal::Registered;
    node.pacemaker.assign_instances(vec![worker]);
    node.reaches(1, InstanceState::Stopping).await;

    node.kill();
    node.start_process(None);

    let stopped = node.reaches(1, InstanceState::Stopped).await;
    assert_eq!((stopped.failure, stopped.restarts), (None, 0));
}

/// The processes whose working directory is `directory`.
fn processes_in(directory: &std::path::Path) -> Vec<u32> {
    let mut found: Vec<u32> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == directory))
        .collect();
    found.sort_unstable();
    found
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
}
