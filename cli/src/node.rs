//! `pm node`: the machines of the cluster.

use common::node::Node;

use crate::args::NodeVerb;
use crate::connection::Connection;
use crate::error::{CommandError, code};
use crate::output::{table, word};

/// Lists the nodes, or shows one.
pub(crate) async fn run(connection: &Connection, verb: &NodeVerb) -> Result<(), CommandError> {
    let nodes = connection
        .client
        .nodes()
        .await
        .map_err(connection.failed("list the nodes"))?;
    match verb {
        NodeVerb::List => connection.output.result(&nodes, |nodes| {
            table(
                &["NODE", "NAME", "STATE", "ROLES", "ADDRESS"],
                nodes.iter().map(row),
            )
        }),
        NodeVerb::Show { node } => {
            let Some(found) = nodes.iter().find(|candidate| candidate.id == *node) else {
                return Err(CommandError::new(
                    code::NOT_FOUND,
                    format!("show node {node}"),
                    "the cluster has no node with that number",
                )
                .next("`pm node list`"));
            };
            connection.output.result(found, detail)
        }
    }
}

fn roles(node: &Node) -> String {
    let roles: Vec<String> = node.description.roles.iter().map(word).collect();
    roles.join(" ")
}

fn row(node: &Node) -> Vec<String> {
    vec![
        node.id.to_string(),
        node.description.name.clone(),
        word(&node.state),
        roles(node),
        node.description.address.to_string(),
    ]
}

fn detail(node: &Node) -> String {
    let description = &node.description;
    let mut text = format!(
        "node      {} ({})\nstate     {}\nroles     {}\naddress   {}\napi       {}\nzone      {}\ntags      {}\n",
        node.id,
        description.name,
        word(&node.state),
        roles(node),
        description.address,
        description.api,
        description.zone.as_deref().unwrap_or("-"),
        serde_json::to_string(&description.tags).unwrap_or_default(),
    );
    for (plugin, versions) in &description.runtimes {
        text.push_str(&format!("runtime   {plugin} {}\n", versions.join(" ")));
    }
    text
}
