//! A modelled heart: its assignment, its processes, its ports, its builds.

use std::collections::{BTreeMap, VecDeque};

use common::assignment::{
    AssignedInstance, Assignment, BuildReport, BuildState, FENCE_GRACE, HeartReport,
    InstanceReport, Load, Report,
};
use common::id::{Generation, InstanceId, JobId, NodeId};
use common::instance::{Failure, FailureCode, InstanceGoal, InstanceState};
use common::time::{Span, Timestamp};

use super::{SETTINGS, STEP, World};

/// How the instances of a version behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Good,
    /// The prepare command fails.
    FailsToBuild,
    /// The startup command fails.
    FailsToRegister,
    /// The process exits before it listens.
    FailsToStart,
    /// Only the exclusive types fail to start.
    FailsExclusively,
    /// Each instance crashes once, soon after it runs.
    CrashesOnce,
}

/// One instance on a node.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) assigned: AssignedInstance,
    pub(crate) state: InstanceState,
    pub(crate) port: Option<u16>,
    pub(crate) pid: u32,
    pub(crate) restarts: u32,
    pub(crate) failure: Option<Failure>,
    pub(crate) is_alive: bool,
    /// Absent from the assignment: to be stopped and removed.
    pub(crate) is_unassigned: bool,
    /// Stopped by its heart, which was cut off.
    pub(crate) is_fenced: bool,
    /// When the next transition is due.
    pub(crate) due: Timestamp,
}

pub(crate) struct Heart {
    pub(crate) node: NodeId,
    /// The heart's own process.
    pub(crate) is_up: bool,
    pub(crate) is_connected: bool,
    pub(crate) incarnation: u64,
    sequence: u64,
    pub(crate) assignment: Option<Assignment>,
    pub(crate) processes: BTreeMap<InstanceId, Process>,
    pub(crate) builds: BTreeMap<JobId, (Timestamp, BuildState)>,
    /// The last time that a pacemaker answered.
    contact: Timestamp,
    /// False after a loss of contact or a boot, until an assignment has been fetched again.
    may_run_exclusive: bool,
    ports: VecDeque<u16>,
    next_pid: u32,
    last_report: Option<(Timestamp, HeartReport)>,
}

impl Heart {
    pub(crate) fn new(node: NodeId, now: Timestamp) -> Self {
        Self {
            node,
            is_up: true,
            is_connected: true,
            incarnation: 1,
            sequence: 0,
            assignment: None,
            processes: BTreeMap::new(),
            builds: BTreeMap::new(),
            contact: now,
            may_run_exclusive: false,
            // Few, so that they are used again soon.
            ports: (20_000..20_040).collect(),
            next_pid: 100,
            last_report: None,
        }
    }

    /// The heart's process ends and starts again; the instances go on without it.
    pub(crate) fn restart(&mut self) {
        self.incarnation += 1;
        self.sequence = 0;
        self.last_report = None;
    }

    /// The machine loses power: every process ends.
    pub(crate) fn lose_power(&mut self) {
        self.is_up = false;
        self.may_run_exclusive = false;
        self.builds.clear();
        for process in self.processes.values_mut() {
            process.is_alive = false;
            if process.state != InstanceState::Allocated {
                process.state = InstanceState::Stopped;
            }
            process.restarts = 0;
            process.failure = None;
        }
    }

    pub(crate) fn crash(&mut self, instance: InstanceId, now: Timestamp, delay: u64) {
        let Some(process) = self.processes.get_mut(&instance) else {
            return;
        };
        let runs = matches!(
            process.state,
            InstanceState::Running | InstanceState::Starting
        );
        if process.is_alive && runs {
            process.is_alive = false;
            process.fail(FailureCode::Exited, now, delay);
        }
    }

    fn report(&mut self) -> HeartReport {
        HeartReport {
            incarnation: self.incarnation,
            sequence: 0,
            assignment: self
                .assignment
                .as_ref()
                .map_or(Generation(0), |assignment| assignment.generation),
            instances: self
                .processes
                .iter()
                .map(|(id, process)| InstanceReport {
                    id: *id,
                    state: process.state,
                    port: process.port,
                    pid: process.is_alive.then_some(process.pid),
                    restarts: process.restarts,
                    failure: process.failure.clone(),
                })
                .collect(),
            builds: self
                .builds
                .iter()
                .map(|(job, (_, state))| BuildReport {
                    job: *job,
                    state: state.clone(),
                })
                .collect(),
            load: Load::default(),
        }
    }
}

