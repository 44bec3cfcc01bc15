//! A worker over gRPC: the edge where the protocol of workers ends.

mod trust;
mod wire;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use kvcache_index::KvEvent;
use proto::ErrorCode;
use proto::worker::KvTicket;
use proto::worker::worker_client::WorkerClient as Grpc;
use tokio::time::{Instant, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use crate::error::ApiError;
use crate::plan::Role;
use crate::sequence::{FinishReason, Sequence, Token};
use trust::Trust;

/// Longest time to open a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A worker that answers no HTTP/2 ping for this long is lost.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest answer to a call that computes nothing.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// A tokenizer.json of a large vocabulary takes some 20 MB.
const MAX_MODEL_FILES: usize = 256 << 20;
/// Snapshot parts and prompts of long contexts exceed tonic's 4 MiB.
const MAX_MESSAGE: usize = 64 << 20;

/// What a worker is; constant within an epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    pub worker_id: String,
    pub epoch: u64,
    pub model: String,
    pub model_fingerprint: String,
    pub role: Role,
    pub block_size: usize,
    pub max_model_len: usize,
    pub vocab_size: usize,
}

/// A worker's load and condition as it reports them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WorkerStatus {
    pub sequences: u32,
    pub queued_prefill_tokens: u64,
    pub free_blocks: u32,
    pub total_blocks: u32,
    pub prefill_tokens_per_second: f32,
    pub decode_step_ms: f32,
    pub inter_token_ms: f32,
    pub drain_tokens_per_second: f32,
    /// Sequences it has taken in within its epoch; `None`: it does not say.
    pub accepted: Option<u64>,
    pub waiting: u32,
    pub draining: bool,
    /// Its engine fails; work may still be tried there.
    pub not_ready: bool,
    /// How long the engine's current step runs; 0: there is none.
    pub step_age: Duration,
    /// The longest of its recent steps; 0: unknown.
    pub longest_step: Duration,
}

/// What a worker's subscription says.
#[derive(Debug)]
pub enum Notice {
    /// Part of all it holds after event `seq`.
    Snapshot {
        epoch: u64,
        seq: u64,
        first: bool,
        last: bool,
        events: Vec<KvEvent>,
    },
    Kv {
        epoch: u64,
        seq: u64,
        event: KvEvent,
    },
    /// Its load after event `seq`.
    Status {
        epoch: u64,
        seq: u64,
        status: WorkerStatus,
    },
}

/// What a decoding worker says of a sequence.
#[derive(Debug)]
pub enum DecodeEvent {
    Started { cached_tokens: usize },
    Tokens { index: usize, tokens: Vec<Token> },
    PromptLogprobs { index: usize, tokens: Vec<Token> },
    Embedding { values: Vec<f32> },
    Finished { reason: FinishReason },
}

/// What a prefill worker says of a sequence.
#[derive(Debug)]
pub enum PrefillEvent {
    Ticket(Ticket),
    Started { cached_tokens: usize },
    FirstToken(Token),
    Transferred,
}

/// The right to pull one prompt's KV, passed on unread.
#[derive(Clone, Debug)]
pub struct Ticket(KvTicket);

/// A connection to one worker.
#[derive(Clone, Debug)]
pub struct WorkerClient {
    grpc: Grpc<Channel>,
    trust: Trust,
}

/// What a worker says in answer to one call; dropped, it cancels the call.
pub type Answers<T> = BoxStream<'static, Result<T, ApiError>>;

/// A call that a worker has accepted.
pub struct Accepted<T> {
    /// Of the sequence among those that the worker has taken in; 0: unknown.
    pub number: u64,
    pub answers: Answers<T>,
}

/// A sequence as far as it is, for the worker that takes it on.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    pub sequence: &'a Sequence,
    /// Its first tokens, if it has any.
    pub generated: &'a [u32],
    /// The worker gives it up then.
    pub deadline: Option<Instant>,
}

