//! Operations on rows, one by one.

use super::inputs::CpuInputs;
use super::kernels::Kernels;
use super::math;
use crate::error::DeviceError;
use crate::ops::{Activation, Columns, RmsNorm, RotaryPairs, Rotation};

/// `Ok` if `len` numbers hold `rows` rows of these columns.
pub(super) fn check(
    what: &'static str,
    len: usize,
    rows: usize,
    columns: Columns,
) -> Result<(), DeviceError> {
    DeviceError::at_least(what, columns.stride, columns.first + columns.width)?;
    DeviceError::at_least(what, len, rows * columns.stride)
}

/// What each number of a row is multiplied with by its norm.
fn rms_scale(kernels: Kernels, row: &[f32], norm: RmsNorm) -> f32 {
    let mean = kernels.dot(row, row) / norm.cols as f32;
    1.0 / (mean + norm.eps).sqrt()
}

/// `out = x / sqrt(mean(x^2) + eps) * weight`, row by row.
pub(super) fn rms_norm(
    kernels: Kernels,
    (x, weight): (&[f32], &[f32]),
    norm: RmsNorm,
    out: &mut [f32],
) {
    for (x, out) in x.chunks(norm.cols).zip(out.chunks_mut(norm.cols)) {
        let scale = rms_scale(kernels, x, norm);
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
    }
}

/// [`rms_norm`] whose result takes the place of `x`.
pub(super) fn rms_norm_in_place(kernels: Kernels, weight: &[f32], norm: RmsNorm, x: &mut [f32]) {
    for x in x.chunks_mut(norm.cols) {
        let scale = rms_scale(kernels, x, norm);
        for (x, weight) in x.iter_mut().zip(weight) {
            *x = *x * scale * weight;
        }
    }
}

pub(super) fn copy(
    (x, from): (&[f32], Columns),
    rows: usize,
    (out, to): (&mut [f32], Columns),
) -> Result<(), DeviceError> {
    check("copied columns", x.len(), rows, from)?;
    check("columns to copy to", out.len(), rows, to)?;
    if from.width != to.width {
        return Err(DeviceError::Shape {
            what: "columns to copy to",
            found: to.width,
            expected: from.width,
        });
    }
    let rows_of_x = x.chunks(from.stride.max(1));
    for (x, out) in rows_of_x.zip(out.chunks_mut(to.stride.max(1))).take(rows) {
        out[to.first..to.first + to.width].copy_from_slice(&x[from.first..from.first + from.width]);
    }
    Ok(())
}

pub(super) fn rope(
    table: &[f32],
    inputs: &CpuInputs,
    rotation: Rotation,
    x: &mut [f32],
) -> Result<(), DeviceError> {
    let Rotation {
        heads,
        columns,
        pairs,
    } = rotation;
    check("rope", x.len(), inputs.rows.len() * heads, columns)?;
    let width = columns.width;
    for (row, x) in inputs.rows.iter().zip(x.chunks_mut(heads * columns.stride)) {
        DeviceError::in_range("position", row.position, table.len() / width)?;
        let angles = &table[row.position * width..(row.position + 1) * width];
        let (cos, sin) = angles.split_at(width / 2);
        for head in x.chunks_mut(columns.stride) {
            let head = &mut head[columns.first..columns.first + width];
            match pairs {
                RotaryPairs::Halves => {
                    let (first, second) = head.split_at_mut(width / 2);
                    for i in 0..first.len() {
                        let (a, b) = (first[i], second[i]);
                        first[i] = a * cos[i] - b * sin[i];
                        second[i] = b * cos[i] + a * sin[i];
                    }
                }
                RotaryPairs::Adjacent => {
                    for ((pair, cos), sin) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
                        let (a, b) = (pair[0], pair[1]);
                        pair[0] = a * cos - b * sin;
                        pair[1] = b * cos + a * sin;
                    }
                }
            }
        }
    }
    Ok(())
}

/// `gate = activation(gate, up)`. Inlined into a function of each instruction
/// set: the same operations on wider vectors.
#[inline(always)]
pub(super) fn gated(activation: Activation, gate: &mut [f32], up: &[f32]) {
    let pairs = gate.iter_mut().zip(up);
    match activation {
        Activation::Silu => pairs.for_each(|(gate, up)| *gate = math::silu(*gate) * up),
        Activation::GeluTanh => pairs.for_each(|(gate, up)| *gate = math::gelu_tanh(*gate) * up),
        Activation::ClampedSwiglu { alpha, limit } => pairs.for_each(|(gate, up)| {
            let (g, u) = (gate.min(limit), up.clamp(-limit, limit));
            *gate = g * math::sigmoid(alpha * g) * (u + 1.0);
        }),
    }
}
