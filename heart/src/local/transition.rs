//! What an event does to what this node holds: plain, synchronous, told the time.

use common::assignment::{AssignedInstance, Assignment, BuildState};
use common::id::{InstanceId, JobId};
use common::instance::{Failure, FailureCode, InstanceGoal};
use common::time::Span;

use super::{
    Condition, Entry, Held, HeldBuild, Local, PORT_TRIES, StopReason, WELL_AFTER, Work,
    delay_before_restart,
};
use crate::clock::Moment;
use crate::failure::failure;
use crate::ports::{NoPort, Proof};
use crate::shim::ProcessRecord;

/// Something that has happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An instance's directory is complete, or could not be made.
    LaidOut {
        /// Which instance.
        instance: InstanceId,
        /// Why not.
        outcome: Result<(), Failure>,
    },
    /// The directories of these instances have reached the disk.
    Synced {
        /// Which instances.
        instances: Vec<InstanceId>,
    },
    /// A process has been started, or could not be.
    Launched {
        /// Which instance.
        instance: InstanceId,
        /// The process, or why there is none.
        outcome: Result<ProcessRecord, Failure>,
    },
    /// The process has passed its start check.
    Passed {
        /// Which instance.
        instance: InstanceId,
        /// Which of its runs.
        run: u64,
    },
    /// The process lives and has not passed its start check in time.
    CheckFailed {
        /// Which instance.
        instance: InstanceId,
        /// Which of its runs.
        run: u64,
        /// Why.
        failure: Failure,
    },
    /// Nothing of the process is left.
    Ended {
        /// Which instance.
        instance: InstanceId,
        /// Which of its runs.
        run: u64,
        /// What it says in a report, if nobody told it to end.
        failure: Failure,
        /// True when its shim ended it because no pacemaker had been heard for too long.
        was_cut_off: bool,
    },
    /// An instance's directory is gone, or could not be removed.
    Removed {
        /// Which instance.
        instance: InstanceId,
        /// False: it must be tried again.
        is_gone: bool,
    },
    /// A build has got further.
    BuildChanged {
        /// Whose.
        job: JobId,
        /// How far.
        state: BuildState,
    },
}

/// How long after a failed removal it is tried again.
const REMOVE_AGAIN_AFTER: Span = Span::seconds(1);

impl Local {
    /// Takes in the assignment: its instances are held from now on, and what is only to
    /// be on disk has no failures any more. Doing it again changes nothing.
    pub fn meet(&mut self, assignment: &Assignment, boot_id: &str) {
        for assigned in &assignment.instances {
            let held = self
                .instances
                .entry(assigned.id)
                .or_insert_with(|| Held::idle(Entry::new(assigned, boot_id)));
            if assigned.goal == InstanceGoal::Registered && held.is_at_rest() {
                held.forgive();
            }
        }
    }

    /// Takes in what has happened; an event about something no longer held, or about an earlier run,
    /// changes nothing.
    pub fn apply(&mut self, event: Event, now: Moment) {
        match event {
            Event::LaidOut { instance, outcome } => {
                self.with(instance, |held| held.laid_out(outcome, now));
            }
            Event::Synced { instances } => {
                for instance in instances {
                    self.with(instance, |held| {
                        held.entry.is_synced = held.entry.is_laid_out;
                    });
                }
            }
            Event::Launched { instance, outcome } => {
                self.with(instance, |held| held.launched(outcome, now));
            }
            Event::Passed { instance, run } => {
                self.with_run(instance, run, |held| held.passed(now));
            }
            Event::CheckFailed {
                instance,
                run,
                failure,
            } => self.with_run(instance, run, |held| held.check_failed(failure)),
            Event::Ended {
                instance,
                run,
                failure,
                was_cut_off,
            } => {
                if was_cut_off {
                    self.with_run(instance, run, Held::cut_off);
                }
                self.ended(instance, run, failure, now);
            }
            Event::Removed { instance, is_gone } => self.removed(instance, is_gone, now),
            Event::BuildChanged { job, state } => {
                if let Some(build) = self.builds.get_mut(&job) {
                    build.state = state;
                }
            }
        }
    }

