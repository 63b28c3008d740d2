//! Three processes of etcd, or of pacemakers, and how to talk to them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::time::Span;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use pacemaker::{ClusterSettings, Config, WallClock};
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::Fallible;

const ADMINISTRATOR: &str = "administrator-token-0123456789abcdef";
const NODE: &str = "node-token-0123456789abcdef01234567890";
/// Connections that are kept.
const CONNECTIONS: usize = 1_000;
/// What a write carries.
const VALUE_BYTES: usize = 256;
/// Between two tries of what was refused.
const TRY_INTERVAL: Duration = Duration::from_millis(5);
/// Tries before something counts as broken.
pub(crate) const TRIES: usize = 4_000;
/// How long one try may take.
const TRY_PATIENCE: Duration = Duration::from_secs(5);
/// Nodes that never report are not given up while they are measured with.
const NODE_TTL: Span = Span::seconds(3_600);

/// One pacemaker, in a process of its own.
pub(crate) async fn node(arguments: &[String]) -> Fallible<()> {
    let [member, port, directory] = arguments else {
        return Err("node MEMBER PORT DIRECTORY".into());
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
        node_key: key(member),
        data_dir: PathBuf::from(directory),
        cluster_hostname: "localhost".to_owned(),
        router_port: 4253,
        administrator_token: ADMINISTRATOR.to_owned(),
        node_token: NODE.to_owned(),
        settings: ClusterSettings {
            node_ttl: NODE_TTL,
            ..ClusterSettings::default()
        },
        wall_clock: WallClock::system(),
        crash_at: None,
    };
    pacemaker::run(config, listener, CancellationToken::new()).await?;
    Ok(())
}

fn key(member: u64) -> String {
    format!("key-{member}")
}

/// What is measured.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum System {
    Etcd,
    /// Run by this build of this program.
    Pacemaker(PathBuf),
}

/// Three processes of one system.
pub(crate) struct Cluster {
    system: System,
    directory: PathBuf,
    ports: Vec<u16>,
    peer_ports: Vec<u16>,
    pub(crate) processes: BTreeMap<usize, Child>,
    http: reqwest::Client,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in self.processes.values_mut() {
            if process.kill().and_then(|()| process.wait()).is_err() {
                println!("a process could not be ended");
            }
        }
    }
}

impl Cluster {
    pub(crate) async fn start(system: System, directory: &Path) -> Fallible<Self> {
        std::fs::create_dir_all(directory)?;
        let ports = || -> Fallible<Vec<u16>> {
            let listeners: Vec<TcpListener> = (0..3)
                .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
                .collect::<Result<_, _>>()?;
            let ports = listeners.iter().map(|one| Ok(one.local_addr()?.port()));
            ports.collect()
        };
        let mut cluster = Self {
            system,
            directory: directory.to_owned(),
            ports: ports()?,
            peer_ports: ports()?,
            processes: BTreeMap::new(),
            http: reqwest::Client::builder()
                .no_proxy()
                .pool_max_idle_per_host(CONNECTIONS)
                .build()?,
        };
        for one in 0..3 {
            cluster.spawn(one)?;
            if cluster.system != System::Etcd {
                cluster.register(one).await?;
            }
        }
        cluster.leader().await?;
        if cluster.system != System::Etcd {
            cluster.three_voters().await?;
        }
        Ok(cluster)
    }

    pub(crate) fn spawn(&mut self, one: usize) -> Fallible<()> {
        let port = self.ports[one].to_string();
        let data = self.directory.join(one.to_string());
        let mut command = match &self.system {
            System::Pacemaker(program) => {
                let mut command = Command::new(program);
                command
                    .args(["node", &(one + 1).to_string(), &port])
                    .arg(data);
                command
            }
            System::Etcd => {
                let url = |port: &u16| format!("http://127.0.0.1:{port}");
                let mut all = String::new();
                for (number, port) in self.peer_ports.iter().enumerate() {
                    write!(all, "n{number}={},", url(port))?;
                }
                let (client, peer) = (url(&self.ports[one]), url(&self.peer_ports[one]));
                let mut command = Command::new("etcd");
                command
                    .args(["--name", &format!("n{one}")])
                    .args(["--listen-client-urls", &client])
                    .args(["--advertise-client-urls", &client])
                    .args(["--listen-peer-urls", &peer])
                    .args(["--initial-advertise-peer-urls", &peer])
                    .args(["--initial-cluster", all.trim_end_matches(',')])
                    .arg("--data-dir")
                    .arg(data);
                command
            }
        };
        let process = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.processes.insert(one, process);
        Ok(())
    }

    async fn register(&self, one: usize) -> Fallible<()> {
        let description = self.description(one, "");
        for _ in 0..TRIES {
            for port in &self.ports[..=one] {
                let url = format!("http://127.0.0.1:{port}/v1/nodes");
                let asked = self.http.post(url).bearer_auth(NODE).json(&description);
                if let Ok(answer) = asked.send().await
                    && answer.status().is_success()
                {
                    return Ok(());
                }
            }
            pause().await;
        }
        Err("a pacemaker could not register".into())
    }

    fn description(&self, one: usize, value: &str) -> Value {
        json!({
            "key": key(one as u64 + 1), "name": "bench", "roles": ["pacemaker"],
            "address": "127.0.0.1", "api": format!("http://127.0.0.1:{}", self.ports[one]),
            "tags": { "value": value },
        })
    }

