//! How late crons are, on this machine: three pacemakers, and instances that answer at once. Run by
//! `scripts/bench-crons`.
//!
//! First some crons that are due every minute, then a stampede: all crons of the cell in the same
//! minute, while the API is asked as before. Lateness is the arrival of a request at the instance
//! after the second of its slot, by the clock of the machine that all share.
#![expect(clippy::print_stdout, reason = "the table is the program's result")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use common::api::{CreateWorkspace, DeployRequest};
use common::assignment::{
    Assignment, HeartReport, InstanceReport, PackageReference, REPORT_INTERVAL, Report,
    RouterReport,
};
use common::digest::Digest;
use common::id::{ApplicationId, Generation, InstanceId, NodeId, PluginName, WorkspaceStub};
use common::instance::{InstanceGoal, InstanceState};
use common::node::{NodeDescription, Role};
use common::time::Span;
use futures_util::StreamExt as _;
use pacemaker::{ClusterSettings, Config, WallClock};
use pacemaker_client::Client;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

const ADMINISTRATOR: &str = "administrator-token-0123456789abcdef";
const NODE: &str = "node-token-0123456789abcdef01234567890";
/// Crons of one application in the first part; as many as may be under way for it.
const CRONS_EACH: usize = 50;
/// Crons of one application in the stampede.
const STAMPEDE_EACH: usize = 500;
/// Crons of one instance type; a manifest may have no more.
const CRONS_OF_TYPE: usize = 100;
/// Deployments at once.
const DEPLOYMENTS: usize = 8;
/// Between two questions to the API.
const ASK_INTERVAL: Duration = Duration::from_millis(20);
/// Between two looks at something.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long one thing may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// A stampede ends when nothing has come for so long.
const QUIET: Duration = Duration::from_secs(5);
/// Time to deploy one cron of the stampede, with much to spare.
const MILLISECONDS_EACH: u64 = 1;
const MINUTE: u64 = 60_000;

fn main() -> Fallible<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Runtime::new()?;
    match arguments.get(1).map(String::as_str) {
        Some("node") => runtime.block_on(node(&arguments[2..])),
        _ => runtime.block_on(measure(
            number(&arguments, 1, 1_000)?,
            number(&arguments, 2, 3)?,
            number(&arguments, 3, 100_000)?,
        )),
    }
}

