//! The gRPC service of a worker: one method per call of `kvasir.worker.v1`.
//!
//! Streams own what they use: dropping a call drops its sequence, ticket or
//! claim, and so frees the blocks.

mod generate;
mod prefill;
mod streams;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::{KvSource, Purpose};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use proto::worker as pb;
use proto::worker::worker_server::Worker;
use runtime::{Lifecycle, propagation};
use tonic::{Request, Response, Status};
use tracing::{Span, info_span};

use crate::deadline::Deadline;
use crate::engine_thread::EngineHandle;
use crate::event_feed::EventFeed;
use crate::failure::Failure;
use crate::handover::Receiver;
use crate::handover::send::Sending;
use crate::metrics::Metrics;
use crate::structured::Structured;
use crate::tickets::Tickets;
use crate::wire::{self, BlockIdentity};

/// What all calls share.
pub struct Shared {
    pub description: pb::WorkerDescription,
    /// Name and content.
    pub files: Vec<(String, Bytes)>,
    /// Where other workers pull from.
    pub address: String,
    pub identity: BlockIdentity,
    pub structured: Structured,
    pub layout: pb::KvLayout,
    pub engine: EngineHandle,
    pub feed: Arc<EventFeed>,
    pub tickets: Tickets,
    pub ticket_lease: Duration,
    pub receiver: Receiver,
    pub metrics: Metrics,
    pub lifecycle: Lifecycle,
}

/// Answers calls. Clones are the same worker.
#[derive(Clone)]
pub struct WorkerService(pub Arc<Shared>);

type Answers<T> = BoxStream<'static, Result<T, Status>>;

impl Shared {
    /// Refuses new work when there is no future for it.
    fn accepting(&self) -> Result<(), Failure> {
        if self.lifecycle.is_draining() {
            return Err(Failure::shutting_down());
        }
        if self.engine.has_ended() {
            return Err(Failure::engine_failed());
        }
        Ok(())
    }

    /// A request for the engine, which checks its tokens and limits.
    async fn request(
        &self,
        prompt: Option<pb::Prompt>,
        (kv, purpose): (KvSource, Purpose),
    ) -> Result<engine::Request, Failure> {
        let constraint = prompt.as_ref().and_then(|prompt| prompt.constraint.clone());
        let id = self.engine.next_id();
        let mut request = self.identity.request(prompt, id, kv, purpose)?;
        if let Some(constraint) = constraint {
            let first = request.tokens.len().saturating_sub(request.resumed_tokens);
            let resumed = request.tokens[first..].to_vec();
            let compiled = self.structured.constraint(constraint, resumed).await?;
            request.constraint = Some(compiled);
        }
        Ok(request)
    }

    /// Whether new work is welcome.
    pub fn is_ready(&self) -> bool {
        self.accepting().is_ok() && !self.feed.status().not_ready
    }
}

/// The span of a call, as a child of the caller's.
fn call_span<T>(request: &Request<T>, span: Span) -> Span {
    propagation::set_parent_grpc(&span, request.metadata());
    span
}

fn request_id(prompt: Option<&pb::Prompt>) -> &str {
    prompt.map_or("", |prompt| prompt.request_id.as_str())
}

fn answers<T: Send + 'static>(
    stream: impl Stream<Item = Result<T, Failure>> + Send + 'static,
) -> Response<Answers<T>> {
    Response::new(stream.map(|item| item.map_err(Status::from)).boxed())
}

/// Of a call whose sequence the engine has taken in as that number.
fn accepted<T>(number: u64, mut response: Response<Answers<T>>) -> Response<Answers<T>> {
    let metadata = response.metadata_mut();
    metadata.insert(proto::SEQUENCE_NUMBER, number.into());
    response
}

#[tonic::async_trait]
impl Worker for WorkerService {
    type ModelFilesStream = Answers<pb::ModelFilePart>;
    type GenerateStream = Answers<pb::GenerateEvent>;
    type PrefillStream = Answers<pb::PrefillEvent>;
    type PullKvStream = Answers<pb::KvPart>;
    type SubscribeStream = Answers<pb::WorkerEvent>;

    async fn describe(
        &self,
        _request: Request<pb::DescribeRequest>,
    ) -> Result<Response<pb::WorkerDescription>, Status> {
        Ok(Response::new(self.0.description.clone()))
    }

    async fn model_files(
        &self,
        _request: Request<pb::ModelFilesRequest>,
    ) -> Result<Response<Self::ModelFilesStream>, Status> {
        let parts = streams::file_parts(&self.0.files);
        Ok(answers(futures::stream::iter(parts).map(Ok)))
    }

    async fn generate(
        &self,
        request: Request<pb::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        self.0.accepting()?;
        let deadline = Deadline::of(request.metadata());
        let id = request_id(request.get_ref().prompt.as_ref());
        let span = info_span!(
            "worker.generate",
            request_id = id,
            worker = self.0.description.worker_id
        );
        let span = call_span(&request, span);
        let call = generate::Call {
            request: request.into_inner(),
            deadline,
            span,
        };
        let (number, events) = deadline
            .within(generate::start(self.0.clone(), call))
            .await?;
        Ok(accepted(number, answers(deadline.bound(events))))
    }

    async fn prefill(
        &self,
        request: Request<pb::PrefillRequest>,
    ) -> Result<Response<Self::PrefillStream>, Status> {
        self.0.accepting()?;
        let deadline = Deadline::of(request.metadata());
        let id = request_id(request.get_ref().prompt.as_ref());
        let span = info_span!(
            "worker.prefill",
            request_id = id,
            worker = self.0.description.worker_id
        );
        let span = call_span(&request, span);
        let start = prefill::start(self.0.clone(), request.into_inner(), span);
        let (number, events) = deadline.within(start).await?;
        Ok(accepted(number, answers(deadline.bound(events))))
    }

    /// Goes on while draining: it ends work that was accepted before.
    async fn pull_kv(
        &self,
        request: Request<pb::PullKvRequest>,
    ) -> Result<Response<Self::PullKvStream>, Status> {
        let span = info_span!("worker.pull_kv", worker = self.0.description.worker_id);
        let span = call_span(&request, span);
        let deadline = Deadline::of(request.metadata());
        let request = request.into_inner();
        let claim = self.0.tickets.claim(&request.ticket_id)?;
        let sending = Sending {
            engine: self.0.engine.clone(),
            layout: self.0.layout.clone(),
            metrics: self.0.metrics.clone(),
            span,
        };
        let parts = sending.parts(claim, request.first_block as usize);
        Ok(answers(deadline.bound(parts).map(|part| {
            part.map(|part| pb::KvPart { part: Some(part) })
        })))
    }

    async fn subscribe(
        &self,
        request: Request<pb::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let request = request.into_inner();
        let epoch = self.0.feed.epoch();
        let heartbeat = Duration::from_millis(request.heartbeat_ms.into());
        let heartbeat = (!heartbeat.is_zero()).then_some(heartbeat);
        let position = (request.epoch, request.after_seq);
        let subscription = self.0.feed.subscribe(position, heartbeat);
        let updates = streams::until_drained(subscription, self.0.lifecycle.drain_started());
        Ok(answers(
            updates.map(move |update| Ok(wire::worker_event(epoch, update))),
        ))
    }
}