    async fn three_voters(&self) -> Fallible<()> {
        let url = format!("http://127.0.0.1:{}/v1/cluster/status", self.ports[0]);
        for _ in 0..TRIES {
            let asked = self.http.get(&url).bearer_auth(ADMINISTRATOR).send().await;
            if let Ok(answer) = asked
                && let Ok(status) = answer.json::<Value>().await
                && let Some(members) = status["members"].as_array()
                && members.iter().filter(|one| one["part"] == "voter").count() == 3
            {
                return Ok(());
            }
            pause().await;
        }
        Err("three pacemakers do not vote".into())
    }

    /// The term of the pacemakers' group.
    pub(crate) async fn term(&self) -> Fallible<u64> {
        let url = format!("http://127.0.0.1:{}/v1/cluster", self.ports[0]);
        let asked = self.http.get(url).bearer_auth(ADMINISTRATOR);
        let view: Value = asked.send().await?.json().await?;
        Ok(view["term"].as_u64().ok_or("no term")?)
    }

    /// Which of the processes leads.
    pub(crate) async fn leader(&self) -> Fallible<usize> {
        for _ in 0..TRIES {
            for one in self.processes.keys() {
                if let Some(leader) = self.leader_by(*one).await
                    && self.processes.contains_key(&leader)
                {
                    return Ok(leader);
                }
            }
            pause().await;
        }
        Err("nobody leads".into())
    }

    async fn leader_by(&self, one: usize) -> Option<usize> {
        let port = self.ports[one];
        match self.system {
            System::Pacemaker(_) => {
                let url = format!("http://127.0.0.1:{port}/v1/cluster");
                let asked = self.http.get(url).bearer_auth(ADMINISTRATOR);
                let view: Value = asked.send().await.ok()?.json().await.ok()?;
                usize::try_from(view["leader"].as_u64()? - 1).ok()
            }
            System::Etcd => {
                let url = format!("http://127.0.0.1:{port}/v3/maintenance/status");
                let asked = self.http.post(url).body("{}");
                let status: Value = asked.send().await.ok()?.json().await.ok()?;
                let leads = status["leader"].as_str()? == status["header"]["member_id"].as_str()?;
                leads.then_some(one)
            }
        }
    }

    /// A write through one of the processes; true when it was accepted.
    pub(crate) async fn write(&self, one: usize, number: u64) -> bool {
        let (path, body) = self.body(one, number);
        let url = format!("http://127.0.0.1:{}{path}", self.ports[one]);
        let mut asked = self.http.post(url).body(body);
        asked = asked.header(CONTENT_TYPE, "application/json");
        if self.system != System::Etcd {
            asked = asked.bearer_auth(NODE);
        }
        match asked.timeout(TRY_PATIENCE).send().await {
            Ok(answer) if answer.status().is_success() => answer.bytes().await.is_ok(),
            Ok(_) | Err(_) => false,
        }
    }

    /// A connection to one of the processes: a client that takes next to nothing of the processors,
    /// which are there for those that are measured.
    pub(crate) async fn connect(&self, one: usize) -> Fallible<Connection> {
        let address = (Ipv4Addr::LOCALHOST, self.ports[one]);
        let stream = tokio::net::TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        Ok(Connection { one, sender })
    }

    /// Of a write: the path and the body.
    fn body(&self, one: usize, number: u64) -> (&'static str, String) {
        let value = format!("{number:0>VALUE_BYTES$}");
        match self.system {
            System::Pacemaker(_) => ("/v1/nodes", self.description(one, &value).to_string()),
            // Digits are base64 of some bytes, as long as their number is a multiple of four.
            System::Etcd => {
                let body = json!({ "key": "a2V5", "value": value });
                ("/v3/kv/put", body.to_string())
            }
        }
    }

    /// A request of an administrator to one of the pacemakers.
    pub(crate) fn ask(&self, one: usize, method: http::Method, path: &str) -> RequestBuilder {
        let url = format!("http://127.0.0.1:{}{path}", self.ports[one]);
        self.http.request(method, url).bearer_auth(ADMINISTRATOR)
    }

    /// Processor time of all processes so far.
    pub(crate) fn processor_time(&self) -> Fallible<Duration> {
        let mut sum = Duration::ZERO;
        for process in self.processes.values() {
            for task in std::fs::read_dir(format!("/proc/{}/task", process.id()))? {
                let path = task?.path().join("schedstat");
                let text = std::fs::read_to_string(path)?;
                let nanoseconds = text.split(' ').next().ok_or("an empty schedstat")?;
                sum += Duration::from_nanos(nanoseconds.parse()?);
            }
        }
        Ok(sum)
    }
}

/// A connection that is kept, for one write after the other.
pub(crate) struct Connection {
    one: usize,
    sender: http1::SendRequest<Full<Bytes>>,
}

impl Connection {
    /// True when the write was accepted.
    pub(crate) async fn write(&mut self, cluster: &Cluster, number: u64) -> Fallible<bool> {
        let (path, body) = cluster.body(self.one, number);
        let mut request = http::Request::post(path)
            .header(HOST, "127.0.0.1")
            .header(CONTENT_TYPE, "application/json");
        if cluster.system != System::Etcd {
            request = request.header(AUTHORIZATION, format!("Bearer {NODE}"));
        }
        let request = request.body(Full::from(body))?;
        let answer = self.sender.send_request(request).await?;
        let is_accepted = answer.status().is_success();
        answer.into_body().collect().await?;
        Ok(is_accepted)
    }
}

pub(crate) async fn pause() {
    tokio::time::sleep_until((Instant::now() + TRY_INTERVAL).into()).await;
}
