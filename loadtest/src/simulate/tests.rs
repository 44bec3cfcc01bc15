use std::collections::BTreeMap;

use super::*;
use crate::arrival::{ArrivalConfig, Rate};
use crate::planned::{ChatMessage, Output, PlannedRequest, Prompt, Turn};

/// A hundred requests of 200 prompt tokens, of which the first 160 are one of
/// ten, and 20 to generate.
struct Shared {
    next: u64,
    count: u64,
}

impl Workload for Shared {
    fn next(&mut self) -> Option<PlannedRequest> {
        if self.next == self.count {
            return None;
        }
        let number = self.next;
        self.next += 1;
        let token = |at: u64| match at < 160 {
            true => (number % 10 * 1000 + at) as u32,
            false => (1_000_000 + number * 1000 + at) as u32,
        };
        Some(PlannedRequest {
            number,
            recorded_at: None,
            turn: None,
            prompt: Prompt::Tokens((0..200).map(token).collect()),
            prompt_tokens: Some(200),
            output: Output {
                max_tokens: 20,
                exact: true,
            },
            tenant: None,
            priority: None,
        })
    }

    fn next_turn(&mut self, _after: Turn, _answer: &str) -> Option<PlannedRequest> {
        None
    }

    fn len_hint(&self) -> Option<u64> {
        Some(self.count)
    }
}

fn shared() -> Box<Shared> {
    Box::new(Shared {
        next: 0,
        count: 100,
    })
}

fn open(rate: &str) -> Arrival {
    let config = ArrivalConfig {
        rate: Some(rate.parse::<Rate>().expect("a rate")),
        arrival: None,
        burstiness: None,
        concurrency: None,
    };
    config.arrival(false)
}

fn specs(count: usize, role: Role) -> impl Iterator<Item = WorkerSpec> {
    let profiles = Profiles::read(None).expect("shipped");
    let profile = profiles.get("h100").expect("shipped");
    std::iter::repeat_n(WorkerSpec { profile, role }, count)
}

fn unlimited() -> admission::Config {
    admission::Config {
        max_concurrent_requests: usize::MAX,
        max_queued_requests: usize::MAX,
        max_queued_tokens: u64::MAX,
        max_queue_wait: runtime::config::HumanDuration(Duration::from_secs(1 << 32)),
        tenant_weight: Vec::new(),
    }
}

fn scenario(workers: impl Iterator<Item = WorkerSpec>) -> Scenario {
    let ms = Duration::from_millis;
    Scenario {
        workers: workers.collect(),
        routers: 1,
        admission: unlimited(),
        told: Told::default(),
        network: Network {
            delay: ms(1),
            event_delay: ms(2),
            event_loss: 0.0,
        },
        faults: Vec::new(),
        stretch: 1.0,
        arrival: open("40"),
        length: Length::default(),
        warm_up: 0,
        seed: 7,
    }
}

fn run(scenario: &Scenario) -> Simulated {
    run_under(SimPolicy::default(), scenario)
}

/// Under a policy that has every prompt computed on prefill workers, however
/// short it is.
fn run_split(scenario: &Scenario) -> Simulated {
    run_under("round-robin".parse().expect("there is one"), scenario)
}

fn run_under(policy: SimPolicy, scenario: &Scenario) -> Simulated {
    let keep = Keep {
        records: usize::MAX,
        ..Keep::default()
    };
    simulate(scenario, policy, shared(), &keep)
}

/// All are answered in full, whatever happened.
fn assert_whole(simulated: &Simulated, requests: u64) {
    let outcomes = BTreeMap::from([("complete".to_owned(), requests)]);
    assert_eq!(simulated.figures.requests.outcomes, outcomes);
    for record in &simulated.records {
        assert_eq!(record.chunks.len(), 20);
        assert!(record.chunks.is_sorted_by_key(|it| it.at));
        assert!(record.chunks[0].at > record.scheduled);
    }
}

#[test]
fn one_request_takes_network_prefill_and_decode() {
    let mut scenario = scenario(specs(1, Role::Both));
    scenario.length.requests = Some(1);
    let simulated = run(&scenario);
    assert_whole(&simulated, 1);
    let record = &simulated.records[0];
    // A step of 200 tokens at 27,700/s and 6.4 ms, and a hop each way.
    let ttft = (record.chunks[0].at - record.scheduled).as_secs_f64() * 1e3;
    assert!((ttft - (200.0 / 27.7 + 6.4 + 2.0)).abs() < 0.01, "{ttft}");
    let itl = (record.chunks[19].at - record.chunks[0].at).as_secs_f64() * 1e3 / 19.0;
    assert!((itl - (6.4 + 0.015 + 0.21 * 0.052)).abs() < 0.01, "{itl}");
}

