//! `pm cluster`: makes a cluster, lets machines join it, and shows how it stands.

pub(crate) mod init;
mod status;

use common::api::JoinTokenCreated;
use common::id::NodeId;
use common::node::Role;
use common::time::Timestamp;
use serde::Serialize;

use crate::args::cluster::{ClusterVerb, TokenArguments};
use crate::connection::{Connection, idempotency_key};
use crate::error::CommandError;
use crate::output::{in_future, word};

/// A token and what to do with it.
#[derive(Clone, Serialize)]
pub(crate) struct JoinCommand {
    /// For `pm agent --join`.
    pub(crate) token: String,
    /// When it can no longer be used.
    pub(crate) expires: Timestamp,
    /// What is typed on the new machine.
    pub(crate) join_command: String,
}

impl JoinCommand {
    /// The command for a token that grants these roles.
    pub(crate) fn new(token: String, expires: Timestamp, roles: &[Role]) -> Self {
        let roles: Vec<String> = roles.iter().map(word).collect();
        Self {
            join_command: format!("pm agent --roles {} --join {token}", roles.join(",")),
            token,
            expires,
        }
    }
}

/// Does what needs a cluster that runs.
pub(crate) async fn run(connection: &Connection, verb: &ClusterVerb) -> Result<(), CommandError> {
    match verb {
        ClusterVerb::Init(_) => unreachable!("it is done without a cluster"),
        ClusterVerb::Status => status::run(connection).await,
        ClusterVerb::Token(arguments) => token(connection, arguments).await,
        ClusterVerb::Remove { node } => remove(connection, *node).await,
    }
}

async fn token(connection: &Connection, arguments: &TokenArguments) -> Result<(), CommandError> {
    let JoinTokenCreated { token, expires } = connection
        .client
        .create_join_token(
            arguments.roles.iter().copied(),
            arguments.ttl.0,
            &idempotency_key()?,
        )
        .await
        .map_err(connection.failed("make a join token"))?;
    let command = JoinCommand::new(token, expires, &arguments.roles);
    connection.output.result(&command, |command| {
        connection.progress.line(&format!(
            "Type this on the new machine; the token works once, and {}:",
            in_future(command.expires)
        ));
        format!("{}\n", command.join_command)
    })
}

async fn remove(connection: &Connection, node: NodeId) -> Result<(), CommandError> {
    connection
        .client
        .remove_member(node, &idempotency_key()?)
        .await
        .map_err(connection.failed(format!("take pacemaker {node} out of the group")))
        .map_err(|error| {
            if error.code == "member_not_found" {
                error.next("`pm cluster status` shows the pacemakers of the group")
            } else {
                error
            }
        })?;
    connection
        .output
        .result(&serde_json::json!({ "removed": node }), |_| {
            format!(
                "Node {node} is no pacemaker of this cluster any more. `pm node remove {node}` forgets the machine."
            )
        })
}
