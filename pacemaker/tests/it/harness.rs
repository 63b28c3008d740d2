//! One pacemaker on port 0 with a directory of its own, and a way to kill it.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use pacemaker::{ClusterSettings, Config, WallClock};
use pacemaker_client::Client;
use reqwest::Method;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const ADMINISTRATOR: &str = "administrator-token-0123456789abcdef";
pub(crate) const NODE: &str = "node-token-0123456789abcdef01234567890";
/// How long a test waits for a level.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at a level.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// A pacemaker in a runtime of its own, so that it can be dropped as a crash would.
pub(crate) struct Pacemaker {
    pub(crate) url: String,
    pub(crate) address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
    running: Option<JoinHandle<Result<(), pacemaker::Error>>>,
    shutdown: CancellationToken,
}

impl Pacemaker {
    pub(crate) async fn start(directory: &Path) -> Self {
        Self::start_with(config(directory)).await
    }

    /// Starts it at `config.advertise`, or on a free port where that is port 0, and waits until it is ready.
    pub(crate) async fn start_with(config: Config) -> Self {
        let started = Self::launch(config).await;
        started.ready().await;
        started
    }

    /// Starts it, whether it will be ready or not.
    pub(crate) async fn launch(mut config: Config) -> Self {
        let listener = eventually("the address is free", async || {
            let listener = std::net::TcpListener::bind(&config.advertise).ok()?;
            listener.set_nonblocking(true).ok()?;
            Some(listener)
        })
        .await;
        let address = listener.local_addr().unwrap();
        config.advertise = address.to_string();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let running = runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            pacemaker::run(config, listener, stop).await
        });
        Self {
            url: format!("http://{address}"),
            address,
            runtime: Some(runtime),
            running: Some(running),
            shutdown,
        }
    }

    pub(crate) async fn ready(&self) {
        eventually("the pacemaker is ready", async || {
            let running = self.running.as_ref().unwrap();
            assert!(!running.is_finished(), "the pacemaker ended");
            let answer = reqwest::get(format!("{}/readyz", self.url)).await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    /// Stops it in order, and says how it ended.
    pub(crate) async fn stop(mut self) -> Result<(), pacemaker::Error> {
        self.shutdown.cancel();
        self.running.take().unwrap().await.unwrap()
    }

    /// Drops everything where it stands.
    pub(crate) fn crash(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub(crate) fn administrator(&self) -> Client {
        Client::new(std::slice::from_ref(&self.url), ADMINISTRATOR).unwrap()
    }

    pub(crate) fn node(&self) -> Client {
        Client::new(std::slice::from_ref(&self.url), NODE).unwrap()
    }

    /// A request of the administrator; `path` is sent as it is.
    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        reqwest::Client::new()
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(ADMINISTRATOR)
    }
}

impl Drop for Pacemaker {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(crate) fn config(directory: &Path) -> Config {
    Config {
        member: 1,
        founder: true,
        advertise: "127.0.0.1:0".to_owned(),
        cluster: None,
        authority: None,
        tls: None,
        description: None,
        join_tokens: Vec::new(),
        node_key: "node-key".to_owned(),
        data_dir: directory.to_owned(),
        cluster_hostname: "localhost".to_owned(),
        router_port: 4253,
        administrator_token: ADMINISTRATOR.to_owned(),
        node_token: NODE.to_owned(),
        settings: ClusterSettings::default(),
        wall_clock: WallClock::system(),
        crash_at: None,
    }
}

pub(crate) async fn fresh() -> (TempDir, Pacemaker) {
    let directory = tempfile::tempdir().unwrap();
    let pacemaker = Pacemaker::start(directory.path()).await;
    (directory, pacemaker)
}

/// Status and code of an error answer, which must be a problem document.
pub(crate) async fn problem(answer: reqwest::Response) -> (u16, String) {
    let status = answer.status().as_u16();
    let content_type = answer.headers()["content-type"]
        .to_str()
        .unwrap()
        .to_owned();
    let text = answer.text().await.unwrap();
    assert_eq!(content_type, "application/problem+json", "{status} {text}");
    let problem: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(problem["status"], status);
    assert!(!problem["title"].as_str().unwrap().is_empty());
    (status, problem["code"].as_str().unwrap().to_owned())
}

/// Waits until `look` sees the level.
pub(crate) async fn eventually<T, Looking: Future<Output = Option<T>>>(
    level: &str,
    mut look: impl FnMut() -> Looking,
) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut interval = tokio::time::interval(LOOK_INTERVAL);
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "not in time: {level}"
        );
        interval.tick().await;
    }
}
