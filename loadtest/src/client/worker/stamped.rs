//! A socket that stamps every read: below HTTP/2, where the kernel gives bytes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// When the latest bytes came. Many answers share a connection: one that was
/// read before the latest bytes counts as of then, which is never too early.
#[derive(Clone)]
pub(super) struct Clock {
    origin: Instant,
    /// Nanoseconds from `origin`.
    last_read: Arc<AtomicU64>,
}

pub(super) struct Stamped {
    stream: TcpStream,
    clock: Clock,
}

impl Clock {
    pub(super) fn new() -> Clock {
        Clock {
            origin: Instant::now(),
            last_read: Arc::default(),
        }
    }

    pub(super) fn last_read(&self) -> Instant {
        self.origin + Duration::from_nanos(self.last_read.load(Ordering::Relaxed))
    }

    fn stamp(&self) {
        // 584 years of nanoseconds fit.
        let now = self.origin.elapsed().as_nanos() as u64;
        self.last_read.store(now, Ordering::Relaxed);
    }
}

impl Stamped {
    pub(super) async fn connect(address: SocketAddr, clock: Clock) -> io::Result<Stamped> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Stamped { stream, clock })
    }
}

impl AsyncRead for Stamped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.clock.stamp();
        }
        read
    }
}

impl AsyncWrite for Stamped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
