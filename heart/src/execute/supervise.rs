//! Watches over one process: the start check, then its end.

use std::sync::Arc;

use common::assignment::Assignment;
use common::id::InstanceId;
use common::instance::{Failure, FailureCode};

use tokio::sync::watch;

use super::Executor;
use crate::failure::failure;
use crate::health::StartCheck;
use crate::local::Event;
use crate::runs;
use crate::shim::{ExitRecord, ProcessRecord};

/// Tries, each of up to ten seconds: records that are broken stay so, and the instance is wanted.
const KILL_TRIES: usize = 30;

/// The newest assignment; none before a pacemaker was heard or one was read from disk.
pub(crate) type Assignments = watch::Receiver<Option<Arc<Assignment>>>;

/// One run that is watched.
#[derive(Debug)]
pub(crate) struct Supervision {
    /// Whose.
    pub(crate) instance: InstanceId,
    /// Which of its runs.
    pub(crate) run: u64,
    /// The process.
    pub(crate) process: ProcessRecord,
    /// What it must still pass; none for an adopted process that has passed already.
    pub(crate) check: Option<StartCheck>,
    /// Where its output begins in the instance's log.
    pub(crate) log_start: u64,
}

/// How a process has ended.
struct End {
    words: String,
    was_cut_off: bool,
}

impl Executor {
    /// Watches over a process that an earlier heart started.
    pub(crate) fn supervise(&self, supervision: Supervision) {
        let executor = self.clone();
        self.spawn(async move { supervision.watch(&executor).await });
    }

    /// Watches over one that has not passed its start check: what that is, an assignment says, and
    /// there may be none yet.
    pub(crate) fn supervise_once_assigned(
        &self,
        mut supervision: Supervision,
        port: Option<u16>,
        mut assignments: Assignments,
    ) {
        let executor = self.clone();
        self.spawn(async move {
            let instance = supervision.instance;
            let check = tokio::select! {
                biased;
                check = check_of(instance, port, &mut assignments) => check,
                () = supervision.watch(&executor) => return,
            };
            supervision.check = check;
            supervision.watch(&executor).await;
        });
    }
}

/// The start check of an instance, as soon as it is assigned; none when the heart ends before.
async fn check_of(
    instance: InstanceId,
    port: Option<u16>,
    assignments: &mut Assignments,
) -> Option<StartCheck> {
    let of = |assignment: &Option<Arc<Assignment>>| {
        let mut instances = assignment
            .iter()
            .flat_map(|assignment| &assignment.instances);
        instances
            .find(|assigned| assigned.id == instance)
            .map(|assigned| StartCheck::of(assigned, port))
    };
    let found = assignments
        .wait_for(|assignment| of(assignment).is_some())
        .await;
    found.ok().and_then(|assignment| of(&assignment))
}

impl Supervision {
    /// Tells of the check and of the end; stops watching when the heart shuts down.
    pub(crate) async fn watch(&self, executor: &Executor) {
        tokio::select! {
            () = self.watch_to_the_end(executor) => {}
            () = executor.shutdown.cancelled() => {}
        }
    }

    async fn watch_to_the_end(&self, executor: &Executor) {
        let mut end = std::pin::pin!(self.end(executor));
        let mut blame = None;
        if let Some(check) = &self.check {
            tokio::select! {
                biased;
                ended = &mut end => {
                    blame = check.blames_port(&self.process.shim);
                    return self.tell_ended(executor, ended, blame).await;
                }
                passed = check.pass(&self.process.shim) => {
                    let (instance, run) = (self.instance, self.run);
                    executor.tell(match passed {
                        Ok(()) => {
                            self.note_passed(executor);
                            Event::Passed { instance, run }
                        }
                        Err(mut failure) => {
                            failure.output_tail = self.output_tail(executor);
                            Event::CheckFailed { instance, run, failure }
                        }
                    }).await;
                }
            }
        }
        let ended = end.await;
        self.tell_ended(executor, ended, blame).await;
    }

    fn note_passed(&self, executor: &Executor) {
        let run_directory = executor.directories.instance(self.instance).run();
        if let Err(error) = runs::note_passed(&run_directory) {
            tracing::warn!(instance = %self.instance, %error, "noting that a start check was passed");
        }
    }

    /// Waits for the end and says how it was.
    async fn end(&self, executor: &Executor) -> End {
        runs::wait(&self.process.shim).await;
        let run_directory = executor.directories.instance(self.instance).run();
        let record = ExitRecord::read(&run_directory).unwrap_or_else(|error| {
            tracing::warn!(instance = %self.instance, %error, "reading how a process ended");
            None
        });
        if record.is_none() {
            runs::kill_for_certain(&run_directory, self.instance, KILL_TRIES).await;
        }
        End {
            was_cut_off: record.as_ref().is_some_and(|record| record.cut_off),
            words: runs::describe(record.as_ref().map(|record| &record.ending)),
        }
    }

    async fn tell_ended(&self, executor: &Executor, end: End, blame: Option<Failure>) {
        let ended = end.words;
        tracing::info!(instance = %self.instance, pid = self.process.application.pid, %ended, "process ended");
        let mut failure =
            blame.unwrap_or_else(|| failure(FailureCode::Exited, format!("the process {ended}")));
        failure.output_tail = self.output_tail(executor);
        executor
            .tell(Event::Ended {
                instance: self.instance,
                run: self.run,
                failure,
                was_cut_off: end.was_cut_off,
            })
            .await;
    }

    fn output_tail(&self, executor: &Executor) -> String {
        let log = executor.directories.instance(self.instance).log();
        runs::tail_since(&log, self.log_start)
    }
}
