//! `pm node`: the machines of the cluster.

mod drain;

use common::api::NodeView;
use common::id::NodeId;
use common::node::Node;

use crate::args::cluster::NodeVerb;
use crate::connection::{Connection, idempotency_key};
use crate::error::CommandError;
use crate::output::{in_future, table, word};

/// Bytes in the unit that memory is read in.
const MEGABYTE: u64 = 1_000_000;

/// Lists, shows or changes nodes.
pub(crate) async fn run(connection: &Connection, verb: &NodeVerb) -> Result<(), CommandError> {
    match verb {
        NodeVerb::List => list(connection).await,
        NodeVerb::Show { node } => show(connection, *node).await,
        NodeVerb::Drain { node, detach } => drain::run(connection, *node, *detach).await,
        NodeVerb::Undrain { node } => undrain(connection, *node).await,
        NodeVerb::Remove { node } => remove(connection, *node).await,
    }
}

async fn list(connection: &Connection) -> Result<(), CommandError> {
    let nodes = connection
        .client
        .nodes()
        .await
        .map_err(connection.failed("list the nodes"))?;
    connection.output.result(&nodes, |nodes| {
        table(
            &["NODE", "NAME", "STATE", "ROLES", "ZONE", "API"],
            nodes.iter().map(row),
        )
    })
}

async fn show(connection: &Connection, node: NodeId) -> Result<(), CommandError> {
    let view = view(connection, node, &format!("show node {node}")).await?;
    connection.output.result(&view, detail)
}

/// One node; says how to find those that there are.
async fn view(
    connection: &Connection,
    node: NodeId,
    doing: &str,
) -> Result<NodeView, CommandError> {
    connection
        .client
        .node(node)
        .await
        .map_err(connection.failed(doing))
        .map_err(point_to_list)
}

fn point_to_list(error: CommandError) -> CommandError {
    if error.code == "node_not_found" {
        error.next("`pm node list` shows the nodes")
    } else {
        error
    }
}

async fn undrain(connection: &Connection, node: NodeId) -> Result<(), CommandError> {
    connection
        .client
        .undrain_node(node, &idempotency_key()?)
        .await
        .map_err(connection.failed(format!("undrain node {node}")))
        .map_err(point_to_list)?;
    connection
        .output
        .result(&serde_json::json!({ "node": node }), |_| {
            format!("Node {node} takes instances again.")
        })
}

async fn remove(connection: &Connection, node: NodeId) -> Result<(), CommandError> {
    connection
        .client
        .remove_node(node, &idempotency_key()?)
        .await
        .map_err(connection.failed(format!("remove node {node}")))
        .map_err(|error| {
            if error.code == "busy" && error.next.is_none() {
                error.next(format!("`pm node drain {node}` empties it"))
            } else {
                point_to_list(error)
            }
        })?;
    connection
        .output
        .result(&serde_json::json!({ "removed": node }), |_| {
            format!("Node {node} is forgotten; its certificate is refused.")
        })
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
        node.description
            .zone
            .clone()
            .unwrap_or_else(|| "-".to_owned()),
        node.description.api.clone(),
    ]
}

fn detail(view: &NodeView) -> String {
    let node = &view.node;
    let description = &node.description;
    let mut text = format!(
        "node         {} ({})\nstate        {}\nroles        {}\naddress      {}\napi          {}\nzone         {}\ntags         {}\ninstances    {}\n",
        node.id,
        description.name,
        word(&node.state),
        roles(node),
        description.address,
        description.api,
        description.zone.as_deref().unwrap_or("-"),
        serde_json::to_string(&description.tags).unwrap_or_default(),
        view.instances,
    );
    let mut line = |name: &str, value: String| {
        text.push_str(&format!("{name:<13}{value}\n"));
    };
    if let Some(silent_for) = view.silent_for {
        line("last report", format!("{} ms ago", silent_for.0));
    }
    if let Some(expires) = view.certificate_expires {
        line("certificate", in_future(expires));
    }
    if let Some(load) = &view.load {
        line(
            "memory",
            format!(
                "{} of {} MB free",
                load.memory_available / MEGABYTE,
                load.memory_total / MEGABYTE
            ),
        );
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let load_average = load.load_milli as f64 / 1000.0;
        line(
            "cpu",
            format!("load {load_average:.2} on {} cores", load.cpus),
        );
        line(
            "disk",
            format!("{} MB free", load.disk_available / MEGABYTE),
        );
    }
    for (plugin, versions) in &description.runtimes {
        line("runtime", format!("{plugin} {}", versions.join(" ")));
    }
    text
}
