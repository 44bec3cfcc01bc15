//! Kvasir's prefix index beside Dynamo's, on one trace, in one program.
//!
//! Both get the same lookups and the same events, made beforehand from a
//! Mooncake trace by simulated caches. `speed` measures time, `memory` bytes;
//! two programs, since counting allocations costs time.

pub mod schedule;
pub mod subject;

pub use schedule::{Schedule, Step, Workload};
pub use subject::{Dynamo, Kvasir, Subject};
