//! A modelled cluster around the core: hearts with processes, routers with requests, a leader.
//!
//! Time is a number that [`World::step`] advances. Everything that happens by chance comes from
//! the world's seed. The model knows what the core cannot: which processes are really alive, why
//! the others died, and what each router's clients see; so it can tell whether a change by the
//! platform ever lost a request.

mod crons;
mod heart;
mod router;

use std::collections::{BTreeMap, BTreeSet};

use common::application::VersionSpec;
use common::assignment::Report;
use common::id::{
    ApplicationId, Generation, InstanceId, JobId, NodeId, VersionNumber, WorkspaceStub,
};
use common::job::{Job, JobState};
use common::node::Role;
use common::time::{Span, Timestamp};
use pacemaker_core::action::Action;
use pacemaker_core::command::{
    ApplyContext, ClusterSettings, Command, Outcome, Rejection, VersionTarget,
};
use pacemaker_core::sightings::{Sighting, Sightings};
use pacemaker_core::{Planner, State, plan};

pub(crate) use self::crons::Crons;
pub(crate) use self::heart::{Behaviour, Heart};
pub(crate) use self::router::Router;
use crate::generators::{CLUSTER_HOSTNAME, node, package};
use crate::random::Random;

/// How far one step goes.
pub(crate) const STEP: u64 = 20;
pub(crate) const SETTINGS: ClusterSettings = ClusterSettings {
    watch_window: Span(2_000),
    drain_limit: Span(1_500),
    node_ttl: Span(1_000),
    certificate_ttl: Span::seconds(24 * 3600),
};

fn default_workspace() -> WorkspaceStub {
    "default".parse().unwrap()
}

/// A plan on its way through the log.
pub(crate) struct Proposal {
    pub(crate) due: Timestamp,
    pub(crate) computed_at: Generation,
    pub(crate) actions: Vec<Action>,
    /// A leader that has been deposed proposed it.
    pub(crate) is_late: bool,
}

pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) random: Random,
    pub(crate) now: Timestamp,
    pub(crate) sightings: Sightings,
    planner: Planner,
    pub(crate) crons: Crons,
    pub(crate) hearts: BTreeMap<NodeId, Heart>,
    pub(crate) routers: BTreeMap<NodeId, Router>,
    /// How versions behave that are not simply good.
    pub(crate) behaviours: BTreeMap<(ApplicationId, VersionNumber), Behaviour>,
    /// Reports on their way to the leader.
    pub(crate) mail: Vec<(Timestamp, Report)>,
    pub(crate) proposals: Vec<Proposal>,
    /// How long a proposal takes at most.
    pub(crate) commit_delay: u64,
    /// How long a report takes at most.
    pub(crate) mail_delay: u64,
    /// One report in so many arrives twice, the second time late; zero for none.
    pub(crate) duplicates: u64,
    /// One plan in so many is applied again, long after; zero for none.
    pub(crate) stale_plans: u64,
    /// Plans that a deposed leader will still propose.
    pub(crate) late: Vec<Proposal>,
    /// Instances whose process was ended because its assignment said so.
    pub(crate) stopped_by_platform: BTreeSet<InstanceId>,
    pub(crate) is_traced: bool,
    index: u64,
    packages: u64,
}

impl World {
    /// A cluster of so many nodes that are heart and router at once.
    pub(crate) fn new(seed: u64, nodes: u64) -> Self {
        let mut world = Self {
            state: State::default(),
            random: Random::new(seed),
            now: Timestamp(1_000_000),
            sightings: Sightings {
                elected: Timestamp(1_000_000),
                ..Sightings::default()
            },
            planner: Planner::default(),
            crons: Crons::new(seed),
            hearts: BTreeMap::new(),
            routers: BTreeMap::new(),
            behaviours: BTreeMap::new(),
            mail: Vec::new(),
            proposals: Vec::new(),
            commit_delay: 0,
            mail_delay: 0,
            duplicates: 0,
            stale_plans: 0,
            late: Vec::new(),
            stopped_by_platform: BTreeSet::new(),
            is_traced: false,
            index: 0,
            packages: 0,
        };
        world
            .apply(&Command::InitializeCluster {
                id: "test".to_owned(),
                hostname: CLUSTER_HOSTNAME.to_owned(),
                tokens: BTreeMap::new(),
                settings: SETTINGS,
                join_tokens: Vec::new(),
                founder: None,
            })
            .unwrap();
        for number in 1..=nodes {
            world.add_node(number, &[Role::Heart, Role::Router]);
        }
        world
    }

