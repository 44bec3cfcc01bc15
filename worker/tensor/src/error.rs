//! What can go wrong on a device.

use crate::cpu::IsaError;

/// An operation that the device could not do.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DeviceError {
    /// Two shapes that must agree don't.
    #[error("{what} has {found} elements where {expected} are needed")]
    Shape {
        what: &'static str,
        found: usize,
        expected: usize,
    },
    /// A token, position, block or row that does not exist.
    #[error("{what} {index} is out of range, there are {limit}")]
    OutOfRange {
        what: &'static str,
        index: usize,
        limit: usize,
    },
    #[error("no memory for {what}, which needs {elements} numbers; lower the number of KV blocks")]
    OutOfMemory { what: &'static str, elements: usize },
    /// A size that is zero, or whose product with others overflows.
    #[error("{what} cannot be laid out: a size is zero or too large")]
    Size { what: &'static str },
    #[error("cannot start {threads} compute threads: {reason}")]
    Threads { threads: usize, reason: String },
    #[error(transparent)]
    Isa(#[from] IsaError),
}

impl DeviceError {
    /// `Ok` if `found` holds at least `expected` elements.
    pub(crate) fn at_least(
        what: &'static str,
        found: usize,
        expected: usize,
    ) -> Result<(), DeviceError> {
        if found < expected {
            return Err(DeviceError::Shape {
                what,
                found,
                expected,
            });
        }
        Ok(())
    }

    /// `Ok` if `index < limit`.
    pub(crate) fn in_range(
        what: &'static str,
        index: usize,
        limit: usize,
    ) -> Result<(), DeviceError> {
        if index >= limit {
            return Err(DeviceError::OutOfRange { what, index, limit });
        }
        Ok(())
    }
}
