//! Requests as lines, their chunks as marks.

use super::axis::Axis;
use super::svg::Svg;
use crate::figures::{is_answered, kind};
use crate::record::Record;
use crate::report::numbers::decimal;

const WIDTH: f64 = 1180.0;
const ROW: f64 = 12.0;
const LEFT: f64 = 66.0;
const RIGHT: f64 = 1160.0;
const TOP: f64 = 34.0;

/// Marks nearer than this are one to the eye.
const APART: f64 = 0.8;

/// `records` in the order they were scheduled; at least one.
pub fn timeline(label: &str, records: &[&Record]) -> String {
    let starts = records.iter().map(|it| it.scheduled.as_secs_f64());
    let ends = records.iter().map(|it| it.ended.as_secs_f64());
    let axis = Axis::wide(starts.fold(f64::MAX, f64::min), ends.fold(0.0, f64::max));
    let bottom = TOP + ROW * records.len() as f64 + 4.0;
    let mut svg = Svg::new(WIDTH, bottom + 40.0);
    for (place, label) in axis.ticks() {
        let x = LEFT + (RIGHT - LEFT) * place;
        svg.line((x, TOP - 4.0), (x, bottom), "grid");
        svg.text((x, bottom + 16.0), "mid", &label);
    }
    svg.line((LEFT, bottom), (RIGHT, bottom), "axis");
    let middle = (LEFT + RIGHT) / 2.0;
    svg.text((middle, bottom + 34.0), "mid unit", "seconds since start");
    svg.text((LEFT - 7.0, 16.0), "end unit", "request");
    legend(&mut svg);
    for (i, record) in records.iter().enumerate() {
        let row = Row {
            record,
            axis: &axis,
            y: TOP + ROW * (i as f64 + 0.5),
        };
        row.draw(&mut svg);
    }
    svg.finish(label)
}

struct Row<'a> {
    record: &'a Record,
    axis: &'a Axis,
    y: f64,
}

impl Row<'_> {
    fn draw(&self, svg: &mut Svg) {
        let record = self.record;
        let y = self.y;
        let (start, end) = (self.x(record.scheduled), self.x(record.ended));
        let first = record.chunks.first().map_or(end, |it| self.x(it.at));
        let number = format!("{}", record.number);
        svg.text((LEFT - 7.0, y + 3.5), "end tiny", &number);
        svg.line((start, y), (first, y), "line waiting");
        if first < end {
            svg.line((first, y), (end, y), "line s5");
        }
        svg.path(&self.marks(), "line s0 thin");
        if !is_answered(&record.outcome) {
            let (a, b) = (y - 3.5, y + 3.5);
            let (l, r) = (end - 3.5, end + 3.5);
            svg.path(
                &format!("M{l:.1} {a:.1}L{r:.1} {b:.1}M{l:.1} {b:.1}L{r:.1} {a:.1}"),
                "line s1",
            );
        }
        let (at, size) = ((start, y - ROW / 2.0), ((end - start).max(2.0), ROW));
        svg.rect(at, size, "hit", &self.hover());
    }

    /// Upright strokes, at least [`APART`] pixels apart.
    fn marks(&self) -> String {
        let (top, height) = (self.y - 4.0, 8.0);
        let mut path = String::new();
        let mut before = f64::MIN;
        for chunk in &self.record.chunks {
            let x = self.x(chunk.at);
            if x - before >= APART {
                path.push_str(&format!("M{x:.1} {top:.1}v{height}"));
                before = x;
            }
        }
        path
    }

    fn hover(&self) -> String {
        let record = self.record;
        let since = |at: std::time::Duration| {
            decimal(at.saturating_sub(record.scheduled).as_secs_f64() * 1e3, 1)
        };
        let first = record.chunks.first().map_or_else(
            || "no token".to_owned(),
            |it| format!("first token after {} ms", since(it.at)),
        );
        format!(
            "request {}: {first}, {} chunks, {} after {} ms",
            record.number,
            record.chunks.len(),
            kind(&record.outcome),
            since(record.ended)
        )
    }

    fn x(&self, at: std::time::Duration) -> f64 {
        LEFT + (RIGHT - LEFT) * self.axis.place(at.as_secs_f64())
    }
}

fn legend(svg: &mut Svg) {
    let y = 12.0;
    let entries = [
        ("line waiting", "waiting for the first token"),
        ("line s0 thin", "chunks"),
        ("line s1", "failed"),
    ];
    let mut x = LEFT + 6.0;
    for (class, name) in entries {
        match name {
            "chunks" => {
                svg.line((x, y), (x + 22.0, y), "line s5");
                let marks = format!(
                    "M{:.1} 8v8M{:.1} 8v8M{:.1} 8v8",
                    x + 4.0,
                    x + 11.0,
                    x + 18.0
                );
                svg.path(&marks, class);
            }
            "failed" => {
                let cross = format!("M{:.1} 8.5l7 7m0 -7l-7 7", x + 7.0);
                svg.path(&cross, class);
            }
            _ => svg.line((x, y), (x + 22.0, y), class),
        }
        svg.text((x + 28.0, 16.0), "start", name);
        x += 48.0 + name.len() as f64 * 6.7;
    }
}
