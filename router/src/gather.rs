//! A socket that sends what is short in one plain call.
//!
//! hyper hands a head and a body over as two pieces. For the short messages that most are, copying
//! them together costs less than the system call that takes pieces.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Pieces are put together up to this length; beyond it the copy costs more than it saves.
const TOGETHER_MAX_BYTES: usize = 2_048;

/// A socket that gathers short pieces before it sends them.
#[derive(Debug)]
pub(crate) struct Gathering<T>(pub(crate) T);

impl<T: AsyncRead + Unpin> AsyncRead for Gathering<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(ctx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gathering<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(ctx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let socket = Pin::new(&mut self.0);
        if let [piece] = pieces {
            return socket.poll_write(ctx, piece);
        }
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        if length > TOGETHER_MAX_BYTES {
            return socket.poll_write_vectored(ctx, pieces);
        }
        let mut together = [0; TOGETHER_MAX_BYTES];
        let mut end = 0;
        for piece in pieces {
            together[end..end + piece.len()].copy_from_slice(piece);
            end += piece.len();
        }
        socket.poll_write(ctx, &together[..end])
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(ctx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(ctx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn pieces_arrive_whole_and_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        let mut socket = Gathering(stream);
        let long = vec![b'x'; TOGETHER_MAX_BYTES];

        for pieces in [
            &[&b"one"[..]][..],
            &[b"head", b"body"],
            &[b"", b"a", b"", b"b"],
            &[b"head", &long],
        ] {
            let expected = pieces.concat();
            let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            let sent = socket.write_vectored(&slices).await.unwrap();
            assert_eq!(sent, expected.len());
            let mut received = vec![0; sent];
            peer.read_exact(&mut received).await.unwrap();
            assert_eq!(received, expected);
        }
    }
}
