//! What is under way for a node ends when the node is removed.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::response::{IntoResponse as _, Response};
use common::id::NodeId;
use futures_util::{StreamExt as _, stream};
use tokio::time::MissedTickBehavior;

use crate::http::authentication::caller;
use crate::http::error::Failure;
use crate::replica::Replica;
use std::sync::Arc;

/// How often it is looked whether a node was removed: within five seconds it is kept out everywhere.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// The stream was for a node that was removed.
#[derive(Debug, thiserror::Error)]
#[error("the node was removed from the cluster")]
struct Removed;

/// Answers as `answering` does, unless the node is removed before the last byte.
pub(crate) async fn until_removed(
    replica: &Arc<Replica>,
    node: NodeId,
    answering: impl Future<Output = Response>,
) -> Response {
    let response = tokio::select! {
        response = answering => response,
        failure = removal(Arc::clone(replica), node) => return failure.into_response(),
    };
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    response.map(|body| {
        let removal = Box::pin(removal(Arc::clone(replica), node));
        let parts = Some((body.into_data_stream(), removal));
        Body::from_stream(stream::unfold(parts, |parts| async move {
            let (mut data, mut removal) = parts?;
            tokio::select! {
                part = data.next() => {
                    let part = part?.map_err(axum::BoxError::from);
                    Some((part, Some((data, removal))))
                }
                // Not as if that were all.
                _ = &mut removal => Some((Err(Removed.into()), None)),
            }
        }))
    })
}

/// Resolves when the node is removed.
async fn removal(replica: Arc<Replica>, node: NodeId) -> Failure {
    let mut interval = tokio::time::interval(LOOK_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if !replica.read(|state| state.is_node(node)) {
            return caller::removed(node);
        }
    }
}
