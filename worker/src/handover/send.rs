//! The prefill worker's side: blocks leave as they are computed.

use async_stream::try_stream;
use bytes::Bytes;
use futures::Stream;
use proto::ErrorCode;
use proto::worker::kv_part::Part;
use proto::worker::{KvBlocks, KvEnd, KvLayout};
use tracing::Span;

use super::MESSAGE_BYTES;
use crate::engine_thread::EngineHandle;
use crate::failure::Failure;
use crate::metrics::Metrics;
use crate::tickets::{Claim, Pulled};
use crate::wire;

/// Bytes copied at once between two engine steps: about a millisecond, so that
/// running sequences don't notice.
const EXPORT_BYTES: usize = 4 * MESSAGE_BYTES;

/// What is sent from.
pub struct Sending {
    pub engine: EngineHandle,
    pub layout: KvLayout,
    pub metrics: Metrics,
    /// Of the call; ends with the stream.
    pub span: Span,
}

impl Sending {
    /// The blocks behind a claimed ticket, from `first_block` on. Reads no
    /// further ahead than the receiver takes.
    pub fn parts(
        self,
        mut claim: Claim,
        first_block: usize,
    ) -> impl Stream<Item = Result<Part, Failure>> {
        try_stream! {
            let _span = self.span;
            yield Part::Layout(self.layout);
            let mut sent = Pulled::default();
            loop {
                let next = first_block + sent.blocks;
                let exported = self.engine.export(claim.sequence, next, EXPORT_BYTES).await?;
                let exported = exported.ok_or_else(prefill_gone)?;
                for part in messages(next, exported.blocks) {
                    sent.blocks += part.blocks.len();
                    sent.bytes += part.blocks.iter().map(Bytes::len).sum::<usize>();
                    yield Part::Blocks(part);
                }
                if exported.done {
                    break;
                }
            }
            let first_token = claim.first_token().await?;
            self.metrics.count_sent(sent);
            yield Part::End(KvEnd { first_token: first_token.as_ref().map(wire::token) });
            claim.complete(sent);
        }
    }
}

fn prefill_gone() -> Failure {
    let message = "the prefill behind the ticket ended; its blocks are gone";
    Failure::new(ErrorCode::TicketGone, message)
}

/// Blocks in messages of about [`MESSAGE_BYTES`], at least one block each.
fn messages(first_block: usize, blocks: Vec<Bytes>) -> Vec<KvBlocks> {
    let block_bytes = blocks.first().map_or(1, Bytes::len).max(1);
    let per_message = (MESSAGE_BYTES / block_bytes).max(1);
    let firsts = (first_block..).step_by(per_message);
    firsts
        .zip(blocks.chunks(per_message))
        .map(|(first_block, blocks)| KvBlocks {
            first_block: first_block as u32,
            blocks: blocks.to_vec(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(blocks: usize, bytes: usize) -> Vec<(u32, usize)> {
        let block = Bytes::from(vec![0; bytes]);
        let messages = messages(10, vec![block; blocks]);
        messages
            .iter()
            .map(|it| (it.first_block, it.blocks.len()))
            .collect()
    }

    #[test]
    fn messages_hold_about_a_mebibyte() {
        assert_eq!(sizes(5, MESSAGE_BYTES / 2), [(10, 2), (12, 2), (14, 1)]);
    }

    #[test]
    fn a_block_larger_than_a_message_goes_alone() {
        assert_eq!(sizes(2, MESSAGE_BYTES * 2), [(10, 1), (11, 1)]);
    }

    #[test]
    fn no_blocks_need_no_message() {
        assert_eq!(sizes(0, 1), []);
    }
}
