//! Interprets a run of [`Op`]s: the core with whatever is said to it, true or not.

use std::collections::{BTreeMap, BTreeSet};

use common::assignment::{
    AssignedInstance, BuildReport, BuildState, HeartReport, InstanceReport, RouterReport,
};
use common::id::{
    ApplicationId, Generation, InstanceId, InstanceTypeName, JobId, NodeId, VersionNumber,
};
use common::instance::{Failure, FailureCode, InstanceGoal, InstanceState};
use common::node::Role;
use common::secret::Secret;
use common::time::{Span, Timestamp};
use pacemaker_core::action::Action;
use pacemaker_core::command::{
    ApplyContext, Command, CronReport, CronResult, Outcome, Rejection, VersionTarget,
};
use pacemaker_core::crons::CronPlanner;
use pacemaker_core::sightings::{Sighting, Sightings};
use pacemaker_core::{State, plan};

use crate::generators::{CLUSTER_HOSTNAME, Op, Shape, Target, node, package};
use crate::world::SETTINGS;

/// The core and what was said to it.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) state: State,
    pub(crate) sightings: Sightings,
    pub(crate) now: Timestamp,
    /// Every command, also those refused.
    pub(crate) log: Vec<(Command, ApplyContext)>,
    plans: Vec<(Generation, Vec<Action>)>,
    /// What leaders have decided about crons.
    decided: Vec<Command>,
}

impl Machine {
    /// An initialised cluster with two nodes and a package.
    pub(crate) fn new() -> Self {
        let mut machine = Self {
            state: State::default(),
            sightings: Sightings::default(),
            now: Timestamp(1_000_000),
            log: Vec::new(),
            plans: Vec::new(),
            decided: Vec::new(),
        };
        machine.sightings.elected = machine.now;
        let preparations = [
            Command::InitializeCluster {
                id: "test".to_owned(),
                hostname: CLUSTER_HOSTNAME.to_owned(),
                tokens: BTreeMap::new(),
                settings: SETTINGS,
                join_tokens: Vec::new(),
                founder: None,
            },
            Command::RegisterNode {
                description: node(1, &[Role::Heart, Role::Router]),
            },
            Command::RegisterNode {
                description: node(2, &[Role::Heart, Role::Router]),
            },
            Command::CommitPackage {
                package: package("source"),
            },
            Command::CommitPackage {
                package: package("built"),
            },
        ];
        for command in preparations {
            machine.apply(&command).unwrap();
        }
        machine
    }

    /// The context of the next entry.
    pub(crate) fn context(&self) -> ApplyContext {
        ApplyContext {
            now: self.now,
            index: Generation(self.log.len() as u64 + 1),
        }
    }

    pub(crate) fn apply(&mut self, command: &Command) -> Result<Outcome, Rejection> {
        let ctx = self.context();
        self.log.push((command.clone(), ctx));
        self.state.apply(command, &ctx)
    }

    pub(crate) fn plan(&self) -> Vec<Action> {
        plan(&self.state, &self.sightings, self.now)
    }

