//! `pm cron`: the calls that the cluster makes to an application at its times.

mod history;
mod list;
mod run;

use common::api::ApplicationView;
use common::id::RunId;

use crate::args::cron::{CronTarget, CronVerb};
use crate::connection::{Connection, idempotency_key};
use crate::error::CommandError;

/// Lists, runs, suspends, resumes, or shows what was.
pub(crate) async fn run(connection: &Connection, verb: &CronVerb) -> Result<(), CommandError> {
    match verb {
        CronVerb::List { application } => list::run(connection, application).await,
        CronVerb::History(arguments) => history::run(connection, arguments).await,
        CronVerb::Run(arguments) => run::run(connection, arguments).await,
        CronVerb::Suspend(target) => suspend(connection, target).await,
        CronVerb::Resume(target) => resume(connection, target).await,
        CronVerb::Log { run } => log(connection, *run).await,
    }
}

async fn suspend(connection: &Connection, target: &CronTarget) -> Result<(), CommandError> {
    let CronTarget { application, name } = target;
    let view = connection.application(application).await?;
    let doing = format!("suspend cron `{name}` of `{application}`");
    connection
        .client
        .suspend_cron(view.id, name, &idempotency_key()?)
        .await
        .map_err(connection.failed(doing))
        .map_err(|error| point_to_list(error, &view))?;
    let result = serde_json::json!({ "cron": name, "suspended": true });
    connection.output.result(&result, |_| {
        format!(
            "Cron `{name}` of `{application}` is suspended; `pm cron resume` lets it run again, and `pm cron run` runs it once."
        )
    })
}

async fn resume(connection: &Connection, target: &CronTarget) -> Result<(), CommandError> {
    let CronTarget { application, name } = target;
    let view = connection.application(application).await?;
    let doing = format!("resume cron `{name}` of `{application}`");
    connection
        .client
        .resume_cron(view.id, name, &idempotency_key()?)
        .await
        .map_err(connection.failed(doing))
        .map_err(|error| point_to_list(error, &view))?;
    let result = serde_json::json!({ "cron": name, "suspended": false });
    connection.output.result(&result, |_| {
        format!(
            "Cron `{name}` of `{application}` runs again; `pm cron list {application}` says when next."
        )
    })
}

/// Prints the answer as it came: the application's bytes, not ours.
async fn log(connection: &Connection, run: RunId) -> Result<(), CommandError> {
    let log = read_log(connection, run)
        .await
        .map_err(connection.failed(format!("read the log of run {run}")))
        .map_err(|error| {
            if error.code == "cron_run_not_found" {
                error.next("`pm cron history APP` shows the runs that are kept")
            } else {
                error
            }
        })?;
    if connection.output.is_json() {
        let text = String::from_utf8_lossy(&log.bytes);
        let result = serde_json::json!({ "run": run, "log": text, "complete": log.is_complete });
        return connection.output.result(&result, |_| String::new());
    }
    connection.output.bytes(&log.bytes)?;
    if !log.is_complete {
        connection.progress.line(&format!(
            "run {run} goes on: its log is complete once it has ended"
        ));
    }
    Ok(())
}

/// What is kept of what a run was answered.
#[derive(Debug)]
struct Log {
    bytes: Vec<u8>,
    /// False while the run goes on.
    is_complete: bool,
}

/// All of it that there is now.
async fn read_log(connection: &Connection, run: RunId) -> Result<Log, pacemaker_client::Error> {
    let mut bytes = Vec::new();
    let mut after = 0;
    loop {
        let chunk = connection.client.cron_run_log(run, after).await?;
        bytes.extend_from_slice(&chunk.bytes);
        after = chunk.next_offset;
        if chunk.is_end || chunk.bytes.is_empty() {
            return Ok(Log {
                bytes,
                is_complete: chunk.is_end,
            });
        }
    }
}

/// Says how to find the crons that there are.
fn point_to_list(error: CommandError, view: &ApplicationView) -> CommandError {
    if error.next.is_none() && error.code == "cron_not_found" {
        return error.next(format!("`pm cron list {}` shows its crons", view.name));
    }
    error
}
