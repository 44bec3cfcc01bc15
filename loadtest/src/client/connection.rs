//! One HTTP/1.1 connection, driven by whoever uses it, that stamps the first
//! byte written and every read: below TLS, where the kernel takes and gives them.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::tls::Tls;

type Driver = http1::Connection<TokioIo<Wire>, Full<Bytes>>;

pub(super) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    /// `None` once the connection is over.
    driver: Option<Pin<Box<Driver>>>,
    stamps: Rc<Stamps>,
    used: bool,
}

/// Of the request under way.
#[derive(Default)]
struct Stamps {
    first_write: Cell<Option<Instant>>,
    last_read: Cell<Option<Instant>>,
}

/// A socket that keeps [`Stamps`].
struct Stamped {
    stream: TcpStream,
    stamps: Rc<Stamps>,
}

enum Wire {
    Plain(Stamped),
    Tls(Box<TlsStream<Stamped>>),
}

impl Connection {
    /// Connects to the `number`th of `addresses`, or else to one of the others.
    pub(super) async fn open(
        addresses: &[SocketAddr],
        number: usize,
        tls: Option<&Tls>,
    ) -> io::Result<Connection> {
        let mut refused = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for nth in 0..addresses.len() {
            let address = addresses[(number.wrapping_add(nth)) % addresses.len()];
            match TcpStream::connect(address).await {
                Ok(stream) => return Connection::over(stream, tls).await,
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    async fn over(stream: TcpStream, tls: Option<&Tls>) -> io::Result<Connection> {
        stream.set_nodelay(true)?;
        let stamps = Rc::<Stamps>::default();
        let stamped = Stamped {
            stream,
            stamps: stamps.clone(),
        };
        let wire = match tls {
            Some(tls) => Wire::Tls(Box::new(tls.connect(stamped).await?)),
            None => Wire::Plain(stamped),
        };
        let handshake = http1::handshake(TokioIo::new(wire)).await;
        let (sender, driver) = handshake.map_err(io::Error::other)?;
        Ok(Connection {
            sender,
            driver: Some(Box::pin(driver)),
            stamps,
            used: false,
        })
    }

    /// Sends a request, until the head of the answer is there.
    pub(super) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        self.stamps.first_write.set(None);
        self.stamps.last_read.set(None);
        let response = self.sender.send_request(request);
        drive(&mut self.driver, response).await
    }

    /// The next piece of the body.
    pub(super) async fn frame(
        &mut self,
        body: &mut Incoming,
    ) -> Option<hyper::Result<Frame<Bytes>>> {
        drive(&mut self.driver, body.frame()).await
    }

    /// The body was read to its end: gets ready for another request, if the
    /// server keeps the connection.
    pub(super) async fn recycle(&mut self) {
        self.used = drive(&mut self.driver, self.sender.ready()).await.is_ok();
    }

    /// It is ready for another request.
    pub(super) fn is_reusable(&self) -> bool {
        self.used && self.driver.is_some() && self.sender.is_ready()
    }

    /// It has served a request before this one.
    pub(super) fn was_used(&self) -> bool {
        self.used
    }

    /// A request starts: until [`Connection::recycle`] it serves no other.
    pub(super) fn occupy(&mut self) {
        self.used = false;
    }

    /// When the first byte of the request went to the kernel.
    pub(super) fn first_write(&self) -> Option<Instant> {
        self.stamps.first_write.get()
    }

    /// When the latest bytes of the answer were read.
    pub(super) fn last_read(&self) -> Option<Instant> {
        self.stamps.last_read.get()
    }
}

/// Runs `future` with the connection it depends on.
async fn drive<F: Future>(driver: &mut Option<Pin<Box<Driver>>>, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let over = driver
            .as_mut()
            .is_some_and(|it| it.as_mut().poll(cx).is_ready());
        if over {
            *driver = None;
        }
        future.as_mut().poll(cx)
    })
    .await
}

impl Stamped {
    fn stamp_write(&self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(_))) && self.stamps.first_write.get().is_none() {
            self.stamps.first_write.set(Some(Instant::now()));
        }
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
            self.stamps.last_read.set(Some(Instant::now()));
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
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.stamp_write(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.stamp_write(&written);
        written
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

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Wire::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Wire::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Wire::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Wire::Plain(stream) => stream.is_write_vectored(),
            Wire::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
