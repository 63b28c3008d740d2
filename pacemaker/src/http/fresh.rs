//! What people read has everything that was acknowledged before they asked, whichever pacemaker
//! answers; where that cannot be known in time, the answer says so.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use common::api::{STALE, paths};
use http::{HeaderValue, Method};

use crate::http::Api;

/// How long a read waits for a leader: more than an election, less than the patience of who reads.
/// In an outage the last known state is better than nothing.
const PATIENCE: Duration = Duration::from_secs(2);
/// Reads of the state. How the cluster itself stands is asked of one pacemaker and answered at once.
const READS: [&str; 12] = [
    paths::WORKSPACES,
    paths::APPLICATIONS,
    paths::APPLICATION,
    paths::CRONS,
    paths::APPLICATION_CRON_RUNS,
    paths::CRON_RUN,
    paths::CRON_RUN_LOG,
    paths::JOBS,
    paths::JOB,
    paths::NODES,
    paths::NODE,
    paths::WHY,
];

/// True for the endpoints whose answers come from the state.
pub(super) fn reads_state(method: &str, path: &str) -> bool {
    method == Method::GET.as_str() && READS.contains(&path)
}

/// Waits until what was acknowledged anywhere is applied here, and lets the request pass.
pub(super) async fn pass(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let uri = request.uri();
    if request.method() != Method::GET || is_watch(uri.path(), uri.query()) {
        return next.run(request).await;
    }
    let confirmed = tokio::time::timeout(PATIENCE, api.proposer.barrier()).await;
    let mut response = next.run(request).await;
    if !matches!(confirmed, Ok(Ok(()))) {
        let value = HeaderValue::from_static("no leader confirmed that this is the newest state");
        response.headers_mut().insert(STALE, value);
    }
    response
}

/// Who watches says what it has, and waits for newer: it is never told anything older. A cron run's
/// log has no watch; there `after` is where it is read.
fn is_watch(path: &str, query: Option<&str>) -> bool {
    let mut log = paths::CRON_RUN_LOG.split("{run}");
    let (begin, end) = (
        log.next().unwrap_or_default(),
        log.next().unwrap_or_default(),
    );
    let is_log = path.starts_with(begin) && path.ends_with(end);
    let mut pairs = query.into_iter().flat_map(|query| query.split('&'));
    !is_log && pairs.any(|pair| pair.starts_with("after="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_of_a_cron_run_is_no_watch() {
        for (path, query, expected) in [
            ("/v1/jobs/7", "after=12", true),
            ("/v1/workspaces", "x=1&after=3", true),
            ("/v1/jobs/7", "x=1", false),
            ("/v1/cron-runs/7/log", "after=0", false),
            ("/v1/cron-runs/7/log", "after=512", false),
        ] {
            assert_eq!(is_watch(path, Some(query)), expected, "{path}?{query}");
        }
        assert!(!is_watch("/v1/jobs/7", None));
    }
}
