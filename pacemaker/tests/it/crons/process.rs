//! Pacemakers as processes of their own, which can be killed and stopped: this test binary runs
//! itself again, as the one test [`pacemaker_process`].

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use common::node::{NodeDescription, Role};
use common::time::Timestamp;
use pacemaker::{CrashPoint, WallClock};
use pacemaker_client::Client;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::crons::node_client;
use crate::harness::{ADMINISTRATOR, config, eventually};

/// `MEMBER PORT DIRECTORY CLOCK_START CLOCK_RATE [CRASH_POINT]`; tells the test that it is a process.
const ARGUMENTS: &str = "PM_TEST_PACEMAKER";

/// Three pacemakers by member number; one that is down has its directory only.
pub(crate) struct Processes {
    directory: TempDir,
    ports: BTreeMap<u64, u16>,
    running: BTreeMap<u64, Child>,
    clock: (Timestamp, u32),
}

impl Processes {
    /// A cluster of three whose clocks agree.
    pub(crate) async fn start(start: Timestamp, rate: u32) -> Self {
        let listeners: Vec<TcpListener> = (0..3)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
            .collect();
        let ports = listeners.iter().map(|one| one.local_addr().unwrap().port());
        let mut processes = Self {
            directory: tempfile::tempdir().unwrap(),
            ports: (1..).zip(ports).collect(),
            running: BTreeMap::new(),
            clock: (start, rate),
        };
        drop(listeners);
        for member in 1..=3 {
            processes.launch(member, "");
            processes.register(member).await;
        }
        let client = processes.client();
        eventually("three vote", async || {
            let status = client.cluster_status().await.ok()?;
            let mut members = status.members.iter();
            let is_whole = members.all(|member| member.part == common::api::MemberPart::Voter);
            (is_whole && status.members.len() == 3).then_some(())
        })
        .await;
        processes
    }

    /// Starts a member; it kills itself at a crash point when one is named.
    pub(crate) fn launch(&mut self, member: u64, crash_at: &str) {
        let arguments = format!(
            "{member} {} {} {} {} {crash_at}",
            self.ports[&member],
            self.directory.path().join(member.to_string()).display(),
            self.clock.0.0,
            self.clock.1,
        );
        let child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "crons::process::pacemaker_process",
                "--nocapture",
            ])
            .env(ARGUMENTS, arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.running.insert(member, child);
    }

    pub(crate) fn kill(&mut self, member: u64) {
        let mut child = self.running.remove(&member).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits until a member has killed itself.
    pub(crate) async fn has_died(&mut self, member: u64) {
        let child = self.running.get_mut(&member).unwrap();
        let ended = std::cell::RefCell::new(child);
        eventually("the process has killed itself", async || {
            ended.borrow_mut().try_wait().unwrap().map(|_| ())
        })
        .await;
        self.running.remove(&member);
    }

    pub(crate) fn signal(&self, member: u64, signal: Signal) {
        kill_process(Pid::from_child(&self.running[&member]), signal).unwrap();
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        let ports = self.ports.values();
        ports
            .map(|port| format!("http://127.0.0.1:{port}"))
            .collect()
    }

    pub(crate) fn url(&self, member: u64) -> String {
        format!("http://127.0.0.1:{}", self.ports[&member])
    }

    /// A client that knows all.
    pub(crate) fn client(&self) -> Client {
        Client::new(&self.urls(), ADMINISTRATOR).unwrap()
    }

    /// A client that knows one.
    pub(crate) fn client_of(&self, member: u64) -> Client {
        Client::new(&[self.url(member)], ADMINISTRATOR).unwrap()
    }

    /// Waits until a member knows a leader.
    pub(crate) async fn answers(&self, member: u64) {
        let client = self.client_of(member);
        eventually("the member follows", async || {
            client.cluster().await.ok()?.leader
        })
        .await;
    }

    /// The member that leads, by the word of all that run.
    pub(crate) async fn leader(&self) -> u64 {
        self.leader_but(0).await
    }

    /// The same when one of them is not asked, and is not it.
    pub(crate) async fn leader_but(&self, other: u64) -> u64 {
        eventually("all agree on a leader", async || {
            let mut leaders = Vec::new();
            for member in self.running.keys().filter(|member| **member != other) {
                let view = self.client_of(*member).cluster().await.ok()?;
                leaders.push(view.leader?.0);
            }
            leaders.dedup();
            match leaders[..] {
                [leader] if leader != other && self.running.contains_key(&leader) => Some(leader),
                _ => None,
            }
        })
        .await
    }

    async fn register(&self, member: u64) {
        let description = NodeDescription {
            key: format!("key-{member}"),
            name: format!("machine {member}"),
            roles: [Role::Pacemaker].into(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            api: self.url(member),
            tags: BTreeMap::new(),
            zone: None,
            runtimes: BTreeMap::new(),
        };
        let client = node_client(&self.urls());
        eventually("the node is registered", async || {
            client.register_node(&description).await.ok()
        })
        .await;
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// A pacemaker when [`ARGUMENTS`] says so, and nothing otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pacemaker_process() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else {
        return;
    };
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    let mut arguments = arguments.split(' ');
    let mut next = || arguments.next().unwrap().to_owned();
    let (member, port): (u64, u16) = (next().parse().unwrap(), next().parse().unwrap());
    let mut config = config(&PathBuf::from(next()));
    config.member = member;
    config.founder = member == 1;
    config.node_key = format!("key-{member}");
    config.advertise = format!("127.0.0.1:{port}");
    let start = Timestamp(next().parse().unwrap());
    config.wall_clock = WallClock::scaled(start, next().parse().unwrap());
    config.crash_at = match &*next() {
        "before-record" => Some(CrashPoint::BeforeCronRecord),
        "before-request" => Some(CrashPoint::BeforeCronRequest),
        "after-answer" => Some(CrashPoint::AfterCronAnswer),
        _ => None,
    };
    let listener = eventually("the address is free", async || {
        tokio::net::TcpListener::bind(&config.advertise).await.ok()
    })
    .await;
    pacemaker::run(config, listener, CancellationToken::new())
        .await
        .unwrap();
}
