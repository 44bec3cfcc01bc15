use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Instant;

use super::*;

const GRACE: Duration = Duration::from_secs(30);

#[tokio::test(start_paused = true)]
async fn finish_waits_for_tasks_that_end_on_drain() {
    let life = Lifecycle::new();
    let drained = life.drain_started();
    life.spawn("worker", async move {
        drained.await;
        tokio::time::sleep(Duration::from_secs(7)).await;
    });
    let start = Instant::now();
    assert_eq!(life.finish(GRACE).await, Ok(()));
    assert_eq!(start.elapsed(), Duration::from_secs(7));
}

#[tokio::test(start_paused = true)]
async fn late_tasks_are_named_and_aborted() {
    struct SetOnDrop(Arc<AtomicBool>);
    impl Drop for SetOnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicBool::new(false));
    let guard = SetOnDrop(dropped.clone());
    let life = Lifecycle::new();
    life.spawn("stuck", async move {
        let _guard = guard;
        pending::<()>().await;
    });
    life.spawn("quick", async {});
    let start = Instant::now();
    let late = life.finish(GRACE).await;
    assert_eq!(
        late,
        Err(Late {
            tasks: vec!["stuck"]
        })
    );
    assert_eq!(start.elapsed(), GRACE + STOP_TIME);
    assert!(dropped.load(Ordering::SeqCst));
}

#[tokio::test(start_paused = true)]
async fn hard_stop_comes_after_the_grace_time() {
    let life = Lifecycle::new();
    let stopped = life.stopped();
    let task = life.spawn("stream", async move {
        let start = Instant::now();
        stopped.await;
        start.elapsed()
    });
    let late = life.finish(GRACE).await;
    assert_eq!(
        late,
        Err(Late {
            tasks: vec!["stream"]
        })
    );
    assert_eq!(task.await.unwrap(), GRACE);
}

#[tokio::test(start_paused = true)]
async fn stop_cuts_the_grace_time_short() {
    let life = Lifecycle::new();
    life.spawn("stuck", pending::<()>());
    let second_signal = life.clone();
    life.spawn("signals", async move {
        tokio::time::sleep(Duration::from_secs(2)).await;
        second_signal.stop();
    });
    let start = Instant::now();
    assert!(life.finish(GRACE).await.is_err());
    assert_eq!(start.elapsed(), Duration::from_secs(2) + STOP_TIME);
}

#[tokio::test(start_paused = true)]
async fn child_ends_alone_or_with_its_parent() {
    let parent = Lifecycle::new();
    let (first, second) = (parent.child(), parent.child());
    let drained = first.drain_started();
    first.spawn("first", drained);
    assert_eq!(first.finish(GRACE).await, Ok(()));
    assert!(first.is_draining() && !parent.is_draining() && !second.is_draining());

    let drained = second.drain_started();
    second.spawn("second", drained);
    assert_eq!(parent.finish(GRACE).await, Ok(()));
    assert!(second.is_draining());
}

#[tokio::test(start_paused = true)]
async fn parent_waits_for_tasks_of_its_children() {
    let parent = Lifecycle::new();
    parent.child().spawn("grandchild", pending::<()>());
    let late = parent.finish(GRACE).await;
    assert_eq!(
        late,
        Err(Late {
            tasks: vec!["grandchild"]
        })
    );
}

#[tokio::test(start_paused = true)]
async fn presence_without_a_task_counts() {
    let life = Lifecycle::new();
    let presence = life.enter("thread");
    let late = life.finish(GRACE).await;
    assert_eq!(
        late,
        Err(Late {
            tasks: vec!["thread"]
        })
    );
    drop(presence);
    assert_eq!(life.finish(GRACE).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn panicking_task_leaves() {
    let life = Lifecycle::new();
    let task = life.spawn("fragile", async { panic!("as planned") });
    assert!(task.await.is_err());
    assert_eq!(life.finish(GRACE).await, Ok(()));
}
