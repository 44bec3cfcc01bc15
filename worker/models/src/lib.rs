//! Models: from checkpoint files to logits.
//!
//! [`ModelFiles`] says where files come from, [`ModelConfig`] what they
//! describe, and [`load`] makes a [`CausalLm`] of them, whose forward pass is
//! written over [`tensor::Device`]: one decoder of shared parts (`parts`), which
//! each family describes from its config (`families`). Knows nothing of
//! requests, scheduling or sampling.

mod causal_lm;
mod checkpoint;
mod config;
mod decoder;
mod demo;
mod error;
mod families;
mod files;
mod fingerprint;
mod gguf;
mod loaded;
mod mmap;
mod parts;
mod quantize;

pub use causal_lm::{CausalLm, LoadOptions, load, load_timed};
pub use config::{
    AttentionConfig, Dense, DenseLayout, ExpertLayout, Experts, FeedForward, GroupedHeads,
    LatentHeads, LayerConfig, ModelConfig, Multipliers, Norms, Rope, RopeScaling, StackFormat,
};
pub use demo::demo;
pub use error::LoadError;
pub use files::{ModelFiles, TOKENIZER_FILES};
pub use loaded::Loaded;
pub use quantize::Quantize;
pub use tensor::{
    Batch, BatchSequence, Bf16Activations, Clock, Compute, CpuOptions, DeviceError, Isa, KvDtype,
    KvShape, KvValues, Limits, Meter, Operation, Usage,
};
