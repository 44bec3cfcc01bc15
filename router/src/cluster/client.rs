//! A worker over gRPC: the edge where the protocol of workers ends.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kvcache_index::{KvEvent, Tier};
use proto::ErrorCode;
use proto::worker as wire;
use proto::worker::worker_client::WorkerClient as Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::error::ApiError;
use crate::plan::Role;
use crate::sequence::{FinishReason, Sequence, Token};

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

/// A worker's load as it reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WorkerStatus {
    pub sequences: u32,
    pub queued_prefill_tokens: u64,
    pub free_blocks: u32,
    pub total_blocks: u32,
    pub prefill_tokens_per_second: f32,
    pub decode_step_ms: f32,
    pub drain_tokens_per_second: f32,
    pub waiting: u32,
    pub draining: bool,
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
    Status(WorkerStatus),
}

/// What a decoding worker says of a sequence.
#[derive(Debug)]
pub enum DecodeEvent {
    Started { cached_tokens: usize },
    Tokens { index: usize, tokens: Vec<Token> },
    PromptLogprobs { index: usize, tokens: Vec<Token> },
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
pub struct Ticket(wire::KvTicket);

/// A connection to one worker.
#[derive(Clone, Debug)]
pub struct WorkerClient {
    grpc: Grpc<Channel>,
}

impl WorkerClient {
    /// Connects to `address` (`http://HOST:PORT`).
    pub async fn connect(address: &str) -> Result<WorkerClient, ApiError> {
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
        let grpc = Grpc::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Ok(WorkerClient { grpc })
    }

    /// A client whose calls fail; needs a runtime to exist.
    #[cfg(test)]
    pub(super) fn unconnected() -> WorkerClient {
        let channel = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        WorkerClient {
            grpc: Grpc::new(channel),
        }
    }

    pub async fn describe(&self) -> Result<Description, ApiError> {
        let request = Request::new(wire::DescribeRequest {});
        let mut grpc = self.grpc.clone();
        let described = tokio::time::timeout(CALL_TIMEOUT, grpc.describe(request))
            .await
            .map_err(|_| ApiError::new(ErrorCode::WorkerLost, "the worker does not answer"))?
            .map_err(failure)?
            .into_inner();
        Ok(Description {
            role: match described.role() {
                wire::Role::Prefill => Role::Prefill,
                wire::Role::Decode => Role::Decode,
                wire::Role::Both | wire::Role::Unspecified => Role::Both,
            },
            worker_id: described.worker_id,
            epoch: described.epoch,
            model: described.model,
            model_fingerprint: described.model_fingerprint,
            block_size: described.block_size as usize,
            max_model_len: described.max_model_len as usize,
            vocab_size: described.vocab_size as usize,
        })
    }

    /// The files needed to render and tokenise, by name.
    pub async fn model_files(&self) -> Result<BTreeMap<String, Vec<u8>>, ApiError> {
        let request = Request::new(wire::ModelFilesRequest {});
        let answer = self.grpc.clone().model_files(request).await;
        let mut parts = answer.map_err(failure)?.into_inner();
        let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut total = 0;
        while let Some(part) = parts.message().await.map_err(failure)? {
            total += part.data.len();
            if total > MAX_MODEL_FILES {
                return Err(ApiError::new(
                    ErrorCode::WorkerLost,
                    "its model files are larger than any tokenizer",
                ));
            }
            files.entry(part.name).or_default().extend(&part.data);
        }
        Ok(files)
    }

    /// Events after (`epoch`, `after_seq`); from (0, 0) a snapshot first.
    pub async fn subscribe(
        &self,
        (epoch, after_seq): (u64, u64),
    ) -> Result<impl Stream<Item = Result<Notice, ApiError>> + use<>, ApiError> {
        let request = Request::new(wire::SubscribeRequest { epoch, after_seq });
        let answer = self.grpc.clone().subscribe(request).await;
        let events = answer.map_err(failure)?.into_inner();
        Ok(events.filter_map(|event| async { event.map_err(failure).map(notice).transpose() }))
    }

    /// Starts `sequence`, of which `generated` exists already; with a ticket,
    /// its KV comes from the worker that issued it.
    pub async fn generate(
        &self,
        sequence: &Sequence,
        generated: &[u32],
        ticket: Option<&Ticket>,
    ) -> Result<impl Stream<Item = Result<DecodeEvent, ApiError>> + Unpin + use<>, ApiError> {
        let mut request = Request::new(wire::GenerateRequest {
            prompt: Some(prompt(sequence, generated)),
            kv: ticket.map(|ticket| ticket.0.clone()),
        });
        runtime::propagation::inject_grpc(request.metadata_mut());
        let answer = self.grpc.clone().generate(request).await;
        let events = answer.map_err(failure)?.into_inner();
        Ok(events.map(|event| event.map_err(failure).and_then(decode_event)))
    }

