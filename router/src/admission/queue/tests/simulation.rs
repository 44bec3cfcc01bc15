//! Floods in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;

const MS: Duration = Duration::from_millis(1);
const SERVERS: usize = 8;
const LONG: Duration = Duration::from_secs(200);

/// Requests of one tenant, every `every`, give or take a half.
#[derive(Clone, Copy)]
struct Load {
    tenant: &'static str,
    every: Duration,
    priority: i32,
}

/// Splitmix64: the numbers of a run are the same each time.
struct Numbers(u64);

impl Numbers {
    fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        low + (mixed ^ (mixed >> 31)) % (high - low)
    }
}

#[derive(Default)]
struct Served {
    waits: Vec<Duration>,
    shed: usize,
}

impl Served {
    fn p99(&mut self) -> Duration {
        self.waits.sort_unstable();
        self.waits[self.waits.len() * 99 / 100]
    }
}

/// Serves `loads` on 8 servers, each request taking 0.5 to 1.5 s. A load's
/// requests are asked for in the name of its tenant, or of `all_as`.
fn serve<const N: usize>(loads: [Load; N], all_as: Option<&str>) -> [Served; N] {
    let mut queue = Queue::new(limits(SERVERS, 200));
    let mut numbers = Numbers(7);
    let mut served = std::array::from_fn(|_| Served::default());
    let mut arrivals: BinaryHeap<_> = (0..N).map(|load| Reverse((MS, load))).collect();
    let mut ends = BinaryHeap::new();
    let mut turns = FxHashMap::default();
    let mut started = 0u64;
    loop {
        let arrival = arrivals.peek().map(|Reverse((at, _))| *at);
        let end = ends.peek().map(|Reverse((at, _))| *at);
        let now = arrival.into_iter().chain(end).min().unwrap();
        if now > LONG {
            return served;
        }
        let mut begun = Vec::new();
        if end == Some(now) {
            let Reverse((_, id)) = ends.pop().unwrap();
            let turn: Turn = turns.remove(&id).unwrap();
            queue.release(turn, 100, now);
        } else {
            let Reverse((_, load)) = arrivals.pop().unwrap();
            let Load {
                tenant,
                every,
                priority,
            } = loads[load];
            let every = every.as_micros() as u64;
            let gap = Duration::from_micros(numbers.between(every / 2, every * 3 / 2));
            arrivals.push(Reverse((now + gap, load)));
            let ask = ask(all_as.unwrap_or(tenant), priority, 100);
            match queue.arrive(ask, load, now) {
                Arrival::Admitted { waiter, turn } => begun.push((waiter, turn)),
                Arrival::Queued { .. } => {}
                Arrival::Shed { waiter, .. } => served[waiter].shed += 1,
            }
        }
        for (load, _) in queue.expire(now) {
            served[load].shed += 1;
        }
        begun.extend(std::iter::from_fn(|| queue.next(now)));
        for (load, turn) in begun {
            served[load].waits.push(turn.waited);
            let takes = numbers.between(500, 1500) as u32 * MS;
            ends.push(Reverse((now + takes, started)));
            turns.insert(started, turn);
            started += 1;
        }
    }
}

/// Half of the turns are the polite tenant's if it wants them, and it wants a
/// quarter of that.
const POLITE: Load = Load {
    tenant: "polite",
    every: SECOND,
    priority: 0,
};
const FLOOD: Load = Load {
    tenant: "flood",
    every: Duration::from_millis(20),
    priority: 0,
};

#[test]
fn a_flood_does_not_push_anothers_wait_beyond_its_share() {
    let [mut polite, flood] = serve([POLITE, FLOOD], None);
    assert_eq!(polite.shed, 0);
    assert!(flood.shed > 1000, "{}", flood.shed);
    // 8 turns a second come free, and one of the first two is its own.
    let p99 = polite.p99();
    assert!(p99 <= Duration::from_millis(500), "{p99:?}");
    let all = polite.waits.len() + flood.waits.len();
    let most = SERVERS * LONG.as_secs() as usize;
    assert!(all * 100 >= most * 97, "all servers are kept busy: {all}");
}

#[test]
fn without_tenants_the_same_flood_hurts() {
    let [mut polite, _] = serve([POLITE, FLOOD], Some("all"));
    assert!(polite.p99() > 10 * SECOND);
}

#[test]
fn an_urgent_flood_slows_the_others_but_starves_nobody() {
    let urgent = Load {
        priority: 1,
        ..FLOOD
    };
    let slow = Load {
        every: 10 * SECOND,
        ..POLITE
    };
    let [mut slow, _] = serve([slow, urgent], None);
    // One turn in 20 is for it, and they come every 2.5 s; so is a place.
    assert_eq!(slow.shed, 0);
    assert!(slow.waits.len() >= 19);
    assert!(slow.p99() < 6 * SECOND, "{:?}", slow.p99());
}

/// Prints what admission costs; asserts only that the work is done.
#[test]
fn cost_with_ten_thousand_waiters_of_a_thousand_tenants() {
    let mut queue = Queue::new(limits(64, 10_000));
    let tenants: Vec<Arc<str>> = (0..1000).map(|it| Arc::from(it.to_string())).collect();
    let mut turns = std::collections::VecDeque::new();
    let arrive = |queue: &mut Queue<()>, index: usize, now| {
        let ask = Ask {
            tenant: tenants[index * 7 % 1000].clone(),
            priority: (index % 3) as i32 - 1,
            tokens: 100 + (index % 900) as u64,
            deadline: Some(now + 25 * SECOND),
            start_by: Some(now + 20 * SECOND),
        };
        queue.arrive(ask, (), now)
    };
    let mut index = 0;
    while queue.waiting() < 10_000 {
        if let Arrival::Admitted { turn, .. } = arrive(&mut queue, index, Duration::ZERO) {
            turns.push_back(turn);
        }
        index += 1;
    }
    const ROUNDS: u32 = 50_000;
    let started = std::time::Instant::now();
    for round in 1..=ROUNDS {
        let now = round * Duration::from_micros(100);
        queue.release(turns.pop_front().unwrap(), 500, now);
        turns.push_back(queue.next(now).unwrap().1);
        queued(arrive(&mut queue, index, now));
        index += 1;
    }
    let each = started.elapsed() / ROUNDS;
    println!("arrive, release and next with 10,000 waiters of 1,000 tenants: {each:?}");
    assert_eq!((queue.waiting(), queue.running()), (10_000, 64));
    let started = std::time::Instant::now();
    for round in 0..ROUNDS {
        let arrival = arrive(&mut queue, index + round as usize, ROUNDS * MS);
        let _ = queue.expire(ROUNDS * MS);
        assert!(!matches!(arrival, Arrival::Admitted { .. }));
    }
    println!(
        "an arrival at the full queue: {:?}",
        started.elapsed() / ROUNDS
    );
}