#[test]
fn prefixes_are_found_again_where_they_are() {
    let simulated = run(&scenario(specs(4, Role::Both)));
    assert_whole(&simulated, 100);
    let bound = simulated.cluster.bound.expect("few blocks");
    assert_eq!(bound.unlimited, 0.72);
    assert_eq!(bound.shared, 0.72);
    let hit_rate = simulated.cluster.hit_rate;
    assert!((0.4..=0.72).contains(&hit_rate), "{hit_rate}");
}

#[test]
fn the_same_seed_gives_the_same_records() {
    let scenario = scenario(specs(4, Role::Both));
    let (one, other) = (run(&scenario), run(&scenario));
    assert_eq!(one.records, other.records);
    assert_eq!(one.cluster, other.cluster);
    let changed = Scenario {
        seed: 8,
        ..scenario
    };
    assert_ne!(run(&changed).records, one.records);
}

#[test]
fn split_prompts_move_to_decode_workers() {
    let workers = specs(2, Role::Prefill).chain(specs(2, Role::Decode));
    let simulated = run_split(&scenario(workers));
    assert_whole(&simulated, 100);
    assert!(simulated.cluster.split > 0.9, "{}", simulated.cluster.split);
    let prefill = &simulated.figures.prefill_workers;
    let decode = &simulated.figures.decode_workers;
    assert!(
        prefill
            .iter()
            .all(|it| it.name == "worker-0" || it.name == "worker-1")
    );
    assert!(
        decode
            .iter()
            .all(|it| it.name == "worker-2" || it.name == "worker-3")
    );
}

#[test]
fn a_slow_network_shows_in_the_second_token_of_split_prompts() {
    let second_token = |gbit: f64| {
        let slow = |spec: WorkerSpec| WorkerSpec {
            profile: Arc::new(Profile {
                network_gbit_per_second: gbit,
                ..(*spec.profile).clone()
            }),
            ..spec
        };
        let workers = specs(1, Role::Prefill)
            .chain(specs(1, Role::Decode))
            .map(slow);
        let mut scenario = scenario(workers);
        scenario.length.requests = Some(1);
        let simulated = run_split(&scenario);
        assert_whole(&simulated, 1);
        let chunks = &simulated.records[0].chunks;
        (chunks[1].at - chunks[0].at).as_secs_f64()
    };
    // 13 blocks of 2 MiB.
    let expected = 13.0 * 2_097_152.0 * 8.0 * (1e-9 - 1e-11);
    assert!((second_token(1.0) - second_token(100.0) - expected).abs() < 0.02);
}

#[test]
fn workers_may_fail_return_leave_and_join_and_nothing_is_lost() {
    let at = Duration::from_millis;
    for split in [false, true] {
        let workers: Vec<_> = match split {
            false => specs(4, Role::Both).collect(),
            true => specs(2, Role::Prefill)
                .chain(specs(2, Role::Decode))
                .collect(),
        };
        let spec = workers[3].clone();
        let mut scenario = scenario(workers.into_iter());
        scenario.arrival = open("100");
        scenario.network.event_loss = 0.2;
        scenario.routers = 2;
        scenario.faults = vec![
            Fault::Fail {
                at: at(200),
                worker: 0,
                back: Some(at(300)),
            },
            Fault::Fail {
                at: at(300),
                worker: 2,
                back: None,
            },
            Fault::Leave {
                at: at(400),
                worker: 1,
            },
            Fault::Join { at: at(100), spec },
        ];
        let simulated = run(&scenario);
        assert_whole(&simulated, 100);
        assert!(simulated.cluster.replaced > 0);
        let joined = |it: &crate::figures::Group| it.name == "worker-4" && it.requests > 0;
        let figures = &simulated.figures;
        let groups = figures
            .decode_workers
            .iter()
            .chain(&figures.prefill_workers);
        assert!(groups.into_iter().any(joined));
    }
}

#[test]
fn without_workers_requests_are_refused() {
    let mut scenario = scenario(specs(1, Role::Both));
    scenario.faults = vec![Fault::Fail {
        at: Duration::ZERO,
        worker: 0,
        back: None,
    }];
    let simulated = run(&scenario);
    assert_eq!(simulated.figures.requests.failed, 100);
}

