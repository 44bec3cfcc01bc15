use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

fn draws(text: &str) -> Vec<f64> {
    let length: Length = text.parse().unwrap();
    let mut rng = StdRng::seed_from_u64(1);
    (0..40_000)
        .map(|_| f64::from(length.draw(&mut rng)))
        .collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares = values.iter().map(|it| (it - mean).powi(2)).sum::<f64>();
    (squares / values.len() as f64).sqrt()
}

#[test]
fn draws_have_the_mean_and_deviation_that_are_written() {
    let lognormal_deviation = 512.0 * (0.64_f64.exp() - 1.0).sqrt();
    let table = [
        ("512", 512.0, 0.0),
        ("uniform:100..900", 500.0, 800.0 / 12.0_f64.sqrt()),
        ("normal:mean=1000,sd=100", 1000.0, 100.0),
        ("lognormal:mean=512,sigma=0.8", 512.0, lognormal_deviation),
        ("exponential:mean=700", 700.0, 700.0),
    ];
    for (text, expected_mean, expected_deviation) in table {
        let drawn = draws(text);
        let (mean, deviation) = (mean(&drawn), deviation(&drawn));
        assert!(
            (mean - expected_mean).abs() <= 0.02 * expected_mean,
            "{text}: {mean}"
        );
        let allowed = 0.06 * expected_deviation;
        assert!(
            (deviation - expected_deviation).abs() <= allowed,
            "{text}: {deviation}"
        );
    }
}

#[test]
fn zipf_ranks_fall_by_their_exponent() {
    let drawn = draws("zipf:max=1000,s=1.0");
    let share = |rank: f64| drawn.iter().filter(|it| **it == rank).count() as f64;
    assert!((1.7..2.3).contains(&(share(1.0) / share(2.0))));
    assert!((3.3..4.8).contains(&(share(1.0) / share(4.0))));
    assert!(drawn.iter().all(|it| (1.0..=1000.0).contains(it)));
}

#[test]
fn limits_hold() {
    let table = [
        ("lognormal:mean=512,sigma=2@2048", 1.0, 2048.0),
        ("normal:mean=10,sd=100,min=5,max=20", 5.0, 20.0),
        ("exponential:mean=3,min=2", 2.0, f64::INFINITY),
        ("normal:mean=0,sd=100", 1.0, f64::INFINITY),
        ("uniform:3..4", 3.0, 4.0),
    ];
    for (text, low, high) in table {
        let drawn = draws(text);
        assert!(drawn.iter().all(|it| (low..=high).contains(it)), "{text}");
        assert!(drawn.contains(&low), "{text}: the limit is reached");
    }
}

#[test]
fn times_have_units() {
    let mut rng = StdRng::seed_from_u64(1);
    let two: Time = "2s".parse().unwrap();
    assert_eq!(two.draw(&mut rng), Duration::from_secs(2));
    let spread: Time = "uniform:500ms..1s".parse().unwrap();
    let drawn = spread.draw(&mut rng);
    assert!(drawn >= Duration::from_millis(500) && drawn <= Duration::from_secs(1));
    assert!("0s".parse::<Time>().is_ok());
    assert!("exponential:mean=2s@10s".parse::<Time>().is_ok());
    assert!("exponential:mean=2".parse::<Time>().is_err());
}

#[test]
fn what_is_no_distribution_is_refused() {
    let table = [
        ("", DistributionError::Kind),
        ("many", DistributionError::Kind),
        ("512@600", DistributionError::Kind),
        ("pareto:mean=3", DistributionError::Kind),
        ("0", DistributionError::Range("it must be at least 1")),
        (
            "uniform:9..1",
            DistributionError::Range("LOW is above HIGH"),
        ),
        ("uniform:9", DistributionError::Unknown("9".into())),
        ("normal:mean=3", DistributionError::Missing("sd")),
        ("normal:mean=3,sd=x", DistributionError::Number("x".into())),
        (
            "exponential:mean=3@x",
            DistributionError::Number("x".into()),
        ),
        (
            "exponential:mean=3,sd=4",
            DistributionError::Unknown("sd".into()),
        ),
        (
            "exponential:mean=3,min=9,max=2",
            DistributionError::Range("min is above max"),
        ),
        (
            "exponential:mean=0",
            DistributionError::Range("mean must be above 0"),
        ),
        (
            "lognormal:mean=0,sigma=1",
            DistributionError::Range("mean must be above 0, sigma at least 0"),
        ),
        ("zipf:s=1", DistributionError::Missing("max")),
    ];
    for (text, expected) in table {
        assert_eq!(text.parse::<Length>(), Err(expected), "{text}");
    }
}
