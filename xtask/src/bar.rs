//! A figure and how much it may be.

use std::fmt::Write;

pub struct Bar {
    pub what: String,
    pub measured: f64,
    pub at_most: f64,
    pub unit: &'static str,
    /// What the figure is made of.
    pub note: String,
}

impl Bar {
    /// A figure that is no number does not hold.
    pub fn holds(&self) -> bool {
        self.measured <= self.at_most
    }
}

pub fn table(bars: &[Bar]) -> String {
    let mut text =
        String::from("| what | measured | at most | | made of |\n|---|---|---|---|---|\n");
    for bar in bars {
        let verdict = if bar.holds() { "holds" } else { "MISSED" };
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "| {} | {} {unit} | {} {unit} | {verdict} | {} |",
            bar.what,
            short(bar.measured),
            short(bar.at_most),
            bar.note,
            unit = bar.unit,
        );
    }
    text
}

/// Three digits that count.
pub fn short(value: f64) -> String {
    let digits = match value.abs() {
        0.0..1.0 => 3,
        1.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}")
}

/// The middle one; of an even number the mean of the two.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        even if even % 2 == 0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(measured: f64) -> Bar {
        Bar {
            what: "wait".to_owned(),
            measured,
            at_most: 2.0,
            unit: "ms",
            note: "p99".to_owned(),
        }
    }

    #[test]
    fn a_bar_holds_up_to_its_bound_and_never_without_a_figure() {
        assert!(bar(2.0).holds());
        assert!(!bar(2.1).holds());
        assert!(!bar(f64::NAN).holds());
    }

    #[test]
    fn a_row_says_what_was_measured_and_whether_it_holds() {
        let table = table(&[bar(0.12345), bar(2.5)]);
        assert!(table.contains("| wait | 0.123 ms | 2.00 ms | holds | p99 |"));
        assert!(table.contains("| wait | 2.50 ms | 2.00 ms | MISSED | p99 |"));
    }

    #[test]
    fn median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 9.0]), 3.0);
        assert_eq!(median(vec![3.0, 1.0]), 2.0);
        assert!(median(Vec::new()).is_nan());
    }
}
