//! The start check: from "the process has been executed" to "it is ready for requests".
//!
//! A type with a port is ready when one of its own processes listens on it and, where the
//! manifest gives a health path, that answers with a status below 400. A standalone type is ready when
//! it has lived for long enough. The check never restarts anything; it says what it saw.

use std::time::Duration;

use common::application::HealthSpec;
use common::assignment::AssignedInstance;
use common::instance::{Failure, FailureCode};
use common::time::Span;
use futures_util::future::{Either, select};
use http_body_util::Empty;
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::failure::failure;
use crate::listening::{FIRST_LOOKS_EVERY, FIRST_LOOKS_FOR, LATER_LOOKS_EVERY, Listener, listener};
use crate::shim::ProcessIdentity;

/// The first pause between health probes; each is twice the last, up to the manifest's interval.
const FIRST_PROBE_PAUSE: Duration = Duration::from_millis(5);

/// What must be true of a process before it counts as running.
#[derive(Clone, Debug)]
pub(crate) enum StartCheck {
    /// It lives for so long.
    Lives(Span),
    /// It listens, and answers where a path is given.
    Listens {
        /// On this port.
        port: u16,
        /// Within this time.
        within: Span,
        /// The path and its rules.
        health: Option<HealthSpec>,
    },
}

impl StartCheck {
    /// The check that an instance's manifest asks for.
    pub(crate) fn of(assigned: &AssignedInstance, port: Option<u16>) -> Self {
        match port {
            Some(port) if !assigned.standalone => Self::Listens {
                port,
                within: assigned.start_timeout,
                health: assigned.health.clone(),
            },
            Some(_) | None => Self::Lives(assigned.standalone_wait),
        }
    }

    /// Waits until the check is passed.
    ///
    /// The caller watches the process: when it ends, this is dropped.
    pub(crate) async fn pass(&self, shim: &ProcessIdentity) -> Result<(), Failure> {
        match self {
            Self::Lives(span) => {
                pause(span.duration()).await;
                Ok(())
            }
            Self::Listens {
                port,
                within,
                health,
            } => {
                let deadline = Instant::now() + within.duration();
                listens(*port, shim, deadline, *within).await?;
                match health {
                    Some(health) => answers(*port, health, deadline, *within).await,
                    None => Ok(()),
                }
            }
        }
    }

    /// Why a process ended before it passed: a stranger on its port may be to blame.
    pub(crate) fn blames_port(&self, shim: &ProcessIdentity) -> Option<Failure> {
        match self {
            Self::Lives(_) => None,
            Self::Listens { port, .. } => match listener(*port, shim) {
                Ok(Listener::Stranger) => Some(port_taken(*port)),
                Ok(Listener::Nobody | Listener::Instance) | Err(_) => None,
            },
        }
    }
}

async fn listens(
    port: u16,
    shim: &ProcessIdentity,
    deadline: Instant,
    within: Span,
) -> Result<(), Failure> {
    let begin = Instant::now();
    loop {
        match listener(port, shim) {
            Ok(Listener::Instance) => return Ok(()),
            Ok(Listener::Stranger) => return Err(port_taken(port)),
            Ok(Listener::Nobody) => {}
            Err(error) => {
                let text = format!("the kernel's table of sockets could not be read: {error}");
                return Err(failure(FailureCode::Unsupported, text));
            }
        }
        if Instant::now() >= deadline {
            let text =
                format!("the process lives, but did not listen on port {port} within {within}");
            return Err(failure(FailureCode::NotListening, text));
        }
        let is_new = begin.elapsed() < FIRST_LOOKS_FOR;
        pause(if is_new {
            FIRST_LOOKS_EVERY
        } else {
            LATER_LOOKS_EVERY
        })
        .await;
    }
}

async fn answers(
    port: u16,
    health: &HealthSpec,
    deadline: Instant,
    within: Span,
) -> Result<(), Failure> {
    let mut wait = FIRST_PROBE_PAUSE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = left.min(health.timeout.duration());
        let seen = match tokio::time::timeout(limit, probe(port, &health.path)).await {
            Ok(Ok(status)) if status < 400 => return Ok(()),
            Ok(Ok(status)) => format!("answered with status {status}"),
            Ok(Err(error)) => format!("did not answer: {error}"),
            Err(_) => format!("did not answer within {}", health.timeout),
        };
        if Instant::now() + wait >= deadline {
            let text = format!("the health path {} {seen}, after {within}", health.path);
            return Err(failure(FailureCode::Unhealthy, text));
        }
        pause(wait).await;
        wait = (wait * 2).min(health.interval.duration().max(FIRST_PROBE_PAUSE));
    }
}

/// One GET on a connection of its own; the status.
async fn probe(port: u16, path: &str) -> Result<u16, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header(hyper::header::HOST, format!("127.0.0.1:{port}"))
        .header(hyper::header::USER_AGENT, "paasmaker-health")
        .header(hyper::header::CONNECTION, "close")
        .body(Empty::<bytes::Bytes>::new())?;
    let exchange = std::pin::pin!(sender.send_request(request));
    let connection = std::pin::pin!(connection);
    let response = match select(exchange, connection).await {
        Either::Left((response, _)) => response?,
        // The answer and the end of the connection may arrive together.
        Either::Right((_, exchange)) => exchange.await?,
    };
    Ok(response.status().as_u16())
}

fn port_taken(port: u16) -> Failure {
    failure(
        FailureCode::PortTaken,
        format!("another process listens on port {port}"),
    )
}

#[expect(
    clippy::disallowed_methods,
    reason = "the kernel tells nobody when a socket begins to listen, so it is looked at in a loop"
)]
async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}
