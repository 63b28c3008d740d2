//! Web crons: lists, runs and their logs.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use common::api::{CronRequest, CronRunView, CronView, LOG_END, LOG_OFFSET};
use common::application::CronKey;
use common::id::{ApplicationId, NodeId, RunId};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode};
use pacemaker_core::command::{Command, Outcome};
use serde::Deserialize;

use crate::http::Api;
use crate::http::error::{Answer, Failure, chain};
use crate::http::extract::{Json, Key, Path, Query};
use crate::http::workspaces::odd_outcome;
use crate::peers::{ANSWER_TIMEOUT, cron_log_path};

/// Runs in a list when nothing is said: about two screens.
const LIST_DEFAULT: usize = 50;
/// The longest list of runs.
const LIST_MAX: usize = 500;

/// What narrows a list of runs.
#[derive(Debug, Deserialize)]
pub(crate) struct Filter {
    cron: Option<String>,
    before: Option<RunId>,
    limit: Option<usize>,
}

/// Where a log is read.
#[derive(Debug, Deserialize)]
pub(crate) struct LogQuery {
    #[serde(default)]
    after: u64,
}

/// GET [`paths::CRONS`](common::api::paths::CRONS).
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Path(application): Path<ApplicationId>,
) -> Answer<axum::Json<Vec<CronView>>> {
    all(&api, application).map(axum::Json)
}

/// GET [`paths::APPLICATION_CRON_RUNS`](common::api::paths::APPLICATION_CRON_RUNS).
pub(crate) async fn runs(
    State(api): State<Arc<Api>>,
    Path(application): Path<ApplicationId>,
    Query(filter): Query<Filter>,
) -> Answer<axum::Json<Vec<CronRunView>>> {
    let cron = match &filter.cron {
        Some(text) => Some(find(&api, application, text)?),
        None => None,
    };
    let limit = filter.limit.unwrap_or(LIST_DEFAULT).min(LIST_MAX);
    let runs = api
        .replica
        .read(|state| state.cron_runs(application, cron.as_ref(), filter.before, limit));
    if runs.is_empty() {
        all(&api, application)?;
    }
    Ok(axum::Json(runs))
}

/// GET [`paths::CRON_RUN`](common::api::paths::CRON_RUN).
pub(crate) async fn view(
    State(api): State<Arc<Api>>,
    Path(run): Path<RunId>,
) -> Answer<axum::Json<CronRunView>> {
    look_up(&api, run).map(axum::Json)
}

/// POST [`paths::APPLICATION_CRON_RUNS`](common::api::paths::APPLICATION_CRON_RUNS).
pub(crate) async fn start(
    State(api): State<Arc<Api>>,
    Path(application): Path<ApplicationId>,
    key: Key,
    Json(body): Json<CronRequest>,
) -> Answer<Response> {
    let cron = find_newest(&api, application, &body.cron).await?;
    let command = key.once(Command::StartCronRun { application, cron });
    let Outcome::CronRun(run) = api.propose(command).await? else {
        return Err(odd_outcome());
    };
    let view = look_up(&api, run)?;
    Ok((StatusCode::ACCEPTED, axum::Json(view)).into_response())
}

