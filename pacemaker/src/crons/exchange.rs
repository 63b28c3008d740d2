//! One request and its answer over one connection to an instance, which may do anything.
//!
//! Everything that an instance sends has a bound: the head ([`HEAD_MAX_BYTES`]) and the body
//! ([`BODY_READ_BYTES`]); time is bounded by the caller. No name is looked up, no proxy is asked, no
//! other address is ever connected to.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::crons::log::{BODY_KEPT_BYTES, LogWriter};

/// The longest head of an answer, bytes; what real applications send is far below.
const HEAD_MAX_BYTES: usize = 64 * 1024;
/// The most headers of an answer.
const HEADERS_MAX: usize = 100;
/// A body is read to its end, so that whoever writes it gets done; but only so far.
pub(super) const BODY_READ_BYTES: u64 = 64 * 1024 * 1024;

/// The head of an answer; its body has been read.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: BodyEnd,
}

/// How a body ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyEnd {
    /// As it says itself.
    Complete,
    /// It goes on past [`BODY_READ_BYTES`].
    TooLong,
    /// The connection ended first, after so many bytes.
    BrokenOff(u64),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    /// It closed the connection, or reset it.
    #[error("the connection was closed before an answer had come")]
    Closed,
    /// A head that is too long.
    #[error("the head of the answer has more than {HEAD_MAX_BYTES} bytes or {HEADERS_MAX} headers")]
    HeadTooLong,
    /// Something else than HTTP.
    #[error("the answer is not HTTP/1")]
    NotHttp,
    /// Anything else.
    #[error("the request failed: {0}")]
    Other(String),
}

/// Sends a request and reads the answer, which goes to `log` as it comes. The connection is closed
/// as soon as this ends or is dropped, not some time later.
pub(super) async fn exchange(
    stream: TcpStream,
    request: Request<Empty<Bytes>>,
    log: &mut LogWriter,
) -> Result<Answered, ExchangeError> {
    let asked = format!("> {} {}", request.method(), request.uri());
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_MAX_BYTES)
        .max_headers(HEADERS_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    let connected = async {
        if let Err(error) = connection.await {
            tracing::trace!(%error, "the connection of a cron's request has ended");
        }
        pending::<Infallible>().await
    };
    let answered = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| failed(&error))?;
        log.line(asked.as_bytes()).await;
        log_head(&response, log).await;
        let (head, body) = response.into_parts();
        let body = read(body, log).await;
        Ok(Answered {
            status: head.status,
            headers: head.headers,
            body,
        })
    };
    tokio::select! {
        answered = answered => answered,
        never = connected => match never {},
    }
}

async fn log_head(response: &Response<Incoming>, log: &mut LogWriter) {
    let version = if response.version() == Version::HTTP_10 {
        "HTTP/1.0"
    } else {
        "HTTP/1.1"
    };
    log.line(format!("{version} {}", response.status()).as_bytes())
        .await;
    for (name, value) in response.headers() {
        let line = [name.as_str().as_bytes(), b": ", value.as_bytes()].concat();
        log.line(&line).await;
    }
    log.line(b"").await;
}

async fn read(mut body: Incoming, log: &mut LogWriter) -> BodyEnd {
    let mut length: u64 = 0;
    let end = loop {
        match body.frame().await {
            None => break BodyEnd::Complete,
            Some(Err(_)) => break BodyEnd::BrokenOff(length),
            Some(Ok(frame)) => {
                // Trailers end a body, and nobody asked for them.
                if let Ok(part) = frame.into_data() {
                    length += part.len() as u64;
                    log.body(&part).await;
                }
            }
        }
        if length > BODY_READ_BYTES {
            break BodyEnd::TooLong;
        }
    };
    if length > BODY_KEPT_BYTES {
        let line = format!("\n[{length} bytes were read; the first {BODY_KEPT_BYTES} are kept]");
        log.line(line.as_bytes()).await;
    }
    end
}

fn failed(error: &hyper::Error) -> ExchangeError {
    if error.is_parse_too_large() {
        ExchangeError::HeadTooLong
    } else if error.is_parse() {
        ExchangeError::NotHttp
    } else if error.is_incomplete_message() || error.is_closed() || is_reset(error) {
        ExchangeError::Closed
    } else {
        ExchangeError::Other(crate::http::chain(error))
    }
}

fn is_reset(error: &hyper::Error) -> bool {
    use std::error::Error as _;
    let source = error.source();
    let io = source.and_then(|source| source.downcast_ref::<std::io::Error>());
    io.is_some_and(|error| {
        matches!(
            error.kind(),
            std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
        )
    })
}

/// Connects within `patience`.
pub(super) async fn connect(
    address: std::net::SocketAddr,
    patience: Duration,
) -> std::io::Result<TcpStream> {
    let stream = tokio::time::timeout(patience, TcpStream::connect(address))
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}
