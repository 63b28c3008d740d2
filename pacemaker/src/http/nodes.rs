//! Nodes: registration, assignments, and the logs that they keep.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use common::api::{LOG_END, LOG_OFFSET, NodeRegistered, WATCH_SECONDS, paths};
use common::id::{InstanceId, NodeId};
use common::node::{Node, NodeDescription};
use http::header::CONTENT_TYPE;
use http::{HeaderName, StatusCode};
use pacemaker_core::command::{Command, Outcome};

use crate::http::Api;
use crate::http::error::{Answer, Failure, chain};
use crate::http::extract::{Json, Key, Path, Query};
use crate::http::watch::{WatchQuery, watch};
use crate::http::workspaces::odd_outcome;

/// How long a heart may take to answer, beyond what it waits on purpose.
const HEART_PATIENCE: Duration = Duration::from_secs(WATCH_SECONDS + 5);

/// GET [`paths::NODES`].
pub(crate) async fn list(State(api): State<Arc<Api>>) -> axum::Json<Vec<Node>> {
    axum::Json(api.replica.read(pacemaker_core::State::nodes))
}

/// POST [`paths::NODES`].
pub(crate) async fn register(
    State(api): State<Arc<Api>>,
    key: Key,
    Json(description): Json<NodeDescription>,
) -> Answer<axum::Json<NodeRegistered>> {
    let command = key.once(Command::RegisterNode { description });
    let Outcome::Node(node) = api.propose(command).await? else {
        return Err(odd_outcome());
    };
    Ok(axum::Json(NodeRegistered { node }))
}

/// GET [`paths::ASSIGNMENT`].
pub(crate) async fn assignment(
    State(api): State<Arc<Api>>,
    Path(node): Path<NodeId>,
    Query(query): Query<WatchQuery>,
) -> Answer<Response> {
    watch(&api, &query, |api, after| {
        let term = api.proposer.status().term;
        api.replica.read(|state| {
            let generation = state
                .assignment_generation(node)
                .ok_or_else(|| missing(node))?;
            if generation <= after {
                return Ok(None);
            }
            let assignment = state.assignment(node, term);
            assignment.map(Some).ok_or_else(|| missing(node))
        })
    })
    .await
}

/// A node that the cluster does not know.
pub(crate) fn missing(node: NodeId) -> Failure {
    Failure::not_found(
        "node_not_found",
        format!("There is no node {node}; a node registers before it asks."),
    )
}

/// GET [`paths::INSTANCE_LOG`]: handed on to the heart that has it, and streamed back.
pub(crate) async fn instance_log(
    State(api): State<Arc<Api>>,
    Path(instance): Path<InstanceId>,
    RawQuery(query): RawQuery,
) -> Answer<Response> {
    let node = api
        .replica
        .read(|state| state.instance_node(instance))
        .ok_or_else(|| {
            Failure::not_found(
                "instance_not_found",
                format!("There is no instance {instance}; `pm status` lists all."),
            )
        })?;
    let path = paths::HEART_INSTANCE_LOG.replace("{instance}", &instance.to_string());
    let base = node.description.api.trim_end_matches('/');
    let url = format!("{base}{path}?{}", query.unwrap_or_default());
    let answer = api
        .nodes
        .get(url)
        .bearer_auth(&api.node_token)
        .timeout(HEART_PATIENCE)
        .send()
        .await
        .map_err(|error| {
            tracing::debug!(node = node.id.0, error = %chain(&error), "a heart does not answer");
            Failure::new(
                StatusCode::BAD_GATEWAY,
                "node_unreachable",
                "The node does not answer.",
                format!(
                    "Instance {instance} is on node {} ({}), which does not answer at {base}; `pm node list` shows its state.",
                    node.id, node.description.name
                ),
            )
        })?;
    let status = answer.status();
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        // It is this pacemaker whom the heart does not trust, not the one who asks.
        return Err(Failure::new(
            StatusCode::BAD_GATEWAY,
            "node_refused",
            "The node refuses the pacemaker.",
            format!(
                "Node {} ({}) does not accept the token of this pacemaker; give both the same node token.",
                node.id, node.description.name
            ),
        ));
    }
    let headers: Vec<_> = [CONTENT_TYPE.as_str(), LOG_OFFSET, LOG_END]
        .into_iter()
        .filter_map(|name| {
            Some((
                HeaderName::from_static(name),
                answer.headers().get(name)?.clone(),
            ))
        })
        .collect();
    let mut response = Body::from_stream(answer.bytes_stream()).into_response();
    *response.status_mut() = status;
    response.headers_mut().extend(headers);
    Ok(response)
}
