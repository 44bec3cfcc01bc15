//! Workers for tests, in memory: no socket, so that a paused clock moves on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use hyper_util::rt::TokioIo;
use kvcache_index::WorkerSlot;
use proto::worker as pb;
use proto::worker::generate_event::Event;
use proto::worker::worker_server::{Worker, WorkerServer};
use runtime::Lifecycle;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};

use super::client::{Description, WorkerClient, WorkerStatus};
use super::state::Joining;
use super::{Cluster, health};
use crate::metrics::Metrics;
use crate::plan::{PolicyName, Role};
use crate::tokenize::fixture;

/// As --stuck-after has it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How a call to generate is answered.
#[derive(Clone)]
pub(crate) enum Reply {
    /// Tokens up to this index, and then what follows.
    Tokens(u32, Then),
    /// After this time, all tokens.
    Late(Duration),
    Refusal(Status),
    /// It is not even accepted.
    Nothing,
}

#[derive(Clone)]
pub(crate) enum Then {
    Finished,
    Failure(Status),
    Silence,
}

#[derive(Clone)]
pub(crate) struct Fake(Arc<Script>);

struct Script {
    reply: Mutex<Reply>,
    asked: Mutex<Vec<Asked>>,
    described: AtomicUsize,
    running: AtomicUsize,
}

/// A call as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub resumed_tokens: u32,
    /// `grpc-timeout`, as it was sent.
    pub timeout: Option<String>,
}

/// Counts a call as running until it is dropped.
struct RunningCall(Arc<Script>);

impl Drop for RunningCall {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A cluster without workers.
pub(crate) fn cluster() -> Arc<Cluster> {
    let metrics = Arc::new(Metrics::unrecorded());
    let health = health::Config::default();
    Cluster::new(PolicyName::default(), usize::MAX, health, metrics)
}

/// Adds a worker that answers with `reply`; with `queue` tokens waiting, so that
/// those with few are chosen first.
pub(crate) async fn join(cluster: &Arc<Cluster>, queue: u32, reply: Reply) -> Fake {
    let fake = Fake(Arc::new(Script {
        reply: Mutex::new(reply),
        asked: Mutex::default(),
        described: AtomicUsize::new(0),
        running: AtomicUsize::new(0),
    }));
    let model = fixture::byte_level();
    let slot = WorkerSlot(queue);
    let joining = Joining {
        slot,
        description: Arc::new(description(queue)),
        client: fake.connect().await,
        model,
        recheck: Arc::default(),
    };
    cluster.state().join(joining).expect("it fits the others");
    cluster.health().joined(slot, 1);
    let status = WorkerStatus {
        free_blocks: 10_000,
        queued_prefill_tokens: u64::from(queue) * 1_000_000,
        ..WorkerStatus::default()
    };
    let now = cluster.now();
    cluster.state().status(slot, status, now);
    fake
}

/// What the link of the worker in `slot` says when it gives up on it.
pub(crate) fn give_up(cluster: &Cluster, slot: u32) {
    let state = cluster.state();
    state.client(WorkerSlot(slot)).give_up("it does not answer");
}

/// What it says when it has seen the worker alive.
pub(crate) fn trust(cluster: &Cluster, slot: u32) {
    cluster.trust(WorkerSlot(slot));
}

/// What the worker with so many tokens waiting says of itself.
pub(super) fn description(queue: u32) -> Description {
    let model = fixture::byte_level();
    Description {
        worker_id: format!("fake-{queue}"),
        epoch: 1,
        model: model.name().to_owned(),
        model_fingerprint: model.fingerprint().to_owned(),
        role: Role::Both,
        block_size: model.block_size(),
        max_model_len: model.max_model_len(),
        vocab_size: 300,
    }
}

impl Fake {
    /// Answers like this from now on.
    pub fn replies(&self, reply: Reply) {
        *self.0.reply.lock().expect("no panic while locked") = reply;
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.0.asked.lock().expect("no panic while locked").clone()
    }

    /// How often it was asked what it is.
    pub fn described(&self) -> usize {
        self.0.described.load(Ordering::SeqCst)
    }

