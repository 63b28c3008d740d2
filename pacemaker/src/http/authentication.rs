//! The gate in front of every endpoint: who asks, how long it may take, and how it is counted.
//!
//! A node shows its certificate (the listener has checked authority and cluster, and put a
//! [`PeerIdentity`] into the request), a person a bearer token. Where there are no certificates, nodes
//! show a token that they share. What a node may do ends when it is removed, also what is under way.

mod attempts;
mod caller;
mod revocation;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use common::id::NodeId;
use common::node::Role;
use http::StatusCode;
use http::header::AUTHORIZATION;
use pacemaker_client::tls::{PeerIdentity, wall_clock};
use pacemaker_core::command::TokenRole;

use crate::config::{TOKEN_MAX_CHARACTERS, token_hash};
use crate::http::Api;
use crate::http::error::Failure;
use crate::metrics::RequestLabel;

pub(crate) use self::attempts::Attempts;
pub(crate) use self::caller::{Caller, removed};

/// How long a request may take that does not wait on purpose.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// Who may use an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Anyone: nothing of the cluster is shown.
    Public,
    /// Pacemakers by their certificate, also before there is a state. Where there are no
    /// certificates, the endpoint itself checks who asks.
    Peer,
    /// Nodes by their certificate, which may have expired: to have it renewed.
    Renewal,
    /// All nodes, and administrators.
    Node,
    /// Nodes with one of these roles, and administrators.
    Roles(&'static [Role]),
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
pub(crate) async fn pass(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let method = method_name(request.method());
    let response = match gate.check(&request) {
        Err(failure) => failure.into_response(),
        Ok(caller) => {
            let node = caller.node();
            request.extensions_mut().insert(caller);
            gate.answer(node, next.run(request)).await
        }
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
    async fn answer(
        &self,
        node: Option<NodeId>,
        answering: impl Future<Output = Response>,
    ) -> Response {
        match (self.patience, node) {
            (Patience::Answer, _) => tokio::time::timeout(ANSWER_PATIENCE, answering)
                .await
                .unwrap_or_else(|_| too_slow().into_response()),
            (Patience::Own, None) => answering.await,
            (Patience::Own, Some(node)) => {
                revocation::until_removed(&self.api.replica, node, answering).await
            }
        }
    }

    fn check(&self, request: &Request) -> Result<Caller, Failure> {
        let identity = request.extensions().get::<PeerIdentity>();
        match self.access {
            Access::Public => return Ok(Caller::Nobody),
            Access::Peer => return self.check_peer(identity),
            Access::Renewal | Access::Node | Access::Roles(_) | Access::Administrator => {}
        }
        // Its state stands still: what it says would be ever older, and the others know better.
        if self.api.proposer.is_removed() {
            return Err(Failure::unavailable(
                "member_removed",
                "This pacemaker was taken out of the cluster; ask another.",
            ));
        }
        if !self.api.is_ready() {
            return Err(Failure::unavailable(
                "not_ready",
                "This pacemaker has just started and is catching up with its log.",
            ));
        }
        let token = request.headers().get(AUTHORIZATION);
        let caller = match (identity, token) {
            (Some(identity), None) => self.known(identity)?,
            (_, Some(token)) => self.bearer(token)?,
            (None, None) => {
                return Err(Failure::unauthenticated(
                    "Send `Authorization: Bearer <token>`, or show a node's certificate.",
                ));
            }
        };
        if self.allows(&caller) {
            return Ok(caller);
        }
        tracing::warn!(
            ?caller,
            method = %request.method(),
            route = self.route,
            "a request was refused that its sender has no right to"
        );
        Err(caller.forbidden())
    }

    fn allows(&self, caller: &Caller) -> bool {
        match (self.access, caller) {
            (Access::Public, _) => true,
            (Access::Node | Access::Roles(_) | Access::Administrator, Caller::Administrator)
            | (Access::Node, Caller::Node(_) | Caller::AnyNode)
            | (Access::Roles(_), Caller::AnyNode)
            | (Access::Renewal, Caller::Node(_)) => true,
            (Access::Roles(roles), Caller::Node(identity)) => {
                roles.iter().any(|role| identity.roles.contains(role))
            }
            (Access::Peer, _)
            | (Access::Renewal, Caller::Administrator | Caller::AnyNode)
            | (Access::Administrator, Caller::Node(_) | Caller::AnyNode)
            | (_, Caller::Nobody) => false,
        }
    }

    /// The node of a certificate, if it is still one.
    fn known(&self, identity: &PeerIdentity) -> Result<Caller, Failure> {
        let now = wall_clock();
        if self.access != Access::Renewal && identity.is_expired_at(now) {
            return Err(caller::expired(identity));
        }
        caller::check_not_removed(&self.api.replica, identity.node)?;
        self.api.certificates.note(identity);
        Ok(Caller::Node(identity.clone()))
    }

    /// A pacemaker may be of a later time than this one's state, and one that was removed has to hear
    /// it in words that pacemakers understand: the endpoint looks at that.
    fn check_peer(&self, identity: Option<&PeerIdentity>) -> Result<Caller, Failure> {
        let Some(identity) = identity else {
            if self.api.tls.is_none() {
                return Ok(Caller::Nobody);
            }
            return Err(Failure::unauthenticated(
                "Show the certificate of a pacemaker.",
            ));
        };
        if identity.is_expired_at(wall_clock()) {
            return Err(caller::expired(identity));
        }
        let caller = Caller::Node(identity.clone());
        if identity.roles.contains(&Role::Pacemaker) {
            return Ok(caller);
        }
        tracing::warn!(
            ?caller,
            route = self.route,
            "a node that is no pacemaker was refused"
        );
        Err(caller.forbidden())
    }

    /// Who shows a token. What is compared is the token's SHA-256, which an attacker cannot steer,
    /// so the time that the comparison takes tells nothing about a token.
    fn bearer(&self, header: &http::HeaderValue) -> Result<Caller, Failure> {
        let token = header
            .to_str()
            .ok()
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .filter(|token| token.len() <= TOKEN_MAX_CHARACTERS)
            .ok_or_else(|| Failure::unauthenticated("Send `Authorization: Bearer <token>`."))?;
        let hash = token_hash(token);
        match self.api.replica.read(|state| state.token_role(&hash)) {
            Some(TokenRole::Administrator) => Ok(Caller::Administrator),
            Some(TokenRole::Node) => Ok(Caller::AnyNode),
            None => {
                self.api.attempts.take()?;
                Err(Failure::unauthenticated(
                    "The token is not known; log in again.",
                ))
            }
        }
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
