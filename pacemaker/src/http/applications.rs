//! Applications and their versions.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use common::api::{ApplicationView, ScaleRequest};
use common::id::{ApplicationId, VersionNumber, WorkspaceStub};
use http::StatusCode;
use pacemaker_core::command::{Command, VersionTarget};
use serde::Deserialize;

use crate::http::Api;
use crate::http::deployments::job_started;
use crate::http::error::{Answer, Failure};
use crate::http::extract::{Json, Key, Path, Query};

/// What narrows a list of applications.
#[derive(Debug, Deserialize)]
pub(crate) struct Filter {
    workspace: Option<WorkspaceStub>,
    name: Option<String>,
}

/// What can be asked of a version.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum VersionAction {
    /// Run its instances.
    Start,
    /// End their processes.
    Stop,
    /// Send it the hostnames' requests.
    Promote,
    /// Remove its instances.
    Deregister,
}

/// GET [`paths::APPLICATIONS`](common::api::paths::APPLICATIONS).
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Query(filter): Query<Filter>,
) -> axum::Json<Vec<ApplicationView>> {
    let mut views = api
        .replica
        .read(|state| state.application_views(api.router_port));
    views.retain(|view| {
        filter
            .workspace
            .as_ref()
            .is_none_or(|stub| *stub == view.workspace)
            && filter.name.as_ref().is_none_or(|name| *name == view.name)
    });
    axum::Json(views)
}

/// GET [`paths::APPLICATION`](common::api::paths::APPLICATION).
pub(crate) async fn view(
    State(api): State<Arc<Api>>,
    Path(application): Path<ApplicationId>,
) -> Answer<axum::Json<ApplicationView>> {
    look_up(&api, application).map(axum::Json)
}

fn look_up(api: &Api, application: ApplicationId) -> Answer<ApplicationView> {
    api.replica
        .read(|state| state.application_view(application, api.router_port))
        .ok_or_else(|| {
            Failure::not_found(
                "application_not_found",
                format!("There is no application {application}; `pm status` lists all."),
            )
        })
}

/// POST [`paths::ROLLBACK`](common::api::paths::ROLLBACK).
pub(crate) async fn roll_back(
    State(api): State<Arc<Api>>,
    Path(application): Path<ApplicationId>,
    key: Key,
) -> Answer<Response> {
    let command = key.once(Command::Rollback { application });
    let started = job_started(&api.propose(command).await?, Vec::new())?;
    Ok((StatusCode::ACCEPTED, axum::Json(started)).into_response())
}

/// PUT [`paths::SCALE`](common::api::paths::SCALE).
pub(crate) async fn scale(
    State(api): State<Arc<Api>>,
    Path(application): Path<ApplicationId>,
    key: Key,
    Json(body): Json<ScaleRequest>,
) -> Answer<axum::Json<ApplicationView>> {
    let command = key.once(Command::Scale {
        application,
        quantities: body.quantities,
    });
    api.propose(command).await?;
    look_up(&api, application).map(axum::Json)
}

/// POST [`paths::VERSION_ACTION`](common::api::paths::VERSION_ACTION).
pub(crate) async fn act_on_version(
    State(api): State<Arc<Api>>,
    Path((application, version, action)): Path<(ApplicationId, VersionNumber, VersionAction)>,
    key: Key,
) -> Answer<Response> {
    let target = VersionTarget {
        application,
        version,
    };
    let command = key.once(match action {
        VersionAction::Start => Command::StartVersion(target),
        VersionAction::Stop => Command::StopVersion(target),
        VersionAction::Promote => Command::PromoteVersion(target),
        VersionAction::Deregister => Command::DeregisterVersion(target),
    });
    let started = job_started(&api.propose(command).await?, Vec::new())?;
    Ok((StatusCode::ACCEPTED, axum::Json(started)).into_response())
}
