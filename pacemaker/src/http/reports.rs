//! Reports of nodes.

use std::sync::Arc;

use axum::extract::State;
use common::assignment::Report;
use common::id::is_other_cluster;
use http::StatusCode;

use crate::http::Api;
use crate::http::authentication::Caller;
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
    caller: Caller,
    Json(report): Json<Report>,
) -> Answer<StatusCode> {
    let node = report.node;
    caller.speaks_for(node)?;
    let (is_known, other_cluster) = api.replica.read(|state| {
        let is_known = state.assignment_generation(node).is_some();
        let own = state.cluster().map_or("", |(id, _)| id);
        let other = is_other_cluster(own, &report.cluster).then(|| own.to_owned());
        (is_known, other)
    });
    if let Some(own) = other_cluster {
        return Err(wrong_cluster(&own, &report.cluster));
    }
    if !is_known {
        return Err(missing(node));
    }
    api.leader
        .report(report)
        .await
        .map_err(|error| Failure::unavailable("no_leader", error.to_string()))?;
    Ok(StatusCode::NO_CONTENT)
}

/// The node was joined to another cluster, or this one was made anew: its number means another node.
fn wrong_cluster(own: &str, found: &str) -> Failure {
    Failure::new(
        StatusCode::CONFLICT,
        "wrong_cluster",
        "The node belongs to another cluster.",
        format!(
            "This is cluster {own}, the report is from a node of cluster {found}; join the node anew with an empty data directory, or point it at its own pacemakers."
        ),
    )
}
