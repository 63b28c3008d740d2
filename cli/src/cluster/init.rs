//! `pm cluster init`: the identity of the first node, before anything runs.
//!
//! ```text
//! authority ─► certificate of node 1 ─► what the cluster begins with (founding.json) ─► login
//! ```
//! The cluster itself begins when the node's pacemaker first runs: what is decided here goes into its
//! first command. The node's identity is written last, so that an interruption leaves nothing that an
//! agent would start with, and the same command can be typed again.

use std::collections::BTreeSet;

use common::digest::Digest;
use common::id::{HostPattern, NodeId};
use common::join_token::JoinToken;
use common::node::Role;
use common::time::Span;
use pacemaker::{Authority, AuthorityError, ClusterSettings, JoinTokenRecord};
use pacemaker_client::tls::Subject;
use serde::Serialize;

use crate::agent::node_directory::{Founding, NodeDirectory};
use crate::agent::plan::NodePlan;
use crate::agent::remembered;
use crate::args::agent::NodeSettings;
use crate::args::cluster::InitArguments;
use crate::cluster::JoinCommand;
use crate::configuration;
use crate::connection::random_text;
use crate::credentials::{Login, Logins};
use crate::error::{CommandError, chain, code};
use crate::output::{Output, in_future, now};
use crate::progress::write_stderr;

const DOING: &str = "make a cluster";
/// The number of the machine that begins a cluster.
const FOUNDER: NodeId = NodeId(1);
/// Hexadecimal digits of a cluster's id: 128 bits.
const CLUSTER_ID_CHARACTERS: usize = 32;

/// What is printed.
#[derive(Serialize)]
struct Initialised {
    /// The cluster's id.
    cluster: String,
    /// The first node's number.
    node: NodeId,
    /// Its API.
    api: String,
    /// The SHA-256 of the authority's certificate.
    fingerprint: Digest,
    /// May do everything.
    administrator_token: String,
    /// With which the next machine joins.
    #[serde(flatten)]
    join: JoinCommand,
}

/// Makes it.
pub(crate) fn run(arguments: &InitArguments, output: Output) -> Result<(), CommandError> {
    let hostname = checked_hostname(&arguments.hostname)?;
    refuse_a_short_ttl(arguments.node_ttl.0)?;
    let given = arguments.settings.clone();
    let settings = configuration::settings(&arguments.configuration, given)?;
    let directory = NodeDirectory::lock(&configuration::data_directory(&settings))?;
    refuse_a_node(&directory)?;
    let plan = first_plan(settings)?;
    let cluster: String = random_text()?.chars().take(CLUSTER_ID_CHARACTERS).collect();
    let authority = Authority::create(&cluster, now()).map_err(failed)?;
    let token = JoinToken {
        endpoints: vec![plan.advertise.to_string()],
        fingerprint: authority.fingerprint().map_err(failed)?,
        secret: random_text()?,
    };
    let founding = founding(arguments, hostname, &token)?;
    // It grants every role: which of them the machine has is for its settings to say.
    let subject = Subject {
        cluster: cluster.clone(),
        node: FOUNDER,
        roles: BTreeSet::from([Role::Pacemaker, Role::Heart, Role::Router]),
    };
    let identity = authority
        .issue(&subject, now(), arguments.certificate_ttl.0)
        .map_err(failed)?;
    let mut record = directory.record()?;
    record.node = Some(FOUNDER);
    record.given = remembered(&arguments.settings, &plan);
    directory.keep_record(&record)?;
    directory.keep_pacemakers(&[plan.api()])?;
    directory.keep_founding(&founding)?;
    let administrator_token = founding.administrator_token;
    if !arguments.no_login {
        log_in(&plan.api(), &administrator_token, &identity.authority)?;
    }
    directory.keep_identity(&identity, Some(&authority.key_pem()))?;
    let expires = now().after(arguments.token_ttl.0);
    let made = Initialised {
        cluster,
        node: FOUNDER,
        api: plan.api(),
        fingerprint: token.fingerprint.clone(),
        administrator_token,
        join: JoinCommand::new(token.to_string(), expires, &arguments.token_roles),
    };
    output.result(&made, |made| human(made, &directory, arguments.no_login))
}

