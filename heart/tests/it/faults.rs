//! What goes wrong on a real machine, case by case (H3, H5, H6, H12, P3 of the fault list).

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use common::assignment::PackageReference;
use common::digest::Digest;
use common::id::InstanceId;
use common::instance::{FailureCode, InstanceGoal, InstanceState};
use common::time::Span;

use crate::node::{Node, ask, eventually, lives, pack};

#[tokio::test(flavor = "multi_thread")]
async fn crash_loops_do_not_disturb_their_neighbours() {
    let node = Node::started().await;
    let good: Vec<u64> = (1..=10).collect();
    let bad: Vec<u64> = (11..=20).collect();
    let servers = good.iter().map(|id| node.server(*id));
    let loops = bad.iter().map(|id| node.worker(*id, "exit 1"));
    node.pacemaker
        .assign_instances(servers.chain(loops).collect());
    let mut before = Vec::new();
    for id in &good {
        before.push(node.reaches(*id, InstanceState::Running).await);
    }

    for id in &bad {
        let third = || {
            let found = node.pacemaker.instance(InstanceId(*id))?;
            (found.restarts >= 3).then_some(())
        };
        eventually("a third restart", third, || {
            format!("{:?}", node.pacemaker.history(InstanceId(*id)))
        })
        .await;
    }

    for running in before {
        assert_eq!(
            node.reaches(running.id.0, InstanceState::Running).await,
            running
        );
        assert_eq!(
            ask(running.port.unwrap()),
            Some(running.pid.unwrap().to_string())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_squatter_on_the_port_costs_another_port_and_is_never_taken_for_the_instance() {
    let node = Node::started().await;
    let mut server = node.server(1);
    server.goal = InstanceGoal::Registered;
    // The instance gets its port, a stranger takes it before the process does.
    let gate = node.directory.path().join("gate");
    let mark = node.directory.path().join("mark");
    server.goal = InstanceGoal::Running;
    server.startup = vec![crate::node::script(&[
        &format!("echo $PM_PORT > {}", mark.display()),
        &format!("while [ ! -e {} ]; do sleep 0.01; done", gate.display()),
    ])];
    node.pacemaker.assign_instances(vec![server]);
    let port = || fs::read_to_string(&mark).ok()?.trim().parse().ok();
    let port: u16 = eventually("a port", port, String::new).await;
    let squatter = TcpListener::bind(("127.0.0.1", port)).unwrap();
    fs::write(gate, "").unwrap();

    let running = node.reaches(1, InstanceState::Running).await;

    assert_ne!(running.port, Some(port));
    assert_eq!(
        ask(running.port.unwrap()),
        Some(running.pid.unwrap().to_string())
    );
    let history = node.pacemaker.history(InstanceId(1));
    assert!(
        history.iter().all(|seen| seen.failure.is_none()),
        "{history:?}"
    );
    drop(squatter);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_a_stranger_listens_on_is_passed_over() {
    let node = Node::new().await;
    let squatter = TcpListener::bind(("0.0.0.0", *node.ports.start())).unwrap();
    let mut node = node;
    node.start().await;
    node.pacemaker.assign_instances(vec![node.server(1)]);

    let running = node.reaches(1, InstanceState::Running).await;

    assert_eq!(running.port, Some(node.ports.start() + 1));
    drop(squatter);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exhausted_range_is_a_failure_that_ends_when_a_port_is_free() {
    let mut node = Node::new().await;
    let first = *node.ports.start();
    node.ports = first..=first + 1;
    node.start().await;
    let servers: Vec<_> = (1..=3).map(|id| node.server(id)).collect();
    node.pacemaker.assign_instances(servers[..2].to_vec());
    node.reaches(1, InstanceState::Running).await;
    node.reaches(2, InstanceState::Running).await;

    node.pacemaker.assign_instances(servers.clone());
    let failed = node.fails(3, FailureCode::NoPort).await;
    assert!(failed.failure.unwrap().message.contains(&first.to_string()));

    node.pacemaker.assign_instances(servers[1..].to_vec());
    node.reaches(3, InstanceState::Running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_is_not_given_to_another_while_its_old_process_lives() {
    let mut node = Node::new().await;
    let first = *node.ports.start();
    node.ports = first..=first;
    node.start().await;
    // Its process ignores the stop signal and holds the port until it is killed.
    let mut stubborn = node.server(1);
    let common::application::Program::Command { launch_command } = &mut stubborn.runtime.program
    else {
        panic!("a command");
    };
    *launch_command = format!("sh -c \"trap '' TERM; {launch_command} & wait\"");
    stubborn.stop.grace = Span(500);
    node.pacemaker.assign_instances(vec![stubborn]);
    let old = node.reaches(1, InstanceState::Running).await;

    let begin = Instant::now();
    node.pacemaker.assign_instances(vec![node.server(2)]);
    let new = node.reaches(2, InstanceState::Running).await;

    assert_eq!(new.port, old.port);
    assert!(begin.elapsed() >= Duration::from_millis(500));
    assert!(!lives(old.pid.unwrap()));
    assert_eq!(ask(first), Some(new.pid.unwrap().to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_package_is_never_laid_out_and_the_old_version_runs_on() {
    let node = Node::started().await;
    node.pacemaker.assign_instances(vec![node.server(1)]);
    let old = node.reaches(1, InstanceState::Running).await;
    let good = pack(&[("code.txt", "code"), ("more.txt", &"x".repeat(10_000))]);
    let reference = PackageReference {
        digest: Digest::of(&good),
        size: good.len() as u64,
    };

    let mut id = 2;
    for step in 0..10 {
        let place = step * good.len() / 10;
        let mut flipped = good.clone();
        flipped[place] ^= 0x40;
        let truncated = good[..place].to_vec();
        let lengthened = [&good[..], b"more"].concat();
        for damaged in [flipped, truncated, lengthened] {
            let mut server = node.server(id);
            server.package = reference.clone();
            node.pacemaker
                .memory()
                .packages
                .insert(reference.digest.clone(), damaged.into());
            node.pacemaker
                .assign_instances(vec![node.server(1), server]);
            let failed = node.fails(id, FailureCode::PackageDamaged).await;
            let message = failed.failure.unwrap().message;
            assert!(message.contains(reference.digest.as_str()), "{message}");
            assert!(!node.instance_directory(id).join("code").exists());
            id += 1;
        }
    }

    assert_eq!(node.reaches(1, InstanceState::Running).await, old);
    node.pacemaker
        .memory()
        .packages
        .insert(reference.digest.clone(), good.into());
    let mut server = node.server(id);
    server.package = reference;
    node.pacemaker
        .assign_instances(vec![node.server(1), server]);
    node.reaches(id, InstanceState::Running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_breaks_off_goes_on_where_it_was() {
    let node = Node::started().await;
    let mut server = node.server(1);
    server.package = node.package(&[("big.txt", &random_text(300_000))]);
    let half = usize::try_from(server.package.size / 2).unwrap();
    node.pacemaker.memory().break_downloads_after = Some(half);
    let digest = server.package.digest.clone();
    node.pacemaker.assign_instances(vec![server]);

    node.reaches(1, InstanceState::Running).await;

    assert_eq!(node.pacemaker.memory().downloads[&digest], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_leads_out_is_refused() {
    let node = Node::started().await;
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..11].copy_from_slice(b"../evil.txt");
    header.set_size(4);
    header.set_mode(0o644);
    header.set_cksum();
    builder.append(&header, &b"evil"[..]).unwrap();
    let mut server = node.server(1);
    server.package = node.pacemaker.store(builder.into_inner().unwrap());
    node.pacemaker.assign_instances(vec![server]);

    node.fails(1, FailureCode::PackageRefused).await;

    let packages = fs::read_dir(node.data().join("packages")).unwrap();
    assert_eq!(packages.count(), 1, "only the directory of partial ones");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_what_was_begun_is_removed() {
    let node = Node::started().await;
    node.pacemaker.assign_instances(vec![node.server(1)]);
    let old = node.reaches(1, InstanceState::Running).await;
    // Where the package is unpacked there is room for half of it.
    let partial = node.data().join("packages/partial");
    let _small = SmallDisk::mount(&partial, 256);
    let mut server = node.server(2);
    server.package = node.package(&[("zeros.txt", &"0".repeat(500_000))]);
    node.pacemaker
        .assign_instances(vec![node.server(1), server]);

    let failed = node.fails(2, FailureCode::Disk).await;

    let message = failed.failure.unwrap().message;
    assert!(message.contains("no space is left"), "{message}");
    let trees = fs::read_dir(&partial)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().is_dir());
    assert_eq!(trees.count(), 0);
    assert_eq!(node.reaches(1, InstanceState::Running).await, old);
    node.pacemaker.assign_instances(vec![node.server(1)]);
    node.is_rid_of(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_that_nothing_needs_are_removed_in_the_end() {
    let node = Node::started().await;
    for id in 1..=20 {
        let mut worker = node.worker(id, "exec sleep 1000");
        worker.goal = InstanceGoal::Registered;
        worker.package = node.package(&[("code.txt", &format!("version {id}"))]);
        node.pacemaker.assign_instances(vec![worker]);
        node.reaches(id, InstanceState::Registered).await;
    }
    let kept = || {
        let packages = fs::read_dir(node.data().join("packages")).unwrap();
        // The needed one, 16 others, and the directory of partial ones.
        let count = packages.count();
        (count == 18).then_some(())
    };
    eventually("the oldest are gone", kept, String::new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cycles_of_start_and_stop_leak_nothing() {
    const CYCLES: u64 = 1000;
    const AT_ONCE: u64 = 25;
    let node = Node::started().await;
    let keeper = node.worker(1, "exec sleep 1000");
    node.pacemaker.assign_instances(vec![keeper.clone()]);
    node.reaches(1, InstanceState::Running).await;
    let batch = async |from: u64| {
        let mut instances = vec![keeper.clone()];
        for id in from..from + AT_ONCE {
            let mut worker = node.worker(id, "exec sleep 1000");
            worker.standalone_wait = Span(1);
            // Half of them have a port.
            if id % 2 == 0 {
                worker = node.server(id);
            }
            instances.push(worker);
        }
        node.pacemaker.assign_instances(instances);
        for id in from..from + AT_ONCE {
            node.reaches(id, InstanceState::Running).await;
        }
        node.pacemaker.assign_instances(vec![keeper.clone()]);
        for id in from..from + AT_ONCE {
            node.is_rid_of(id).await;
        }
    };
    batch(10).await;
    let before = Held::now();

    for round in 0..CYCLES / AT_ONCE {
        batch(1000 + round * AT_ONCE).await;
    }

    eventually(
        "back to what it was",
        || Held::now().is_within(&before).then_some(()),
        || format!("{before:?} became {:?}", Held::now()),
    )
    .await;
    let left: Vec<_> = fs::read_dir(node.data().join("instances"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["1"]);
    node.reaches(1, InstanceState::Running).await;
}

/// A file system of its own, with little room.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(path: &std::path::Path, kibibytes: u32) -> Self {
        nix::mount::mount(
            Some("tmpfs"),
            path,
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some(format!("size={kibibytes}k").as_str()),
        )
        .unwrap();
        Self(path.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH).ok();
    }
}

/// What this process (which is the heart) and its children hold.
#[derive(Debug)]
struct Held {
    descriptors: usize,
    threads: usize,
    children: usize,
    zombies: usize,
}

impl Held {
    fn now() -> Self {
        let count = |path: &str| fs::read_dir(path).unwrap().count();
        let children: Vec<String> = fs::read_dir("/proc/self/task")
            .unwrap()
            .flat_map(|thread| {
                let text = fs::read_to_string(thread.unwrap().path().join("children"));
                let pids: Vec<String> = text
                    .unwrap_or_default()
                    .split_whitespace()
                    .map(ToOwned::to_owned)
                    .collect();
                pids
            })
            .collect();
        let zombies = children
            .iter()
            .filter(|pid| !lives(pid.parse().unwrap()))
            .count();
        Self {
            descriptors: count("/proc/self/fd"),
            threads: count("/proc/self/task"),
            children: children.len(),
            zombies,
        }
    }

    /// Connections and threads of the runtimes come and go by a few; a leak is a thousand.
    fn is_within(&self, before: &Self) -> bool {
        self.descriptors <= before.descriptors + 8
            && self.threads <= before.threads + 16
            && self.children <= before.children
            && self.zombies == 0
    }
}

fn random_text(length: usize) -> String {
    // A linear congruential generator: nothing here needs better, and it does not compress.
    let mut state = 42_u64;
    (0..length)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            char::from(b' ' + u8::try_from((state >> 33) % 90).unwrap())
        })
        .collect()
}
