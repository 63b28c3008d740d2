//! What a test asks of a cluster: who leads, who votes, what runs where.

use std::time::Duration;

use anyhow::{Context as _, Result};
use common::api::{ApplicationView, ClusterStatus, InstanceView, MemberPart};
use common::id::NodeId;
use common::instance::InstanceState;
use common::node::NodeState;
use common::time::Span;

use super::NamespaceCluster;
use crate::application::TestApp;
use crate::patience::eventually;
use crate::views::{application, instances};

/// A node that reported within it is heard: two report intervals.
const HEARD: Span = Span::seconds(1);
/// How long one answer is waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// The nodes that vote.
pub(super) fn voters(status: &ClusterStatus) -> Vec<NodeId> {
    status
        .members
        .iter()
        .filter(|member| member.part == MemberPart::Voter)
        .map(|member| member.node)
        .collect()
}

impl NamespaceCluster {
    /// The machine that leads, as all of these machines say.
    ///
    /// # Errors
    /// When they do not agree within the patience.
    pub async fn leader_among(&self, machines: &[u8]) -> Result<u8> {
        let clients = machines
            .iter()
            .map(|machine| self.client_of(*machine))
            .collect::<Result<Vec<_>>>()?;
        let leader = eventually("one leads and all say so", || async {
            let mut seen = None;
            for client in &clients {
                let view = client.cluster().await.ok()?;
                let says = (view.leader?, view.term);
                if *seen.get_or_insert(says) != says {
                    return None;
                }
            }
            let (leader, _) = seen?;
            let is_among = self
                .machine_of(leader)
                .is_ok_and(|found| machines.contains(&found));
            is_among.then_some(leader)
        })
        .await?;
        self.machine_of(leader)
    }

    /// The machine that leads, as all pacemakers say.
    ///
    /// # Errors
    /// When they do not agree within the patience.
    pub async fn leader(&self) -> Result<u8> {
        self.leader_among(&self.with_role("pacemaker")).await
    }

    /// The pacemakers but for these.
    #[must_use]
    pub fn pacemakers_but(&self, without: &[u8]) -> Vec<u8> {
        let mut found = self.with_role("pacemaker");
        found.retain(|machine| !without.contains(machine));
        found
    }

    /// The Raft term that a machine is in.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn term(&self, machine: u8) -> Result<u64> {
        let view = self.client_of(machine)?.cluster().await;
        Ok(view.context("asking for the term")?.term)
    }

    /// Types `pm deploy` and expects it to succeed.
    ///
    /// # Errors
    /// When it does not: shows what it said.
    pub async fn deploy(&self, application: &TestApp) -> Result<()> {
        self.pm(&["deploy", application.argument()?])
            .await?
            .success()
            .map(|_| ())
    }

    /// An application of workspace `default`.
    ///
    /// # Errors
    /// When there is none of that name.
    pub async fn application(&self, name: &str) -> Result<ApplicationView> {
        application(&self.client()?, name).await
    }

    /// The instances of an application's current version that are wanted or there.
    ///
    /// # Errors
    /// When there is no such application.
    pub async fn instances(&self, name: &str) -> Result<Vec<InstanceView>> {
        instances(&self.client()?, name).await
    }

    /// Waits until exactly `count` instances of an application run, none of them on these machines,
    /// and no other process of it is alive on the others.
    ///
    /// # Errors
    /// When that is not so within the patience: says how it is.
    pub async fn runs_exactly(&self, name: &str, count: usize, not_on: &[u8]) -> Result<()> {
        let avoided = not_on
            .iter()
            .map(|machine| self.node(*machine))
            .collect::<Result<Vec<_>>>()?;
        // Those that are cut off are not asked: who waits for their answer waits long.
        let client = self.client_of_all(&self.pacemakers_but(not_on))?;
        let running = eventually("exactly the wanted instances run", || async {
            let instances = tokio::time::timeout(ANSWER_LIMIT, instances(&client, name));
            let instances = instances.await.ok()?.ok()?;
            let running: Vec<_> = instances
                .iter()
                .filter(|instance| instance.state == InstanceState::Running)
                .collect();
            let is_exact = running.len() == count
                && running
                    .iter()
                    .all(|instance| !avoided.contains(&instance.node));
            is_exact.then_some(())
        })
        .await;
        if running.is_err() {
            let instances = instances(&client, name).await?;
            return running.with_context(|| format!("{instances:?}"));
        }
        Ok(())
    }
}

impl NamespaceCluster {
    /// How many processes of Python applications are alive on these machines.
    ///
    /// # Errors
    /// When a machine does not exist.
    pub fn servers_alive(&self, machines: &[u8]) -> Result<usize> {
        let mut count = 0;
        for machine in machines {
            count += self
                .network
                .processes(*machine)?
                .iter()
                .filter(|process| process.command_line().starts_with("python3 -u server.py"))
                .count();
        }
        Ok(count)
    }

    /// Waits until exactly `count` processes of Python applications are alive on all machines.
    ///
    /// # Errors
    /// When that is not so within the patience.
    pub async fn has_servers(&self, count: usize) -> Result<()> {
        let machines: Vec<u8> = self.machines().collect();
        eventually("exactly the wanted processes are alive", || async {
            (self.servers_alive(&machines).ok()? == count).then_some(())
        })
        .await
        .with_context(|| format!("{:?} processes are alive", self.servers_alive(&machines)))
    }

    /// Waits until a pacemaker has applied what is committed at this moment.
    ///
    /// # Errors
    /// When it has not within the patience.
    pub async fn has_caught_up(&self, machine: u8) -> Result<()> {
        let late = self.client_of(machine)?;
        let committed = self.client()?.cluster_status().await?.committed;
        eventually("the pacemaker has caught up", || async {
            (late.cluster().await.ok()?.applied >= committed).then_some(())
        })
        .await
    }

    /// Waits until the machine is heard again, and has been for a moment.
    ///
    /// # Errors
    /// When it is not within the patience.
    pub async fn is_heard(&self, machine: u8) -> Result<()> {
        let client = self.client()?;
        let node = self.node(machine)?;
        eventually("the machine is heard", || async {
            let view = client.node(node).await.ok()?;
            let is_heard = view.silent_for.is_some_and(|silent| silent < HEARD);
            (is_heard && view.node.state == NodeState::Active).then_some(())
        })
        .await
    }

    /// Waits until an application answers with 200 through these machines' routers.
    ///
    /// # Errors
    /// When it does not within the patience.
    pub async fn answers_through(&self, routers: &[u8], application: &str) -> Result<()> {
        for machine in routers {
            eventually("the application answers through the router", || async {
                let answer = self.get(*machine, application, "/");
                let answer = tokio::time::timeout(ANSWER_LIMIT, answer).await.ok()?;
                (answer.ok()?.status == 200).then_some(())
            })
            .await
            .with_context(|| format!("through machine {machine}"))?;
        }
        Ok(())
    }
}
