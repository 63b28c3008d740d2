//! The gate in front of every endpoint: who asks, how long it may take, and how it is counted.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http::header::AUTHORIZATION;
use pacemaker_core::command::TokenRole;

use crate::config::{TOKEN_MAX_CHARACTERS, token_hash};
use crate::http::Api;
use crate::http::error::Failure;
use crate::metrics::RequestLabel;

/// How long a request may take that does not wait on purpose.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// Who may use an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Anyone: nothing of the cluster is shown.
    Public,
    /// Hearts, routers and administrators.
    Node,
    /// Administrators.
    Administrator,
}

/// How long an endpoint may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// [`ANSWER_PATIENCE`].
    Answer,
    /// It waits or streams, and bounds that itself.
    Own,
}

/// What the gate knows of its endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    pub(crate) api: Arc<Api>,
    pub(crate) access: Access,
    pub(crate) patience: Patience,
    pub(crate) route: &'static str,
}

/// Lets a request through, or answers it.
pub(crate) async fn pass(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let method = method_name(request.method());
    let response = match gate.check(&request) {
        Err(failure) => failure.into_response(),
        Ok(()) => match gate.patience {
            Patience::Own => next.run(request).await,
            Patience::Answer => tokio::time::timeout(ANSWER_PATIENCE, next.run(request))
                .await
                .unwrap_or_else(|_| too_slow().into_response()),
        },
    };
    gate.api
        .metrics
        .requests
        .get_or_create(&RequestLabel {
            method,
            route: gate.route,
            status: response.status().as_u16(),
        })
        .inc();
    response
}

impl Gate {
    fn check(&self, request: &Request) -> Result<(), Failure> {
        if self.access == Access::Public {
            return Ok(());
        }
        if !self.api.is_ready() {
            return Err(Failure::unavailable(
                "not_ready",
                "This pacemaker has just started and is catching up with its log.",
            ));
        }
        match self.role(request)? {
            TokenRole::Administrator => Ok(()),
            TokenRole::Node if self.access == Access::Node => Ok(()),
            TokenRole::Node => Err(Failure::forbidden()),
        }
    }

    /// The role of the token's SHA-256: what is compared is a hash that an attacker cannot steer,
    /// so the time that the comparison takes tells nothing about a token.
    fn role(&self, request: &Request) -> Result<TokenRole, Failure> {
        let header = request
            .headers()
            .get(AUTHORIZATION)
            .ok_or_else(|| Failure::unauthenticated("Send `Authorization: Bearer <token>`."))?;
        let token = header
            .to_str()
            .ok()
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .filter(|token| token.len() <= TOKEN_MAX_CHARACTERS)
            .ok_or_else(|| Failure::unauthenticated("Send `Authorization: Bearer <token>`."))?;
        let hash = token_hash(token);
        self.api
            .replica
            .read(|state| state.token_role(&hash))
            .ok_or_else(|| Failure::unauthenticated("The token is not known; log in again."))
    }
}

fn too_slow() -> Failure {
    Failure::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "timeout",
        "The answer took too long.",
        "The pacemaker is overloaded or its disk is slow. Whether a change was made is not known; repeat it with the same Idempotency-Key.",
    )
}

/// A closed set, so that a client cannot grow the metrics.
fn method_name(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        _ => "OTHER",
    }
}
