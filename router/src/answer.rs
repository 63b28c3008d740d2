//! The answers that the router makes itself, each with a stable code.
//!
//! A load balancer asks for [`HEALTH_PATH`] by the router's own address: such a request belongs to no
//! application, and is answered with 200 while this router serves. An application that has the name
//! that was asked for gets it as any other.

use http::header::{CONNECTION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, Uri};

use crate::body::ResponseBody;

/// Says which of the router's own answers this is.
pub(crate) const ROUTER_ERROR: HeaderName = HeaderName::from_static("x-pm-router-error");

/// What a load balancer asks a router for.
pub(crate) const HEALTH_PATH: &str = "/healthz";

/// True for what a load balancer asks, if no application has the hostname.
pub(crate) fn is_health_question(method: &Method, uri: &Uri) -> bool {
    uri.path() == HEALTH_PATH && (method == Method::GET || method == Method::HEAD)
}

/// The answer to a load balancer: 503 tells it to send nobody here any more, or not yet.
pub(crate) fn health(is_serving: bool) -> Response<ResponseBody> {
    let (status, sentence) = if is_serving {
        (StatusCode::OK, "ok\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "This router has no table yet, is stopping, or was removed from its cluster.",
        )
    };
    let mut response = Response::new(ResponseBody::text(sentence));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// Why the router answers a request itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The request names no host.
    NoHost,
    /// Two places of the request name different hosts.
    HostMismatch,
    /// The request is not one that a proxy may forward.
    BadRequest,
    /// An expectation other than `100-continue`.
    BadExpectation,
    /// A transfer coding other than `chunked`.
    BadTransferCoding,
    /// `CONNECT`: this is no forward proxy.
    BadMethod,
    /// No hostname of the table fits.
    NoRoute,
    /// The route has no backend.
    NoBackend,
    /// The route holds requests, and no backend came in time.
    HoldExpired,
    /// No backend accepted a connection.
    BackendRefused,
    /// The backend closed before a whole response head.
    BackendClosed,
    /// The backend answered with something that is no HTTP.
    BackendProtocol,
    /// The backend did not answer in time.
    BackendTimeout,
    /// As many requests are at backends as this worker has descriptors for.
    Overloaded,
    /// The cluster has removed this router's node: what it knew of applications may be anyone's now.
    Removed,
}

impl Refusal {
    /// All of them, in the order of their discriminants.
    pub(crate) const ALL: [Self; 15] = [
        Self::NoHost,
        Self::HostMismatch,
        Self::BadRequest,
        Self::BadExpectation,
        Self::BadTransferCoding,
        Self::BadMethod,
        Self::NoRoute,
        Self::NoBackend,
        Self::HoldExpired,
        Self::BackendRefused,
        Self::BackendClosed,
        Self::BackendProtocol,
        Self::BackendTimeout,
        Self::Overloaded,
        Self::Removed,
    ];

    /// Its place in [`ALL`](Self::ALL).
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// Stable, for programs.
    pub(crate) fn code(self) -> &'static str {
        self.describe().0
    }

    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::NoHost | Self::HostMismatch | Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::BadExpectation => StatusCode::EXPECTATION_FAILED,
            Self::BadTransferCoding => StatusCode::NOT_IMPLEMENTED,
            Self::BadMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NoBackend | Self::HoldExpired | Self::Overloaded | Self::Removed => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::BackendRefused | Self::BackendClosed | Self::BackendProtocol => {
                StatusCode::BAD_GATEWAY
            }
            Self::BackendTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The code, and a sentence for people.
    fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::NoHost => ("no_host", "The request names no host."),
            Self::HostMismatch => ("host_mismatch", "The request names more than one host."),
            Self::BadRequest => ("bad_request", "The request cannot be forwarded."),
            Self::BadExpectation => (
                "bad_expectation",
                "Only `Expect: 100-continue` is understood.",
            ),
            Self::BadTransferCoding => (
                "bad_transfer_coding",
                "Only `Transfer-Encoding: chunked` is understood.",
            ),
            Self::BadMethod => ("bad_method", "CONNECT is not served here."),
            Self::NoRoute => ("no_route", "No application has this hostname."),
            Self::NoBackend => ("no_backend", "The application has no running instance."),
            Self::HoldExpired => (
                "hold_expired",
                "The application is between two versions and took too long.",
            ),
            Self::BackendRefused => (
                "backend_refused",
                "The application did not accept a connection.",
            ),
            Self::BackendClosed => (
                "backend_closed",
                "The application closed the connection without an answer.",
            ),
            Self::BackendProtocol => (
                "backend_protocol",
                "The application's answer is not valid HTTP.",
            ),
            Self::BackendTimeout => ("backend_timeout", "The application did not answer in time."),
            Self::Overloaded => ("overloaded", "Too many requests are in progress here."),
            Self::Removed => ("node_removed", "This router was removed from its cluster."),
        }
    }

    /// True when the connection must not be used for another request.
    fn closes(self) -> bool {
        match self {
            Self::HostMismatch | Self::BadRequest | Self::BadTransferCoding | Self::BadMethod => {
                true
            }
            Self::NoHost
            | Self::BadExpectation
            | Self::NoRoute
            | Self::NoBackend
            | Self::HoldExpired
            | Self::BackendRefused
            | Self::BackendClosed
            | Self::BackendProtocol
            | Self::BackendTimeout
            | Self::Overloaded
            | Self::Removed => false,
        }
    }

    /// The answer, with a sentence for people as its body.
    pub(crate) fn response(self) -> Response<ResponseBody> {
        let (code, sentence) = self.describe();
        let mut response = Response::new(ResponseBody::text(sentence));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(ROUTER_ERROR, HeaderValue::from_static(code));
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        if self.closes() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_stands_at_its_index_and_has_its_own_code() {
        let mut codes = std::collections::BTreeSet::new();
        for (index, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal.index(), index);
            assert!(codes.insert(refusal.code()), "{refusal:?}");
        }
    }
}
