//! A node under test: a heart in this process, or in one that can be killed, and its pacemaker.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::application::{Program, RuntimeSpec, ShellScript, StopSpec};
use common::assignment::{AssignedInstance, InstanceReport, PackageReference, Subject};
use common::digest::Digest;
use common::id::{
    ApplicationId, ApplicationName, InstanceId, InstanceTypeName, PluginName, VersionId,
    VersionNumber, WorkspaceStub,
};
use common::instance::{FailureCode, InstanceGoal, InstanceState};
use common::time::Span;
use heart::{Config, CrashPoint, Running};
use pacemaker_client::Client;
use rustix::process::{Pid, Signal};
use serde_json::json;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::pacemaker::{NODE, Pacemaker};

/// How long a level may take to be reached, on a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Ports of one test.
const PORTS_PER_TEST: u16 = 40;

/// Ranges of ports for tests, from 20000 on; more than ever run at once.
const PORT_RANGES: u16 = 300;

/// The token that may read logs.
pub(crate) const TOKEN: &str = "log reader";

/// A node.
pub(crate) struct Node {
    pub(crate) pacemaker: Pacemaker,
    /// Pacemakers of the same cluster, asked after the first.
    pub(crate) others: Vec<Pacemaker>,
    pub(crate) directory: TempDir,
    pub(crate) ports: RangeInclusive<u16>,
    pub(crate) fence_exclusive: bool,
    pub(crate) node_ttl: Span,
    heart: Option<Heart>,
    _reserved: ReservedPorts,
}

enum Heart {
    Here(Running, CancellationToken),
    Process(Child),
}

impl Node {
    /// A node without a heart.
    pub(crate) async fn new() -> Self {
        let reserved = ReservedPorts::take();
        Self {
            pacemaker: Pacemaker::start().await,
            others: Vec::new(),
            directory: tempfile::tempdir().unwrap(),
            ports: reserved.range(),
            _reserved: reserved,
            fence_exclusive: false,
            node_ttl: Span::seconds(1),
            heart: None,
        }
    }

    /// A node whose heart runs in this process.
    pub(crate) async fn started() -> Self {
        let mut node = Self::new().await;
        node.start().await;
        node
    }

    pub(crate) fn config(&self) -> Config {
        let others = self.others.iter();
        let endpoints: Vec<String> = std::iter::once(&self.pacemaker)
            .chain(others)
            .map(Pacemaker::url)
            .collect();
        let client = Client::new(&endpoints, "token").unwrap();
        let mut config = Config::new(NODE, self.data(), program("shim"), client);
        config.ports = self.ports.clone();
        config.fence_exclusive = self.fence_exclusive;
        config.node_ttl = self.node_ttl;
        config.node_tags = BTreeMap::from([("disk".to_owned(), json!("ssd"))]);
        config.token_hashes = vec![Digest::of(TOKEN.as_bytes()).as_str().to_owned()];
        config
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("heart")
    }

    pub(crate) fn instance_directory(&self, id: u64) -> PathBuf {
        self.data().join("instances").join(id.to_string())
    }

    /// Starts the heart in this process.
    pub(crate) async fn start(&mut self) {
        let shutdown = CancellationToken::new();
        let running = heart::start(self.config(), shutdown.clone()).await.unwrap();
        self.heart = Some(Heart::Here(running, shutdown));
    }

    pub(crate) fn running(&self) -> &Running {
        match &self.heart {
            Some(Heart::Here(running, _)) => running,
            _ => panic!("no heart in this process"),
        }
    }

    /// Shuts the heart in this process down; its processes go on.
    pub(crate) async fn stop(&mut self) {
        if let Some(Heart::Here(running, shutdown)) = self.heart.take() {
            shutdown.cancel();
            running.finished.await.unwrap().unwrap();
        }
    }

