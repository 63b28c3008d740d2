//! What the leader has heard from nodes; kept in memory, never in the log.

use std::collections::BTreeMap;

use common::assignment::{HeartReport, RouterReport};
use common::id::NodeId;
use common::time::Timestamp;
use serde::{Deserialize, Serialize};

/// The newest report of each node, and when it came.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sightings {
    /// When this leader was elected: every node has one TTL of grace from then.
    pub elected: Timestamp,
    /// Hearts.
    pub hearts: BTreeMap<NodeId, Sighting<HeartReport>>,
    /// Routers.
    pub routers: BTreeMap<NodeId, Sighting<RouterReport>>,
    /// When a node last answered the leader's direct probe: a sign of life where reports are lost.
    pub probes: BTreeMap<NodeId, Timestamp>,
}

/// One report and its arrival.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sighting<R> {
    /// By the leader's clock.
    pub at: Timestamp,
    /// What it said.
    pub report: R,
}
