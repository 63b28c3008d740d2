//! One connection to a backend, driven by the request that uses it.
//!
//! hyper splits a connection into a sender and a future that moves bytes. Giving that future a task
//! of its own costs two wake-ups for each request; here the request's own task polls it, while it
//! waits for the head and then while it reads the body, and an idle connection is polled by nobody
//! until it is taken again. Only when a response begins before its request's body has ended does
//! the connection get a task, so that a slow reader cannot stop the upload.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use pin_project_lite::pin_project;
use tokio::net::TcpStream;
use tokio::task::coop::{Unconstrained, unconstrained};
use tokio::time::{Instant, Sleep};

use crate::body::RequestBody;
use crate::gather::Gathering;

/// The head of a response is at most this long, and so is what is read ahead of a slow client.
const BUFFER_MAX_BYTES: usize = 64 * 1024;
/// How often a request that has no answer asks whether its backend is still believed in. Longer than
/// the look that follows, and short beside a client's patience.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Why a request got no response.
pub(crate) type SendFailure = hyper::client::conn::TrySendError<Request<RequestBody>>;

/// A connection to a backend, fit for one request at a time.
pub(crate) struct BackendConnection {
    sender: SendRequest<RequestBody>,
    driver: Driver,
}

enum Driver {
    /// Polled by whoever uses the connection.
    Inline(Box<Connection<TokioIo<Gathering<TcpStream>>, RequestBody>>),
    /// A task polls it; such a connection is not used again.
    Task,
    /// It has ended.
    Ended,
}

impl fmt::Debug for BackendConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let driver = match self.driver {
            Driver::Inline(_) => "inline",
            Driver::Task => "task",
            Driver::Ended => "ended",
        };
        f.debug_struct("BackendConnection")
            .field("driver", &driver)
            .finish_non_exhaustive()
    }
}

impl BackendConnection {
    /// Speaks HTTP/1.1 over a fresh connection.
    pub(crate) async fn over(stream: TcpStream) -> Result<Self, hyper::Error> {
        let (sender, connection) = builder().handshake(TokioIo::new(Gathering(stream))).await?;
        Ok(Self {
            sender,
            driver: Driver::Inline(Box::new(connection)),
        })
    }

    /// Speaks HTTP/1.1 over a fresh connection that may become a tunnel.
    pub(crate) async fn over_for_upgrade(stream: TcpStream) -> Result<Self, hyper::Error> {
        let (sender, connection) = builder().handshake(TokioIo::new(Gathering(stream))).await?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to a backend broke");
            }
        });
        Ok(Self {
            sender,
            driver: Driver::Task,
        })
    }

    /// Looks at an idle connection: false when it has been closed, or is not done yet.
    ///
    /// No waker is left behind, so that whoever used it last is not woken by its end.
    pub(crate) fn is_ready(&mut self) -> bool {
        self.driver.drive(&mut Context::from_waker(Waker::noop()));
        match self.driver {
            Driver::Inline(_) => self.sender.is_ready(),
            Driver::Task | Driver::Ended => false,
        }
    }

    /// Sends `request` and waits for the head of the response, at most for `limit` from `chosen` on.
    ///
    /// As long as `sent_bytes` grows, the body still moves towards the backend, and the time that
    /// the backend has begins anew. Meanwhile `doubts` is asked now and then.
    pub(crate) fn send<P: Fn() -> u64, D: Fn() -> bool>(
        &mut self,
        request: Request<RequestBody>,
        chosen: std::time::Instant,
        limit: Duration,
        sent_bytes: P,
        doubts: D,
    ) -> Sending<'_, impl Future<Output = Sent>, P, D> {
        let chosen = Instant::from(chosen);
        Sending {
            // Only `drive` makes the response come, so nothing needs to wake for it; without a
            // budget of its own it cannot return early and count on being woken.
            response: unconstrained(self.sender.try_send_request(request)),
            driver: &mut self.driver,
            timer: tokio::time::sleep_until(chosen + limit.min(LOOK_INTERVAL)),
            deadline: chosen + limit,
            limit,
            sent_bytes,
            doubts,
            progress: 0,
        }
    }

    /// Gives the connection a task, because its request's body has not ended.
    pub(crate) fn detach(&mut self) {
        let Driver::Inline(connection) = std::mem::replace(&mut self.driver, Driver::Task) else {
            return;
        };
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a backend broke");
            }
        });
    }

    /// Reads on in a response's body.
    pub(crate) fn poll_body(
        &mut self,
        body: &mut Incoming,
        ctx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, hyper::Error>>> {
        self.driver.drive(ctx);
        match self.driver {
            Driver::Task => Pin::new(body).poll_frame(ctx),
            Driver::Inline(_) | Driver::Ended => {
                Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
            }
        }
    }
}

impl Driver {
    fn drive(&mut self, ctx: &mut Context<'_>) {
        let Self::Inline(connection) = self else {
            return;
        };
        if let Poll::Ready(result) = Pin::new(connection).poll(ctx) {
            if let Err(error) = result {
                tracing::debug!(%error, "a connection to a backend broke");
            }
            // Dropping it hands back what it had not taken.
            *self = Self::Ended;
        }
    }
}

/// What came of a request that was sent.
pub(crate) type Sent = Result<Response<Incoming>, SendFailure>;

/// What a request that was sent has been waiting for.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a response is what nearly every request waits for, and boxing it would cost each"
)]
pub(crate) enum Waited {
    /// The head of the response, or the end of the connection.
    Sent(Sent),
    /// The time that the backend has is over.
    Over,
    /// The backend is doubted; polled again, it waits on.
    Doubted,
}

pin_project! {
    /// A request under way; by hand, because an `async fn` would keep it twice.
    pub(crate) struct Sending<'connection, R, P, D> {
        #[pin]
        response: Unconstrained<R>,
        driver: &'connection mut Driver,
        #[pin]
        timer: Sleep,
        deadline: Instant,
        limit: Duration,
        sent_bytes: P,
        doubts: D,
        progress: u64,
    }
}

impl<R, P, D> Future for Sending<'_, R, P, D>
where
    R: Future<Output = Sent>,
    P: Fn() -> u64,
    D: Fn() -> bool,
{
    type Output = Waited;

    fn poll(self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Waited> {
        let mut this = self.project();
        this.driver.drive(ctx);
        let polled = match this.driver {
            Driver::Inline(_) | Driver::Ended => {
                this.response.poll(&mut Context::from_waker(Waker::noop()))
            }
            Driver::Task => this.response.poll(ctx),
        };
        if let Poll::Ready(sent) = polled {
            return Poll::Ready(Waited::Sent(sent));
        }
        while this.timer.as_mut().poll(ctx).is_ready() {
            let now = Instant::now();
            if now >= *this.deadline {
                let bytes = (this.sent_bytes)();
                if std::mem::replace(this.progress, bytes) == bytes {
                    return Poll::Ready(Waited::Over);
                }
                *this.deadline = now + *this.limit;
            }
            let next = (now + LOOK_INTERVAL).min(*this.deadline);
            this.timer.as_mut().reset(next);
            if (this.doubts)() {
                return Poll::Ready(Waited::Doubted);
            }
        }
        Poll::Pending
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.max_buf_size(BUFFER_MAX_BYTES);
    builder
}
