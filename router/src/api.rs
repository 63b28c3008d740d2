//! The role's own routes on the node's API port: what an operator asks a router.
//!
//! For pacemakers that show their certificate, and for bearers of a token whose hash is configured;
//! nobody else learns anything.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use common::api::{PROBLEM_CONTENT_TYPE, Problem};
use common::digest::Digest;
use common::id::Generation;
use common::node::Role;
use pacemaker_client::tls::{PeerIdentity, wall_clock};
use serde::Serialize;

use crate::worker::Shared;

/// Which routing table this router serves.
#[derive(Debug, Serialize)]
struct TableView {
    /// The newest that it has.
    generation: Generation,
    /// The oldest that any worker uses.
    applied: Generation,
    /// What each worker uses.
    workers: Vec<Generation>,
    /// Hostnames and wildcards.
    routes: usize,
    /// Milliseconds since a pacemaker last answered.
    age_ms: u64,
}

/// The routes, to be merged by the agent.
pub(crate) fn routes(shared: Arc<Shared>, token_hashes: Vec<String>) -> Router {
    let token_hashes: Arc<[String]> = token_hashes.into();
    Router::new()
        .route("/v1/router/table", get(table))
        .route_layer(from_fn_with_state(token_hashes, authorize))
        .with_state(shared)
}

/// Lets a request pass whose certificate or bearer token allows it.
async fn authorize(
    State(token_hashes): State<Arc<[String]>>,
    request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<PeerIdentity>();
    if peer.is_some_and(is_pacemaker) || is_authorized(request.headers(), &token_hashes) {
        return next.run(request).await;
    }
    let status = StatusCode::UNAUTHORIZED;
    let problem = Problem {
        status: status.as_u16(),
        code: "unauthorized".to_owned(),
        title: "A valid bearer token is needed.".to_owned(),
        detail: "asking a router: send `Authorization: Bearer <token>`".to_owned(),
        faults: Vec::new(),
    };
    let headers = [(header::CONTENT_TYPE, PROBLEM_CONTENT_TYPE)];
    (status, headers, Json(problem)).into_response()
}

fn is_pacemaker(peer: &PeerIdentity) -> bool {
    peer.roles.contains(&Role::Pacemaker) && !peer.is_expired_at(wall_clock())
}

/// Hashes are compared, so that the time taken says nothing about a token.
fn is_authorized(headers: &HeaderMap, token_hashes: &[String]) -> bool {
    headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .is_some_and(|token| {
            let hash = Digest::of(token.as_bytes());
            token_hashes.iter().any(|known| known == hash.as_str())
        })
}

async fn table(State(shared): State<Arc<Shared>>) -> Json<TableView> {
    let current = shared.tables.current.load();
    Json(TableView {
        generation: current.generation,
        applied: shared.tables.applied(),
        workers: shared.tables.applied_by_worker(),
        routes: current.len(),
        age_ms: u64::try_from(shared.tables.staleness().as_millis()).unwrap_or(u64::MAX),
    })
}
