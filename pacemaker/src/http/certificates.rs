//! Certificates of nodes: signed for who is in the state, with the roles that it has there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use common::api::{CertificateAnswer, CertificateRequest};
use common::id::NodeId;
use common::node::Role;
use common::time::Timestamp;
use http::StatusCode;
use pacemaker_client::tls::{PeerIdentity, Subject, wall_clock};

use crate::authority::{Authority, AuthorityError};
use crate::http::Api;
use crate::http::authentication::Caller;
use crate::http::error::{Answer, Failure};
use crate::http::extract::Json;
use crate::http::nodes::missing;

/// Nodes whose certificates' ends are remembered: as many as a cluster may have.
const SEEN_MAX: usize = 10_000;

/// When the certificates end that nodes have shown here. A hint for people.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    seen: Mutex<BTreeMap<NodeId, Timestamp>>,
}

impl Certificates {
    /// Remembers a certificate that was shown.
    pub(crate) fn note(&self, identity: &PeerIdentity) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= SEEN_MAX && !seen.contains_key(&identity.node) {
            seen.clear();
        }
        seen.insert(identity.node, identity.expires);
    }

    /// When the certificate ends that this node showed last.
    pub(crate) fn expiry(&self, node: NodeId) -> Option<Timestamp> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&node).copied()
    }
}

/// POST [`paths::CERTIFICATES`](common::api::paths::CERTIFICATES).
pub(crate) async fn renew(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Json(request): Json<CertificateRequest>,
) -> Answer<axum::Json<CertificateAnswer>> {
    let node = caller.node().ok_or_else(|| caller.forbidden())?;
    let authority = authority(&api)?;
    // A removal that this pacemaker has not heard of yet must not be outlived by a day.
    api.proposer.barrier().await?;
    let (_, certificate) = sign(&api, authority, node, &request.signing_request)?;
    tracing::info!(node = node.0, "a certificate was renewed");
    Ok(axum::Json(CertificateAnswer {
        certificate,
        pacemakers: pacemakers(&api),
    }))
}

/// GET [`paths::PACEMAKERS`](common::api::paths::PACEMAKERS).
pub(crate) async fn list_pacemakers(State(api): State<Arc<Api>>) -> axum::Json<Vec<String>> {
    axum::Json(pacemakers(&api))
}

/// What signs here.
pub(crate) fn authority(api: &Api) -> Answer<&Authority> {
    api.authority.as_deref().ok_or_else(|| {
        Failure::new(
            StatusCode::CONFLICT,
            "no_authority",
            "This cluster has no certificates.",
            "A cluster of `pm dev` is one machine; make one of several with `pm cluster init`.",
        )
    })
}

/// Signs for a node, with what the state says of it.
pub(crate) fn sign(
    api: &Api,
    authority: &Authority,
    node: NodeId,
    signing_request: &str,
) -> Answer<(Subject, String)> {
    let found = api.replica.read(|state| {
        let (cluster, _) = state.cluster()?;
        let subject = Subject {
            cluster: cluster.to_owned(),
            node,
            roles: state.node(node)?.description.roles.clone(),
        };
        Some((subject, state.settings().certificate_ttl))
    });
    let (subject, ttl) = found.ok_or_else(|| missing(node))?;
    let certificate = authority
        .sign(signing_request, &subject, wall_clock(), ttl)
        .map_err(|error| refused(&error))?;
    Ok((subject, certificate))
}

/// Why nothing was signed.
pub(crate) fn refused(error: &AuthorityError) -> Failure {
    match error {
        AuthorityError::Request => Failure::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "signing_request_invalid",
            "The signing request is not accepted.",
            error.to_string(),
        ),
        other => Failure::internal("signing a certificate", other),
    }
}

/// Where the members of the group answer.
pub(crate) fn pacemakers(api: &Api) -> Vec<String> {
    let members: BTreeSet<u64> = api
        .proposer
        .group()
        .members
        .iter()
        .map(|member| member.number)
        .collect();
    let nodes = api.replica.read(pacemaker_core::State::nodes);
    nodes
        .into_iter()
        .filter(|node| members.contains(&node.id.0))
        .filter(|node| node.description.roles.contains(&Role::Pacemaker))
        .map(|node| node.description.api.trim_end_matches('/').to_owned())
        .collect()
}
