//! What became of attempts, told by whoever made them.

use common::id::{NodeId, RunId};

use super::runs::Ending;
use crate::apply::reject;
use crate::command::{CronReport, CronResult, Outcome, Rejection, RejectionCode};
use crate::state::crons::{CronRun, RunPhase};
use crate::state::limits::CRON_REPORTS_MAX;
use crate::transition::Transition;

impl Transition<'_> {
    /// Takes facts one by one; the answer names the runs of which one was stale.
    pub(in crate::apply) fn report_cron_runs(
        &mut self,
        runner: NodeId,
        reports: &[CronReport],
    ) -> Result<Outcome, Rejection> {
        if reports.len() > CRON_REPORTS_MAX {
            return Err(reject(
                RejectionCode::LimitExceeded,
                format!("a command has at most {CRON_REPORTS_MAX} reports of crons"),
            ));
        }
        let mut stale = Vec::new();
        for report in reports {
            if self.takes(runner, report) {
                self.end_attempt(
                    report.run,
                    &Ending {
                        result: report.result,
                        at: report.ended,
                        duration: Some(report.duration),
                        instance: report.instance,
                        status: report.status,
                        words: said(report),
                    },
                );
            } else {
                stale.push(report.run);
            }
        }
        Ok(Outcome::CronRunsReported { stale })
    }

    /// The first report of the present attempt by whoever makes it counts, and a late one of an
    /// attempt that was given up.
    fn takes(&self, runner: NodeId, report: &CronReport) -> bool {
        let Some(run) = self.state.cron_runs.get(&report.run) else {
            return false;
        };
        let was_given_up = run.result == Some(CronResult::Lost)
            && matches!(run.phase, RunPhase::Lost | RunPhase::Backoff { .. })
            && report.result != CronResult::Lost;
        let is_theirs = run.runner == Some(runner);
        is_theirs
            && run.attempts == report.attempt
            && (run.phase == RunPhase::Running || was_given_up)
    }

    /// A pacemaker has started again: of what it ran before, nobody knows.
    pub(in crate::apply) fn abandon_cron_runs(&mut self, runner: NodeId) -> Outcome {
        let now = self.now();
        let runs: Vec<RunId> = self
            .state
            .cron_index
            .runners
            .get(&runner)
            .into_iter()
            .flatten()
            .copied()
            .collect();
        for id in runs {
            let words = format!(
                "nobody knows what became of it: pacemaker {runner}, which made the request, stopped meanwhile"
            );
            self.end_attempt(id, &Ending::without_answer(CronResult::Lost, now, &words));
            let application = self.state.cron_runs.get(&id).map(CronRun::owner);
            if let Some(application) = application {
                self.touch_crons(application);
            }
        }
        Outcome::Done
    }
}

/// Every run that has ended says something.
fn said(report: &CronReport) -> &str {
    if !report.words.trim().is_empty() {
        return &report.words;
    }
    match report.result {
        CronResult::Succeeded => "succeeded",
        CronResult::Failed => "failed",
        CronResult::TimedOut => "timed out",
        CronResult::Lost => "nobody knows what became of it",
    }
}
