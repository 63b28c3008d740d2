//! Nodes: registration, assignments, and the logs that they keep.

pub(crate) mod administration;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use common::api::{LOG_END, LOG_OFFSET, NodeRegistered, WATCH_SECONDS, paths};
use common::id::{Generation, InstanceId, NodeId};
use common::node::{Node, NodeDescription};
use http::header::CONTENT_TYPE;
use http::{HeaderName, StatusCode};
use pacemaker_core::command::{Command, Outcome};

use crate::http::Api;
use crate::http::authentication::{Caller, removed};
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
    caller: Caller,
    key: Key,
    Json(description): Json<NodeDescription>,
) -> Answer<axum::Json<NodeRegistered>> {
    let command = match caller.node() {
        // It has joined, and is who its certificate says.
        Some(node) => Command::DescribeNode { node, description },
        None => Command::RegisterNode { description },
    };
    let Outcome::Node(node) = api.propose(key.once(command)).await? else {
        return Err(odd_outcome());
    };
    Ok(axum::Json(NodeRegistered { node }))
}

/// GET [`paths::ASSIGNMENT`].
pub(crate) async fn assignment(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(node): Path<NodeId>,
    Query(query): Query<WatchQuery>,
) -> Answer<Response> {
    caller.speaks_for(node)?;
    // A heart that was silent asks from the beginning and takes the answer for the truth: from a
    // pacemaker that is behind it would start an exclusive instance that runs elsewhere by now.
    if query.after == Generation(0) {
        api.proposer.barrier().await?;
    }
    watch(&api, &query, |api, after| {
        let term = api.proposer.status().term;
        api.replica.read(|state| {
            if state.was_removed(node) {
                return Err(removed(node));
            }
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
    let client = api
        .nodes
        .to(node.id)
        .map_err(|error| Failure::internal("making a client for a node", &error))?;
    let mut request = client.get(url).timeout(HEART_PATIENCE);
    if !api.nodes.is_tls() {
        request = request.bearer_auth(&api.node_token);
    }
    let answer = request
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
                "Node {} ({}) does not accept this pacemaker: its certificate, or else its node token.",
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
