//! Deployments.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use common::api::{DeployRequest, JobStarted};
use common::manifest::{MANIFEST_MAX_BYTES, Notice};
use common::secret::Secret;
use http::StatusCode;
use pacemaker_core::command::{Command, Outcome};

use crate::http::Api;
use crate::http::error::{Answer, Failure};
use crate::http::extract::{Json, Key};
use crate::http::workspaces::odd_outcome;

/// POST [`paths::DEPLOYMENTS`](common::api::paths::DEPLOYMENTS).
pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    key: Key,
    Json(body): Json<DeployRequest>,
) -> Answer<Response> {
    if body.manifest.len() > MANIFEST_MAX_BYTES {
        return Err(Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "manifest_too_large",
            "The manifest is too large.",
            format!("At most {MANIFEST_MAX_BYTES} bytes are taken."),
        ));
    }
    let text = body.manifest.clone();
    // A hostile document can take a while to refuse; other requests go on meanwhile.
    let checked = tokio::task::spawn_blocking(move || common::manifest::parse(&text))
        .await
        .map_err(|error| Failure::internal("reading the manifest", &error))?
        .map_err(Failure::manifest)?;
    let command = key.once(Command::Deploy {
        workspace: body.workspace,
        spec: Box::new(checked.spec),
        manifest: body.manifest,
        source: body.source,
        promote: body.promote,
        cron_key: Some(cron_key()?),
    });
    let started = job_started(&api.propose(command).await?, checked.notices)?;
    Ok((StatusCode::ACCEPTED, axum::Json(started)).into_response())
}

/// What requests of the application's crons are signed with, if this is its first deployment.
fn cron_key() -> Answer<Secret> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| Failure::internal("making a key", &error))?;
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    Ok(Secret::new(digits.collect()))
}

/// The answer to a command that makes a job.
pub(crate) fn job_started(outcome: &Outcome, notices: Vec<Notice>) -> Answer<JobStarted> {
    let &Outcome::Job {
        job,
        application,
        version,
    } = outcome
    else {
        return Err(odd_outcome());
    };
    Ok(JobStarted {
        job,
        application,
        version,
        notices,
    })
}
