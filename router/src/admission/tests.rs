use super::*;
use crate::tokenize::{Options, Prompt};
use runtime::MetricsPage;
use runtime::config::HumanDuration;

const WAIT: Duration = Duration::from_secs(5);

fn config(running: usize, queued: usize) -> Config {
    Config {
        max_concurrent_requests: running,
        max_queued_requests: queued,
        max_queued_tokens: 1_000_000,
        max_queue_wait: HumanDuration(WAIT),
        tenant_weight: Vec::new(),
    }
}

fn admission(running: usize, queued: usize) -> Admission {
    Admission::new(&config(running, queued), Arc::new(Metrics::unrecorded()))
}

fn request() -> Request {
    Request {
        model: "tiny".to_owned(),
        prompts: vec![Prompt::Tokens(Arc::from([1, 2, 3]))],
        options: Options::default(),
        hints: Default::default(),
    }
}

fn priority(priority: i32) -> Objectives {
    Objectives {
        priority,
        ..Objectives::default()
    }
}

async fn admit(admission: &Admission) -> Result<Permit, ApiError> {
    admission.admit(&request(), &Objectives::default()).await
}

/// Turns out and waiters.
fn counts(admission: &Admission) -> (usize, usize) {
    let state = admission.0.lock();
    (state.queue.running(), state.queue.waiting())
}

#[tokio::test]
async fn a_dropped_permit_lets_the_next_in() {
    let admission = admission(1, 1);
    let first = admit(&admission).await.expect("free");
    let second = admit(&admission);
    tokio::pin!(second);
    assert!(futures::poll!(&mut second).is_pending());
    drop(first);
    assert!(second.await.is_ok());
    assert_eq!(counts(&admission), (0, 0));
}

