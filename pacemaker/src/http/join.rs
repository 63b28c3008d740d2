//! A machine becomes a node: its token is used up, and its key is signed.

use std::sync::Arc;

use axum::extract::State;
use common::api::{JoinAnswer, JoinRequest};
use common::node::Role;
use http::StatusCode;
use pacemaker_core::command::{Command, Outcome};

use crate::config::token_hash;
use crate::http::Api;
use crate::http::certificates::{authority, pacemakers, sign};
use crate::http::error::{Answer, Failure};
use crate::http::extract::Json;
use crate::http::workspaces::odd_outcome;

/// POST [`paths::JOIN`](common::api::paths::JOIN).
///
/// The secret is checked by the log, so that a token works once however many pacemakers are asked.
/// One that nobody knows comes not that far: strangers cannot make the log grow.
pub(crate) async fn join(
    State(api): State<Arc<Api>>,
    Json(request): Json<JoinRequest>,
) -> Answer<axum::Json<JoinAnswer>> {
    let authority = authority(&api)?;
    if !api.is_ready() {
        return Err(Failure::unavailable(
            "not_ready",
            "This pacemaker has just started and is catching up with its log.",
        ));
    }
    let token = token_hash(&request.secret);
    if !is_known(&api, &token) {
        api.attempts.take()?;
        // It may have been made a moment ago elsewhere.
        api.proposer.barrier().await?;
        if !is_known(&api, &token) {
            tracing::warn!(name = %request.description.name, "a join with an unknown token was refused");
            return Err(unknown_token());
        }
    }
    authority
        .check_request(&request.signing_request)
        .map_err(|error| super::certificates::refused(&error))?;
    let name = request.description.name.clone();
    let command = Command::JoinNode {
        token,
        description: request.description,
    };
    let Outcome::Node(node) = api.propose(command).await? else {
        return Err(odd_outcome());
    };
    let (subject, certificate) = sign(&api, authority, node, &request.signing_request)?;
    tracing::info!(node = node.0, name, roles = ?subject.roles, "a node has joined");
    Ok(axum::Json(JoinAnswer {
        node,
        certificate,
        authority: authority.certificate().to_owned(),
        authority_key: subject
            .roles
            .contains(&Role::Pacemaker)
            .then(|| authority.key_pem()),
        pacemakers: pacemakers(&api),
        cluster: subject.cluster,
    }))
}

fn is_known(api: &Api, token: &str) -> bool {
    api.replica.read(|state| {
        state
            .join_tokens()
            .is_some_and(|tokens| tokens.contains_key(token))
    })
}

fn unknown_token() -> Failure {
    Failure::new(
        StatusCode::FORBIDDEN,
        "token_refused",
        "The join token is not accepted.",
        "The join token is not known to this cluster, or it has expired: make another with `pm cluster token`.",
    )
}
