//! A row-major matrix, written by columns from several threads.

use std::marker::PhantomData;

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

    /// Parts of `width` columns, the last perhaps narrower.
    pub(in crate::cpu) fn parts(self, width: usize) -> impl Iterator<Item = ColumnsMut<'a>> {
        let starts = (0..self.width).step_by(width);
        starts.map(move |start| ColumnsMut {
            first: self.first + start,
            width: width.min(self.width - start),
            ..self
        })
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
