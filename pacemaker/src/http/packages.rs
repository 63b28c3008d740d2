//! Packages by digest: look up, upload that resumes, download; and the same among pacemakers.

mod failures;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use common::api::UPLOAD_OFFSET;
use common::assignment::PackageReference;
use common::digest::Digest;
use futures_util::{Stream, StreamExt as _, stream};
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderMap, HeaderValue, StatusCode};
use pacemaker_client::UPLOAD_LENGTH;
use pacemaker_core::command::Command;
use pacemaker_core::state::limits::PACKAGE_GRACE;

use crate::http::Api;
use crate::http::error::{Answer, Failure};
use crate::http::extract::Path;
use crate::http::packages::failures::{absent, not_fetched, not_pushed, refusal};
use crate::package_store::{PACKAGE_MAX_BYTES, Received};
use crate::raft::ProposeError;

/// How long the rest of a body is read that nobody needs, so that its sender hears the answer.
const DRAIN_PATIENCE: Duration = Duration::from_secs(20);
/// How often the cluster is told of a package: leaders do not change more often in a row.
const TELLINGS_MAX: u32 = 5;
/// Packages that are named when a peer asks what is lacking: it asks again.
const LACKING_MAX: usize = 1_000;

/// HEAD [`paths::PACKAGE`](common::api::paths::PACKAGE).
pub(crate) async fn look_up(
    State(api): State<Arc<Api>>,
    Path(digest): Path<Digest>,
) -> Answer<Response> {
    let stored = stored(&api, &digest).await?;
    match (stored, committed(&api, &digest)) {
        (None, Some(size)) if api.packages.fetches.is_elsewhere(&digest).await => {
            renew(&api, &digest, size).await?;
            Ok(present(size))
        }
        (Some(size), Some(_)) => {
            renew(&api, &digest, size).await?;
            Ok(present(size))
        }
        // Whole on disk, and the log does not say so: an upload of no bytes ends it.
        (Some(size), None) => Err(absent(&digest, size)),
        (None, _) => Err(absent(&digest, arrived(&api, &digest).await?)),
    }
}

/// GET [`paths::PACKAGE`](common::api::paths::PACKAGE).
pub(crate) async fn download(
    State(api): State<Arc<Api>>,
    Path(digest): Path<Digest>,
    headers: HeaderMap,
) -> Answer<Response> {
    let here = stored(&api, &digest).await?;
    if here.is_none() && committed(&api, &digest).is_none() {
        // It may have been committed by another pacemaker a moment ago.
        api.proposer.barrier().await?;
    }
    let Some(size) = committed(&api, &digest).or(here) else {
        return Err(absent(&digest, 0));
    };
    let offset = offset_of(&headers, size)?;
    let kept = read(&api, &digest, size, offset).await?;
    let package = PackageReference { digest, size };
    match kept {
        Some(bytes) => Ok(answer(&api, bytes, size, offset)),
        None => {
            let mut bytes = api.packages.fetches.stream(&package, offset);
            let first = match bytes.next().await {
                Some(Err(error)) => return Err(not_fetched(&error, &package)),
                first => first,
            };
            let bytes = stream::iter(first).chain(bytes);
            Ok(answer(&api, bytes, size, offset))
        }
    }
}