fn number(arguments: &[String], at: usize, otherwise: usize) -> Fallible<usize> {
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
        node_key: format!("key-{member}"),
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

async fn measure(crons: usize, slots: usize, stampede: usize) -> Fallible<()> {
    let directory = std::env::temp_dir().join(format!("bench-crons-{}", std::process::id()));
    let cluster = Cluster::start(directory.clone()).await?;
    let receiver = Receiver::default();
    let nodes = Client::new(&cluster.urls, NODE)?;
    let id = nodes
        .register_node(&description("heart", &cluster.urls[0]))
        .await?;
    let heart = tokio::spawn(obey(nodes, id, receiver.clone()));
    let client = Client::new(&cluster.urls, ADMINISTRATOR)?;

    let spare = deploy(&client, "spare", "0 0 1 1 *", 1).await?;
    if crons > 0 {
        due_at_once(&client, &receiver, spare, (crons, slots)).await?;
    }
    if stampede > 0 {
        run_over(&client, &receiver, spare, stampede).await?;
    }
    heart.abort();
    drop(cluster);
    std::fs::remove_dir_all(directory)?;
    Ok(())
}

/// Some crons that are due every minute.
async fn due_at_once(
    client: &Client,
    receiver: &Receiver,
    spare: ApplicationId,
    (crons, slots): (usize, usize),
) -> Fallible<()> {
    let applications = crons.div_ceil(CRONS_EACH);
    println!("{crons} crons of {applications} applications, due at once, {slots} times");
    let made = deploy_all(client, "minute", "* * * * *", (applications, CRONS_EACH)).await?;
    for _ in 0..slots {
        let slot = now().next_multiple_of(MINUTE);
        receiver.clear();
        wait_until(slot - 1_000).await;
        receiver.clear();
        let asked = Asking::start(client, spare);
        wait_until(slot + 20_000).await;
        let asked = asked.stop().await?;
        print_lateness(&receiver.arrivals(), slot, applications * CRONS_EACH)?;
        println!("  {}", asked.text());
    }
    for application in made {
        for number in 0..CRONS_EACH {
            client
                .suspend_cron(application, &format!("cron-{number}"), &key()?)
                .await?;
        }
    }
    Ok(())
}

/// All crons of the cell in the same second.
async fn run_over(
    client: &Client,
    receiver: &Receiver,
    spare: ApplicationId,
    crons: usize,
) -> Fallible<()> {
    let applications = crons.div_ceil(STAMPEDE_EACH);
    let time = crons as u64 * MILLISECONDS_EACH + MINUTE;
    let slot = (now() + time).next_multiple_of(MINUTE);
    let (hour, minute) = (slot / MINUTE / 60 % 24, slot / MINUTE % 60);
    println!("stampede: {crons} crons of {applications} applications at {hour:02}:{minute:02}");
    let runspec = format!("{minute} {hour} * * *");
    let begun = Instant::now();
    deploy_all(client, "stampede", &runspec, (applications, STAMPEDE_EACH)).await?;
    println!("  deployed in {:.0} s", begun.elapsed().as_secs_f64());
    if now() + 22_000 > slot {
        return Err("the deployments took too long; try fewer".into());
    }
    wait_until(slot - 21_000).await;
    let before = Asking::start(client, spare);
    wait_until(slot - 1_000).await;
    let before = before.stop().await?;
    receiver.clear();
    wait_until(slot).await;
    let during = Asking::start(client, spare);
    let mut last = (0, Instant::now());
    while last.1.elapsed() < QUIET {
        pause(LOOK_INTERVAL).await;
        let count = receiver.count();
        if count != last.0 || count == 0 {
            last = (count, Instant::now());
        }
    }
    let during = during.stop().await?;
    print_lateness(&receiver.arrivals(), slot, applications * STAMPEDE_EACH)?;
    println!("  before: {}", before.text());
    println!("  during: {}", during.text());
    println!(
        "  ratio p99 during/before: read {:.1}, write {:.1}",
        ratio(&during.reads, &before.reads),
        ratio(&during.writes, &before.writes)
    );
    Ok(())
}

fn print_lateness(arrivals: &[SystemTime], slot: u64, expected: usize) -> Fallible<()> {
    let slot = SystemTime::UNIX_EPOCH + Duration::from_millis(slot);
    let mut late = Vec::with_capacity(arrivals.len());
    for arrival in arrivals {
        late.push(arrival.duration_since(slot)?);
    }
    late.sort_unstable();
    println!(
        "  {} of {expected} came; late p50 {:.1?}, p99 {:.1?}, last {:.1?}",
        late.len(),
        part(&late, 50),
        part(&late, 99),
        late.last().copied().unwrap_or_default()
    );
    Ok(())
}

/// A percentile of sorted times.
fn part(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}

fn ratio(one: &[Duration], other: &[Duration]) -> f64 {
    part(one, 99).as_secs_f64() / part(other, 99).as_secs_f64()
}

/// Reads and writes of the API, one after the other, with their times.
struct Asking {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Fallible<Asked>>,
}

#[derive(Default)]
struct Asked {
    reads: Vec<Duration>,
    writes: Vec<Duration>,
}

impl Asked {
    fn text(&self) -> String {
        format!(
            "API: read p50 {:.1?}, p99 {:.1?}; write p50 {:.1?}, p99 {:.1?} ({} each)",
            part(&self.reads, 50),
            part(&self.reads, 99),
            part(&self.writes, 50),
            part(&self.writes, 99),
            self.writes.len()
        )
    }
}

impl Asking {
    fn start(client: &Client, application: ApplicationId) -> Self {
        let (stop, client) = (CancellationToken::new(), client.clone());
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut asked = Asked::default();
            while !stopped.is_cancelled() {
                let begun = Instant::now();
                client.application(application).await?;
                asked.reads.push(begun.elapsed());
                let begun = Instant::now();
                client.suspend_cron(application, "cron-0", &key()?).await?;
                asked.writes.push(begun.elapsed());
                pause(ASK_INTERVAL).await;
            }
            asked.reads.sort_unstable();
            asked.writes.sort_unstable();
            Ok(asked)
        });
        Self { stop, task }
    }

    async fn stop(self) -> Fallible<Asked> {
        self.stop.cancel();
        self.task.await?
    }
}

async fn deploy_all(
    client: &Client,
    name: &str,
    runspec: &str,
    (applications, crons): (usize, usize),
) -> Fallible<Vec<ApplicationId>> {
    let deployments = (0..applications).map(|number| {
        let name = format!("{name}-{number}");
        async move { deploy(client, &name, runspec, crons).await }
    });
    let deployed: Vec<Fallible<ApplicationId>> = futures_util::stream::iter(deployments)
        .buffer_unordered(DEPLOYMENTS)
        .collect()
        .await;
    deployed.into_iter().collect()
}