    /// Notes that laying out begins.
    pub fn begin_lay_out(&mut self, instance: InstanceId) {
        self.with(instance, |held| {
            held.count_retry();
            held.work = Some(Work::LayingOut);
        });
    }

    /// Notes that launching begins; gives the instance a port first when it needs one.
    ///
    /// # Errors
    /// When no port is free: the failure is noted and the start will be tried again.
    pub fn begin_launch(
        &mut self,
        assigned: &AssignedInstance,
        proof: Proof,
        now: Moment,
    ) -> Result<(), NoPort> {
        let Some(held) = self.instances.get_mut(&assigned.id) else {
            return Ok(());
        };
        held.count_retry();
        if !assigned.standalone && held.entry.port.is_none() {
            match self.ports.take_proven(proof) {
                Ok(port) => held.entry.port = Some(port),
                Err(no_port) => {
                    held.fail(
                        failure(FailureCode::NoPort, no_port.to_string()),
                        false,
                        now,
                    );
                    return Err(no_port);
                }
            }
        }
        held.entry.runs += 1;
        held.work = Some(Work::Launching);
        Ok(())
    }

    /// Notes that the process has been told to end.
    pub fn begin_stop(&mut self, instance: InstanceId, kill_at: Moment) {
        self.with(instance, |held| {
            let condition = std::mem::replace(&mut held.condition, Condition::Idle);
            held.condition = match condition {
                Condition::Idle => Condition::Idle,
                Condition::Starting(process) | Condition::Running { process, .. } => {
                    Condition::Stopping {
                        process,
                        kill_at,
                        reason: StopReason::NotWanted,
                    }
                }
                Condition::Failing { process, failure } => Condition::Stopping {
                    process,
                    kill_at,
                    reason: StopReason::Failed(failure),
                },
                Condition::Stopping {
                    process, reason, ..
                } => Condition::Stopping {
                    process,
                    kill_at,
                    reason,
                },
            };
        });
    }

    /// Notes that work under way has been told to give up.
    pub fn begin_giving_up(&mut self, instance: InstanceId) {
        self.with(instance, |held| held.work = Some(Work::GivingUp));
    }

    /// Notes that removal begins.
    pub fn begin_remove(&mut self, instance: InstanceId) {
        self.with(instance, |held| held.work = Some(Work::Removing));
    }

    /// Notes that a build begins.
    pub fn begin_build(&mut self, job: JobId) {
        self.builds.insert(
            job,
            HeldBuild {
                state: BuildState::Running,
                is_aborted: false,
            },
        );
    }

    /// Notes that a build has been told to give up.
    pub fn begin_abort(&mut self, job: JobId) {
        if let Some(build) = self.builds.get_mut(&job) {
            build.is_aborted = true;
        }
    }

    /// Forgets a build that has ended.
    pub fn forget_build(&mut self, job: JobId) {
        self.builds.remove(&job);
    }

    /// Forgets old restarts of instances that have run well for long enough.
    pub fn settle(&mut self, now: Moment) {
        for held in self.instances.values_mut() {
            if held.entry.restarts > 0 && held.runs_well(now) {
                held.entry.restarts = 0;
            }
        }
    }

    fn with(&mut self, instance: InstanceId, change: impl FnOnce(&mut Held)) {
        if let Some(held) = self.instances.get_mut(&instance) {
            change(held);
        }
    }

    fn with_run(&mut self, instance: InstanceId, run: u64, change: impl FnOnce(&mut Held)) {
        self.with(instance, |held| {
            if held.entry.runs == run {
                change(held);
            }
        });
    }

    fn ended(&mut self, instance: InstanceId, run: u64, failure: Failure, now: Moment) {
        let Some(held) = self.instances.get_mut(&instance) else {
            return;
        };
        if held.entry.runs != run || held.condition == Condition::Idle {
            return;
        }
        if let Some(port) = held.ended(failure, now) {
            self.ports.release(port);
        }
    }

    fn removed(&mut self, instance: InstanceId, is_gone: bool, now: Moment) {
        if !is_gone {
            self.with(instance, |held| {
                held.work = None;
                held.remove_again_at = Some(now.after(REMOVE_AGAIN_AFTER));
            });
            return;
        }
        let gone = self.instances.remove(&instance);
        if let Some(port) = gone.and_then(|held| held.entry.port) {
            self.ports.release(port);
        }
    }
}

