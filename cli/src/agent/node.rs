//! The roles of a node of a cluster, started in the order that static stability asks for.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::node::Role;
use pacemaker::Authority;
use pacemaker_client::Client;
use pacemaker_client::tls::{NodeIdentity, Tls};
use tokio::net::TcpListener;

use crate::agent::http::Port;
use crate::agent::membership::{Membership, sign_own};
use crate::agent::node_directory::{Founding, NodeAddresses, NodeDirectory};
use crate::agent::plan::NodePlan;
use crate::agent::roles::Roles;
use crate::agent::start::Starter;
use crate::args::agent::NodeSettings;
use crate::connection::random_text;
use crate::error::{CommandError, chain, code};
use crate::output::{now, word};

/// How long requests under way may go on when the node ends; below what all roles get together.
const ROUTER_DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// A node whose roles run.
#[derive(Debug)]
pub(crate) struct RunningNode {
    /// Where it listens.
    pub(crate) addresses: NodeAddresses,
    /// Its cluster's id.
    pub(crate) cluster: String,
    /// What it does.
    pub(crate) roles: BTreeSet<Role>,
    /// Where it keeps everything.
    pub(crate) data: PathBuf,
}

/// What every step of the start needs.
struct Start<'a> {
    directory: Arc<NodeDirectory>,
    identity: Arc<NodeIdentity>,
    plan: NodePlan,
    tls: Tls,
    client: Client,
    /// The executable that runs as shim and as static server.
    program: PathBuf,
    starter: Starter<'a>,
}

impl RunningNode {
    /// Starts the node's roles among `roles`, and returns when each of them runs.
    pub(crate) async fn start(
        directory: Arc<NodeDirectory>,
        identity: NodeIdentity,
        settings: NodeSettings,
        roles: &mut Roles,
    ) -> Result<Self, CommandError> {
        let plan = plan(&directory, &identity, settings)?;
        let tls = Tls::new(identity).map_err(|error| {
            CommandError::new(code::FILE, "use the node's identity", chain(&error))
        })?;
        refresh_own(&directory, &tls);
        let listener = bind(plan.listen)?;
        let pacemakers = pacemakers(&directory, &plan)?;
        let client = Client::with_tls(&pacemakers, &tls).map_err(|error| {
            CommandError::api("reach the pacemakers", &pacemakers.join(", "), &error)
        })?;
        let names: Vec<&'static str> = plan.roles.iter().map(|role| role_name(*role)).collect();
        let shutdown = roles.shutdown();
        let mut start = Start {
            directory,
            identity: tls.identity(),
            plan,
            tls,
            client,
            program: std::env::current_exe()
                .map_err(|error| CommandError::file("find the pm executable", &error))?,
            starter: Starter {
                port: Port::expecting(&names),
                roles,
                shutdown,
            },
        };
        start.serve(listener);
        start.all().await?;
        start.belong()?;
        start.running()
    }
}

impl Start<'_> {
    fn serve(&mut self, listener: TcpListener) {
        let starter = &mut self.starter;
        let tls = Some(self.tls.clone());
        let serving = starter
            .port
            .clone()
            .serve(listener, tls, starter.shutdown.clone());
        starter.roles.watch("API", tokio::spawn(serving));
    }

    /// What serves comes first, and needs nobody.
    async fn all(&mut self) -> Result<(), CommandError> {
        if self.plan.roles.contains(&Role::Heart) {
            self.heart().await?;
        }
        if self.plan.roles.contains(&Role::Router) {
            self.router().await?;
        }
        if self.plan.roles.contains(&Role::Pacemaker) {
            self.pacemaker().await?;
        }
        Ok(())
    }

    async fn heart(&mut self) -> Result<(), CommandError> {
        let mut config = heart::Config::new(
            self.identity.node,
            self.directory.role("heart"),
            self.program.clone(),
            self.client.clone(),
        );
        config.cluster.clone_from(&self.identity.cluster);
        config.ports = self.plan.instance_ports.0.clone();
        config.node_tags = self.plan.tags();
        self.starter.heart(config).await
    }

    async fn router(&mut self) -> Result<(), CommandError> {
        let mut config = router::Config::new(
            self.identity.node,
            self.directory.role("router"),
            self.client.clone(),
        );
        config.cluster.clone_from(&self.identity.cluster);
        config.listen = self.plan.router;
        config.trusted_clients = self.plan.trusted_clients.clone();
        config.access_log = self.plan.access_log;
        config.drain_limit = ROUTER_DRAIN_LIMIT;
        self.starter.router(config).await
    }

    async fn pacemaker(&mut self) -> Result<(), CommandError> {
        let record = self.directory.record()?;
        let founding = self.directory.founding()?;
        let authority = authority(&self.directory)?;
        let is_founder = founding.is_some();
        // Those who have joined learn all of this with the state.
        let founding = match founding {
            Some(founding) => founding,
            None => Founding::nothing()?,
        };
        let config = pacemaker::Config {
            member: self.identity.node.0,
            founder: is_founder,
            advertise: self.plan.advertise.to_string(),
            tls: Some(self.tls.clone()),
            authority: Some(Arc::new(authority)),
            cluster: Some(pacemaker::ClusterIdentity {
                id: self.identity.cluster.clone(),
                authority: self.identity.authority.clone(),
            }),
            description: is_founder.then(|| self.plan.description(&record.key)),
            join_tokens: founding.join_tokens,
            node_key: record.key,
            data_dir: self.directory.role("pacemaker"),
            cluster_hostname: founding.hostname,
            router_port: self.plan.router.port(),
            administrator_token: founding.administrator_token,
            // Nodes show certificates; nobody knows this one.
            node_token: random_text()?,
            settings: founding.settings,
            wall_clock: pacemaker::WallClock::system(),
            crash_at: None,
        };
        self.starter.pacemaker(config).await
    }

    /// Starts what keeps the node in its cluster.
    fn belong(&mut self) -> Result<(), CommandError> {
        let record = self.directory.record()?;
        let membership = Membership {
            client: self.client.clone(),
            tls: self.tls.clone(),
            description: self.plan.description(&record.key),
            directory: Arc::clone(&self.directory),
            shutdown: self.starter.shutdown.clone(),
        };
        let roles = &mut self.starter.roles;
        roles.watch("description", tokio::spawn(membership.clone().describe()));
        roles.watch("renewal", tokio::spawn(membership.clone().renew()));
        let following = membership.follow_pacemakers();
        roles.watch("list of pacemakers", tokio::spawn(following));
        Ok(())
    }

    fn running(self) -> Result<RunningNode, CommandError> {
        let router = self
            .plan
            .roles
            .contains(&Role::Router)
            .then(|| format!("http://{}", reachable(self.plan.router)));
        let addresses = NodeAddresses {
            node: self.identity.node,
            api: self.plan.api(),
            router,
            pid: std::process::id(),
        };
        // Last, because whoever waits for this file expects everything else to be done.
        self.directory.keep_addresses(&addresses)?;
        Ok(RunningNode {
            addresses,
            cluster: self.identity.cluster.clone(),
            roles: self.plan.roles,
            data: self.directory.path().to_owned(),
        })
    }
}

