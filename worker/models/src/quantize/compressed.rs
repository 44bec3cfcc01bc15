//! Weights in the form of compressed-tensors: E4M3 or signed bytes with a scale
//! a row, or 4 bits with a scale a group, eight to a 32-bit word.
//!
//! Activations are not quantised as the checkpoint says, but as the device does
//! it, which is at least as fine.

#[cfg(test)]
mod tests;

use bytes::Bytes;
use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::Value;
use tensor::{Encoding, StoredMatrix};

use crate::error::LoadError;

const METHOD: &str = "compressed-tensors";
const FORMATS: [&str; 3] = ["float-quantized", "int-quantized", "pack-quantized"];
/// Numbers in a block of the encodings that integers become.
const BLOCK: usize = 32;
/// 4-bit numbers in a word.
const IN_WORD: usize = 8;

/// A tensor as it is in a file.
pub(crate) struct Raw {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Bytes,
}

/// Fails if a model's `quantization_config` is one that [`weight`] doesn't read.
pub(crate) fn check(config: &Value) -> Result<(), LoadError> {
    let unsupported = |what: String, supported: String| LoadError::Unsupported { what, supported };
    let text = |value: &Value, field: &str| {
        let text = value.get(field).and_then(Value::as_str);
        text.unwrap_or("(none)").to_owned()
    };
    let method = text(config, "quant_method");
    if method != METHOD {
        let what = format!("quantisation {method}");
        return Err(unsupported(what, METHOD.to_owned()));
    }
    let format = text(config, "format");
    if !FORMATS.contains(&format.as_str()) {
        let what = format!("format {format} of {METHOD}");
        return Err(unsupported(what, FORMATS.join(", ")));
    }
    let groups = config.get("config_groups").and_then(Value::as_object);
    for group in groups.into_iter().flat_map(|groups| groups.values()) {
        let weights = &group["weights"];
        if weights["symmetric"] == Value::Bool(false) {
            let what = format!("asymmetric weights of {METHOD}");
            return Err(unsupported(what, "symmetric ones".to_owned()));
        }
        let bits = weights["num_bits"].as_u64();
        if !matches!(bits, Some(4 | 8)) {
            let what = format!("weights of {} bits", weights["num_bits"]);
            return Err(unsupported(what, "8 and 4".to_owned()));
        }
    }
    Ok(())
}

/// The matrix `name`, which ends in `.weight`, if it is quantised. `find` looks
/// up tensors by their names in the file.
pub(crate) fn weight(
    name: &str,
    shape: (usize, usize),
    find: &dyn Fn(&str) -> Option<Raw>,
) -> Result<Option<StoredMatrix>, LoadError> {
    let source = Source { name, shape, find };
    if let Some(packed) = find(&format!("{name}_packed")) {
        return source.four_bits(packed).map(Some);
    }
    match find(name) {
        Some(raw) if raw.dtype == Dtype::F8_E4M3 => source.floats(raw).map(Some),
        Some(raw) if raw.dtype == Dtype::I8 => source.bytes(raw).map(Some),
        _ => Ok(None),
    }
}

struct Source<'a> {
    name: &'a str,
    shape: (usize, usize),
    find: &'a dyn Fn(&str) -> Option<Raw>,
}

