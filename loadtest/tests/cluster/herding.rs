//! Several routers over the same workers, knowing nothing of each other.

use crate::harness::{Ask, Part, router, run, sim_worker};

/// Prompts take long enough that choices of both routers overlap in time.
const SLOW: &[&str] = &[
    "--sim-prefill-tokens-per-second=20000",
    "--sim-step-time=2ms",
];

fn asks(router: u32) -> Vec<Ask> {
    let ask = |n: u32| Ask {
        seed: router * 1000 + n,
        prompt_tokens: 200 + 16 * (n % 5),
        max_tokens: 8,
    };
    (0..20).map(ask).collect()
}

#[test]
fn two_routers_do_not_run_after_the_same_worker() {
    let names = ["worker-0", "worker-1", "worker-2", "worker-3"];
    let workers = names.map(|name| sim_worker(name, "both", SLOW));
    let all: Vec<&Part> = workers.iter().collect();
    let routers = [router(&all), router(&all)];
    std::thread::scope(|scope| {
        for (number, router) in (0..).zip(&routers) {
            scope.spawn(move || {
                for round in 0..4 {
                    run(router, &asks(number + 2 * round));
                }
            });
        }
    });
    let computed = |worker: &Part| worker.metric("kvasir_prefill_tokens_total");
    let shares: Vec<f64> = workers.iter().map(computed).collect();
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    for share in &shares {
        assert!((0.5..1.6).contains(&(share / mean)), "{shares:?}");
    }
}
