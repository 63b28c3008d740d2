//! The node's one HTTP port, shared by the roles.
//!
//! The port accepts from the first moment; each role adds its routes when it has started, and a
//! request that comes earlier waits for it. Owns `/metrics` (all roles, one document) and `/healthz`
//! (which roles run); everything else belongs to the roles.

mod listener;

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use common::api::{PROBLEM_CONTENT_TYPE, Problem};
use pacemaker_client::tls::Tls;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// The type of Prometheus' text format, as `OpenMetrics` writes it.
const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How long a request waits for a role that is starting: a pacemaker reads its log meanwhile. Shorter
/// than clients wait for an answer.
const START_LIMIT: Duration = Duration::from_secs(10);

/// The metrics of one role, without the closing line.
pub(crate) type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// What the port serves: the routes of the roles that have started.
#[derive(Clone)]
pub(crate) struct Port {
    served: watch::Sender<Served>,
}

#[derive(Clone, Default)]
struct Served {
    routes: Router,
    roles: Vec<(&'static str, Metrics)>,
    /// Roles that will be added.
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
        let served = Served {
            expected: roles.to_vec(),
            ..Served::default()
        };
        Self {
            served: watch::Sender::new(served),
        }
    }

    /// Adds a role that has started.
    pub(crate) fn add(&self, role: &'static str, routes: Router, metrics: Metrics) {
        self.served.send_modify(|served| {
            served.routes = std::mem::take(&mut served.routes).merge(routes);
            served.roles.push((role, metrics));
            served.expected.retain(|expected| *expected != role);
        });
    }

    /// Serves until the shutdown, with certificates where there are any.
    pub(crate) async fn serve(
        self,
        listener: TcpListener,
        tls: Option<Tls>,
        shutdown: CancellationToken,
    ) -> Result<(), Infallible> {
        let (health, metrics, rest) = (self.clone(), self.clone(), self);
        let routes = Router::new()
            .route("/healthz", get(move || async move { health.health() }))
            .route("/metrics", get(move || async move { metrics.metrics() }))
            .fallback(move |request: Request| async move { rest.pass(request).await });
        listener::serve(listener, tls, routes, shutdown).await;
        Ok(())
    }

    fn health(&self) -> Response {
        let served = self.served.borrow();
        let running: Vec<&str> = served.roles.iter().map(|(role, _)| *role).collect();
        let status = if served.expected.is_empty() {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        let body = serde_json::json!({ "running": running, "starting": served.expected });
        (status, Json(body)).into_response()
    }

    fn metrics(&self) -> Response {
        let roles = self.served.borrow().roles.clone();
        let mut text: String = roles.iter().map(|(_, metrics)| metrics()).collect();
        text.push_str("# EOF\n");
        ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], text).into_response()
    }

    /// Lets the roles answer; what none of them knows waits for those that are starting.
    async fn pass(&self, mut request: Request) -> Response {
        let path = request.uri().path().to_owned();
        let mut changes = self.served.subscribe();
        loop {
            let served = changes.borrow_and_update().clone();
            let routes = served.routes.fallback(give_back);
            let mut response = match routes.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            let Some(GivenBack(returned)) = response.extensions_mut().remove() else {
                return response;
            };
            let returned = returned
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            match returned {
                Some(returned) if !served.expected.is_empty() => request = returned,
                Some(_) | None => return not_found(&path),
            }
            if timeout(START_LIMIT, changes.changed()).await.is_err() {
                return starting(&path);
            }
        }
    }
}

/// A request that no role knows, on its way back.
#[derive(Clone)]
struct GivenBack(Arc<Mutex<Option<Request>>>);

async fn give_back(request: Request) -> Response {
    let mut response = StatusCode::NOT_FOUND.into_response();
    let given_back = GivenBack(Arc::new(Mutex::new(Some(request))));
    response.extensions_mut().insert(given_back);
    response
}

fn starting(path: &str) -> Response {
    problem(
        StatusCode::SERVICE_UNAVAILABLE,
        "starting",
        "The node is starting.",
        format!("{path} cannot be answered yet; try again in a moment"),
    )
}

fn not_found(path: &str) -> Response {
    problem(
        StatusCode::NOT_FOUND,
        "path_not_found",
        "There is nothing at this path.",
        format!("{path} is not part of the API; /v1/openapi.json describes it"),
    )
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
    async fn a_request_waits_for_the_role_that_answers_it() {
        let port = Port::expecting(&["heart", "router"]);
        let metrics: Metrics = Arc::new(|| "a 1\n".to_owned());
        let one = Router::new().route("/one", get(|| async { "one" }));
        assert_eq!(port.health().status(), 503);

        let early = port.clone();
        let waiting = tokio::spawn(async move { ask(&early, "/one").await.status() });
        port.add("router", Router::new(), metrics.clone());
        port.add("heart", one, metrics);

        assert_eq!(waiting.await.unwrap(), 200);
        assert_eq!(ask(&port, "/two").await.status(), 404);
        assert_eq!(port.health().status(), 200);
        let body = axum::body::to_bytes(port.metrics().into_body(), 100).await;
        assert_eq!(&body.unwrap()[..], b"a 1\na 1\n# EOF\n");
    }

    #[tokio::test]
    async fn a_request_that_goes_on_does_not_keep_the_port() {
        let port = Port::expecting(&["heart"]);
        let (arrived, mut arrivals) = tokio::sync::mpsc::channel(1);
        let endless = move || async move {
            arrived.send(()).await.unwrap();
            std::future::pending::<()>().await;
        };
        let routes = Router::new().route("/log", get(endless));
        port.add("heart", routes, Arc::new(String::new));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(port.serve(listener, None, shutdown.clone()));
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET /log HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        arrivals.recv().await.unwrap();

        shutdown.cancel();

        let ended = timeout(listener::SHUTDOWN_PATIENCE * 5, serving).await;
        ended.unwrap().unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_role_that_never_starts_is_not_waited_for_without_end() {
        let port = Port::expecting(&["pacemaker"]);
        assert_eq!(ask(&port, "/one").await.status(), 503);
    }
}
