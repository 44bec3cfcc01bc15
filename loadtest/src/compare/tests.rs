use super::*;
use crate::figures::made_up::MadeUp;
use crate::figures::{Figures, Metric, RunInfo, Statistic};
use crate::record::{Outcome, Record};

fn records(seed: u64) -> Vec<Record> {
    MadeUp {
        seed,
        requests: 300,
        rate: 20.0,
        slowness: 1.0,
    }
    .records()
}

fn document(records: Vec<Record>) -> Document {
    Document {
        info: RunInfo::default(),
        figures: Figures::of(&records, &"ttft=200ms".parse().unwrap()),
        records: Some(records),
        sweep: Vec::new(),
        policies: Vec::new(),
    }
}

/// Every token later by half of what it took.
fn slowed(mut records: Vec<Record>) -> Vec<Record> {
    for record in &mut records {
        let scheduled = record.scheduled;
        let slow = |at: std::time::Duration| scheduled + (at - scheduled).mul_f64(1.5);
        record.ended = slow(record.ended);
        record.chunks.iter_mut().for_each(|it| it.at = slow(it.at));
    }
    records
}

/// A tenth of all requests, beside what failed before.
fn failing(mut records: Vec<Record>) -> Vec<Record> {
    let some = records.iter_mut().filter(|it| it.number % 10 == 0);
    some.for_each(|it| it.outcome = Outcome::CutStream);
    records
}

fn find(a: &Document, b: &Document, fail_if: &[&str]) -> Findings {
    let fail_if: Vec<Expression> = fail_if.iter().map(|it| it.parse().unwrap()).collect();
    let comparison = Comparison {
        a,
        b,
        fail_if: &fail_if,
        resamples: 100,
        seed: 5,
    };
    comparison.find().unwrap()
}

fn row(findings: &Findings, quantity: &str) -> Row {
    let quantity: Quantity = quantity.parse().unwrap();
    let mut rows = findings.rows.iter();
    *rows.find(|it| it.quantity == quantity).unwrap()
}

#[test]
fn equal_runs_have_ratios_of_one_within_their_intervals() {
    let run = document(failing(records(1)));
    let findings = find(&run, &run, &["p99(ttft)>1.1", "rate(output_tokens)<0.9"]);
    assert_eq!(findings.rows.len(), Quantity::shown().count());
    for row in &findings.rows {
        assert_eq!(row.ratio, Some(1.0), "{}", row.quantity);
        let Some(interval) = row.interval else {
            // A share of tokens, not of requests.
            assert_eq!(row.quantity, Quantity::Cached);
            continue;
        };
        assert!(interval.has(1.0), "{}: {interval}", row.quantity);
    }
    let interval = row(&findings, "p50(ttft)").interval.unwrap();
    assert!(interval.from < 1.0 && interval.to > 1.0, "{interval}");
    assert_eq!((findings.failures.len(), findings.warnings.len()), (0, 0));
    assert!(!findings.to_string().contains("yes"));
}

#[test]
fn a_slower_run_is_detected() {
    let (a, b) = (document(records(1)), document(slowed(records(1))));
    let fail_if = [
        "p50(ttft)>1.1",
        "mean(itl)>=1.4",
        "p99(tpot)>1.6",
        "errors>0.9",
    ];
    let findings = find(&a, &b, &fail_if);
    for quantity in ["p50(ttft)", "mean(itl)", "p90(tpot)", "p50(e2e)"] {
        let row = row(&findings, quantity);
        assert!((row.ratio.unwrap() - 1.5).abs() < 0.01, "{quantity}");
        let interval = row.interval.unwrap();
        assert!(
            interval.has(1.5) && !interval.has(1.0),
            "{quantity}: {interval}"
        );
    }
    assert_eq!(findings.failures.len(), 2, "{:?}", findings.failures);
    assert!(findings.failures[0].starts_with("p50(ttft)>1.1: p50(ttft) is 1."));
    assert!(findings.failures[1].starts_with("mean(itl)>=1.4: mean(itl) is 1."));
    assert!(findings.to_string().contains("yes"));
}

#[test]
fn chance_of_arrivals_is_no_difference_of_rates() {
    let findings = find(&document(records(1)), &document(records(2)), &[]);
    for quantity in [
        "rate(requests)",
        "rate(input_tokens)",
        "rate(output_tokens)",
    ] {
        let row = row(&findings, quantity);
        let interval = row.interval.unwrap();
        assert!(
            interval.has(1.0) && row.ratio != Some(1.0),
            "{quantity}: {interval}"
        );
    }
}

#[test]
fn intervals_depend_on_the_seed_alone() {
    let (a, b) = (document(records(1)), document(records(2)));
    assert_eq!(find(&a, &b, &[]), find(&a, &b, &[]));
    let other = Comparison {
        a: &a,
        b: &b,
        fail_if: &[],
        resamples: 100,
        seed: 6,
    };
    assert_ne!(find(&a, &b, &[]), other.find().unwrap());
}

#[test]
fn errors_are_judged_by_their_share_in_b() {
    let (a, b) = (document(records(1)), document(failing(records(1))));
    assert_eq!(find(&a, &b, &["errors>0.05"]).failures.len(), 1);
    assert_eq!(find(&a, &b, &["errors>0.2"]).failures.len(), 0);
    assert_eq!(find(&b, &a, &["errors>0.05"]).failures.len(), 0);
}

