//! What the tests of the shim stand on: runs, strangers, small disks, the table of processes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::application::StopSignal;
use common::time::Span;
use heart::shim::{
    ExitRecord, LogLimits, ProcessRecord, Spawner, Specification, Started, kill_tree, log,
    request_stop,
};

use super::INSTANCE;

/// How long a level may take to be reached.
const PATIENCE: Duration = Duration::from_secs(20);

/// One run directory, its log, its working directory.
pub(super) struct Run {
    place: tempfile::TempDir,
    pub(super) spawner: std::sync::Arc<Spawner>,
}

impl Run {
    pub(super) fn new() -> Self {
        let spawner = Spawner::new(shim_program(), vec!["shim".into()]);
        Self::with_spawner(spawner.into())
    }

    pub(super) fn with_spawner(spawner: std::sync::Arc<Spawner>) -> Self {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("code")).unwrap();
        Self { place, spawner }
    }

    pub(super) fn records(&self) -> PathBuf {
        self.place.path().join("run")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.place.path().join("log")
    }

    pub(super) fn directory(&self) -> PathBuf {
        self.place.path().join("code")
    }

    pub(super) fn shell(&self, script: &str) -> Specification {
        Specification {
            instance: INSTANCE,
            arguments: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
            environment: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
            directory: self.directory(),
            stop_signal: StopSignal::Term,
            grace: Span::seconds(20),
            log_directory: self.log(),
            log_limits: LogLimits::default(),
            lease: None,
        }
    }

    pub(super) fn start(&self, specification: &Specification) {
        specification.write(&self.records()).unwrap();
        match self.spawner.spawn(&self.records()).unwrap() {
            Started::Running(record) => eventually("the record is on disk", || {
                ProcessRecord::read(&self.records()).unwrap().as_ref() == Some(&record)
            }),
            Started::Failed { .. } => {}
        }
    }

    pub(super) fn process(&self) -> ProcessRecord {
        ProcessRecord::read(&self.records()).unwrap().unwrap()
    }

    pub(super) fn stop(&self) {
        request_stop(&self.process().shim).unwrap();
    }

    pub(super) fn wait_exit(&self) -> ExitRecord {
        let shim = self.process().shim;
        eventually("the shim has ended", || !shim.is_alive());
        ExitRecord::read(&self.records()).unwrap().unwrap()
    }

    pub(super) fn output(&self) -> String {
        String::from_utf8(log::read(&self.log(), 0, 1 << 20).unwrap().bytes).unwrap()
    }

    pub(super) fn wait_output(&self, words: &str) {
        eventually(words, || self.output().contains(words));
    }

    /// Every process of this run: its working directory is inherited by all of them.
    pub(super) fn leftovers(&self) -> Vec<String> {
        let directory = fs::canonicalize(self.directory()).unwrap();
        processes()
            .into_iter()
            .filter(|pid| {
                fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == directory)
            })
            .map(|pid| {
                let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                format!("{pid} {}", String::from_utf8_lossy(&command))
            })
            .collect()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.records().exists() {
            kill_tree(&self.records(), INSTANCE).unwrap();
        }
    }
}

/// A process that has nothing to do with any run.
pub(super) struct Stranger {
    pub(super) child: Child,
}

impl Stranger {
    pub(super) fn new() -> Self {
        let child = Command::new("sleep")
            .arg("1000")
            .env("PM_INSTANCE", INSTANCE.to_string())
            .env("PM_RUN", "00000000000000000000000000000000")
            .spawn()
            .unwrap();
        Self { child }
    }

    pub(super) fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A small file system of its own; none where this may not be mounted.
pub(crate) struct SmallDisk {
    place: tempfile::TempDir,
}

impl SmallDisk {
    pub(crate) fn mount(size: &str) -> Option<Self> {
        let place = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(place.path())
            .stderr(Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self { place });
        }
        eprintln!("SKIPPED: a small disk cannot be mounted by this user");
        None
    }

    pub(crate) fn path(&self) -> &Path {
        self.place.path()
    }

    pub(super) fn grow(&self, size: &str) {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,size={size}")])
            .arg(self.path())
            .status();
        assert!(status.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is being killed may still have its log open.
        let status = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(status.unwrap().success());
    }
}

/// A daemon that double-forks and ignores SIGTERM, one without environment and output, and
/// processes that replace themselves by a new one all the time, in new sessions.
pub(super) fn write_escape_artists(directory: &Path) {
    write_script(
        directory,
        "escape",
        "(setsid sh -c 'trap \"\" TERM HUP INT; while :; do sleep 1; done' &)\n\
         (env -i setsid sh -c 'exec sleep 1000 > /dev/null 2>&1' &)\n\
         i=0; while [ $i -lt 20 ]; do (setsid ./again $i &) ; i=$((i+1)); done\n",
    );
    write_script(
        directory,
        "again",
        "trap '' TERM\n(setsid ./again $1 &)\n[ $1 -gt 10 ] && sleep 0.01\nexit 0\n",
    );
}

pub(super) fn write_script(directory: &Path, name: &str, lines: &str) {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{lines}")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

pub(crate) fn shim_program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .join("examples/shim");
    assert!(
        program.exists(),
        "{} is missing: build the examples of this crate with its tests",
        program.display()
    );
    program
}

pub(super) fn processes() -> Vec<u32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .collect()
}

pub(super) fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The letter of a process's state.
pub(super) fn state_of(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.trim_start().chars().next()
}

pub(super) fn name_of(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

pub(super) fn descendants(root: u32) -> Vec<u32> {
    let all = processes();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(all.iter().filter(|pid| parent_of(**pid) == Some(parent)));
        next += 1;
    }
    found.split_off(1)
}

/// The only child of this test's process is the server (each test is a process of its own).
pub(super) fn server_of_this_process() -> u32 {
    let own = std::process::id();
    let mut children = processes()
        .into_iter()
        .filter(|pid| parent_of(*pid) == Some(own));
    let server = children.next().unwrap();
    assert_eq!(children.next(), None, "run these tests with nextest");
    server
}

pub(super) fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

pub(super) fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
}

#[expect(clippy::disallowed_methods, reason = "the pause between two looks")]
pub(super) fn eventually(level: &str, reached: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < deadline, "never reached: {level}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
