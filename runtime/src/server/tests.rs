use std::net::SocketAddr;
use std::sync::Arc;

use axum::routing::get;
use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use super::*;

const GRACE: Duration = Duration::from_secs(30);

/// A server whose `/slow` answers once a permit is there.
struct Server {
    address: SocketAddr,
    lifecycle: Lifecycle,
    slow: Arc<Semaphore>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(options: ServeOptions) -> Server {
        let slow = Arc::new(Semaphore::new(0));
        let permits = slow.clone();
        let app = Router::new()
            .route(
                "/",
                get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }),
            )
            .route(
                "/slow",
                get(|| async move {
                    permits.acquire().await.unwrap().forget();
                    "done"
                }),
            );
        let lifecycle = Lifecycle::new();
        let listener = bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let life = lifecycle.clone();
        let accepting = lifecycle.spawn("accept", async move {
            serve(listener, app, &life, options).await
        });
        Server {
            address,
            lifecycle,
            slow,
            accepting,
        }
    }
}

type Http2 = hyper::client::conn::http2::SendRequest<Empty<Bytes>>;

async fn connect_http2(address: SocketAddr, life: &Lifecycle) -> Http2 {
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    life.spawn("client connection", connection);
    client
}

fn request(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://localhost{path}"))
        .body(Empty::new())
        .unwrap()
}

async fn text(response: http::Response<Incoming>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

#[tokio::test]
async fn both_versions_share_one_port_and_know_the_peer() {
    let server = Server::start(ServeOptions::default()).await;
    let clients = Lifecycle::new();

    let mut http2 = connect_http2(server.address, &clients).await;
    let response = http2.send_request(request("/")).await.unwrap();
    assert_eq!(
        (response.status(), response.version()),
        (StatusCode::OK, Version::HTTP_2)
    );

    let stream = TcpStream::connect(server.address).await.unwrap();
    let local = stream.local_addr().unwrap().to_string();
    let (mut http1, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    clients.spawn("client connection", connection);
    let response = http1.send_request(request("/")).await.unwrap();
    assert_eq!(
        (response.status(), response.version()),
        (StatusCode::OK, Version::HTTP_11)
    );
    assert_eq!(text(response).await, local);
}

#[tokio::test]
async fn drain_closes_the_port_and_finishes_running_streams() {
    let server = Server::start(ServeOptions::default()).await;
    let clients = Lifecycle::new();
    let mut http2 = connect_http2(server.address, &clients).await;
    let running = clients.spawn("request", http2.send_request(request("/slow")));
    // Answered in order of arrival, so the slow request is there now.
    http2.send_request(request("/")).await.unwrap();

    server.lifecycle.begin_drain();
    server.accepting.await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
    server.slow.add_permits(1);
    assert_eq!(text(running.await.unwrap().unwrap()).await, "done");
    assert_eq!(server.lifecycle.finish(GRACE).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn hard_stop_drops_streams_that_do_not_end() {
    let server = Server::start(ServeOptions::default()).await;
    let clients = Lifecycle::new();
    let mut http2 = connect_http2(server.address, &clients).await;
    let stuck = clients.spawn("request", http2.send_request(request("/slow")));
    http2.send_request(request("/")).await.unwrap();

    let late = server.lifecycle.finish(GRACE).await.unwrap_err();
    assert_eq!(late.tasks, ["connection"]);
    assert!(stuck.await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn idle_connections_do_not_delay_the_drain() {
    let server = Server::start(ServeOptions::default()).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let clients = Lifecycle::new();
    let mut http2 = connect_http2(server.address, &clients).await;
    http2.send_request(request("/")).await.unwrap();
    assert_eq!(server.lifecycle.finish(GRACE).await, Ok(()));
    assert_eq!(silent.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn connection_that_says_nothing_is_closed() {
    let server = Server::start(ServeOptions::default()).await;
    let start = tokio::time::Instant::now();
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(silent.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(start.elapsed().as_secs(), 75);
}

/// An HTTP/2 frame (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

#[tokio::test]
async fn many_clients_hanging_up_at_once_do_not_end_the_connection() {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    let server = Server::start(ServeOptions::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // GET http /, from HPACK's static table.
    let get = [0x82, 0x86, 0x84];
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    for id in (1..800).step_by(2) {
        bytes.extend(frame(HEADERS, 0x5, id, &get));
        bytes.extend(frame(RST_STREAM, 0, id, &8u32.to_be_bytes()));
    }
    bytes.extend(frame(HEADERS, 0x5, 801, &get));
    stream.write_all(&bytes).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.unwrap();
        assert_ne!(head[3], GOAWAY, "{}", String::from_utf8_lossy(&payload));
        if head[3] == HEADERS && id == 801 {
            return;
        }
    }
}

#[tokio::test]
async fn port_in_use_is_told_with_what_to_do() {
    let taken = bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = bind(&address).await.unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }));
    assert!(error.to_string().contains("--listen"), "{error}");
    assert!(matches!(
        bind("192.0.2.1:0").await,
        Err(BindError::NotOurs { .. })
    ));
    assert!(bind("no port").await.is_err());
}