#[test]
fn growth_from_zero_is_beyond_every_ratio() {
    let mut still = document(records(1));
    still.figures.goodput.as_mut().unwrap().per_second = 0.0;
    let other = document(records(1));
    assert_eq!(
        find(&still, &other, &["rate(goodput)>100"]).failures.len(),
        1
    );
    assert_eq!(
        find(&still, &still, &["rate(goodput)>1.0"]).failures.len(),
        0
    );
    assert_eq!(row(&find(&still, &other, &[]), "rate(goodput)").ratio, None);
}

#[test]
fn without_records_there_are_ratios_and_a_warning() {
    let with = document(records(1));
    let mut without = document(records(1));
    without.records = None;
    without.info.invalid = Some("the generator fell behind".to_owned());
    let findings = find(&with, &without, &[]);
    assert_eq!(row(&findings, "p99(ttft)").ratio, Some(1.0));
    assert!(findings.rows.iter().all(|it| it.interval.is_none()));
    let warnings = [
        "B is an INVALID RUN: the generator fell behind",
        "no intervals: a file has no records",
    ];
    assert_eq!(findings.warnings, warnings);
}

#[test]
fn a_condition_on_what_was_not_measured_is_an_error() {
    let (run, empty) = (document(records(1)), document(Vec::new()));
    let fail_if = ["p99(ttft)>1.1".parse().unwrap()];
    let mut comparison = Comparison {
        a: &run,
        b: &empty,
        fail_if: &fail_if,
        resamples: 10,
        seed: 0,
    };
    let error = comparison.find().unwrap_err().to_string();
    assert!(
        error.contains("p99(ttft) cannot be judged, B did not measure it"),
        "{error}"
    );
    comparison = Comparison {
        a: &empty,
        b: &run,
        ..comparison
    };
    let error = comparison.find().unwrap_err().to_string();
    assert!(error.contains("A did not measure it"), "{error}");
    let nothing = find(&empty, &empty, &[]);
    assert!(nothing.rows.is_empty());
}

#[test]
fn expressions_are_read() {
    use Quantity::{Errors, Latency};
    let table = [
        (
            "p99(ttft)>1.1",
            Latency(Metric::Ttft, Statistic::P99),
            ">",
            1.1,
        ),
        (
            " p99.9( itl ) >= 2 ",
            Latency(Metric::Itl, Statistic::P999),
            ">=",
            2.0,
        ),
        (
            "max(e2e)<1e3",
            Latency(Metric::E2e, Statistic::Max),
            "<",
            1000.0,
        ),
        (
            "mean(tpot)<=0.5",
            Latency(Metric::Tpot, Statistic::Mean),
            "<=",
            0.5,
        ),
        (
            "rate(output_tokens)<0.9",
            Quantity::Rate(Rate::OutputTokens),
            "<",
            0.9,
        ),
        ("rate(goodput)<1", Quantity::Rate(Rate::Goodput), "<", 1.0),
        ("errors>0.01", Errors, ">", 0.01),
    ];
    for (text, quantity, sign, bound) in table {
        let expression: Expression = text.parse().unwrap();
        assert_eq!(
            (expression.quantity, expression.bound),
            (quantity, bound),
            "{text}"
        );
        assert_eq!(expression.to_string(), format!("{quantity}{sign}{bound}"));
        assert_eq!(expression.to_string().parse(), Ok(expression));
    }
}

#[test]
fn expressions_hold_as_their_sign_says() {
    let table = [
        ("errors<1", [true, false, false]),
        ("errors<=1", [true, true, false]),
        ("errors>1", [false, false, true]),
        ("errors>=1", [false, true, true]),
    ];
    for (text, expected) in table {
        let expression: Expression = text.parse().unwrap();
        assert_eq!(
            [0.5, 1.0, 1.5].map(|it| expression.holds(it)),
            expected,
            "{text}"
        );
    }
}

#[test]
fn wrong_expressions_are_refused_with_what_is_wrong() {
    use ExpressionError as E;
    let owned = str::to_owned;
    let table = [
        ("", E::Operator(owned(""))),
        ("p99(ttft)", E::Operator(owned("p99(ttft)"))),
        ("p99(ttft)=1", E::Operator(owned("p99(ttft)=1"))),
        ("p99(ttft)>", E::Bound(owned(""))),
        ("p99(ttft)>1.1x", E::Bound(owned("1.1x"))),
        ("p99(ttft)>nan", E::Bound(owned("nan"))),
        ("ttft>1", E::Quantity(owned("ttft"))),
        ("p98(ttft)>1", E::Statistic(owned("p98"))),
        ("p99(ttfx)>1", E::Metric(owned("ttfx"))),
        ("rate(errors)>1", E::Rate(owned("errors"))),
    ];
    for (text, expected) in table {
        assert_eq!(text.parse::<Expression>(), Err(expected), "{text}");
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let folder = std::env::temp_dir().join(format!("kvasir-compare-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let good = folder.join("good.json");
    std::fs::write(&good, document(records(1)).to_json()).unwrap();
    let bad = folder.join("bad.json");
    std::fs::write(&bad, "[]").unwrap();
    let config = |b: &Path| Config {
        a: good.clone(),
        b: b.to_owned(),
        fail_if: Vec::new(),
        resamples: 10,
        seed: 0,
    };
    let (text, findings) = compare(&config(&good)).unwrap();
    assert!(text.starts_with("A  ") && text.contains(&findings.to_string()));
    let error = compare(&config(&bad)).unwrap_err().to_string();
    assert!(error.contains("bad.json: is no JSON"), "{error}");
    let error = compare(&config(&folder.join("none.json")))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("none.json: ") && error.contains("name a file"),
        "{error}"
    );
    std::fs::remove_dir_all(&folder).unwrap();
}
