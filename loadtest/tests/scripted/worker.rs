//! A worker that does what a test tells it.

mod calls;
mod subscription;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc as blocking};
use std::time::Duration;

use bytes::Bytes;
use proto::ErrorCode;
use proto::worker as pb;
use proto::worker::worker_server::WorkerServer;
use runtime::{Lifecycle, ServeOptions};
use tokio::runtime::{Builder, Runtime};
use tonic::service::Routes;

use crate::parts::until;
use crate::reply::{GenerateReply, PrefillReply, Reply, whole};
use calls::Calls;
pub use subscription::{Subscription, draining, idle};

pub const BLOCK_SIZE: u32 = 16;
/// Enough to be preferred for, too few to be full.
const TOKENS_PER_RANK: u64 = 1000;

/// What a worker says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub id: &'static str,
    pub epoch: u64,
    pub model: &'static str,
    pub fingerprint: &'static str,
    pub role: pb::Role,
    /// Where to listen; port 0: anywhere.
    pub address: SocketAddr,
    /// Answers subscriptions with an empty snapshot and this many tokens in its
    /// queue; the router prefers workers with few. `None`: the test answers.
    pub queued_tokens: Option<u64>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            id: "scripted",
            epoch: 7,
            model: "scripted",
            fingerprint: "f",
            role: pb::Role::Both,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            queued_tokens: Some(0),
        }
    }
}

/// A running worker. It has one thread, so that it can hang as a whole.
pub struct Scripted {
    runtime: Option<Runtime>,
    options: Options,
    pub address: SocketAddr,
    script: Arc<Script>,
    hung: Option<blocking::Sender<()>>,
}

type Behaviour<A, R> = Box<dyn Fn(&A) -> R + Send + Sync>;

struct Script {
    options: Options,
    files: Vec<(&'static str, Bytes)>,
    subscriptions: Mutex<Vec<Subscription>>,
    /// Subscriptions that will not even get an answer.
    ignored_subscriptions: Mutex<u32>,
    refused_describes: Mutex<u32>,
    described: Mutex<u32>,
    generate: Mutex<Behaviour<pb::GenerateRequest, GenerateReply>>,
    prefill: Mutex<Behaviour<pb::PrefillRequest, PrefillReply>>,
    asked: Mutex<Vec<pb::GenerateRequest>>,
}

impl Scripted {
    pub fn start(options: Options) -> Scripted {
        let script = Arc::new(Script {
            options,
            files: models::demo().tokenizer_files().expect("embedded"),
            subscriptions: Mutex::default(),
            ignored_subscriptions: Mutex::default(),
            refused_describes: Mutex::default(),
            described: Mutex::default(),
            generate: Mutex::new(Box::new(whole)),
            prefill: Mutex::new(Box::new(|_| Reply::refusal(ErrorCode::WorkerBusy))),
            asked: Mutex::default(),
        });
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("runtime");
        let address = runtime.block_on(serve(&script));
        Scripted {
            runtime: Some(runtime),
            options,
            address,
            script,
            hung: None,
        }
    }

    /// One that answers subscriptions only as the test says.
    pub fn by_hand(id: &'static str) -> Scripted {
        Scripted::start(Options {
            id,
            queued_tokens: None,
            ..Options::default()
        })
    }

    /// One that is chosen before those with larger `rank`.
    pub fn ranked(id: &'static str, rank: u64) -> Scripted {
        Scripted::start(Options {
            id,
            queued_tokens: Some(rank * TOKENS_PER_RANK),
            ..Options::default()
        })
    }

    /// Answers calls to generate like this from now on.
    pub fn generates(
        &self,
        behaviour: impl Fn(&pb::GenerateRequest) -> GenerateReply + Send + Sync + 'static,
    ) {
        *lock(&self.script.generate) = Box::new(behaviour);
    }

    /// Answers calls to prefill like this from now on.
    pub fn prefills(
        &self,
        behaviour: impl Fn(&pb::PrefillRequest) -> PrefillReply + Send + Sync + 'static,
    ) {
        *lock(&self.script.prefill) = Box::new(behaviour);
    }

    /// All calls to generate so far.
    pub fn asked(&self) -> Vec<pb::GenerateRequest> {
        lock(&self.script.asked).clone()
    }

    /// How often it was asked what it is.
    pub fn described(&self) -> u32 {
        *lock(&self.script.described)
    }

    /// The next `n` calls to describe it fail.
    pub fn refuse_describes(&self, n: u32) {
        *lock(&self.script.refused_describes) = n;
    }

    /// The next `n` subscriptions get no answer.
    pub fn ignore_subscriptions(&self, n: u32) {
        *lock(&self.script.ignored_subscriptions) = n;
    }

    /// The subscription number `n`, once it is made.
    pub fn subscription(&self, n: usize) -> Subscription {
        until(&format!("subscription {n}"), || {
            lock(&self.script.subscriptions).len() > n
        });
        lock(&self.script.subscriptions)[n].clone()
    }

    /// Stops as a whole, as SIGSTOP would: its sockets stay open, nothing is
    /// read or answered.
    pub fn hang(&mut self) {
        let (hung_tx, hung_rx) = blocking::channel();
        let runtime = self.runtime.as_ref().expect("it runs");
        // The one thread of the runtime waits here.
        runtime.spawn(async move { hung_rx.recv() });
        self.hung = Some(hung_tx);
    }

    /// Goes on after it hung.
    pub fn go_on(&mut self) {
        self.hung = None;
    }

    /// Ends at once, with its connections and its port.
    pub fn kill(&mut self) {
        self.go_on();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }

    /// Another start on the same port.
    pub fn again(&self, epoch: u64) -> Scripted {
        Scripted::start(Options {
            epoch,
            address: self.address,
            ..self.options
        })
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn serve(script: &Arc<Script>) -> SocketAddr {
    let listen = script.options.address.to_string();
    let listener = runtime::bind(&listen).await.expect("the port is free");
    let address = listener.local_addr().expect("it is bound");
    let app = Routes::new(WorkerServer::new(Calls(script.clone())))
        .prepare()
        .into_axum_router();
    let life = Lifecycle::new();
    let serving = life.clone();
    life.spawn("scripted worker", async move {
        runtime::serve(listener, app, &serving, ServeOptions::default()).await;
    });
    address
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
