//! What a node is and where it listens, worked out from its settings before anything starts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};

use common::node::{NodeDescription, Role};
use router::Network;

use crate::agent::start::{machine_name, runtimes};
use crate::args::PortRange;
use crate::args::agent::{Endpoint, NodeSettings};
use crate::error::{CommandError, code};

/// The API's port unless told otherwise.
pub(crate) const DEFAULT_API_PORT: u16 = 4250;
/// What a node does unless told otherwise.
const ALL_ROLES: [Role; 3] = [Role::Pacemaker, Role::Heart, Role::Router];
/// An address that documentation may use and nobody has: asking the way there sends nothing.
const SOMEWHERE: &str = "192.0.2.1:9";
/// The longest name, zone and tag; they are shown in tables and kept by every pacemaker.
const TEXT_MAX_BYTES: usize = 128;

/// A node, before it runs.
#[derive(Clone, Debug)]
pub(crate) struct NodePlan {
    /// What it does.
    pub(crate) roles: BTreeSet<Role>,
    /// Where others reach it.
    pub(crate) advertise: Endpoint,
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// Where routers reach its instances.
    pub(crate) instance_address: IpAddr,
    /// For its instances.
    pub(crate) instance_ports: PortRange,
    /// Where its router listens.
    pub(crate) router: SocketAddr,
    /// Whose forwarded headers are believed.
    pub(crate) trusted_clients: Vec<Network>,
    /// Whether the router writes a line for each request.
    pub(crate) access_log: bool,
    name: String,
    zone: Option<String>,
    tags: BTreeMap<String, serde_json::Value>,
}

impl NodePlan {
    /// Works out what the settings leave open; `towards` is where the cluster is, when known.
    ///
    /// May ask the system for a name's address.
    pub(crate) fn new(settings: NodeSettings, towards: &[String]) -> Result<Self, CommandError> {
        let roles: BTreeSet<Role> = match settings.roles {
            Some(roles) if roles.is_empty() => return Err(invalid("roles", "names no role")),
            Some(roles) => roles.into_iter().collect(),
            None => ALL_ROLES.into(),
        };
        let advertise = match settings.advertise {
            Some(advertise) => advertise,
            None => own_endpoint(towards)?,
        };
        let instance_address = match settings.instance_address {
            Some(address) => address,
            None => address_of(&advertise)?,
        };
        let listen = match settings.listen {
            Some(listen) => bindable("listen", &listen)?,
            None => SocketAddr::new(everywhere(instance_address), advertise.port),
        };
        let router_address = settings
            .router_address
            .unwrap_or_else(|| everywhere(instance_address));
        let name = settings.name.unwrap_or_else(machine_name);
        short("name", &name)?;
        if let Some(zone) = &settings.zone {
            word_of_manifests("zone", zone)?;
        }
        for tag in &settings.tags {
            short("tags", &tag.key)?;
        }
        Ok(Self {
            roles,
            listen,
            instance_address,
            instance_ports: settings
                .instance_ports
                .unwrap_or(PortRange(heart::config::DEFAULT_PORTS)),
            router: SocketAddr::new(
                router_address,
                settings.router_port.unwrap_or(router::DEFAULT_PORT),
            ),
            trusted_clients: networks(settings.trusted_clients.unwrap_or_default())?,
            access_log: settings.access_log.unwrap_or(true),
            name,
            zone: settings.zone,
            tags: settings
                .tags
                .into_iter()
                .map(|tag| (tag.key, tag.value))
                .collect(),
            advertise,
        })
    }

    /// The API of this node, as `https://host:port`.
    pub(crate) fn api(&self) -> String {
        format!("https://{}", self.advertise)
    }

    /// What the cluster is told.
    pub(crate) fn description(&self, key: &str) -> NodeDescription {
        let has_heart = self.roles.contains(&Role::Heart);
        NodeDescription {
            key: key.to_owned(),
            name: self.name.clone(),
            roles: self.roles.clone(),
            address: self.instance_address,
            api: self.api(),
            tags: self.tags.clone(),
            zone: self.zone.clone(),
            runtimes: if has_heart {
                runtimes()
            } else {
                BTreeMap::new()
            },
        }
    }

    /// The tags, for applications.
    pub(crate) fn tags(&self) -> BTreeMap<String, serde_json::Value> {
        self.tags.clone()
    }
}

fn invalid(field: &str, rule: impl std::fmt::Display) -> CommandError {
    CommandError::new(
        code::CONFIGURATION_INVALID,
        "use the settings of this node",
        format!("`{field}` {rule}"),
    )
}

fn short(field: &str, text: &str) -> Result<(), CommandError> {
    let is_plain = !text.chars().any(char::is_control);
    if text.is_empty() || text.len() > TEXT_MAX_BYTES || !is_plain {
        let rule = format!("has 1 to {TEXT_MAX_BYTES} bytes and no control characters");
        return Err(invalid(field, rule));
    }
    Ok(())
}

/// What a manifest can name.
fn word_of_manifests(field: &str, text: &str) -> Result<(), CommandError> {
    short(field, text)?;
    if !text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
    {
        let rule =
            "has letters, digits, dots, hyphens and underscores, so that manifests can name it";
        return Err(invalid(field, rule));
    }
    Ok(())
}

