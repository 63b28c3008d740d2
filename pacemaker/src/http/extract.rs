//! What a request brings, with refusals as problem documents.
//!
//! A path parameter that does not parse leads to no thing: 404, whatever was tried with it.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody, JsonRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use common::api::IDEMPOTENCY_KEY;
use http::StatusCode;
use http::request::Parts;
use pacemaker_core::command::Command;
use serde::de::DeserializeOwned;

use crate::http::error::Failure;
use crate::http::reports::REPORT_MAX_BYTES;

/// The longest `Idempotency-Key`, characters; the state keeps keys for a while.
const KEY_MAX_CHARACTERS: usize = 128;

/// Parameters of the path.
#[derive(Debug)]
pub(crate) struct Path<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        axum::extract::Path::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Path(value)| Self(value))
            .map_err(|_| Failure::no_such_path())
    }
}

/// Parameters behind the question mark.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        axum::extract::Query::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Query(value)| Self(value))
            .map_err(|error| Failure::bad_request("query_invalid", error.body_text()))
    }
}

/// A JSON body.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        match axum::Json::from_request(request, state).await {
            Ok(axum::Json(value)) => Ok(Self(value)),
            Err(JsonRejection::MissingJsonContentType(_)) => Err(Failure::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "media_type",
                "The body has the wrong type.",
                "Send JSON with the header `Content-Type: application/json`.",
            )),
            Err(JsonRejection::BytesRejection(error)) => Err(body_failure(error)),
            Err(error) => Err(Failure::bad_request("body_invalid", error.body_text())),
        }
    }
}

/// A body of bytes.
#[derive(Debug)]
pub(crate) struct Raw(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        Bytes::from_request(request, state)
            .await
            .map(Self)
            .map_err(body_failure)
    }
}

fn body_failure(error: BytesRejection) -> Failure {
    match error {
        BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => {
            Failure::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "The body is too large.",
                format!(
                    "At most {} bytes are taken, of a report {REPORT_MAX_BYTES}.",
                    common::api::BODY_MAX_BYTES
                ),
            )
        }
        other => Failure::bad_request("body_broken_off", other.body_text()),
    }
}

/// The `Idempotency-Key`, when the client gave one.
#[derive(Debug)]
pub(crate) struct Key(Option<String>);

impl Key {
    /// As the client gave it.
    pub(crate) fn text(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// The command, to have its effect once under this key.
    pub(crate) fn once(self, command: Command) -> Command {
        match self.0 {
            Some(key) => Command::Once {
                key,
                command: Box::new(command),
            },
            None => command,
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Key {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let Some(value) = parts.headers.get(IDEMPOTENCY_KEY) else {
            return Ok(Self(None));
        };
        match value.to_str() {
            Ok(key) if !key.is_empty() && key.len() <= KEY_MAX_CHARACTERS => {
                Ok(Self(Some(key.to_owned())))
            }
            _ => Err(Failure::bad_request(
                "idempotency_key_invalid",
                format!(
                    "`Idempotency-Key` has 1 to {KEY_MAX_CHARACTERS} visible ASCII characters."
                ),
            )),
        }
    }
}
