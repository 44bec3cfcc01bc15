//! Rotary tables on a device, as long as the sequences so far.

use tensor::{Device, DeviceError, rope_table};

use crate::config::Rope;

/// Positions of the first tables: a model that is made for a million positions
/// need not wait for them.
const FIRST_POSITIONS: usize = 1024;

/// One table for each of a model's rotary embeddings.
pub(crate) struct RopeTables<D: Device> {
    ropes: Vec<Rope>,
    tables: Vec<D::Buffer>,
    positions: usize,
    /// No sequence gets beyond.
    limit: usize,
}

impl<D: Device> RopeTables<D> {
    pub(crate) fn new(device: &D, ropes: Vec<Rope>, limit: usize) -> Result<Self, DeviceError> {
        let mut tables = RopeTables {
            ropes,
            tables: Vec::new(),
            positions: 0,
            limit,
        };
        tables.reserve(device, FIRST_POSITIONS)?;
        Ok(tables)
    }

    /// Grows, by doubling, to so many positions; at the limit it stays, and
    /// positions beyond are out of range.
    pub(crate) fn reserve(&mut self, device: &D, positions: usize) -> Result<(), DeviceError> {
        if positions <= self.positions || self.positions == self.limit {
            return Ok(());
        }
        let positions = positions.max(2 * self.positions).min(self.limit);
        let table = |rope: &Rope| {
            let table = rope_table(&rope.inverse_frequencies(), rope.magnitude(), positions);
            device.upload(&table)
        };
        self.tables = self.ropes.iter().map(table).collect::<Result<_, _>>()?;
        self.positions = positions;
        Ok(())
    }

    pub(crate) fn get(&self, rope: Option<usize>) -> Option<&D::Buffer> {
        self.tables.get(rope?)
    }
}
