//! `pm cron history`: every run that is kept, and the slots that were not run.

use common::api::{ApplicationView, CronRunView, CronTrigger};
use common::id::RunId;
use common::time::Span;

use crate::args::cron::HistoryArguments;
use crate::connection::Connection;
use crate::cron::point_to_list;
use crate::error::{CommandError, printable};
use crate::output::{table, took, word};
use crate::status::optional;

/// Runs that are asked for at once.
const PAGE: u32 = 100;

/// Shows the newest runs.
pub(super) async fn run(
    connection: &Connection,
    arguments: &HistoryArguments,
) -> Result<(), CommandError> {
    let view = connection.application(&arguments.application).await?;
    let runs = fetch(connection, &view, arguments).await?;
    connection.output.result(&runs, |runs| human(runs))
}

async fn fetch(
    connection: &Connection,
    view: &ApplicationView,
    arguments: &HistoryArguments,
) -> Result<Vec<CronRunView>, CommandError> {
    let HistoryArguments { name, limit, .. } = arguments;
    let doing = match name {
        Some(name) => format!("show the runs of cron `{name}` of `{}`", view.name),
        None => format!("show the runs of the crons of `{}`", view.name),
    };
    let mut runs: Vec<CronRunView> = Vec::new();
    loop {
        let missing = limit.saturating_sub(u32::try_from(runs.len()).unwrap_or(u32::MAX));
        let before: Option<RunId> = runs.last().map(|run| run.id);
        if missing == 0 {
            return Ok(runs);
        }
        let page = connection
            .client
            .cron_runs(view.id, name.as_deref(), before, missing.min(PAGE))
            .await
            .map_err(connection.failed(doing.clone()))
            .map_err(|error| point_to_list(error, view))?;
        if page.is_empty() {
            return Ok(runs);
        }
        runs.extend(page);
    }
}

fn human(runs: &[CronRunView]) -> String {
    if runs.is_empty() {
        return "No run is kept.".to_owned();
    }
    table(
        &[
            "RUN",
            "CRON",
            "SCHEDULED",
            "STATE",
            "LATE",
            "TOOK",
            "TRIES",
            "VERSION",
            "INSTANCE",
            "OUTCOME",
        ],
        runs.iter().map(row),
    )
}

fn row(run: &CronRunView) -> Vec<String> {
    vec![
        run.id.to_string(),
        printable(&run.cron),
        scheduled(run),
        word(&run.state),
        late(run).map_or_else(|| "-".to_owned(), took),
        run.duration.map_or_else(|| "-".to_owned(), took),
        run.attempts.to_string(),
        optional(run.version.as_ref()),
        optional(run.instance.as_ref()),
        printable(&run.outcome),
    ]
}

fn scheduled(run: &CronRunView) -> String {
    match (run.trigger, run.count) {
        (CronTrigger::Manual, _) => format!("{} by hand", run.scheduled),
        (CronTrigger::Schedule, 0 | 1) => run.scheduled.to_string(),
        (CronTrigger::Schedule, count) => format!(
            "{} to {} ({count} times)",
            run.scheduled, run.last_scheduled
        ),
    }
}

/// How long after its slot a run began; one that was asked for has no slot.
fn late(run: &CronRunView) -> Option<Span> {
    match run.trigger {
        CronTrigger::Schedule => run.started.map(|started| started.since(run.scheduled)),
        CronTrigger::Manual => None,
    }
}