    pub(crate) fn add_node(&mut self, number: u64, roles: &[Role]) -> NodeId {
        let description = node(number, roles);
        let Ok(Outcome::Node(id)) = self.apply(&Command::RegisterNode { description }) else {
            panic!("a node can register");
        };
        if roles.contains(&Role::Heart) {
            self.hearts.insert(id, Heart::new(id, self.now));
        }
        if roles.contains(&Role::Router) {
            self.routers.insert(id, Router::new(id));
        }
        id
    }

    /// Applies a command as the log would, and checks that the state is sound.
    pub(crate) fn apply(&mut self, command: &Command) -> Result<Outcome, Rejection> {
        self.index += 1;
        self.trace(|| format!("#{} {command:?}", self.index));
        let ctx = ApplyContext {
            now: self.now,
            index: Generation(self.index),
        };
        let result = self.state.apply(command, &ctx);
        let broken = self.state.invariants();
        assert!(broken.is_empty(), "after {command:?}: {broken:#?}");
        result
    }

    /// Tells what happens, when `SIMULATION_TRACE` asks for it.
    pub(crate) fn trace(&self, what: impl Fn() -> String) {
        if self.is_traced {
            println!("{} {}", self.now.0, what());
        }
    }

    pub(crate) fn upload(&mut self, content: &str) -> common::assignment::PackageReference {
        let package = package(content);
        self.apply(&Command::CommitPackage {
            package: package.clone(),
        })
        .unwrap();
        package
    }

    /// Deploys with a source of its own; the version behaves as told.
    pub(crate) fn deploy(
        &mut self,
        spec: &VersionSpec,
        behaviour: Behaviour,
        promote: bool,
    ) -> Result<(JobId, VersionTarget), Rejection> {
        self.packages += 1;
        let source = self.upload(&format!("source {}", self.packages)).digest;
        let outcome = self.apply(&Command::Deploy {
            workspace: default_workspace(),
            spec: Box::new(spec.clone()),
            manifest: String::new(),
            source,
            promote,
            cron_key: None,
        })?;
        let Outcome::Job {
            job,
            application,
            version,
        } = outcome
        else {
            panic!("a deployment makes a job, not {outcome:?}");
        };
        self.behaviours.insert((application, version), behaviour);
        Ok((
            job,
            VersionTarget {
                application,
                version,
            },
        ))
    }

    /// One step of everything.
    pub(crate) fn step(&mut self) {
        self.now = self.now.after(Span(STEP));
        self.step_hearts();
        self.step_routers();
        self.deliver_mail();
        self.lead();
        self.run_crons();
    }

