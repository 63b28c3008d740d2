//! The asking half of a connection to one peer, which connects by itself.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connect::{self, ConnectError, Credentials, Hello, MEMBER_REMOVED};
use super::frame;
use super::links::{Event, Lane};
use super::message::{Answer, Request};

/// How long connecting and the handshake may take; a round trip, and a machine under load.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
/// The first pause after a failure; each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest: a peer that comes back is found within this.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// After a peer has said that this pacemaker was taken out of the group, which is for good.
const REMOVED_PAUSE: Duration = Duration::from_secs(60);
/// After a loss, how long it is looked at closely whether the peer's process is gone.
const CLOSE_LOOK: Duration = Duration::from_millis(500);
/// Between two looks.
const CLOSE_LOOK_PAUSE: Duration = Duration::from_millis(3);
/// Time between two pings.
const PING_INTERVAL: Duration = Duration::from_millis(500);
/// A peer of whom nothing was heard for so long, though it was pinged, is connected to anew.
const SILENCE_MAX: Duration = Duration::from_secs(2);
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
    _alive: Arc<DropGuard>,
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
            _alive: Arc::new(stop.drop_guard()),
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

/// The task that keeps a link connected.
struct Dialer {
    shared: Arc<Shared>,
    credentials: Credentials,
    events: mpsc::UnboundedSender<Event>,
    stop: CancellationToken,
    /// When a connection that was up ended, while it is looked at why.
    lost: Option<Instant>,
    /// True when the peer has just said that this pacemaker was taken out of the group.
    is_removed: bool,
}

impl Dialer {
    async fn run(mut self) {
        let stop = self.stop.clone();
        // What is dropped with the link is only its connection.
        stop.run_until_cancelled(self.dial()).await;
    }

