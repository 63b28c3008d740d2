//! Arguments of `pm cluster` and `pm node`.

use std::time::Duration;

use clap::{Args, Subcommand};
use common::id::NodeId;
use common::node::Role;
use common::time::Span;

use crate::args::agent::{ConfigurationArguments, NodeSettings, role};

/// Verbs about the cluster as a whole.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterVerb {
    /// Make a cluster whose first node is this machine, and log the local pm in.
    Init(Box<InitArguments>),
    /// Show the group of pacemakers and what is wrong with it.
    Status,
    /// Print a token, and the command with which one more machine joins.
    Token(TokenArguments),
    /// Take a pacemaker out of the group for good; it stays a node with its other roles until
    /// `pm node remove`.
    Remove {
        /// The pacemaker's node number.
        node: NodeId,
    },
}

/// Arguments of `pm cluster init`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
It writes the data directory and starts nothing: start `pm agent` afterwards, as a service. With --format json
stdout has the cluster's id, the tokens and the join command.")]
pub(crate) struct InitArguments {
    /// The configuration file.
    #[command(flatten)]
    pub(crate) configuration: ConfigurationArguments,
    /// The settings of the first node.
    #[command(flatten)]
    pub(crate) settings: NodeSettings,
    /// Appended to every generated hostname; a wildcard name that leads to the routers. Fixed for good.
    #[arg(long, value_name = "HOSTNAME", default_value = "localhost")]
    pub(crate) hostname: String,
    /// What the next machine may do, with the token that is printed.
    #[arg(long, value_name = "ROLES", value_delimiter = ',', value_parser = role, default_value = "pacemaker,heart,router")]
    pub(crate) token_roles: Vec<Role>,
    /// How long that token can be used.
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(crate) token_ttl: Time,
    /// How long a node may be silent before its instances are replaced. Fixed for good.
    #[arg(long, value_name = "TIME", default_value = "3s")]
    pub(crate) node_ttl: Time,
    /// How long a node's certificate is valid; it is renewed when half of that has passed. Fixed for good.
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub(crate) certificate_ttl: Time,
    /// How long the version before stays warm after a switch. Fixed for good.
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pub(crate) watch_window: Time,
    /// Do not log the local pm in.
    #[arg(long)]
    pub(crate) no_login: bool,
}

/// Arguments of `pm cluster token`.
#[derive(Debug, Args)]
pub(crate) struct TokenArguments {
    /// What the machine may do.
    #[arg(long, value_name = "ROLES", value_delimiter = ',', value_parser = role, default_value = "heart,router")]
    pub(crate) roles: Vec<Role>,
    /// How long the token can be used, at most 7d.
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(crate) ttl: Time,
}

/// Verbs about nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeVerb {
    /// List the nodes.
    List,
    /// Show a node, what runs on it, and how it is.
    Show {
        /// The node's number.
        node: NodeId,
    },
    /// Move everything away from a node, and follow it until the node is empty.
    Drain {
        /// The node's number.
        node: NodeId,
        /// Do not wait for it.
        #[arg(long)]
        detach: bool,
    },
    /// Give a drained node work again.
    Undrain {
        /// The node's number.
        node: NodeId,
    },
    /// Forget a node that is empty or down; its certificate is refused from then on.
    Remove {
        /// The node's number.
        node: NodeId,
    },
}

/// A time, written `30s`, `5m`, `1h` or `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Span);

impl std::str::FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule = || format!("`{text}` is no time; write 30s, 5m, 1h or 7d");
        let unit = text.chars().next_back().ok_or_else(rule)?;
        let seconds: u64 = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 24 * 3600,
            _ => return Err(rule()),
        };
        let count: u64 = text[..text.len() - 1].parse().map_err(|_| rule())?;
        let seconds = count
            .checked_mul(seconds)
            .filter(|seconds| *seconds > 0 && *seconds <= LONGEST.as_secs())
            .ok_or_else(|| format!("`{text}` is not between 1s and 3650d"))?;
        Ok(Self(Span::seconds(seconds)))
    }
}

/// Ten years: nothing here is meant to last longer, and sums with it fit everywhere.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!("90s".parse(), Ok(Time(Span::seconds(90))));
        assert_eq!("7d".parse(), Ok(Time(Span::seconds(7 * 24 * 3600))));
        for bad in ["", "5", "h", "-1s", "1.5h", "0s", "99999999d", "5é"] {
            assert!(bad.parse::<Time>().is_err(), "{bad}");
        }
    }
}
