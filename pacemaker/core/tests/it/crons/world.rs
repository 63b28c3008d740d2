//! A modelled cluster of pacemakers that make requests of crons, and a receiver that records them.
//!
//! Real time is a number; each leader's wall clock is it and an offset. What the model knows and
//! the core cannot: which requests were really made, and until when each really went on.

use std::collections::{BTreeMap, BTreeSet};

use common::application::{CronKey, CronMethod, CronSpec, MissedPolicy, Overlap, VersionSpec};
use common::cron::{Schedule, Zone};
use common::id::{ApplicationId, CronName, Generation, NodeId, RunId, VersionNumber};
use common::node::Role;
use common::secret::Secret;
use common::time::{Span, Timestamp};
use pacemaker_core::command::{
    ApplyContext, Command, CronGrant, CronReport, CronResult, Outcome, Rejection,
};
use pacemaker_core::crons::CronPlanner;
use pacemaker_core::sightings::Sightings;
use pacemaker_core::state::crons::{CronRun, RunPhase};
use pacemaker_core::{State, plan};

use crate::generators::{CLUSTER_HOSTNAME, instance_type, node, package, version_spec};
use crate::random::Random;
use crate::world::SETTINGS;

pub(crate) const SECOND: u64 = 1_000;
pub(crate) const MINUTE: u64 = 60 * SECOND;
pub(crate) const HOUR: u64 = 60 * MINUTE;
pub(crate) const DAY: u64 = 24 * HOUR;
/// 2027-01-01T00:00:30Z: between slots.
pub(crate) const START: u64 = 1_798_761_630_000;

/// A cron as most tests want it: forbid, skip, five minutes, no retries.
pub(crate) fn cron(name: &str, runspec: &str) -> CronSpec {
    CronSpec {
        name: CronName::parse(name).unwrap(),
        runspec: Schedule::parse(runspec).unwrap(),
        uri: format!("/{name}"),
        username: None,
        password: None,
        method: CronMethod::Get,
        timezone: Zone::utc(),
        timeout: Span::seconds(300),
        overlap: Overlap::Forbid,
        missed: MissedPolicy::Skip,
        retries: 0,
    }
}

/// A version whose type `web` has these crons, and no instance: who is called is not modelled.
pub(crate) fn with_crons(application: &str, crons: Vec<CronSpec>) -> VersionSpec {
    let mut web = instance_type("web", 0);
    web.crons = crons;
    version_spec(application, vec![web])
}

pub(crate) fn key(name: &str) -> CronKey {
    format!("web/{name}").parse().unwrap()
}

/// A request that was really made.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) run: RunId,
    pub(crate) attempt: u32,
    pub(crate) application: ApplicationId,
    pub(crate) cron: CronKey,
    pub(crate) version: VersionNumber,
    /// What that version allows.
    pub(crate) retries: u32,
    pub(crate) scheduled: Timestamp,
    pub(crate) is_manual: bool,
    /// In real time.
    pub(crate) sent: Timestamp,
    pub(crate) ends: Timestamp,
}

/// A request whose pacemaker waits for the answer.
#[derive(Clone, Debug)]
struct InFlight {
    runner: NodeId,
    result: CronResult,
    duration: Span,
}

#[derive(Clone, Debug)]
pub(crate) struct CronWorld {
    pub(crate) state: State,
    pub(crate) random: Random,
    /// Real time.
    pub(crate) real: Timestamp,
    /// How far the leader's wall clock is ahead of it.
    pub(crate) offset: i64,
    pub(crate) leader: NodeId,
    /// Pacemakers that make no request any more.
    pub(crate) gone: BTreeSet<NodeId>,
    /// Requests are recorded, unless there are too many to keep.
    pub(crate) calls: Vec<Call>,
    /// How long requests take at least and at most.
    pub(crate) takes: (u64, u64),
    /// Answers come in these steps, so that several are reported at once.
    pub(crate) grain: u64,
    /// One request in so many fails; zero for none.
    pub(crate) failures: u64,
    /// Invariants are checked after every so many commands.
    pub(crate) check_every: u64,
    /// Decisions and reports, to be repeated.
    pub(crate) past: Vec<Command>,
    pub(crate) remembers: bool,
    /// What was granted and not heard of yet, by whom.
    unheard: Vec<(NodeId, CronGrant)>,
    planner: CronPlanner,
    in_flight: BTreeSet<(Timestamp, RunId, u32)>,
    details: BTreeMap<(RunId, u32), InFlight>,
    log_time: Timestamp,
    index: u64,
}

