//! The door for other pacemakers: who may come in, and from then on the protocol of [`crate::peer`].

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use common::id::NodeId;
use common::node::Role;
use http::header::{AUTHORIZATION, CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, StatusCode};
use hyper_util::rt::TokioIo;
use pacemaker_client::tls::{PeerIdentity, wall_clock};

use crate::http::Api;
use crate::http::error::Failure;
use crate::peer::{self, Hello, MEMBER_REMOVED, PROTOCOL, Service, headers};

/// GET [`paths::PEER`](common::api::paths::PEER).
pub(crate) async fn connect(State(api): State<Arc<Api>>, mut request: Request) -> Response {
    let identity = request.extensions().get::<PeerIdentity>().cloned();
    let hello = match admit(&api, request.headers(), identity.as_ref()) {
        Ok(hello) => hello,
        Err(refusal) => return refusal.into_response(),
    };
    let upgrading = hyper::upgrade::on(&mut request);
    let service = Service {
        proposer: api.proposer.clone(),
        leader: api.leader.clone(),
        members: api.members.clone(),
    };
    let mut former = api.proposer.former();
    let stop = api.shutdown.clone();
    api.connections.spawn(async move {
        match stop.run_until_cancelled(upgrading).await {
            None => {}
            Some(Ok(stream)) => {
                let serving = peer::serve(TokioIo::new(stream), service, stop);
                // It hears why when it connects again.
                let expelled = former.wait_for(|former| former.contains(&hello.member));
                tokio::select! {
                    () = serving => {}
                    _ = expelled => {}
                }
            }
            Some(Err(error)) => tracing::debug!(%error, "a pacemaker did not begin to speak"),
        }
    });
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    api.peers.credentials().introduce(headers);
    response
}

/// Says who comes in, or why not.
fn admit(
    api: &Api,
    request: &HeaderMap,
    identity: Option<&PeerIdentity>,
) -> Result<Hello, Refusal> {
    let is_known = match &api.tls {
        Some(_) => identity.is_some_and(|identity| identity.is_pacemaker_at(wall_clock())),
        None => has_token(api, request),
    };
    if !is_known {
        return Err(Refusal {
            code: "unauthenticated",
            failure: Failure::unauthenticated("Only pacemakers of this cluster may ask this."),
        });
    }
    let is_upgrade = request
        .get(UPGRADE)
        .is_some_and(|protocol| protocol == PROTOCOL);
    let hello = Hello::read(request)
        .filter(|_| is_upgrade)
        .ok_or_else(|| Refusal {
            code: "upgrade_needed",
            failure: Failure::bad_request(
                "upgrade_needed",
                format!("This path speaks {PROTOCOL} only, between pacemakers."),
            ),
        })?;
    let refuse = |code, detail: String| {
        if api
            .peers
            .refusals()
            .is_news(hello.member, code, Instant::now())
        {
            tracing::warn!(
                member = hello.member,
                code,
                detail,
                "a pacemaker was refused"
            );
        }
        let title = "This pacemaker is refused.";
        let failure = Failure::new(StatusCode::FORBIDDEN, code, title, detail);
        Err(Refusal { code, failure })
    };
    if identity.is_some_and(|identity| identity.node.0 != hello.member) {
        let detail = format!("The certificate is not of node {}.", hello.member);
        return refuse("not_this_node", detail);
    }
    if hello.is_foreign(api.peers.credentials().cluster().as_deref()) {
        let detail = "It belongs to another cluster.".to_owned();
        return refuse("cluster_mismatch", detail);
    }
    if hello.target.is_some_and(|target| target != api.member) {
        let detail = format!("This is member {}.", api.member);
        return refuse("wrong_member", detail);
    }
    if api.proposer.former().borrow().contains(&hello.member) {
        let detail = format!("Member {} was taken out of the cluster.", hello.member);
        return refuse(MEMBER_REMOVED, detail);
    }
    match api.proposer.place_of(hello.member) {
        Some(place) if !place.incarnation.is_empty() && place.incarnation != hello.incarnation => {
            let detail = format!(
                "Member {} has lost its log; it has to join again as a new node.",
                hello.member
            );
            refuse("log_lost", detail)
        }
        Some(_) => Ok(hello),
        None if may_be_unknown(api, hello.member) => Ok(hello),
        None => refuse(
            "not_a_member",
            format!("There is no member {}.", hello.member),
        ),
    }
}

/// One that is not in the group may still lead it: this log, or this state, may be behind. Numbers
/// are given in order and never again.
fn may_be_unknown(api: &Api, member: u64) -> bool {
    api.replica.read(|state| {
        let node = state.node(NodeId(member));
        let is_pacemaker =
            node.is_some_and(|node| node.description.roles.contains(&Role::Pacemaker));
        is_pacemaker || (node.is_none() && !state.was_removed(NodeId(member)))
    })
}

/// True for one that shows the token that nodes of this cluster have where there is no TLS.
fn has_token(api: &Api, request: &HeaderMap) -> bool {
    let shown = request
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    // Hashes are compared, so that the time that it takes tells nothing about the token.
    shown.is_some_and(|shown| {
        crate::config::token_hash(shown) == crate::config::token_hash(&api.node_token)
    })
}

/// A refusal whose code a peer can read without reading a body.
struct Refusal {
    code: &'static str,
    failure: Failure,
}

impl axum::response::IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = self.failure.into_response();
        response
            .headers_mut()
            .insert(headers::REFUSAL, HeaderValue::from_static(self.code));
        response
    }
}
