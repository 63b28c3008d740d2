//! The three roles of a `pm dev`, started in the order that static stability asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use common::digest::Digest;
use common::id::NodeId;
use common::node::{NodeDescription, Role};
use common::time::Span;
use pacemaker_client::Client;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::agent::http::Port;
use crate::agent::roles::Roles;
use crate::agent::start::{Starter, machine_name, runtimes};
use crate::args::DevArguments;
use crate::dev::data_directory::{Addresses, DataDirectory, Secrets};
use crate::dev::ports;
use crate::error::{CommandError, code};

/// How long requests under way may go on when the cluster ends; below what all roles get together.
const ROUTER_DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// How long the pacemaker may take to lead; it reads its log and elects itself.
const REGISTER_LIMIT: Duration = Duration::from_secs(30);
/// Time between two attempts.
const REGISTER_INTERVAL: Duration = Duration::from_millis(100);

/// A node whose roles run.
#[derive(Debug)]
pub(crate) struct RunningNode {
    /// Where it listens.
    pub(crate) addresses: Addresses,
    /// Lets the local `pm` in.
    pub(crate) administrator_token: String,
}

/// What every step of the start needs.
struct Start<'a> {
    arguments: &'a DevArguments,
    data: &'a DataDirectory,
    secrets: Secrets,
    api: SocketAddr,
    router: SocketAddr,
    /// The executable that runs as shim and as static server.
    program: PathBuf,
    client: Client,
    starter: Starter<'a>,
}

impl RunningNode {
    /// Starts all three roles among `roles`, and returns when each of them runs.
    pub(crate) async fn start(
        arguments: &DevArguments,
        data: &DataDirectory,
        roles: &mut Roles,
    ) -> Result<Self, CommandError> {
        let listener = ports::bind(arguments.api_port, "API", "--api-port")?;
        let router = ports::find(arguments.router_port, "router", "--router-port")?;
        let api = listener
            .local_addr()
            .map_err(|error| CommandError::file("read the address of the API", &error))?;
        let shutdown = roles.shutdown();
        let secrets = data.secrets()?;
        let mut start = Start {
            arguments,
            data,
            api,
            router,
            program: std::env::current_exe()
                .map_err(|error| CommandError::file("find the pm executable", &error))?,
            client: client(api, &secrets.node_token)?,
            secrets,
            starter: Starter {
                port: Port::expecting(&["pacemaker", "heart", "router"]),
                roles,
                shutdown,
            },
        };
        start.serve(listener)?;
        start.all().await?;
        Ok(Self {
            addresses: Addresses {
                api: format!("http://{api}"),
                router: format!("http://{router}"),
                pid: std::process::id(),
            },
            administrator_token: start.secrets.administrator_token,
        })
    }
}

impl Start<'_> {
    fn serve(&mut self, listener: std::net::TcpListener) -> Result<(), CommandError> {
        let listener = TcpListener::from_std(listener)
            .map_err(|error| CommandError::file("listen for the API", &error))?;
        let starter = &mut self.starter;
        let serving = starter
            .port
            .clone()
            .serve(listener, None, starter.shutdown.clone());
        starter.roles.watch("API", tokio::spawn(serving));
        Ok(())
    }

    async fn all(&mut self) -> Result<(), CommandError> {
        let known = self.data.node()?;
        if let Some(node) = known {
            self.heart_and_router(node).await?;
        }
        self.pacemaker().await?;
        let node = self.register().await?;
        match known {
            Some(known) if known == node => Ok(()),
            Some(known) => Err(CommandError::new(
                code::FAILED,
                "start the node",
                format!("it was node {known} at its last start, and the cluster calls it {node}: parts of the data directory are missing"),
            )
            .next("restore the data directory, or begin anew with another --data-dir")),
            None => {
                self.data.keep_node(node)?;
                self.heart_and_router(node).await
            }
        }
    }

    async fn heart_and_router(&mut self, node: NodeId) -> Result<(), CommandError> {
        self.heart(node).await?;
        self.router(node).await
    }

    async fn pacemaker(&mut self) -> Result<(), CommandError> {
        let mut settings = pacemaker::ClusterSettings::default();
        if let Some(seconds) = self.arguments.watch_window {
            settings.watch_window = Span::seconds(seconds);
        }
        let config = pacemaker::Config {
            node_key: self.secrets.node_key.clone(),
            cluster_hostname: self.arguments.cluster_hostname.to_ascii_lowercase(),
            router_port: self.router.port(),
            administrator_token: self.secrets.administrator_token.clone(),
            node_token: self.secrets.node_token.clone(),
            settings,
            ..pacemaker::Config::alone(self.data.role("pacemaker"), self.api)
        };
        self.starter.pacemaker(config).await
    }

    async fn heart(&mut self, node: NodeId) -> Result<(), CommandError> {
        let mut config = heart::Config::new(
            node,
            self.data.role("heart"),
            self.program.clone(),
            self.client.clone(),
        );
        config.ports = self.arguments.instance_ports.0.clone();
        config.token_hashes = [&self.secrets.administrator_token, &self.secrets.node_token]
            .map(|token| Digest::of(token.as_bytes()).to_string())
            .to_vec();
        // Nobody else could start an exclusive instance; applications go on while the pacemaker is away.
        config.fence_exclusive = false;
        self.starter.heart(config).await
    }

    async fn router(&mut self, node: NodeId) -> Result<(), CommandError> {
        let mut config = router::Config::new(node, self.data.role("router"), self.client.clone());
        config.listen = self.router;
        config.token_hashes = [&self.secrets.administrator_token, &self.secrets.node_token]
            .map(|token| Digest::of(token.as_bytes()).to_string())
            .to_vec();
        config.access_log = true;
        config.drain_limit = ROUTER_DRAIN_LIMIT;
        self.starter.router(config).await
    }

    async fn register(&self) -> Result<NodeId, CommandError> {
        let description = NodeDescription {
            key: self.secrets.node_key.clone(),
            name: machine_name(),
            roles: BTreeSet::from([Role::Pacemaker, Role::Heart, Role::Router]),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            api: format!("http://{}", self.api),
            tags: BTreeMap::new(),
            zone: None,
            runtimes: runtimes(),
        };
        let url = format!("http://{}", self.api);
        let deadline = Instant::now() + REGISTER_LIMIT;
        let mut interval = tokio::time::interval(REGISTER_INTERVAL);
        loop {
            interval.tick().await;
            match self.client.register_node(&description).await {
                Ok(node) => return Ok(node),
                // It is electing itself.
                Err(error) if error.is_unreachable() && Instant::now() < deadline => {}
                Err(error) => {
                    return Err(CommandError::api("register this node", &url, &error));
                }
            }
        }
    }
}

fn client(api: SocketAddr, token: &str) -> Result<Client, CommandError> {
    let url = format!("http://{api}");
    Client::new(std::slice::from_ref(&url), token)
        .map_err(|error| CommandError::api("reach the API", &url, &error))
}