    /// What an operation proposes; none when it only changes what is heard.
    pub(crate) fn command(&mut self, op: &Op) -> Option<Command> {
        match op {
            Op::Register {
                node: number,
                is_heart,
                is_router,
            } => {
                let roles: Vec<Role> = [(Role::Heart, *is_heart), (Role::Router, *is_router)]
                    .into_iter()
                    .filter_map(|(role, is_there)| is_there.then_some(role))
                    .collect();
                let description = node(*number, &roles);
                Some(Command::RegisterNode { description })
            }
            Op::Drain(number) => Some(Command::DrainNode {
                node: self.node(*number),
            }),
            Op::Undrain(number) => Some(Command::UndrainNode {
                node: self.node(*number),
            }),
            // One stays, so that there is something to speak of.
            Op::Remove(number) => (self.state.nodes().len() > 1).then(|| Command::RemoveNode {
                node: self.node(*number),
            }),
            Op::CreateWorkspace { number } => Some(Command::CreateWorkspace {
                name: format!("Workspace {number}"),
                stub: format!("w{}", number % 3).parse().unwrap(),
                tags: BTreeMap::new(),
            }),
            Op::Deploy {
                application,
                quantity,
                shape,
                promote,
            } => Some(deployment(*application, *quantity, *shape, *promote)),
            Op::Start(target) => Some(Command::StartVersion(self.target(*target)?)),
            Op::Stop(target) => Some(Command::StopVersion(self.target(*target)?)),
            Op::Promote(target) => Some(Command::PromoteVersion(self.target(*target)?)),
            Op::Deregister(target) => Some(Command::DeregisterVersion(self.target(*target)?)),
            Op::Rollback(application) => Some(Command::Rollback {
                application: self.application(*application)?,
            }),
            Op::Scale {
                application,
                quantity,
            } => Some(Command::Scale {
                application: self.application(*application)?,
                quantities: BTreeMap::from([(InstanceTypeName::parse("web").unwrap(), *quantity)]),
            }),
            Op::Abort(number) => self.abort(*number),
            Op::Once { key, application } => Some(Command::Once {
                key: format!("key {key}"),
                command: Box::new(deployment(*application, 1, PLAIN, true)),
            }),
            Op::Act => Some(self.act()),
            Op::ActLate(age) => self.act_late(*age),
            _ => {
                self.listen(op);
                self.cron_command(op)
            }
        }
    }

    fn abort(&self, number: u8) -> Option<Command> {
        let jobs = self.state.jobs(None, None, usize::MAX);
        let job = jobs.get(usize::from(number) % jobs.len().max(1))?;
        Some(Command::AbortJob { job: job.id })
    }

    fn act(&mut self) -> Command {
        let actions = self.plan();
        let computed_at = self.state.applied();
        self.plans.push((computed_at, actions.clone()));
        Command::Act {
            computed_at,
            actions,
        }
    }

    fn act_late(&self, age: u8) -> Option<Command> {
        let index = usize::from(age) % self.plans.len().max(1);
        let (computed_at, actions) = self.plans.get(index)?.clone();
        Some(Command::Act {
            computed_at,
            actions,
        })
    }

    /// What changes only what the leader has heard, and the time.
    fn listen(&mut self, op: &Op) {
        match op {
            Op::HeartFollows { node, progress } => self.follow(*node, *progress),
            Op::HeartBabbles {
                node,
                instances,
                assignment,
            } => self.babble(*node, instances, *assignment),
            Op::RouterFollows { node, in_flight } => {
                let routes = self.state.routes_generation();
                self.hear_router(*node, routes, *in_flight);
            }
            Op::RouterLags { node } => {
                let routes = Generation(self.state.routes_generation().0.saturating_sub(3));
                self.hear_router(*node, routes, None);
            }
            Op::Wait(milliseconds) => self.now = self.now.after(Span(*milliseconds)),
            Op::Elect => {
                self.sightings = Sightings {
                    elected: self.now,
                    ..Sightings::default()
                };
            }
            Op::Register { .. }
            | Op::Drain(_)
            | Op::Undrain(_)
            | Op::Remove(_)
            | Op::CreateWorkspace { .. }
            | Op::Deploy { .. }
            | Op::Start(_)
            | Op::Stop(_)
            | Op::Promote(_)
            | Op::Deregister(_)
            | Op::Rollback(_)
            | Op::Scale { .. }
            | Op::Abort(_)
            | Op::Once { .. }
            | Op::Act
            | Op::ActLate(_)
            | Op::DecideCrons(_)
            | Op::DecideCronsLate(_)
            | Op::ReportCrons(_)
            | Op::RunCron(_)
            | Op::SuspendCron(_)
            | Op::ResumeCron(_)
            | Op::AbandonCrons(_) => {}
        }
    }

