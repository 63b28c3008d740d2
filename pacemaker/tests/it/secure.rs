//! A cluster with certificates: an authority, a pacemaker of its own, and nodes that join.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use common::api::JoinAnswer;
use common::id::NodeId;
use common::join_token::JoinToken;
use common::node::{NodeDescription, Role};
use common::time::{Span, Timestamp};
use pacemaker::{Authority, ClusterIdentity};
use pacemaker_client::tls::{NodeIdentity, Subject, Tls, wall_clock};
use pacemaker_client::{Client, JoinError};
use tempfile::TempDir;

use crate::harness::{ADMINISTRATOR, Pacemaker, config, eventually};

pub(crate) const CLUSTER: &str = "c1";
pub(crate) const TTL: Span = Span::seconds(24 * 3600);

/// One pacemaker, node 1, that shows its certificate.
pub(crate) struct Secure {
    _directory: TempDir,
    pub(crate) authority: Arc<Authority>,
    _pacemaker: Pacemaker,
    pub(crate) url: String,
}

impl Secure {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::create(CLUSTER, wall_clock()).unwrap());
        Self::start_in(directory, authority).await
    }

    async fn start_in(directory: TempDir, authority: Arc<Authority>) -> Self {
        let pacemaker = launch(directory.path(), &authority).await;
        let started = Self {
            _directory: directory,
            authority,
            url: format!("https://{}", pacemaker.address),
            _pacemaker: pacemaker,
        };
        let administrator = started.administrator();
        eventually("the pacemaker is ready", async || {
            administrator.cluster().await.ok()
        })
        .await;
        started
    }

    pub(crate) fn administrator(&self) -> Client {
        let urls = std::slice::from_ref(&self.url);
        Client::with_authority(urls, ADMINISTRATOR, self.authority.certificate()).unwrap()
    }

    pub(crate) fn client(&self, tls: &Tls) -> Client {
        Client::with_tls(std::slice::from_ref(&self.url), tls).unwrap()
    }

    pub(crate) async fn token(&self, roles: &[Role], ttl: Span) -> JoinToken {
        let administrator = self.administrator();
        let key = format!("{}", rand());
        let created = administrator
            .create_join_token(roles.iter().copied(), ttl, &key)
            .await;
        created.unwrap().token.parse().unwrap()
    }

    /// A new machine of this role becomes a node.
    pub(crate) async fn join(&self, key: &str, role: Role) -> Tls {
        let token = self.token(&[role], Span::seconds(60)).await;
        let (identity, _) = join(&token, key, role).await.unwrap();
        Tls::new(identity).unwrap()
    }

    /// A certificate as this cluster signs it, of this node and roles, from a time on.
    pub(crate) fn identity(&self, node: NodeId, role: Role, signed: Timestamp) -> NodeIdentity {
        self.authority
            .issue(&subject(node, role), signed, TTL)
            .unwrap()
    }

    /// One that ended an hour ago.
    pub(crate) fn expired(&self, node: NodeId, role: Role) -> Tls {
        let long_ago = Timestamp(wall_clock().0 - TTL.0 - Span::seconds(3_600).0);
        Tls::new(self.identity(node, role, long_ago)).unwrap()
    }
}

pub(crate) fn subject(node: NodeId, role: Role) -> Subject {
    Subject {
        cluster: CLUSTER.to_owned(),
        node,
        roles: BTreeSet::from([role]),
    }
}

async fn launch(directory: &Path, authority: &Arc<Authority>) -> Pacemaker {
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let identity = authority
        .issue(&subject(NodeId(1), Role::Pacemaker), wall_clock(), TTL)
        .unwrap();
    let mut config = config(directory);
    config.advertise = address.to_string();
    config.description = Some(description("node-key", Role::Pacemaker, &config.advertise));
    config.cluster = Some(ClusterIdentity {
        id: CLUSTER.to_owned(),
        authority: authority.certificate().to_owned(),
    });
    config.authority = Some(Arc::clone(authority));
    config.tls = Some(Tls::new(identity).unwrap());
    Pacemaker::launch(config).await
}

pub(crate) async fn join(
    token: &JoinToken,
    key: &str,
    role: Role,
) -> Result<(NodeIdentity, JoinAnswer), JoinError> {
    pacemaker_client::join(token, &description(key, role, "127.0.0.1:1")).await
}

pub(crate) fn description(key: &str, role: Role, address: &str) -> NodeDescription {
    NodeDescription {
        key: key.to_owned(),
        name: key.to_owned(),
        roles: BTreeSet::from([role]),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        api: format!("https://{address}"),
        tags: BTreeMap::new(),
        zone: None,
        runtimes: BTreeMap::new(),
    }
}

/// Another number each time.
fn rand() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
