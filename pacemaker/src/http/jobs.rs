//! Jobs and their logs.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use common::api::{LOG_END, LOG_OFFSET, WATCH_SECONDS};
use common::id::{ApplicationId, JobId};
use common::job::Job;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use pacemaker_core::command::Command;
use serde::Deserialize;
use tokio::time::Instant;

use crate::http::Api;
use crate::http::error::{Answer, Failure};
use crate::http::extract::{Key, Path, Query, Raw};
use crate::http::watch::{WatchQuery, watch};
use crate::job_log::share::{Forwarded, ShareError};
use crate::job_log::{AppendError, Chunk};
use crate::peers::{FORWARDED, LOG_LENGTH};

/// Jobs in a list when nothing is said: about two screens.
const LIST_DEFAULT: usize = 50;
/// The longest list of jobs.
const LIST_MAX: usize = 500;

/// How long an append waits for a leader; less than its sender waits for the answer.
const LEADER_PATIENCE: Duration = Duration::from_secs(8);
/// The pause before a leader is looked for again, or a log's end.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

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

/// Which part of which copy is read.
#[derive(Debug, Deserialize)]
pub(crate) struct CopyQuery {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    completed: bool,
}

/// Where a leader writes to a follower's copy.
#[derive(Debug, Deserialize)]
pub(crate) struct PutQuery {
    offset: u64,
    term: u64,
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
    settle(&api, job).await?;
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
    settle(&api, job).await?;
    let until = Instant::now() + Duration::from_secs(WATCH_SECONDS);
    let mut appended = api.job_logs.follow(job);
    loop {
        appended.mark_unchanged();
        // Asked before the log is read: a builder's last words come before its last report.
        let is_final = is_final(&api, job)?;
        let mut chunk = read(&api, job, query.after).await?;
        let mut is_complete = false;
        let is_wanted_whole = is_final || !query.follow;
        if chunk.bytes.is_empty() || is_wanted_whole && chunk.is_last {
            // What a builder wrote while this pacemaker was away is elsewhere.
            match api.job_logs.refresh(job).await {
                Ok(()) => is_complete = true,
                Err(error) => tracing::debug!(%job, %error, "a job's log may lack its end"),
            }
            chunk = read(&api, job, query.after).await?;
        }
        let is_end = is_final && is_complete && chunk.is_last;
        if !chunk.bytes.is_empty() || is_end || !query.follow {
            return Ok(answer(chunk, is_end));
        }
        let retry = if is_final {
            RETRY_PAUSE
        } else {
            until - Instant::now()
        };
        tokio::select! {
            _ = appended.changed() => {}
            () = tokio::time::sleep_until(until.min(Instant::now() + retry)) => {}
            () = api.shutdown.cancelled() => return Ok(answer(chunk, is_end)),
        }
        if Instant::now() >= until {
            return Ok(answer(chunk, is_end));
        }
    }
}

/// POST [`paths::JOB_LOG`](common::api::paths::JOB_LOG).
///
/// The leader writes; another passes the piece on to it. Repeating is harmless, because a piece
/// says where it begins.
pub(crate) async fn append_log(
    State(api): State<Arc<Api>>,
    Path(job): Path<JobId>,
    Query(query): Query<AppendQuery>,
    headers: HeaderMap,
    Raw(piece): Raw,
) -> Answer<Response> {
    let until = Instant::now() + LEADER_PATIENCE;
    loop {
        let group = api.pacemakers.group();
        match group.leader {
            Some(leader) if leader == group.me => {
                let taken = append(&api, job, query.offset, piece.clone()).await;
                match taken {
                    Err(Refusal::Later) => {}
                    Err(Refusal::Failure(failure)) => return Err(failure),
                    Ok(answer) => return Ok(answer),
                }
            }
            _ if headers.contains_key(FORWARDED) => {}
            Some(leader) => {
                if let Some(peer) = group.other(leader)
                    && let Some(told) = api
                        .job_logs
                        .forward(&peer, job, query.offset, piece.clone())
                        .await
                    && told.status != StatusCode::SERVICE_UNAVAILABLE
                {
                    return Ok(passed_on(told));
                }
            }
            None => {}
        }
        if headers.contains_key(FORWARDED) || Instant::now() + RETRY_PAUSE >= until {
            return Err(Failure::unavailable(
                "log_not_taken",
                "No pacemaker that leads a majority has taken the piece of the log; send it again.",
            ));
        }
        tokio::select! {
            () = tokio::time::sleep_until(Instant::now() + RETRY_PAUSE) => {}
            () = api.shutdown.cancelled() => {}
        }
    }
}

