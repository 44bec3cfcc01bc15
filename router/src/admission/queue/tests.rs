use super::*;

mod properties;
mod simulation;

const SECOND: Duration = Duration::from_secs(1);

fn limits(running: usize, waiting: usize) -> Limits {
    Limits {
        max_running: running,
        max_waiting: waiting,
        max_waiting_tokens: u64::MAX,
        max_wait: 30 * SECOND,
        weights: FxHashMap::default(),
    }
}

fn ask(tenant: &str, priority: i32, tokens: u64) -> Ask {
    Ask {
        tenant: Arc::from(tenant),
        priority,
        tokens,
        deadline: None,
        start_by: None,
    }
}

fn within(deadline: Duration, ask: Ask) -> Ask {
    Ask {
        deadline: Some(deadline),
        ..ask
    }
}

/// A queue whose waiters are names, and a turn that is out.
struct Full {
    queue: Queue<&'static str>,
    turn: Option<Turn>,
}

/// One turn, and it is out.
fn full(waiting: usize) -> Full {
    full_of(limits(1, waiting))
}

fn full_of(limits: Limits) -> Full {
    let mut queue = Queue::new(limits);
    let turn = admitted(queue.arrive(ask("first", 0, 0), "first", Duration::ZERO));
    Full {
        queue,
        turn: Some(turn),
    }
}

