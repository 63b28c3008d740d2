//! Asking nodes directly that have not reported for a while: where only reports are lost, or late,
//! nothing is replaced.

use std::collections::BTreeSet;
use std::time::Duration;

use common::id::NodeId;
use common::node::{Node, NodeState, Role};
use common::time::{Span, Timestamp};
use pacemaker_client::Connections;
use pacemaker_core::State;
use pacemaker_core::sightings::Sightings;
use tokio::task::JoinSet;

use crate::replica::Replica;

/// Probes under way at once: a network that is cut must not cost a socket for each of a thousand nodes.
const AT_ONCE: usize = 64;
/// Every node that runs a role answers here, whatever the role does.
const PATH: &str = "/healthz";

/// Probes nodes, and gives out those that answered.
#[derive(Debug)]
pub(super) struct Prober {
    connections: Connections,
    running: JoinSet<(NodeId, bool)>,
    under_way: BTreeSet<NodeId>,
}

impl Prober {
    pub(super) fn new(connections: Connections) -> Self {
        Self {
            connections,
            running: JoinSet::new(),
            under_way: BTreeSet::new(),
        }
    }

    /// Begins to ask those that have been silent for two thirds of the TTL.
    pub(super) fn look(&mut self, replica: &Replica, sightings: &Sightings, now: Timestamp) {
        let ttl = replica.read(State::settings).node_ttl;
        if now.since(sightings.elected) < quiet(ttl) {
            return;
        }
        let nodes = replica.read(State::nodes);
        for node in nodes.iter().filter(|node| reports(node)) {
            let is_due = now.since(last_sign(sightings, node)) >= quiet(ttl);
            if is_due && self.under_way.len() < AT_ONCE && self.under_way.insert(node.id) {
                self.ask(node, ttl);
            }
        }
    }

    fn ask(&mut self, node: &Node, ttl: Span) {
        let id = node.id;
        let url = format!("{}{PATH}", node.description.api.trim_end_matches('/'));
        let patience = ttl.duration() / 3;
        let client = self.connections.to(id);
        self.running.spawn(async move {
            let answered = async {
                let answer = client.ok()?.get(url).timeout(patience).send().await.ok()?;
                answer.status().is_success().then_some(())
            };
            (id, answered.await.is_some())
        });
    }

    /// Forgets what is under way: another leads.
    pub(super) fn stop(&mut self) {
        self.running.abort_all();
    }

    /// Resolves with the next node that has answered; never while none is asked.
    pub(super) async fn answered(&mut self) -> NodeId {
        loop {
            match self.running.join_next().await {
                Some(Ok((node, is_alive))) => {
                    self.under_way.remove(&node);
                    tracing::debug!(node = node.0, is_alive, "a silent node was probed");
                    if is_alive {
                        return node;
                    }
                }
                Some(Err(error)) => {
                    tracing::trace!(%error, "a probe was given up");
                    self.under_way.clear();
                }
                None => std::future::pending().await,
            }
        }
    }
}

/// So long a node may be silent before it is asked: what is left of the TTL is enough for an answer.
fn quiet(ttl: Span) -> Span {
    Span(ttl.0 / 3 * 2)
}

/// How often it is looked who has been silent: often enough for an answer in time, at any TTL.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// True for a node that should be heard.
fn reports(node: &Node) -> bool {
    let roles = &node.description.roles;
    let has_reports = roles.contains(&Role::Heart) || roles.contains(&Role::Router);
    let is_up = match node.state {
        NodeState::Active | NodeState::Draining => true,
        NodeState::Down | NodeState::Stopped => false,
    };
    has_reports && is_up
}

/// The last time that each of the node's roles has been heard, or the node was asked and answered.
fn last_sign(sightings: &Sightings, node: &Node) -> Timestamp {
    let heart = sightings.hearts.get(&node.id).map(|sighting| sighting.at);
    let router = sightings.routers.get(&node.id).map(|sighting| sighting.at);
    let of = |role, at: Option<Timestamp>| {
        let has_role = node.description.roles.contains(&role);
        has_role.then(|| at.unwrap_or_default())
    };
    let reported = [of(Role::Heart, heart), of(Role::Router, router)];
    let reported = reported.into_iter().flatten().min().unwrap_or_default();
    let probed = sightings.probes.get(&node.id).copied().unwrap_or_default();
    reported.max(probed).max(sightings.elected)
}