/// GET [`REPLICA_JOB_LOG`](crate::peers::REPLICA_JOB_LOG).
pub(crate) async fn read_replica_log(
    State(api): State<Arc<Api>>,
    Path(job): Path<JobId>,
    Query(query): Query<CopyQuery>,
) -> Answer<Response> {
    if query.completed {
        let group = api.pacemakers.group();
        if group.leader != Some(group.me) {
            return Err(Failure::unavailable(
                "no_leader",
                "This pacemaker does not lead; the leader has the log in full.",
            ));
        }
        let refreshed = api.job_logs.refresh(job).await;
        refreshed.map_err(|error| Failure::unavailable("log_incomplete", error.to_string()))?;
    }
    let (chunk, length) = api
        .job_logs
        .read(job, query.after)
        .await
        .map_err(|error| Failure::internal("reading a job's log", &error))?;
    let mut response = answer(chunk, false);
    response
        .headers_mut()
        .insert(LOG_LENGTH, HeaderValue::from(length));
    Ok(response)
}

/// POST [`REPLICA_JOB_LOG`](crate::peers::REPLICA_JOB_LOG).
pub(crate) async fn put_replica_log(
    State(api): State<Arc<Api>>,
    Path(job): Path<JobId>,
    Query(query): Query<PutQuery>,
    Raw(piece): Raw,
) -> Answer<Response> {
    let put = api.job_logs.put(job, query.offset, query.term, piece);
    match put.await {
        Ok(length) => Ok(taken(length)),
        Err(error) => match refusal(error) {
            Refusal::Failure(failure) => Err(failure),
            Refusal::Later => Err(Failure::new(
                StatusCode::CONFLICT,
                "stale_term",
                "Another pacemaker leads.",
                "A leader of a newer term writes the logs.",
            )),
        },
    }
}

/// Why an append is not taken here.
enum Refusal {
    /// It may be taken later, or elsewhere.
    Later,
    /// It is not.
    Failure(Failure),
}

async fn append(api: &Api, job: JobId, offset: u64, piece: Bytes) -> Result<Response, Refusal> {
    settle(api, job).await.map_err(|_| Refusal::Later)?;
    // A log without a job would never be removed.
    if is_final(api, job).map_err(Refusal::Failure)? {
        return Err(Refusal::Failure(Failure::new(
            StatusCode::CONFLICT,
            "job_ended",
            "The job has ended.",
            format!("Job {job} has ended, and its log is closed."),
        )));
    }
    match api.job_logs.append(job, offset, piece).await {
        Ok(next) => Ok(taken(next)),
        Err(error) => Err(refusal(error)),
    }
}

fn refusal(error: ShareError) -> Refusal {
    let failure = match error {
        ShareError::NoMajority | ShareError::Deposed | ShareError::Silent(_) => {
            return Refusal::Later;
        }
        ShareError::Append(AppendError::Offset(length)) => Failure::new(
            StatusCode::CONFLICT,
            "offset_mismatch",
            "The log goes on elsewhere.",
            format!("It is {length} bytes long; go on from there."),
        )
        .with_header(HeaderName::from_static(LOG_OFFSET), length),
        ShareError::Append(AppendError::Full) => Failure::storage_full("The piece of the log"),
        ShareError::Append(AppendError::Io(error)) => {
            Failure::internal("writing a job's log", &error)
        }
    };
    Refusal::Failure(failure)
}

fn taken(next: u64) -> Response {
    (StatusCode::NO_CONTENT, [(LOG_OFFSET, next.to_string())]).into_response()
}

/// The leader's answer, as if it were this pacemaker's.
fn passed_on(told: Forwarded) -> Response {
    let mut response = (told.status, told.body).into_response();
    for name in [CONTENT_TYPE, HeaderName::from_static(LOG_OFFSET)] {
        if let Some(value) = told.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

async fn read(api: &Api, job: JobId, after: u64) -> Answer<Chunk> {
    let read = api.job_logs.read(job, after).await;
    let (chunk, _) = read.map_err(|error| Failure::internal("reading a job's log", &error))?;
    Ok(chunk)
}

/// Makes sure that a job that is not known here is known nowhere: what was acknowledged by another
/// pacemaker may not have been applied yet.
async fn settle(api: &Api, job: JobId) -> Answer<()> {
    if api.replica.read(|state| state.job(job).is_none()) {
        api.proposer.barrier().await?;
    }
    Ok(())
}

fn is_final(api: &Api, job: JobId) -> Answer<bool> {
    api.replica
        .read(|state| state.job(job).map(|job| job.state.is_final()))
        .ok_or_else(|| missing(job))
}

fn answer(chunk: Chunk, is_end: bool) -> Response {
    let mut response = chunk.bytes.into_response();
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(LOG_OFFSET, HeaderValue::from(chunk.next));
    if is_end {
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
