//! Three pacemakers against three etcd on this machine: latency, throughput, and the time from the
//! death of the leader to the next accepted write. Run by `scripts/bench-raft`.
//!
//! Both are asked through their HTTP APIs by the same client, always the leader's except after its
//! death. A write of etcd is a put of 256 bytes; ours is a node that describes itself anew, with as
//! many bytes of tags: both are one entry of the log, on the disks of a majority.
#![expect(clippy::print_stdout, reason = "the table is the program's result")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pacemaker::{ClusterSettings, Config, WallClock};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

const ADMINISTRATOR: &str = "administrator-token-0123456789abcdef";
const NODE: &str = "node-token-0123456789abcdef01234567890";
/// Clients at once, for each measurement.
const CLIENTS: [usize; 3] = [1, 64, 1_000];
/// What a write carries.
const VALUE_BYTES: usize = 256;
/// Between two tries of what was refused.
const TRY_INTERVAL: Duration = Duration::from_millis(5);
/// Tries before something counts as broken.
const TRIES: usize = 4_000;
/// How long one try may take.
const TRY_PATIENCE: Duration = Duration::from_secs(5);

fn main() -> Fallible<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Runtime::new()?;
    match arguments.get(1).map(String::as_str) {
        Some("node") => runtime.block_on(node(&arguments[2..])),
        _ => runtime.block_on(compare(
            number(&arguments, 1, 7)?,
            number(&arguments, 2, 9)?,
            Duration::from_secs(number(&arguments, 3, 3)?),
        )),
    }
}

fn number(arguments: &[String], at: usize, otherwise: u64) -> Fallible<u64> {
    Ok(arguments
        .get(at)
        .map_or(Ok(otherwise), |text| text.parse())?)
}

/// One pacemaker, in a process of its own.
async fn node(arguments: &[String]) -> Fallible<()> {
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
        settings: ClusterSettings::default(),
        wall_clock: WallClock::system(),
        crash_at: None,
    };
    pacemaker::run(config, listener, CancellationToken::new()).await?;
    Ok(())
}

