//! Every error answer, as a problem document with a stable code.

use axum::response::{IntoResponse, Response};
use common::api::{PROBLEM_CONTENT_TYPE, Problem};
use common::manifest::Fault;
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use pacemaker_core::command::{Rejection, RejectionCode};

use crate::raft::ProposeError;

/// An answer that is not a success.
#[derive(Debug)]
pub(crate) struct Failure {
    problem: Box<Problem>,
    headers: HeaderMap,
}

/// What handlers answer.
pub(crate) type Answer<T> = Result<T, Failure>;

impl Failure {
    /// A failure with these words; `detail` may be empty.
    pub(crate) fn new(
        status: StatusCode,
        code: &str,
        title: &str,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            problem: Box::new(Problem {
                status: status.as_u16(),
                code: code.to_owned(),
                title: title.to_owned(),
                detail: detail.into(),
                faults: Vec::new(),
            }),
            headers: HeaderMap::new(),
        }
    }

    /// Adds a header to the answer.
    pub(crate) fn with_header(mut self, name: HeaderName, value: u64) -> Self {
        self.headers.insert(name, HeaderValue::from(value));
        self
    }

    /// Nothing is there.
    pub(crate) fn not_found(code: &str, detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            code,
            "There is no such thing.",
            detail,
        )
    }

    /// The path leads nowhere.
    pub(crate) fn no_such_path() -> Self {
        Self::not_found(
            "path_not_found",
            "The API has no such path; /v1/openapi.json lists all.",
        )
    }

    /// The request is not understood.
    pub(crate) fn bad_request(code: &str, detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            code,
            "The request is not understood.",
            detail,
        )
    }

    /// The manifest has faults.
    pub(crate) fn manifest(faults: Vec<Fault>) -> Self {
        let count = faults.len();
        let mut failure = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "manifest_invalid",
            "The manifest has faults.",
            format!("{count} found; nothing was deployed."),
        );
        failure.problem.faults = faults;
        failure
    }

    /// The disk has no room.
    pub(crate) fn storage_full(what: &str) -> Self {
        Self::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "storage_full",
            "The pacemaker's disk is full.",
            format!(
                "{what} was not stored, and nothing of it is kept; make room on the pacemaker's disk and try again."
            ),
        )
    }

    /// Nobody is known by this token.
    pub(crate) fn unauthenticated(detail: &str) -> Self {
        let mut failure = Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthenticated",
            "A valid bearer token is needed.",
            detail,
        );
        failure
            .headers
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        failure
    }

    /// The token does not allow this.
    pub(crate) fn forbidden() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "This token does not allow that.",
            "A node's token serves hearts and routers only; use the administrator's.",
        )
    }

    /// Later it will work.
    pub(crate) fn unavailable(code: &str, detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            code,
            "The pacemaker cannot answer now.",
            detail,
        )
        .with_header(RETRY_AFTER, 1)
    }

    /// A defect, or a disk that fails; the cause is in the log, once.
    pub(crate) fn internal(what: &'static str, error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(what, error = %chain(error), "a request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "The pacemaker failed.",
            format!("{what} failed; the pacemaker's log says why."),
        )
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.problem)
            .expect("a problem holds text and numbers, which JSON can hold");
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.extend(self.headers);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_CONTENT_TYPE));
        response
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        let (status, title) = describe(rejection.code);
        Self::new(status, &name_of(rejection.code), title, rejection.message)
    }
}

impl From<ProposeError> for Failure {
    fn from(error: ProposeError) -> Self {
        match &error {
            ProposeError::NoLeader | ProposeError::OtherLeader(_) => {
                Self::unavailable("no_leader", format!("{error}; nothing was changed."))
            }
            ProposeError::OutcomeUnknown => Self::unavailable(
                "outcome_unknown",
                format!("{error}. Repeat it with the same Idempotency-Key."),
            ),
            ProposeError::DiskFull => Self::storage_full("The change"),
            ProposeError::Membership(_) => Self::unavailable("group_busy", error.to_string()),
            ProposeError::Failed(_) => {
                tracing::error!(error = %chain(&error), "a proposal failed");
                Self::unavailable(
                    "log_failed",
                    "The replicated log has failed and the pacemaker restarts; whether the change was made is not known. Repeat it with the same Idempotency-Key.",
                )
            }
        }
    }
}

/// The one table of refusals: status and title of each; the code is its name in JSON.
fn describe(code: RejectionCode) -> (StatusCode, &'static str) {
    const NOT_FOUND: StatusCode = StatusCode::NOT_FOUND;
    const CONFLICT: StatusCode = StatusCode::CONFLICT;
    const WRONG: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;
    match code {
        RejectionCode::ClusterState => (CONFLICT, "The cluster is not in a state for this."),
        RejectionCode::WorkspaceNotFound => (NOT_FOUND, "There is no such workspace."),
        RejectionCode::WorkspaceExists => (CONFLICT, "The workspace's stub is taken."),
        RejectionCode::ApplicationNotFound => (NOT_FOUND, "There is no such application."),
        RejectionCode::VersionNotFound => (NOT_FOUND, "There is no such version."),
        RejectionCode::VersionState => (CONFLICT, "The version is not in a state for this."),
        RejectionCode::InstanceTypeNotFound => (WRONG, "The version has no such instance type."),
        RejectionCode::InstanceNotFound => (NOT_FOUND, "There is no such instance."),
        RejectionCode::NodeNotFound => (NOT_FOUND, "There is no such node."),
        RejectionCode::JobNotFound => (NOT_FOUND, "There is no such job."),
        RejectionCode::CronNotFound => (NOT_FOUND, "There is no such cron."),
        RejectionCode::PackageNotFound => (WRONG, "The package is not in the store."),
        RejectionCode::Busy => (CONFLICT, "Something else must end first."),
        RejectionCode::HostnameTaken => (CONFLICT, "Another application has the hostname."),
        RejectionCode::NotOffered => (WRONG, "No node offers what the manifest asks for."),
        RejectionCode::LimitExceeded => (WRONG, "A limit would be passed."),
        RejectionCode::NothingToRollBack => (CONFLICT, "There is no version to go back to."),
        RejectionCode::Stale => (CONFLICT, "The state has changed meanwhile."),
        RejectionCode::TokenRefused => (StatusCode::FORBIDDEN, "The join token is refused."),
        RejectionCode::Invalid => (WRONG, "A value is not allowed."),
    }
}

fn name_of(code: RejectionCode) -> String {
    match serde_json::to_value(code) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(_) | Err(_) => "refused".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_is_a_problem_with_its_own_code() {
        let refused = Failure::from(Rejection {
            code: RejectionCode::HostnameTaken,
            message: "`a.example.com` belongs to shop; take another".to_owned(),
        });

        assert_eq!(refused.problem.status, 409);
        assert_eq!(refused.problem.code, "hostname_taken");
        assert!(refused.problem.detail.contains("shop"));
    }
}
