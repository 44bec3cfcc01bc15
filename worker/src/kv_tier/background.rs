//! A tier with a thread: the engine's side of it, and the thread.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use engine::block_pool::{BlockPool, Content};
use engine::tier::ReadBlock;
use engine::{BlockId, Fetch, Fetched, KvTier, TierStatus};
use kvcache_index::{BlockHash, KvEvent, Tier};
use rustc_hash::FxHashMap;

use super::slots::{Checked, Slots};
use super::{TierOptions, Wake};
use crate::metrics::TierMetrics;

/// Blocks on their way to the tier, at most: what one step of a long prompt
/// evicts. Beyond, blocks are let go.
const WRITES: usize = 256;
/// Of a small tier's blocks no more than one in so many are on their way.
const WRITES_SHARE: usize = 4;
/// Jobs that wait for the thread: all writes, and a read for each of more
/// sequences than run at a time. Beyond, blocks are computed.
const JOBS: usize = 2 * WRITES + 512;
/// Weight of the newest block in the time that a block takes.
const NEWEST: f64 = 0.1;

/// The engine's side of a tier.
pub struct Background {
    tier: Tier,
    /// Which block is in which slot. A slot that is read is referenced.
    directory: BlockPool,
    jobs_tx: SyncSender<Job>,
    shared: Arc<SharedState>,
    max_writes: usize,
    block_bytes: usize,
    asked: FxHashMap<Fetch, Vec<BlockId>>,
    metrics: TierMetrics,
}

enum Job {
    Write {
        slot: usize,
        hash: BlockHash,
        bytes: Bytes,
    },
    Read {
        fetch: Fetch,
        blocks: Vec<(usize, BlockHash)>,
    },
}

struct SharedState {
    answers: Mutex<Answers>,
    /// Blocks to be written.
    writes: AtomicUsize,
    /// Seconds to read a block, as bits.
    read_seconds: AtomicU64,
}

#[derive(Default)]
struct Answers {
    ready: VecDeque<Fetched>,
    /// The thread has ended: no answer comes any more.
    is_closed: bool,
}

impl Background {
    pub fn spawn(options: TierOptions, slots: impl Slots) -> io::Result<Background> {
        let memory = usize::try_from(options.memory.0).unwrap_or(usize::MAX);
        let blocks = memory / options.block_bytes;
        let max_writes = WRITES.min(blocks / WRITES_SHARE);
        let total = blocks - max_writes;
        let (jobs_tx, jobs_rx) = sync_channel(JOBS);
        let shared = Arc::new(SharedState {
            answers: Mutex::default(),
            writes: AtomicUsize::new(0),
            read_seconds: AtomicU64::new(0f64.to_bits()),
        });
        let thread = TierThread {
            slots: Checked::new(slots, total),
            jobs_rx,
            shared: shared.clone(),
            wake: options.wake,
            block_size: options.block_size,
            metrics: options.metrics.clone(),
        };
        std::thread::Builder::new()
            .name("kv-tier".to_owned())
            .spawn(move || thread.run())?;
        Ok(Background {
            tier: options.tier,
            directory: BlockPool::new(total, options.block_size).in_tier(options.tier),
            jobs_tx,
            shared,
            max_writes,
            block_bytes: options.block_bytes,
            asked: FxHashMap::default(),
            metrics: options.metrics,
        })
    }

    fn write(&mut self, content: Content, read: ReadBlock<'_>) -> Option<()> {
        if self.shared.writes.load(Ordering::Relaxed) >= self.max_writes {
            return None;
        }
        let begun = Instant::now();
        let mut bytes = Vec::with_capacity(self.block_bytes);
        read(&mut bytes).ok()?;
        let size = bytes.len();
        let slot = self.directory.allocate()?;
        self.shared.writes.fetch_add(1, Ordering::Relaxed);
        let sent = self.jobs_tx.try_send(Job::Write {
            slot: slot.0 as usize,
            hash: content.hash,
            bytes: bytes.into(),
        });
        let slot = self.directory.register(slot, content);
        if sent.is_err() {
            self.shared.writes.fetch_sub(1, Ordering::Relaxed);
            self.directory.forget(slot);
        }
        self.directory.release(&[slot]);
        sent.ok()?;
        self.metrics.record_offload(size, begun.elapsed());
        Some(())
    }

    /// Gives slots back after an answer; what was not in the answer is damaged.
    fn settle(&mut self, fetched: &Fetched) {
        let slots = self.asked.remove(&fetched.fetch).unwrap_or_default();
        if let Some(damaged) = slots.get(fetched.blocks.len()) {
            self.directory.forget(*damaged);
            self.metrics.count_damaged();
        }
        self.directory.release(&slots);
    }
}

