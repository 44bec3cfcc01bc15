//! What a link makes of a worker's silence and words, under a paused clock.

use futures::channel::mpsc;
use futures::poll;

use super::*;
use crate::cluster::fake::{self, Fake, Reply, Then};
use crate::config::defaults;

const SLOT: WorkerSlot = WorkerSlot(0);
const SECOND: Duration = Duration::from_secs(1);

struct Test {
    link: Link,
    client: WorkerClient,
    worker: Fake,
    notices_tx: mpsc::UnboundedSender<Result<Notice, ApiError>>,
    notices_rx: Option<mpsc::UnboundedReceiver<Result<Notice, ApiError>>>,
}

impl Test {
    /// A link to a worker whose events up to number 10 are known.
    async fn new() -> Test {
        let cluster = fake::cluster();
        let worker = fake::join(&cluster, 0, Reply::Tokens(2, Then::Silence)).await;
        let config: Config = defaults();
        let mut feed = Feed::default();
        feed.snapshot(1, 10, true);
        let client = cluster.state().client(SLOT).clone();
        let (notices_tx, notices_rx) = mpsc::unbounded();
        Test {
            link: Link {
                cluster,
                slot: SLOT,
                address: "grpc://127.0.0.1:1".parse().expect("an address"),
                feed,
                recheck: Arc::default(),
                backoff: Backoff::new(&config),
                config,
                draining: false,
                stuck: false,
                last_failure: String::new(),
            },
            client,
            worker,
            notices_tx,
            notices_rx: Some(notices_rx),
        }
    }

    fn tell(&self, seq: u64, status: WorkerStatus) {
        let notice = Notice::Status {
            epoch: 1,
            seq,
            status,
        };
        self.notices_tx.unbounded_send(Ok(notice)).expect("read");
    }

    async fn listen(&mut self) -> Result<(), ApiError> {
        let description = fake::description(SLOT.0);
        let notices = self.notices_rx.take().expect("listened to once");
        self.link.listen(&self.client, &description, notices).await
    }
}

fn is_suspected(cluster: &Cluster) -> bool {
    cluster.state().is_suspected(SLOT)
}

fn is_shunned(cluster: &Cluster) -> bool {
    !cluster
        .health()
        .shunned(Instant::now().into_std())
        .is_empty()
}

#[tokio::test(start_paused = true)]
async fn frozen_worker_gets_no_work_after_three_heartbeats_and_is_lost_after_the_timeout() {
    let mut test = Test::new().await;
    test.worker.replies(Reply::Nothing);
    let cluster = test.link.cluster.clone();
    let mut calls = test.client.watch_trust();
    let begun = Instant::now();
    let frozen = test.listen();
    tokio::pin!(frozen);
    tokio::select! {
        biased;
        _ = &mut frozen => panic!("it is lost too early"),
        () = tokio::time::sleep(SECOND * 3 / 2 - Duration::from_millis(1)) => {}
    }
    assert!(!is_suspected(&cluster));
    tokio::select! {
        biased;
        _ = &mut frozen => panic!("it is lost too early"),
        () = tokio::time::sleep(Duration::from_millis(2)) => {}
    }
    assert!(is_suspected(&cluster));
    let lost = frozen.await.expect_err("it does not answer");
    assert_eq!(lost.code, ErrorCode::WorkerLost);
    assert_eq!(begun.elapsed(), SECOND * 7 / 2);
    assert_eq!(calls.lost().await.message, "it does not answer");
}

#[tokio::test(start_paused = true)]
async fn silent_worker_that_answers_keeps_its_calls_and_gets_work() {
    let mut test = Test::new().await;
    let cluster = test.link.cluster.clone();
    let mut calls = test.client.watch_trust();
    let listening = tokio::time::timeout(3601 * SECOND, test.listen());
    assert!(listening.await.is_err(), "it goes on");
    assert!(poll!(std::pin::pin!(calls.lost())).is_pending());
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(test.worker.described() > 1000);
    assert!(!is_suspected(&cluster));
}

#[tokio::test(start_paused = true)]
async fn worker_with_heartbeats_is_not_asked() {
    let mut test = Test::new().await;
    let notices_tx = test.notices_tx.clone();
    let beat = async {
        for _ in 0..100 {
            let status = WorkerStatus::default();
            let notice = Notice::Status {
                epoch: 1,
                seq: 10,
                status,
            };
            notices_tx.unbounded_send(Ok(notice)).expect("read");
            tokio::time::sleep(SECOND / 2).await;
        }
    };
    tokio::select! {
        biased;
        _ = test.listen() => panic!("it goes on"),
        () = beat => {}
    }
    assert_eq!(test.worker.described(), 0);
}

#[tokio::test(start_paused = true)]
async fn stuck_engine_loses_its_calls_and_gets_no_work_until_it_moves() {
    let mut test = Test::new().await;
    let cluster = test.link.cluster.clone();
    let mut calls = test.client.watch_trust();
    let step = |age: u32, longest: u32| WorkerStatus {
        step_age: age * SECOND,
        longest_step: longest * SECOND,
        ..WorkerStatus::default()
    };
    let client = test.client.clone();
    // Within 30 s, and within ten times what its steps take.
    for fine in [step(30, 0), step(99, 10)] {
        test.link.watch_engine(&client, &fine);
        assert!(poll!(std::pin::pin!(calls.lost())).is_pending());
        assert!(!is_shunned(&cluster));
    }
    assert_eq!(client.patience(), 100 * SECOND);
    test.link.watch_engine(&client, &step(31, 1));
    assert_eq!(calls.lost().await.message, "its engine is stuck");
    assert!(is_shunned(&cluster));
    // Calls made since, for want of others, are not given up with each status.
    let mut later = client.watch_trust();
    test.link.watch_engine(&client, &step(32, 1));
    assert!(poll!(std::pin::pin!(later.lost())).is_pending());
    test.link.watch_engine(&client, &step(0, 1));
    assert!(!is_shunned(&cluster));
}

#[tokio::test(start_paused = true)]
async fn worker_that_is_not_ready_gets_no_work_but_keeps_its_calls() {
    let mut test = Test::new().await;
    let cluster = test.link.cluster.clone();
    let mut calls = test.client.watch_trust();
    let client = test.client.clone();
    let not_ready = WorkerStatus {
        not_ready: true,
        ..WorkerStatus::default()
    };
    test.link.watch_engine(&client, &not_ready);
    assert!(is_shunned(&cluster));
    assert!(poll!(std::pin::pin!(calls.lost())).is_pending());
    test.link.watch_engine(&client, &WorkerStatus::default());
    assert!(!is_shunned(&cluster));
}

#[tokio::test(start_paused = true)]
async fn status_that_knows_of_more_events_shows_that_the_last_ones_were_lost() {
    let mut test = Test::new().await;
    test.tell(9, WorkerStatus::default());
    test.tell(10, WorkerStatus::default());
    test.tell(11, WorkerStatus::default());
    let listened = tokio::time::timeout(SECOND, test.listen()).await;
    assert_eq!(listened, Ok(Ok(())), "subscribe again");
    assert_eq!(test.link.feed.position(), (1, 10));
}
