//! One port for HTTP/1.1 and HTTP/2 without TLS (h2c by prior knowledge): an
//! axum router with plain routes and gRPC services side by side.
//!
//! At drain the port closes, peers are told (`Connection: close`, GOAWAY) and
//! running streams finish; at the hard stop connections are dropped. A response
//! that has no end of its own must end itself when the drain starts.

mod bind;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

pub use bind::{BindError, bind};

use crate::Lifecycle;

/// Pause after a failed accept: being out of file descriptors passes when
/// other connections end, and must not turn into a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const MIB: u32 = 1024 * 1024;

/// Limits of a server's connections. The defaults suit both a gateway with many
/// small streams and workers that move KV blocks.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Longest wait for a request's headers, and so also the longest idle time
    /// of a kept-alive HTTP/1 connection.
    pub header_read_timeout: Duration,
    /// A connection that says nothing at all is closed after this time.
    pub first_byte_timeout: Duration,
    /// An HTTP/2 peer is pinged that often. Streams may stay silent for any
    /// time: only a peer that answers no ping is gone.
    pub ping_interval: Duration,
    /// A peer that answers no ping for so long is dead, with all its streams.
    pub ping_timeout: Duration,
    /// Per HTTP/2 connection; a router opens one connection for all requests.
    pub max_concurrent_streams: u32,
    /// Bytes in flight to us on one HTTP/2 stream: bandwidth times round trip,
    /// with room for a few KV blocks.
    pub stream_window: u32,
    /// Bytes in flight to us on one HTTP/2 connection.
    pub connection_window: u32,
    /// Bytes that wait for a slow peer on one stream before its handler has to
    /// wait too.
    pub send_buffer: usize,
}

impl Default for ServeOptions {
    fn default() -> ServeOptions {
        ServeOptions {
            header_read_timeout: Duration::from_secs(75),
            first_byte_timeout: Duration::from_secs(75),
            ping_interval: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(60),
            max_concurrent_streams: 16_384,
            stream_window: 4 * MIB,
            connection_window: 16 * MIB,
            send_buffer: MIB as usize,
        }
    }
}

/// Serves `app` until the drain starts; then the port is closed, while open
/// connections go on as tasks of `lifecycle` until they are done. Handlers find
/// the peer as `ConnectInfo<SocketAddr>`.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    lifecycle: &Lifecycle,
    options: ServeOptions,
) {
    let builder = connection_builder(&options);
    let mut draining = pin!(lifecycle.drain_started());
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut draining => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = Connection {
                    stream,
                    peer,
                    app: app.clone(),
                    builder: builder.clone(),
                    first_byte_timeout: options.first_byte_timeout,
                };
                let life = lifecycle.clone();
                lifecycle.spawn("connection", async move { connection.run(&life).await });
            }
            Err(error) => accept_failed(error).await,
        }
    }
}

async fn accept_failed(error: io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    // The peer gave up before it was accepted: nothing is wrong here.
    if matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    ) {
        return;
    }
    tracing::warn!(%error, "can't accept connections; trying again");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

fn connection_builder(options: &ServeOptions) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_read_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(options.ping_interval)
        .keep_alive_timeout(options.ping_timeout)
        .max_concurrent_streams(options.max_concurrent_streams)
        // As many clients may hang up at once as there are streams; the default
        // of 20 would end the whole connection.
        .max_pending_accept_reset_streams(options.max_concurrent_streams as usize)
        .initial_stream_window_size(options.stream_window)
        .initial_connection_window_size(options.connection_window)
        .max_frame_size(64 * 1024)
        .max_send_buf_size(options.send_buffer);
    builder
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    app: Router,
    builder: Builder<TokioExecutor>,
    first_byte_timeout: Duration,
}

impl Connection {
    async fn run(self, lifecycle: &Lifecycle) {
        let peer = self.peer;
        tokio::select! {
            biased;
            () = lifecycle.stopped() => {}
            result = self.serve(lifecycle) => if let Err(error) = result {
                tracing::debug!(%peer, error, "connection ended");
            },
        }
    }

    async fn serve(
        self,
        lifecycle: &Lifecycle,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.stream.set_nodelay(true)?;
        // The version is not known before the first byte, and no timeout of
        // either version runs until then.
        let mut first = [0];
        let first = tokio::time::timeout(self.first_byte_timeout, self.stream.peek(&mut first));
        tokio::select! {
            biased;
            spoke = first => spoke??,
            () = lifecycle.drain_started() => return Ok(()),
        };
        let peer = self.peer;
        let app = self
            .app
            .map_request(move |mut request: http::Request<Incoming>| {
                request.extensions_mut().insert(ConnectInfo(peer));
                request.map(Body::new)
            });
        let service = TowerToHyperService::new(app);
        let mut connection = pin!(
            self.builder
                .serve_connection(TokioIo::new(self.stream), service)
        );
        tokio::select! {
            biased;
            result = connection.as_mut() => return result,
            () = lifecycle.drain_started() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    }
}

#[cfg(test)]
mod tests;
