//! Quantised weights: quantised when a model is loaded, or before by others.
//!
//! [`Quantize`] turns floats into blocks of 8 or 4 bits; [`compressed`] reads
//! the three forms of compressed-tensors that are published most. Both yield
//! matrices in encodings that devices know.

pub(crate) mod compressed;

use std::fmt;
use std::str::FromStr;

use tensor::{Encoding, StoredMatrix};

use crate::error::LoadError;

/// Bits that weights are quantised to on load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantize {
    Q8,
    Q4,
}

/// Weights that a few bits change most: those that read and write tokens keep 8
/// bits, and those that choose experts stay as they are.
const TOKENS: [&str; 2] = ["model.embed_tokens.weight", "lm_head.weight"];
const ROUTERS: [&str; 3] = [
    "mlp.gate.weight",
    "mlp.router.weight",
    "block_sparse_moe.gate.weight",
];

impl Quantize {
    /// The weight called `name` as a device should hold it: vectors, rows that
    /// are no whole blocks, and what is quantised already stay as they are.
    pub(crate) fn apply(self, name: &str, matrix: StoredMatrix) -> Result<StoredMatrix, LoadError> {
        let floats = matrix.encoding().block() == 1 && matrix.encoding() != Encoding::F8;
        let whole = matrix.cols().is_multiple_of(Encoding::Q8_0.block());
        let router = ROUTERS.iter().any(|router| name.ends_with(router));
        if matrix.rows() == 1 || !name.ends_with(".weight") || !floats || !whole || router {
            return Ok(matrix);
        }
        let encoding = match self {
            Quantize::Q4 if !TOKENS.contains(&name) => Encoding::Q4_0,
            Quantize::Q4 | Quantize::Q8 => Encoding::Q8_0,
        };
        Ok(matrix.quantize(encoding)?)
    }
}

impl fmt::Display for Quantize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Quantize::Q8 => "q8",
            Quantize::Q4 => "q4",
        })
    }
}

impl FromStr for Quantize {
    type Err = String;

    fn from_str(name: &str) -> Result<Quantize, String> {
        match name {
            "q8" => Ok(Quantize::Q8),
            "q4" => Ok(Quantize::Q4),
            other => Err(format!("{other} is no quantisation; use q8 or q4")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(rows: usize, cols: usize) -> StoredMatrix {
        let data: Vec<u8> = (0..rows * cols)
            .flat_map(|i| ((i % 13) as f32 - 6.0).to_le_bytes())
            .collect();
        StoredMatrix::new(Encoding::F32, (rows, cols), data.into()).unwrap()
    }

    #[test]
    fn matrices_get_few_bits_and_tokens_keep_more() {
        let encoding = |quantize: Quantize, name, rows, cols| {
            let matrix = quantize.apply(name, floats(rows, cols)).unwrap();
            matrix.encoding()
        };
        let q = "model.layers.0.self_attn.q_proj.weight";
        assert_eq!(encoding(Quantize::Q8, q, 4, 64), Encoding::Q8_0);
        assert_eq!(encoding(Quantize::Q4, q, 4, 64), Encoding::Q4_0);
        assert_eq!(
            encoding(Quantize::Q4, "lm_head.weight", 4, 64),
            Encoding::Q8_0
        );
        for (name, rows, cols) in [
            (q, 4, 63),
            ("model.norm.weight", 1, 64),
            ("model.layers.0.mlp.gate.weight", 4, 64),
        ] {
            assert_eq!(encoding(Quantize::Q8, name, rows, cols), Encoding::F32);
        }
    }

    #[test]
    fn what_is_quantised_stays() {
        let quantized = floats(4, 64).quantize(Encoding::Q4_0).unwrap();
        let kept = Quantize::Q8.apply("w.weight", quantized).unwrap();
        assert_eq!(kept.encoding(), Encoding::Q4_0);
    }

    #[test]
    fn names_are_read_as_written() {
        for quantize in [Quantize::Q8, Quantize::Q4] {
            assert_eq!(quantize.to_string().parse(), Ok(quantize));
        }
        assert!("q5".parse::<Quantize>().is_err());
    }
}
