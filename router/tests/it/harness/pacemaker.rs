//! A pacemaker that knows only routes and reports.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
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
}

pub(crate) struct Pacemaker {
    address: SocketAddr,
    shared: Shared,
    server: tokio::task::JoinHandle<()>,
}

#[derive(serde::Deserialize)]
struct After {
    after: Generation,
}

impl Pacemaker {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared {
            table: watch::Sender::new(RoutingTable::default()),
            reports: Arc::default(),
        };
        let routes = Router::new()
            .route("/v1/routes", get(watch_routes))
            .route("/v1/reports", post(take_report))
            .with_state(shared.clone());
        let server = tokio::spawn(async move {
            axum::serve(listener, routes).await.unwrap();
        });
        Self {
            address,
            shared,
            server,
        }
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

async fn watch_routes(State(shared): State<Shared>, Query(query): Query<After>) -> Response {
    let mut table = shared.table.subscribe();
    let newer = table.wait_for(|table| table.generation > query.after);
    match tokio::time::timeout(WATCH, newer).await {
        Ok(Ok(table)) => Json(&*table).into_response(),
        Ok(Err(_)) | Err(_) => StatusCode::NO_CONTENT.into_response(),
    }
}

async fn take_report(State(shared): State<Shared>, Json(report): Json<Report>) -> StatusCode {
    shared.reports.lock().unwrap().extend(report.router);
    StatusCode::NO_CONTENT
}