/// What a pacemaker signs certificates with.
fn authority(directory: &NodeDirectory) -> Result<Authority, CommandError> {
    let path = directory.tls();
    let doing = || format!("read the cluster's authority in {}", path.display());
    let missing = || {
        CommandError::new(code::FILE, doing(), "there is no ca.key in it")
            .next("copy ca.key from another pacemaker, readable by nobody else")
    };
    Authority::load(&path)
        .map_err(|error| CommandError::new(code::FILE, doing(), chain(&error)))?
        .ok_or_else(missing)
}

/// A pacemaker does not show a certificate that has ended or soon will; it needs nobody to sign one.
fn refresh_own(directory: &NodeDirectory, tls: &Tls) {
    if now() < tls.renew_at() {
        return;
    }
    if let Err(error) = sign_own(directory, tls) {
        tracing::warn!(error, "the certificate is not renewed");
    }
}

/// The node's plan; what its certificate does not grant is refused before anything starts.
fn plan(
    directory: &NodeDirectory,
    identity: &NodeIdentity,
    mut settings: NodeSettings,
) -> Result<NodePlan, CommandError> {
    let granted = &identity.roles;
    let wanted = settings
        .roles
        .get_or_insert_with(|| granted.iter().copied().collect());
    if let Some(role) = wanted.iter().find(|role| !granted.contains(role)) {
        let names: Vec<String> = granted.iter().map(word).collect();
        return Err(CommandError::new(
            code::CONFIGURATION_INVALID,
            "start this node",
            format!(
                "it is told to be a {}, and it joined as {}",
                word(role),
                names.join(", ")
            ),
        )
        .next(
            "leave the role out; or remove the node, and join anew with another --data-dir and a token that grants it",
        ));
    }
    NodePlan::new(settings, &directory.pacemakers()?)
}

/// Where pacemakers are looked for: those that are known, and the one of this node first.
fn pacemakers(directory: &NodeDirectory, plan: &NodePlan) -> Result<Vec<String>, CommandError> {
    let mut known = directory.pacemakers()?;
    if plan.roles.contains(&Role::Pacemaker) {
        let own = plan.api();
        known.retain(|pacemaker| *pacemaker != own);
        known.insert(0, own);
    }
    if known.is_empty() {
        let path = directory.path().display();
        return Err(CommandError::new(
            code::FILE,
            "find the pacemakers",
            format!("{path}/pacemakers.json names none"),
        )
        .next("write their addresses into it as a JSON list: [\"https://10.0.0.1:4250\"]"));
    }
    Ok(known)
}

fn bind(address: SocketAddr) -> Result<TcpListener, CommandError> {
    let doing = || format!("listen on {address} for the API");
    let bound = std::net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    bound.map_err(|error| {
        let port = address.port();
        let failed = CommandError::file(doing(), &error);
        if error.kind() == std::io::ErrorKind::AddrInUse {
            CommandError::new(
                code::IN_USE,
                doing(),
                format!("port {port} is in use by another process"),
            )
            .next(format!(
                "end that process (`ss -ltnp sport = :{port}` shows it), or choose another port with --advertise or --listen"
            ))
        } else {
            failed.next("--listen IP:PORT chooses an address of this machine")
        }
    })
}

/// An address that somebody on this machine can use.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => {
            SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), address.port())
        }
        IpAddr::V6(ip) if ip.is_unspecified() => {
            SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), address.port())
        }
        IpAddr::V4(_) | IpAddr::V6(_) => address,
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Pacemaker => "pacemaker",
        Role::Heart => "heart",
        Role::Router => "router",
    }
}