#[test]
fn a_closed_loop_keeps_its_users() {
    let mut scenario = scenario(specs(1, Role::Both));
    scenario.arrival = Arrival::Closed { concurrency: 3 };
    let simulated = run(&scenario);
    assert_whole(&simulated, 100);
    let mut times: Vec<(Duration, i32)> = Vec::new();
    for record in &simulated.records {
        times.extend([(record.scheduled, 1), (record.ended, -1)]);
    }
    times.sort();
    let mut running = 0;
    let most = times.iter().map(|(_, change)| {
        running += change;
        running
    });
    assert_eq!(most.max(), Some(3));
}

#[test]
fn a_conversation_finds_its_own_answers_cached() {
    struct One {
        asked: u32,
        said: Vec<ChatMessage>,
    }
    impl One {
        fn ask(&mut self) -> PlannedRequest {
            let number = self.asked;
            self.asked += 1;
            let content = (0..64).map(|it| format!("w{number}x{it}"));
            self.said.push(ChatMessage {
                role: "user",
                content: content.collect::<Vec<_>>().join(" "),
            });
            PlannedRequest {
                number: u64::from(number),
                recorded_at: None,
                turn: Some(Turn {
                    conversation: 0,
                    number,
                    think: Duration::from_secs(1),
                }),
                prompt: Prompt::Chat(self.said.clone()),
                prompt_tokens: None,
                output: Output {
                    max_tokens: 20,
                    exact: true,
                },
                tenant: None,
                priority: None,
            }
        }
    }
    impl Workload for One {
        fn next(&mut self) -> Option<PlannedRequest> {
            (self.asked == 0).then(|| self.ask())
        }

        fn next_turn(&mut self, after: Turn, answer: &str) -> Option<PlannedRequest> {
            self.said.push(ChatMessage {
                role: "assistant",
                content: answer.to_owned(),
            });
            (after.number < 2).then(|| self.ask())
        }

        fn len_hint(&self) -> Option<u64> {
            None
        }
    }
    let workload = One {
        asked: 0,
        said: Vec::new(),
    };
    let keep = Keep {
        records: 10,
        ..Keep::default()
    };
    let scenario = scenario(specs(2, Role::Both));
    let simulated = simulate(&scenario, SimPolicy::default(), Box::new(workload), &keep);
    assert_whole(&simulated, 3);
    let cached = |it: &Record| it.usage.and_then(|it| it.cached_tokens);
    let cached: Vec<_> = simulated.records.iter().map(cached).collect();
    // A turn adds 64 words and 7 tokens of template, the last of which are there
    // for the answer of 20; the KV of its last token is not computed: 90 tokens
    // of KV after the first turn, 182 after the second.
    assert_eq!(cached, [Some(0), Some(80), Some(176)]);
    assert!(simulated.records[1].scheduled - simulated.records[0].ended >= Duration::from_secs(1));
}

#[test]
fn a_load_is_a_share_of_what_the_cluster_gets_through() {
    let prompts = |count| Box::new(Shared { next: 0, count });
    let workers = scenario(specs(2, Role::Both));
    let limit = saturation(&workers, SimPolicy::default(), prompts(2000)).expect("many");
    let at = |load: f64| {
        let scenario = workers.at_load(load, &limit);
        let policy = SimPolicy::default();
        let simulated = simulate(&scenario, policy, prompts(2000), &Keep::default());
        let figures = simulated.figures;
        (
            figures.rates.requests / limit.per_second,
            figures.latency.ttft.p50,
        )
    };
    let ((half, calm), (_, late)) = (at(0.5), at(2.0));
    assert!((0.45..0.55).contains(&half), "{half}");
    assert!(late > 2.0 * calm, "{late} after {calm}");
    assert!(saturation(&workers, SimPolicy::default(), prompts(1)).is_none());
}

#[test]
fn every_policy_can_be_simulated() {
    let names = SimPolicy::help();
    let names = names
        .lines()
        .filter_map(|it| it.strip_prefix("- ")?.split_once(':'));
    let scenario = scenario(specs(3, Role::Both));
    let mut count = 0;
    for (name, _) in names {
        let policy: SimPolicy = name.parse().expect("as listed");
        let simulated = simulate(&scenario, policy, shared(), &Keep::default());
        assert_eq!(simulated.figures.requests.answered, 100, "{name}");
        assert_eq!(simulated.cluster.policy, name);
        count += 1;
    }
    assert!(count >= 9);
}