/// POST [`paths::CRON_SUSPEND`](common::api::paths::CRON_SUSPEND).
pub(crate) async fn suspend(
    State(api): State<Arc<Api>>,
    Path(application): Path<ApplicationId>,
    key: Key,
    Json(body): Json<CronRequest>,
) -> Answer<StatusCode> {
    let cron = find_newest(&api, application, &body.cron).await?;
    api.propose(key.once(Command::SuspendCron { application, cron }))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// POST [`paths::CRON_RESUME`](common::api::paths::CRON_RESUME).
pub(crate) async fn resume(
    State(api): State<Arc<Api>>,
    Path(application): Path<ApplicationId>,
    key: Key,
    Json(body): Json<CronRequest>,
) -> Answer<StatusCode> {
    let cron = find_newest(&api, application, &body.cron).await?;
    api.propose(key.once(Command::ResumeCron { application, cron }))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// GET [`paths::CRON_RUN_LOG`](common::api::paths::CRON_RUN_LOG).
pub(crate) async fn log(
    State(api): State<Arc<Api>>,
    Path(run): Path<RunId>,
    Query(query): Query<LogQuery>,
) -> Answer<Response> {
    let view = look_up(&api, run)?;
    let Some(node) = view.node else {
        return Ok(answer(Vec::new(), query.after, view.state.is_final()));
    };
    let kept = if node.0 == api.member {
        read(&api, run, query.after).await?
    } else {
        fetch(&api, node, run, query.after).await?
    };
    match kept {
        Some(bytes) => Ok(answer(bytes, query.after, view.state.is_final())),
        None if !view.state.is_final() => Ok(answer(Vec::new(), query.after, false)),
        None => Err(Failure::not_found(
            "cron_log_not_found",
            format!(
                "Run {run} has no log: no answer had begun when it ended, or its log had to make room on pacemaker {node}. It ended so: {}.",
                view.outcome
            ),
        )),
    }
}

/// GET [`REPLICA_CRON_LOG`](crate::peers::REPLICA_CRON_LOG).
pub(crate) async fn read_replica_log(
    State(api): State<Arc<Api>>,
    Path(run): Path<RunId>,
    Query(query): Query<LogQuery>,
) -> Answer<Response> {
    match read(&api, run, query.after).await? {
        Some(bytes) => Ok(answer(bytes, query.after, false)),
        None => Err(Failure::not_found(
            "cron_log_not_found",
            format!("Pacemaker {} has no log of run {run}.", api.member),
        )),
    }
}

async fn read(api: &Api, run: RunId, after: u64) -> Answer<Option<Vec<u8>>> {
    let logs = api.cron_logs.clone();
    tokio::task::spawn_blocking(move || logs.read(run, after))
        .await
        .map_err(|error| Failure::internal("reading a cron run's log", &error))?
        .map_err(|error| Failure::internal("reading a cron run's log", &error))
}

/// Asks the pacemaker that made the request.
async fn fetch(api: &Api, node: NodeId, run: RunId, after: u64) -> Answer<Option<Vec<u8>>> {
    let Some(peer) = api.pacemakers.group().other(node.0) else {
        return Err(Failure::new(
            StatusCode::GONE,
            "cron_log_gone",
            "The log is gone.",
            format!(
                "Pacemaker {node} made the request of run {run} and had its log; it is no pacemaker of the cluster any more."
            ),
        ));
    };
    let unreachable = |why: String| {
        tracing::debug!(%run, node = node.0, why, "a cron run's log cannot be fetched");
        Failure::unavailable(
            "cron_log_unreachable",
            format!(
                "Pacemaker {node} made the request of run {run} and has its log, and does not answer now; try again when it runs."
            ),
        )
    };
    let path = format!("{}?after={after}", cron_log_path(run));
    let request = api.pacemakers.request(&peer, Method::GET, &path);
    let request =
        request.map_err(|error| Failure::internal("making a client for a peer", &error))?;
    let fetched = request.timeout(ANSWER_TIMEOUT).send().await;
    let fetched = fetched.map_err(|error| unreachable(chain(&error)))?;
    match fetched.status() {
        StatusCode::OK => {
            let bytes = fetched.bytes().await;
            let bytes = bytes.map_err(|error| unreachable(chain(&error)))?;
            Ok(Some(bytes.to_vec()))
        }
        StatusCode::NOT_FOUND => Ok(None),
        status => Err(unreachable(status.to_string())),
    }
}

fn answer(bytes: Vec<u8>, after: u64, is_end: bool) -> Response {
    let next = after.saturating_add(bytes.len() as u64);
    let mut response = bytes.into_response();
    let headers = response.headers_mut();
    // What an application says; no browser is to take it for a page of ours.
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(CONTENT_TYPE, plain);
    headers.insert(LOG_OFFSET, HeaderValue::from(next));
    if is_end {
        headers.insert(LOG_END, HeaderValue::from_static("true"));
    }
    response
}

fn all(api: &Api, application: ApplicationId) -> Answer<Vec<CronView>> {
    let wall = api.wall_clock.now();
    api.replica
        .read(|state| state.crons(application, wall))
        .ok_or_else(|| no_application(application))
}

/// As [`find`], in the newest state: what is named was perhaps deployed a moment ago.
async fn find_newest(api: &Api, application: ApplicationId, text: &str) -> Answer<CronKey> {
    match find(api, application, text) {
        Ok(cron) => Ok(cron),
        Err(_) => {
            api.proposer.barrier().await?;
            find(api, application, text)
        }
    }
}

/// The cron that `text` names: `TYPE/NAME`, or a name that one instance type has.
fn find(api: &Api, application: ApplicationId, text: &str) -> Answer<CronKey> {
    let found = api
        .replica
        .read(|state| state.find_crons(application, text));
    match &*found {
        [key] => Ok(key.clone()),
        [one, other, ..] => Err(Failure::new(
            StatusCode::CONFLICT,
            "cron_ambiguous",
            "Several crons have this name.",
            format!("Name the instance type too: `{one}` or `{other}`."),
        )),
        [] => {
            all(api, application)?;
            Err(Failure::not_found(
                "cron_not_found",
                format!(
                    "Application {application} has no cron `{text}`; `pm cron list` lists all."
                ),
            ))
        }
    }
}

fn look_up(api: &Api, run: RunId) -> Answer<CronRunView> {
    api.replica
        .read(|state| state.cron_run_view(run))
        .ok_or_else(|| {
            Failure::not_found(
                "cron_run_not_found",
                format!(
                    "There is no run {run}, or it is too old to be kept; `pm cron history` lists those that are."
                ),
            )
        })
}

fn no_application(application: ApplicationId) -> Failure {
    Failure::not_found(
        "application_not_found",
        format!("There is no application {application}; `pm status` lists all."),
    )
}
