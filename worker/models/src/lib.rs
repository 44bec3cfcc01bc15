//! Models: from checkpoint files to logits.
//!
//! [`ModelFiles`] says where files come from, [`ModelConfig`] what they
//! describe, and [`load`] makes a [`CausalLm`] of them, whose forward pass is
//! written over [`tensor::Device`]. One module per family (`llama`), over the
//! parts that families share (`parts`). Knows nothing of requests, scheduling
//! or sampling.

mod causal_lm;
mod checkpoint;
mod config;
mod demo;
mod error;
mod files;
mod fingerprint;
mod llama;
mod mmap;
mod parts;

pub use causal_lm::{CausalLm, LoadOptions, load};
pub use config::{Architecture, ModelConfig, Rope, RopeScaling};
pub use demo::demo;
pub use error::LoadError;
pub use files::{ModelFiles, TOKENIZER_FILES};
pub use tensor::{Batch, BatchSequence, DeviceError, KvShape};
