use std::collections::HashMap;

use serde_json::json;

use super::*;

type Tensors = HashMap<&'static str, (Dtype, Vec<usize>, Vec<u8>)>;

fn read(tensors: &Tensors, shape: (usize, usize)) -> Result<Option<StoredMatrix>, LoadError> {
    weight("w.weight", shape, &|name| {
        let (dtype, shape, data) = tensors.get(name)?.clone();
        Some(Raw {
            dtype,
            shape,
            data: data.into(),
        })
    })
}

fn bf16s(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|&x| bf16::from_f32(x).to_le_bytes())
        .collect()
}

#[test]
fn signed_bytes_are_multiplied_with_their_rows_scale() {
    let bytes: Vec<u8> = (0..128).map(|i| (i as i8 - 64) as u8).collect();
    let tensors = Tensors::from([
        ("w.weight", (Dtype::I8, vec![2, 64], bytes)),
        (
            "w.weight_scale",
            (Dtype::BF16, vec![2, 1], bf16s(&[0.5, 0.003])),
        ),
    ]);
    let matrix = read(&tensors, (2, 64)).unwrap().unwrap();
    let scale = bf16::from_f32(0.003).to_f32();
    let expected: Vec<f32> = (0..128)
        .map(|i| (i as f32 - 64.0) * if i < 64 { 0.5 } else { scale })
        .collect();
    assert_eq!(matrix.to_f32(), expected);
}

#[test]
fn small_floats_take_one_scale_a_row_or_one_for_all() {
    let bytes = vec![0x38, 0xb8, 0x40, 0x00];
    for (scales, expected) in [
        (vec![2.0, 4.0], [2.0, -2.0, 8.0, 0.0]),
        (vec![2.0], [2.0, -2.0, 4.0, 0.0]),
    ] {
        let tensors = Tensors::from([
            ("w.weight", (Dtype::F8_E4M3, vec![2, 2], bytes.clone())),
            (
                "w.weight_scale",
                (Dtype::BF16, vec![scales.len()], bf16s(&scales)),
            ),
        ]);
        let matrix = read(&tensors, (2, 2)).unwrap().unwrap();
        assert_eq!(matrix.to_f32(), expected);
    }
}

/// Two rows of 64 in groups of 32, packed as 4 bits plus 8.
fn four_bits() -> (Tensors, Vec<f32>) {
    let quants: Vec<u8> = (0..128u32).map(|i| (i * 7 % 16) as u8).collect();
    let words = quants
        .chunks(8)
        .flat_map(|of_word| {
            let word = of_word
                .iter()
                .rev()
                .fold(0u32, |word, &q| word << 4 | u32::from(q));
            word.to_le_bytes()
        })
        .collect();
    // Far below what f16 resolves, and far apart.
    let scales = [3e-7, 1e-6, 0.7, 0.01].map(|scale| bf16::from_f32(scale).to_f32());
    let expected = quants
        .iter()
        .enumerate()
        .map(|(i, &q)| (f32::from(q) - 8.0) * scales[i / 32])
        .collect();
    let tensors = Tensors::from([
        ("w.weight_packed", (Dtype::I32, vec![2, 8], words)),
        ("w.weight_scale", (Dtype::BF16, vec![2, 2], bf16s(&scales))),
    ]);
    (tensors, expected)
}

#[test]
fn four_bits_keep_their_groups_scales_exactly() {
    let (tensors, expected) = four_bits();
    assert_eq!(read(&tensors, (2, 64)).unwrap().unwrap().to_f32(), expected);
}

#[test]
fn zero_points_and_wrong_shapes_are_refused() {
    let (mut tensors, _) = four_bits();
    let message = read(&tensors, (2, 128)).unwrap_err().to_string();
    assert!(message.contains("w.weight has shape [2, 8]"), "{message}");
    tensors.insert("w.weight_zero_point", (Dtype::I32, vec![1, 2], vec![0; 8]));
    let message = read(&tensors, (2, 64)).unwrap_err().to_string();
    assert!(
        message.contains("zero points of tensor w.weight"),
        "{message}"
    );
    let (mut tensors, _) = four_bits();
    tensors.insert("w.weight_scale", (Dtype::BF16, vec![3], bf16s(&[1.0; 3])));
    assert!(read(&tensors, (2, 64)).is_err());
    tensors.remove("w.weight_scale");
    let message = read(&tensors, (2, 64)).unwrap_err().to_string();
    assert_eq!(message, "the checkpoint has no tensor w.weight_scale");
}

#[test]
fn plain_floats_are_left_to_others() {
    let tensors = Tensors::from([("w.weight", (Dtype::BF16, vec![1, 2], vec![0; 4]))]);
    assert!(read(&tensors, (1, 2)).unwrap().is_none());
}

#[test]
fn only_configs_that_are_read_are_accepted() {
    let config = |method: &str, format: &str, symmetric: bool, bits: u32| {
        check(&json!({
            "quant_method": method,
            "format": format,
            "config_groups": { "group_0": { "weights": { "num_bits": bits, "symmetric": symmetric } } },
        }))
    };
    for format in FORMATS {
        assert!(config(METHOD, format, true, 8).is_ok());
    }
    for (refused, named) in [
        (config("gptq", FORMATS[2], true, 4), "gptq"),
        (config(METHOD, "marlin-24", true, 4), "marlin-24"),
        (config(METHOD, FORMATS[2], false, 4), "asymmetric"),
        (config(METHOD, FORMATS[2], true, 3), "3 bits"),
    ] {
        let message = refused.unwrap_err().to_string();
        assert!(message.contains(named), "{message}");
    }
}
