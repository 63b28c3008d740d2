//! Three pacemakers in processes of their own.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::api::CreateWorkspace;
use common::id::{PluginName, WorkspaceStub};
use common::node::{NodeDescription, Role};
use common::time::Timestamp;
use pacemaker::{ClusterSettings, Config, WallClock};
use pacemaker_client::Client;
use tokio_util::sync::CancellationToken;

use crate::Fallible;
use crate::times::{key, pause};

pub(crate) const ADMINISTRATOR: &str = "administrator-token-0123456789abcdef";
pub(crate) const NODE: &str = "node-token-0123456789abcdef01234567890";
/// Between two looks at something.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long one thing may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// One pacemaker, in a process of its own.
pub(crate) async fn node(arguments: &[String]) -> Fallible<()> {
    let [member, port, start, rate, directory] = arguments else {
        return Err("node MEMBER PORT START RATE DIRECTORY".into());
    };
    let clock = Clock {
        start: start.parse()?,
        rate: rate.parse()?,
    };
    let member: u64 = member.parse()?;
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    let config = Config {
        member,
        founder: member == 1,
        advertise: format!("127.0.0.1:{port}"),
        cluster: None,
        authority: None,
        tls: None,
        description: None,
        join_tokens: Vec::new(),
        node_key: format!("key-{member}"),
        data_dir: PathBuf::from(directory),
        cluster_hostname: "localhost".to_owned(),
        router_port: 4253,
        administrator_token: ADMINISTRATOR.to_owned(),
        node_token: NODE.to_owned(),
        settings: ClusterSettings::default(),
        wall_clock: WallClock::scaled(Timestamp(clock.start), clock.rate),
        crash_at: None,
    };
    pacemaker::run(config, listener, CancellationToken::new()).await?;
    Ok(())
}

/// The clock by which crons are due: the machine's up to `start`, in milliseconds since 1970, and so
/// many times as fast from then on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) start: u64,
    pub(crate) rate: u32,
}

impl Clock {
    /// The machine's.
    pub(crate) fn of_the_machine() -> Self {
        Self { start: 0, rate: 1 }
    }
}

/// Three processes.
pub(crate) struct Cluster {
    pub(crate) urls: Vec<String>,
    processes: Vec<Child>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in &mut self.processes {
            if process.kill().and_then(|()| process.wait()).is_err() {
                println!("a process could not be ended");
            }
        }
    }
}

impl Cluster {
    pub(crate) async fn start(directory: PathBuf, clock: Clock) -> Fallible<Self> {
        let listeners: Vec<TcpListener> = (0..3)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .collect::<Result<_, _>>()?;
        let mut cluster = Self {
            urls: Vec::new(),
            processes: Vec::new(),
        };
        let mut ports = Vec::new();
        for listener in listeners {
            let port = listener.local_addr()?.port();
            cluster.urls.push(format!("http://127.0.0.1:{port}"));
            ports.push(port);
        }
        for (member, port) in (1_u64..).zip(ports) {
            let data = directory.join(member.to_string());
            std::fs::create_dir_all(&data)?;
            let process = Command::new(std::env::current_exe()?)
                .args(["node", &member.to_string(), &port.to_string()])
                .args([clock.start.to_string(), clock.rate.to_string()])
                .arg(data)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            cluster.processes.push(process);
            cluster.register(member).await?;
        }
        let client = Client::new(&cluster.urls, ADMINISTRATOR)?;
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Ok(status) = client.cluster_status().await
                && status.members.len() == 3
                && status
                    .members
                    .iter()
                    .all(|one| one.part == common::api::MemberPart::Voter)
            {
                let stub = WorkspaceStub::parse("bench")?;
                let body = CreateWorkspace {
                    name: "bench".to_owned(),
                    stub,
                    tags: BTreeMap::new(),
                };
                client.create_workspace(&body, &key()?).await?;
                return Ok(cluster);
            }
            pause(LOOK_INTERVAL).await;
        }
        Err("three pacemakers do not vote".into())
    }

    async fn register(&self, member: u64) -> Fallible<()> {
        let client = Client::new(&self.urls, NODE)?;
        let at = usize::try_from(member - 1)?;
        let mut description = description(&format!("key-{member}"), &self.urls[at]);
        description.roles = [Role::Pacemaker].into();
        let begun = Instant::now();
        while client.register_node(&description).await.is_err() {
            if begun.elapsed() > PATIENCE {
                return Err("a pacemaker could not register".into());
            }
            pause(LOOK_INTERVAL).await;
        }
        Ok(())
    }
}

pub(crate) fn description(key: &str, api: &str) -> NodeDescription {
    let shell = PluginName::parse(common::application::RUNTIME_SHELL);
    NodeDescription {
        key: key.to_owned(),
        name: key.to_owned(),
        roles: [Role::Heart, Role::Router].into(),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        api: api.to_owned(),
        tags: BTreeMap::new(),
        zone: None,
        runtimes: [(shell.expect("a good name"), vec!["1".to_owned()])].into(),
    }
}
