//! A pacemaker that knows only routes and reports.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use common::assignment::{Report, RouterReport};
use common::id::{Generation, InstanceId};
use common::routing_table::{Route, RoutingTable};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// How long its watches block; short, so that tests see several.
const WATCH: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Shared {
    table: watch::Sender<RoutingTable>,
    reports: Arc<Mutex<Vec<RouterReport>>>,
    /// Whose the sender of the last report says to be.
    cluster: Arc<Mutex<String>>,
    /// Tables given so far.
    tables: Arc<AtomicUsize>,
    /// True while the router's node counts as removed.
    removed: watch::Sender<bool>,
}

pub(crate) struct Pacemaker {
    address: SocketAddr,
    shared: Shared,
    server: tokio::task::JoinHandle<()>,
    /// True while it takes requests and answers none.
    hanging: Arc<watch::Sender<bool>>,
}

#[derive(serde::Deserialize)]
struct After {
    after: Generation,
}

impl Pacemaker {
    pub(crate) async fn start() -> Self {
        Self::serve(Shared {
            table: watch::Sender::new(RoutingTable::default()),
            reports: Arc::default(),
            cluster: Arc::default(),
            tables: Arc::default(),
            removed: watch::Sender::new(false),
        })
        .await
    }

    /// Another pacemaker of the same cluster, with an address and troubles of its own.
    pub(crate) async fn another(&self) -> Self {
        Self::serve(self.shared.clone()).await
    }

    async fn serve(shared: Shared) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let hanging: Arc<watch::Sender<bool>> = Arc::default();
        let routes = Router::new()
            .route("/v1/routes", get(watch_routes))
            .route("/v1/reports", post(take_report))
            .layer(from_fn_with_state(Arc::clone(&hanging), wait_while_hanging))
            .with_state(shared.clone());
        let server = tokio::spawn(async move {
            axum::serve(listener, routes).await.unwrap();
        });
        Self {
            address,
            shared,
            server,
            hanging,
        }
    }

    /// Takes requests and answers none of them, or answers again.
    pub(crate) fn hang(&self, hangs: bool) {
        self.hanging.send_replace(hangs);
    }

    /// Answers from now on that the router's node was removed, or no longer.
    pub(crate) fn remove_node(&self, is_removed: bool) {
        self.shared.removed.send_replace(is_removed);
    }

    /// Whose the sender of the last report says to be.
    pub(crate) fn reported_cluster(&self) -> String {
        self.shared.cluster.lock().unwrap().clone()
    }

    /// How often a table has been given.
    pub(crate) fn tables_given(&self) -> usize {
        self.shared.tables.load(Ordering::SeqCst)
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn publish(&self, routes: &[(&str, Route)]) -> Generation {
        let generation = Generation(self.shared.table.borrow().generation.0 + 1);
        self.shared
            .table
            .send_replace(super::table(generation, routes));
        generation
    }

    /// Publishes exactly this, whatever its generation.
    pub(crate) fn publish_table(&self, table: RoutingTable) {
        self.shared.table.send_replace(table);
    }

    pub(crate) fn last_report(&self) -> Option<RouterReport> {
        self.shared.reports.lock().unwrap().last().cloned()
    }

    pub(crate) fn reports(&self) -> Vec<RouterReport> {
        self.shared.reports.lock().unwrap().clone()
    }

    /// Requests in flight to `instance`, as last reported.
    pub(crate) fn in_flight(&self, instance: u64) -> Option<u64> {
        let report = self.last_report()?;
        Some(
            report
                .in_flight
                .get(&InstanceId(instance))
                .copied()
                .unwrap_or(0),
        )
    }
}

impl Drop for Pacemaker {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn wait_while_hanging(
    State(hanging): State<Arc<watch::Sender<bool>>>,
    request: Request,
    next: Next,
) -> Response {
    let mut level = hanging.subscribe();
    level.wait_for(|hangs| !hangs).await.unwrap();
    let answer = next.run(request).await;
    level.wait_for(|hangs| !hangs).await.unwrap();
    answer
}

async fn watch_routes(State(shared): State<Shared>, Query(query): Query<After>) -> Response {
    let mut table = shared.table.subscribe();
    let mut removed = shared.removed.subscribe();
    let newer = table.wait_for(|table| table.generation > query.after);
    let answer = tokio::select! {
        biased;
        _ = removed.wait_for(|is_removed| *is_removed) => {
            let problem = serde_json::json!({
                "type": "about:blank",
                "title": "The node was removed from the cluster.",
                "status": 403,
                "code": "node_removed",
                "detail": "Node 1 was removed.",
            });
            return (StatusCode::FORBIDDEN, Json(problem)).into_response();
        }
        answer = tokio::time::timeout(WATCH, newer) => answer,
    };
    match answer {
        Ok(Ok(table)) => {
            shared.tables.fetch_add(1, Ordering::SeqCst);
            Json(&*table).into_response()
        }
        Ok(Err(_)) | Err(_) => StatusCode::NO_CONTENT.into_response(),
    }
}

async fn take_report(State(shared): State<Shared>, Json(report): Json<Report>) -> StatusCode {
    *shared.cluster.lock().unwrap() = report.cluster;
    shared.reports.lock().unwrap().extend(report.router);
    StatusCode::NO_CONTENT
}
