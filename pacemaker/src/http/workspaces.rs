//! Workspaces.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use common::api::CreateWorkspace;
use common::workspace::Workspace;
use http::StatusCode;
use pacemaker_core::command::{Command, Outcome};

use crate::http::Api;
use crate::http::error::{Answer, Failure};
use crate::http::extract::{Json, Key};

/// GET [`paths::WORKSPACES`](common::api::paths::WORKSPACES).
pub(crate) async fn list(State(api): State<Arc<Api>>) -> axum::Json<Vec<Workspace>> {
    axum::Json(api.replica.read(pacemaker_core::State::workspaces))
}

/// POST [`paths::WORKSPACES`](common::api::paths::WORKSPACES).
pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    key: Key,
    Json(body): Json<CreateWorkspace>,
) -> Answer<Response> {
    let command = key.once(Command::CreateWorkspace {
        name: body.name,
        stub: body.stub,
        tags: body.tags,
    });
    let Outcome::Workspace(id) = api.propose(command).await? else {
        return Err(odd_outcome());
    };
    let made = api.replica.read(|state| {
        state
            .workspaces()
            .into_iter()
            .find(|workspace| workspace.id == id)
    });
    let workspace = made.ok_or_else(|| {
        Failure::not_found("workspace_not_found", "It has been removed meanwhile.")
    })?;
    Ok((StatusCode::CREATED, axum::Json(workspace)).into_response())
}

/// The same `Idempotency-Key` was used for a request of another kind.
pub(crate) fn odd_outcome() -> Failure {
    Failure::new(
        StatusCode::CONFLICT,
        "idempotency_key_reused",
        "The Idempotency-Key belongs to another request.",
        "Use a new key for each thing that is asked for.",
    )
}
