//! Fused operations on a device.
//!
//! [`Device`] is all that a model's forward pass asks of hardware: handles to
//! memory, never tensors, and every shape said explicitly. [`CpuDevice`] is the
//! device that is always there. A result of any row depends on that row's own
//! sequence only, to the bit: not on what else is in the batch, how a prompt
//! was cut into chunks, where its blocks lie, or how many threads compute. So a
//! sequence that is split, preempted or moved goes on with the same tokens.

mod batch;
mod cpu;
mod device;
mod encoding;
mod error;
mod kv_shape;
mod ops;
mod rope;

pub use batch::{Batch, BatchSequence};
pub use cpu::{
    Activations, Bf16Activations, Clock, Compute, CpuDevice, CpuOptions, Isa, IsaError, Limits,
    Matrix, Meter, Operation, Timed, Usage,
};
pub use device::{Device, Product};
pub use encoding::{Encoding, StoredMatrix};
pub use error::DeviceError;
pub use kv_shape::{KvDtype, KvShape, KvValues};
pub use ops::{
    Activation, Attention, Columns, ExpertGroups, ExpertInput, Part, RmsNorm, RotaryPairs,
    Rotation, RouterScore, Routing,
};
pub use rope::rope_table;