impl WorkerClient {
    /// Connects to `address` (`http://HOST:PORT`). `patience`: as
    /// [`WorkerClient::patience`], until the worker's status is known.
    pub async fn connect(address: &str, patience: Duration) -> Result<WorkerClient, ApiError> {
        let lost = |error: tonic::transport::Error| {
            ApiError::new(ErrorCode::WorkerLost, format!("{address}: {error}"))
        };
        let channel = Endpoint::from_shared(address.to_owned())
            .map_err(lost)?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect()
            .await
            .map_err(lost)?;
        Ok(WorkerClient::over(channel, patience))
    }

    pub(super) fn over(channel: Channel, patience: Duration) -> WorkerClient {
        WorkerClient {
            grpc: Grpc::new(channel)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
            trust: Trust::new(patience),
        }
    }

    /// A client whose calls fail; needs a runtime to exist.
    #[cfg(test)]
    pub(super) fn unconnected() -> WorkerClient {
        let channel = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        WorkerClient::over(channel, Duration::from_secs(30))
    }

    /// How long a sequence that has begun may be silent before the worker is
    /// taken to be stuck.
    pub fn patience(&self) -> Duration {
        self.trust.patience()
    }

    #[cfg(test)]
    pub(super) fn watch_trust(&self) -> trust::Trusted {
        self.trust.watch()
    }

    pub(super) fn set_patience(&self, patience: Duration) {
        self.trust.set_patience(patience);
    }

    /// Fails all calls in progress, whatever the connection makes of them.
    pub(super) fn give_up(&self, why: &'static str) {
        self.trust.give_up(why);
    }

    pub async fn describe(&self, within: Duration) -> Result<Description, ApiError> {
        let request = Request::new(proto::worker::DescribeRequest {});
        let mut grpc = self.grpc.clone();
        let described = timeout(within, grpc.describe(request)).await;
        let described = described.map_err(|_| silent())?.map_err(wire::failure)?;
        Ok(wire::description(described.into_inner()))
    }

    /// The files needed to render and tokenise, by name.
    pub async fn model_files(&self) -> Result<BTreeMap<String, Vec<u8>>, ApiError> {
        let request = Request::new(proto::worker::ModelFilesRequest {});
        let mut grpc = self.grpc.clone();
        let answer = timeout(CALL_TIMEOUT, grpc.model_files(request)).await;
        let answer = answer.map_err(|_| silent())?;
        let parts = answer.map_err(wire::failure)?.into_inner();
        let parts = parts.map(|part| part.map_err(wire::failure));
        collect_files(parts).await
    }

    /// Events after (`epoch`, `after_seq`); from (0, 0) a snapshot first. With
    /// nothing to tell, the worker repeats its status after each `heartbeat`.
    pub async fn subscribe(
        &self,
        (epoch, after_seq): (u64, u64),
        heartbeat: Duration,
    ) -> Result<impl Stream<Item = Result<Notice, ApiError>> + use<>, ApiError> {
        let request = Request::new(proto::worker::SubscribeRequest {
            epoch,
            after_seq,
            heartbeat_ms: u32::try_from(heartbeat.as_millis()).unwrap_or(u32::MAX),
        });
        let mut grpc = self.grpc.clone();
        let answer = timeout(CALL_TIMEOUT, grpc.subscribe(request)).await;
        let answer = answer.map_err(|_| lost("it does not answer a subscription"))?;
        let events = answer.map_err(wire::failure)?.into_inner();
        Ok(events.filter_map(|event| async {
            let notice = event.map_err(wire::failure).map(wire::notice);
            notice.transpose()
        }))
    }

    /// Starts a sequence; with a ticket, its KV comes from the worker that
    /// issued it.
    pub async fn generate(
        &self,
        work: &Work<'_>,
        ticket: Option<&Ticket>,
    ) -> Result<Accepted<DecodeEvent>, ApiError> {
        let request = proto::worker::GenerateRequest {
            prompt: Some(wire::prompt(work.sequence, work.generated)),
            kv: ticket.map(|ticket| ticket.0.clone()),
        };
        let mut grpc = self.grpc.clone();
        let call = grpc.generate(request_of(request, work.deadline));
        self.answers(call, wire::decode_event, work.deadline).await
    }