    /// Starts the heart in a process of its own.
    pub(crate) fn start_process(&mut self, crash_at: Option<CrashPoint>) {
        let told = json!({
            "node": NODE,
            "data_dir": self.data(),
            "shim_program": program("shim"),
            "pacemaker": self.pacemaker.url(),
            "ports": (self.ports.start(), self.ports.end()),
            "fence_exclusive": self.fence_exclusive,
            "node_ttl_ms": self.node_ttl.0,
            "crash_at": crash_at.map(|point| format!("{point:?}")),
        });
        let file = self.directory.path().join("told.json");
        fs::write(&file, told.to_string()).unwrap();
        let child = Command::new(program("fixture"))
            .arg("heart")
            .arg(file)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.heart = Some(Heart::Process(child));
    }

    /// Kills the heart's process with SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(Heart::Process(mut child)) = self.heart.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Sends a signal to the heart's process.
    pub(crate) fn signal(&self, signal: Signal) {
        let Some(Heart::Process(child)) = &self.heart else {
            panic!("no heart in a process of its own");
        };
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// True once the heart's process has ended by itself.
    pub(crate) fn has_died(&mut self) -> bool {
        match &mut self.heart {
            Some(Heart::Process(child)) => child.try_wait().unwrap().is_some(),
            _ => true,
        }
    }

    /// Packs files (name and content) and takes them into the store.
    pub(crate) fn package(&self, files: &[(&str, &str)]) -> PackageReference {
        self.pacemaker.store(pack(files))
    }

    /// An instance that serves, of a package of its own kind.
    pub(crate) fn server(&self, id: u64) -> AssignedInstance {
        let package = self.package(&[("code.txt", "code")]);
        let command = format!("{} serve %(port)d", program("fixture").display());
        instance(id, package, &command)
    }

    /// An instance of a shell script without a port.
    pub(crate) fn worker(&self, id: u64, script: &str) -> AssignedInstance {
        let package = self.package(&[("code.txt", "code"), ("worker.sh", script)]);
        let mut worker = instance(id, package, "sh worker.sh");
        worker.standalone = true;
        worker.standalone_wait = Span(50);
        worker
    }

    /// Waits until an instance is in a state, and says what the report said.
    pub(crate) async fn reaches(&self, id: u64, state: InstanceState) -> InstanceReport {
        let what = || {
            let found = self.pacemaker.instance(InstanceId(id))?;
            (found.state == state).then_some(found)
        };
        eventually(&format!("instance {id} is {state:?}"), what, || {
            format!("{:?}", self.pacemaker.history(InstanceId(id)))
        })
        .await
    }

    /// Waits until an instance has failed for this reason.
    pub(crate) async fn fails(&self, id: u64, code: FailureCode) -> InstanceReport {
        let what = || {
            self.pacemaker
                .history(InstanceId(id))
                .into_iter()
                .find(|report| {
                    report
                        .failure
                        .as_ref()
                        .is_some_and(|found| found.code == code)
                })
        };
        eventually(&format!("instance {id} fails: {code:?}"), what, || {
            format!("{:?}", self.pacemaker.history(InstanceId(id)))
        })
        .await
    }

    /// Waits until an instance is no longer reported and nothing of it is on disk.
    pub(crate) async fn is_rid_of(&self, id: u64) {
        let what = || {
            let is_reported = self.pacemaker.instance(InstanceId(id)).is_some();
            (!is_reported && !self.instance_directory(id).exists()).then_some(())
        };
        eventually(&format!("instance {id} is gone"), what, || {
            format!("{:?}", self.pacemaker.history(InstanceId(id)))
        })
        .await;
    }
}

/// A range of ports that no other test has, as long as this lives.
struct ReservedPorts {
    first: u16,
    /// Locked; other tests look for the lock.
    _lock: fs::File,
}

impl ReservedPorts {
    /// Takes a range that no test has and nobody uses.
    fn take() -> Self {
        let start = u16::try_from(std::process::id() % u32::from(PORT_RANGES)).unwrap();
        let slots = (start..PORT_RANGES).chain(0..start);
        slots
            .filter_map(Self::try_take)
            .next()
            .expect("a range of ports that nobody uses")
    }

