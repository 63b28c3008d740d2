//! The routing table: which hostname goes to which instances.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{
    ApplicationId, Generation, HostPattern, InstanceId, InstanceTypeName, VersionNumber,
};

/// Everything that a router needs to know to forward a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RoutingTable {
    /// The cluster's id; empty when the pacemaker does not say.
    #[serde(default)]
    pub cluster: String,
    /// The log index of the last change to it; a router swaps only to a newer one.
    pub generation: Generation,
    /// Keyed by the hostname or wildcard in lower case (the text of a [`HostPattern`]).
    pub routes: BTreeMap<String, Route>,
}

/// Where requests for one hostname go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Route {
    /// The owner of the hostname.
    pub application: ApplicationId,
    /// The application's name, for logs.
    pub application_name: String,
    /// The workspace's stub, for logs.
    pub workspace: String,
    /// The instance type that answers.
    pub instance_type: InstanceTypeName,
    /// Those that may be chosen, sorted by instance. Empty: 503, or wait when `hold` says so.
    pub backends: Vec<Backend>,
    /// True while an exclusive type is between two versions: the router holds requests.
    #[serde(default)]
    pub hold: bool,
}

/// One instance that answers requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Backend {
    /// Which instance.
    pub instance: InstanceId,
    /// The version that it is of.
    pub version: VersionNumber,
    /// Where it listens.
    pub address: SocketAddr,
}

impl RoutingTable {
    /// Finds the route for a hostname: exact first, then wildcards, most specific first.
    ///
    /// `host` is in lower case, without port and trailing dot. `*.example.com` matches any name
    /// that ends in `.example.com`, at every depth, and not `example.com` itself.
    #[must_use]
    pub fn lookup(&self, host: &str) -> Option<&Route> {
        if let Some(route) = self.routes.get(host) {
            return Some(route);
        }
        let mut pattern = String::with_capacity(host.len().saturating_add(1));
        let mut rest = host;
        while let Some((_, parent)) = rest.split_once('.') {
            pattern.clear();
            pattern.push_str("*.");
            pattern.push_str(parent);
            if let Some(route) = self.routes.get(pattern.as_str()) {
                return Some(route);
            }
            rest = parent;
        }
        None
    }

    /// Puts `route` under `pattern`, replacing what was there.
    pub fn insert(&mut self, pattern: &HostPattern, route: Route) {
        self.routes.insert(pattern.as_str().to_owned(), route);
    }
}
