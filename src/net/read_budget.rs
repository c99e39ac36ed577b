//! A connection to a receiver that reads at most a budget of bytes until the budget is renewed. It also keeps an answer readable
//! that came before the receiver had read the request.
//!
//! A receiver that sends interim answers (1xx) without end would otherwise keep the thread that it shares with other receivers
//! busy until the time-out. One that answers before it has read the request, and closes, makes writing fail while its answer
//! waits to be read.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is left to read, and what was read of an answer's head.
#[derive(Clone, Debug)]
pub(crate) struct ReadBudget(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    left: AtomicUsize,
    /// What was read since the last head began, at most a budget. Empty while bodies are read.
    head: Mutex<Option<Vec<u8>>>,
}

impl ReadBudget {
    /// Of at most `bytes` for the first head.
    pub(crate) fn of_head(bytes: usize) -> Self {
        Self(Arc::new(Budget { left: AtomicUsize::new(bytes), head: Mutex::new(Some(Vec::new())) }))
    }

    /// From now on at most `bytes`, of the next head.
    pub(crate) fn renew_for_head(&self, bytes: usize) {
        self.0.left.store(bytes, Ordering::Relaxed);
        let mut head = self.0.head.lock();
        match head.as_mut() {
            Some(head) => head.clear(),
            None => *head = Some(Vec::new()),
        }
    }

    /// From now on at most `bytes`, of a body.
    pub(crate) fn renew_for_body(&self, bytes: usize) {
        self.0.left.store(bytes, Ordering::Relaxed);
        *self.0.head.lock() = None;
    }

    /// What was read since the head began, with what came behind it.
    pub(crate) fn head(&self) -> Vec<u8> {
        self.0.head.lock().take().unwrap_or_default()
    }
}

/// A stream that is read up to a budget.
#[derive(Debug)]
pub(crate) struct Rationed<S> {
    stream: S,
    ration: ReadBudget,
    /// The other end reads nothing more: what is written is discarded, and reading shows whether there is an answer.
    peer_reads_no_more: bool,
}

impl<S> Rationed<S> {
    /// Reads `stream` up to `ration`.
    pub(crate) fn new(stream: S, ration: ReadBudget) -> Self {
        Self { stream, ration, peer_reads_no_more: false }
    }

    /// Treats a failed write as the other end's refusal to read; the writer then gets `done`.
    fn written<T>(&mut self, polled: Poll<io::Result<T>>, done: T) -> Poll<io::Result<T>> {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
        match polled {
            Poll::Ready(Err(error))
                if matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected) =>
            {
                self.peer_reads_no_more = true;
                Poll::Ready(Ok(done))
            }
            polled => polled,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rationed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let left = self.ration.0.left.load(Ordering::Relaxed);
        if left == 0 {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the answer is longer than is read of it",
            )));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let read = buffer.filled().len().saturating_sub(before);
        // Only this connection's task takes from it; a renewal in between gives a little more.
        self.ration.0.left.store(left.saturating_sub(read), Ordering::Relaxed);
        if let Some(head) = self.ration.0.head.lock().as_mut() {
            head.extend_from_slice(buffer.filled().get(before..).unwrap_or_default());
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rationed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.peer_reads_no_more {
            return Poll::Ready(Ok(bytes.len()));
        }
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(polled, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = slices.iter().map(|slice| slice.len()).sum();
        if self.peer_reads_no_more {
            return Poll::Ready(Ok(all));
        }
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(polled, all)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.peer_reads_no_more {
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.written(polled, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    #[tokio::test]
    async fn a_ration_ends_and_is_renewed() {
        let ration = ReadBudget::of_head(4);
        let mut stream = Rationed::new(&b"abcdefgh"[..], ration.clone());
        let mut four = [0; 4];
        stream.read_exact(&mut four).await.unwrap();
        assert_eq!(stream.read(&mut four).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(ration.head(), b"abcd");
        ration.renew_for_body(4);
        stream.read_exact(&mut four).await.unwrap();
        assert_eq!((&four, ration.head()), (b"efgh", Vec::new()));
    }
}
