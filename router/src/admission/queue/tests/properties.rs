use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Arrive {
        tenant: u8,
        priority: i32,
        tokens: u64,
        deadline: Option<u32>,
    },
    Release {
        which: usize,
        spent: u64,
    },
    Cancel(usize),
    Pass(u32),
    Capacity {
        limit: usize,
        lease: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let arrive = (0..6u8, -2..3i32, 0..200u64, proptest::option::of(0..9u32));
    prop_oneof![
        8 => arrive.prop_map(|(tenant, priority, tokens, deadline)| Step::Arrive {
            tenant, priority, tokens, deadline,
        }),
        5 => (any::<usize>(), 0..300u64).prop_map(|(which, spent)| Step::Release { which, spent }),
        2 => any::<usize>().prop_map(Step::Cancel),
        2 => (0..5u32).prop_map(Step::Pass),
        1 => (0..6usize, 0..6u32).prop_map(|(limit, lease)| Step::Capacity { limit, lease }),
    ]
}

#[derive(Clone)]
struct Waiting {
    id: WaiterId,
    tenant: Arc<str>,
    priority: i32,
    start_by: Option<Duration>,
}

/// What a caller knows: who is out, who waits, and that each has one answer.
struct Caller {
    queue: Queue<usize>,
    now: Duration,
    arrived: usize,
    answered: usize,
    turns: Vec<Turn>,
    waiting: HashMap<usize, Waiting>,
    /// Capacity at the last change: more may be out than a lower limit allows.
    most_out: usize,
}

impl Caller {
    fn new() -> Caller {
        let limits = Limits {
            max_waiting_tokens: 900,
            max_wait: 10 * SECOND,
            ..limits(4, 12)
        };
        Caller {
            queue: Queue::new(limits),
            now: Duration::ZERO,
            arrived: 0,
            answered: 0,
            turns: Vec::new(),
            waiting: HashMap::new(),
            most_out: 0,
        }
    }

    fn take(&mut self, step: Step) {
        let before = self.turns.len();
        match step {
            Step::Arrive {
                tenant,
                priority,
                tokens,
                deadline,
            } => {
                let tenant: Arc<str> = Arc::from(tenant.to_string());
                let ask = Ask {
                    tenant: tenant.clone(),
                    priority,
                    tokens,
                    deadline: deadline.map(|it| self.now + it * SECOND),
                    start_by: deadline.map(|it| self.now + it * SECOND / 2),
                };
                let start_by = ask.start_by;
                let name = self.arrived;
                self.arrived += 1;
                match self.queue.arrive(ask, name, self.now) {
                    Arrival::Admitted { turn, .. } => {
                        assert!(self.waiting.is_empty(), "overtook");
                        self.answered += 1;
                        self.turns.push(turn);
                    }
                    Arrival::Queued { id, .. } => {
                        let waiting = Waiting {
                            id,
                            tenant,
                            priority,
                            start_by,
                        };
                        self.waiting.insert(name, waiting);
                    }
                    Arrival::Shed { shed, .. } => self.shed(shed),
                }
            }
            Step::Release { which, spent } if !self.turns.is_empty() => {
                let turn = self.turns.swap_remove(which % self.turns.len());
                self.queue.release(turn, spent, self.now);
            }
            Step::Cancel(which) if !self.waiting.is_empty() => {
                let mut names: Vec<_> = self.waiting.keys().copied().collect();
                names.sort_unstable();
                let name = names[which % names.len()];
                let id = self.waiting.remove(&name).unwrap().id;
                let cancelled = self.queue.cancel(id, self.now);
                assert_eq!(cancelled, Some(name), "it had no answer yet");
                self.answered += 1;
            }
            Step::Pass(seconds) => self.now += seconds * SECOND,
            Step::Capacity { limit, lease } => {
                let until = self.now + lease * SECOND;
                self.queue.set_capacity(limit, until, self.now);
            }
            Step::Release { .. } | Step::Cancel(_) => {}
        }
        self.settle();
        let limit = self.queue.limit(self.now);
        assert!(self.turns.len() <= limit.max(before), "more than may run");
        assert!(limit <= 4);
        self.check(limit);
    }

