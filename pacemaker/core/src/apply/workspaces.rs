//! The cluster itself and its workspaces.

use std::collections::BTreeMap;

use common::id::{HostPattern, WorkspaceId, WorkspaceStub};
use common::node::NodeDescription;
use common::workspace::Workspace;
use serde_json::Value;

use crate::apply::nodes::check_description;
use crate::apply::reject;
use crate::command::{
    ClusterSettings, JoinTokenRecord, Outcome, Rejection, RejectionCode, TokenRole,
};
use crate::state::limits::{NAME_MAX_CHARACTERS, TAGS_MAX_BYTES, WORKSPACES_MAX};
use crate::state::records::Cluster;
use crate::transition::Transition;

/// The workspace that every cluster begins with.
pub(super) const DEFAULT_WORKSPACE: &str = "default";

/// What a cluster begins with.
pub(super) struct Beginning<'a> {
    pub(super) id: &'a str,
    pub(super) hostname: &'a str,
    pub(super) tokens: &'a BTreeMap<String, TokenRole>,
    pub(super) settings: ClusterSettings,
    pub(super) join_tokens: &'a [JoinTokenRecord],
    pub(super) founder: Option<&'a NodeDescription>,
}

impl Transition<'_> {
    /// Makes the cluster, with one workspace called [`DEFAULT_WORKSPACE`], and its founder.
    pub(super) fn initialize_cluster(
        &mut self,
        beginning: &Beginning<'_>,
    ) -> Result<Outcome, Rejection> {
        let hostname = beginning.hostname;
        if self.state.cluster.is_some() {
            return Err(reject(
                RejectionCode::ClusterState,
                "the cluster has been initialised already",
            ));
        }
        let is_hostname = HostPattern::parse(hostname).is_ok_and(|name| !name.is_wildcard());
        if !is_hostname {
            return Err(reject(
                RejectionCode::Invalid,
                format!(
                    "`{hostname}` cannot be the cluster's hostname: DNS labels in lower case joined by dots"
                ),
            ));
        }
        let stub = WorkspaceStub::parse(DEFAULT_WORKSPACE)
            .map_err(|error| reject(RejectionCode::Invalid, error.to_string()))?;
        let join_tokens = self.first_join_tokens(beginning.join_tokens)?;
        if let Some(founder) = beginning.founder {
            check_description(founder)?;
        }
        self.state.cluster = Some(Cluster {
            id: beginning.id.to_owned(),
            hostname: hostname.to_owned(),
            tokens: beginning.tokens.clone(),
            settings: beginning.settings,
            join_tokens,
        });
        self.insert_workspace(DEFAULT_WORKSPACE, &stub, &BTreeMap::new());
        match beginning.founder {
            Some(founder) => self.insert_node(founder, None),
            None => Ok(Outcome::Done),
        }
    }

    /// Makes a workspace; asking for one that is there, word for word, is answered with it.
    pub(super) fn create_workspace(
        &mut self,
        name: &str,
        stub: &WorkspaceStub,
        tags: &BTreeMap<String, Value>,
    ) -> Result<Outcome, Rejection> {
        check_text("a workspace's name", name)?;
        check_tags("a workspace", tags)?;
        if let Some(existing) = self.state.workspace_by_stub(stub) {
            if existing.name == name && existing.tags == *tags {
                return Ok(Outcome::Workspace(existing.id));
            }
            return Err(reject(
                RejectionCode::WorkspaceExists,
                format!(
                    "the stub `{stub}` belongs to the workspace `{}`: choose another",
                    existing.name
                ),
            ));
        }
        if self.state.workspaces.len() >= WORKSPACES_MAX {
            return Err(reject(
                RejectionCode::LimitExceeded,
                format!("the cluster has {WORKSPACES_MAX} workspaces, the most that it may have"),
            ));
        }
        Ok(Outcome::Workspace(self.insert_workspace(name, stub, tags)))
    }

    fn insert_workspace(
        &mut self,
        name: &str,
        stub: &WorkspaceStub,
        tags: &BTreeMap<String, Value>,
    ) -> WorkspaceId {
        let counter = &mut self.state.counters.workspace;
        *counter = counter.saturating_add(1);
        let id = WorkspaceId(*counter);
        self.state.workspaces.insert(
            id,
            Workspace {
                id,
                name: name.to_owned(),
                stub: stub.clone(),
                tags: tags.clone(),
            },
        );
        id
    }
}

/// A text that a person or a node gives for a name.
pub(super) fn check_text(what: &str, text: &str) -> Result<(), Rejection> {
    let count = text.chars().count();
    if count == 0 || count > NAME_MAX_CHARACTERS || text.chars().any(char::is_control) {
        return Err(reject(
            RejectionCode::Invalid,
            format!("{what} has 1 to {NAME_MAX_CHARACTERS} characters and no control characters"),
        ));
    }
    Ok(())
}

/// Tags are free-form, but bounded.
pub(super) fn check_tags(what: &str, tags: &BTreeMap<String, Value>) -> Result<(), Rejection> {
    let size = serde_json::to_vec(tags).map_or(usize::MAX, |bytes| bytes.len());
    if size > TAGS_MAX_BYTES {
        return Err(reject(
            RejectionCode::LimitExceeded,
            format!("the tags of {what} have {size} bytes of JSON: at most {TAGS_MAX_BYTES}"),
        ));
    }
    Ok(())
}