fn networks(texts: Vec<String>) -> Result<Vec<Network>, CommandError> {
    texts
        .into_iter()
        .map(|text| {
            text.parse()
                .map_err(|error| invalid("trusted_clients", format!("has `{text}`: {error}")))
        })
        .collect()
}

/// All addresses of the same kind.
fn everywhere(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

fn bindable(field: &str, endpoint: &Endpoint) -> Result<SocketAddr, CommandError> {
    endpoint
        .host
        .parse()
        .map(|address: IpAddr| SocketAddr::new(address, endpoint.port))
        .map_err(|_| {
            invalid(
                field,
                format!("is an IP address of this machine and a port, not `{endpoint}`"),
            )
        })
}

/// This machine's address on the way to the cluster, and the usual port.
fn own_endpoint(towards: &[String]) -> Result<Endpoint, CommandError> {
    let somewhere = [SOMEWHERE.to_owned()];
    let targets = if towards.is_empty() {
        &somewhere[..]
    } else {
        towards
    };
    targets
        .iter()
        .find_map(|target| way_to(target).ok())
        .filter(|address| !address.is_unspecified())
        .map(|address| Endpoint {
            host: address.to_string(),
            port: DEFAULT_API_PORT,
        })
        .ok_or_else(|| {
            CommandError::new(
                code::CONFIGURATION_INVALID,
                "find this machine's address",
                "no network leads to the other nodes",
            )
            .next("say where others reach it: --advertise HOST:PORT")
        })
}

/// The local address of a socket that leads there; no packet is sent.
fn way_to(target: &str) -> std::io::Result<IpAddr> {
    let target = target.trim_start_matches("https://");
    let remote = target
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound))?;
    let socket = UdpSocket::bind(SocketAddr::new(everywhere(remote.ip()), 0))?;
    socket.connect(remote)?;
    socket.local_addr().map(|address| address.ip())
}

fn address_of(endpoint: &Endpoint) -> Result<IpAddr, CommandError> {
    if let Ok(address) = endpoint.host.parse::<IpAddr>() {
        if address.is_unspecified() {
            return Err(invalid(
                "advertise",
                "is where others reach this machine; 0.0.0.0 is everywhere",
            ));
        }
        return Ok(address);
    }
    let failed = |why: String| {
        CommandError::new(
            code::CONFIGURATION_INVALID,
            format!("find the address of `{}`", endpoint.host),
            why,
        )
        .next("make the name known to this machine, or give the address with --instance-address")
    };
    (endpoint.host.as_str(), endpoint.port)
        .to_socket_addrs()
        .map_err(|error| failed(error.to_string()))?
        .map(|address| address.ip())
        .next()
        .ok_or_else(|| failed("the name has no address".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(advertise: &str) -> NodeSettings {
        NodeSettings {
            advertise: Some(advertise.parse().unwrap()),
            ..NodeSettings::default()
        }
    }

    #[test]
    fn what_is_left_open_follows_from_where_others_reach_the_node() {
        let plan = NodePlan::new(settings("127.0.0.7:4999"), &[]).unwrap();

        assert_eq!(plan.api(), "https://127.0.0.7:4999");
        assert_eq!(plan.listen, "0.0.0.0:4999".parse().unwrap());
        assert_eq!(plan.router, "0.0.0.0:4253".parse().unwrap());
        assert_eq!(
            plan.instance_address,
            "127.0.0.7".parse::<IpAddr>().unwrap()
        );
        assert_eq!(plan.roles.len(), 3);
        assert!(!plan.description("key").runtimes.is_empty());
    }

    #[test]
    fn the_way_to_the_cluster_says_where_others_reach_the_node() {
        let towards = ["https://127.0.0.1:1".to_owned()];
        let plan = NodePlan::new(NodeSettings::default(), &towards).unwrap();

        assert_eq!(plan.api(), "https://127.0.0.1:4250");
    }

    #[test]
    fn a_node_without_a_heart_offers_no_runtime() {
        let mut settings = settings("127.0.0.1:1");
        settings.roles = Some(vec![Role::Router]);
        let plan = NodePlan::new(settings, &[]).unwrap();

        assert!(plan.description("key").runtimes.is_empty());
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        let check = |spoil: fn(&mut NodeSettings), field: &str| {
            let mut settings = settings("127.0.0.1:1");
            spoil(&mut settings);
            let error = NodePlan::new(settings, &[]).unwrap_err();
            assert!(error.why.contains(field), "{}", error.why);
        };
        check(|settings| settings.roles = Some(Vec::new()), "roles");
        check(|settings| settings.name = Some(String::new()), "name");
        check(|settings| settings.zone = Some("x".repeat(129)), "zone");
        check(|settings| settings.zone = Some("a b".to_owned()), "zone");
        check(
            |settings| settings.listen = Some("a.example:1".parse().unwrap()),
            "listen",
        );
        check(
            |settings| settings.trusted_clients = Some(vec!["no".to_owned()]),
            "trusted_clients",
        );
        check(
            |settings| settings.advertise = Some("0.0.0.0:1".parse().unwrap()),
            "advertise",
        );
    }
}