    fn settle(&mut self) {
        for (name, shed) in self.queue.expire(self.now) {
            assert!(self.waiting.remove(&name).is_some());
            self.shed(shed);
        }
        while let Some((name, turn)) = self.queue.next(self.now) {
            let served = self.waiting.remove(&name).unwrap();
            let order = |name: usize, it: &Waiting| {
                let is_late = it.start_by.is_some_and(|by| by < self.now);
                (is_late, name)
            };
            let before = self.waiting.iter().any(|(&other, it)| {
                let is_equal = it.tenant == served.tenant && it.priority == served.priority;
                is_equal && order(other, it) < order(name, &served)
            });
            assert!(!before, "a tenant's equals are served in order");
            assert_eq!(turn.band, Band::of(served.priority));
            self.answered += 1;
            self.turns.push(turn);
        }
    }

    fn shed(&mut self, shed: Shed) {
        assert!(shed.retry_after >= SECOND && shed.retry_after <= MAX_RETRY_AFTER);
        self.answered += 1;
    }

    fn check(&mut self, limit: usize) {
        self.most_out = self.most_out.max(self.turns.len());
        assert_eq!(self.queue.running(), self.turns.len());
        assert_eq!(self.queue.waiting(), self.waiting.len());
        assert_eq!(self.answered + self.waiting.len(), self.arrived);
        assert!(self.waiting.len() <= 12);
        assert!(self.waiting.len() <= 1 || self.queue.waiting_tokens() <= 900);
        let idle = limit.saturating_sub(self.turns.len());
        assert!(idle == 0 || self.waiting.is_empty(), "work is conserved");
        assert_eq!(self.queue.positions(self.now).len(), self.waiting.len());
    }

    fn leave(mut self) {
        let names: Vec<_> = self.waiting.drain().collect();
        for (_, Waiting { id, .. }) in names {
            self.queue.cancel(id, self.now);
        }
        for turn in std::mem::take(&mut self.turns) {
            self.queue.release(turn, 1, self.now);
        }
        assert_eq!((self.queue.running(), self.queue.waiting()), (0, 0));
        assert_eq!((self.queue.waiting_tokens(), self.queue.flows()), (0, 0));
        assert!(self.queue.spots.is_empty() && self.queue.expiries.is_empty());
        assert_eq!(self.queue.next_expiry(), None);
    }
}

proptest! {
    #[test]
    fn nothing_leaks_is_lost_or_overtakes(steps in proptest::collection::vec(step(), 1..120)) {
        let mut caller = Caller::new();
        for step in steps {
            caller.take(step);
        }
        caller.leave();
    }

    /// Sheng et al. bound the difference of service between tenants that always
    /// wait by about twice the largest request, here of 100 tokens.
    #[test]
    fn tenants_that_always_wait_stay_level(
        sizes in proptest::collection::vec((0..3usize, 1..=100u64), 50..200),
    ) {
        let mut queue = Queue::new(limits(1, 1000));
        let mut turn = admitted(queue.arrive(ask("first", 0, 0), (0, 0), Duration::ZERO));
        let mut left = [0usize; 3];
        for (tenant, tokens) in sizes {
            left[tenant] += 1;
            let name = tenant.to_string();
            queued(queue.arrive(ask(&name, 0, tokens), (tenant, tokens), Duration::ZERO));
        }
        let mut served = [0u64; 3];
        while left.iter().all(|left| *left > 0) {
            let charged = turn.charged;
            queue.release(turn, charged, Duration::ZERO);
            let ((tenant, tokens), next) = queue.next(Duration::ZERO).unwrap();
            turn = next;
            left[tenant] -= 1;
            served[tenant] += tokens;
            let most = served.iter().max().unwrap();
            let least = served.iter().min().unwrap();
            prop_assert!(most - least <= 200, "{served:?}");
        }
        queue.release(turn, 0, Duration::ZERO);
    }
}
