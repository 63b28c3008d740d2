//! What administrators do with nodes.

use std::sync::Arc;

use axum::extract::State;
use common::api::NodeView;
use common::id::NodeId;
use common::node::NodeState;
use common::time::{Span, Timestamp};
use http::StatusCode;
use pacemaker_client::tls::wall_clock;

use pacemaker_core::command::Command;
use pacemaker_core::sightings::Sightings;

use crate::http::Api;
use crate::http::cluster::member_removal;
use crate::http::error::Answer;
use crate::http::extract::{Key, Path};
use crate::http::nodes::missing;
use crate::membership::RemoveError;

/// GET [`paths::NODE`](common::api::paths::NODE).
pub(crate) async fn view(
    State(api): State<Arc<Api>>,
    Path(id): Path<NodeId>,
) -> Answer<axum::Json<NodeView>> {
    let found = api
        .replica
        .read(|state| Some((state.node(id)?.clone(), state.instances_on(id))));
    let (node, instances) = found.ok_or_else(|| missing(id))?;
    // Without a leader, what is kept can still be told.
    let sightings = api.leader.sightings().await.ok();
    let load = sightings
        .as_ref()
        .and_then(|sightings| Some(sightings.hearts.get(&id)?.report.load));
    Ok(axum::Json(NodeView {
        node,
        silent_for: sightings.and_then(|sightings| silent_for(&sightings, id, wall_clock())),
        load,
        instances: instances as u64,
        certificate_expires: certificate_expires(&api, id),
    }))
}

fn silent_for(sightings: &Sightings, node: NodeId, now: Timestamp) -> Option<Span> {
    let heart = sightings.hearts.get(&node).map(|sighting| sighting.at);
    let router = sightings.routers.get(&node).map(|sighting| sighting.at);
    Some(now.since(heart.max(router)?))
}

fn certificate_expires(api: &Api, node: NodeId) -> Option<Timestamp> {
    if node.0 == api.member
        && let Some(tls) = &api.tls
    {
        return Some(tls.expires());
    }
    api.certificates.expiry(node)
}

/// POST [`paths::NODE_DRAIN`](common::api::paths::NODE_DRAIN).
pub(crate) async fn drain(
    State(api): State<Arc<Api>>,
    Path(node): Path<NodeId>,
    key: Key,
) -> Answer<StatusCode> {
    api.propose(key.once(Command::DrainNode { node })).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// POST [`paths::NODE_UNDRAIN`](common::api::paths::NODE_UNDRAIN).
pub(crate) async fn undrain(
    State(api): State<Arc<Api>>,
    Path(node): Path<NodeId>,
    key: Key,
) -> Answer<StatusCode> {
    api.propose(key.once(Command::UndrainNode { node })).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// DELETE [`paths::NODE`](common::api::paths::NODE).
///
/// A pacemaker leaves the group first: once it is forgotten nobody hears it any more, and its vote
/// would be missing.
pub(crate) async fn remove(
    State(api): State<Arc<Api>>,
    Path(node): Path<NodeId>,
    key: Key,
) -> Answer<StatusCode> {
    let command = key.once(Command::RemoveNode { node });
    let (is_live, exists) = api.replica.read(|state| {
        let is_down = state
            .node(node)
            .is_some_and(|node| node.state == NodeState::Down);
        (
            state.instances_on(node) > 0 && !is_down,
            state.is_node(node),
        )
    });
    // The log refuses one that still has instances; it would stay out of the group for nothing.
    if exists && !is_live && is_member(&api, node) {
        match api.members.remove(node).await {
            Ok(()) | Err(RemoveError::NotMember(_)) => {}
            Err(error) => return Err(member_removal(error)),
        }
    }
    api.propose(command).await?;
    tracing::info!(node = node.0, "a node was removed");
    Ok(StatusCode::NO_CONTENT)
}

fn is_member(api: &Api, node: NodeId) -> bool {
    api.tls.is_some() && api.proposer.group().member(node.0).is_some()
}
