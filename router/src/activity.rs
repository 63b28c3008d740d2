//! When a client connection has been silent for too long.
//!
//! hyper has one timer for idle connections and slow heads, allocates it anew for each request, and
//! has none for a slow reader. Here a connection only writes down until when something must happen,
//! in whole seconds of its worker's clock; the worker looks at all connections once a second.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::gather::Gathering;

/// Between two reads of a request body that a backend waits for.
pub(crate) const BODY_LIMIT_SECONDS: u32 = 60;
/// A connection that is to close when it is flushed is ended at the latest after this.
const FLUSH_LIMIT_SECONDS: u32 = 600;

/// Nothing is waited for.
const NEVER: u32 = 0;

/// A worker's clock in seconds since its start, plus one.
#[derive(Debug)]
pub(crate) struct Clock(AtomicU32);

impl Clock {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(1))
    }

    /// Moves on by a second.
    pub(crate) fn tick(&self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    fn now(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The limits that are configured, in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SilenceLimits {
    /// From the first byte of a request to the end of its head.
    pub(crate) head: u32,
    /// Between requests.
    pub(crate) idle: u32,
    /// Between two writes to a client that does not read.
    pub(crate) write: u32,
}

/// What a silent connection was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// Nothing: no request was begun.
    Idle,
    /// It was in the middle of something.
    Stalled,
}

/// Until when something must happen on one client connection.
#[derive(Debug)]
pub(crate) struct Activity {
    clock: Arc<Clock>,
    limits: SilenceLimits,
    read_deadline: AtomicU32,
    write_deadline: AtomicU32,
    /// Requests in progress; more than one only with HTTP/2.
    requests: AtomicU32,
    /// In a head, or before the first byte of the first.
    is_in_head: AtomicBool,
    /// The client has sent anything at all.
    has_sent: AtomicBool,
    is_multiplexed: AtomicBool,
    last_bytes: AtomicU32,
    written: AtomicU64,
    /// Its end must not look like the end of a response.
    is_cut_off: AtomicBool,
}

impl Activity {
    pub(crate) fn new(clock: Arc<Clock>, limits: SilenceLimits) -> Self {
        let now = clock.now();
        Self {
            read_deadline: AtomicU32::new(now.wrapping_add(limits.head)),
            write_deadline: AtomicU32::new(NEVER),
            requests: AtomicU32::new(0),
            is_in_head: AtomicBool::new(true),
            has_sent: AtomicBool::new(false),
            is_multiplexed: AtomicBool::new(false),
            last_bytes: AtomicU32::new(now),
            written: AtomicU64::new(0),
            is_cut_off: AtomicBool::new(false),
            clock,
            limits,
        }
    }

    /// A whole request head has been read.
    pub(crate) fn request_begins(&self, is_multiplexed: bool) {
        if is_multiplexed {
            self.is_multiplexed.store(true, Ordering::Relaxed);
        }
        self.is_in_head.store(false, Ordering::Relaxed);
        self.read_deadline.store(NEVER, Ordering::Relaxed);
        let requests = self.requests.load(Ordering::Relaxed);
        self.requests
            .store(requests.wrapping_add(1), Ordering::Relaxed);
    }

    /// The response has been handed over, or the request was given up.
    pub(crate) fn request_ends(&self) {
        let requests = self.requests.load(Ordering::Relaxed).saturating_sub(1);
        self.requests.store(requests, Ordering::Relaxed);
        if requests == 0 {
            self.read_deadline
                .store(self.in_seconds(self.limits.idle), Ordering::Relaxed);
        }
    }

    /// A backend waits for more of a request's body.
    pub(crate) fn body_is_awaited(&self) {
        if self.read_deadline.load(Ordering::Relaxed) == NEVER {
            self.read_deadline
                .store(self.in_seconds(BODY_LIMIT_SECONDS), Ordering::Relaxed);
        }
    }

    /// More of a request's body has come.
    pub(crate) fn body_has_come(&self) {
        self.read_deadline.store(NEVER, Ordering::Relaxed);
    }

    /// What is too late at `now`, if anything.
    pub(crate) fn silence(&self, now: u32) -> Option<Silence> {
        let is_past = |deadline: &AtomicU32| {
            let deadline = deadline.load(Ordering::Relaxed);
            deadline != NEVER && deadline < now
        };
        if is_past(&self.write_deadline) {
            return Some(Silence::Stalled);
        }
        if !is_past(&self.read_deadline) {
            return None;
        }
        let is_idle =
            self.requests.load(Ordering::Relaxed) == 0 && !self.is_in_head.load(Ordering::Relaxed);
        Some(if is_idle {
            Silence::Idle
        } else {
            Silence::Stalled
        })
    }

    /// True when it has been idle for too long, and yet what is left to send does not go.
    pub(crate) fn is_stuck(&self, now: u32) -> bool {
        let idle_until = self.read_deadline.load(Ordering::Relaxed);
        self.silence(now) == Some(Silence::Idle)
            && (self.seconds_since_bytes() > self.limits.write
                || now.saturating_sub(idle_until) > FLUSH_LIMIT_SECONDS)
    }

    /// Seconds of the worker's clock.
    pub(crate) fn now(&self) -> u32 {
        self.clock.now()
    }

    /// Bytes that went to the client.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Ends the connection by a reset: the response has no other way to show that it was cut off.
    pub(crate) fn cut_off(&self) {
        self.is_cut_off.store(true, Ordering::Relaxed);
    }

    /// True when part of a request's head has been read.
    pub(crate) fn is_in_head(&self) -> bool {
        self.is_in_head.load(Ordering::Relaxed) && self.has_sent.load(Ordering::Relaxed)
    }

    /// When a byte last went either way, if no request is in progress.
    pub(crate) fn idle_since(&self) -> Option<u32> {
        (self.requests.load(Ordering::Relaxed) == 0)
            .then(|| self.last_bytes.load(Ordering::Relaxed))
    }

    /// Seconds since a byte last went either way.
    pub(crate) fn seconds_since_bytes(&self) -> u32 {
        self.clock
            .now()
            .saturating_sub(self.last_bytes.load(Ordering::Relaxed))
    }

    fn in_seconds(&self, seconds: u32) -> u32 {
        self.clock.now().wrapping_add(seconds).max(1)
    }

    fn bytes_came(&self) {
        self.last_bytes.store(self.clock.now(), Ordering::Relaxed);
        self.has_sent.store(true, Ordering::Relaxed);
        if self.requests.load(Ordering::Relaxed) == 0
            && !self.is_in_head.load(Ordering::Relaxed)
            && !self.is_multiplexed.load(Ordering::Relaxed)
        {
            self.is_in_head.store(true, Ordering::Relaxed);
            self.read_deadline
                .store(self.in_seconds(self.limits.head), Ordering::Relaxed);
        }
    }

    fn bytes_went(&self, length: usize) {
        let length = u64::try_from(length).unwrap_or(0);
        let written = self.written.load(Ordering::Relaxed);
        self.written
            .store(written.wrapping_add(length), Ordering::Relaxed);
        self.last_bytes.store(self.clock.now(), Ordering::Relaxed);
        if self.write_deadline.load(Ordering::Relaxed) != NEVER {
            self.write_deadline.store(NEVER, Ordering::Relaxed);
        }
    }

    fn write_is_blocked(&self) {
        if self.write_deadline.load(Ordering::Relaxed) == NEVER {
            self.write_deadline
                .store(self.in_seconds(self.limits.write), Ordering::Relaxed);
        }
    }
}

/// A client's socket that notes its activity.
#[derive(Debug)]
pub(crate) struct ClientStream {
    pub(crate) stream: Gathering<TcpStream>,
    pub(crate) activity: Arc<Activity>,
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        if self.activity.is_cut_off.load(Ordering::Relaxed) {
            let socket = socket2::SockRef::from(&self.stream.0);
            if let Err(error) = socket.set_linger(Some(Duration::ZERO)) {
                tracing::debug!(%error, "a client may take a cut off response for a whole one");
            }
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(ctx, buffer);
        if result.is_ready() && buffer.filled().len() > before {
            self.activity.bytes_came();
        }
        result
    }
}

impl ClientStream {
    fn note(&self, result: &Poll<io::Result<usize>>) {
        match result {
            Poll::Ready(result) => {
                self.activity
                    .bytes_went(result.as_ref().map_or(0, |length| *length));
            }
            Poll::Pending => self.activity.write_is_blocked(),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(ctx, bytes);
        self.note(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(ctx, slices);
        self.note(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(ctx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(ctx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: SilenceLimits = SilenceLimits {
        head: 15,
        idle: 75,
        write: 60,
    };

    fn activity() -> (Arc<Clock>, Activity) {
        let clock = Arc::new(Clock::new());
        (Arc::clone(&clock), Activity::new(clock, LIMITS))
    }

    fn silence_after(clock: &Clock, activity: &Activity, seconds: u32) -> Option<Silence> {
        (0..seconds)
            .map(|_| clock.tick())
            .last()
            .and_then(|now| activity.silence(now))
    }

    #[test]
    fn a_head_that_does_not_end_is_a_stall() {
        let (clock, activity) = activity();
        assert_eq!(silence_after(&clock, &activity, LIMITS.head), None);
        assert_eq!(silence_after(&clock, &activity, 1), Some(Silence::Stalled));
    }

    #[test]
    fn a_connection_between_requests_may_idle_longer() {
        let (clock, activity) = activity();
        activity.request_begins(false);
        assert_eq!(
            silence_after(&clock, &activity, 10_000),
            None,
            "a backend may think"
        );

        activity.request_ends();
        assert_eq!(silence_after(&clock, &activity, LIMITS.idle), None);
        assert_eq!(silence_after(&clock, &activity, 1), Some(Silence::Idle));

        activity.bytes_came();
        assert_eq!(silence_after(&clock, &activity, LIMITS.head), None);
        assert_eq!(silence_after(&clock, &activity, 1), Some(Silence::Stalled));
    }

    #[test]
    fn a_head_has_begun_from_its_first_byte_on() {
        let (_clock, activity) = activity();
        assert!(!activity.is_in_head(), "nothing was sent");
        activity.bytes_came();
        assert!(activity.is_in_head());
        activity.request_begins(false);
        assert!(!activity.is_in_head());
        activity.request_ends();
        assert!(!activity.is_in_head());
        activity.bytes_came();
        assert!(activity.is_in_head());
    }

    #[test]
    fn a_body_that_stops_is_a_stall() {
        let (clock, activity) = activity();
        activity.request_begins(false);
        activity.body_is_awaited();
        assert_eq!(silence_after(&clock, &activity, BODY_LIMIT_SECONDS), None);
        activity.body_has_come();
        assert_eq!(silence_after(&clock, &activity, 1), None);
        activity.body_is_awaited();
        assert_eq!(
            silence_after(&clock, &activity, BODY_LIMIT_SECONDS + 1),
            Some(Silence::Stalled)
        );
    }

    #[test]
    fn a_reader_that_stops_is_a_stall() {
        let (clock, activity) = activity();
        activity.request_begins(false);
        activity.write_is_blocked();
        assert_eq!(silence_after(&clock, &activity, LIMITS.write), None);
        assert_eq!(silence_after(&clock, &activity, 1), Some(Silence::Stalled));
        activity.bytes_went(1);
        assert_eq!(silence_after(&clock, &activity, 1), None);
    }

    #[test]
    fn what_is_left_to_send_keeps_an_idle_connection_while_it_moves() {
        let (clock, activity) = activity();
        activity.request_begins(true);
        activity.request_ends();
        let mut now = clock.now();
        let begun = now;
        while !activity.is_stuck(now) {
            activity.bytes_went(1);
            now = clock.tick();
        }
        assert_eq!(now - begun, LIMITS.idle + FLUSH_LIMIT_SECONDS + 1);

        let (clock, activity) = self::activity();
        activity.request_begins(true);
        activity.request_ends();
        while !activity.is_stuck(clock.now()) {
            clock.tick();
        }
        assert_eq!(silence_after(&clock, &activity, 1), Some(Silence::Idle));
        assert_eq!(clock.now(), LIMITS.idle + 3);
    }
}
