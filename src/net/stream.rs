//! A connection to a receiver, plain or TLS: bytes in, bytes out.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

/// The two ways to carry bytes.
#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    // Boxed: its buffers and keys are a kilobyte, which every plain connection would carry too.
    Tls(Box<TlsStream<TcpStream>>),
    #[cfg(any(test, fuzzing))]
    Pipe(tokio::io::DuplexStream),
}

/// A connection to exactly the address that was checked.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    remote: SocketAddr,
    checked_until: Instant,
}

impl Connection {
    pub(super) fn plain(tcp: TcpStream, remote: SocketAddr, checked_until: Instant) -> Self {
        Self { stream: Stream::Plain(tcp), remote, checked_until }
    }

    pub(super) fn tls(tls: TlsStream<TcpStream>, remote: SocketAddr, checked_until: Instant) -> Self {
        Self { stream: Stream::Tls(Box::new(tls)), remote, checked_until }
    }

    /// A pipe in memory, whose other end plays the receiver.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn pipe(pipe: tokio::io::DuplexStream, remote: SocketAddr, checked_until: Instant) -> Self {
        Self { stream: Stream::Pipe(pipe), remote, checked_until }
    }

    /// Where it leads.
    pub(crate) fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Until when its name need not be asked for again.
    pub(crate) fn checked_until(&self) -> Instant {
        self.checked_until
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Stream::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
            #[cfg(any(test, fuzzing))]
            Stream::Pipe(pipe) => Pin::new(pipe).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Stream::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
            #[cfg(any(test, fuzzing))]
            Stream::Pipe(pipe) => Pin::new(pipe).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Stream::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
            #[cfg(any(test, fuzzing))]
            Stream::Pipe(pipe) => Pin::new(pipe).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(tcp) => tcp.is_write_vectored(),
            Stream::Tls(tls) => tls.is_write_vectored(),
            #[cfg(any(test, fuzzing))]
            Stream::Pipe(pipe) => pipe.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_flush(cx),
            #[cfg(any(test, fuzzing))]
            Stream::Pipe(pipe) => Pin::new(pipe).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            #[cfg(any(test, fuzzing))]
            Stream::Pipe(pipe) => Pin::new(pipe).poll_shutdown(cx),
        }
    }
}
