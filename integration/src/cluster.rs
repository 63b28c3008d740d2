//! A one-node cluster inside the test's own process, whose roles are stopped and started one by one.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use common::digest::Digest;
use common::id::NodeId;
use common::node::{NodeDescription, Role};
use pacemaker_client::Client;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::http::{Answer, Connection};
use crate::load::Load;
use crate::patience::eventually;
use crate::pm::{PmOutput, pm_program};
use crate::port_range::PortRange;

const ADMINISTRATOR_TOKEN: &str = "administrator-administrator-administrator";
const NODE_TOKEN: &str = "node-node-node-node-node-node-node-node";
const NODE_KEY: &str = "in-process";

/// The roles of one node, each a task of the test.
#[derive(Debug)]
pub struct Cluster {
    directory: TempDir,
    ports: PortRange,
    api: SocketAddr,
    heart_api: SocketAddr,
    router: SocketAddr,
    node: NodeId,
    pacemaker: Option<Running>,
    heart: Option<Running>,
    router_role: Option<Running>,
}

/// A role that runs.
#[derive(Debug)]
struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<Result<()>>,
}

impl Running {
    async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        self.task.await.context("a role panicked")?
    }
}

/// An address that was free a moment ago, for a role that comes back to it.
async fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    listener.local_addr().context("reading a free address")
}

