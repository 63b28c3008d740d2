//! What there is to say of an application's crons in `pm why`.

use common::application::CronKey;

use super::calls::cron_spec;
use crate::state::State;
use crate::state::crons::{CronRecord, RunPhase};
use crate::state::records::Application;

/// Crons that are spoken of: `pm cron list` has all.
const CRONS_SHOWN: usize = 10;

impl State {
    /// One line for each cron that does not do what its manifest says.
    pub(crate) fn crons_in_words(&self, application: &Application) -> Vec<String> {
        let mut lines: Vec<String> = application
            .crons
            .iter()
            .filter(|(_, record)| record.policy.is_some())
            .filter_map(|(key, record)| {
                let unread = || unread(application, key);
                let trouble = self.trouble_of(record).or_else(unread)?;
                Some(format!("cron `{key}` {trouble}"))
            })
            .collect();
        let more = lines.len().saturating_sub(CRONS_SHOWN);
        lines.truncate(CRONS_SHOWN);
        if more > 0 {
            lines.push(format!(
                "and {more} more crons: see `pm cron list {}`",
                application.name
            ));
        }
        lines
    }

    fn trouble_of(&self, record: &CronRecord) -> Option<String> {
        if record.suspended {
            return Some("is suspended: `pm cron resume` runs it again".to_owned());
        }
        let newest = record.runs.last().and_then(|run| self.cron_runs.get(run));
        if record.failures > 0 {
            return Some(match record.failures {
                1 => format!("failed the last time: {}", self.last_words(record)),
                times => format!(
                    "failed {times} times in a row, the last time: {}",
                    self.last_words(record)
                ),
            });
        }
        let run = newest?;
        match run.phase {
            RunPhase::Skipped(_) | RunPhase::Missed => {
                Some(format!("was {} at {}", run.words, run.last_scheduled))
            }
            RunPhase::Backoff { until } => Some(format!(
                "failed and is tried again at {until}: {}",
                run.words
            )),
            RunPhase::Waiting
            | RunPhase::Running
            | RunPhase::Succeeded
            | RunPhase::Failed
            | RunPhase::TimedOut
            | RunPhase::Lost
            | RunPhase::Replaced => None,
        }
    }
}

/// Of a cron whose times this release cannot read, so that it is never due.
fn unread(application: &Application, key: &CronKey) -> Option<String> {
    let number = application.crons_version.or(application.current)?;
    let spec = cron_spec(application.versions.get(&number)?, key)?;
    let what = match (spec.runspec.is_known(), spec.timezone.is_known()) {
        (true, true) => return None,
        (false, _) => format!("expression `{}`", spec.runspec),
        (true, false) => format!("time zone `{}`", spec.timezone),
    };
    Some(format!(
        "is never due: this release does not know its {what}; deploy it with another"
    ))
}