/// PUT [`paths::PACKAGE`](common::api::paths::PACKAGE).
pub(crate) async fn upload(
    State(api): State<Arc<Api>>,
    Path(digest): Path<Digest>,
    request: Request,
) -> Answer<Response> {
    // The collector must not come between the last byte and the log's entry.
    let kept = api.packages.store.keep(&digest);
    let received = take(&api, &digest, request).await?;
    if let Received::Part(length) = received {
        return Ok(partial(length));
    }
    let was_committed = commit(&api, digest, received).await?;
    drop(kept);
    let status = if was_committed {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    Ok(status.into_response())
}

/// HEAD [`REPLICA_PACKAGE`](crate::peers::REPLICA_PACKAGE).
pub(crate) async fn replica_look_up(
    State(api): State<Arc<Api>>,
    Path(digest): Path<Digest>,
) -> Answer<Response> {
    let kept = api.packages.store.keep(&digest);
    let Some(size) = stored(&api, &digest).await? else {
        return Err(absent(&digest, arrived(&api, &digest).await?));
    };
    if committed(&api, &digest).is_none() {
        make_durable(&api, &digest).await?;
    }
    drop(kept);
    Ok(present(size))
}

/// GET [`REPLICA_PACKAGE`](crate::peers::REPLICA_PACKAGE).
pub(crate) async fn replica_download(
    State(api): State<Arc<Api>>,
    Path(digest): Path<Digest>,
    headers: HeaderMap,
) -> Answer<Response> {
    let Some(here) = stored(&api, &digest).await? else {
        return Err(absent(&digest, 0));
    };
    let size = committed(&api, &digest).unwrap_or(here);
    let offset = offset_of(&headers, size)?;
    match read(&api, &digest, size, offset).await? {
        Some(bytes) => Ok(answer(&api, bytes, size, offset)),
        None => Err(absent(&digest, 0)),
    }
}

/// PUT [`REPLICA_PACKAGE`](crate::peers::REPLICA_PACKAGE).
pub(crate) async fn replica_upload(
    State(api): State<Arc<Api>>,
    Path(digest): Path<Digest>,
    request: Request,
) -> Answer<Response> {
    let kept = api.packages.store.keep(&digest);
    let received = take(&api, &digest, request).await?;
    if received == Received::Already {
        make_durable(&api, &digest).await?;
    }
    drop(kept);
    Ok(match received {
        Received::Part(length) => partial(length),
        Received::Whole => StatusCode::CREATED.into_response(),
        Received::Already => StatusCode::OK.into_response(),
    })
}

/// GET [`REPLICA_PACKAGES`](crate::peers::REPLICA_PACKAGES): some of them, when there are many.
pub(crate) async fn replica_lacking(State(api): State<Arc<Api>>) -> axum::Json<Vec<Digest>> {
    let lacking = api.packages.fetches.lacking(&api.replica);
    let some = lacking.into_iter().take(LACKING_MAX);
    axum::Json(some.map(|package| package.digest).collect())
}

/// Takes the body, or what is left of it when it is refused.
async fn take(api: &Api, digest: &Digest, request: Request) -> Answer<Received> {
    let (parts, body) = request.into_parts();
    let mut body = body.into_data_stream();
    let answer = receive(api, digest, &parts.headers, &mut body).await;
    if !matches!(answer, Ok(Received::Whole | Received::Part(_))) {
        drain(body).await;
    }
    answer
}

async fn receive<E>(
    api: &Api,
    digest: &Digest,
    headers: &HeaderMap,
    body: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
) -> Answer<Received> {
    if stored(api, digest).await?.is_some() {
        return Ok(Received::Already);
    }
    let offset = number(headers, UPLOAD_OFFSET)?;
    let total = number(headers, UPLOAD_LENGTH)?;
    if total > PACKAGE_MAX_BYTES {
        return Err(Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "package_too_large",
            "The package is too large.",
            format!("It has {total} bytes; at most {PACKAGE_MAX_BYTES} are taken."),
        ));
    }
    let counter = api.metrics.package_bytes_received.clone();
    let counted = body.inspect(move |piece| {
        if let Ok(piece) = piece {
            counter.inc_by(piece.len() as u64);
        }
    });
    api.packages
        .store
        .receive(digest, offset, total, counted)
        .await
        .map_err(|error| refusal(error, total))
}

/// Brings a package that is whole here to a majority, and tells the cluster; true when it knew.
async fn commit(api: &Api, digest: Digest, received: Received) -> Answer<bool> {
    let Some(size) = stored(api, &digest).await? else {
        return Err(absent(&digest, 0));
    };
    if committed(api, &digest) == Some(size) {
        renew(api, &digest, size).await?;
        return Ok(true);
    }
    if received == Received::Already {
        make_durable(api, &digest).await?;
    }
    let package = PackageReference { digest, size };
    api.packages
        .pushes
        .to_majority(&package)
        .await
        .map_err(|error| not_pushed(&error, &package))?;
    tell(api, package).await?;
    Ok(false)
}

/// A package that is asked for may be deployed next: its grace begins anew before it ends.
async fn renew(api: &Api, digest: &Digest, size: u64) -> Answer<()> {
    let now = api.replica.now();
    let is_old = api.replica.read(|state| {
        let record = state.packages().get(digest);
        record.is_some_and(|record| now.since(record.committed).0 > PACKAGE_GRACE.0 / 2)
    });
    if is_old {
        let package = PackageReference {
            digest: digest.clone(),
            size,
        };
        tell(api, package).await?;
    }
    Ok(())
}