impl Held {
    /// True when it is laid out and nothing happens to it.
    fn is_at_rest(&self) -> bool {
        self.condition == Condition::Idle && self.work.is_none() && self.entry.is_laid_out
    }

    /// Forgets failures: what comes next is a start like the first.
    fn forgive(&mut self) {
        self.entry.failure = None;
        self.entry.restarts = 0;
        self.entry.needs_startup = true;
        self.retry_at = None;
        self.ports_lost = 0;
    }

    fn fail(&mut self, failure: Failure, had_run: bool, now: Moment) {
        let delay = delay_before_restart(self.entry.restarts, had_run);
        self.retry_at = Some(now.after(delay));
        self.entry.failure = Some(failure);
    }

    /// A try after a failure is a restart.
    fn count_retry(&mut self) {
        if self.entry.failure.is_some() {
            self.entry.restarts = self.entry.restarts.saturating_add(1);
        }
        self.retry_at = None;
    }

    fn runs_well(&self, now: Moment) -> bool {
        match &self.condition {
            Condition::Running { since, .. } => now.since(*since) >= WELL_AFTER,
            Condition::Idle
            | Condition::Starting(_)
            | Condition::Failing { .. }
            | Condition::Stopping { .. } => false,
        }
    }

    fn laid_out(&mut self, outcome: Result<(), Failure>, now: Moment) {
        self.work = None;
        match outcome {
            Ok(()) => {
                self.entry.is_laid_out = true;
                self.entry.failure = None;
            }
            Err(failure) if failure.code == FailureCode::Aborted => {}
            Err(failure) => self.fail(failure, false, now),
        }
    }

    fn launched(&mut self, outcome: Result<ProcessRecord, Failure>, now: Moment) {
        self.work = None;
        match outcome {
            Ok(process) => {
                self.entry.needs_startup = false;
                self.condition = Condition::Starting(process);
            }
            Err(failure) if failure.code == FailureCode::Aborted => {}
            Err(failure) => self.fail(failure, false, now),
        }
    }

    fn passed(&mut self, now: Moment) {
        if let Condition::Starting(process) = &self.condition {
            self.condition = Condition::Running {
                process: process.clone(),
                since: now,
            };
            self.entry.failure = None;
            self.ports_lost = 0;
        }
    }

    /// The process is to be stopped: [`plan`](crate::plan::plan) sees a reason and no time yet.
    fn check_failed(&mut self, failure: Failure) {
        if let Condition::Starting(process) = &self.condition {
            self.condition = Condition::Failing {
                process: process.clone(),
                failure,
            };
        }
    }

    /// Its shim has stopped it, which is no fault of its own: as if the heart had.
    fn cut_off(&mut self) {
        if let Condition::Starting(process) | Condition::Running { process, .. } = &self.condition {
            self.condition = Condition::Stopping {
                process: process.clone(),
                kill_at: Moment(0),
                reason: StopReason::NotWanted,
            };
        }
    }

    /// Returns the port that it has lost.
    fn ended(&mut self, ended: Failure, now: Moment) -> Option<u16> {
        let had_run = matches!(self.condition, Condition::Running { .. });
        if self.runs_well(now) {
            self.entry.restarts = 0;
        }
        let failure = match std::mem::replace(&mut self.condition, Condition::Idle) {
            Condition::Stopping {
                reason: StopReason::NotWanted,
                ..
            } => {
                self.forgive();
                return None;
            }
            Condition::Stopping {
                reason: StopReason::Failed(failure),
                ..
            }
            | Condition::Failing { failure, .. } => failure,
            Condition::Idle | Condition::Starting(_) | Condition::Running { .. } => ended,
        };
        if failure.code != FailureCode::PortTaken {
            self.fail(failure, had_run, now);
            return None;
        }
        self.ports_lost += 1;
        if self.ports_lost >= PORT_TRIES {
            self.ports_lost = 0;
            self.fail(failure, false, now);
        }
        self.entry.port.take()
    }
}

#[cfg(test)]
mod tests;
