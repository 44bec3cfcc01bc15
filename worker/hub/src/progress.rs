//! What a person sees while a file comes: a bar on a terminal, a line of the
//! log now and then elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// Seldom enough for a log.
const LINE_PERIOD: Duration = Duration::from_secs(10);

/// Smaller ones come without a word.
const LEAST: u64 = 4 << 20;

pub(crate) struct Progress {
    file: String,
    size: Option<u64>,
    shown: Shown,
    start: (Instant, u64),
    now: u64,
}

enum Shown {
    Nothing,
    Bar(ProgressBar),
    /// The last one's time.
    Lines(Instant),
}

impl Progress {
    /// Of `size` bytes `there` are here.
    pub(crate) fn start(file: &str, size: Option<u64>, there: u64) -> Progress {
        let now = Instant::now();
        let shown = match size {
            Some(size) if size < LEAST => Shown::Nothing,
            _ if std::io::stderr().is_terminal() => Shown::Bar(bar(file, size, there)),
            _ => Shown::Lines(now),
        };
        let progress = Progress {
            file: file.to_owned(),
            size,
            shown,
            start: (now, there),
            now: there,
        };
        if let Shown::Lines(_) = progress.shown {
            tracing::info!("fetching {}", progress.described(now));
        }
        progress
    }

    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    /// So many bytes are here.
    pub(crate) fn at(&mut self, now: u64) {
        self.now = now;
        let line = match &mut self.shown {
            Shown::Nothing => return,
            Shown::Bar(bar) => return bar.set_position(now),
            Shown::Lines(last) => {
                let now = Instant::now();
                let due = now.duration_since(*last) >= LINE_PERIOD;
                if due {
                    *last = now;
                }
                due.then_some(now)
            }
        };
        if let Some(now) = line {
            tracing::info!("fetching {}", self.described(now));
        }
    }

    pub(crate) fn finish(self) {
        match &self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => bar.finish(),
            Shown::Lines(_) => tracing::info!("fetched {}", self.described(Instant::now())),
        }
    }

    fn described(&self, now: Instant) -> String {
        let elapsed = now.duration_since(self.start.0);
        describe(&self.file, (self.now, self.size), self.start.1, elapsed)
    }
}

fn describe(file: &str, (now, size): (u64, Option<u64>), before: u64, elapsed: Duration) -> String {
    let mut text = match size {
        Some(size) => format!("{file}: {} of {}", HumanBytes(now), HumanBytes(size)),
        None => format!("{file}: {}", HumanBytes(now)),
    };
    if now > before && !elapsed.is_zero() {
        let rate = (now - before) as f64 / elapsed.as_secs_f64();
        text += &format!(", {}/s", HumanBytes(rate as u64));
    }
    text
}

fn bar(file: &str, size: Option<u64>, there: u64) -> ProgressBar {
    let bar = match size {
        Some(size) => ProgressBar::new(size),
        None => ProgressBar::new_spinner(),
    };
    let style = ProgressStyle::with_template(
        "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left",
    );
    let bar = match style {
        Ok(style) if size.is_some() => bar.with_style(style),
        _ => bar,
    };
    let bar = bar.with_message(file.to_owned()).with_position(there);
    // The rate is of what comes now.
    bar.reset_eta();
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_and_how_fast() {
        let second = Duration::from_secs(1);
        assert_eq!(
            describe("w", (3 << 20, Some(8 << 20)), 1 << 20, second),
            "w: 3.00 MiB of 8.00 MiB, 2.00 MiB/s"
        );
        assert_eq!(
            describe("w", (0, Some(8 << 20)), 0, second),
            "w: 0 B of 8.00 MiB"
        );
        assert_eq!(
            describe("w", (1 << 20, None), 1 << 20, second),
            "w: 1.00 MiB"
        );
    }
}