impl Cluster {
    /// Starts all three roles.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn start() -> Result<Self> {
        let mut cluster = Self {
            directory: tempfile::Builder::new()
                .prefix("pm-test-cluster-")
                .tempdir()
                .context("making a directory for a cluster")?,
            ports: PortRange::take()?,
            api: free_address().await?,
            heart_api: free_address().await?,
            router: free_address().await?,
            node: NodeId(0),
            pacemaker: None,
            heart: None,
            router_role: None,
        };
        cluster.log_in()?;
        cluster.start_pacemaker().await?;
        cluster.node = cluster.register().await?;
        cluster.start_heart().await?;
        cluster.start_router().await?;
        Ok(cluster)
    }

    fn log_in(&self) -> Result<()> {
        let url = format!("http://{}", self.api);
        let mut clusters = serde_json::Map::new();
        clusters.insert(url.clone(), json!({ "token": ADMINISTRATOR_TOKEN }));
        let directory = self.config_home().join("paasmaker");
        std::fs::create_dir_all(&directory).context("making the login's directory")?;
        let login = json!({ "current": url, "clusters": clusters });
        std::fs::write(directory.join("login.json"), login.to_string()).context("logging in")
    }

    async fn register(&self) -> Result<NodeId> {
        let description: NodeDescription = serde_json::from_value(json!({
            "key": NODE_KEY,
            "name": "in-process",
            "roles": [Role::Pacemaker, Role::Heart, Role::Router],
            "address": "127.0.0.1",
            "api": format!("http://{}", self.heart_api),
            "runtimes": { "paasmaker.runtime.shell": ["1"], "paasmaker.runtime.static": ["1"] },
        }))
        .context("describing the node")?;
        let client = self.node_client()?;
        eventually("the node is registered", || async {
            client.register_node(&description).await.ok()
        })
        .await
    }

    fn node_client(&self) -> Result<Client> {
        Client::new(&[format!("http://{}", self.api)], NODE_TOKEN).context("making a client")
    }

    /// Starts the pacemaker, again on the same address and data.
    ///
    /// # Errors
    /// When its address is taken.
    pub async fn start_pacemaker(&mut self) -> Result<()> {
        let config = pacemaker::Config {
            node_key: NODE_KEY.to_owned(),
            router_port: self.router.port(),
            administrator_token: ADMINISTRATOR_TOKEN.to_owned(),
            node_token: NODE_TOKEN.to_owned(),
            ..pacemaker::Config::alone(self.data("pacemaker"), self.api)
        };
        let listener = TcpListener::bind(self.api)
            .await
            .context("binding the API")?;
        let shutdown = CancellationToken::new();
        let ends = shutdown.clone();
        let task = tokio::spawn(async move {
            pacemaker::run(config, listener, ends)
                .await
                .context("running the pacemaker")
        });
        self.pacemaker = Some(Running { shutdown, task });
        Ok(())
    }

    /// Starts the heart, again on the same address and data.
    ///
    /// # Errors
    /// When its address is taken.
    pub async fn start_heart(&mut self) -> Result<()> {
        let mut config = heart::Config::new(
            self.node,
            self.data("heart"),
            pm_program()?,
            self.node_client()?,
        );
        config.ports = self.ports.ports();
        config.fence_exclusive = false;
        config.token_hashes = [ADMINISTRATOR_TOKEN, NODE_TOKEN]
            .map(|token| Digest::of(token.as_bytes()).to_string())
            .to_vec();
        let listener = TcpListener::bind(self.heart_api)
            .await
            .context("binding the heart's API")?;
        let shutdown = CancellationToken::new();
        let ends = shutdown.clone();
        let task = tokio::spawn(async move {
            heart::run(config, listener, ends)
                .await
                .context("running the heart")
        });
        self.heart = Some(Running { shutdown, task });
        Ok(())
    }

    /// Starts the router, again on the same address and data.
    ///
    /// # Errors
    /// When its own API finds no port.
    pub async fn start_router(&mut self) -> Result<()> {
        let mut config = router::Config::new(self.node, self.data("router"), self.node_client()?);
        config.listen = self.router;
        config.token_hashes = [ADMINISTRATOR_TOKEN, NODE_TOKEN]
            .map(|token| Digest::of(token.as_bytes()).to_string())
            .to_vec();
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("binding the router's API")?;
        let shutdown = CancellationToken::new();
        let ends = shutdown.clone();
        let task = tokio::spawn(async move {
            router::run(config, listener, ends)
                .await
                .context("running the router")
        });
        self.router_role = Some(Running { shutdown, task });
        Ok(())
    }

    /// Stops the pacemaker.
    ///
    /// # Errors
    /// When it does not end in order.
    pub async fn stop_pacemaker(&mut self) -> Result<()> {
        stop(self.pacemaker.take()).await
    }

    /// Stops the heart; applications go on.
    ///
    /// # Errors
    /// When it does not end in order.
    pub async fn stop_heart(&mut self) -> Result<()> {
        stop(self.heart.take()).await
    }

    /// Stops the router.
    ///
    /// # Errors
    /// When it does not end in order.
    pub async fn stop_router(&mut self) -> Result<()> {
        stop(self.router_role.take()).await
    }

    fn data(&self, role: &str) -> PathBuf {
        self.directory.path().join(role)
    }

    fn config_home(&self) -> PathBuf {
        self.directory.path().join("config")
    }

    /// Types a `pm` command, logged in to this cluster.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn pm(&self, arguments: &[&str]) -> Result<PmOutput> {
        PmOutput::of(&self.config_home(), arguments).await
    }

    /// One request through the router on a connection of its own.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn get(&self, host: &str, path: &str) -> Result<Answer> {
        let mut connection = Connection::open(self.router).await?;
        connection.get(host, path).await
    }

    /// Constant load on a host.
    #[must_use]
    pub fn load(&self, host: &str, connections: usize) -> Load {
        Load::start(self.router, host, connections)
    }

    /// Ends roles and applications.
    ///
    /// # Errors
    /// When something does not end in order.
    pub async fn finish(mut self) -> Result<()> {
        self.stop_router().await?;
        self.stop_heart().await?;
        self.stop_pacemaker().await
    }
}

async fn stop(role: Option<Running>) -> Result<()> {
    role.context("the role runs")?.stop().await
}

impl Drop for Cluster {
    /// Stops the applications, which outlive their heart.
    fn drop(&mut self) {
        for role in [&self.heart, &self.router_role, &self.pacemaker]
            .into_iter()
            .flatten()
        {
            role.shutdown.cancel();
            role.task.abort();
        }
        let stopped = pm_program().and_then(|program| {
            std::process::Command::new(program)
                .args(["dev", "--stop", "--data-dir"])
                .arg(self.directory.path())
                .stdout(std::process::Stdio::null())
                .status()
                .context("stopping the applications")
        });
        if let Err(error) = stopped {
            tracing::warn!(%error, "applications may be left running");
        }
    }
}
