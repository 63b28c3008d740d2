//! The role's own routes on the node's API port: what an operator asks a router.
//!
//! For pacemakers that show their certificate, and for bearers of a token whose hash is configured;
//! nobody else learns anything.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use common::api::{PROBLEM_CONTENT_TYPE, Problem};
use common::id::Generation;
use pacemaker_client::Gate;
use pacemaker_client::tls::PeerIdentity;
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
    Router::new()
        .route("/v1/router/table", get(table))
        .route_layer(from_fn_with_state(Gate::new(token_hashes), authorize))
        .with_state(shared)
}

/// Lets a request pass whose certificate or bearer token allows it.
async fn authorize(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<PeerIdentity>();
    if gate.admits(peer, request.headers()) {
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
