//! Starts routers and workers, each in a runtime of its own, so that one can be
//! killed as a process is: at once, with all its connections.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::{Args, Command, FromArgMatches};
use proto::v1;
use proto::v1::inference_client::InferenceClient;
use runtime::Lifecycle;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

/// Longest wait for anything in these tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// A part of a cluster, alive until killed or dropped.
pub struct Part {
    runtime: Option<Runtime>,
    pub address: SocketAddr,
}

impl Part {
    /// Ends it as SIGKILL would: nothing is finished, nobody is told.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// The value of a metric, summed over its labels; 0 while it is missing.
    pub fn metric(&self, name: &str) -> f64 {
        let page = get(self.address, "/metrics");
        let samples = page.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'))
        });
        samples
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits until a metric is as wanted.
    pub fn wait_for(&self, name: &str, wanted: impl Fn(f64) -> bool) {
        until(&format!("{name} of {}", self.address), || {
            wanted(self.metric(name))
        });
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a worker on the simulated device, with more flags in `flags`.
pub fn sim_worker(id: &str, role: &str, flags: &[&str]) -> Part {
    let mut all = vec!["--device", "sim", "--id", id, "--role", role];
    all.extend(flags);
    worker(&all)
}

/// Starts a worker with these flags, on a port from the OS unless they say
/// otherwise.
pub fn worker(flags: &[&str]) -> Part {
    let mut all = vec!["worker"];
    if !flags.iter().any(|flag| flag.starts_with("--listen")) {
        all.push("--listen=127.0.0.1:0");
    }
    all.extend(flags);
    let config: ::worker::Config = parse(&all);
    let runtime = new_runtime();
    let address = runtime
        .block_on(::worker::start(config, Lifecycle::new()))
        .expect("worker starts")
        .address;
    Part {
        runtime: Some(runtime),
        address,
    }
}

/// Starts a router over these workers and waits until it knows them all.
pub fn router(workers: &[&Part]) -> Part {
    let mut flags = vec!["router".to_owned(), "--listen=127.0.0.1:0".to_owned()];
    flags.extend(
        workers
            .iter()
            .map(|w| format!("--worker=grpc://{}", w.address)),
    );
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let config: ::router::Config = parse(&flags);
    let runtime = new_runtime();
    let address = runtime.block_on(async {
        let running = ::router::start(config, Lifecycle::new())
            .await
            .expect("router starts");
        tokio::time::timeout(PATIENCE, running.ready())
            .await
            .expect("workers join");
        running.address
    });
    Part {
        runtime: Some(runtime),
        address,
    }
}

fn new_runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime")
}

fn parse<T: Args + FromArgMatches>(flags: &[&str]) -> T {
    let matches = T::augment_args(Command::new("test")).get_matches_from(flags);
    T::from_arg_matches(&matches).expect("flags are complete")
}

/// Polls until `done`; panics when patience ends.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Body of a GET on its own connection; empty if there is no answer.
pub fn get(address: SocketAddr, path: &str) -> String {
    request(
        address,
        &format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"),
    )
    .unwrap_or_default()
    .1
}

/// A JSON POST on its own connection: head and body of the answer.
pub fn post(address: SocketAddr, path: &str, headers: &str, body: &str) -> (String, String) {
    let length = body.len();
    request(
        address,
        &format!(
            "POST {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\
             content-type: application/json\r\n{headers}content-length: {length}\r\n\r\n{body}"
        ),
    )
    .expect("an answer")
}

fn request(address: SocketAddr, text: &str) -> std::io::Result<(String, String)> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(text.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok((head.to_owned(), body.to_owned()))
}

/// What one generation gave a client.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generated {
    pub tokens: Vec<u32>,
    pub finish_reason: String,
    pub usage: v1::Usage,
}

/// One request: a prompt of its own, told by `seed`.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    pub seed: u32,
    pub prompt_tokens: u32,
    pub max_tokens: u32,
}

impl Ask {
    pub fn prompt(&self) -> Vec<u32> {
        let token = |i: u32| 10 + (self.seed.wrapping_mul(7919) ^ i.wrapping_mul(31)) % 200;
        (0..self.prompt_tokens).map(token).collect()
    }

    fn request(&self, model: String) -> v1::GenerateRequest {
        v1::GenerateRequest {
            model,
            prompt: Some(v1::generate_request::Prompt::TokenIds(v1::TokenIds {
                ids: self.prompt(),
            })),
            max_tokens: Some(self.max_tokens),
            sampling: Some(v1::Sampling {
                temperature: Some(1.0),
                seed: Some(u64::from(self.seed)),
                ignore_eos: true,
                ..v1::Sampling::default()
            }),
            ..v1::GenerateRequest::default()
        }
    }
}

/// A client of the public gRPC API.
#[derive(Clone)]
pub struct Client(InferenceClient<Channel>);

impl Client {
    pub async fn connect(router: &Part) -> Client {
        let uri = format!("http://{}", router.address);
        let endpoint = Endpoint::from_shared(uri).expect("an address");
        let channel = endpoint.connect().await.expect("router answers");
        Client(InferenceClient::new(channel))
    }

    /// Runs one request to its end. `on_token` sees the number of tokens so far
    /// each time it grows.
    pub async fn generate(
        &mut self,
        ask: &Ask,
        mut on_token: impl FnMut(usize),
    ) -> Result<Generated, tonic::Status> {
        let mut stream = self.start(ask).await?;
        let mut generated = Generated::default();
        while let Some(part) = stream.message().await? {
            generated.tokens.extend(part.token_ids);
            if !part.finish_reason.is_empty() {
                generated.finish_reason = part.finish_reason;
            }
            if let Some(usage) = part.usage {
                generated.usage = usage;
            }
            on_token(generated.tokens.len());
        }
        Ok(generated)
    }

    /// Starts a request and leaves its stream to the caller.
    pub async fn start(
        &mut self,
        ask: &Ask,
    ) -> Result<tonic::Streaming<v1::GenerateResponse>, tonic::Status> {
        let models = self.0.list_models(v1::ListModelsRequest {}).await?;
        let model = models
            .into_inner()
            .models
            .first()
            .map(|model| model.id.clone());
        let request = ask.request(model.unwrap_or_else(|| "demo".to_owned()));
        Ok(self.0.generate(request).await?.into_inner())
    }
}

/// What `ask` gives on one undisturbed worker.
pub fn reference(asks: &[Ask]) -> Vec<Generated> {
    let worker = sim_worker("reference", "both", FAST);
    let router = router(&[&worker]);
    run(&router, asks)
}

/// Runs all requests at the same time.
pub fn run(router: &Part, asks: &[Ask]) -> Vec<Generated> {
    block_on(async {
        let client = Client::connect(router).await;
        let runs = asks.iter().map(|ask| {
            let mut client = client.clone();
            async move { client.generate(ask, |_| {}).await.expect("generates") }
        });
        futures::future::join_all(runs).await
    })
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    new_runtime().block_on(future)
}

/// A simulated device on which nothing takes noticeable time.
pub const FAST: &[&str] = &["--sim-speed=10000"];

/// Nothing is left over: all blocks free, no sequence, permit or booking.
pub fn assert_idle(router: &Part, workers: &[&Part]) {
    router.wait_for("kvasir_router_bookings", |n| n == 0.0);
    router.wait_for("kvasir_router_permits", |n| n == 0.0);
    for worker in workers {
        let total = worker.metric("kvasir_kv_blocks_total");
        assert!(total > 0.0);
        worker.wait_for("kvasir_kv_blocks_free", |free| free == total);
    }
}