impl Process {
    fn fail(&mut self, code: FailureCode, now: Timestamp, delay: u64) {
        self.state = InstanceState::Failed;
        self.failure = Some(Failure {
            code,
            message: format!("it {code:?}"),
            output_tail: "last words".to_owned(),
        });
        self.due = now.after(Span(delay));
    }
}

impl World {
    pub(super) fn step_hearts(&mut self) {
        let nodes: Vec<NodeId> = self.hearts.keys().copied().collect();
        for node in nodes {
            let Some(mut heart) = self.hearts.remove(&node) else {
                continue;
            };
            if heart.is_up {
                self.fetch(&mut heart);
                self.fence(&mut heart);
                self.run_builds(&mut heart);
                self.run_processes(&mut heart);
                self.report_heart(&mut heart);
            }
            self.hearts.insert(node, heart);
        }
    }

    /// The watch of the assignment: newer ones only.
    fn fetch(&mut self, heart: &mut Heart) {
        if !heart.is_connected || self.random.one_in(3) {
            return;
        }
        let Some(newest) = self.state.assignment_generation(heart.node) else {
            // A node that was removed is refused.
            return;
        };
        heart.contact = self.now;
        heart.may_run_exclusive = true;
        let held = heart
            .assignment
            .as_ref()
            .map_or(Generation(0), |held| held.generation);
        if newest <= held {
            return;
        }
        let assignment = self.state.assignment(heart.node, 1).unwrap();
        let wanted: BTreeMap<InstanceId, &AssignedInstance> = assignment
            .instances
            .iter()
            .map(|assigned| (assigned.id, assigned))
            .collect();
        for (id, process) in &mut heart.processes {
            match wanted.get(id) {
                Some(assigned) => process.assigned = (*assigned).clone(),
                None => process.is_unassigned = true,
            }
        }
        for (id, assigned) in wanted {
            let due = self.now.after(Span(self.random.below(100)));
            heart.processes.entry(id).or_insert_with(|| Process {
                assigned: assigned.clone(),
                state: InstanceState::Allocated,
                port: None,
                pid: 0,
                restarts: 0,
                failure: None,
                is_alive: false,
                is_unassigned: false,
                is_fenced: false,
                due,
            });
        }
        heart
            .builds
            .retain(|job, _| assignment.builds.iter().any(|build| build.job == *job));
        heart.assignment = Some(assignment);
    }

    /// A heart that is cut off stops its exclusive instances by itself.
    fn fence(&mut self, heart: &mut Heart) {
        if self.now.since(heart.contact) < SETTINGS.node_ttl {
            return;
        }
        heart.may_run_exclusive = false;
        for process in heart.processes.values_mut() {
            let is_stopping = process.state == InstanceState::Stopping;
            if process.assigned.exclusive && process.is_alive && !is_stopping {
                process.state = InstanceState::Stopping;
                process.is_fenced = true;
                // By its shim, whatever the manifest says.
                let grace = process.assigned.stop.grace.min(FENCE_GRACE).0;
                process.due = self.now.after(Span(self.random.below(grace.max(1))));
            }
        }
    }

    fn run_builds(&mut self, heart: &mut Heart) {
        // A build that a crash interrupted begins again.
        let assigned = heart.assignment.iter().flat_map(|held| &held.builds);
        for build in assigned {
            let due = self.now.after(Span(self.random.between(50, 300)));
            heart
                .builds
                .entry(build.job)
                .or_insert((due, BuildState::Running));
        }
        for (job, (due, state)) in &mut heart.builds {
            if *due > self.now || *state != BuildState::Running || !heart.is_connected {
                continue;
            }
            let record = self.state.job(*job).unwrap();
            let key = (record.application, record.version_number);
            *state = if self.behaviours.get(&key) == Some(&Behaviour::FailsToBuild) {
                BuildState::Failed {
                    failure: Failure {
                        code: FailureCode::PrepareFailed,
                        message: "make ended with status 2".to_owned(),
                        output_tail: "make: *** no rule".to_owned(),
                    },
                }
            } else {
                let package = self.upload(&format!("package of job {job}"));
                BuildState::Succeeded { package }
            };
        }
    }

