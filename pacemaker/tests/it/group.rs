//! Several pacemakers in one process, with real sockets and real logs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use common::api::{ClusterView, CreateWorkspace};
use common::id::{NodeId, WorkspaceStub};
use common::node::{NodeDescription, Role};
use pacemaker::Config;
use pacemaker_client::Client;
use tempfile::TempDir;

use crate::harness::{ADMINISTRATOR, NODE, Pacemaker, config, eventually};

/// Pacemakers by member number; one that is down has its directory only.
pub(crate) struct Group {
    pub(crate) directory: TempDir,
    addresses: BTreeMap<u64, String>,
    pub(crate) running: BTreeMap<u64, Pacemaker>,
}

impl Group {
    /// A cluster of one, whose pacemaker has registered as node 1.
    pub(crate) async fn found() -> Self {
        let mut group = Self {
            directory: tempfile::tempdir().unwrap(),
            addresses: BTreeMap::new(),
            running: BTreeMap::new(),
        };
        group.start(1).await;
        group.register(1).await;
        group
    }

    /// A cluster of `size` voters.
    pub(crate) async fn of(size: u64) -> Self {
        let mut group = Self::found().await;
        for member in 2..=size {
            group.join(member).await;
        }
        group.voters(size).await;
        group
    }

    pub(crate) fn config(&self, member: u64) -> Config {
        let mut config = config(&self.data(member));
        config.member = member;
        config.founder = member == 1;
        config.node_key = format!("key-{member}");
        if let Some(address) = self.addresses.get(&member) {
            config.advertise.clone_from(address);
        }
        config
    }

    pub(crate) fn data(&self, member: u64) -> PathBuf {
        self.directory.path().join(member.to_string())
    }

    /// Starts a member, again on its address and data.
    pub(crate) async fn start(&mut self, member: u64) {
        let started = Pacemaker::launch(self.config(member)).await;
        self.addresses.insert(member, started.address.to_string());
        self.running.insert(member, started);
    }

    /// Tells the cluster about a member's machine.
    pub(crate) async fn register(&self, member: u64) {
        let description = NodeDescription {
            key: format!("key-{member}"),
            name: format!("machine {member}"),
            roles: [Role::Pacemaker].into(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            api: format!("http://{}", self.addresses[&member]),
            tags: BTreeMap::new(),
            zone: None,
            runtimes: BTreeMap::new(),
        };
        let client = self.client_with(NODE);
        let node = eventually("the node is registered", async || {
            client.register_node(&description).await.ok()
        })
        .await;
        assert_eq!(node, NodeId(member));
    }

    /// A new pacemaker joins and is ready.
    pub(crate) async fn join(&mut self, member: u64) {
        self.start(member).await;
        self.register(member).await;
        self.running[&member].ready().await;
    }

    /// The member's next start is at another address.
    pub(crate) fn forget_address(&mut self, member: u64) {
        self.addresses.remove(&member);
    }

    /// Kills a member where it stands.
    pub(crate) fn crash(&mut self, member: u64) {
        self.running.remove(&member).unwrap().crash();
    }

    /// A client that knows all that run.
    pub(crate) fn client(&self) -> Client {
        self.client_with(ADMINISTRATOR)
    }

    fn client_with(&self, token: &str) -> Client {
        let urls: Vec<String> = self
            .running
            .values()
            .map(|pacemaker| pacemaker.url.clone())
            .collect();
        Client::new(&urls, token).unwrap()
    }

    /// What a member says of the cluster.
    pub(crate) async fn view(&self, member: u64) -> Option<ClusterView> {
        let client = self.running[&member].administrator();
        client.cluster().await.ok()
    }

    /// The member that all that run take for the leader.
    pub(crate) async fn leader(&self) -> u64 {
        eventually("all agree on a leader that runs", async || {
            let mut leaders = Vec::new();
            for member in self.running.keys() {
                leaders.push(self.view(*member).await?.leader?.0);
            }
            leaders.dedup();
            match leaders[..] {
                [leader] if self.running.contains_key(&leader) => Some(leader),
                _ => None,
            }
        })
        .await
    }

    /// Waits until the group has so many voters.
    pub(crate) async fn voters(&self, count: u64) {
        let client = self.client();
        eventually("the group has its voters", async || {
            let status = client.cluster_status().await.ok()?;
            let voters = status.members.iter();
            let voters = voters.filter(|member| member.part == common::api::MemberPart::Voter);
            (voters.count() as u64 == count).then_some(())
        })
        .await;
    }

    /// Makes a workspace through anyone, as often as it takes.
    pub(crate) async fn write(&self, stub: &str) {
        let client = self.client();
        eventually("a write is accepted", async || {
            client.create_workspace(&workspace(stub), stub).await.ok()
        })
        .await;
    }

    /// Waits until a member has a workspace.
    pub(crate) async fn reaches(&self, member: u64, stub: &str) {
        eventually("the write has arrived", async || {
            let stubs = self.stubs(member).await;
            stubs.contains(&stub.to_owned()).then_some(())
        })
        .await;
    }

    /// The stubs of all workspaces, as a member has them.
    pub(crate) async fn stubs(&self, member: u64) -> Vec<String> {
        let client = self.running[&member].administrator();
        eventually("the workspaces are listed", async || {
            let workspaces = client.workspaces().await.ok()?;
            let stubs = workspaces
                .iter()
                .map(|workspace| workspace.stub.to_string());
            Some(stubs.collect())
        })
        .await
    }
}

pub(crate) fn workspace(stub: &str) -> CreateWorkspace {
    CreateWorkspace {
        name: stub.to_owned(),
        stub: WorkspaceStub::parse(stub).unwrap(),
        tags: BTreeMap::new(),
    }
}
