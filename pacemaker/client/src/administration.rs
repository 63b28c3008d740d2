//! What administrators do with machines, and what nodes ask about themselves.

use common::api::{
    CertificateAnswer, CertificateRequest, ClusterStatus, CreateJoinToken, JoinTokenCreated,
    NodeView, paths,
};
use common::id::NodeId;
use common::node::Role;
use common::time::Span;
use reqwest::Method;

use crate::transport::read_json;
use crate::{Client, Error, fill};

impl Client {
    /// How the group of pacemakers stands, as the one that answers sees it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn cluster_status(&self) -> Result<ClusterStatus, Error> {
        self.transport
            .get("read the cluster's status", paths::CLUSTER_STATUS, &[])
            .await
    }

    /// Makes a token with which one node may join.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create_join_token(
        &self,
        roles: impl IntoIterator<Item = Role> + Send,
        ttl: Span,
        key: &str,
    ) -> Result<JoinTokenCreated, Error> {
        let action = "make a join token";
        let body = CreateJoinToken {
            roles: roles.into_iter().collect(),
            ttl,
        };
        let response = self
            .transport
            .change(action, Method::POST, paths::JOIN_TOKENS, &body, Some(key))
            .await?;
        read_json(action, response).await
    }

    /// Takes a pacemaker out of the Raft group for good.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn remove_member(&self, node: NodeId, key: &str) -> Result<(), Error> {
        let action = "remove the pacemaker from the group";
        self.change_node(action, Method::DELETE, paths::MEMBER, node, key)
            .await
    }

    /// One node, with what is known of it at the moment.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn node(&self, node: NodeId) -> Result<NodeView, Error> {
        let path = fill(paths::NODE, &[("{node}", &node.to_string())]);
        self.transport.get("read the node", &path, &[]).await
    }

    /// Moves everything away from a node.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn drain_node(&self, node: NodeId, key: &str) -> Result<(), Error> {
        let action = "drain the node";
        self.change_node(action, Method::POST, paths::NODE_DRAIN, node, key)
            .await
    }

    /// Gives a drained node work again.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn undrain_node(&self, node: NodeId, key: &str) -> Result<(), Error> {
        let action = "undrain the node";
        self.change_node(action, Method::POST, paths::NODE_UNDRAIN, node, key)
            .await
    }

    /// Forgets a node; its certificate is refused from then on.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn remove_node(&self, node: NodeId, key: &str) -> Result<(), Error> {
        let action = "remove the node";
        self.change_node(action, Method::DELETE, paths::NODE, node, key)
            .await
    }

    /// Has the key of a node signed anew; the present certificate says whose it is.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn renew_certificate(
        &self,
        signing_request: &str,
    ) -> Result<CertificateAnswer, Error> {
        let action = "renew the certificate";
        let body = CertificateRequest {
            signing_request: signing_request.to_owned(),
        };
        let response = self
            .transport
            .change(action, Method::POST, paths::CERTIFICATES, &body, None)
            .await?;
        read_json(action, response).await
    }

    async fn change_node(
        &self,
        action: &'static str,
        method: Method,
        path: &str,
        node: NodeId,
        key: &str,
    ) -> Result<(), Error> {
        let path = fill(path, &[("{node}", &node.to_string())]);
        self.transport
            .change(action, method, &path, &(), Some(key))
            .await
            .map(|_| ())
    }
}
