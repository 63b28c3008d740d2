//! HTTP from node to node: to this one and no other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use common::id::NodeId;

use crate::error::Error;
use crate::tls::{Expect, Tls};
use crate::transport::{node_pool, plain_pool};

/// Nodes that connections are kept to; past it all are dropped and made anew as needed. A pacemaker
/// talks to four others, and to the hearts whose logs people read.
const NODES_MAX: usize = 64;

/// Connections to other nodes, each of which must show the certificate of the node that is meant.
///
/// Without an identity (`pm dev`, tests) they are plain. When the identity is replaced, they are
/// made anew. Clones share them.
#[derive(Clone, Debug)]
pub struct Connections {
    way: Way,
}

#[derive(Clone, Debug)]
enum Way {
    Plain(reqwest::Client),
    Tls { tls: Tls, pools: Arc<Mutex<Pools>> },
}

#[derive(Debug, Default)]
struct Pools {
    /// The number of the identity that they show.
    generation: u64,
    by_node: BTreeMap<NodeId, reqwest::Client>,
}

impl Connections {
    /// With this identity, or plain without one. Connects to nobody yet.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn new(tls: Option<&Tls>) -> Result<Self, Error> {
        let way = match tls {
            Some(tls) => Way::Tls {
                tls: tls.clone(),
                pools: Arc::default(),
            },
            None => Way::Plain(plain_pool()?),
        };
        Ok(Self { way })
    }

    /// True when both ends show certificates, so that no token is needed.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        match &self.way {
            Way::Tls { .. } => true,
            Way::Plain(_) => false,
        }
    }

    /// Connections to this node. The caller sets the timeouts of its requests.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn to(&self, node: NodeId) -> Result<reqwest::Client, Error> {
        let (tls, pools) = match &self.way {
            Way::Plain(client) => return Ok(client.clone()),
            Way::Tls { tls, pools } => (tls, pools),
        };
        let mut pools = pools.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = tls.generation();
        if pools.generation != generation || pools.by_node.len() >= NODES_MAX {
            pools.by_node.clear();
            pools.generation = generation;
        }
        if let Some(client) = pools.by_node.get(&node) {
            return Ok(client.clone());
        }
        let client = node_pool(tls, Expect::Node(node))?;
        pools.by_node.insert(node, client.clone());
        Ok(client)
    }
}
