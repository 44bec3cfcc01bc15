use clap::Parser;

use super::*;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    arrival: ArrivalConfig,
}

fn config(flags: &str) -> ArrivalConfig {
    let words = std::iter::once("test").chain(flags.split_whitespace());
    Flags::try_parse_from(words).unwrap().arrival
}

fn times(rate: &str, gaps: Gaps, count: usize) -> Vec<f64> {
    let rate = rate.parse().unwrap();
    let schedule = OpenLoop { rate, gaps }.schedule(7);
    schedule.take(count).map(|it| it.as_secs_f64()).collect()
}

/// Mean and coefficient of variation of the times between.
fn gap_statistics(times: &[f64]) -> (f64, f64) {
    let gaps: Vec<f64> = times.windows(2).map(|it| it[1] - it[0]).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let squares = gaps.iter().map(|it| (it - mean).powi(2)).sum::<f64>();
    (mean, (squares / gaps.len() as f64).sqrt() / mean)
}

#[test]
fn constant_gaps_are_equal_and_do_not_drift() {
    let times = times("10", Gaps::Constant, 1_000_001);
    assert_eq!(times[0], 0.0);
    assert!((times[1] - 0.1).abs() < 1e-9);
    assert!((times[1_000_000] - 100_000.0).abs() < 1e-4);
}

#[test]
fn gaps_vary_as_their_distribution_says() {
    let gamma = |burstiness| Gaps::Gamma { burstiness };
    let table = [
        (Gaps::Exponential, 1.0),
        (gamma(1.0), 1.0),
        (gamma(0.25), 2.0),
        (gamma(4.0), 0.5),
    ];
    for (gaps, expected) in table {
        let (mean, variation) = gap_statistics(&times("20", gaps, 100_000));
        assert!((mean - 0.05).abs() < 0.001, "{gaps:?}: mean {mean}");
        let allowed = 0.03 * expected;
        assert!(
            (variation - expected).abs() < allowed,
            "{gaps:?}: variation {variation}"
        );
    }
}

#[test]
fn ramp_sends_more_and_more_and_then_ends() {
    // From 0 to 100 a second over 20 s: 50 t^2 / 20 requests up to time t.
    let even = times("0..100@20s", Gaps::Constant, 10_000);
    assert_eq!(even.len(), 1000);
    for (number, at) in even.iter().enumerate() {
        let expected = (number as f64 * 20.0 / 50.0).sqrt();
        assert!((at - expected).abs() < 1e-6, "{number}: {at}");
    }
    let poisson = times("0..100@20s", Gaps::Exponential, 10_000);
    assert!((900..1100).contains(&poisson.len()), "{}", poisson.len());
    let first_half = poisson.iter().filter(|at| **at < 10.0).count() as f64;
    let share = first_half / poisson.len() as f64;
    assert!((0.21..0.29).contains(&share), "{share}");
}

#[test]
fn ramp_may_hold_its_end() {
    let even = times("10..0@10s,2", Gaps::Constant, 60);
    // 50 requests in the ramp, then 2 a second.
    let held = even[55] - even[51];
    assert!((held - 2.0).abs() < 1e-6, "{held}");
}

#[test]
fn steps_have_their_rates_one_after_the_other() {
    let even = times("10@10s,0@5s,40@10s", Gaps::Constant, 10_000);
    let within = |from: f64, to: f64| even.iter().filter(|at| (from..to).contains(at)).count();
    assert_eq!(within(0.0, 9.999), 100);
    assert_eq!(within(10.001, 14.999), 0);
    assert!((399..=401).contains(&within(14.999, 26.0)));
    assert!(even.iter().all(|at| *at <= 25.0));
}

