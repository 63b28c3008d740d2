//! Explanations.

use std::sync::Arc;

use axum::extract::State;
use common::api::Explanation;
use common::id::{ApplicationId, InstanceId, JobId};
use serde::Deserialize;

use crate::http::Api;
use crate::http::error::{Answer, Failure};
use crate::http::extract::Query;

/// What is asked about: exactly one.
#[derive(Debug, Deserialize)]
pub(crate) struct Subject {
    application: Option<ApplicationId>,
    instance: Option<InstanceId>,
    job: Option<JobId>,
}

/// GET [`paths::WHY`](common::api::paths::WHY).
pub(crate) async fn explain(
    State(api): State<Arc<Api>>,
    Query(subject): Query<Subject>,
) -> Answer<axum::Json<Explanation>> {
    let sightings = api
        .leader
        .sightings()
        .await
        .map_err(|_| Failure::unavailable("stopping", "This pacemaker is stopping."))?;
    let explanation = api.replica.read(|state| match subject {
        Subject {
            application: Some(id),
            instance: None,
            job: None,
        } => Ok(state.explain_application(id, &sightings)),
        Subject {
            application: None,
            instance: Some(id),
            job: None,
        } => Ok(state.explain_instance(id, &sightings)),
        Subject {
            application: None,
            instance: None,
            job: Some(id),
        } => Ok(state.explain_job(id, &sightings)),
        Subject { .. } => Err(Failure::bad_request(
            "query_invalid",
            "Give exactly one of `application`, `instance` and `job`.",
        )),
    })?;
    explanation
        .map(axum::Json)
        .ok_or_else(|| Failure::not_found("subject_not_found", "`pm status` lists what there is."))
}
