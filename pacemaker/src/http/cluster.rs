//! The cluster as a whole, and whether this pacemaker is ready.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use common::api::ClusterView;
use common::id::NodeId;

use crate::http::Api;
use crate::http::error::{Answer, Failure};

/// GET `/readyz`.
pub(crate) async fn ready(State(api): State<Arc<Api>>) -> Answer<&'static str> {
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
                .filter(|leader| *leader == api.member)
                .and_then(|_| own_node(&api, state)),
            term: status.term,
            applied,
            release: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    })
}

fn own_node(api: &Api, state: &pacemaker_core::State) -> Option<NodeId> {
    state
        .nodes()
        .into_iter()
        .find(|node| node.description.key == api.node_key)
        .map(|node| node.id)
}
