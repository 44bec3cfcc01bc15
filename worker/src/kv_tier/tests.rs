use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use bytes::Bytes;
use engine::block_pool::Content;
use engine::{Fetch, Fetched, KvTier};
use kvcache_index::BlockHash;
use runtime::MetricsPage;

use super::*;
use crate::metrics::Metrics;

const BLOCK_BYTES: usize = 64;
/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct Bench {
    tier: Background,
    woken_rx: Receiver<()>,
    fetches: u64,
}

impl Bench {
    fn new(blocks: u64, slots: impl Slots) -> Bench {
        let (woken_tx, woken_rx) = channel();
        let options = TierOptions {
            tier: Tier::Host,
            memory: ByteSize(blocks * BLOCK_BYTES as u64),
            block_bytes: BLOCK_BYTES,
            block_size: 16,
            wake: Arc::new(move || _ = woken_tx.send(())),
            metrics: metrics(),
        };
        Bench {
            tier: Background::spawn(options, slots).unwrap(),
            woken_rx,
            fetches: 0,
        }
    }

    fn offload(&mut self, block: u8) {
        self.tier.offload(content(block), &mut |out| {
            out.extend_from_slice(&image(block));
            Ok(())
        });
    }

    fn fetch(&mut self, blocks: impl IntoIterator<Item = u8>) -> Fetched {
        let hashes: Vec<BlockHash> = blocks.into_iter().map(|it| content(it).hash).collect();
        self.fetches += 1;
        let fetch = Fetch(self.fetches);
        self.tier.fetch(fetch, &hashes);
        loop {
            if let Some(fetched) = self.tier.poll() {
                assert_eq!(fetched.fetch, fetch);
                return fetched;
            }
            self.woken_rx.recv_timeout(PATIENCE).unwrap();
        }
    }

    fn holds(&self, blocks: impl IntoIterator<Item = u8>) -> Vec<bool> {
        let holds = |block| self.tier.has(content(block).hash);
        blocks.into_iter().map(holds).collect()
    }
}

fn metrics() -> TierMetrics {
    let metrics = Metrics::new(&MetricsPage::new(), "m", true);
    metrics.host_tier().unwrap().clone()
}

fn content(block: u8) -> Content {
    Content {
        parent: BlockHash::ROOT,
        hash: BlockHash(1000 + u128::from(block)),
    }
}

fn image(block: u8) -> Vec<u8> {
    vec![block; BLOCK_BYTES]
}

/// Host memory, but for what a test does to it.
struct Odd<F> {
    memory: HostMemory,
    read: F,
}

impl<F> Slots for Odd<F>
where
    F: FnMut(io::Result<Bytes>) -> io::Result<Bytes> + Send + 'static,
{
    fn write(&mut self, slot: usize, bytes: Bytes) -> io::Result<()> {
        self.memory.write(slot, bytes)
    }

    fn read(&mut self, slot: usize) -> io::Result<Bytes> {
        (self.read)(self.memory.read(slot))
    }
}

fn odd<F>(read: F) -> Odd<F> {
    Odd {
        memory: HostMemory::default(),
        read,
    }
}

#[test]
fn blocks_come_back_as_they_went_in() {
    let mut bench = Bench::new(40, HostMemory::default());
    (0..9).for_each(|block| bench.offload(block));
    let expected: Vec<Vec<u8>> = (2..7).map(image).collect();
    assert_eq!(bench.fetch(2..7).blocks, expected);
    assert!(bench.tier.seconds_per_block() > 0.0);
    assert_eq!(bench.tier.status().cached_blocks, 9);
    let events = bench.tier.drain_events();
    let stored = |event: &kvcache_index::KvEvent| {
        matches!(
            event,
            kvcache_index::KvEvent::Stored {
                tier: Tier::Host,
                ..
            }
        )
    };
    assert!(events.iter().all(stored), "{events:?}");
}

#[test]
fn memory_is_bounded_and_what_is_used_stays() {
    let mut bench = Bench::new(40, HostMemory::default());
    // Those on their way to the tier count in.
    assert_eq!(bench.tier.status().total_blocks, 30);
    bench.offload(0);
    bench.fetch([0]);
    for block in 1..=200 {
        bench.offload(block);
        // One at a time: none is let go.
        bench.fetch([block]);
        let more = bench.tier.status().cached_blocks;
        assert!(more <= 30, "{more}");
    }
    assert_eq!(bench.holds([1, 200]), [false, true]);
}

#[test]
fn a_damaged_block_is_not_given_back_and_is_forgotten() {
    let spoil = |bytes: io::Result<Bytes>| {
        let mut bytes = bytes?.to_vec();
        if bytes[0] == 3 {
            bytes[20] ^= 1;
        }
        Ok(Bytes::from(bytes))
    };
    let fail = |bytes: io::Result<Bytes>| match bytes {
        Ok(bytes) if bytes[0] == 3 => Err(io::ErrorKind::UnexpectedEof.into()),
        bytes => bytes,
    };
    let benches = [Bench::new(40, odd(spoil)), Bench::new(40, odd(fail))];
    for mut bench in benches {
        (0..6).for_each(|block| bench.offload(block));
        assert_eq!(bench.fetch(1..6).blocks, [image(1), image(2)]);
        assert_eq!(bench.holds([2, 3, 4]), [true, false, true]);
        assert_eq!(bench.fetch([4, 5]).blocks.len(), 2);
        // It is kept again when it is evicted again.
        bench.offload(3);
        assert_eq!(bench.holds([3]), [true]);
    }
}

/// A tier whose thread writes only when it is told to.
struct Slow {
    memory: HostMemory,
    go_rx: Receiver<()>,
}

impl Slots for Slow {
    fn write(&mut self, slot: usize, bytes: Bytes) -> io::Result<()> {
        let _ = self.go_rx.recv();
        self.memory.write(slot, bytes)
    }

    fn read(&mut self, slot: usize) -> io::Result<Bytes> {
        self.memory.read(slot)
    }
}

#[test]
fn a_tier_that_is_behind_lets_blocks_go_and_nobody_waits() {
    let (go_tx, go_rx): (Sender<()>, _) = channel();
    let memory = HostMemory::default();
    let mut bench = Bench::new(40, Slow { memory, go_rx });
    (0..30).for_each(|block| bench.offload(block));
    assert_eq!(bench.tier.status().cached_blocks, 10);
    drop(go_tx);
    assert_eq!(bench.fetch(0..10).blocks.len(), 10);
    bench.offload(20);
    assert_eq!(bench.holds([20]), [true]);
}

#[test]
fn a_tier_whose_thread_ended_gives_nothing() {
    let die = |_: io::Result<Bytes>| -> io::Result<Bytes> { panic!("on purpose") };
    let mut bench = Bench::new(40, odd(die));
    (0..3).for_each(|block| bench.offload(block));
    assert_eq!(bench.fetch(0..3).blocks.len(), 0);
    assert_eq!(bench.fetch(1..3).blocks.len(), 0);
}
