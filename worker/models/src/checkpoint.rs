//! Weights in safetensors files: one file, or shards and their index.
//!
//! A weight is asked for by name and shape; here is the one place that finds,
//! checks and hands out tensors, so that a shard plan can cut them here.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use bytes::Bytes;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};
use serde_json::Value;
use tensor::{DType, HostTensor};

use crate::error::LoadError;
use crate::files::ModelFiles;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Bytes of a safetensors file before its header: the header's length.
const LENGTH: usize = 8;

/// A checkpoint's files, mapped.
pub(crate) struct Checkpoint {
    shards: Vec<Shard>,
}

/// A weight that a model asks for: a matrix `[rows, cols]`, or a vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WeightSpec {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
}

impl WeightSpec {
    pub(crate) fn matrix(name: impl Into<String>, rows: usize, cols: usize) -> WeightSpec {
        WeightSpec {
            name: name.into(),
            shape: vec![rows, cols],
        }
    }

    pub(crate) fn vector(name: impl Into<String>, len: usize) -> WeightSpec {
        WeightSpec {
            name: name.into(),
            shape: vec![len],
        }
    }
}

impl WeightSpec {
    fn other_dtype(&self, found: Dtype, supported: &str) -> LoadError {
        LoadError::Unsupported {
            what: format!("dtype {found} of tensor {}", self.name),
            supported: supported.to_owned(),
        }
    }
}

/// One file of weights.
pub(crate) struct Shard {
    file: Bytes,
    /// Where tensors start.
    data: usize,
    metadata: Metadata,
}

impl Checkpoint {
    /// Maps the files and reads their headers.
    pub(crate) fn open(files: &ModelFiles) -> Result<Checkpoint, LoadError> {
        let names = match files.read_optional(INDEX)? {
            Some(index) => shard_names(&index)?,
            None => BTreeSet::from([SINGLE.to_owned()]),
        };
        let shards = names
            .iter()
            .map(|name| Shard::open(name, files.map(name)?))
            .collect::<Result<_, _>>()?;
        Ok(Checkpoint { shards })
    }

    pub(crate) fn shards(&self) -> &[Shard] {
        &self.shards
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// A weight; one of more than two dimensions is a matrix of the last.
    pub(crate) fn take(&self, spec: &WeightSpec) -> Result<HostTensor, LoadError> {
        let (info, data) = self.checked(spec)?;
        let dtype = match info.dtype {
            Dtype::F32 => DType::F32,
            Dtype::BF16 => DType::Bf16,
            Dtype::F16 => DType::F16,
            other => return Err(spec.other_dtype(other, "F32, BF16, F16")),
        };
        let (rows, cols) = match &spec.shape[..] {
            [outer @ .., cols] => (outer.iter().product(), *cols),
            [] => (1, 1),
        };
        Ok(HostTensor::new(dtype, rows, cols, data)?)
    }

    /// A tensor of bytes, whose meaning is the caller's.
    pub(crate) fn take_bytes(&self, spec: &WeightSpec) -> Result<Bytes, LoadError> {
        let (info, data) = self.checked(spec)?;
        match info.dtype {
            Dtype::U8 => Ok(data),
            other => Err(spec.other_dtype(other, "U8")),
        }
    }

    /// A tensor that has the shape that is asked for.
    fn checked(&self, spec: &WeightSpec) -> Result<(&TensorInfo, Bytes), LoadError> {
        let (shard, info) = self
            .find(&spec.name)
            .ok_or_else(|| LoadError::MissingTensor {
                name: spec.name.clone(),
            })?;
        if info.shape != spec.shape {
            return Err(LoadError::TensorShape {
                name: spec.name.clone(),
                found: info.shape.clone(),
                expected: spec.shape.clone(),
            });
        }
        Ok((info, shard.tensor(info.data_offsets)))
    }

    fn find(&self, name: &str) -> Option<(&Shard, &TensorInfo)> {
        let in_shard = |shard| Some((shard, Shard::info(shard, name)?));
        self.shards.iter().find_map(in_shard)
    }
}

impl Shard {
    fn open(name: &str, file: Bytes) -> Result<Shard, LoadError> {
        let (header, metadata) =
            SafeTensors::read_metadata(&file).map_err(|error| LoadError::Damaged {
                file: name.to_owned(),
                reason: error.to_string(),
            })?;
        Ok(Shard {
            data: LENGTH + header,
            file,
            metadata,
        })
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.metadata.info(name)
    }

    /// The header, which says every tensor's name, type, shape and place.
    pub(crate) fn header(&self) -> &[u8] {
        &self.file[..self.data]
    }

    pub(crate) fn tensors_by_offset(&self) -> impl Iterator<Item = Bytes> + '_ {
        let mut offsets: Vec<_> = self
            .metadata
            .tensors()
            .values()
            .map(|info| info.data_offsets)
            .collect();
        offsets.sort_unstable();
        offsets.into_iter().map(|offsets| self.tensor(offsets))
    }

    /// Offsets are inside the file: the header was checked against its length.
    fn tensor(&self, (start, end): (usize, usize)) -> Bytes {
        self.file.slice(self.data + start..self.data + end)
    }
}

/// The files that an index names.
fn shard_names(index: &[u8]) -> Result<BTreeSet<String>, LoadError> {
    let damaged = |reason: String| LoadError::Damaged {
        file: INDEX.to_owned(),
        reason,
    };
    let index: Value = serde_json::from_slice(index).map_err(|error| damaged(error.to_string()))?;
    let map = index
        .get("weight_map")
        .and_then(Value::as_object)
        .filter(|map| !map.is_empty())
        .ok_or_else(|| damaged("it has no weight_map".to_owned()))?;
    map.values()
        .map(|file| match file.as_str() {
            // An index must not lead out of the model's folder.
            Some(name) if !name.contains(['/', '\\']) && name.ends_with(".safetensors") => {
                Ok(name.to_owned())
            }
            _ => Err(damaged(format!("{file} is not the name of a shard"))),
        })
        .collect()
}
