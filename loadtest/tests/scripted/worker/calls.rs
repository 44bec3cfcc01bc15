//! The calls to a scripted worker, answered as its script says.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::channel::mpsc;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use proto::worker as pb;
use proto::worker::worker_server::Worker;
use tonic::{Request, Response, Status};

use super::{BLOCK_SIZE, Script, Subscription, idle, lock};

/// Takes one of `left`, if there is one.
fn take_one(left: &Mutex<u32>) -> bool {
    let mut left = lock(left);
    let some = *left > 0;
    *left = left.saturating_sub(1);
    some
}

/// Says again and again that it is there. Yields nothing itself.
fn heartbeats(
    subscription: Subscription,
    interval_ms: u32,
) -> impl Stream<Item = Result<pb::WorkerEvent, Status>> {
    let beat = move |subscription: Subscription| async move {
        tokio::time::sleep(Duration::from_millis(interval_ms.into())).await;
        subscription.heartbeat();
        Some((stream::empty(), subscription))
    };
    stream::unfold(subscription, beat).flatten()
}

pub(super) struct Calls(pub Arc<Script>);

type Answers<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl Worker for Calls {
    type ModelFilesStream = Answers<pb::ModelFilePart>;
    type GenerateStream = Answers<pb::GenerateEvent>;
    type PrefillStream = Answers<pb::PrefillEvent>;
    type PullKvStream = Answers<pb::KvPart>;
    type SubscribeStream = Answers<pb::WorkerEvent>;

    async fn describe(
        &self,
        _request: Request<pb::DescribeRequest>,
    ) -> Result<Response<pb::WorkerDescription>, Status> {
        *lock(&self.0.described) += 1;
        if take_one(&self.0.refused_describes) {
            return Err(Status::unavailable("as the script says"));
        }
        let options = &self.0.options;
        Ok(Response::new(pb::WorkerDescription {
            worker_id: options.id.to_owned(),
            epoch: options.epoch,
            model: options.model.to_owned(),
            model_fingerprint: options.fingerprint.to_owned(),
            role: options.role.into(),
            block_size: BLOCK_SIZE,
            total_blocks: 1000,
            max_model_len: 1024,
            vocab_size: 256,
            max_sequences: 64,
            kv_dtype: "sim".into(),
            kv_block_bytes: 0,
        }))
    }

    async fn model_files(
        &self,
        _request: Request<pb::ModelFilesRequest>,
    ) -> Result<Response<Self::ModelFilesStream>, Status> {
        let parts: Vec<_> = self
            .0
            .files
            .iter()
            .map(|(name, content)| {
                Ok(pb::ModelFilePart {
                    name: (*name).to_owned(),
                    data: content.clone(),
                })
            })
            .collect();
        Ok(Response::new(stream::iter(parts).boxed()))
    }

    async fn generate(
        &self,
        request: Request<pb::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let request = request.into_inner();
        lock(&self.0.asked).push(request.clone());
        let reply = lock(&self.0.generate)(&request);
        reply.into_stream().map(Response::new)
    }

    async fn prefill(
        &self,
        request: Request<pb::PrefillRequest>,
    ) -> Result<Response<Self::PrefillStream>, Status> {
        let reply = lock(&self.0.prefill)(request.get_ref());
        reply.into_stream().map(Response::new)
    }

    async fn pull_kv(
        &self,
        _request: Request<pb::PullKvRequest>,
    ) -> Result<Response<Self::PullKvStream>, Status> {
        Err(Status::unimplemented("a scripted worker has no KV"))
    }

    async fn subscribe(
        &self,
        request: Request<pb::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        if take_one(&self.0.ignored_subscriptions) {
            return std::future::pending().await;
        }
        let request = request.into_inner();
        let (events_tx, events_rx) = mpsc::unbounded();
        let subscription = Subscription {
            position: (request.epoch, request.after_seq),
            at: Instant::now(),
            epoch: self.0.options.epoch,
            told: Arc::default(),
            events_tx,
        };
        let Some(queued) = self.0.options.queued_tokens else {
            lock(&self.0.subscriptions).push(subscription);
            return Ok(Response::new(events_rx.boxed()));
        };
        subscription.snapshot(0, &[]);
        subscription.status(0, idle(queued));
        let heartbeats = heartbeats(subscription.clone(), request.heartbeat_ms);
        lock(&self.0.subscriptions).push(subscription);
        let events = stream::select(events_rx, heartbeats);
        Ok(Response::new(events.boxed()))
    }
}
