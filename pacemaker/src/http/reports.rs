//! Reports of nodes.

use std::sync::Arc;

use axum::extract::State;
use common::assignment::Report;
use http::StatusCode;

use crate::http::Api;
use crate::http::error::{Answer, Failure};
use crate::http::extract::Json;
use crate::http::nodes::missing;

/// The largest report: a heart whose every one of a thousand instances has failed, each with the
/// last screen of its output, six bytes of JSON for one at worst. Refusing it would make the node
/// silent.
pub(crate) const REPORT_MAX_BYTES: usize = 32 * 1024 * 1024;

/// POST [`paths::REPORTS`](common::api::paths::REPORTS).
pub(crate) async fn take(
    State(api): State<Arc<Api>>,
    Json(report): Json<Report>,
) -> Answer<StatusCode> {
    let node = report.node;
    let is_known = api
        .replica
        .read(|state| state.assignment_generation(node).is_some());
    if !is_known {
        return Err(missing(node));
    }
    if !api.proposer.status().is_leader {
        return Err(Failure::unavailable(
            "no_leader",
            "This pacemaker does not lead; reports go to the leader.",
        ));
    }
    api.leader
        .report(report)
        .await
        .map_err(|_| Failure::unavailable("stopping", "This pacemaker is stopping."))?;
    Ok(StatusCode::NO_CONTENT)
}
