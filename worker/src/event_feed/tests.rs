use kvcache_index::Tier;

use super::*;

fn feed() -> Arc<EventFeed> {
    Arc::new(EventFeed::new(5, WorkerStatus::default()))
}

fn stored(hash: u64) -> KvEvent {
    KvEvent::stored(0, vec![hash])
}

fn event(seq: u64, event: KvEvent) -> Update {
    Update::Event(Numbered { seq, event })
}

fn status(seq: u64, waiting_sequences: usize) -> Update {
    Update::Status {
        seq,
        status: WorkerStatus {
            waiting_sequences,
            ..WorkerStatus::default()
        },
    }
}

fn snapshot(seq: u64, hashes: &[u64]) -> Update {
    let runs = hashes.iter().map(|&hash| Run {
        parent: 0,
        hashes: vec![hash],
        tier: Tier::Device,
    });
    Update::Snapshot {
        seq,
        first: true,
        last: true,
        runs: runs.collect(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_subscriber_gets_snapshot_then_status_then_events() {
    let feed = feed();
    feed.publish(vec![stored(1)]);
    let mut subscription = feed.subscribe(0, 0);
    assert_eq!(subscription.next().await, snapshot(1, &[1]));
    assert_eq!(subscription.next().await, status(1, 0));
    feed.publish(vec![stored(2), KvEvent::Cleared]);
    assert_eq!(subscription.next().await, event(2, stored(2)));
    assert_eq!(subscription.next().await, event(3, KvEvent::Cleared));
}

#[tokio::test(start_paused = true)]
async fn resumes_where_it_was() {
    let feed = feed();
    feed.publish(vec![stored(1), stored(2)]);
    let mut subscription = feed.subscribe(5, 1);
    assert_eq!(subscription.next().await, status(1, 0));
    assert_eq!(subscription.next().await, event(2, stored(2)));
}

#[tokio::test(start_paused = true)]
async fn another_epoch_or_a_number_not_reached_gives_a_snapshot() {
    let feed = feed();
    feed.publish(vec![stored(1)]);
    for (epoch, seq) in [(4, 1), (6, 0), (5, 2)] {
        let mut subscription = feed.subscribe(epoch, seq);
        let update = subscription.next().await;
        assert_eq!(update, snapshot(1, &[1]), "epoch {epoch} seq {seq}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_left_behind_gets_a_snapshot() {
    let feed = feed();
    let mut subscription = feed.subscribe(5, 0);
    assert_eq!(subscription.next().await, status(0, 0));
    let hashes: Vec<u64> = (1..=8192).collect();
    let big = KvEvent::stored(0, hashes);
    feed.publish(vec![big; LOG_CAPACITY / 8192 + 1]);
    let seq = feed.log().last_seq();
    let Update::Snapshot { seq: got, runs, .. } = subscription.next().await else {
        panic!("a snapshot is due");
    };
    assert_eq!((got, runs[0].hashes.len()), (seq, 8192));
    feed.publish(vec![stored(9)]);
    assert_eq!(subscription.next().await, event(seq + 1, stored(9)));
}

#[tokio::test(start_paused = true)]
async fn status_changes_are_coalesced() {
    let feed = feed();
    let mut subscription = feed.subscribe(5, 0);
    assert_eq!(subscription.next().await, status(0, 0));
    let start = Instant::now();
    for waiting in 1..=50 {
        feed.update_status(|status| status.waiting_sequences = waiting);
    }
    assert_eq!(subscription.next().await, status(0, 50));
    assert_eq!(start.elapsed(), STATUS_INTERVAL);
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_status_is_not_told_again() {
    let feed = feed();
    let mut subscription = feed.subscribe(5, 0);
    assert_eq!(subscription.next().await, status(0, 0));
    feed.update_status(|status| status.waiting_sequences = 0);
    feed.update_status(|status| status.waiting_sequences = 1);
    feed.update_status(|status| status.waiting_sequences = 0);
    let hour = Duration::from_secs(3600);
    assert!(
        tokio::time::timeout(hour, subscription.next())
            .await
            .is_err()
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_events_does_not_hold_the_status_back() {
    let feed = feed();
    let mut subscription = feed.subscribe(5, 0);
    assert_eq!(subscription.next().await, status(0, 0));
    feed.update_status(|status| status.waiting_sequences = 1);
    for hash in 1.. {
        feed.publish(vec![stored(hash)]);
        tokio::time::advance(Duration::from_millis(1)).await;
        if let Update::Status { status, .. } = subscription.next().await {
            assert_eq!(status.waiting_sequences, 1);
            break;
        }
        assert!(hash < 20, "no status in twice its interval");
    }
}
