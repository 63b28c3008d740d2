//! A pacemaker played by the test, over real HTTP: it says what it is told to say and remembers
//! what it hears.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use common::api::{LOG_OFFSET, UPLOAD_OFFSET, paths};
use common::assignment::{
    AssignedBuild, AssignedInstance, Assignment, BuildState, HeartReport, InstanceReport,
    PackageReference, Report,
};
use common::digest::Digest;
use common::id::{Generation, InstanceId, JobId, NodeId};
use common::time::Span;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The node of all tests.
pub(crate) const NODE: NodeId = NodeId(1);

/// The pacemaker; cloning it shares it.
#[derive(Clone)]
pub(crate) struct Pacemaker {
    shared: Arc<Shared>,
    pub(crate) address: SocketAddr,
    serving: Arc<Mutex<CancellationToken>>,
    /// True while it takes requests and answers none.
    hanging: Arc<watch::Sender<bool>>,
}

struct Shared {
    assignment: watch::Sender<Assignment>,
    /// True while the node counts as removed.
    removed: watch::Sender<bool>,
    memory: Mutex<Memory>,
}

/// What the pacemaker has heard and holds.
#[derive(Default)]
pub(crate) struct Memory {
    /// The bytes of packages.
    pub(crate) packages: BTreeMap<Digest, Bytes>,
    /// How often each was asked for.
    pub(crate) downloads: BTreeMap<Digest, usize>,
    /// True while no report is acknowledged, as by pacemakers without a leader.
    pub(crate) is_leaderless: bool,
    /// The newest report.
    pub(crate) report: HeartReport,
    /// Whose its sender says to be.
    pub(crate) cluster: String,
    /// Reports so far.
    pub(crate) reports: usize,
    /// When the newest report came.
    pub(crate) heard: Option<Instant>,
    /// The longest time between two reports.
    pub(crate) longest_gap: Duration,
    /// Assignments given so far.
    pub(crate) assignments: usize,
    /// How often it was said that the node was removed.
    pub(crate) removals_said: usize,
    /// Every state of every instance, in the order in which they were reported.
    pub(crate) history: BTreeMap<InstanceId, Vec<InstanceReport>>,
    /// Output of builds.
    pub(crate) logs: BTreeMap<JobId, Vec<u8>>,
    /// Answers broken off after this many bytes of a package.
    pub(crate) break_downloads_after: Option<usize>,
}

