//! Small plots as inline SVG: no script, no font or picture from elsewhere.
//! Colours are those of Okabe and Ito, which colour-blind people tell apart;
//! lines differ in their dashes too, for print. Classes are those of the page's
//! style.

mod axis;
mod bars;
mod lines;
mod svg;
#[cfg(test)]
mod tests;
mod timeline;

pub(super) use axis::Axis;
pub(super) use bars::{Bar, bars};
pub(super) use lines::{Line, LineChart, Marks, Shade};
pub(super) use svg::escaped;
pub(super) use timeline::timeline;
