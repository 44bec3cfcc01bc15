//! What a person sees while a run lasts, on standard error: a bar on a
//! terminal, a line every few seconds elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::tally::{Tally, Totals};

/// Often enough to look alive.
const BAR_PERIOD: Duration = Duration::from_millis(250);

/// Seldom enough for a log.
const LINE_PERIOD: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Display {
    Off,
    /// A bar if standard error is a terminal, else lines.
    Auto,
}

/// When a run is complete, as far as is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Goal {
    pub(super) requests: Option<u64>,
    pub(super) duration: Option<Duration>,
}

pub(super) struct Progress {
    shown: Shown,
    goal: Goal,
    start: Instant,
    /// When, ended requests and tokens of the last look.
    last: (Instant, u64, u64),
}

enum Shown {
    Nothing,
    Bar(ProgressBar),
    Lines,
}

impl Progress {
    pub(super) fn new(display: Display, goal: Goal, start: Instant) -> Progress {
        let shown = match display {
            Display::Off => Shown::Nothing,
            Display::Auto if std::io::stderr().is_terminal() => Shown::Bar(bar()),
            Display::Auto => Shown::Lines,
        };
        Progress {
            shown,
            goal,
            start,
            last: (start, 0, 0),
        }
    }

    pub(super) fn period(&self) -> Duration {
        match self.shown {
            Shown::Bar(_) => BAR_PERIOD,
            Shown::Lines | Shown::Nothing => LINE_PERIOD,
        }
    }

    pub(super) fn show(&mut self, tallies: &[Arc<Tally>]) {
        let now = Instant::now();
        let over = now.saturating_duration_since(self.last.0);
        if over.is_zero() || matches!(self.shown, Shown::Nothing) {
            return;
        }
        let totals = Totals::of(tallies.iter().map(|it| &**it));
        let elapsed = now.saturating_duration_since(self.start);
        let per_second = |count: u64| count as f64 / over.as_secs_f64();
        let rates = Rates {
            requests: per_second(totals.ended - self.last.1),
            tokens: per_second(totals.tokens - self.last.2),
        };
        self.last = (now, totals.ended, totals.tokens);
        let line = describe(&totals, rates, elapsed);
        match &self.shown {
            Shown::Nothing => {}
            Shown::Lines => write_line(&line),
            Shown::Bar(bar) => {
                let permille = self.goal.share(totals.ended, elapsed) * 1000.0;
                bar.set_position(permille as u64);
                bar.set_message(line);
            }
        }
    }

    pub(super) fn finish(&mut self, tallies: &[Arc<Tally>]) {
        self.show(tallies);
        if let Shown::Bar(bar) = &self.shown {
            bar.abandon();
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Rates {
    requests: f64,
    tokens: f64,
}

impl Goal {
    /// From 0 to 1, by whichever end is nearer.
    fn share(&self, ended: u64, elapsed: Duration) -> f64 {
        let requests = self.requests.map(|it| ended as f64 / it.max(1) as f64);
        let duration = self
            .duration
            .map(|it| elapsed.as_secs_f64() / it.as_secs_f64().max(1e-9));
        requests
            .into_iter()
            .chain(duration)
            .fold(0.0, f64::max)
            .min(1.0)
    }
}

/// The most important first: a narrow terminal shows only the beginning.
fn describe(totals: &Totals, rates: Rates, elapsed: Duration) -> String {
    let first_token = match totals.first_token.len() {
        0 => String::new(),
        _ => {
            let ms = |quantile| totals.first_token.value_at_quantile(quantile) as f64 / 1000.0;
            format!("; TTFT p50 {:.1} ms, p99 {:.1} ms", ms(0.5), ms(0.99))
        }
    };
    format!(
        "{:.0} s: {} done, {} under way, {} not as asked; {:.1} req/s, {:.0} tok/s{first_token}",
        elapsed.as_secs_f64(),
        totals.ended,
        totals.launched.saturating_sub(totals.ended),
        totals.failed,
        rates.requests,
        rates.tokens,
    )
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:12} {percent:>3}% {wide_msg}");
    let bar = ProgressBar::new(1000);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn write_line(line: &str) {
    // A closed standard error must not end a run.
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_end_that_is_nearer() {
        let goal = Goal {
            requests: Some(100),
            duration: Some(Duration::from_secs(10)),
        };
        assert_eq!(goal.share(50, Duration::from_secs(2)), 0.5);
        assert_eq!(goal.share(50, Duration::from_secs(8)), 0.8);
        assert_eq!(goal.share(150, Duration::from_secs(8)), 1.0);
        let open_end = Goal {
            requests: None,
            duration: None,
        };
        assert_eq!(open_end.share(5, Duration::from_secs(1)), 0.0);
    }

    #[test]
    fn a_line_tells_counts_rates_and_latency() {
        let rates = Rates {
            requests: 12.34,
            tokens: 56.7,
        };
        let after = Duration::from_secs(3);
        assert_eq!(
            describe(&Totals::of(&[]), rates, after),
            "3 s: 0 done, 0 under way, 0 not as asked; 12.3 req/s, 57 tok/s"
        );
        let tally = Tally::default();
        for record in crate::figures::tests::four_records() {
            tally.launched();
            tally.ended(&record);
        }
        assert_eq!(
            describe(&Totals::of([&tally]), rates, after),
            "3 s: 4 done, 0 under way, 2 not as asked; 12.3 req/s, 57 tok/s; \
             TTFT p50 100.0 ms, p99 300.0 ms"
        );
    }
}
