//! The connection pools: plain, of somebody who knows the authority, of a node.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::ClientBuilder;
use rustls::ClientConfig;

use crate::error::Error;
use crate::tls::{self, Expect, Tls};
use crate::transport::configuration;

/// How long a connection may take; nodes of one cluster are near each other.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// When sent bytes have not been acknowledged for so long, a node takes the other machine for dead.
/// Linux counts the time too in which the other process takes nothing in, and a slow disk may hold an
/// upload up for seconds; reports find a dead machine sooner.
const NODE_SILENCE: Duration = Duration::from_secs(10);
/// How often the other machine's kernel is asked while nothing is sent.
const NODE_KEEPALIVE: Duration = Duration::from_secs(2);
/// People's connections come from farther away.
const PERSON_SILENCE: Duration = Duration::from_secs(20);

/// Connections, with how they are made.
#[derive(Clone, Debug)]
pub(crate) enum Http {
    /// Made once.
    Fixed(reqwest::Client),
    /// Made anew whenever the node's identity has been replaced.
    Node(Arc<NodeConnections>),
}

/// The connections of a node.
#[derive(Debug)]
pub(crate) struct NodeConnections {
    tls: Tls,
    /// The pool with the number of the identity that it shows.
    pool: Mutex<(u64, reqwest::Client)>,
}

impl Http {
    /// Without TLS, or with the authorities that this machine knows.
    pub(crate) fn plain(endpoints: &[String]) -> Result<Self, Error> {
        let mut builder = settings(PERSON_SILENCE);
        if endpoints
            .iter()
            .all(|endpoint| endpoint.starts_with("http://"))
        {
            // Spares reading all authorities of the machine.
            builder = builder.tls_backend_preconfigured(tls::trusting_nobody());
        }
        build(builder).map(Self::Fixed)
    }

    /// Trusts one authority, shows no certificate.
    pub(crate) fn pinned(authority: &str) -> Result<Self, Error> {
        let config = tls::pinned_config(authority)
            .map_err(|error| configuration("the authority's certificate", error))?;
        build(settings(PERSON_SILENCE).tls_backend_preconfigured(config)).map(Self::Fixed)
    }

    /// Shows the certificate of a node.
    pub(crate) fn of_node(tls: &Tls) -> Result<Self, Error> {
        let connections = NodeConnections {
            pool: Mutex::new((tls.generation(), node_pool(tls, Expect::Pacemaker)?)),
            tls: tls.clone(),
        };
        Ok(Self::Node(Arc::new(connections)))
    }

    /// The connections to use; a server would refuse those of an identity that has ended.
    pub(crate) fn current(&self) -> Result<reqwest::Client, Error> {
        let connections = match self {
            Self::Fixed(client) => return Ok(client.clone()),
            Self::Node(connections) => connections,
        };
        let mut pool = connections
            .pool
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let generation = connections.tls.generation();
        if pool.0 != generation {
            *pool = (generation, node_pool(&connections.tls, Expect::Pacemaker)?);
        }
        Ok(pool.1.clone())
    }
}

/// Connections from node to node that show a certificate.
pub(crate) fn node_pool(tls: &Tls, expect: Expect) -> Result<reqwest::Client, Error> {
    let config = ClientConfig::clone(&tls.client_config(expect));
    let builder = settings(NODE_SILENCE)
        .tcp_keepalive(NODE_KEEPALIVE)
        .tcp_keepalive_interval(NODE_KEEPALIVE)
        .tls_backend_preconfigured(config);
    build(builder)
}

/// Connections from node to node where there are no certificates.
pub(crate) fn plain_pool() -> Result<reqwest::Client, Error> {
    build(settings(NODE_SILENCE).tls_backend_preconfigured(tls::trusting_nobody()))
}

fn settings(silence: Duration) -> ClientBuilder {
    reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_user_timeout(silence)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tcp_nodelay(true)
}

fn build(builder: ClientBuilder) -> Result<reqwest::Client, Error> {
    builder
        .build()
        .map_err(|error| configuration("the HTTP client", error))
}
