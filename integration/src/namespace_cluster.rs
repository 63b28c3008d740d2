//! A cluster of machines in miniature, each with a `pm agent`: started as an admin does it, hurt as
//! the world does it.
//!
//! Machines are counted from 1; machine 1 makes the cluster, the others join. Each has a data
//! directory, a log of what its agent said, a boot id and a network namespace of its own.

mod agent;
mod disks;
mod machine;
mod views;
mod wrong_clock;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use common::id::NodeId;
use pacemaker_client::Client;
use serde::Deserialize;
use tempfile::TempDir;

use crate::http::{Answer, Connection};
use crate::load::Load;
use crate::network::{Network, network_or_skip};
use crate::patience::eventually;
use crate::pm::PmOutput;

use self::machine::Machine;

/// Every role, as `--roles` takes it.
pub const ALL_ROLES: &str = "pacemaker,heart,router";
/// The port of the API on each machine.
const API_PORT: u16 = 4250;
/// The port of the router on each machine.
const ROUTER_PORT: u16 = 4253;
/// Lines of each machine's log that a failed test shows.
const LOG_LINES_SHOWN: usize = 25;

/// What openraft says again and again while a peer is away.
const NOISE: [&str; 4] = [
    "HeartbeatWorker",
    "ReplicationCore",
    "update progress error",
    "requesting pre-vote",
];

/// Machines with agents.
#[derive(Debug)]
pub struct NamespaceCluster {
    /// Where faults are made.
    pub network: Network,
    directory: Option<TempDir>,
    machines: BTreeMap<u8, Machine>,
    /// Those that the cluster has removed, whose agents may run.
    removed: Vec<Machine>,
    administrator_token: String,
    hostname: String,
    nodes: BTreeMap<u8, NodeId>,
    has_passed: bool,
}

/// What `pm cluster init --format json` says.
#[derive(Deserialize)]
struct Initialised {
    token: String,
    administrator_token: String,
}

/// What `pm cluster token --format json` says.
#[derive(Deserialize)]
struct TokenMade {
    token: String,
}

impl NamespaceCluster {
    /// Starts a machine for each of these lists of roles and waits until all of them take part;
    /// `None`, said loudly, where machines cannot be made.
    ///
    /// # Errors
    /// When something does not start: shows what the agents said.
    pub async fn start(roles: &[&str]) -> Result<Option<Self>> {
        Self::start_with_room(roles, 0).await
    }

