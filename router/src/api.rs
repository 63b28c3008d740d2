//! The role's own routes on the node's API port: what an operator asks a router.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use common::id::Generation;
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
pub(crate) fn routes(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/router/table", get(table))
        .with_state(shared)
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
