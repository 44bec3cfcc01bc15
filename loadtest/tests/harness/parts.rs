//! Starts routers and workers, each in a runtime of its own, so that one can be
//! killed as a process is: at once, with all its connections. Shared by the
//! test binaries of this folder.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::{Args, Command, FromArgMatches};
use runtime::Lifecycle;
use tokio::runtime::Runtime;

/// Longest wait for anything in these tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// A part of a cluster, alive until killed or dropped.
pub struct Part {
    runtime: Option<Runtime>,
    lifecycle: Lifecycle,
    pub address: SocketAddr,
}

impl Part {
    /// Ends it as SIGKILL would: nothing is finished, nobody is told.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Drains it; what is late after `grace` is cut off, and named.
    pub fn finish(&mut self, grace: Duration) -> Result<(), runtime::Late> {
        match self.runtime.take() {
            Some(runtime) => {
                let finished = runtime.block_on(self.lifecycle.finish(grace));
                runtime.shutdown_background();
                finished
            }
            None => Ok(()),
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
    let (runtime, lifecycle) = (new_runtime(), Lifecycle::new());
    let address = runtime
        .block_on(::worker::start(config, lifecycle.clone()))
        .expect("worker starts")
        .address;
    Part {
        runtime: Some(runtime),
        lifecycle,
        address,
    }
}

/// Starts a router over these workers and waits until it knows them all.
pub fn router(workers: &[&Part]) -> Part {
    let addresses: Vec<SocketAddr> = workers.iter().map(|worker| worker.address).collect();
    let router = router_over(&addresses);
    let wanted = workers.len() as f64;
    router.wait_for("kvasir_router_connected_workers", |n| n == wanted);
    router
}

/// Starts a router over these workers, whether they are there or not.
pub fn router_over(workers: &[SocketAddr]) -> Part {
    router_over_with(&[], workers)
}

/// The same, with more flags in `flags`.
pub fn router_over_with(flags: &[&str], workers: &[SocketAddr]) -> Part {
    let workers: Vec<_> = workers
        .iter()
        .map(|worker| format!("--worker=grpc://{worker}"))
        .collect();
    let mut all = flags.to_vec();
    all.extend(workers.iter().map(String::as_str));
    router_with(&all)
}

/// Starts a router with these flags, on a port from the OS unless they say
/// otherwise.
pub fn router_with(flags: &[&str]) -> Part {
    let mut all = vec!["router"];
    if !flags.iter().any(|flag| flag.starts_with("--listen")) {
        all.push("--listen=127.0.0.1:0");
    }
    all.extend(flags);
    let config: ::router::Config = parse(&all);
    let (runtime, lifecycle) = (new_runtime(), Lifecycle::new());
    let address = runtime
        .block_on(::router::start(config, lifecycle.clone()))
        .expect("router starts")
        .address;
    Part {
        runtime: Some(runtime),
        lifecycle,
        address,
    }
}

pub fn new_runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime")
}

/// A configuration of these flags, after the program's name.
pub fn parse<T: Args + FromArgMatches>(flags: &[&str]) -> T {
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

/// Head and body of the answer to a request as it goes over the wire.
pub fn request(address: SocketAddr, text: &str) -> std::io::Result<(String, String)> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(text.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok((head.to_owned(), body.to_owned()))
}

/// A simulated device on which nothing takes noticeable time.
pub const FAST: &[&str] = &["--sim-speed=10000"];