fn key(member: u64) -> String {
    format!("key-{member}")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum System {
    Etcd,
    Pacemaker,
}

/// Three processes of one system.
struct Cluster {
    system: System,
    directory: PathBuf,
    ports: Vec<u16>,
    peer_ports: Vec<u16>,
    processes: BTreeMap<usize, Child>,
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
    async fn start(system: System, directory: &Path) -> Fallible<Self> {
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
                .pool_max_idle_per_host(CLIENTS[2])
                .build()?,
        };
        for one in 0..3 {
            cluster.spawn(one)?;
            if system == System::Pacemaker {
                cluster.register(one).await?;
            }
        }
        cluster.leader().await?;
        if system == System::Pacemaker {
            cluster.three_voters().await?;
        }
        Ok(cluster)
    }

    fn spawn(&mut self, one: usize) -> Fallible<()> {
        let port = self.ports[one].to_string();
        let data = self.directory.join(one.to_string());
        let mut command = match self.system {
            System::Pacemaker => {
                let mut command = Command::new(std::env::current_exe()?);
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
    async fn term(&self) -> Fallible<u64> {
        let url = format!("http://127.0.0.1:{}/v1/cluster", self.ports[0]);
        let asked = self.http.get(url).bearer_auth(ADMINISTRATOR);
        let view: Value = asked.send().await?.json().await?;
        Ok(view["term"].as_u64().ok_or("no term")?)
    }

    /// Which of the processes leads.
    async fn leader(&self) -> Fallible<usize> {
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
            System::Pacemaker => {
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
    async fn write(&self, one: usize, number: u64) -> bool {
        let port = self.ports[one];
        let value = format!("{number:0>VALUE_BYTES$}");
        let asked = match self.system {
            System::Pacemaker => self
                .http
                .post(format!("http://127.0.0.1:{port}/v1/nodes"))
                .bearer_auth(NODE)
                .json(&self.description(one, &value)),
            // Digits are base64 of some bytes, as long as their number is a multiple of four.
            System::Etcd => self
                .http
                .post(format!("http://127.0.0.1:{port}/v3/kv/put"))
                .json(&json!({ "key": "a2V5", "value": value })),
        };
        match asked.timeout(TRY_PATIENCE).send().await {
            Ok(answer) if answer.status().is_success() => answer.bytes().await.is_ok(),
            Ok(_) | Err(_) => false,
        }
    }
}

async fn pause() {
    tokio::time::sleep_until((Instant::now() + TRY_INTERVAL).into()).await;
}

/// What one measurement found.
struct Measured {
    per_second: f64,
    p50: Duration,
    p99: Duration,
}

async fn measure(cluster: &Arc<Cluster>, clients: usize, time: Duration) -> Fallible<Measured> {
    let leader = cluster.leader().await?;
    let numbers = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let (cluster, numbers) = (Arc::clone(cluster), Arc::clone(&numbers));
        running.spawn(async move {
            let mut times = Vec::new();
            while started.elapsed() < time {
                let begun = Instant::now();
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                if cluster.write(leader, number).await {
                    times.push(begun.elapsed());
                }
            }
            times
        });
    }
    let mut times = Vec::new();
    while let Some(of_one) = running.join_next().await {
        times.extend(of_one?);
    }
    let elapsed = started.elapsed();
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 100).copied();
    let count = u32::try_from(times.len())?;
    Ok(Measured {
        per_second: f64::from(count) / elapsed.as_secs_f64(),
        p50: at(50).ok_or("nothing was written")?,
        p99: at(99).ok_or("nothing was written")?,
    })
}

/// From the death of the leader to the next accepted write: one is tried every few milliseconds,
/// by one of the others in turn, whatever became of those before.
async fn fail_over(cluster: &mut Arc<Cluster>) -> Fallible<Duration> {
    let leader = cluster.leader().await?;
    let others: Vec<usize> = (0..3).filter(|one| *one != leader).collect();
    for one in &others {
        cluster.write(*one, 0).await;
    }
    let alone = Arc::get_mut(cluster).ok_or("a client is still running")?;
    let mut process = alone.processes.remove(&leader).ok_or("it is not running")?;
    process.kill()?;
    let started = Instant::now();
    let mut tries = tokio::task::JoinSet::new();
    let mut turns = others.iter().cycle();
    let elapsed = loop {
        let one = *turns.next().ok_or("there are two others")?;
        let trying = Arc::clone(cluster);
        tries.spawn(async move { trying.write(one, 1).await });
        pause().await;
        let mut is_accepted = false;
        while let Some(tried) = tries.try_join_next() {
            is_accepted |= tried?;
        }
        if is_accepted {
            break started.elapsed();
        }
    };
    tries.shutdown().await;
    process.wait()?;
    let alone = Arc::get_mut(cluster).ok_or("a client is still running")?;
    alone.spawn(leader)?;
    for _ in 0..TRIES {
        if cluster.write(leader, 2).await {
            return Ok(elapsed);
        }
        pause().await;
    }
    Err("the one that was killed does not come back".into())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

async fn compare(rounds: u64, kills: u64, time: Duration) -> Fallible<()> {
    let directory = tempfile::tempdir()?;
    let etcd = Cluster::start(System::Etcd, &directory.path().join("etcd")).await?;
    let ours = Cluster::start(System::Pacemaker, &directory.path().join("ours")).await?;
    let mut systems = [Arc::new(etcd), Arc::new(ours)];
    let term = systems[1].term().await?;
    let mut found: BTreeMap<(usize, usize), Vec<Measured>> = BTreeMap::new();
    for round in 0..rounds {
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for clients in CLIENTS {
            for system in order {
                let measured = measure(&systems[system], clients, time).await?;
                found.entry((clients, system)).or_default().push(measured);
            }
        }
    }
    println!(
        "{:<28} {:>12} {:>12} {:>8}",
        "median of rounds", "etcd", "paasmaker", "ratio"
    );
    for clients in CLIENTS.into_iter().filter(|_| rounds > 0) {
        let row = |name: &str, of: &dyn Fn(&Measured) -> f64| {
            let values =
                |system| -> Vec<f64> { found[&(clients, system)].iter().map(of).collect() };
            let (theirs, ours) = (values(0), values(1));
            let ratios = theirs.iter().zip(&ours).map(|(theirs, ours)| ours / theirs);
            let ratio = median(ratios.collect());
            let name = format!("{name}, {clients} clients");
            let (theirs, ours) = (median(theirs), median(ours));
            println!("{name:<28} {theirs:>12.2} {ours:>12.2} {ratio:>8.2}");
        };
        row("writes/s", &|one| one.per_second);
        row("p50 ms", &|one| one.p50.as_secs_f64() * 1e3);
        row("p99 ms", &|one| one.p99.as_secs_f64() * 1e3);
    }
    let elections = systems[1].term().await? - term;
    println!("elections of paasmaker while it was under load: {elections}");
    let mut times = [Vec::new(), Vec::new()];
    for (system, times) in systems.iter_mut().zip(&mut times) {
        for _ in 0..kills {
            times.push(fail_over(system).await?.as_secs_f64() * 1e3);
        }
        times.sort_unstable_by(f64::total_cmp);
    }
    for (name, share) in [("p50", 50), ("worst", 100)]
        .into_iter()
        .filter(|_| kills > 0)
    {
        let at = |times: &[f64]| times[(times.len() * share / 100).min(times.len() - 1)];
        let (theirs, ours) = (at(&times[0]), at(&times[1]));
        let ratio = ours / theirs;
        let name = format!("kill -9 to write, {name} ms");
        println!("{name:<28} {theirs:>12.2} {ours:>12.2} {ratio:>8.2}");
    }
    Ok(())
}