    /// Until no call runs.
    pub async fn cancelled(&self) {
        while self.0.running.load(Ordering::SeqCst) > 0 {
            // Of a clock that is paused: it passes when all others wait.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn connect(&self) -> WorkerClient {
        let (near, far) = tokio::io::duplex(1 << 20);
        let server = Server::builder().add_service(WorkerServer::new(self.clone()));
        let incoming = stream::iter([Ok::<_, std::io::Error>(far)]).chain(stream::pending());
        Lifecycle::new().spawn("fake worker", server.serve_with_incoming(incoming));
        let mut near = Some(near);
        let connect = tower::service_fn(move |_| {
            let near = near.take().map(TokioIo::new);
            async move { near.ok_or_else(|| std::io::Error::other("it is gone")) }
        });
        let endpoint = Endpoint::from_static("http://fake");
        let channel = endpoint.connect_with_connector(connect).await;
        WorkerClient::over(channel.expect("it is in memory"), PATIENCE)
    }
}

/// Token `index` of every sequence.
pub(crate) fn token_at(index: u32) -> u32 {
    100 + index
}

fn tokens(range: std::ops::Range<u32>) -> BoxStream<'static, Event> {
    let event = |index| {
        Event::Tokens(pb::Tokens {
            index,
            tokens: vec![pb::Token {
                id: token_at(index),
                ..pb::Token::default()
            }],
        })
    };
    stream::iter(range).map(event).boxed()
}

fn finished() -> Event {
    Event::Finished(pb::Finished {
        reason: pb::FinishReason::Length.into(),
        ..pb::Finished::default()
    })
}

type Answers<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl Worker for Fake {
    type ModelFilesStream = Answers<pb::ModelFilePart>;
    type GenerateStream = Answers<pb::GenerateEvent>;
    type PrefillStream = Answers<pb::PrefillEvent>;
    type PullKvStream = Answers<pb::KvPart>;
    type SubscribeStream = Answers<pb::WorkerEvent>;

    async fn generate(
        &self,
        request: Request<pb::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let timeout = request.metadata().get("grpc-timeout");
        let timeout = timeout.and_then(|text| text.to_str().ok().map(str::to_owned));
        let prompt = request.into_inner().prompt.unwrap_or_default();
        let (from, end) = (
            prompt.resumed_tokens,
            prompt.sampling.unwrap_or_default().max_tokens,
        );
        self.0.running.fetch_add(1, Ordering::SeqCst);
        let running = RunningCall(self.0.clone());
        self.0.asked.lock().expect("no panic").push(Asked {
            resumed_tokens: from,
            timeout,
        });
        let reply = self.0.reply.lock().expect("no panic").clone();
        let events: Answers<Event> = match reply {
            Reply::Nothing => std::future::pending().await,
            Reply::Refusal(status) => return Err(status),
            Reply::Late(time) => {
                let late = stream::once(tokio::time::sleep(time))
                    .flat_map(move |()| tokens(from..end).chain(stream::iter([finished()])));
                late.map(Ok).boxed()
            }
            Reply::Tokens(until, then) => {
                let tokens = tokens(from..until.min(end)).map(Ok);
                match then {
                    Then::Finished => tokens.chain(stream::iter([Ok(finished())])).boxed(),
                    Then::Failure(status) => tokens.chain(stream::iter([Err(status)])).boxed(),
                    Then::Silence => tokens.chain(stream::pending()).boxed(),
                }
            }
        };
        let events = events.map(move |event| {
            let _running = &running;
            event.map(|event| pb::GenerateEvent { event: Some(event) })
        });
        Ok(Response::new(events.boxed()))
    }

    async fn describe(
        &self,
        _request: Request<pb::DescribeRequest>,
    ) -> Result<Response<pb::WorkerDescription>, Status> {
        self.0.described.fetch_add(1, Ordering::SeqCst);
        let reply = self.0.reply.lock().expect("no panic").clone();
        if matches!(reply, Reply::Nothing) {
            return std::future::pending().await;
        }
        Ok(Response::new(pb::WorkerDescription {
            epoch: 1,
            ..pb::WorkerDescription::default()
        }))
    }

    async fn model_files(
        &self,
        _request: Request<pb::ModelFilesRequest>,
    ) -> Result<Response<Self::ModelFilesStream>, Status> {
        Err(Status::unimplemented("no test asks"))
    }

    async fn prefill(
        &self,
        _request: Request<pb::PrefillRequest>,
    ) -> Result<Response<Self::PrefillStream>, Status> {
        Err(Status::unimplemented("no test asks"))
    }

    async fn pull_kv(
        &self,
        _request: Request<pb::PullKvRequest>,
    ) -> Result<Response<Self::PullKvStream>, Status> {
        Err(Status::unimplemented("no test asks"))
    }

    async fn subscribe(
        &self,
        _request: Request<pb::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        Err(Status::unimplemented("no test asks"))
    }
}