impl KvTier for Background {
    fn tier(&self) -> Tier {
        self.tier
    }

    fn has(&self, hash: BlockHash) -> bool {
        self.directory.find(hash).is_some()
    }

    fn offload(&mut self, content: Content, read: ReadBlock<'_>) {
        let known = self.directory.reuse(None, &[content.hash]);
        self.directory.release(&known);
        if known.is_empty() && self.write(content, read).is_none() {
            self.metrics.count_let_go();
        }
    }

    fn fetch(&mut self, fetch: Fetch, hashes: &[BlockHash]) {
        let slots = self.directory.reuse(None, hashes);
        let blocks = slots
            .iter()
            .map(|slot| slot.0 as usize)
            .zip(hashes.iter().copied());
        let blocks = blocks.collect();
        if self.jobs_tx.try_send(Job::Read { fetch, blocks }).is_ok() {
            self.asked.insert(fetch, slots);
            return;
        }
        self.directory.release(&slots);
        self.shared.answers().ready.push_back(Fetched {
            fetch,
            blocks: Vec::new(),
        });
    }

    fn is_ready(&self) -> bool {
        let answers = self.shared.answers();
        !answers.ready.is_empty() || (answers.is_closed && !self.asked.is_empty())
    }

    fn poll(&mut self) -> Option<Fetched> {
        let (answer, is_closed) = {
            let mut answers = self.shared.answers();
            (answers.ready.pop_front(), answers.is_closed)
        };
        let lost = || {
            let fetch = *self.asked.keys().next()?;
            let blocks = Vec::new();
            Some(Fetched { fetch, blocks })
        };
        let fetched = answer.or_else(|| is_closed.then(lost)?)?;
        self.settle(&fetched);
        Some(fetched)
    }

    fn seconds_per_block(&self) -> f64 {
        f64::from_bits(self.shared.read_seconds.load(Ordering::Relaxed))
    }

    fn drain_events(&mut self) -> Vec<KvEvent> {
        self.directory.drain_events()
    }

    fn status(&self) -> TierStatus {
        TierStatus {
            total_blocks: self.directory.total(),
            cached_blocks: self.directory.cached(),
        }
    }
}

impl SharedState {
    fn answers(&self) -> MutexGuard<'_, Answers> {
        // A panic elsewhere leaves whole answers.
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes and reads slots, in the order it is told.
struct TierThread<S> {
    slots: Checked<S>,
    jobs_rx: Receiver<Job>,
    shared: Arc<SharedState>,
    wake: Wake,
    /// Tokens.
    block_size: usize,
    metrics: TierMetrics,
}

impl<S: Slots> TierThread<S> {
    fn run(mut self) {
        while let Ok(job) = self.jobs_rx.recv() {
            match job {
                Job::Write { slot, hash, bytes } => self.write(slot, hash, bytes),
                Job::Read { fetch, blocks } => self.read(fetch, &blocks),
            }
        }
    }

    fn write(&mut self, slot: usize, hash: BlockHash, bytes: Bytes) {
        if let Err(error) = self.slots.write(slot, hash, bytes) {
            tracing::warn!(%error, "an evicted KV block could not be kept");
        }
        self.shared.writes.fetch_sub(1, Ordering::Relaxed);
    }

    fn read(&mut self, fetch: Fetch, blocks: &[(usize, BlockHash)]) {
        let begun = Instant::now();
        let mut read = Vec::with_capacity(blocks.len());
        for &(slot, hash) in blocks {
            match self.slots.read(slot, hash) {
                Ok(bytes) => read.push(bytes),
                Err(error) => {
                    tracing::warn!(%error, "a kept KV block is lost; it is computed again");
                    break;
                }
            }
        }
        self.learn(read.len(), begun.elapsed());
        let bytes = read.iter().map(Bytes::len).sum();
        self.metrics
            .record_onboard(read.len(), bytes, begun.elapsed());
        self.metrics.count_hits(read.len() * self.block_size);
        let blocks = read;
        self.shared
            .answers()
            .ready
            .push_back(Fetched { fetch, blocks });
        (self.wake)();
    }

    fn learn(&self, blocks: usize, time: Duration) {
        if blocks == 0 {
            return;
        }
        let now = time.as_secs_f64() / blocks as f64;
        let before = f64::from_bits(self.shared.read_seconds.load(Ordering::Relaxed));
        let learnt = match before > 0.0 {
            true => before + (now - before) * NEWEST,
            false => now,
        };
        self.shared
            .read_seconds
            .store(learnt.to_bits(), Ordering::Relaxed);
    }
}

impl<S> Drop for TierThread<S> {
    /// Also when it panics: who waits for it computes.
    fn drop(&mut self) {
        self.shared.answers().is_closed = true;
        (self.wake)();
    }
}
