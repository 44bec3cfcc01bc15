//! Horizontal bars, one a line.

use super::axis::Axis;
use super::svg::Svg;

#[derive(Clone, Debug)]
pub struct Bar {
    pub name: String,
    pub value: f64,
    /// Behind the bar.
    pub text: String,
    /// Of the palette.
    pub color: usize,
}

const WIDTH: f64 = 580.0;
const ROW: f64 = 22.0;
const RIGHT: f64 = 460.0;
const CHARACTER: f64 = 6.6;
const LONGEST_NAME: usize = 28;

pub fn bars(label: &str, bars: &[Bar]) -> String {
    let longest = bars.iter().map(|it| it.name.chars().count()).max();
    let longest = longest.unwrap_or(0).min(LONGEST_NAME);
    let left = 20.0 + longest as f64 * CHARACTER;
    let highest = bars.iter().map(|it| it.value).fold(0.0, f64::max);
    let axis = Axis::between(0.0, highest);
    let height = ROW * bars.len() as f64 + 8.0;
    let mut svg = Svg::new(WIDTH, height);
    for (i, bar) in bars.iter().enumerate() {
        let y = 4.0 + ROW * i as f64;
        let width = ((RIGHT - left) * axis.place(bar.value)).max(1.0);
        let hover = format!("{}: {}", bar.name, bar.text);
        svg.text((left - 8.0, y + 14.0), "end", &shortened(&bar.name));
        svg.rect(
            (left, y),
            (width, ROW - 6.0),
            &format!("f{}", bar.color),
            &hover,
        );
        svg.text((left + width + 6.0, y + 13.0), "start", &bar.text);
    }
    svg.line((left, 0.0), (left, height), "axis");
    svg.finish(label)
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= LONGEST_NAME {
        return name.to_owned();
    }
    let kept: String = name.chars().take(LONGEST_NAME - 1).collect();
    format!("{kept}…")
}