    fn run_processes(&mut self, heart: &mut Heart) {
        let ids: Vec<InstanceId> = heart.processes.keys().copied().collect();
        for id in ids {
            let mut process = heart.processes.remove(&id).unwrap();
            if self.run_process(heart, id, &mut process) {
                heart.processes.insert(id, process);
            } else if let Some(port) = process.port {
                heart.ports.push_back(port);
            }
        }
    }

    /// One step of an instance; false when nothing of it is left.
    fn run_process(&mut self, heart: &mut Heart, id: InstanceId, process: &mut Process) -> bool {
        let wants_process = !process.is_unassigned
            && process.assigned.goal == InstanceGoal::Running
            && (!process.assigned.exclusive || heart.may_run_exclusive);
        let is_due = process.due <= self.now;
        match process.state {
            InstanceState::Allocated if process.is_unassigned => return false,
            InstanceState::Allocated if is_due => {
                if self.behaviour(process) == Behaviour::FailsToRegister {
                    process.fail(FailureCode::StartupFailed, self.now, 1_000);
                } else {
                    process.state = InstanceState::Registered;
                }
            }
            InstanceState::Registered | InstanceState::Stopped | InstanceState::Failed => {
                if process.is_unassigned {
                    return false;
                }
                let is_ready = process.state != InstanceState::Failed || is_due;
                if wants_process && is_ready {
                    self.start(heart, process);
                } else if !wants_process && process.state == InstanceState::Failed {
                    process.state = InstanceState::Stopped;
                    process.failure = None;
                }
            }
            InstanceState::Starting | InstanceState::Running if !wants_process => {
                process.state = InstanceState::Stopping;
                process.due = self.now.after(Span(self.random.below(200)));
            }
            InstanceState::Starting if is_due => self.end_start(id, process),
            InstanceState::Stopping if is_due => {
                process.is_alive = false;
                process.state = InstanceState::Stopped;
                if !std::mem::take(&mut process.is_fenced) {
                    self.stopped_by_platform.insert(id);
                }
            }
            InstanceState::Allocated
            | InstanceState::Starting
            | InstanceState::Running
            | InstanceState::Stopping
            | InstanceState::Lost => {}
        }
        true
    }

    fn behaviour(&self, process: &Process) -> Behaviour {
        let subject = &process.assigned.subject;
        let key = (subject.application_id, subject.version);
        let behaviour = self.behaviours.get(&key).copied();
        match behaviour.unwrap_or(Behaviour::Good) {
            Behaviour::FailsExclusively if process.assigned.exclusive => Behaviour::FailsToStart,
            Behaviour::FailsExclusively => Behaviour::Good,
            other => other,
        }
    }

    fn start(&mut self, heart: &mut Heart, process: &mut Process) {
        if process.state == InstanceState::Failed {
            process.restarts += 1;
        }
        if process.port.is_none() && !process.assigned.standalone {
            process.port = heart.ports.pop_front();
        }
        heart.next_pid += 1;
        process.pid = heart.next_pid;
        process.is_alive = true;
        process.state = InstanceState::Starting;
        process.failure = None;
        process.due = self.now.after(Span(self.random.below(200)));
        self.stopped_by_platform.remove(&process.assigned.id);
    }

    fn end_start(&mut self, id: InstanceId, process: &mut Process) {
        if self.behaviour(process) == Behaviour::FailsToStart {
            process.is_alive = false;
            process.fail(FailureCode::Exited, self.now, 1_000);
            return;
        }
        process.state = InstanceState::Running;
        if self.behaviour(process) == Behaviour::CrashesOnce
            && process.restarts == 0
            && id.0.is_multiple_of(2)
        {
            process.is_alive = false;
            process.fail(FailureCode::Exited, self.now, 2 * STEP);
        }
    }

    fn report_heart(&mut self, heart: &mut Heart) {
        let report = heart.report();
        let is_news = heart
            .last_report
            .as_ref()
            .is_none_or(|(at, last)| *last != report || self.now.since(*at) >= Span(200));
        if !is_news || !heart.is_connected {
            return;
        }
        heart.last_report = Some((self.now, report.clone()));
        heart.sequence += 1;
        let report = HeartReport {
            sequence: heart.sequence,
            ..report
        };
        self.post(Report {
            cluster: String::new(),
            node: heart.node,
            heart: Some(report),
            router: None,
        });
    }
}
