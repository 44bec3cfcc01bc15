use std::collections::BTreeMap;

use runtime::Lifecycle;
use tokio::sync::mpsc;

use super::feed::{Feed, Source};
use super::*;
use crate::client::Encoder;
use crate::figures::{Figures, Objectives};
use crate::null_server::{Fault, Script, ScriptedServer, Stall};
use crate::planned::{ChatMessage, Output, PlannedRequest, Prompt, Turn};
use crate::record::Outcome;

fn ms(it: u64) -> Duration {
    Duration::from_millis(it)
}

/// Conversations of `turns` turns each.
struct Fixed {
    conversations: u64,
    turns: u32,
    think: Duration,
    started: u64,
    planned: u64,
}

fn fixed(conversations: u64) -> Fixed {
    Fixed {
        conversations,
        turns: 1,
        think: Duration::ZERO,
        started: 0,
        planned: 0,
    }
}

impl Fixed {
    fn plan(&mut self, conversation: u64, turn: u32, said: String) -> PlannedRequest {
        let number = self.planned;
        self.planned += 1;
        let think = if turn == 0 {
            Duration::ZERO
        } else {
            self.think
        };
        PlannedRequest {
            number,
            recorded_at: Some(ms(conversation * 5)),
            turn: (self.turns > 1).then_some(Turn {
                conversation,
                number: turn,
                think,
            }),
            prompt: Prompt::Chat(vec![ChatMessage {
                role: "user",
                content: said,
            }]),
            prompt_tokens: None,
            output: Output {
                max_tokens: 3,
                exact: true,
            },
            tenant: None,
            priority: None,
        }
    }
}

impl Workload for Fixed {
    fn next(&mut self) -> Option<PlannedRequest> {
        let conversation = self.started;
        if conversation == self.conversations {
            return None;
        }
        self.started += 1;
        Some(self.plan(conversation, 0, "hi".to_owned()))
    }

    fn next_turn(&mut self, after: Turn, answer: &str) -> Option<PlannedRequest> {
        assert_eq!(answer, " token token token");
        let number = after.number + 1;
        (number < self.turns).then(|| self.plan(after.conversation, number, answer.to_owned()))
    }

    fn len_hint(&self) -> Option<u64> {
        Some(self.conversations * u64::from(self.turns))
    }
}

fn every(gap: Duration) -> Pace {
    Pace::Open(Box::new((0..).map(move |it: u32| gap * it)))
}

async fn drive(script: Script, workload: Fixed, change: impl FnOnce(&mut RunPlan)) -> RunResult {
    let life = Lifecycle::new();
    let server = ScriptedServer::start(&life, script).await.unwrap();
    let mut plan = RunPlan::new(Target::new(&server.url(), "null"));
    change(&mut plan);
    let result = run(plan, Box::new(workload)).await.unwrap();
    life.stop();
    result
}

