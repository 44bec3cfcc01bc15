//! A row-major matrix, written by columns from several threads.

use std::marker::PhantomData;

use crate::cpu::pool::Pool;

/// Some neighbouring columns of a matrix, alone held by who has this.
pub(in crate::cpu) struct ColumnsMut<'a> {
    /// The matrix' first number.
    base: *mut f32,
    rows: usize,
    stride: usize,
    first: usize,
    width: usize,
    matrix: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for a `&mut [f32]` to its columns.
unsafe impl Send for ColumnsMut<'_> {}

impl<'a> ColumnsMut<'a> {
    /// All columns of `matrix`, whose rows are `stride` long; numbers beyond the
    /// last whole row are left out.
    pub(in crate::cpu) fn whole(matrix: &'a mut [f32], stride: usize) -> ColumnsMut<'a> {
        ColumnsMut {
            base: matrix.as_mut_ptr(),
            rows: matrix.len().checked_div(stride).unwrap_or(0),
            stride,
            first: 0,
            width: stride,
            matrix: PhantomData,
        }
    }

    /// Calls `compute` with parts of `width` columns, the last perhaps narrower,
    /// on the pool's threads.
    pub(in crate::cpu) fn split(
        self,
        pool: &Pool,
        width: usize,
        compute: impl Fn(ColumnsMut<'_>) + Sync,
    ) {
        let whole = Shared(self);
        let parts = whole.columns().div_ceil(width);
        pool.run(parts, &|part| {
            // SAFETY: the pool computes each part once.
            compute(unsafe { whole.part(part, width) });
        });
    }

    pub(in crate::cpu) fn first(&self) -> usize {
        self.first
    }

    pub(in crate::cpu) fn width(&self) -> usize {
        self.width
    }

    pub(in crate::cpu) fn rows(&self) -> usize {
        self.rows
    }

    /// Where a row's number of a column lies; those of the columns after it
    /// follow.
    ///
    /// # Safety
    /// `row < rows` and `column < width`.
    #[inline(always)]
    pub(super) unsafe fn at(&mut self, row: usize, column: usize) -> *mut f32 {
        debug_assert!(row < self.rows && column < self.width);
        // SAFETY: inside the matrix.
        unsafe { self.base.add(row * self.stride + self.first + column) }
    }

    /// # Safety
    /// `row < rows` and `column < width`.
    #[inline(always)]
    pub(super) unsafe fn write(&mut self, row: usize, column: usize, value: f32) {
        // SAFETY: inside the matrix, and in a column that is held here alone.
        unsafe { *self.at(row, column) = value }
    }
}

struct Shared<'a>(ColumnsMut<'a>);

// SAFETY: from a shared reference only parts are made, each once.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    fn columns(&self) -> usize {
        self.0.width
    }

    /// # Safety
    /// Each part is made once, all with the same width.
    unsafe fn part(&self, part: usize, width: usize) -> ColumnsMut<'a> {
        let first = part * width;
        ColumnsMut {
            base: self.0.base,
            first: self.0.first + first,
            width: width.min(self.0.width - first),
            ..self.0
        }
    }
}
