//! Builds: prepare commands turn a source into a package.

use std::collections::BTreeMap;
use std::fs;

use common::assignment::{AssignedBuild, BuildState, PackageReference};
use common::id::JobId;
use common::instance::{Failure, FailureCode, InstanceState};
use common::time::Span;

use crate::node::{Node, eventually, instance, lives, script, subject};

#[tokio::test(flavor = "multi_thread")]
async fn a_build_turns_a_source_into_a_package_that_runs() {
    let node = Node::started().await;
    let build = build(
        &node,
        &[
            "echo out",
            "echo err >&2",
            "echo foo > prepare.txt",
            "echo $PM_METADATA",
        ],
    );

    node.pacemaker.assign_builds(vec![build]);
    let package = succeeds(&node, 3).await;

    let log = String::from_utf8(node.pacemaker.memory().logs[&JobId(3)].clone()).unwrap();
    assert!(log.starts_with("out\nerr\n{\"application\""), "{log}");
    assert!(!node.data().join("builds/3").exists());

    let mut worker = instance(1, package, "sh -c \"cat prepare.txt; exec sleep 1000\"");
    worker.standalone = true;
    worker.standalone_wait = Span(50);
    node.pacemaker.assign_instances(vec![worker]);
    node.reaches(1, InstanceState::Running).await;
    let code = node.instance_directory(1).join("code");
    assert_eq!(
        fs::read_to_string(code.join("prepare.txt")).unwrap(),
        "foo\n"
    );
    assert_eq!(
        fs::read_to_string(code.join("source.txt")).unwrap(),
        "source"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_whose_directory_cannot_be_removed_succeeds() {
    let node = Node::started().await;
    // A mount point cannot be removed; ending the test unmounts it.
    let mount = Unmounted(node.data().join("builds/3/code/.git"));
    let command = "mkdir .git && { mount -t tmpfs tmpfs .git || touch no-mounts; }";
    let build = build(&node, &[command]);

    node.pacemaker.assign_builds(vec![build]);
    succeeds(&node, 3).await;

    if !mount.0.exists() {
        eprintln!("SKIPPED: nothing can be mounted by this user");
    }
}

/// A mount point that is unmounted in the end, if there is one.
struct Unmounted(std::path::PathBuf);

impl Drop for Unmounted {
    fn drop(&mut self) {
        let status = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .stderr(std::process::Stdio::null())
            .status();
        if status.is_err() {
            eprintln!("there is no umount");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_builds_give_equal_packages() {
    let node = Node::started().await;
    let first = build(&node, &["echo foo > prepare.txt"]);
    let mut second = first.clone();
    second.job = JobId(4);
    node.pacemaker.assign_builds(vec![first, second]);

    assert_eq!(succeeds(&node, 3).await, succeeds(&node, 4).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_prepare_command_says_why_and_leaves_nothing() {
    let node = Node::started().await;
    let build = build(&node, &["echo compiling", "exit 3", "echo never"]);

    node.pacemaker.assign_builds(vec![build]);
    let failure = fails(&node, 3).await;

    assert_eq!(failure.code, FailureCode::PrepareFailed);
    assert_eq!(failure.message, "the script exited with code 3");
    assert_eq!(failure.output_tail, "compiling\n");
    assert!(!node.data().join("builds/3").exists());

    node.pacemaker.assign_builds(Vec::new());
    let forgotten = || node.pacemaker.build(JobId(3)).is_none().then_some(());
    eventually("the build is forgotten", forgotten, String::new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_takes_too_long_is_killed() {
    let node = Node::started().await;
    let mut build = build(&node, &["echo $$", "sleep 1000"]);
    build.timeout = Span(300);

    node.pacemaker.assign_builds(vec![build]);
    let failure = fails(&node, 3).await;

    assert_eq!(failure.code, FailureCode::PrepareFailed);
    assert!(failure.message.contains("longer than 300ms"), "{failure:?}");
    assert!(!lives(failure.output_tail.trim().parse().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_is_no_longer_wanted_is_killed() {
    let node = Node::started().await;
    let mark = node.directory.path().join("pid");
    let command = format!("echo $$ > {}", mark.display());
    node.pacemaker
        .assign_builds(vec![build(&node, &[&command, "sleep 1000"])]);
    let pid = || fs::read_to_string(&mark).ok()?.trim().parse().ok();
    let pid: u32 = eventually("the build runs", pid, String::new).await;

    node.pacemaker.assign_builds(Vec::new());
    let forgotten = || node.pacemaker.build(JobId(3)).is_none().then_some(());
    eventually("the build is forgotten", forgotten, String::new).await;

    assert!(!lives(pid));
    assert!(!node.data().join("builds/3").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn much_output_arrives_whole_and_in_order() {
    let node = Node::started().await;
    let build = build(&node, &["seq 1 200000"]);
    node.pacemaker.assign_builds(vec![build]);

    succeeds(&node, 3).await;

    let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    let log = node.pacemaker.memory().logs[&JobId(3)].clone();
    assert!(
        log == expected.as_bytes(),
        "{} of {}",
        log.len(),
        expected.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_goes_on_after_the_heart_was_killed() {
    let mut node = Node::new().await;
    node.start_process(None);
    let mark = node.directory.path().join("pid");
    let gate = node.directory.path().join("gate");
    let commands = [
        format!("echo $$ >> {}", mark.display()),
        format!("while [ ! -e {} ]; do sleep 0.01; done", gate.display()),
        "echo foo > prepare.txt".to_owned(),
    ];
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    node.pacemaker.assign_builds(vec![build(&node, &commands)]);
    let begun = |count| {
        let text = fs::read_to_string(&mark).ok()?;
        let pids: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
        (pids.len() == count).then(|| pids[count - 1])
    };
    let first = eventually("the build runs", || begun(1), String::new).await;

    node.kill();
    node.start_process(None);
    eventually("it runs again", || begun(2), String::new).await;
    assert!(!lives(first));
    fs::write(gate, "").unwrap();

    succeeds(&node, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_of_a_source_that_is_not_there_fails() {
    let node = Node::started().await;
    let mut build = build(&node, &["true"]);
    build.source = PackageReference {
        digest: common::digest::Digest::of(b"absent"),
        size: 6,
    };
    node.pacemaker.assign_builds(vec![build]);

    assert_eq!(fails(&node, 3).await.code, FailureCode::FetchFailed);
}

fn build(node: &Node, commands: &[&str]) -> AssignedBuild {
    AssignedBuild {
        job: JobId(3),
        subject: subject(),
        source: node.package(&[("source.txt", "source")]),
        runtime: None,
        scripts: vec![script(commands)],
        env: BTreeMap::new(),
        services: BTreeMap::new(),
        timeout: Span::seconds(60),
    }
}

async fn ends(node: &Node, job: u64) -> BuildState {
    let ended = || {
        let state = node.pacemaker.build(JobId(job))?;
        (state != BuildState::Running).then_some(state)
    };
    eventually("the build ends", ended, || {
        format!("{:?}", node.pacemaker.memory().logs)
    })
    .await
}

async fn succeeds(node: &Node, job: u64) -> PackageReference {
    match ends(node, job).await {
        BuildState::Succeeded { package } => package,
        other => panic!("{other:?}"),
    }
}

async fn fails(node: &Node, job: u64) -> Failure {
    match ends(node, job).await {
        BuildState::Failed { failure } => failure,
        other => panic!("{other:?}"),
    }
}