fn outcomes(result: &RunResult) -> BTreeMap<Outcome, usize> {
    let mut counts = BTreeMap::new();
    for record in &result.records {
        *counts.entry(record.outcome.clone()).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn a_closed_loop_shares_few_requests_among_lanes() {
    let target = Target::new("http://127.0.0.1:1", "null");
    let source = Source {
        workload: Box::new(fixed(16)),
        encoder: Encoder::new(&target),
        budget: u64::MAX,
    };
    let (launch_txs, mut launch_rxs): (Vec<_>, Vec<_>) = (0..3).map(|_| mpsc::channel(64)).unzip();
    let (_, heard_rx) = mpsc::channel(1);
    let feed = Feed::new(source, Pace::Closed { concurrency: 16 }, None);
    feed.run(launch_txs, heard_rx, CancellationToken::new())
        .await;
    let counts = launch_rxs.iter_mut().map(|lane| lane.len());
    assert_eq!(counts.collect::<Vec<_>>(), [6, 5, 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_of_outcomes_are_exact() {
    for stream in [true, false] {
        let script = Script {
            fault: Some(Arc::new(|number| match number % 10 {
                1 => Some(Fault::Status(503)),
                2 => Some(Fault::ErrorEvent { after: 1 }),
                3 => Some(Fault::Cut { after: 2 }),
                4 => Some(Fault::OneShort),
                5 => Some(Fault::StopsEarly),
                6 => Some(Fault::NotJson { after: 1 }),
                7 => Some(Fault::Silence { after: 1 }),
                _ => None,
            })),
            ..Script::default()
        };
        let result = drive(script, fixed(200), |plan| {
            plan.pace = Pace::Closed { concurrency: 40 };
            plan.target.stream = stream;
            plan.time_limit = ms(1500);
        });
        let expected = [
            (Outcome::Complete, 60),
            (Outcome::WrongTokenCount, 20),
            (Outcome::Truncated, 20),
            (Outcome::Status(503), 20),
            (Outcome::ErrorEvent, 20),
            (Outcome::CutStream, 20),
            (Outcome::Timeout, 20),
            (Outcome::Malformed, 20),
        ];
        assert_eq!(
            outcomes(&result.await),
            BTreeMap::from(expected),
            "stream: {stream}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_of_the_server_shows_only_when_latency_counts_from_the_scheduled_time() {
    let script = Script {
        stall: Some(Stall {
            at: ms(200),
            length: ms(1000),
        }),
        ..Script::default()
    };
    // One connection: what is due meanwhile waits in the client, unsent.
    let result = drive(script, fixed(300), |plan| {
        plan.pace = every(ms(5));
        plan.connections = 1;
    });
    let result = result.await;
    assert_eq!(
        outcomes(&result),
        BTreeMap::from([(Outcome::Complete, 300)])
    );
    // Of 300 requests 200 are due in the stall, one after the other: a tenth of
    // all waits for more than four fifths of it.
    let reported = |result: &RunResult| Figures::of(&result.records, &Objectives::default());
    let latency = reported(&result).latency;
    for times in [latency.ttft, latency.e2e] {
        assert!(times.max > 900.0 && times.p90 > 750.0, "{times:?}");
    }
    // The control: by the send time one request bears it all.
    let mut by_sent = result;
    for record in &mut by_sent.records {
        record.scheduled = record.sent;
    }
    let times = reported(&by_sent).latency.ttft;
    assert!(times.max > 900.0 && times.p90 < 500.0, "{times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_loop_does_not_wait_for_a_stalled_server() {
    let script = Script {
        stall: Some(Stall {
            at: ms(100),
            length: ms(500),
        }),
        ..Script::default()
    };
    let result = drive(script, fixed(120), |plan| plan.pace = every(ms(5))).await;
    let scheduled: Vec<_> = result.records.iter().map(|it| it.scheduled).collect();
    assert_eq!(scheduled, (0..120).map(|it| ms(5 * it)).collect::<Vec<_>>());
    let stalled = result
        .records
        .iter()
        .filter(|it| it.ended > ms(590) && it.sent < ms(400));
    // One that waits has a single request in the stall.
    assert!(stalled.count() > 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_times_as_scripted() {
    let script = Script {
        first_token: ms(50),
        between_tokens: ms(20),
        ..Script::default()
    };
    let result = drive(script, fixed(50), |plan| plan.pace = every(ms(10))).await;
    let at = |token: usize| {
        let since = |it: &Record| it.chunks[token].at - it.scheduled;
        result.records.iter().map(since).min().unwrap()
    };
    // The soonest: others are late when the machine is busy with other things,
    // and none is early.
    for (token, scripted) in [(0, 50), (1, 70), (2, 90)] {
        let soonest = at(token);
        assert!(
            (ms(scripted)..ms(scripted + 4)).contains(&soonest),
            "{soonest:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turns_follow_their_answers_after_a_think_time() {
    for pace in [Pace::Recorded, Pace::Closed { concurrency: 2 }] {
        let workload = Fixed {
            turns: 3,
            think: ms(20),
            ..fixed(6)
        };
        let result = drive(Script::default(), workload, |plan| plan.pace = pace).await;
        assert_eq!(outcomes(&result), BTreeMap::from([(Outcome::Complete, 18)]));
        let ended: BTreeMap<_, _> = result
            .records
            .iter()
            .map(|it| (it.turn.unwrap(), it.ended))
            .collect();
        for record in &result.records {
            let (conversation, turn) = record.turn.unwrap();
            if turn > 0 {
                assert_eq!(record.scheduled, ended[&(conversation, turn - 1)] + ms(20));
                assert!(record.sent >= record.scheduled);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_at_a_count_with_turns_and_marks_the_warm_up() {
    let workload = Fixed {
        turns: 4,
        ..fixed(1000)
    };
    let result = drive(Script::default(), workload, |plan| {
        plan.pace = Pace::Closed { concurrency: 3 };
        plan.limits.requests = Some(50);
        plan.warm_up.requests = 7;
    });
    let result = result.await;
    assert_eq!(result.records.len(), 50);
    let numbers: Vec<_> = result.records.iter().map(|it| it.number).collect();
    assert_eq!(numbers, (0..50).collect::<Vec<_>>());
    assert_eq!(result.records.iter().filter(|it| it.warm_up).count(), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_after_a_time_and_marks_the_warm_up_by_time() {
    let result = drive(Script::default(), fixed(1000), |plan| {
        plan.pace = every(ms(5));
        plan.limits.duration = Some(ms(200));
        plan.warm_up.duration = ms(50);
    });
    let result = result.await;
    assert_eq!(outcomes(&result), BTreeMap::from([(Outcome::Complete, 40)]));
    assert_eq!(result.records.iter().filter(|it| it.warm_up).count(), 10);
    assert!(!result.stopped);
}

fn silent() -> Script {
    Script {
        fault: Some(Arc::new(|number| {
            (number % 2 == 1).then_some(Fault::Silence { after: 2 })
        })),
        ..Script::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_outlasts_the_grace_time_is_recorded_as_unfinished() {
    let result = drive(silent(), fixed(20), |plan| {
        plan.pace = every(ms(5));
        plan.limits.duration = Some(ms(150));
        plan.limits.grace = ms(100);
    });
    let result = result.await;
    let expected = [(Outcome::Complete, 10), (Outcome::Unfinished, 10)];
    assert_eq!(outcomes(&result), BTreeMap::from(expected));
    let unfinished = result
        .records
        .iter()
        .filter(|it| it.outcome == Outcome::Unfinished);
    unfinished.for_each(|it| assert_eq!(it.chunks.len(), 2));
}

/// So long an event may take that comes at once, unless something is broken.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_stopped_keeps_all_records() {
    let life = Lifecycle::new();
    let server = ScriptedServer::start(&life, silent()).await.unwrap();
    let mut plan = RunPlan::new(Target::new(&server.url(), "null"));
    plan.pace = every(ms(5));
    let stop = plan.stop.clone();
    let driven = run(plan, Box::new(fixed(1000)));
    let stopping = async {
        server.received(30).await;
        stop.cancel();
    };
    let (result, ()) = tokio::join!(driven, stopping);
    let result = result.unwrap();
    assert!(result.stopped);
    // One may have been launched, and not have come to the server yet.
    assert!(result.records.len() as u64 >= server.requests());
    let outcomes = outcomes(&result);
    assert!(outcomes[&Outcome::Complete] > 5 && outcomes[&Outcome::Unfinished] > 5);
    assert_eq!(outcomes.len(), 2, "{outcomes:?}");
    life.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_dropped_sends_no_more() {
    let life = Lifecycle::new();
    let script = Script {
        fault: Some(Arc::new(|_| Some(Fault::Silence { after: 0 }))),
        ..Script::default()
    };
    let server = ScriptedServer::start(&life, script).await.unwrap();
    let mut plan = RunPlan::new(Target::new(&server.url(), "null"));
    plan.pace = every(ms(5));
    let driven = run(plan, Box::new(fixed(100_000)));
    tokio::select! {
        _ = driven => panic!("it ended by itself"),
        () = server.received(20) => {}
    }
    // Its connections are silent for ever, unless the run closes them.
    let deserted = tokio::time::timeout(PATIENCE, server.deserted());
    assert!(deserted.await.is_ok(), "it still sends");
    assert!(server.requests() < 1000, "{}", server.requests());
    life.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opens_no_more_connections_than_allowed() {
    let life = Lifecycle::new();
    let script = Script {
        first_token: ms(30),
        ..Script::default()
    };
    let server = ScriptedServer::start(&life, script).await.unwrap();
    let mut plan = RunPlan::new(Target::new(&server.url(), "null"));
    plan.pace = every(ms(1));
    plan.connections = 5;
    let result = run(plan, Box::new(fixed(60))).await.unwrap();
    assert_eq!(outcomes(&result), BTreeMap::from([(Outcome::Complete, 60)]));
    assert_eq!(server.connections(), 5);
    // Waiting for a connection is the server's doing.
    assert!(result.health.delay_p50 < ms(20), "{:?}", result.health);
    life.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_due_and_never_sent_is_recorded() {
    // One connection, and it is taken for ever by the first request.
    let script = Script {
        fault: Some(Arc::new(|_| Some(Fault::Silence { after: 0 }))),
        ..Script::default()
    };
    let result = drive(script, fixed(1000), |plan| {
        plan.pace = every(ms(5));
        plan.connections = 1;
        plan.limits.duration = Some(ms(200));
        plan.limits.grace = ms(50);
    });
    let result = result.await;
    let expected = BTreeMap::from([(Outcome::Unfinished, 40)]);
    assert_eq!(outcomes(&result), expected);
    let scheduled: Vec<_> = result.records.iter().map(|it| it.scheduled).collect();
    assert_eq!(scheduled, (0..40).map(|it| ms(5 * it)).collect::<Vec<_>>());
}

#[tokio::test]
async fn refuses_a_plan_without_connections_or_users() {
    let refused = async |change: fn(&mut RunPlan)| {
        let mut plan = RunPlan::new(Target::new("http://127.0.0.1:1", "null"));
        change(&mut plan);
        run(plan, Box::new(fixed(1))).await.unwrap_err().to_string()
    };
    assert_eq!(
        refused(|it| it.connections = 0).await,
        "connections must be at least 1"
    );
    let nobody = refused(|it| it.pace = Pace::Closed { concurrency: 0 }).await;
    assert_eq!(nobody, "concurrency must be at least 1");
}
