//! Whole models: against transformers' numbers, against themselves under every
//! way of cutting and moving the work, and checkpoints that must be refused.

// A test's helpers may panic as the test itself may.
#![allow(clippy::unwrap_used)]

mod demo;
mod families;
mod harness;
mod parity;
mod published;
mod refusals;
mod stories;
