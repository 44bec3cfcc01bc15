//! The decode worker's side: pulls a prompt's KV and imports it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use engine::SequenceId;
use proto::worker::kv_part::Part;
use proto::worker::worker_client::WorkerClient;
use proto::worker::{KvBlocks, KvLayout, KvPart, KvTicket, PullKvRequest};
use runtime::propagation;
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use super::MESSAGE_BYTES;
use crate::deadline::Deadline;
use crate::engine_thread::EngineHandle;
use crate::failure::Failure;
use crate::metrics::Metrics;
use crate::tickets::Pulled;
use crate::wire;

/// Messages handed to the engine and not yet imported: enough to keep it busy
/// between two steps.
const IMPORTS_IN_FLIGHT: usize = 8;
/// Prefill workers that a decode worker stays connected to.
const MAX_CHANNELS: usize = 256;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A prefill worker whose machine vanished is noticed after twice this time.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Bytes in flight: bandwidth times round trip, with room for some messages.
const STREAM_WINDOW: u32 = 4 * MESSAGE_BYTES as u32;
const CONNECTION_WINDOW: u32 = 16 * MESSAGE_BYTES as u32;

/// Pulls KV from prefill workers.
pub struct Receiver {
    engine: EngineHandle,
    /// Blocks of any other layout are not ours to read.
    layout: KvLayout,
    block_bytes: usize,
    /// Longest wait for the next message.
    timeout: Duration,
    metrics: Metrics,
    channels: Mutex<FxHashMap<String, Channel>>,
}

/// How a [`Receiver`] is made.
pub struct ReceiverOptions {
    pub engine: EngineHandle,
    pub layout: KvLayout,
    pub block_bytes: usize,
    pub timeout: Duration,
    pub metrics: Metrics,
}

/// Why a pull did not work.
#[derive(Debug, thiserror::Error)]
enum PullError {
    #[error("{0} is no address: {1}")]
    Address(String, tonic::transport::Error),
    #[error("{}", .0.message())]
    Refused(#[from] Status),
    #[error("the prefill worker sent nothing for {0:?}")]
    Silent(Duration),
    #[error(
        "the prefill worker's blocks are laid out differently; both workers must run one model and version"
    )]
    Layout,
    #[error(
        "the prefill worker keeps KV as {theirs}, this one as {ours}; give both the same --kv-dtype"
    )]
    Dtype { theirs: String, ours: String },
    #[error("the transfer ended early")]
    Cut,
    #[error("the prefill worker sent a message out of turn")]
    OutOfTurn,
    #[error("{0}")]
    Import(#[from] Failure),
}

impl Receiver {
    pub fn new(options: ReceiverOptions) -> Receiver {
        Receiver {
            engine: options.engine,
            layout: options.layout,
            block_bytes: options.block_bytes,
            timeout: options.timeout,
            metrics: options.metrics,
            channels: Mutex::default(),
        }
    }

    /// Brings a receiving sequence's KV here, from `first_block` on, and tells
    /// how much came. If not all came, the engine computes the rest. Fails only
    /// with the engine.
    pub async fn receive(
        &self,
        id: SequenceId,
        first_block: usize,
        ticket: &KvTicket,
        deadline: Deadline,
    ) -> Result<Pulled, Failure> {
        let begun = Instant::now();
        let mut imports = Imports::default();
        let result = match self.open(first_block, ticket, deadline).await {
            Ok(parts) => self.pull(id, parts, &mut imports).await,
            Err(error) => Err(error),
        };
        // What came before a failure is imported all the same.
        while let Some(Ok(())) = imports.settle_oldest().await {}
        let pulled = imports.settled;
        self.metrics.count_received(pulled);
        match result {
            Ok(()) => self.metrics.record_transfer(begun.elapsed()),
            Err(error) => {
                tracing::warn!(
                    from = ticket.address,
                    blocks = pulled.blocks,
                    %error,
                    "KV transfer failed; the prompt is computed here"
                );
                self.metrics.count_transfer_failure();
                self.engine.import_failed(id).await?;
            }
        }
        Ok(pulled)
    }

    async fn pull(
        &self,
        id: SequenceId,
        mut parts: Streaming<KvPart>,
        imports: &mut Imports,
    ) -> Result<(), PullError> {
        agree(self.next(&mut parts).await?, &self.layout)?;
        loop {
            match self.next(&mut parts).await? {
                Part::Layout(_) => return Err(PullError::OutOfTurn),
                Part::Blocks(blocks) => imports.push(&self.engine, id, blocks).await?,
                Part::End(end) => {
                    imports.settle_all().await?;
                    let first_token = end.first_token.map(wire::sampled);
                    return Ok(self.engine.import_done(id, first_token).await?);
                }
            }
        }
    }