#[track_caller]
fn admitted<W: std::fmt::Debug>(arrival: Arrival<W>) -> Turn {
    match arrival {
        Arrival::Admitted { turn, .. } => turn,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn queued<W: std::fmt::Debug>(arrival: Arrival<W>) -> WaiterId {
    match arrival {
        Arrival::Queued { id, .. } => id,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn shed<W: std::fmt::Debug>(arrival: Arrival<W>) -> Shed {
    match arrival {
        Arrival::Shed { shed, .. } => shed,
        other => panic!("{other:?}"),
    }
}

impl Full {
    #[track_caller]
    fn wait(&mut self, name: &'static str, ask: Ask) -> WaiterId {
        queued(self.queue.arrive(ask, name, Duration::ZERO))
    }

    /// The turn changes hands: it cost what was estimated.
    fn pass(&mut self, now: Duration) -> Option<&'static str> {
        let turn = self.turn.take()?;
        let charged = turn.charged;
        self.queue.release(turn, charged, now);
        let (name, turn) = self.queue.next(now)?;
        self.turn = Some(turn);
        Some(name)
    }

    fn pass_all(&mut self) -> Vec<&'static str> {
        std::iter::from_fn(|| self.pass(Duration::ZERO)).collect()
    }

    fn turned_away(&mut self, now: Duration) -> Vec<(&'static str, Reason)> {
        let away = self.queue.expire(now).into_iter();
        away.map(|(name, shed)| (name, shed.reason)).collect()
    }
}

#[test]
fn equals_of_a_tenant_are_served_in_order_of_arrival() {
    let mut full = full(10);
    for name in ["a", "b", "c"] {
        full.wait(name, ask("t", 0, 10));
    }
    assert_eq!(full.queue.next(Duration::ZERO), None, "no turn is free");
    assert_eq!(full.pass_all(), ["a", "b", "c"]);
}

#[test]
fn a_tenants_priorities_order_its_own_requests_only() {
    let mut full = full(10);
    full.wait("later", ask("t", 1, 10));
    full.wait("other", ask("u", 1, 10));
    full.wait("urgent", ask("t", 1000, 10));
    assert_eq!(full.pass_all(), ["urgent", "other", "later"]);
}

#[test]
fn who_can_meet_an_objective_goes_before_who_cannot_any_more() {
    let mut full = full(10);
    let by = |start_by, priority| Ask {
        start_by: Some(start_by),
        ..ask("t", priority, 10)
    };
    full.wait("late", by(SECOND, 0));
    full.wait("in time", by(3 * SECOND, 0));
    full.wait("any time", ask("t", 0, 10));
    full.wait("late too", by(SECOND, 0));
    full.wait("urgent, late", by(SECOND, 5));
    let mut served = || full.pass(2 * SECOND);
    let order: Vec<_> = std::iter::from_fn(&mut served).collect();
    let expected = ["urgent, late", "in time", "any time", "late", "late too"];
    assert_eq!(order, expected);
}

#[test]
fn a_late_waiter_is_cancelled_and_turned_away_like_any_other() {
    let mut full = full(10);
    let by = |deadline| Ask {
        start_by: Some(SECOND),
        ..within(deadline, ask("t", 0, 10))
    };
    let cancelled = full.wait("cancelled", by(9 * SECOND));
    full.wait("turned away", by(5 * SECOND));
    full.wait("served", by(9 * SECOND));
    assert_eq!(full.queue.cancel(cancelled, 2 * SECOND), Some("cancelled"));
    let away = full.turned_away(5 * SECOND);
    assert_eq!(away, [("turned away", Reason::DeadlinePassed)]);
    assert_eq!(full.pass(6 * SECOND), Some("served"));
    assert_eq!(full.queue.waiting(), 0);
}

#[test]
fn a_more_urgent_band_goes_first() {
    let mut full = full(10);
    full.wait("low", ask("t", -1, 1));
    full.wait("normal", ask("t", 0, 1));
    full.wait("high", ask("u", 1, 1000));
    assert_eq!(full.pass_all(), ["high", "normal", "low"]);
}

#[test]
fn a_band_that_waits_gets_one_turn_in_twenty() {
    let mut full = full(1000);
    for (name, priority) in [("high", 1), ("normal", 0), ("low", -1)] {
        for _ in 0..200 {
            full.wait(name, ask(name, priority, 10));
        }
    }
    let served: Vec<_> = (0..200).filter_map(|_| full.pass(Duration::ZERO)).collect();
    let count = |name: &str| served.iter().filter(|served| **served == name).count();
    assert_eq!(
        (count("high"), count("normal"), count("low")),
        (180, 10, 10)
    );
    for window in served.windows(FLOOR as usize) {
        assert!(window.contains(&"low") && window.contains(&"normal"));
    }
}

/// Tokens served to each of two tenants that always wait, over 300 turns.
fn served(limits: Limits, sizes: [(&'static str, u64, u64); 2]) -> [u64; 2] {
    let mut full = full_of(limits);
    let mut tokens = [0, 0];
    for (name, estimate, _) in sizes {
        full.wait(name, ask(name, 0, estimate));
        full.wait(name, ask(name, 0, estimate));
    }
    for _ in 0..300 {
        let turn = full.turn.take().unwrap();
        let flow = turn.flow;
        let last = sizes.iter().find(|size| {
            let id = full.queue.bands[Band::Normal.index()].by_name(size.0);
            id == Some(flow)
        });
        full.queue
            .release(turn, last.map_or(0, |size| size.2), Duration::ZERO);
        let (name, turn) = full.queue.next(Duration::ZERO).unwrap();
        full.turn = Some(turn);
        let index = usize::from(name == sizes[1].0);
        tokens[index] += sizes[index].2;
        full.wait(name, ask(name, 0, sizes[index].1));
    }
    tokens
}

#[test]
fn tenants_get_equal_tokens_whatever_the_size_of_their_requests() {
    let [large, small] = served(limits(1, 10), [("large", 1000, 1000), ("small", 100, 100)]);
    assert!(large.abs_diff(small) <= 1000, "{large} {small}");
}

#[test]
fn shares_follow_weights() {
    let mut limits = limits(1, 10);
    limits.weights.insert(Arc::from("double"), 2.0);
    let [single, double] = served(limits, [("single", 100, 100), ("double", 100, 100)]);
    assert!((2 * single).abs_diff(double) <= 300, "{single} {double}");
}

#[test]
fn an_estimate_is_corrected_when_the_truth_is_known() {
    let [modest, honest] = served(limits(1, 10), [("modest", 1, 900), ("honest", 100, 100)]);
    assert!(modest.abs_diff(honest) <= 2 * 900, "{modest} {honest}");
}

#[test]
fn idle_time_saves_up_no_credit() {
    let mut full = full(100);
    for _ in 0..30 {
        full.wait("busy", ask("busy", 0, 100));
    }
    for _ in 0..20 {
        full.pass(Duration::ZERO);
    }
    for _ in 0..10 {
        full.wait("idle", ask("idle", 0, 100));
    }
    let next: Vec<_> = (0..10).filter_map(|_| full.pass(Duration::ZERO)).collect();
    let idle = next.iter().filter(|name| **name == "idle").count();
    assert!((5..=6).contains(&idle), "{next:?}");
}

#[test]
fn a_full_queue_makes_room_for_the_more_urgent() {
    let mut full = full(2);
    full.wait("old", ask("t", -1, 1));
    full.wait("new", ask("t", -1, 1));
    full.wait("high", ask("u", 5, 1));
    assert_eq!(
        full.turned_away(Duration::ZERO),
        [("new", Reason::Displaced)]
    );
    let low = full.queue.arrive(ask("v", -1, 1), "low", Duration::ZERO);
    assert_eq!(shed(low).reason, Reason::QueueFull);
    assert_eq!(full.pass_all(), ["high", "old"]);
}

#[test]
fn each_band_keeps_one_place_in_twenty() {
    let mut full = full(40);
    for _ in 0..40 {
        full.wait("high", ask("flood", 1, 1));
    }
    for _ in 0..2 {
        full.wait("low", ask("t", -1, 1));
        assert_eq!(
            full.turned_away(Duration::ZERO),
            [("high", Reason::Displaced)]
        );
    }
    let third = full.queue.arrive(ask("t", -1, 1), "low", Duration::ZERO);
    assert_eq!(shed(third).reason, Reason::QueueFull);
    full.wait("high", ask("other", 1, 1));
    assert_eq!(
        full.turned_away(Duration::ZERO),
        [("high", Reason::Displaced)]
    );
    assert_eq!(full.queue.waiting_in(Band::Low), 2);
}

#[test]
fn a_full_queue_makes_room_for_a_tenant_with_less_in_it() {
    let mut full = full(3);
    for name in ["a", "b", "c"] {
        full.wait(name, ask("hog", 0, 10));
    }
    full.wait("modest", ask("modest", 0, 10));
    assert_eq!(full.turned_away(Duration::ZERO), [("c", Reason::Displaced)]);
    let more = full.queue.arrive(ask("hog", 0, 10), "d", Duration::ZERO);
    assert_eq!(shed(more).reason, Reason::OverShare);
    full.wait("third", ask("third", 0, 10));
    assert_eq!(full.turned_away(Duration::ZERO), [("b", Reason::Displaced)]);
    let fourth = full.queue.arrive(ask("fourth", 0, 10), "x", Duration::ZERO);
    assert_eq!(shed(fourth).reason, Reason::QueueFull, "all have one");
    assert_eq!(full.turned_away(Duration::ZERO), []);
}

#[test]
fn tokens_that_wait_are_limited_but_one_request_always_may() {
    let mut full = full_of(Limits {
        max_waiting_tokens: 100,
        ..limits(1, 10)
    });
    full.wait("huge", ask("t", 0, 1000));
    let next = full.queue.arrive(ask("t", 0, 1), "next", Duration::ZERO);
    assert_eq!(shed(next).reason, Reason::QueueFull);
    assert_eq!(full.pass_all(), ["huge"]);
    assert_eq!(full.queue.waiting_tokens(), 0);
}

#[test]
fn nobody_waits_beyond_limit_or_deadline() {
    let mut full = full(10);
    full.wait("patient", ask("t", 0, 1));
    full.wait("hasty", within(2 * SECOND, ask("t", 0, 1)));
    assert_eq!(full.queue.next_expiry(), Some(2 * SECOND));
    assert_eq!(full.turned_away(SECOND), []);
    assert_eq!(
        full.turned_away(2 * SECOND),
        [("hasty", Reason::DeadlinePassed)]
    );
    assert_eq!(full.queue.next_expiry(), Some(30 * SECOND));
    assert_eq!(full.pass(30 * SECOND), None, "too late for a turn as well");
    assert_eq!(
        full.turned_away(30 * SECOND),
        [("patient", Reason::WaitedTooLong)]
    );
    assert_eq!(full.queue.next_expiry(), None);
}

#[test]
fn a_deadline_that_has_passed_is_refused_though_a_turn_is_free() {
    let mut queue = Queue::new(limits(1, 1));
    let late = queue.arrive(within(SECOND, ask("t", 0, 1)), (), SECOND);
    assert_eq!(shed(late).reason, Reason::DeadlinePassed);
    assert_eq!(queue.running(), 0);
}

/// 20 of the tenant `hog` wait, and one turn a second comes free.
fn draining() -> Full {
    let mut full = full(40);
    for _ in 0..30 {
        full.wait("hog", ask("hog", 0, 100));
    }
    for second in 1..=10 {
        assert_eq!(full.pass(second * SECOND), Some("hog"));
    }
    full
}

#[test]
fn a_deadline_out_of_reach_is_refused_early() {
    let mut full = draining();
    let now = 10 * SECOND;
    let rate = full.queue.drain_rate().unwrap();
    assert!((0.8..1.2).contains(&rate), "{rate}");
    let near = within(now + 5 * SECOND, ask("hog", 0, 100));
    let near = full.queue.arrive(near, "near", now);
    assert_eq!(shed(near).reason, Reason::OutOfReach);
    let far = within(now + 29 * SECOND, ask("hog", 0, 100));
    queued(full.queue.arrive(far, "far", now));
    // Behind the hog in time, but not in turn.
    let modest = within(now + 5 * SECOND, ask("modest", 0, 100));
    queued(full.queue.arrive(modest, "modest", now));
    let urgent = within(now + 2 * SECOND, ask("hog", 1, 100));
    queued(full.queue.arrive(urgent, "urgent", now));
}

#[test]
fn without_evidence_no_deadline_is_out_of_reach() {
    let mut full = full(100);
    for _ in 0..50 {
        full.wait("t", ask("t", 0, 1));
    }
    full.wait("hopeful", within(SECOND, ask("t", 0, 1)));
    assert_eq!(full.queue.drain_rate(), None);
}

#[test]
fn evidence_of_an_old_stall_is_forgotten() {
    let mut full = draining();
    while full.pass(10 * SECOND).is_some() {}
    let later = 600 * SECOND;
    full.turn = Some(admitted(full.queue.arrive(ask("t", 0, 1), "t", later)));
    assert_eq!(full.queue.drain_rate(), None);
}

#[test]
fn retry_after_is_when_the_queue_has_drained_and_grows_with_each_told() {
    let mut full = draining();
    let now = 10 * SECOND;
    for _ in 0..20 {
        queued(full.queue.arrive(ask("hog", 0, 100), "hog", now));
    }
    let mut told = || {
        let arrival = full.queue.arrive(ask("hog", 0, 100), "hog", now);
        shed(arrival).retry_after.as_secs_f64()
    };
    let (first, second) = (told(), told());
    assert!(
        (36.0..46.0).contains(&first),
        "40 wait, one a second: {first}"
    );
    assert!((0.8..1.2).contains(&(second - first)), "{first} {second}");
    for _ in 0..100 {
        assert!(told() <= MAX_RETRY_AFTER.as_secs_f64());
    }
}

#[test]
fn reports_of_workers_lower_the_limit_until_their_lease_ends() {
    let mut queue = Queue::new(limits(2, 10));
    queue.set_capacity(1, 5 * SECOND, Duration::ZERO);
    let _turn = admitted(queue.arrive(ask("t", 0, 1), "a", Duration::ZERO));
    queued(queue.arrive(ask("t", 0, 1), "b", Duration::ZERO));
    assert_eq!(queue.next_expiry(), Some(5 * SECOND));
    assert_eq!(queue.next(4 * SECOND), None);
    let (name, _turn) = queue.next(5 * SECOND).unwrap();
    assert_eq!((name, queue.limit(5 * SECOND)), ("b", 2));
    queue.set_capacity(100, 60 * SECOND, 6 * SECOND);
    assert_eq!(queue.limit(6 * SECOND), 2, "never more than configured");
    assert_eq!(queue.next_expiry(), None);
}

#[test]
fn no_capacity_is_told_apart_with_the_end_of_the_lease() {
    let mut queue = Queue::new(limits(2, 0));
    queue.set_capacity(0, 5 * SECOND, SECOND);
    let shed = shed(queue.arrive(ask("t", 0, 1), (), SECOND));
    assert!(shed.no_capacity);
    assert_eq!(shed.retry_after, 4 * SECOND);
    let _turn = admitted(queue.arrive(ask("t", 0, 1), (), 5 * SECOND));
}

#[test]
fn who_leaves_is_not_served() {
    let mut full = full(2);
    let a = full.wait("a", ask("t", 0, 1));
    full.wait("b", ask("t", 0, 1));
    assert_eq!(full.queue.cancel(a, Duration::ZERO), Some("a"));
    assert_eq!(full.queue.cancel(a, Duration::ZERO), None);
    full.wait("c", ask("t", 0, 1));
    assert_eq!(full.pass_all(), ["b", "c"]);
}

#[test]
fn positions_are_the_order_of_service() {
    let mut full = full(10);
    full.wait("1", ask("a", 0, 100));
    full.wait("2", ask("a", 0, 50));
    full.wait("3", ask("b", 0, 10));
    full.wait("4", ask("b", 0, 10));
    full.wait("5", ask("c", 7, 10));
    let positions = full.queue.positions(SECOND);
    let shown: Vec<_> = positions
        .iter()
        .map(|it| (&*it.tenant, it.tokens, it.waited))
        .collect();
    let expected = [("c", 10), ("a", 100), ("b", 10), ("b", 10), ("a", 50)];
    assert_eq!(
        shown,
        expected.map(|(tenant, tokens)| (tenant, tokens, SECOND))
    );
    assert_eq!(full.pass_all(), ["5", "1", "3", "4", "2"]);
}
