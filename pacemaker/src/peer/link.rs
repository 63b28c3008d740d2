//! The asking half of a connection to one peer, which connects by itself.

mod dialer;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::dialer::Dialer;
use super::connect::{Credentials, Hello};
use super::frame;
use super::links::{Event, Lane};
use super::message::{Answer, Request};

/// Requests under way on one connection.
const PENDING_MAX: usize = 8_192;
/// Bytes of requests that wait to be written: what a peer that does not read may cost in memory.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// It was never sent.
    #[error("pacemaker {target} cannot be reached: {reason}")]
    NotSent {
        /// The peer.
        target: u64,
        /// Why.
        reason: Arc<str>,
    },
    /// It was sent, and the connection ended.
    #[error("the connection to pacemaker {0} ended before the answer")]
    Lost(u64),
    /// It was sent, and the answer did not come in time.
    #[error("pacemaker {0} did not answer in time")]
    TimedOut(u64),
}

/// Where a peer is, and which log it must have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// `host:port`.
    pub(crate) address: String,
    /// Of its log; empty when any will do.
    pub(crate) incarnation: String,
}

impl Place {
    /// At this address, with whatever log.
    #[cfg(test)]
    pub(crate) fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            incarnation: String::new(),
        }
    }
}

/// A link; clones are the same. It ends with its last clone.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    shared: Arc<Shared>,
    alive: Arc<DropGuard>,
}

/// A link as long as somebody else has it.
#[derive(Clone, Debug)]
pub(super) struct WeakLink {
    shared: Arc<Shared>,
    alive: Weak<DropGuard>,
}

#[derive(Debug)]
struct Shared {
    target: u64,
    lane: Lane,
    place: watch::Sender<Place>,
    state: watch::Sender<State>,
    /// Someone wants to speak: the pause can end.
    wanted: Notify,
    numbers: AtomicU64,
}

#[derive(Clone, Debug)]
enum State {
    Connecting,
    Up(Arc<Connection>),
    Down(Arc<str>),
}

#[derive(Debug)]
struct Connection {
    hello: Hello,
    queue: mpsc::UnboundedSender<Bytes>,
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    is_closed: bool,
    waiting: BTreeMap<u64, oneshot::Sender<Answer>>,
    /// Bytes in the queue.
    queued: usize,
}

impl Connection {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending
            .lock()
            .expect("no one panics while holding what is pending")
    }
}

impl Link {
    /// Begins to connect to `target`.
    pub(crate) fn start(
        credentials: Credentials,
        target: u64,
        place: Place,
        lane: Lane,
        events: mpsc::UnboundedSender<Event>,
    ) -> Self {
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            target,
            lane,
            place: watch::Sender::new(place),
            state: watch::Sender::new(State::Connecting),
            wanted: Notify::new(),
            numbers: AtomicU64::new(1),
        });
        let dialer = Dialer {
            shared: Arc::clone(&shared),
            credentials,
            events,
            stop: stop.clone(),
            lost: None,
            is_removed: false,
        };
        tokio::spawn(dialer.run());
        Self {
            shared,
            alive: Arc::new(stop.drop_guard()),
        }
    }

    /// The same link, which this does not keep.
    pub(super) fn downgrade(&self) -> WeakLink {
        WeakLink {
            shared: Arc::clone(&self.shared),
            alive: Arc::downgrade(&self.alive),
        }
    }

    /// Follows the peer to another place.
    pub(crate) fn move_to(&self, place: Place) {
        self.shared.place.send_if_modified(|present| {
            let is_new = *present != place;
            *present = place;
            is_new
        });
    }

    /// A number for a stream of appends, never used before on this link.
    pub(crate) fn stream_number(&self) -> u64 {
        self.shared.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// What the peer said of itself, while it is connected.
    pub(crate) fn hello(&self) -> Option<Hello> {
        match &*self.shared.state.borrow() {
            State::Up(connection) => Some(connection.hello.clone()),
            State::Connecting | State::Down(_) => None,
        }
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn call(
        &self,
        request: &Request,
        patience: Duration,
    ) -> Result<Answer, CallError> {
        let deadline = Instant::now() + patience;
        self.connected(deadline).await?;
        let answer = self.begin(request)?;
        tokio::time::timeout_at(deadline, answer)
            .await
            .unwrap_or(Err(CallError::TimedOut(self.shared.target)))
    }

    /// Waits for a connection that is being made; one that is down is an error at once.
    pub(crate) async fn connected(&self, deadline: Instant) -> Result<(), CallError> {
        let mut state = self.shared.state.subscribe();
        let settled = state.wait_for(|state| !matches!(state, State::Connecting));
        match tokio::time::timeout_at(deadline, settled).await {
            Ok(Ok(state)) => match &*state {
                State::Up(_) | State::Connecting => Ok(()),
                State::Down(reason) => {
                    self.shared.wanted.notify_one();
                    Err(self.not_sent(reason))
                }
            },
            Ok(Err(_)) => Err(self.not_sent(&"the link has ended".into())),
            Err(_) => Err(self.not_sent(&"it does not answer".into())),
        }
    }

    /// Sends a request, after all that were sent before; the answer comes with the future.
    pub(crate) fn begin(&self, request: &Request) -> Result<Asked, CallError> {
        let connection = match &*self.shared.state.borrow() {
            State::Up(connection) => Arc::clone(connection),
            State::Connecting => return Err(self.not_sent(&"connecting".into())),
            State::Down(reason) => return Err(self.not_sent(reason)),
        };
        let number = self.shared.numbers.fetch_add(1, Ordering::Relaxed);
        let mut bytes = BytesMut::new();
        frame::put(number, request, &mut bytes)
            .map_err(|error| self.not_sent(&error.to_string().into()))?;
        let (sender, answer) = oneshot::channel();
        {
            let mut pending = connection.pending();
            if pending.is_closed {
                return Err(self.not_sent(&"the connection has just ended".into()));
            }
            if pending.waiting.len() >= PENDING_MAX || pending.queued > WAITING_BYTES_MAX {
                return Err(self.not_sent(&"too much is under way".into()));
            }
            pending.queued += bytes.len();
            pending.waiting.insert(number, sender);
        }
        if connection.queue.send(bytes.freeze()).is_err() {
            connection.pending().waiting.remove(&number);
            return Err(self.not_sent(&"the connection has just ended".into()));
        }
        Ok(Asked {
            target: self.shared.target,
            number,
            connection,
            answer,
        })
    }

    fn not_sent(&self, reason: &Arc<str>) -> CallError {
        CallError::NotSent {
            target: self.shared.target,
            reason: Arc::clone(reason),
        }
    }
}

impl WeakLink {
    /// The link, unless it has ended.
    pub(super) fn upgrade(&self) -> Option<Link> {
        let alive = self.alive.upgrade()?;
        let shared = Arc::clone(&self.shared);
        Some(Link { shared, alive })
    }
}

/// A request under way; dropped, nobody waits for its answer any more.
#[derive(Debug)]
pub(crate) struct Asked {
    target: u64,
    number: u64,
    connection: Arc<Connection>,
    answer: oneshot::Receiver<Answer>,
}

impl Future for Asked {
    type Output = Result<Answer, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(cx));
        Poll::Ready(answer.map_err(|_| CallError::Lost(self.target)))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.connection.pending().waiting.remove(&self.number);
    }
}
