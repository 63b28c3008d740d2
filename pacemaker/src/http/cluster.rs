//! The cluster as a whole, and whether this pacemaker is ready.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use common::api::{ClusterStatus, ClusterView};
use common::id::NodeId;
use http::StatusCode;

use crate::http::Api;
use crate::http::error::{Answer, Failure};
use crate::http::extract::Path;
use crate::membership::RemoveError;

/// GET `/readyz`.
pub(crate) async fn ready(State(api): State<Arc<Api>>) -> Answer<&'static str> {
    if api.proposer.is_removed() {
        return Err(Failure::unavailable(
            "member_removed",
            "This pacemaker was taken out of the cluster.",
        ));
    }
    if !api.is_ready() {
        return Err(Failure::unavailable(
            "not_ready",
            "This pacemaker is catching up with its log.",
        ));
    }
    if api.proposer.status().leader.is_none() {
        return Err(Failure::unavailable("no_leader", "No pacemaker leads."));
    }
    Ok("ready\n")
}

/// GET [`paths::CLUSTER`](common::api::paths::CLUSTER).
pub(crate) async fn view(State(api): State<Arc<Api>>) -> Answer<Json<ClusterView>> {
    let status = api.proposer.status();
    let applied = api.replica.applied();
    api.replica.read(|state| {
        let (id, hostname) = state.cluster().ok_or_else(|| {
            Failure::unavailable("not_ready", "The cluster has not been made yet.")
        })?;
        Ok(Json(ClusterView {
            id: id.to_owned(),
            hostname: hostname.to_owned(),
            leader: status
                .leader
                .and_then(|leader| node_of(&api, state, leader)),
            term: status.term,
            applied,
            release: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    })
}

/// GET [`paths::CLUSTER_STATUS`](common::api::paths::CLUSTER_STATUS).
pub(crate) async fn status(State(api): State<Arc<Api>>) -> Answer<Json<ClusterStatus>> {
    let status = api.members.status().await;
    status
        .map(Json)
        .ok_or_else(|| Failure::unavailable("not_ready", "The cluster has not been made yet."))
}

/// DELETE [`paths::MEMBER`](common::api::paths::MEMBER).
pub(crate) async fn remove_member(
    State(api): State<Arc<Api>>,
    Path(node): Path<NodeId>,
) -> Answer<StatusCode> {
    api.members.remove(node).await.map_err(member_removal)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Why a pacemaker stays in the group.
pub(crate) fn member_removal(error: RemoveError) -> Failure {
    match error {
        RemoveError::NotMember(_) => Failure::not_found("member_not_found", error.to_string()),
        RemoveError::Refused(reason) => Failure::new(
            StatusCode::CONFLICT,
            "majority_at_risk",
            "The group of pacemakers could not go on without it.",
            reason,
        ),
        RemoveError::Propose(error) => error.into(),
    }
}

/// The node of a member. It has the member's number, unless the nodes registered themselves: then
/// there is one pacemaker, which knows its machine by its key.
fn node_of(api: &Api, state: &pacemaker_core::State, member: u64) -> Option<NodeId> {
    if member != api.member {
        return Some(NodeId(member));
    }
    let nodes = state.nodes();
    let own = nodes
        .iter()
        .find(|node| node.description.key == api.node_key);
    own.map(|node| node.id)
}
