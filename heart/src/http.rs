//! The heart's part of the node's API: the output of instances.
//!
//! `GET /v1/heart/instances/{instance}/log?after=OFFSET&tail=LINES&follow=true`, for pacemakers that
//! show their certificate, and for bearers of a token whose hash is configured. Offsets count bytes since the instance's first output.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use common::api::{LOG_END, LOG_OFFSET, PROBLEM_CONTENT_TYPE, Problem, WATCH_SECONDS, paths};
use common::id::InstanceId;
use pacemaker_client::Gate;
use pacemaker_client::tls::PeerIdentity;
use serde::Deserialize;
use tokio::time::Instant;

use crate::directories::Directories;
use crate::shim::log::{self, Chunk};

/// The most that one answer carries.
const ANSWER_MAX_BYTES: usize = 256 * 1024;

/// While a reader waits, output is looked for after this pause, which doubles …
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// … up to this: an idle reader costs five looks a second.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Readers that wait for output at once; more are answered without waiting.
const FOLLOWERS_MAX: usize = 256;

/// What the routes work with.
#[derive(Debug)]
struct Logs {
    directories: Directories,
    gate: Gate,
    followers: tokio::sync::Semaphore,
}

/// Where a reader wants to begin.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogQuery {
    after: Option<u64>,
    tail: Option<u64>,
    #[serde(default)]
    follow: bool,
}

/// The heart's routes.
pub(crate) fn routes(directories: Directories, token_hashes: Vec<String>) -> Router {
    let logs = Logs {
        directories,
        gate: Gate::new(token_hashes),
        followers: tokio::sync::Semaphore::new(FOLLOWERS_MAX),
    };
    Router::new()
        .route(paths::HEART_INSTANCE_LOG, get(instance_log))
        .with_state(Arc::new(logs))
}

async fn instance_log(
    State(logs): State<Arc<Logs>>,
    Path(instance): Path<u64>,
    Query(query): Query<LogQuery>,
    peer: Option<Extension<PeerIdentity>>,
    headers: HeaderMap,
) -> Response {
    let peer = peer.as_ref().map(|Extension(peer)| peer);
    if !logs.gate.admits(peer, &headers) {
        return problem(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "A valid bearer token or a pacemaker's certificate is needed.",
            "reading an instance's log: send `Authorization: Bearer <token>`",
        );
    }
    let directory = logs.directories.instance(InstanceId(instance));
    if !directory.root().is_dir() {
        return problem(
            StatusCode::NOT_FOUND,
            "instance_not_found",
            "This node has no such instance.",
            &format!(
                "reading the log of instance {instance}: it is not, or no longer, on this node"
            ),
        );
    }
    let permit = logs.followers.try_acquire().ok();
    let wait = if query.follow && permit.is_some() {
        Duration::from_secs(WATCH_SECONDS)
    } else {
        Duration::ZERO
    };
    match read(directory.log(), &query, wait).await {
        Ok(chunk) => answer(chunk),
        Err(error) => problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            "log_unreadable",
            "The log could not be read.",
            &format!("reading the log of instance {instance}: {error}"),
        ),
    }
}

async fn read(log_directory: PathBuf, query: &LogQuery, wait: Duration) -> io::Result<Chunk> {
    let after = match (query.after, query.tail) {
        (Some(after), _) => after,
        (None, Some(lines)) => {
            let directory = log_directory.clone();
            blocking(move || log::offset_of_last_lines(&directory, lines)).await?
        }
        (None, None) => 0,
    };
    let deadline = Instant::now() + wait;
    let mut pause = FIRST_PAUSE;
    loop {
        let directory = log_directory.clone();
        let chunk = blocking(move || log::read(&directory, after, ANSWER_MAX_BYTES)).await?;
        let now = Instant::now();
        if !chunk.bytes.is_empty() || now >= deadline {
            return Ok(chunk);
        }
        tokio::time::sleep_until(deadline.min(now + pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Reads files where that keeps nobody waiting.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(read)
        .await
        .map_err(io::Error::other)?
}

fn answer(chunk: Chunk) -> Response {
    let headers = [
        (
            header::CONTENT_TYPE.as_str(),
            "text/plain; charset=utf-8".to_owned(),
        ),
        (LOG_OFFSET, chunk.next_offset.to_string()),
        (LOG_END, "false".to_owned()),
    ];
    (headers, chunk.bytes).into_response()
}

fn problem(status: StatusCode, code: &str, title: &str, detail: &str) -> Response {
    let problem = Problem {
        status: status.as_u16(),
        code: code.to_owned(),
        title: title.to_owned(),
        detail: detail.to_owned(),
        faults: Vec::new(),
    };
    let headers = [(header::CONTENT_TYPE, PROBLEM_CONTENT_TYPE)];
    (status, headers, Json(problem)).into_response()
}
