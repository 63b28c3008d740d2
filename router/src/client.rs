//! One connection of a client: HTTP/1 or HTTP/2 in front, watched and drained by its worker.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use http::HeaderValue;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;

use crate::activity::{Activity, ClientStream, Silence};
use crate::gather::Gathering;
use crate::proxy;
use crate::worker::Worker;

/// A request's head is at most this long, and so is what is written ahead of a slow client.
const HEAD_MAX_BYTES: usize = 64 * 1024;
/// Headers of one request; more is refused with 431.
const HEADERS_MAX: usize = 128;
/// Requests that one HTTP/2 connection may have open.
const STREAMS_MAX: u32 = 128;
/// Response bytes that are buffered for one HTTP/2 request.
const STREAM_BUFFER_BYTES: usize = 64 * 1024;
/// What a client may send ahead on one HTTP/2 request, and on all of a connection.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Streams that a client may reset before the router has looked at them (rapid reset).
const RESETS_MAX: usize = 32;

/// A client that is connected.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) remote: SocketAddr,
    /// The address alone, as `X-Forwarded-For` has it.
    pub(crate) address: HeaderValue,
    /// Its own forwarding headers are believed.
    pub(crate) is_trusted: bool,
    pub(crate) activity: Arc<Activity>,
}

/// What the worker tells a connection to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    GoOn,
    /// Finish what is in progress, a head that has begun included; begin nothing new.
    Finish,
    /// End at once.
    End,
}

/// The worker's side of one open connection.
pub(crate) struct Watched {
    activity: Arc<Activity>,
    order: Cell<Order>,
    waker: RefCell<Option<Waker>>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched")
            .field("order", &self.order)
            .finish_non_exhaustive()
    }
}

impl Watched {
    /// Lets the requests in progress end and then closes.
    pub(crate) fn finish(&self) {
        if self.order.get() == Order::GoOn {
            self.give(Order::Finish);
        }
    }

    /// Makes room: closes it like [`finish`](Self::finish), but does not wait for a head's end.
    pub(crate) fn evict(&self) {
        if self.activity.is_in_head() {
            self.give(Order::End);
        } else {
            self.finish();
        }
    }

    /// True when part of a request's head has come.
    pub(crate) fn is_in_head(&self) -> bool {
        self.activity.is_in_head()
    }

    /// Closes the connection when it has been silent for too long; true when it was.
    pub(crate) fn check(&self, now: u32) -> bool {
        match self.activity.silence(now) {
            None => false,
            Some(Silence::Idle) => match self.order.get() {
                Order::GoOn => {
                    self.finish();
                    true
                }
                Order::Finish if self.activity.is_stuck(now) => {
                    self.give(Order::End);
                    true
                }
                Order::Finish | Order::End => false,
            },
            Some(Silence::Stalled) => {
                self.give(Order::End);
                true
            }
        }
    }

    /// Since when it could be closed without harm; `None` while a request is in progress.
    pub(crate) fn idle_since(&self) -> Option<u32> {
        match self.order.get() {
            Order::GoOn => self.activity.idle_since(),
            Order::Finish | Order::End => None,
        }
    }

    fn give(&self, order: Order) {
        self.order.set(order);
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

/// Runs what hyper spawns for HTTP/2 on the worker's own thread.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        drop(tokio::task::spawn_local(future));
    }
}

/// Serves one connection until it ends; it counts as open from the call on.
pub(crate) fn serve(
    worker: Rc<Worker>,
    stream: TcpStream,
    remote: SocketAddr,
) -> impl Future<Output = ()> {
    let activity = Arc::new(Activity::new(
        Arc::clone(&worker.clock),
        worker.shared.limits.silence,
    ));
    let address = remote.ip().to_canonical();
    let client = Rc::new(Client {
        remote,
        address: HeaderValue::try_from(address.to_string())
            .expect("an address in text form is allowed in a header"),
        is_trusted: worker.is_trusted(address),
        activity: Arc::clone(&activity),
    });
    let watched = Rc::new(Watched {
        activity,
        order: Cell::new(Order::GoOn),
        waker: RefCell::new(None),
    });
    let registration = worker.connections.register(&worker, Rc::clone(&watched));
    async move {
        drive(worker, client, &watched, stream).await;
        drop(registration);
    }
}

async fn drive(worker: Rc<Worker>, client: Rc<Client>, watched: &Watched, stream: TcpStream) {
    let (remote, activity) = (client.remote, Arc::clone(&client.activity));
    let service = {
        let worker = Rc::clone(&worker);
        service_fn(move |request| proxy::serve(Rc::clone(&worker), Rc::clone(&client), request))
    };
    let builder = builder();
    let stream = TokioIo::new(ClientStream {
        stream: Gathering(stream),
        activity,
    });
    let mut connection = pin!(builder.serve_connection_with_upgrades(stream, service));
    let mut is_finishing = false;
    std::future::poll_fn(|ctx| {
        let mut waker = watched.waker.borrow_mut();
        if !waker
            .as_ref()
            .is_some_and(|known| known.will_wake(ctx.waker()))
        {
            *waker = Some(ctx.waker().clone());
        }
        drop(waker);
        loop {
            match watched.order.get() {
                // hyper would drop a head that it has read in part.
                Order::Finish if !is_finishing && !watched.is_in_head() => {
                    is_finishing = true;
                    connection.as_mut().graceful_shutdown();
                }
                Order::GoOn | Order::Finish => {}
                Order::End => return Poll::Ready(()),
            }
            if let Poll::Ready(result) = connection.as_mut().poll(ctx) {
                if let Err(error) = result {
                    tracing::debug!(%remote, %error, "a client's connection broke");
                }
                return Poll::Ready(());
            }
            let may_finish = watched.order.get() == Order::Finish && !watched.is_in_head();
            if is_finishing || !may_finish {
                return Poll::Pending;
            }
        }
    })
    .await;
}

fn builder() -> auto::Builder<LocalExecutor> {
    let mut builder = auto::Builder::new(LocalExecutor);
    builder
        .http1()
        .max_buf_size(HEAD_MAX_BYTES)
        .max_headers(HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(RESETS_MAX)
        .max_send_buf_size(STREAM_BUFFER_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(u32::try_from(HEAD_MAX_BYTES).unwrap_or(u32::MAX));
    builder
}
