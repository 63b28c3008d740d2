//! The HTTP API: one table of endpoints, from which both the router and the OpenAPI document come.
//!
//! Handlers are thin: parse, ask the replica or propose, answer. Nothing here decides.

mod applications;
mod authentication;
mod certificates;
mod cluster;
mod crons;
mod deployments;
mod error;
mod extract;
mod fresh;
mod jobs;
mod join;
mod listen;
mod nodes;
mod openapi;
mod packages;
mod peer;
mod reports;
mod routes;
mod table;
mod tokens;
mod watch;
mod why;
mod workspaces;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get};
use axum::serve::ListenerExt as _;
use common::api::BODY_MAX_BYTES;
use http::{HeaderName, StatusCode};
use pacemaker_client::Connections;
use pacemaker_client::tls::Tls;
use pacemaker_core::command::{Command, Outcome};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::trace::TraceLayer;

use crate::authority::Authority;
use crate::crons::log::CronLogs;
pub(crate) use crate::http::authentication::Attempts;
use crate::http::authentication::Gate;
pub(crate) use crate::http::certificates::Certificates;
pub(crate) use crate::http::error::chain;
use crate::http::error::{Answer, Failure};
use crate::job_log::share::SharedLogs;
use crate::leader::Leader;
use crate::membership::Members;
use crate::metrics::Metrics;
use crate::package_store::Packages;
use crate::peer::Peers;
use crate::peers::Pacemakers;
use crate::raft::Proposer;
use crate::replica::Replica;
use crate::wall_clock::WallClock;

/// How long the streams of a stopping server may take to end.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);
/// Names a request in logs, here and at whoever sent it.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the handlers use.
pub(crate) struct Api {
    pub(crate) proposer: Proposer,
    pub(crate) replica: Arc<Replica>,
    pub(crate) leader: Leader,
    pub(crate) members: Members,
    pub(crate) peers: Peers,
    /// Those of peers, which outlive their requests.
    pub(crate) connections: TaskTracker,
    /// The other pacemakers over HTTP.
    pub(crate) pacemakers: Pacemakers,
    pub(crate) packages: Packages,
    pub(crate) job_logs: SharedLogs,
    pub(crate) cron_logs: CronLogs,
    /// When a cron is due.
    pub(crate) wall_clock: WallClock,
    pub(crate) metrics: Metrics,
    /// To the hearts' APIs.
    pub(crate) nodes: Connections,
    /// Shown to the hearts' APIs where there are no certificates.
    pub(crate) node_token: String,
    /// Who this node is; none where there are no certificates.
    pub(crate) tls: Option<Tls>,
    /// What signs certificates; none where there are none.
    pub(crate) authority: Option<Arc<Authority>>,
    /// Counts wrong tokens.
    pub(crate) attempts: Attempts,
    /// When the certificates of nodes end.
    pub(crate) certificates: Certificates,
    /// This machine's key as a node.
    pub(crate) node_key: String,
    /// This pacemaker's number in the Raft group.
    pub(crate) member: u64,
    /// For URLs.
    pub(crate) router_port: u16,
    /// Set once everything that was acknowledged before the start is applied.
    pub(crate) ready: AtomicBool,
    pub(crate) shutdown: CancellationToken,
}

/// Without the token.
impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

impl Api {
    /// True when answers reflect everything that was ever acknowledged.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Proposes, with refusals and failures as answers.
    async fn propose(&self, command: Command) -> Answer<Outcome> {
        Ok(self.proposer.propose(command).await??)
    }
}

/// All endpoints, without a fallback.
pub(crate) fn router(api: &Arc<Api>) -> Router {
    let mut by_path: BTreeMap<&'static str, MethodRouter<Arc<Api>>> = BTreeMap::new();
    for endpoint in table::endpoints() {
        let gate = Gate {
            api: Arc::clone(api),
            access: endpoint.access,
            patience: endpoint.patience,
            route: endpoint.path,
        };
        let handler = if fresh::reads_state(endpoint.method, endpoint.path) {
            let fresh = from_fn_with_state(Arc::clone(api), fresh::pass);
            endpoint.handler.layer(fresh)
        } else {
            endpoint.handler
        };
        let guarded = handler.layer(from_fn_with_state(gate, authentication::pass));
        let merged = match by_path.remove(endpoint.path) {
            Some(others) => others.merge(guarded),
            None => guarded,
        };
        by_path.insert(endpoint.path, merged);
    }
    let mut router = Router::new();
    for (path, methods) in by_path {
        router = router.route(path, methods.fallback(wrong_method));
    }
    router
        .with_state(Arc::clone(api))
        .layer(DefaultBodyLimit::max(BODY_MAX_BYTES))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(TraceLayer::new_for_http().on_failure(()))
        .layer(PropagateRequestIdLayer::new(REQUEST_ID))
        .layer(SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid))
}

/// The answer to a path that no role knows.
pub async fn no_such_path() -> Response {
    Failure::no_such_path().into_response()
}

/// Serves `routes` with `/healthz` and `/metrics` beside them, until `shutdown`.
pub(crate) async fn serve(
    routes: Router,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
    listener: TcpListener,
    tls: Option<Tls>,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let metrics = move || {
        let text = format!("{}# EOF\n", metrics());
        let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        async move { ([(http::header::CONTENT_TYPE, content_type)], text) }
    };
    let router = routes
        .route("/healthz", get(async || "ok\n"))
        .route("/metrics", get(metrics))
        .fallback(no_such_path);
    let stop = shutdown.clone();
    let serving = async move {
        match tls {
            Some(tls) => listen::serve(router, listener, &tls, stop).await,
            None => {
                // An answer that waits for the acknowledgement of the one before it waits for 40 ms.
                let listener = listener.tap_io(|stream| {
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "a connection keeps answers back");
                    }
                });
                axum::serve(listener, router)
                    .with_graceful_shutdown(stop.cancelled_owned())
                    .await
            }
        }
    };
    tokio::select! {
        result = serving => result,
        () = past(shutdown) => Ok(()),
    }
}

/// Resolves when a stopping server has had its time.
async fn past(shutdown: CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep_until(tokio::time::Instant::now() + SHUTDOWN_PATIENCE).await;
    tracing::warn!("connections were still open when the API stopped");
}

async fn wrong_method() -> Failure {
    Failure::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "The path does not take this method.",
        "/v1/openapi.json lists the methods of each path.",
    )
}

/// A defect in a handler costs its request, not the process: handlers hold no state of the cluster.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the layer gives the box away"
)]
fn panicked(cause: Box<dyn Any + Send + 'static>) -> Response {
    let what = cause
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| cause.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    tracing::error!(panic = what, "a request handler panicked");
    Failure::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "The pacemaker failed.",
        "A defect; the pacemaker's log says where.",
    )
    .into_response()
}