    /// As [`start`](Self::start), with room for so many machines that [`join`](Self::join) later.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with_room(roles: &[&str], room: u8) -> Result<Option<Self>> {
        let count = u8::try_from(roles.len()).context("a cluster has few machines")?;
        let Some(network) = network_or_skip(count + room)? else {
            return Ok(None);
        };
        let mut cluster = Self {
            network,
            directory: Some(
                tempfile::Builder::new()
                    .prefix("pm-test-cluster-")
                    .tempdir()
                    .context("making a directory for a cluster")?,
            ),
            machines: BTreeMap::new(),
            removed: Vec::new(),
            administrator_token: String::new(),
            hostname: String::new(),
            nodes: BTreeMap::new(),
            has_passed: false,
        };
        let first_token = cluster
            .found(roles.first().context("a cluster has a machine")?)
            .await?;
        let mut token = Some(first_token);
        for (machine, roles) in (1_u8..).zip(roles).skip(1) {
            let token = match token.take().filter(|_| *roles == ALL_ROLES) {
                Some(token) => token,
                None => cluster.make_token(roles).await?,
            };
            cluster.join(machine, roles, &token)?;
        }
        cluster.all_take_part().await?;
        Ok(Some(cluster))
    }

    /// Makes the cluster on machine 1; gives a token for the next.
    async fn found(&mut self, roles: &str) -> Result<String> {
        let machine = Machine::set_up(self.directory(), 1, roles)?;
        self.machines.insert(1, machine);
        let said = self.initialise(1, "config").await?;
        self.administrator_token = said.administrator_token;
        self.start_agent(1)?;
        let client = self.client_of(1)?;
        let view = eventually("the founder leads", || async {
            client
                .cluster()
                .await
                .ok()
                .filter(|view| view.leader.is_some())
        })
        .await?;
        self.hostname = view.hostname;
        Ok(said.token)
    }

    /// Makes another cluster in the data directory of a machine, which is empty.
    ///
    /// # Errors
    /// When `pm` refuses.
    pub async fn found_another(&self, machine: u8) -> Result<()> {
        self.initialise(machine, "config-of-another")
            .await
            .map(drop)
    }

    async fn initialise(&self, machine: u8, config: &str) -> Result<Initialised> {
        let (data, api) = (self.data(machine), self.api(machine).to_string());
        let data = data.to_str().context("the directory's name is UTF-8")?;
        let name = machine::name(machine);
        let arguments = [
            "cluster",
            "init",
            "--data-dir",
            data,
            "--advertise",
            &api,
            "--name",
            &name,
            "--format",
            "json",
        ];
        let config = self.directory().join(config);
        PmOutput::of(&config, &arguments).await?.success()?.json()
    }

    /// Makes a token with which one machine may join with these roles.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn make_token(&self, roles: &str) -> Result<String> {
        let said: TokenMade = self
            .pm(&[
                "cluster", "token", "--roles", roles, "--ttl", "1h", "--format", "json",
            ])
            .await?
            .success()?
            .json()?;
        Ok(said.token)
    }

    /// Sets a new machine up and starts its agent, which joins.
    ///
    /// # Errors
    /// When the agent cannot be executed.
    pub fn join(&mut self, machine: u8, roles: &str, token: &str) -> Result<()> {
        let mut new = Machine::set_up(self.directory(), machine, roles)?;
        let started = new.start(&self.network, self.api(machine), Some(token));
        self.machines.insert(machine, new);
        started
    }

    /// Forgets a machine that the cluster has removed; its agent goes on if it runs.
    pub fn forget(&mut self, machine: u8) {
        self.nodes.remove(&machine);
        self.removed.extend(self.machines.remove(&machine));
    }

    /// Ends a story well: nothing is left behind. A story that ends in any other way leaves its logs.
    pub fn passed(mut self) {
        self.has_passed = true;
    }

    /// Where the test's files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory
            .as_ref()
            .map_or_else(|| Path::new("."), TempDir::path)
    }

    /// The data directory of a machine.
    #[must_use]
    pub fn data(&self, machine: u8) -> PathBuf {
        machine::data(self.directory(), machine)
    }

    /// The numbers of all machines.
    pub fn machines(&self) -> impl Iterator<Item = u8> + '_ {
        self.machines.keys().copied()
    }

    /// The numbers of the machines with a role.
    #[must_use]
    pub fn with_role(&self, role: &str) -> Vec<u8> {
        let has_role = |machine: &&u8| {
            self.machines[*machine]
                .roles()
                .split(',')
                .any(|has| has == role)
        };
        self.machines.keys().filter(has_role).copied().collect()
    }

    /// The API of a machine.
    #[must_use]
    pub fn api(&self, machine: u8) -> SocketAddr {
        (self.network.address(machine), API_PORT).into()
    }

    /// The router of a machine.
    #[must_use]
    pub fn router(&self, machine: u8) -> SocketAddr {
        (self.network.address(machine), ROUTER_PORT).into()
    }

    /// Types a `pm` command, as the admin who made the cluster.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn pm(&self, arguments: &[&str]) -> Result<PmOutput> {
        PmOutput::of(&self.directory().join("config"), arguments).await
    }

    /// A client of all pacemakers, with the admin's token.
    ///
    /// # Errors
    /// When the authority's certificate cannot be read.
    pub fn client(&self) -> Result<Client> {
        self.client_of_all(&self.with_role("pacemaker"))
    }

    /// A client that asks one machine only.
    ///
    /// # Errors
    /// As [`client`](Self::client).
    pub fn client_of(&self, machine: u8) -> Result<Client> {
        self.client_of_all(&[machine])
    }

    fn client_of_all(&self, machines: &[u8]) -> Result<Client> {
        let authority = std::fs::read_to_string(self.data(1).join("tls/ca.pem"))
            .context("reading the authority's certificate")?;
        let endpoints: Vec<String> = machines
            .iter()
            .map(|machine| format!("https://{}", self.api(*machine)))
            .collect();
        Client::with_authority(&endpoints, &self.administrator_token, &authority)
            .context("making a client")
    }

    /// The hostname that an application's type `web` has in workspace `default`.
    #[must_use]
    pub fn host(&self, application: &str) -> String {
        format!("web.{application}.default.{}", self.hostname)
    }

    /// One request through a machine's router on a connection of its own.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn get(&self, machine: u8, application: &str, path: &str) -> Result<Answer> {
        let mut connection = Connection::open(self.router(machine)).await?;
        connection.get(&self.host(application), path).await
    }

    /// Constant load on an application through a machine's router.
    #[must_use]
    pub fn load(&self, machine: u8, application: &str, connections: usize) -> Load {
        Load::start(self.router(machine), &self.host(application), connections)
    }

    /// Waits until every machine's agent is a node that takes part, and every pacemaker votes, as
    /// far as there is an odd number of them.
    ///
    /// # Errors
    /// When an agent ends, or it takes too long.
    pub async fn all_take_part(&mut self) -> Result<()> {
        self.all_nodes_are_active().await?;
        self.all_pacemakers_vote().await?;
        self.all_know_another_pacemaker().await
    }

    /// Who has joined first knows the one pacemaker that let it in, and the others soon after.
    async fn all_know_another_pacemaker(&self) -> Result<()> {
        let wanted = self.with_role("pacemaker").len().min(2);
        eventually("every machine knows more than one pacemaker", || async {
            self.machines()
                .all(|machine| {
                    let known = self.data(machine).join("pacemakers.json");
                    let known = std::fs::read_to_string(known).unwrap_or_default();
                    known.matches("https://").count() >= wanted
                })
                .then_some(())
        })
        .await
    }

    async fn all_nodes_are_active(&mut self) -> Result<()> {
        let client = self.client()?;
        let wanted: BTreeMap<String, u8> = self
            .machines
            .iter()
            .map(|(number, machine)| (machine.name(), *number))
            .collect();
        self.nodes = eventually("every machine is an active node", || async {
            let nodes = client.nodes().await.ok()?;
            let found: BTreeMap<u8, NodeId> = nodes
                .iter()
                .filter(|node| node.state == common::node::NodeState::Active)
                .filter_map(|node| Some((*wanted.get(&node.description.name)?, node.id)))
                .collect();
            (found.len() == wanted.len()).then_some(found)
        })
        .await?;
        Ok(())
    }

    async fn all_pacemakers_vote(&self) -> Result<()> {
        let count = self.with_role("pacemaker").len();
        let is_even = count.is_multiple_of(2);
        self.all_voters_are(count - usize::from(is_even)).await
    }

    /// Waits until so many pacemakers vote.
    ///
    /// # Errors
    /// When there are more or fewer for longer than the patience.
    pub async fn all_voters_are(&self, count: usize) -> Result<()> {
        let client = self.client()?;
        eventually("so many pacemakers vote", || async {
            let status = client.cluster_status().await.ok()?;
            (views::voters(&status).len() == count).then_some(())
        })
        .await
    }

    /// The node that a machine is.
    ///
    /// # Errors
    /// Before it has taken part.
    pub fn node(&self, machine: u8) -> Result<NodeId> {
        self.nodes
            .get(&machine)
            .copied()
            .with_context(|| format!("machine {machine} is a node"))
    }

    /// The machine that a node is.
    ///
    /// # Errors
    /// When it is none of ours.
    pub fn machine_of(&self, node: NodeId) -> Result<u8> {
        self.nodes
            .iter()
            .find(|(_, found)| **found == node)
            .map(|(machine, _)| *machine)
            .with_context(|| format!("node {node} is a machine"))
    }

    fn machine_mut(&mut self, machine: u8) -> Result<&mut Machine> {
        self.machines
            .get_mut(&machine)
            .with_context(|| format!("there is a machine {machine}"))
    }
}

impl Drop for NamespaceCluster {
    /// Ends every process; keeps the directory when the test has failed.
    fn drop(&mut self) {
        let machines: Vec<u8> = (1..=self.network.machines()).collect();
        if let Err(error) = self.network.cut_power(&machines) {
            tracing::warn!(
                error = format!("{error:#}"),
                "processes may be left running"
            );
        }
        if !self.has_passed
            && let Some(directory) = self.directory.take()
        {
            show(&directory.keep(), &machines);
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "a failed test says what the agents said and where the rest is"
)]
fn show(directory: &Path, machines: &[u8]) {
    for machine in machines {
        let log = std::fs::read_to_string(machine::log(directory, *machine)).unwrap_or_default();
        let is_telling = |line: &&str| !NOISE.iter().any(|noise| line.contains(noise));
        let lines: Vec<&str> = log.lines().filter(is_telling).collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        eprintln!(
            "--- the end of machine {machine}'s log\n{}",
            tail.join("\n")
        );
    }
    eprintln!("--- everything is kept in {}", directory.display());
}
