use std::collections::BTreeSet;
use std::time::Duration;

use kvcache_index::{Feed, KvEvent, PrefixIndex, WorkerSlot};

use super::*;

const WORKER: WorkerSlot = WorkerSlot(0);

/// Keeps an index as a router does.
#[derive(Default)]
struct Follower {
    feed: Feed,
    index: PrefixIndex,
    snapshots: usize,
    status: Option<pb::Status>,
}

impl Follower {
    fn apply(&mut self, event: pb::WorkerEvent) {
        use pb::worker_event::Event;
        let kv = match event.event.unwrap() {
            Event::Snapshot(snapshot) => {
                if snapshot.first {
                    self.index.remove_worker(WORKER);
                    self.snapshots += 1;
                }
                for blocks in snapshot.stored {
                    self.index.apply(WORKER, &stored(blocks));
                }
                return self.feed.snapshot(event.epoch, event.seq, snapshot.last);
            }
            Event::Status(status) => {
                self.status = Some(status);
                return;
            }
            Event::Stored(blocks) => stored(blocks),
            Event::Removed(blocks) => KvEvent::removed(blocks.hashes),
            Event::Cleared(_) => KvEvent::Cleared,
        };
        self.feed.event(event.epoch, event.seq).unwrap();
        self.index.apply(WORKER, &kv);
    }

    /// Blocks in a row of the prompt that begins with `first`.
    fn held(&self, first: u32) -> u32 {
        let overlaps = self.index.overlaps(&hashes(first), Duration::ZERO);
        overlaps.of(WORKER).map_or(0, |overlap| overlap.blocks)
    }

    /// Follows until the index and status are as large as the worker's cache.
    async fn catch_up(&mut self, worker: &TestWorker, events: &mut Streaming<pb::WorkerEvent>) {
        let cached = worker.running.status().cached_blocks;
        while self.status.as_ref().map(|it| it.cached_blocks as usize) != Some(cached)
            || self.index.blocks_of(WORKER) != cached
        {
            self.apply(next(events).await.unwrap().unwrap());
        }
    }
}

fn stored(blocks: pb::BlocksStored) -> KvEvent {
    KvEvent::stored(blocks.parent, blocks.hashes)
}

async fn subscribe(worker: &TestWorker, position: (u64, u64)) -> Streaming<pb::WorkerEvent> {
    let request = pb::SubscribeRequest {
        heartbeat_ms: 0,
        epoch: position.0,
        after_seq: position.1,
    };
    let answer = worker.client.clone().subscribe(request).await;
    answer.unwrap().into_inner()
}

async fn generate(worker: &TestWorker, first: u32) {
    let events = worker
        .generate(prompt(first..first + 100, 20))
        .await
        .unwrap();
    collect(events).await.unwrap();
    worker.all_blocks_free().await;
}

fn hashes(first: u32) -> Vec<u64> {
    let tokens: Vec<u32> = (first..first + 100).collect();
    let scope = kvcache_index::HashScope::new("sim-1", "", 16);
    let blocks = scope.full_blocks(&tokens, 16);
    blocks.iter().map(|block| block.short()).collect()
}

#[tokio::test]
async fn a_subscriber_knows_the_blocks_from_before_and_after() {
    let worker = Setup::default().start().await;
    generate(&worker, 2).await;
    let mut events = subscribe(&worker, (0, 0)).await;
    let mut follower = Follower::default();
    follower.catch_up(&worker, &mut events).await;
    generate(&worker, 200).await;
    follower.catch_up(&worker, &mut events).await;
    for first in [2, 200] {
        assert_eq!(follower.held(first), 6);
    }
    assert_eq!(follower.snapshots, 1);
    let status = follower.status.unwrap();
    assert_eq!((status.total_blocks, status.free_blocks), (600, 600));
}

#[tokio::test]
async fn goes_on_from_a_number_without_a_snapshot() {
    let worker = Setup::default().start().await;
    let mut events = subscribe(&worker, (0, 0)).await;
    let mut follower = Follower::default();
    generate(&worker, 2).await;
    follower.catch_up(&worker, &mut events).await;
    drop(events);
    generate(&worker, 200).await;
    let mut events = subscribe(&worker, follower.feed.position()).await;
    follower.catch_up(&worker, &mut events).await;
    assert_eq!(follower.snapshots, 1);
    assert_eq!(follower.held(200), 6);
}

#[tokio::test]
async fn a_restarted_worker_has_a_new_epoch_and_sends_a_snapshot() {
    let before = Setup::default().start().await;
    let mut follower = Follower::default();
    let mut events = subscribe(&before, (0, 0)).await;
    generate(&before, 2).await;
    follower.catch_up(&before, &mut events).await;
    let old = follower.feed.position();
    let after = Setup::default().start().await;
    let mut events = subscribe(&after, old).await;
    follower.apply(next(&mut events).await.unwrap().unwrap());
    follower.catch_up(&after, &mut events).await;
    assert!(follower.feed.position().0 > old.0);
    assert_eq!(follower.index.blocks_of(WORKER), 0);
}

#[tokio::test]
async fn evicted_blocks_are_told() {
    let mut setup = Setup::default();
    setup.sim.total_blocks = 16;
    let worker = setup.start().await;
    let mut events = subscribe(&worker, (0, 0)).await;
    let mut follower = Follower::default();
    for first in [2, 200, 400, 600] {
        generate(&worker, first).await;
    }
    follower.catch_up(&worker, &mut events).await;
    assert_eq!((follower.held(600), follower.held(2)), (6, 0));
}

#[tokio::test]
async fn pushes_the_load_as_it_changes() {
    let worker = Setup::slow(Duration::from_millis(5)).start().await;
    let mut events = subscribe(&worker, (0, 0)).await;
    let generating = worker.generate(prompt(2..300, 100)).await.unwrap();
    let mut seen = BTreeSet::new();
    let mut step_ms = 0.0f32;
    let (generated, ()) = tokio::join!(collect(generating), async {
        while !(seen.contains(&1) && seen.contains(&0) && step_ms > 0.0) {
            let event = next(&mut events).await.unwrap().unwrap();
            if let Some(pb::worker_event::Event::Status(status)) = event.event {
                seen.insert(status.running_sequences);
                step_ms = step_ms.max(status.decode_step_ms);
            }
        }
    });
    generated.unwrap();
    assert!((4.9..5.1).contains(&step_ms), "{step_ms}");
}