impl Pacemaker {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let empty = Assignment {
            cluster: String::new(),
            node_ttl: Span(0),
            node: NODE,
            term: 1,
            generation: Generation(1),
            instances: Vec::new(),
            builds: Vec::new(),
        };
        let shared = Arc::new(Shared {
            assignment: watch::Sender::new(empty),
            removed: watch::Sender::new(false),
            memory: Mutex::default(),
        });
        let pacemaker = Self {
            shared,
            address,
            serving: Arc::default(),
            hanging: Arc::default(),
        };
        pacemaker.serve(listener);
        pacemaker
    }

    /// Another pacemaker of the same cluster, with an address and troubles of its own.
    pub(crate) async fn another(&self) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pacemaker = Self {
            shared: Arc::clone(&self.shared),
            address: listener.local_addr().unwrap(),
            serving: Arc::default(),
            hanging: Arc::default(),
        };
        pacemaker.serve(listener);
        pacemaker
    }

    /// Takes requests and answers none of them, as a pacemaker that is paused.
    pub(crate) fn hang(&self) {
        self.hanging.send_replace(true);
    }

    /// Answers what has been asked meanwhile.
    pub(crate) fn go_on(&self) {
        self.hanging.send_replace(false);
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.shared.memory.lock().unwrap()
    }

    /// Stops answering, and breaks every connection.
    pub(crate) fn go_away(&self) {
        self.serving.lock().unwrap().cancel();
    }

    /// Answers again, at the same address.
    pub(crate) async fn come_back(&self) {
        *self.serving.lock().unwrap() = CancellationToken::new();
        let listener = loop {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            match socket.bind(self.address).and_then(|()| socket.listen(64)) {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        self.serve(listener);
    }

    /// Changes the assignment and its generation.
    pub(crate) fn assign(&self, change: impl FnOnce(&mut Assignment)) -> Generation {
        let mut generation = Generation(0);
        self.shared.assignment.send_modify(|assignment| {
            change(assignment);
            assignment.generation.0 += 1;
            generation = assignment.generation;
        });
        generation
    }

    /// Assigns exactly these instances.
    /// Takes the node out of the cluster, or (which no pacemaker does) takes that back.
    pub(crate) fn remove_node(&self, is_removed: bool) {
        self.shared.removed.send_replace(is_removed);
    }

    pub(crate) fn assign_instances(&self, instances: Vec<AssignedInstance>) -> Generation {
        self.assign(|assignment| assignment.instances = instances)
    }

    /// Assigns exactly these builds.
    pub(crate) fn assign_builds(&self, builds: Vec<AssignedBuild>) -> Generation {
        self.assign(|assignment| assignment.builds = builds)
    }

    /// Takes a package into the store.
    pub(crate) fn store(&self, bytes: Vec<u8>) -> PackageReference {
        let reference = PackageReference {
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
        };
        self.memory()
            .packages
            .insert(reference.digest.clone(), bytes.into());
        reference
    }

    /// What the newest report says of an instance.
    pub(crate) fn instance(&self, id: InstanceId) -> Option<InstanceReport> {
        let memory = self.memory();
        let mut instances = memory.report.instances.iter();
        instances.find(|report| report.id == id).cloned()
    }

    /// What the newest report says of a build.
    pub(crate) fn build(&self, job: JobId) -> Option<BuildState> {
        let memory = self.memory();
        let mut builds = memory.report.builds.iter();
        builds
            .find(|report| report.job == job)
            .map(|report| report.state.clone())
    }

    /// The states that an instance has been reported in, without repetitions.
    pub(crate) fn history(&self, id: InstanceId) -> Vec<InstanceReport> {
        self.memory().history.get(&id).cloned().unwrap_or_default()
    }

    fn serve(&self, listener: TcpListener) {
        let router = Router::new()
            .route(paths::ASSIGNMENT, get(watch_assignment))
            .route(paths::REPORTS, post(take_report))
            .route(paths::PACKAGE, get(download).head(look_up).put(upload))
            .route(paths::JOB_LOG, post(append_log))
            .layer(from_fn_with_state(
                Arc::clone(&self.hanging),
                wait_while_hanging,
            ))
            .with_state(Arc::clone(&self.shared));
        let serving = self.serving.lock().unwrap().clone();
        tokio::spawn(async move {
            // Dropping the accept loop does not break connections; each is served under the token.
            loop {
                let accepted = tokio::select! {
                    () = serving.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((stream, _)) = accepted else { continue };
                let service = hyper_util::service::TowerToHyperService::new(router.clone());
                let serving = serving.clone();
                tokio::spawn(async move {
                    let stream = hyper_util::rt::TokioIo::new(stream);
                    let connection = hyper::server::conn::http1::Builder::new()
                        .serve_connection(stream, service);
                    tokio::select! {
                        () = serving.cancelled() => {}
                        result = connection => drop(result),
                    }
                });
            }
        });
    }
}

/// Lets nothing in and nothing out while the pacemaker hangs.
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

#[derive(Deserialize)]
struct After {
    after: u64,
}

async fn watch_assignment(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<After>,
) -> Response {
    let mut assignment = shared.assignment.subscribe();
    let mut removed = shared.removed.subscribe();
    let newer = assignment.wait_for(|assignment| assignment.generation.0 > query.after);
    let newer = tokio::time::timeout(Duration::from_secs(30), newer);
    let answer = tokio::select! {
        biased;
        _ = removed.wait_for(|removed| *removed) => return removal(&shared),
        answer = newer => answer,
    };
    match answer {
        Ok(Ok(assignment)) => {
            shared.memory.lock().unwrap().assignments += 1;
            axum::Json(assignment.clone()).into_response()
        }
        Ok(Err(_)) | Err(_) => StatusCode::NO_CONTENT.into_response(),
    }
}

fn removal(shared: &Shared) -> Response {
    shared.memory.lock().unwrap().removals_said += 1;
    let problem = serde_json::json!({
        "type": "about:blank",
        "title": "The node was removed from the cluster.",
        "status": 403,
        "code": "node_removed",
        "detail": "Node 1 was removed.",
    });
    (StatusCode::FORBIDDEN, axum::Json(problem)).into_response()
}

async fn take_report(
    State(shared): State<Arc<Shared>>,
    axum::Json(report): axum::Json<Report>,
) -> StatusCode {
    let mut memory = shared.memory.lock().unwrap();
    if memory.is_leaderless {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let Some(heart) = report.heart else {
        return StatusCode::BAD_REQUEST;
    };
    for instance in &heart.instances {
        let history = memory.history.entry(instance.id).or_default();
        if history.last() != Some(instance) {
            history.push(instance.clone());
        }
    }
    memory.report = heart;
    memory.cluster = report.cluster;
    memory.reports += 1;
    let now = Instant::now();
    let gap = memory.heard.map_or(Duration::ZERO, |heard| now - heard);
    memory.longest_gap = memory.longest_gap.max(gap);
    memory.heard = Some(now);
    StatusCode::NO_CONTENT
}

async fn download(
    State(shared): State<Arc<Shared>>,
    Path(digest): Path<Digest>,
    headers: HeaderMap,
) -> Response {
    let mut memory = shared.memory.lock().unwrap();
    let Some(bytes) = memory.packages.get(&digest).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    *memory.downloads.entry(digest).or_default() += 1;
    let offset: usize = headers
        .get(header::RANGE)
        .and_then(|range| {
            range
                .to_str()
                .ok()?
                .strip_prefix("bytes=")?
                .strip_suffix('-')
        })
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let rest = bytes.slice(offset.min(bytes.len())..);
    match memory.break_downloads_after.take() {
        Some(length) => {
            let part: Result<Bytes, std::io::Error> = Ok(rest.slice(..length.min(rest.len())));
            let broken = Err(std::io::Error::other("broken off"));
            Body::from_stream(futures_util::stream::iter([part, broken])).into_response()
        }
        None => rest.into_response(),
    }
}

async fn look_up(State(shared): State<Arc<Shared>>, Path(digest): Path<Digest>) -> Response {
    if shared.memory.lock().unwrap().packages.contains_key(&digest) {
        StatusCode::OK.into_response()
    } else {
        (StatusCode::NOT_FOUND, [(UPLOAD_OFFSET, "0")]).into_response()
    }
}

async fn upload(
    State(shared): State<Arc<Shared>>,
    Path(digest): Path<Digest>,
    bytes: Bytes,
) -> StatusCode {
    if Digest::of(&bytes) != digest {
        return StatusCode::UNPROCESSABLE_ENTITY;
    }
    shared.memory.lock().unwrap().packages.insert(digest, bytes);
    StatusCode::CREATED
}

#[derive(Deserialize)]
struct Offset {
    offset: usize,
}

async fn append_log(
    State(shared): State<Arc<Shared>>,
    Path(job): Path<u64>,
    Query(query): Query<Offset>,
    bytes: Bytes,
) -> Response {
    let mut memory = shared.memory.lock().unwrap();
    let log = memory.logs.entry(JobId(job)).or_default();
    let is_next = log.len() == query.offset;
    if is_next {
        log.extend_from_slice(&bytes);
    }
    let status = if is_next {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::CONFLICT
    };
    (status, [(LOG_OFFSET, log.len().to_string())]).into_response()
}
