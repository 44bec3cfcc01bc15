//! Weights of a GGUF file, under their names in a Hugging Face checkpoint.

use bytes::{Bytes, BytesMut};
use tensor::{Encoding, StoredMatrix};

use super::names::{Source, source};
use super::{GgufFile, Tensor};
use crate::checkpoint::WeightSpec;
use crate::error::LoadError;

impl GgufFile {
    /// The weight that a Hugging Face checkpoint calls `name`, as stored: a
    /// matrix of this shape, or a vector as a matrix of one row.
    pub(crate) fn take(&self, name: &str, shape: &[usize]) -> Result<StoredMatrix, LoadError> {
        let spec = &WeightSpec {
            name: name.to_owned(),
            shape: shape.to_vec(),
        };
        let architecture = self.architecture()?;
        let missing = || LoadError::MissingTensor {
            name: spec.name.clone(),
        };
        let place = source(architecture, &spec.name).ok_or_else(missing)?;
        let tensor = self.tensors.get(&place.name).ok_or_else(missing)?;
        let (rows, cols) = spec.matrix_shape();
        self.check_shape(spec, &place, tensor)?;
        let encoding = encoding(tensor.kind).ok_or_else(|| LoadError::Unsupported {
            what: format!("type {} of tensor {}", tensor.kind, place.name),
            supported: "F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q6_K".to_owned(),
        })?;
        let data = self.data_of(&place, tensor, encoding)?;
        let data = match self.pairs_of_heads(&spec.name)? {
            Some(heads) => apart(&data, rows, heads)
                .ok_or_else(|| self.damaged(format!("{} has no whole heads", place.name)))?,
            None => data,
        };
        let matrix = StoredMatrix::new(encoding, (rows, cols), data)?;
        if architecture.starts_with("gemma") && spec.name.ends_with("norm.weight") {
            return minus_one(&matrix);
        }
        Ok(matrix)
    }

    /// Whether there is a weight that a Hugging Face checkpoint calls `name`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.architecture().is_ok_and(|architecture| {
            source(architecture, name).is_some_and(|place| self.tensors.contains_key(&place.name))
        })
    }

    /// The bytes of every tensor, in the order in which they lie.
    pub(crate) fn tensors_by_offset(&self) -> impl Iterator<Item = Bytes> + '_ {
        let mut offsets: Vec<_> = self.tensors.values().map(|tensor| tensor.offset).collect();
        offsets.sort_unstable();
        offsets.push(self.data.len());
        let within = move |at: usize| at.min(self.data.len());
        (1..offsets.len()).map(move |i| self.data.slice(within(offsets[i - 1])..within(offsets[i])))
    }

    fn check_shape(
        &self,
        spec: &WeightSpec,
        place: &Source,
        tensor: &Tensor,
    ) -> Result<(), LoadError> {
        let mut found: Vec<_> = tensor.dimensions.iter().rev().copied().collect();
        if let Some(expert) = place.expert {
            if found.len() != 3 || expert >= found[0] {
                return Err(LoadError::MissingTensor {
                    name: spec.name.clone(),
                });
            }
            found.remove(0);
        }
        if found != spec.shape {
            return Err(LoadError::TensorShape {
                name: place.name.clone(),
                found,
                expected: spec.shape.clone(),
            });
        }
        Ok(())
    }

    pub(super) fn data_of(
        &self,
        place: &Source,
        tensor: &Tensor,
        encoding: Encoding,
    ) -> Result<Bytes, LoadError> {
        let matrix = match place.expert {
            Some(_) => &tensor.dimensions[..2],
            None => &tensor.dimensions[..],
        };
        let size = matrix
            .split_first()
            .filter(|(cols, _)| cols.is_multiple_of(encoding.block()))
            .map(|(cols, rows)| {
                rows.iter()
                    .try_fold(*cols, |all, rows| all.checked_mul(*rows))
            })
            .and_then(|numbers| (numbers? / encoding.block()).checked_mul(encoding.block_bytes()));
        let range = size.and_then(|size| {
            let start = place.expert.unwrap_or(0).checked_mul(size)?;
            let start = start.checked_add(tensor.offset)?;
            Some(start..start.checked_add(size)?)
        });
        match range {
            Some(range) if range.end <= self.data.len() => Ok(self.data.slice(range)),
            _ => Err(self.damaged(format!("tensor {} reaches beyond its end", place.name))),
        }
    }

    /// How many heads the rows of this weight are, if the two coordinates of
    /// each pair that is rotated are neighbours, as GGUF has them for Llama.
    fn pairs_of_heads(&self, name: &str) -> Result<Option<usize>, LoadError> {
        if self.architecture()? != "llama" {
            return Ok(None);
        }
        let heads = match name.rsplit('.').nth(1) {
            Some("q_proj") => self.required("attention.head_count")?,
            Some("k_proj") => match self.size("attention.head_count_kv")? {
                Some(heads) => heads,
                None => self.required("attention.head_count")?,
            },
            _ => return Ok(None),
        };
        Ok(Some(heads))
    }
}

/// Rows whose pairs are neighbours, as rows whose pairs are half a head apart.
/// `None` if they are not as many heads, or heads are no pairs.
fn apart(data: &[u8], rows: usize, heads: usize) -> Option<Bytes> {
    if heads == 0 || rows == 1 {
        // A bias is one row; Llama has none.
        return None;
    }
    let (head, rest) = (rows / heads, rows % heads);
    if rest != 0 || !head.is_multiple_of(2) || head == 0 || !data.len().is_multiple_of(rows) {
        return None;
    }
    let row = data.len() / rows;
    let mut out = BytesMut::with_capacity(data.len());
    for to in 0..rows {
        let (half, pair) = (to % head / (head / 2), to % (head / 2));
        let from = to / head * head + 2 * pair + half;
        out.extend_from_slice(&data[from * row..(from + 1) * row]);
    }
    Some(out.freeze())
}

/// Gemma's norms multiply with 1 + weight; GGUF has stored the sum.
fn minus_one(matrix: &StoredMatrix) -> Result<StoredMatrix, LoadError> {
    let numbers = matrix.to_f32();
    let data: Vec<u8> = numbers
        .iter()
        .flat_map(|number| (number - 1.0).to_le_bytes())
        .collect();
    let shape = (matrix.rows(), matrix.cols());
    Ok(StoredMatrix::new(Encoding::F32, shape, data.into())?)
}

fn encoding(kind: u32) -> Option<Encoding> {
    Some(match kind {
        0 => Encoding::F32,
        1 => Encoding::F16,
        2 => Encoding::Q4_0,
        8 => Encoding::Q8_0,
        12 => Encoding::Q4K,
        14 => Encoding::Q6K,
        30 => Encoding::Bf16,
        _ => return None,
    })
}
