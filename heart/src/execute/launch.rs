//! Starts an instance: startup commands when they are due, then the process.

use std::path::{Component, Path, PathBuf};

use common::application::Program;
use common::assignment::AssignedInstance;
use common::instance::{Failure, FailureCode};
use tokio_util::sync::CancellationToken;

use super::{Executor, Shared};
use crate::crash_point::CrashPoint;
use crate::directories::WorkDirectory;
use crate::environment;
use crate::failure::{failure, failure_of};
use crate::health::StartCheck;
use crate::local::journal::Written;
use crate::local::{Event, FENCE_GRACE};
use crate::script::{STARTUP_LIMIT, Scripts};
use crate::shim::{self, Lease, LogLimits, ProcessRecord, Specification};

use super::supervise::Supervision;

/// One start of an instance.
#[derive(Debug)]
pub(crate) struct Launch {
    /// What is started.
    pub(crate) assigned: AssignedInstance,
    /// Its port, unless it is standalone.
    pub(crate) port: Option<u16>,
    /// Which of its runs this is.
    pub(crate) run: u64,
    /// True when the startup commands are due.
    pub(crate) needs_startup: bool,
    /// A port that is new is on disk once this resolves.
    pub(crate) journaled: Option<Written>,
    /// Gives up when this is cancelled before the process exists.
    pub(crate) cancelled: CancellationToken,
}

impl Executor {
    /// Starts an instance and watches over its process until that has ended.
    pub(crate) fn launch(&self, launch: Launch) {
        let executor = self.clone();
        self.spawn(async move {
            let instance = launch.assigned.id;
            let run = launch.run;
            let check = StartCheck::of(&launch.assigned, launch.port);
            let log = executor.directories.instance(instance).log();
            let log_start = shim::log::length(&log).unwrap_or(0);
            let outcome = executor.start(launch).await;
            if let Err(failure) = &outcome
                && failure.code != FailureCode::Aborted
            {
                tracing::warn!(%instance, reason = %failure.message, "starting an instance");
            }
            let started = outcome.as_ref().ok().cloned();
            executor.tell(Event::Launched { instance, outcome }).await;
            if let Some(process) = started {
                let supervision = Supervision {
                    instance,
                    run,
                    process,
                    check: Some(check),
                    log_start,
                };
                supervision.watch(&executor).await;
            }
        });
    }
}

impl Shared {
    async fn start(&self, launch: Launch) -> Result<ProcessRecord, Failure> {
        let assigned = &launch.assigned;
        let directory = self.directories.instance(assigned.id);
        let environment =
            environment::of_instance(assigned, launch.port, &self.node_tags, &directory);
        let arguments = self.arguments(assigned, launch.port, &directory)?;
        std::fs::create_dir_all(directory.temporary()).map_err(|error| {
            let text = format!("the instance's temporary directory could not be made: {error}");
            failure(FailureCode::Disk, text)
        })?;
        if launch.needs_startup && !assigned.startup.is_empty() {
            let scripts = Scripts {
                scripts: &assigned.startup,
                instance: assigned.id,
                run_directory: directory.startup(),
                directory: directory.code(),
                environment: environment.clone(),
                log_directory: directory.log(),
                log_limits: LogLimits::default(),
                limit: STARTUP_LIMIT,
                code: FailureCode::StartupFailed,
                lease: self.lease_of(assigned),
            };
            scripts.run(&self.runs, &launch.cancelled).await?;
            self.crash.at(CrashPoint::AfterStartup);
        }
        if let Some(journaled) = launch.journaled {
            // A full disk delays the journal for as long as it is full.
            tokio::select! {
                written = journaled => {
                    written.map_err(|error| failure_of(FailureCode::Disk, &error))?;
                }
                () = launch.cancelled.cancelled() => return Err(given_up()),
            }
        }
        let permit = self.spawns.acquire().await;
        let _permit = permit.expect("the semaphore is never closed");
        if launch.cancelled.is_cancelled() {
            return Err(given_up());
        }
        let specification = Specification {
            instance: assigned.id,
            arguments,
            environment,
            directory: directory.code(),
            stop_signal: assigned.stop.signal,
            grace: assigned.stop.grace,
            log_directory: directory.log(),
            log_limits: LogLimits::default(),
            lease: self.lease_of(assigned),
        };
        let begin = std::time::Instant::now();
        let process = self.runs.launch(specification, directory.run()).await?;
        self.metrics.note_spawn(begin.elapsed());
        Ok(process)
    }

