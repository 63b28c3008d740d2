//! Who asks, once the gate has let it in.

use axum::extract::FromRequestParts;
use common::id::NodeId;
use http::StatusCode;
use http::request::Parts;
use pacemaker_client::tls::PeerIdentity;

use crate::http::error::{Answer, Failure};
use crate::replica::Replica;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// It is not known: the endpoint is for everyone, or checks by itself.
    Nobody,
    /// Somebody with an administrator's token.
    Administrator,
    /// A node of a cluster without certificates: any.
    AnyNode,
    /// The node of a certificate.
    Node(PeerIdentity),
}

impl Caller {
    /// The node of a certificate.
    pub(crate) fn node(&self) -> Option<NodeId> {
        match self {
            Self::Node(identity) => Some(identity.node),
            Self::Nobody | Self::Administrator | Self::AnyNode => None,
        }
    }

    /// Lets a node speak for itself only.
    pub(crate) fn speaks_for(&self, node: NodeId) -> Answer<()> {
        match self {
            Self::Node(identity) if identity.node != node => {
                tracing::warn!(
                    caller = identity.node.0,
                    node = node.0,
                    "a node was refused that speaks for another"
                );
                Err(Failure::new(
                    StatusCode::FORBIDDEN,
                    "not_this_node",
                    "A node speaks for itself only.",
                    format!(
                        "The certificate is of node {}, not of node {node}.",
                        identity.node
                    ),
                ))
            }
            Self::Nobody | Self::Administrator | Self::AnyNode | Self::Node(_) => Ok(()),
        }
    }

    /// It has no right to that.
    pub(crate) fn forbidden(&self) -> Failure {
        match self {
            Self::Node(identity) => Failure::new(
                StatusCode::FORBIDDEN,
                "forbidden",
                "This node has no right to that.",
                format!(
                    "The certificate of node {} gives it other roles, or this is for administrators.",
                    identity.node
                ),
            ),
            Self::Nobody | Self::Administrator | Self::AnyNode => Failure::forbidden(),
        }
    }
}

/// What the gate has found.
impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        Ok(parts.extensions.get().cloned().unwrap_or(Self::Nobody))
    }
}

/// Refuses a node that is not one any more, or not yet as far as is known here.
pub(crate) fn check_not_removed(replica: &Replica, node: NodeId) -> Answer<()> {
    let (is_node, was_removed) =
        replica.read(|state| (state.is_node(node), state.was_removed(node)));
    match (is_node, was_removed) {
        (true, _) => Ok(()),
        (false, true) => Err(removed(node)),
        (false, false) => Err(Failure::unavailable(
            "not_ready",
            format!("This pacemaker has not heard of node {node} yet."),
        )),
    }
}

/// A node that was removed; its certificate may be valid for hours.
pub(crate) fn removed(node: NodeId) -> Failure {
    Failure::new(
        StatusCode::FORBIDDEN,
        "node_removed",
        "The node was removed from the cluster.",
        format!(
            "Node {node} was removed. Stop its agent; to use the machine again, empty its data directory and join with a new token."
        ),
    )
}

/// A node whose certificate has ended.
pub(crate) fn expired(identity: &PeerIdentity) -> Failure {
    Failure::new(
        StatusCode::UNAUTHORIZED,
        "certificate_expired",
        "The node's certificate has expired.",
        format!(
            "The certificate of node {} ended {}; the agent renews it by itself. If it does not, compare the machine's clock with the cluster's.",
            identity.node, identity.expires
        ),
    )
}
