//! Reports what this node does run: levels, posted at once on any change and twice a second anyway.
//!
//! The loop publishes a [`Snapshot`]; the task here posts the newest one. A slow pacemaker delays
//! reports and nothing else, and what changed meanwhile goes out as one.

mod load;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::assignment::{
    Assignment, BuildReport, HeartReport, InstanceReport, REPORT_INTERVAL, Report,
};
use common::id::{Generation, InstanceId};
use common::instance::{InstanceGoal, InstanceState};
use common::time::Span;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::contact::{REMOVED_PAUSE, Talking, node_ttl};
use crate::crash_point::CrashPoint;
use crate::failure::chain;
use crate::keep_lease::LeaseKeeper;
use crate::local::{Condition, Held, Local, StopReason, Work};
use crate::metrics::Metrics;

/// A report that is not acknowledged in this time is given up for a newer one. Long enough for the
/// client to try each of five pacemakers for a second: given up earlier, it would begin with the same
/// ones again and never get to the one that answers.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(6);

/// What the loop publishes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Snapshot {
    /// Whose the assignment is; empty when it does not say, or there is none.
    pub(crate) cluster: String,
    /// What the assignment says of it; zero when it does not.
    pub(crate) node_ttl: Span,
    pub(crate) assignment: Generation,
    pub(crate) instances: Vec<InstanceReport>,
    pub(crate) builds: Vec<BuildReport>,
}

impl Snapshot {
    /// What `local` looks like from outside.
    pub(crate) fn of(assignment: Option<&Assignment>, local: &Local) -> Self {
        let goals: BTreeMap<InstanceId, InstanceGoal> = assignment
            .iter()
            .flat_map(|assignment| &assignment.instances)
            .map(|assigned| (assigned.id, assigned.goal))
            .collect();
        Self {
            cluster: assignment.map_or_else(String::new, |held| held.cluster.clone()),
            node_ttl: assignment.map_or(Span(0), |held| held.node_ttl),
            assignment: assignment.map_or(Generation(0), |held| held.generation),
            instances: local
                .instances
                .iter()
                .map(|(id, held)| instance_report(*id, held, goals.get(id).copied()))
                .collect(),
            builds: local
                .builds
                .iter()
                .map(|(job, build)| BuildReport {
                    job: *job,
                    state: build.state.clone(),
                })
                .collect(),
        }
    }
}

fn instance_report(id: InstanceId, held: &Held, goal: Option<InstanceGoal>) -> InstanceReport {
    let state = state(held, goal);
    let failure = held.failure().filter(|_| state == InstanceState::Failed);
    InstanceReport {
        id,
        state,
        port: held.entry.port,
        pid: held
            .condition
            .process()
            .map(|process| process.application.pid),
        restarts: held.entry.restarts,
        failure: failure.cloned(),
    }
}

/// The state that the pacemaker and the user see.
fn state(held: &Held, goal: Option<InstanceGoal>) -> InstanceState {
    match held.work {
        Some(Work::LayingOut) => return InstanceState::Allocated,
        // Startup commands belong to registering.
        Some(Work::Launching) if held.entry.needs_startup => return InstanceState::Registered,
        Some(Work::Launching) => return InstanceState::Starting,
        Some(Work::GivingUp) => return InstanceState::Stopping,
        Some(Work::Removing) => return InstanceState::Stopped,
        None => {}
    }
    match &held.condition {
        // The user need not know of the first strangers: another port is tried.
        Condition::Starting(_) => InstanceState::Starting,
        _ if held.tries_another_port() => InstanceState::Starting,
        Condition::Running { .. } => InstanceState::Running,
        Condition::Failing { .. } => InstanceState::Failed,
        Condition::Stopping {
            reason: StopReason::Failed(_),
            ..
        } => InstanceState::Failed,
        Condition::Stopping { .. } => InstanceState::Stopping,
        Condition::Idle => idle_state(held, goal),
    }
}