    /// Starts computing the KV of `sequence` for another worker.
    pub async fn prefill(
        &self,
        sequence: &Sequence,
        generated: &[u32],
    ) -> Result<impl Stream<Item = Result<PrefillEvent, ApiError>> + Unpin + use<>, ApiError> {
        let mut request = Request::new(wire::PrefillRequest {
            prompt: Some(prompt(sequence, generated)),
        });
        runtime::propagation::inject_grpc(request.metadata_mut());
        let answer = self.grpc.clone().prefill(request).await;
        let events = answer.map_err(failure)?.into_inner();
        Ok(events.map(|event| event.map_err(failure).and_then(prefill_event)))
    }
}

fn failure(status: Status) -> ApiError {
    ApiError::new(proto::code_of(&status), status.message())
}

fn malformed(what: &str) -> ApiError {
    ApiError::new(
        ErrorCode::WorkerLost,
        format!("the worker sent {what} without content; is it of another version?"),
    )
}

fn prompt(sequence: &Sequence, generated: &[u32]) -> wire::Prompt {
    let sampling = &sequence.sampling;
    wire::Prompt {
        request_id: format!("{}-{}", sequence.request_id, sequence.choice),
        token_ids: [&sequence.prompt, generated].concat(),
        resumed_tokens: generated.len() as u32,
        sampling: Some(wire::Sampling {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            min_p: sampling.min_p,
            seed: sampling.seed,
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            ignore_eos: sampling.ignore_eos,
            stop_token_ids: sampling.stop_token_ids.clone(),
            logprobs: sampling.logprobs,
            prompt_logprobs: sampling.prompt_logprobs,
            max_tokens: sampling.max_tokens as u32,
            min_tokens: sampling.min_tokens as u32,
        }),
        cache_salt: sequence.cache_salt.to_string(),
    }
}

fn token(token: wire::Token) -> Token {
    Token {
        id: token.id,
        logprob: token.logprob,
        top: token.top.iter().map(|top| (top.id, top.logprob)).collect(),
    }
}

fn tokens(tokens: Vec<wire::Token>) -> Vec<Token> {
    tokens.into_iter().map(token).collect()
}

fn decode_event(event: wire::GenerateEvent) -> Result<DecodeEvent, ApiError> {
    use wire::generate_event::Event;
    Ok(match event.event.ok_or_else(|| malformed("an event"))? {
        Event::Started(started) => DecodeEvent::Started {
            cached_tokens: started.cached_tokens as usize,
        },
        Event::Tokens(part) => DecodeEvent::Tokens {
            index: part.index as usize,
            tokens: tokens(part.tokens),
        },
        Event::PromptLogprobs(part) => DecodeEvent::PromptLogprobs {
            index: part.index as usize,
            tokens: tokens(part.tokens),
        },
        Event::Finished(finished) => DecodeEvent::Finished {
            reason: match finished.reason() {
                wire::FinishReason::Length => FinishReason::Length,
                wire::FinishReason::Stop => FinishReason::Stop,
                wire::FinishReason::Unspecified => return Err(malformed("a finish reason")),
            },
        },
    })
}

fn prefill_event(event: wire::PrefillEvent) -> Result<PrefillEvent, ApiError> {
    use wire::prefill_event::Event;
    Ok(match event.event.ok_or_else(|| malformed("an event"))? {
        Event::Ticket(ticket) => PrefillEvent::Ticket(Ticket(ticket)),
        Event::Started(started) => PrefillEvent::Started {
            cached_tokens: started.cached_tokens as usize,
        },
        Event::FirstToken(first) => PrefillEvent::FirstToken(token(first)),
        Event::Transferred(_) => PrefillEvent::Transferred,
    })
}

/// `None`: an event of a newer worker, not known here.
fn notice(event: wire::WorkerEvent) -> Option<Notice> {
    use wire::worker_event::Event;
    let (epoch, seq) = (event.epoch, event.seq);
    let kv = |event| Some(Notice::Kv { epoch, seq, event });
    match event.event? {
        Event::Snapshot(snapshot) => Some(Notice::Snapshot {
            epoch,
            seq,
            first: snapshot.first,
            last: snapshot.last,
            events: snapshot.stored.into_iter().map(stored).collect(),
        }),
        Event::Stored(blocks) => kv(stored(blocks)),
        Event::Removed(blocks) => kv(KvEvent::Removed {
            tier: tier(blocks.tier),
            hashes: blocks.hashes,
        }),
        Event::Cleared(_) => kv(KvEvent::Cleared),
        Event::Status(status) => Some(Notice::Status(WorkerStatus {
            sequences: status.waiting_sequences + status.running_sequences,
            queued_prefill_tokens: status.queued_prefill_tokens,
            free_blocks: status.free_blocks,
            total_blocks: status.total_blocks,
            prefill_tokens_per_second: status.prefill_tokens_per_second,
            decode_step_ms: status.decode_step_ms,
            drain_tokens_per_second: status.drain_tokens_per_second,
            waiting: status.waiting_sequences,
            draining: status.draining,
        })),
    }
}

fn stored(blocks: wire::BlocksStored) -> KvEvent {
    KvEvent::Stored {
        parent: blocks.parent,
        tier: tier(blocks.tier),
        hashes: blocks.hashes,
    }
}

fn tier(number: i32) -> Tier {
    match wire::Tier::try_from(number) {
        Ok(wire::Tier::Device) => Tier::Device,
        Ok(wire::Tier::Host) => Tier::Host,
        Ok(wire::Tier::Disk) => Tier::Disk,
        Ok(wire::Tier::Shared) | Err(_) => Tier::Shared,
    }
}
