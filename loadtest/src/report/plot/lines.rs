//! Lines over an x axis.

use super::axis::Axis;
use super::svg::{Point, Svg};
use crate::report::numbers::decimal;

#[derive(Debug)]
pub struct LineChart<'a> {
    /// Says what is drawn, for who cannot see it.
    pub label: &'a str,
    pub x: Axis,
    pub y: Axis,
    /// Under the x axis, with its unit.
    pub x_title: &'a str,
    /// Over the y axis: its unit.
    pub y_title: &'a str,
    pub lines: Vec<Line>,
    pub shade: Option<Shade<'a>>,
    pub marks: Marks,
}

#[derive(Clone, Debug)]
pub struct Line {
    pub name: String,
    /// Of the palette.
    pub color: usize,
    /// 0: solid.
    pub dash: usize,
    /// x and y; without y the line is interrupted.
    pub points: Vec<(f64, Option<f64>)>,
}

/// A part of the x axis, from its start.
#[derive(Clone, Debug)]
pub struct Shade<'a> {
    pub to: f64,
    pub name: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// Only under the pointer.
    Hidden,
    Shown,
}

const WIDTH: f64 = 580.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 562.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 226.0;

impl LineChart<'_> {
    pub fn draw(&self) -> String {
        let mut svg = Svg::new(WIDTH, HEIGHT);
        self.draw_shade(&mut svg);
        self.draw_axes(&mut svg);
        self.draw_legend(&mut svg);
        for line in &self.lines {
            self.draw_line(line, &mut svg);
        }
        for line in &self.lines {
            self.draw_marks(line, &mut svg);
        }
        svg.finish(self.label)
    }

    fn place(&self, x: f64, y: f64) -> Point {
        (
            LEFT + (RIGHT - LEFT) * self.x.place(x),
            BOTTOM - (BOTTOM - TOP) * self.y.place(y),
        )
    }

    fn draw_shade(&self, svg: &mut Svg) {
        let Some(shade) = &self.shade else { return };
        let width = (RIGHT - LEFT) * self.x.place(shade.to);
        svg.rect((LEFT, TOP), (width, BOTTOM - TOP), "shade", shade.name);
    }

    fn draw_axes(&self, svg: &mut Svg) {
        for (place, label) in self.y.ticks() {
            let y = BOTTOM - (BOTTOM - TOP) * place;
            svg.line((LEFT, y), (RIGHT, y), "grid");
            svg.text((LEFT - 7.0, y + 4.0), "end", &label);
        }
        for (place, label) in self.x.ticks() {
            let x = LEFT + (RIGHT - LEFT) * place;
            svg.line((x, BOTTOM), (x, BOTTOM + 4.0), "axis");
            svg.text((x, BOTTOM + 18.0), "mid", &label);
        }
        svg.line((LEFT, BOTTOM), (RIGHT, BOTTOM), "axis");
        svg.text((LEFT - 7.0, 16.0), "end unit", self.y_title);
        if self.y.is_log() {
            svg.text((RIGHT, 16.0), "end small", "logarithmic");
        }
        let middle = (LEFT + RIGHT) / 2.0;
        svg.text((middle, HEIGHT - 7.0), "mid unit", self.x_title);
    }

    fn draw_legend(&self, svg: &mut Svg) {
        let mut x = LEFT + 6.0;
        for line in &self.lines {
            let class = format!("line s{} d{}", line.color, line.dash);
            svg.line((x, 12.0), (x + 22.0, 12.0), &class);
            svg.text((x + 27.0, 16.0), "start", &line.name);
            x += 46.0 + line.name.chars().count() as f64 * 6.7;
        }
    }

    fn draw_line(&self, line: &Line, svg: &mut Svg) {
        let mut path = String::new();
        let mut command = 'M';
        for (x, y) in &line.points {
            let Some(y) = y else {
                command = 'M';
                continue;
            };
            let (x, y) = self.place(*x, *y);
            path.push_str(&format!("{command}{x:.1} {y:.1}"));
            command = 'L';
        }
        if !path.is_empty() {
            svg.path(&path, &format!("line s{} d{}", line.color, line.dash));
        }
    }

    fn draw_marks(&self, line: &Line, svg: &mut Svg) {
        let color = line.color;
        let missing = |i: Option<usize>| {
            let point = i.and_then(|it| line.points.get(it));
            point.is_none_or(|it| it.1.is_none())
        };
        for (i, (x, y)) in line.points.iter().enumerate() {
            let Some(y) = y else { continue };
            // A point without neighbours has no line to be seen by.
            let alone = missing(i.checked_sub(1)) && missing(Some(i + 1));
            let (class, radius) = if self.marks == Marks::Shown || alone {
                (format!("f{color}"), 3.0)
            } else {
                ("hit".to_owned(), 5.0)
            };
            let (x_text, y_text) = (decimal(*x, 2), decimal(*y, 2));
            let (x_title, y_title) = (self.x_title, self.y_title);
            let hover = format!("{}: {y_text} {y_title} at {x_text} {x_title}", line.name);
            svg.circle(self.place(*x, *y), radius, &class, &hover);
        }
    }
}
