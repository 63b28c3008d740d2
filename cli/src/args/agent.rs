//! Arguments of `pm agent`, and the settings of a node, which `pm cluster init` takes too.
//!
//! A setting is one field here, and by that a flag, a `PM_` variable and a key of `paasmaker.yml`:
//! they cannot come apart.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueHint};
use common::node::Role;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::args::PortRange;

/// Arguments of `pm agent`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
The first machine of a cluster is made by `pm cluster init`; every other one joins with `--join`, once. After
that `pm agent` alone is enough: what was given as a flag at that first time is kept in the data directory.
What counts, in this order: the flag, the variable, paasmaker.yml, what was kept, the default.
SIGTERM and Ctrl-C end the agent; the applications go on running, and the next start takes them over.")]
pub(crate) struct AgentArguments {
    /// The configuration file.
    #[command(flatten)]
    pub(crate) configuration: ConfigurationArguments,
    /// The settings.
    #[command(flatten)]
    pub(crate) settings: NodeSettings,
    /// A file with the join token, so that it stands in no list of processes.
    #[arg(long, value_name = "FILE", conflicts_with = "join", value_hint = ValueHint::FilePath)]
    pub(crate) join_file: Option<PathBuf>,
    /// Also show what the roles log at level info; without it warnings are shown, and the file pm.log
    /// in the data directory has everything.
    #[arg(long)]
    pub(crate) verbose: bool,
    /// Stop the applications that run from the data directory of an agent that has ended, and end.
    #[arg(long, conflicts_with_all = ["join", "join_file"])]
    pub(crate) stop: bool,
}

/// Where the configuration file is.
#[derive(Clone, Debug, Args)]
pub(crate) struct ConfigurationArguments {
    /// The configuration file; otherwise /etc/paasmaker/paasmaker.yml, when there is one.
    #[arg(long, env = "PM_CONFIG", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
}

/// What a node can be told; nothing is what was not.
#[derive(Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct NodeSettings {
    /// Where everything is kept [default: /var/lib/paasmaker].
    #[arg(long, env = "PM_DATA_DIR", value_name = "DIR", value_hint = ValueHint::DirPath)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The token of `pm cluster token`; it works once, and is not looked at when this node has joined.
    #[arg(long, env = "PM_JOIN", value_name = "TOKEN", hide_env_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) join: Option<String>,
    /// What this node does: pacemaker, heart, router [default: all of them].
    #[arg(long, env = "PM_ROLES", value_name = "ROLES", value_delimiter = ',', value_parser = role)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) roles: Option<Vec<Role>>,
    /// Where the other nodes reach this one [default: the address that leads to them, port 4250].
    #[arg(long, env = "PM_ADVERTISE", value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) advertise: Option<Endpoint>,
    /// Where this node listens for the others and for the API [default: all addresses, the port of
    /// --advertise].
    #[arg(long, env = "PM_LISTEN", value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listen: Option<Endpoint>,
    /// Where routers reach the instances of this node [default: the host of --advertise].
    #[arg(long, env = "PM_INSTANCE_ADDRESS", value_name = "IP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) instance_address: Option<IpAddr>,
    /// The range of ports for instances; below 32768, so that no outgoing connection can take one
    /// [default: 20000-23999].
    #[arg(long, env = "PM_INSTANCE_PORTS", value_name = "FIRST-LAST")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) instance_ports: Option<PortRange>,
    /// The name that people see [default: the machine's hostname].
    #[arg(long, env = "PM_NAME", value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// The failure domain that this machine stands in; instances are spread over zones.
    #[arg(long, env = "PM_ZONE", value_name = "ZONE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) zone: Option<String>,
    /// A tag for placement, which applications see in PM_METADATA; may be repeated.
    #[arg(
        long = "tag",
        env = "PM_TAGS",
        value_name = "KEY=VALUE",
        value_delimiter = ','
    )]
    #[serde(with = "tags", skip_serializing_if = "Vec::is_empty")]
    pub(crate) tags: Vec<NodeTag>,
    /// The router's public port [default: 4253].
    #[arg(long, env = "PM_ROUTER_PORT", value_name = "PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) router_port: Option<u16>,
    /// The address that the router's port is on [default: 0.0.0.0].
    #[arg(long, env = "PM_ROUTER_ADDRESS", value_name = "IP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) router_address: Option<IpAddr>,
    /// Clients of the router whose own X-Forwarded headers are believed, such as a load balancer's
    /// network [default: none].
    #[arg(
        long,
        env = "PM_TRUSTED_CLIENTS",
        value_name = "NETWORKS",
        value_delimiter = ','
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trusted_clients: Option<Vec<String>>,
    /// Whether the router writes a line for each request [default: true].
    #[arg(long, env = "PM_ACCESS_LOG", value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) access_log: Option<bool>,
}

