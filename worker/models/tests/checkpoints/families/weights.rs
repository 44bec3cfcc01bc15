//! Checkpoints whose numbers follow from their tensors' names, as
//! `make_families.py` makes them.

use std::path::PathBuf;

use models::{CausalLm, CpuOptions, LoadError, LoadOptions, ModelFiles, load};
use serde_json::{Map, Value, json};

use crate::harness::{BLOCK, Reference, TOTAL_BLOCKS, reference_in};

#[derive(Clone)]
pub struct Family {
    folder: PathBuf,
    pub config: Value,
    seed: u64,
    pub tensors: Vec<Tensor>,
}

/// `base + step * number`, of whole numbers from `-levels` to `levels`.
#[derive(Clone)]
pub struct Tensor {
    /// What its numbers follow from.
    pub name: String,
    pub stored_as: String,
    pub shape: Vec<usize>,
    dtype: String,
    base: f64,
    step: f64,
    levels: u64,
}

impl Family {
    pub fn read(name: &str) -> Family {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("tests/families")
            .join(name);
        let json = |file| -> Value {
            serde_json::from_slice(&std::fs::read(folder.join(file)).unwrap()).unwrap()
        };
        let stored = json("tensors.json");
        Family {
            config: json("config.json"),
            seed: stored["seed"].as_u64().unwrap(),
            tensors: stored["tensors"]
                .as_array()
                .unwrap()
                .iter()
                .map(Tensor::of)
                .collect(),
            folder,
        }
    }

    pub fn reference(&self) -> Reference {
        reference_in(&self.folder)
    }

    /// Its config and its weights, made.
    pub fn files(&self) -> ModelFiles {
        let files: [(&'static str, &'static [u8]); 2] = [
            ("config.json", self.config.to_string().into_bytes().leak()),
            ("model.safetensors", self.safetensors().leak()),
        ];
        ModelFiles::embedded(files.to_vec().leak())
    }

    pub fn load(&self) -> Result<Box<dyn CausalLm>, LoadError> {
        let options = LoadOptions {
            kv_dtype: models::KvDtype::F32,
            cpu: CpuOptions::new(1),
            quantize: None,
            block_size: BLOCK,
            total_blocks: TOTAL_BLOCKS,
        };
        load(&self.files(), &options)
    }

    pub fn safetensors(&self) -> Vec<u8> {
        let (mut header, mut data) = (Map::new(), Vec::new());
        for tensor in &self.tensors {
            let start = data.len();
            tensor.write(self.seed, &mut data);
            let entry = json!({
                "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, data.len()]
            });
            header.insert(tensor.stored_as.clone(), entry);
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header);
        file.extend(data);
        file
    }
}

impl Tensor {
    fn of(entry: &Value) -> Tensor {
        let name = entry["name"].as_str().unwrap().to_owned();
        let sizes = entry["shape"].as_array().unwrap().iter();
        Tensor {
            stored_as: name.clone(),
            name,
            shape: sizes.map(|size| size.as_u64().unwrap() as usize).collect(),
            dtype: entry["dtype"].as_str().unwrap().to_owned(),
            base: entry["base"].as_f64().unwrap(),
            step: entry["step"].as_f64().unwrap(),
            levels: entry["levels"].as_u64().unwrap(),
        }
    }

    fn write(&self, seed: u64, data: &mut Vec<u8>) {
        let count: usize = self.shape.iter().product();
        let state = fnv1a(&self.name) ^ seed;
        for index in 0..count as u64 {
            let number = splitmix64(state, index) % (2 * self.levels + 1);
            let number = number as f64 - self.levels as f64;
            let value = (self.base + self.step * number) as f32;
            match self.dtype.as_str() {
                "F32" => data.extend(value.to_le_bytes()),
                "BF16" => data.extend(bf16(value)),
                "F16" => data.extend(f16(value)),
                "U8" => data.push(value as u8),
                other => panic!("no numbers of dtype {other}"),
            }
        }
    }
}

fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

fn splitmix64(state: u64, index: u64) -> u64 {
    let mut z = state.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The upper half, of a number that has no more.
fn bf16(value: f32) -> [u8; 2] {
    let [a, b, c, d] = value.to_le_bytes();
    assert_eq!([a, b], [0, 0], "{value} is not exact in bf16");
    [c, d]
}

/// Half precision of a number that is exact and normal in it, or zero.
fn f16(value: f32) -> [u8; 2] {
    if value == 0.0 {
        return [0, 0];
    }
    let bits = value.to_bits();
    assert_eq!(bits & 0x1fff, 0, "{value} is not exact in f16");
    let exponent = (bits >> 23 & 0xff) as i32 - 127;
    assert!(
        (-14..=15).contains(&exponent),
        "{value} is not normal in f16"
    );
    let half = (bits >> 16 & 0x8000) | ((exponent + 15) as u32) << 10 | (bits >> 13 & 0x3ff);
    (half as u16).to_le_bytes()
}