    async fn dial(&mut self) {
        let mut place = self.shared.place.subscribe();
        let mut pause = FIRST_PAUSE;
        loop {
            let at = place.borrow_and_update().clone();
            match self.attempt(&at).await {
                Ok((stream, hello)) => {
                    pause = FIRST_PAUSE;
                    self.tell(Event::Up(self.shared.target));
                    let reason = tokio::select! {
                        reason = self.drive(stream, hello) => reason,
                        _ = place.changed() => "it has moved".into(),
                    };
                    tracing::info!(peer = self.shared.target, lane = ?self.shared.lane, reason = &*reason, "the connection to a pacemaker ended");
                    self.lost = Some(Instant::now());
                    self.shared.state.send_replace(State::Connecting);
                    continue;
                }
                Err(error) => {
                    self.learn(&error);
                    let reason = crate::http::chain(&error);
                    tracing::debug!(
                        peer = self.shared.target,
                        reason,
                        "a pacemaker cannot be reached"
                    );
                    self.shared.state.send_replace(State::Down(reason.into()));
                }
            }
            let is_close_look = self.lost.is_some_and(|lost| lost.elapsed() < CLOSE_LOOK);
            let wait = if self.is_removed {
                REMOVED_PAUSE
            } else if is_close_look {
                CLOSE_LOOK_PAUSE
            } else {
                pause
            };
            let until = Instant::now() + wait;
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = self.shared.wanted.notified(), if pause > FIRST_PAUSE && !self.is_removed => {
                    // Someone who asks again and again must not make it spin.
                    tokio::time::sleep_until(until.min(Instant::now() + FIRST_PAUSE)).await;
                }
                _ = place.changed() => {}
            }
            if !is_close_look {
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    async fn attempt(&self, place: &Place) -> Result<(connect::Stream, Hello), ConnectError> {
        let connecting = connect::connect(&self.credentials, self.shared.target, &place.address);
        let (stream, hello) = tokio::time::timeout(CONNECT_PATIENCE, connecting)
            .await
            .map_err(|_| ConnectError::Io(io::ErrorKind::TimedOut.into()))??;
        if !place.incarnation.is_empty() && hello.incarnation != place.incarnation {
            return Err(ConnectError::WrongPeer(format!(
                "member {} has another log than the one that was added; it has lost its disk, and has to join again as a new node",
                hello.member
            )));
        }
        Ok((stream, hello))
    }

    /// What a failed attempt says about the peer, and about us.
    fn learn(&mut self, error: &ConnectError) {
        self.is_removed = false;
        match error {
            ConnectError::NobodyListens => {
                // The process is gone, not only a connection.
                if self
                    .lost
                    .take()
                    .is_some_and(|lost| lost.elapsed() < CLOSE_LOOK)
                {
                    self.tell(Event::Gone(self.shared.target));
                }
            }
            ConnectError::Refused { code, .. } if code == MEMBER_REMOVED => {
                self.is_removed = true;
                self.tell(Event::Removed);
            }
            ConnectError::Refused { .. }
            | ConnectError::Io(_)
            | ConnectError::Handshake(_)
            | ConnectError::WrongPeer(_) => {}
        }
    }

    fn tell(&self, event: Event) {
        let is_told = self.shared.lane == Lane::Quick || matches!(event, Event::Removed);
        if is_told && self.events.send(event).is_err() {
            tracing::debug!("nobody listens to the links any more");
        }
    }

    /// Serves a connection until it ends, and says why it did.
    async fn drive(&self, stream: connect::Stream, hello: Hello) -> Arc<str> {
        let (queue, waiting) = mpsc::unbounded_channel();
        let connection = Arc::new(Connection {
            hello,
            queue,
            pending: Mutex::default(),
        });
        self.shared
            .state
            .send_replace(State::Up(Arc::clone(&connection)));
        let heard = AtomicU64::new(0);
        let (reader, writer) = tokio::io::split(stream);
        let reason = tokio::select! {
            ended = read(reader, &connection, &heard) => match ended {
                Ok(()) => "the peer closed it".into(),
                Err(error) => error.to_string().into(),
            },
            ended = write(writer, waiting, &connection) => match ended {
                Ok(()) => "nothing more is written".into(),
                Err(error) => error.to_string().into(),
            },
            () = self.watch(&heard) => "nothing was heard from the peer".into(),
        };
        let mut pending = connection.pending();
        pending.is_closed = true;
        pending.waiting.clear();
        reason
    }

    /// Ends when the peer is silent. What is large may take long: there, TCP itself must notice.
    async fn watch(&self, heard: &AtomicU64) {
        let mut interval = tokio::time::interval(PING_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = (0, Instant::now());
        loop {
            interval.tick().await;
            let count = heard.load(Ordering::Relaxed);
            if count != last.0 {
                last = (count, Instant::now());
            } else if self.shared.lane == Lane::Quick && last.1.elapsed() > SILENCE_MAX {
                return;
            }
            if let State::Up(connection) = &*self.shared.state.borrow() {
                let number = self.shared.numbers.fetch_add(1, Ordering::Relaxed);
                let mut ping = BytesMut::new();
                if frame::put(number, &Request::Ping, &mut ping).is_ok() {
                    connection.pending().queued += ping.len();
                    if connection.queue.send(ping.freeze()).is_err() {
                        return;
                    }
                }
            }
        }
    }
}

async fn read(
    mut reader: impl AsyncRead + Unpin,
    connection: &Connection,
    heard: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    while let Some((number, bytes)) = frame::next(&mut reader, &mut buffer).await? {
        heard.fetch_add(1, Ordering::Relaxed);
        let waiting = connection.pending().waiting.remove(&number);
        if let Some(waiting) = waiting {
            let answer = frame::body(&bytes)?;
            if waiting.send(answer).is_err() {
                tracing::trace!(number, "nobody waits for an answer any more");
            }
        }
    }
    Ok(())
}

async fn write(
    mut writer: impl AsyncWrite + Unpin,
    mut waiting: mpsc::UnboundedReceiver<Bytes>,
    connection: &Connection,
) -> io::Result<()> {
    while let Some(first) = waiting.recv().await {
        let bytes = frame::gather(first, || waiting.try_recv().ok());
        writer.write_all(&bytes).await?;
        writer.flush().await?;
        let mut pending = connection.pending();
        pending.queued = pending.queued.saturating_sub(bytes.len());
    }
    Ok(())
}
