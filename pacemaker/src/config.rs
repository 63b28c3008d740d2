//! What a pacemaker is told at its start.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use common::digest::Digest;
use common::id::{HOSTNAME_MAX_BYTES, HostPattern};
use common::node::NodeDescription;
use pacemaker_client::tls::Tls;
use pacemaker_core::command::{ClusterSettings, JoinTokenRecord};

use crate::authority::Authority;
use crate::crash_point::CrashPoint;
use crate::wall_clock::WallClock;

/// The shortest token that is accepted, characters: 16 bytes as hexadecimal.
const TOKEN_MIN_CHARACTERS: usize = 32;
/// The longest: nothing longer is looked at in a request.
pub(crate) const TOKEN_MAX_CHARACTERS: usize = 512;
/// The public port of routers unless told otherwise.
const DEFAULT_ROUTER_PORT: u16 = 4253;
/// The longest node key, characters.
const NODE_KEY_MAX_CHARACTERS: usize = 128;
/// A generated hostname puts version, type, application and workspace before the cluster's.
const CLUSTER_HOSTNAME_MAX_BYTES: usize = HOSTNAME_MAX_BYTES / 2;

/// The configuration of a pacemaker; checked before anything binds.
#[derive(Clone)]
pub struct Config {
    /// The number of this pacemaker in the Raft group, which is its node's; never given to another.
    pub member: u64,
    /// True for the one that makes the cluster, a group of itself alone, when it has no log. Another
    /// without a log waits until the leader adds it.
    pub founder: bool,
    /// Where the other pacemakers find this one, as `host:port`.
    pub advertise: String,
    /// The cluster that this pacemaker belongs to, when it has a certificate that says so. Without
    /// it the founder makes up an id, and others learn it with the state.
    pub cluster: Option<ClusterIdentity>,
    /// What the founder says of its machine, which becomes node 1 with the cluster itself; none
    /// where nodes register themselves.
    pub description: Option<NodeDescription>,
    /// Who this node is on the wire; none where there are no certificates (`pm dev`).
    pub tls: Option<Tls>,
    /// What signs certificates; on every pacemaker that has one itself.
    pub authority: Option<Arc<Authority>>,
    /// Tokens that were handed out before the cluster began. Count at the first start only.
    pub join_tokens: Vec<JoinTokenRecord>,
    /// The key under which this machine registers as a node; random and stable.
    pub node_key: String,
    /// Log, snapshots, packages and job logs are kept here.
    pub data_dir: PathBuf,
    /// Appended to every generated hostname, lower case. Counts at the first start only.
    pub cluster_hostname: String,
    /// The routers' public port, for URLs.
    pub router_port: u16,
    /// May do everything. Counts at the first start only.
    pub administrator_token: String,
    /// May do what hearts and routers do. Counts at the first start only.
    pub node_token: String,
    /// Times that the cluster keeps to. Count at the first start only.
    pub settings: ClusterSettings,
    /// The time of day for crons; another than the system's for tests only.
    pub wall_clock: WallClock,
    /// Where the process kills itself; for tests only.
    pub crash_at: Option<CrashPoint>,
}

/// The cluster of a pacemaker that has a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterIdentity {
    /// The cluster's id.
    pub id: String,
    /// PEM of the authority's certificate.
    pub authority: String,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("member", &self.member)
            .field("founder", &self.founder)
            .field("advertise", &self.advertise)
            .field("data_dir", &self.data_dir)
            .field("cluster_hostname", &self.cluster_hostname)
            .field("router_port", &self.router_port)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// A value of the configuration that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` of the pacemaker's configuration {rule}")]
pub struct ConfigError {
    /// Which field.
    pub field: &'static str,
    /// What is asked of it.
    pub rule: String,
}

impl Config {
    /// Of a pacemaker that is alone in its cluster and shows no certificate, as `pm dev` has it, with
    /// the defaults. Its key and its tokens are still to be said.
    #[must_use]
    pub fn alone(data_dir: PathBuf, api: SocketAddr) -> Self {
        Self {
            member: 1,
            founder: true,
            advertise: api.to_string(),
            cluster: None,
            description: None,
            tls: None,
            authority: None,
            join_tokens: Vec::new(),
            node_key: String::new(),
            data_dir,
            cluster_hostname: "localhost".to_owned(),
            router_port: DEFAULT_ROUTER_PORT,
            administrator_token: String::new(),
            node_token: String::new(),
            settings: ClusterSettings::default(),
            wall_clock: WallClock::system(),
            crash_at: None,
        }
    }