impl CronWorld {
    pub(crate) fn new(seed: u64) -> Self {
        let mut world = Self {
            state: State::default(),
            random: Random::new(seed),
            real: Timestamp(START),
            offset: 0,
            leader: NodeId(1),
            gone: BTreeSet::new(),
            calls: Vec::new(),
            takes: (200, 200),
            grain: 1,
            failures: 0,
            check_every: 1,
            past: Vec::new(),
            remembers: true,
            unheard: Vec::new(),
            planner: CronPlanner::default(),
            in_flight: BTreeSet::new(),
            details: BTreeMap::new(),
            log_time: Timestamp(0),
            index: 0,
        };
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
                description: node(1, &[Role::Heart]),
            },
            Command::CommitPackage {
                package: package("source"),
            },
        ];
        for command in preparations {
            world.apply(&command).unwrap();
        }
        world
    }

    /// The leader's wall clock.
    pub(crate) fn wall(&self) -> Timestamp {
        Timestamp(self.real.0.saturating_add_signed(self.offset))
    }

    pub(crate) fn apply(&mut self, command: &Command) -> Result<Outcome, Rejection> {
        self.index += 1;
        self.log_time = self.log_time.max(self.wall());
        let ctx = ApplyContext {
            now: self.log_time,
            index: Generation(self.index),
        };
        let outcome = self.state.apply(command, &ctx);
        if self.index.is_multiple_of(self.check_every) {
            let broken = self.state.invariants();
            assert!(broken.is_empty(), "after {command:?}: {broken:#?}");
        }
        outcome
    }

    /// Deploys, and takes the version as far as it goes.
    pub(crate) fn deploy(&mut self, spec: &VersionSpec) -> ApplicationId {
        self.deploy_as(spec, true)
    }

    pub(crate) fn deploy_as(&mut self, spec: &VersionSpec, promote: bool) -> ApplicationId {
        let outcome = self.apply(&Command::Deploy {
            workspace: "default".parse().unwrap(),
            spec: Box::new(spec.clone()),
            manifest: String::new(),
            source: package("source").digest,
            promote,
            cron_key: Some(Secret::new("0f".repeat(32))),
        });
        let Ok(Outcome::Job { application, .. }) = outcome else {
            panic!("a deployment makes a job, not {outcome:?}");
        };
        self.settle();
        application
    }

    /// The planner of instances has its way; there are none, so nothing is waited for.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100 {
            let sightings = Sightings {
                elected: self.log_time,
                ..Sightings::default()
            };
            let actions = plan(&self.state, &sightings, self.log_time);
            if actions.is_empty() {
                return;
            }
            let computed_at = self.state.applied();
            self.apply(&Command::Act {
                computed_at,
                actions,
            })
            .unwrap();
        }
        panic!("the plan does not come to rest");
    }

    /// What the leader would decide now.
    pub(crate) fn decisions(&mut self) -> Option<Command> {
        let at = self.wall();
        let decisions = self.planner.plan(&self.state, at, self.leader, &self.gone);
        (!decisions.is_empty()).then_some(Command::DecideCrons {
            runner: self.leader,
            at,
            decisions,
        })
    }

    /// Commits decisions; what is granted is sent by whoever still lives to do it.
    pub(crate) fn commit(&mut self, command: &Command) -> Vec<CronGrant> {
        if self.remembers {
            self.past.push(command.clone());
        }
        let Ok(Outcome::CronsDecided { grants }) = self.apply(command) else {
            panic!("decisions are never refused as a whole");
        };
        grants.into_iter().flatten().collect()
    }

    /// The leader's loop, until nothing is due.
    pub(crate) fn lead(&mut self) {
        for _ in 0..100_000 {
            let Some(command) = self.decisions() else {
                if self
                    .planner
                    .next_deadline()
                    .is_none_or(|at| at > self.wall())
                {
                    return;
                }
                continue;
            };
            for grant in self.commit(&command) {
                self.send(grant);
            }
        }
        panic!("the leader does not come to rest");
    }

    /// Makes the request of an attempt that was granted just now.
    pub(crate) fn send(&mut self, grant: CronGrant) {
        let runner = self.leader;
        assert!(self.state.cron_call(grant, runner).is_some(), "{grant:?}");
        let run = self.state.cron_run(grant.run).unwrap();
        let takes = self.random.between(self.takes.0, self.takes.1) / self.grain * self.grain;
        let fails = self.failures > 0 && self.random.one_in(self.failures);
        let duration = Span(takes).min(run.timeout);
        let result = if takes > run.timeout.0 {
            CronResult::TimedOut
        } else if fails {
            CronResult::Failed
        } else {
            CronResult::Succeeded
        };
        let ends = self.real.after(duration);
        self.calls.push(Call {
            run: run.id,
            attempt: run.attempts,
            application: run.application,
            cron: run.cron.clone(),
            version: run.version,
            retries: self.spec_of(run).retries,
            scheduled: run.scheduled,
            is_manual: run.is_manual,
            sent: self.real,
            ends,
        });
        self.in_flight.insert((ends, run.id, run.attempts));
        self.details.insert(
            (run.id, run.attempts),
            InFlight {
                runner,
                result,
                duration,
            },
        );
    }

    fn spec_of(&self, run: &CronRun) -> &CronSpec {
        let version = &self.state.applications()[&run.application].versions[&run.version];
        let instance_type = version.instance_type(&run.cron.instance_type).unwrap();
        let mut crons = instance_type.crons.iter();
        crons.find(|spec| spec.name == run.cron.name).unwrap()
    }

    /// The leader commits what it decided and is cut off before it hears of it.
    pub(crate) fn commit_unheard(&mut self) {
        let Some(command) = self.decisions() else {
            return;
        };
        let grants = self.commit(&command);
        let leader = self.leader;
        self.unheard
            .extend(grants.into_iter().map(|grant| (leader, grant)));
    }

    /// Those who were cut off hear of their grants: too late to send. What is still theirs, they say.
    pub(crate) fn hear(&mut self) {
        let ended = self.wall();
        for (runner, grant) in std::mem::take(&mut self.unheard) {
            if self.state.cron_call(grant, runner).is_none() {
                continue;
            }
            let report = CronReport {
                run: grant.run,
                attempt: grant.attempt,
                instance: None,
                status: None,
                ended,
                duration: Span(0),
                result: CronResult::Lost,
                words: "not sent".to_owned(),
            };
            let reports = vec![report];
            self.apply(&Command::ReportCronRuns { runner, reports })
                .unwrap();
        }
    }

    /// Tells what has been answered by now.
    fn report(&mut self) {
        let mut reports: BTreeMap<NodeId, Vec<CronReport>> = BTreeMap::new();
        let mut count = 0;
        let ended = self.wall();
        while let Some((ends, run, attempt)) = self.in_flight.first().copied()
            && ends <= self.real
            && count < 512
        {
            self.in_flight.pop_first();
            let Some(flight) = self.details.remove(&(run, attempt)) else {
                continue;
            };
            count += 1;
            reports.entry(flight.runner).or_default().push(CronReport {
                run,
                attempt,
                instance: None,
                status: None,
                ended,
                duration: flight.duration,
                result: flight.result,
                words: String::new(),
            });
        }
        for (runner, reports) in reports {
            let command = Command::ReportCronRuns { runner, reports };
            if self.remembers {
                self.past.push(command.clone());
            }
            self.apply(&command).unwrap();
        }
    }

    /// Everything that happens until so many milliseconds have really passed.
    pub(crate) fn run_for(&mut self, milliseconds: u64) {
        let target = self.real.after(Span(milliseconds));
        loop {
            self.lead();
            if self.real >= target {
                return;
            }
            self.advance(target);
        }
    }

    /// To the next moment at which something happens.
    pub(crate) fn advance(&mut self, target: Timestamp) {
        let answer = self.in_flight.first().map(|(ends, ..)| *ends);
        let deadline = self
            .planner
            .next_deadline()
            .map(|deadline| Timestamp(deadline.0.saturating_add_signed(-self.offset)));
        let next = [answer, deadline, Some(target)].into_iter().flatten();
        self.real = next.min().unwrap().clamp(self.real, target);
        self.report();
    }

    /// Time passes and nobody leads.
    pub(crate) fn sleep_for(&mut self, milliseconds: u64) {
        self.real = self.real.after(Span(milliseconds));
    }

    /// The leader dies: what it waits for is never reported, though the requests go on.
    pub(crate) fn kill_leader(&mut self) {
        let dead = self.leader;
        self.details.retain(|_, flight| flight.runner != dead);
        self.gone.insert(dead);
        self.elect();
    }

    /// Another leads; the leader before it lives and reports what it waits for.
    pub(crate) fn elect(&mut self) {
        self.leader = NodeId(self.leader.0 % 3 + 1);
        if self.gone.contains(&self.leader) {
            self.start_again(self.leader);
        }
        self.planner = CronPlanner::default();
    }

    /// A pacemaker that was gone comes back.
    pub(crate) fn start_again(&mut self, node: NodeId) {
        self.apply(&Command::AbandonCronRuns { runner: node })
            .unwrap();
        self.gone.remove(&node);
    }

    /// The leader may have so many requests under way.
    pub(crate) fn limit(&mut self, requests: u64) {
        self.planner.limit(requests);
    }

    /// Something that has nothing to do with crons is written to the log.
    pub(crate) fn upload_again(&mut self) {
        self.apply(&Command::CommitPackage {
            package: package("source"),
        })
        .unwrap();
    }

    pub(crate) fn step_clock(&mut self, milliseconds: i64) {
        self.offset += milliseconds;
    }

    /// Every run that the state keeps of a cron, oldest first.
    pub(crate) fn runs(&self, application: ApplicationId, name: &str) -> Vec<CronRun> {
        let record = &self.state.applications()[&application].crons[&key(name)];
        let runs = record.runs.iter();
        runs.map(|run| self.state.cron_run(*run).unwrap().clone())
            .collect()
    }

    pub(crate) fn phases(&self, application: ApplicationId, name: &str) -> Vec<RunPhase> {
        let runs = self.runs(application, name);
        runs.iter().map(|run| run.phase).collect()
    }

    /// How many first attempts were made of each slot.
    pub(crate) fn first_attempts(&self) -> BTreeMap<(ApplicationId, CronKey, Timestamp), u32> {
        let mut count = BTreeMap::new();
        for call in &self.calls {
            if call.attempt == 1 && !call.is_manual {
                let slot = (call.application, call.cron.clone(), call.scheduled);
                *count.entry(slot).or_default() += 1;
            }
        }
        count
    }

    /// The slots that were called, in the order of the calls.
    pub(crate) fn called(&self, name: &str) -> Vec<u64> {
        let own = self.calls.iter().filter(|call| call.cron == key(name));
        own.map(|call| call.scheduled.0).collect()
    }

    pub(crate) fn fresh_decisions(&self) -> Option<Command> {
        let mut world = self.clone();
        world.planner = CronPlanner::default();
        world.decisions()
    }

    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.planner.next_deadline()
    }

    /// The commands of people, one without an answer but done or refused.
    pub(crate) fn suspend(&mut self, application: ApplicationId, name: &str) {
        let cron = key(name);
        self.apply(&Command::SuspendCron { application, cron })
            .unwrap();
    }

    pub(crate) fn resume(&mut self, application: ApplicationId, name: &str) {
        let cron = key(name);
        self.apply(&Command::ResumeCron { application, cron })
            .unwrap();
    }

    pub(crate) fn start_run(
        &mut self,
        application: ApplicationId,
        name: &str,
    ) -> Result<Outcome, Rejection> {
        let cron = key(name);
        self.apply(&Command::StartCronRun { application, cron })
    }
}
