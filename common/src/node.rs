//! A machine of the cluster and what it offers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::{NodeId, PluginName};

/// What a node does.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Replicates the state, decides, serves the API.
    Pacemaker,
    /// Runs instances.
    Heart,
    /// Forwards requests.
    Router,
}

/// Whether a node takes part.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Takes new instances.
    Active,
    /// Keeps what it has until it is elsewhere, takes nothing new.
    Draining,
    /// Not heard of for longer than the TTL.
    Down,
    /// Was shut down in order.
    Stopped,
}

/// What a node says of itself when it registers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeDescription {
    /// Random, made by the node at its first start and kept on its disk; the same key is the same node.
    pub key: String,
    /// For people: the machine's hostname unless configured.
    pub name: String,
    /// What it does.
    pub roles: BTreeSet<Role>,
    /// Where its instances are reached by routers.
    pub address: IpAddr,
    /// Its API, as `http://host:port`; instance logs are read from it.
    pub api: String,
    /// Free-form, seen by applications in `PM_METADATA` and by placement.
    #[serde(default)]
    pub tags: BTreeMap<String, Value>,
    /// The failure domain that it stands in.
    #[serde(default)]
    pub zone: Option<String>,
    /// Runtime plugins and the versions that this node has of each; empty for a node without a heart.
    #[serde(default)]
    pub runtimes: BTreeMap<PluginName, Vec<String>>,
}

/// A node as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Node {
    /// Never given to another machine.
    pub id: NodeId,
    /// What it said when it last registered.
    pub description: NodeDescription,
    /// Whether it takes part.
    pub state: NodeState,
}