/// Without the join token.
impl fmt::Debug for NodeSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeSettings")
            .field("data_dir", &self.data_dir)
            .field("roles", &self.roles)
            .field("advertise", &self.advertise)
            .finish_non_exhaustive()
    }
}

impl NodeSettings {
    /// These, and where they say nothing, `other`.
    #[must_use]
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            data_dir: self.data_dir.or(other.data_dir),
            join: self.join.or(other.join),
            roles: self.roles.or(other.roles),
            advertise: self.advertise.or(other.advertise),
            listen: self.listen.or(other.listen),
            instance_address: self.instance_address.or(other.instance_address),
            instance_ports: self.instance_ports.or(other.instance_ports),
            name: self.name.or(other.name),
            zone: self.zone.or(other.zone),
            tags: if self.tags.is_empty() {
                other.tags
            } else {
                self.tags
            },
            router_port: self.router_port.or(other.router_port),
            router_address: self.router_address.or(other.router_address),
            trusted_clients: self.trusted_clients.or(other.trusted_clients),
            access_log: self.access_log.or(other.access_log),
        }
    }
}

/// A role as it is typed.
pub(crate) fn role(text: &str) -> Result<Role, String> {
    match text.trim() {
        "pacemaker" => Ok(Role::Pacemaker),
        "heart" => Ok(Role::Heart),
        "router" => Ok(Role::Router),
        other => Err(format!(
            "`{other}` is no role; there are pacemaker, heart and router"
        )),
    }
}

/// A host and a port, as other machines are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Endpoint {
    /// A name or an address; an IPv6 address without its brackets.
    pub(crate) host: String,
    /// Never 0.
    pub(crate) port: u16,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule = || format!("`{text}` is not HOST:PORT, such as 10.0.0.1:4250");
        let (host, port) = text.rsplit_once(':').ok_or_else(rule)?;
        let port: u16 = port.parse().map_err(|_| rule())?;
        let host = match host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
        {
            Some(address) => address
                .parse::<std::net::Ipv6Addr>()
                .map_err(|_| rule())?
                .to_string(),
            None => host.to_owned(),
        };
        let is_name = |host: &str| {
            host.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        };
        let is_host = host.parse::<IpAddr>().is_ok() || is_name(&host);
        if host.is_empty() || !is_host || port == 0 {
            return Err(rule());
        }
        Ok(Self { host, port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

/// A tag of a node, written `KEY=VALUE` as a flag, and as any value in the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NodeTag {
    /// Its name.
    pub(crate) key: String,
    /// A text, unless the file says otherwise.
    pub(crate) value: Value,
}

impl FromStr for NodeTag {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self {
                key: key.to_owned(),
                value: Value::String(value.to_owned()),
            }),
            Some(_) | None => Err("expected KEY=VALUE"),
        }
    }
}

/// Tags are a mapping in a file.
mod tags {
    use super::{
        BTreeMap, Deserialize as _, Deserializer, NodeTag, Serialize as _, Serializer, Value,
    };

    pub(super) fn serialize<S: Serializer>(
        tags: &[NodeTag],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        tags.iter()
            .map(|tag| (&tag.key, &tag.value))
            .collect::<BTreeMap<_, _>>()
            .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<NodeTag>, D::Error> {
        let tags = BTreeMap::<String, Value>::deserialize(deserializer)?;
        Ok(tags
            .into_iter()
            .map(|(key, value)| NodeTag { key, value })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_checked_and_printed_as_typed() {
        for good in ["10.0.0.1:4250", "node-1.example.com:1", "[fd00::1]:4250"] {
            assert_eq!(good.parse::<Endpoint>().unwrap().to_string(), good);
        }
        for bad in [
            "10.0.0.1",
            ":4250",
            "a b:1",
            "host:0",
            "host:65536",
            "fd00::1",
            "[x]:1",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_first_that_says_something_counts() {
        let flag = NodeSettings {
            name: Some("flag".to_owned()),
            ..NodeSettings::default()
        };
        let file = NodeSettings {
            name: Some("file".to_owned()),
            zone: Some("a".to_owned()),
            tags: vec!["disk=ssd".parse().unwrap()],
            ..NodeSettings::default()
        };

        let merged = flag.or(file);

        assert_eq!(merged.name.as_deref(), Some("flag"));
        assert_eq!(merged.zone.as_deref(), Some("a"));
        assert_eq!(merged.tags.len(), 1);
    }

    #[test]
    fn a_join_token_is_not_printed() {
        let settings = NodeSettings {
            join: Some("the-secret".to_owned()),
            ..NodeSettings::default()
        };
        assert!(!format!("{settings:?}").contains("the-secret"));
    }
}