#[test]
fn schedules_ascend_and_are_the_same_by_seed() {
    for gaps in [Gaps::Exponential, Gaps::Gamma { burstiness: 0.3 }] {
        let open = OpenLoop {
            rate: "5..500@10s,100@10s,3".parse().unwrap(),
            gaps,
        };
        let times = |seed| open.schedule(seed).take(5_000).collect::<Vec<_>>();
        assert!(times(1).is_sorted());
        assert_eq!(times(1), times(1));
        assert_ne!(times(1), times(2));
    }
}

#[test]
fn rates_are_shown_as_they_are_written() {
    for text in ["10", "0.5", "10@30s,50@30s", "10..100@2m,100"] {
        assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
    }
    let lasts = |text: &str| text.parse::<Rate>().unwrap().lasts();
    assert_eq!(
        lasts("10@30s,50@1m"),
        Some(std::time::Duration::from_secs(90))
    );
    assert_eq!(lasts("10@30s,50"), None);
}

#[test]
fn what_is_no_rate_is_refused() {
    let table = [
        ("", RateError::Number("".into())),
        ("fast", RateError::Number("fast".into())),
        ("-1", RateError::Number("-1".into())),
        ("inf", RateError::Number("inf".into())),
        ("10@3", RateError::Time("3".into())),
        ("10@0", RateError::Time("0".into())),
        ("10,20", RateError::Endless("10".into())),
        ("10..20", RateError::Endless("10..20".into())),
        ("0", RateError::Zero),
        ("0@3s,0@4s", RateError::Zero),
        ("5@3s,0", RateError::Zero),
    ];
    for (text, expected) in table {
        assert_eq!(text.parse::<Rate>(), Err(expected), "{text}");
    }
    assert_eq!(Rate::constant(0.0), None);
    assert_eq!(Rate::constant(2.5), "2.5".parse().ok());
}

#[test]
fn flags_say_how_requests_arrive() {
    let open = |rate: &str, gaps| {
        let rate = rate.parse().unwrap();
        Arrival::Open(OpenLoop { rate, gaps })
    };
    let table = [
        ("", false, Arrival::Closed { concurrency: 1 }),
        ("", true, Arrival::Recorded),
        ("--concurrency 8", true, Arrival::Closed { concurrency: 8 }),
        ("--rate 10", true, open("10", Gaps::Exponential)),
        (
            "--rate 10 --arrival constant",
            false,
            open("10", Gaps::Constant),
        ),
        (
            "--rate 10 --arrival gamma --burstiness 0.5",
            false,
            open("10", Gaps::Gamma { burstiness: 0.5 }),
        ),
        ("--arrival recorded", true, Arrival::Recorded),
    ];
    for (flags, is_recorded, expected) in table {
        let config = config(flags);
        let mut mistakes = Vec::new();
        config.check(&mut mistakes);
        config.check_with(is_recorded, &mut mistakes);
        assert_eq!(mistakes, Vec::<String>::new(), "{flags}");
        assert_eq!(config.arrival(is_recorded), expected, "{flags}");
    }
}

#[test]
fn flags_that_exclude_each_other_are_named() {
    let table = [
        ("--rate 1 --concurrency 1", "--rate (open"),
        ("--rate 1 --arrival recorded", "--arrival recorded excludes"),
        (
            "--concurrency 2 --arrival poisson",
            "--arrival has no meaning",
        ),
        ("--burstiness 2", "--burstiness needs"),
        (
            "--rate 1 --arrival gamma --burstiness 0",
            "--burstiness must",
        ),
        ("--concurrency 0", "--concurrency must"),
        ("--arrival recorded", "--arrival recorded needs --trace"),
    ];
    for (flags, expected) in table {
        let config = config(flags);
        let mut mistakes = Vec::new();
        config.check(&mut mistakes);
        let has_recorded_times = flags != "--arrival recorded";
        config.check_with(has_recorded_times, &mut mistakes);
        assert_eq!(mistakes.len(), 1, "{flags}: {mistakes:?}");
        assert!(mistakes[0].starts_with(expected), "{flags}: {mistakes:?}");
    }
}
