//! Join tokens: made, used once, and forgotten.
//!
//! A token's secret never comes here, only its hash. A used token is kept for a while after its
//! expiry: a machine whose answer was lost asks again and gets the number that it has.

use std::collections::{BTreeMap, BTreeSet};

use common::api::JOIN_TOKEN_TTL_MAX;
use common::digest::Digest;
use common::id::NodeId;
use common::node::{NodeDescription, Role};
use common::time::Timestamp;

use crate::apply::nodes::{check_description, check_granted};
use crate::apply::reject;
use crate::command::{JoinTokenRecord, Outcome, Rejection, RejectionCode};
use crate::state::limits::{JOIN_TOKEN_KEPT, JOIN_TOKENS_MAX};
use crate::state::records::JoinGrant;
use crate::transition::Transition;

impl Transition<'_> {
    /// The tokens that a cluster begins with; those that expired before it began are left out.
    pub(super) fn first_join_tokens(
        &self,
        records: &[JoinTokenRecord],
    ) -> Result<BTreeMap<String, JoinGrant>, Rejection> {
        let mut tokens = BTreeMap::new();
        for record in records {
            if record.expires <= self.now() {
                continue;
            }
            check_token(&record.hash, &record.roles, record.expires, self.now())?;
            let grant = JoinGrant {
                roles: record.roles.clone(),
                expires: record.expires,
                used_by: None,
            };
            tokens.insert(record.hash.clone(), grant);
        }
        check_count(tokens.len())?;
        Ok(tokens)
    }

    /// One more node may join; the same token again is answered as before.
    pub(super) fn create_join_token(
        &mut self,
        hash: &str,
        roles: &BTreeSet<Role>,
        expires: Timestamp,
    ) -> Result<Outcome, Rejection> {
        let now = self.now();
        check_token(hash, roles, expires, now)?;
        if expires <= now {
            return Err(reject(
                RejectionCode::Invalid,
                "a join token is valid for more than no time",
            ));
        }
        let Some(cluster) = &self.state.cluster else {
            return Ok(Outcome::Done);
        };
        let grant = JoinGrant {
            roles: roles.clone(),
            expires,
            used_by: None,
        };
        match cluster.join_tokens.get(hash) {
            Some(known) if *known == grant => return Ok(Outcome::Done),
            Some(_) => {
                return Err(reject(
                    RejectionCode::Invalid,
                    "this join token exists already: make another secret",
                ));
            }
            None => {}
        }
        let kept = cluster
            .join_tokens
            .values()
            .filter(|grant| is_kept(grant, now))
            .count();
        check_count(kept.saturating_add(1))?;
        if let Some(cluster) = &mut self.state.cluster {
            cluster.join_tokens.retain(|_, grant| is_kept(grant, now));
            cluster.join_tokens.insert(hash.to_owned(), grant);
        }
        Ok(Outcome::Done)
    }

    /// A machine that holds the secret becomes a node.
    pub(super) fn join_node(
        &mut self,
        token: &str,
        description: &NodeDescription,
    ) -> Result<Outcome, Rejection> {
        check_description(description)?;
        let grant = self
            .state
            .join_tokens()
            .and_then(|tokens| tokens.get(token))
            .ok_or_else(|| refused("is not known to this cluster"))?
            .clone();
        let known = self.state.node_by_key(&description.key);
        if let Some(node) = grant.used_by {
            return if known == Some(node) {
                self.update_node(node, description)
            } else {
                Err(refused("has been used: a token is for one node"))
            };
        }
        if self.now() >= grant.expires {
            return Err(refused("has expired"));
        }
        check_granted(&grant.roles, &description.roles)?;
        if let Some(node) = known {
            return Err(key_is_taken(node));
        }
        let outcome = self.insert_node(description, Some(&grant.roles))?;
        if let Outcome::Node(node) = outcome
            && let Some(cluster) = &mut self.state.cluster
            && let Some(grant) = cluster.join_tokens.get_mut(token)
        {
            grant.used_by = Some(node);
        }
        Ok(outcome)
    }
}

fn is_kept(grant: &JoinGrant, now: Timestamp) -> bool {
    now < grant.expires.after(JOIN_TOKEN_KEPT)
}

fn check_token(
    hash: &str,
    roles: &BTreeSet<Role>,
    expires: Timestamp,
    now: Timestamp,
) -> Result<(), Rejection> {
    if hash.parse::<Digest>().is_err() {
        return Err(reject(
            RejectionCode::Invalid,
            "a join token is kept by the SHA-256 of its secret, 64 hexadecimal digits",
        ));
    }
    if roles.is_empty() {
        return Err(reject(
            RejectionCode::Invalid,
            "a join token grants at least one role",
        ));
    }
    if expires > now.after(JOIN_TOKEN_TTL_MAX) {
        return Err(reject(
            RejectionCode::LimitExceeded,
            "a join token is valid for a week at most",
        ));
    }
    Ok(())
}

fn check_count(count: usize) -> Result<(), Rejection> {
    if count > JOIN_TOKENS_MAX {
        return Err(reject(
            RejectionCode::LimitExceeded,
            format!(
                "the cluster has {JOIN_TOKENS_MAX} join tokens, the most that it may have: wait until some expire"
            ),
        ));
    }
    Ok(())
}

fn refused(why: &str) -> Rejection {
    reject(
        RejectionCode::TokenRefused,
        format!("the join token {why}: make a new one with `pm cluster token`"),
    )
}

/// Keys are shown to people, so a key alone proves nothing.
fn key_is_taken(node: NodeId) -> Rejection {
    reject(
        RejectionCode::Invalid,
        format!(
            "node {node} has this machine's key: start the agent with its old data directory, or empty the directory and remove node {node} (`pm node remove {node}`)"
        ),
    )
}