fn idle_state(held: &Held, goal: Option<InstanceGoal>) -> InstanceState {
    let is_wanted = match goal {
        Some(InstanceGoal::Running) => true,
        Some(InstanceGoal::Registered) => !held.entry.is_laid_out,
        None => false,
    };
    if held.entry.failure.is_some() && is_wanted {
        InstanceState::Failed
    } else if goal.is_none() || held.entry.runs > 0 {
        InstanceState::Stopped
    } else if held.entry.is_laid_out {
        InstanceState::Registered
    } else {
        InstanceState::Allocated
    }
}

/// Posts reports until the heart shuts down.
#[derive(Debug)]
pub(crate) struct Reporter {
    pub(crate) talking: Talking,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) snapshot: watch::Receiver<Snapshot>,
    /// The TTL while no assignment says it.
    pub(crate) node_ttl: Span,
    /// Of exclusive instances, when these are fenced.
    pub(crate) lease: Option<LeaseKeeper>,
}

impl Reporter {
    /// The loop.
    pub(crate) async fn run(mut self) {
        let incarnation = getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()));
        let mut sequence = 0;
        let mut beat = tokio::time::interval(REPORT_INTERVAL.duration());
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_heard = true;
        loop {
            tokio::select! {
                () = self.talking.shutdown.cancelled() => return,
                _ = beat.tick() => {}
                // What changes while nobody answers waits for the next beat.
                changed = self.snapshot.changed(), if is_heard => if changed.is_err() {
                    return;
                },
            }
            sequence += 1;
            let snapshot = self.snapshot.borrow_and_update().clone();
            let has_process = snapshot.instances.iter().any(|one| one.pid.is_some());
            if has_process {
                self.talking.crash.at(CrashPoint::BeforeReport);
            }
            let report = Report {
                cluster: match self.talking.cluster.as_str() {
                    "" => snapshot.cluster,
                    told => told.to_owned(),
                },
                node: self.talking.node,
                heart: Some(HeartReport {
                    incarnation,
                    sequence,
                    assignment: snapshot.assignment,
                    instances: snapshot.instances,
                    builds: snapshot.builds,
                    load: load::read(self.talking.directories.root()),
                }),
                router: None,
            };
            let ttl = node_ttl(snapshot.node_ttl, self.node_ttl);
            let shutdown = self.talking.shutdown.clone();
            let outcome = tokio::select! {
                () = shutdown.cancelled() => return,
                outcome = self.post(&report, ttl) => outcome,
            };
            match &outcome {
                Err(reason) if is_heard => tracing::warn!(reason, "no pacemaker takes reports"),
                Ok(()) if !is_heard => tracing::info!("a pacemaker takes reports again"),
                Ok(()) | Err(_) => {}
            }
            is_heard = outcome.is_ok();
            if self.talking.contact.is_removed() {
                let pause = tokio::time::timeout(REMOVED_PAUSE, shutdown.cancelled());
                if pause.await.is_ok() {
                    return;
                }
            }
        }
    }

    /// Posts one report; an error says why it was not acknowledged.
    async fn post(&mut self, report: &Report, ttl: Span) -> Result<(), String> {
        let sent = self.talking.clock.now();
        let posted =
            tokio::time::timeout(ACKNOWLEDGED_WITHIN, self.talking.client.report(report)).await;
        let reason = match posted {
            Ok(Ok(())) => {
                let until = sent.after(ttl);
                // First the shims, who may be asked to start something as soon as the loop knows.
                if let Some(lease) = &mut self.lease {
                    lease.extend(self.talking.clock.boot_time(until)).await;
                }
                self.talking.contact.note_acknowledged(sent, ttl);
                return Ok(());
            }
            Ok(Err(error)) => chain(&error),
            Err(_) => format!(
                "not acknowledged within {} s",
                ACKNOWLEDGED_WITHIN.as_secs()
            ),
        };
        self.metrics.note_report_failure();
        Err(reason)
    }
}

#[cfg(test)]
mod tests;
