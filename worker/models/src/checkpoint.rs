//! Weights in safetensors files, one or several with an index, or in a GGUF
//! file.
//!
//! A weight is asked for by name and shape; here is the one place that finds,
//! checks and hands out tensors, so that a shard plan can cut them here.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};
use serde_json::Value;
use tensor::{Encoding, StoredMatrix};

use crate::error::LoadError;
use crate::files::ModelFiles;
use crate::gguf::GgufFile;
use crate::mmap::Content;
use crate::quantize::{Quantize, compressed};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Bytes of a safetensors file before its header: the header's length.
const LENGTH: usize = 8;

/// A checkpoint's files, mapped.
pub(crate) struct Checkpoint {
    weights: Weights,
    /// What matrices of floats become.
    quantize: Option<Quantize>,
}

enum Weights {
    Safetensors(Vec<Shard>),
    Gguf(Arc<GgufFile>),
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
    /// Rows and columns: one of more than two dimensions is a matrix of the last,
    /// a vector one of one row.
    pub(crate) fn matrix_shape(&self) -> (usize, usize) {
        match &self.shape[..] {
            [outer @ .., cols] => (outer.iter().product(), *cols),
            [] => (1, 1),
        }
    }

    fn other_dtype(&self, found: Dtype, supported: &str) -> LoadError {
        LoadError::Unsupported {
            what: format!("dtype {found} of tensor {}", self.name),
            supported: supported.to_owned(),
        }
    }
}

/// One file of weights.
pub(crate) struct Shard {
    file: Content,
    /// Where tensors start.
    data: usize,
    metadata: Metadata,
}

impl Checkpoint {
    /// Maps the files and reads their headers.
    pub(crate) fn open(files: &ModelFiles) -> Result<Checkpoint, LoadError> {
        if let Some(file) = files.gguf_file() {
            return Ok(Checkpoint {
                weights: Weights::Gguf(file),
                quantize: None,
            });
        }
        let names = match files.read_optional(INDEX)? {
            Some(index) => shard_names(&index)?,
            None => BTreeSet::from([SINGLE.to_owned()]),
        };
        let shards = names
            .iter()
            .map(|name| Shard::open(name, files.map(name)?))
            .collect::<Result<_, _>>()?;
        Ok(Checkpoint {
            weights: Weights::Safetensors(shards),
            quantize: None,
        })
    }

    /// The same, whose weights are quantised when they are taken.
    pub(crate) fn quantized(self, quantize: Option<Quantize>) -> Checkpoint {
        Checkpoint { quantize, ..self }
    }

    pub(crate) fn shards(&self) -> &[Shard] {
        match &self.weights {
            Weights::Safetensors(shards) => shards,
            Weights::Gguf(_) => &[],
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        match &self.weights {
            Weights::Safetensors(_) => self.find(name).is_some(),
            Weights::Gguf(file) => file.has(name),
        }
    }

    /// A weight; one of more than two dimensions is a matrix of the last.
    pub(crate) fn take(&self, spec: &WeightSpec) -> Result<StoredMatrix, LoadError> {
        let matrix = match &self.weights {
            Weights::Gguf(file) => file.take(&spec.name, &spec.shape)?,
            Weights::Safetensors(_) => match self.compressed(spec)? {
                Some(matrix) => matrix,
                None => self.floats(spec)?,
            },
        };
        match self.quantize {
            Some(quantize) if spec.shape.len() == 2 => quantize.apply(&spec.name, matrix),
            _ => Ok(matrix),
        }
    }

    fn floats(&self, spec: &WeightSpec) -> Result<StoredMatrix, LoadError> {
        let (info, data) = self.checked(spec)?;
        let encoding = match info.dtype {
            Dtype::F32 => Encoding::F32,
            Dtype::BF16 => Encoding::Bf16,
            Dtype::F16 => Encoding::F16,
            other => return Err(spec.other_dtype(other, "F32, BF16, F16")),
        };
        Ok(StoredMatrix::new(encoding, spec.matrix_shape(), data)?)
    }

    /// A matrix in the form of compressed-tensors, if it is in one.
    fn compressed(&self, spec: &WeightSpec) -> Result<Option<StoredMatrix>, LoadError> {
        if spec.shape.len() != 2 || !spec.name.ends_with(".weight") {
            return Ok(None);
        }
        compressed::weight(&spec.name, spec.matrix_shape(), &|name| {
            let (shard, info) = self.find(name)?;
            Some(compressed::Raw {
                dtype: info.dtype,
                shape: info.shape.clone(),
                data: shard.tensor(info.data_offsets),
            })
        })
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
        self.shards().iter().find_map(in_shard)
    }
}

impl Shard {
    fn open(name: &str, file: Content) -> Result<Shard, LoadError> {
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
