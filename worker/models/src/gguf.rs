//! Models in a single GGUF file: metadata, tokenizer, template and weights.
//!
//! [`GgufFile`] reads the container; `config` and `tokenizer` turn its metadata
//! into the files that a Hugging Face checkpoint has, so that nothing else needs
//! to know where a model came from; `weights` finds tensors under Hugging Face's
//! names. Whatever the bytes are, reading them is an error at worst, and
//! allocates no more than they are long.

mod config;
mod metadata;
mod names;
mod reader;
#[cfg(test)]
mod tests;
mod tokenizer;
mod weights;

use std::collections::HashMap;

use bytes::Bytes;

use crate::error::LoadError;
use crate::mmap::Content;
use metadata::Metadata;
use reader::Reader;

const MAGIC: &[u8] = b"GGUF";
/// Bytes of a tensor's description at least: a name's length, the number of
/// dimensions, one dimension, type and offset.
const LEAST_TENSOR: usize = 32;
const MOST_DIMENSIONS: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;

/// A GGUF file, mapped.
pub(crate) struct GgufFile {
    name: String,
    metadata: Metadata,
    tensors: HashMap<String, Tensor>,
    /// All before the tensors.
    header: Bytes,
    /// The tensors.
    data: Content,
}

/// Where a tensor lies.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tensor {
    /// The innermost dimension, whose numbers are neighbours, comes first.
    dimensions: Vec<usize>,
    /// GGUF's number of the encoding.
    kind: u32,
    /// In the data.
    offset: usize,
}

impl GgufFile {
    /// Reads the header of `file`; errors call it `name`.
    pub(crate) fn open(name: impl Into<String>, file: Content) -> Result<GgufFile, LoadError> {
        let name = name.into();
        let damaged = |reason: String| LoadError::Damaged {
            file: name.clone(),
            reason,
        };
        let mut reader = Reader::new(file.slice(0..file.len()));
        if reader.bytes(4).map_err(damaged)? != MAGIC {
            return Err(damaged("it does not start with GGUF".to_owned()));
        }
        let version = reader.u32().map_err(damaged)?;
        if !(2..=3).contains(&version) {
            return Err(LoadError::Unsupported {
                what: format!("version {version} of GGUF in {name}"),
                supported: "versions 2 and 3, little endian".to_owned(),
            });
        }
        let tensor_count = reader.count(LEAST_TENSOR).map_err(damaged)?;
        let metadata = Metadata::read(&name, &mut reader).map_err(damaged)?;
        let mut tensors = HashMap::with_capacity(tensor_count);
        for _ in 0..tensor_count {
            let (tensor_name, tensor) = Tensor::read(&mut reader).map_err(damaged)?;
            if tensors.contains_key(&tensor_name) {
                return Err(damaged(format!("it has two tensors {tensor_name}")));
            }
            tensors.insert(tensor_name, tensor);
        }
        let alignment = metadata
            .unsigned("general.alignment")?
            .unwrap_or(DEFAULT_ALIGNMENT);
        let start = usize::try_from(alignment)
            .ok()
            .filter(|alignment| alignment.is_power_of_two())
            .and_then(|alignment| reader.position().checked_next_multiple_of(alignment))
            .ok_or_else(|| damaged(format!("{alignment} is no alignment")))?;
        Ok(GgufFile {
            header: file.slice(0..reader.position()),
            // A file of metadata alone may end before its data would start.
            data: file.rest(start.min(file.len())),
            name,
            metadata,
            tensors,
        })
    }

    /// What a Hugging Face checkpoint would have in the file `name`.
    pub(crate) fn small_file(&self, name: &str) -> Result<Option<Bytes>, LoadError> {
        let tokenizer = ["tokenizer.json", "tokenizer_config.json"].contains(&name);
        if tokenizer && self.metadata.text("tokenizer.ggml.model")?.is_none() {
            return Ok(None);
        }
        let json = match name {
            "config.json" => config::config(self)?,
            "generation_config.json" => config::generation_config(self)?,
            "tokenizer.json" => tokenizer::tokenizer(self)?,
            "tokenizer_config.json" => tokenizer::tokenizer_config(self)?,
            _ => return Ok(None),
        };
        Ok(Some(Bytes::from(json.to_string())))
    }

    /// All before the tensors: equal only if metadata and tensors' places are.
    pub(crate) fn header(&self) -> &[u8] {
        &self.header
    }

    fn damaged(&self, reason: impl Into<String>) -> LoadError {
        LoadError::Damaged {
            file: self.name.clone(),
            reason: reason.into(),
        }
    }
}

impl Tensor {
    fn read(reader: &mut Reader) -> Result<(String, Tensor), String> {
        let name = reader.text()?;
        let dimensions = reader.u32()?;
        if !(1..=MOST_DIMENSIONS).contains(&dimensions) {
            return Err(format!("tensor {name} has {dimensions} dimensions"));
        }
        let dimensions = (0..dimensions)
            .map(|_| reader.size())
            .collect::<Result<_, _>>()?;
        let tensor = Tensor {
            dimensions,
            kind: reader.u32()?,
            offset: reader.size()?,
        };
        Ok((name, tensor))
    }
}
