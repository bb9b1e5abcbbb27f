//! Reading in turns, so that no sender keeps the thread that serves all of them.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// How many bytes of one connection are read before the others have their turn. An event is most often smaller. The
/// smallest frames of HTTP/2 have 9 bytes and cost microseconds each, so that a turn takes about a millisecond at most.
const TURN: usize = 4 << 10;

/// A connection that gives way to others after each [`TURN`] of bytes. Without it, a sender of many small frames is
/// read for as long as it sends: everything that has arrived is handled in one go.
pub(super) struct InTurns<S> {
    stream: S,
    read: usize,
}

impl<S> InTurns<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, read: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for InTurns<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read >= TURN {
            self.read = 0;
            // Behind all that has arrived for others, which waking the task itself would not wait for.
            let _ = pin!(tokio::task::yield_now()).poll(context);
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let left = (TURN - self.read) as u64;
        let polled = pin!((&mut self.stream).take(left)).poll_read(context, buffer);
        let count = buffer.filled().len() - before;
        match polled {
            Poll::Pending => self.read = 0,
            Poll::Ready(_) => self.read += count,
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for InTurns<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::mem::MaybeUninit;

    #[tokio::test]
    async fn others_have_their_turn_while_a_sender_never_stops() {
        let mut endless = InTurns::new(tokio::io::join(tokio::io::repeat(b'x'), tokio::io::sink()));
        let mut buffer = vec![0; TURN];
        let mut reads = async || {
            for _ in 0..10 {
                endless.read_exact(&mut buffer).await.unwrap();
            }
        };
        let mut turns = 0;
        let mut reading = std::pin::pin!(reads());
        while futures::poll!(&mut reading).is_pending() {
            turns += 1;
        }
        assert_eq!(turns, 9);
    }

    #[tokio::test]
    async fn no_more_memory_is_touched_than_what_has_arrived() {
        let mut stream = InTurns::new(tokio::io::join(&b"few"[..], tokio::io::sink()));
        let mut memory = [MaybeUninit::uninit(); 2 * TURN];
        let mut buffer = ReadBuf::uninit(&mut memory);
        poll_fn(|context| Pin::new(&mut stream).poll_read(context, &mut buffer)).await.unwrap();
        assert_eq!((buffer.filled(), buffer.initialized()), (&b"few"[..], &b"few"[..]));
    }
}
