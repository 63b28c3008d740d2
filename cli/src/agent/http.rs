//! The node's one HTTP port, shared by the roles.
//!
//! The port answers from the first moment; each role adds its routes when it has started. Owns
//! `/metrics` (all roles, one document) and `/healthz` (which roles run); everything else belongs to the roles.

use std::sync::{Arc, RwLock};

use axum::Json;
use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use common::api::{PROBLEM_CONTENT_TYPE, Problem};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// The type of Prometheus' text format, as `OpenMetrics` writes it.
const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of one role, without the closing line.
pub(crate) type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// What the port serves: the routes of the roles that have started.
#[derive(Clone, Default)]
pub(crate) struct Port {
    shared: Arc<RwLock<Served>>,
}

#[derive(Default)]
struct Served {
    routes: Router,
    roles: Vec<(&'static str, Metrics)>,
    /// Roles that will be added; until then `/healthz` says that they are starting.
    expected: Vec<&'static str>,
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Port").finish_non_exhaustive()
    }
}

impl Port {
    /// A port that will serve these roles.
    pub(crate) fn expecting(roles: &[&'static str]) -> Self {
        let port = Self::default();
        port.write(|served| roles.clone_into(&mut served.expected));
        port
    }

    /// Adds a role that has started.
    pub(crate) fn add(&self, role: &'static str, routes: Router, metrics: Metrics) {
        self.write(|served| {
            served.routes = std::mem::take(&mut served.routes).merge(routes);
            served.roles.push((role, metrics));
            served.expected.retain(|expected| *expected != role);
        });
    }

    /// Serves until the shutdown, then lets requests under way end.
    pub(crate) async fn serve(
        self,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> std::io::Result<()> {
        let (health, metrics, rest) = (self.clone(), self.clone(), self);
        let routes = Router::new()
            .route("/healthz", get(move || async move { health.health() }))
            .route("/metrics", get(move || async move { metrics.metrics() }))
            .fallback(move |request: Request| async move { rest.pass(request).await });
        axum::serve(listener, routes)
            .with_graceful_shutdown(shutdown.cancelled_owned())
            .await
    }

    fn write(&self, change: impl FnOnce(&mut Served)) {
        let mut served = self
            .shared
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut served);
    }

    fn read<T>(&self, look: impl FnOnce(&Served) -> T) -> T {
        let served = self
            .shared
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        look(&served)
    }

    fn health(&self) -> Response {
        self.read(|served| {
            let running: Vec<&str> = served.roles.iter().map(|(role, _)| *role).collect();
            let status = if served.expected.is_empty() {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            let body = serde_json::json!({ "running": running, "starting": served.expected });
            (status, Json(body)).into_response()
        })
    }

    fn metrics(&self) -> Response {
        let sources: Vec<Metrics> = self.read(|served| {
            served
                .roles
                .iter()
                .map(|(_, metrics)| metrics.clone())
                .collect()
        });
        let mut text: String = sources.iter().map(|metrics| metrics()).collect();
        text.push_str("# EOF\n");
        ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], text).into_response()
    }

    async fn pass(&self, request: Request) -> Response {
        let (routes, is_starting) =
            self.read(|served| (served.routes.clone(), !served.expected.is_empty()));
        let path = request.uri().path().to_owned();
        match routes.fallback(nothing).oneshot(request).await {
            Ok(response) if is_starting && response.extensions().get::<Nothing>().is_some() => {
                problem(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "starting",
                    "The node is starting.",
                    format!("{path} cannot be answered yet; try again in a moment"),
                )
            }
            Ok(response) if response.extensions().get::<Nothing>().is_some() => problem(
                StatusCode::NOT_FOUND,
                "path_not_found",
                "There is nothing at this path.",
                format!("{path} is not part of the API; /v1/openapi.json describes it"),
            ),
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// Marks an answer that no role gave.
#[derive(Clone, Copy)]
struct Nothing;

async fn nothing() -> Response {
    let mut response = StatusCode::NOT_FOUND.into_response();
    response.extensions_mut().insert(Nothing);
    response
}

fn problem(status: StatusCode, code: &str, title: &str, detail: String) -> Response {
    let body = Problem {
        status: status.as_u16(),
        code: code.to_owned(),
        title: title.to_owned(),
        detail,
        faults: Vec::new(),
    };
    let mut response = (status, Json(body)).into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(PROBLEM_CONTENT_TYPE),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(port: &Port, path: &str) -> Response {
        let request = Request::builder()
            .uri(path)
            .body(axum::body::Body::empty())
            .unwrap();
        port.pass(request).await
    }

    #[tokio::test]
    async fn roles_are_served_as_they_arrive() {
        let port = Port::expecting(&["heart", "router"]);
        assert_eq!(ask(&port, "/one").await.status(), 503);
        assert_eq!(port.health().status(), 503);

        let metrics: Metrics = Arc::new(|| "a 1\n".to_owned());
        let one = Router::new().route("/one", get(|| async { "one" }));
        port.add("heart", one, metrics.clone());
        port.add("router", Router::new(), metrics);

        assert_eq!(ask(&port, "/one").await.status(), 200);
        assert_eq!(ask(&port, "/two").await.status(), 404);
        assert_eq!(port.health().status(), 200);
        let body = axum::body::to_bytes(port.metrics().into_body(), 100).await;
        assert_eq!(&body.unwrap()[..], b"a 1\na 1\n# EOF\n");
    }
}