    async fn open(
        &self,
        first_block: usize,
        ticket: &KvTicket,
        deadline: Deadline,
    ) -> Result<Streaming<KvPart>, PullError> {
        let largest = self.block_bytes.saturating_add(2 * MESSAGE_BYTES);
        let mut client =
            WorkerClient::new(self.channel(&ticket.address)?).max_decoding_message_size(largest);
        let mut request = Request::new(PullKvRequest {
            ticket_id: ticket.id.clone(),
            first_block: first_block as u32,
        });
        if let Some(left) = deadline.left() {
            request.set_timeout(left);
        }
        propagation::inject_grpc(request.metadata_mut());
        let answer = tokio::time::timeout(self.timeout, client.pull_kv(request)).await;
        let answer = answer.map_err(|_| PullError::Silent(self.timeout))?;
        Ok(answer?.into_inner())
    }

    async fn next(&self, parts: &mut Streaming<KvPart>) -> Result<Part, PullError> {
        let part = tokio::time::timeout(self.timeout, parts.message()).await;
        let part = part.map_err(|_| PullError::Silent(self.timeout))??;
        part.and_then(|part| part.part).ok_or(PullError::Cut)
    }

    /// A connection to `address`, shared by all pulls and made again when it
    /// breaks.
    fn channel(&self, address: &str) -> Result<Channel, PullError> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| PullError::Address(address.to_owned(), error))?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .connect_lazy();
        if channels.len() >= MAX_CHANNELS {
            channels.clear();
        }
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

/// Whether a transfer that begins with `first` brings blocks as `ours` are.
fn agree(first: Part, ours: &KvLayout) -> Result<(), PullError> {
    match first {
        Part::Layout(theirs) if theirs == *ours => Ok(()),
        Part::Layout(theirs) if theirs.dtype != ours.dtype => Err(PullError::Dtype {
            theirs: theirs.dtype,
            ours: ours.dtype.clone(),
        }),
        Part::Layout(_) => Err(PullError::Layout),
        Part::Blocks(_) | Part::End(_) => Err(PullError::OutOfTurn),
    }
}

/// Imports of one sequence, in order.
#[derive(Default)]
struct Imports {
    in_flight: VecDeque<(Pulled, oneshot::Receiver<Result<(), Failure>>)>,
    /// What is imported.
    settled: Pulled,
}

impl Imports {
    async fn push(
        &mut self,
        engine: &EngineHandle,
        id: SequenceId,
        blocks: KvBlocks,
    ) -> Result<(), Failure> {
        let size = Pulled {
            blocks: blocks.blocks.len(),
            bytes: blocks.blocks.iter().map(Bytes::len).sum(),
        };
        let first_block = blocks.first_block as usize;
        let done_rx = engine.import(id, first_block, blocks.blocks).await?;
        self.in_flight.push_back((size, done_rx));
        match self.in_flight.len() > IMPORTS_IN_FLIGHT {
            true => self.settle_oldest().await.unwrap_or(Ok(())),
            false => Ok(()),
        }
    }

    async fn settle_all(&mut self) -> Result<(), Failure> {
        while let Some(settled) = self.settle_oldest().await {
            settled?;
        }
        Ok(())
    }

    /// Waits for the oldest import; `None` if there is none.
    async fn settle_oldest(&mut self) -> Option<Result<(), Failure>> {
        let (size, done_rx) = self.in_flight.pop_front()?;
        let imported = done_rx.await;
        let imported = imported.unwrap_or_else(|_| Err(Failure::engine_failed()));
        if imported.is_ok() {
            self.settled.blocks += size.blocks;
            self.settled.bytes += size.bytes;
        }
        Some(imported)
    }
}

#[cfg(test)]
mod tests {
    use proto::worker::KvEnd;

    use super::*;

    #[test]
    fn only_blocks_of_one_layout_are_taken() {
        let ours = KvLayout {
            version: 1,
            block_size: 16,
            dtype: "bf16".to_owned(),
            ..KvLayout::default()
        };
        let agree = |change: fn(&mut KvLayout)| {
            let mut theirs = ours.clone();
            change(&mut theirs);
            agree(Part::Layout(theirs), &ours).map_err(|error| error.to_string())
        };
        assert_eq!(agree(|_| ()), Ok(()));
        let dtype = agree(|it| it.dtype = "int8".to_owned()).unwrap_err();
        assert!(dtype.contains("KV as int8, this one as bf16"), "{dtype}");
        assert!(agree(|it| it.version = 2).unwrap_err().contains("laid out"));
        let late = super::agree(Part::End(KvEnd { first_token: None }), &ours);
        assert!(matches!(late, Err(PullError::OutOfTurn)));
    }
}