#[tokio::test]
async fn sheds_when_the_queue_is_full() {
    let admission = admission(1, 1);
    let _first = admit(&admission).await.expect("free");
    let second = admit(&admission);
    tokio::pin!(second);
    assert!(futures::poll!(&mut second).is_pending());
    let third = admit(&admission).await.expect_err("full");
    assert_eq!(third.code, ErrorCode::Overloaded);
    assert_eq!(third.retry_after, Some(1));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_the_limit() {
    let admission = admission(1, 1);
    let _first = admit(&admission).await.expect("free");
    let started = Instant::now();
    let second = admit(&admission).await.expect_err("no turn");
    assert_eq!(second.code, ErrorCode::Overloaded);
    assert_eq!(started.elapsed(), WAIT);
    assert_eq!(counts(&admission), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_past_its_deadline() {
    let admission = admission(1, 1);
    let _first = admit(&admission).await.expect("free");
    let started = Instant::now();
    let limit = Duration::from_secs(2);
    let objectives = Objectives {
        deadline: Some(started + limit),
        ..Objectives::default()
    };
    let second = admission.admit(&request(), &objectives).await;
    assert_eq!(second.expect_err("late").code, ErrorCode::DeadlineExceeded);
    assert_eq!(started.elapsed(), limit);
}

#[tokio::test(start_paused = true)]
async fn only_the_sheddable_do_not_wait_past_their_first_token() {
    let admission = admission(1, 2);
    let _first = admit(&admission).await.expect("free");
    let started = Instant::now();
    let objective = Duration::from_secs(1);
    let with = |priority| Objectives {
        priority,
        first_token_by: Some(Instant::now() + objective),
        ..Objectives::default()
    };
    let low = admission.admit(&request(), &with(-1)).await;
    assert!(low.is_err());
    assert_eq!(started.elapsed(), objective);
    let normal = admission.admit(&request(), &with(0)).await;
    assert!(normal.is_err());
    assert_eq!(started.elapsed(), objective + WAIT);
}

#[tokio::test]
async fn a_waiter_that_leaves_gives_its_place_back() {
    let admission = admission(1, 1);
    let _first = admit(&admission).await.expect("free");
    {
        let second = admit(&admission);
        tokio::pin!(second);
        assert!(futures::poll!(&mut second).is_pending());
        assert_eq!(admission.positions().len(), 1);
    }
    assert_eq!(counts(&admission), (1, 0));
    let third = admit(&admission);
    tokio::pin!(third);
    assert!(futures::poll!(&mut third).is_pending());
}

#[tokio::test]
async fn a_turn_that_its_waiter_never_saw_comes_back() {
    let admission = admission(1, 1);
    let first = admit(&admission).await.expect("free");
    {
        let second = admit(&admission);
        tokio::pin!(second);
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        assert_eq!(counts(&admission), (1, 0), "it is the waiter's now");
    }
    assert_eq!(counts(&admission), (0, 0));
}

#[tokio::test]
async fn a_displaced_waiter_is_told_at_once() {
    let admission = admission(1, 1);
    let first = admit(&admission).await.expect("free");
    let (asked, low, high) = (request(), priority(-1), priority(1));
    let low = admission.admit(&asked, &low);
    let high = admission.admit(&asked, &high);
    tokio::pin!(low, high);
    assert!(futures::poll!(&mut low).is_pending());
    assert!(futures::poll!(&mut high).is_pending());
    assert_eq!(
        low.await.expect_err("displaced").code,
        ErrorCode::Overloaded
    );
    drop(first);
    assert!(high.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn reported_capacity_holds_as_long_as_its_lease() {
    let admission = admission(2, 2);
    admission.set_capacity(1, Duration::from_secs(3));
    let started = Instant::now();
    let _first = admit(&admission).await.expect("free");
    let _second = admit(&admission).await.expect("free when the lease ends");
    assert_eq!(started.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_comes_while_one_waits_ends_as_well() {
    let admission = admission(1, 2);
    let first = admit(&admission).await.expect("free");
    let started = Instant::now();
    let second = admit(&admission);
    tokio::pin!(second);
    assert!(futures::poll!(&mut second).is_pending());
    admission.set_capacity(0, Duration::from_secs(2));
    drop(first);
    assert!(second.await.is_ok());
    assert_eq!(started.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn without_capacity_the_answer_is_503_with_the_end_of_the_lease() {
    let admission = admission(1, 0);
    admission.set_capacity(0, Duration::from_secs(3));
    let refused = admit(&admission).await.expect_err("no capacity");
    assert_eq!(refused.code, ErrorCode::NoWorker);
    assert_eq!(refused.retry_after, Some(3));
    admission.set_capacity(1, Duration::from_secs(3));
    assert!(admit(&admission).await.is_ok());
}

#[tokio::test]
async fn metrics_tell_who_waits_and_who_was_turned_away() {
    let page = MetricsPage::new();
    let metrics = Arc::new(page.record(Metrics::new));
    let admission = Admission::new(&config(1, 1), metrics);
    let first = admit(&admission).await.expect("free");
    let (asked, low) = (request(), priority(-1));
    let low = admission.admit(&asked, &low);
    tokio::pin!(low);
    assert!(futures::poll!(&mut low).is_pending());
    assert!(admission.admit(&asked, &priority(-1)).await.is_err());
    let shows = |line: &str| {
        let text = page.render();
        assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
    };
    shows("kvasir_router_queued_requests{band=\"low\"} 1");
    shows("kvasir_router_queued_tokens 259");
    shows("kvasir_router_shed_requests_total{reason=\"queue_full\"} 1");
    shows("kvasir_router_admission_limit 1");
    shows("kvasir_router_permits 1");
    drop(first);
    drop(low.await);
    shows("kvasir_router_queued_requests{band=\"low\"} 0");
    shows("kvasir_router_admitted_requests_total{band=\"low\"} 1");
    shows("kvasir_router_admission_wait_seconds_count{band=\"low\"} 1");
    shows("kvasir_router_permits 0");
}

/// Waiters on several threads that come, wait, run and hang up at any time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_leaks_among_threads() {
    let admission = Arc::new(admission(3, 16));
    let most = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..8u64 {
        let (admission, most) = (admission.clone(), most.clone());
        callers.spawn(async move {
            for round in 0..200u64 {
                let objectives = Objectives {
                    tenant: Arc::from((caller % 3).to_string()),
                    priority: (round % 3) as i32 - 1,
                    ..Objectives::default()
                };
                let asked = request();
                let patience = Duration::from_micros((caller * 7 + round * 13) % 400);
                let permit =
                    tokio::time::timeout(patience, admission.admit(&asked, &objectives)).await;
                let (running, _) = counts(&admission);
                most.fetch_max(running, std::sync::atomic::Ordering::Relaxed);
                tokio::task::yield_now().await;
                drop(permit);
            }
        });
    }
    while callers.join_next().await.is_some() {}
    assert_eq!(counts(&admission), (0, 0));
    assert!((1..=3).contains(&most.load(std::sync::atomic::Ordering::Relaxed)));
    assert_eq!(admission.0.lock().queue.flows(), 0);
}

#[tokio::test(start_paused = true)]
async fn workers_that_report_no_room_are_asked_all_the_same_by_one() {
    let admission = admission(10, 10);
    admission.set_room(0, Duration::from_secs(3600));
    let first = admit(&admission).await.expect("one may run");
    let second = admit(&admission);
    tokio::pin!(second);
    assert!(futures::poll!(&mut second).is_pending());
    drop(first);
    assert!(second.await.is_ok());
}
