//! The products in tiles on tiles in software, so that all but the seven
//! instructions is tested on every machine.

use std::cell::RefCell;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::cpu::compute::{Compute, CpuOptions};
use crate::cpu::matrix::Tiled;
use crate::cpu::testing::numbers;
use crate::encoding::{Encoding, StoredMatrix};

/// Tiles as Intel's manual describes them.
pub(in crate::cpu) struct Software;

struct State {
    shape: Option<Shape>,
    tiles: [[[u8; 64]; 16]; 8],
}

thread_local! {
    static STATE: RefCell<State> = const {
        RefCell::new(State { shape: None, tiles: [[[0; 64]; 16]; 8] })
    };
}

/// Rows and their bytes.
fn size(shape: Option<Shape>, tile: usize) -> (usize, usize) {
    let bytes = usize::from(shape.expect("tiles are configured first").bytes);
    match tile {
        4 | 5 => (16, bytes),
        6 | 7 => (bytes / 4, 64),
        _ => (16, 64),
    }
}

fn with_state<T>(f: impl FnOnce(&mut State) -> T) -> T {
    STATE.with(|state| f(&mut state.borrow_mut()))
}

fn four(tile: &[[u8; 64]; 16], row: usize, column: usize) -> [u8; 4] {
    tile[row][4 * column..][..4].try_into().unwrap()
}

impl Tiles for Software {
    unsafe fn configure(shape: Shape) {
        with_state(|state| {
            state.shape = Some(shape);
            state.tiles = [[[0; 64]; 16]; 8];
        });
    }

    unsafe fn release() {
        with_state(|state| state.shape = None);
    }

    unsafe fn zero<const T: usize>() {
        with_state(|state| state.tiles[T] = [[0; 64]; 16]);
    }

    unsafe fn load<const T: usize>(p: *const u8, stride: usize) {
        with_state(|state| {
            let (rows, bytes) = size(state.shape, T);
            state.tiles[T] = [[0; 64]; 16];
            for row in 0..rows {
                let from = unsafe { std::slice::from_raw_parts(p.add(row * stride), bytes) };
                state.tiles[T][row][..bytes].copy_from_slice(from);
            }
        });
    }

    unsafe fn store<const T: usize>(p: *mut u8, stride: usize) {
        with_state(|state| {
            let (rows, bytes) = size(state.shape, T);
            for row in 0..rows {
                let to = unsafe { std::slice::from_raw_parts_mut(p.add(row * stride), bytes) };
                to.copy_from_slice(&state.tiles[T][row][..bytes]);
            }
        });
    }

    unsafe fn dot_bytes<const C: usize, const A: usize, const B: usize>() {
        with_state(|state| {
            let (lines, _) = size(state.shape, B);
            for m in 0..16 {
                for n in 0..16 {
                    let mut sum = i32::from_le_bytes(four(&state.tiles[C], m, n));
                    for k in 0..lines {
                        let (a, b) = (four(&state.tiles[A], m, k), four(&state.tiles[B], k, n));
                        for (a, b) in a.into_iter().zip(b) {
                            sum += i32::from(a as i8) * i32::from(b);
                        }
                    }
                    state.tiles[C][m][4 * n..][..4].copy_from_slice(&sum.to_le_bytes());
                }
            }
        });
    }

    unsafe fn dot_bf16<const C: usize, const A: usize, const B: usize>() {
        let pair =
            |[a, b, c, d]: [u8; 4]| [[a, b], [c, d]].map(|x| bf16::from_le_bytes(x).to_f32());
        with_state(|state| {
            let (lines, _) = size(state.shape, B);
            for m in 0..16 {
                for n in 0..16 {
                    let mut sums = [0.0f32; 2];
                    for k in 0..lines {
                        let a = pair(four(&state.tiles[A], m, k));
                        let b = pair(four(&state.tiles[B], k, n));
                        for half in 0..2 {
                            sums[half] = a[half].mul_add(b[half], sums[half]);
                        }
                    }
                    let before = f32::from_le_bytes(four(&state.tiles[C], m, n));
                    let sum = before + (sums[0] + sums[1]);
                    state.tiles[C][m][4 * n..][..4].copy_from_slice(&sum.to_le_bytes());
                }
            }
        });
    }
}

struct Case {
    rows: usize,
    cols: usize,
    x: Vec<f32>,
    bias: Vec<f32>,
    stored: StoredMatrix,
}

fn case(rows: usize, cols: usize, tokens: usize, seed: u64) -> Case {
    let data: Vec<u8> = numbers(seed, rows * cols)
        .iter()
        .flat_map(|&x| bf16::from_f32(x).to_le_bytes())
        .collect();
    let stored = StoredMatrix::new(Encoding::Bf16, (rows, cols), Bytes::from(data)).unwrap();
    Case {
        rows,
        cols,
        x: numbers(seed + 1, tokens * cols),
        bias: numbers(seed + 2, rows),
        stored,
    }
}

fn run(case: &Case, x: &[f32]) -> Vec<f32> {
    let on = Compute::new(&CpuOptions::new(1)).unwrap();
    let tiled = Tiled::new(&case.stored, &on).unwrap();
    let x = tiled.activations(x, case.cols);
    let mut out = vec![f32::NAN; x.len() / case.cols.next_multiple_of(32) * case.rows];
    let op = tiled.rows_from(0, Some(&case.bias));
    let mut columns = ColumnsMut::whole(&mut out, case.rows);
    op.check(&x, &columns);
    unsafe { floats::product::<Software>(&op, &x, &mut columns) };
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn tiles_of_bf16_give_the_exact_product_alike_in_any_batch(
        rows in 1usize..70,
        cols in 1usize..100,
        tokens in 1usize..50,
        seed in 0u64..100,
    ) {
        let case = case(rows, cols, tokens, seed);
        let found = run(&case, &case.x);
        let weights = case.stored.to_f32();
        for token in 0..tokens {
            let x = &case.x[token * cols..][..cols];
            for row in 0..rows {
                let terms = x.iter().zip(&weights[row * cols..][..cols]);
                let exact: f64 = terms
                    .map(|(&x, &w)| f64::from(bf16::from_f32(x).to_f32()) * f64::from(w))
                    .sum();
                let error = f64::from(found[token * rows + row]) - exact - f64::from(case.bias[row]);
                prop_assert!(error.abs() < 1e-4, "{error}");
            }
        }
        let last = run(&case, &case.x[(tokens - 1) * cols..]);
        prop_assert_eq!(&last[..rows], &found[(tokens - 1) * rows..][..rows]);
    }
}
