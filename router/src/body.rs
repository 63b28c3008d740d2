//! The bodies on their way through, streamed with backpressure, never collected.
//!
//! A [`ResponseBody`] carries the [`Record`] of its request: when hyper drops it, the request has
//! ended, whole or not, and is counted and logged.

use std::cell::Cell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::activity::Activity;
use crate::exchange::BackendConnection;
use crate::record::Record;

/// What a request's body has done so far.
#[derive(Debug, Default)]
pub(crate) struct Upload {
    pub(crate) bytes: Cell<u64>,
    pub(crate) has_ended: Cell<bool>,
    /// The client, not the backend, is the reason that it ended early.
    pub(crate) has_failed: Cell<bool>,
}

/// The body of a request to a backend.
pub(crate) enum RequestBody {
    /// Nothing follows the head.
    Empty,
    /// As it comes from the client.
    Stream {
        /// What comes.
        incoming: Incoming,
        /// Shared with the request's record.
        upload: Rc<Upload>,
        /// Told when the backend waits for the client.
        activity: Arc<Activity>,
    },
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Stream { .. } => "Stream",
        })
    }
}

impl RequestBody {
    /// True when there is nothing that could be sent twice.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream { .. } => false,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self::Stream {
            incoming,
            upload,
            activity,
        } = self.get_mut()
        else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(incoming).poll_frame(ctx);
        match &polled {
            Poll::Pending => activity.body_is_awaited(),
            Poll::Ready(Some(Ok(frame))) => {
                activity.body_has_come();
                let length = frame.data_ref().map_or(0, Bytes::len);
                upload
                    .bytes
                    .set(upload.bytes.get() + u64::try_from(length).unwrap_or(0));
            }
            Poll::Ready(Some(Err(_))) => upload.has_failed.set(true),
            Poll::Ready(None) => activity.body_has_come(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream { incoming, .. } => incoming.size_hint(),
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Self::Stream { upload, .. } = self {
            upload.has_ended.set(true);
        }
    }
}

/// The body of a response to a client, and the record of its request.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    content: Content,
    record: Option<Record>,
}

#[derive(Debug)]
enum Content {
    Text(&'static str),
    Backend {
        incoming: Incoming,
        connection: Option<BackendConnection>,
        has_ended: bool,
    },
}

impl ResponseBody {
    /// A body of the router's own.
    pub(crate) fn text(text: &'static str) -> Self {
        Self {
            content: Content::Text(text),
            record: None,
        }
    }

    /// A backend's body, read from `connection`, which goes back to the pool at its end.
    pub(crate) fn backend(incoming: Incoming, connection: BackendConnection) -> Self {
        Self {
            content: Content::Backend {
                incoming,
                connection: Some(connection),
                has_ended: false,
            },
            record: None,
        }
    }

    /// Ends `record` when this body ends.
    pub(crate) fn with_record(mut self, record: Record) -> Self {
        self.record = Some(record);
        self
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let polled = match &mut this.content {
            Content::Text("") => Poll::Ready(None),
            Content::Text(text) => {
                let bytes = Bytes::from_static(std::mem::take(text).as_bytes());
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Content::Backend {
                incoming,
                connection,
                has_ended,
            } => {
                let polled = match connection {
                    Some(connection) => connection.poll_body(incoming, ctx),
                    None => Pin::new(incoming).poll_frame(ctx),
                };
                *has_ended |= matches!(polled, Poll::Ready(None));
                polled
            }
        };
        if let (Poll::Ready(Some(Ok(frame))), Some(record)) = (&polled, &mut this.record) {
            record.bytes_went(frame.data_ref().map_or(0, Bytes::len));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Text(text) => text.is_empty(),
            Content::Backend { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Text(text) => {
                SizeHint::with_exact(u64::try_from(text.len()).unwrap_or_default())
            }
            Content::Backend { incoming, .. } => incoming.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let Some(record) = &mut self.record else {
            return;
        };
        match &mut self.content {
            // The text is in hyper's hands as soon as it was asked for; for HEAD it never is.
            Content::Text(_) => record.is_whole(),
            Content::Backend {
                incoming,
                connection,
                has_ended,
            } => {
                if *has_ended || incoming.is_end_stream() {
                    record.is_whole();
                    if let Some(connection) = connection.take() {
                        record.give_back(connection);
                    }
                }
            }
        }
    }
}
