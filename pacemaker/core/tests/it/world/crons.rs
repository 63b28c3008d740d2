//! The crons of a modelled cluster: a leader that fires them at instances that run.

use std::collections::{BTreeMap, BTreeSet};

use common::id::{NodeId, RunId};
use common::time::{Span, Timestamp};
use pacemaker_core::command::{Command, CronGrant, CronReport, CronResult, Outcome};
use pacemaker_core::crons::CronPlanner;

use super::World;
use crate::random::Random;

/// How far the wall clock is ahead of the world's: a slot of every minute comes in the time of
/// trouble, five seconds after the beginning, and none in the time of healing.
const AHEAD: Span = Span::seconds(15);

pub(crate) struct Crons {
    /// Of its own, so that a seed means what it meant before there were crons.
    random: Random,
    planner: CronPlanner,
    under_way: BTreeSet<(Timestamp, RunId, u32)>,
    /// How many first attempts each slot of each cron had.
    pub(crate) fired: BTreeMap<(common::id::ApplicationId, String, Timestamp), u32>,
}

impl Crons {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed ^ 0xC0),
            planner: CronPlanner::default(),
            under_way: BTreeSet::new(),
            fired: BTreeMap::new(),
        }
    }
}

impl World {
    fn wall(&self) -> Timestamp {
        self.now.after(AHEAD)
    }

    /// The leader of the day; the one before it may die with what it waits for.
    fn elect_for_crons(&mut self) {
        self.crons.planner = CronPlanner::default();
        let has_running = self.state.cron_runs_of(NodeId(1)).next().is_some();
        if has_running && self.crons.random.one_in(2) {
            self.crons.under_way.clear();
            self.apply(&Command::AbandonCronRuns { runner: NodeId(1) })
                .unwrap();
        }
    }

    pub(super) fn run_crons(&mut self) {
        if self.crons.random.one_in(400) {
            self.elect_for_crons();
        }
        self.report_crons();
        let at = self.wall();
        for _ in 0..100 {
            let decisions = self
                .crons
                .planner
                .plan(&self.state, at, NodeId(1), &BTreeSet::new());
            if decisions.is_empty() {
                return;
            }
            let outcome = self.apply(&Command::DecideCrons {
                runner: NodeId(1),
                at,
                decisions,
            });
            let Ok(Outcome::CronsDecided { grants }) = outcome else {
                panic!("decisions are never refused as a whole");
            };
            for grant in grants.into_iter().flatten() {
                self.call(grant);
            }
        }
        panic!("the leader of crons does not come to rest");
    }

    fn call(&mut self, grant: CronGrant) {
        let call = self.state.cron_call(grant, NodeId(1)).unwrap();
        if call.attempt == 1 {
            let slot = (call.application, call.cron.to_string(), call.scheduled);
            let count = self.crons.fired.entry(slot).or_default();
            *count += 1;
            assert_eq!(*count, 1, "{call:?}");
        }
        for target in self.state.cron_targets(call.application, &call.cron) {
            let instance = &self.state.instances()[&target.instance];
            let application = &self.state.applications()[&call.application];
            assert_eq!(Some(instance.version), application.current);
            assert!(instance.wants_process(), "{target:?}");
        }
        let ends = self.now.after(Span(self.crons.random.below(3_000)));
        self.crons.under_way.insert((ends, call.run, call.attempt));
    }

    fn report_crons(&mut self) {
        let mut reports = Vec::new();
        while let Some((ends, run, attempt)) = self.crons.under_way.first().copied()
            && ends <= self.now
        {
            self.crons.under_way.pop_first();
            let call = self.state.cron_call(CronGrant { run, attempt }, NodeId(1));
            let is_served = call.is_some_and(|call| {
                let targets = self.state.cron_targets(call.application, &call.cron);
                !targets.is_empty()
            });
            reports.push(CronReport {
                run,
                attempt,
                instance: None,
                status: None,
                ended: self.wall(),
                duration: Span(1),
                result: if is_served {
                    CronResult::Succeeded
                } else {
                    CronResult::Failed
                },
                words: String::new(),
            });
        }
        if !reports.is_empty() {
            let runner = NodeId(1);
            self.apply(&Command::ReportCronRuns { runner, reports })
                .unwrap();
        }
    }
}
