//! `pm job`: the work that the cluster owns.

use std::collections::BTreeMap;

use common::api::{JobStarted, JobView};
use common::id::{ApplicationId, ApplicationName, JobId};
use common::job::Job;

use crate::args::JobVerb;
use crate::connection::{Connection, idempotency_key};
use crate::error::{CommandError, printable};
use crate::follow::{follow, step_line};
use crate::output::{self, ago, table, word};

/// Lists, shows, follows or aborts.
pub(crate) async fn run(connection: &Connection, verb: &JobVerb) -> Result<(), CommandError> {
    match verb {
        JobVerb::List { application, limit } => {
            list(connection, application.as_ref(), *limit).await
        }
        JobVerb::Show { job } => {
            let view = connection
                .client
                .job(*job)
                .await
                .map_err(connection.failed(format!("show job {job}")))?;
            connection.output.result(&view, detail)
        }
        JobVerb::Follow { job } => {
            let view = follow(connection, *job, &format!("finish job {job}")).await?;
            connection
                .output
                .result(&view, |view| ended(view.job.id, &view.urls))
        }
        JobVerb::Abort { job } => abort(connection, *job).await,
    }
}

/// Waits for a job that a verb has started, and prints what came of it.
pub(crate) async fn finish(
    connection: &Connection,
    started: &JobStarted,
    doing: &str,
    detach: bool,
) -> Result<(), CommandError> {
    if detach {
        return connection.output.result(started, |started| {
            let job = started.job;
            format!("Job {job} is under way; `pm job follow {job}` follows it.")
        });
    }
    let view = follow(connection, started.job, doing).await?;
    connection
        .output
        .result(&view, |view| ended(view.job.id, &view.urls))
}

fn ended(job: JobId, urls: &[String]) -> String {
    let mut text = format!("Job {job} is done.\n");
    for url in urls {
        text.push_str(url);
        text.push('\n');
    }
    text
}

async fn list(
    connection: &Connection,
    application: Option<&ApplicationName>,
    limit: u32,
) -> Result<(), CommandError> {
    const DOING: &str = "list the jobs";
    let application = match application {
        Some(name) => Some(connection.application(name).await?.id),
        None => None,
    };
    let jobs = connection
        .client
        .jobs(application, limit)
        .await
        .map_err(connection.failed(DOING))?;
    let names: BTreeMap<ApplicationId, String> = connection
        .client
        .applications(None, None)
        .await
        .map_err(connection.failed(DOING))?
        .into_iter()
        .map(|view| (view.id, view.name))
        .collect();
    connection.output.result(&jobs, |jobs| {
        let rows = jobs.iter().map(|job| row(job, &names));
        table(
            &[
                "JOB",
                "KIND",
                "APPLICATION",
                "VERSION",
                "STATE",
                "CREATED",
                "TOOK",
            ],
            rows,
        )
    })
}

fn row(job: &Job, names: &BTreeMap<ApplicationId, String>) -> Vec<String> {
    vec![
        job.id.to_string(),
        word(&job.kind),
        names
            .get(&job.application)
            .cloned()
            .unwrap_or_else(|| job.application.to_string()),
        job.version_number.to_string(),
        word(&job.state),
        ago(job.created),
        took(job),
    ]
}

fn took(job: &Job) -> String {
    job.finished.map_or_else(
        || "-".to_owned(),
        |finished| output::took(finished.since(job.created)),
    )
}

fn detail(view: &JobView) -> String {
    let job = &view.job;
    let mut text = format!(
        "job      {} ({})\nversion  {} of application {}\nstate    {}\ncreated  {}\ntook     {}\n\n",
        job.id,
        word(&job.kind),
        job.version_number,
        job.application,
        word(&job.state),
        job.created,
        took(job)
    );
    for step in &job.steps {
        text.push_str(&step_line(step));
        text.push('\n');
    }
    if let Some(failure) = &job.failure {
        text.push_str(&format!(
            "\nfailed at {} ({}): {}\n",
            word(&failure.step),
            failure.code,
            printable(&failure.message)
        ));
        for line in printable(&failure.output_tail).lines() {
            text.push_str(&format!("    | {line}\n"));
        }
    }
    for url in &view.urls {
        text.push_str(url);
        text.push('\n');
    }
    text
}

async fn abort(connection: &Connection, job: JobId) -> Result<(), CommandError> {
    connection
        .client
        .abort_job(job, &idempotency_key()?)
        .await
        .map_err(connection.failed(format!("abort job {job}")))?;
    connection
        .output
        .result(&serde_json::json!({ "job": job, "aborted": true }), |_| {
            format!("Job {job} is aborted; what it started is being undone.")
        })
}