    fn cron_command(&mut self, op: &Op) -> Option<Command> {
        let cron = || "web/tick".parse().unwrap();
        Some(match op {
            Op::DecideCrons(minutes) => {
                let command = self.decide_crons(*minutes);
                self.decided.push(command.clone());
                command
            }
            Op::DecideCronsLate(age) => {
                let index = usize::from(*age) % self.decided.len().max(1);
                self.decided.get(index)?.clone()
            }
            Op::ReportCrons(number) => self.report_crons(*number),
            Op::RunCron(number) => Command::StartCronRun {
                application: self.application(*number)?,
                cron: cron(),
            },
            Op::SuspendCron(number) => Command::SuspendCron {
                application: self.application(*number)?,
                cron: cron(),
            },
            Op::ResumeCron(number) => Command::ResumeCron {
                application: self.application(*number)?,
                cron: cron(),
            },
            Op::AbandonCrons(number) => Command::AbandonCronRuns {
                runner: pacemaker(*number),
            },
            _ => return None,
        })
    }

    /// What a new leader decides about crons, by a clock that is ahead.
    pub(crate) fn decide_crons(&self, minutes: u8) -> Command {
        let at = self.now.after(Span::seconds(60 * u64::from(minutes)));
        let runner = pacemaker(minutes);
        let gone = BTreeSet::from([pacemaker(minutes + 1)]);
        Command::DecideCrons {
            runner,
            at,
            decisions: CronPlanner::default().plan(&self.state, at, runner, &gone),
        }
    }

    fn report_crons(&self, number: u8) -> Command {
        let results = [
            CronResult::Succeeded,
            CronResult::Failed,
            CronResult::TimedOut,
            CronResult::Lost,
        ];
        let runner = pacemaker(number);
        let reports = self
            .state
            .cron_runs_of(runner)
            .filter(|run| !(run.id.0 + u64::from(number)).is_multiple_of(3))
            .map(|run| CronReport {
                run: run.id,
                attempt: run.attempts + u32::from(number.is_multiple_of(7)),
                instance: None,
                status: None,
                ended: self.now,
                duration: Span(u64::from(number)),
                result: results[usize::from(number) % results.len()],
                words: String::new(),
            })
            .collect();
        Command::ReportCronRuns { runner, reports }
    }

    fn application(&self, number: u8) -> Option<ApplicationId> {
        let ids: Vec<_> = self.state.applications().keys().copied().collect();
        ids.get(usize::from(number) % ids.len().max(1)).copied()
    }

    fn target(&self, target: Target) -> Option<VersionTarget> {
        Some(VersionTarget {
            application: self.application(target.application)?,
            version: VersionNumber(u64::from(target.version)),
        })
    }

    fn node(&self, number: u8) -> NodeId {
        let nodes = self.state.nodes();
        nodes[usize::from(number) % nodes.len()].id
    }

    /// Each instance does what its goal says, with a little luck decided by `progress`.
    fn follow(&mut self, number: u8, progress: u8) {
        let node = self.node(number);
        let assignment = self.state.assignment(node, 1).unwrap();
        let instances = assignment
            .instances
            .iter()
            .map(|assigned| self.advance(assigned, progress))
            .collect();
        let builds = assignment
            .builds
            .iter()
            .map(|build| BuildReport {
                job: build.job,
                state: build_state(build.job, progress),
            })
            .collect();
        self.hear_heart(node, assignment.generation, instances, builds);
    }