/// Tells the cluster that a package is stored. Twice is once, so an answer that was lost is asked
/// for again.
async fn tell(api: &Api, package: PackageReference) -> Answer<()> {
    let command = Command::CommitPackage { package };
    for _ in 0..TELLINGS_MAX {
        match api.proposer.propose(command.clone()).await {
            Err(ProposeError::OutcomeUnknown) => {}
            told => {
                told??;
                return Ok(());
            }
        }
    }
    Err(ProposeError::OutcomeUnknown.into())
}

/// The size of a package that the cluster knows.
fn committed(api: &Api, digest: &Digest) -> Option<u64> {
    api.replica
        .read(|state| Some(state.packages().get(digest)?.size))
}

async fn stored(api: &Api, digest: &Digest) -> Answer<Option<u64>> {
    api.packages
        .store
        .size(digest)
        .await
        .map_err(|error| Failure::internal("looking up a package", &error))
}

async fn arrived(api: &Api, digest: &Digest) -> Answer<u64> {
    api.packages
        .store
        .partial_size(digest)
        .await
        .map_err(|error| Failure::internal("looking up a package", &error))
}

async fn make_durable(api: &Api, digest: &Digest) -> Answer<()> {
    api.packages
        .store
        .make_durable(digest)
        .await
        .map_err(|error| Failure::internal("storing a package", &error))
}

async fn read(
    api: &Api,
    digest: &Digest,
    size: u64,
    offset: u64,
) -> Answer<Option<impl Stream<Item = io::Result<Bytes>> + Send + use<>>> {
    api.packages
        .store
        .read(digest, size, offset)
        .await
        .map_err(|error| Failure::internal("reading a package", &error))
}

fn present(size: u64) -> Response {
    let mut response = StatusCode::OK.into_response();
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from(size));
    response
}

fn partial(length: u64) -> Response {
    let header = [(UPLOAD_OFFSET, length.to_string())];
    (StatusCode::ACCEPTED, header).into_response()
}

fn answer(
    api: &Api,
    bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    size: u64,
    offset: u64,
) -> Response {
    let sent = api.metrics.package_bytes_sent.clone();
    let bytes = bytes.inspect(move |piece| {
        if let Ok(piece) = piece {
            sent.inc_by(piece.len() as u64);
        }
    });
    let mut response = Body::from_stream(bytes).into_response();
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(size - offset));
    if offset > 0 {
        let range = format!("bytes {offset}-{}/{size}", size.saturating_sub(1));
        let range = HeaderValue::try_from(range).expect("digits and signs are a header value");
        headers.insert(CONTENT_RANGE, range);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}

fn number(headers: &HeaderMap, name: &'static str) -> Answer<u64> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok())
        .ok_or_else(|| {
            Failure::bad_request(
                "upload_headers",
                format!("An upload needs the header `{name}` with a number of bytes."),
            )
        })
}

/// Where the answer begins.
fn offset_of(headers: &HeaderMap, size: u64) -> Answer<u64> {
    let Some(range) = headers.get(RANGE) else {
        return Ok(0);
    };
    beginning(range)
        .filter(|offset| *offset <= size)
        .ok_or_else(|| {
            Failure::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "range_invalid",
                "The range cannot be sent.",
                format!("Ranges of the form `bytes=N-` are sent, with N at most {size}."),
            )
        })
}

fn beginning(range: &HeaderValue) -> Option<u64> {
    let number = range
        .to_str()
        .ok()?
        .strip_prefix("bytes=")?
        .strip_suffix('-')?;
    number.parse().ok()
}

/// Reads what is left of a body: a connection that is closed on a sending client can take the
/// answer with it.
async fn drain<E>(mut body: impl Stream<Item = Result<Bytes, E>> + Unpin) {
    let rest = async {
        let mut left = PACKAGE_MAX_BYTES;
        while let Some(Ok(piece)) = body.next().await {
            left = left.saturating_sub(piece.len() as u64);
            if left == 0 {
                return;
            }
        }
    };
    if tokio::time::timeout(DRAIN_PATIENCE, rest).await.is_err() {
        tracing::debug!("the rest of a body that nobody needs did not come in time");
    }
}