    fn try_take(slot: u16) -> Option<Self> {
        let path = std::env::temp_dir().join(format!("paasmaker-test-ports-{slot}"));
        let lock = fs::File::create(path).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).ok()?;
        let first = 20_000 + slot * PORTS_PER_TEST;
        let reserved = Self { first, _lock: lock };
        reserved
            .range()
            .all(heart::ports::is_free)
            .then_some(reserved)
    }

    fn range(&self) -> RangeInclusive<u16> {
        self.first..=self.first + PORTS_PER_TEST - 1
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        match self.heart.take() {
            Some(Heart::Process(mut child)) => {
                drop(child.kill());
                drop(child.wait());
            }
            Some(Heart::Here(running, shutdown)) => {
                // It would start again what is killed below; other threads carry its tasks.
                shutdown.cancel();
                let deadline = Instant::now() + PATIENCE;
                while !running.finished.is_finished() && Instant::now() < deadline {
                    std::thread::yield_now();
                }
            }
            None => {}
        }
        // What a test has left running would outlive it otherwise.
        for directory in fs::read_dir(self.data().join("instances"))
            .into_iter()
            .flatten()
        {
            let Ok(directory) = directory else { continue };
            let id = directory.file_name().to_string_lossy().parse();
            for run in ["run", "startup"] {
                let run = directory.path().join(run);
                if let Ok(id) = id {
                    drop(heart::shim::kill_tree(&run, InstanceId(id)));
                }
            }
        }
    }
}

/// Waits for a level: until `what` has something.
pub(crate) async fn eventually<T>(
    name: &str,
    mut what: impl FnMut() -> Option<T>,
    otherwise: impl Fn() -> String,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    let mut looks = tokio::time::interval(Duration::from_millis(2));
    loop {
        looks.tick().await;
        if let Some(found) = what() {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "not in time: {name}: {}",
            otherwise()
        );
    }
}

/// A program among the examples of this crate.
pub(crate) fn program(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .join("examples")
        .join(name);
    assert!(
        path.exists(),
        "{} is missing: build the examples",
        path.display()
    );
    path
}

/// The bytes of a package with these files.
pub(crate) fn pack(files: &[(&str, &str)]) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    fs::create_dir(&root).unwrap();
    for (name, content) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let out = directory.path().join("package");
    heart::package::pack(&root, &out, &[]).unwrap();
    fs::read(out).unwrap()
}

/// An instance with a port.
pub(crate) fn instance(id: u64, package: PackageReference, command: &str) -> AssignedInstance {
    AssignedInstance {
        id: InstanceId(id),
        goal: InstanceGoal::Running,
        subject: subject(),
        instance_type: InstanceTypeName::parse("web").unwrap(),
        package,
        runtime: RuntimeSpec {
            plugin: PluginName::parse("paasmaker.runtime.shell").unwrap(),
            version: "1".to_owned(),
            program: Program::Command {
                launch_command: command.to_owned(),
            },
        },
        startup: Vec::new(),
        env: BTreeMap::new(),
        services: BTreeMap::new(),
        standalone: false,
        exclusive: false,
        health: None,
        stop: StopSpec {
            grace: Span::seconds(5),
            ..StopSpec::default()
        },
        start_timeout: Span::seconds(20),
        standalone_wait: Span::seconds(1),
        cron_key: None,
    }
}

/// What all instances and builds belong to.
pub(crate) fn subject() -> Subject {
    Subject {
        application_id: ApplicationId(5),
        application: ApplicationName::parse("hello").unwrap(),
        version: VersionNumber(1),
        version_id: VersionId(7),
        workspace: "Test".to_owned(),
        workspace_stub: WorkspaceStub::parse("test").unwrap(),
        workspace_tags: BTreeMap::new(),
    }
}

/// One script of these commands.
pub(crate) fn script(commands: &[&str]) -> ShellScript {
    ShellScript {
        commands: commands.iter().map(|line| (*line).to_owned()).collect(),
    }
}

/// The body of `GET /` on a port of this machine; `None` when nobody answers.
pub(crate) fn ask(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.to_owned())
}

/// True while a process with this id exists and is no zombie.
pub(crate) fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit_once(')')
            .is_some_and(|(_, rest)| rest.starts_with(" Z"))
    })
}