    /// What an instance must hold to run, when it is exclusive and another node could start it.
    fn lease_of(&self, assigned: &AssignedInstance) -> Option<Lease> {
        let is_fenced = self.fence_exclusive && assigned.exclusive;
        is_fenced.then(|| Lease {
            file: self.directories.lease(),
            grace: assigned.stop.grace.min(FENCE_GRACE),
        })
    }

    fn arguments(
        &self,
        assigned: &AssignedInstance,
        port: Option<u16>,
        directory: &WorkDirectory,
    ) -> Result<Vec<String>, Failure> {
        match &assigned.runtime.program {
            Program::Command { launch_command } => common::launch::arguments(launch_command, port)
                .map_err(|error| failure_of(FailureCode::LaunchFailed, &error)),
            Program::Static { document_root } => {
                let root = inside(&directory.code(), document_root).ok_or_else(|| {
                    let text = format!("the document root `{document_root}` leaves the directory");
                    failure(FailureCode::LaunchFailed, text)
                })?;
                Ok(vec![
                    self.shim_program.to_string_lossy().into_owned(),
                    "static".to_owned(),
                    "--root".to_owned(),
                    root.to_string_lossy().into_owned(),
                ])
            }
            Program::Environment | Program::Unsupported => {
                let text = format!(
                    "the runtime {} has no program that this node can run",
                    assigned.runtime.plugin
                );
                Err(failure(FailureCode::Unsupported, text))
            }
        }
    }
}

fn given_up() -> Failure {
    failure(FailureCode::Aborted, "the start was given up")
}

/// `path` below `root`, if its text does not lead out of it.
fn inside(root: &Path, path: &str) -> Option<PathBuf> {
    let is_inside = Path::new(path)
        .components()
        .all(|component| matches!(component, Component::Normal(_) | Component::CurDir));
    is_inside.then(|| root.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    use common::id::NodeId;
    use pacemaker_client::Client;

    use crate::Config;
    use crate::crash_point::Crash;
    use crate::directories::Directories;
    use crate::fetch::Packages;
    use crate::metrics::Metrics;
    use crate::samples;

    #[test]
    fn a_document_root_stays_inside() {
        let root = Path::new("/code");

        assert_eq!(inside(root, "public"), Some(PathBuf::from("/code/public")));
        assert_eq!(inside(root, "."), Some(PathBuf::from("/code/.")));
        assert_eq!(inside(root, ""), Some(PathBuf::from("/code/")));
        for outside in ["..", "a/../..", "/etc", "a/../b"] {
            assert_eq!(inside(root, outside), None, "{outside}");
        }
    }

    #[tokio::test]
    async fn a_start_that_waits_for_the_journal_can_be_given_up() {
        let place = tempfile::tempdir().unwrap();
        let client = Client::new(&["http://127.0.0.1:1".to_owned()], "token").unwrap();
        let packages = Packages::new(
            Directories::new(place.path().to_owned()),
            client.clone(),
            Crash(None),
            "boot".to_owned(),
            CancellationToken::new(),
        );
        let config = Config::new(
            NodeId(1),
            place.path().to_owned(),
            PathBuf::from("/absent"),
            client,
        );
        let (executor, _events) =
            Executor::new(&config, packages, Metrics::new(), CancellationToken::new());
        // The disk is full: it is never written.
        let (_unwritten, journaled) = tokio::sync::oneshot::channel();
        let launch = Launch {
            assigned: samples::instance(1),
            port: Some(20_000),
            run: 1,
            needs_startup: false,
            journaled: Some(journaled),
            cancelled: CancellationToken::new(),
        };
        launch.cancelled.cancel();

        let given_up = tokio::time::timeout(Duration::from_secs(10), executor.start(launch)).await;

        assert_eq!(given_up.unwrap().unwrap_err().code, FailureCode::Aborted);
    }
}
