use std::sync::Arc;
use std::time::SystemTime;

use super::*;
use crate::generator::GeneratorHealth;
use crate::planned::{Output, PlannedRequest, Prompt, Turn};
use crate::record::{Chunk, Outcome, Record};

/// So many requests.
struct Counted(u64, u64);

impl Workload for Counted {
    fn next(&mut self) -> Option<PlannedRequest> {
        self.0 += 1;
        (self.0 <= self.1).then(|| PlannedRequest {
            number: self.0 - 1,
            recorded_at: None,
            turn: None,
            prompt: Prompt::Text(self.0.to_string()),
            prompt_tokens: None,
            output: Output {
                max_tokens: 1,
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
        None
    }
}

/// A server that answers in 10 ms up to a rate and in 10 s above it, and a
/// generator that keeps up to another.
#[derive(Clone, Copy)]
struct World {
    server: f64,
    generator: f64,
    /// No request is answered.
    broken: bool,
}

const WORLD: World = World {
    server: 41.5,
    generator: 1e9,
    broken: false,
};

impl World {
    fn run(&self, attempt: Attempt) -> RunResult {
        let mut workload = attempt.workload;
        let latency = match attempt.rate <= self.server {
            true => Duration::from_millis(10),
            false => Duration::from_secs(10),
        };
        let records = std::iter::from_fn(|| workload.next()).take(100);
        let record = |it: PlannedRequest| {
            let scheduled = Duration::from_millis(it.number);
            let at = scheduled + latency;
            Record {
                number: it.number,
                scheduled,
                sent: scheduled,
                chunks: vec![Chunk { at, tokens: 1 }],
                ended: at,
                outcome: match self.broken {
                    true => Outcome::Status(404),
                    false => Outcome::Complete,
                },
                usage: None,
                expected_output: None,
                warm_up: false,
                tenant: None,
                priority: None,
                prefill_worker: None,
                decode_worker: None,
                turn: None,
            }
        };
        let is_late = attempt.rate > self.generator;
        RunResult {
            records: records.map(record).collect(),
            caveats: Vec::new(),
            health: GeneratorHealth {
                faults: is_late
                    .then(|| "sent late".to_owned())
                    .into_iter()
                    .collect(),
                ..GeneratorHealth::default()
            },
            started_at: SystemTime::UNIX_EPOCH,
            duration: Duration::from_secs(1),
            stopped: false,
        }
    }
}

fn sweep(range: &str) -> Sweep {
    Sweep {
        objectives: "ttft=100ms".parse().unwrap(),
        quantile: 0.99,
        range: range.parse().unwrap(),
        precision: 0.05,
        pause: Duration::from_secs(3),
        stop: CancellationToken::new(),
    }
}

async fn find(sweep: &Sweep, world: World, requests: u64) -> Swept {
    let measure = async |attempt: Attempt| Ok(world.run(attempt));
    let workload = Box::new(Counted(0, requests));
    sweep.find(workload, measure, |_| ()).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn finds_the_servers_limit_with_a_pause_between_the_runs() {
    let sweep = sweep("1..1000");
    let start = tokio::time::Instant::now();
    let swept = find(&sweep, WORLD, u64::MAX).await;
    let expected = Finding::Between {
        held: 41.5,
        missed: 43.4,
    };
    assert_eq!(swept.finding, expected);
    assert!(swept.finding.is_complete());
    assert_eq!(
        swept.sentence(&sweep),
        "99.0% of requests meet ttft=100ms up to 41.50 requests/s, and no more at 43.40 requests/s"
    );
    let rates: Vec<_> = swept.points.iter().map(|it| it.rate).collect();
    assert!(rates.is_sorted(), "{rates:?}");
    assert_eq!(rates.len(), 11);
    assert_eq!(start.elapsed(), Duration::from_secs(3 * 10));
    // What is shown is the run at the rate that is named.
    assert_eq!(swept.figures.goodput.as_ref().unwrap().share, 1.0);
    let held = swept
        .points
        .iter()
        .filter(|it| it.verdict == Verdict::Holds);
    assert_eq!(held.count(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_generator_that_falls_behind_is_tried_again_and_then_named() {
    let world = World {
        generator: 20.0,
        ..WORLD
    };
    let sweep = sweep("1..1000");
    let swept = find(&sweep, world, u64::MAX).await;
    let Finding::AtLeast { held, why, .. } = &swept.finding else {
        panic!("{:?}", swept.finding);
    };
    assert!((19.0..=20.0).contains(held), "{held}");
    assert!(matches!(why, Unknown::Generator { rate, .. } if *rate > 20.0 && *rate < 21.1));
    assert!(!swept.finding.is_complete());
    assert!(
        swept
            .sentence(&sweep)
            .contains("the generator itself is the limit: sent late")
    );
    let at_32 = swept.points.iter().filter(|it| it.rate == 32.0);
    let verdicts: Vec<_> = at_32.map(|it| it.verdict).collect();
    assert_eq!(verdicts, [Verdict::GeneratorLate; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_rate_that_missed_bounds_a_limit_that_is_not_known() {
    let sweep = sweep("1..1000");
    // The generator is late in between only: a neighbour on its machine.
    let measure = async |attempt: Attempt| {
        let generator = match (33.0..60.0).contains(&attempt.rate) {
            true => 0.0,
            false => 1e9,
        };
        let world = World { generator, ..WORLD };
        Ok(world.run(attempt))
    };
    let workload = Box::new(Counted(0, u64::MAX));
    let swept = sweep.find(workload, measure, |_| ()).await.unwrap();
    let Finding::AtLeast { held, missed, .. } = swept.finding else {
        panic!("{:?}", swept.finding);
    };
    assert_eq!((held, missed), (32.0, Some(64.0)));
}

#[tokio::test(start_paused = true)]
async fn a_search_without_a_bound_says_why() {
    let unknown = |swept: Swept| match swept.finding {
        Finding::AtLeast { why, .. } | Finding::Nothing(why) => why,
        other => panic!("{other:?}"),
    };
    let range = find(&sweep("1..16"), WORLD, u64::MAX).await;
    assert!(range.finding.is_complete());
    assert_eq!(unknown(range), Unknown::Range);
    let below = find(&sweep("64..128"), WORLD, u64::MAX).await;
    assert_eq!(below.finding, Finding::Below { missed: 64.0 });
    assert_eq!(below.points.len(), 1);
    let ended = find(&sweep("1..1000"), WORLD, 250).await;
    assert_eq!((ended.points.len(), unknown(ended)), (3, Unknown::Ended));
    let broken = World {
        broken: true,
        ..WORLD
    };
    let unanswered = find(&sweep("1..1000"), broken, u64::MAX).await;
    assert_eq!(unanswered.points.len(), 1);
    assert_eq!(unknown(unanswered), Unknown::Unanswered);
}

#[tokio::test(start_paused = true)]
async fn a_search_that_is_stopped_keeps_what_it_has() {
    let sweep = sweep("1..1000");
    let measure = async |attempt: Attempt| {
        let stops = attempt.rate == 8.0;
        if stops {
            sweep.stop.cancel();
        }
        Ok(RunResult {
            stopped: stops,
            ..WORLD.run(attempt)
        })
    };
    let workload = Box::new(Counted(0, u64::MAX));
    let swept = sweep.find(workload, measure, |_| ()).await.unwrap();
    let expected = Finding::AtLeast {
        held: 4.0,
        missed: None,
        why: Unknown::Stopped,
    };
    assert_eq!(swept.finding, expected);
    assert_eq!(swept.points.last().unwrap().verdict, Verdict::CutShort);
    assert_eq!(swept.run.unwrap().records.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn no_run_sends_what_another_has_sent() {
    let sent = Arc::new(std::sync::Mutex::new(Vec::new()));
    let measure = async |mut attempt: Attempt| {
        let mut sent = sent.lock().unwrap();
        for number in 0..10 {
            let request = attempt.workload.next().unwrap();
            assert_eq!(request.number, number);
            sent.push(request.prompt);
        }
        Ok(WORLD.run(attempt))
    };
    let workload = Box::new(Counted(0, u64::MAX));
    let swept = sweep("1..4").find(workload, measure, |_| ()).await.unwrap();
    assert_eq!(swept.points.len(), 3);
    let mut sent = sent.lock().unwrap().clone();
    assert_eq!(sent.len(), 30);
    sent.dedup();
    assert_eq!(sent.len(), 30);
}

#[test]
fn refuses_what_is_no_range() {
    for text in ["", "5", "0..3", "-1..3", "9..3", "1..inf", "a..b"] {
        assert_eq!(text.parse::<RateRange>(), Err(RateRangeError), "{text}");
    }
}
