use std::time::Duration;

use super::made_up::MadeUp;
use super::*;
use crate::record::{Chunk, Outcome, Record, Usage};

/// Complete, a token at each time; ends with the last.
pub(crate) fn record(number: u64, scheduled_ms: u64, chunks_ms: &[u64]) -> Record {
    let at = Duration::from_millis;
    let chunk = |ms: &u64| Chunk {
        at: at(*ms),
        tokens: 1,
    };
    Record {
        number,
        scheduled: at(scheduled_ms),
        sent: at(scheduled_ms),
        chunks: chunks_ms.iter().map(chunk).collect(),
        ended: at(chunks_ms.last().copied().unwrap_or(scheduled_ms)),
        outcome: Outcome::Complete,
        usage: None,
        expected_output: None,
        warm_up: false,
        tenant: None,
        priority: None,
        prefill_worker: None,
        decode_worker: None,
        turn: None,
    }
}

/// One of the warm-up, one answered, one cut, one refused.
pub(crate) fn four_records() -> Vec<Record> {
    let warm_up = Record {
        warm_up: true,
        ..record(0, 0, &[50])
    };
    let mut answered = Record {
        sent: Duration::from_millis(1001),
        ended: Duration::from_millis(1161),
        usage: Some(Usage {
            prompt_tokens: 10,
            completion_tokens: 4,
            cached_tokens: Some(5),
        }),
        tenant: Some("acme".into()),
        decode_worker: Some("w0".into()),
        ..record(1, 1000, &[1100, 1120, 1160])
    };
    answered.chunks[2].tokens = 2;
    let cut = Record {
        sent: Duration::from_millis(2005),
        ended: Duration::from_millis(2331),
        outcome: Outcome::CutStream,
        decode_worker: Some("w1".into()),
        ..record(2, 2000, &[2300, 2330])
    };
    let refused = Record {
        ended: Duration::from_millis(3010),
        outcome: Outcome::Status(503),
        tenant: Some("acme".into()),
        ..record(3, 3000, &[])
    };
    vec![warm_up, answered, cut, refused]
}

fn figures(records: &[Record]) -> Figures {
    Figures::of(records, &Objectives::default())
}

/// Within half a unit of the third digit.
#[track_caller]
fn check(quantiles: &Quantiles, count: u64, expected: &[(Statistic, f64)]) {
    assert_eq!(quantiles.count, count);
    for (statistic, ms) in expected {
        let found = quantiles.get(*statistic);
        let name = statistic.name();
        assert!(
            (found - ms).abs() <= ms * 0.0005,
            "{name}: {found} for {ms}"
        );
    }
}

#[test]
fn latencies_are_as_computed_by_hand() {
    use Statistic::{Max, Mean, P50, P99};
    let latency = figures(&four_records()).latency;
    check(
        &latency.ttft,
        2,
        &[(Mean, 200.0), (P50, 100.0), (P99, 300.0), (Max, 300.0)],
    );
    check(
        &latency.itl,
        4,
        &[(Mean, 22.5), (P50, 20.0), (P99, 30.0), (Max, 30.0)],
    );
    check(&latency.gap, 3, &[(Mean, 30.0), (P50, 30.0), (Max, 40.0)]);
    check(&latency.tpot, 1, &[(Mean, 20.0), (Max, 20.0)]);
    check(&latency.e2e, 1, &[(Mean, 161.0), (Max, 161.0)]);
    check(&latency.queueing, 3, &[(Mean, 2.0), (P50, 1.0), (Max, 5.0)]);
}

#[test]
fn quantiles_of_a_uniform_spread_are_exact_to_three_digits() {
    let mut times = Times::default();
    (1..=1000).for_each(|ms| times.record(Duration::from_millis(ms)));
    let expected = [500.5, 500.0, 900.0, 950.0, 990.0, 999.0, 1000.0];
    let expected: Vec<_> = Statistic::ALL.into_iter().zip(expected).collect();
    check(&times.quantiles(), 1000, &expected);
}

#[test]
fn requests_are_counted_by_how_they_ended() {
    let requests = figures(&four_records()).requests;
    let outcomes = [("complete", 1), ("cut_stream", 1), ("status_503", 1)];
    let expected = Requests {
        counted: 3,
        warm_up: 1,
        answered: 1,
        failed: 2,
        outcomes: outcomes.map(|(kind, n)| (kind.to_owned(), n)).into(),
    };
    assert_eq!(requests, expected);
}

#[test]
fn rates_refer_to_the_counted_window() {
    let figures = figures(&four_records());
    assert_eq!(
        figures.window,
        Window {
            from_s: 1.0,
            to_s: 3.01
        }
    );
    let expected = Rates {
        offered: Some(1.0),
        requests: 0.498,
        input_tokens: 4.975,
        output_tokens: 2.985,
    };
    assert_eq!(figures.rates, expected);
    let cached = figures.cached.unwrap();
    assert_eq!(
        (cached.requests, cached.tokens, cached.of, cached.share),
        (1, 5, 10, 0.5)
    );
}

