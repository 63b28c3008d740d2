//! The task that keeps a link connected: it dials, again and again, and serves the connection.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{Connection, Place, Shared, State};
use crate::peer::connect::{self, ConnectError, Credentials, Hello, MEMBER_REMOVED};
use crate::peer::frame;
use crate::peer::links::{Event, Lane};
use crate::peer::message::Request;

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

/// The task that keeps a link connected.
pub(super) struct Dialer {
    pub(super) shared: Arc<Shared>,
    pub(super) credentials: Credentials,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) stop: CancellationToken,
    /// When a connection that was up ended, while it is looked at why.
    pub(super) lost: Option<Instant>,
    /// True when the peer has just said that this pacemaker was taken out of the group.
    pub(super) is_removed: bool,
}

impl Dialer {
    pub(super) async fn run(mut self) {
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
        // Also when the peer has moved or the link ends, which drops this in the middle.
        let _closing = Closing(&connection);
        let heard = AtomicU64::new(0);
        let (reader, writer) = tokio::io::split(stream);
        tokio::select! {
            ended = read(reader, &connection, &heard) => match ended {
                Ok(()) => "the peer closed it".into(),
                Err(error) => error.to_string().into(),
            },
            ended = write(writer, waiting, &connection) => match ended {
                Ok(()) => "nothing more is written".into(),
                Err(error) => error.to_string().into(),
            },
            () = self.watch(&heard) => "nothing was heard from the peer".into(),
        }
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

/// Tells whoever waits for an answer on a connection that none will come, once it is dropped.
struct Closing<'a>(&'a Connection);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let waiting = {
            let mut pending = self.0.pending();
            pending.is_closed = true;
            std::mem::take(&mut pending.waiting)
        };
        drop(waiting);
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
