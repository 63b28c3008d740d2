//! Jobs and their logs.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use common::api::{LOG_END, LOG_OFFSET, WATCH_SECONDS};
use common::id::{ApplicationId, JobId};
use common::job::Job;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, StatusCode};
use pacemaker_core::command::Command;
use serde::Deserialize;
use tokio::time::Instant;

use crate::http::Api;
use crate::http::error::{Answer, Failure};
use crate::http::extract::{Key, Path, Query, Raw};
use crate::http::watch::{WatchQuery, watch};
use crate::job_log::{AppendError, Chunk};

/// Jobs in a list when nothing is said: about two screens.
const LIST_DEFAULT: usize = 50;
/// The longest list of jobs.
const LIST_MAX: usize = 500;

/// What narrows a list of jobs.
#[derive(Debug, Deserialize)]
pub(crate) struct Filter {
    application: Option<ApplicationId>,
    limit: Option<usize>,
    before: Option<JobId>,
}

/// Where a log is read.
#[derive(Debug, Deserialize)]
pub(crate) struct ReadQuery {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    follow: bool,
}

/// Where a log is appended to.
#[derive(Debug, Deserialize)]
pub(crate) struct AppendQuery {
    offset: u64,
}

/// GET [`paths::JOBS`](common::api::paths::JOBS).
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Query(filter): Query<Filter>,
) -> axum::Json<Vec<Job>> {
    let limit = filter.limit.unwrap_or(LIST_DEFAULT).min(LIST_MAX);
    let jobs = api
        .replica
        .read(|state| state.jobs(filter.application, filter.before, limit));
    axum::Json(jobs)
}

/// GET [`paths::JOB`](common::api::paths::JOB).
pub(crate) async fn view(
    State(api): State<Arc<Api>>,
    Path(job): Path<JobId>,
    Query(query): Query<WatchQuery>,
) -> Answer<Response> {
    watch(&api, &query, |api, after| {
        api.replica.read(|state| {
            let generation = state.job_generation(job).ok_or_else(|| missing(job))?;
            if generation <= after {
                return Ok(None);
            }
            let view = state.job_view(job, api.router_port);
            view.map(Some).ok_or_else(|| missing(job))
        })
    })
    .await
}

/// POST [`paths::JOB_ABORT`](common::api::paths::JOB_ABORT).
pub(crate) async fn abort(
    State(api): State<Arc<Api>>,
    Path(job): Path<JobId>,
    key: Key,
) -> Answer<StatusCode> {
    api.propose(key.once(Command::AbortJob { job })).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// GET [`paths::JOB_LOG`](common::api::paths::JOB_LOG).
pub(crate) async fn read_log(
    State(api): State<Arc<Api>>,
    Path(job): Path<JobId>,
    Query(query): Query<ReadQuery>,
) -> Answer<Response> {
    let until = Instant::now() + Duration::from_secs(WATCH_SECONDS);
    let mut appended = api.job_logs.changes();
    let mut changes = api.replica.changes();
    loop {
        appended.mark_unchanged();
        changes.mark_unchanged();
        // Asked before the log is read: a builder's last words come before its last report.
        let is_final = is_final(&api, job)?;
        let logs = api.job_logs.clone();
        let chunk = tokio::task::spawn_blocking(move || logs.read(job, query.after))
            .await
            .map_err(|error| Failure::internal("reading a job's log", &error))?
            .map_err(|error| Failure::internal("reading a job's log", &error))?;
        if !chunk.bytes.is_empty() || is_final || !query.follow {
            return Ok(answer(chunk, is_final));
        }
        tokio::select! {
            _ = appended.changed() => {}
            _ = changes.changed() => {}
            () = tokio::time::sleep_until(until) => return Ok(answer(chunk, is_final)),
            () = api.shutdown.cancelled() => return Ok(answer(chunk, is_final)),
        }
    }
}

/// POST [`paths::JOB_LOG`](common::api::paths::JOB_LOG).
pub(crate) async fn append_log(
    State(api): State<Arc<Api>>,
    Path(job): Path<JobId>,
    Query(query): Query<AppendQuery>,
    Raw(piece): Raw,
) -> Answer<Response> {
    // A log without a job would never be removed.
    is_final(&api, job)?;
    let logs = api.job_logs.clone();
    let appended = tokio::task::spawn_blocking(move || logs.append(job, query.offset, &piece))
        .await
        .map_err(|error| Failure::internal("writing a job's log", &error))?;
    match appended {
        Ok(next) => Ok((StatusCode::NO_CONTENT, [(LOG_OFFSET, next.to_string())]).into_response()),
        Err(AppendError::Offset(length)) => Err(Failure::new(
            StatusCode::CONFLICT,
            "offset_mismatch",
            "The log goes on elsewhere.",
            format!("It is {length} bytes long; go on from there."),
        )
        .with_header(HeaderName::from_static(LOG_OFFSET), length)),
        Err(AppendError::Full) => Err(Failure::storage_full("The piece of the log")),
        Err(AppendError::Io(error)) => Err(Failure::internal("writing a job's log", &error)),
    }
}

fn is_final(api: &Api, job: JobId) -> Answer<bool> {
    api.replica
        .read(|state| state.job(job).map(|job| job.state.is_final()))
        .ok_or_else(|| missing(job))
}

fn answer(chunk: Chunk, is_final: bool) -> Response {
    let mut response = chunk.bytes.into_response();
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(LOG_OFFSET, HeaderValue::from(chunk.next));
    if is_final && chunk.is_last {
        headers.insert(LOG_END, HeaderValue::from_static("true"));
    }
    response
}

fn missing(job: JobId) -> Failure {
    Failure::not_found(
        "job_not_found",
        format!("There is no job {job}, or it is too old to be kept; `pm job list` lists all."),
    )
}