#[test]
fn a_late_generator_shows_in_the_time_to_first_token() {
    let late = Record {
        sent: Duration::from_millis(1000),
        ..record(0, 0, &[1010])
    };
    let latency = figures(&[late]).latency;
    assert_eq!((latency.ttft.max, latency.queueing.max), (1010.0, 1000.0));
}

#[test]
fn tokens_untold_by_chunks_are_taken_from_usage() {
    let mut untold = record(0, 0, &[100, 200, 300]);
    untold.usage = Some(Usage {
        prompt_tokens: 1,
        completion_tokens: 6,
        cached_tokens: None,
    });
    let figures = figures(&[untold]);
    assert_eq!((figures.tokens.output, figures.tokens.seen), (6, 3));
    assert_eq!(figures.tokens_per_chunk(), 2.0);
    assert_eq!(figures.latency.tpot.max, 40.0, "200 ms for five tokens");
    let shown: u64 = figures
        .series
        .intervals
        .iter()
        .map(|it| it.output_tokens)
        .sum();
    assert_eq!(shown, 6);
    assert_eq!(figures.cached, None);
}

#[test]
fn nothing_measured_gives_no_numbers() {
    let figures = figures(&[]);
    assert_eq!(
        figures,
        Figures {
            series: figures.series.clone(),
            ..Figures::default()
        }
    );
    assert_eq!(
        (figures.failed_share(), figures.tokens_per_chunk()),
        (0.0, 0.0)
    );
}

#[test]
fn groups_share_out_all_requests_that_have_a_name() {
    let figures = figures(&four_records());
    let of = |groups: &[Group]| -> Vec<_> {
        let facts = |it: &Group| (it.name.clone(), it.requests, it.failed, it.output_tokens);
        groups.iter().map(facts).collect()
    };
    assert_eq!(of(&figures.tenants), [("acme".to_owned(), 2, 1, 4)]);
    let workers = [("w0".to_owned(), 1, 0, 4), ("w1".to_owned(), 1, 1, 2)];
    assert_eq!(of(&figures.decode_workers), workers);
    assert_eq!(figures.tenants[0].cached_share, Some(0.5));
    assert_eq!(figures.decode_workers[1].cached_share, None);
    assert!(figures.priorities.is_empty() && figures.prefill_workers.is_empty());
}

#[test]
fn priorities_are_in_the_order_of_numbers() {
    let with = |number, priority| Record {
        priority: Some(priority),
        ..record(number, 0, &[1])
    };
    let figures = figures(&[with(0, 10), with(1, 9), with(2, -1)]);
    let names: Vec<_> = figures.priorities.iter().map(|it| &it.name).collect();
    assert_eq!(names, ["-1", "9", "10"]);
}

#[test]
fn the_series_shows_warm_up_and_says_until_when() {
    let series = figures(&four_records()).series;
    assert_eq!(
        (series.interval_s, series.warm_up_until_s),
        (0.25, Some(1.0))
    );
    assert_eq!(series.intervals.len(), 13);
    let scheduled: Vec<_> = [0, 4, 8, 12]
        .map(|it| series.intervals[it].scheduled)
        .into();
    assert_eq!(scheduled, [1, 1, 1, 1]);
    assert_eq!(series.intervals[4].output_tokens, 4);
    assert_eq!(
        (series.intervals[9].failed, series.intervals[12].failed),
        (1, 1)
    );
}

#[test]
fn a_long_run_has_wider_intervals_and_loses_nothing() {
    let records: Vec<_> = (0..3600)
        .map(|i| record(i, i * 1000, &[i * 1000 + 20]))
        .collect();
    let series = figures(&records).series;
    assert!(series.intervals.len() <= 128 && series.intervals.len() > 64);
    assert_eq!(series.interval_s, 32.0);
    let sum = |of: fn(&Interval) -> u64| series.intervals.iter().map(of).sum::<u64>();
    assert_eq!(sum(|it| it.scheduled), 3600);
    assert_eq!(sum(|it| it.answered), 3600);
    assert_eq!(sum(|it| it.output_tokens), 3600);
    assert_eq!(sum(|it| it.ttft.count), 3600);
}

#[test]
fn cdfs_rise_from_the_least_to_the_greatest() {
    let records = MadeUp {
        seed: 1,
        requests: 200,
        rate: 20.0,
        slowness: 1.0,
    }
    .records();
    let figures = figures(&records);
    let cdfs = [
        &figures.cdfs.ttft,
        &figures.cdfs.itl,
        &figures.cdfs.tpot,
        &figures.cdfs.e2e,
    ];
    for cdf in cdfs {
        assert_eq!(cdf.len(), CDF_PERCENTS.len());
        assert!(cdf.is_sorted());
    }
    assert_eq!(figures.cdfs.ttft.last(), Some(&figures.latency.ttft.max));
}

