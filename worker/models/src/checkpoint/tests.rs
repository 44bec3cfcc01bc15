use super::*;

/// A safetensors file of this header and as many zeros as `data` says.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + data, 0);
    file
}

fn embedded(files: Vec<(&'static str, Vec<u8>)>) -> ModelFiles {
    let files: Vec<(&'static str, &'static [u8])> = files
        .into_iter()
        .map(|(name, content)| (name, &*content.leak()))
        .collect();
    ModelFiles::embedded(files.leak())
}

fn open(file: Vec<u8>) -> Result<Checkpoint, LoadError> {
    Checkpoint::open(&embedded(vec![(SINGLE, file)]))
}

const GOOD: &str = r#"{"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}"#;

#[test]
fn takes_a_tensor_of_the_expected_shape_only() {
    let checkpoint = open(file(GOOD, 24)).unwrap();
    let tensor = checkpoint.take(&WeightSpec::matrix("w", 2, 3)).unwrap();
    assert_eq!((tensor.rows(), tensor.cols()), (2, 3));
    let errors = [
        (
            WeightSpec::matrix("w", 3, 2),
            "tensor w has shape [2, 3], the config asks for [3, 2]",
        ),
        (
            WeightSpec::vector("w", 6),
            "tensor w has shape [2, 3], the config asks for [6]",
        ),
        (WeightSpec::vector("v", 6), "the checkpoint has no tensor v"),
    ];
    for (spec, message) in errors {
        assert_eq!(checkpoint.take(&spec).unwrap_err().to_string(), message);
    }
}

#[test]
fn refuses_dtypes_it_cannot_compute_with() {
    let header = r#"{"w":{"dtype":"I8","shape":[2,3],"data_offsets":[0,6]}}"#;
    let error = open(file(header, 6))
        .unwrap()
        .take(&WeightSpec::matrix("w", 2, 3));
    assert_eq!(
        error.unwrap_err().to_string(),
        "dtype I8 of tensor w is not supported; supported: F32, BF16, F16"
    );
}

#[test]
fn damaged_files_are_errors() {
    let good = file(GOOD, 24);
    for length in 0..good.len() {
        assert!(
            open(good[..length].to_vec()).is_err(),
            "cut to {length} bytes"
        );
    }
    let mut huge = good.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let headers = [
        "",
        "null",
        "{}}",
        r#"{"w":{"dtype":"F33","shape":[2,3],"data_offsets":[0,24]}}"#,
        r#"{"w":{"dtype":"F32","shape":[2,4],"data_offsets":[0,24]}}"#,
        r#"{"w":{"dtype":"F32","shape":[2,3],"data_offsets":[24,0]}}"#,
        r#"{"w":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]}}"#,
        r#"{"w":{"dtype":"F32","shape":[18446744073709551615,3],"data_offsets":[0,24]}}"#,
        r#"{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,24]}}"#,
    ];
    let files = headers.iter().map(|header| file(header, 24)).chain([huge]);
    for (index, file) in files.enumerate() {
        assert!(
            matches!(open(file), Err(LoadError::Damaged { .. })),
            "{index}"
        );
    }
}

#[test]
fn garbage_anywhere_in_the_header_never_panics() {
    let good = file(GOOD, 24);
    for position in 0..good.len() - 24 {
        for byte in [0, b'"', b'9', b'}', 0xff] {
            let mut garbage = good.clone();
            garbage[position] = byte;
            if let Ok(checkpoint) = open(garbage) {
                let _ = checkpoint.take(&WeightSpec::matrix("w", 2, 3));
            }
        }
    }
}

#[test]
fn an_index_must_name_shards_beside_it() {
    let cases = [
        ("[]", "it has no weight_map"),
        (r#"{"weight_map":{}}"#, "it has no weight_map"),
        (r#"{"weight_map":{"w":7}}"#, "7 is not the name of a shard"),
        (
            r#"{"weight_map":{"w":"../w.safetensors"}}"#,
            "\"../w.safetensors\" is not the name of a shard",
        ),
        (
            r#"{"weight_map":{"w":"model.bin"}}"#,
            "\"model.bin\" is not the name of a shard",
        ),
    ];
    for (index, message) in cases {
        match Checkpoint::open(&embedded(vec![(INDEX, index.as_bytes().to_vec())])) {
            Err(LoadError::Damaged { reason, .. }) => assert_eq!(reason, message),
            _ => panic!("accepted {index}"),
        }
    }
    let index = br#"{"weight_map":{"w":"a.safetensors"}}"#.to_vec();
    assert!(matches!(
        Checkpoint::open(&embedded(vec![(INDEX, index)])),
        Err(LoadError::MissingFile { file, .. }) if file == "a.safetensors"
    ));
}
