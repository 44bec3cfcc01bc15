//! Products, divided among threads together.
//!
//! Products that do not need each other's results are computed at once: threads
//! wait for each other once for all of them, and activations that several
//! matrices meet are brought to their form once.

use std::sync::{Mutex, PoisonError};

#[cfg(target_arch = "x86_64")]
use half::bf16;

use super::activations::Quantized;
use super::floats::Floats;
use super::{Activations, Matrix, Weights};
use crate::cpu::compute::On;
use crate::cpu::kernels::blocks::ROWS;
use crate::cpu::kernels::{ColumnsMut, FloatProduct, blocks};
use crate::error::DeviceError;

/// Multiplications below which waking other threads costs more than it saves.
const PARALLEL_WORK: usize = 1 << 17;
/// Parts of products per thread, to even out how fast threads are.
const PARTS_PER_THREAD: usize = 8;

/// `out = x w^T + bias`, `[tokens, rows]`.
pub(in crate::cpu) struct Product<'a> {
    pub matrix: &'a Matrix,
    pub activations: Activations<'a>,
    pub out: &'a mut [f32],
}

/// Activations in the form that weights meet them in.
enum Input {
    Floats(Floats),
    Blocks(Quantized),
    #[cfg(target_arch = "x86_64")]
    Tiles(Vec<bf16>),
}

/// Computes all of them.
pub(in crate::cpu) fn products(
    products: &mut [Product<'_>],
    on: On<'_>,
) -> Result<(), DeviceError> {
    for product in &*products {
        product.check()?;
    }
    let (inputs, input_of) = inputs(products, on);
    let work: usize = products.iter().map(Product::work).sum();
    let rows: usize = products.iter().map(|product| product.matrix.rows).sum();
    let pool = on.pool.filter(|_| work >= PARALLEL_WORK);
    let parts = pool.map_or(1, |pool| pool.threads() * PARTS_PER_THREAD);
    // Whole cache lines of a row, and whole groups of packed rows.
    let width = rows.div_ceil(parts).next_multiple_of(ROWS).max(ROWS);
    // A lock each, which nobody else takes: parts are numbers, not slices.
    let mut tasks = Vec::with_capacity(parts + products.len());
    for (product, &input) in products.iter_mut().zip(&input_of) {
        let (matrix, Activations { tokens, bias, .. }) = (product.matrix, product.activations);
        let out = ColumnsMut::whole(&mut product.out[..tokens * matrix.rows], matrix.rows);
        let parts = out.parts(width);
        tasks.extend(parts.map(|part| Mutex::new((matrix, &inputs[input], bias, part))));
    }
    let on = On { pool, ..on };
    on.run(tasks.len(), &|task| {
        let mut task = tasks[task].lock().unwrap_or_else(PoisonError::into_inner);
        let (matrix, input, bias, part) = &mut *task;
        matrix.columns(input, *bias, part, on);
    });
    Ok(())
}

/// The forms that are needed, and which of them each product reads.
fn inputs(products: &[Product<'_>], on: On<'_>) -> (Vec<Input>, Vec<usize>) {
    let mut inputs: Vec<Input> = Vec::new();
    // The first product that reads each.
    let mut firsts: Vec<&Product<'_>> = Vec::new();
    let mut input_of = Vec::with_capacity(products.len());
    for product in products {
        let serves = |(first, input): (&&Product<'_>, &Input)| {
            first.reads_as(product) && product.matrix.takes(input, on)
        };
        let found = firsts.iter().zip(&inputs).position(serves);
        input_of.push(found.unwrap_or_else(|| {
            firsts.push(product);
            inputs.push(product.matrix.input(product.activations, on));
            inputs.len() - 1
        }));
    }
    (inputs, input_of)
}

impl Product<'_> {
    fn check(&self) -> Result<(), DeviceError> {
        let Activations { x, tokens, bias } = self.activations;
        let (rows, cols) = (self.matrix.rows, self.matrix.cols);
        DeviceError::at_least("linear input", x.len(), tokens * cols)?;
        DeviceError::at_least("linear output", self.out.len(), tokens * rows)?;
        DeviceError::at_least("linear bias", bias.map_or(rows, <[f32]>::len), rows)
    }

    /// Whether both read the same numbers.
    fn reads_as(&self, other: &Product<'_>) -> bool {
        let (ours, theirs) = (self.activations, other.activations);
        std::ptr::eq(ours.x, theirs.x)
            && ours.tokens == theirs.tokens
            && self.matrix.cols == other.matrix.cols
    }

    /// Multiplications.
    fn work(&self) -> usize {
        self.activations.tokens * self.matrix.rows * self.matrix.cols
    }
}

impl Matrix {
    /// Whether `input`, of as many tokens as the product's, is what its weights
    /// meet.
    fn takes(&self, input: &Input, on: On<'_>) -> bool {
        match (&self.weights, input) {
            (Weights::Stored(_, operands), Input::Floats(x)) => {
                x.form() == on.kernels.float_form(*operands)
            }
            (Weights::Packed(packed), Input::Blocks(x)) => {
                x.form() == blocks::form(on.kernels.isa(), packed.layout(), x.tokens())
            }
            #[cfg(target_arch = "x86_64")]
            (Weights::Tiled(_), Input::Tiles(_)) => true,
            _ => false,
        }
    }

    /// What its weights meet.
    fn input(&self, activations: Activations<'_>, on: On<'_>) -> Input {
        let tokens = activations.tokens;
        let x = &activations.x[..tokens * self.cols];
        match &self.weights {
            Weights::Stored(_, operands) => {
                let form = on.kernels.float_form(*operands);
                Input::Floats(Floats::new(x, self.cols, form, on))
            }
            Weights::Packed(packed) => {
                let form = blocks::form(on.kernels.isa(), packed.layout(), tokens);
                Input::Blocks(Quantized::new(x, self.cols, form, on))
            }
            #[cfg(target_arch = "x86_64")]
            Weights::Tiled(tiled) => Input::Tiles(tiled.activations(x, self.cols)),
        }
    }

    /// Computes some columns of its product with what it takes.
    fn columns(&self, input: &Input, bias: Option<&[f32]>, part: &mut ColumnsMut<'_>, on: On<'_>) {
        let rows = part.first()..part.first() + part.width();
        let bias = bias.map(|bias| &bias[rows.clone()]);
        match (&self.weights, input) {
            (Weights::Stored(stored, operands), Input::Floats(x)) => {
                let op = FloatProduct {
                    x,
                    w: stored.row_bytes(part.first(), part.width()),
                    operands: *operands,
                    row_scales: stored.row_scales().map(|scales| &scales[rows]),
                    bias,
                };
                on.kernels.floats(&op, part);
            }
            (Weights::Packed(packed), Input::Blocks(x)) => {
                let op = packed.rows_from(part.first(), bias);
                on.kernels.blocks(&op, x, part);
            }
            #[cfg(target_arch = "x86_64")]
            (Weights::Tiled(tiled), Input::Tiles(x)) => {
                let op = tiled.rows_from(part.first(), bias);
                on.kernels.tiles(&op, x, part);
            }
            _ => unreachable!("a matrix is only given what it takes"),
        }
    }
}
