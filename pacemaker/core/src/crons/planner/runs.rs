//! Runs that are under way or wait: which are lost, which begin their next attempt.

use std::collections::{BTreeMap, BTreeSet};

use common::id::{NodeId, RunId};
use common::time::Timestamp;

use super::{CronPlanner, Wishes};
use crate::command::CronDecision;
use crate::state::State;
use crate::state::crons::CronRun;

impl CronPlanner {
    /// Gives up attempts whose pacemaker is gone, or that should have been reported long ago.
    ///
    /// The wall clock may have been set forward, or this leader been stopped for a while: so an
    /// attempt that looks overdue is given its timeout once more from when that was seen.
    pub(super) fn lose(&mut self, wishes: &mut Wishes<'_>, me: NodeId, gone: &BTreeSet<NodeId>) {
        let (state, wall) = (wishes.state, wishes.wall);
        let orphans: Vec<(RunId, u32)> = gone
            .iter()
            .filter(|node| **node != me)
            .flat_map(|node| state.cron_runs_of(*node))
            .map(|run| (run.id, run.attempts))
            .collect();
        let mut suspects = BTreeMap::new();
        let overdue = ..=(wall, RunId(u64::MAX));
        for (_, id) in state.cron_index.deadlines.range(overdue) {
            let Some(run) = state.cron_runs.get(id) else {
                continue;
            };
            let known = self
                .suspects
                .get(id)
                .filter(|known| known.0 == run.attempts);
            let since = known.map_or(wall, |(_, since)| wall.min(*since));
            suspects.insert(*id, (run.attempts, since));
        }
        self.suspects = suspects;
        let lost = self.suspects.iter().filter(|(id, (_, since))| {
            let run = state.cron_runs.get(id);
            run.is_some_and(|run| wall.since(*since) >= run.timeout)
        });
        let lost = lost.map(|(id, (attempt, _))| (*id, *attempt));
        for (run, attempt) in orphans.into_iter().chain(lost) {
            if wishes.is_full() {
                wishes.is_partial = true;
                return;
            }
            wishes.decisions.push(CronDecision::Lose { run, attempt });
        }
    }

    /// Brings back what is stamped ahead of the wall clock: it is at the end of its index.
    pub(super) fn rewind_runs(wishes: &mut Wishes<'_>) {
        let index = &wishes.state.cron_index;
        let last_claims = index.claims.values().filter_map(|claims| claims.last());
        let ahead: Vec<&CronRun> = last_claims
            .chain(index.deadlines.last())
            .filter_map(|(_, run)| wishes.state.cron_runs.get(run))
            .filter(|run| run.is_ahead_of(wishes.wall))
            .collect();
        for run in ahead {
            let application = wishes.state.applications.get(&run.application);
            let record = application.and_then(|application| application.crons.get(&run.cron));
            if let Some(record) = record.filter(|_| !wishes.is_full()) {
                wishes.decisions.push(CronDecision::Rewind {
                    application: run.application,
                    cron: run.cron.clone(),
                    from: record.considered,
                    to: wishes.wall,
                });
            }
        }
    }

    /// Begins the next attempt of what waits for one, or gives it up when it is too late.
    pub(super) fn claim(wishes: &mut Wishes<'_>) {
        let state = wishes.state;
        for (application, claims) in &state.cron_index.claims {
            for (_, id) in claims.range(..=(wishes.wall, RunId(u64::MAX))) {
                if wishes.is_full() {
                    wishes.is_partial = true;
                    return;
                }
                let Some(run) = state.cron_runs.get(id) else {
                    continue;
                };
                if run
                    .due()
                    .is_some_and(|due| wishes.is_late(*application, due))
                {
                    let (run, attempt) = (*id, run.attempts);
                    wishes.decisions.push(CronDecision::Lose { run, attempt });
                    continue;
                }
                if !state.may_claim_cron_run(run, wishes.wall) {
                    wishes.lack_room(*application);
                    continue;
                }
                if !wishes.take_room(*application, 0) {
                    break;
                }
                wishes.decisions.push(CronDecision::Claim { run: *id });
            }
        }
    }

    /// When something is due of a run though nothing changes.
    pub(super) fn next_of_runs(&self, state: &State, wall: Timestamp) -> Option<Timestamp> {
        let later = (Timestamp(wall.0.saturating_add(1)), RunId(0));
        let index = &state.cron_index;
        let claims = index.claims.values();
        let claims = claims.filter_map(|claims| claims.range(later..).next());
        let overdue = index.deadlines.range(later..).next();
        let alarms = claims.chain(overdue).map(|(at, _)| *at);
        let suspects = self.suspects.iter().filter_map(|(id, (_, since))| {
            let run = state.cron_runs.get(id)?;
            Some(since.after(run.timeout))
        });
        alarms.chain(suspects).min()
    }
}
