use super::svg::escaped;
use super::*;

fn labels(axis: &Axis) -> Vec<String> {
    axis.ticks().map(|it| it.1).collect()
}

#[test]
fn ticks_are_round_numbers() {
    let table = [
        (Axis::from_zero(1955.0), "0 500 1,000 1,500 2,000"),
        (Axis::from_zero(0.7), "0.0 0.2 0.4 0.6 0.8"),
        (Axis::from_zero(0.0), "0"),
        (Axis::from_zero(f64::NAN), "0"),
        (Axis::between(0.0, 70.5), "0 10 20 30 40 50 60 70"),
        (Axis::between(28.4, 31.2), "28.5 29.0 29.5 30.0 30.5 31.0"),
        (Axis::log(3.0, 150.0), "2 5 10 20 50 100 200"),
        (Axis::log(0.02, 30.0), "0.03 0.1 0.3 1 3 10 30"),
        (
            Axis::log(1.0, 900_000.0),
            "1 10 100 1,000 10,000 100,000 1,000,000",
        ),
    ];
    for (axis, expected) in table {
        let found = labels(&axis).join(" ");
        assert!(found.starts_with(expected), "{found} for {expected}");
    }
}

#[test]
fn values_are_placed_between_the_ends() {
    let linear = Axis::between(10.0, 20.0);
    let log = Axis::log(1.0, 100.0);
    let table = [
        (&linear, 10.0, 0.0),
        (&linear, 15.0, 0.5),
        (&linear, 25.0, 1.0),
        (&log, 1.0, 0.0),
        (&log, 10.0, 0.5),
        (&log, 100.0, 1.0),
        (&log, 0.0, 0.0),
    ];
    for (axis, value, place) in table {
        assert!((axis.place(value) - place).abs() < 1e-9, "{value}");
    }
}

#[test]
fn values_far_apart_get_a_logarithmic_axis() {
    assert!(!Axis::spanning(10.0, 200.0).is_log());
    assert!(Axis::spanning(10.0, 2000.0).is_log());
    assert!(!Axis::spanning(0.0, 2000.0).is_log());
}

#[test]
fn a_missing_value_interrupts_the_line() {
    let points = [Some(1.0), Some(2.0), None, Some(3.0)];
    let chart = LineChart {
        label: "test",
        x: Axis::between(0.0, 3.0),
        y: Axis::from_zero(3.0),
        x_title: "s",
        y_title: "ms",
        lines: vec![Line {
            name: "p50".to_owned(),
            color: 0,
            dash: 0,
            points: points
                .iter()
                .enumerate()
                .map(|(i, y)| (i as f64, *y))
                .collect(),
        }],
        shade: None,
        marks: Marks::Hidden,
    };
    let drawn = chart.draw();
    let path = drawn.split("d=\"").nth(1).unwrap();
    let path = path.split('"').next().unwrap();
    assert_eq!(
        (path.matches('M').count(), path.matches('L').count()),
        (2, 1)
    );
    assert!(drawn.contains("r=\"3\""), "a point alone is a dot");
}

#[test]
fn text_cannot_leave_its_element() {
    assert_eq!(escaped("a<b & \"c\"\n"), "a&lt;b &amp; &quot;c&quot; ");
}
