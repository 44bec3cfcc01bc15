//! Axes: which values are shown, where, and with what ticks.

use crate::report::numbers::decimal;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    Linear,
    Log,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    scale: Scale,
    from: f64,
    to: f64,
    ticks: Vec<f64>,
    decimals: usize,
}

/// At most about so many on an upright axis.
const TICKS: f64 = 6.0;

/// As wide as the page.
const WIDE_TICKS: f64 = 15.0;

/// Values that differ by more need a logarithmic axis to be seen together.
const LINEAR_RATIO: f64 = 30.0;

/// Smallest value of a logarithmic axis: a nanosecond where the unit is
/// milliseconds.
const LOG_FLOOR: f64 = 1e-6;

impl Axis {
    /// From 0 to a round number not below `highest`.
    pub fn from_zero(highest: f64) -> Axis {
        let step = step(highest, TICKS);
        Axis::linear(0.0, (highest / step).ceil().max(1.0) * step, step)
    }

    /// Ends at the very values, for times.
    pub fn between(from: f64, to: f64) -> Axis {
        Axis::with_ticks(from, to, 1.5 * TICKS)
    }

    pub fn wide(from: f64, to: f64) -> Axis {
        Axis::with_ticks(from, to, WIDE_TICKS)
    }

    /// Logarithmic, around the values.
    pub fn log(lowest: f64, highest: f64) -> Axis {
        let from = floor_125(lowest.max(LOG_FLOOR));
        let to = ceil_125(highest.max(from * 2.0));
        let decades = (to / from).log10();
        let factors: &[f64] = match decades {
            it if it <= 2.0 => &[1.0, 2.0, 5.0],
            it if it <= 4.5 => &[1.0, 3.0],
            _ => &[1.0],
        };
        let (first, last) = (from.log10().floor() as i32, to.log10().ceil() as i32);
        let tick = |power| factors.iter().map(move |it| it * 10_f64.powi(power));
        let inside = |it: &f64| *it >= from * 0.999 && *it <= to * 1.001;
        Axis {
            scale: Scale::Log,
            from,
            to,
            ticks: (first..=last).flat_map(tick).filter(inside).collect(),
            decimals: 0,
        }
    }

    /// From 0, or logarithmic where the lowest value would be lost by that.
    pub fn spanning(lowest: f64, highest: f64) -> Axis {
        if lowest > 0.0 && highest > LINEAR_RATIO * lowest {
            Axis::log(lowest, highest)
        } else {
            Axis::from_zero(highest)
        }
    }

    pub fn is_log(&self) -> bool {
        self.scale == Scale::Log
    }

    /// 0 at the start of the axis, 1 at its end; a value outside is at the end
    /// that is nearer.
    pub fn place(&self, value: f64) -> f64 {
        let place = match self.scale {
            Scale::Linear => (value - self.from) / (self.to - self.from),
            Scale::Log => (value.max(LOG_FLOOR) / self.from).ln() / (self.to / self.from).ln(),
        };
        place.clamp(0.0, 1.0)
    }

    /// Place and text of each tick.
    pub fn ticks(&self) -> impl Iterator<Item = (f64, String)> + '_ {
        self.ticks
            .iter()
            .map(|it| (self.place(*it), self.label(*it)))
    }

    fn with_ticks(from: f64, to: f64, ticks: f64) -> Axis {
        let to = if to > from { to } else { from + 1.0 };
        Axis::linear(from, to, step(to - from, ticks))
    }

    fn linear(from: f64, to: f64, step: f64) -> Axis {
        let (first, last) = ((from / step - 1e-9).ceil(), (to / step + 1e-9).floor());
        let ticks = (first as i64..=last as i64).map(|it| it as f64 * step);
        Axis {
            scale: Scale::Linear,
            from,
            to,
            ticks: ticks.collect(),
            decimals: (-step.log10().floor()).max(0.0) as usize,
        }
    }

    fn label(&self, value: f64) -> String {
        match self.scale {
            Scale::Linear => decimal(value, self.decimals),
            Scale::Log => decimal(value, (-value.log10() - 1e-9).ceil().max(0.0) as usize),
        }
    }
}

/// 1, 2 or 5 times a power of ten, so that a span has at most `ticks`.
fn step(span: f64, ticks: f64) -> f64 {
    if span.is_finite() && span > 0.0 {
        ceil_125(span / ticks)
    } else {
        1.0
    }
}

fn ceil_125(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    let fits = |it: &&f64| **it * power >= value * (1.0 - 1e-9);
    factors.iter().find(fits).unwrap_or(&10.0) * power
}

fn floor_125(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let factors = [5.0, 2.0, 1.0];
    let fits = |it: &&f64| **it * power <= value * (1.0 + 1e-9);
    factors.iter().find(fits).unwrap_or(&1.0) * power
}
