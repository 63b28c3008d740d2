//! Response bodies that HTTP/2 clients read, and their end when a client takes nothing.
//!
//! hyper asks a body for more only when the client has given its stream room, so a client that
//! never gives any would keep a request and its backend for ever. Such bodies are only lent to
//! hyper: the worker takes back, once a second, those whose client has taken nothing for too long.
//! The stream itself stays with hyper until its client acts or its connection ends; other requests
//! of the connection go on. HTTP/1 needs none of this: there the socket says when a client stops.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::activity::Activity;
use crate::body::ResponseBody;
use crate::worker::Worker;

/// A connection that carries this much within one limit is slow, not stalled: its streams share
/// it, and each waits for its turn. It is what hyper buffers of one stream.
const PROGRESS_MIN_BYTES: u64 = 64 * 1024;

/// So many limits pass at most before a body is taken back, whatever its connection carries.
const LIMITS_MAX: u32 = 10;

/// Why a client gets no more of a response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The backend broke off.
    #[error("the backend's response broke off")]
    Backend(#[from] hyper::Error),
    /// It was taken back.
    #[error("the client took nothing for too long")]
    TakenBack,
}

/// A response's body as hyper gets it.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "most bodies are given, and boxing each would cost the request"
)]
pub(crate) enum ClientBody {
    /// Hyper's alone.
    Given(ResponseBody),
    /// May be taken back.
    Lent(Lent),
}

/// A body among [`Bodies`]; forgotten there when hyper drops it.
#[derive(Debug)]
pub(crate) struct Lent {
    worker: Rc<Worker>,
    number: u64,
    loan: Rc<Loan>,
}

/// The bodies that one worker has lent.
#[derive(Debug, Default)]
pub(crate) struct Bodies {
    lent: RefCell<HashMap<u64, Rc<Loan>>>,
    next: Cell<u64>,
}

#[derive(Debug)]
struct Loan {
    /// `None` when it was taken back.
    body: RefCell<Option<ResponseBody>>,
    activity: Arc<Activity>,
    wait: Cell<Option<Wait>>,
}

/// It is the client's turn.
#[derive(Clone, Copy, Debug)]
struct Wait {
    /// In seconds of the worker's clock.
    since: u32,
    limits: u32,
    /// What the connection had carried when the newest limit began.
    written: u64,
}

impl ClientBody {
    /// Lends `body` to a client that may have several requests on its connection.
    pub(crate) fn lend(worker: Rc<Worker>, activity: Arc<Activity>, body: ResponseBody) -> Self {
        let wait = Cell::new(Some(Wait::begin(&activity)));
        let loan = Rc::new(Loan {
            body: RefCell::new(Some(body)),
            activity,
            wait,
        });
        let number = worker.bodies.next.get();
        worker.bodies.next.set(number.wrapping_add(1));
        let lent = &worker.bodies.lent;
        lent.borrow_mut().insert(number, Rc::clone(&loan));
        Self::Lent(Lent {
            worker,
            number,
            loan,
        })
    }
}

impl Bodies {
    /// Takes back what clients have left lying for `limit` seconds; returns how many.
    pub(crate) fn take_back(&self, now: u32, limit: u32) -> u64 {
        let stalled: Vec<Rc<Loan>> = self
            .lent
            .borrow()
            .values()
            .filter(|loan| loan.is_stalled(now, limit))
            .map(Rc::clone)
            .collect();
        for loan in &stalled {
            drop(loan.body.borrow_mut().take());
        }
        u64::try_from(stalled.len()).unwrap_or(0)
    }
}

impl Wait {
    fn begin(activity: &Activity) -> Self {
        Self {
            since: activity.now(),
            limits: 1,
            written: activity.written(),
        }
    }

    /// What it is at `now`; `None` when it has been too long.
    fn at(self, now: u32, limit: u32, written: u64) -> Option<Self> {
        if now.saturating_sub(self.since) <= limit.saturating_mul(self.limits) {
            return Some(self);
        }
        let is_moving = written.saturating_sub(self.written) >= PROGRESS_MIN_BYTES;
        (is_moving && self.limits < LIMITS_MAX).then_some(Self {
            since: self.since,
            limits: self.limits + 1,
            written,
        })
    }
}

impl Loan {
    fn is_stalled(&self, now: u32, limit: u32) -> bool {
        let Some(wait) = self.wait.get() else {
            return false;
        };
        self.wait.set(wait.at(now, limit, self.activity.written()));
        self.wait.get().is_none()
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let poll_of = |body: &mut ResponseBody, ctx: &mut Context<'_>| {
            Pin::new(body).poll_frame(ctx).map_err(BodyError::Backend)
        };
        match self.get_mut() {
            Self::Given(body) => poll_of(body, ctx),
            Self::Lent(Lent { loan, .. }) => {
                let mut body = loan.body.borrow_mut();
                let Some(body) = body.as_mut() else {
                    return Poll::Ready(Some(Err(BodyError::TakenBack)));
                };
                let polled = poll_of(body, ctx);
                let is_with_client = polled.is_ready();
                loan.wait
                    .set(is_with_client.then(|| Wait::begin(&loan.activity)));
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Given(body) => body.is_end_stream(),
            Self::Lent(Lent { loan, .. }) => {
                let body = loan.body.borrow();
                body.as_ref().is_some_and(ResponseBody::is_end_stream)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Given(body) => body.size_hint(),
            Self::Lent(Lent { loan, .. }) => {
                let body = loan.body.borrow();
                body.as_ref()
                    .map_or_else(SizeHint::default, Body::size_hint)
            }
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let forgotten = self.worker.bodies.lent.borrow_mut().remove(&self.number);
        // Not while the map is borrowed: a body's end reaches far.
        drop(forgotten);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u32 = 60;

    #[test]
    fn a_stream_of_a_slow_connection_waits_longer_but_not_for_ever() {
        let begun = Wait {
            since: 1,
            limits: 1,
            written: 0,
        };
        assert!(begun.at(1 + LIMIT, LIMIT, 0).is_some());
        assert!(begun.at(2 + LIMIT, LIMIT, 0).is_none());
        assert!(
            begun.at(2 + LIMIT, LIMIT, PROGRESS_MIN_BYTES - 1).is_none(),
            "answers to pings are no progress"
        );

        let (mut wait, mut written, mut now) = (Some(begun), 0, 1);
        while let Some(waiting) = wait {
            now += 1;
            written += PROGRESS_MIN_BYTES;
            wait = waiting.at(now, LIMIT, written);
        }
        assert_eq!(now, 2 + LIMIT * LIMITS_MAX);
    }
}
