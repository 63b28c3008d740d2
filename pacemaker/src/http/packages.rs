//! Packages by digest: look up, upload that resumes, download.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use common::api::UPLOAD_OFFSET;
use common::assignment::PackageReference;
use common::digest::Digest;
use futures_util::StreamExt as _;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use pacemaker_client::UPLOAD_LENGTH;
use pacemaker_core::command::Command;

use crate::http::Api;
use crate::http::error::{Answer, Failure};
use crate::http::extract::Path;
use crate::package_store::{PACKAGE_MAX_BYTES, ReceiveError, Received};

/// How long the rest of a body is read that nobody needs, so that its sender hears the answer.
const DRAIN_PATIENCE: Duration = Duration::from_secs(20);

/// HEAD [`paths::PACKAGE`](common::api::paths::PACKAGE).
pub(crate) async fn look_up(
    State(api): State<Arc<Api>>,
    Path(digest): Path<Digest>,
) -> Answer<Response> {
    let stored = stored(&api, &digest).await?;
    let is_committed = api.replica.read(|state| state.has_package(&digest));
    match stored {
        Some(size) if is_committed => {
            let mut response = StatusCode::OK.into_response();
            response
                .headers_mut()
                .insert(CONTENT_LENGTH, HeaderValue::from(size));
            Ok(response)
        }
        // Whole on disk, and the log does not say so: an upload of no bytes ends it.
        Some(size) => Err(absent(&digest, size)),
        None => {
            let offset = api
                .packages
                .partial_size(&digest)
                .await
                .map_err(|error| Failure::internal("looking up a package", &error))?;
            Err(absent(&digest, offset))
        }
    }
}

/// GET [`paths::PACKAGE`](common::api::paths::PACKAGE).
pub(crate) async fn download(
    State(api): State<Arc<Api>>,
    Path(digest): Path<Digest>,
    headers: HeaderMap,
) -> Answer<Response> {
    let Some(size) = stored(&api, &digest).await? else {
        return Err(absent(&digest, 0));
    };
    let offset = match headers.get(RANGE) {
        None => 0,
        Some(range) => beginning(range)
            .filter(|offset| *offset <= size)
            .ok_or_else(|| {
                Failure::new(
                    StatusCode::RANGE_NOT_SATISFIABLE,
                    "range_invalid",
                    "The range cannot be sent.",
                    format!("Ranges of the form `bytes=N-` are sent, with N at most {size}."),
                )
            })?,
    };
    let sent = api.metrics.package_bytes_sent.clone();
    let bytes = api
        .packages
        .read(&digest, offset)
        .await
        .map_err(|error| Failure::internal("reading a package", &error))?
        .inspect(move |piece| {
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
    Ok(response)
}

/// PUT [`paths::PACKAGE`](common::api::paths::PACKAGE).
pub(crate) async fn upload(
    State(api): State<Arc<Api>>,
    Path(digest): Path<Digest>,
    request: Request,
) -> Answer<Response> {
    let (parts, body) = request.into_parts();
    let mut body = body.into_data_stream();
    let answer = receive(&api, &digest, &parts.headers, &mut body).await;
    if !matches!(answer, Ok(Received::Whole | Received::Part(_))) {
        drain(body).await;
    }
    let received = answer?;
    if let Received::Part(length) = received {
        let header = [(UPLOAD_OFFSET, length.to_string())];
        return Ok((StatusCode::ACCEPTED, header).into_response());
    }
    let was_committed = commit(&api, digest, received).await?;
    let status = if was_committed {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    Ok(status.into_response())
}

async fn receive<E>(
    api: &Api,
    digest: &Digest,
    headers: &HeaderMap,
    body: &mut (impl futures_util::Stream<Item = Result<bytes::Bytes, E>> + Unpin),
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
    let arrived = api.metrics.package_bytes_received.clone();
    let counted = body.inspect(move |piece| {
        if let Ok(piece) = piece {
            arrived.inc_by(piece.len() as u64);
        }
    });
    api.packages
        .receive(digest, offset, total, counted)
        .await
        .map_err(|error| refusal(error, total))
}

/// Tells the cluster of a package that is whole here; true when it knew.
async fn commit(api: &Api, digest: Digest, received: Received) -> Answer<bool> {
    if api.replica.read(|state| state.has_package(&digest)) {
        return Ok(true);
    }
    if received == Received::Already {
        api.packages
            .make_durable(&digest)
            .await
            .map_err(|error| Failure::internal("storing a package", &error))?;
    }
    let Some(size) = stored(api, &digest).await? else {
        return Err(absent(&digest, 0));
    };
    let package = PackageReference { digest, size };
    api.propose(Command::CommitPackage { package }).await?;
    Ok(false)
}

async fn stored(api: &Api, digest: &Digest) -> Answer<Option<u64>> {
    api.packages
        .size(digest)
        .await
        .map_err(|error| Failure::internal("looking up a package", &error))
}

fn refusal(error: ReceiveError, total: u64) -> Failure {
    let offset = HeaderName::from_static(UPLOAD_OFFSET);
    match error {
        ReceiveError::Offset(length) => Failure::new(
            StatusCode::CONFLICT,
            "offset_mismatch",
            "The upload goes on elsewhere.",
            format!("{length} of {total} bytes have arrived; go on from there."),
        )
        .with_header(offset, length),
        ReceiveError::TooLong(announced) => Failure::bad_request(
            "upload_too_long",
            format!("More came than the announced {announced} bytes; nothing is kept."),
        ),
        ReceiveError::Mismatch { found } => Failure::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "digest_mismatch",
            "The bytes are not the package.",
            format!("Their SHA-256 is {found}; nothing is kept. Upload it again from the start."),
        ),
        ReceiveError::BrokenOff { length } => Failure::bad_request(
            "upload_broken_off",
            format!("{length} of {total} bytes have arrived and are kept; go on from there."),
        )
        .with_header(offset, length),
        ReceiveError::Full => Failure::storage_full("The package"),
        ReceiveError::Io(error) => Failure::internal("storing a package", &error),
    }
}

fn absent(digest: &Digest, offset: u64) -> Failure {
    Failure::not_found(
        "package_not_found",
        format!("Package {digest} is not stored; {offset} bytes of it have arrived."),
    )
    .with_header(HeaderName::from_static(UPLOAD_OFFSET), offset)
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
async fn drain<E>(mut body: impl futures_util::Stream<Item = Result<bytes::Bytes, E>> + Unpin) {
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