async fn deploy(
    client: &Client,
    name: &str,
    runspec: &str,
    crons: usize,
) -> Fallible<ApplicationId> {
    let mut manifest =
        format!("manifest: {{format: 1}}\napplication: {{name: {name}}}\ninstances:\n");
    for number in 0..crons {
        if number % CRONS_OF_TYPE == 0 {
            writeln!(
                manifest,
                "  - name: web-{number}\n    runtime: {{plugin: paasmaker.runtime.shell, version: 1, parameters: {{launch_command: \"serve %(port)d\"}}}}\n    crons:"
            )?;
        }
        writeln!(
            manifest,
            "      - {{runspec: \"{runspec}\", uri: /, name: cron-{number}}}"
        )?;
    }
    let source = PackageReference {
        digest: Digest::of(b"source"),
        size: 6,
    };
    let file = std::env::temp_dir().join(format!("bench-crons-source-{}", std::process::id()));
    std::fs::write(&file, b"source")?;
    client.upload_package(&source, &file, &|_| ()).await?;
    let request = DeployRequest {
        workspace: WorkspaceStub::parse("default")?,
        manifest,
        source: source.digest,
        promote: true,
    };
    let started = client.deploy(&request, &key()?).await?;
    let mut after = Generation(0);
    loop {
        if let Some(view) = client.watch_job(started.job, after).await? {
            after = view.generation;
            if view.job.state == common::job::JobState::Succeeded {
                return Ok(started.application);
            }
            if view.job.state.is_final() {
                return Err(format!("{name} was not deployed: {:?}", view.job).into());
            }
        }
    }
}

/// Three processes.
struct Cluster {
    urls: Vec<String>,
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
    async fn start(directory: PathBuf) -> Fallible<Self> {
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

fn description(key: &str, api: &str) -> NodeDescription {
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

/// A heart and a router that obey at once.
async fn obey(client: Client, node: NodeId, receiver: Receiver) -> Fallible<()> {
    let mut held = Assignment {
        cluster: String::new(),
        node_ttl: Span(0),
        node,
        term: 0,
        generation: Generation(0),
        instances: Vec::new(),
        builds: Vec::new(),
    };
    let mut routes = Generation(0);
    for sequence in 1.. {
        let mut instances = Vec::new();
        for instance in &held.instances {
            let is_running = instance.goal == InstanceGoal::Running;
            instances.push(InstanceReport {
                id: instance.id,
                state: if is_running {
                    InstanceState::Running
                } else {
                    InstanceState::Registered
                },
                port: if is_running {
                    Some(receiver.port(instance.id)?)
                } else {
                    None
                },
                pid: is_running.then_some(1),
                restarts: 0,
                failure: None,
            });
        }
        let report = Report {
            cluster: String::new(),
            node,
            heart: Some(HeartReport {
                incarnation: 1,
                sequence,
                assignment: held.generation,
                instances,
                ..HeartReport::default()
            }),
            router: Some(RouterReport {
                incarnation: 1,
                sequence,
                routes,
                in_flight: BTreeMap::new(),
            }),
        };
        while client.report(&report).await.is_err() {
            pause(LOOK_INTERVAL).await;
        }
        tokio::select! {
            newer = client.watch_assignment(node, held.generation) => {
                if let Ok(Some(newer)) = newer {
                    held = newer;
                }
            }
            newer = client.watch_routes(routes) => {
                if let Ok(Some(newer)) = newer {
                    routes = newer.generation;
                }
            }
            () = pause(REPORT_INTERVAL.duration()) => {}
        }
    }
    Ok(())
}

/// All instances; clones are the same.
#[derive(Clone, Default)]
struct Receiver {
    ports: Arc<Mutex<BTreeMap<InstanceId, u16>>>,
    arrivals: Arc<Mutex<Vec<SystemTime>>>,
}

impl Receiver {
    /// Where an instance listens, from the first question on.
    fn port(&self, instance: InstanceId) -> Fallible<u16> {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(port) = ports.get(&instance) {
            return Ok(*port);
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        ports.insert(instance, port);
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let receiver = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(receiver.clone().answer(stream));
            }
        });
        Ok(port)
    }

    /// A request of a cron fits into one read.
    async fn answer(self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = [0; 2_048];
        let length = stream.read(&mut head).await?;
        if length > 0 {
            let now = SystemTime::now();
            let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
            arrivals.push(now);
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")
            .await
    }

    fn count(&self) -> usize {
        self.arrivals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    fn arrivals(&self) -> Vec<SystemTime> {
        self.arrivals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn clear(&self) {
        self.arrivals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

async fn wait_until(time: u64) {
    pause(Duration::from_millis(time.saturating_sub(now()))).await;
}

async fn pause(time: Duration) {
    tokio::time::sleep_until((Instant::now() + time).into()).await;
}

/// An idempotency key that nobody has used.
fn key() -> Fallible<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}