    /// Starts computing a sequence's KV for another worker.
    pub async fn prefill(&self, work: &Work<'_>) -> Result<Accepted<PrefillEvent>, ApiError> {
        let request = proto::worker::PrefillRequest {
            prompt: Some(wire::prompt(work.sequence, work.generated)),
        };
        let mut grpc = self.grpc.clone();
        let call = grpc.prefill(request_of(request, work.deadline));
        self.answers(call, wire::prefill_event, work.deadline).await
    }

    /// The answers to a call, until the worker is given up.
    async fn answers<W, T>(
        &self,
        call: impl Future<Output = Result<Response<Streaming<W>>, Status>>,
        read: fn(W) -> Result<T, ApiError>,
        deadline: Option<Instant>,
    ) -> Result<Accepted<T>, ApiError>
    where
        W: Send + 'static,
        T: Send + 'static,
    {
        let failure = move |status: Status| match deadline {
            // Whoever's timer was first.
            Some(deadline) if Instant::now() >= deadline => {
                ApiError::new(ErrorCode::DeadlineExceeded, status.message())
            }
            _ => wire::failure(status),
        };
        let mut trusted = self.trust.watch();
        let answer = tokio::select! {
            biased;
            answer = call => answer.map_err(failure)?,
            error = trusted.lost() => return Err(error),
        };
        let number = wire::sequence_number(answer.metadata());
        let mut events = answer.into_inner();
        let events = async_stream::try_stream! {
            // Once for all messages: to begin waiting takes a lock that all calls
            // of a worker share.
            let mut lost = std::pin::pin!(trusted.lost());
            loop {
                let event = tokio::select! {
                    biased;
                    event = events.message() => event.map_err(failure),
                    error = &mut lost => Err(error),
                };
                match event? {
                    Some(event) => yield read(event)?,
                    None => break,
                }
            }
        };
        Ok(Accepted {
            number,
            answers: events.boxed(),
        })
    }
}

/// A call that carries the trace, and its deadline as `grpc-timeout`.
fn request_of<T>(message: T, deadline: Option<Instant>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(deadline) = deadline {
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    }
    runtime::propagation::inject_grpc(request.metadata_mut());
    request
}

/// Files of their parts; each part must come in time.
async fn collect_files(
    parts: impl Stream<Item = Result<proto::worker::ModelFilePart, ApiError>>,
) -> Result<BTreeMap<String, Vec<u8>>, ApiError> {
    let mut parts = std::pin::pin!(parts);
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut total = 0;
    while let Some(part) = timeout(CALL_TIMEOUT, parts.next())
        .await
        .map_err(|_| lost("it stopped sending its model files"))?
    {
        let part = part?;
        total += part.data.len();
        if total > MAX_MODEL_FILES {
            return Err(lost("its model files are larger than any tokenizer"));
        }
        files.entry(part.name).or_default().extend(&part.data);
    }
    Ok(files)
}

fn silent() -> ApiError {
    lost("the worker does not answer")
}

fn lost(why: &str) -> ApiError {
    ApiError::new(ErrorCode::WorkerLost, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn model_files_that_stop_coming_are_not_waited_for() {
        let part = proto::worker::ModelFilePart {
            name: "tokenizer.json".to_owned(),
            data: "{".into(),
        };
        let parts = futures::stream::iter([Ok(part)]).chain(futures::stream::pending());
        let begun = Instant::now();
        let failed = collect_files(parts).await.expect_err("no end came");
        assert_eq!(failed.code, ErrorCode::WorkerLost);
        assert_eq!(begun.elapsed(), CALL_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn giving_up_fails_calls_in_progress_and_no_later_ones() {
        let trust = Trust::new(Duration::ZERO);
        let (mut earlier, mut other) = (trust.watch(), trust.watch());
        trust.set_patience(Duration::from_secs(9));
        assert!(futures::poll!(std::pin::pin!(earlier.lost())).is_pending());
        trust.give_up("it is stuck");
        assert_eq!(earlier.lost().await.message, "it is stuck");
        assert_eq!(other.lost().await.code, ErrorCode::WorkerLost);
        let mut later = trust.watch();
        assert!(futures::poll!(std::pin::pin!(later.lost())).is_pending());
        assert_eq!(trust.patience(), Duration::from_secs(9));
    }
}