    fn advance(&self, assigned: &AssignedInstance, progress: u8) -> InstanceReport {
        let seen = &self.state.instances()[&assigned.id].seen;
        let is_unlucky =
            progress.is_multiple_of(16) && assigned.id.0 % 2 == u64::from(progress / 16) % 2;
        let state = match (assigned.goal, seen.state) {
            (InstanceGoal::Running, _) if is_unlucky => InstanceState::Failed,
            (InstanceGoal::Running, InstanceState::Allocated) if progress % 4 == 1 => {
                InstanceState::Registered
            }
            (InstanceGoal::Running, InstanceState::Registered) if progress % 4 == 2 => {
                InstanceState::Starting
            }
            (InstanceGoal::Running, _) => InstanceState::Running,
            (InstanceGoal::Registered, InstanceState::Running) if progress % 4 == 1 => {
                InstanceState::Stopping
            }
            (InstanceGoal::Registered, InstanceState::Running | InstanceState::Stopping) => {
                InstanceState::Stopped
            }
            (InstanceGoal::Registered, _) => InstanceState::Registered,
        };
        let port = 20_000 + u16::try_from(assigned.id.0 % 1_000).unwrap();
        InstanceReport {
            id: assigned.id,
            state,
            port: (!assigned.standalone && state == InstanceState::Running).then_some(port),
            pid: (state == InstanceState::Running).then_some(7),
            restarts: 0,
            failure: (state == InstanceState::Failed).then(failure),
        }
    }

    fn babble(&mut self, number: u8, said: &[(u8, InstanceState, Option<u16>)], assignment: u8) {
        let node = self.node(number);
        let known: Vec<InstanceId> = self.state.instances().keys().copied().collect();
        let instances = said
            .iter()
            .filter_map(|(instance, state, port)| {
                let id = *known.get(usize::from(*instance) % known.len().max(1))?;
                Some(InstanceReport {
                    id,
                    state: *state,
                    port: *port,
                    pid: None,
                    restarts: u32::from(*instance % 8),
                    failure: (*state == InstanceState::Failed).then(failure),
                })
            })
            .collect();
        let newest = self.state.applied().0;
        let held = newest.saturating_sub(u64::from(assignment % 8));
        self.hear_heart(node, Generation(held), instances, Vec::new());
    }

    fn hear_heart(
        &mut self,
        node: NodeId,
        assignment: Generation,
        instances: Vec<InstanceReport>,
        builds: Vec<BuildReport>,
    ) {
        let newest = self.sightings.hearts.get(&node);
        let report = HeartReport {
            sequence: newest.map_or(1, |newest| newest.report.sequence + 1),
            assignment,
            instances,
            builds,
            ..HeartReport::default()
        };
        let sighting = Sighting {
            at: self.now,
            report,
        };
        self.sightings.hearts.insert(node, sighting);
    }

    fn hear_router(&mut self, number: u8, routes: Generation, in_flight: Option<u8>) {
        let known: Vec<InstanceId> = self.state.instances().keys().copied().collect();
        let busy = in_flight
            .and_then(|instance| known.get(usize::from(instance) % known.len().max(1)))
            .map(|instance| (*instance, 1));
        let report = RouterReport {
            routes,
            in_flight: busy.into_iter().collect(),
            ..RouterReport::default()
        };
        let sighting = Sighting {
            at: self.now,
            report,
        };
        let node = self.node(number);
        self.sightings.routers.insert(node, sighting);
    }
}

const PLAIN: Shape = Shape {
    has_prepare: false,
    has_exclusive: false,
    has_standalone: false,
    hostname: None,
    cron: None,
};

fn deployment(application: u8, quantity: u32, shape: Shape, promote: bool) -> Command {
    Command::Deploy {
        workspace: "default".parse().unwrap(),
        spec: Box::new(shape.spec(application, quantity)),
        manifest: "manifest".to_owned(),
        source: package("source").digest,
        promote,
        cron_key: Some(Secret::new("0f".repeat(32))),
    }
}

/// One of three.
fn pacemaker(number: u8) -> NodeId {
    NodeId(u64::from(number % 3) + 1)
}

fn build_state(job: JobId, progress: u8) -> BuildState {
    match (job.0 + u64::from(progress)) % 5 {
        0 => BuildState::Failed { failure: failure() },
        1 => BuildState::Running,
        _ => BuildState::Succeeded {
            package: package("built"),
        },
    }
}

fn failure() -> Failure {
    Failure {
        code: FailureCode::Exited,
        message: "it ended with status 1".to_owned(),
        output_tail: "last words".to_owned(),
    }
}