#[test]
fn kinds_name_outcomes_as_serde_does() {
    let outcomes = [
        Outcome::Complete,
        Outcome::WrongTokenCount,
        Outcome::Truncated,
        Outcome::Status(429),
        Outcome::ErrorEvent,
        Outcome::CutStream,
        Outcome::Connect,
        Outcome::Disconnected,
        Outcome::Timeout,
        Outcome::Malformed,
        Outcome::Unfinished,
    ];
    for outcome in outcomes {
        assert_eq!(outcome_of_kind(&kind(&outcome)), Some(outcome));
    }
    for kind in ["", "done", "status_", "status_x", "status"] {
        assert_eq!(outcome_of_kind(kind), None, "{kind}");
    }
}

#[test]
fn objectives_are_written_as_people_write_them() {
    let table = [
        ("ttft=500ms", "ttft=500ms"),
        (
            "ttft=500ms,itl=50ms,e2e=10s",
            "ttft=500ms,itl.p99=50ms,e2e=10s",
        ),
        (" tpot = 0.5s , itl.mean=20ms", "tpot=500ms,itl.mean=20ms"),
        ("itl.p99.9=1s,itl.max=2s", "itl.p99.9=1s,itl.max=2s"),
        ("itl.p100=2s", "itl.max=2s"),
    ];
    for (text, shown) in table {
        let objectives: Objectives = text.parse().unwrap();
        assert_eq!(objectives.to_string(), shown);
        assert_eq!(shown.parse(), Ok(objectives));
    }
}

#[test]
fn wrong_objectives_are_refused_with_what_is_wrong() {
    use ObjectiveError::{Duration, Name, NoPair, Twice};
    let table = [
        ("", NoPair(String::new())),
        ("ttft", NoPair("ttft".to_owned())),
        ("ttft=500ms,", NoPair(String::new())),
        ("ttfx=500ms", Name("ttfx".to_owned())),
        ("itl.p0=5ms", Name("itl.p0".to_owned())),
        ("itl.p101=5ms", Name("itl.p101".to_owned())),
        ("ttft.p99=5ms", Name("ttft.p99".to_owned())),
        ("ttft=500", Duration("500".to_owned())),
        ("itl=5ms,itl.p99=6ms", Twice("itl.p99".to_owned())),
    ];
    for (text, expected) in table {
        assert_eq!(text.parse::<Objectives>(), Err(expected), "{text}");
    }
}

#[test]
fn a_request_is_good_if_it_meets_every_objective() {
    let fast = || record(0, 0, &[100, 110, 120, 130]);
    let hiccup = || record(0, 0, &[100, 110, 120, 220]);
    let failed = Record {
        outcome: Outcome::CutStream,
        ..fast()
    };
    let one_token = record(0, 0, &[100]);
    let table = [
        ("ttft=100ms", fast(), true),
        ("ttft=99ms", fast(), false),
        ("itl=10ms,e2e=130ms,tpot=10ms", fast(), true),
        ("itl=10ms,e2e=129ms", fast(), false),
        ("itl=50ms", hiccup(), false),
        ("itl.p50=10ms", hiccup(), true),
        ("itl.mean=40ms", hiccup(), true),
        ("itl.mean=39ms", hiccup(), false),
        ("itl.max=100ms", hiccup(), true),
        ("ttft=1h", failed, false),
        ("itl=1ms", one_token, true),
    ];
    for (objectives, record, good) in table {
        let objectives: Objectives = objectives.parse().unwrap();
        assert_eq!(objectives.are_met_by(&record), good, "{objectives}");
    }
}

#[test]
fn goodput_counts_failures_as_misses() {
    let objectives = "ttft=100ms,e2e=100ms".parse().unwrap();
    let goodput = Figures::of(&four_records(), &objectives).goodput.unwrap();
    let missed = Misses {
        incomplete: 2,
        e2e: 1,
        ..Misses::default()
    };
    assert_eq!(
        (goodput.good, goodput.of, goodput.missed.clone()),
        (0, 3, missed)
    );

    let first = |i| i + if i == 7 { 200 } else { 50 };
    let records: Vec<_> = (0..100).map(|i| record(i, i, &[first(i)])).collect();
    let goodput = Figures::of(&records, &objectives).goodput.unwrap();
    assert_eq!(goodput.share, 0.99);
    assert!(goodput.holds(0.99) && !goodput.holds(0.991));
}

#[test]
fn what_can_be_told_of_objectives_is_their_limits_for_tokens() {
    let told: Objectives = "e2e=9s,itl.mean=50ms,ttft=2s".parse().unwrap();
    assert_eq!(told.first_token(), Some(Duration::from_secs(2)));
    assert_eq!(told.inter_token(), Some(Duration::from_millis(50)));
    let other: Objectives = "tpot=20ms".parse().unwrap();
    assert_eq!(other.first_token(), None);
    assert_eq!(other.inter_token(), Some(Duration::from_millis(20)));
}
