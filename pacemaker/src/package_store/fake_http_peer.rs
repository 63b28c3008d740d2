//! A peer for tests: a store of its own behind the paths of replicas, which may misbehave.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use common::api::UPLOAD_OFFSET;
use common::assignment::PackageReference;
use common::digest::Digest;
use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use http::header::{HeaderMap, RANGE};
use pacemaker_client::{Connections, UPLOAD_LENGTH};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::PackageStore;
use crate::peers::{Group, Pacemakers, REPLICA_PACKAGE};

/// How a peer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// As it should.
    Well,
    /// It takes half of a body, or sends half of one, and breaks off, so often.
    BreaksOff(u32),
    /// It sends other bytes.
    Lies,
    /// Its disk is full.
    Full,
}

/// The peer, while it serves.
#[derive(Debug)]
pub(super) struct FakePeer {
    pub(super) address: SocketAddr,
    pub(super) store: PackageStore,
    _directory: TempDir,
}

struct Serving {
    store: PackageStore,
    manner: Manner,
    breaks: AtomicU32,
}

impl FakePeer {
    pub(super) async fn start(manner: Manner) -> Self {
        let (directory, store) = store();
        let serving = Arc::new(Serving {
            store: store.clone(),
            manner,
            breaks: AtomicU32::new(0),
        });
        let routes = Router::new()
            .route(REPLICA_PACKAGE, get(send).head(look_up).put(take))
            .with_state(serving);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, routes).into_future());
        Self {
            address,
            store,
            _directory: directory,
        }
    }
}

impl Serving {
    fn breaks_off(&self) -> bool {
        match self.manner {
            Manner::BreaksOff(times) => self.breaks.fetch_add(1, Ordering::Relaxed) < times,
            Manner::Well | Manner::Lies | Manner::Full => false,
        }
    }
}

async fn look_up(State(serving): State<Arc<Serving>>, Path(digest): Path<Digest>) -> Response {
    if serving.store.size(&digest).await.unwrap().is_some() {
        return StatusCode::OK.into_response();
    }
    let offset = serving.store.partial_size(&digest).await.unwrap();
    (StatusCode::NOT_FOUND, [(UPLOAD_OFFSET, offset.to_string())]).into_response()
}

async fn take(
    State(serving): State<Arc<Serving>>,
    Path(digest): Path<Digest>,
    request: Request,
) -> Response {
    if serving.manner == Manner::Full {
        return StatusCode::INSUFFICIENT_STORAGE.into_response();
    }
    let (parts, body) = request.into_parts();
    let number = |name| parts.headers[name].to_str().unwrap().parse().unwrap();
    let (offset, total): (u64, u64) = (number(UPLOAD_OFFSET), number(UPLOAD_LENGTH));
    let body = axum::body::to_bytes(body, usize::MAX).await;
    let mut body = body.unwrap();
    if serving.breaks_off() {
        body.truncate(body.len() / 2);
    }
    let pieces = stream::iter([Ok::<_, Infallible>(body)]);
    match serving.store.receive(&digest, offset, total, pieces).await {
        Ok(super::Received::Whole) => StatusCode::CREATED.into_response(),
        Ok(super::Received::Already) => StatusCode::OK.into_response(),
        Ok(super::Received::Part(_)) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Err(super::ReceiveError::Mismatch { .. }) => {
            StatusCode::UNPROCESSABLE_ENTITY.into_response()
        }
        Err(error) => panic!("{error}"),
    }
}

async fn send(
    State(serving): State<Arc<Serving>>,
    Path(digest): Path<Digest>,
    headers: HeaderMap,
) -> Response {
    let Some(size) = serving.store.size(&digest).await.unwrap() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let range = headers[RANGE].to_str().unwrap();
    let offset = range.trim_start_matches("bytes=").trim_end_matches('-');
    let offset: u64 = offset.parse().unwrap();
    let bytes = serving.store.read(&digest, size, offset).await.unwrap();
    let mut bytes: Vec<io::Result<Bytes>> = bytes.unwrap().collect().await;
    if serving.manner == Manner::Lies {
        let lie = vec![0; usize::try_from(size - offset).unwrap()];
        bytes = vec![Ok(Bytes::from(lie))];
    }
    if serving.breaks_off() {
        bytes.truncate(bytes.len() / 2);
        bytes.push(Err(io::Error::other("broken off")));
    }
    Body::from_stream(stream::iter(bytes)).into_response()
}

/// A group of voters: this one, number 1, and those at these addresses.
pub(super) fn group(addresses: &[SocketAddr]) -> Pacemakers {
    let members: BTreeMap<u64, String> = (2..)
        .zip(addresses)
        .map(|(member, address)| (member, address.to_string()))
        .chain([(1, "127.0.0.1:1".to_owned())])
        .collect();
    let voters: BTreeSet<u64> = members.keys().copied().collect();
    let group = Group {
        me: 1,
        term: 1,
        leader: Some(1),
        voters: vec![voters],
        members,
    };
    Pacemakers::new(
        move || group.clone(),
        Connections::new(None).unwrap(),
        "token",
    )
}

/// A listener that nobody serves: connections are made, and nothing is ever answered.
pub(super) async fn deaf() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address at which nobody listens.
pub(super) async fn nobody() -> SocketAddr {
    let (listener, address) = deaf().await;
    drop(listener);
    address
}

pub(super) fn store() -> (TempDir, PackageStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = PackageStore::open(directory.path().to_owned()).unwrap();
    (directory, store)
}

/// Stores a package of several pieces.
pub(super) async fn put(store: &PackageStore) -> PackageReference {
    let content: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let package = PackageReference {
        digest: Digest::of(&content),
        size: content.len() as u64,
    };
    let body = stream::iter([Ok::<_, Infallible>(Bytes::from(content))]);
    store
        .receive(&package.digest, 0, package.size, body)
        .await
        .unwrap();
    package
}
