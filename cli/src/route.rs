//! `pm route`: where hostnames go.

use common::routing_table::{Route, RoutingTable};

use crate::args::RouteVerb;
use crate::connection::Connection;
use crate::error::CommandError;
use crate::output::table;

/// Lists the routing table as the pacemaker has it.
pub(crate) async fn run(connection: &Connection, verb: &RouteVerb) -> Result<(), CommandError> {
    match verb {
        RouteVerb::List => {}
    }
    let routes = connection
        .client
        .routes()
        .await
        .map_err(connection.failed("list the routes"))?
        .unwrap_or_default();
    connection.output.result(&routes, human)
}

fn human(routes: &RoutingTable) -> String {
    if routes.routes.is_empty() {
        return "No hostname is routed.".to_owned();
    }
    let rows = routes.routes.iter().map(|(host, route)| row(host, route));
    table(&["HOSTNAME", "APPLICATION", "TYPE", "INSTANCES"], rows)
}

fn row(host: &str, route: &Route) -> Vec<String> {
    let mut backends: Vec<String> = route
        .backends
        .iter()
        .map(|backend| {
            format!(
                "{} (version {}, {})",
                backend.instance, backend.version, backend.address
            )
        })
        .collect();
    if route.hold {
        backends.push("requests wait".to_owned());
    } else if backends.is_empty() {
        backends.push("none".to_owned());
    }
    vec![
        host.to_owned(),
        format!("{}/{}", route.workspace, route.application_name),
        route.instance_type.to_string(),
        backends.join("\n"),
    ]
}
