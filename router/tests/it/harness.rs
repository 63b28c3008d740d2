//! A world for one router: a pacemaker that publishes tables and collects reports, and helpers.

pub(crate) mod backend;
pub(crate) mod pacemaker;
pub(crate) mod wire;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::id::{ApplicationId, Generation, InstanceId, InstanceTypeName, NodeId, VersionNumber};
use common::routing_table::{Backend, Route, RoutingTable};
use router::{Config, Running};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use self::pacemaker::Pacemaker;

/// How long a test waits for what must come; generous, because machines are shared.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A pacemaker, a router that follows it, and the router's directory.
pub(crate) struct World {
    pub(crate) pacemaker: Pacemaker,
    pub(crate) router: Running,
    pub(crate) shutdown: CancellationToken,
    pub(crate) directory: TempDir,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let pacemaker = Pacemaker::start().await;
        let directory = tempfile::tempdir().unwrap();
        let shutdown = CancellationToken::new();
        let mut config = config(&directory, &pacemaker.endpoint());
        change(&mut config);
        let router = router::start(config, shutdown.clone()).await.unwrap();
        Self {
            pacemaker,
            router,
            shutdown,
            directory,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.router.address
    }

    /// Publishes a table with these routes and waits until every worker uses it.
    pub(crate) async fn publish(&self, routes: &[(&str, Route)]) -> Generation {
        let generation = self.pacemaker.publish(routes);
        self.applied(generation).await;
        generation
    }

    pub(crate) async fn applied(&self, generation: Generation) {
        eventually("the table is applied", || {
            self.pacemaker
                .last_report()
                .is_some_and(|report| report.routes >= generation)
        })
        .await;
    }

    /// The value of a metric's line that begins like this, summed over all that do.
    pub(crate) fn metric(&self, beginning: &str) -> f64 {
        (self.router.metrics)()
            .lines()
            .filter(|line| line.starts_with(beginning))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    pub(crate) async fn get(&self, host: &str, path: &str) -> reqwest::Response {
        self.request(reqwest::Method::GET, host, path)
            .send()
            .await
            .unwrap()
    }

    pub(crate) async fn text(&self, host: &str) -> String {
        self.get(host, "/").await.text().await.unwrap()
    }

    /// A request over a connection of its own.
    pub(crate) fn request(
        &self,
        method: reqwest::Method,
        host: &str,
        path: &str,
    ) -> reqwest::RequestBuilder {
        client()
            .request(method, format!("http://{}{path}", self.address()))
            .header("host", host)
    }

    /// Ends the router and waits until it has drained.
    pub(crate) async fn stop(self) -> TempDir {
        self.shutdown.cancel();
        self.router.finished.await.unwrap().unwrap();
        self.directory
    }
}

/// An HTTP client without a proxy.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// A configuration for tests: two workers on a free port of the loopback.
pub(crate) fn config(directory: &TempDir, pacemaker: &str) -> Config {
    let client = pacemaker_client::Client::new(&[pacemaker.to_owned()], "token").unwrap();
    let mut config = Config::new(NodeId(1), directory.path().join("router"), client);
    config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.workers = 2;
    config.connect_limit = PATIENCE;
    config.drain_limit = Duration::from_secs(5);
    config
}

/// A route of application 1 to these instances.
pub(crate) fn route(backends: &[(u64, SocketAddr)]) -> Route {
    Route {
        application: ApplicationId(1),
        application_name: "shop".to_owned(),
        workspace: "test".to_owned(),
        instance_type: InstanceTypeName::parse("web").unwrap(),
        backends: backends
            .iter()
            .map(|(instance, address)| Backend {
                instance: InstanceId(*instance),
                version: VersionNumber(1),
                address: *address,
            })
            .collect(),
        hold: false,
    }
}

pub(crate) fn table(generation: Generation, routes: &[(&str, Route)]) -> RoutingTable {
    RoutingTable {
        cluster: String::new(),
        generation,
        routes: routes
            .iter()
            .map(|(pattern, route)| ((*pattern).to_owned(), route.clone()))
            .collect(),
    }
}

/// Waits until `level` holds.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where tests wait between looks"
)]
pub(crate) async fn eventually(what: &str, mut level: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !level() {
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Fails unless `future` ends in time.
pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not in time: {what}"),
    }
}