impl Source<'_> {
    fn floats(&self, raw: Raw) -> Result<StoredMatrix, LoadError> {
        self.check_shape(&raw, [self.shape.0, self.shape.1])?;
        let matrix = StoredMatrix::new(Encoding::F8, self.shape, raw.data)?;
        Ok(matrix.with_row_scales(self.row_scales()?)?)
    }

    /// Blocks of 8 bits whose scales are 1, and the scales of rows.
    fn bytes(&self, raw: Raw) -> Result<StoredMatrix, LoadError> {
        self.check_shape(&raw, [self.shape.0, self.shape.1])?;
        let mut data = Vec::with_capacity(raw.data.len() / BLOCK * Encoding::Q8_0.block_bytes());
        self.check_blocks()?;
        for block in raw.data.chunks(BLOCK) {
            data.extend(f16::ONE.to_le_bytes());
            data.extend(block);
        }
        let matrix = StoredMatrix::new(Encoding::Q8_0, self.shape, data.into())?;
        Ok(matrix.with_row_scales(self.row_scales()?)?)
    }

    /// Blocks of 4 bits. A row's largest scale is brought to between 1 and 2 by
    /// a power of two, which is exact, so that f16 has room for all of them.
    fn four_bits(&self, packed: Raw) -> Result<StoredMatrix, LoadError> {
        let (rows, cols) = self.shape;
        self.check_blocks()?;
        self.check_shape(&packed, [rows, cols.div_ceil(IN_WORD)])?;
        for (suffix, what) in [
            ("_zero_point", "zero points"),
            ("_g_idx", "reordered groups"),
        ] {
            if (self.find)(&format!("{}{suffix}", self.name)).is_some() {
                return Err(LoadError::Unsupported {
                    what: format!("{what} of tensor {}", self.name),
                    supported: "symmetric groups in order".to_owned(),
                });
            }
        }
        let (scales, groups) = self.group_scales()?;
        let blocks = cols / BLOCK;
        let mut data = Vec::with_capacity(rows * blocks * Encoding::Q4_0.block_bytes());
        let mut row_scales = Vec::with_capacity(rows);
        for (scales, words) in scales.chunks(groups).zip(packed.data.chunks(cols / 2)) {
            let unit = power_of_two_below(scales);
            row_scales.push(unit);
            for (block, words) in words.as_chunks::<16>().0.iter().enumerate() {
                let scale = scales[block * groups / blocks] / unit;
                data.extend(f16::from_f32(scale).to_le_bytes());
                data.extend(halves_apart(words));
            }
        }
        let matrix = StoredMatrix::new(Encoding::Q4_0, self.shape, data.into())?;
        Ok(matrix.with_row_scales(row_scales)?)
    }

    /// One a row, or one for all.
    fn row_scales(&self) -> Result<Vec<f32>, LoadError> {
        let rows = self.shape.0;
        let (scales, shape) = self.scales()?;
        match scales.len() {
            count if count == rows => Ok(scales),
            1 => Ok(vec![scales[0]; rows]),
            _ => Err(self.scale_shape(shape, vec![rows, 1])),
        }
    }

    /// `[rows, groups]`, of which groups are whole blocks; and how many groups.
    fn group_scales(&self) -> Result<(Vec<f32>, usize), LoadError> {
        let (rows, blocks) = (self.shape.0, self.shape.1 / BLOCK);
        let (scales, shape) = self.scales()?;
        let groups = scales.len().checked_div(rows).unwrap_or(0);
        if groups == 0 || groups * rows != scales.len() || !blocks.is_multiple_of(groups) {
            return Err(self.scale_shape(shape, vec![rows, blocks]));
        }
        Ok((scales, groups))
    }

    fn scales(&self) -> Result<(Vec<f32>, Vec<usize>), LoadError> {
        let name = format!("{}_scale", self.name);
        let raw =
            (self.find)(&name).ok_or_else(|| LoadError::MissingTensor { name: name.clone() })?;
        let scales = match raw.dtype {
            Dtype::F32 => numbers(&raw.data, f32::from_le_bytes),
            Dtype::BF16 => numbers(&raw.data, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            Dtype::F16 => numbers(&raw.data, |bytes| f16::from_le_bytes(bytes).to_f32()),
            other => {
                return Err(LoadError::Unsupported {
                    what: format!("dtype {other} of tensor {name}"),
                    supported: "F32, BF16, F16".to_owned(),
                });
            }
        };
        Ok((scales, raw.shape))
    }

    fn check_shape(&self, raw: &Raw, expected: [usize; 2]) -> Result<(), LoadError> {
        if raw.shape == expected {
            return Ok(());
        }
        Err(LoadError::TensorShape {
            name: self.name.to_owned(),
            found: raw.shape.clone(),
            expected: expected.to_vec(),
        })
    }

    fn check_blocks(&self) -> Result<(), LoadError> {
        if self.shape.1.is_multiple_of(BLOCK) {
            return Ok(());
        }
        Err(LoadError::Unsupported {
            what: format!("{} columns of quantised tensor {}", self.shape.1, self.name),
            supported: "multiples of 32".to_owned(),
        })
    }

    fn scale_shape(&self, found: Vec<usize>, expected: Vec<usize>) -> LoadError {
        LoadError::TensorShape {
            name: format!("{}_scale", self.name),
            found,
            expected,
        }
    }
}

fn numbers<const N: usize>(data: &[u8], decode: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    data.as_chunks()
        .0
        .iter()
        .map(|bytes| decode(*bytes))
        .collect()
}

/// The largest power of two that is at most the largest scale; 1 for zeros and
/// for what is no number.
fn power_of_two_below(scales: &[f32]) -> f32 {
    let largest = scales
        .iter()
        .fold(0.0f32, |max, scale| max.max(scale.abs()));
    if largest.is_normal() {
        f32::from_bits(largest.to_bits() & 0x7f80_0000)
    } else {
        1.0
    }
}

/// 32 numbers of 4 bits, neighbours in a byte, as Q4_0 has them: numbers i and
/// i + 16 in a byte. Both mean 8 less.
fn halves_apart(neighbours: &[u8; 16]) -> [u8; 16] {
    let number = |i: usize| neighbours[i / 2] >> (i % 2 * 4) & 15;
    std::array::from_fn(|i| number(i) | number(i + 16) << 4)
}