    /// Refuses what could not work.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let refuse = |field, rule: String| Err(ConfigError { field, rule });
        for (field, token) in [
            ("administrator_token", &self.administrator_token),
            ("node_token", &self.node_token),
        ] {
            let allowed = TOKEN_MIN_CHARACTERS..=TOKEN_MAX_CHARACTERS;
            // What a header can carry.
            let is_visible = token.bytes().all(|byte| byte.is_ascii_graphic());
            if !is_visible || !allowed.contains(&token.len()) {
                return refuse(
                    field,
                    format!(
                        "has {TOKEN_MIN_CHARACTERS} to {TOKEN_MAX_CHARACTERS} visible ASCII characters"
                    ),
                );
            }
        }
        if self.administrator_token == self.node_token {
            return refuse("node_token", "differs from the administrator's".to_owned());
        }
        if self.node_key.is_empty() || self.node_key.len() > NODE_KEY_MAX_CHARACTERS {
            return refuse(
                "node_key",
                format!("has 1 to {NODE_KEY_MAX_CHARACTERS} characters"),
            );
        }
        let is_hostname =
            HostPattern::parse(&self.cluster_hostname).is_ok_and(|pattern| !pattern.is_wildcard());
        if !is_hostname || self.cluster_hostname.len() > CLUSTER_HOSTNAME_MAX_BYTES {
            return refuse(
                "cluster_hostname",
                format!(
                    "is a hostname in lower case of at most {CLUSTER_HOSTNAME_MAX_BYTES} bytes"
                ),
            );
        }
        if self.data_dir.as_os_str().is_empty() {
            return refuse("data_dir", "names a directory".to_owned());
        }
        if self.member == 0 {
            return refuse("member", "is not 0".to_owned());
        }
        let is_address = self
            .advertise
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !is_address {
            return refuse("advertise", "is `host:port`".to_owned());
        }
        if self.settings.node_ttl.0 == 0 {
            return refuse("settings.node_ttl", "is longer than nothing".to_owned());
        }
        Ok(())
    }
}

/// The SHA-256 of a bearer token in hexadecimal: what the state keeps instead of the token.
#[must_use]
pub fn token_hash(token: &str) -> String {
    Digest::of(token.as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_cannot_work_are_refused_by_name() {
        let api = SocketAddr::from(([127, 0, 0, 1], 4250));
        let good = Config {
            node_key: "key".to_owned(),
            administrator_token: "a".repeat(32),
            node_token: "b".repeat(32),
            ..Config::alone(PathBuf::from("data"), api)
        };
        assert_eq!(good.validate(), Ok(()));

        check(&good, "node_token", |config| {
            config.node_token = "short".to_owned();
        });
        check(&good, "node_token", |config| {
            config.node_token = "b".repeat(TOKEN_MAX_CHARACTERS + 1);
        });
        check(&good, "administrator_token", |config| {
            config.administrator_token = "é".repeat(32);
        });
        check(&good, "node_token", |config| {
            config.node_token = "a".repeat(32);
        });
        check(&good, "node_key", |config| config.node_key = String::new());
        check(&good, "cluster_hostname", |config| {
            config.cluster_hostname = "Not a host".to_owned();
        });
        check(&good, "cluster_hostname", |config| {
            config.cluster_hostname = "*.example.com".to_owned();
        });
        check(&good, "data_dir", |config| config.data_dir = PathBuf::new());
        check(&good, "member", |config| config.member = 0);
        for wrong in ["", "localhost", ":4250", "localhost:http"] {
            check(&good, "advertise", |config| {
                config.advertise = wrong.to_owned();
            });
        }
    }

    fn check(good: &Config, field: &str, spoil: impl FnOnce(&mut Config)) {
        let mut config = good.clone();
        spoil(&mut config);
        assert_eq!(config.validate().unwrap_err().field, field);
    }
}
