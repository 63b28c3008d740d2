//! The body of a response: a part of a file, read piece by piece as the client takes it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// What one connection holds of a file at a time.
const PIECE_BYTES: usize = 32 << 10;

/// A body that is a text, a part of a file, or nothing.
#[derive(Debug)]
pub(super) enum ResponseBody {
    Text(Bytes),
    File { file: File, offset: u64, left: u64 },
}

impl ResponseBody {
    pub(super) fn empty() -> Self {
        Self::Text(Bytes::new())
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(match &mut *self {
            Self::Text(text) if text.is_empty() => None,
            Self::Text(text) => Some(Ok(Frame::data(std::mem::take(text)))),
            Self::File { left: 0, .. } => None,
            Self::File { file, offset, left } => {
                let wanted = usize::try_from(*left)
                    .unwrap_or(PIECE_BYTES)
                    .min(PIECE_BYTES);
                let mut piece = vec![0; wanted];
                // Reads from the kernel's cache as a rule; a cold disk delays this one site.
                match file.read_at(&mut piece, *offset) {
                    // The file became shorter: the connection is cut, so the client notices.
                    Ok(0) => Some(Err(io::ErrorKind::UnexpectedEof.into())),
                    Ok(read) => {
                        piece.truncate(read);
                        *offset += read as u64;
                        *left -= read as u64;
                        Some(Ok(Frame::data(piece.into())))
                    }
                    Err(error) => Some(Err(error)),
                }
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::File { left, .. } => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Text(text) => text.len() as u64,
            Self::File { left, .. } => *left,
        })
    }
}
