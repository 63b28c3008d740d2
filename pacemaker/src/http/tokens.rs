//! Join tokens: with one of them, one machine becomes a node.

use std::sync::Arc;

use axum::extract::State;
use common::api::{CreateJoinToken, JOIN_TOKEN_TTL_MAX, JoinTokenCreated};
use common::digest::Digest;
use common::join_token::JoinToken;
use common::time::Timestamp;
use http::StatusCode;
use pacemaker_client::tls::wall_clock;
use pacemaker_core::command::Command;

use crate::authority::Authority;
use crate::config::token_hash;
use crate::http::Api;
use crate::http::certificates::{authority, pacemakers};
use crate::http::error::{Answer, Failure};
use crate::http::extract::{Json, Key};

/// Characters of a secret: 128 bits in hexadecimal.
const SECRET_CHARACTERS: usize = 32;

/// POST [`paths::JOIN_TOKENS`](common::api::paths::JOIN_TOKENS).
pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    key: Key,
    Json(request): Json<CreateJoinToken>,
) -> Answer<(StatusCode, axum::Json<JoinTokenCreated>)> {
    let authority = authority(&api)?;
    if request.roles.is_empty() || request.ttl.0 == 0 || request.ttl > JOIN_TOKEN_TTL_MAX {
        return Err(Failure::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid",
            "A value is not allowed.",
            format!(
                "A join token has at least one role, and a ttl of at most {JOIN_TOKEN_TTL_MAX}."
            ),
        ));
    }
    let secret = secret(authority, &key)?;
    let hash = token_hash(&secret);
    let expires = grant(&api, &hash, &request).await?;
    let endpoints = pacemakers(&api)
        .iter()
        .filter_map(|api| Some(api.split_once("://")?.1.to_owned()))
        .collect();
    let token = JoinToken {
        endpoints,
        fingerprint: authority
            .fingerprint()
            .map_err(|error| Failure::internal("reading the authority", &error))?,
        secret,
    };
    let created = JoinTokenCreated {
        token: token.to_string(),
        expires,
    };
    Ok((StatusCode::CREATED, axum::Json(created)))
}

/// Makes the token count, unless it does already: its secret comes of the `Idempotency-Key`.
async fn grant(api: &Api, hash: &str, request: &CreateJoinToken) -> Answer<Timestamp> {
    let known = || {
        api.replica.read(|state| {
            let grant = state.join_tokens()?.get(hash)?;
            (grant.roles == request.roles).then_some(grant.expires)
        })
    };
    if let Some(expires) = known() {
        return Ok(expires);
    }
    let expires = wall_clock().after(request.ttl);
    let command = Command::CreateJoinToken {
        hash: hash.to_owned(),
        roles: request.roles.clone(),
        expires,
    };
    match api.propose(command).await {
        Ok(_) => Ok(expires),
        // The same was asked for at the same time, or before as far as another pacemaker knows.
        Err(failure) => known().ok_or(failure),
    }
}

/// Random; but the same for the same `Idempotency-Key`, from any pacemaker, so that an answer that
/// was lost can be had again. Only who has the authority's key can compute it.
fn secret(authority: &Authority, key: &Key) -> Answer<String> {
    let mut seed = authority.key_pem();
    match key.text() {
        Some(key) => {
            seed.push_str("join token for ");
            seed.push_str(key);
        }
        None => {
            let mut random = [0; 32];
            getrandom::fill(&mut random)
                .map_err(|error| Failure::internal("making a secret", &error))?;
            seed.push_str(Digest::of(&random).as_str());
        }
    }
    let digest = Digest::of(seed.as_bytes());
    Ok(digest.as_str().chars().take(SECRET_CHARACTERS).collect())
}
