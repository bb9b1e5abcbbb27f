//! Fair reading, so that no sender keeps the thread that serves all of them; and lingering on close, so that a sender that
//! is still sending receives its response.

use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How many bytes of one connection are read before the others are read. An event is most often smaller. The smallest
/// frames of HTTP/2 have 9 bytes and cost microseconds each, so that a quantum takes about a millisecond at most.
const READ_QUANTUM: usize = 4 << 10;

/// How long a connection stays open whose response was sent before everything was read. Closing it with bytes unread would
/// reset it, and the sender might lose the response.
const LINGER_FOR: Duration = Duration::from_secs(1);

/// How many bytes are read and dropped meanwhile: the largest event that is accepted by default.
const LINGER_BYTES: usize = 1 << 20;

/// A connection that yields to others after each [`READ_QUANTUM`] of bytes. Without it, a sender of many small frames is
/// read for as long as it sends: everything that has arrived is handled at once.
pub(super) struct FairReader<S> {
    stream: S,
    read: usize,
    /// Whether its sender may still be sending when it is closed.
    linger_on_close: Arc<AtomicBool>,
    lingering: Option<Lingering>,
}

/// The rest of the time and the bytes.
struct Lingering {
    end: Pin<Box<Sleep>>,
    bytes: usize,
}

impl<S> FairReader<S> {
    /// Whether it linger_on_close is asked when it is closed.
    pub(super) fn new(stream: S, linger_on_close: Arc<AtomicBool>) -> Self {
        Self { stream, read: 0, linger_on_close, lingering: None }
    }
}

impl<S: AsyncRead + Unpin> FairReader<S> {
    /// Reads and drops, until the other side has closed, too.
    fn poll_linger(&mut self, context: &mut Context<'_>, mut lingering: Lingering) -> Poll<()> {
        let mut memory = [MaybeUninit::uninit(); READ_QUANTUM];
        while lingering.end.as_mut().poll(context).is_pending() {
            let mut buffer = ReadBuf::uninit(&mut memory);
            match Pin::new(&mut *self).poll_read(context, &mut buffer) {
                Poll::Pending => {
                    self.lingering = Some(lingering);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    lingering.bytes = lingering.bytes.saturating_sub(buffer.filled().len());
                    if lingering.bytes == 0 {
                        break;
                    }
                }
                Poll::Ready(_) => break,
            }
        }
        self.linger_on_close.store(false, Ordering::Relaxed);
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FairReader<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read >= READ_QUANTUM {
            self.read = 0;
            // Yields to everything that has arrived for others, which waking the task itself would not do.
            let _ = pin!(tokio::task::yield_now()).poll(context);
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let left = (READ_QUANTUM - self.read) as u64;
        let polled = pin!((&mut self.stream).take(left)).poll_read(context, buffer);
        let count = buffer.filled().len() - before;
        match polled {
            Poll::Pending => self.read = 0,
            Poll::Ready(_) => self.read += count,
        }
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for FairReader<S> {
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
        let lingering = match self.lingering.take() {
            Some(lingering) => lingering,
            None => {
                ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
                if !self.linger_on_close.load(Ordering::Relaxed) {
                    return Poll::Ready(Ok(()));
                }
                Lingering { end: Box::pin(sleep(LINGER_FOR)), bytes: LINGER_BYTES }
            }
        };
        self.poll_linger(context, lingering).map(Ok)
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
    use tokio::io::AsyncWriteExt;
    use tokio::time::Instant;

    #[tokio::test]
    async fn others_are_read_while_a_sender_never_stops() {
        let mut endless =
            FairReader::new(tokio::io::join(tokio::io::repeat(b'x'), tokio::io::sink()), Arc::default());
        let mut buffer = vec![0; READ_QUANTUM];
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
        let mut stream = FairReader::new(tokio::io::join(&b"few"[..], tokio::io::sink()), Arc::default());
        let mut memory = [MaybeUninit::uninit(); 2 * READ_QUANTUM];
        let mut buffer = ReadBuf::uninit(&mut memory);
        poll_fn(|context| Pin::new(&mut stream).poll_read(context, &mut buffer)).await.unwrap();
        assert_eq!((buffer.filled(), buffer.initialized()), (&b"few"[..], &b"few"[..]));
    }

    /// A connection whose sender has sent more than was read, and its sender's side.
    fn lingering() -> (FairReader<tokio::io::DuplexStream>, tokio::io::DuplexStream) {
        let (here, there) = tokio::io::duplex(8 << 10);
        (FairReader::new(here, Arc::new(true.into())), there)
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_sender_still_sends_is_read_to_its_end() {
        let (mut here, mut there) = lingering();
        let begun = Instant::now();
        let sender = tokio::spawn(async move {
            there.write_all(&vec![0; LINGER_BYTES - 1]).await.unwrap();
            let mut answer = Vec::new();
            there.read_to_end(&mut answer).await.unwrap();
            answer
        });
        here.write_all(b"answer").await.unwrap();
        here.shutdown().await.unwrap();
        drop(here);
        assert_eq!(sender.await.unwrap(), b"answer");
        assert!(begun.elapsed() < LINGER_FOR);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_that_never_stops_is_not_waited_for() {
        let (mut here, mut there) = lingering();
        let begun = Instant::now();
        let endless = tokio::spawn(async move { while there.write_all(&[0; 512]).await.is_ok() {} });
        here.shutdown().await.unwrap();
        drop(here);
        endless.await.unwrap();
        assert!(begun.elapsed() < LINGER_FOR);
        let (mut here, _silent) = lingering();
        here.shutdown().await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), LINGER_FOR.as_secs());
    }
}