/// The plan of the first machine, which is a pacemaker.
fn first_plan(settings: NodeSettings) -> Result<NodePlan, CommandError> {
    let plan = NodePlan::new(settings, &[])?;
    if plan.roles.contains(&Role::Pacemaker) {
        return Ok(plan);
    }
    Err(CommandError::new(
        code::CONFIGURATION_INVALID,
        DOING,
        "`roles` has no pacemaker, and a cluster begins with one",
    )
    .next("give it the role, or make the cluster on another machine"))
}

/// What the cluster begins with.
fn founding(
    arguments: &InitArguments,
    hostname: String,
    token: &JoinToken,
) -> Result<Founding, CommandError> {
    Ok(Founding {
        hostname,
        administrator_token: random_text()?,
        settings: ClusterSettings {
            node_ttl: arguments.node_ttl.0,
            certificate_ttl: arguments.certificate_ttl.0,
            watch_window: arguments.watch_window.0,
            ..ClusterSettings::default()
        },
        join_tokens: vec![JoinTokenRecord {
            hash: Digest::of(token.secret.as_bytes()).to_string(),
            roles: arguments.token_roles.iter().copied().collect(),
            expires: now().after(arguments.token_ttl.0),
        }],
    })
}

fn human(made: &Initialised, directory: &NodeDirectory, no_login: bool) -> String {
    let mut text = format!(
        "Cluster {} is made, and this machine is its node 1 ({}).\n\nStart it, as a service or like this:\n\n    pm agent --data-dir {}\n\nThen type this on the next machine; the token works once, and {}:\n\n    {}\n\n`pm cluster token` makes more of them. ",
        made.cluster,
        made.api,
        directory.path().display(),
        in_future(made.join.expires),
        made.join.join_command,
    );
    if no_login {
        text.push_str(
            "Nobody is logged in: `--format json` would have shown the administrator's token.\n",
        );
    } else {
        text.push_str("You are logged in.\n");
    }
    text
}

#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn failed(error: AuthorityError) -> CommandError {
    CommandError::new(code::FAILED, DOING, chain(&error))
}

fn refuse_a_node(directory: &NodeDirectory) -> Result<(), CommandError> {
    if directory.identity()?.is_none() {
        return Ok(());
    }
    Err(CommandError::new(
        code::IN_USE,
        DOING,
        format!(
            "the data directory {} is that of a node already",
            directory.path().display()
        ),
    )
    .next("start it with `pm agent`, or give another --data-dir"))
}

/// Hearts stop exclusive instances after their own limit, which must have passed when the cluster starts
/// them elsewhere.
fn refuse_a_short_ttl(ttl: Span) -> Result<(), CommandError> {
    let shortest = heart::config::DEFAULT_NODE_TTL;
    if ttl >= shortest {
        return Ok(());
    }
    Err(CommandError::new(
        code::CONFIGURATION_INVALID,
        DOING,
        format!(
            "a --node-ttl of {ttl} is shorter than {shortest}, after which hearts stop what may run only once"
        ),
    ))
}

fn checked_hostname(hostname: &str) -> Result<String, CommandError> {
    let hostname = hostname.to_ascii_lowercase();
    if HostPattern::parse(&hostname).is_ok_and(|pattern| !pattern.is_wildcard()) {
        return Ok(hostname);
    }
    Err(CommandError::new(
        code::CONFIGURATION_INVALID,
        DOING,
        format!("`{hostname}` is no hostname"),
    )
    .next("--hostname is what generated hostnames end with, such as apps.example.com"))
}

fn log_in(api: &str, token: &str, authority: &str) -> Result<(), CommandError> {
    let mut logins = Logins::load()?;
    let login = Login::new(token.to_owned(), Some(authority.to_owned()));
    let before = logins.choose(api, Some(login));
    logins.save()?;
    if let Some(before) = before {
        write_stderr(&format!(
            "pm is now logged in to this cluster; `pm login {before}` goes back to the one before."
        ));
    }
    Ok(())
}
