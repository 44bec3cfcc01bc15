//! The two indexes behind one face.

use std::time::{Duration, Instant};

use dynamo_kv_router::ConcurrentRadixTreeCompressed;
use dynamo_kv_router::indexer::{SyncIndexer, ThreadPoolIndexer, ThreadPoolObservationPlan};
use dynamo_kv_router::protocols::{
    ExternalSequenceBlockHash, KvCacheEvent, KvCacheEventData, KvCacheRemoveData, KvCacheStoreData,
    KvCacheStoredBlockData, LocalBlockHash, RouterEvent, WorkerId,
};
use kvcache_index::{KvEvent, Overlaps, PrefixIndex, WorkerSlot};

use crate::schedule::{Block, Step};

/// An index under measurement.
pub trait Subject: Sync {
    type Prompt: Send + Sync;
    type Event: Send;
    /// What a caller keeps between lookups.
    type Buffer: Default;

    fn prompt(blocks: &[Block]) -> Self::Prompt;
    /// `None` for a lookup.
    fn event(step: &Step, id: u32) -> Option<Self::Event>;
    /// Depth of each worker, as the caller would use it; returns the workers'
    /// number and the sum of depths.
    fn lookup(&self, prompt: &Self::Prompt, buffer: &mut Self::Buffer) -> (usize, usize);
    /// Applies all, and returns when the last one is applied.
    fn apply_all(&self, events: Vec<Self::Event>);
    /// Applies each event at its time after `start`; returns how long after
    /// that time each was applied.
    fn apply_at(&self, start: Instant, events: Vec<(Duration, Self::Event)>) -> Vec<Duration>;
}

/// Sleeps, then spins, until `deadline`.
pub fn wait_until(deadline: Instant) {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        match left > Duration::from_micros(300) {
            true => std::thread::sleep(left - Duration::from_micros(200)),
            false => std::hint::spin_loop(),
        }
    }
}

#[derive(Default)]
pub struct Kvasir(pub PrefixIndex);

impl Subject for Kvasir {
    type Prompt = Vec<u64>;
    type Event = (WorkerSlot, KvEvent);
    type Buffer = Overlaps;

    fn prompt(blocks: &[Block]) -> Vec<u64> {
        blocks.iter().map(|block| block.chained).collect()
    }

    fn event(step: &Step, _: u32) -> Option<Self::Event> {
        match step {
            Step::Lookup(_) => None,
            Step::Stored {
                worker,
                parent,
                blocks,
            } => Some((
                WorkerSlot(*worker),
                KvEvent::stored(*parent, Self::prompt(blocks)),
            )),
            Step::Removed { worker, hashes } => {
                Some((WorkerSlot(*worker), KvEvent::removed(hashes.clone())))
            }
        }
    }

    fn lookup(&self, prompt: &Vec<u64>, buffer: &mut Overlaps) -> (usize, usize) {
        self.0.overlaps_into(prompt, Duration::ZERO, buffer);
        (
            buffer.len(),
            buffer.iter().map(|overlap| overlap.blocks as usize).sum(),
        )
    }

    fn apply_all(&self, events: Vec<Self::Event>) {
        for (worker, event) in &events {
            self.0.apply(*worker, event);
        }
    }

    fn apply_at(&self, start: Instant, events: Vec<(Duration, Self::Event)>) -> Vec<Duration> {
        let apply = |(at, (worker, event)): &(Duration, Self::Event)| {
            wait_until(start + *at);
            self.0.apply(*worker, event);
            start.elapsed().saturating_sub(*at)
        };
        events.iter().map(apply).collect()
    }
}

pub struct Dynamo(ThreadPoolIndexer<ConcurrentRadixTreeCompressed>);

impl Dynamo {
    pub fn new(event_threads: usize, block_size: usize) -> Dynamo {
        let tree = ConcurrentRadixTreeCompressed::new();
        Dynamo(ThreadPoolIndexer::new(
            tree,
            event_threads,
            block_size as u32,
        ))
    }
}

impl Subject for Dynamo {
    type Prompt = Vec<LocalBlockHash>;
    type Event = RouterEvent;
    type Buffer = ();

    fn prompt(blocks: &[Block]) -> Vec<LocalBlockHash> {
        blocks
            .iter()
            .map(|block| LocalBlockHash(block.local))
            .collect()
    }

    fn event(step: &Step, id: u32) -> Option<RouterEvent> {
        let (worker, data) = match step {
            Step::Lookup(_) => return None,
            Step::Stored {
                worker,
                parent,
                blocks,
            } => {
                let block = |block: &Block| KvCacheStoredBlockData {
                    block_hash: ExternalSequenceBlockHash(block.chained),
                    tokens_hash: LocalBlockHash(block.local),
                    mm_extra_info: None,
                };
                let stored = KvCacheStoreData {
                    parent_hash: Some(*parent)
                        .filter(|hash| *hash != 0)
                        .map(ExternalSequenceBlockHash),
                    start_position: None,
                    blocks: blocks.iter().map(block).collect(),
                };
                (worker, KvCacheEventData::Stored(stored))
            }
            Step::Removed { worker, hashes } => {
                let block_hashes = hashes
                    .iter()
                    .copied()
                    .map(ExternalSequenceBlockHash)
                    .collect();
                (
                    worker,
                    KvCacheEventData::Removed(KvCacheRemoveData { block_hashes }),
                )
            }
        };
        let event = KvCacheEvent {
            event_id: u64::from(id),
            data,
            dp_rank: 0,
        };
        Some(RouterEvent::new(WorkerId::from(*worker), event))
    }

    fn lookup(&self, prompt: &Vec<LocalBlockHash>, _: &mut ()) -> (usize, usize) {
        let scores = self.0.backend().find_matches(prompt, false).scores;
        (
            scores.len(),
            scores.values().map(|depth| *depth as usize).sum(),
        )
    }

    fn apply_all(&self, events: Vec<RouterEvent>) {
        for event in events {
            self.0.enqueue_event(event).expect("the pool runs");
        }
        pollster::block_on(self.0.flush_and_wait()).expect("the pool runs");
    }

    fn apply_at(&self, start: Instant, events: Vec<(Duration, RouterEvent)>) -> Vec<Duration> {
        let mut expected = std::collections::BTreeMap::new();
        for (_, event) in &events {
            *expected.entry(event.worker_id).or_insert(0) += 1;
        }
        let plan = ThreadPoolObservationPlan {
            epoch: start,
            expected_events_by_worker: expected.into_iter().collect(),
        };
        let times: Vec<Duration> = events.iter().map(|(at, _)| *at).collect();
        let mut observed =
            pollster::block_on(self.0.begin_observation(plan)).expect("the pool runs");
        for (id, (at, event)) in events.into_iter().enumerate() {
            wait_until(start + at);
            observed
                .enqueue_observed_owned(event, id as u32)
                .expect("the pool runs");
        }
        let sealed =
            pollster::block_on(observed.close_observed_producers().seal()).expect("the pool runs");
        let snapshot = pollster::block_on(sealed.harvest()).expect("the pool runs");
        let records = snapshot.buffers.iter().flat_map(|buffer| buffer.records());
        let lag = |record: &dynamo_kv_router::indexer::EventCompletion| {
            let finished = Duration::from_nanos(record.finished_ns);
            finished.saturating_sub(times[record.correlation_id as usize])
        };
        let lags: Vec<Duration> = records.map(lag).collect();
        assert_eq!(lags.len(), times.len(), "an event was not applied");
        lags
    }
}
