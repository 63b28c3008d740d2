//! A router without a cluster, for `scripts/bench-router`: one hostname, one backend.
//!
//! `bench_router LISTEN BACKEND WORKERS [HOSTNAMES]`; extra hostnames fill the table.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;

use common::id::{ApplicationId, Generation, InstanceId, InstanceTypeName, NodeId, VersionNumber};
use common::routing_table::{Backend, Route, RoutingTable};
use router::Config;
use tokio_util::sync::CancellationToken;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, backend, workers, rest @ ..] = &arguments[..] else {
        return Err("usage: bench_router LISTEN BACKEND WORKERS [HOSTNAMES]".into());
    };
    let hostnames: u64 = rest.first().map_or(Ok(0), |count| count.parse())?;
    let directory = tempfile::tempdir()?;
    let file = serde_json::json!({ "format": 1, "table": table(backend.parse()?, hostnames)? });
    std::fs::write(directory.path().join("routes.json"), file.to_string())?;

    // Port 9 is discard: no pacemaker answers, the table on disk is served.
    let client = pacemaker_client::Client::new(&["http://127.0.0.1:9".to_owned()], "none")?;
    let mut config = Config::new(NodeId(1), directory.path().to_owned(), client);
    config.listen = listen.parse()?;
    config.workers = workers.parse()?;
    config.access_log = std::env::var_os("ACCESS_LOG").is_some();
    let running = router::start(config, CancellationToken::new()).await?;
    running.finished.await??;
    Ok(())
}

fn table(backend: SocketAddr, hostnames: u64) -> Result<RoutingTable, Box<dyn Error>> {
    let mut routes = BTreeMap::new();
    for number in 0..=hostnames {
        let name = match number {
            0 => "bench.test".to_owned(),
            _ => format!("app{number}.bench.test"),
        };
        let route = Route {
            application: ApplicationId(number),
            application_name: format!("app{number}"),
            workspace: "bench".to_owned(),
            instance_type: InstanceTypeName::parse("web")?,
            backends: vec![Backend {
                instance: InstanceId(number),
                version: VersionNumber(1),
                address: backend,
            }],
            hold: false,
        };
        routes.insert(name, route);
    }
    Ok(RoutingTable {
        cluster: String::new(),
        generation: Generation(1),
        routes,
    })
}