    /// The leader's loop: carry out what is due, plan again until nothing is wished.
    pub(crate) fn lead(&mut self) {
        let now = self.now;
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.proposals)
            .into_iter()
            .chain(std::mem::take(&mut self.late))
            .partition(|proposal| proposal.due <= now);
        (self.late, self.proposals) = later.into_iter().partition(|proposal| proposal.is_late);
        for proposal in due {
            self.apply(&Command::Act {
                computed_at: proposal.computed_at,
                actions: proposal.actions,
            })
            .unwrap();
        }
        for _ in 0..100 {
            if !self.proposals.is_empty() {
                return;
            }
            let actions = self.planner.plan(&self.state, &self.sightings, self.now);
            let afresh = plan(&self.state, &self.sightings, self.now);
            assert_eq!(actions, afresh, "what is remembered changes the plan");
            if actions.is_empty() {
                return;
            }
            let computed_at = self.state.applied();
            if self.stale_plans > 0 && self.random.one_in(self.stale_plans) {
                self.late.push(Proposal {
                    due: self.now.after(Span(self.random.below(3_000))),
                    computed_at,
                    actions: actions.clone(),
                    is_late: true,
                });
            }
            if self.commit_delay > 0 {
                let due = self.now.after(Span(self.random.below(self.commit_delay)));
                self.proposals.push(Proposal {
                    due,
                    computed_at,
                    actions,
                    is_late: false,
                });
                return;
            }
            let outcome = self
                .apply(&Command::Act {
                    computed_at,
                    actions: actions.clone(),
                })
                .unwrap();
            let rejected = Vec::new();
            assert_eq!(
                outcome,
                Outcome::Acted { rejected },
                "a plan applies at once: {actions:#?}"
            );
        }
        panic!(
            "the plan never ends: {:#?}",
            plan(&self.state, &self.sightings, self.now)
        );
    }

    /// A new leader knows nothing of what was heard.
    pub(crate) fn elect(&mut self) {
        self.planner = Planner::default();
        self.sightings = Sightings {
            elected: self.now,
            ..Sightings::default()
        };
    }

    pub(crate) fn post(&mut self, report: Report) {
        if self.duplicates > 0 && self.random.one_in(self.duplicates) {
            let due = self.now.after(Span(self.random.below(1_000)));
            self.mail.push((due, report.clone()));
        }
        let due = self.now.after(Span(self.random.below(self.mail_delay + 1)));
        self.mail.push((due, report));
    }

    fn deliver_mail(&mut self) {
        let now = self.now;
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.mail)
            .into_iter()
            .partition(|(due, _)| *due <= now);
        self.mail = later;
        for (_, report) in due {
            self.hear(report);
        }
    }

    /// What the shell does with a report: the newest of the newest incarnation counts.
    fn hear(&mut self, report: Report) {
        let at = self.now;
        if let Some(heart) = report.heart {
            let order = (heart.incarnation, heart.sequence);
            let known = self.sightings.hearts.get(&report.node);
            if known.is_none_or(|known| (known.report.incarnation, known.report.sequence) < order) {
                let sighting = Sighting { at, report: heart };
                self.sightings.hearts.insert(report.node, sighting);
            }
        }
        if let Some(router) = report.router {
            let order = (router.incarnation, router.sequence);
            let known = self.sightings.routers.get(&report.node);
            if known.is_none_or(|known| (known.report.incarnation, known.report.sequence) < order) {
                let sighting = Sighting { at, report: router };
                self.sightings.routers.insert(report.node, sighting);
            }
        }
    }

    /// Steps until a level is reached; at most so many milliseconds.
    pub(crate) fn eventually(&mut self, what: &str, patience: u64, level: impl Fn(&Self) -> bool) {
        let end = self.now.after(Span(patience));
        while !level(self) {
            assert!(
                self.now < end,
                "not in {patience} ms: {what}\njobs {:#?}\ninstances {:#?}\nplan {:#?}",
                self.state.jobs(None, None, 3),
                self.state.instances().values().collect::<Vec<_>>(),
                plan(&self.state, &self.sightings, self.now),
            );
            self.step();
        }
    }

    pub(crate) fn run_for(&mut self, milliseconds: u64) {
        let end = self.now.after(Span(milliseconds));
        while self.now < end {
            self.step();
        }
    }

    pub(crate) fn job(&self, job: JobId) -> &Job {
        self.state.job(job).expect("the job is kept")
    }

    /// Runs until a job has ended, and gives it.
    pub(crate) fn finish(&mut self, job: JobId) -> Job {
        self.eventually("the job ends", 60_000, |world| {
            world.job(job).state.is_final()
        });
        self.job(job).clone()
    }

    /// Deploys a good version, runs it to its end, and expects success.
    pub(crate) fn deploy_well(&mut self, spec: &VersionSpec) -> VersionTarget {
        let (job, target) = self.deploy(spec, Behaviour::Good, true).unwrap();
        let job = self.finish(job);
        assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
        target
    }
}
